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
from lingshu.core.types import Drop, Message, Sample
from lingshu.ops import label_entities, mark_entities
from lingshu.ops.mark_entities import starter_terms
from tests.ops.test_synthesis import run_dialogue, teacher
from tests.support.step_runners import qa_sample as qa_sample
from tests.support.step_runners import run_map_step


def words_of(sample: Sample) -> list[str]:
    return [span.text for span in spans_of(sample) or ()]


def test_the_starter_list_marks_english_and_chinese_answers() -> None:
    samples = [
        qa_sample(
            "en",
            "?",
            "Chest radiographs show bilateral pleural effusions, no ground glass opacity.",
        ),
        qa_sample("zh", "?", "左肺下叶可见磨玻璃影，双侧胸腔积液。"),
        qa_sample("none", "?", "yes"),
    ]
    result = run_map_step(mark_entities.step(), samples)
    assert words_of(result.kept[0]) == [
        "radiographs",
        "bilateral",
        "pleural effusions",
        "ground glass opacity",
    ]
    assert words_of(result.kept[1]) == ["左肺", "下叶", "磨玻璃影", "双侧", "胸腔积液"]
    assert spans_of(result.kept[2]) == []
    terms = starter_terms()
    assert len(set(terms)) == len(terms) == 573  # docs/moft.md tells the number


def test_terms_of_a_file_and_of_the_sample_are_searched(tmp_path: Path) -> None:
    (tmp_path / "terms.txt").write_text("# mine\ncortex\n\nHER2+ (3+)\n", encoding="utf-8")
    step = mark_entities.step(
        terms=str(tmp_path / "terms.txt"), words=["rim"], facet="med_terms", use_builtin=False
    )
    assert step.input_files == (str(tmp_path / "terms.txt"),)
    text = "A rim near the cortex, HER2+ (3+), in a strange place."
    result = run_map_step(
        step,
        [
            qa_sample("a", "?", text),
            qa_sample("b", "?", text, med_terms='["strange place"]'),
            qa_sample("c", "?", "x", med_terms="x"),
        ],
    )
    assert words_of(result.kept[0]) == ["rim", "cortex", "HER2+ (3+)"]
    assert words_of(result.kept[1]) == ["rim", "cortex", "HER2+ (3+)", "strange place"]
    assert result.reasons == {"c": "bad_terms"}


def test_a_gold_answer_is_marked_where_training_puts_it() -> None:
    (sample,) = run_map_step(
        mark_entities.step(), [qa_sample("q", "What is it?", gold=("a large cyst",))]
    ).kept
    with pytest.raises(InputError):
        spans_of(sample)  # the question alone has no such turn
    assert [span.text for span in spans_of(sample.with_answer("a large cyst")) or ()] == ["cyst"]


def test_without_terms_the_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no terms are given"):
        mark_entities.step(use_builtin=False)
    with pytest.raises(InputError, match="cannot be read"):
        run_map_step(mark_entities.step(terms=str(tmp_path / "none.txt")), [])


def test_a_teacher_s_terms_are_marked_in_the_answer_they_were_listed_for(tmp_path: Path) -> None:
    first = qa_sample("s", "What is seen?", "CT shows a structure near the cortex.", access="open")
    more = (Message("user", ("And?",)), Message("assistant", ("The structure is a cyst. Cyst!",)))
    sample = replace(first, messages=(*first.messages, *more))
    replies = teacher(
        ("near the cortex", {"terms": ["ct", "cortex", "effusion", "ct"]}),
        ("is a cyst", {"terms": ["cyst"]}),
    )
    result, questions = run_dialogue(label_entities.step(), sample, replies, tmp_path)
    assert isinstance(result, Sample) and result.id == "s" and result.messages == sample.messages
    assert [(s.turn, s.text) for s in spans_of(result) or ()] == [
        (1, "CT"),
        (1, "cortex"),
        (3, "cyst"),
        (3, "Cyst"),
    ]
    assert result.meta.extra["entities_not_found"] == "1" and len(questions) == 2


def test_a_reply_of_another_form_and_a_sample_without_an_answer_are_dropped(tmp_path: Path) -> None:
    result, _ = run_dialogue(
        label_entities.step(),
        qa_sample("s", "?", "A cyst.", access="open"),
        teacher(("", {"terms": "cyst"})),
        tmp_path / "a",
    )
    assert isinstance(result, Drop) and result.reason == "malformed"
    result, calls = run_dialogue(
        label_entities.step(),
        qa_sample("s", "?", access="open"),
        teacher(("", {"terms": []})),
        tmp_path / "b",
    )
    assert isinstance(result, Drop) and result.reason == "no_reply" and not calls


def test_an_empty_list_of_terms_is_an_answer(tmp_path: Path) -> None:
    result, _ = run_dialogue(
        label_entities.step(),
        qa_sample("s", "?", "Yes.", access="open"),
        teacher(("", {"terms": []})),
        tmp_path,
    )
    assert isinstance(result, Sample) and json.loads(result.meta.extra["entities"]) == []
