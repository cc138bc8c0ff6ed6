"""From the messages of a request to a sample: images out of data URIs, out of an allowed folder, or
fetched where that is allowed.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

from lingshu.apps._looking import MAX_IMAGES, Looked, look
from lingshu.apps._serve_wire import (
    MAX_CHARACTERS,
    MAX_PARTS_IN_ALL,
    MAX_URL,
    ChatRequest,
    ImagePart,
    Refused,
)
from lingshu.core.errors import InputError, LingshuError, one_line
from lingshu.core.fetch import Fetching, fetch
from lingshu.core.nouns import Image, Message, Meta, Role, Sample
from lingshu.core.rooted import Rooted
from lingshu.imaging.read import MAX_BYTES
from lingshu.imaging.seen import Seen

# Signs of base64, whole groups of four.
_BLOCK = 1 << 20
_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


@dataclass(frozen=True)
class Sources:
    """Where images may come from besides the request itself; None: from nowhere."""

    root: Rooted | None = None
    web: Fetching | None = None


async def sample_of(
    asked: ChatRequest, sources: Sources, workers: Executor
) -> tuple[Sample, tuple[Seen, ...]]:
    """The dialogue as a sample, with what is seen of each image; files are read and decoded by
    `workers`, never in the event loop.

    Raises:
        Refused: too many images or words, or an image that cannot be used.
    """
    import asyncio

    parts = [
        (m, p, part)
        for m, message in enumerate(asked.messages)
        for p, part in _images(message.content)
    ]
    if len(parts) > MAX_IMAGES:
        raise Refused(
            400,
            f"the request shows {len(parts)} images, more than {MAX_IMAGES}; show fewer.",
            param="messages",
            code="images",
        )
    many = sum(
        len(message.content) for message in asked.messages if isinstance(message.content, list)
    )
    if many > MAX_PARTS_IN_ALL:
        raise Refused(
            400,
            f"the messages have {many} parts, more than {MAX_PARTS_IN_ALL}; join some.",
            param="messages",
            code="long",
        )
    words = sum(_words(message.content) for message in asked.messages)
    if words > MAX_CHARACTERS:
        raise Refused(
            400,
            f"the messages have {words} characters, more than {MAX_CHARACTERS}; shorten them.",
            param="messages",
            code="long",
        )
    found: dict[tuple[int, int], Looked] = {}
    loop = asyncio.get_running_loop()
    for m, p, part in parts:
        place = f"messages.{m}.content.{p}.image_url.url"
        try:
            url = part.image_url.url
            data = await _fetched(url, sources) if url[:4].lower() == "http" else None
            found[m, p] = await loop.run_in_executor(workers, _look, url, data, sources)
        except LingshuError as error:
            raise Refused(400, _told(error), param=place, code="invalid_image") from None
    return _sample(asked, found)


def _images(content: object) -> list[tuple[int, ImagePart]]:
    return (
        [(p, part) for p, part in enumerate(content) if isinstance(part, ImagePart)]
        if isinstance(content, list)
        else []
    )


def _words(content: object) -> int:
    if isinstance(content, str):
        return len(content)
    return (
        sum(len(getattr(part, "text", "")) for part in content) if isinstance(content, list) else 0
    )


def _told(error: LingshuError) -> str:
    # Errors of looking call what was handed in "file 1" or "folder 1": in a request that is the
    # image of this part.
    return one_line(error).replace("file 1", "the image").replace("folder 1", "the folder")[:300]


async def _fetched(url: str, sources: Sources) -> bytes:
    if sources.web is None:
        raise InputError(
            "web addresses are not fetched by this server; send the image as a data URI."
        )
    if len(url) > MAX_URL:
        raise InputError(
            f"the address has more than {MAX_URL} characters; send the image as a data URI."
        )
    return await fetch(url, sources.web)


def _look(url: str, data: bytes | None, sources: Sources) -> Looked:
    """What one part shows: one image, or the slices of a DICOM file, a volume or a folder."""
    if data is not None:
        return look([data])
    if url[:5].lower() == "data:":
        return look([decoded(url)])
    if sources.root is None:
        raise InputError(
            "images are taken as data URIs (data:image/png;base64,...) alone by this server."
        )
    path = sources.root.path(url)
    return look([path if path.is_dir() else sources.root.read(url, limit=MAX_BYTES)])


def decoded(url: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise InputError("the data URI has no base64 content; write data:image/png;base64,...")
    try:
        if 0 <= body.find("=") < len(body) - 2:
            raise ValueError
        # In blocks: decoding holds Python's lock, and the answers of all others with it.
        data = b"".join(
            base64.b64decode(body[start : start + _BLOCK], validate=True)
            for start in range(0, len(body), _BLOCK)
        )
    except (binascii.Error, ValueError) as error:
        raise InputError("the data URI is no valid base64; encode the file anew.") from error
    if len(data) > MAX_BYTES:
        raise InputError(
            f"the image has {len(data) >> 20} MB, more than {MAX_BYTES >> 20} MB; make it smaller."
        )
    return data


def _sample(
    asked: ChatRequest, found: Mapping[tuple[int, int], Looked]
) -> tuple[Sample, tuple[Seen, ...]]:
    images: list[Image] = []
    seen: list[Seen] = []
    turns: list[Message] = []
    risk: list[str] = []
    for m, message in enumerate(asked.messages):
        parts: list[str | int] = []
        for p, part in enumerate(
            [message.content] if isinstance(message.content, str) else message.content
        ):
            if (m, p) in found:
                shown = found[m, p]
                parts += range(len(images), len(images) + len(shown.images))
                images += shown.images
                seen += [replace(one, item=len(risk) + 1) for one in shown.seen]
                risk.append(shown.risk or "")
            else:
                parts.append(part if isinstance(part, str) else getattr(part, "text", ""))
        turns.append(Message(_ROLES[message.role], tuple(parts)))
    if len(images) > MAX_IMAGES:
        raise Refused(
            400,
            f"the request shows {len(images)} images, more than {MAX_IMAGES}; show fewer.",
            param="messages",
            code="images",
        )
    # Models know dialogues that a user begins and ends: where another does, the user has said
    # nothing.
    if turns[0].role == "assistant":
        turns.insert(0, Message("user", ("",)))
    if turns[-1].role != "user":
        turns.append(Message("user", ("",)))
    worst = next((one for one in ("stated", "likely", "low") if one in risk), None)
    meta = Meta(
        access="private", deidentified=False, extra={"burned_in_risk": worst} if worst else {}
    )
    return Sample("chat", tuple(turns), tuple(images), meta=meta), tuple(seen)


def texts(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """The texts that end a reply."""
    return (stop,) if isinstance(stop, str) else tuple(stop or ())
