"""Samples and messages as plain JSON values and back, the form of every artifact."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from lingshu.core.errors import InputError
from lingshu.core.types import Image, Message, Meta, Sample

Json = dict[str, Any]
_PLAIN_FIELDS = tuple(name for name in Meta.__dataclass_fields__ if name != "extra")


def message_to_json(message: Message) -> Json:
    """`{"role", "content": [{"type": "text", "text"} | {"type": "image", "image": index}]}`."""
    content = [
        {"type": "text", "text": p} if isinstance(p, str) else {"type": "image", "image": p}
        for p in message.parts
    ]
    return {"role": message.role, "content": content}


def message_from_json(value: Mapping[str, Any]) -> Message:
    """Read a message; `content` may also be one plain string.

    Raises:
        InputError: an unknown role or part.
    """
    role, content = value.get("role"), value.get("content")
    if role not in ("system", "user", "assistant"):
        raise InputError(f"unknown role {role!r} in a message; use system, user or assistant.")
    if isinstance(content, str):
        return Message(role, (content,))
    if not isinstance(content, Sequence) or not all(isinstance(part, Mapping) for part in content):
        raise InputError(f"the content of a {role} message is neither a text nor a list of parts.")
    parts: list[str | int] = []
    for part in content:
        if part.get("type") == "text" and isinstance(part.get("text"), str):
            parts.append(part["text"])
        elif part.get("type") == "image" and type(part.get("image")) is int and part["image"] >= 0:
            parts.append(part["image"])
        else:
            raise InputError(
                f"unknown part in a {role} message: use {{'type': 'text', 'text': ...}} or"
                " {'type': 'image', 'image': position}."
            )
    return Message(role, tuple(parts))


def image_to_json(image: Image) -> Json:
    if image.data is not None:
        return {"data": base64.b64encode(image.data).decode()}
    if image.row is None:
        return {"path": image.path}
    return {"path": image.path, "row": image.row, "index": image.index}


def image_from_json(value: Mapping[str, Any]) -> Image:
    if "data" in value:
        return Image(data=base64.b64decode(value["data"]))
    return Image(path=value["path"], row=value.get("row"), index=value.get("index", 0))


def meta_to_json(meta: Meta) -> Json:
    """Without fields that are None or empty."""
    fields = {name: value for name in _PLAIN_FIELDS if (value := getattr(meta, name)) is not None}
    return fields | {"extra": dict(meta.extra)} if meta.extra else fields


def meta_from_json(value: Mapping[str, Any]) -> Meta:
    return Meta(**{k: v for k, v in value.items() if k in Meta.__dataclass_fields__})


def sample_to_json(sample: Sample) -> Json:
    return {
        "id": sample.id,
        "messages": [message_to_json(m) for m in sample.messages],
        "images": [image_to_json(i) for i in sample.images],
        "gold": None if sample.gold is None else list(sample.gold),
        "choices": list(sample.choices),
        "meta": meta_to_json(sample.meta),
    }


def sample_from_json(value: Mapping[str, Any]) -> Sample:
    gold = value.get("gold")
    return Sample(
        id=str(value["id"]),
        messages=tuple(message_from_json(m) for m in value["messages"]),
        images=tuple(image_from_json(i) for i in value.get("images", ())),
        gold=None if gold is None else tuple(gold),
        choices=tuple(value.get("choices", ())),
        meta=meta_from_json(value.get("meta", {})),
    )


def user_turn(text: str, n_images: int) -> Message:
    """A user turn of images 0 to `n_images` - 1, then `text`."""
    return Message("user", (*range(n_images), text))
