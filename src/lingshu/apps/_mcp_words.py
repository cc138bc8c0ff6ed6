"""The words of `lingshu mcp`, in English and Chinese: prompts for its model and for its clients'
(_mcp_prompts/*.md), and names of choices.

A prompt file holds `## en` and `## zh`, and `{name}` where a value stands. A value is put in as it
is: nothing in it is taken for a place of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from lingshu.apps._mcp_results import Language

_FOLDER = Path(__file__).parent / "_mcp_prompts"
_PLACE = re.compile(r"\{([a-z_]+)\}")
_NONE: Mapping[Language, str] = {"en": "(not given)", "zh": "（未提供）"}


def prompt(name: str, language: Language, values: Mapping[str, str] | None = None) -> str:
    """A prompt with its values; an empty value is said to be not given."""
    given = values or {}

    def put(place: re.Match[str]) -> str:
        return given[place[1]].strip() or _NONE[language]

    return _PLACE.sub(put, _text(name, language))


@cache
def _text(name: str, language: Language) -> str:
    text = (_FOLDER / f"{name}.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (\w+)\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))[language].strip()


def word(kind: str, name: str, language: Language) -> str:
    """How a choice such as the analysis type "radiology" is called in a prompt."""
    return _choices()[kind][name][language]


@cache
def _choices() -> Mapping[str, Mapping[str, Mapping[Language, str]]]:
    return json.loads((_FOLDER / "choices.json").read_text(encoding="utf-8"))
