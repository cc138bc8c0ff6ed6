"""What identifies a patient or a doctor, found in English and Chinese text by rule: names, dates,
contacts, numbers, places.

The kinds follow the identifiers of the US HIPAA Safe Harbor list (45 CFR 164.514(b)(2)) where they
occur in running text: names are found by what precedes them (a title, `Patient name:`), never
alone. A year alone is not an identifier. The patterns are in rules.toml.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

_TERM = re.compile(r"@([A-Z_]+)@")
_CONTEXT = 60  # characters before a match that can rule it out


class IdentifierRule(NamedTuple):
    """A kind of identifier: its pattern, what rules a match out, and its range of digits."""

    kind: str
    pattern: re.Pattern[str]
    exclude: re.Pattern[str] | None
    min_digits: int
    max_digits: int


class _RuleSet(NamedTuple):
    rules: tuple[IdentifierRule, ...]
    common_words: re.Pattern[str]  # in the form of a Chinese name


@cache
def _load_rules() -> _RuleSet:
    text = Path(__file__).with_name("rules.toml").read_text(encoding="utf-8")
    content: dict[str, Any] = tomllib.loads(text)

    def expand(pattern: str | list[str]) -> str:
        return _TERM.sub(lambda match: expand(content["terms"][match[1]]), "".join(pattern))

    rules = []
    for entry in content["rules"]:
        flags = re.NOFLAG if entry.get("case_sensitive") else re.IGNORECASE
        exclude = re.compile(expand(entry["exclude"]), re.I) if "exclude" in entry else None
        pattern = re.compile(expand(entry["pattern"]), flags)
        rules.append(IdentifierRule(entry["kind"], pattern, exclude, *entry.get("digits", (0, 99))))
    return _RuleSet(tuple(rules), re.compile(expand("@COMMON_WORDS_ZH@")))


def scrub_text(text: str) -> tuple[str, Counter[str]]:
    """The text with every identifier replaced by its kind, as [NAME], and the counts by kind."""
    counts: Counter[str] = Counter()
    for rule in _load_rules().rules:
        text = _apply_rule(rule, text, counts)
    return text, counts


def _apply_rule(rule: IdentifierRule, text: str, counts: Counter[str]) -> str:
    pieces, last = [], 0
    for match in rule.pattern.finditer(text):
        group = "x" if match["x"] is not None else "y"
        value, (start, end) = match[group], match.span(group)
        if start < last or not rule.min_digits <= sum(map(str.isdigit, value)) <= rule.max_digits:
            continue
        first = max(0, match.start() - _CONTEXT)
        if rule.exclude and rule.exclude.search(text[first : match.end()]):
            continue
        if rule.kind == "name" and _load_rules().common_words.match(value):
            continue
        pieces += [text[last:start], f"[{rule.kind.upper()}]"]
        last = end
        counts[rule.kind] += 1
    return "".join([*pieces, text[last:]]) if pieces else text
