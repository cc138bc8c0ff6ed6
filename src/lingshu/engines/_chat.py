"""A dialogue in the form that OpenAI-compatible servers and vLLM take: texts, and images as PNG
data URIs.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from lingshu.core.types import Image, Message, Sample


def messages(sample: Sample, *, encode_image: Callable[[Image], bytes]) -> list[dict[str, Any]]:
    """The turns of a sample; `encoded` gives the PNG file of an image."""

    def part(value: str | int) -> dict[str, Any]:
        if isinstance(value, str):
            return {"type": "text", "text": value}
        data = base64.b64encode(encode_image(sample.images[value])).decode()
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}

    def content(message: Message) -> str | list[dict[str, Any]]:
        # Plain text where there is no image: some servers know no parts in system turns.
        return (
            [part(p) for p in message.parts]
            if any(isinstance(p, int) for p in message.parts)
            else message.text
        )

    return [{"role": message.role, "content": content(message)} for message in sample.messages]
