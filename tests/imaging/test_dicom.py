"""DICOM files: frames equal to the decoders', every file pixels or one clear error, and no identity
gets through.
"""

from __future__ import annotations

import io
import json
import logging
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")

from pydicom.uid import (  # noqa: E402
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)  # fmt: skip

from lingshu.core.errors import ImageError, InputError  # noqa: E402
from lingshu.imaging.dicom.elements import NoPixelDataError, NotDicomError  # noqa: E402
from lingshu.imaging.dicom.file import open_dicom  # noqa: E402
from tests.support.dicom_files import (  # noqa: E402
    IDENTIFIERS,
    SECRETS,
    as_jpeg,
    compressed,
    dicom,
    dicom_with_identifiers,
    to_bytes,
)

LOSSY = (JPEG2000, JPEGBaseline8Bit, JPEGLSNearLossless)
KEY = b"0123456789abcdef"
RAMP = np.arange(-1200, 1200, 10, dtype=np.int16).reshape(12, 20)
CT = {"Modality": "CT", "RescaleSlope": "1", "RescaleIntercept": "0"}


def values(file: bytes) -> list[np.ndarray]:
    with open_dicom(file, name="the file") as dicom_file:
        return list(dicom_file.values())


def render_images(file: bytes, **options: object) -> dict[str, np.ndarray]:
    with open_dicom(file, name="the file") as dicom_file:
        return {str(frame.window): frame.pixels for frame in dicom_file.render(**options)}  # type: ignore[arg-type]


def error_of(file: bytes | Path) -> str:
    with pytest.raises(ImageError) as exc_info, open_dicom(file, name="the file") as dicom_file:
        list(dicom_file.render())
    assert "the file" in str(exc_info.value) and "\n" not in str(exc_info.value)
    return str(exc_info.value)


def with_elements(file: bytes, **elements: object) -> bytes:
    data = pydicom.dcmread(io.BytesIO(file))
    for name, value in elements.items():
        setattr(data, name, value)
    return to_bytes(data)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_lossless_frames_come_back_value_for_value(syntax: str) -> None:
    pixels = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 15
    try:
        file = compressed(dicom(pixels), syntax)
    except (RuntimeError, NotImplementedError):
        pytest.skip("no encoder for this transfer syntax is installed")
    assert np.array_equal(values(file)[0], pixels)


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_encodings_of_the_elements_are_read(syntax: str) -> None:
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert np.array_equal(values(dicom(pixels, syntax=syntax))[0], pixels)


def test_a_lossy_frame_is_within_one_level_of_the_decoder() -> None:
    pixels = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    file = as_jpeg(pixels)
    expected = pydicom.dcmread(io.BytesIO(file)).pixel_array.astype(int)
    assert np.abs(values(file)[0].astype(int) - expected).max() <= 1


def test_frames_come_one_by_one_and_by_number() -> None:
    frames = np.arange(3 * 4 * 4, dtype=np.uint8).reshape(3, 4, 4)
    assert [int(v[0, 0]) for v in values(dicom(frames))] == [0, 16, 32]
    with open_dicom(dicom(frames), name="f") as dicom_file:
        assert [int(v[0, 0]) for v in dicom_file.values([0, 2])] == [0, 32]
        with pytest.raises(ImageError, match="no frame 3"):
            list(dicom_file.values([3]))


def test_ct_without_a_window_is_shown_in_lung_soft_tissue_and_bone() -> None:
    found = render_images(dicom(RAMP, **CT))
    assert list(found) == ["lung -600/1500", "soft 50/400", "bone 400/1800"]
    soft = found["soft 50/400"].reshape(-1)
    # PS3.3 C.11.2.1.2: black at and below 49.5 - 199.5, white above 49.5 + 199.5.
    assert soft[RAMP.reshape(-1) <= -150].max() == 0 and soft[RAMP.reshape(-1) >= 250].min() == 255
    assert soft[RAMP.reshape(-1) == 50] == 128


def test_a_stated_window_comes_before_the_presets_and_after_requested_ones() -> None:
    file = dicom(RAMP, **CT, WindowCenter=["40", "400"], WindowWidth=["80", "2000"])
    assert list(render_images(file)) == ["file 40/80", "file 2 400/2000"]
    assert list(render_images(file, windows=["lung"])) == ["lung -600/1500"]
    with pytest.raises(InputError, match="did you mean 'lung'"):
        render_images(file, windows=["lungs"])


def test_a_window_is_in_units_of_the_modality() -> None:
    file = dicom(
        RAMP,
        Modality="CT",
        RescaleSlope="2",
        RescaleIntercept="-100",
        WindowCenter="0",
        WindowWidth="401",
    )
    pixels = render_images(file)["file 0/401"].reshape(-1)
    assert pixels[RAMP.reshape(-1) == -50] == 0 and pixels[RAMP.reshape(-1) == 150] == 255


def test_without_any_window_the_range_is_shown_and_recorded() -> None:
    pixels = np.array([[100, 300], [200, 100]], np.uint16)
    found = render_images(dicom(pixels))
    assert list(found) == ["range 200/200"] and found["range 200/200"].tolist() == [
        [0, 255],
        [128, 0],
    ]
    assert render_images(dicom(np.zeros((2, 2), np.uint16)))["range 0/0"].max() == 0


def test_padding_does_not_stretch_the_range() -> None:
    pixels = np.array([[-2000, 0], [50, 100]], np.int16)
    assert list(render_images(dicom(pixels, PixelPaddingValue=-2000))) == ["range 50/100"]


def test_an_impossible_window_is_no_window() -> None:
    assert list(
        render_images(dicom(np.array([[0, 10]], np.uint16), WindowCenter="5", WindowWidth="0"))
    ) == ["range 5/10"]


def test_monochrome1_is_inverted() -> None:
    pixels = np.array([[0, 1000]], np.uint16)
    assert render_images(dicom(pixels, PhotometricInterpretation="MONOCHROME1"))[
        "range 500/1000"
    ].tolist() == [[255, 0]]
    assert render_images(dicom(pixels, PresentationLUTShape="INVERSE"))[
        "range 500/1000"
    ].tolist() == [[255, 0]]
    doubly_inverted = dicom(
        pixels, PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE"
    )
    assert render_images(doubly_inverted)["range 500/1000"].tolist() == [[255, 0]]


def lookup_table_item(first: int, bits: int, entries: list[int]) -> Any:
    item = pydicom.Dataset()
    item.add_new(0x00283002, "SS" if first < 0 else "US", [len(entries), first, bits])
    item.add_new(0x00283006, "US", entries)
    return item


def test_lookup_tables_map_values_and_clamp_at_their_ends() -> None:
    pixels = np.array([[0, 1, 2, 3, 9]], np.uint16)
    assert render_images(dicom(pixels, VOILUTSequence=[lookup_table_item(1, 8, [255, 100, 0])]))[
        "table"
    ].tolist() == [[255, 255, 100, 0, 0]]
    # A table need not rise: the range is that of the values it gives.
    non_monotonic = dicom(
        pixels[:, :4], ModalityLUTSequence=[lookup_table_item(0, 16, [500, 0, 1000, 500])]
    )
    assert render_images(non_monotonic)["range 500/1000"].tolist() == [[128, 0, 255, 128]]


def test_windows_of_enhanced_files_belong_to_their_frames() -> None:
    def group(center: str) -> Any:
        window, frame = pydicom.Dataset(), pydicom.Dataset()
        window.WindowCenter, window.WindowWidth = center, "10"
        frame.FrameVOILUTSequence = [window]
        return frame

    file = dicom(
        np.zeros((2, 2, 2), np.uint16), PerFrameFunctionalGroupsSequence=[group("5"), group("50")]
    )
    with open_dicom(file, name="f") as dicom_file:
        assert [str(one.window) for one in dicom_file.render()] == ["file 5/10", "file 50/10"]


def test_palettes_and_colors_become_rgb() -> None:
    palette = {
        f"{c}PaletteColorLookupTableDescriptor": [2, 0, 16] for c in ("Red", "Green", "Blue")
    }
    palette |= {
        f"{c}PaletteColorLookupTableData": np.array([0, v << 8], "<u2").tobytes()
        for c, v in (("Red", 255), ("Green", 128), ("Blue", 0))
    }
    file = dicom(np.array([[0, 1]], np.uint8), PhotometricInterpretation="PALETTE COLOR", **palette)
    assert render_images(file)["palette"].tolist() == [[[0, 0, 0], [255, 128, 0]]]
    rgb = np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8)
    assert render_images(dicom(rgb))["color"].tolist() == rgb.tolist()
    deep = (rgb.astype(np.uint16) * 257).astype(np.uint16)
    assert render_images(dicom(deep))["color"].tolist() == rgb.tolist()


def test_false_header_values_are_refused_before_decoding() -> None:
    original = dicom(np.zeros((8, 8), np.uint16))
    assert "truncated" in error_of(with_elements(original, NumberOfFrames="2000000000"))
    assert "truncated" in error_of(original[:-20])
    assert "megapixels" in error_of(with_elements(original, Rows=65535, Columns=65535))
    assert "not a number" in error_of(_frames("1A"))
    assert "bits" in error_of(with_elements(original, BitsAllocated=24))
    assert "samples" in error_of(with_elements(original, SamplesPerPixel=2))
    assert "photometric" in error_of(with_elements(original, PhotometricInterpretation="HSV"))


def _frames(text: str) -> bytes:
    file = dicom(np.zeros((2, 8, 8), np.uint8))
    return file.replace(
        b"\x28\x00\x08\x00IS\x02\x002 ", b"\x28\x00\x08\x00IS\x02\x00" + text.encode()
    )


def test_a_frame_of_another_size_than_stated_is_refused_before_decoding() -> None:
    file = as_jpeg(np.zeros((16, 16), np.uint8))
    assert "another size" in error_of(with_elements(file, Rows=64, Columns=64))
    assert "ends before frame 1" in error_of(with_elements(file, NumberOfFrames="2"))
    assert "truncated" in error_of(file.replace(b"\xff\xd9", b"\xff\x00"))


def test_a_deflated_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lingshu.imaging.dicom.elements.MAX_INFLATED", 1 << 16)
    assert "unpacks to more" in error_of(
        dicom(np.zeros((512, 512), np.uint8), syntax=DeflatedExplicitVRLittleEndian)
    )


def test_a_file_without_dicom_or_pixels_has_its_own_error(tmp_path: Path) -> None:
    for content in (b"", b"hello", b"\x89PNG\r\n\x1a\n" + bytes(300)):
        with pytest.raises(NotDicomError), open_dicom(content, name="f"):
            pass
    data = pydicom.dcmread(io.BytesIO(dicom(np.zeros((2, 2), np.uint8))))
    del data.PixelData
    with (
        pytest.raises(NoPixelDataError, match="no pixel data"),
        open_dicom(to_bytes(data), name="f") as dicom_file,
    ):
        list(dicom_file.values())
    for path in (tmp_path, tmp_path / "ZZ-missing"):
        assert "ZZ" not in error_of(path)


def test_metadata_are_hashes_numbers_and_terms_from_lists() -> None:
    file = dicom(
        RAMP,
        **CT,
        PatientID="17",
        BodyPartExamined="CHEST",
        PixelSpacing=["0.5", "0.7"],
        ImageType=["DERIVED", "PRIMARY"],
    )
    with open_dicom(file, name="f") as dicom_file:
        metadata, reread, rekeyed = (
            dicom_file.metadata(KEY),
            dicom_file.metadata(KEY),
            dicom_file.metadata(b"another key 1234"),
        )
    assert (
        metadata == reread
        and metadata.patient != rekeyed.patient
        and metadata.patient is not None
        and metadata.patient != "17"
    )
    assert (
        metadata.modality,
        metadata.body_part,
        metadata.rows,
        metadata.columns,
        metadata.spacing,
    ) == (
        "CT",
        "CHEST",
        12,
        20,
        (0.5, 0.7),
    )
    assert (
        metadata.sop_class == "CT Image Storage"
        and metadata.derived is True
        and metadata.has_pixels
    )


@pytest.mark.parametrize(
    ("elements", "risk"),
    [
        ({"Modality": "CT"}, "low"),
        ({"Modality": "CT", "BurnedInAnnotation": "YES"}, "stated"),
        ({"Modality": "US", "BurnedInAnnotation": "NO"}, "likely"),
        ({"Modality": "CT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "likely"),
        ({"Modality": "MR", "ConversionType": "WSD"}, "likely"),
    ],
)
def test_the_risk_of_text_in_the_pixels_is_exposed(elements: dict[str, str], risk: str) -> None:
    with open_dicom(dicom(RAMP, **elements), name="f") as dicom_file:
        assert dicom_file.metadata(KEY).burned_in_risk == risk


def hostile() -> list[bytes]:
    """Files with identifiers, intact and damaged in ways that make pydicom quote elements."""
    original = dicom_with_identifiers(RAMP, **CT)
    truncated = [original[: len(original) - n] for n in (100, 400, 700, 1500)]
    value_errors = [
        with_elements(original, PhotometricInterpretation="ZZPHOTO"),
        with_elements(original, NumberOfFrames="1"),
    ]
    wrong_vrs = [
        original.replace(b"LO", b"QQ"),
        original.replace(b"1.2.826.99001", b"ZZ2.826.99001"),
        original.replace(b"\x10\0\x20\0LO", b"\x10\0\x20\0IS"),
    ]
    return [original, *truncated, *value_errors, *wrong_vrs, original[132:], b"ZZ" + original[2:]]


def test_planted_identities_appear_nowhere(
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    recwarn: pytest.WarningsRecorder,
) -> None:
    assert len(IDENTIFIERS) >= 12
    caplog.set_level(logging.DEBUG)
    outputs: list[str] = []
    for file in hostile():
        try:
            with open_dicom(file, name="file 1") as dicom_file:
                outputs.append(repr(dicom_file.metadata(KEY)))
                outputs += [
                    str(one.window) + one.pixels.tobytes().decode("latin-1")
                    for one in dicom_file.render()
                ]
        except ImageError:
            outputs.append(traceback.format_exc().replace("tests/imaging", ""))
    out = capfd.readouterr()
    output_text = "\n".join(
        [*outputs, caplog.text, out.out, out.err, *(str(w.message) for w in recwarn)]
    )
    assert [secret for secret in SECRETS if secret in output_text] == []
    assert all(secret.encode() in hostile()[0] for secret in SECRETS)


def shared() -> Path:
    folder = Path(__file__).parents[3] / "shared" / "data" / "dicom_odd_files"
    if not folder.is_dir():
        pytest.skip("the folder ../shared/data is not there")
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.not_fast
def test_every_odd_file_gives_pixels_or_one_clear_error() -> None:
    folder = shared()
    refused = compared = 0
    for line in (folder / "rows.jsonl").read_text().splitlines():
        row = json.loads(line)
        try:
            with open_dicom(folder / row["file"], name="file") as dicom_file:
                found = list(dicom_file.values())
                images = list(dicom_file.render(frames=[0]))
            assert images and all(p.pixels.dtype == np.uint8 and p.window for p in images)
        except ImageError as error:
            refused += 1
            assert str(error).startswith("file") and row["pixels"] != "ok", row["id"]
            continue
        if row["pixels"] != "ok":
            continue
        data = pydicom.dcmread(folder / row["file"], force=True)
        expected = pydicom.pixels.pixel_array(data)
        lossy = data.file_meta.TransferSyntaxUID in LOSSY
        assert (
            np.abs(np.stack(found).reshape(expected.shape) - expected.astype(float)).max() <= lossy
        ), row["id"]
        compared += 1
    assert compared >= 90 and refused == 44
