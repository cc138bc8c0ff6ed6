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

from lingshu.mcp.results import Language

_FOLDER = Path(__file__).parent / "prompt_texts"
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_NOT_GIVEN: Mapping[Language, str] = {"en": "(not given)", "zh": "（未提供）"}


def render_prompt(name: str, language: Language, values: Mapping[str, str] | None = None) -> str:
    """A prompt with its values; an empty value is said to be not given."""
    values_by_name = values or {}

    def substitute(match: re.Match[str]) -> str:
        return values_by_name[match[1]].strip() or _NOT_GIVEN[language]

    return _PLACEHOLDER.sub(substitute, _load_text(name, language))


@cache
def _load_text(name: str, language: Language) -> str:
    text = (_FOLDER / f"{name}.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (\w+)\n", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))[language].strip()


def choice_label(kind: str, name: str, language: Language) -> str:
    """How a choice such as the analysis type "radiology" is called in a prompt."""
    return _load_choices()[kind][name][language]


@cache
def _load_choices() -> Mapping[str, Mapping[str, Mapping[Language, str]]]:
    return json.loads((_FOLDER / "choices.json").read_text(encoding="utf-8"))
