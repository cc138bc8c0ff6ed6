"""Text and caption duplicates, and decontamination against test sets: planted cases."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from lingshu.core.errors import ConfigError, UnknownNameError
from lingshu.core.types import Image, Sample
from lingshu.ops import caption_dedup, decontaminate, text_dedup
from tests.support.step_runners import qa_sample, run_decide, run_table_step

LONG = (
    "The film of the chest shows a large opacity in the right upper lobe with loss of volume and a"
    " shift of the trachea to that side"
)
NEAR = LONG.removesuffix("side") + "end"
REPORT = "The lungs are clear and the heart is of normal size without effusion"


def png(seed: int, side: int = 64) -> Image:
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8)).astype(np.uint8)
    return Image(
        data=cv2.imencode(".png", cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC))[
            1
        ].tobytes()
    )


def test_the_better_ranked_source_keeps_a_near_duplicate() -> None:
    samples = [
        qa_sample("a/1", "", LONG),
        qa_sample("b/1", "", NEAR),
        qa_sample("b/2", "", LONG.upper() + "!"),
        qa_sample("b/3", "", "Something else entirely, of a few words."),
    ]
    result = run_table_step(
        text_dedup.step(field="answer"), samples, sources=["a", "b", "b", "b"], ranks=[1, 0, 0, 0]
    )
    assert result.ids == ["b/2", "b/3"]  # of rank 0 the longest
    assert result.reasons == {"a/1": "text_exact", "b/1": "text_near"}
    assert set(
        run_table_step(text_dedup.step(field="answer"), samples[::-1], ranks=[0, 0, 0, 1]).ids
    ) == {
        "b/2",
        "b/3",
    }


def test_short_texts_are_no_duplicates_by_themselves() -> None:
    assert (
        len(
            run_table_step(
                text_dedup.step(),
                [qa_sample("1", "Which organ?", "lung"), qa_sample("2", "Which organ?", "lung")],
            ).kept
        )
        == 2
    )


def test_reports_are_compared_with_those_of_the_same_image_alone() -> None:
    samples = [
        qa_sample("1", "", REPORT, images=[png(1)]),
        qa_sample("2", "", REPORT, images=[png(2)]),
        qa_sample("3", "", REPORT + ".", images=[png(2)]),
        qa_sample("4", "", REPORT),
    ]
    assert run_table_step(text_dedup.step(unit="image_text", field="answer"), samples).reasons == {
        "2": "text_exact"
    }
    assert len(run_table_step(text_dedup.step(field="answer"), samples).kept) == 1


def test_many_texts_about_one_image_are_searched_by_minhash() -> None:
    image = png(1)
    samples = [
        qa_sample(
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
    assert (
        len(run_table_step(text_dedup.step(unit="image_text", field="answer"), samples).kept) == 21
    )


def test_a_caption_stays_in_the_best_source_alone() -> None:
    def figure(name: str, text: str) -> Sample:
        return qa_sample(name, "Describe.", text, kind="caption")

    samples = [
        figure("pmc/1", LONG),
        figure("pmc/2", LONG),
        figure("roco/1", LONG + "."),
        figure("roco/2", "Too short to tell."),
        figure("pmc/3", "Too short to tell."),
    ]
    result = run_table_step(
        caption_dedup.step(),
        samples,
        sources=["pmc", "pmc", "roco", "roco", "pmc"],
        ranks=[1, 1, 0, 0, 1],
    )
    assert result.ids == ["roco/1", "roco/2", "pmc/3"] and set(result.reasons.values()) == {
        "caption_in_other_source"
    }


def test_a_phrase_that_one_source_repeats_is_not_a_figure() -> None:
    samples = [qa_sample(f"x/{i}", "", LONG, kind="caption") for i in range(6)] + [
        qa_sample("y/1", "", LONG, kind="caption")
    ]
    result = run_decide(caption_dedup.step(), samples, sources=[*["x"] * 6, "y"])
    assert not result.drops and result.stats["phrases left alone"] == 1


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
        qa_sample("text", f"{LONG}. What is the most likely diagnosis in this case?", "cancer"),
        qa_sample("image", "Describe it.", "A bone.", images=[png(1)]),
        qa_sample("bigger", "Describe it.", "A bone.", images=[png(1, 96)]),
        qa_sample("question", "Is there a fracture?", "no", images=[png(1)]),
        qa_sample("study", "Anything?", "no", group="p7"),
        qa_sample("short", "Is there a fracture?", "no", images=[png(9)]),
        qa_sample(
            "clean",
            "Which organ is shown in this picture of the abdomen?",
            "liver",
            images=[png(8)],
        ),
    ]


def test_planted_overlaps_are_dropped_and_short_questions_are_not(test_set: Path) -> None:
    result = run_table_step(decontaminate.step(against=[str(test_set)]), train())
    assert result.ids == ["short", "clean"]
    reasons = result.reasons
    assert reasons["text"] == "overlap_exact_text" and reasons["study"] == "overlap_study"
    assert reasons["image"] == reasons["question"] == "overlap_image_exact"
    assert reasons["bigger"] == "overlap_image_near" and "t2" in result.drops[1].detail


def test_kinds_left_out_are_noted(test_set: Path) -> None:
    step = decontaminate.step(
        against=[str(test_set / "rows.jsonl")], drop=["exact_text", "image_exact"]
    )
    kept = {s.id: s.meta.extra.get("overlap", "") for s in run_table_step(step, train()).kept}
    assert (
        kept["bigger"].startswith("image_near")
        and kept["study"].startswith("study")
        and kept["clean"] == ""
    )
    assert step.input_files == (str(test_set / "rows.jsonl"),)


def test_a_task_by_its_name(test_set: Path) -> None:
    step = decontaminate.step(against=["vqa"], data=str(test_set))
    assert run_table_step(step, train()).ids == ["short", "clean"]
    stats = run_decide(step, train()).stats
    assert stats["items of vqa"] == 3 and stats["items of vqa found"] == 3


def test_items_of_a_test_set_that_cannot_be_compared_are_reported(test_set: Path) -> None:
    with (test_set / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write(
            '\n{"id": "lost", "question": "What is shown here?", "answer": "a lung", "image":'
            ' "gone.png"}\n'
        )
    stats = run_decide(decontaminate.step(against=[str(test_set)]), train()).stats
    assert stats[f"items of {test_set}"] == 3 and stats[f"items of {test_set} not read"] == 1


def test_an_unknown_task_is_refused_at_once() -> None:
    with pytest.raises(UnknownNameError, match="vqa_rad"):
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
