"""`lingshu list`: what is on the shelves, read from the files' first lines without importing them."""

from __future__ import annotations

import json as jsonlib

from lingshu.core import shelves
from lingshu.core.errors import UnknownName, nearest


def listing(kind: str | None = None, /, *, json: bool = False) -> int:
    """List the names on a shelf, each with its first line; without KIND, the shelves themselves.

    Args:
        kind: tasks, scoring, engines, sources, recipes, ops or merges; or corpora, the cards of the
            paper's data.
        json: print a JSON object instead of lines.
    """
    found = _shelves() if kind is None else _corpora() if kind == "corpora" else _things(kind)
    if json:
        print(jsonlib.dumps(found, indent=2, ensure_ascii=False))
        return 0
    if not found:
        print(f"The shelf {kind} is empty.")
    width = max(map(len, found), default=0)
    for name, line in found.items():
        print(f"{name:<{width}}  {line}")
    return 0


def _shelves() -> dict[str, str]:
    return {name: f"{len(shelves.names(name))} on this shelf" for name in shelves.SHELVES}


def _things(kind: str) -> dict[str, str]:
    if kind not in shelves.SHELVES:
        raise UnknownName(f"there is no shelf {kind!r}; {nearest(kind, shelves.SHELVES)}")
    return {name: shelves.describe(kind, name) for name in shelves.names(kind)}


def _corpora() -> dict[str, str]:
    from lingshu.sources._corpora import corpora

    return {card.name: f"{card.title}; {card.access}" for card in corpora()}
