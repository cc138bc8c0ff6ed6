"""The data types that every package exchanges: samples, drops, replies, scores, engines and tasks.

All are frozen. A sample refers to its images; it never holds decoded pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from lingshu.core.errors import ConfigError, InputError, LingshuError

Role = Literal["system", "user", "assistant"]
Access = Literal["open", "form", "credentialed", "private"]
Status = Literal["ok", "unparsed", "refused", "empty", "multiple", "error"]
PromptStyle = Literal["direct", "cot"]
MAX_TOP_LOG_PROBS = 20  # of OpenAI's API; vLLM's own default limit
STATUSES: tuple[Status, ...] = ("ok", "unparsed", "refused", "empty", "multiple", "error")


@dataclass(frozen=True, slots=True)
class Image:
    """A reference to an image: a file, item `index` of row `row` of a parquet shard, or an encoded
    file in memory (`data`: phantoms, uploads).
    """

    path: str | None = None
    row: int | None = None
    index: int = 0
    data: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. A part is text, or the index of an image in the sample's `images`."""

    role: Role
    parts: tuple[str | int, ...]

    @property
    def text(self) -> str:
        """The text parts, joined."""
        return "".join(part for part in self.parts if isinstance(part, str))


@dataclass(frozen=True, slots=True)
class Meta:
    """What is known of a sample besides its content; None means not known.

    `access` says who may see it (core/data_policy.py). `group` names the patient, study or image
    behind the sample: samples that share it belong on one side of any split. `kind` is the kind of
    question.
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
        """The value to group by: one of the fields above, else a key of `extra`."""
        is_field = name in Meta.__dataclass_fields__
        value = getattr(self, name) if is_field else self.extra.get(name)
        return None if value is None else str(value)


@dataclass(frozen=True, slots=True)
class Sample:
    """A dialogue over images, with its accepted answers.

    Training samples end in an assistant turn; samples to be answered end in a user turn. `gold`
    holds every accepted answer, the preferred one first, or None if none is known; with `choices` it
    is the letter of the correct one.
    """

    id: str
    messages: tuple[Message, ...]
    images: tuple[Image, ...] = ()
    gold: tuple[str, ...] | None = None
    choices: tuple[str, ...] = ()
    meta: Meta = Meta()

    @property
    def question(self) -> str:
        """The text of the last user turn."""
        return next((m.text for m in reversed(self.messages) if m.role == "user"), "")

    @property
    def answered(self) -> bool:
        return bool(self.messages) and self.messages[-1].role == "assistant"

    def with_answer(self, answer: str) -> Sample:
        """The training sample: this dialogue followed by `answer`."""
        return replace(self, messages=(*self.messages, Message("assistant", (answer,))))


@dataclass(frozen=True, slots=True)
class Drop:
    """A row that did not become a sample; `reason` is a short constant that can be counted."""

    id: str
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How replies are generated: greedy at temperature 0, `num_generations` replies a sample."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    num_generations: int = 1

    def __post_init__(self) -> None:
        if self.max_tokens < 1 or self.num_generations < 1:
            raise InputError(
                f"max_tokens {self.max_tokens} and num_generations {self.num_generations} must be at"
                " least 1."
            )
        if not 0 <= self.temperature < math.inf or not 0 < self.top_p <= 1:
            raise InputError(
                f"temperature {self.temperature} must be 0 or more and top_p {self.top_p} above 0"
                " and at most 1."
            )

    def decoding(self) -> dict[str, Any]:
        """What decides one reply: all fields except the number of replies."""
        return {name: getattr(self, name) for name in _DECODING_FIELDS}


_DECODING_FIELDS = tuple(n for n in Sampling.__dataclass_fields__ if n != "num_generations")


class AnswerToken(NamedTuple):
    """A token of a reply that may be its answer: a letter, or a word such as yes or no.

    `start` is where its `word` begins in the text. `probabilities` are those of this word and of
    other such words at this place, given all before it, at temperature 1; the rest of the total of 1
    belongs to other text.
    """

    start: int
    word: str
    probabilities: Mapping[str, float]


class TextLogProb(NamedTuple):
    """The natural log-probability of a text, and the number of its tokens."""

    total: float
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Reply:
    """An engine's reply to one sample; `text` is None exactly when `error` says why.

    `finish` is "stop" for a complete reply and "length" for one truncated at max_tokens. `token_ids`
    are its tokens with the end token, if the engine knows them; reinforcement learning needs them,
    and they are never stored. `failed_attempts` counts attempts whose answer was lost, though it may
    be charged for. `scaled_images` says of each image that was shown with far fewer pixels than it
    has, with how many. `answer_tokens` and `log_prob`, that of the text without its end token, are
    there if the engine knows probabilities.
    """

    id: str
    text: str | None
    generation_index: int = 0
    finish: str | None = None
    prompt_tokens: int | None = None
    reply_tokens: int | None = None
    error: str | None = None
    scaled_images: tuple[str, ...] = ()
    token_ids: tuple[int, ...] | None = field(default=None, compare=False, repr=False)
    failed_attempts: int = field(default=0, compare=False, repr=False)
    answer_tokens: tuple[AnswerToken, ...] = field(default=(), compare=False, repr=False)
    log_prob: TextLogProb | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Score:
    """A value in the scorer's stated range, or None if no answer could be parsed; `prediction` is
    the parsed answer.

    `is_final` says that the reply declares its answer; what it only mentions does not count where the
    reply was truncated.
    """

    value: float | None
    status: Status = "ok"
    prediction: str | None = None
    note: str | None = None
    is_final: bool = True


class Scorer(Protocol):
    """A pure function; also the reward of reinforcement learning."""

    def __call__(self, sample: Sample, reply: str) -> Score: ...


@dataclass(frozen=True, slots=True)
class Criterion:
    """A criterion that a judge finds met or not met in a reply; `points` below 0 are for what a
    reply should not do. `name` is its dimension, if it has one.
    """

    text: str
    points: float = 1.0
    name: str | None = None
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MetricResult:
    """A metric over a set of replies, and the scores of each.

    `value` counts an empty reply as `empty_score`; `non_empty_value` leaves it out. `n` and
    `n_non_empty` are the replies behind them, without those that failed. Both values are None if the
    metric is unavailable; `note` then says why. `scores` is in the order of the samples, or empty.
    `is_mean` is False for a value that is not the mean of the scores, such as corpus BLEU.
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
    """A metric that needs all replies at once, or a model's weights.

    A failed reply is None. `weights` is the folder of models; without the model that it needs there,
    a metric returns a result with a note and does not raise.
    """

    def __call__(
        self,
        samples: Sequence[Sample],
        replies: Sequence[str | None],
        *,
        weights: Path | None = None,
    ) -> list[MetricResult]: ...


class ModelIdentity(Protocol):
    """The name of a model that reports print, the digest of its weights where they are known, and
    the address that samples are sent to, None for an engine in this process.
    """

    @property
    def model(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def endpoint(self) -> str | None: ...


def engine_notes(engine: ModelIdentity) -> tuple[str, ...]:
    """What a user should know about how an engine opened its model; most engines say nothing."""
    return getattr(engine, "notes", ())


def engine_settings(engine: ModelIdentity) -> dict[str, Any]:
    """The arithmetic and the image budget of an engine, for a run card; empty where unknown."""
    return dict(getattr(engine, "settings", {}))


class Engine(ModelIdentity, Protocol):
    """Anything that answers samples.

    An engine may also have `notes` and `settings`; see `engine_notes` and `engine_settings`.
    """

    def generate(
        self,
        samples: Sequence[Sample],
        sampling: Sampling,
        *,
        skip: Container[tuple[str, int]] = (),
    ) -> Iterator[list[Reply]]:
        """Yield replies in lists, as they are ready and in any order; each list is stored in one
        write.

        `skip` holds (sample id, generation index) pairs that are answered already. They are passed
        in, not left out, so that an engine whose arithmetic depends on batching composes the same
        batches as in an uninterrupted run. A sample that cannot be answered yields a reply with an
        `error`; only a failure of the whole engine raises.
        """
        ...


@dataclass(frozen=True)
class DataPolicy:
    """What the user allows to be sent (core/data_policy.py).

    `agreements` are the data-use agreements that cover the endpoint; `allow_private` permits sending
    private samples that are not de-identified (`--allow-remote`).
    """

    agreements: frozenset[str] = frozenset()
    allow_private: bool = False


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """How a checkpoint is opened in this process. Each of these may change a reply, so the digest
    of an engine covers them.
    """

    dtype: Literal["auto", "bfloat16", "float32", "int8", "int4"] = "auto"
    """Numbers that the model computes with: as stored (auto; small ones on a CPU float32), these, or
    its language model in 8 or 4 bits."""
    max_pixels: int | None = None
    """Pixels that the images of one question may have together, for a model that scales images; by
    default what the checkpoint says, if that fits its context."""
    max_tiles: int | None = None
    """Tiles that an image may be cut into, for a model that cuts images; by default what the
    checkpoint says, if that fits its context."""
    chat_template: str | None = None
    """File of a Jinja chat template to use in place of the checkpoint's, or the name of one that is
    included: lingshu_i_8b_card."""
    repetition_penalty: float = 1.0
    """Makes tokens less likely that the prompt or the reply already holds (1: off). Many published
    checkpoints suggest a value, such as 1.05."""

    def __post_init__(self) -> None:
        for name in ("max_pixels", "max_tiles"):
            value = getattr(self, name)
            if value is not None and value < 1:
                flag = name.replace("_", "-")
                raise ConfigError(f"--{flag} is {value}; it must be at least 1.")
        if not 0 < self.repetition_penalty <= 10:
            raise ConfigError(
                f"--repetition-penalty is {self.repetition_penalty}; it must be above 0 and at most"
                " 10, and 1 is none."
            )


@dataclass(frozen=True, kw_only=True)
class VllmOptions:
    """How vLLM runs a model in this process (`vllm:MODEL`)."""

    tensor_parallel_size: int = 1
    "GPUs that share each layer of the model."
    data_parallel_size: int = 1
    "Copies of the model, each on its own GPUs."
    gpu_memory_utilization: float | None = None
    "Share of each GPU's memory, between 0 and 1; vLLM's own default if not given."
    max_model_len: int | None = None
    "Tokens of a prompt and its reply together; the model's own context if not given."
    enforce_eager: bool = False
    "Run without CUDA graphs: slower, with a quicker start and less memory."
    stop_token_ids: tuple[int, ...] = ()
    "Further tokens that end a reply, by id."

    def __post_init__(self) -> None:
        for name in ("tensor_parallel_size", "data_parallel_size", "max_model_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"vllm.{name} is {value}; it must be at least 1.")
        share = self.gpu_memory_utilization
        if share is not None and not 0 < share <= 1:
            raise ConfigError(
                f"vllm.gpu_memory_utilization is {share}; it must be above 0 and at most 1."
            )


@dataclass(frozen=True)
class EngineOptions:
    """How an engine runs; only `checkpoint` may change a greedy reply.

    `batch_size` and `threads` (CPU threads; None keeps the library's default) are for engines in
    this process; `concurrency`, `timeout_s` (a request) and `retries` (after the first attempt) for
    those with an address. `top_log_probs` is how many probabilities a token comes with from an
    address or vLLM; 0 requests none.
    """

    batch_size: int = 16
    threads: int | None = None
    device: str | None = None
    concurrency: int = 16
    timeout_s: float = 120.0
    retries: int = 5
    data_policy: DataPolicy = field(default_factory=DataPolicy)
    api_key: str | None = field(default=None, repr=False)
    checkpoint: CheckpointOptions = CheckpointOptions()
    vllm: VllmOptions = VllmOptions()
    top_log_probs: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.top_log_probs <= MAX_TOP_LOG_PROBS:
            raise ConfigError(
                f"--top-log-probs is {self.top_log_probs}; it must be from 0 to"
                f" {MAX_TOP_LOG_PROBS}, which is what servers give."
            )
        for name in ("batch_size", "concurrency", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1.")
        if not self.timeout_s > 0 or self.retries < 0:
            raise ConfigError(
                f"timeout_s {self.timeout_s} must be above 0 and retries {self.retries} not"
                " negative."
            )


# Receives pieces of a reply's text, then once its end: the complete reply, or why there is none.
EventCallback = Callable[[str | Reply | LingshuError], None]


class RequestHandle(Protocol):
    def cancel(self) -> None:
        """Cancel the request; no further event is sent."""
        ...


class AsyncEngine(ModelIdentity, Protocol):
    """An engine that accepts requests while it answers others; safe to call from any thread.

    `streams` says whether text is sent while it is generated; else all of it is sent at the end.
    `running` and `waiting` count requests.
    """

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
        """Submit a request and return at once; one reply is generated.

        `on_event` is called from other threads and must return soon. A reply ends before the first
        of the texts `stop`. An InputError at its end is the fault of the request, any other error
        that of the engine.
        """
        ...

    def close(self) -> None:
        """Cancel every request and release the model."""
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
        message = f"{task} has {n_samples} samples where its source states {self.expected_n}"
        if drops:
            dropped = ", ".join(f"{reason} {count}" for reason, count in drops.items())
            message += f" (dropped: {dropped})"
        remedy = "Check the data, or use --limit to evaluate only some of it."
        raise InputError(" ".join(filter(None, (f"{message}.", explanation, remedy))))


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
