"""`lingshu list`: names in the registry, with the first lines of their files, which are not imported."""

from __future__ import annotations

import json as jsonlib

from lingshu.core import registry
from lingshu.core.errors import UnknownNameError, suggest_name


def list_registry(group: str | None = None, /, *, json: bool = False) -> int:
    """List the names of a group of the registry, or the groups.

    Args:
        group: tasks, scoring, metrics, engines, sources, corpora (the cards of the paper's data),
            recipes, ops, merges, families, detectors or trackers.
        json: Print a JSON object.
    """
    if group is None:
        entries = {name: f"{len(_entries(name))} names" for name in registry.GROUPS}
    elif group in registry.GROUPS:
        entries = _entries(group)
    else:
        hint = suggest_name(group, registry.GROUPS)
        raise UnknownNameError(f"there is no group {group!r}; {hint}")
    if json:
        print(jsonlib.dumps(entries, indent=2, ensure_ascii=False))
        return 0
    if not entries:
        print(f"The group {group} is empty.")
    width = max(map(len, entries), default=0)
    for name, line in entries.items():
        print(f"{name:<{width}}  {line}")
    return 0


def _entries(group: str) -> dict[str, str]:
    if group == "corpora":
        from lingshu.sources.corpora import cards

        return {card.name: f"{card.title}; {card.access}" for card in cards()}
    return {name: registry.describe(group, name) for name in registry.names(group)}
