"""A study's DICOM files as series in order of place, and a choice of their slices as pictures.

Nothing of a file but the facts of imaging/_dicom_facts.py is read. Errors call a file as its caller
does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lingshu.core.errors import BadImage, InputError
from lingshu.imaging.dicom import DicomFacts, NoDicom, NoPixels, open_dicom
from lingshu.imaging.read import encode_png
from lingshu.imaging.seen import Seen
from lingshu.imaging.walk import frames_of_files
from lingshu.imaging.windows import OWN, Window, is_preset, presets

Source = Path | bytes


@dataclass(frozen=True, slots=True)
class Named:
    """A file, or its bytes, and what errors call it: a path is often a patient's name, so it is no
    path.
    """

    source: Source = field(repr=False)
    name: str


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a series with the facts of it."""

    file: Named
    facts: DicomFacts
    order: tuple[float, int]

    @property
    def frames(self) -> int:
        """As the file states them.

        Where that is no number, one is tried: the file's own error is then told.
        """
        return max(1, self.facts.frames)


@dataclass(frozen=True, slots=True)
class Series:
    """The files of one series in the order of their places; `number` counts the series of a study
    from 1.
    """

    number: int
    parts: tuple[Part, ...]

    @property
    def images(self) -> int:
        """Slices or frames, as the files state them."""
        return sum(part.frames for part in self.parts)

    @property
    def localizer(self) -> bool:
        return all(part.facts.localizer for part in self.parts)

    @property
    def modality(self) -> str | None:
        return self.parts[0].facts.modality

    def __str__(self) -> str:
        number = self.parts[0].facts.series_number
        told = [
            f"{self.number}: {self.modality or 'unknown modality'}",
            f"{self.images} image{'s' if self.images != 1 else ''}",
        ]
        told += [f"number {number}"] if number is not None else []
        return ", ".join([*told, *(["localizer"] if self.localizer else [])])


@dataclass(frozen=True, slots=True)
class Study:
    """Series by their numbers, and how many files were left out for which reason.

    Hashes tell patients and studies apart.
    """

    series: tuple[Series, ...]
    left_out: Mapping[str, int]
    patients: frozenset[str]
    studies: frozenset[str]


def read_study(files: Sequence[Named], *, key: bytes, strict: bool) -> Study:
    """Find the series in DICOM files, sorted by place along the scan, else by number; an image that
    comes twice counts once.

    With `strict` a file that is no DICOM image raises; without, it is left out and counted. `key`
    hashes the ids.

    Raises:
        BadImage: with `strict`, the first bad file.
        MissingExtra: pydicom is not installed.
    """
    left_out: Counter[str] = Counter()
    found: dict[str, list[Part]] = {}
    instances: set[str] = set()
    patients, studies = set[str](), set[str]()
    for count, file in enumerate(files):
        facts = _facts(file, key, left_out, strict=strict)
        if facts is None:
            continue
        if facts.instance is not None and facts.instance in instances:
            left_out["repeated"] += 1
            continue
        instances.add(facts.instance or f"#{count}")
        patients.update(filter(None, (facts.patient,)))
        studies.update(filter(None, (facts.study,)))
        order = (
            facts.position if facts.position is not None else float(facts.number or 0),
            facts.number or count,
        )
        found.setdefault(facts.series or f"#{count}", []).append(Part(file, facts, order))
    # As the study numbers them; a series without a number follows, in the order of the files.
    numbered = sorted(
        found.values(),
        key=lambda parts: (
            parts[0].facts.series_number if parts[0].facts.series_number is not None else 10**7
        ),
    )
    series = tuple(
        Series(n, tuple(sorted(parts, key=lambda one: one.order)))
        for n, parts in enumerate(numbered, 1)
    )
    return Study(series, left_out, frozenset(patients), frozenset(studies))


def _facts(file: Named, key: bytes, left_out: Counter[str], *, strict: bool) -> DicomFacts | None:
    try:
        with open_dicom(file.source, name=file.name) as opened:
            facts = opened.facts(key)
        if not facts.has_pixels:
            raise NoPixels(f"{file.name} holds no pixel data; leave it out.")
        return facts
    except BadImage as error:
        if strict:
            raise
        left_out[
            "no DICOM"
            if isinstance(error, NoDicom)
            else "without pixels"
            if isinstance(error, NoPixels)
            else "damaged"
        ] += 1
        return None


def choose(study: Study, wanted: Sequence[int] | None) -> list[Series]:
    """The series to show: those wanted by number, else every single image and the longest of the
    others, localizers left out.

    Raises:
        InputError: a number that no series has.
    """
    if wanted is not None:
        unknown = next((n for n in wanted if not 1 <= n <= len(study.series)), None)
        if unknown is not None:
            raise InputError(f"there is no series {unknown}; there are: {listed(study)}.")
        return [study.series[n - 1] for n in wanted]
    usual = [one for one in study.series if not one.localizer] or list(study.series)
    longest = max(usual, key=lambda one: (one.images, -one.number))
    return [one for one in usual if one.images == 1 or one is longest]


def listed(study: Study) -> str:
    return "; ".join(map(str, study.series))


class Picture(NamedTuple):
    """One slice in one window, as a PNG file without metadata: pixels of a whole study would fill
    the memory.
    """

    png: bytes
    seen: Seen
    part: Part


def pictures(
    series: Series,
    *,
    item: int,
    slices: int | None,
    windows: Sequence[str],
    left_out: Counter[str] | None = None,
) -> Iterator[Picture]:
    """At most `slices` slices of a series (None: all), taken evenly, each in every window.

    `windows` are as `DicomFile.render` takes them; presets of CT alone stand for the file's own
    window where the series is no CT. `item` is written into what was seen. A file that cannot be
    rendered raises, or is counted in `left_out`.

    Raises:
        BadImage: a damaged file, where `left_out` is None.
        InputError: a window that none is called.
    """
    only_presets = all(is_preset(window) for window in presets(windows))
    used = (OWN,) if only_presets and series.modality != "CT" else windows
    frames = [part.frames for part in series.parts]
    starts = [sum(frames[:place]) for place in range(len(frames))]
    for place, chosen in frames_of_files(frames, slices):
        part = series.parts[place]
        try:
            with open_dicom(part.file.source, name=part.file.name) as opened:
                for one in opened.render(frames=chosen, windows=used):
                    yield Picture(
                        encode_png(one.pixels),
                        _seen(
                            series,
                            part,
                            item,
                            starts[place] + one.frame,
                            one.shown_in,
                            one.pixels.shape,
                        ),
                        part,
                    )
        except BadImage:
            if left_out is None:
                raise
            left_out["damaged"] += 1


def picture_at(series: Series, place: int, *, item: int, window: str) -> Picture:
    """The slice at `place` of a series, from 1, in one window as `DicomFile.render` takes it.

    Raises:
        BadImage: a damaged file.
        InputError: there is no such place, or no window is called so.
    """
    left = place
    for part in series.parts if place >= 1 else ():
        if left <= part.frames:
            # The numbers of a preset are HU: they mean nothing elsewhere.
            preset = series.modality != "CT" and any(is_preset(one) for one in presets([window]))
            with open_dicom(part.file.source, name=part.file.name) as opened:
                one = next(opened.render(frames=[left - 1], windows=[OWN if preset else window]))
            return Picture(
                encode_png(one.pixels),
                _seen(series, part, item, place - 1, one.shown_in, one.pixels.shape),
                part,
            )
        left -= part.frames
    raise InputError(f"the series has no image {place}; it has {series.images}.")


def _seen(
    series: Series, part: Part, item: int, place: int, window: Window, shape: tuple[int, ...]
) -> Seen:
    facts = part.facts
    return Seen(
        item=item,
        kind="dicom",
        rows=shape[0],
        columns=shape[1],
        modality=facts.modality,
        body_part=facts.body_part,
        view=facts.view,
        laterality=facts.laterality,
        series=series.number,
        series_number=facts.series_number,
        place=place + 1,
        of=series.images,
        window=window.name,
        center=window.center,
        width=window.width,
        spacing=facts.spacing,
    )
