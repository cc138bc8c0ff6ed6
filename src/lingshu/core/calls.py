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

from lingshu.core.errors import (
    ArtefactError,
    BadImage,
    ConfigError,
    EngineError,
    LingshuError,
    fault,
    one_line,
)
from lingshu.core.files import JsonlAppender, digest, sha256_bytes
from lingshu.core.forms import Request, Unusable
from lingshu.core.messages import message_to_json
from lingshu.core.nouns import Engine, Image, Reply, Sample, Sampling
from lingshu.core.release import Release, refusal

T_co = TypeVar("T_co", covariant=True)

LOG = "calls.jsonl"
# A greedy engine would say the same again; a later try is drawn.
TRY_TEMPERATURE = 0.5
# Chat templates add words of their own to a dialogue and to each of its turns.
DIALOGUE_TOKENS, TURN_TOKENS = 64, 16
# Longer texts that happen to hold words of refusal say something else besides.
REFUSAL_CHARACTERS = 400
# Models that reason aloud put it before their reply.
_THOUGHT = re.compile(r"\A\s*<think>.*?</think>\s*", re.DOTALL)


@dataclass(frozen=True)
class Outcome(Generic[T_co]):
    """What came of a request: its value, or why there is none, with the last reply as it was said.

    Reasons are `malformed` and others that a form gives, `refused`, `cut` (at max_tokens), `empty`,
    `failed` (the engine gave no reply), `budget`, `release` (it may not leave this machine) and
    `bad_image`.
    """

    value: T_co | None
    reject: str | None = None
    detail: str = ""
    raw: str | None = None


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


class Spent(NamedTuple):
    """Tokens and money."""

    tokens: int
    cost: float


class _Said(NamedTuple):
    text: str
    finish: str | None


@dataclass
class _Open:
    """A request on its way: what identifies it in every try, and what its last reply lacked."""

    place: int
    request: Request[Any]
    content: str
    last: Outcome[Any] = field(
        default_factory=lambda: Outcome(None, "failed", "the engine gave no reply")
    )


class Calls:
    """An engine with a memory. Only one process at a time may hold a folder.

    `images` gives the encoded file of an image. A reply without a usable form is asked for again,
    `tries` times in all. `repeats` is how often the engine's own client may send a call again whose
    answer it did not hear (EngineOptions.retries): the budget must hold all of them. `refuses` says
    whether a short reply declines to answer. Samples that may not leave this machine by `release`
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
        release: Release | None = None,
        tries: int = 3,
        repeats: int = 0,
        refuses: Callable[[str], bool] | None = None,
    ) -> None:
        if tries < 1:
            raise ConfigError(f"tries is {tries}; it must be at least 1.")
        self.engine, self.budget, self.release, self.tries = (
            engine,
            budget or Budget(),
            release or Release(),
            tries,
        )
        self._repeats, self._images, self._refuses = repeats, images, refuses or (lambda _: False)
        self._places: dict[str, int] = {}
        self._failures: dict[str, str] = {}  # of this run: the next one asks again
        self._counts: Counter[str] = Counter()
        self._tokens, self._cost, self._end = 0, 0.0, 0
        self._path = folder / LOG
        self._log = JsonlAppender(self._path)
        self._file = os.open(self._path, os.O_RDONLY)
        try:
            self._recall()
        except BaseException:
            self.close()
            raise

    def ask(self, requests: Sequence[Request[Any]], sampling: Sampling) -> list[Outcome[Any]]:
        """What came of each request, in their order.

        Raises:
            EngineError: the engine cannot answer at all; replies so far are kept, and the same call
                goes on from there.
            StorageError: the disk refused.
        """
        outcomes: list[Outcome[Any] | None] = [None] * len(requests)
        left: list[_Open] = []
        self._counts["requests"] += len(requests)
        for place, request in enumerate(requests):
            opened = self._open(place, request)
            known = opened if isinstance(opened, Outcome) else self._recalled(opened, sampling)
            if known is not None:
                outcomes[place] = known
            elif isinstance(opened, _Open):
                left.append(opened)
        for attempt in range(self.tries):
            if not left:
                break
            left = self._try(left, _attempt(sampling, attempt), attempt, outcomes)
        for open_ in left:
            outcomes[open_.place] = open_.last
        found = [outcome for outcome in outcomes if outcome is not None]
        self._counts.update(outcome.reject for outcome in found if outcome.reject)
        return found

    def ledger(self) -> dict[str, int | float]:
        """Counts of this run (requests; calls made; cached; retries among both; rejects by reason),
        and what the folder took.

        `beyond_worst` counts replies that report more tokens than a call was thought to take at its
        worst: raise image_tokens.
        """
        first = {name: self._counts[name] for name in ("requests", "calls", "cached", "retries")}
        rejects = {
            name: count
            for name, count in sorted(self._counts.items())
            if count and name not in first
        }
        return {**first, **rejects, "tokens": self._tokens, "cost": round(self._cost, 6)}

    @property
    def spent(self) -> Spent:
        """What all calls of the folder took, earlier runs included."""
        return Spent(self._tokens, self._cost)

    def close(self) -> None:
        os.close(self._file)
        self._log.close()

    def __enter__(self) -> Calls:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, place: int, request: Request[Any]) -> _Open | Outcome[Any]:
        sample = request.sample
        why = refusal(sample, self.engine.endpoint, self.release)
        if why:
            return Outcome(None, "release", why)
        try:
            images = [sha256_bytes(self._images(image)) for image in sample.images]
        except BadImage as error:
            return Outcome(None, "bad_image", one_line(error))
        dialogue = [message_to_json(message) for message in sample.messages]
        return _Open(
            place,
            request,
            digest([dialogue, images, request.form.schema, self.engine.model, self.engine.digest]),
        )

    def _recalled(self, open_: _Open, sampling: Sampling) -> Outcome[Any] | None:
        """A usable reply to any of the tries, the first one before the others; a try that failed in
        its time is passed over.
        """
        for attempt in range(self.tries):
            key = _key(open_, _attempt(sampling, attempt))
            if key in self._places:
                found = self._read(open_.request, self._said(key))
                if found.reject is None:
                    self._counts["cached"] += 1
                    return found
        return None

    def _try(
        self,
        left: Sequence[_Open],
        sampling: Sampling,
        attempt: int,
        outcomes: list[Outcome[Any] | None],
    ) -> list[_Open]:
        """Ask what is not known, settle what can be, and return the rest.

        Equal requests are asked once.
        """
        keys = [_key(open_, sampling) for open_ in left]
        wanted = {
            key: open_.request.sample
            for key, open_ in zip(keys, left, strict=True)
            if key not in self._places
        }
        self._counts["cached"] += len(left) - len(wanted)
        self._counts["retries"] += len(left) if attempt else 0
        refused = self._send(wanted, sampling)
        again = []
        for key, open_ in zip(keys, left, strict=True):
            if key in refused:
                # A try that is not made leaves what the one before it lacked.
                outcomes[open_.place] = replace(
                    open_.last, reject="budget", detail="the budget does not hold another call"
                )
                continue
            if key in self._places:
                open_.last = self._read(open_.request, self._said(key))
            elif key in self._failures:
                open_.last = Outcome(None, "failed", self._failures[key])
            if open_.last.reject is None:
                outcomes[open_.place] = open_.last
            else:
                again.append(open_)
        return again

    def _read(self, request: Request[Any], said: _Said) -> Outcome[Any]:
        text = said.text
        if not text.strip():
            return Outcome(None, "empty", raw=text)
        if (
            len(text) <= REFUSAL_CHARACTERS
            and not text.lstrip().startswith(("{", "```"))
            and self._refuses(text)
        ):
            return Outcome(None, "refused", raw=text)
        if said.finish == "length":
            return Outcome(None, "cut", "the reply ends at max_tokens", text)
        try:
            return Outcome(request.form.read(_THOUGHT.sub("", text, count=1)), raw=text)
        except Unusable as bad:
            return Outcome(None, bad.reason, bad.detail, text)

    # --- what is sent
    # ------------------------------------------------------------------------------------------------

    def _send(self, wanted: Mapping[str, Sample], sampling: Sampling) -> set[str]:
        """Ask in waves that fit into the budget at their worst; returns what did not fit any more."""
        left = dict(wanted)
        while left:
            wave = self._affordable(left, sampling)
            if not wave:
                return set(left)
            for key in wave:
                del left[key]
            self._counts["calls"] += len(wave)
            silent = dict(wave)
            for replies in self._replies(
                [replace(sample, id=key) for key, sample in wave.items()], sampling
            ):
                stray = next((reply for reply in replies if reply.id not in silent), None)
                if stray:
                    raise EngineError(
                        f"{self.engine.model} answered {stray.id[:40]!r}, which it was not asked."
                    )
                self._keep(
                    [(reply, self._worst(silent.pop(reply.id), sampling)) for reply in replies]
                )
            if silent:
                nothing = "the engine gave no reply"
                self._keep(
                    [
                        (Reply(key, None, error=nothing), self._worst(sample, sampling))
                        for key, sample in silent.items()
                    ]
                )
        return set()

    def _affordable(self, left: Mapping[str, Sample], sampling: Sampling) -> dict[str, Sample]:
        if self.budget.tokens is None and self.budget.cost is None:
            return dict(left)
        tokens, cost, wave = self._tokens, self._cost, {}
        for key, sample in left.items():
            worst = self._worst(sample, sampling)
            worst = Spent(worst.tokens * (1 + self._repeats), worst.cost * (1 + self._repeats))
            fits = self.budget.tokens is None or tokens + worst.tokens <= self.budget.tokens
            if fits and (self.budget.cost is None or cost + worst.cost <= self.budget.cost):
                tokens, cost, wave[key] = tokens + worst.tokens, cost + worst.cost, sample
        return wave

    def _worst(self, sample: Sample, sampling: Sampling) -> Spent:
        prompt = DIALOGUE_TOKENS + self.budget.image_tokens * sum(
            isinstance(part, int) for message in sample.messages for part in message.parts
        )
        prompt += sum(
            TURN_TOKENS + len(message.text.encode("utf-8", "replace"))
            for message in sample.messages
        )
        return self._price(prompt, sampling.max_tokens)

    def _price(self, prompt: int, reply: int) -> Spent:
        return Spent(
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
                f"{self.engine.model} failed: {fault(error)}; replies so far are kept, run the same"
                " command again to go on."
            ) from error

    # --- what is remembered
    # ------------------------------------------------------------------------------------------

    def _keep(self, replies: Sequence[tuple[Reply, Spent]]) -> None:
        rows: list[dict[str, Any]] = []
        for reply, worst in replies:
            took = self._took(reply, worst)
            self._counts["beyond_worst"] += took.tokens > worst.tokens * (1 + reply.lost)
            if reply.text is None:
                self._failures[reply.id] = reply.error or ""
            said = {"text": reply.text, "finish": reply.finish, "error": reply.error}
            counts = {"prompt_tokens": reply.prompt_tokens, "reply_tokens": reply.reply_tokens}
            rows.append(
                {
                    "key": reply.id,
                    "model": self.engine.model,
                    **said,
                    **counts,
                    "tokens": took.tokens,
                    "cost": took.cost,
                }
            )
        self._log.append(rows)
        for row, line in zip(
            rows, _region(self._file, self._end).splitlines(keepends=True), strict=True
        ):
            self._note(row, len(line))

    def _took(self, reply: Reply, worst: Spent) -> Spent:
        """What a reply reports, at worst where it reports nothing; and a whole call for each try
        that was lost.
        """
        if reply.prompt_tokens is not None and reply.reply_tokens is not None:
            own = self._price(reply.prompt_tokens, reply.reply_tokens)
        else:
            own = Spent(0, 0.0) if reply.text is None and reply.lost else worst
        return Spent(own.tokens + reply.lost * worst.tokens, own.cost + reply.lost * worst.cost)

    def _recall(self) -> None:
        """Note every call of earlier runs; their texts stay on the disk."""
        with self._path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    self._note(json.loads(line), len(line))
                except (ValueError, TypeError, LookupError) as error:
                    raise ArtefactError(
                        f"{self._path}, line {number}: no record of a call; remove the line, and it"
                        " is made anew."
                    ) from error

    def _note(self, row: Mapping[str, Any], length: int) -> None:
        tokens, cost = row["tokens"], row["cost"]
        if row["text"] is not None:
            self._places[row["key"]] = self._end
        self._tokens += tokens
        self._cost += cost
        self._end += length

    def _said(self, key: str) -> _Said:
        row = json.loads(_line(self._file, self._places[key]))
        return _Said(row["text"], row["finish"])


def _key(open_: _Open, sampling: Sampling) -> str:
    """What identifies a try; short enough to name a request of a batch, where services allow 64
    characters.
    """
    return f"{open_.content[:40]}{_sampling_key(sampling)}"


@lru_cache(maxsize=64)
def _sampling_key(sampling: Sampling) -> str:
    return digest(
        {
            name: getattr(sampling, name)
            for name in Sampling.__dataclass_fields__
            if name != "copies"
        }
    )[:16]


def _attempt(sampling: Sampling, attempt: int) -> Sampling:
    if attempt == 0:
        return replace(sampling, copies=1)
    return replace(
        sampling,
        copies=1,
        seed=sampling.seed + attempt,
        temperature=max(sampling.temperature, TRY_TEMPERATURE),
    )


def _region(handle: int, start: int) -> bytes:
    blocks = []
    while block := os.pread(handle, 1 << 20, start):
        blocks.append(block)
        start += len(block)
    return b"".join(blocks)


def _line(handle: int, start: int) -> bytes:
    line = os.pread(handle, 4096, start)
    while b"\n" not in line:
        line += os.pread(handle, 1 << 16, start + len(line))
    return line[: line.index(b"\n")]
