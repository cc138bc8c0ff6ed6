"""The nouns that flow through every part: samples, drops, replies, scores, and what makes or takes
them.

All are frozen. A sample refers to its images; it never holds decoded pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from lingshu.core.errors import InputError, LingshuError

Role = Literal["system", "user", "assistant"]
Access = Literal["open", "form", "credentialed", "private"]
Status = Literal["ok", "unparsed", "refused", "empty", "multiple", "error"]
PromptStyle = Literal["direct", "cot"]
STATUSES: tuple[Status, ...] = ("ok", "unparsed", "refused", "empty", "multiple", "error")


@dataclass(frozen=True, slots=True)
class Image:
    """Where an image lies: a file, item `index` of row `row` of a parquet shard, or the encoded
    bytes themselves.

    `data` is for images that have no place on a disk (drawn phantoms, uploads); it holds an encoded
    file, not pixels.
    """

    path: str | None = None
    row: int | None = None
    index: int = 0
    data: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. A part is text, or the position of an image in the sample's `images`."""

    role: Role
    parts: tuple[str | int, ...]

    @property
    def text(self) -> str:
        """The turn's words alone, images left out."""
        return "".join(part for part in self.parts if isinstance(part, str))


@dataclass(frozen=True, slots=True)
class Meta:
    """What is known of a sample besides its content; None means not known.

    `access` says who may see it (core/data_policy.py decides what follows). `group` names the patient,
    study or image behind the sample: samples that share it belong on one side of any split. `kind`
    is the kind of question.
    """

    source: str | None = None
    license: str | None = None
    access: Access = "private"
    agreement: str | None = None  # the agreement that form-gated and credentialed data are under
    deidentified: bool | None = None
    modality: str | None = None
    language: str | None = None
    kind: str | None = None
    group: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    def facet(self, name: str) -> str | None:
        """The value of a grouping by its name: one of the fields above, else a key of `extra`."""
        value = (
            self.extra.get(name) if name not in Meta.__dataclass_fields__ else getattr(self, name)
        )
        return None if value is None else str(value)


@dataclass(frozen=True, slots=True)
class Sample:
    """A dialogue over images, with what a right answer is.

    Training samples end in an assistant turn; samples to be answered end in a user turn. `gold`
    holds every accepted answer, the preferred one first; where there are `choices`, gold is the
    letter of the right one. None: no gold known.
    """

    id: str
    messages: tuple[Message, ...]
    images: tuple[Image, ...] = ()
    gold: tuple[str, ...] | None = None
    choices: tuple[str, ...] = ()
    meta: Meta = Meta()

    @property
    def question(self) -> str:
        """The words of the last user turn."""
        return next((m.text for m in reversed(self.messages) if m.role == "user"), "")

    @property
    def answered(self) -> bool:
        return bool(self.messages) and self.messages[-1].role == "assistant"

    def with_answer(self, answer: str) -> Sample:
        """The training form: this dialogue closed by `answer`."""
        return replace(self, messages=(*self.messages, Message("assistant", (answer,))))


@dataclass(frozen=True, slots=True)
class Drop:
    """A row that did not become a sample, and why; `reason` is a short constant that can be
    counted.
    """

    id: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How replies are drawn. Temperature 0 is greedy; `copies` asks each sample that many times."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    num_generations: int = 1

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.num_generations < 1:
            raise InputError(
                f"max_tokens {self.max_tokens} and copies {self.num_generations} must be at least 1."
            )
        if not 0 <= self.temperature < math.inf or not 0 < self.top_p <= 1:
            raise InputError(
                f"temperature {self.temperature} must be 0 or more and top_p {self.top_p} above 0"
                " and at most 1."
            )


@dataclass(frozen=True, slots=True)
class Reply:
    """What an engine said to one sample. `text` is None exactly when `error` says why there is
    none.

    `finish` is "stop" for a reply that ended by itself and "length" for one cut at max_tokens.
    `token_ids` are its tokens with the end token, where the engine knows them; reinforcement
    learning needs them, and they are never stored. `lost` counts tries whose answer was not heard,
    though it may be charged for.
    """

    id: str
    text: str | None
    generation_index: int = 0
    finish: str | None = None
    prompt_tokens: int | None = None
    reply_tokens: int | None = None
    error: str | None = None
    token_ids: tuple[int, ...] | None = field(default=None, compare=False, repr=False)
    failed_attempts: int = field(default=0, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Score:
    """A value in the scorer's stated range, or None where nothing could be read; `read` is the
    answer that was read.
    """

    value: float | None
    status: Status = "ok"
    prediction: str | None = None
    note: str | None = None


class Scorer(Protocol):
    """A pure function; also the reward of reinforcement learning."""

    def __call__(self, sample: Sample, reply: str) -> Score: ...


@dataclass(frozen=True, slots=True)
class Criterion:
    """One thing that a judge finds met or not met in a reply; `points` below 0 are for what a reply
    should not do.

    `name` is the dimension it stands for, where it has one.
    """

    text: str
    points: float = 1.0
    name: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MetricResult:
    """What a metric says of a whole set of replies, and of each.

    `value` counts an empty reply as `empty`, the worst there is, and `said` leaves it out; `expected_n` and
    `n_non_empty` are the replies behind them, and replies that failed are in neither. Both values are
    None where the metric has nothing to say; `note` then tells why. `scores` is in the order of the
    samples, and empty where there are none. `mean` is False for a value that is no mean of the
    scores, such as BLEU of a corpus.
    """

    name: str
    value: float | None
    non_empty_value: float | None
    n: int
    n_non_empty: int
    scores: tuple[Score, ...] = ()
    is_mean: bool = True
    empty_score: float = 0.0
    note: str | None = None


class Metric(Protocol):
    """A measure that needs all replies at once, or a model's weights; the value of one reply can
    depend on the others.

    Gives one or more numbers for samples with gold and their replies, None for a reply that failed.
    `weights` is the folder in which models lie; without what it needs there, a metric answers that
    it is unavailable, and does not raise.
    """

    def __call__(
        self,
        samples: Sequence[Sample],
        replies: Sequence[str | None],
        *,
        weights: Path | None = None,
    ) -> list[MetricResult]: ...


class Engine(Protocol):
    """Anything that answers samples.

    `model` is the name that reports print, `digest` identifies the exact weights as far as they can
    be known, and `endpoint` is the address that samples are sent to, None for an engine inside this
    process.
    """

    @property
    def model(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def endpoint(self) -> str | None: ...

    def generate(
        self,
        samples: Sequence[Sample],
        sampling: Sampling,
        *,
        skip: Container[tuple[str, int]] = (),
    ) -> Iterator[list[Reply]]:
        """Yield replies in lists, as they get ready and in any order; each list is stored in one
        write.

        `skip` holds (sample id, copy) pairs that are answered already. They are passed in, not left
        out, so that an engine whose arithmetic depends on how it batches composes the same batches
        as in an unbroken run. A sample that cannot be answered yields a reply with an `error`; only
        a failure of the whole engine raises.
        """
        ...


# Told of a reply in the making: pieces of its text, then once its end, which is the whole reply or
# why there is none.
EventCallback = Callable[[str | Reply | LingshuError], None]


class RequestHandle(Protocol):
    """A question that was handed in."""

    def cancel(self) -> None:
        """Give the answer up; nothing more is heard of it."""
        ...


class AsyncEngine(Protocol):
    """An engine that takes questions while it answers others; safe to call from any thread.

    `streams` tells whether text is heard while it is made; else all of it is heard at the end.
    `running` and `waiting` count the questions in the making and those before them.
    """

    @property
    def model(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def endpoint(self) -> str | None: ...
    @property
    def streams(self) -> bool: ...
    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...

    def submit(
        self,
        sample: Sample,
        sampling: Sampling,
        on_event: EventCallback,
        *,
        stop: Sequence[str] = (),
    ) -> RequestHandle:
        """Ask; returns at once. `heard` is called from other threads and must return soon. `copies`
        is taken as 1.

        A reply ends before the first of the texts `stop`. An InputError at its end is the
        question's own fault, any other error the engine's.
        """
        ...

    def close(self) -> None:
        """Give up every question and let go of the model."""
        ...


@dataclass(frozen=True)
class Provenance:
    """Where a benchmark comes from and under which terms.

    `expected_n` is the number of samples that the source states, None where it is unknown;
    `known_counts` says what other counts in circulation mean. `unverified_fields` names the fields
    that no public source confirms.
    """

    source: str
    license: str
    access: Access = "open"
    agreement: str | None = None
    revision: str | None = None
    expected_n: int | None = None
    known_counts: tuple[tuple[int, str], ...] = ()
    unverified_fields: tuple[str, ...] = ()

    def check_count(
        self, task: str, n_samples: int, drops: Mapping[str, int] | None = None
    ) -> str | None:
        """Refuse data with another number of samples than the source states.

        Dropped rows do not count, but the message names them. An unverified number is not enforced.
        Returns what the number found is known to mean, None where that is unknown.

        Raises:
            InputError: names both numbers, the drops, and what the number found is known to mean.
        """
        meaning = next((text for count, text in self.known_counts if count == n_samples), None)
        explanation = f"{n_samples} is {meaning}." if meaning else None
        if self.expected_n in (None, n_samples) or "expected_n" in self.unverified_fields:
            return explanation
        dropped = ", ".join(f"{reason} {count}" for reason, count in (drops or {}).items())
        raise InputError(
            f"{task} has {n_samples} samples where its source states {self.expected_n}"
            f"{f' (dropped: {dropped})' if dropped else ''}."
            f"{f' {explanation}' if explanation else ''} Check the data, or use --limit to evaluate"
            " only some of it."
        )


@dataclass(frozen=True)
class Task:
    """A benchmark: its samples, how a reply is scored, and where all of it comes from.

    `samples(data)` yields samples lazily; `data` is the folder of offline data (`--data DIR`) or
    None. `synthetic(seed)` returns a few synthetic samples of the same form, so that everything
    runs without the data. `prompt(sample, style)` writes the user turn that asks for a bare answer
    ("direct") or for reasoning before it ("cot"); without it samples are sent as they are. `facets`
    names the fields to group by. `published` names the table and the column of the published
    leaderboard with this task's accuracy. `read_original(folder)` reads the publisher's files.
    `resolve_revision(data)` returns the revision that `samples(data)` reads. `metrics` are reported
    next to the score. `criteria(sample)` is the rubric of a task that only a judge can score.
    """

    name: str
    title: str
    provenance: Provenance
    samples: Callable[[Path | None], Iterable[Sample | Drop]]
    score: Scorer
    synthetic: Callable[[int], Sequence[Sample]]
    facets: tuple[str, ...] = ()
    max_tokens: int = 256
    prompt: Callable[[Sample, PromptStyle], Sample] | None = None
    published: tuple[str, str] | None = None
    read_original: Callable[[Path], Iterable[Sample | Drop]] | None = None
    resolve_revision: Callable[[Path | None], str | None] | None = None
    metrics: tuple[Metric, ...] = ()
    criteria: Callable[[Sample], Sequence[Criterion]] | None = None


def with_extra(sample: Sample, extra: Mapping[str, str]) -> Sample:
    """The sample with keys added to `meta.extra`."""
    return replace(sample, meta=replace(sample.meta, extra={**sample.meta.extra, **extra}))
