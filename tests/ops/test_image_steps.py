"""Steps that look at pictures: duplicates, burned-in text, modality, splits by group.

Pictures are drawn here.
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
from lingshu.core.nouns import Image, Sample
from lingshu.imaging.pictures import Pictures
from lingshu.ops import burned_in_text, image_dedup, split_by_group, tag_modality
from lingshu.ops._hamming import first_equal
from lingshu.ops._image_signature import perceptual_hash
from lingshu.ops._overlay_text import lines
from lingshu.sources import folders, phantom
from tests.ops.loops import decided, decision, mapped, said

DATA = Path(__file__).parents[3] / "shared" / "data"


@cache
def drawn(seed: int, side: int = 192) -> NDArray[np.uint8]:
    """A smooth grey picture that no other seed's is like."""
    coarse = np.random.default_rng(seed).integers(0, 200, (12, 12)).astype(np.uint8)
    return np.asarray(
        cv2.GaussianBlur(
            cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), (0, 0), 2
        ),
        np.uint8,
    )


def png(pixels: NDArray[np.uint8]) -> Image:
    return Image(data=cv2.imencode(".png", pixels)[1].tobytes())


def jpeg(pixels: NDArray[np.uint8], quality: int = 85) -> Image:
    return Image(
        data=cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
    )


def caption(name: str, image: Image, text: str = "A picture.", **facts: object) -> Sample:
    return said(name, "Describe.", text, images=[image], kind="caption", **facts)


# --- duplicates
# ----------------------------------------------------------------------------------------------------


def copies() -> list[Sample]:
    whole, small = (
        drawn(1),
        np.asarray(cv2.resize(drawn(1), (128, 128), interpolation=cv2.INTER_AREA), np.uint8),
    )
    return [
        caption("coded", jpeg(whole), "A chest film."),
        caption("whole", png(whole), "A film of the chest with much detail."),
        caption("small", png(small), "Small copy."),
        caption("equal", png(whole), "A film."),
        caption("other", png(drawn(2)), "Another."),
    ]


def test_copies_go_and_their_captions_stay() -> None:
    found = decided(image_dedup.step(), copies())
    assert found.ids == ["whole", "other"]
    assert found.reasons == {"coded": "image_near", "small": "image_near", "equal": "image_exact"}
    assert json.loads(found.kept[0].meta.extra["other_captions"]) == [
        "A chest film.",
        "Small copy.",
        "A film.",
    ]


def test_what_is_kept_does_not_depend_on_the_order() -> None:
    assert set(decided(image_dedup.step(), copies()[::-1]).ids) == {"whole", "other"}


def test_neighbouring_slices_of_one_series_stay_unless_equal() -> None:
    slightly = drawn(1).copy()
    slightly[:8, :8] += 3
    volume = [
        caption("1", png(drawn(1)), series="s"),
        caption("2", png(slightly), series="s"),
        caption("3", png(drawn(1)), series="s"),
    ]
    assert decided(image_dedup.step(), volume).ids == ["1", "2"]
    assert decided(image_dedup.step(series_guard=False), volume).ids == ["1"]
    assert decision(image_dedup.step(), volume).told["merges refused within a series"] == 1


def test_questions_about_one_image_all_stay() -> None:
    image = png(drawn(1))
    asked = [
        said("a", "Is it a lung?", "yes", images=[image]),
        said("b", "Which side?", "left", images=[image]),
        said("c", "is it a lung", "yes", images=[image]),
    ]
    assert decided(image_dedup.step(unit="image_text"), asked).ids == ["a", "b"]


def test_each_source_by_itself_and_the_better_ranked_source() -> None:
    pair = [caption("x/1", png(drawn(1))), caption("y/1", png(drawn(1)))]
    assert decided(image_dedup.step(), pair, sources=["x", "y"], ranks=[1, 0]).ids == ["y/1"]
    assert len(decided(image_dedup.step(across="source"), pair, sources=["x", "y"]).kept) == 2


def test_several_images_are_a_copy_where_all_are_equal() -> None:
    one, other = png(drawn(1)), png(drawn(2))
    samples = [
        said("a", "?", "x", images=[one, other]),
        said("b", "?", "x", images=[one, other]),
        said("c", "?", "x", images=[other, one]),
        said("d", "?", "x"),
    ]
    assert decided(image_dedup.step(), samples).reasons == {"b": "image_exact"}


def test_the_papers_variant_is_grouping_by_equal_hash() -> None:
    pictures = [drawn(seed % 5) for seed in range(12)]
    samples = [caption(f"{i:02}", jpeg(p, 60 + 3 * i)) for i, p in enumerate(pictures)]
    with Pictures() as opened:
        hashes = np.stack([perceptual_hash(opened.gray(s.images[0]), bits=64) for s in samples])
    kept = decided(image_dedup.step(bits=64, radius=0, series_guard=False), samples)
    assert len(kept.kept) == len(set(first_equal(hashes).tolist()))


# --- burned-in text
# ------------------------------------------------------------------------------------------------


def written(text: str, *, scale: float = 0.5, colour: int = 255) -> NDArray[np.uint8]:
    pixels = (drawn(3, 320) // 2).astype(np.uint8)
    cv2.putText(pixels, text, (8, 300), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)
    return pixels


def test_lines_of_text_are_found_where_they_are() -> None:
    found = lines(written("DOE JANE 19610403"))
    assert found and all(line.glyphs >= 4 and line.box[1] > 250 for line in found)
    assert lines(drawn(3, 320)) == []


def test_the_gate_holds_back_what_the_file_or_the_pixels_say() -> None:
    plain = png(drawn(3, 320))
    samples = [
        caption("written", png(written("DOE JANE 19610403"))),
        caption("side mark", png(written("L"))),
        caption("stated", plain, burned_in_risk="stated"),
        caption("likely", plain, burned_in_risk="likely"),
        caption("low", plain, burned_in_risk="low"),
    ]
    found = mapped(burned_in_text.step(), samples)
    assert found.reasons == {
        "written": "text_in_image",
        "stated": "burned_in_stated",
        "likely": "burned_in_likely",
    }
    assert mapped(burned_in_text.step(dicom="off", pixels=False), samples).drops == []
    noted = mapped(burned_in_text.step(dicom="stated", action="note"), samples).kept
    assert {s.id for s in noted if "burned_in_text" in s.meta.extra} == {"written", "stated"}


# --- modality
# ------------------------------------------------------------------------------------------------------


def test_stated_modalities_are_put_into_words_and_kept() -> None:
    samples = [
        caption("a", png(drawn(1)), modality="MR"),
        caption("b", png(drawn(1)), modality="dermoscopy"),
        said("text", "?", "x"),
    ]
    assert [s.meta.modality for s in mapped(tag_modality.step(), samples).kept] == [
        "MRI",
        "dermoscopy",
        None,
    ]


def test_pictures_unlike_any_learnt_are_not_tagged() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    stripes = np.zeros((96, 96, 3), np.uint8)
    stripes[::2] = (0, 255, 0)
    samples = [caption("noise", png(noise)), caption("stripes", png(stripes))]
    assert [s.meta.modality for s in mapped(tag_modality.step(), samples).kept] == [None, None]
    assert mapped(tag_modality.step(unsure="drop"), samples).reasons == dict.fromkeys(
        ("noise", "stripes"), "modality_unsure"
    )


@pytest.mark.parametrize(
    ("slice_name", "expected"),
    [("bccd_blood_smear", "microscopy"), ("busi_ultrasound", "ultrasound")],
)
def test_real_pictures_are_tagged(slice_name: str, expected: str) -> None:
    folder = DATA / slice_name / "images"
    if not folder.is_dir():
        pytest.skip("the data are not here")
    samples = [caption(path.name, Image(path=str(path))) for path in sorted(folder.iterdir())[:40]]
    tags = [s.meta.modality for s in mapped(tag_modality.step(), samples).kept]
    assert tags.count(expected) >= 0.9 * len(tags) and set(tags) <= {expected, None}


def test_an_encoder_of_ones_own_is_given_with_its_head(tmp_path: Path) -> None:
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
        {**head, "projection": [[1.0]], "centres": [[-1.0], [1.0]], "limit": 5.0, "least": 0.6},
    )
    step = tag_modality.tagger(lambda rgb: np.array([rgb.mean() / 128 - 1]), tmp_path / "head.json")
    dark, bright = np.full((8, 8, 3), 10, np.uint8), np.full((8, 8, 3), 240, np.uint8)
    assert [
        s.meta.modality
        for s in mapped(step, [caption("d", png(dark)), caption("b", png(bright))]).kept
    ] == ["dark", "bright"]
    write_json(tmp_path / "old.json", {"features": 0})
    with pytest.raises(InputError, match="train it anew"):
        mapped(tag_modality.step(head=str(tmp_path / "old.json")), [])


# --- splits
# --------------------------------------------------------------------------------------------------------


def grouped() -> list[Sample]:
    return [said(f"{g}-{i}", "?", "x", group=f"patient {g}") for g in range(60) for i in range(3)]


def test_a_patient_is_on_one_side_alone_whatever_the_order() -> None:
    found = {
        s.id: s.meta.extra["split"]
        for s in decided(split_by_group.step(validation=0.3), grouped()).kept
    }
    by_patient = {
        name.split("-")[0]: {found[f"{name.split('-')[0]}-{i}"] for i in range(3)} for name in found
    }
    assert all(len(sides) == 1 for sides in by_patient.values())
    assert 6 <= sum(sides == {"validation"} for sides in by_patient.values()) <= 30
    assert found == {
        s.id: s.meta.extra["split"]
        for s in decided(split_by_group.step(validation=0.3), grouped()[::-1]).kept
    }


def test_later_data_leave_the_others_where_they_were() -> None:
    def sides(samples: Sequence[Sample]) -> dict[str, str]:
        return {
            s.id: s.meta.extra["split"]
            for s in decided(split_by_group.step(validation=0.3), samples).kept
        }

    before, after = sides(grouped()[:90]), sides(grouped())
    assert before.items() <= after.items()


def test_a_shared_image_ties_patients_together() -> None:
    shared = png(drawn(1))
    tied = [said(f"{g}", "?", "x", group=f"patient {g}", images=[shared]) for g in range(12)]
    assert (
        len(
            {s.meta.extra["split"] for s in decided(split_by_group.step(validation=0.5), tied).kept}
        )
        == 1
    )
    assert (
        len(
            {
                s.meta.extra["split"]
                for s in decided(split_by_group.step(validation=0.5, images=False), tied).kept
            }
        )
        == 2
    )


def test_one_side_can_be_dropped() -> None:
    both = decision(split_by_group.step(validation=0.3), grouped())
    train = decided(split_by_group.step(validation=0.3, keep="train"), grouped())
    assert len(train.kept) == both.told["train"] and {d.reason for d in train.drops} == {"held_out"}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: image_dedup.step(bits=128),
        lambda: image_dedup.step(radius=40),
        lambda: image_dedup.step(unit="file"),
        lambda: burned_in_text.step(dicom="all"),
        lambda: burned_in_text.step(min_glyphs=1),
        lambda: tag_modality.step(least=2),
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
    tagged = mapped(tag_modality.step(), samples)
    gated = mapped(burned_in_text.step(), tagged.kept)
    kept = (
        decided(split_by_group.step(validation=0.2), decided(image_dedup.step(), gated.kept).kept)
        if gated.kept
        else gated
    )
    assert len(samples) == len(tagged.kept) and all(s.meta.extra.get("split") for s in kept.kept)
    # MedPix writes its mark into every picture; blood smears and tiny chest films hold no text.
    assert (
        (len(gated.drops) >= 14)
        if slice_name == "vqa_rad"
        else (slice_name == "busi_ultrasound" or not gated.drops)
    )


def test_phantoms_are_steps_too() -> None:
    samples = [s for s in phantom.questions(0, "train", 6) if isinstance(s, Sample)]
    assert len(decided(image_dedup.step(unit="image_text"), samples).kept) > 6
