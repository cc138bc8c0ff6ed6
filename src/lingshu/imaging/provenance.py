"""What a model saw: kind, index, window and scale of each image; nothing that names a person."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

ImageKind = Literal["picture", "dicom", "volume"]
# Modalities whose images are slices of a body; those of others are frames.
_SLICED = frozenset(("CT", "MR", "PT", "NM"))


@dataclass(frozen=True, slots=True)
class ImageProvenance:
    """The origin of one image; None if unknown or not applicable. Never a name, id, date or path.

    `item` is the number, from 1, of the input file or folder that it comes from. `series` counts
    the series of that study from 1, `series_number` is the study's own number for it. The image is
    slice or frame `index` of `total`, from 1. Modality, body part, view and laterality are terms of
    closed lists (imaging/dicom/metadata.py). `window` says where the window comes from
    (imaging/windows.py); `center` and `width` are in the units of the modality. `spacing` is (row,
    column) in mm, `rows` and `columns` are pixels.
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
    """The known fields as plain JSON."""
    fields = {name: value for name, value in asdict(image).items() if value is not None}
    return fields | ({"spacing": list(image.spacing)} if image.spacing else {})


def format_provenance(images: Sequence[ImageProvenance]) -> list[str]:
    """One line for each run of images of one series in one window.

    Such as "images 1-2: slices 3, 8 of 40, CT, series 2 (number 5), window soft 50/400".
    """
    # Several windows of each slice alternate: grouped by window they are runs.
    runs: dict[tuple[object, ...], list[int]] = {}
    for number, image in enumerate(images, 1):
        runs.setdefault(_run_key(image), []).append(number)
    return [
        f"{_format_numbers(numbers)}: {', '.join(_describe_run([images[n - 1] for n in numbers]))}"
        for numbers in runs.values()
    ]


def _run_key(image: ImageProvenance) -> tuple[object, ...]:
    window = (image.window, image.center, image.width)
    return image.item, image.kind, image.series, image.total, image.modality, window, image.spacing


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
        indices = ", ".join(str(image.index) for image in run)
        parts.append(f"{noun}{'s' if len(run) > 1 else ''} {indices} of {first.total}")
    parts += filter(None, (first.modality, first.body_part, first.view, first.laterality))
    if first.series is not None:
        number = "" if first.series_number is None else f" (number {first.series_number})"
        parts.append(f"series {first.series}{number}")
    if first.window:
        has_values = first.center is not None and first.width is not None
        values = f" {first.center:g}/{first.width:g}" if has_values else ""
        parts.append(f"window {first.window}{values}")
    if first.spacing:
        parts.append(f"{first.spacing[0]:.3g} x {first.spacing[1]:.3g} mm")
    return parts or [f"{first.kind}, {first.columns} x {first.rows} pixels"]
