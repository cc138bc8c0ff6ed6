"""The corpora of the Lingshu paper as cards: where each comes from, who may have it, how it is
cleaned, which stage it serves.

Source: arXiv 2506.07044 v4, Tables 1 to 5. Membership and stages are the paper's; sizes, licences
and access classes are what the publishers are known to state and, where a card lists them as
unverified, were not read on the publisher's page. Check them there before use; nothing here is
legal advice. docs/corpora.md is written from these cards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

from lingshu.core.errors import UnknownNameError, suggest_name
from lingshu.core.files import read_json
from lingshu.core.types import Access

CARDS_FILE = Path(__file__).with_name("_corpora.json")
CorpusGroup = Literal["caption", "instruction", "text", "imaging", "general", "rl", "synthetic"]
TITLES: Mapping[CorpusGroup, str] = {
    "caption": "Medical captioning",
    "instruction": "Medical multimodal instruction",
    "text": "Medical text",
    "imaging": "Raw imaging with labels, for synthesis",
    "general": "General domain",
    "rl": "Reinforcement learning only",
    "synthetic": "Synthetic",
}


@dataclass(frozen=True)
class CorpusCard:
    """One corpus.

    `size` is the publisher's, as it is told. `get` says how to come by it, `agreement` names what
    has to be accepted. `reader` is the reader of the `sources` shelf that fits its files, `columns`
    maps fields of core/rows.py to its columns. `clean` names the cleaning that the paper gives it:
    image_filter, image_dedup, across (deduplicated against other corpora too), text_filter (10 to
    1024 tokens), text_dedup, clean_replies. `stages` are the training stages that it serves, `mix`
    its group in the composition of stage 3. `unverified` names the fields that no page of the
    publisher was read for. None: not known.
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
        """The page of the corpus, where one is known."""
        return self.link or (f"https://huggingface.co/datasets/{self.hub}" if self.hub else None)


@dataclass(frozen=True)
class Composition:
    """The composition of a stage: samples of each group, and which group each corpus belongs to."""

    counts: Mapping[str, int]
    groups: Mapping[str, str]
    rationale: str


@cache
def _load_cards() -> tuple[tuple[CorpusCard, ...], Mapping[str, Composition]]:
    value = read_json(CARDS_FILE)
    lists = ("stages", "clean", "unverified")
    cards = tuple(
        CorpusCard(**{**row, **{name: tuple(row.get(name, ())) for name in lists}})
        for row in value["corpora"]
    )
    groups = {card.name: card.mix for card in cards if card.mix}
    return cards, {
        name: Composition(found["counts"], groups, found["rationale"])
        for name, found in value["compositions"].items()
    }


def corpora() -> Sequence[CorpusCard]:
    """Every card, in the paper's order."""
    return _load_cards()[0]


def corpus(name: str) -> CorpusCard:
    """The card of one corpus.

    Raises:
        UnknownName: no such corpus; suggests the nearest.
    """
    found = {card.name: card for card in corpora()}
    if name not in found:
        raise UnknownNameError(f"there is no corpus {name!r}; {suggest_name(name, found)}")
    return found[name]


def composition(name: str) -> Composition:
    """The composition of a stage by its name.

    Raises:
        UnknownName: no such composition; suggests the nearest.
    """
    found = _load_cards()[1]
    if name not in found:
        raise UnknownNameError(f"there is no composition {name!r}; {suggest_name(name, found)}")
    return found[name]


def render_page() -> str:
    """The text of docs/corpora.md."""
    parts = [_HEAD]
    for group, title in TITLES.items():
        cards = [card for card in corpora() if card.group == group]
        rows = [
            "| name | corpus | size | licence | access | stages | cleaning | reader |",
            "|---|---|---|---|---|---|---|---|",
            *map(_row, cards),
        ]
        parts.append(f"## {title} ({len(cards)})\n\n" + "\n".join(rows))
        notes = [f"- `{card.name}`: {card.note}" for card in cards if card.note]
        parts += ["\n".join(notes)] if notes else []
    gated = [card for card in corpora() if card.access in ("form", "credentialed")]
    parts.append(
        "## What is gated, and how to get it\n\n"
        + "\n".join(f"- `{c.name}` (agreement `{c.agreement}`): {c.get}" for c in gated)
    )
    for name, found in _load_cards()[1].items():
        counts = ", ".join(f"{group} {n:,}" for group, n in found.counts.items())
        parts.append(
            f"## Composition `{name}`\n\n{counts}. {found.rationale} `mix` with `composition: {name}`"
            " cuts to it."
        )
    return "\n\n".join(parts) + "\n"


_HEAD = """# Corpora

The corpora that the Lingshu paper names (arXiv 2506.07044 v4), as cards of this package: `lingshu.sources._corpus_cards.corpus(name)`.
Which corpora there are and what they serve is the paper's. **Numbers and terms marked ? were not read on the publisher's own page:
check them there before use.** A curation recipe states licence and access of its sources; the cards are where it takes them from.

Access: `open` is a plain download, `form` needs a request or a registration, `credentialed` a signed data-use agreement;
`private` is your own. Where no terms were found it says `form ?`. Cleaning is the paper's: F image filter (64 pixels), D image
deduplication, A also across corpora, T 10 to 1024 tokens, M MinHash across text corpora, R rewriting of replies."""
_MARKS = {
    "image_filter": "F",
    "image_dedup": "D",
    "across": "A",
    "text_filter": "T",
    "text_dedup": "M",
    "clean_replies": "R",
}


def _row(card: CorpusCard) -> str:
    def with_mark(name: str, value: str | None) -> str:
        return "not stated" if value is None else f"{value} ?" if name in card.unverified else value

    # A hub's page that was found in others' code, but not read, is marked like the rest.
    title = (
        f"[{card.title}]({card.address}){' ?' if 'hub' in card.unverified else ''}"
        if card.address
        else card.title
    )
    clean = " ".join(_MARKS[name] for name in card.clean)
    stages = ", ".join(map(str, card.stages)) or "-"
    cells = [
        f"`{card.name}`",
        title,
        with_mark("size", card.size),
        with_mark("license", card.license),
        with_mark("access", card.access),
        stages,
        clean or "-",
        card.reader or "-",
    ]
    return "| " + " | ".join(cells) + " |"
