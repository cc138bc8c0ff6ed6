"""From a request's messages to a sample: images from data URIs, an allowed folder, or fetched."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace

from lingshu.core.errors import InputError, LingshuError, one_line
from lingshu.core.fetch import FetchPolicy, fetch
from lingshu.core.safe_folder import SafeFolder
from lingshu.core.types import Image, Message, Meta, Role, Sample
from lingshu.imaging.dicom.metadata import highest_risk
from lingshu.imaging.provenance import ImageProvenance
from lingshu.imaging.read import MAX_BYTES
from lingshu.inference.inputs import MAX_IMAGES, ModelInput, load_inputs
from lingshu.inference.study_index import decode_data_uri
from lingshu.serve.schema import (
    MAX_CHARACTERS,
    MAX_TOTAL_PARTS,
    MAX_URL_CHARS,
    ChatRequest,
    HTTPError,
    ImagePart,
    TextPart,
)

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
    """The dialogue as a sample with image provenance; `workers` read and decode, not the loop.

    Raises:
        HTTPError: too many images or too much text, or an image that cannot be used.
    """
    parts = list(_parts(chat_request))
    n_images = sum(isinstance(part, ImagePart) for _, _, part in parts)
    if n_images > MAX_IMAGES:
        raise _too_many_images(n_images)
    n_parts = sum(not isinstance(part, str) for _, _, part in parts)
    n_characters = sum(len(_text(part)) for _, _, part in parts)
    for what, count, limit, remedy in (
        ("parts", n_parts, MAX_TOTAL_PARTS, "join some"),
        ("characters", n_characters, MAX_CHARACTERS, "shorten them"),
    ):
        if count > limit:
            message = f"the messages have {count} {what}, more than {limit}; {remedy}."
            raise HTTPError.invalid(message, "long", "messages")
    inputs: dict[tuple[int, int], ModelInput] = {}
    loop = asyncio.get_running_loop()
    for m, p, part in parts:
        if not isinstance(part, ImagePart):
            continue
        url = part.image_url.url
        try:
            data = await _fetch_image(url, sources) if url[:4].lower() == "http" else None
            inputs[m, p] = await loop.run_in_executor(workers, _load_part, url, data, sources)
        except LingshuError as error:
            param = f"messages.{m}.content.{p}.image_url.url"
            raise HTTPError.invalid(_error_message(error), "invalid_image", param) from None
    return _sample(chat_request, inputs)


def _parts(chat_request: ChatRequest) -> Iterator[tuple[int, int, str | TextPart | ImagePart]]:
    """The parts of all messages, each with the indices of its message and of itself."""
    for m, message in enumerate(chat_request.messages):
        content = message.content
        for p, part in enumerate([content] if isinstance(content, str) else content):
            yield m, p, part


def _text(part: str | TextPart | ImagePart) -> str:
    return part if isinstance(part, str) else getattr(part, "text", "")


def _too_many_images(count: int) -> HTTPError:
    message = f"the request shows {count} images, more than {MAX_IMAGES}; show fewer."
    return HTTPError.invalid(message, "images", "messages")


def _error_message(error: LingshuError) -> str:
    # Inputs call what they were given "file 1" or "folder 1": here that is the image of this part.
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
        raise InputError("this server takes images only as data URIs (data:image/png;base64,...).")
    path = sources.root.path(url)
    return load_inputs([path if path.is_dir() else sources.root.read(url, max_bytes=MAX_BYTES)])


def _sample(
    chat_request: ChatRequest, inputs: Mapping[tuple[int, int], ModelInput]
) -> tuple[Sample, tuple[ImageProvenance, ...]]:
    images: list[Image] = []
    image_provenance: list[ImageProvenance] = []
    contents: list[list[str | int]] = [[] for _ in chat_request.messages]
    for m, p, part in _parts(chat_request):
        if (m, p) not in inputs:
            contents[m].append(_text(part))
            continue
        model_input = inputs[m, p]
        contents[m] += range(len(images), len(images) + len(model_input.images))
        images += model_input.images
        item = list(inputs).index((m, p)) + 1
        image_provenance += [replace(entry, item=item) for entry in model_input.image_provenance]
    if len(images) > MAX_IMAGES:
        raise _too_many_images(len(images))
    turns = [
        Message(_ROLES[message.role], tuple(content))
        for message, content in zip(chat_request.messages, contents, strict=True)
    ]
    # Models know only dialogues that a user begins and ends: an empty turn stands for the user.
    if turns[0].role == "assistant":
        turns.insert(0, Message("user", ("",)))
    if turns[-1].role != "user":
        turns.append(Message("user", ("",)))
    risks = {entry.burned_in_risk for entry in inputs.values()}
    max_risk = highest_risk(risks)
    extra = {"burned_in_risk": max_risk} if max_risk else {}
    meta = Meta(access="private", deidentified=False, extra=extra)
    return Sample("chat", tuple(turns), tuple(images), meta=meta), tuple(image_provenance)
