"""Asking an engine for material: every call is remembered, checked, bounded and counted. Used by
teachers and by judges.

    calls = Calls(engine, folder, images=image_bytes, budget=Budget(tokens=1_000_000))
    outcomes = calls.ask([Request(sample, json_form(Caption))], Sampling(max_tokens=512))

What was asked once is not asked again: FOLDER/calls.jsonl keeps every reply under a key of all that
decides it. A killed run loses no more than the calls that were under way.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from lingshu.core.data_policy import DataPolicy, refusal_reason
from lingshu.core.errors import (
    ArtifactError,
    ConfigError,
    EngineError,
    ImageError,
    LingshuError,
    describe_error,
    one_line,
)
from lingshu.core.files import JsonlAppender, digest, sha256_bytes
from lingshu.core.messages import message_to_json
from lingshu.core.response_format import InvalidResponse, Request
from lingshu.core.types import Engine, Image, Reply, Sample, Sampling

T_co = TypeVar("T_co", covariant=True)

CALLS_FILE = "calls.jsonl"
# A greedy engine would say the same again; a later try is drawn.
RETRY_TEMPERATURE = 0.5
# Chat templates add words of their own to a dialogue and to each of its turns.
DIALOGUE_OVERHEAD_TOKENS, TURN_OVERHEAD_TOKENS = 64, 16
# Longer texts that happen to hold words of refusal say something else besides.
MAX_REFUSAL_CHARS = 400
# Models that reason aloud put it before their reply.
_REASONING = re.compile(r"\A\s*<think>.*?</think>\s*", re.DOTALL)


@dataclass(frozen=True)
class CallResult(Generic[T_co]):
    """What came of a request: its value, or why there is none, with the last reply as it was said.

    Reasons are `malformed` and others that a form gives, `refused`, `cut` (at max_tokens), `empty`,
    `failed` (the engine gave no reply), `budget`, `data_policy` (it may not leave this machine) and
    `bad_image`.
    """

    value: T_co | None
    reject_reason: str | None = None
    detail: str = ""
    raw_text: str | None = None


@dataclass(frozen=True)
class Budget:
    """What all calls of a folder together may take; None sets no bound. Prices are per million
    tokens, in any currency.

    A call is made only if it fits at its worst: a token for each byte of its text (no byte-level
    vocabulary has shorter ones), `image_tokens` for each image, and a reply of max_tokens. What a
    reply reports then counts in place of that. A call without a report counts at its worst.
    """

    tokens: int | None = None
    cost: float | None = None
    prompt_price: float = 0.0
    reply_price: float = 0.0
    image_tokens: int = 4096

    def __post_init__(self) -> None:
        if (
            min(
                self.tokens or 0,
                self.cost or 0,
                self.prompt_price,
                self.reply_price,
                self.image_tokens,
            )
            < 0
        ):
            raise ConfigError(
                "a budget holds a negative number; give bounds and prices of 0 or more."
            )
        if self.cost is not None and not (self.prompt_price or self.reply_price):
            raise ConfigError(
                "a budget in money needs prices; give prompt_price and reply_price per million"
                " tokens."
            )


class Usage(NamedTuple):
    """Tokens and money."""

    tokens: int
    cost: float


class _StoredReply(NamedTuple):
    text: str
    finish: str | None


@dataclass
class _PendingRequest:
    """A request on its way: what identifies it in every try, and what its last reply lacked."""

    index: int
    request: Request[Any]
    content_digest: str
    last_result: CallResult[Any] = field(
        default_factory=lambda: CallResult(None, "failed", "the engine gave no reply")
    )


class CachedClient:
    """An engine with a memory. Only one process at a time may hold a folder.

    `images` gives the encoded file of an image. A reply without a usable form is asked for again,
    `tries` times in all. `repeats` is how often the engine's own client may send a call again whose
    answer it did not hear (EngineOptions.retries): the budget must hold all of them. `refuses` says
    whether a short reply declines to answer. Samples that may not leave this machine by `data_policy`
    are never sent.

    Raises:
        StorageError: another process holds the folder, or the disk refused.
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
            raise ConfigError(f"tries is {max_attempts}; it must be at least 1.")
        self.engine, self.budget, self.data_policy, self.max_attempts = (
            engine,
            budget or Budget(),
            data_policy or DataPolicy(),
            max_attempts,
        )
        self._engine_retries, self._images, self._is_refusal = (
            engine_retries,
            images,
            is_refusal or (lambda _: False),
        )
        self._offsets: dict[str, int] = {}
        self._failures: dict[str, str] = {}  # of this run: the next one asks again
        self._counts: Counter[str] = Counter()
        self._tokens, self._cost, self._end_offset = 0, 0.0, 0
        self._path = folder / CALLS_FILE
        self._log = JsonlAppender(self._path)
        self._file = os.open(self._path, os.O_RDONLY)
        try:
            self._load_log()
        except BaseException:
            self.close()
            raise

    def ask(self, requests: Sequence[Request[Any]], sampling: Sampling) -> list[CallResult[Any]]:
        """What came of each request, in their order.

        Raises:
            EngineError: the engine cannot answer at all; replies so far are kept, and the same call
                goes on from there.
            StorageError: the disk refused.
        """
        outcomes: list[CallResult[Any] | None] = [None] * len(requests)
        remaining: list[_PendingRequest] = []
        self._counts["requests"] += len(requests)
        for index, request in enumerate(requests):
            prepared = self._prepare(index, request)
            cached = (
                prepared
                if isinstance(prepared, CallResult)
                else self._cached_response(prepared, sampling)
            )
            if cached is not None:
                outcomes[index] = cached
            elif isinstance(prepared, _PendingRequest):
                remaining.append(prepared)
        for attempt in range(self.max_attempts):
            if not remaining:
                break
            remaining = self._run_attempt(
                remaining, _attempt_sampling(sampling, attempt), attempt, outcomes
            )
        for pending in remaining:
            outcomes[pending.index] = pending.last_result
        results = [outcome for outcome in outcomes if outcome is not None]
        self._counts.update(outcome.reject_reason for outcome in results if outcome.reject_reason)
        return results

    def counts(self) -> dict[str, int | float]:
        """Counts of this run (requests; calls made; cached; retries among both; rejects by reason),
        and what the folder took.

        `exceeds_upper_bound` counts replies that report more tokens than a call was thought to take at its
        worst: raise image_tokens.
        """
        call_counts = {
            name: self._counts[name] for name in ("requests", "calls", "cached", "retries")
        }
        rejects = {
            name: count
            for name, count in sorted(self._counts.items())
            if count and name not in call_counts
        }
        return {**call_counts, **rejects, "tokens": self._tokens, "cost": round(self._cost, 6)}

    @property
    def usage(self) -> Usage:
        """What all calls of the folder took, earlier runs included."""
        return Usage(self._tokens, self._cost)

    def close(self) -> None:
        os.close(self._file)
        self._log.close()

    def __enter__(self) -> CachedClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self, index: int, request: Request[Any]) -> _PendingRequest | CallResult[Any]:
        sample = request.sample
        reason = refusal_reason(sample, self.engine.endpoint, self.data_policy)
        if reason:
            return CallResult(None, "data_policy", reason)
        try:
            images = [sha256_bytes(self._images(image)) for image in sample.images]
        except ImageError as error:
            return CallResult(None, "bad_image", one_line(error))
        dialogue = [message_to_json(message) for message in sample.messages]
        return _PendingRequest(
            index,
            request,
            digest(
                [
                    dialogue,
                    images,
                    request.response_format.schema,
                    self.engine.model,
                    self.engine.digest,
                ]
            ),
        )

    def _cached_response(
        self, pending: _PendingRequest, sampling: Sampling
    ) -> CallResult[Any] | None:
        """A usable reply to any of the tries, the first one before the others; a try that failed in
        its time is passed over.
        """
        for attempt in range(self.max_attempts):
            key = _key(pending, _attempt_sampling(sampling, attempt))
            if key in self._offsets:
                result = self._parse_reply(pending.request, self._stored_reply(key))
                if result.reject_reason is None:
                    self._counts["cached"] += 1
                    return result
        return None

    def _run_attempt(
        self,
        remaining: Sequence[_PendingRequest],
        sampling: Sampling,
        attempt: int,
        outcomes: list[CallResult[Any] | None],
    ) -> list[_PendingRequest]:
        """Ask what is not known, settle what can be, and return the rest.

        Equal requests are asked once.
        """
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
            if key in over_budget:
                # A try that is not made leaves what the one before it lacked.
                outcomes[pending.index] = replace(
                    pending.last_result,
                    reject="budget",
                    detail="the budget does not hold another call",
                )
                continue
            if key in self._offsets:
                pending.last_result = self._parse_reply(pending.request, self._stored_reply(key))
            elif key in self._failures:
                pending.last_result = CallResult(None, "failed", self._failures[key])
            if pending.last_result.reject_reason is None:
                outcomes[pending.index] = pending.last_result
            else:
                unresolved.append(pending)
        return unresolved

    def _parse_reply(self, request: Request[Any], stored: _StoredReply) -> CallResult[Any]:
        text = stored.text
        if not text.strip():
            return CallResult(None, "empty", raw_text=text)
        if (
            len(text) <= MAX_REFUSAL_CHARS
            and not text.lstrip().startswith(("{", "```"))
            and self._is_refusal(text)
        ):
            return CallResult(None, "refused", raw_text=text)
        if stored.finish == "length":
            return CallResult(None, "cut", "the reply ends at max_tokens", text)
        try:
            return CallResult(
                request.response_format.parse(_REASONING.sub("", text, count=1)), raw_text=text
            )
        except InvalidResponse as error:
            return CallResult(None, error.reason, error.detail, text)

    # --- what is sent
    # ------------------------------------------------------------------------------------------------

    def _send(self, requested: Mapping[str, Sample], sampling: Sampling) -> set[str]:
        """Ask in waves that fit into the budget at their worst; returns what did not fit any more."""
        remaining = dict(requested)
        while remaining:
            batch = self._select_within_budget(remaining, sampling)
            if not batch:
                return set(remaining)
            for key in batch:
                del remaining[key]
            self._counts["calls"] += len(batch)
            unanswered = dict(batch)
            for replies in self._replies(
                [replace(sample, id=key) for key, sample in batch.items()], sampling
            ):
                unexpected = next((reply for reply in replies if reply.id not in unanswered), None)
                if unexpected:
                    raise EngineError(
                        f"{self.engine.model} answered {unexpected.id[:40]!r}, which it was not asked."
                    )
                self._store(
                    [
                        (reply, self._upper_bound(unanswered.pop(reply.id), sampling))
                        for reply in replies
                    ]
                )
            if unanswered:
                error_message = "the engine gave no reply"
                self._store(
                    [
                        (Reply(key, None, error=error_message), self._upper_bound(sample, sampling))
                        for key, sample in unanswered.items()
                    ]
                )
        return set()

    def _select_within_budget(
        self, remaining: Mapping[str, Sample], sampling: Sampling
    ) -> dict[str, Sample]:
        if self.budget.tokens is None and self.budget.cost is None:
            return dict(remaining)
        tokens, cost, batch = self._tokens, self._cost, {}
        for key, sample in remaining.items():
            upper_bound = self._upper_bound(sample, sampling)
            upper_bound = Usage(
                upper_bound.tokens * (1 + self._engine_retries),
                upper_bound.cost * (1 + self._engine_retries),
            )
            fits = self.budget.tokens is None or tokens + upper_bound.tokens <= self.budget.tokens
            if fits and (self.budget.cost is None or cost + upper_bound.cost <= self.budget.cost):
                tokens, cost, batch[key] = (
                    tokens + upper_bound.tokens,
                    cost + upper_bound.cost,
                    sample,
                )
        return batch

    def _upper_bound(self, sample: Sample, sampling: Sampling) -> Usage:
        prompt = DIALOGUE_OVERHEAD_TOKENS + self.budget.image_tokens * sum(
            isinstance(part, int) for message in sample.messages for part in message.parts
        )
        prompt += sum(
            TURN_OVERHEAD_TOKENS + len(message.text.encode("utf-8", "replace"))
            for message in sample.messages
        )
        return self._compute_usage(prompt, sampling.max_tokens)

    def _compute_usage(self, prompt: int, reply: int) -> Usage:
        return Usage(
            prompt + reply,
            (prompt * self.budget.prompt_price + reply * self.budget.reply_price) / 1e6,
        )

    def _replies(self, samples: Sequence[Sample], sampling: Sampling) -> Iterator[list[Reply]]:
        try:
            yield from self.engine.generate(samples, sampling)
        except (LingshuError, ImportError):
            raise
        except Exception as error:
            raise EngineError(
                f"{self.engine.model} failed: {describe_error(error)}; replies so far are kept, run the same"
                " command again to go on."
            ) from error

    # --- what is remembered
    # ------------------------------------------------------------------------------------------

    def _store(self, replies: Sequence[tuple[Reply, Usage]]) -> None:
        rows: list[dict[str, Any]] = []
        for reply, upper_bound in replies:
            usage = self._reply_usage(reply, upper_bound)
            self._counts["exceeds_upper_bound"] += usage.tokens > upper_bound.tokens * (
                1 + reply.failed_attempts
            )
            if reply.text is None:
                self._failures[reply.id] = reply.error or ""
            content = {"text": reply.text, "finish": reply.finish, "error": reply.error}
            counts = {"prompt_tokens": reply.prompt_tokens, "reply_tokens": reply.reply_tokens}
            rows.append(
                {
                    "key": reply.id,
                    "model": self.engine.model,
                    **content,
                    **counts,
                    "tokens": usage.tokens,
                    "cost": usage.cost,
                }
            )
        self._log.append(rows)
        for row, line in zip(
            rows, _read_from(self._file, self._end_offset).splitlines(keepends=True), strict=True
        ):
            self._index_row(row, len(line))

    def _reply_usage(self, reply: Reply, upper_bound: Usage) -> Usage:
        """What a reply reports, at worst where it reports nothing; and a whole call for each try
        that was lost.
        """
        if reply.prompt_tokens is not None and reply.reply_tokens is not None:
            reported = self._compute_usage(reply.prompt_tokens, reply.reply_tokens)
        else:
            reported = (
                Usage(0, 0.0) if reply.text is None and reply.failed_attempts else upper_bound
            )
        return Usage(
            reported.tokens + reply.failed_attempts * upper_bound.tokens,
            reported.cost + reply.failed_attempts * upper_bound.cost,
        )

    def _load_log(self) -> None:
        """Note every call of earlier runs; their texts stay on the disk."""
        with self._path.open("rb") as file:
            for line_number, line in enumerate(file, 1):
                try:
                    self._index_row(json.loads(line), len(line))
                except (ValueError, TypeError, LookupError) as error:
                    raise ArtifactError(
                        f"{self._path}, line {line_number}: no record of a call; remove the line, and it"
                        " is made anew."
                    ) from error

    def _index_row(self, row: Mapping[str, Any], length: int) -> None:
        tokens, cost = row["tokens"], row["cost"]
        if row["text"] is not None:
            self._offsets[row["key"]] = self._end_offset
        self._tokens += tokens
        self._cost += cost
        self._end_offset += length

    def _stored_reply(self, key: str) -> _StoredReply:
        row = json.loads(_read_line(self._file, self._offsets[key]))
        return _StoredReply(row["text"], row["finish"])


def _key(pending: _PendingRequest, sampling: Sampling) -> str:
    """What identifies a try; short enough to name a request of a batch, where services allow 64
    characters.
    """
    return f"{pending.content_digest[:40]}{_sampling_key(sampling)}"


@lru_cache(maxsize=64)
def _sampling_key(sampling: Sampling) -> str:
    return digest(
        {
            name: getattr(sampling, name)
            for name in Sampling.__dataclass_fields__
            if name != "num_generations"
        }
    )[:16]


def _attempt_sampling(sampling: Sampling, attempt: int) -> Sampling:
    if attempt == 0:
        return replace(sampling, num_generations=1)
    return replace(
        sampling,
        num_generations=1,
        seed=sampling.seed + attempt,
        temperature=max(sampling.temperature, RETRY_TEMPERATURE),
    )


def _read_from(handle: int, start: int) -> bytes:
    blocks = []
    while block := os.pread(handle, 1 << 20, start):
        blocks.append(block)
        start += len(block)
    return b"".join(blocks)


def _read_line(handle: int, start: int) -> bytes:
    line = os.pread(handle, 4096, start)
    while b"\n" not in line:
        line += os.pread(handle, 1 << 16, start + len(line))
    return line[: line.index(b"\n")]
