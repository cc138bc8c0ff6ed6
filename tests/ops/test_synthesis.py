"""Steps with a teacher: what they ask, what they make of good replies, and why they reject bad
ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lingshu.core.calls import Calls
from lingshu.core.errors import ConfigError
from lingshu.core.messages import user_turn
from lingshu.core.nouns import Drop, Image, Message, Meta, Sample
from lingshu.core.steps import MapStep, TableStep, TeacherStep
from lingshu.engines.scripted import Scripted, scripted
from lingshu.imaging.pictures import Pictures
from lingshu.imaging.read import encode_png, image_bytes
from lingshu.ops import (
    chain_of_thought,
    label_space,
    long_caption,
    ocr_exam,
    rewrite_dialogue,
    vqa_self_instruct,
    vqa_template,
)
from lingshu.ops._teaching import ALTERNATIVE, prompts
from tests.ops.loops import decided, mapped

GREY = Image(data=encode_png(np.full((40, 60), 90, np.uint8)))


def talked(
    step: TeacherStep, sample: Sample, teacher: Scripted, folder: Path
) -> tuple[Sample | Drop, list[str]]:
    """What a step makes of one sample, and all that it asked."""
    asked: list[str] = []
    with Calls(teacher, folder, images=image_bytes, tries=1) as calls, Pictures() as pictures:
        talk = step.talk(sample, pictures)
        values: Sequence[object] | None = None
        try:
            while True:
                requests = next(talk) if values is None else talk.send(values)
                asked += [request.sample.question for request in requests]
                outcomes = calls.ask(requests, step.sampling)
                lost = next((outcome for outcome in outcomes if outcome.reject), None)
                if lost:
                    return Drop(sample.id, lost.reject or "", lost.detail), asked
                values = [outcome.value for outcome in outcomes]
        except StopIteration as end:
            return end.value, asked


def teacher(*rules: tuple[str, str | Mapping[str, object]]) -> Scripted:
    return scripted([{"ask": ask, "say": say} for ask, say in rules])


def said(
    question: str, answer: str | None, *, images: tuple[Image, ...] = (GREY,), **facts: object
) -> Sample:
    gold, choices = facts.pop("gold", None), facts.pop("choices", ())
    turns = (
        user_turn(question, len(images)),
        *([Message("assistant", (answer,))] if answer else []),
    )
    known = {
        name: facts.pop(name) for name in ("modality", "kind", "source", "access") if name in facts
    }
    meta = Meta(**{"access": "open", **known}, extra={k: str(v) for k, v in facts.items()})
    return Sample("s", turns, images, gold, choices, meta)  # type: ignore[arg-type]


# --- long captions
# ---------------------------------------------------------------------------------------------------

FACTS = {"overall": "a", "findings": "b", "relations": "c", "caption": "A trusted text."}
LONG = (
    "The image shows a mass of two centimetres in the upper part, with a regular border and a"
    " bright rim around its whole edge."
)
CAPTIONS = (
    ("trusted description", FACTS),
    ("experienced reader", "What can be seen."),
    ("Join them into one", LONG),
)


def test_a_long_caption_is_merged_from_the_facts_and_the_view(tmp_path: Path) -> None:
    step = long_caption.step(
        caption="{label} in {modality}", facts=["label"], knowledge={"cyst": "Cysts hold fluid."}
    )
    sample = said("?", None, modality="ultrasound", label="cyst", age="77")
    made, asked = talked(step, sample, teacher(*CAPTIONS), tmp_path)
    assert isinstance(made, Sample)
    assert (
        made.messages[-1].text == LONG
        and made.messages[0].parts[0] == 0
        and made.meta.kind == "caption"
    )
    assert (
        made.meta.extra["synthetic"] == "long_caption"
        and made.meta.extra[ALTERNATIVE] == "A trusted text."
    )
    assert (
        "cyst in ultrasound" in asked[0]
        and "Cysts hold fluid" in asked[0]
        and "Doppler" in asked[1]
    )
    assert (
        "Description A: A trusted text." in asked[2]
        and "Description B: What can be seen." in asked[2]
    )
    assert not any("77" in text for text in asked), "what the image cannot show is not told"


def test_regions_are_drawn_on_the_image_of_the_facts_only(tmp_path: Path) -> None:
    sent: list[Sample] = []
    sample = said("?", "a cyst", boxes="[[10, 5, 20, 15]]")
    step = long_caption.step()
    with Pictures() as pictures:
        talk = step.talk(sample, pictures)
        sent = [request.sample for request in next(talk)]
    assert sent[1].images == (GREY,) and sent[0].images != (GREY,)
    with Pictures() as pictures:
        drawn, bare = pictures.rgb(sent[0].images[0]), pictures.rgb(GREY)
    assert (drawn[4, 9] == (255, 255, 0)).all() and (drawn[5:16, 10:21] == bare[5:16, 10:21]).all()
    assert "bright yellow" in sent[0].question and "bright yellow" not in sent[1].question


def test_a_mask_is_turned_into_rectangles_and_does_not_stay(tmp_path: Path) -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[5:16, 10:21] = 255
    sample = said("?", "a cyst", images=(GREY, Image(data=encode_png(mask))), mask="1")
    made, _ = talked(long_caption.step(min_words=3), sample, teacher(*CAPTIONS), tmp_path)
    assert isinstance(made, Sample) and made.images == (GREY,) and "mask" not in made.meta.extra


@pytest.mark.parametrize(
    ("final", "facts", "reason"),
    [
        ("Too short.", {}, "too_short"),
        (LONG.replace("a mass", "a mass in the yellow box"), {}, "mentions_marks"),
        (LONG, {"boxes": "[[0, 0, 99, 99]]"}, "bad_boxes"),
        (LONG, {"boxes": "nonsense"}, "bad_boxes"),
        (LONG, {"mask": "7"}, "bad_boxes"),
    ],
)
def test_captions_that_cannot_be_used_are_dropped(
    tmp_path: Path, final: str, facts: dict, reason: str
) -> None:
    made, _ = talked(
        long_caption.step(),
        said("?", "a cyst", **facts),
        teacher(*CAPTIONS[:2], ("Join them", final)),
        tmp_path,
    )
    assert isinstance(made, Drop) and made.reason == reason


def test_a_caption_template_with_a_hole_is_no_caption(tmp_path: Path) -> None:
    made, asked = talked(
        long_caption.step(caption="{label}"), said("?", "x"), teacher(*CAPTIONS), tmp_path
    )
    assert isinstance(made, Drop) and made.reason == "no_caption" and not asked


# --- questions
# -------------------------------------------------------------------------------------------------------


def test_the_label_space_of_a_source_becomes_the_options() -> None:
    samples = [
        replace(said("?", None, source=source, label=label, modality="ct"), id=f"{source}{number}")
        for source, labels in (
            ("lung", ("nodule", "normal", "effusion", "mass", "fibrosis")),
            ("skin", ("naevus", "melanoma")),
        )
        for number, label in enumerate(labels)
    ]
    spaced = decided(label_space.step(), samples)
    made = mapped(vqa_template.step(negative="normal", seed=3), spaced.kept)
    assert len(made.kept) == 7 and not made.drops
    for sample in made.kept:
        source = sample.meta.source
        own = {
            "lung": {"nodule", "normal", "effusion", "mass", "fibrosis"},
            "skin": {"naevus", "melanoma"},
        }[str(source)]
        assert set(sample.choices) <= own and len(sample.choices) == min(4, len(own))
        assert (
            sample.gold
            and sample.choices["ABCD".index(sample.gold[0])] == sample.meta.extra["label"]
        )
        assert source != "lung" or "normal" in sample.choices
        assert (
            sample.messages[-1].text == sample.gold[0]
            and f"{sample.gold[0]}. {sample.meta.extra['label']}" in sample.question
        )
    assert len({sample.gold for sample in made.kept}) > 1, "options are shuffled"


def test_a_source_with_one_label_asks_nothing() -> None:
    found = decided(
        label_space.step(), [said("?", None, source="a", label="x"), said("?", None, source="a")]
    )
    assert sorted(drop.reason for drop in found.drops) == ["few_labels", "no_label"]
    assert isinstance(label_space.step(), TableStep) and isinstance(vqa_template.step(), MapStep)


def test_a_self_instructed_question_has_shuffled_options(tmp_path: Path) -> None:
    item = {
        "question": "Which finding is shown?",
        "answer": "Pleural effusion",
        "wrong_answers": ["Pneumothorax", "Nodule"],
    }
    made, asked = talked(
        vqa_self_instruct.step(),
        said("?", "Effusion on the left."),
        teacher(("examination questions", item)),
        tmp_path,
    )
    assert isinstance(made, Sample) and made.gold
    assert made.choices["ABC".index(made.gold[0])] == "Pleural effusion" and len(made.choices) == 3
    assert "What is known: Effusion on the left." in asked[0]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (vqa_self_instruct.MISMATCH, "mismatch"),
        ({"question": "Which?", "answer": "a", "wrong_answers": []}, "bad_options"),
        ({"question": "Which?", "answer": "A mass", "wrong_answers": ["a mass."]}, "bad_options"),
        (
            {"question": "Which?", "answer": "a", "wrong_answers": ["b", "c", "d", "e"]},
            "bad_options",
        ),
        (
            {"question": "What does the caption say?", "answer": "a", "wrong_answers": ["b"]},
            "tells_source",
        ),
        ({"question": "Which?", "answer": "a"}, "malformed"),
    ],
)
def test_self_instructed_questions_that_cannot_be_used_are_dropped(
    tmp_path: Path, reply: str | dict, reason: str
) -> None:
    made, _ = talked(vqa_self_instruct.step(), said("?", "x"), teacher(("", reply)), tmp_path)
    assert isinstance(made, Drop) and made.reason == reason


# --- exams and reasoning
# ---------------------------------------------------------------------------------------------

EXAM = said(
    "Which gas do plants take up?\nA. Oxygen\nB. Carbon dioxide",
    None,
    images=(),
    gold=("B",),
    choices=("Oxygen", "Carbon dioxide"),
)


def test_an_exam_question_is_drawn_and_kept_where_the_answer_is_the_gold(tmp_path: Path) -> None:
    solved = teacher(("Solve this", {"reasoning": "Photosynthesis uses it.", "answer": "B"}))
    made, asked = talked(ocr_exam.step(), EXAM, solved, tmp_path)
    assert (
        isinstance(made, Sample)
        and made.messages[-1].text == "Photosynthesis uses it.\n\n### Final Answer: B"
    )
    assert "plants" not in made.question and "Right answer" not in asked[0]
    with Pictures() as pictures:
        pixels = pictures.gray(made.images[0])
    assert pixels.shape[1] == 672 and (pixels < 128).sum() > 500


@pytest.mark.parametrize(
    ("sample", "answer", "reason"),
    [
        (EXAM, "A", "wrong_answer"),
        (replace(EXAM, gold=None), "B", "no_gold"),
        (said("What is H₂O 水?", "water", images=()), "water", "no_glyph"),
        (said("What?", "water"), "water", "has_images"),
        (said("word " * 3000, "water", images=()), "water", "too_long"),
    ],
)
def test_exam_questions_that_cannot_be_used_are_dropped(
    tmp_path: Path, sample: Sample, answer: str, reason: str
) -> None:
    made, _ = talked(
        ocr_exam.step(),
        sample,
        teacher(("", {"reasoning": "So it is.", "answer": answer})),
        tmp_path,
    )
    assert isinstance(made, Drop) and made.reason == reason


ASKED = said("Is there a lesion?", None, gold=("yes",), kind="yes_no")
REASONED = (
    "Write the reasoning",
    {"reasoning": "A bright disc stands out on the left.", "answer": "yes"},
)
FINE = (
    ("Check whether", "Consistent. It follows."),
    ("Answer this", "yes"),
    ("Compare statements", {"unsupported": []}),
)


def test_reasoning_that_holds_becomes_the_answer(tmp_path: Path) -> None:
    made, asked = talked(chain_of_thought.step(), ASKED, teacher(REASONED, *FINE), tmp_path)
    assert isinstance(made, Sample)
    assert (
        made.messages[-1].text == "A bright disc stands out on the left.\n\n### Final Answer: yes"
    )
    assert made.messages[0].parts[:2] == (0, "Is there a lesion?") and "step" in made.question
    assert (made.meta.extra["blind"], made.meta.extra["claims"]) == ("right", "0")
    assert len(asked) == 4 and "Right answer" not in asked[2] and "yes" not in asked[2]


def test_the_answer_can_stand_in_tags(tmp_path: Path) -> None:
    made, _ = talked(
        chain_of_thought.step(shape="tags", blind="off", claims="off"),
        ASKED,
        teacher(REASONED, *FINE),
        tmp_path,
    )
    assert isinstance(made, Sample)
    assert (
        made.messages[-1].text
        == "<think>A bright disc stands out on the left.</think><answer>yes</answer>"
    )


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (
            [("Write the reasoning", {"reasoning": "There is none to be seen.", "answer": "no"})],
            "answer_changed",
        ),
        (
            [
                (
                    "Write the reasoning",
                    {"reasoning": "As the given answer says, it is there.", "answer": "yes"},
                )
            ],
            "cites_gold",
        ),
        ([REASONED, ("Check whether", "Inconsistent. It does not follow.")], "inconsistent"),
        ([REASONED, ("Check whether", "Well, perhaps.")], "no_verdict"),
        ([REASONED, FINE[0], ("Answer this", "no"), FINE[2]], "blind_wrong"),
        (
            [REASONED, *FINE[:2], ("Compare", {"unsupported": ["the disc is on the right"]})],
            "unsupported_claims",
        ),
    ],
)
def test_reasoning_that_does_not_hold_is_dropped(tmp_path: Path, rules: list, reason: str) -> None:
    made, _ = talked(chain_of_thought.step(blind="drop"), ASKED, teacher(*rules), tmp_path)
    assert isinstance(made, Drop) and made.reason == reason


def test_a_wrong_blind_answer_is_noted_by_default_and_text_has_no_claims_to_check(
    tmp_path: Path,
) -> None:
    rules = (
        (
            "Write the reasoning",
            {"reasoning": "Plants need it for sugar.", "answer": "B. Carbon dioxide"},
        ),
        FINE[0],
        ("Answer this", "A"),
    )
    made, asked = talked(chain_of_thought.step(), EXAM, teacher(*rules), tmp_path)
    assert (
        isinstance(made, Sample)
        and made.meta.extra["blind"] == "wrong"
        and "claims" not in made.meta.extra
        and len(asked) == 3
    )


# --- dialogues
# -------------------------------------------------------------------------------------------------------

REPLY = (
    "Please see a general practitioner soon, who can examine you. This is general information and"
    " no diagnosis at all."
)


def test_a_reply_behind_the_mark_replaces_the_doctors(tmp_path: Path) -> None:
    sample = said("My knee hurts.", "Take it easy. Dr. Jones", images=())
    made, asked = talked(
        rewrite_dialogue.step(), sample, teacher(("", f"Revised response: {REPLY}")), tmp_path
    )
    assert (
        isinstance(made, Sample)
        and made.messages[-1].text == REPLY
        and "My knee hurts." in asked[0]
    )


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (REPLY, "no_mark"),
        ("Revised response: See a doctor.", "too_short"),
        (f"Revised response: {REPLY} Write to me at somebody@example.org.", "identifiers"),
    ],
)
def test_rewritten_replies_that_cannot_be_used_are_dropped(
    tmp_path: Path, reply: str, reason: str
) -> None:
    made, _ = talked(
        rewrite_dialogue.step(),
        said("My knee hurts.", "Rest.", images=()),
        teacher(("", reply)),
        tmp_path,
    )
    assert isinstance(made, Drop) and made.reason == reason


# --- prompts
# ---------------------------------------------------------------------------------------------------------

STEPS: dict[str, Callable[..., TeacherStep]] = {
    "long_caption": long_caption.step,
    "vqa_self_instruct": vqa_self_instruct.step,
    "ocr_exam": ocr_exam.step,
    "chain_of_thought": chain_of_thought.step,
    "rewrite_dialogue": rewrite_dialogue.step,
}


@pytest.mark.parametrize("name", STEPS)
def test_prompts_are_data_with_a_version_and_a_digest(name: str, tmp_path: Path) -> None:
    own = prompts(name)
    assert STEPS[name]().prompts == own.tag and own.tag.startswith(f"{name} 1 ")
    changed = tmp_path / "prompts.md"
    text = (Path(prompts.__code__.co_filename).parent / "_prompts" / f"{name}.md").read_text(
        encoding="utf-8"
    )
    changed.write_text(text.replace("version 1", "version 2"), encoding="utf-8")
    assert STEPS[name](prompt_file=str(changed)).prompts.startswith(f"{name} 2 ")
    changed.write_text("version 2\n\n## else\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="section"):
        STEPS[name](prompt_file=str(changed))


def test_what_a_value_holds_is_not_filled_in(tmp_path: Path) -> None:
    sample = said("What is {gold}?", None, images=(), gold=("x",))
    _, asked = talked(chain_of_thought.step(), sample, teacher(("", json.dumps({}))), tmp_path)
    assert "Question: What is {gold}?" in asked[0]
