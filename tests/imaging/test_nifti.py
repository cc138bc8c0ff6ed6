"""Volumes: slices the right way up, windows, times, and one clear error for what is none."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")

from lingshu.core.errors import ImageError, InputError  # noqa: E402
from lingshu.imaging.nifti import open_volume  # noqa: E402

# Axes of the patient: x to the right, y to the front, z to the head. One voxel of each end is
# bright.
SHAPE = (4, 5, 3)


def save_volume(path: Path, voxels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path


def marked_volume() -> np.ndarray:
    voxels = np.zeros(SHAPE, np.int16)
    voxels[3, 4, 2] = 100  # right, front, top
    voxels[0, 4, 2] = 50  # left, front, top
    return voxels


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_slices_have_the_same_orientation_whatever_the_file_has(
    tmp_path: Path, axes: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    canonical = nibabel.Nifti1Image(marked_volume(), np.eye(4))
    orientation = np.array([[axis, sign] for axis, sign in zip(axes, signs, strict=True)])
    path = tmp_path / "v.nii"
    nibabel.save(canonical.as_reoriented(orientation), path)
    with open_volume(path, name="v") as volume:
        assert volume.shape == SHAPE and volume.n_times == 1
        slices = list(volume.render(windows=["soft"]))
    assert [slice_.z for slice_ in slices] == [0, 1, 2] and str(slices[0].window) == "soft 50/400"
    top = slices[2].pixels
    assert top.shape == (5, 4)
    # The front is on top and the patient's right on the left.
    assert top[0, 0] > top[0, 3] > top[4, 0]


def test_without_a_window_the_percentiles_of_the_volume_are_shown(tmp_path: Path) -> None:
    voxels = np.arange(1000, dtype=np.float32).reshape(10, 10, 10)
    with open_volume(save_volume(tmp_path / "v.nii.gz", voxels), name="v") as volume:
        found = list(volume.render(slices=[0, 9]))
    assert (
        str(found[0].window).startswith("percentile 499.5/")
        and found[0].pixels.min() == 0
        and found[1].pixels.max() == 255
    )


def test_time_points_of_a_4d_file_are_selected(tmp_path: Path) -> None:
    voxels = np.stack([np.full(SHAPE, value, np.int16) for value in (0, 250)], axis=-1)
    with open_volume(save_volume(tmp_path / "v.nii", voxels), name="v") as volume:
        assert volume.n_times == 2
        assert [
            int(slice_.pixels.max())
            for slice_ in volume.render(slices=[1], times=[0, 1], windows=["soft"])
        ] == [96, 255]
        with pytest.raises(ImageError, match="no time 2"):
            list(volume.render(times=[2]))
        with pytest.raises(ImageError, match="no slice 3"):
            list(volume.render(slices=[3]))
        with pytest.raises(InputError, match="no window"):
            list(volume.render(windows=["x"]))


def test_colors_and_complex_values_are_displayed(tmp_path: Path) -> None:
    rgb = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    rgb["R"] = 200
    with open_volume(save_volume(tmp_path / "c.nii", rgb), name="v") as volume:
        assert next(volume.render()).pixels[0, 0].tolist() == [200, 0, 0]
    with open_volume(
        save_volume(tmp_path / "z.nii", np.full(SHAPE, 3 + 4j, np.complex64)), name="v"
    ) as volume:
        assert float(volume.voxels()[0, 0, 0]) == 5.0


def test_an_invalid_volume_is_refused(tmp_path: Path) -> None:
    complete = save_volume(
        tmp_path / "ZZPATIENT.nii",
        np.random.default_rng(0).integers(0, 99, (16, 16, 16)).astype(np.int16),
    ).read_bytes()
    truncated = tmp_path / "ZZcut.nii"
    truncated.write_bytes(complete[:2000])
    huge = tmp_path / "ZZhuge.nii"
    huge.write_bytes(
        complete[:42] + np.array([30000, 30000, 30000], "<i2").tobytes() + complete[48:]
    )
    packed = tmp_path / "ZZcut.nii.gz"
    packed.write_bytes(gzip.compress(complete)[:1500])
    text = tmp_path / "ZZtext.nii"
    text.write_text("hello")
    flat = tmp_path / "ZZaffine.nii"
    # sform_code 1, sform of zeros
    flat.write_bytes(complete[:254] + b"\1\0" + complete[256:280] + bytes(48) + complete[328:])
    for path in (truncated, huge, packed, text, flat, tmp_path, tmp_path / "ZZmissing.nii"):
        with pytest.raises(ImageError) as exc_info, open_volume(path, name="file 7") as volume:
            list(volume.render())
        assert str(exc_info.value).startswith("file 7") and "ZZ" not in str(exc_info.value)


def test_every_odd_file_gives_slices_or_one_clear_error() -> None:
    folder = Path(__file__).parents[3] / "shared" / "data" / "nifti_odd_files"
    if not folder.is_dir():
        pytest.skip("the folder ../shared/data is not there")
    read = 0
    for line in (folder / "rows.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["file"].endswith(".mnc") and row["load"] == "ok" and row["class"] == "Minc2Image":
            pytest.importorskip("h5py", reason="MINC 2 needs h5py")
        try:
            with open_volume(folder / row["file"], name="file") as volume:
                assert [slice_.pixels.dtype for slice_ in volume.render(slices=[0])] == [np.uint8]
                mean = np.mean(
                    [
                        float(volume.voxels(time).astype(float).mean())
                        for time in range(volume.n_times)
                    ]
                )
        except ImageError as error:
            assert str(error).startswith("file") and row.get("data") != "ok", row["id"]
            continue
        assert row["data"] == "ok" and mean == pytest.approx(row["mean"], rel=1e-6), row["id"]
        read += 1
    assert read == 13
