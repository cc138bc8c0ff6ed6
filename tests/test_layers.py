"""The structure of the package: layers, where torch may be imported, and that importing a module
has no side effect.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

SRC = Path(__file__).parents[1] / "src" / "lingshu"
LAYERS = (
    ("core",),
    ("imaging", "weights"),
    ("search", "models", "deidentify", "scoring"),
    ("sources", "engines"),
    ("tasks", "ops"),
    ("curate", "train", "evaluate"),
    ("recipes", "inference", "analysis"),
    ("serve",),
    ("mcp", "ui", "quickstart"),
    ("cli",),
)
LAYER_OF = {
    package_name: layer
    for layer, package_names in enumerate(LAYERS)
    for package_name in package_names
}
TORCH = {"torch", "transformers", "tokenizers", "safetensors", "torchvision", "peft", "vllm"}
TORCH_PACKAGES = {"models", "weights", "train", "analysis"}
TORCH_FILES = {"engines/hf.py", "engines/vllm.py", "deidentify/detectors/token_classification.py"}
FILES = sorted(SRC.rglob("*.py"))
# Calls that read the environment or the disk, print, or change global state.
FORBIDDEN_CALLS = {
    "open", "print", "input", "getenv", "putenv", "basicConfig", "read_text", "read_bytes", "write_text", "write_bytes", "mkdir", "touch",
    "iterdir", "glob", "rglob", "exists", "is_file", "is_dir", "expanduser", "urlopen", "connect", "ClientSession", "system",
    "Popen", "run", "check_output", "addHandler", "setLevel", "simplefilter", "filterwarnings", "manual_seed",
    "Thread", "signal", "load", "from_pretrained", "load_dataset", "seed", "chdir", "register",
    "set_num_threads", "unlink",
}  # fmt: skip


# A library adds one, so that a program that configures no logging sees none of its records.
NULL_HANDLER = "logging.NullHandler()"


class Import(NamedTuple):
    line: int
    module: str


def name_of(path: Path) -> str:
    return str(path.relative_to(SRC))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[Import]:
    """Every import of a file, at the top, inside functions and for type checking alike; relative
    ones made absolute.
    """
    package = ["lingshu", *path.relative_to(SRC).parent.parts]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            # `from lingshu import tasks` imports lingshu.tasks; names in a module are harmless here.
            yield from (Import(node.lineno, f"{stem}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__"):
            yield from (
                Import(node.lineno, str(part.value))
                for part in node.args[:1]
                if isinstance(part, ast.Constant)
            )


def called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def layer_violations(path: Path) -> list[str]:
    package_name = path.relative_to(SRC).parts[0]
    if package_name not in LAYER_OF:
        return []
    faults = []
    for found in imports(path):
        parts = found.module.split(".")
        if parts[0] != "lingshu" or len(parts) < 2:
            continue
        other = parts[1]
        if (
            other != package_name
            and other in LAYER_OF
            and LAYER_OF[other] >= LAYER_OF[package_name]
        ):
            faults.append(
                f"{name_of(path)}:{found.line} (layer {LAYER_OF[package_name]}) imports {found.module} (layer"
                f" {LAYER_OF[other]})"
            )
    return faults


def test_every_module_imports_only_lower_layers() -> None:
    assert [fault for path in FILES for fault in layer_violations(path)] == []


def test_every_folder_belongs_to_a_layer() -> None:
    package_names = {path.relative_to(SRC).parts[0] for path in FILES if path.parent != SRC}
    assert package_names <= LAYER_OF.keys()


@pytest.mark.parametrize(
    "code",
    [
        "import lingshu.tasks.vqa",
        "from lingshu.tasks import vqa",
        "from lingshu import tasks",
        "from ..tasks import vqa",
        "def f():\n    from lingshu.tasks.vqa import TASK",
        "import importlib\nimportlib.import_module('lingshu.tasks.vqa')",
    ],
)
def test_the_layer_test_sees_every_form_of_import(
    tmp_path: Path, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "bad.py").write_text(code)
    monkeypatch.setitem(globals(), "SRC", tmp_path)
    assert len(layer_violations(tmp_path / "engines" / "bad.py")) == 1


def test_torch_is_imported_only_in_its_packages() -> None:
    faults = [
        f"{name_of(path)}:{found.line} imports {found.module}"
        for path in FILES
        for found in imports(path)
        if found.module.split(".")[0] in TORCH
        and path.relative_to(SRC).parts[0] not in TORCH_PACKAGES
        and name_of(path) not in TORCH_FILES
    ]
    assert faults == []


def test_every_file_states_its_subject_in_its_first_line() -> None:
    assert [
        name_of(path) for path in FILES if not path.read_text(encoding="utf-8").startswith('"""')
    ] == []


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a module is imported: not the bodies of functions, nor `if __name__
    == ...` and TYPE_CHECKING.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in (
                *child.decorator_list,
                *child.args.defaults,
                *(d for d in child.args.kw_defaults if d),
            ):
                yield part
                yield from at_import(part)
        elif isinstance(child, ast.Lambda) or (
            isinstance(child, ast.If) and is_type_checking_guard(child.test)
        ):
            continue
        else:
            yield child
            yield from at_import(child)


def is_type_checking_guard(test: ast.expr) -> bool:
    return any(
        isinstance(node, ast.Name) and node.id in ("__name__", "TYPE_CHECKING")
        for node in ast.walk(test)
    )


def import_violations(code: str) -> list[str]:
    faults = []
    for node in at_import(ast.parse(code)):
        if isinstance(node, ast.Call):
            is_silent = [*map(ast.unparse, node.args)] == [NULL_HANDLER]
            if called(node) in FORBIDDEN_CALLS and not is_silent:
                faults.append(f"line {node.lineno}: {called(node)}()")
        elif isinstance(node, ast.Attribute) and node.attr == "environ":
            faults.append(f"line {node.lineno}: environ")
    return faults


def test_importing_does_nothing() -> None:
    assert {
        name_of(path): faults
        for path in FILES
        if (faults := import_violations(path.read_text(encoding="utf-8")))
    } == {}


@pytest.mark.parametrize(
    ("code", "has_violation"),
    [
        ("import os\nKEY = os.environ['A']", True),
        ("import os\nKEY = os.getenv('A')", True),
        ("def f(a=open('x')): pass", True),
        ("class A:\n    b = open('x')", True),
        ("import logging\nlogging.basicConfig()", True),
        ("TABLE = resources.files('lingshu.core').joinpath('a.json').read_bytes()", True),
        ("X = [print(i) for i in range(3)]", True),
        ("import os\ndef f():\n    return os.environ['A']", False),
        ("if __name__ == '__main__':\n    print()", False),
        ("f = lambda: open('x')", False),
    ],
)
def test_the_import_test_detects_what_runs(code: str, has_violation: bool) -> None:
    assert bool(import_violations(code)) is has_violation


def test_the_environment_is_read_for_secrets_only() -> None:
    """`OPENAI_API_KEY` and its like, what torchrun sets, and nothing hidden."""
    readers = {
        name_of(path)
        for path in FILES
        for node in ast.walk(tree_of(path))
        if (isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"))
        or (isinstance(node, ast.Name) and node.id == "environ")
    }
    # mcp/legacy_env.py takes what the published MCP server is set up with, once at start.
    allowed = {
        "engines/openai.py",
        "evaluate/run.py",
        "inference/pacs.py",
        "cli/doctor.py",
        "mcp/legacy_env.py",
    }
    assert {name for name in readers - allowed if not name.startswith("train/")} == set()


def may_run_foreign_code(code: str) -> list[str]:
    """Calls that open files of others without a word that their code is not run."""
    return [
        f"line {node.lineno}: {node.func.attr}"
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("from_pretrained", "from_config", "pipeline")
        and not any(
            keyword.arg == "trust_remote_code"
            and isinstance(keyword.value, ast.Constant)
            and keyword.value.value is False
            for keyword in node.keywords
        )
    ]


def test_no_call_may_run_the_code_of_a_checkpoint() -> None:
    faults = {name_of(path): may_run_foreign_code(path.read_text("utf-8")) for path in FILES}
    assert {name: found for name, found in faults.items() if found} == {}


@pytest.mark.parametrize(
    ("call", "n_faults"),
    [
        ("AutoModel.from_pretrained(x)", 1),
        ("AutoModel.from_pretrained(x, trust_remote_code=True)", 1),
        ("AutoModel.from_config(x, trust_remote_code=flag)", 1),
        ("AutoModel.from_pretrained(x, trust_remote_code=False)", 0),
        ("family.stock_class._from_config(x)", 0),
    ],
)
def test_a_call_that_may_run_code_is_seen(call: str, n_faults: int) -> None:
    assert len(may_run_foreign_code(call)) == n_faults


def torch_free_modules() -> list[str]:
    package_names = (
        "core",
        "imaging",
        "sources",
        "scoring",
        "tasks",
        "ops",
        "evaluate",
        "curate",
        "recipes",
        "search",
        "deidentify",
        "inference",
        "serve",
        "mcp",
        "ui",
        "quickstart",
        "cli",
    )
    found = [
        path
        for package_name in package_names
        for path in sorted((SRC / package_name).rglob("*.py"))
        if path.name != "__main__.py"
    ]
    found += [path for path in (SRC / "engines").glob("*.py") if name_of(path) not in TORCH_FILES]
    return [
        ".".join(("lingshu", *path.relative_to(SRC).with_suffix("").parts)).removesuffix(
            ".__init__"
        )
        for path in found
    ]


@pytest.mark.parametrize("of_mcp", [False, True])
def test_importing_the_torch_free_packages_loads_no_torch(of_mcp: bool) -> None:
    """Only lingshu.mcp needs the extra of the same name."""
    code = """
import importlib, json, sys
failed = {}
for name in json.loads(sys.argv[1]):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("lingshu"):
            failed[name] = str(error)
heavy = set(sys.modules) & {"torch", "transformers", "tokenizers", "safetensors", "aiohttp", "mcp"}
print(json.dumps([sorted(heavy), failed]))
"""
    modules = [name for name in torch_free_modules() if name.startswith("lingshu.mcp.") == of_mcp]
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(modules)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["mcp"] if of_mcp else [], {}]


def test_the_command_line_alone_loads_little() -> None:
    if importlib.util.find_spec("lingshu.cli.main") is None:
        pytest.skip("there is no command line")
    code = (
        "import sys; import lingshu.cli.main; print(*sorted({m.split('.')[0] for m in"
        " sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not {
        "torch",
        "transformers",
        "pyarrow",
        "pydantic",
        "numpy",
        "PIL",
        "aiohttp",
        "mcp",
        "cv2",
    } & set(done.stdout.split())
