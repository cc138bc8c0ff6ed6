"""Asks any OpenAI-compatible server (`http(s)://host/v1#name`): vLLM, SGLang, LMDeploy, llama.cpp
or a commercial one.

Images travel as PNG data URIs of the same RGB pixels that a model in this process would see, so
nothing of a file's own metadata leaves. core/release.py decides whether a sample may be sent at
all. The key comes from OPENAI_API_KEY.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Container, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lingshu.core.errors import BadImage, EngineError, InputError, one_line
from lingshu.core.files import digest
from lingshu.core.http import Answer, Endpoint, Failure, ask_all
from lingshu.core.nouns import Engine, Image, Reply, Sample, Sampling
from lingshu.core.options import EngineOptions
from lingshu.core.release import Release, check_release
from lingshu.engines._chat import messages
from lingshu.imaging.read import ShardReader, decode, image_bytes, image_name, png_bytes

KEY_VARIABLE = "OPENAI_API_KEY"


@dataclass(frozen=True)
class OpenAI:
    """A model behind an address; `extra` goes into the body of each request."""

    model: str
    digest: str
    name: str
    wire: Endpoint
    release: Release = field(default_factory=Release)
    extra: Mapping[str, object] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        return self.wire.url

    def generate(
        self,
        samples: Sequence[Sample],
        sampling: Sampling,
        *,
        skip: Container[tuple[str, int]] = (),
    ) -> Generator[list[Reply], None, None]:
        """Replies as they arrive, those of a twentieth of a second together.

        Raises:
            ReleaseError: a sample may not leave this machine; nothing was sent.
            EngineError: nobody answers at the address, or it refuses the key or the model.
        """
        copies = range(sampling.copies)
        check_release(
            (s for s in samples if any((s.id, copy) not in skip for copy in copies)),
            self.wire.url,
            self.release,
        )
        # Drawn from while requests are sent: a hundred thousand samples need not lie in memory a
        # second time.
        asked = (
            (sample, copy) for sample in samples for copy in copies if (sample.id, copy) not in skip
        )

        # Bodies with images are made in several threads; they share one reader of shards, one at a
        # time, and decode side by side.
        shards, turn = ShardReader(), threading.Lock()

        def encoded(image: Image) -> bytes:
            with turn:
                data = image_bytes(image, shards=shards)
            return png_bytes(decode(data, name=image_name(image)))

        def body(item: tuple[Sample, int]) -> Mapping[str, Any] | Failure:
            try:
                return {**request(self.name, *item, sampling, encoded=encoded), **self.extra}
            except BadImage as error:
                return Failure("skipped", one_line(error))

        answered = False
        with (
            shards,
            contextlib.closing(
                ask_all(self.wire, asked, body, slow=lambda item: bool(item[0].images))
            ) as arrived,
        ):
            for outcomes in arrived:
                answered = answered or any(isinstance(outcome, Answer) for _, outcome in outcomes)
                hopeless = next(
                    (why for _, outcome in outcomes if (why := self._hopeless(outcome, answered))),
                    None,
                )
                # Answers that came together with the end are kept.
                kept = [
                    each for each in outcomes if hopeless is None or isinstance(each[1], Answer)
                ]
                if kept:
                    yield [_reply(sample, copy, outcome) for (sample, copy), outcome in kept]
                if hopeless is not None:
                    raise EngineError(hopeless)

    def _hopeless(self, outcome: Answer | Failure, answered: bool) -> str | None:
        """Why asking on cannot help; a refusal after answers concerns one sample, unless it is the
        key's.
        """
        if isinstance(outcome, Answer):
            return None
        where, why = self.wire.url, outcome.message
        if outcome.kind == "unreachable":
            return (
                f"{where} does not answer ({why}); start the server or correct the address, then"
                " run again: answers are kept."
            )
        if outcome.status == 401 or (outcome.kind == "denied" and not answered):
            return f"{where} refuses the key ({why}); set {KEY_VARIABLE} to a valid one."
        if outcome.kind == "missing" and not answered:
            return (
                f"{where} does not know the model {self.name!r} or the path ({why}); write"
                " http(s)://host/v1#name."
            )
        return None


def _reply(sample: Sample, copy: int, outcome: Answer | Failure) -> Reply:
    if isinstance(outcome, Failure):
        return Reply(sample.id, None, copy, error=outcome.message, lost=outcome.lost)
    tokens = outcome.prompt_tokens, outcome.reply_tokens
    return Reply(
        sample.id,
        outcome.text,
        copy,
        outcome.finish,
        *tokens,
        token_ids=outcome.token_ids,
        lost=outcome.lost,
    )


def load(model: str, options: EngineOptions) -> Engine:
    """The engine for `http(s)://host/v1#name`; sends nothing yet.

    Raises:
        InputError: no address with a name, or an address or key that cannot be used.
    """
    url, _, name = model.partition("#")
    # An address with a password or a query is refused below before anything repeats it.
    wire = Endpoint(
        url=url.rstrip("/"),
        api_key=(options.api_key or os.environ.get(KEY_VARIABLE) or "").strip() or None,
        concurrency=options.concurrency,
        timeout_s=options.timeout_s,
        retries=options.retries,
    )
    if not name:
        raise InputError(f"{url} names no model; write http(s)://host/v1#name.")
    # What weights answer cannot be known from here: address and name stand for them.
    return OpenAI(f"{wire.url}#{name}", digest([wire.url, name]), name, wire, options.release)


def request(
    name: str, sample: Sample, copy: int, sampling: Sampling, *, encoded: Callable[[Image], bytes]
) -> dict[str, Any]:
    """The body of a chat completion for one copy of a sample; `encoded` gives the PNG file of an
    image.
    """
    return {
        "model": name,
        "messages": messages(sample, encoded=encoded),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed + copy,
    }
