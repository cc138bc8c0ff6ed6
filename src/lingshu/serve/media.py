"""From the messages of a request to a sample: images out of data URIs, out of an allowed folder, or
fetched where that is allowed.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

from lingshu.core.errors import InputError, LingshuError, one_line
from lingshu.core.fetch import FetchPolicy, fetch
from lingshu.core.safe_folder import SafeFolder
from lingshu.core.types import Image, Message, Meta, Role, Sample
from lingshu.imaging.provenance import ImageProvenance
from lingshu.imaging.read import MAX_BYTES
from lingshu.inference.inputs import MAX_IMAGES, ModelInput, load_inputs
from lingshu.serve.schema import (
    MAX_CHARACTERS,
    MAX_TOTAL_PARTS,
    MAX_URL_CHARS,
    ChatRequest,
    HTTPError,
    ImagePart,
)

# Signs of base64, whole groups of four.
_BLOCK_CHARS = 1 << 20
_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}


@dataclass(frozen=True)
class ImageSources:
    """Where images may come from besides the request itself; None: from nowhere."""

    root: SafeFolder | None = None
    fetch_policy: FetchPolicy | None = None


async def build_sample(
    chat_request: ChatRequest, sources: ImageSources, workers: Executor
) -> tuple[Sample, tuple[ImageProvenance, ...]]:
    """The dialogue as a sample, with what is seen of each image; files are read and decoded by
    `workers`, never in the event loop.

    Raises:
        Refused: too many images or words, or an image that cannot be used.
    """
    import asyncio

    parts = [
        (m, p, part)
        for m, message in enumerate(chat_request.messages)
        for p, part in _image_parts(message.content)
    ]
    if len(parts) > MAX_IMAGES:
        raise HTTPError(
            400,
            f"the request shows {len(parts)} images, more than {MAX_IMAGES}; show fewer.",
            param="messages",
            code="images",
        )
    n_parts = sum(
        len(message.content)
        for message in chat_request.messages
        if isinstance(message.content, list)
    )
    if n_parts > MAX_TOTAL_PARTS:
        raise HTTPError(
            400,
            f"the messages have {n_parts} parts, more than {MAX_TOTAL_PARTS}; join some.",
            param="messages",
            code="long",
        )
    n_characters = sum(_count_characters(message.content) for message in chat_request.messages)
    if n_characters > MAX_CHARACTERS:
        raise HTTPError(
            400,
            f"the messages have {n_characters} characters, more than {MAX_CHARACTERS}; shorten them.",
            param="messages",
            code="long",
        )
    inputs: dict[tuple[int, int], ModelInput] = {}
    loop = asyncio.get_running_loop()
    for m, p, part in parts:
        param = f"messages.{m}.content.{p}.image_url.url"
        try:
            url = part.image_url.url
            data = await _fetch_image(url, sources) if url[:4].lower() == "http" else None
            inputs[m, p] = await loop.run_in_executor(workers, _load_part, url, data, sources)
        except LingshuError as error:
            raise HTTPError(400, _error_message(error), param=param, code="invalid_image") from None
    return _sample(chat_request, inputs)


def _image_parts(content: object) -> list[tuple[int, ImagePart]]:
    return (
        [(p, part) for p, part in enumerate(content) if isinstance(part, ImagePart)]
        if isinstance(content, list)
        else []
    )


def _count_characters(content: object) -> int:
    if isinstance(content, str):
        return len(content)
    return (
        sum(len(getattr(part, "text", "")) for part in content) if isinstance(content, list) else 0
    )


def _error_message(error: LingshuError) -> str:
    # Errors of looking call what was handed in "file 1" or "folder 1": in a request that is the
    # image of this part.
    return one_line(error).replace("file 1", "the image").replace("folder 1", "the folder")[:300]


async def _fetch_image(url: str, sources: ImageSources) -> bytes:
    if sources.fetch_policy is None:
        raise InputError(
            "web addresses are not fetched by this server; send the image as a data URI."
        )
    if len(url) > MAX_URL_CHARS:
        raise InputError(
            f"the address has more than {MAX_URL_CHARS} characters; send the image as a data URI."
        )
    return await fetch(url, sources.fetch_policy)


def _load_part(url: str, data: bytes | None, sources: ImageSources) -> ModelInput:
    """What one part shows: one image, or the slices of a DICOM file, a volume or a folder."""
    if data is not None:
        return load_inputs([data])
    if url[:5].lower() == "data:":
        return load_inputs([decode_data_uri(url)])
    if sources.root is None:
        raise InputError(
            "images are taken as data URIs (data:image/png;base64,...) alone by this server."
        )
    path = sources.root.path(url)
    return load_inputs([path if path.is_dir() else sources.root.read(url, max_bytes=MAX_BYTES)])


def decode_data_uri(url: str) -> bytes:
    header, separator, body = url.partition(",")
    if not separator or not header.lower().endswith(";base64"):
        raise InputError("the data URI has no base64 content; write data:image/png;base64,...")
    try:
        if 0 <= body.find("=") < len(body) - 2:
            raise ValueError
        # In blocks: decoding holds Python's lock, and the answers of all others with it.
        data = b"".join(
            base64.b64decode(body[start : start + _BLOCK_CHARS], validate=True)
            for start in range(0, len(body), _BLOCK_CHARS)
        )
    except (binascii.Error, ValueError) as error:
        raise InputError("the data URI is no valid base64; encode the file anew.") from error
    if len(data) > MAX_BYTES:
        raise InputError(
            f"the image has {len(data) >> 20} MB, more than {MAX_BYTES >> 20} MB; make it smaller."
        )
    return data


def _sample(
    chat_request: ChatRequest, inputs: Mapping[tuple[int, int], ModelInput]
) -> tuple[Sample, tuple[ImageProvenance, ...]]:
    images: list[Image] = []
    image_provenance: list[ImageProvenance] = []
    turns: list[Message] = []
    risks: list[str] = []
    for m, message in enumerate(chat_request.messages):
        parts: list[str | int] = []
        for p, part in enumerate(
            [message.content] if isinstance(message.content, str) else message.content
        ):
            if (m, p) in inputs:
                model_input = inputs[m, p]
                parts += range(len(images), len(images) + len(model_input.images))
                images += model_input.images
                image_provenance += [
                    replace(entry, item=len(risks) + 1) for entry in model_input.image_provenance
                ]
                risks.append(model_input.burned_in_risk or "")
            else:
                parts.append(part if isinstance(part, str) else getattr(part, "text", ""))
        turns.append(Message(_ROLES[message.role], tuple(parts)))
    if len(images) > MAX_IMAGES:
        raise HTTPError(
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
    max_risk = next((entry for entry in ("stated", "likely", "low") if entry in risks), None)
    meta = Meta(
        access="private", deidentified=False, extra={"burned_in_risk": max_risk} if max_risk else {}
    )
    return Sample("chat", tuple(turns), tuple(images), meta=meta), tuple(image_provenance)


def stop_texts(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    """The texts that end a reply."""
    return (stop,) if isinstance(stop, str) else tuple(stop or ())
