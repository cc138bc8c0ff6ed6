"""What a model saw: of each image its kind, place, window and scale, and nothing that names a
person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Literal

ImageKind = Literal["picture", "dicom", "volume"]
# Modalities whose images are slices of a body; those of others are frames.
_SLICED = frozenset(("CT", "MR", "PT", "NM"))


@dataclass(frozen=True, slots=True)
class ImageProvenance:
    """What one image is of; None where it is not known or does not apply. Never a name, an id, a
    date, a path or free text.

    `item` is the place, from 1, of the file or folder that it comes from among those that were
    handed in. `series` counts the series of that study from 1, `series_number` is the study's own
    number for it. The image is slice or frame `place` of `of`, from 1. Modality, body part, view
    and laterality are words of closed lists (imaging/dicom/metadata.py). `window` says where the
    window comes from (imaging/windows.py), `center` and `width` are in the units of the modality.
    `spacing` is (row, column) in mm, `rows` and `columns` are pixels.
    """

    item: int
    kind: ImageKind
    rows: int
    columns: int
    modality: str | None = None
    body_part: str | None = None
    view: str | None = None
    laterality: str | None = None
    series: int | None = None
    series_number: int | None = None
    index: int = 1
    total: int = 1
    window: str | None = None
    center: float | None = None
    width: float | None = None
    spacing: tuple[float, float] | None = None


def provenance_to_json(image: ImageProvenance) -> dict[str, Any]:
    """What is known of an image as plain JSON."""
    fields = {name: value for name, value in asdict(image).items() if value is not None}
    return fields | ({"spacing": list(image.spacing)} if image.spacing else {})


def format_provenance(images: Sequence[ImageProvenance]) -> list[str]:
    """What was seen, one line for each run of images of one series in one window.

    Such as "images 1-8: slices 3, 8, 13, 18, 23, 28, 33, 38 of 40, CT, series 2 (number 5), window
    soft 50/400, 0.7 x 0.7 mm".
    """

    def group_key(numbered: tuple[int, ImageProvenance]) -> tuple[object, ...]:
        image = numbered[1]
        return (
            image.item,
            image.kind,
            image.series,
            image.total,
            image.modality,
            image.window,
            image.center,
            image.width,
            image.spacing,
        )

    # Several windows of each slice alternate: sorted by window they are runs again.
    first_index = {
        key: n
        for n, key in reversed(list(enumerate(group_key(pair) for pair in enumerate(images, 1))))
    }
    lines = []
    for _, group in groupby(
        sorted(enumerate(images, 1), key=lambda pair: first_index[group_key(pair)]), key=group_key
    ):
        run = list(group)
        lines.append(
            f"{_format_numbers([number for number, _ in run])}:"
            f" {', '.join(_describe_run([image for _, image in run]))}"
        )
    return lines


def _format_numbers(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"image {numbers[0]}"
    if list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"images {numbers[0]}-{numbers[-1]}"
    return "images " + ", ".join(map(str, numbers))


def _describe_run(run: Sequence[ImageProvenance]) -> list[str]:
    first = run[0]
    parts = []
    if first.total > 1:
        noun = "slice" if first.kind == "volume" or first.modality in _SLICED else "frame"
        parts.append(
            f"{noun}{'s' if len(run) > 1 else ''} {', '.join(str(image.index) for image in run)} of"
            f" {first.total}"
        )
    parts += [
        part for part in (first.modality, first.body_part, first.view, first.laterality) if part
    ]
    if first.series is not None:
        parts.append(
            f"series {first.series}"
            + (f" (number {first.series_number})" if first.series_number is not None else "")
        )
    if first.window:
        parts.append(
            f"window {first.window}"
            + (
                f" {first.center:g}/{first.width:g}"
                if first.center is not None and first.width is not None
                else ""
            )
        )
    if first.spacing:
        parts.append(f"{first.spacing[0]:.3g} x {first.spacing[1]:.3g} mm")
    return parts or [f"{first.kind}, {first.columns} x {first.rows} pixels"]
