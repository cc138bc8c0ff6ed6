"""Prompt texts in English and Chinese (prompt_texts/), for the model and for clients.

A file holds the sections `## en` and `## zh`, with `{name}` where a value is inserted as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from lingshu.mcp.results import Language

MAX_TEXT_CHARS = 20_000
_FOLDER = Path(__file__).with_name("prompt_texts")
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_NOT_GIVEN: Mapping[Language, str] = {"en": "(not given)", "zh": "（未提供）"}


def render_prompt(name: str, language: Language, **values: str) -> str:
    """A prompt with its values; braces in a value are not placeholders."""
    return _PLACEHOLDER.sub(
        lambda match: values[match[1]].strip() or _NOT_GIVEN[language], _load_text(name, language)
    )


@cache
def _load_text(name: str, language: Language) -> str:
    text = (_FOLDER / f"{name}.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (\w+)\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))[language].strip()


def choice_label(kind: str, name: str, language: Language) -> str:
    """How a prompt calls a choice, such as the analysis type "radiology"."""
    return _load_choices()[kind][name][language]


@cache
def _load_choices() -> Mapping[str, Mapping[str, Mapping[Language, str]]]:
    return json.loads((_FOLDER / "choices.json").read_text(encoding="utf-8"))
