"""What an engine is asked for material, and the form that its reply must have: plain text, or one
JSON object of a stated type.
"""

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
    """A reply that does not have the form that was asked for; `reason` is a short constant that can
    be counted.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class ResponseFormat(Generic[T_co]):
    """What a usable reply is: `read` makes a value of its text or raises Unusable; `schema`
    identifies the form.
    """

    parse: Callable[[str], T_co]
    schema: str


TEXT_FORMAT: ResponseFormat[str] = ResponseFormat(str.strip, "text")


def json_format(kind: type[T]) -> ResponseFormat[T]:
    """A reply that is one JSON object of this dataclass or pydantic model, alone or in a fence;
    types are not coerced.
    """
    import pydantic

    adapter = pydantic.TypeAdapter(kind)

    def parse(text: str) -> T:
        # An object that stands alone may hold a fence in one of its texts.
        fenced = None if text.lstrip().startswith("{") else _FENCED.search(text)
        try:
            return adapter.validate_json(fenced[1] if fenced else text.strip(), strict=True)
        except pydantic.ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            # The place and the fault; what was said stands in the reply itself.
            location = ".".join(map(str, first["loc"]))
            raise InvalidResponse(
                "malformed", f"{location}: {first['type']}" if location else first["type"]
            ) from None

    return ResponseFormat(parse, digest(adapter.json_schema()))


@dataclass(frozen=True)
class Request(Generic[T_co]):
    """One thing to ask: a sample that ends in a user turn, and the form of a usable reply."""

    sample: Sample
    response_format: ResponseFormat[T_co]


def one_response(request: Request[T]) -> Generator[Sequence[Request[Any]], Sequence[Any], T]:
    """The value of one request, in a talk: `caption = yield from one(request)`."""
    (value,) = yield [request]
    return value
