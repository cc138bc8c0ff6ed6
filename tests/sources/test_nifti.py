"""Volumes as samples: slices or volumes, names hashed, a damaged file a drop."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")

from lingshu.core.errors import InputError  # noqa: E402
from lingshu.core.types import Drop, Sample  # noqa: E402
from lingshu.imaging.read import open_image  # noqa: E402
from lingshu.sources import nifti  # noqa: E402
from tests.support.source_files import KEY, drop_reasons, only_samples  # noqa: E402


def save_volume(path: Path, depth: int = 20) -> Path:
    path.parent.mkdir(exist_ok=True)
    voxels = np.ones((4, 5, 1), np.int16) * np.arange(depth, dtype=np.int16) * 10
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)
    return path


def test_slices_are_sampled_evenly_and_each_is_a_sample(tmp_path: Path) -> None:
    found = only_samples(nifti.read(save_volume(tmp_path / "v.nii.gz"), slices=4, names="keep"))
    assert [s.id for s in found] == [f"v.nii.gz-t0-z{z}" for z in (2, 7, 12, 17)]
    shades = [int(np.asarray(open_image(s.images[0]))[0, 0, 0]) for s in found]
    assert shades == sorted(shades) and len({s.meta.group for s in found}) == 1
    assert (
        found[0].meta.extra["windows"].startswith("percentile")
        and found[0].meta.extra["slices"] == "2"
    )


def test_a_volume_is_one_sample_in_every_window(tmp_path: Path) -> None:
    (sample,) = only_samples(
        nifti.read(
            save_volume(tmp_path / "v.nii"),
            per="volume",
            slices=2,
            windows=["lung", "bone"],
            modality="CT",
            names="keep",
        )
    )
    assert sample.id == "v.nii" and len(sample.images) == 4 and sample.meta.modality == "CT"
    assert (
        sample.meta.extra["windows"]
        == "lung -600/1500; bone 400/1800; lung -600/1500; bone 400/1800"
    )


def test_below_a_folder_names_are_hashed_and_patients_grouped(tmp_path: Path) -> None:
    for name in ("ZZ17/a.nii", "ZZ17/b.nii", "ZZ18/a.nii"):
        save_volume(tmp_path / name)
    (tmp_path / "ZZ17" / "ZZbroken.nii").write_bytes(b"ZZ")
    (tmp_path / "ZZ17" / "ZZnotes.txt").write_bytes(b"ZZ")
    (tmp_path / "ZZ17" / "c_seg.nii").write_bytes(b"")
    found = list(
        nifti.read(tmp_path, per="volume", patient="ZZ([0-9]+)/", exclude=["*_seg.nii"], key=KEY)
    )
    one, two, three = [f for f in found if isinstance(f, Sample)]
    assert one.meta.group == two.meta.group != three.meta.group
    assert sorted(drop_reasons(found)) == [
        "bad_volume",
        "excluded",
        "not_a_volume",
    ] and "ZZ" not in repr(found)


def test_wrong_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="choose slice or volume"):
        list(nifti.read(tmp_path, per="case"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not a folder"):
        list(nifti.read(tmp_path / "none"))
    with pytest.raises(InputError, match="did you mean 'lung'"):
        list(nifti.read(save_volume(tmp_path / "v.nii"), windows=["lungs"]))


def volume(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(
        nibabel.Nifti1Image(values.astype(np.int16), np.eye(4) if affine is None else affine), path
    )
    return path


def test_slices_with_masks_carry_their_regions_where_they_are_seen(tmp_path: Path) -> None:
    voxels, marks = np.zeros((12, 16, 9)), np.zeros((12, 16, 9))
    marks[2:5, 1:7, 3], marks[2:4, 1:3, 5], marks[8:11, 10:14, 3] = 1, 1, 2
    voxels[marks > 0] = 500
    # The mask's file runs from left to right, the volume's from right to left: both are turned the
    # same way.
    turned = np.diag([-1.0, 1, 1, 1])
    turned[0, 3] = 11
    volume(tmp_path / "images" / "a.nii.gz", voxels[::-1], turned)
    volume(tmp_path / "labels" / "a.nii.gz", marks)
    volume(tmp_path / "images" / "b.nii.gz", voxels)
    volume(tmp_path / "images" / "c.nii.gz", voxels)
    volume(tmp_path / "labels" / "c.nii.gz", marks[:, :, :8])
    volume(tmp_path / "images" / "d.nii.gz", voxels)
    volume(tmp_path / "labels" / "d.nii.gz", marks * 0)
    names = {"1": "kidney", "2": "tumour"}
    found = list(
        nifti.read(
            tmp_path,
            mask=["^images/", "labels/"],
            regions=names,
            slices=2,
            modality="CT",
            names="keep",
        )
    )
    assert sorted(drop_reasons(found)) == [
        "bad_mask",
        "mask",
        "mask",
        "mask",
        "no_mask",
        "nothing_marked",
    ]
    two, one = [f for f in found if isinstance(f, Sample)]
    assert [two.id, one.id] == ["images/a.nii.gz-t0-z3", "images/a.nii.gz-t0-z5"]
    assert two.meta.extra["label"] == "kidney, tumour" and one.meta.extra["label"] == "kidney"
    rendered = np.asarray(open_image(two.images[0]).convert("L"))
    boxes = json.loads(two.meta.extra["boxes"])
    inside = np.zeros(rendered.shape, bool)
    for left, top, right, bottom in boxes:
        inside[top : bottom + 1, left : right + 1] = True
    assert len(boxes) == 2 and (inside == (rendered > 0)).all()
    with pytest.raises(InputError, match="leave per at slice"):
        list(nifti.read(tmp_path, per="volume", mask=["^images/", "labels/"]))


def test_a_mask_that_does_not_fit_its_volume_or_holds_no_numbers_is_dropped(
    tmp_path: Path,
) -> None:
    marks, moved = np.zeros((12, 16, 9)), np.eye(4)
    marks[2:5, 1:7, 3] = 1
    moved[0, 3] = 50
    rgb = np.zeros((12, 16, 9), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for name in ("moved", "mirrored", "colors", "times", "unknown"):
        volume(tmp_path / "images" / f"{name}.nii", marks * 90)
    volume(tmp_path / "labels" / "moved.nii", marks, moved)
    volume(tmp_path / "labels" / "mirrored.nii", marks, np.diag([-1.0, -1, 1, 1]))
    nibabel.save(nibabel.Nifti1Image(rgb, np.eye(4)), tmp_path / "labels" / "colors.nii")
    volume(tmp_path / "labels" / "times.nii", np.stack([marks * 0, marks], axis=-1))
    unknown = np.where(marks > 0, 1, np.nan).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(unknown, np.eye(4)), tmp_path / "labels" / "unknown.nii")
    found = list(nifti.read(tmp_path, mask=["^images/", "labels/"], slices=2, names="keep"))
    dropped = [f for f in found if isinstance(f, Drop) and f.reason == "bad_mask"]
    assert [f.id for f in dropped] == [
        f"images/{name}.nii" for name in ("colors", "mirrored", "moved", "times")
    ]
    assert [f.detail.split(";")[0].split(" its ")[0] for f in dropped][1:3] == [
        "the mask is elsewhere than"
    ] * 2
    (only,) = [f for f in found if isinstance(f, Sample)]
    assert only.id == "images/unknown.nii-t0-z3" and only.meta.extra["boxes"] == "[[7, 9, 9, 14]]"
