"""Folders of images: labels from folders, patients from paths, and names that need not be carried."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from lingshu.core.errors import InputError
from lingshu.core.nouns import Sample
from lingshu.imaging.read import open_image
from lingshu.sources import folders
from tests.sources._small import JPEG, KEY, PNG, reasons, samples


def filled(root: Path, **files: bytes) -> Path:
    for name, data in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def test_the_first_folder_is_the_label(tmp_path: Path) -> None:
    root = filled(tmp_path, normal__a_dot_png=PNG, ill__deep__b_dot_JPG=JPEG, c_dot_png=PNG)
    found = samples(folders.read(root))
    assert [(s.id, s.meta.extra.get("label")) for s in found] == [("c.png", None), ("ill/deep/b.JPG", "ill"), ("normal/a.png", "normal")]
    assert found[0].messages[0].parts == (0,) and found[0].gold is None and found[0].meta.access == "private"
    asked = samples(folders.read(root, question="Which class?"))
    assert asked[1].gold == ("ill",) and asked[1].question == "Which class?" and asked[1].meta.kind == "label"
    assert not any(s.meta.extra for s in samples(folders.read(root, labels=False)))


def test_what_is_left_out_has_a_reason(tmp_path: Path) -> None:
    root = filled(tmp_path, a_dot_png=PNG, a_mask_dot_png=PNG, notes_dot_txt=b"x")
    (root / "link.png").symlink_to(root / "a.png")
    (root / "circle").symlink_to(root, target_is_directory=True)
    assert reasons(folders.read(root, exclude=["*_mask.png"])) == ["excluded", "link", "not_an_image"]


def test_patients_are_found_in_paths_and_hashed(tmp_path: Path) -> None:
    root = filled(tmp_path, ill__person17_1_dot_png=PNG, ill__person17_2_dot_png=PNG, ill__person18_1_dot_png=PNG)
    one, two, three = samples(folders.read(root, patient=r"person(\d+)", key=KEY))
    assert one.meta.group == two.meta.group != three.meta.group
    with pytest.raises(InputError, match="needs a group"):
        list(folders.read(root, patient="person"))


def test_names_need_not_be_carried(tmp_path: Path) -> None:
    root = filled(tmp_path, ZZNAME__ZZSCAN_dot_png=PNG, ZZNAME__ZZTEXT_dot_txt=b"x", ZZNAME__ZZEMPTY_dot_png=b"")
    found = list(folders.read(root, names="hash", labels=False, key=KEY))
    assert "ZZ" not in repr([(f, getattr(f, "images", ())) for f in found]) and sorted(reasons(found)) == ["missing_image", "not_an_image"]
    (sample,) = [f for f in found if hasattr(f, "images")]
    assert open_image(sample.images[0]).size == (4, 3)  # type: ignore[union-attr]
    again = [f.id for f in folders.read(root, names="hash", labels=False, key=KEY)]
    assert again == [f.id for f in found]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder"):
        list(folders.read(tmp_path / "none"))
    with pytest.raises(InputError, match="choose keep or hash"):
        list(folders.read(tmp_path, names="drop"))  # type: ignore[arg-type]


def test_real_folders_are_read(shared_data: Path) -> None:
    for name, count in (("busi_ultrasound", 185), ("pneumoniamnist_cxr", 360), ("bccd_blood_smear", 111)):
        found = list(folders.read(shared_data / name))
        assert len(found) - len(reasons(found)) == count and set(reasons(found)) <= {"not_an_image"}


def drawn(values: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(values.astype(np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def test_masks_become_rectangles_and_names(tmp_path: Path) -> None:
    first, second = np.zeros((20, 30)), np.zeros((20, 30))
    first[2:6, 3:9], second[2:6, 9:12], second[15:18, 20:24] = 1, 2, 2
    root = filled(tmp_path, ill__a_dot_png=drawn(np.zeros((20, 30))), ill__a_mask_dot_png=drawn(first), ill__a_mask_1_dot_png=drawn(second))
    filled(root, ill__b_dot_png=PNG, ill__c_dot_png=PNG, ill__c_mask_dot_png=drawn(first))
    rule = [r"(\w)\.png$", r"\1_mask*.png"]
    found = list(folders.read(root, mask=rule))
    assert reasons(found) == ["mask", "mask", "bad_mask", "mask"]
    one, other = [f for f in found if isinstance(f, Sample)]
    # Without names for values what touches is one region.
    assert one.meta.extra == {"label": "ill", "boxes": "[[3, 2, 11, 5], [20, 15, 23, 17]]"} and len(one.images) == 1
    assert other.id == "ill/b.png" and "boxes" not in other.meta.extra
    named = next(
        f for f in folders.read(root, mask=rule, regions={"1": "kidney", "2": "tumour"}, question="What?") if isinstance(f, Sample)
    )
    assert named.meta.extra["boxes"] == "[[3, 2, 8, 5], [9, 2, 11, 5], [20, 15, 23, 17]]" and named.gold == ("kidney, tumour",)
    smeared = filled(tmp_path / "lossy", a_dot_png=drawn(np.zeros((20, 30))), a_mask_dot_jpg=drawn(first * 255, "JPEG"))
    (only,) = [f for f in folders.read(smeared, mask=[r"a\.png$", "a_mask.jpg"]) if isinstance(f, Sample)]
    assert only.meta.extra["boxes"] == "[[3, 2, 8, 5]]"


def test_a_rule_for_masks_that_is_none_is_named(tmp_path: Path) -> None:
    root = filled(tmp_path, a_dot_png=PNG)
    for rule, said in ((["a"], "two texts"), (["(", "b"], "mend it"), ([r"\.png", "_seg.png"], "no file has a mask")):
        with pytest.raises(InputError, match=said):
            list(folders.read(root, mask=rule))
