"""Rules of the package's structure: private modules, fragments, cycles, sizes, names and options.

Every rule is a function of a source folder, so that a small bad package shows that it sees its kind.
"""

from __future__ import annotations

import ast
import io
import math
import re
import tokenize
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SRC = TESTS.parent / "src" / "lingshu"
MAX_LINES, COLUMNS, MAX_FILES, MAX_HELPERS, FRAGMENT_LINES = 800, 100, 25, 10, 150
# Folders in which one public file is one plug-in (a benchmark, a step, a verb, ...).
PLUG_IN_FOLDERS = {
    "tasks", "ops", "engines", "sources", "sources/corpora", "scoring", "scoring/metrics", "recipes",
    "weights/methods", "models/families", "deidentify/detectors", "train/trackers", "cli",
}  # fmt: skip
WORDING = tomllib.loads((TESTS / "support" / "wording.toml").read_text("utf-8"))
SPELLINGS = [re.compile(pattern, re.IGNORECASE) for pattern in WORDING["spellings"]]
ODD_TEXT = re.compile("|".join([*WORDING["spellings"], *WORDING["phrases"]]), re.IGNORECASE)
# Modules that may be fragments, each with its reason.
FRAGMENTS: Mapping[str, str] = {
    "curate.residual_risk": "a page and its verdicts, a subject apart from the run that writes it",
    "curate.ray": "optional: imports ray, which only this backend needs",
    "imaging.dicom.gdcm_process": "the program of a process of its own, which loads nothing else",
}


class Package:
    """The modules of a source folder and what they import."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = {self._name(path): path for path in sorted(root.rglob("*.py"))}
        self.trees = {name: ast.parse(path.read_text("utf-8")) for name, path in self.files.items()}

    def _name(self, path: Path) -> str:
        parts = path.relative_to(self.root).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @cached_property
    def modules(self) -> list[str]:
        return [
            name
            for name, path in self.files.items()
            if path.name not in ("__init__.py", "__main__.py")
        ]

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """Module -> modules of the package that it imports anywhere, for type checking as well."""
        return {
            name: {target for node in ast.walk(tree) for target in self._targets(node, name)}
            - {name}
            for name, tree in self.trees.items()
        }

    def _targets(self, node: ast.AST, importer: str) -> set[str]:
        """The modules of the package that a node imports: relatively and by `import_module` too."""
        found: set[str] = set()
        if isinstance(node, ast.Import):
            found = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = [self.root.name, *self.files[importer].relative_to(self.root).parts[:-1]]
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            names = {f"{base}.{alias.name}" for alias in node.names}
            found = {name if self._without_root(name) in self.files else base for name in names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found = {str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant)}
        return set(map(self._without_root, found)) & self.files.keys()

    def _without_root(self, name: str) -> str:
        return name.removeprefix(f"{self.root.name}.")

    @cached_property
    def importers(self) -> dict[str, set[str]]:
        found: defaultdict[str, set[str]] = defaultdict(set)
        for name, targets in self.imports.items():
            for target in targets:
                found[target].add(name)
        return found

    def folder(self, name: str) -> str:
        return str(self.files[name].parent.relative_to(self.root))

    def n_lines(self, name: str) -> int:
        """Lines of a file; a longer line counts as often as it fills the page."""
        lines = self.files[name].read_text("utf-8").splitlines()
        return sum(max(1, math.ceil(len(line) / COLUMNS)) for line in lines)


def package_of(name: str) -> str:
    return name.split(".")[0]


def is_private(name: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def is_plug_in(package: Package, name: str) -> bool:
    return package.folder(name) in PLUG_IN_FOLDERS and not is_private(name)


def private_imports(package: Package) -> Iterator[str]:
    for name, targets in package.imports.items():
        yield from (
            f"{name} imports {target}"
            for target in targets
            if is_private(target) and package_of(target) != package_of(name)
        )
    for name, tree in package.trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lingshu"):
                yield from (
                    f"{name} imports {node.module}.{alias.name}"
                    for alias in node.names
                    if re.match("_(?!_)", alias.name)
                    and f"{node.module}.{alias.name}".removeprefix("lingshu.") not in package.files
                )


def fragments(package: Package) -> Iterator[str]:
    """Modules with one importer, in their own package, that are private or short."""
    for name in package.modules:
        importers = package.importers[name]
        if (
            len(importers) == 1
            and package_of(next(iter(importers))) == package_of(name)
            and not is_plug_in(package, name)
            and (is_private(name) or package.n_lines(name) < FRAGMENT_LINES)
        ):
            yield name


def cycles(package: Package) -> Iterator[str]:
    """Groups of modules that import each other, late imports and those for types included."""
    reachable: dict[str, set[str]] = {}
    for name in package.files:
        seen: set[str] = set()
        stack = [name]
        while stack:
            for target in package.imports[stack.pop()] - seen:
                seen.add(target)
                stack.append(target)
        reachable[name] = seen
    groups = {
        tuple(sorted(other for other in seen if name in reachable[other]))
        for name, seen in reachable.items()
        if name in seen
    }
    yield from (" - ".join(group) for group in sorted(groups))


def long_files(package: Package) -> Iterator[str]:
    yield from (name for name in package.files if package.n_lines(name) > MAX_LINES)


def full_folders(package: Package) -> Iterator[str]:
    counts = Counter(
        package.folder(name)
        for name in package.modules
        if not is_plug_in(package, name) or package.folder(name) == "cli"
    )
    for folder, n_files in counts.items():
        has_plug_ins = folder in PLUG_IN_FOLDERS and folder != "cli"
        if n_files > (MAX_HELPERS if has_plug_ins else MAX_FILES):
            yield folder


def repeated_classes(package: Package) -> Iterator[str]:
    modules: defaultdict[str, list[str]] = defaultdict(list)
    for name, tree in package.trees.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                modules[node.name].append(name)
    yield from (name for name, found in modules.items() if len(found) > 1)


def identifiers(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def odd_words(package: Package) -> Iterator[str]:
    banned = set(WORDING["words"].split())
    for name, tree in package.trees.items():
        for identifier in {*identifiers(tree), name.rpartition(".")[2]}:
            words = {w.lower() for w in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", identifier)}
            is_odd = words & banned or any(re.search(p, " ".join(words)) for p in SPELLINGS)
            if is_odd and identifier not in WORDING["allowed_names"]:
                yield f"{name}: {identifier}"


def texts(path: Path) -> Iterator[str]:
    """Strings and comments, those of neighboring lines joined."""
    joined: list[str] = []
    for token in tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline):
        kind = tokenize.tok_name[token.type]
        if kind in ("STRING", "COMMENT") or kind.startswith("FSTRING"):
            joined.append(token.string.strip("#\"' \n"))
        elif kind not in ("NL", "INDENT", "DEDENT") and joined:
            yield re.sub(r"\s+", " ", " ".join(joined))
            joined = []


def odd_texts(package: Package) -> Iterator[str]:
    for name, path in package.files.items():
        for text in texts(path):
            for match in ODD_TEXT.finditer(text):
                if match[0] not in WORDING["data"].get(name, ()):
                    yield f"{name}: {match[0]} in {text[max(0, match.start() - 30) :][:80]!r}"


def options_written_twice(package: Package) -> Iterator[str]:
    """Parameters of a verb that are also a field of a class of the same module."""
    for name, tree in package.trees.items():
        if package_of(name) != "cli":
            continue
        fields = {
            item.target.id
            for node in tree.body
            if isinstance(node, ast.ClassDef)
            for item in node.body
            if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
        }
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
                yield from (f"{name}: {arg.arg}" for arg in arguments if arg.arg in fields)


RULES = {
    rule.__name__: rule
    for rule in (
        private_imports, fragments, cycles, long_files, full_folders, repeated_classes, odd_words, odd_texts,
        options_written_twice,
    )
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
def test_the_package_keeps_the_rule(rule: str) -> None:
    assert sorted(set(RULES[rule](Package(SRC))) - FRAGMENTS.keys()) == []


@pytest.mark.parametrize("rule", [odd_words, odd_texts])
def test_the_tests_keep_the_rule(rule: Callable[[Package], Iterator[str]]) -> None:
    assert sorted(set(rule(Package(TESTS)))) == []


def test_few_modules_are_excused() -> None:
    assert len(FRAGMENTS) <= 10 and all(FRAGMENTS.values())


BAD_PACKAGE = {
    "core/_helper.py": "def f(): pass\n",
    "core/short.py": "class Twice: pass\ndef g(shelf): pass\n",
    "core/user.py": "from lingshu.core.short import g\nclass Twice: pass\n",
    "core/one.py": "def f():\n    from lingshu.core import two\n",
    "core/two.py": "import lingshu.core.one\n",
    "core/three.py": "from importlib import import_module\nimport_module('lingshu.core.four')\n",
    "core/four.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .three import x\n",
    "core/text.py": "def f():\n    # It is be" + "side it.\n    return 'Art" + "efact'\n",
    "core/long.py": "x = 1\n" * 700 + f"y = '{'a' * 90_000}'\n",
    "ops/step.py": "from lingshu.core._helper import f\nfrom lingshu.core.short import _g, _LIMIT\n",
    "cli/verb.py": "class Config:\n    limit: int = 1\ndef verb(limit): pass\n",
    **{f"full/m{n}.py": "" for n in range(26)},
}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (
            "private_imports",
            {
                "ops.step imports core._helper",
                "ops.step imports lingshu.core.short._g",
                "ops.step imports lingshu.core.short._LIMIT",
            },
        ),
        ("fragments", {"core.one", "core.two", "core.three", "core.four"}),
        ("cycles", {"core.one - core.two", "core.four - core.three"}),
        ("long_files", {"core.long"}),
        ("full_folders", {"full"}),
        ("repeated_classes", {"Twice"}),
        ("odd_words", {"core.short: shelf"}),
        (
            "odd_texts",
            {
                "core.text: be" + "side in 'It is be" + "side it.'",
                "core.text: Art" + "efact in 'Art" + "efact'",
            },
        ),
        ("options_written_twice", {"cli.verb: limit"}),
    ],
)
def test_a_rule_sees_what_breaks_it(tmp_path: Path, rule: str, expected: set[str]) -> None:
    for name, code in BAD_PACKAGE.items():
        path = tmp_path / "lingshu" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    assert set(RULES[rule](Package(tmp_path / "lingshu"))) == expected
