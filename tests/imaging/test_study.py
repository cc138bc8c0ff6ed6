"""Series out of DICOM files, the slices that are shown of them, and the windows they are shown in."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import numpy as np
import PIL.Image
import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")

from lingshu.core.errors import ImageError, InputError
from lingshu.imaging.dicom.study import (
    NamedSource,
    Study,
    read_study,
    render_slice,
    render_slices,
    select_series,
)
from lingshu.imaging.provenance import format_provenance, provenance_to_json
from tests.support.dicom_files import SECRETS, dicom, dicom_with_identifiers

KEY = b"0123456789abcdef"


def image(value: int, *, series: str = "1.1", z: int | None = None, **elements: Any) -> bytes:
    position = (
        {}
        if z is None
        else {
            "ImagePositionPatient": ["0", "0", str(z)],
            "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"],
        }
    )
    ids = {
        "PatientID": "P",
        "StudyInstanceUID": "1.9",
        "SeriesInstanceUID": series,
        "Modality": "MR",
    }
    window = {"WindowCenter": "128", "WindowWidth": "256"}
    return dicom(np.full((4, 4), value, np.uint16), **{**ids, **position, **window, **elements})


def study(*files: bytes, strict: bool = True) -> Study:
    return read_study(
        [NamedSource(file, f"file {n}") for n, file in enumerate(files, 1)], key=KEY, strict=strict
    )


def first_pixels(found: Study, number: int = 1, **options: object) -> list[int]:
    kwargs = {"item": 1, "slices": None, "windows": ("file",), **options}
    slices = render_slices(found.series[number - 1], **kwargs)
    return [int(np.asarray(PIL.Image.open(io.BytesIO(one.png)))[0, 0]) for one in slices]


def test_slices_are_ordered_by_position_and_sampled_evenly() -> None:
    found = study(*(image(z, z=z) for z in (7, 3, 9, 1, 5, 0, 8, 2, 6, 4)))
    assert first_pixels(found) == list(range(10)) and first_pixels(found, slices=2) == [2, 7]
    assert first_pixels(study(*(image(n, InstanceNumber=str(9 - n)) for n in (4, 5, 6)))) == [
        6,
        5,
        4,
    ]


def test_frames_of_one_file_are_slices_too() -> None:
    frames = np.arange(10, dtype=np.uint16)[:, None, None] * np.ones((10, 4, 4), np.uint16)
    found = study(dicom(frames, Modality="MR", WindowCenter="128", WindowWidth="256"))
    [one, two] = render_slices(found.series[0], item=3, slices=2, windows=("file",))
    assert (
        one.provenance.index,
        two.provenance.index,
        one.provenance.total,
        one.provenance.item,
    ) == (3, 8, 10, 3)
    assert format_provenance([one.provenance, two.provenance]) == [
        "images 1-2: slices 3, 8 of 10, MR, series 1, window file 128/256"
    ]


def test_one_slice_is_found_by_its_position() -> None:
    [series] = study(
        image(9, z=3),
        image(5, z=1),
        dicom(np.full((2, 4, 4), 7, np.uint8), SeriesInstanceUID="1.1", InstanceNumber=2),
    ).series
    rendered = list(render_slices(series, item=1, slices=None, windows=("file",)))
    assert [render_slice(series, index + 1, item=1, window="file")[:2] for index in range(4)] == [
        one[:2] for one in rendered
    ]
    assert render_slice(series, 1, item=2, window="7,9").provenance.window == "requested"
    # HU mean nothing here
    assert render_slice(series, 1, item=2, window="lung").provenance.window != "lung"
    for index in (0, 5, -1):
        with pytest.raises(InputError, match=f"no image {index}"):
            render_slice(series, index, item=1, window="file")


def test_every_single_image_and_the_longest_series_of_a_study_are_shown() -> None:
    localizer_elements: dict[str, Any] = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    found = study(
        image(1, series="1.3", SeriesNumber="30"),
        image(2, series="1.1", SeriesNumber="1", **localizer_elements),
        *(image(3, series="1.2", SeriesNumber="20", z=z) for z in range(3)),
        *(image(4, series="1.4", SeriesNumber="40", z=z) for z in range(2)),
    )
    assert [str(one) for one in found.series] == [
        "1: MR, 1 image, number 1, localizer", "2: MR, 3 images, number 20", "3: MR, 1 image, number 30", "4: MR, 2 images, number 40"
    ]  # fmt: skip
    assert [one.number for one in select_series(found, None)] == [2, 3] and [
        one.number for one in select_series(found, (4, 1))
    ] == [4, 1]
    with pytest.raises(InputError, match="there is no series 5; there are: 1: MR"):
        select_series(found, (5,))
    assert [one.number for one in select_series(study(image(1, **localizer_elements)), None)] == [1]


def ct(**elements: object) -> bytes:
    return dicom(
        np.zeros((4, 4), np.int16),
        Modality="CT",
        RescaleSlope="1",
        RescaleIntercept="0",
        **elements,
    )


@pytest.mark.parametrize(
    ("file", "requested", "expected"),
    [
        (ct(), ("file",), ["soft 50/400"]),
        (ct(WindowCenter=["40", "300"], WindowWidth=["350", "1500"]), ("file",), ["file 40/350"]),
        (
            ct(WindowCenter="40", WindowWidth="350"),
            ("lung", "-500,1400"),
            ["lung -600/1500", "requested -500/1400"],
        ),
        (
            ct(WindowCenter="40", WindowWidth="350"),
            ("file", "bone"),
            ["file 40/350", "bone 400/1800"],
        ),
        (image(1), ("lung",), ["file 128/256"]),
        (image(1), ("20,10",), ["requested 20/10"]),
        (dicom(np.zeros((4, 4, 3), np.uint8)), ("lung",), ["color"]),
        (dicom(np.eye(4, dtype=np.uint8)), ("file",), ["range 0.5/1"]),
    ],
)
def test_the_requested_window_is_applied_where_it_means_something(
    file: bytes, requested: tuple[str, ...], expected: list[str]
) -> None:
    provenance = [
        one.provenance
        for one in render_slices(study(file).series[0], item=1, slices=8, windows=requested)
    ]
    assert [
        one.window if one.center is None else f"{one.window} {one.center:g}/{one.width:g}"
        for one in provenance
    ] == expected


@pytest.mark.parametrize(
    "window", ["lungs", "40", "40,0", "40,-1", "1e9,2", "nan,nan", "file 2", ""]
)
def test_an_invalid_window_is_refused(window: str) -> None:
    with pytest.raises(InputError, match="window"):
        list(render_slices(study(ct()).series[0], item=1, slices=8, windows=(window,)))


def test_bad_files_raise_or_are_counted() -> None:
    good, truncated = image(1, z=1, SOPInstanceUID="1.5"), image(2, z=2)[:-10]
    with pytest.raises(ImageError, match="file 2 is not a DICOM file"):
        study(good, b"\x89PNG")
    found = study(good, good, truncated, b"\x89PNG", strict=False)
    assert found.left_out == {"repeated": 1, "no DICOM": 1} and found.series[0].n_images == 2
    left_out: Counter[str] = Counter()
    assert first_pixels(found, left_out=left_out) == [1] and left_out == {"damaged": 1}
    with pytest.raises(ImageError, match="file 3 is truncated"):
        first_pixels(found)


def test_a_false_number_of_frames_costs_nothing() -> None:
    with pytest.raises(ImageError, match="truncated"):
        first_pixels(study(image(1, NumberOfFrames="999999999")), slices=8)


def test_provenance_identifies_nobody() -> None:
    found = study(
        dicom_with_identifiers(
            np.arange(64, dtype=np.uint16).reshape(8, 8),
            SeriesNumber="3",
            SeriesDescription="ZZDESCRIBED",
        )
    )
    [one] = render_slices(found.series[0], item=1, slices=8, windows=("file",))
    text = (
        repr(found)
        + repr(one.file)
        + repr(one.provenance)
        + str(provenance_to_json(one.provenance))
        + str(format_provenance([one.provenance]))
        + repr(one.png)
    )
    assert [secret for secret in SECRETS if secret in text] == []
    assert provenance_to_json(one.provenance) == {
        "item": 1, "kind": "dicom", "rows": 8, "columns": 8, "modality": "OT", "series": 1, "series_number": 3, "index": 1, "total": 1,
        "window": "range", "center": 31.5, "width": 63.0,
    }  # fmt: skip
