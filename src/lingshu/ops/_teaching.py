"""What steps with a teacher share: prompts as data with a version and a digest, requests about a
sample, and what becomes of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from lingshu.core.errors import ConfigError
from lingshu.core.files import sha256_bytes
from lingshu.core.forms import Form, Request
from lingshu.core.messages import user_turn
from lingshu.core.nouns import Image, Message, Sample
from lingshu.ops._facts import with_notes
from lingshu.ops._quota import place

T = TypeVar("T")
# Notes of a synthetic sample: what kind it is, which sample it comes from, and another text that a
# reviewer may prefer.
SYNTHETIC, PARENT, ALTERNATIVE = "synthetic", "parent", "alternative"
_SECTION = re.compile(r"^## (.+)\n", re.MULTILINE)
_NAME = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True)
class Prompts:
    """The prompts of one step, by name; `tag` is name, version and digest on one line."""

    tag: str
    parts: dict[str, str]

    def fill(self, part: str, **values: str) -> str:
        """A prompt with {name} replaced by its value; braces around anything else stay."""

        def value(match: re.Match[str]) -> str:
            if match[1] not in values:
                raise ConfigError(
                    f"prompt {part!r} of {self.tag} asks for {match[1]!r}, which the step does not"
                    " give."
                )
            return values[match[1]]

        # In one pass: what a value holds is never filled in itself.
        return _NAME.sub(value, self.parts[part])


def prompts(name: str, path: str | None = None) -> Prompts:
    """The prompts of a step: the package's own, or those of a file with the same sections.

    Raises:
        ConfigError: the file is missing, states no version, or lacks a section.
    """
    own = (Path(__file__).parent / "_prompts" / f"{name}.md").read_bytes()
    try:
        data = own if path is None else Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"prompts {path} cannot be read ({error.strerror}); check the path."
        ) from error
    head, *pieces = _SECTION.split(data.decode("utf-8"))
    version = re.match(r"version (\S+)", head)
    parts = {
        title.strip(): text.strip() for title, text in zip(pieces[::2], pieces[1::2], strict=True)
    }
    missing = [
        title.strip()
        for title in _SECTION.findall(own.decode("utf-8"))
        if title.strip() not in parts
    ]
    if version is None or missing:
        lacks = f"the section {missing[0]!r}" if missing else "a first line `version N`"
        raise ConfigError(
            f"prompts {path} lack {lacks}; begin from src/lingshu/ops/_prompts/{name}.md."
        )
    return Prompts(f"{name} {version[1]} {sha256_bytes(data)[:12]}", parts)


def request(
    sample: Sample, text: str, form: Form[T], *, images: Sequence[Image] = ()
) -> Request[T]:
    """A request about a sample; what may be sent of it is decided by the sample's own facts."""
    return Request(
        Sample(sample.id, (user_turn(text, len(images)),), tuple(images), meta=sample.meta), form
    )


def synthetic(
    sample: Sample, kind: str, *, notes: dict[str, str] | None = None, **changes: object
) -> Sample:
    """A new sample made from `sample`, named after it and its kind."""
    made = replace(sample, id=f"{sample.id}/{kind}", **changes)
    return with_notes(made, {SYNTHETIC: kind, PARENT: sample.id, **(notes or {})})


def dialogue(question: str, answer: str, images: int) -> tuple[Message, ...]:
    """One question about all images, and its answer."""
    return (user_turn(question, images), Message("assistant", (answer,)))


def choose(options: Sequence[T], name: str, seed: int) -> T:
    """One of the options; which, the name and the seed decide."""
    return options[place(name, seed) % len(options)]


def shuffled(options: Sequence[T], name: str, seed: int) -> list[T]:
    """The options in an order that the name and the seed decide."""
    return [
        options[i] for i in sorted(range(len(options)), key=lambda i: place(f"{name}\0{i}", seed))
    ]


def fold(text: str) -> str:
    """A text for comparing: case, blanks and punctuation at its ends make no difference."""
    return " ".join(text.casefold().split()).strip(" .,;:!?\"'")
