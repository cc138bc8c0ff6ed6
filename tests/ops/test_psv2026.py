"""The PSV2026 builder's steps: labels, refined questions, rubrics and critiques, and why replies
are rejected.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from lingshu.core.errors import ConfigError, InputError
from lingshu.core.messages import user_turn
from lingshu.core.step_types import TeacherStep
from lingshu.core.types import Drop, Meta, Sample
from lingshu.ops import critique, question_type, refine_qa, write_rubric
from lingshu.ops._consistency import find_contradiction, supports_gold
from lingshu.ops._teacher import QUESTION_TYPES, step_prompts, verbatim_terms
from tests.ops.test_synthesis import GRAY_IMAGE, run_dialogue, teacher

LABELS = {
    "question_type": "Visual Perception",
    "modality": "CT",
    "main_topic": "thoracic radiology",
    "med_terms": ["left lung", "ct", "spleen"],
}
LABEL = ("Classify a question", LABELS)
AGREES = ("Compare two answers", "Agrees. The same side is named.")


def qa_sample(question: str = "Where is the mass?", gold: str = "left lung", **meta: str) -> Sample:
    return Sample(
        "s",
        (user_turn(question, 1),),
        (GRAY_IMAGE,),
        (gold,),
        meta=Meta(access="open", **meta),  # type: ignore[arg-type]
    )


# --- what contradicts the gold
# -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "gold", "text", "problem"),
    [
        ("Is it enlarged?", "yes", "Yes, the heart is enlarged.", None),
        ("Is it enlarged?", "yes", "No, the heart is of normal size.", "polarity"),
        ("Is it enlarged?", "yes", "The heart measures more than half of the chest.", None),
        ("图中有病灶吗？", "没有", "有，左侧有一个病灶。", "polarity"),
        ("图中有病灶吗？", "没有", "没有，图中未见病灶。", None),
        ("Where is it?", "left lung", "The mass is in the right lung.", "side"),
        ("Where is it?", "left lung", "It is in the left lung; the right one is clear.", None),
        ("Is there a mass in the left lung?", "yes", "Yes, the right lung shows a mass.", "side"),
        ("病灶在哪一侧？", "左侧", "病灶位于右侧。", "side"),
        ("Is it left or right?", "right", "The lesion is on the left.", "side"),
        ("What is it?", "pleural effusion", "There is no pleural effusion.", "denied"),
        (
            "What is it?",
            "pleural effusion",
            "There is no pneumothorax. A pleural effusion is seen.",
            None,
        ),
        ("是什么？", "胸腔积液", "图中未见胸腔积液。", "denied"),
        ("What is it?", "cardiomegaly", "The heart is enlarged.", None),
        ("What is not there?", "no air", "There is no air below it.", None),
    ],
)
def test_rules_find_what_contradicts_the_gold(
    question: str, gold: str, text: str, problem: str | None
) -> None:
    assert find_contradiction(gold, text, question=question) == problem


def test_rules_know_when_they_know_nothing() -> None:
    assert (
        supports_gold("pleural effusion", "A Pleural  effusion is seen.")
        and supports_gold("yes", "Yes.")
        and supports_gold("胸腔积液", "可见胸腔积液。")
    )
    assert not supports_gold("cardiomegaly", "The heart is enlarged.") and not supports_gold(
        "yes", "The heart is enlarged."
    )
    assert not supports_gold("ct", "The structure is intact."), "a gold is whole words"
    # What may be denied, or holds for both sides, a rule does not vouch for.
    for text in (
        "Pneumonia is excluded.",
        "Pneumonia was ruled out by the CT.",
        "Pneumonia is unlikely.",
    ):
        assert (
            not supports_gold("pneumonia", text) and find_contradiction("pneumonia", text) is None
        )
    assert not supports_gold("肺炎", "肺炎已排除。") and not supports_gold(
        "left lung", "In the left lung and the right lung."
    )
    assert not supports_gold("no", "No doubt there is a mass.")


# --- labels
# ------------------------------------------------------------------------------------------------------------


def test_labels_are_notes_and_terms_are_in_the_answer(tmp_path: Path) -> None:
    result, prompts = run_dialogue(question_type.step(), qa_sample(), teacher(LABEL), tmp_path)
    assert (
        isinstance(result, Sample)
        and result.messages[-1].text == "left lung"
        and result.meta.modality == "CT"
    )
    extra = result.meta.extra
    assert (extra["question_type"], extra["main_topic"]) == (
        "Visual Perception",
        "thoracic radiology",
    )
    assert json.loads(extra["med_terms"]) == ["left lung"] and extra["med_terms_dropped"] == "2"
    assert all(name in prompts[0] for name in QUESTION_TYPES) and "Answer: left lung" in prompts[0]


def test_a_modality_stated_by_the_source_stays_and_an_empty_label_is_none(tmp_path: Path) -> None:
    blank = {**LABELS, "modality": " ", "main_topic": "", "med_terms": []}
    result, _ = run_dialogue(
        question_type.step(), qa_sample(modality="MRI"), teacher(LABEL), tmp_path / "a"
    )
    unlabeled, _ = run_dialogue(
        question_type.step(), qa_sample(), teacher(("Classify", blank)), tmp_path / "b"
    )
    assert isinstance(result, Sample) and result.meta.modality == "MRI"
    assert (
        isinstance(unlabeled, Sample)
        and unlabeled.meta.modality is None
        and "main_topic" not in unlabeled.meta.extra
    )


def test_an_invalid_type_is_rejected(tmp_path: Path) -> None:
    result, _ = run_dialogue(
        question_type.step(),
        qa_sample(),
        teacher(("", {**LABELS, "question_type": "Guessing"})),
        tmp_path,
    )
    assert (
        isinstance(result, Drop)
        and result.reason == "malformed"
        and "question_type" in result.detail
    )


def test_terms_match_complete_words_only() -> None:
    assert verbatim_terms(
        ["ct", "cortex", "Cortex", "HER2+ (3+)", ""], "CT: a structure near the cortex, HER2+ (3+)"
    ) == (
        ["ct", "cortex", "Cortex", "HER2+ (3+)"],
        0,
    )
    assert verbatim_terms(["us", "胸腔"], "various 胸腔积液") == (["胸腔"], 1)


# --- refined questions
# -------------------------------------------------------------------------------------------------

FULL = {
    "question": "In which part of the chest does the mass lie?",
    "answer": "The mass is in the left lung.",
}


def test_a_refined_question_keeps_its_gold(tmp_path: Path) -> None:
    result, prompts = run_dialogue(
        refine_qa.step(),
        qa_sample(source="vqa_rad"),
        teacher(("about a medical image and its answer", FULL), AGREES, LABEL),
        tmp_path,
    )
    assert (
        isinstance(result, Sample)
        and result.id == "s/refine_qa"
        and (result.meta.source, result.meta.kind) == ("vqa_rad", "open")
    )
    assert (
        result.question == FULL["question"]
        and result.messages[-1].text == FULL["answer"] == result.gold[0]  # type: ignore[index]
    )
    extra = result.meta.extra
    assert (extra["original_question"], extra["original_answer"], extra["alternative"]) == (
        "Where is the mass?",
        "left lung",
        "left lung",
    )
    assert (
        extra["question_type"] == "Visual Perception"
        and len(prompts) == 3
        and f"Answer: {FULL['answer']}" in prompts[2]
    )


REFINED = [
    ({"answer": "It is in the right lung."}, "contradicts_gold", "by rule: side"),
    ({"answer": ""}, "empty_text", ""),
    ({"answer": "The given answer is the left lung."}, "tells_source", ""),
    ({"question": "Is the mass in the left lung?"}, "leaks_answer", ""),
    ({"question": "肿块在哪里？"}, "other_language", ""),
    ({"answer": 3}, "malformed", "answer: string_type"),
]


@pytest.mark.parametrize(("change", "reason", "detail"), REFINED)
def test_refined_questions_that_cannot_be_used_are_dropped(
    tmp_path: Path, change: dict, reason: str, detail: str
) -> None:
    result, _ = run_dialogue(
        refine_qa.step(),
        qa_sample(),
        teacher(("about a medical image and its answer", FULL | change), AGREES, LABEL),
        tmp_path,
    )
    assert isinstance(result, Drop) and (result.reason, result.detail) == (reason, detail)


def test_what_the_second_call_finds_counts(tmp_path: Path) -> None:
    verdict = {"question": FULL["question"], "answer": "It is in the lingula."}
    rejection = ("Compare two answers", "Contradicts. A lingula is not the lung.")
    result, prompts = run_dialogue(
        refine_qa.step(),
        qa_sample(),
        teacher(("about a medical image and its answer", verdict), rejection),
        tmp_path / "a",
    )
    assert (
        isinstance(result, Drop)
        and result.reason == "contradicts_gold"
        and "second call" in result.detail
    )
    assert (
        "Right answer: left lung" in prompts[1]
        and "Other answer: It is in the lingula." in prompts[1]
    )
    result, _ = run_dialogue(
        refine_qa.step(),
        qa_sample(),
        teacher(("about a medical image and its answer", verdict), ("Compare", "Perhaps.")),
        tmp_path / "b",
    )
    assert isinstance(result, Drop) and result.reason == "no_verdict"
    result, _ = run_dialogue(
        refine_qa.step(check="rule"),
        qa_sample(),
        teacher(("about a medical image and its answer", verdict)),
        tmp_path / "c",
    )
    assert isinstance(result, Drop) and result.reason == "gold_missing"
    result, prompts = run_dialogue(
        refine_qa.step(check="open"),
        qa_sample(),
        teacher(("about a medical image and its answer", FULL), LABEL),
        tmp_path / "d",
    )
    assert isinstance(result, Sample) and len(prompts) == 2, "the rules were sure"


# --- rubrics
# -----------------------------------------------------------------------------------------------------------

RUBRIC = [
    {"dim": name, "score": index + 1, "description": f"Says {index}."}
    for index, name in enumerate(write_rubric.DIMENSIONS)
]
ITEM = {
    "query": "Where does the mass lie, and what shows it?",
    "answer": FULL["answer"],
    "rubric": RUBRIC[::-1],
}


def test_a_test_item_has_five_dimensions_in_their_order(tmp_path: Path) -> None:
    result, prompts = run_dialogue(
        write_rubric.step(),
        qa_sample(),
        teacher(("You write test items", ITEM), AGREES, LABEL),
        tmp_path,
    )
    assert (
        isinstance(result, Sample)
        and result.question == ITEM["query"]
        and result.gold == (FULL["answer"],)
    )
    assert (
        json.loads(result.meta.extra["rubric"]) == RUBRIC
        and result.meta.extra["original_answer"] == "left lung"
    )
    assert all(f"- {name}: " in prompts[0] for name in write_rubric.DIMENSIONS)


@pytest.mark.parametrize(
    ("rubric", "detail"),
    [
        (RUBRIC[:4], "4 dimensions, 4 of the 5"),
        ([*RUBRIC[:4], RUBRIC[0]], "5 dimensions, 4 of the 5"),
        ([*RUBRIC[:4], {**RUBRIC[4], "dim": "style"}], "5 dimensions, 4 of the 5"),
        ([*RUBRIC[:4], {**RUBRIC[4], "description": "says 0"}], "repeats another one"),
        ([*RUBRIC[:4], {**RUBRIC[4], "score": 0}], r"points \[1, 2, 3, 4, 0\]"),
    ],
)
def test_an_invalid_rubric_is_dropped(tmp_path: Path, rubric: list, detail: str) -> None:
    result, _ = run_dialogue(
        write_rubric.step(), qa_sample(), teacher(("", {**ITEM, "rubric": rubric})), tmp_path
    )
    assert isinstance(result, Drop) and result.reason == "bad_rubric"
    assert re.search(detail, result.detail)


# --- critiques
# ---------------------------------------------------------------------------------------------------------

REVIEW = {
    "error": "The side is wrong.",
    "evidence": "The mass is near the heart's apex.",
    "corrected": FULL["answer"],
}
REVIEW_PROMPT = ("Answer under review", REVIEW)


def test_a_critique_names_the_error_and_corrects_it(tmp_path: Path) -> None:
    result, prompts = run_dialogue(
        critique.step(kinds=["laterality"]),
        qa_sample(),
        teacher(REVIEW_PROMPT, AGREES, LABEL),
        tmp_path,
    )
    assert (
        isinstance(result, Sample)
        and result.id == "s/critique"
        and result.gold == (FULL["answer"],)
    )
    assert "Answer under review: right lung\nRight answer: left lung" in prompts[0]
    assert result.question.startswith(
        "Where is the mass?\n\nSomebody answered: right lung\n\nIs this answer right?"
    )
    assert (
        result.messages[-1].text
        == "Error: The side is wrong.\n\nEvidence: The mass is near the heart's"
        f" apex.\n\nCorrected answer: {FULL['answer']}"
    )
    assert (result.meta.extra["error_kind"], result.meta.extra["wrong_answer"]) == (
        "laterality",
        "right lung",
    )
    assert json.loads(result.meta.extra["med_terms"]) == ["left lung"]


def test_a_chinese_question_has_a_chinese_critique(tmp_path: Path) -> None:
    review = {"error": "左右相反。", "evidence": "病灶靠近心尖。", "corrected": "病灶位于左肺。"}
    sample = qa_sample("病灶在哪里？", "左肺")
    result, _ = run_dialogue(
        critique.step(kinds=["laterality"]),
        sample,
        teacher(("Answer under review", review), AGREES, LABEL),
        tmp_path,
    )
    assert (
        isinstance(result, Sample)
        and "有人这样回答：右肺" in result.question
        and result.messages[-1].text.endswith("正确答案：病灶位于左肺。")
    )


@pytest.mark.parametrize(
    ("review", "reason"),
    [
        (critique.NOT_WRONG, "not_wrong"),
        ({**REVIEW, "evidence": " "}, "empty_text"),
        ({**REVIEW, "corrected": "Right lung."}, "unchanged"),
        ({**REVIEW, "error": "The reference answer is another one."}, "cites_gold"),
        ({**REVIEW, "corrected": "It is in the right lung."}, "contradicts_gold"),
        ({"error": "Wrong."}, "malformed"),
    ],
)
def test_critiques_that_cannot_be_used_are_dropped(
    tmp_path: Path, review: str | dict, reason: str
) -> None:
    step = critique.step(kinds=["laterality"])
    result, _ = run_dialogue(
        step, qa_sample(), teacher(("Answer under review", review), AGREES, LABEL), tmp_path
    )
    assert isinstance(result, Drop) and result.reason == reason


def scores_file(folder: Path, *rows: dict) -> str:
    folder.mkdir()
    (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def row(
    name: str, reply: str | None, value: float | None, question: str = "Where is the mass?"
) -> dict:
    return {"id": name, "question": question, "reply": reply, "value": value, "status": "ok"}


def test_the_flawed_answer_is_the_models_own(tmp_path: Path) -> None:
    folder = scores_file(
        tmp_path / "vqa",
        row("q1", "In the liver.", 0.0),
        row("q2", "left lung", 1.0),
        row("q3", "?", None),
        row("q4", "x", 0.0, "Who?"),
    )
    step = critique.step(scores=folder)
    result, prompts = run_dialogue(
        step,
        replace(qa_sample(), id="rad/q1"),
        teacher(REVIEW_PROMPT, AGREES, LABEL),
        tmp_path / "calls",
    )
    assert (
        isinstance(result, Sample)
        and result.meta.extra["error_kind"] == "reply"
        and "Answer under review: In the liver." in prompts[0]
    )
    assert "scores " in step.prompts
    reasons = {}
    for name in ("rad/q2", "rad/q3", "rad/q4", "rad/q5"):
        drop, prompts = run_dialogue(
            step, replace(qa_sample(), id=name), teacher(), tmp_path / name
        )
        assert isinstance(drop, Drop) and not prompts
        reasons[name] = drop.reason
    assert reasons == {
        "rad/q2": "correct_reply",
        "rad/q3": "unread_reply",
        "rad/q4": "other_question",
        "rad/q5": "no_reply_in_run",
    }


def test_a_noted_error_is_taken(tmp_path: Path) -> None:
    sample = replace(
        qa_sample(),
        meta=Meta(access="open", extra={"wrong_answer": "the spleen", "error_kind": "organ"}),
    )
    result, _ = run_dialogue(
        critique.step(), sample, teacher(REVIEW_PROMPT, AGREES, LABEL), tmp_path
    )
    assert isinstance(result, Sample) and (
        result.meta.extra["wrong_answer"],
        result.meta.extra["error_kind"],
    ) == (
        "the spleen",
        "organ",
    )


def test_invalid_scores_are_rejected_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be opened"):
        critique.step(scores=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"row 1: id, question, reply and value are needed"):
        critique.step(scores=scores_file(tmp_path / "run", {"id": "a"}))


# --- all of them
# -------------------------------------------------------------------------------------------------------

STEPS: dict[str, TeacherStep] = {
    "question_type": question_type.step(),
    "refine_qa": refine_qa.step(),
    "write_rubric": write_rubric.step(),
    "critique": critique.step(),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_names_every_prompt_that_it_uses(name: str) -> None:
    assert (
        step_prompts(name).tag in STEPS[name].prompts
        and step_prompts("question_type").tag in STEPS[name].prompts
    )
    assert name == "question_type" or step_prompts("agreement").tag in STEPS[name].prompts


@pytest.mark.parametrize("name", STEPS)
def test_a_row_without_one_question_and_a_gold_is_dropped(name: str, tmp_path: Path) -> None:
    result, prompts = run_dialogue(
        STEPS[name], replace(qa_sample(), gold=None), teacher(), tmp_path
    )
    assert isinstance(result, Drop) and result.reason == "no_gold" and not prompts


def test_an_unknown_check_is_named() -> None:
    with pytest.raises(ConfigError, match="check is 'never'; choose one of rule, open, always"):
        write_rubric.step(check="never")  # type: ignore[arg-type]
