"""Every plug-in: loads alone, is documented, and defines what its group promises; new files included."""

from __future__ import annotations

import ast
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from lingshu.core.errors import ConfigError, InputError
from lingshu.core.registry import GROUPS, builtin_modules, get_attribute, group_package, load
from lingshu.core.step_types import MapStep, TableStep, TeacherStep
from lingshu.core.types import PromptStyle, Sample, Task
from lingshu.imaging.read import open_image

# What a module of each group must define.
REQUIRED = {
    "tasks": "TASK",
    "ops": "step",
    "scoring": "score",
    "engines": "load",
    "sources": "read",
    "recipes": "recipe",
    "merges": "method",
    "metrics": "METRIC",
    "families": "FAMILY",
    "trackers": "open_run",
}
FIRST_PARAMETERS = {"scoring": ["sample", "reply"], "engines": ["model", "options"]}
REGISTERED = [(group, name) for group in GROUPS for name in builtin_modules(group)]


def is_usable(group: str, name: str) -> bool:
    if group in ("merges", "families") or (group, name) == ("engines", "hf"):
        return find_spec("torch") is not None
    return (group, name) != ("engines", "vllm") or find_spec("vllm") is not None


def test_every_plug_in_is_documented() -> None:
    docs = {
        (group, name): ast.get_docstring(ast.parse(builtin_modules(group)[name].read_text("utf-8")))
        for group, name in REGISTERED
    }
    assert {key for key, doc in docs.items() if not doc or len(doc.splitlines()[0]) <= 15} == set()


def test_every_plug_in_defines_what_its_group_promises() -> None:
    faults = set()
    for group, name in REGISTERED:
        if group not in REQUIRED or not is_usable(group, name):
            continue
        found = get_attribute(group, name, REQUIRED[group])
        if group == "tasks":
            is_valid = isinstance(found, Task)
        elif group == "families":
            is_valid = getattr(found, "model_type", None) == name
        else:
            is_valid = callable(found)
        if group in FIRST_PARAMETERS:
            parameters = list(inspect.signature(found).parameters)[:2]  # type: ignore[arg-type]
            is_valid = is_valid and parameters == FIRST_PARAMETERS[group]
        if not is_valid:
            faults.add((group, name))
    assert faults == set()


def test_everything_loads_alone() -> None:
    """Each after all modules of the package were removed from one interpreter."""
    code = (
        "import importlib, json, sys\nfor name in json.loads(sys.argv[1]):\n    for known in [m for"
        " m in sys.modules if m == 'lingshu' or m.startswith('lingshu.')]: del sys.modules[known]\n"
        "    importlib.import_module(name)\n"
    )
    modules = [
        f"{group_package(group)}.{builtin_modules(group)[name].stem}"
        for group, name in REGISTERED
        if (group, name) not in (("engines", "hf"), ("engines", "vllm"))
        and group != "families"
        and is_usable(group, name)
    ]
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(modules)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def task(name: str) -> Task:
    found = get_attribute("tasks", name, "TASK")
    assert isinstance(found, Task)
    return found


def faults(group: str, check: Callable[[str], None]) -> dict[str, str]:
    """Name of a plug-in -> message of its check, for those that fail it."""
    found = {}
    for name in sorted(builtin_modules(group)):
        try:
            check(name)
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


def check_metadata(name: str) -> None:
    found = task(name)
    assert found.name == name and found.title
    assert found.provenance.source and found.provenance.license


def check_gold_scores_one(name: str) -> None:
    found = task(name)
    samples = found.synthetic(0)
    assert samples and all(sample.gold or sample.meta.kind == "rubric" for sample in samples)
    assert len({sample.id for sample in samples}) == len(samples)
    for sample in samples:
        if sample.gold:
            assert found.score(sample, sample.gold[0]).value == 1.0, (sample.id, sample.gold)
        else:
            # Without a judge the reply to a rubric gets no score.
            with pytest.raises(InputError, match="judge"):
                found.score(sample, "anything")


def check_prompts(name: str) -> None:
    found = task(name)
    for sample in found.synthetic(1)[:24]:
        assert isinstance(sample, Sample) and sample.question and not sample.answered
        parts = [part for message in sample.messages for part in message.parts]
        assert all(0 <= part < len(sample.images) for part in parts if isinstance(part, int))
        for image in sample.images:
            open_image(image)
        for facet in found.facets:
            sample.meta.facet(facet)
        styles: tuple[PromptStyle, ...] = ("direct", "cot")
        for prompted in (found.prompt(sample, style) for style in styles if found.prompt):
            assert prompted.question and not prompted.answered and prompted.images == sample.images


def check_empty_reply(name: str) -> None:
    found = task(name)
    sample = next((sample for sample in found.synthetic(0) if sample.gold), None)
    if sample is None:
        assert all(sample.meta.kind == "rubric" for sample in found.synthetic(0))
        return
    score = found.score(sample, "")
    assert score.value is None and score.status == "empty"


@pytest.mark.parametrize(
    "check", [check_metadata, check_gold_scores_one, check_prompts, check_empty_reply]
)
def test_every_task_passes_the_check(check: Callable[[str], None]) -> None:
    assert faults("tasks", check) == {}


def test_every_source_states_license_revision_and_link() -> None:
    for name, path in builtin_modules("sources").items():
        head = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").lower()
        missing = [word for word in ("license", "revision", "link") if word not in head]
        assert not missing, (name, missing)


def check_step(name: str) -> None:
    step = get_attribute("ops", name, "step")
    assert callable(step)
    parameters = inspect.signature(step).parameters.values()
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters), "parameters are named in recipes"
    given = {p.name: ["phantom"] for p in parameters if p.default is p.empty}
    try:
        made = step(**given)
    except ConfigError:
        # A limit that only the user can know, such as the cap of a balance: the error names it.
        return
    assert isinstance(made, MapStep | TableStep | TeacherStep)
    if isinstance(made, MapStep):
        assert callable(made.open())


def test_every_step_opens_with_its_defaults_where_it_has_them() -> None:
    assert faults("ops", check_step) == {}


def check_merge_method(name: str) -> None:
    import torch

    from lingshu.weights.base import MergeMethod, TensorBlock

    make = get_attribute("merges", name, "method")
    assert callable(make)
    assert all(
        p.kind is p.KEYWORD_ONLY and isinstance(p.default, float)
        for p in inspect.signature(make).parameters.values()
    )
    method = make()
    assert isinstance(method, MergeMethod)
    models = tuple(torch.tensor([1.0, 2.0, -3.0]) * scale for scale in (1, 2))
    block = TensorBlock("w", 0, models, torch.zeros(3) if method.needs_base else None, (0.5, 0.5))
    prepared = method.prepare(lambda: iter([block])) if method.prepare else None
    kept = [model.clone() for model in models]
    merged = method.merge(replace(block, prepared=prepared))
    assert merged.shape == (3,) and torch.isfinite(merged).all()
    assert all(map(torch.equal, models, kept)), "a method must not change its block"


def test_every_merge_method_opens_with_its_defaults_and_merges_a_block() -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    assert faults("merges", check_merge_method) == {}


def test_every_recipe_needs_no_argument_and_survives_its_file(tmp_path: Path) -> None:
    from lingshu.core.config import from_plain, read_plain, write

    def check(name: str) -> None:
        recipe = get_attribute("recipes", name, "recipe")
        assert callable(recipe)
        config = recipe()
        write(config, tmp_path / f"{name}.yaml")
        assert from_plain(type(config), read_plain(tmp_path / f"{name}.yaml")) == config

    assert faults("recipes", check) == {}


@pytest.mark.parametrize("group", ["tasks", "merges"])
def test_a_failed_check_is_reported_with_its_name(group: str) -> None:
    def check(name: str) -> None:
        assert name != min(builtin_modules(group)), "the first fails"

    assert list(faults(group, check)) == [min(builtin_modules(group))]


def test_a_module_is_loaded_by_its_name() -> None:
    for group, name in REGISTERED:
        if group == "scoring":
            assert load(group, name).__name__ == f"lingshu.scoring.{name}"
