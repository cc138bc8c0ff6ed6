"""Options that several verbs share, each declared once.

An option of a verb is one field, with its help as the docstring below it, of one frozen dataclass
next to the code it configures; the verb takes that dataclass flattened:

    @dataclass(frozen=True, kw_only=True)
    class AskConfig:
        chat: bool = False
        "Continue the dialogue: each line of standard input is another question."

    def ask(model: str, *files: Path, config: Flat[AskConfig] = AskConfig()) -> int: ...

`--chat` then fills `config.chat`, and `lingshu ask --help` shows the docstring. A group is flattened
in the same way, as a further parameter or a field of the configuration. A group whose default
differs in a verb is subclassed there: a default instance only says what the help shows.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar, cast

from cyclopts import Parameter

from lingshu.core.files import output_lock
from lingshu.core.types import (
    MAX_TOP_LOG_PROBS,
    CheckpointOptions,
    DataPolicy,
    EngineOptions,
    Sampling,
    VllmOptions,
)

if TYPE_CHECKING:
    from lingshu.evaluate.calibration import Threshold

T = TypeVar("T")
P = ParamSpec("P")
Flat = Annotated[T, Parameter(name="*")]


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """How a model is opened, and what may be sent to one behind an address."""

    allow_remote: bool = False
    "Allow private samples and images that are not de-identified to be sent to another machine."
    threads: int | None = None
    "CPU threads of a model in this process; the library's default if not given."
    checkpoint: Flat[CheckpointOptions] = field(default_factory=CheckpointOptions)
    vllm: VllmOptions = field(default_factory=VllmOptions)

    def engine_options(self, **settings: Any) -> EngineOptions:
        """Options of the engine; `settings` are its other fields."""
        policy = DataPolicy(allow_private=self.allow_remote)
        return EngineOptions(
            threads=self.threads,
            data_policy=policy,
            checkpoint=self.checkpoint,
            vllm=self.vllm,
            **settings,
        )


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How a reply is generated."""

    max_tokens: int = 256
    "Maximum length of a reply, in tokens."
    temperature: float = 0.0
    "Sampling temperature; 0 is greedy."
    seed: int = 0
    "Seed of sampling at a temperature above 0."

    def __post_init__(self) -> None:
        self.sampling()  # refused here, before a model is loaded

    def sampling(self) -> Sampling:
        return Sampling(self.max_tokens, self.temperature, seed=self.seed)


def locks_output(verb: Callable[P, int]) -> Callable[P, int]:
    """A verb that one process at a time runs on the same --out; a second one is refused."""

    @functools.wraps(verb)
    def locked(*args: P.args, **kwargs: P.kwargs) -> int:
        with output_lock(cast("Path", kwargs["out"])):
            return verb(*args, **kwargs)

    return locked


@dataclass(frozen=True, kw_only=True)
class AbstainOptions:
    """When a model abstains."""

    threshold: Path | None = None
    """File of `lingshu report --threshold`: the model abstains where it is less confident, or where
    its confidence is not known."""

    def read(self) -> Threshold | None:
        """The threshold, read before a model is loaded."""
        from lingshu.evaluate.calibration import read_threshold

        return None if self.threshold is None else read_threshold(self.threshold)

    @property
    def top_log_probs(self) -> int:
        return 0 if self.threshold is None else MAX_TOP_LOG_PROBS


def print_warnings(lines: Iterable[str]) -> None:
    for line in lines:
        print(f"lingshu: warning: {line}", file=sys.stderr)
