"""Asks any OpenAI-compatible server (`http(s)://host/v1#name`): vLLM, SGLang, LMDeploy, llama.cpp
or a commercial one.

Images travel as PNG data URIs of the same RGB pixels that a model in this process would see, so
nothing of a file's own metadata leaves. core/data_policy.py decides whether a sample may be sent at
all. The key comes from OPENAI_API_KEY.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Container, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lingshu.core.data_policy import DataPolicy, check_data_policy
from lingshu.core.engine_options import EngineOptions
from lingshu.core.errors import EngineError, ImageError, InputError, one_line
from lingshu.core.files import digest
from lingshu.core.llm_client import ChatResponse, Endpoint, Failure, send_all
from lingshu.core.types import Engine, Image, Reply, Sample, Sampling
from lingshu.engines._chat import messages
from lingshu.imaging.read import ShardReader, decode, image_bytes, image_name, png_bytes

API_KEY_VARIABLE = "OPENAI_API_KEY"


@dataclass(frozen=True)
class OpenAIEngine:
    """A model behind an address; `extra` goes into the body of each request."""

    model: str
    digest: str
    name: str
    server: Endpoint
    data_policy: DataPolicy = field(default_factory=DataPolicy)
    extra_body: Mapping[str, object] = field(default_factory=dict)

    @property
    def endpoint(self) -> str:
        return self.server.url

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
        copy_indices = range(sampling.num_generations)
        check_data_policy(
            (s for s in samples if any((s.id, copy) not in skip for copy in copy_indices)),
            self.server.url,
            self.data_policy,
        )
        # Drawn from while requests are sent: a hundred thousand samples need not lie in memory a
        # second time.
        requests = (
            (sample, copy)
            for sample in samples
            for copy in copy_indices
            if (sample.id, copy) not in skip
        )

        # Bodies with images are made in several threads; they share one reader of shards, one at a
        # time, and decode side by side.
        shards, lock = ShardReader(), threading.Lock()

        def encode_image(image: Image) -> bytes:
            with lock:
                data = image_bytes(image, shards=shards)
            return png_bytes(decode(data, name=image_name(image)))

        def build_body(item: tuple[Sample, int]) -> Mapping[str, Any] | Failure:
            try:
                return {
                    **request(self.name, *item, sampling, encode_image=encode_image),
                    **self.extra_body,
                }
            except ImageError as error:
                return Failure("skipped", one_line(error))

        any_answered = False
        with (
            shards,
            contextlib.closing(
                send_all(
                    self.server, requests, build_body, is_slow=lambda item: bool(item[0].images)
                )
            ) as completed,
        ):
            for outcomes in completed:
                any_answered = any_answered or any(
                    isinstance(outcome, ChatResponse) for _, outcome in outcomes
                )
                permanent_error = next(
                    (
                        reason
                        for _, outcome in outcomes
                        if (reason := self._permanent_error(outcome, any_answered))
                    ),
                    None,
                )
                # Answers that came together with the end are kept.
                to_yield = [
                    result
                    for result in outcomes
                    if permanent_error is None or isinstance(result[1], ChatResponse)
                ]
                if to_yield:
                    yield [_reply(sample, copy, outcome) for (sample, copy), outcome in to_yield]
                if permanent_error is not None:
                    raise EngineError(permanent_error)

    def _permanent_error(self, outcome: ChatResponse | Failure, any_answered: bool) -> str | None:
        """Why asking on cannot help; a refusal after answers concerns one sample, unless it is the
        key's.
        """
        if isinstance(outcome, ChatResponse):
            return None
        url, reason = self.server.url, outcome.message
        if outcome.kind == "unreachable":
            return (
                f"{url} does not answer ({reason}); start the server or correct the address, then"
                " run again: answers are kept."
            )
        if outcome.status == 401 or (outcome.kind == "denied" and not any_answered):
            return f"{url} refuses the key ({reason}); set {API_KEY_VARIABLE} to a valid one."
        if outcome.kind == "missing" and not any_answered:
            return (
                f"{url} does not know the model {self.name!r} or the path ({reason}); write"
                " http(s)://host/v1#name."
            )
        return None


def _reply(sample: Sample, copy: int, outcome: ChatResponse | Failure) -> Reply:
    if isinstance(outcome, Failure):
        return Reply(
            sample.id, None, copy, error=outcome.message, failed_attempts=outcome.failed_attempts
        )
    tokens = outcome.prompt_tokens, outcome.reply_tokens
    return Reply(
        sample.id,
        outcome.text,
        copy,
        outcome.finish,
        *tokens,
        token_ids=outcome.token_ids,
        failed_attempts=outcome.failed_attempts,
    )


def load(model: str, options: EngineOptions) -> Engine:
    """The engine for `http(s)://host/v1#name`; sends nothing yet.

    Raises:
        InputError: no address with a name, or an address or key that cannot be used.
    """
    url, _, name = model.partition("#")
    # An address with a password or a query is refused below before anything repeats it.
    server = Endpoint(
        url=url.rstrip("/"),
        api_key=(options.api_key or os.environ.get(API_KEY_VARIABLE) or "").strip() or None,
        concurrency=options.concurrency,
        timeout_s=options.timeout_s,
        retries=options.retries,
    )
    if not name:
        raise InputError(f"{url} names no model; write http(s)://host/v1#name.")
    # What weights answer cannot be known from here: address and name stand for them.
    return OpenAIEngine(
        f"{server.url}#{name}", digest([server.url, name]), name, server, options.data_policy
    )


def request(
    model_name: str,
    sample: Sample,
    copy: int,
    sampling: Sampling,
    *,
    encode_image: Callable[[Image], bytes],
) -> dict[str, Any]:
    """The body of a chat completion for one copy of a sample; `encoded` gives the PNG file of an
    image.
    """
    return {
        "model": model_name,
        "messages": messages(sample, encode_image=encode_image),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed + copy,
    }
