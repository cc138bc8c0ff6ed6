"""Plug-ins by name: a file's name is its registration, and looking one up imports that file alone.

A plug-in is found by the name of its module in the group's package, by a path ending in `.py`, or
by an entry point of the group `lingshu.<group>`. Modules that start with an underscore are helpers.
A file with several names lists them in a literal `VARIANTS = {name: description}`, which is read
without importing, and maps each name to its object: `TASKS` where other files have `TASK`.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType

from lingshu.core.errors import (
    InputError,
    LingshuError,
    UnknownNameError,
    describe_error,
    suggest_name,
)
from lingshu.core.files import sha256_bytes

# Each group with the package whose modules are its plug-ins.
GROUP_PACKAGES = {
    "tasks": "tasks",
    "ops": "ops",
    "engines": "engines",
    "sources": "sources",
    "corpora": "sources.corpora",
    "scoring": "scoring",
    "metrics": "scoring.metrics",
    "recipes": "recipes",
    "merges": "weights.methods",
    "families": "models.families",
    "detectors": "deidentify.detectors",
    "trackers": "train.trackers",
}
GROUPS = tuple(GROUP_PACKAGES)


def group_package(group: str) -> str:
    return f"lingshu.{GROUP_PACKAGES[group]}"


def builtin_modules(group: str) -> dict[str, Path]:
    """Name -> file of every built-in plug-in of a group, sorted by name; imports nothing."""
    folder = Path(__file__).parent.parent.joinpath(*GROUP_PACKAGES[group].split("."))
    paths = [path for path in folder.glob("*.py") if not path.stem.startswith("_")]
    return dict(sorted((name, path) for path in paths for name in _variants(path) or (path.stem,)))


@cache
def _variants(path: Path) -> dict[str, str]:
    """The names that a file registers in place of its own, each with its description."""
    text = path.read_text(encoding="utf-8")
    if "\nVARIANTS = {" not in text:
        return {}
    return next(
        ast.literal_eval(node.value)
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "VARIANTS"
    )


def entry_point_modules(group: str) -> dict[str, metadata.EntryPoint]:
    return {point.name: point for point in metadata.entry_points(group=f"lingshu.{group}")}


def names(group: str) -> list[str]:
    """Every name in a group, built-in or of an entry point."""
    return sorted({*builtin_modules(group), *entry_point_modules(group)})


def describe(group: str, name: str) -> str:
    """The first paragraph of a plug-in's docstring, or its variant's text; it is not imported."""
    path = builtin_modules(group).get(name)
    if path is None:
        return "plug-in"
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return _variants(path).get(name) or " ".join((doc or "").split("\n\n")[0].split())


def load(group: str, name: str) -> ModuleType:
    """Import the module that registers `name` in a group.

    Raises:
        UnknownNameError: no such name; the message suggests the nearest.
        InputError: a path ending in `.py` that does not exist.
    """
    if name.endswith(".py"):
        return _load_path(Path(name))
    path = builtin_modules(group).get(name.replace("-", "_"))
    if path is not None:
        return importlib.import_module(f"{group_package(group)}.{path.stem}")
    entry_points = entry_point_modules(group)
    if name in entry_points:
        return entry_points[name].load()
    raise UnknownNameError(f"{group} has no {name!r}; {suggest_name(name, names(group))}")


def _load_path(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a name or a path to a .py file.")
    # The complete path decides the module's name, or two files task.py would be one module.
    name = f"lingshu_file_{path.stem}_{sha256_bytes(str(path.resolve()).encode())[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} cannot be loaded as a Python module.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, Exception) and not isinstance(error, LingshuError | ImportError):
            raise InputError(f"{path} cannot be loaded: {describe_error(error)}.") from error
        raise
    return module


def get_attribute(group: str, name: str, attribute: str) -> object:
    """The attribute that every plug-in of a group must have, such as `TASK` or `score`.

    Raises:
        InputError: the module lacks it.
    """
    module = load(group, name)
    variants = getattr(module, f"{attribute}S", {})
    if (variant := name.replace("-", "_")) in variants:
        return variants[variant]
    if not hasattr(module, attribute):
        raise InputError(f"{name} has no {attribute!r}, which everything in {group} must define.")
    return getattr(module, attribute)
