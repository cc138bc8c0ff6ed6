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

from lingshu.core.cached_client import CachedClient
from lingshu.core.errors import ConfigError
from lingshu.core.messages import user_turn
from lingshu.core.step_types import MapStep, TableStep, TeacherStep
from lingshu.core.teacher_prompts import ALTERNATIVE
from lingshu.core.types import Drop, Image, Message, Meta, Sample
from lingshu.engines.scripted import ScriptedEngine, engine_from_rules
from lingshu.imaging.cache import ImageCache
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
from lingshu.ops._teacher import step_prompts
from tests.support.step_runners import run_map_step, run_table_step

GRAY_IMAGE = Image(data=encode_png(np.full((40, 60), 90, np.uint8)))


def run_dialogue(
    step: TeacherStep, sample: Sample, teacher: ScriptedEngine, folder: Path
) -> tuple[Sample | Drop, list[str]]:
    """What a step makes of one sample, and all its prompts."""
    prompts: list[str] = []
    with (
        CachedClient(teacher, folder, images=image_bytes, max_attempts=1) as calls,
        ImageCache() as image_cache,
    ):
        dialogue = step.dialogue(sample, image_cache)
        values: Sequence[object] | None = None
        try:
            while True:
                requests = next(dialogue) if values is None else dialogue.send(values)
                prompts += [request.sample.question for request in requests]
                outcomes = calls.ask(requests, step.sampling)
                rejected = next((outcome for outcome in outcomes if outcome.reject_reason), None)
                if rejected:
                    return Drop(sample.id, rejected.reject_reason or "", rejected.detail), prompts
                values = [outcome.value for outcome in outcomes]
        except StopIteration as end:
            return end.value, prompts


def teacher(*rules: tuple[str, str | Mapping[str, object]]) -> ScriptedEngine:
    return engine_from_rules([{"pattern": prompt, "reply": reply} for prompt, reply in rules])


def qa_sample(
    question: str,
    answer: str | None,
    *,
    images: tuple[Image, ...] = (GRAY_IMAGE,),
    **metadata: object,
) -> Sample:
    gold, choices = metadata.pop("gold", None), metadata.pop("choices", ())
    turns = (
        user_turn(question, len(images)),
        *([Message("assistant", (answer,))] if answer else []),
    )
    meta_fields = {
        name: metadata.pop(name)
        for name in ("modality", "kind", "source", "access")
        if name in metadata
    }
    meta = Meta(**{"access": "open", **meta_fields}, extra={k: str(v) for k, v in metadata.items()})
    return Sample("s", turns, images, gold, choices, meta)  # type: ignore[arg-type]


# --- long captions
# ---------------------------------------------------------------------------------------------------

DESCRIPTION = {"overall": "a", "findings": "b", "relations": "c", "caption": "A trusted text."}
LONG = (
    "The image shows a mass of two centimetres in the upper part, with a regular border and a"
    " bright rim around its whole edge."
)
CAPTIONS = (
    ("trusted description", DESCRIPTION),
    ("experienced reader", "What can be seen."),
    ("Join them into one", LONG),
)


def test_a_long_caption_is_merged_from_the_metadata_and_the_view(tmp_path: Path) -> None:
    step = long_caption.step(
        caption="{label} in {modality}", facets=["label"], knowledge={"cyst": "Cysts hold fluid."}
    )
    sample = qa_sample("?", None, modality="ultrasound", label="cyst", age="77")
    result, prompts = run_dialogue(step, sample, teacher(*CAPTIONS), tmp_path)
    assert isinstance(result, Sample)
    assert (
        result.messages[-1].text == LONG
        and result.messages[0].parts[0] == 0
        and result.meta.kind == "caption"
    )
    assert (
        result.meta.extra["synthetic"] == "long_caption"
        and result.meta.extra[ALTERNATIVE] == "A trusted text."
    )
    assert (
        "cyst in ultrasound" in prompts[0]
        and "Cysts hold fluid" in prompts[0]
        and "Doppler" in prompts[1]
    )
    assert (
        "Description A: A trusted text." in prompts[2]
        and "Description B: What can be seen." in prompts[2]
    )
    assert not any("77" in text for text in prompts), "what the image cannot show is not told"


def test_boxes_are_only_on_the_image_for_the_metadata(tmp_path: Path) -> None:
    requests: list[Sample] = []
    sample = qa_sample("?", "a cyst", boxes="[[10, 5, 20, 15]]")
    step = long_caption.step()
    with ImageCache() as image_cache:
        dialogue = step.dialogue(sample, image_cache)
        requests = [request.sample for request in next(dialogue)]
    assert requests[1].images == (GRAY_IMAGE,) and requests[0].images != (GRAY_IMAGE,)
    with ImageCache() as image_cache:
        rendered, original = image_cache.rgb(requests[0].images[0]), image_cache.rgb(GRAY_IMAGE)
    assert (rendered[4, 9] == (255, 255, 0)).all() and (
        rendered[5:16, 10:21] == original[5:16, 10:21]
    ).all()
    assert "bright yellow" in requests[0].question and "bright yellow" not in requests[1].question


def test_a_mask_is_turned_into_rectangles_and_does_not_stay(tmp_path: Path) -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[5:16, 10:21] = 255
    sample = qa_sample("?", "a cyst", images=(GRAY_IMAGE, Image(data=encode_png(mask))), mask="1")
    result, _ = run_dialogue(long_caption.step(min_words=3), sample, teacher(*CAPTIONS), tmp_path)
    assert (
        isinstance(result, Sample)
        and result.images == (GRAY_IMAGE,)
        and "mask" not in result.meta.extra
    )


@pytest.mark.parametrize(
    ("final", "metadata", "reason"),
    [
        ("Too short.", {}, "too_short"),
        (LONG.replace("a mass", "a mass in the yellow box"), {}, "mentions_marks"),
        (LONG, {"boxes": "[[0, 0, 99, 99]]"}, "bad_boxes"),
        (LONG, {"boxes": "nonsense"}, "bad_boxes"),
        (LONG, {"mask": "7"}, "bad_boxes"),
    ],
)
def test_captions_that_cannot_be_used_are_dropped(
    tmp_path: Path, final: str, metadata: dict, reason: str
) -> None:
    result, _ = run_dialogue(
        long_caption.step(),
        qa_sample("?", "a cyst", **metadata),
        teacher(*CAPTIONS[:2], ("Join them", final)),
        tmp_path,
    )
    assert isinstance(result, Drop) and result.reason == reason


def test_an_unfilled_caption_template_is_not_a_caption(tmp_path: Path) -> None:
    result, prompts = run_dialogue(
        long_caption.step(caption="{label}"), qa_sample("?", "x"), teacher(*CAPTIONS), tmp_path
    )
    assert isinstance(result, Drop) and result.reason == "no_caption" and not prompts


# --- questions
# -------------------------------------------------------------------------------------------------------


def test_the_label_space_of_a_source_becomes_the_options() -> None:
    samples = [
        replace(
            qa_sample("?", None, source=source, label=label, modality="ct"), id=f"{source}{index}"
        )
        for source, labels in (
            ("lung", ("nodule", "normal", "effusion", "mass", "fibrosis")),
            ("skin", ("naevus", "melanoma")),
        )
        for index, label in enumerate(labels)
    ]
    with_labels = run_table_step(label_space.step(), samples)
    result = run_map_step(vqa_template.step(negative="normal", seed=3), with_labels.kept)
    assert len(result.kept) == 7 and not result.drops
    for sample in result.kept:
        source = sample.meta.source
        default = {
            "lung": {"nodule", "normal", "effusion", "mass", "fibrosis"},
            "skin": {"naevus", "melanoma"},
        }[str(source)]
        assert set(sample.choices) <= default and len(sample.choices) == min(4, len(default))
        assert (
            sample.gold
            and sample.choices["ABCD".index(sample.gold[0])] == sample.meta.extra["label"]
        )
        assert source != "lung" or "normal" in sample.choices
        assert (
            sample.messages[-1].text == sample.gold[0]
            and f"{sample.gold[0]}. {sample.meta.extra['label']}" in sample.question
        )
    assert len({sample.gold for sample in result.kept}) > 1, "options are shuffled"


def test_a_source_with_one_label_gives_no_question() -> None:
    result = run_table_step(
        label_space.step(),
        [qa_sample("?", None, source="a", label="x"), qa_sample("?", None, source="a")],
    )
    assert sorted(drop.reason for drop in result.drops) == ["few_labels", "no_label"]
    assert isinstance(label_space.step(), TableStep) and isinstance(vqa_template.step(), MapStep)


def test_a_self_instructed_question_has_shuffled_options(tmp_path: Path) -> None:
    item = {
        "question": "Which finding is shown?",
        "answer": "Pleural effusion",
        "wrong_answers": ["Pneumothorax", "Nodule"],
    }
    result, prompts = run_dialogue(
        vqa_self_instruct.step(),
        qa_sample("?", "Effusion on the left."),
        teacher(("examination questions", item)),
        tmp_path,
    )
    assert isinstance(result, Sample) and result.gold
    assert (
        result.choices["ABC".index(result.gold[0])] == "Pleural effusion"
        and len(result.choices) == 3
    )
    assert "What is known: Effusion on the left." in prompts[0]


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
    result, _ = run_dialogue(
        vqa_self_instruct.step(), qa_sample("?", "x"), teacher(("", reply)), tmp_path
    )
    assert isinstance(result, Drop) and result.reason == reason


# --- exams and reasoning
# ---------------------------------------------------------------------------------------------

EXAM = qa_sample(
    "Which gas do plants take up?\nA. Oxygen\nB. Carbon dioxide",
    None,
    images=(),
    gold=("B",),
    choices=("Oxygen", "Carbon dioxide"),
)


def test_an_exam_question_is_rendered_and_kept_where_the_answer_is_the_gold(tmp_path: Path) -> None:
    solution = teacher(("Solve this", {"reasoning": "Photosynthesis uses it.", "answer": "B"}))
    result, prompts = run_dialogue(ocr_exam.step(), EXAM, solution, tmp_path)
    assert (
        isinstance(result, Sample)
        and result.messages[-1].text == "Photosynthesis uses it.\n\n### Final Answer: B"
    )
    assert "plants" not in result.question and "Right answer" not in prompts[0]
    with ImageCache() as image_cache:
        pixels = image_cache.gray(result.images[0])
    assert pixels.shape[1] == 672 and (pixels < 128).sum() > 500


@pytest.mark.parametrize(
    ("sample", "answer", "reason"),
    [
        (EXAM, "A", "wrong_answer"),
        (replace(EXAM, gold=None), "B", "no_gold"),
        (qa_sample("What is H₂O 水?", "water", images=()), "water", "no_glyph"),
        (qa_sample("What?", "water"), "water", "has_images"),
        (qa_sample("word " * 3000, "water", images=()), "water", "too_long"),
    ],
)
def test_exam_questions_that_cannot_be_used_are_dropped(
    tmp_path: Path, sample: Sample, answer: str, reason: str
) -> None:
    result, _ = run_dialogue(
        ocr_exam.step(),
        sample,
        teacher(("", {"reasoning": "So it is.", "answer": answer})),
        tmp_path,
    )
    assert isinstance(result, Drop) and result.reason == reason


QUESTION = qa_sample("Is there a lesion?", None, gold=("yes",), kind="yes_no")
REASONED = (
    "Write the reasoning",
    {"reasoning": "A bright disc stands out on the left.", "answer": "yes"},
)
VALID_REPLY = (
    ("Check whether", "Consistent. It follows."),
    ("Answer this", "yes"),
    ("Compare statements", {"unsupported": []}),
)


def test_reasoning_that_holds_becomes_the_answer(tmp_path: Path) -> None:
    result, prompts = run_dialogue(
        chain_of_thought.step(), QUESTION, teacher(REASONED, *VALID_REPLY), tmp_path
    )
    assert isinstance(result, Sample)
    assert (
        result.messages[-1].text == "A bright disc stands out on the left.\n\n### Final Answer: yes"
    )
    assert result.messages[0].parts[:2] == (0, "Is there a lesion?") and "step" in result.question
    assert (result.meta.extra["blind"], result.meta.extra["claims"]) == ("right", "0")
    assert len(prompts) == 4 and "Right answer" not in prompts[2] and "yes" not in prompts[2]


def test_the_answer_can_be_in_tags(tmp_path: Path) -> None:
    result, _ = run_dialogue(
        chain_of_thought.step(answer_format="tags", blind="off", claims="off"),
        QUESTION,
        teacher(REASONED, *VALID_REPLY),
        tmp_path,
    )
    assert isinstance(result, Sample)
    assert (
        result.messages[-1].text
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
        (
            [("Write the reasoning", {"reasoning": "根据 给定的答案 ， 有 病灶", "answer": "yes"})],
            "cites_gold",
        ),
        ([REASONED, ("Check whether", "Inconsistent. It does not follow.")], "inconsistent"),
        ([REASONED, ("Check whether", "Well, perhaps.")], "no_verdict"),
        ([REASONED, VALID_REPLY[0], ("Answer this", "no"), VALID_REPLY[2]], "blind_wrong"),
        (
            [
                REASONED,
                *VALID_REPLY[:2],
                ("Compare", {"unsupported": ["the disc is on the right"]}),
            ],
            "unsupported_claims",
        ),
    ],
)
def test_reasoning_that_does_not_hold_is_dropped(tmp_path: Path, rules: list, reason: str) -> None:
    result, _ = run_dialogue(
        chain_of_thought.step(blind="drop"), QUESTION, teacher(*rules), tmp_path
    )
    assert isinstance(result, Drop) and result.reason == reason


def test_a_wrong_blind_answer_is_noted_by_default_and_text_has_no_claims_to_check(
    tmp_path: Path,
) -> None:
    rules = (
        (
            "Write the reasoning",
            {"reasoning": "Plants need it for sugar.", "answer": "B. Carbon dioxide"},
        ),
        VALID_REPLY[0],
        ("Answer this", "A"),
    )
    result, prompts = run_dialogue(chain_of_thought.step(), EXAM, teacher(*rules), tmp_path)
    assert (
        isinstance(result, Sample)
        and result.meta.extra["blind"] == "wrong"
        and "claims" not in result.meta.extra
        and len(prompts) == 3
    )


# --- dialogues
# -------------------------------------------------------------------------------------------------------

REPLY = (
    "Please see a general practitioner soon, who can examine you. This is general information and"
    " no diagnosis at all."
)


def test_a_reply_behind_the_mark_replaces_the_doctors(tmp_path: Path) -> None:
    sample = qa_sample("My knee hurts.", "Take it easy. Dr. Jones", images=())
    result, prompts = run_dialogue(
        rewrite_dialogue.step(), sample, teacher(("", f"Revised response: {REPLY}")), tmp_path
    )
    assert (
        isinstance(result, Sample)
        and result.messages[-1].text == REPLY
        and "My knee hurts." in prompts[0]
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
    result, _ = run_dialogue(
        rewrite_dialogue.step(),
        qa_sample("My knee hurts.", "Rest.", images=()),
        teacher(("", reply)),
        tmp_path,
    )
    assert isinstance(result, Drop) and result.reason == reason


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
    default = step_prompts(name)
    assert STEPS[name]().prompts == default.tag and default.tag.startswith(f"{name} 1 ")
    changed = tmp_path / "prompts.md"
    default_file = Path(chain_of_thought.__file__).with_name("_prompts") / f"{name}.md"
    text = default_file.read_text(encoding="utf-8")
    changed.write_text(text.replace("version 1", "version 2"), encoding="utf-8")
    assert STEPS[name](prompt_file=str(changed)).prompts.startswith(f"{name} 2 ")
    changed.write_text("version 2\n\n## else\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="section"):
        STEPS[name](prompt_file=str(changed))


def test_placeholders_in_a_value_are_not_filled_in(tmp_path: Path) -> None:
    sample = qa_sample("What is {gold}?", None, images=(), gold=("x",))
    _, prompts = run_dialogue(
        chain_of_thought.step(), sample, teacher(("", json.dumps({}))), tmp_path
    )
    assert "Question: What is {gold}?" in prompts[0]
