"""Volumes as samples: slices or whole volumes, names hashed, a damaged file a drop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")

from lingshu.core.errors import InputError  # noqa: E402
from lingshu.core.nouns import Sample  # noqa: E402
from lingshu.imaging.read import open_image  # noqa: E402
from lingshu.sources import nifti  # noqa: E402
from tests.sources._small import KEY, reasons, samples  # noqa: E402


def saved(path: Path, depth: int = 20) -> Path:
    path.parent.mkdir(exist_ok=True)
    voxels = np.ones((4, 5, 1), np.int16) * np.arange(depth, dtype=np.int16) * 10
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), path)
    return path


def test_slices_are_taken_evenly_each_a_sample(tmp_path: Path) -> None:
    found = samples(nifti.read(saved(tmp_path / "v.nii.gz"), slices=4, names="keep"))
    assert [s.id for s in found] == [f"v.nii.gz-t0-z{z}" for z in (2, 7, 12, 17)]
    shades = [int(np.asarray(open_image(s.images[0]))[0, 0, 0]) for s in found]
    assert shades == sorted(shades) and len({s.meta.group for s in found}) == 1
    assert found[0].meta.extra["windows"].startswith("percentile") and found[0].meta.extra["slices"] == "2"


def test_a_volume_is_one_sample_in_every_window(tmp_path: Path) -> None:
    (sample,) = samples(
        nifti.read(saved(tmp_path / "v.nii"), per="volume", slices=2, windows=["lung", "bone"], modality="CT", names="keep")
    )
    assert sample.id == "v.nii" and len(sample.images) == 4 and sample.meta.modality == "CT"
    assert sample.meta.extra["windows"] == "lung -600/1500; bone 400/1800; lung -600/1500; bone 400/1800"


def test_below_a_folder_names_are_hashed_and_patients_grouped(tmp_path: Path) -> None:
    for name in ("ZZ17/a.nii", "ZZ17/b.nii", "ZZ18/a.nii"):
        saved(tmp_path / name)
    (tmp_path / "ZZ17" / "ZZbroken.nii").write_bytes(b"ZZ")
    (tmp_path / "ZZ17" / "ZZnotes.txt").write_bytes(b"ZZ")
    (tmp_path / "ZZ17" / "c_seg.nii").write_bytes(b"")
    found = list(nifti.read(tmp_path, per="volume", patient="ZZ([0-9]+)/", exclude=["*_seg.nii"], key=KEY))
    one, two, three = [f for f in found if isinstance(f, Sample)]
    assert one.meta.group == two.meta.group != three.meta.group
    assert sorted(reasons(found)) == ["bad_volume", "excluded", "not_a_volume"] and "ZZ" not in repr(found)


def test_wrong_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="choose slice or volume"):
        list(nifti.read(tmp_path, per="case"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no folder"):
        list(nifti.read(tmp_path / "none"))
    with pytest.raises(InputError, match="did you mean 'lung'"):
        list(nifti.read(saved(tmp_path / "v.nii"), windows=["lungs"]))
