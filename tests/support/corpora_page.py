"""The text of docs/corpora.md; `python -m tests.support.corpora_page` writes the page."""

from __future__ import annotations

from pathlib import Path

from lingshu.sources import corpora

PAGE = Path(__file__).parents[2] / "docs" / "corpora.md"
TITLES = {
    "caption": "Medical captioning",
    "instruction": "Medical multimodal instruction",
    "text": "Medical text",
    "imaging": "Raw imaging with labels, for synthesis",
    "general": "General domain",
    "rl": "Reinforcement learning only",
    "synthetic": "Synthetic",
}
HEAD = """# Corpora

The corpora that the Lingshu paper names (arXiv 2506.07044 v4), as cards of this package:
`lingshu.sources.corpora.card(name)`. Which corpora there are and what they are used for is the
paper's. **Numbers and terms marked ? were not read on the publisher's own page: check them there
before use.** A curation recipe states license and access of its sources; it takes them from the
cards.

Access: `open` is a plain download, `form` needs a request or a registration, `credentialed` a
signed data-use agreement; `private` is your own. Where no terms were found it says `form ?`.
Cleaning is the paper's: F image filter (64 pixels), D image deduplication, A also across corpora, T
10 to 1024 tokens, M MinHash across text corpora, R rewriting of replies."""
MARKS = {
    "image_filter": "F",
    "image_dedup": "D",
    "across": "A",
    "text_filter": "T",
    "text_dedup": "M",
    "clean_replies": "R",
}


def render() -> str:
    parts = [HEAD]
    for group, title in TITLES.items():
        cards = [card for card in corpora.cards() if card.group == group]
        rows = [
            "| name | corpus | size | license | access | stages | cleaning | reader |",
            "|---|---|---|---|---|---|---|---|",
            *map(_row, cards),
        ]
        parts.append(f"## {title} ({len(cards)})\n\n" + "\n".join(rows))
        notes = [f"- `{card.name}`: {card.note}" for card in cards if card.note]
        parts += ["\n".join(notes)] if notes else []
    gated = [card for card in corpora.cards() if card.access in ("form", "credentialed")]
    lines = [f"- `{card.name}` (agreement `{card.agreement}`): {card.get}" for card in gated]
    parts.append("## How to get the gated corpora\n\n" + "\n".join(lines))
    for name, composition in corpora.compositions().items():
        counts = ", ".join(f"{group} {n:,}" for group, n in composition.counts.items())
        use = f"`mix` with `composition: {name}` cuts to it."
        parts.append(f"## Composition `{name}`\n\n{counts}. {composition.rationale} {use}")
    return "\n\n".join(parts) + "\n"


def _row(card: corpora.CorpusCard) -> str:
    def marked(name: str, value: str | None) -> str:
        return "not stated" if value is None else f"{value} ?" if name in card.unverified else value

    # A hub page found in others' code, but not read, is marked like the rest.
    title = f"[{card.title}]({card.address})" if card.address else card.title
    if card.address and "hub" in card.unverified:
        title += " ?"
    cells = (
        f"`{card.name}`",
        title,
        marked("size", card.size),
        marked("license", card.license),
        marked("access", card.access),
        ", ".join(map(str, card.stages)) or "-",
        " ".join(MARKS[name] for name in card.clean) or "-",
        card.reader or "-",
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
