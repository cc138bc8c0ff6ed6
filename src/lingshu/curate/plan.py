"""What a configuration comes to: steps with all their parameters, passes over the shards, and the
code that decides.
"""

from __future__ import annotations

import ast
import inspect
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import lingshu
from lingshu.core.errors import ConfigError, nearest
from lingshu.core.files import MANIFEST, digest, sha256_file
from lingshu.core.shelves import load, part
from lingshu.core.steps import MapStep, Step, TableStep, TeacherStep
from lingshu.curate.config import CurateConfig, Source, StepUse

# Names under which the runner itself counts: reading the sources, and writing the dataset.
READ, WRITE = "read", "write"
# The parameter of readers that hash ids: never a part of the configuration, which lies in the
# output.
KEY = "key"
# The parameter of steps that draw.
SEED = "seed"
# Libraries that decide what a decoded pixel or a written byte is.
DECIDING = ("numpy", "opencv-python-headless", "pillow", "pyarrow", "pydicom", "nibabel")


@dataclass(frozen=True)
class Pass:
    """Steps that share one look at each sample: map steps in order, then the signature of the table
    step that ends it.
    """

    maps: tuple[StepUse, ...]
    table: StepUse | None

    @property
    def steps(self) -> tuple[StepUse, ...]:
        return self.maps if self.table is None else (*self.maps, self.table)


def resolve(config: CurateConfig) -> CurateConfig:
    """The configuration with every parameter of its steps and readers written out, so that each can
    be overridden by name.

    Raises:
        ConfigError, UnknownName, InputError: a step or reader that does not exist, or a parameter
        that it does not have.
    """
    for use in config.steps:
        if use.name in (READ, WRITE):
            raise ConfigError(
                f"a step is named {use.name!r}, which the runner counts under; choose another name."
            )
    for source in config.sources:
        if KEY in source.options:
            raise ConfigError(
                f"source {source.name!r} has the option {KEY!r}; a secret is no configuration: give"
                " its file with --key."
            )
    sources = [
        replace(s, options=_filled(reader(s), s.options, f"sources.{s.name}.options", skip=1))
        for s in config.sources
    ]
    steps = [filled(use) for use in config.steps]
    return replace(config, sources=tuple(sources), steps=tuple(steps))


def settle(config: CurateConfig) -> CurateConfig:
    """A resolved configuration with the run's seed in the place of every step's seed that is null."""
    steps = (
        (
            replace(u, params={**u.params, SEED: config.seed})
            if SEED in u.params and u.params[SEED] is None
            else u
        )
        for u in config.steps
    )
    return replace(config, steps=tuple(steps))


def filled(use: StepUse) -> StepUse:
    """The use with every parameter of its step written out.

    Raises:
        ConfigError, UnknownName, InputError: a step that does not exist, or a parameter that it
        does not have.
    """
    return replace(use, params=_filled(_maker(use), use.params, f"steps.{use.name}.params"))


def build(use: StepUse) -> Step:
    """The step that a use names, made with its parameters.

    Raises:
        ConfigError: a parameter of a wrong type or value, or a step that needs a teacher.
    """
    step = make(use)
    if isinstance(step, TeacherStep):
        raise ConfigError(
            f"step {use.name!r} asks a teacher, which this run does not have; use it with `lingshu"
            " synthesise`."
        )
    return step


def make(use: StepUse) -> Step | TeacherStep:
    """The step that a use names, whatever it needs.

    Raises:
        ConfigError: a parameter of a wrong type or value.
    """
    maker = _maker(use)
    step = maker(**_typed(maker, use.params, f"steps.{use.name}.params"))
    if not isinstance(step, MapStep | TableStep | TeacherStep):
        kinds = "a MapStep, a TableStep or a TeacherStep"
        raise ConfigError(
            f"step {use.name!r}: {use.op}.step returned {type(step).__name__}; it must return"
            f" {kinds}."
        )
    return step


def passes(config: CurateConfig) -> list[Pass]:
    """The steps in order, cut behind each table step; a last pass without one holds what follows
    the last of them.
    """
    found: list[Pass] = []
    maps: list[StepUse] = []
    for use in config.steps:
        if isinstance(build(use), TableStep):
            found.append(Pass(tuple(maps), use))
            maps = []
        else:
            maps.append(use)
    return [*found, Pass(tuple(maps), None)] if maps else found


def check_halves(config: CurateConfig) -> None:
    """Refuse to keep one side of a split by ids that are hashed anew in each run: the other run
    would draw other sides.

    Raises:
        ConfigError: names the step.
    """
    if not any(
        KEY in inspect.signature(reader(source)).parameters
        for source in config.sources
        if source.path
    ):
        return
    for use in config.steps:
        step = build(use)
        if isinstance(step, TableStep) and step.halves:
            raise ConfigError(
                f"step {use.name!r} keeps one side of the patients, and without a key the next run"
                " hashes their ids anew and draws other sides; give both runs the same --key FILE"
                " (16 random bytes or more)."
            )


def reader(source: Source) -> Callable[..., Any]:
    found = part("sources", source.reader, "read")
    if not callable(found):
        raise ConfigError(f"source {source.name!r}: read of {source.reader} is no function.")
    return found


def read_options(source: Source, key: bytes) -> dict[str, Any]:
    """The options of a source as its reader takes them; `key` for a reader that hashes ids.

    Raises:
        ConfigError: an option of a wrong type.
    """
    options = _typed(reader(source), source.options, f"sources.{source.name}.options")
    return {**options, KEY: key} if KEY in inspect.signature(reader(source)).parameters else options


def _maker(use: StepUse) -> Callable[..., Any]:
    found = part("ops", use.op, "step")
    if not callable(found):
        raise ConfigError(f"step {use.name!r}: step of {use.op} is no function.")
    return found


def _filled(
    function: Callable[..., Any], given: Mapping[str, Any], place: str, *, skip: int = 0
) -> dict[str, Any]:
    """The given parameters and the defaults of the others, as plain values; null for a `seed` that
    is not given: the run's.
    """
    known = dict(list(inspect.signature(function).parameters.items())[skip:])
    open_ended = any(p.kind is p.VAR_KEYWORD for p in known.values())
    for name in given:
        if name not in known and not open_ended:
            raise ConfigError(f"unknown key {place}.{name}; {nearest(name, known)}")
    filled = dict(given)
    for name, parameter in known.items():
        if (
            name in filled
            or name == KEY
            or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        ):
            continue
        if name == SEED and not skip:
            filled[name] = None
        elif parameter.default is not parameter.empty:
            filled[name] = _plain(parameter.default)
        else:
            raise ConfigError(f"{place}.{name} is missing; give it a value.")
    return filled


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list | set | frozenset):
        return [
            _plain(item)
            for item in (sorted(value) if isinstance(value, set | frozenset) else value)
        ]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def _typed(function: Callable[..., Any], given: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Parameters checked against the function's annotations, where those can be read."""
    import pydantic

    try:
        hints = typing.get_type_hints(function)
    except NameError:  # an annotation that is imported for type checkers only
        return dict(given)
    typed: dict[str, Any] = {}
    for name, value in given.items():
        try:
            typed[name] = (
                pydantic.TypeAdapter(hints[name]).validate_python(value) if name in hints else value
            )
        except pydantic.ValidationError as error:
            raise ConfigError(
                f"{place}.{name}: {error.errors()[0]['msg']} (got {value!r})."
            ) from error
    return typed


# --- what a finished shard is known by
# -----------------------------------------------------------------------------


def step_digests(uses: Iterable[StepUse]) -> dict[str, str]:
    """For each step by its name, the digest of all that decides what it does: code, parameters, and
    the files it reads.

    Raises:
        ConfigError: a file that it reads is missing.
    """
    code = Code()
    return {use.name: _step_digest(use, code) for use in uses}


def _step_digest(use: StepUse, code: Code) -> str:
    read = {}
    for name in build(use).reads:
        if not Path(name).exists():
            raise ConfigError(
                f"step {use.name!r} reads {name}, which does not exist; check the path."
            )
        read[name] = _content(Path(name))
    return digest(
        [
            use.name,
            use.op,
            dict(use.params),
            list(use.sources),
            code.digest(load("ops", use.op)),
            read,
        ]
    )


def _content(path: Path) -> str:
    """Digest of a file; of a folder, of its manifest, else of the names and sizes of its files."""
    if path.is_file():
        return sha256_file(path)
    if (path / MANIFEST).is_file():
        return sha256_file(path / MANIFEST)
    return digest(
        [
            [str(p.relative_to(path)), p.stat().st_size]
            for p in sorted(path.rglob("*"))
            if p.is_file()
        ]
    )


class Code:
    """Digests of modules with all of this package that they import, directly or through another.

    Reads each file once.
    """

    def __init__(self) -> None:
        self._files: dict[Path, tuple[str, list[Path]]] = {}

    def digest(self, module: ModuleType) -> str:
        """Digest of the module's file and of those it imports.

        Raises:
            ConfigError: it has no file.
        """
        if module.__file__ is None:
            raise ConfigError(f"{module.__name__} has no file; a step must lie in one.")
        seen: dict[Path, str] = {}
        left = [Path(module.__file__)]
        while left:
            path = left.pop()
            if path not in seen:
                if path not in self._files:
                    self._files[path] = (sha256_file(path), list(_imported(path)))
                seen[path], imported = self._files[path]
                left += imported
        return digest(sorted(seen.values()))


def _imported(path: Path) -> Iterator[Path]:
    package = Path(lingshu.__file__).parent
    for node in _statements(ast.parse(path.read_text(encoding="utf-8")).body):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            first, *rest = name.split(".")
            file = (
                package.joinpath(*rest).with_suffix(".py") if first == "lingshu" and rest else None
            )
            if file is not None and file.is_file():
                yield file


def _statements(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Every statement below a body: an import is never inside an expression, and those are most of
    a tree.
    """
    for node in body:
        yield node
        for name in ("body", "handlers", "orelse", "finalbody", "cases"):
            inner = getattr(node, name, ())
            if isinstance(inner, list):
                yield from _statements(inner)


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide what a shard holds, where installed."""
    found = {}
    for name in DECIDING:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
