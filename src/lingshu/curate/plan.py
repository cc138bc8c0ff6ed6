"""What a configuration resolves to: steps with all parameters, passes, and digests of both."""

from __future__ import annotations

import ast
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import lingshu
from lingshu.core.config import check_value
from lingshu.core.errors import ConfigError, suggest_name
from lingshu.core.files import MANIFEST, digest, sha256_file
from lingshu.core.registry import get_attribute, load
from lingshu.core.step_types import MapStep, Step, TableStep, TeacherStep
from lingshu.curate.config import CurateConfig, Source, StepConfig

# Names under which the runner itself counts: reading the sources, and writing the dataset.
READ_STEP, WRITE_STEP = "read", "write"
# The parameter of readers that hash ids: never part of the configuration, which is stored in the
# output.
KEY_PARAM = "key"
# The parameter of steps that use random numbers.
SEED_PARAM = "seed"
# Libraries that decide the value of a decoded pixel or a written byte.
VERSIONED_LIBRARIES = ("numpy", "opencv-python-headless", "pillow", "pyarrow", "pydicom", "nibabel")
_DATA_FILE = re.compile(r'with_name\("([\w.]+)"\)')


@dataclass(frozen=True)
class Pass:
    """Map steps that run in one pass, and the table step that ends it."""

    map_steps: tuple[StepConfig, ...]
    table_step: StepConfig | None

    @property
    def steps(self) -> tuple[StepConfig, ...]:
        return self.map_steps if self.table_step is None else (*self.map_steps, self.table_step)


def resolve(config: CurateConfig) -> CurateConfig:
    """The configuration with every parameter of its steps and readers written out.

    Raises:
        ConfigError, UnknownNameError, InputError: a step or reader that does not exist, or a
            parameter that it does not have.
    """
    for step in config.steps:
        if step.name in (READ_STEP, WRITE_STEP):
            problem = f"a step is named {step.name!r}, a name that the runner uses itself"
            raise ConfigError(f"{problem}; choose another.")
    sources = []
    for source in config.sources:
        if KEY_PARAM in source.options:
            raise ConfigError(
                f"source {source.name!r} has the option {KEY_PARAM!r}, a secret that must not be in"
                " a configuration; give its file with --key."
            )
        prefix = f"sources.{source.name}.options"
        options = _with_defaults(get_reader(source), source.options, prefix, skip=1)
        sources.append(replace(source, options=options))
    steps = tuple(with_default_params(step) for step in config.steps)
    return replace(config, sources=tuple(sources), steps=steps)


def with_seed(step: StepConfig, seed: int) -> StepConfig:
    """A resolved step with the run's seed in place of a seed that is null."""
    if step.params.get(SEED_PARAM, 0) is not None:
        return step
    return replace(step, params={**step.params, SEED_PARAM: seed})


def with_step_seeds(config: CurateConfig) -> CurateConfig:
    """A resolved configuration with the run's seed in place of every step's seed that is null."""
    return replace(config, steps=tuple(with_seed(step, config.seed) for step in config.steps))


def with_default_params(step: StepConfig) -> StepConfig:
    """The step with every parameter written out.

    Raises:
        ConfigError, UnknownNameError, InputError: as `resolve`.
    """
    params = _with_defaults(_step_factory(step), step.params, f"steps.{step.name}.params")
    return replace(step, params=params)


def build_step(step: StepConfig) -> Step:
    """The map or table step that a configuration names, made with its parameters.

    Raises:
        ConfigError: a parameter of a wrong type or value, or a step that needs a teacher.
    """
    built = build_any_step(step)
    if isinstance(built, TeacherStep):
        problem = f"step {step.name!r} needs a teacher model, which this run does not have"
        raise ConfigError(f"{problem}; use it with `lingshu synthesize`.")
    return built


def build_any_step(step: StepConfig) -> Step | TeacherStep:
    """The step that a configuration names, a teacher's included.

    Raises:
        ConfigError: a parameter of a wrong type or value.
    """
    factory = _step_factory(step)
    built = factory(**_typed(factory, step.params, f"steps.{step.name}.params"))
    if not isinstance(built, MapStep | TableStep | TeacherStep):
        problem = f"step {step.name!r}: {step.op}.step returned {type(built).__name__}"
        raise ConfigError(f"{problem}; it must return a MapStep, a TableStep or a TeacherStep.")
    return built


def plan_passes(config: CurateConfig) -> list[Pass]:
    """The steps in order, split after each table step."""
    passes: list[Pass] = []
    map_steps: list[StepConfig] = []
    for step in config.steps:
        if isinstance(build_step(step), TableStep):
            passes.append(Pass(tuple(map_steps), step))
            map_steps = []
        else:
            map_steps.append(step)
    return [*passes, Pass(tuple(map_steps), None)] if map_steps else passes


def check_split(config: CurateConfig) -> None:
    """Refuse to keep one side of a split by ids that get new hashes in each run.

    Raises:
        ConfigError: names the step.
    """
    if not any(_takes_key(source) for source in config.sources if source.path):
        return
    for step in config.steps:
        built = build_step(step)
        if isinstance(built, TableStep) and built.split_sides:
            raise ConfigError(
                f"step {step.name!r} keeps one side of the patients, and without a key the next run"
                " hashes their ids differently and chooses other sides; give both runs the same"
                " --key FILE (16 random bytes or more)."
            )


def get_reader(source: Source) -> Callable[..., Any]:
    reader = get_attribute("sources", source.reader, "read")
    if not callable(reader):
        raise ConfigError(f"source {source.name!r}: read in {source.reader} is not a function.")
    return reader


def _takes_key(source: Source) -> bool:
    return KEY_PARAM in inspect.signature(get_reader(source)).parameters


def reader_options(source: Source, key: bytes) -> dict[str, Any]:
    """The options of a source as its reader takes them, with `key` for a reader that hashes ids.

    Raises:
        ConfigError: an option of a wrong type.
    """
    options = _typed(get_reader(source), source.options, f"sources.{source.name}.options")
    return {**options, KEY_PARAM: key} if _takes_key(source) else options


def _step_factory(step: StepConfig) -> Callable[..., Any]:
    factory = get_attribute("ops", step.op, "step")
    if not callable(factory):
        raise ConfigError(f"step {step.name!r}: step in {step.op} is not a function.")
    return factory


def _with_defaults(
    function: Callable[..., Any], params: Mapping[str, Any], prefix: str, *, skip: int = 0
) -> dict[str, Any]:
    """The parameters with defaults as plain values; a missing `seed` is null: the run's."""
    parameters = dict(list(inspect.signature(function).parameters.items())[skip:])
    variadic = {p.kind for p in parameters.values()} & {inspect.Parameter.VAR_KEYWORD}
    for name in params:
        if name not in parameters and not variadic:
            raise ConfigError(f"unknown key {prefix}.{name}; {suggest_name(name, parameters)}")
    resolved = dict(params)
    for name, parameter in parameters.items():
        is_variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if name in resolved or name == KEY_PARAM or is_variadic:
            continue
        if name == SEED_PARAM and not skip:
            resolved[name] = None
        elif parameter.default is not parameter.empty:
            resolved[name] = _to_plain(parameter.default)
        else:
            raise ConfigError(f"{prefix}.{name} is missing; give it a value.")
    return resolved


def _to_plain(value: Any) -> Any:
    if isinstance(value, set | frozenset):
        value = sorted(value)
    if isinstance(value, tuple | list):
        return [_to_plain(element) for element in value]
    if isinstance(value, Mapping):
        return {str(key): _to_plain(element) for key, element in value.items()}
    return str(value) if isinstance(value, Path) else value


def _typed(function: Callable[..., Any], params: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Parameters checked against the function's annotations, where those can be resolved."""
    try:
        hints = typing.get_type_hints(function)
    except NameError:  # an annotation that is imported for type checkers only
        return dict(params)
    return {
        name: check_value(hints[name], value, f"{prefix}.{name}") if name in hints else value
        for name, value in params.items()
    }


# --- digests


def step_digests(steps: Iterable[StepConfig]) -> dict[str, str]:
    """For each step by name, the digest of its code, its parameters and the files it reads.

    Raises:
        ConfigError: a file that it reads is missing.
    """
    code = CodeDigests()
    return {step.name: _step_digest(step, code) for step in steps}


def _step_digest(step: StepConfig, code: CodeDigests) -> str:
    files = {}
    for name in build_step(step).input_files:
        if not Path(name).exists():
            problem = f"step {step.name!r} reads {name}, which does not exist"
            raise ConfigError(f"{problem}; check the path.")
        files[name] = _content_digest(Path(name))
    op_digest = code.digest(load("ops", step.op))
    return digest([step.name, step.op, dict(step.params), list(step.sources), op_digest, files])


def _content_digest(path: Path) -> str:
    """Digest of a file; of a folder its manifest, or else the names and sizes of its files."""
    if path.is_file():
        return sha256_file(path)
    if (path / MANIFEST).is_file():
        return sha256_file(path / MANIFEST)
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    return digest([[str(file.relative_to(path)), file.stat().st_size] for file in files])


class CodeDigests:
    """Digests of modules with everything of this package that they import, directly or indirectly.

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
            raise ConfigError(f"{module.__name__} has no file; a step must be defined in one.")
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
    """The modules of this package that a module imports, and the data files that it reads."""
    if path.suffix != ".py":
        return
    package, text = Path(lingshu.__file__).parent, path.read_text(encoding="utf-8")
    for name in _DATA_FILE.findall(text):
        if path.with_name(name).is_file():
            yield path.with_name(name)
    for node in _statements(ast.parse(text).body):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            first, *rest = name.split(".")
            if first == "lingshu" and rest:
                file = package.joinpath(*rest).with_suffix(".py")
                if file.is_file():
                    yield file


def _statements(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """Every statement below a body; an import is never inside an expression."""
    for node in body:
        yield node
        for name in ("body", "handlers", "orelse", "finalbody", "cases"):
            inner = getattr(node, name, ())
            if isinstance(inner, list):
                yield from _statements(inner)


def library_versions() -> dict[str, str]:
    """Versions of the installed libraries that decide the content of a shard."""
    versions = {}
    for name in VERSIONED_LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
