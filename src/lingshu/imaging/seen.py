"""What a model saw: of each image its kind, place, window and scale, and nothing that names a
person.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Literal

Kind = Literal["picture", "dicom", "volume"]
# Modalities whose images are slices of a body; those of others are frames.
_SLICED = frozenset(("CT", "MR", "PT", "NM"))


@dataclass(frozen=True, slots=True)
class Seen:
    """What one image is of; None where it is not known or does not apply. Never a name, an id, a
    date, a path or free text.

    `item` is the place, from 1, of the file or folder that it comes from among those that were
    handed in. `series` counts the series of that study from 1, `series_number` is the study's own
    number for it. The image is slice or frame `place` of `of`, from 1. Modality, body part, view
    and laterality are words of closed lists (imaging/_dicom_facts.py). `window` says where the
    window comes from (imaging/windows.py), `center` and `width` are in the units of the modality.
    `spacing` is (row, column) in mm, `rows` and `columns` are pixels.
    """

    item: int
    kind: Kind
    rows: int
    columns: int
    modality: str | None = None
    body_part: str | None = None
    view: str | None = None
    laterality: str | None = None
    series: int | None = None
    series_number: int | None = None
    place: int = 1
    of: int = 1
    window: str | None = None
    center: float | None = None
    width: float | None = None
    spacing: tuple[float, float] | None = None


def seen_to_json(seen: Seen) -> dict[str, Any]:
    """What is known of an image as plain JSON."""
    known = {name: value for name, value in asdict(seen).items() if value is not None}
    return known | ({"spacing": list(seen.spacing)} if seen.spacing else {})


def in_words(seen: Sequence[Seen]) -> list[str]:
    """What was seen, one line for each run of images of one series in one window.

    Such as "images 1-8: slices 3, 8, 13, 18, 23, 28, 33, 38 of 40, CT, series 2 (number 5), window
    soft 50/400, 0.7 x 0.7 mm".
    """

    def alike(one: tuple[int, Seen]) -> tuple[object, ...]:
        see = one[1]
        return (
            see.item,
            see.kind,
            see.series,
            see.of,
            see.modality,
            see.window,
            see.center,
            see.width,
            see.spacing,
        )

    # Several windows of each slice alternate: sorted by window they are runs again.
    places = {
        key: n for n, key in reversed(list(enumerate(alike(pair) for pair in enumerate(seen, 1))))
    }
    lines = []
    for _, group in groupby(
        sorted(enumerate(seen, 1), key=lambda pair: places[alike(pair)]), key=alike
    ):
        run = list(group)
        lines.append(
            f"{_numbers([number for number, _ in run])}:"
            f" {', '.join(_facts([one for _, one in run]))}"
        )
    return lines


def _numbers(found: Sequence[int]) -> str:
    if len(found) == 1:
        return f"image {found[0]}"
    if list(found) == list(range(found[0], found[-1] + 1)):
        return f"images {found[0]}-{found[-1]}"
    return "images " + ", ".join(map(str, found))


def _facts(run: Sequence[Seen]) -> list[str]:
    one = run[0]
    facts = []
    if one.of > 1:
        noun = "slice" if one.kind == "volume" or one.modality in _SLICED else "frame"
        facts.append(
            f"{noun}{'s' if len(run) > 1 else ''} {', '.join(str(see.place) for see in run)} of"
            f" {one.of}"
        )
    facts += [fact for fact in (one.modality, one.body_part, one.view, one.laterality) if fact]
    if one.series is not None:
        facts.append(
            f"series {one.series}"
            + (f" (number {one.series_number})" if one.series_number is not None else "")
        )
    if one.window:
        facts.append(
            f"window {one.window}"
            + (
                f" {one.center:g}/{one.width:g}"
                if one.center is not None and one.width is not None
                else ""
            )
        )
    if one.spacing:
        facts.append(f"{one.spacing[0]:.3g} x {one.spacing[1]:.3g} mm")
    return facts or [f"{one.kind}, {one.columns} x {one.rows} pixels"]
