"""Folders of images: labels from folders, patients from paths, and names that need not be carried."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from lingshu.core.errors import InputError
from lingshu.core.types import Drop, Sample
from lingshu.imaging.read import open_image
from lingshu.sources import folders
from lingshu.sources._masks import find_masks
from tests.support.source_files import JPEG, KEY, PNG, drop_reasons, only_samples


def write_files(root: Path, **files: bytes) -> Path:
    for name, data in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def test_the_first_folder_is_the_label(tmp_path: Path) -> None:
    root = write_files(tmp_path, normal__a_dot_png=PNG, ill__deep__b_dot_JPG=JPEG, c_dot_png=PNG)
    found = only_samples(folders.read(root))
    assert [(s.id, s.meta.extra.get("label")) for s in found] == [
        ("c.png", None),
        ("ill/deep/b.JPG", "ill"),
        ("normal/a.png", "normal"),
    ]
    assert (
        found[0].messages[0].parts == (0,)
        and found[0].gold is None
        and found[0].meta.access == "private"
    )
    with_question = only_samples(folders.read(root, question="Which class?"))
    assert (
        with_question[1].gold == ("ill",)
        and with_question[1].question == "Which class?"
        and with_question[1].meta.kind == "label"
    )
    assert not any(s.meta.extra for s in only_samples(folders.read(root, labels=False)))


def test_what_is_left_out_has_a_reason(tmp_path: Path) -> None:
    root = write_files(tmp_path, a_dot_png=PNG, a_mask_dot_png=PNG, notes_dot_txt=b"x")
    (root / "link.png").symlink_to(root / "a.png")
    (root / "circle").symlink_to(root, target_is_directory=True)
    assert drop_reasons(folders.read(root, exclude=["*_mask.png"])) == [
        "excluded",
        "link",
        "not_an_image",
    ]


def test_patients_are_found_in_paths_and_hashed(tmp_path: Path) -> None:
    root = write_files(
        tmp_path,
        ill__person17_1_dot_png=PNG,
        ill__person17_2_dot_png=PNG,
        ill__person18_1_dot_png=PNG,
    )
    one, two, three = only_samples(folders.read(root, patient=r"person(\d+)", key=KEY))
    assert one.meta.group == two.meta.group != three.meta.group
    with pytest.raises(InputError, match="needs a group"):
        list(folders.read(root, patient="person"))


def test_names_need_not_be_carried(tmp_path: Path) -> None:
    root = write_files(
        tmp_path,
        ZZNAME__ZZSCAN_dot_png=PNG,
        ZZNAME__ZZTEXT_dot_txt=b"x",
        ZZNAME__ZZEMPTY_dot_png=b"",
    )
    found = list(folders.read(root, names="hash", labels=False, key=KEY))
    assert "ZZ" not in repr([(f, getattr(f, "images", ())) for f in found]) and sorted(
        drop_reasons(found)
    ) == ["missing_image", "not_an_image"]
    (sample,) = [f for f in found if hasattr(f, "images")]
    assert open_image(sample.images[0]).size == (4, 3)  # type: ignore[union-attr]
    again = [f.id for f in folders.read(root, names="hash", labels=False, key=KEY)]
    assert again == [f.id for f in found]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        list(folders.read(tmp_path / "none"))
    with pytest.raises(InputError, match="choose keep or hash"):
        list(folders.read(tmp_path, names="drop"))  # type: ignore[arg-type]


def test_real_folders_are_read(shared_data: Path) -> None:
    for name, count in (
        ("busi_ultrasound", 185),
        ("pneumoniamnist_cxr", 360),
        ("bccd_blood_smear", 111),
    ):
        found = list(folders.read(shared_data / name))
        assert len(found) - len(drop_reasons(found)) == count and set(drop_reasons(found)) <= {
            "not_an_image"
        }


def encode_image(values: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(values.astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def test_masks_become_rectangles_and_names(tmp_path: Path) -> None:
    first, second = np.zeros((20, 30)), np.zeros((20, 30))
    first[2:6, 3:9], second[2:6, 9:12], second[15:18, 20:24] = 1, 2, 2
    root = write_files(
        tmp_path,
        ill__a_dot_png=encode_image(np.zeros((20, 30))),
        ill__a_mask_dot_png=encode_image(first),
        ill__a_mask_1_dot_png=encode_image(second),
    )
    write_files(
        root, ill__b_dot_png=PNG, ill__c_dot_png=PNG, ill__c_mask_dot_png=encode_image(first)
    )
    rule = [r"(\w)\.png$", r"\1_mask*.png"]
    found = list(folders.read(root, mask=rule))
    assert drop_reasons(found) == ["mask", "mask", "bad_mask", "mask"]
    one, other = [f for f in found if isinstance(f, Sample)]
    # Without names for values what touches is one region.
    assert (
        one.meta.extra == {"label": "ill", "boxes": "[[3, 2, 11, 5], [20, 15, 23, 17]]"}
        and len(one.images) == 1
    )
    assert other.id == "ill/b.png" and "boxes" not in other.meta.extra
    labels = next(
        f
        for f in folders.read(
            root, mask=rule, regions={"1": "kidney", "2": "tumour"}, question="What?"
        )
        if isinstance(f, Sample)
    )
    assert labels.meta.extra[
        "boxes"
    ] == "[[3, 2, 8, 5], [9, 2, 11, 5], [20, 15, 23, 17]]" and labels.gold == ("kidney, tumour",)
    jpeg_mask = write_files(
        tmp_path / "lossy",
        a_dot_png=encode_image(np.zeros((20, 30))),
        a_mask_dot_jpg=encode_image(first * 255, "JPEG"),
    )
    (only,) = [
        f for f in folders.read(jpeg_mask, mask=[r"a\.png$", "a_mask.jpg"]) if isinstance(f, Sample)
    ]
    assert only.meta.extra["boxes"] == "[[3, 2, 8, 5]]"


def test_an_invalid_rule_for_masks_is_named(tmp_path: Path) -> None:
    root = write_files(tmp_path, a_dot_png=PNG)
    for rule, details in (
        (["a"], "two texts"),
        (["(", "b"], "fix it"),
        ([r"\.png", "_seg.png"], "no file has a mask"),
    ):
        with pytest.raises(InputError, match=details):
            list(folders.read(root, mask=rule))


def read_with_masks(root: Path, **options: Any) -> dict[str, str]:
    """What is carried of the one image `a.png`."""
    (only,) = [
        f
        for f in folders.read(root, mask=[r"a\.png$", "a_mask*"], **options)
        if isinstance(f, Sample)
    ]
    return dict(only.meta.extra)


def encode_pil_image(image: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_a_mask_counts_by_its_numbers_whatever_its_file_shows(tmp_path: Path) -> None:
    inside = np.zeros((20, 30), np.uint8)
    inside[2:6, 3:9] = 1
    plain = encode_image(np.zeros((20, 30)))
    clear = np.zeros((20, 30, 4), np.uint8)
    clear[inside > 0] = 255, 0, 0, 255
    assert (
        read_with_masks(
            write_files(
                tmp_path / "clear",
                a_dot_png=plain,
                a_mask_dot_png=encode_pil_image(PIL.Image.fromarray(clear)),
            )
        )["boxes"]
        == "[[3, 2, 8, 5]]"
    )
    deep = inside.astype(np.uint16) * 500
    deep[2:6, 9:12] = 501
    found = read_with_masks(
        write_files(
            tmp_path / "deep",
            a_dot_png=plain,
            a_mask_dot_png=encode_pil_image(PIL.Image.fromarray(deep)),
        ),
        regions={"500": "cyst", "501": "stone"},
    )
    assert found == {"boxes": "[[3, 2, 8, 5], [9, 2, 11, 5]]", "label": "cyst, stone"}
    palette = PIL.Image.fromarray(inside, "P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    found = read_with_masks(
        write_files(
            tmp_path / "palette", a_dot_png=plain, a_mask_dot_png=encode_pil_image(palette)
        ),
        regions={"1": "cyst"},
    )
    assert found == {"boxes": "[[3, 2, 8, 5]]", "label": "cyst"}
    # Here black is not at index 0, so that indices mean nothing.
    web = PIL.Image.fromarray(np.dstack([inside * 255, inside * 0, inside * 0])).convert("P")
    assert (
        read_with_masks(
            write_files(tmp_path / "web", a_dot_png=plain, a_mask_dot_png=encode_pil_image(web))
        )["boxes"]
        == "[[3, 2, 8, 5]]"
    )


def test_a_region_too_small_for_a_rectangle_is_not_named(tmp_path: Path) -> None:
    marks = np.zeros((20, 30))
    marks[2:6, 3:9], marks[15, 20] = 1, 2
    root = write_files(
        tmp_path, a_dot_png=encode_image(marks * 0), a_mask_dot_png=encode_image(marks)
    )
    assert read_with_masks(root, regions={"1": "kidney", "2": "tumour"}) == {
        "boxes": "[[3, 2, 8, 5]]",
        "label": "kidney",
    }


def test_an_asterisk_matches_no_mask_of_another_image(tmp_path: Path) -> None:
    names = ["images/c1.png", "images/c12.png", "images/ann.png", "images/anna.png"]
    masks = [
        "masks/c1.png",
        "masks/c1_2.png",
        "masks/c12.png",
        "masks/c13.png",
        "masks/ann.png",
        "masks/anna.png",
    ]
    found = find_masks([*names, *masks], [r"^images/(.*)\.png$", r"masks/\1*.png"]).by_image
    assert found == {
        "images/c1.png": ("masks/c1.png", "masks/c1_2.png"),
        "images/c12.png": ("masks/c12.png",),
        "images/ann.png": ("masks/ann.png",),
        "images/anna.png": ("masks/anna.png",),
    }
    with pytest.raises(InputError, match="no file has a mask"):
        find_masks(["a.png", "b.png"], [r"^.*\.png$", "*.png"])  # each would be the other's
    # What is a mask itself takes none away.
    assert find_masks(["a.png", "a_seg.png", "a_seg_1.png"], [r"\.png$", "_*.png"]).by_image == {
        "a.png": ("a_seg.png", "a_seg_1.png")
    }


def test_a_broken_image_is_not_a_bad_mask_and_no_reason_contains_the_path_of_the_folder(
    tmp_path: Path,
) -> None:
    valid, rule = encode_image(np.ones((20, 30))), [r"(\w)\.png$", r"\1_mask.png"]
    root = write_files(
        tmp_path, a_dot_png=b"no", a_mask_dot_png=valid, b_dot_png=valid, b_mask_dot_png=b"no"
    )
    found = [f for f in folders.read(root, mask=rule) if isinstance(f, Drop)]
    assert [f.reason for f in found] == ["bad_image", "mask", "bad_mask", "mask"]
    assert not any(str(root) in f.detail for f in found) and "b_mask.png" in found[2].detail
    assert not any(
        "mask.png" in f.detail
        for f in folders.read(root, mask=rule, names="hash")
        if isinstance(f, Drop)
    )


def test_hashed_names_leave_no_folder_as_a_label_unless_requested(tmp_path: Path) -> None:
    root = write_files(tmp_path, DOE__a_dot_png=PNG)
    (plain,) = only_samples(folders.read(root, names="hash", key=KEY))
    assert "DOE" not in repr(plain.meta) and plain.meta.extra == {}
    for found in (
        folders.read(root, names="hash", labels=True),
        folders.read(root, names="hash", question="Who?"),
    ):
        assert only_samples(found)[0].meta.extra == {"label": "DOE"}
    assert only_samples(folders.read(root, question="Who?", labels=False))[0].gold is None
