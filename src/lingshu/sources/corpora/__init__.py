"""The corpora of the Lingshu paper as cards: origin, access, cleaning and training stages.

Source: arXiv 2506.07044 v4, Tables 1 to 5. Membership and stages are the paper's; sizes, licenses
and access are what the publishers are known to state and, where a card lists them as unverified,
were not read on the publisher's page. Check them there before use; nothing here is legal advice.
docs/corpora.md is generated from cards.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from lingshu.core.errors import UnknownNameError, suggest_name
from lingshu.core.files import read_json
from lingshu.core.types import Access

CorpusGroup = Literal["caption", "instruction", "text", "imaging", "general", "rl", "synthetic"]


@dataclass(frozen=True)
class CorpusCard:
    """One corpus; None: unknown.

    `size` is what the publisher states. `get` says how to obtain it, `agreement` names what has to
    be accepted. `reader` is the source that reads its files, `columns` maps fields of core/rows.py
    to its columns. `clean` names the cleaning of the paper: image_filter, image_dedup, across
    (deduplicated against other corpora too), text_filter (10 to 1024 tokens), text_dedup,
    clean_replies. `stages` are the training stages that use it, `mix` its group in the composition
    of stage 3. `unverified` names the fields that were not read on the publisher's page.
    """

    name: str
    title: str
    group: CorpusGroup
    access: Access
    get: str
    size: str | None = None
    license: str | None = None
    agreement: str | None = None
    hub: str | None = None
    link: str | None = None
    reader: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    kind: str | None = None
    modality: str | None = None
    language: str | None = "en"
    stages: tuple[int, ...] = ()
    clean: tuple[str, ...] = ()
    mix: str | None = None
    unverified: tuple[str, ...] = ()
    note: str = ""

    @property
    def address(self) -> str | None:
        """The web page of the corpus, if known."""
        return self.link or (f"https://huggingface.co/datasets/{self.hub}" if self.hub else None)


@dataclass(frozen=True)
class Composition:
    """The composition of a stage: samples of each group, and the group of each corpus."""

    counts: Mapping[str, int]
    groups: Mapping[str, str]
    rationale: str


@cache
def _data() -> dict[str, Any]:
    return read_json(Path(__file__).with_name("cards.json"))


@cache
def cards() -> Sequence[CorpusCard]:
    """Every card, in the paper's order."""
    lists = ("stages", "clean", "unverified")
    rows = _data()["corpora"]
    return [CorpusCard(**row | {name: tuple(row.get(name, ())) for name in lists}) for row in rows]


@cache
def compositions() -> Mapping[str, Composition]:
    """The compositions of stages by name."""
    groups = {card.name: card.mix for card in cards() if card.mix}
    rows = _data()["compositions"]
    return {name: Composition(groups=groups, **row) for name, row in rows.items()}


def card(name: str) -> CorpusCard:
    """The card of one corpus.

    Raises:
        UnknownNameError: no such corpus.
    """
    by_name = {card.name: card for card in cards()}
    if name not in by_name:
        raise UnknownNameError(f"there is no corpus {name!r}; {suggest_name(name, by_name)}")
    return by_name[name]


def composition(name: str) -> Composition:
    """The composition of a stage.

    Raises:
        UnknownNameError: no such composition.
    """
    if name not in compositions():
        suggestion = suggest_name(name, compositions())
        raise UnknownNameError(f"there is no composition {name!r}; {suggestion}")
    return compositions()[name]
