"""Sends requests to any OpenAI-compatible server (`http(s)://host/v1#name`): vLLM, SGLang,
LMDeploy, llama.cpp or a commercial one.

Images are sent as PNG data URIs of the same RGB pixels that a model in this process would see,
without the metadata of their files. core/data_policy.py decides whether a sample may be sent at
all. The key comes from OPENAI_API_KEY.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Container, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lingshu.core.confidence import with_log_probs
from lingshu.core.data_policy import check_data_policy
from lingshu.core.errors import EngineError, ImageError, InputError, one_line
from lingshu.core.files import digest
from lingshu.core.llm_client import ChatResponse, Endpoint, Failure, send_all
from lingshu.core.types import DataPolicy, Engine, EngineOptions, Reply, Sample, Sampling
from lingshu.engines._requests import Request, chat_request, pending_requests, png_encoder
from lingshu.imaging.read import ShardReader

API_KEY_VARIABLE = "OPENAI_API_KEY"


@dataclass(frozen=True)
class OpenAIEngine:
    """A model behind an address; `extra_body` is added to the body of each request."""

    model: str
    digest: str
    name: str
    server: Endpoint
    data_policy: DataPolicy = field(default_factory=DataPolicy)
    extra_body: Mapping[str, object] = field(default_factory=dict)
    top_log_probs: int = 0

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
        """Replies as they arrive, those within a twentieth of a second together.

        Raises:
            DataPolicyError: a sample may not leave this machine; nothing was sent.
            EngineError: the address does not answer, or it refuses the key or the model.
        """
        generations = range(sampling.num_generations)
        due = (
            s for s in samples if any((s.id, generation) not in skip for generation in generations)
        )
        check_data_policy(due, self.server.url, self.data_policy)
        # Bodies with images are made in several threads; they share one reader of shards, one at a
        # time, and decode concurrently.
        shards = ShardReader()
        encode_image = png_encoder(shards, threading.Lock())

        def build_body(request: Request) -> Mapping[str, Any] | Failure:
            try:
                body = chat_request(
                    self.name, request, sampling, encode_image, top_log_probs=self.top_log_probs
                )
            except ImageError as error:
                return Failure("skipped", one_line(error))
            return {**body, **self.extra_body}

        # Requests are generated while they are sent: a hundred thousand samples need not be in
        # memory twice.
        sending = send_all(
            self.server,
            pending_requests(samples, sampling, skip),
            build_body,
            is_slow=lambda request: bool(request[0].images),
        )
        any_answered = False
        with shards, contextlib.closing(sending) as completed:
            for outcomes in completed:
                any_answered |= any(isinstance(outcome, ChatResponse) for _, outcome in outcomes)
                errors = (self._permanent_error(outcome, any_answered) for _, outcome in outcomes)
                permanent_error = next((error for error in errors if error), None)
                # Answers that arrived together with the error are kept.
                replies = [
                    _reply(sample, generation, outcome)
                    for (sample, generation), outcome in outcomes
                    if permanent_error is None or isinstance(outcome, ChatResponse)
                ]
                if replies:
                    yield replies
                if permanent_error is not None:
                    raise EngineError(permanent_error)

    def _permanent_error(self, outcome: ChatResponse | Failure, any_answered: bool) -> str | None:
        """Why no further request can succeed; after answers, a refusal concerns one sample."""
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


def _reply(sample: Sample, generation: int, outcome: ChatResponse | Failure) -> Reply:
    if isinstance(outcome, Failure):
        return Reply(
            sample.id,
            None,
            generation,
            error=outcome.message,
            failed_attempts=outcome.failed_attempts,
        )
    reply = Reply(
        sample.id,
        outcome.text,
        generation,
        outcome.finish,
        outcome.prompt_tokens,
        outcome.reply_tokens,
        token_ids=outcome.token_ids,
        failed_attempts=outcome.failed_attempts,
    )
    return with_log_probs(reply, outcome.log_probs)


def load(model: str, options: EngineOptions) -> Engine:
    """The engine for `http(s)://host/v1#name`; sends nothing yet.

    Raises:
        InputError: no address with a name, or an address or key that cannot be used.
    """
    url, _, name = model.partition("#")
    # Endpoint refuses an address with a password or a query before any message repeats it.
    server = Endpoint(
        url=url.rstrip("/"),
        api_key=(options.api_key or os.environ.get(API_KEY_VARIABLE) or "").strip() or None,
        concurrency=options.concurrency,
        timeout_s=options.timeout_s,
        retries=options.retries,
    )
    if not name:
        raise InputError(f"{url} names no model; write http(s)://host/v1#name.")
    # The weights behind an address are unknown: address and name identify them.
    return OpenAIEngine(
        f"{server.url}#{name}",
        digest([server.url, name]),
        name,
        server,
        options.data_policy,
        top_log_probs=options.top_log_probs,
    )
