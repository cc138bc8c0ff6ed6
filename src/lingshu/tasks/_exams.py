"""Rows of exam questions as most text benchmarks publish them: question, options {letter: text},
answer_idx.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lingshu.core.rows import RowError


def convert_row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keys question, options (a mapping from letters, or opa ... ope), answer_idx or answer.

    A table holds a key for every letter that any row has; the empty ones are no options.
    """
    options = raw.get("options")
    if not options:
        options = {name: raw.get(f"op{name.lower()}") for name in "ABCDE"}
    gold = raw.get("answer_idx") or raw.get("answer")
    if not gold:
        raise RowError("hidden_label", "the row has no answer.")
    if raw["question"] is None:
        raise RowError("no_question", "the row has no question.")
    return {
        "question": str(raw["question"]).strip(),
        "choices": non_empty_options(options),
        "gold": gold,
        "id": raw.get("id"),
    }


def non_empty_options(options: Mapping[str, Any]) -> Mapping[str, str]:
    """The options that have a text."""
    return {
        name: str(text)
        for name, text in options.items()
        if text is not None and str(text).strip() not in ("", "nan")
    }
