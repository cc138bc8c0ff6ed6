"""What engines make of samples: the requests that are due, and dialogues as OpenAI-compatible
servers and vLLM take them (text, and images as PNG data URIs).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from lingshu.core.errors import ImageError, one_line
from lingshu.core.types import Image, Message, Reply, Sample, Sampling
from lingshu.imaging.read import (
    ShardReader,
    decode,
    image_bytes,
    image_name,
    open_image,
    png_bytes,
)

Request = tuple[Sample, int]  # a sample, and which of its generations
Skip = Container[tuple[str, int]]
EncodeImage = Callable[[Image], bytes]


def pending_requests(
    samples: Sequence[Sample], sampling: Sampling, skip: Skip
) -> Iterator[Request]:
    for sample in samples:
        for generation in range(sampling.num_generations):
            if (sample.id, generation) not in skip:
                yield sample, generation


def reply_in_batches(
    samples: Sequence[Sample],
    sampling: Sampling,
    skip: Skip,
    batch_size: int,
    answer: Callable[[Sample, int], Reply],
) -> Iterator[list[Reply]]:
    """Replies in the order of the samples; images are opened, as every engine must, and one that
    cannot be gives an error reply. Skipped requests do not shift the batches.
    """

    def reply(sample: Sample, generation: int) -> Reply:
        try:
            for image in sample.images:
                open_image(image, shards=shards)
        except ImageError as error:
            return Reply(sample.id, None, generation, error=one_line(error))
        return answer(sample, generation)

    requests = list(pending_requests(samples, sampling, ()))
    with ShardReader() as shards:
        for start in range(0, len(requests), batch_size):
            batch = requests[start : start + batch_size]
            if replies := [
                reply(s, generation) for s, generation in batch if (s.id, generation) not in skip
            ]:
                yield replies


def png_encoder(
    shards: ShardReader, lock: AbstractContextManager[Any] | None = None
) -> EncodeImage:
    """A function that returns the PNG file of an image; `lock` guards the shared reader."""

    def encode_image(image: Image) -> bytes:
        with lock or nullcontext():
            data = image_bytes(image, shards=shards)
        return png_bytes(decode(data, name=image_name(image)))

    return encode_image


def chat_messages(sample: Sample, encode_image: EncodeImage) -> list[dict[str, Any]]:
    """The turns of a sample; `encode_image` returns the PNG file of an image."""

    def part(value: str | int) -> dict[str, Any]:
        if isinstance(value, str):
            return {"type": "text", "text": value}
        data = base64.b64encode(encode_image(sample.images[value])).decode()
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}

    def content(message: Message) -> str | list[dict[str, Any]]:
        # Plain text where there is no image: some servers know no parts in system turns.
        if any(isinstance(p, int) for p in message.parts):
            return [part(p) for p in message.parts]
        return message.text

    return [{"role": message.role, "content": content(message)} for message in sample.messages]


def chat_request(
    model_name: str,
    request: Request,
    sampling: Sampling,
    encode_image: EncodeImage,
    *,
    top_log_probs: int = 0,
) -> dict[str, Any]:
    """The body of a chat completion, which asks for `top_log_probs` probabilities a token."""
    sample, generation = request
    log_probs = {"logprobs": True, "top_logprobs": top_log_probs} if top_log_probs else {}
    return {
        "model": model_name,
        "messages": chat_messages(sample, encode_image),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": sampling.seed + generation,
        **log_probs,
    }
