"""The cards of the paper's corpora: complete, well-formed, and what docs/corpora.md says."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import pytest

from lingshu.core.errors import UnknownNameError
from lingshu.core.registry import names
from lingshu.core.types import Access
from lingshu.sources.corpora import card, cards, composition
from tests.support.corpora_page import PAGE, TITLES, render


def test_every_corpus_of_the_paper_has_one_card() -> None:
    assert len({card.name for card in cards()}) == len(cards())
    counts = Counter(card.group for card in cards())
    assert counts == {
        "caption": 10,
        "instruction": 13,
        "text": 13,
        "imaging": 29,
        "general": 6,
        "rl": 1,
        "synthetic": 5,
    }
    assert set(counts) == set(TITLES)


@pytest.mark.parametrize("card", cards(), ids=lambda card: card.name)
def test_a_card_is_well_formed(card) -> None:
    assert (
        card.title
        and card.get
        and card.access in get_args(Access)
        and set(card.stages) <= {1, 2, 3, 4}
    )
    assert card.reader is None or card.reader in names("sources")
    assert set(card.unverified) <= set(card.__dataclass_fields__)
    assert (card.agreement is not None) == (card.access in ("form", "credentialed"))
    assert card.mix is None or 3 in card.stages


def test_the_composition_is_the_papers_7_million() -> None:
    found = composition("lingshu_stage_3")
    assert sum(found.counts.values()) == 7_073_000
    assert set(found.groups.values()) == set(found.counts)
    assert found.groups["rocov2"] == "medical_captions" and "pmc_oa" not in found.groups


def test_an_unknown_corpus_gets_the_nearest() -> None:
    assert card("slake").license == "CC-BY-4.0"
    with pytest.raises(UnknownNameError, match="mimic_cxr"):
        card("mimic_cx")


def test_the_page_contains_what_the_cards_contain() -> None:
    assert PAGE.read_text(encoding="utf-8") == render()
