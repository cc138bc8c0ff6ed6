"""Text and caption duplicates, and decontamination against test sets: planted cases."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from lingshu.core.errors import ConfigError, UnknownName
from lingshu.core.nouns import Image, Sample
from lingshu.ops import caption_dedup, decontaminate, text_dedup
from tests.ops.loops import decided, decision, said

LONG = (
    "The film of the chest shows a large opacity in the right upper lobe with loss of volume and a"
    " shift of the trachea to that side"
)
NEAR = LONG.removesuffix("side") + "end"
REPORT = "The lungs are clear and the heart is of normal size without effusion"


def png(seed: int, side: int = 64) -> Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8)).astype(np.uint8)
    return Image(
        data=cv2.imencode(".png", cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC))[
            1
        ].tobytes()
    )


def test_the_better_ranked_source_keeps_a_near_duplicate() -> None:
    samples = [
        said("a/1", "", LONG),
        said("b/1", "", NEAR),
        said("b/2", "", LONG.upper() + "!"),
        said("b/3", "", "Something else entirely, of a few words."),
    ]
    found = decided(
        text_dedup.step(of="answer"), samples, sources=["a", "b", "b", "b"], ranks=[1, 0, 0, 0]
    )
    assert found.ids == ["b/2", "b/3"]  # of rank 0 the longest
    assert found.reasons == {"a/1": "text_exact", "b/1": "text_near"}
    assert set(decided(text_dedup.step(of="answer"), samples[::-1], ranks=[0, 0, 0, 1]).ids) == {
        "b/2",
        "b/3",
    }


def test_short_texts_are_no_duplicates_by_themselves() -> None:
    assert (
        len(
            decided(
                text_dedup.step(),
                [said("1", "Which organ?", "lung"), said("2", "Which organ?", "lung")],
            ).kept
        )
        == 2
    )


def test_reports_are_compared_with_those_of_the_same_image_alone() -> None:
    samples = [
        said("1", "", REPORT, images=[png(1)]),
        said("2", "", REPORT, images=[png(2)]),
        said("3", "", REPORT + ".", images=[png(2)]),
        said("4", "", REPORT),
    ]
    assert decided(text_dedup.step(unit="image_text", of="answer"), samples).reasons == {
        "2": "text_exact"
    }
    assert len(decided(text_dedup.step(of="answer"), samples).kept) == 1


def test_many_texts_about_one_image_are_searched_by_minhash() -> None:
    image = png(1)
    samples = [
        said(
            f"{i:02}",
            "",
            (
                f"{LONG} number {i} of many"
                if i % 2
                else f"case {i} {i * 7} {i * 11} differs {i * 13} {i * 17} wholly {i}"
            ),
            images=[image],
        )
        for i in range(40)
    ]
    assert len(decided(text_dedup.step(unit="image_text", of="answer"), samples).kept) == 21


def test_a_caption_stays_in_the_best_source_alone() -> None:
    def figure(name: str, text: str) -> Sample:
        return said(name, "Describe.", text, kind="caption")

    samples = [
        figure("pmc/1", LONG),
        figure("pmc/2", LONG),
        figure("roco/1", LONG + "."),
        figure("roco/2", "Too short to tell."),
        figure("pmc/3", "Too short to tell."),
    ]
    found = decided(
        caption_dedup.step(),
        samples,
        sources=["pmc", "pmc", "roco", "roco", "pmc"],
        ranks=[1, 1, 0, 0, 1],
    )
    assert found.ids == ["roco/1", "roco/2", "pmc/3"] and set(found.reasons.values()) == {
        "caption_elsewhere"
    }


def test_a_phrase_that_one_source_repeats_is_no_figure() -> None:
    samples = [said(f"x/{i}", "", LONG, kind="caption") for i in range(6)] + [
        said("y/1", "", LONG, kind="caption")
    ]
    found = decision(caption_dedup.step(), samples, sources=[*["x"] * 6, "y"])
    assert not found.drops and found.told["phrases left alone"] == 1


# --- decontamination
# -------------------------------------------------------------------------------------------------


@pytest.fixture
def test_set(tmp_path: Path) -> Path:
    (tmp_path / "one.png").write_bytes(png(1).data or b"")
    rows = [
        {
            "id": "t1",
            "question": f"{LONG}. What is the most likely diagnosis in this case?",
            "choices": ["cancer", "pneumonia"],
            "answer": "A",
        },
        {"id": "t2", "question": "Is there a fracture?", "answer": "no", "image": "one.png"},
        {
            "id": "t3",
            "question": (
                "What is shown here and how would one go about treating it in an emergency?"
            ),
            "answer": "a fracture",
            "group": "p7",
        },
    ]
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(json.dumps(row) for row in rows), encoding="utf-8"
    )
    return tmp_path


def train() -> list[Sample]:
    return [
        said("text", f"{LONG}. What is the most likely diagnosis in this case?", "cancer"),
        said("image", "Describe it.", "A bone.", images=[png(1)]),
        said("bigger", "Describe it.", "A bone.", images=[png(1, 96)]),
        said("question", "Is there a fracture?", "no", images=[png(1)]),
        said("study", "Anything?", "no", group="p7"),
        said("short", "Is there a fracture?", "no", images=[png(9)]),
        said(
            "clean",
            "Which organ is shown in this picture of the abdomen?",
            "liver",
            images=[png(8)],
        ),
    ]


def test_planted_overlaps_are_dropped_and_short_questions_are_not(test_set: Path) -> None:
    found = decided(decontaminate.step(against=[str(test_set)]), train())
    assert found.ids == ["short", "clean"]
    reasons = found.reasons
    assert reasons["text"] == "overlap_exact_text" and reasons["study"] == "overlap_study"
    assert reasons["image"] == reasons["question"] == "overlap_image_exact"
    assert reasons["bigger"] == "overlap_image_near" and "t2" in found.drops[1].detail


def test_kinds_left_out_are_noted(test_set: Path) -> None:
    step = decontaminate.step(
        against=[str(test_set / "rows.jsonl")], drop=["exact_text", "image_exact"]
    )
    kept = {s.id: s.meta.extra.get("overlap", "") for s in decided(step, train()).kept}
    assert (
        kept["bigger"].startswith("image_near")
        and kept["study"].startswith("study")
        and kept["clean"] == ""
    )
    assert step.reads == (str(test_set / "rows.jsonl"),)


def test_a_task_by_its_name(test_set: Path) -> None:
    step = decontaminate.step(against=["vqa"], data=str(test_set))
    assert decided(step, train()).ids == ["short", "clean"]
    told = decision(step, train()).told
    assert told["items of vqa"] == 3 and told["items of vqa found"] == 3


def test_items_of_a_test_set_that_cannot_be_compared_are_told(test_set: Path) -> None:
    with (test_set / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write(
            '\n{"id": "lost", "question": "What is shown here?", "answer": "a lung", "image":'
            ' "gone.png"}\n'
        )
    told = decision(decontaminate.step(against=[str(test_set)]), train()).told
    assert told[f"items of {test_set}"] == 3 and told[f"items of {test_set} not read"] == 1


def test_an_unknown_task_is_refused_at_once() -> None:
    with pytest.raises(UnknownName, match="vqa_rad"):
        decontaminate.step(against=["vqa_rat"])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: text_dedup.step(threshold=0),
        lambda: text_dedup.step(unit="word"),
        lambda: caption_dedup.step(min_words=2),
        lambda: decontaminate.step(against=[]),
        lambda: decontaminate.step(against=["vqa_rad"], drop=["boilerplate"]),
        lambda: decontaminate.step(against=["vqa_rad"], radius=99),
    ],
)
def test_parameters_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(ConfigError):
        wrong()
