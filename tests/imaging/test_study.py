"""Series out of DICOM files, the slices that are shown of them, and the windows they are shown in."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import numpy as np
import PIL.Image
import pytest

pytest.importorskip("pydicom", reason="pydicom is not installed")

from lingshu.core.errors import BadImage, InputError
from lingshu.imaging.seen import in_words, seen_to_json
from lingshu.imaging.study import Named, Study, choose, picture_at, pictures, read_study
from tests.imaging._dicoms import SECRETS, dicom, planted

KEY = b"0123456789abcdef"


def image(value: int, *, series: str = "1.1", z: int | None = None, **others: Any) -> bytes:
    place = (
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
    return dicom(np.full((4, 4), value, np.uint16), **{**ids, **place, **window, **others})


def study(*files: bytes, strict: bool = True) -> Study:
    return read_study(
        [Named(file, f"file {n}") for n, file in enumerate(files, 1)], key=KEY, strict=strict
    )


def shades(found: Study, number: int = 1, **options: object) -> list[int]:
    asked = {"item": 1, "slices": None, "windows": ("file",), **options}
    shown = pictures(found.series[number - 1], **asked)
    return [int(np.asarray(PIL.Image.open(io.BytesIO(one.png)))[0, 0]) for one in shown]


def test_slices_stand_in_order_of_place_and_are_taken_evenly() -> None:
    found = study(*(image(z, z=z) for z in (7, 3, 9, 1, 5, 0, 8, 2, 6, 4)))
    assert shades(found) == list(range(10)) and shades(found, slices=2) == [2, 7]
    assert shades(study(*(image(n, InstanceNumber=str(9 - n)) for n in (4, 5, 6)))) == [6, 5, 4]


def test_frames_of_one_file_are_slices_too() -> None:
    frames = np.arange(10, dtype=np.uint16)[:, None, None] * np.ones((10, 4, 4), np.uint16)
    found = study(dicom(frames, Modality="MR", WindowCenter="128", WindowWidth="256"))
    [one, two] = pictures(found.series[0], item=3, slices=2, windows=("file",))
    assert (one.seen.place, two.seen.place, one.seen.of, one.seen.item) == (3, 8, 10, 3)
    assert in_words([one.seen, two.seen]) == [
        "images 1-2: slices 3, 8 of 10, MR, series 1, window file 128/256"
    ]


def test_one_slice_is_found_by_its_place() -> None:
    [series] = study(
        image(9, z=3),
        image(5, z=1),
        dicom(np.full((2, 4, 4), 7, np.uint8), SeriesInstanceUID="1.1", InstanceNumber=2),
    ).series
    every = list(pictures(series, item=1, slices=None, windows=("file",)))
    assert [picture_at(series, place + 1, item=1, window="file")[:2] for place in range(4)] == [
        one[:2] for one in every
    ]
    assert picture_at(series, 1, item=2, window="7,9").seen.window == "asked"
    # HU mean nothing here
    assert picture_at(series, 1, item=2, window="lung").seen.window != "lung"
    for place in (0, 5, -1):
        with pytest.raises(InputError, match=f"no image {place}"):
            picture_at(series, place, item=1, window="file")


def test_of_a_study_every_single_image_and_the_longest_series_are_shown() -> None:
    scout: dict[str, Any] = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}
    found = study(
        image(1, series="1.3", SeriesNumber="30"),
        image(2, series="1.1", SeriesNumber="1", **scout),
        *(image(3, series="1.2", SeriesNumber="20", z=z) for z in range(3)),
        *(image(4, series="1.4", SeriesNumber="40", z=z) for z in range(2)),
    )
    assert [str(one) for one in found.series] == [
        "1: MR, 1 image, number 1, localizer", "2: MR, 3 images, number 20", "3: MR, 1 image, number 30", "4: MR, 2 images, number 40"
    ]  # fmt: skip
    assert [one.number for one in choose(found, None)] == [2, 3] and [
        one.number for one in choose(found, (4, 1))
    ] == [4, 1]
    with pytest.raises(InputError, match="there is no series 5; there are: 1: MR"):
        choose(found, (5,))
    assert [one.number for one in choose(study(image(1, **scout)), None)] == [1]


def ct(**others: object) -> bytes:
    return dicom(
        np.zeros((4, 4), np.int16), Modality="CT", RescaleSlope="1", RescaleIntercept="0", **others
    )


@pytest.mark.parametrize(
    ("file", "asked", "shown"),
    [
        (ct(), ("file",), ["soft 50/400"]),
        (ct(WindowCenter=["40", "300"], WindowWidth=["350", "1500"]), ("file",), ["file 40/350"]),
        (
            ct(WindowCenter="40", WindowWidth="350"),
            ("lung", "-500,1400"),
            ["lung -600/1500", "asked -500/1400"],
        ),
        (
            ct(WindowCenter="40", WindowWidth="350"),
            ("file", "bone"),
            ["file 40/350", "bone 400/1800"],
        ),
        (image(1), ("lung",), ["file 128/256"]),
        (image(1), ("20,10",), ["asked 20/10"]),
        (dicom(np.zeros((4, 4, 3), np.uint8)), ("lung",), ["colour"]),
        (dicom(np.eye(4, dtype=np.uint8)), ("file",), ["range 0.5/1"]),
    ],
)
def test_the_window_is_the_one_asked_for_where_it_means_something(
    file: bytes, asked: tuple[str, ...], shown: list[str]
) -> None:
    told = [one.seen for one in pictures(study(file).series[0], item=1, slices=8, windows=asked)]
    assert [
        one.window if one.center is None else f"{one.window} {one.center:g}/{one.width:g}"
        for one in told
    ] == shown


@pytest.mark.parametrize(
    "window", ["lungs", "40", "40,0", "40,-1", "1e9,2", "nan,nan", "file 2", ""]
)
def test_a_window_that_is_none_is_refused(window: str) -> None:
    with pytest.raises(InputError, match="window"):
        list(pictures(study(ct()).series[0], item=1, slices=8, windows=(window,)))


def test_bad_files_raise_or_are_counted() -> None:
    good, cut = image(1, z=1, SOPInstanceUID="1.5"), image(2, z=2)[:-10]
    with pytest.raises(BadImage, match="file 2 is no DICOM file"):
        study(good, b"\x89PNG")
    found = study(good, good, cut, b"\x89PNG", strict=False)
    assert found.left_out == {"repeated": 1, "no DICOM": 1} and found.series[0].images == 2
    left_out: Counter[str] = Counter()
    assert shades(found, left_out=left_out) == [1] and left_out == {"damaged": 1}
    with pytest.raises(BadImage, match="file 3 is truncated"):
        shades(found)


def test_a_number_of_frames_that_lies_costs_nothing() -> None:
    with pytest.raises(BadImage, match="truncated"):
        shades(study(image(1, NumberOfFrames="999999999")), slices=8)


def test_nothing_that_was_seen_names_anybody() -> None:
    found = study(
        planted(
            np.arange(64, dtype=np.uint16).reshape(8, 8),
            SeriesNumber="3",
            SeriesDescription="ZZDESCRIBED",
        )
    )
    [one] = pictures(found.series[0], item=1, slices=8, windows=("file",))
    told = (
        repr(found)
        + repr(one.part)
        + repr(one.seen)
        + str(seen_to_json(one.seen))
        + str(in_words([one.seen]))
        + repr(one.png)
    )
    assert [secret for secret in SECRETS if secret in told] == []
    assert seen_to_json(one.seen) == {
        "item": 1, "kind": "dicom", "rows": 8, "columns": 8, "modality": "OT", "series": 1, "series_number": 3, "place": 1, "of": 1,
        "window": "range", "center": 31.5, "width": 63.0,
    }  # fmt: skip
