"""Requests to a teacher or judge and the format of a valid response: text, or one JSON object."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from lingshu.core.files import digest
from lingshu.core.types import Sample

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_FENCED = re.compile(r"```(?:json)?\s*(\{.*\})\s*```", re.DOTALL)


class InvalidResponse(Exception):
    """A reply in another format than requested; `reason` is a constant that can be counted."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class ResponseFormat(Generic[T_co]):
    """`parse` returns the value of a reply or raises InvalidResponse; `schema` identifies the format."""

    parse: Callable[[str], T_co]
    schema: str


TEXT_FORMAT: ResponseFormat[str] = ResponseFormat(str.strip, "text")


def json_format(kind: type[T]) -> ResponseFormat[T]:
    """One JSON object of this dataclass or pydantic model, alone or in a fence, without coercion."""
    import pydantic

    adapter = pydantic.TypeAdapter(kind)

    def parse(text: str) -> T:
        # An object alone may have a fence in one of its texts.
        fenced = None if text.lstrip().startswith("{") else _FENCED.search(text)
        try:
            return adapter.validate_json(fenced[1] if fenced else text.strip(), strict=True)
        except pydantic.ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            location = ".".join(map(str, first["loc"]))
            detail = f"{location}: {first['type']}" if location else first["type"]
            raise InvalidResponse("malformed", detail) from None

    return ResponseFormat(parse, digest(adapter.json_schema()))


@dataclass(frozen=True)
class Request(Generic[T_co]):
    """A sample that ends in a user turn, and the format of a valid reply."""

    sample: Sample
    response_format: ResponseFormat[T_co]


def one_response(request: Request[T]) -> Generator[Sequence[Request[Any]], Sequence[Any], T]:
    """The value of one request in a dialogue: `caption = yield from one_response(request)`."""
    (value,) = yield [request]
    return value
