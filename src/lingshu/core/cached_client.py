"""An engine behind a cache on disk, for teachers and judges: replies are checked and budgeted.

    client = CachedClient(engine, folder, images=image_bytes, budget=Budget(tokens=1_000_000))
    results = client.ask([Request(sample, json_format(Caption))], Sampling(max_tokens=512))

FOLDER/calls.jsonl holds every reply under a key of all that decides it, so an equal request is not
sent again. A killed run loses no more than the calls that were active.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from lingshu.core import errors
from lingshu.core.data_policy import refusal_reason
from lingshu.core.files import (
    Closeable,
    JsonlAppender,
    digest,
    enumerate_jsonl,
    enumerate_offsets,
    read_line,
    sha256_bytes,
)
from lingshu.core.messages import message_to_json
from lingshu.core.types import DataPolicy, Engine, Image, Reply, Sample, Sampling

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_FENCED = re.compile(r"```(?:json)?\s*(\{.*\})\s*```", re.DOTALL)
CALLS_FILE = "calls.jsonl"
# A greedy engine would repeat itself; a later attempt is sampled.
RETRY_TEMPERATURE = 0.5
# Tokens that chat templates add to a dialogue and to each of its turns.
DIALOGUE_OVERHEAD_TOKENS, TURN_OVERHEAD_TOKENS = 64, 16
MAX_REFUSAL_CHARS = 400  # a longer text with words of refusal is an answer as well
_REASONING = re.compile(r"\A\s*<think>.*?</think>\s*", re.DOTALL)


class InvalidResponse(Exception):
    """A reply in another format than requested; `reason` is a constant that can be counted."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class ResponseFormat(Generic[T_co]):
    """`parse` returns a reply's value or raises InvalidResponse; `schema` identifies the format."""

    parse: Callable[[str], T_co]
    schema: str


TEXT_FORMAT: ResponseFormat[str] = ResponseFormat(str.strip, "text")


def json_format(kind: type[T]) -> ResponseFormat[T]:
    """A JSON object of this dataclass or pydantic model, alone or in a fence, not coerced."""
    import pydantic

    adapter = pydantic.TypeAdapter(kind)

    def parse(text: str) -> T:
        # An object alone may have a fence in one of its texts.
        fenced = None if text.lstrip().startswith("{") else _FENCED.search(text)
        try:
            return adapter.validate_json(fenced[1] if fenced else text.strip(), strict=True)
        except pydantic.ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            location = ".".join(map(str, first["loc"]))
            detail = f"{location}: {first['type']}" if location else first["type"]
            raise InvalidResponse("malformed", detail) from None

    return ResponseFormat(parse, digest(adapter.json_schema()))


@dataclass(frozen=True)
class Request(Generic[T_co]):
    """A sample that ends in a user turn, and the format of a valid reply."""

    sample: Sample
    response_format: ResponseFormat[T_co]


def one_response(request: Request[T]) -> Generator[Sequence[Request[Any]], Sequence[Any], T]:
    """The value of one request in a dialogue: `caption = yield from one_response(request)`."""
    (value,) = yield [request]
    return value


@dataclass(frozen=True)
class CallResult(Generic[T_co]):
    """The value of a request, or the reason why there is none and the last reply.

    Reasons: `malformed` and others of a response format, `refused`, `cut` (at max_tokens), `empty`,
    `failed` (no reply from the engine), `budget`, `data_policy` (it may not be sent), `bad_image`.
    """

    value: T_co | None
    reject_reason: str | None = None
    detail: str = ""
    raw_text: str | None = None


class Usage(NamedTuple):
    tokens: int = 0
    cost: float = 0.0

    def times(self, n: int) -> Usage:
        return Usage(self.tokens * n, self.cost * n)

    def plus(self, other: Usage) -> Usage:
        return Usage(self.tokens + other.tokens, self.cost + other.cost)


@dataclass(frozen=True)
class Budget:
    """The limit of all calls of a folder; None means unlimited. Prices are per million tokens.

    A call is made only if its upper bound fits: a token for each byte of its text (no byte-level
    vocabulary has shorter ones), `image_tokens` for each image, and a reply of max_tokens. The usage
    that a reply reports then replaces the bound; without a report the bound counts.
    """

    tokens: int | None = None
    cost: float | None = None
    prompt_price: float = 0.0
    reply_price: float = 0.0
    image_tokens: int = 4096

    def __post_init__(self) -> None:
        limits = (self.tokens or 0, self.cost or 0)
        if min(*limits, self.prompt_price, self.reply_price, self.image_tokens) < 0:
            raise errors.ConfigError("a budget is negative; give limits and prices of 0 or more.")
        if self.cost is not None and not (self.prompt_price or self.reply_price):
            remedy = "give prompt_price and reply_price per million tokens"
            raise errors.ConfigError(f"a budget in money needs prices; {remedy}.")

    def covers(self, usage: Usage) -> bool:
        limits = zip(usage, (self.tokens, self.cost), strict=True)
        return all(limit is None or value <= limit for value, limit in limits)

    def usage(self, prompt_tokens: int, reply_tokens: int) -> Usage:
        cost = (prompt_tokens * self.prompt_price + reply_tokens * self.reply_price) / 1e6
        return Usage(prompt_tokens + reply_tokens, cost)

    def upper_bound(self, sample: Sample, sampling: Sampling) -> Usage:
        prompt_tokens = DIALOGUE_OVERHEAD_TOKENS
        for message in sample.messages:
            n_images = sum(isinstance(part, int) for part in message.parts)
            prompt_tokens += n_images * self.image_tokens + TURN_OVERHEAD_TOKENS
            prompt_tokens += len(message.text.encode("utf-8", "replace"))
        return self.usage(prompt_tokens, sampling.max_tokens)


@dataclass
class _PendingCall:
    """A request without a result yet; the digest identifies it in every attempt."""

    index: int
    request: Request[Any]
    content_digest: str
    last_result: CallResult[Any] = field(
        default_factory=lambda: CallResult(None, "failed", "the engine gave no reply")
    )


class CachedClient(Closeable):
    """An engine with a cache in `folder`, which one process at a time may open.

    `images` returns the encoded file of an image. An invalid reply is requested again, at most
    `max_attempts` times in all. `engine_retries` is how often the engine's own client may repeat a
    call whose answer was lost (EngineOptions.retries): the budget must cover all of them.
    `is_refusal`: a short reply declines to answer. What `data_policy` forbids is never sent.

    Raises:
        StorageError: another process has the folder open, or the disk refused.
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        *,
        images: Callable[[Image], bytes],
        budget: Budget | None = None,
        data_policy: DataPolicy | None = None,
        max_attempts: int = 3,
        engine_retries: int = 0,
        is_refusal: Callable[[str], bool] | None = None,
    ) -> None:
        if max_attempts < 1:
            raise errors.ConfigError(f"max_attempts is {max_attempts}; it must be at least 1.")
        self.engine, self.max_attempts = engine, max_attempts
        self.budget, self.data_policy = budget or Budget(), data_policy or DataPolicy()
        self._engine_retries, self._images = engine_retries, images
        self._is_refusal = is_refusal or (lambda _: False)
        self._offsets: dict[str, int] = {}
        self._failures: dict[str, str] = {}  # of this run; the next one sends them again
        self._counts: Counter[str] = Counter()
        self.usage = Usage()  # of all calls of the folder, earlier runs included
        self._path = folder / CALLS_FILE
        self._log = JsonlAppender(self._path)
        self._file = self._path.open("rb")
        try:
            self._load_log()
        except BaseException:
            self.close()
            raise

    def ask(self, requests: Sequence[Request[Any]], sampling: Sampling) -> list[CallResult[Any]]:
        """The results of the requests, in their order.

        Raises:
            EngineError: the engine cannot answer at all; replies so far are kept, and the same call
                resumes from there.
            StorageError: the disk refused.
        """
        results: dict[int, CallResult[Any]] = {}
        remaining: list[_PendingCall] = []
        self._counts["requests"] += len(requests)
        for index, request in enumerate(requests):
            prepared = self._prepare(index, request)
            if isinstance(prepared, CallResult):
                results[index] = prepared
            elif cached := self._cached_response(prepared, sampling):
                results[index] = cached
            else:
                remaining.append(prepared)
        for attempt in range(self.max_attempts):
            if remaining:
                remaining = self._run_attempt(
                    remaining, _attempt_sampling(sampling, attempt), attempt, results
                )
        results.update((pending.index, pending.last_result) for pending in remaining)
        ordered = [results[index] for index in range(len(requests))]
        self._counts.update(result.reject_reason for result in ordered if result.reject_reason)
        return ordered

    def counts(self) -> dict[str, int | float]:
        """Counts of this run (requests, calls, cached, retries, rejects), and usage of the folder.

        `exceeds_upper_bound` counts replies above the bound of their call: raise image_tokens.
        """
        counts = {name: self._counts[name] for name in ("requests", "calls", "cached", "retries")}
        counts |= {name: n for name, n in sorted(self._counts.items()) if n and name not in counts}
        return {**counts, "tokens": self.usage.tokens, "cost": round(self.usage.cost, 6)}

    def close(self) -> None:
        self._file.close()
        self._log.close()

    def _prepare(self, index: int, request: Request[Any]) -> _PendingCall | CallResult[Any]:
        sample = request.sample
        reason = refusal_reason(sample, self.engine.endpoint, self.data_policy)
        if reason:
            return CallResult(None, "data_policy", reason)
        try:
            images = [sha256_bytes(self._images(image)) for image in sample.images]
        except errors.ImageError as error:
            return CallResult(None, "bad_image", errors.one_line(error))
        dialogue = [message_to_json(message) for message in sample.messages]
        identity = self.engine.model, self.engine.digest
        content = [dialogue, images, request.response_format.schema, *identity]
        return _PendingCall(index, request, digest(content))

    def _cached_response(self, pending: _PendingCall, sampling: Sampling) -> CallResult[Any] | None:
        """The first valid reply to any of the attempts."""
        for attempt in range(self.max_attempts):
            key = _key(pending, _attempt_sampling(sampling, attempt))
            if key in self._offsets:
                result = self._parse_reply(pending.request, key)
                if result.reject_reason is None:
                    self._counts["cached"] += 1
                    return result
        return None

    def _run_attempt(
        self,
        remaining: Sequence[_PendingCall],
        sampling: Sampling,
        attempt: int,
        results: dict[int, CallResult[Any]],
    ) -> list[_PendingCall]:
        """Send what is not stored, each equal request once; returns those without a valid reply."""
        keys = [_key(pending, sampling) for pending in remaining]
        requested = {
            key: pending.request.sample
            for key, pending in zip(keys, remaining, strict=True)
            if key not in self._offsets
        }
        self._counts["cached"] += len(remaining) - len(requested)
        self._counts["retries"] += len(remaining) if attempt else 0
        over_budget = self._send(requested, sampling)
        unresolved = []
        for key, pending in zip(keys, remaining, strict=True):
            if key in over_budget:  # the reply to the previous attempt is kept
                detail = "the budget does not cover another call"
                results[pending.index] = replace(
                    pending.last_result, reject_reason="budget", detail=detail
                )
                continue
            if key in self._offsets:
                pending.last_result = self._parse_reply(pending.request, key)
            elif key in self._failures:
                pending.last_result = CallResult(None, "failed", self._failures[key])
            if pending.last_result.reject_reason is None:
                results[pending.index] = pending.last_result
            else:
                unresolved.append(pending)
        return unresolved

    def _parse_reply(self, request: Request[Any], key: str) -> CallResult[Any]:
        row = read_line(self._file, self._offsets[key])
        text: str = row["text"]
        if not text.strip():
            return CallResult(None, "empty", raw_text=text)
        is_plain = not text.lstrip().startswith(("{", "```"))
        if len(text) <= MAX_REFUSAL_CHARS and is_plain and self._is_refusal(text):
            return CallResult(None, "refused", raw_text=text)
        if row["finish"] == "length":
            return CallResult(None, "cut", "the reply ends at max_tokens", text)
        try:
            value = request.response_format.parse(_REASONING.sub("", text, count=1))
        except InvalidResponse as error:
            return CallResult(None, error.reason, error.detail, text)
        return CallResult(value, raw_text=text)

    def _send(self, requested: Mapping[str, Sample], sampling: Sampling) -> set[str]:
        """Send in batches whose upper bounds fit the budget; returns the keys that did not fit."""
        remaining = dict(requested)
        while remaining:
            batch = self._select_within_budget(remaining, sampling)
            if not batch:
                return set(remaining)
            for key in batch:
                del remaining[key]
            self._counts["calls"] += len(batch)
            unanswered = dict(batch)
            samples = [replace(sample, id=key) for key, sample in batch.items()]
            for replies in self._generate(samples, sampling):
                for reply in replies:
                    if reply.id not in unanswered:
                        raise errors.EngineError(
                            f"{self.engine.model} answered {reply.id[:40]!r}, which was not requested."
                        )
                self._store(replies, unanswered, sampling)
            if unanswered:
                missing = [Reply(key, None, error="the engine gave no reply") for key in unanswered]
                self._store(missing, unanswered, sampling)
        return set()

    def _select_within_budget(
        self, remaining: Mapping[str, Sample], sampling: Sampling
    ) -> dict[str, Sample]:
        total, batch = self.usage, {}
        for key, sample in remaining.items():
            bound = self.budget.upper_bound(sample, sampling).times(1 + self._engine_retries)
            if self.budget.covers(total.plus(bound)):
                total, batch[key] = total.plus(bound), sample
        return batch

    def _generate(self, samples: Sequence[Sample], sampling: Sampling) -> Iterator[list[Reply]]:
        try:
            yield from self.engine.generate(samples, sampling)
        except (errors.LingshuError, ImportError):
            raise
        except Exception as error:
            raise errors.EngineError(
                f"{self.engine.model} failed: {errors.describe_error(error)}; replies so far are kept, run"
                " the same command again to resume."
            ) from error

    def _store(
        self, replies: Sequence[Reply], unanswered: dict[str, Sample], sampling: Sampling
    ) -> None:
        rows: list[dict[str, Any]] = []
        for reply in replies:
            upper_bound = self.budget.upper_bound(unanswered.pop(reply.id), sampling)
            usage = self._reply_usage(reply, upper_bound)
            bound = upper_bound.times(1 + reply.failed_attempts)
            self._counts["exceeds_upper_bound"] += usage.tokens > bound.tokens
            if reply.text is None:
                self._failures[reply.id] = reply.error or ""
            row = {"key": reply.id, "model": self.engine.model}
            for name in ("text", "finish", "error", "prompt_tokens", "reply_tokens"):
                row[name] = getattr(reply, name)
            rows.append({**row, "tokens": usage.tokens, "cost": usage.cost})
        for row, offset in zip(rows, self._log.append(rows), strict=True):
            self._index_row(row, offset)

    def _reply_usage(self, reply: Reply, upper_bound: Usage) -> Usage:
        """The usage that a reply reports, else its bound, and the bound of each lost attempt."""
        if reply.prompt_tokens is not None and reply.reply_tokens is not None:
            reported = self.budget.usage(reply.prompt_tokens, reply.reply_tokens)
        elif reply.text is None and reply.failed_attempts:
            reported = Usage()
        else:
            reported = upper_bound
        return reported.plus(upper_bound.times(reply.failed_attempts))

    def _load_log(self) -> None:
        """Index every call of earlier runs; their texts stay on the disk.

        Raises:
            ArtifactError: a row that is not a record of a call, or was changed.
        """
        rows = enumerate_jsonl(self._path, allow_truncated=True)
        for offset, row in enumerate_offsets(self._path, rows):
            try:
                self._index_row(row, offset)
            except (TypeError, LookupError) as error:
                problem = f"{self._path}, byte {offset}: not a record of a call"
                remedy = "remove the line to repeat the call"
                raise errors.ArtifactError(f"{problem}; {remedy}.") from error

    def _index_row(self, row: Mapping[str, Any], offset: int) -> None:
        usage = self.usage.plus(Usage(row["tokens"], row["cost"]))
        if row["text"] is not None:
            self._offsets[row["key"]] = offset
        self.usage = usage


def _key(pending: _PendingCall, sampling: Sampling) -> str:
    """The id of an attempt, below the 64 characters that batch services allow."""
    return f"{pending.content_digest[:40]}{_sampling_key(sampling)}"


@lru_cache(maxsize=64)
def _sampling_key(sampling: Sampling) -> str:
    return digest(sampling.decoding())[:16]


def _attempt_sampling(sampling: Sampling, attempt: int) -> Sampling:
    if attempt:
        temperature = max(sampling.temperature, RETRY_TEMPERATURE)
        sampling = replace(sampling, seed=sampling.seed + attempt, temperature=temperature)
    return replace(sampling, num_generations=1)
