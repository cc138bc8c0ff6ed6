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
from lingshu.core.nouns import Drop, Meta, Sample
from lingshu.core.steps import TeacherStep
from lingshu.ops import critique, question_type, refine_qa, write_rubric
from lingshu.ops._agreement import contradiction, supports
from lingshu.ops._question_labels import QUESTION_TYPES, verbatim
from lingshu.ops._teaching import prompts
from tests.ops.test_synthesis import GREY, talked, teacher

LABELS = {
    "question_type": "Visual Perception",
    "modality": "CT",
    "main_topic": "thoracic radiology",
    "med_terms": ["left lung", "ct", "spleen"],
}
LABEL = ("Classify a question", LABELS)
AGREES = ("Compare two answers", "Agrees. The same side is named.")


def asked(question: str = "Where is the mass?", gold: str = "left lung", **meta: str) -> Sample:
    return Sample(
        "s",
        (user_turn(question, 1),),
        (GREY,),
        (gold,),
        meta=Meta(access="open", **meta),  # type: ignore[arg-type]
    )


# --- what contradicts the gold
# -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "gold", "text", "fault"),
    [
        ("Is it enlarged?", "yes", "Yes, the heart is enlarged.", None),
        ("Is it enlarged?", "yes", "No, the heart is of normal size.", "polarity"),
        ("Is it enlarged?", "yes", "The heart measures more than half of the chest.", None),
        ("图中有病灶吗？", "没有", "有，左侧有一个病灶。", "polarity"),
        ("图中有病灶吗？", "没有", "没有，图中未见病灶。", None),
        ("Where is it?", "left lung", "The mass lies in the right lung.", "side"),
        ("Where is it?", "left lung", "It lies in the left lung; the right one is clear.", None),
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
    question: str, gold: str, text: str, fault: str | None
) -> None:
    assert contradiction(gold, text, question=question) == fault


def test_rules_know_when_they_know_nothing() -> None:
    assert (
        supports("pleural effusion", "A Pleural  effusion is seen.")
        and supports("yes", "Yes.")
        and supports("胸腔积液", "可见胸腔积液。")
    )
    assert not supports("cardiomegaly", "The heart is enlarged.") and not supports(
        "yes", "The heart is enlarged."
    )
    assert not supports("ct", "The structure is intact."), "a gold is whole words"
    # What may be denied, or holds for both sides, a rule does not vouch for.
    for text in (
        "Pneumonia is excluded.",
        "Pneumonia was ruled out by the CT.",
        "Pneumonia is unlikely.",
    ):
        assert not supports("pneumonia", text) and contradiction("pneumonia", text) is None
    assert not supports("肺炎", "肺炎已排除。") and not supports(
        "left lung", "In the left lung and the right lung."
    )
    assert not supports("no", "No doubt there is a mass.")


# --- labels
# ------------------------------------------------------------------------------------------------------------


def test_labels_are_notes_and_terms_stand_in_the_answer(tmp_path: Path) -> None:
    made, sent = talked(question_type.step(), asked(), teacher(LABEL), tmp_path)
    assert (
        isinstance(made, Sample)
        and made.messages[-1].text == "left lung"
        and made.meta.modality == "CT"
    )
    extra = made.meta.extra
    assert (extra["question_type"], extra["main_topic"]) == (
        "Visual Perception",
        "thoracic radiology",
    )
    assert json.loads(extra["med_terms"]) == ["left lung"] and extra["med_terms_dropped"] == "2"
    assert all(name in sent[0] for name in QUESTION_TYPES) and "Answer: left lung" in sent[0]


def test_a_modality_that_the_source_states_stays_and_an_empty_label_is_none(tmp_path: Path) -> None:
    blank = {**LABELS, "modality": " ", "main_topic": "", "med_terms": []}
    made, _ = talked(question_type.step(), asked(modality="MRI"), teacher(LABEL), tmp_path / "a")
    none, _ = talked(question_type.step(), asked(), teacher(("Classify", blank)), tmp_path / "b")
    assert isinstance(made, Sample) and made.meta.modality == "MRI"
    assert (
        isinstance(none, Sample)
        and none.meta.modality is None
        and "main_topic" not in none.meta.extra
    )


def test_a_type_that_is_none_is_rejected(tmp_path: Path) -> None:
    made, _ = talked(
        question_type.step(),
        asked(),
        teacher(("", {**LABELS, "question_type": "Guessing"})),
        tmp_path,
    )
    assert isinstance(made, Drop) and made.reason == "malformed" and "question_type" in made.detail


def test_terms_are_whole_words() -> None:
    assert verbatim(
        ["ct", "cortex", "Cortex", "HER2+ (3+)", ""], "CT: a structure near the cortex, HER2+ (3+)"
    ) == (
        ["ct", "cortex", "Cortex", "HER2+ (3+)"],
        0,
    )
    assert verbatim(["us", "胸腔"], "various 胸腔积液") == (["胸腔"], 1)


# --- refined questions
# -------------------------------------------------------------------------------------------------

FULL = {
    "question": "In which part of the chest does the mass lie?",
    "answer": "The mass lies in the left lung.",
}


def test_a_refined_question_keeps_its_gold(tmp_path: Path) -> None:
    made, sent = talked(
        refine_qa.step(),
        asked(source="vqa_rad"),
        teacher(("its answer anew", FULL), AGREES, LABEL),
        tmp_path,
    )
    assert (
        isinstance(made, Sample)
        and made.id == "s/refine_qa"
        and (made.meta.source, made.meta.kind) == ("vqa_rad", "open")
    )
    assert (
        made.question == FULL["question"]
        and made.messages[-1].text == FULL["answer"] == made.gold[0]  # type: ignore[index]
    )
    extra = made.meta.extra
    assert (extra["original_question"], extra["original_answer"], extra["alternative"]) == (
        "Where is the mass?",
        "left lung",
        "left lung",
    )
    assert (
        extra["question_type"] == "Visual Perception"
        and len(sent) == 3
        and f"Answer: {FULL['answer']}" in sent[2]
    )


REFINED = [
    ({"answer": "It lies in the right lung."}, "contradicts_gold", "by rule: side"),
    ({"answer": ""}, "empty_text", ""),
    ({"answer": "The given answer is the left lung."}, "tells_source", ""),
    ({"question": "Does the mass lie in the left lung?"}, "leaks_answer", ""),
    ({"question": "肿块在哪里？"}, "other_language", ""),
    ({"answer": 3}, "malformed", "answer: string_type"),
]


@pytest.mark.parametrize(("change", "reason", "detail"), REFINED)
def test_refined_questions_that_cannot_be_used_are_dropped(
    tmp_path: Path, change: dict, reason: str, detail: str
) -> None:
    made, _ = talked(
        refine_qa.step(),
        asked(),
        teacher(("its answer anew", FULL | change), AGREES, LABEL),
        tmp_path,
    )
    assert isinstance(made, Drop) and (made.reason, made.detail) == (reason, detail)


def test_what_the_second_call_finds_counts(tmp_path: Path) -> None:
    other = {"question": FULL["question"], "answer": "It lies in the lingula."}
    no = ("Compare two answers", "Contradicts. A lingula is no whole lung.")
    made, sent = talked(
        refine_qa.step(), asked(), teacher(("answer anew", other), no), tmp_path / "a"
    )
    assert (
        isinstance(made, Drop)
        and made.reason == "contradicts_gold"
        and "second call" in made.detail
    )
    assert (
        "Right answer: left lung" in sent[1] and "Other answer: It lies in the lingula." in sent[1]
    )
    made, _ = talked(
        refine_qa.step(),
        asked(),
        teacher(("answer anew", other), ("Compare", "Perhaps.")),
        tmp_path / "b",
    )
    assert isinstance(made, Drop) and made.reason == "no_verdict"
    made, _ = talked(
        refine_qa.step(check="rule"), asked(), teacher(("answer anew", other)), tmp_path / "c"
    )
    assert isinstance(made, Drop) and made.reason == "gold_missing"
    made, sent = talked(
        refine_qa.step(check="open"), asked(), teacher(("answer anew", FULL), LABEL), tmp_path / "d"
    )
    assert isinstance(made, Sample) and len(sent) == 2, "the rules were sure"


# --- rubrics
# -----------------------------------------------------------------------------------------------------------

RUBRIC = [
    {"dim": name, "score": place + 1, "description": f"Says {place}."}
    for place, name in enumerate(write_rubric.DIMENSIONS)
]
ITEM = {
    "query": "Where does the mass lie, and what shows it?",
    "answer": FULL["answer"],
    "rubric": RUBRIC[::-1],
}


def test_a_test_item_has_five_dimensions_in_their_order(tmp_path: Path) -> None:
    made, sent = talked(
        write_rubric.step(),
        asked(),
        teacher(("You write test items", ITEM), AGREES, LABEL),
        tmp_path,
    )
    assert (
        isinstance(made, Sample)
        and made.question == ITEM["query"]
        and made.gold == (FULL["answer"],)
    )
    assert (
        json.loads(made.meta.extra["rubric"]) == RUBRIC
        and made.meta.extra["original_answer"] == "left lung"
    )
    assert all(f"- {name}: " in sent[0] for name in write_rubric.DIMENSIONS)


@pytest.mark.parametrize(
    ("rubric", "detail"),
    [
        (RUBRIC[:4], "4 dimensions, 4 of the 5"),
        ([*RUBRIC[:4], RUBRIC[0]], "5 dimensions, 4 of the 5"),
        ([*RUBRIC[:4], {**RUBRIC[4], "dim": "style"}], "5 dimensions, 4 of the 5"),
        ([*RUBRIC[:4], {**RUBRIC[4], "description": "says 0"}], "what another one says"),
        ([*RUBRIC[:4], {**RUBRIC[4], "score": 0}], r"points \[1, 2, 3, 4, 0\]"),
    ],
)
def test_a_rubric_that_is_none_is_dropped(tmp_path: Path, rubric: list, detail: str) -> None:
    made, _ = talked(
        write_rubric.step(), asked(), teacher(("", {**ITEM, "rubric": rubric})), tmp_path
    )
    assert isinstance(made, Drop) and made.reason == "bad_rubric"
    assert re.search(detail, made.detail)


# --- critiques
# ---------------------------------------------------------------------------------------------------------

SAYS = {
    "error": "The side is wrong.",
    "evidence": "The mass lies beside the heart's apex.",
    "corrected": FULL["answer"],
}
JUDGES = ("Answer under review", SAYS)


def test_a_critique_says_what_is_wrong_and_corrects_it(tmp_path: Path) -> None:
    made, sent = talked(
        critique.step(kinds=["laterality"]), asked(), teacher(JUDGES, AGREES, LABEL), tmp_path
    )
    assert isinstance(made, Sample) and made.id == "s/critique" and made.gold == (FULL["answer"],)
    assert "Answer under review: right lung\nRight answer: left lung" in sent[0]
    assert made.question.startswith(
        "Where is the mass?\n\nSomebody answered: right lung\n\nIs this answer right?"
    )
    assert (
        made.messages[-1].text
        == "Error: The side is wrong.\n\nEvidence: The mass lies beside the heart's"
        f" apex.\n\nCorrected answer: {FULL['answer']}"
    )
    assert (made.meta.extra["flaw"], made.meta.extra["flawed"]) == ("laterality", "right lung")
    assert json.loads(made.meta.extra["med_terms"]) == ["left lung"]


def test_a_chinese_question_has_a_chinese_critique(tmp_path: Path) -> None:
    says = {"error": "左右相反。", "evidence": "病灶靠近心尖。", "corrected": "病灶位于左肺。"}
    sample = asked("病灶在哪里？", "左肺")
    made, _ = talked(
        critique.step(kinds=["laterality"]),
        sample,
        teacher(("Answer under review", says), AGREES, LABEL),
        tmp_path,
    )
    assert (
        isinstance(made, Sample)
        and "有人这样回答：右肺" in made.question
        and made.messages[-1].text.endswith("正确答案：病灶位于左肺。")
    )


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        (critique.NOT_WRONG, "not_wrong"),
        ({**SAYS, "evidence": " "}, "empty_text"),
        ({**SAYS, "corrected": "Right lung."}, "unchanged"),
        ({**SAYS, "error": "The reference answer is another one."}, "cites_gold"),
        ({**SAYS, "corrected": "It is in the right lung."}, "contradicts_gold"),
        ({"error": "Wrong."}, "malformed"),
    ],
)
def test_critiques_that_cannot_be_used_are_dropped(
    tmp_path: Path, says: str | dict, reason: str
) -> None:
    step = critique.step(kinds=["laterality"])
    made, _ = talked(step, asked(), teacher(("Answer under review", says), AGREES, LABEL), tmp_path)
    assert isinstance(made, Drop) and made.reason == reason


def run(folder: Path, *rows: dict) -> str:
    folder.mkdir()
    (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def row(
    name: str, reply: str | None, value: float | None, question: str = "Where is the mass?"
) -> dict:
    return {"id": name, "question": question, "reply": reply, "value": value, "status": "ok"}


def test_the_flawed_answer_is_the_models_own(tmp_path: Path) -> None:
    folder = run(
        tmp_path / "vqa",
        row("q1", "In the liver.", 0.0),
        row("q2", "left lung", 1.0),
        row("q3", "?", None),
        row("q4", "x", 0.0, "Who?"),
    )
    step = critique.step(scores=folder)
    made, sent = talked(
        step, replace(asked(), id="rad/q1"), teacher(JUDGES, AGREES, LABEL), tmp_path / "calls"
    )
    assert (
        isinstance(made, Sample)
        and made.meta.extra["flaw"] == "reply"
        and "Answer under review: In the liver." in sent[0]
    )
    assert "scores " in step.prompts
    reasons = {}
    for name in ("rad/q2", "rad/q3", "rad/q4", "rad/q5"):
        drop, sent = talked(step, replace(asked(), id=name), teacher(), tmp_path / name)
        assert isinstance(drop, Drop) and not sent
        reasons[name] = drop.reason
    assert reasons == {
        "rad/q2": "right_reply",
        "rad/q3": "unread_reply",
        "rad/q4": "other_question",
        "rad/q5": "not_asked",
    }


def test_a_noted_error_is_taken(tmp_path: Path) -> None:
    noted = replace(
        asked(), meta=Meta(access="open", extra={"flawed": "the spleen", "flaw": "organ"})
    )
    made, _ = talked(critique.step(), noted, teacher(JUDGES, AGREES, LABEL), tmp_path)
    assert isinstance(made, Sample) and (made.meta.extra["flawed"], made.meta.extra["flaw"]) == (
        "the spleen",
        "organ",
    )


def test_scores_that_are_none_are_refused_at_the_door(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be opened"):
        critique.step(scores=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"row 1: id, question, reply and value are needed"):
        critique.step(scores=run(tmp_path / "run", {"id": "a"}))


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
        prompts(name).tag in STEPS[name].prompts
        and prompts("question_type").tag in STEPS[name].prompts
    )
    assert name == "question_type" or prompts("agreement").tag in STEPS[name].prompts


@pytest.mark.parametrize("name", STEPS)
def test_a_row_without_one_question_and_a_gold_is_dropped(name: str, tmp_path: Path) -> None:
    made, sent = talked(STEPS[name], replace(asked(), gold=None), teacher(), tmp_path)
    assert isinstance(made, Drop) and made.reason == "no_gold" and not sent


def test_a_check_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigError, match="check is 'never'; choose one of rule, open, always"):
        write_rubric.step(check="never")  # type: ignore[arg-type]
