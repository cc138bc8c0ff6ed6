"""Asks any OpenAI-compatible server (`http(s)://host/v1#name`): vLLM, SGLang, LMDeploy, llama.cpp or a commercial one.

Images travel as PNG data URIs of the same RGB pixels that a model in this process would see, so nothing of a file's
own metadata leaves. core/release.py decides whether a sample may be sent at all. The key comes from OPENAI_API_KEY.
"""

from __future__ import annotations

import base64
import contextlib
import os
import threading
from collections.abc import Callable, Container, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lingshu.core.errors import BadImage, EngineError, InputError, one_line
from lingshu.core.files import digest
from lingshu.core.http import Answer, Endpoint, Failure, ask_all
from lingshu.core.nouns import Engine, Image, Message, Reply, Sample, Sampling
from lingshu.core.options import EngineOptions
from lingshu.core.release import Release, check_release
from lingshu.imaging.read import ShardReader, decode, image_bytes, image_name, png_bytes

KEY_VARIABLE = "OPENAI_API_KEY"


@dataclass(frozen=True)
class OpenAI:
    """A model behind an address."""

    model: str
    digest: str
    name: str
    wire: Endpoint
    release: Release = field(default_factory=Release)

    @property
    def endpoint(self) -> str:
        return self.wire.url

    def generate(
        self, samples: Sequence[Sample], sampling: Sampling, *, skip: Container[tuple[str, int]] = ()
    ) -> Generator[list[Reply], None, None]:
        """Replies as they arrive, each in a list of its own.

        Raises:
            ReleaseError: a sample may not leave this machine; nothing was sent.
            EngineError: nobody answers at the address, or it refuses the key or the model.
        """
        asked = [(sample, copy) for sample in samples for copy in range(sampling.copies) if (sample.id, copy) not in skip]
        check_release((sample for sample, _ in asked), self.wire.url, self.release)

        # Bodies are made in several threads; they share one reader of shards, one at a time, and decode side by side.
        shards, turn = ShardReader(), threading.Lock()

        def encoded(image: Image) -> bytes:
            with turn:
                data = image_bytes(image, shards=shards)
            return png_bytes(decode(data, name=image_name(image)))

        def body(item: tuple[Sample, int]) -> Mapping[str, Any] | Failure:
            try:
                return request(self.name, *item, sampling, encoded=encoded)
            except BadImage as error:
                return Failure("skipped", one_line(error))

        answered = False
        with shards, contextlib.closing(ask_all(self.wire, asked, body)) as outcomes:
            for (sample, copy), outcome in outcomes:
                if isinstance(outcome, Answer):
                    answered = True
                    yield [Reply(sample.id, outcome.text, copy, outcome.finish, outcome.prompt_tokens, outcome.reply_tokens)]
                else:
                    self._give_up(outcome, answered)
                    yield [Reply(sample.id, None, copy, error=outcome.message)]

    def _give_up(self, failure: Failure, answered: bool) -> None:
        """Stop where asking on cannot help; a refusal after answers concerns one sample, unless it is the key's."""
        where, why = self.wire.url, failure.message
        if failure.kind == "unreachable":
            raise EngineError(
                f"{where} does not answer ({why}); start the server or correct the address, then run again: answers are kept."
            )
        if failure.status == 401 or (failure.kind == "denied" and not answered):
            raise EngineError(f"{where} refuses the key ({why}); set {KEY_VARIABLE} to a valid one.")
        if failure.kind == "missing" and not answered:
            raise EngineError(f"{where} does not know the model {self.name!r} or the path ({why}); write http(s)://host/v1#name.")


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


def request(name: str, sample: Sample, copy: int, sampling: Sampling, *, encoded: Callable[[Image], bytes]) -> dict[str, Any]:
    """The body of a chat completion for one copy of a sample; `encoded` gives the PNG file of an image."""

    def part(value: str | int) -> dict[str, Any]:
        if isinstance(value, str):
            return {"type": "text", "text": value}
        data = base64.b64encode(encoded(sample.images[value])).decode()
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}

    def content(message: Message) -> str | list[dict[str, Any]]:
        # Plain text where there is no image: some servers know no parts in system turns.
        return [part(p) for p in message.parts] if any(isinstance(p, int) for p in message.parts) else message.text

    return {
        "model": name,
        "messages": [{"role": message.role, "content": content(message)} for message in sample.messages],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed + copy,
    }
