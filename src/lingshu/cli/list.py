"""`lingshu list`: what is on the registry, read from the files' first lines without importing them."""

from __future__ import annotations

import json as jsonlib

from lingshu.core import registry
from lingshu.core.errors import UnknownNameError, suggest_name


def list_registry(kind: str | None = None, /, *, json: bool = False) -> int:
    """List the names on a shelf, each with its first line; without KIND, the shelves themselves.

    Args:
        kind: tasks, scoring, engines, sources, recipes, ops or merges; or corpora, the cards of the
            paper's data.
        json: print a JSON object instead of lines.
    """
    entries = (
        _registry_sizes()
        if kind is None
        else _corpora()
        if kind == "corpora"
        else _registry_entries(kind)
    )
    if json:
        print(jsonlib.dumps(entries, indent=2, ensure_ascii=False))
        return 0
    if not entries:
        print(f"The shelf {kind} is empty.")
    width = max(map(len, entries), default=0)
    for name, line in entries.items():
        print(f"{name:<{width}}  {line}")
    return 0


def _registry_sizes() -> dict[str, str]:
    return {name: f"{len(registry.names(name))} on this shelf" for name in registry.GROUPS}


def _registry_entries(kind: str) -> dict[str, str]:
    if kind not in registry.GROUPS:
        raise UnknownNameError(f"there is no shelf {kind!r}; {suggest_name(kind, registry.GROUPS)}")
    return {name: registry.describe(kind, name) for name in registry.names(kind)}


def _corpora() -> dict[str, str]:
    from lingshu.sources._corpus_cards import corpora

    return {card.name: f"{card.title}; {card.access}" for card in corpora()}
