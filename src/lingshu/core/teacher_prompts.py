"""Prompts of teacher steps as versioned data, requests about a sample, and derived samples."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from lingshu.core.cached_client import Request, ResponseFormat
from lingshu.core.errors import ConfigError
from lingshu.core.files import sha256_bytes
from lingshu.core.messages import user_turn
from lingshu.core.quotas import stable_hash
from lingshu.core.types import Image, Message, Sample, with_extra

T = TypeVar("T")
# Keys of a synthetic sample: its kind, the sample it is derived from, and another text that a
# reviewer may prefer.
SYNTHETIC, PARENT, ALTERNATIVE = "synthetic", "parent", "alternative"
_SECTION = re.compile(r"^## (.+)\n", re.MULTILINE)
_NAME = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True)
class PromptSet:
    """The prompts of one step, by name; `tag` is name, version and digest on one line."""

    tag: str
    sections: dict[str, str]

    def render(self, section: str, **values: str) -> str:
        """A prompt with {name} replaced by its value; braces around anything else stay."""

        def value(match: re.Match[str]) -> str:
            if match[1] not in values:
                raise ConfigError(
                    f"prompt {section!r} of {self.tag} has {{{match[1]}}}, which the step does not"
                    " provide."
                )
            return values[match[1]]

        # In one pass: braces in a value are not replaced.
        return _NAME.sub(value, self.sections[section])


def load_prompts(path: Path, custom_path: str | None = None) -> PromptSet:
    """The prompts of a step, from its file or from a custom one with the same sections.

    Raises:
        ConfigError: the custom file is missing, or has no version, or lacks a section.
    """
    default = path.read_bytes()
    try:
        content = default if custom_path is None else Path(custom_path).read_bytes()
    except OSError as error:
        problem = f"prompts {custom_path} cannot be read ({error.strerror})"
        raise ConfigError(f"{problem}; check the path.") from error
    preamble, *blocks = _SECTION.split(content.decode("utf-8"))
    version = re.match(r"version (\S+)", preamble)
    sections = {
        title.strip(): text.strip() for title, text in zip(blocks[::2], blocks[1::2], strict=True)
    }
    titles = [title.strip() for title in _SECTION.findall(default.decode("utf-8"))]
    missing = next((title for title in titles if title not in sections), None)
    if version is None or missing:
        problem = f"the section {missing!r}" if missing else "a first line `version N`"
        raise ConfigError(f"prompts {custom_path} lack {problem}; start from a copy of {path}.")
    return PromptSet(f"{path.stem} {version[1]} {sha256_bytes(content)[:12]}", sections)


def build_request(
    sample: Sample, text: str, response_format: ResponseFormat[T], *, images: Sequence[Image] = ()
) -> Request[T]:
    """A request about a sample, whose `meta` decides where it may be sent."""
    turn = user_turn(text, len(images))
    return Request(Sample(sample.id, (turn,), tuple(images), meta=sample.meta), response_format)


def derive_sample(
    sample: Sample, kind: str, *, extra: dict[str, str] | None = None, **changes: object
) -> Sample:
    """A new synthetic sample, with an id from `sample` and the kind."""
    derived = replace(sample, id=f"{sample.id}/{kind}", **changes)
    return with_extra(derived, {SYNTHETIC: kind, PARENT: sample.id, **(extra or {})})


def qa_messages(question: str, answer: str, n_images: int) -> tuple[Message, ...]:
    """One question about all images, and its answer."""
    return (user_turn(question, n_images), Message("assistant", (answer,)))


def seeded_choice(options: Sequence[T], key: str, seed: int) -> T:
    """One of the options, decided by key and seed."""
    return options[stable_hash(key, seed) % len(options)]


def seeded_shuffle(options: Sequence[T], key: str, seed: int) -> list[T]:
    """The options in an order decided by key and seed."""
    order = sorted(range(len(options)), key=lambda i: stable_hash(f"{key}\0{i}", seed))
    return [options[i] for i in order]


def normalize_answer(text: str) -> str:
    """A text to compare, without case, extra blanks and punctuation at its ends."""
    return " ".join(text.casefold().split()).strip(" .,;:!?\"'")
