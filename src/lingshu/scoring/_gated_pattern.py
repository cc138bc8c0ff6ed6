"""Slow patterns behind a quick test: substrings of which every match contains one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from re import _parser  # type: ignore[attr-defined] - the parse tree of a pattern
from typing import Any


class GatedPattern:
    """A pattern that is only tried on a text that can match.

    The substrings are derived from the pattern itself, so that skipping it never changes what is
    found.
    """

    def __init__(self, pattern: str, flags: re.RegexFlag = re.NOFLAG) -> None:
        self.pattern = re.compile(pattern, flags)
        self.substrings = required_substrings(self.pattern)

    def may_match(self, lowercase: str) -> bool:
        """False where a text with this `fold_case` certainly has no match."""
        return any(map(lowercase.__contains__, self.substrings))

    def finditer(self, text: str, lowercase: str) -> list[re.Match[str]]:
        """The matches in a text; `lowercase` is its `fold_case`, made once for all patterns."""
        return list(self.pattern.finditer(text)) if self.may_match(lowercase) else []

    def sub(
        self, replacement: str | Callable[[re.Match[str]], str], text: str, lowercase: str
    ) -> str:
        """As re.sub."""
        return self.pattern.sub(replacement, text) if self.may_match(lowercase) else text


def required_substrings(pattern: re.Pattern[str]) -> tuple[str, ...]:
    """Substrings in lower case of which every match of a pattern contains at least one.

    A search for them in `fold_case(text)` spares most replies the slow pattern. They are derived
    from the pattern, so that skipping it never changes what is found.
    """
    # The empty text occurs in every reply.
    found = _required(_parser.parse(pattern.pattern, pattern.flags)) or {""}
    shortest = (s for s in found if not any(other in s for other in found if other != s))
    return tuple(sorted(shortest, key=lambda s: (not s.isascii(), len(s), s)))


_END: tuple[Any, Any] = (None, None)


def _required(items: Iterable[tuple[Any, Any]]) -> frozenset[str]:
    """The most selective such set for a parsed sequence: that of any one of its items will do."""
    candidates: list[frozenset[str]] = []
    literal = ""
    for operator, argument in (*items, _END):
        if operator is _parser.IN and all(kind is _parser.LITERAL for kind, _ in argument):
            letters = frozenset(chr(code).casefold() for _, code in argument)
        else:
            letters = frozenset((chr(argument).casefold(),) if operator is _parser.LITERAL else ())
        if len(letters) == 1:
            literal += min(letters)
            continue
        candidates += [frozenset((literal,)), letters]
        literal = ""
        if operator is _parser.SUBPATTERN:
            candidates.append(_required(argument[-1]))
        elif operator is _parser.BRANCH:
            branches = [_required(branch) for branch in argument[1]]
            candidates.append(frozenset().union(*branches) if all(branches) else frozenset())
        elif operator in (_parser.MAX_REPEAT, _parser.MIN_REPEAT) and argument[0] > 0:
            candidates.append(_required(argument[2]))
    usable = [candidate for candidate in candidates if candidate and "" not in candidate]
    return max(usable, key=_selectivity, default=frozenset())


def _selectivity(substrings: frozenset[str]) -> tuple[int, int]:
    lengths = (len(s) if s.isalnum() or len(s) > 1 or not s.isascii() else 0 for s in substrings)
    return min(lengths), -len(substrings)


def fold_case(text: str) -> str:
    """A text in lower case, as the substrings below are written."""
    # To a pattern that ignores case the dotless letter is an i; to casefold it is not.
    return text.casefold().replace("ı", "i")
