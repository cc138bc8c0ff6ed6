"""What a model sees of files, folders and bytes: the images, the record of each, and one clear
error for what gives none.
"""

from __future__ import annotations

import gzip
import os
import random
import resource
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from lingshu.core.errors import ConfigError, ImageError, InputError, LingshuError
from lingshu.imaging.provenance import ImageProvenance, format_provenance
from lingshu.imaging.read import open_image
from lingshu.inference.inputs import MAX_IMAGES, ViewOptions, load_inputs
from tests.imaging.test_mutations import encoded, mutated, noisy, sample_dicoms, sample_images
from tests.support.tiny import make_image

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")

from tests.support.dicom_files import dicom  # noqa: E402

PNG = encoded("PNG", noisy(8, 12))


@pytest.fixture
def shared_data() -> Path:
    """Files that others made, in ../shared/data."""
    data_folder = Path(__file__).parents[3] / "shared" / "data"
    if not data_folder.is_dir():
        pytest.skip("needs the files in ../shared/data")
    return data_folder


def image(
    value: int = 1,
    *,
    study: str = "1.9",
    series: str = "1.1",
    patient: str = "P",
    **elements: object,
) -> bytes:
    ids = {
        "PatientID": patient,
        "StudyInstanceUID": study,
        "SeriesInstanceUID": series,
        "Modality": "MR",
    }
    window = {"WindowCenter": "128", "WindowWidth": "256"}
    return dicom(np.full((4, 4), value, np.uint16), **{**ids, **window, **elements})


def folder(root: Path, *files: bytes) -> Path:
    root.mkdir()
    for index, file in enumerate(files):
        (root / f"{index:03}").write_bytes(file)
    return root


def test_images_come_as_displayed_and_without_their_metadata(tmp_path: Path) -> None:
    make_image(0).save(tmp_path / "a.jpg", exif=b"Exif\0\0ZZSECRET")
    model_input = load_inputs([tmp_path / "a.jpg", PNG])
    assert model_input.image_provenance[1] == ImageProvenance(2, "picture", 8, 12)
    assert np.array_equal(
        np.asarray(open_image(model_input.images[0])),
        np.asarray(PIL.Image.open(tmp_path / "a.jpg").convert("RGB")),
    )
    assert (
        b"ZZSECRET" not in (model_input.images[0].data or b"")
        and model_input.dicom_files == ()
        and model_input.burned_in_risk is None
    )


def test_named_files_that_follow_each_other_are_series(tmp_path: Path) -> None:
    model_input = load_inputs(
        [image(3, InstanceNumber="2"), image(1, InstanceNumber="1"), PNG, image(7, series="1.2")]
    )
    assert [(entry.item, entry.kind, entry.index, entry.total) for entry in model_input.image_provenance] == [
        (1, "dicom", 1, 2), (1, "dicom", 2, 2), (3, "picture", 1, 1), (4, "dicom", 1, 1)
    ]  # fmt: skip
    assert [
        int(np.asarray(open_image(entry))[0, 0, 0])
        for entry in (model_input.images[0], model_input.images[1], model_input.images[3])
    ] == [1, 3, 7]
    assert len(model_input.dicom_files) == 3


def test_a_folder_shows_one_study_and_reports_what_it_left_out(tmp_path: Path) -> None:
    slices = [image(n, InstanceNumber=str(n), SeriesNumber="2") for n in range(1, 21)]
    model_input = load_inputs(
        [
            folder(
                tmp_path / "ZZ Name",
                *slices,
                image(99, series="1.2", InstanceNumber="1"),
                image(8, series="1.3"),
                b"no",
                PNG,
            )
        ]
    )
    assert [entry.index for entry in model_input.image_provenance if entry.series == 1] == [
        2,
        4,
        7,
        9,
        12,
        14,
        17,
        19,
    ]
    assert len(model_input.image_provenance) == 10 and model_input.notes == (
        "folder 1: 2 of 24 files were left out (2 no DICOM).",
    )
    selected = load_inputs(
        [tmp_path / "ZZ Name"], ViewOptions(series=(1,), max_slices=2, window=("file", "20,5"))
    )
    assert format_provenance(selected.image_provenance) == [
        "images 1, 3: slices 6, 16 of 20, MR, series 1 (number 2), window file 128/256",
        "images 2, 4: slices 6, 16 of 20, MR, series 1 (number 2), window requested 20/5",
    ]
    assert selected.notes[0].startswith(
        "folder 1 has 3 series (1: MR, 20 images, number 2; 2: MR, 1 image; "
    )
    assert selected.notes[0].endswith("shown: 1.") and "ZZ" not in repr(selected)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            (image(), image(study="2.9", series="2.1")),
            "folder 1 has 2 studies; give the folder of one study",
        ),
        ((image(), image(study="2.9", series="2.1", patient="Q")), "2 studies of 2 patients"),
        ((), "folder 1 has no image (it is empty)"),
        ((b"no", b""), "folder 1 has no image (2 no DICOM)"),
        ((image()[:-9],), "no image of the selected series can be read (1 are damaged)"),
    ],
)
def test_a_folder_that_cannot_be_shown_explains_why(
    tmp_path: Path, files: tuple[bytes, ...], message: str
) -> None:
    with pytest.raises(InputError) as error_info:
        load_inputs([folder(tmp_path / "ZZ", *files)])
    assert message in str(error_info.value) and "ZZ" not in str(error_info.value)


def test_a_folder_of_images_is_shown_in_the_order_of_names(tmp_path: Path) -> None:
    for name, side in (("b.png", 5), ("a.png", 4)):
        (tmp_path / name).write_bytes(encoded("PNG", noisy(side, side)))
    (tmp_path / "readme.txt").write_text("x")
    model_input = load_inputs([tmp_path])
    assert [entry.rows for entry in model_input.image_provenance] == [
        4,
        5,
    ] and model_input.notes == ("folder 1: 1 of 3 files are not images and were left out.",)


def test_images_of_two_patients_are_shown_with_a_warning() -> None:
    model_input = load_inputs([image(), PNG, image(study="2.9", series="2.1", patient="Q")])
    assert model_input.notes == ("the images are of 2 patients.",) and len(model_input.images) == 3


def nifti() -> bytes:
    nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")
    values = np.arange(4 * 5 * 20, dtype=np.int16).reshape(4, 5, 20)
    return nibabel.Nifti1Image(values, np.diag([2.0, 3.0, 4.0, 1.0])).to_bytes()


def test_volumes_are_slices_along_z_from_files_and_bytes(tmp_path: Path) -> None:
    data = nifti()
    (tmp_path / "v.nii").write_bytes(data)
    for item in (tmp_path / "v.nii", data, gzip.compress(data)):
        model_input = load_inputs([item], ViewOptions(max_slices=2))
        assert [(entry.kind, entry.index, entry.total, entry.spacing, entry.rows) for entry in model_input.image_provenance] == [
            ("volume", 6, 20, (3.0, 2.0), 5), ("volume", 16, 20, (3.0, 2.0), 5)
        ]  # fmt: skip
    assert (
        load_inputs([data], ViewOptions(window=("10,20",), max_slices=1)).image_provenance[0].window
        == "requested"
    )


def test_requests_are_bounded(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="slices is 0"):
        ViewOptions(max_slices=0)
    with pytest.raises(InputError, match="no window is called 'lungs'"):
        ViewOptions(window=("lungs",))
    with pytest.raises(InputError, match="more than 64 images"):
        load_inputs([PNG] * (MAX_IMAGES + 1))
    frames = dicom(np.zeros((40, 2, 2), np.uint8))
    with pytest.raises(InputError, match="more than 64 images"):
        load_inputs([frames], ViewOptions(max_slices=40, window=("1,2", "3,4")))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p, "file 1 cannot be opened (No such file or directory)"),
        (lambda p: p.write_bytes(b""), "file 1 is empty"),
        (lambda p: p.write_bytes(b"hello"), "file 1 cannot be decoded (it is not a PNG"),
        (lambda p: os.mkfifo(p), "file 1 is not a regular file"),
        (lambda p: p.write_bytes(PNG[: len(PNG) // 2]), "file 1 cannot be decoded"),
    ],
)
def test_a_file_that_gives_no_pixels_is_one_error_without_its_name(
    tmp_path: Path, make: object, message: str
) -> None:
    path = tmp_path / "ZZ Name 1950-01-02.png"
    make(path)  # type: ignore[operator]
    with pytest.raises(ImageError) as error_info:
        load_inputs([path])
    assert (
        message in str(error_info.value)
        and "ZZ" not in str(error_info.value)
        and str(tmp_path) not in str(error_info.value)
    )


@pytest.mark.parametrize("kind", ["dicom_odd_files", "nifti_odd_files"])
@pytest.mark.not_fast
def test_every_odd_file_gives_pixels_or_one_clear_error(kind: str, shared_data: Path) -> None:
    n_shown = n_failed = 0
    for path in sorted((shared_data / kind).rglob("*")):
        if not path.is_file():
            continue
        try:
            model_input = load_inputs([path], ViewOptions(max_slices=2))
            assert model_input.images and len(model_input.images) == len(
                model_input.image_provenance
            )
            n_shown += 1
        except LingshuError as error:
            assert (
                str(error).startswith("file 1")
                and "\n" not in str(error)
                and path.name not in str(error)
            )
            n_failed += 1
    assert n_shown > (80 if kind == "dicom_odd_files" else 10) and n_failed > 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [150, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_files_give_pixels_or_one_clear_error(
    count: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = [*sample_dicoms(), *sample_images(), nifti(), gzip.compress(nifti())]
    rng, n_good, n_bad = random.Random(20261121), 0, 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(count):
        data = mutated(rng.choice(files), rng)
        try:
            n_good += bool(load_inputs([data], ViewOptions(max_slices=2)).images)
        except LingshuError as error:
            assert str(error).startswith("file 1") and "\n" not in str(error), str(error)
            n_bad += 1
    assert n_good > count // 20 and n_bad > count // 5 and n_good + n_bad == count
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 800 << 10


def test_the_kind_of_bytes_is_detected_by_how_they_start() -> None:
    for kind in ("JPEG", "BMP", "GIF", "WEBP", "TIFF"):
        assert load_inputs([encoded(kind, noisy(16, 16))]).image_provenance[0].kind == "picture"
    assert (
        load_inputs([image()]).image_provenance[0].kind
        == load_inputs([image()[132:]]).image_provenance[0].kind
        == "dicom"
    )


def test_the_second_file_of_a_volume_is_not_a_link(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")
    parent = tmp_path / "folder"
    parent.mkdir()
    nibabel.save(
        nibabel.Nifti1Pair(np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.eye(4)),
        tmp_path / "a.hdr",
    )
    (parent / "a.hdr").write_bytes((tmp_path / "a.hdr").read_bytes())
    (parent / "a.img").symlink_to(tmp_path / "a.img")
    with pytest.raises(ImageError, match="has no image"):
        load_inputs([parent])
    (parent / "a.img").unlink()
    (parent / "a.img").write_bytes((tmp_path / "a.img").read_bytes())
    assert load_inputs([parent]).image_provenance[0].kind == "volume"
