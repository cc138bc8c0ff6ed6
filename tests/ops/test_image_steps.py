"""Steps on images: duplicates, burned-in text, modality, splits by group.

The images are rendered here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from lingshu.core.errors import ConfigError, InputError
from lingshu.core.files import write_json
from lingshu.core.types import Image, Sample
from lingshu.deidentify.overlay_text import find_text_lines
from lingshu.imaging.cache import ImageCache
from lingshu.ops import burned_in_text, image_dedup, split_by_group, tag_modality
from lingshu.search.hamming import first_occurrence
from lingshu.search.image_hash import perceptual_hash
from lingshu.sources import folders, phantom
from tests.support.step_runners import qa_sample, run_decide, run_map_step, run_table_step

DATA = Path(__file__).parents[3] / "shared" / "data"


@cache
def random_image(seed: int, side: int = 192) -> NDArray[np.uint8]:
    """A smooth gray image that no other seed's is like."""
    noise = np.random.default_rng(seed).integers(0, 200, (12, 12)).astype(np.uint8)
    return np.asarray(
        cv2.GaussianBlur(cv2.resize(noise, (side, side), interpolation=cv2.INTER_CUBIC), (0, 0), 2),
        np.uint8,
    )


def png(pixels: NDArray[np.uint8]) -> Image:
    return Image(data=cv2.imencode(".png", pixels)[1].tobytes())


def jpeg(pixels: NDArray[np.uint8], quality: int = 85) -> Image:
    return Image(
        data=cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    )


def caption(name: str, image: Image, text: str = "A picture.", **metadata: object) -> Sample:
    return qa_sample(name, "Describe.", text, images=[image], kind="caption", **metadata)


# --- duplicates
# ----------------------------------------------------------------------------------------------------


def duplicate_samples() -> list[Sample]:
    original, resized = (
        random_image(1),
        np.asarray(cv2.resize(random_image(1), (128, 128), interpolation=cv2.INTER_AREA), np.uint8),
    )
    return [
        caption("coded", jpeg(original), "A chest film."),
        caption("whole", png(original), "A film of the chest with much detail."),
        caption("small", png(resized), "Small copy."),
        caption("equal", png(original), "A film."),
        caption("other", png(random_image(2)), "Another."),
    ]


def test_copies_are_dropped_and_their_captions_kept() -> None:
    result = run_table_step(image_dedup.step(), duplicate_samples())
    assert result.ids == ["whole", "other"]
    assert result.reasons == {"coded": "image_near", "small": "image_near", "equal": "image_exact"}
    assert json.loads(result.kept[0].meta.extra["other_captions"]) == [
        "A chest film.",
        "Small copy.",
        "A film.",
    ]


def test_what_is_kept_does_not_depend_on_the_order() -> None:
    assert set(run_table_step(image_dedup.step(), duplicate_samples()[::-1]).ids) == {
        "whole",
        "other",
    }


def test_neighboring_slices_of_one_series_stay_unless_equal() -> None:
    neighbor = random_image(1).copy()
    neighbor[:8, :8] += 3
    volume = [
        caption("1", png(random_image(1)), series="s"),
        caption("2", png(neighbor), series="s"),
        caption("3", png(random_image(1)), series="s"),
    ]
    assert run_table_step(image_dedup.step(), volume).ids == ["1", "2"]
    assert run_table_step(image_dedup.step(protect_series=False), volume).ids == ["1"]
    assert run_decide(image_dedup.step(), volume).stats["merges refused within a series"] == 1


def test_questions_about_one_image_all_stay() -> None:
    image = png(random_image(1))
    questions = [
        qa_sample("a", "Is it a lung?", "yes", images=[image]),
        qa_sample("b", "Which side?", "left", images=[image]),
        qa_sample("c", "is it a lung", "yes", images=[image]),
    ]
    assert run_table_step(image_dedup.step(unit="image_text"), questions).ids == ["a", "b"]


def test_each_source_by_itself_and_the_better_ranked_source() -> None:
    pair = [caption("x/1", png(random_image(1))), caption("y/1", png(random_image(1)))]
    assert run_table_step(image_dedup.step(), pair, sources=["x", "y"], ranks=[1, 0]).ids == ["y/1"]
    assert (
        len(run_table_step(image_dedup.step(across="source"), pair, sources=["x", "y"]).kept) == 2
    )


def test_several_images_are_a_copy_where_all_are_equal() -> None:
    first, second = png(random_image(1)), png(random_image(2))
    samples = [
        qa_sample("a", "?", "x", images=[first, second]),
        qa_sample("b", "?", "x", images=[first, second]),
        qa_sample("c", "?", "x", images=[second, first]),
        qa_sample("d", "?", "x"),
    ]
    assert run_table_step(image_dedup.step(), samples).reasons == {"b": "image_exact"}


def test_the_papers_variant_is_grouping_by_equal_hash() -> None:
    image_cache = [random_image(seed % 5) for seed in range(12)]
    samples = [caption(f"{i:02}", jpeg(p, 60 + 3 * i)) for i, p in enumerate(image_cache)]
    with ImageCache() as function:
        hashes = np.stack([perceptual_hash(function.gray(s.images[0]), bits=64) for s in samples])
    kept = run_table_step(image_dedup.step(bits=64, radius=0, protect_series=False), samples)
    assert len(kept.kept) == len(set(first_occurrence(hashes).tolist()))


# --- burned-in text
# ------------------------------------------------------------------------------------------------


def image_with_text(text: str, *, scale: float = 0.5, color: int = 255) -> NDArray[np.uint8]:
    pixels = (random_image(3, 320) // 2).astype(np.uint8)
    cv2.putText(pixels, text, (8, 300), cv2.FONT_HERSHEY_SIMPLEX, scale, color, 1, cv2.LINE_AA)
    return pixels


def test_lines_of_text_are_found_where_they_are() -> None:
    result = find_text_lines(image_with_text("DOE JANE 19610403"))
    assert result and all(line.n_glyphs >= 4 and line.box[1] > 250 for line in result)
    assert find_text_lines(random_image(3, 320)) == []


def test_the_gate_holds_back_what_the_file_or_the_pixels_contain() -> None:
    plain = png(random_image(3, 320))
    samples = [
        caption("written", png(image_with_text("DOE JANE 19610403"))),
        caption("side mark", png(image_with_text("L"))),
        caption("stated", plain, burned_in_risk="stated"),
        caption("likely", plain, burned_in_risk="likely"),
        caption("low", plain, burned_in_risk="low"),
    ]
    result = run_map_step(burned_in_text.step(), samples)
    assert result.reasons == {
        "written": "text_in_image",
        "stated": "burned_in_stated",
        "likely": "burned_in_likely",
    }
    assert run_map_step(burned_in_text.step(dicom="off", scan_pixels=False), samples).drops == []
    noted = run_map_step(burned_in_text.step(dicom="stated", action="note"), samples).kept
    assert {s.id for s in noted if "burned_in_text" in s.meta.extra} == {"written", "stated"}


# --- modality
# ------------------------------------------------------------------------------------------------------


def test_stated_modalities_are_normalized_and_kept() -> None:
    samples = [
        caption("a", png(random_image(1)), modality="MR"),
        caption("b", png(random_image(1)), modality="dermoscopy"),
        qa_sample("text", "?", "x"),
    ]
    assert [s.meta.modality for s in run_map_step(tag_modality.step(), samples).kept] == [
        "MRI",
        "dermoscopy",
        None,
    ]


def test_images_unlike_the_training_data_are_not_tagged() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[::2] = (0, 255, 0)
    samples = [caption("noise", png(noise)), caption("stripes", png(stripes))]
    assert [s.meta.modality for s in run_map_step(tag_modality.step(), samples).kept] == [
        None,
        None,
    ]
    assert run_map_step(tag_modality.step(on_uncertain="drop"), samples).reasons == dict.fromkeys(
        ("noise", "stripes"), "modality_unsure"
    )


@pytest.mark.parametrize(
    ("slice_name", "expected"),
    [("bccd_blood_smear", "microscopy"), ("busi_ultrasound", "ultrasound")],
)
def test_real_images_are_tagged(slice_name: str, expected: str) -> None:
    folder = DATA / slice_name / "images"
    if not folder.is_dir():
        pytest.skip("the data are not here")
    samples = [caption(path.name, Image(path=str(path))) for path in sorted(folder.iterdir())[:40]]
    tags = [s.meta.modality for s in run_map_step(tag_modality.step(), samples).kept]
    assert tags.count(expected) >= 0.9 * len(tags) and set(tags) <= {expected, None}


def test_a_custom_encoder_is_given_with_its_head(tmp_path: Path) -> None:
    head = {
        "features": "given",
        "modalities": ["dark", "bright"],
        "mean": [0.0],
        "scale": [1.0],
        "weights": [[-4.0, 4.0]],
        "bias": [0.0, 0.0],
    }
    write_json(
        tmp_path / "head.json",
        {
            **head,
            "projection": [[1.0]],
            "centers": [[-1.0], [1.0]],
            "max_distance": 5.0,
            "min_probability": 0.6,
        },
    )
    step = tag_modality.tagging_step(
        lambda rgb: np.array([rgb.mean() / 128 - 1]), tmp_path / "head.json"
    )
    dark, bright = np.full((8, 8, 3), 10, np.uint8), np.full((8, 8, 3), 240, np.uint8)
    assert [
        s.meta.modality
        for s in run_map_step(step, [caption("d", png(dark)), caption("b", png(bright))]).kept
    ] == ["dark", "bright"]
    write_json(tmp_path / "old.json", {"features": 0})
    with pytest.raises(InputError, match="train it again"):
        run_map_step(tag_modality.step(head=str(tmp_path / "old.json")), [])


# --- splits
# --------------------------------------------------------------------------------------------------------


def grouped() -> list[Sample]:
    return [
        qa_sample(f"{g}-{i}", "?", "x", group=f"patient {g}") for g in range(60) for i in range(3)
    ]


def test_a_patient_is_on_one_side_alone_whatever_the_order() -> None:
    result = {
        s.id: s.meta.extra["split"]
        for s in run_table_step(split_by_group.step(validation=0.3), grouped()).kept
    }
    by_patient = {
        name.split("-")[0]: {result[f"{name.split('-')[0]}-{i}"] for i in range(3)}
        for name in result
    }
    assert all(len(splits) == 1 for splits in by_patient.values())
    assert 6 <= sum(splits == {"validation"} for splits in by_patient.values()) <= 30
    assert result == {
        s.id: s.meta.extra["split"]
        for s in run_table_step(split_by_group.step(validation=0.3), grouped()[::-1]).kept
    }


def test_later_data_leave_the_others_where_they_were() -> None:
    def splits(samples: Sequence[Sample]) -> dict[str, str]:
        return {
            s.id: s.meta.extra["split"]
            for s in run_table_step(split_by_group.step(validation=0.3), samples).kept
        }

    before, after = splits(grouped()[:90]), splits(grouped())
    assert before.items() <= after.items()


def test_a_shared_image_ties_patients_together() -> None:
    shared = png(random_image(1))
    result = [qa_sample(f"{g}", "?", "x", group=f"patient {g}", images=[shared]) for g in range(12)]
    assert (
        len(
            {
                s.meta.extra["split"]
                for s in run_table_step(split_by_group.step(validation=0.5), result).kept
            }
        )
        == 1
    )
    assert (
        len(
            {
                s.meta.extra["split"]
                for s in run_table_step(
                    split_by_group.step(validation=0.5, images=False), result
                ).kept
            }
        )
        == 2
    )


def test_one_side_can_be_dropped() -> None:
    both = run_decide(split_by_group.step(validation=0.3), grouped())
    train = run_table_step(split_by_group.step(validation=0.3, keep="train"), grouped())
    assert len(train.kept) == both.stats["train"] and {d.reason for d in train.drops} == {
        "held_out"
    }


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: image_dedup.step(bits=128),
        lambda: image_dedup.step(radius=40),
        lambda: image_dedup.step(unit="file"),
        lambda: burned_in_text.step(dicom="all"),
        lambda: burned_in_text.step(min_glyphs=1),
        lambda: tag_modality.step(min_probability=2),
        lambda: split_by_group.step(validation=1),
    ],
)
def test_parameters_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(ConfigError):
        wrong()


# --- real folders through a chain of steps
# ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "slice_name", ["vqa_rad", "busi_ultrasound", "bccd_blood_smear", "pneumoniamnist_cxr"]
)
def test_real_folders_go_through(slice_name: str) -> None:
    folder = DATA / slice_name / "images"
    if not folder.is_dir():
        pytest.skip("the data are not here")
    samples = [s for s in folders.read(folder, labels=False) if isinstance(s, Sample)][:16]
    assert samples
    tagged = run_map_step(tag_modality.step(), samples)
    passed = run_map_step(burned_in_text.step(), tagged.kept)
    kept = (
        run_table_step(
            split_by_group.step(validation=0.2),
            run_table_step(image_dedup.step(), passed.kept).kept,
        )
        if passed.kept
        else passed
    )
    assert len(samples) == len(tagged.kept) and all(s.meta.extra.get("split") for s in kept.kept)
    # MedPix writes its mark into every image; blood smears and tiny chest films hold no text.
    assert (
        (len(passed.drops) >= 14)
        if slice_name == "vqa_rad"
        else (slice_name == "busi_ultrasound" or not passed.drops)
    )


def test_phantoms_are_steps_too() -> None:
    samples = [s for s in phantom.question_samples(0, "train", 6) if isinstance(s, Sample)]
    assert len(run_table_step(image_dedup.step(unit="image_text"), samples).kept) > 6
