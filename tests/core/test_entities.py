"""Terms in text: boundaries, overlaps, scripts, and the way back to the original characters; spans
that a sample carries.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from lingshu.core.entities import (
    ENTITIES,
    EntityMatcher,
    Span,
    find_spans,
    normalize_text,
    spans_of,
    with_spans,
)
from lingshu.core.errors import InputError
from lingshu.core.types import Message, Sample


def found(text: str, *terms: str, plurals: bool = False, hyphens: bool = False) -> list[str]:
    return [
        text[start:end]
        for start, end in EntityMatcher(terms, plurals=plurals, hyphens=hyphens).find(text)
    ]


@pytest.mark.parametrize(
    ("text", "terms", "expected"),
    [
        # What plain substring search marks inside other words.
        ("CT shows a structure near the cortex", ("ct", "cortex"), ["CT", "cortex"]),
        ("various massive structures", ("us", "mass", "ct"), []),
        (
            "a pleural effusion, no other effusion",
            ("effusion", "pleural effusion"),
            ["pleural effusion", "effusion"],
        ),
        ("Edema at the start, at the end edema", ("edema",), ["Edema", "edema"]),
        ("(edema). edema; edema!", ("edema",), ["edema"] * 3),
        ("HER2+ (3+) staining", ("HER2+ (3+)",), ["HER2+ (3+)"]),
        ("a.c", ("a.c", "abc"), ["a.c"]),
        ("abc", ("a.c",), []),
        ("T2W and T2", ("t2",), ["T2"]),
        (
            "左肺可见磨玻璃结节，未见胸腔积液。",
            ("结节", "磨玻璃结节", "胸腔积液"),
            ["磨玻璃结节", "胸腔积液"],
        ),
        ("CT检查示肺炎", ("ct", "肺炎"), ["CT", "肺炎"]),
        ("ＣＴ of the Straße", ("ct", "STRASSE"), ["ＣＴ", "Straße"]),
        ("Me\u0301nie\u0300re disease", ("ménière",), ["Me\u0301nie\u0300re"]),
        ("cafe\u0301", ("cafe",), []),
        ("pleural \n effusion", ("pleural effusion",), ["pleural \n effusion"]),
        ("non\u2011small cell", ("non-small cell",), ["non\u2011small cell"]),
        ("nothing", (), []),
        ("nothing", ("", "  "), []),
        ("", ("ct",), []),
    ],
)
def test_complete_terms_are_found_longest_first(
    text: str, terms: tuple[str, ...], expected: list[str]
) -> None:
    assert found(text, *terms) == expected


def test_plurals_and_hyphens_are_found_where_requested() -> None:
    assert found("nodules, metastases and biopsies", "nodule", "metastasis", "biopsy") == []
    assert found(
        "nodules, metastases and biopsies", "nodule", "metastasis", "biopsy", plurals=True
    ) == [
        "nodules",
        "metastases",
        "biopsies",
    ]
    assert found("sinuses masses bronchi", "sinus", "mass", "bronchus", plurals=True) == [
        "sinuses",
        "masses",
        "bronchi",
    ]
    assert found("x ray, x-ray, xray", "x-ray") == ["x-ray"]
    assert found("x ray, x-ray, xray", "x-ray", hyphens=True) == ["x ray", "x-ray", "xray"]


def test_folding_leads_back_to_the_characters_it_came_from() -> None:
    there = normalize_text("ﬁ ㎏\u00a0 Ä")
    assert there.text == "fi kg ä"
    assert [(s, e) for s, e in zip(there.starts, there.ends, strict=True)] == [
        (0, 1), (0, 1), (1, 2), (2, 3), (2, 3), (3, 5), (5, 6),
    ]  # fmt: skip


def dialogue(*answers: str) -> Sample:
    turns = [
        m
        for answer in answers
        for m in (Message("user", ("An edema?",)), Message("assistant", (answer,)))
    ]
    return Sample("s", tuple(turns))


def test_a_sample_carries_the_spans_of_its_answers_alone() -> None:
    sample = dialogue("No edema.", "Edema, yes")
    spans = find_spans(sample, EntityMatcher(["edema"]))
    assert spans == [Span(1, 3, 8, "edema"), Span(3, 0, 5, "Edema")]
    marked = with_spans(sample, spans)
    assert marked.meta.extra[ENTITIES] == '[[1, 3, 8, "edema"], [3, 0, 5, "Edema"]]'
    assert (
        spans_of(marked) == spans
        and spans_of(sample) is None
        and spans_of(with_spans(sample, [])) == []
    )


@pytest.mark.parametrize(
    "written",
    ["nonsense", "{}x", "[[1]]", '[[0, 0, 2, "An"]]', '[[1, 3, 8, "other"]]', '[[9, 0, 1, "a"]]'],
)
def test_spans_that_do_not_fit_the_text_are_an_error(written: str) -> None:
    sample = dialogue("No edema.")
    sample = replace(sample, meta=replace(sample.meta, extra={ENTITIES: written}))
    with pytest.raises(InputError, match="mark"):
        spans_of(sample)
