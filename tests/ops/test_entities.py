"""Steps that mark medical terms: by a dictionary, and by a teacher whose terms are looked for in
the answer.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lingshu.core.entities import spans_of
from lingshu.core.errors import ConfigError, InputError
from lingshu.core.nouns import Drop, Message, Sample
from lingshu.ops import label_entities, mark_entities
from lingshu.ops._entities import starter
from tests.ops.loops import mapped
from tests.ops.loops import said as asked
from tests.ops.test_synthesis import talked, teacher


def words_of(sample: Sample) -> list[str]:
    return [span.words for span in spans_of(sample) or ()]


def test_the_starter_list_marks_english_and_chinese_answers() -> None:
    samples = [
        asked(
            "en",
            "?",
            "Chest radiographs show bilateral pleural effusions, no ground glass opacity.",
        ),
        asked("zh", "?", "左肺下叶可见磨玻璃影，双侧胸腔积液。"),
        asked("none", "?", "yes"),
    ]
    found = mapped(mark_entities.step(), samples)
    assert words_of(found.kept[0]) == [
        "radiographs",
        "bilateral",
        "pleural effusions",
        "ground glass opacity",
    ]
    assert words_of(found.kept[1]) == ["左肺", "下叶", "磨玻璃影", "双侧", "胸腔积液"]
    assert spans_of(found.kept[2]) == []
    terms = starter()
    assert len(set(terms)) == len(terms) == 573  # docs/moft.md tells the number


def test_a_file_words_and_a_sample_s_own_terms_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / "terms.txt").write_text("# mine\ncortex\n\nHER2+ (3+)\n", encoding="utf-8")
    step = mark_entities.step(
        terms=str(tmp_path / "terms.txt"), words=["rim"], facet="med_terms", built_in=False
    )
    assert step.reads == (str(tmp_path / "terms.txt"),)
    text = "A rim near the cortex, HER2+ (3+), in a strange place."
    found = mapped(
        step,
        [
            asked("a", "?", text),
            asked("b", "?", text, med_terms='["strange place"]'),
            asked("c", "?", "x", med_terms="x"),
        ],
    )
    assert words_of(found.kept[0]) == ["rim", "cortex", "HER2+ (3+)"]
    assert words_of(found.kept[1]) == ["rim", "cortex", "HER2+ (3+)", "strange place"]
    assert found.reasons == {"c": "bad_terms"}


def test_a_gold_answer_is_marked_where_training_puts_it() -> None:
    (sample,) = mapped(
        mark_entities.step(), [asked("q", "What is it?", gold=("a large cyst",))]
    ).kept
    with pytest.raises(InputError):
        spans_of(sample)  # the question alone has no such turn
    assert [span.words for span in spans_of(sample.with_answer("a large cyst")) or ()] == ["cyst"]


def test_without_terms_the_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no terms are given"):
        mark_entities.step(built_in=False)
    with pytest.raises(InputError, match="cannot be read"):
        mapped(mark_entities.step(terms=str(tmp_path / "none.txt")), [])


def test_a_teacher_s_terms_are_marked_in_the_answer_they_were_listed_for(tmp_path: Path) -> None:
    first = asked("s", "What is seen?", "CT shows a structure near the cortex.", access="open")
    more = (Message("user", ("And?",)), Message("assistant", ("The structure is a cyst. Cyst!",)))
    sample = replace(first, messages=(*first.messages, *more))
    listed = teacher(
        ("near the cortex", {"terms": ["ct", "cortex", "effusion", "ct"]}),
        ("is a cyst", {"terms": ["cyst"]}),
    )
    made, questions = talked(label_entities.step(), sample, listed, tmp_path)
    assert isinstance(made, Sample) and made.id == "s" and made.messages == sample.messages
    assert [(s.turn, s.words) for s in spans_of(made) or ()] == [
        (1, "CT"),
        (1, "cortex"),
        (3, "cyst"),
        (3, "Cyst"),
    ]
    assert made.meta.extra["entities_not_found"] == "1" and len(questions) == 2


def test_a_reply_of_another_form_and_a_sample_without_an_answer_are_dropped(tmp_path: Path) -> None:
    made, _ = talked(
        label_entities.step(),
        asked("s", "?", "A cyst.", access="open"),
        teacher(("", {"terms": "cyst"})),
        tmp_path / "a",
    )
    assert isinstance(made, Drop) and made.reason == "malformed"
    made, calls = talked(
        label_entities.step(),
        asked("s", "?", access="open"),
        teacher(("", {"terms": []})),
        tmp_path / "b",
    )
    assert isinstance(made, Drop) and made.reason == "no_reply" and not calls


def test_no_term_at_all_is_an_answer(tmp_path: Path) -> None:
    made, _ = talked(
        label_entities.step(),
        asked("s", "?", "Yes.", access="open"),
        teacher(("", {"terms": []})),
        tmp_path,
    )
    assert isinstance(made, Sample) and json.loads(made.meta.extra["entities"]) == []
