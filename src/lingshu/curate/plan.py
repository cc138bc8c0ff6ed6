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
from lingshu.core.errors import ConfigError, suggest_name
from lingshu.core.files import MANIFEST, digest, sha256_file
from lingshu.core.registry import get_attribute, load
from lingshu.core.step_types import MapStep, Step, TableStep, TeacherStep
from lingshu.curate.config import CurateConfig, Source, StepConfig

# Names under which the runner itself counts: reading the sources, and writing the dataset.
READ_STEP, WRITE_STEP = "read", "write"
# The parameter of readers that hash ids: never a part of the configuration, which lies in the
# output.
KEY_PARAM = "key"
# The parameter of steps that draw.
SEED_PARAM = "seed"
# Libraries that decide what a decoded pixel or a written byte is.
VERSIONED_LIBRARIES = ("numpy", "opencv-python-headless", "pillow", "pyarrow", "pydicom", "nibabel")


@dataclass(frozen=True)
class Pass:
    """Steps that share one look at each sample: map steps in order, then the signature of the table
    step that ends it.
    """

    map_steps: tuple[StepConfig, ...]
    table_step: StepConfig | None

    @property
    def steps(self) -> tuple[StepConfig, ...]:
        return self.map_steps if self.table_step is None else (*self.map_steps, self.table_step)


def resolve(config: CurateConfig) -> CurateConfig:
    """The configuration with every parameter of its steps and readers written out, so that each can
    be overridden by name.

    Raises:
        ConfigError, UnknownName, InputError: a step or reader that does not exist, or a parameter
        that it does not have.
    """
    for step_config in config.steps:
        if step_config.name in (READ_STEP, WRITE_STEP):
            raise ConfigError(
                f"a step is named {step_config.name!r}, which the runner counts under; choose another name."
            )
    for source in config.sources:
        if KEY_PARAM in source.options:
            raise ConfigError(
                f"source {source.name!r} has the option {KEY_PARAM!r}; a secret is no configuration: give"
                " its file with --key."
            )
    sources = [
        replace(
            s,
            options=_with_default_params(
                get_reader(s), s.options, f"sources.{s.name}.options", skip=1
            ),
        )
        for s in config.sources
    ]
    steps = [with_default_params(step_config) for step_config in config.steps]
    return replace(config, sources=tuple(sources), steps=tuple(steps))


def with_step_seeds(config: CurateConfig) -> CurateConfig:
    """A resolved configuration with the run's seed in the place of every step's seed that is null."""
    steps = (
        (
            replace(step_config, params={**step_config.params, SEED_PARAM: config.seed})
            if SEED_PARAM in step_config.params and step_config.params[SEED_PARAM] is None
            else step_config
        )
        for step_config in config.steps
    )
    return replace(config, steps=tuple(steps))


def with_default_params(step_config: StepConfig) -> StepConfig:
    """The use with every parameter of its step written out.

    Raises:
        ConfigError, UnknownName, InputError: a step that does not exist, or a parameter that it
        does not have.
    """
    return replace(
        step_config,
        params=_with_default_params(
            _step_factory(step_config), step_config.params, f"steps.{step_config.name}.params"
        ),
    )


def build_step(step_config: StepConfig) -> Step:
    """The step that a use names, made with its parameters.

    Raises:
        ConfigError: a parameter of a wrong type or value, or a step that needs a teacher.
    """
    step = build_any_step(step_config)
    if isinstance(step, TeacherStep):
        raise ConfigError(
            f"step {step_config.name!r} asks a teacher, which this run does not have; use it with `lingshu"
            " synthesise`."
        )
    return step


def build_any_step(step_config: StepConfig) -> Step | TeacherStep:
    """The step that a use names, whatever it needs.

    Raises:
        ConfigError: a parameter of a wrong type or value.
    """
    factory = _step_factory(step_config)
    step = factory(**_typed(factory, step_config.params, f"steps.{step_config.name}.params"))
    if not isinstance(step, MapStep | TableStep | TeacherStep):
        kinds = "a MapStep, a TableStep or a TeacherStep"
        raise ConfigError(
            f"step {step_config.name!r}: {step_config.op}.step returned {type(step).__name__}; it must return"
            f" {kinds}."
        )
    return step


def plan_passes(config: CurateConfig) -> list[Pass]:
    """The steps in order, cut behind each table step; a last pass without one holds what follows
    the last of them.
    """
    planned: list[Pass] = []
    map_steps: list[StepConfig] = []
    for step_config in config.steps:
        if isinstance(build_step(step_config), TableStep):
            planned.append(Pass(tuple(map_steps), step_config))
            map_steps = []
        else:
            map_steps.append(step_config)
    return [*planned, Pass(tuple(map_steps), None)] if map_steps else planned


def check_split(config: CurateConfig) -> None:
    """Refuse to keep one side of a split by ids that are hashed anew in each run: the other run
    would draw other sides.

    Raises:
        ConfigError: names the step.
    """
    if not any(
        KEY_PARAM in inspect.signature(get_reader(source)).parameters
        for source in config.sources
        if source.path
    ):
        return
    for step_config in config.steps:
        step = build_step(step_config)
        if isinstance(step, TableStep) and step.split_sides:
            raise ConfigError(
                f"step {step_config.name!r} keeps one side of the patients, and without a key the next run"
                " hashes their ids anew and draws other sides; give both runs the same --key FILE"
                " (16 random bytes or more)."
            )


def get_reader(source: Source) -> Callable[..., Any]:
    read_function = get_attribute("sources", source.reader, "read")
    if not callable(read_function):
        raise ConfigError(f"source {source.name!r}: read of {source.reader} is no function.")
    return read_function


def reader_options(source: Source, key: bytes) -> dict[str, Any]:
    """The options of a source as its reader takes them; `key` for a reader that hashes ids.

    Raises:
        ConfigError: an option of a wrong type.
    """
    options = _typed(get_reader(source), source.options, f"sources.{source.name}.options")
    return (
        {**options, KEY_PARAM: key}
        if KEY_PARAM in inspect.signature(get_reader(source)).parameters
        else options
    )


def _step_factory(step_config: StepConfig) -> Callable[..., Any]:
    step_function = get_attribute("ops", step_config.op, "step")
    if not callable(step_function):
        raise ConfigError(f"step {step_config.name!r}: step of {step_config.op} is no function.")
    return step_function


def _with_default_params(
    function: Callable[..., Any], params: Mapping[str, Any], key_prefix: str, *, skip: int = 0
) -> dict[str, Any]:
    """The given parameters and the defaults of the others, as plain values; null for a `seed` that
    is not given: the run's.
    """
    parameters = dict(list(inspect.signature(function).parameters.items())[skip:])
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in params:
        if name not in parameters and not open_ended:
            raise ConfigError(f"unknown key {key_prefix}.{name}; {suggest_name(name, parameters)}")
    resolved = dict(params)
    for name, parameter in parameters.items():
        if (
            name in resolved
            or name == KEY_PARAM
            or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        ):
            continue
        if name == SEED_PARAM and not skip:
            resolved[name] = None
        elif parameter.default is not parameter.empty:
            resolved[name] = _to_plain(parameter.default)
        else:
            raise ConfigError(f"{key_prefix}.{name} is missing; give it a value.")
    return resolved


def _to_plain(value: Any) -> Any:
    if isinstance(value, tuple | list | set | frozenset):
        return [
            _to_plain(item)
            for item in (sorted(value) if isinstance(value, set | frozenset) else value)
        ]
    if isinstance(value, Mapping):
        return {str(key): _to_plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def _typed(
    function: Callable[..., Any], params: Mapping[str, Any], key_prefix: str
) -> dict[str, Any]:
    """Parameters checked against the function's annotations, where those can be read."""
    import pydantic

    try:
        hints = typing.get_type_hints(function)
    except NameError:  # an annotation that is imported for type checkers only
        return dict(params)
    typed: dict[str, Any] = {}
    for name, value in params.items():
        try:
            typed[name] = (
                pydantic.TypeAdapter(hints[name]).validate_python(value) if name in hints else value
            )
        except pydantic.ValidationError as error:
            raise ConfigError(
                f"{key_prefix}.{name}: {error.errors()[0]['msg']} (got {value!r})."
            ) from error
    return typed


# --- what a finished shard is known by
# -----------------------------------------------------------------------------


def step_digests(step_configs: Iterable[StepConfig]) -> dict[str, str]:
    """For each step by its name, the digest of all that decides what it does: code, parameters, and
    the files it reads.

    Raises:
        ConfigError: a file that it reads is missing.
    """
    code_digests = CodeDigests()
    return {
        step_config.name: _step_digest(step_config, code_digests) for step_config in step_configs
    }


def _step_digest(step_config: StepConfig, code_digests: CodeDigests) -> str:
    file_digests = {}
    for name in build_step(step_config).input_files:
        if not Path(name).exists():
            raise ConfigError(
                f"step {step_config.name!r} reads {name}, which does not exist; check the path."
            )
        file_digests[name] = _content_digest(Path(name))
    return digest(
        [
            step_config.name,
            step_config.op,
            dict(step_config.params),
            list(step_config.sources),
            code_digests.digest(load("ops", step_config.op)),
            file_digests,
        ]
    )


def _content_digest(path: Path) -> str:
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


class CodeDigests:
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
        digests: dict[Path, str] = {}
        pending = [Path(module.__file__)]
        while pending:
            path = pending.pop()
            if path not in digests:
                if path not in self._files:
                    self._files[path] = (sha256_file(path), list(_imported_files(path)))
                digests[path], imported = self._files[path]
                pending += imported
        return digest(sorted(digests.values()))


def _imported_files(path: Path) -> Iterator[Path]:
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
    versions = {}
    for name in VERSIONED_LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
