"""The DICOM files of a study as sorted series, and a selection of their slices as images.

Only what imaging/dicom/metadata.py allows is read. Errors call a file what the caller calls it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from lingshu.core.errors import ImageError, InputError
from lingshu.imaging.dicom.elements import NoPixelDataError, NotDicomError
from lingshu.imaging.dicom.file import RenderedFrame, open_dicom
from lingshu.imaging.dicom.metadata import DicomMetadata
from lingshu.imaging.files import select_frames
from lingshu.imaging.provenance import ImageProvenance
from lingshu.imaging.read import encode_png
from lingshu.imaging.windows import FILE_WINDOW, is_ct_preset, parse_windows

Source = Path | bytes


@dataclass(frozen=True, slots=True)
class NamedSource:
    """A file, or its bytes, and what errors call it: not its path, which often names a patient."""

    source: Source = field(repr=False)
    name: str


@dataclass(frozen=True, slots=True)
class SeriesFile:
    """One file of a series with its metadata."""

    file: NamedSource
    metadata: DicomMetadata
    sort_key: tuple[float, int]

    @property
    def n_frames(self) -> int:
        """The stated number of frames; 1 without a valid one: rendering raises the error."""
        return max(1, self.metadata.n_frames)


@dataclass(frozen=True, slots=True)
class DicomSeries:
    """The sorted files of one series; `number` counts the series of a study from 1."""

    number: int
    files: tuple[SeriesFile, ...]

    @property
    def n_images(self) -> int:
        """Slices or frames, as the files state them."""
        return sum(file.n_frames for file in self.files)

    @property
    def is_localizer(self) -> bool:
        return all(file.metadata.localizer for file in self.files)

    @property
    def modality(self) -> str | None:
        return self.files[0].metadata.modality

    def __str__(self) -> str:
        number, n_images = self.files[0].metadata.series_number, self.n_images
        fields = [
            f"{self.number}: {self.modality or 'unknown modality'}",
            f"{n_images} image{'s' if n_images != 1 else ''}",
            f"number {number}" if number is not None else "",
            "localizer" if self.is_localizer else "",
        ]
        return ", ".join(filter(None, fields))


@dataclass(frozen=True, slots=True)
class Study:
    """Series in order of their numbers, and how many files were left out for which reason.

    `patients` and `studies` are the hashes found, which show a mix of several.
    """

    series: tuple[DicomSeries, ...]
    left_out: Mapping[str, int]
    patients: frozenset[str]
    studies: frozenset[str]


def series_sort_key(metadata: DicomMetadata, default: int) -> tuple[float, int]:
    """By position along the scan, else by number, else by `default`, the number of the file."""
    number = metadata.instance_number or 0
    position = float(number) if metadata.position is None else metadata.position
    return position, number or default


def read_study(files: Sequence[NamedSource], *, key: bytes, strict: bool) -> Study:
    """Group DICOM files by series and sort them; an image that occurs twice counts once.

    A file that is not a DICOM image raises if `strict`, else it is counted. `key` hashes the ids.

    Raises:
        ImageError: with `strict`, the first bad file.
        MissingExtraError: pydicom is not installed.
    """
    left_out: Counter[str] = Counter()
    files_by_series: dict[str, list[SeriesFile]] = {}
    instances, patients, studies = set[str](), set[str](), set[str]()
    for index, file in enumerate(files):
        try:
            metadata = _read_metadata(file, key)
        except ImageError as error:
            if strict:
                raise
            left_out[_reason_left_out(error)] += 1
            continue
        if metadata.instance is not None and metadata.instance in instances:
            left_out["repeated"] += 1
            continue
        instances.add(metadata.instance or f"#{index}")
        patients.update(filter(None, (metadata.patient,)))
        studies.update(filter(None, (metadata.study,)))
        series_file = SeriesFile(file, metadata, series_sort_key(metadata, index))
        files_by_series.setdefault(metadata.series or f"#{index}", []).append(series_file)
    # By the study's own numbers; a series without a number follows, in the order of the files.
    sorted_series = sorted(files_by_series.values(), key=_series_number)
    series = tuple(
        DicomSeries(number, tuple(sorted(series_files, key=lambda file: file.sort_key)))
        for number, series_files in enumerate(sorted_series, 1)
    )
    return Study(series, left_out, frozenset(patients), frozenset(studies))


def _series_number(files: Sequence[SeriesFile]) -> int:
    number = files[0].metadata.series_number
    return 10**7 if number is None else number


def _read_metadata(file: NamedSource, key: bytes) -> DicomMetadata:
    with open_dicom(file.source, name=file.name) as dicom_file:
        metadata = dicom_file.metadata(key)
    if not metadata.has_pixels:
        raise NoPixelDataError(f"{file.name} holds no pixel data; leave it out.")
    return metadata


def _reason_left_out(error: ImageError) -> str:
    if isinstance(error, NotDicomError):
        return "no DICOM"
    return "without pixels" if isinstance(error, NoPixelDataError) else "damaged"


def select_series(study: Study, numbers: Sequence[int] | None) -> list[DicomSeries]:
    """The series with these numbers, else every single image and the longest other series.

    Localizers are not selected by default unless there is nothing else.

    Raises:
        InputError: a number that no series has.
    """
    if numbers is not None:
        unknown = next((n for n in numbers if not 1 <= n <= len(study.series)), None)
        if unknown is not None:
            series_list = format_series_list(study)
            raise InputError(f"there is no series {unknown}; there are: {series_list}.")
        return [study.series[n - 1] for n in numbers]
    candidates = [series for series in study.series if not series.is_localizer] or study.series
    longest = max(candidates, key=lambda series: (series.n_images, -series.number))
    return [series for series in candidates if series.n_images == 1 or series is longest]


def format_series_list(study: Study) -> str:
    return "; ".join(map(str, study.series))


class RenderedSlice(NamedTuple):
    """One slice in one window, as a PNG file to save memory."""

    png: bytes
    provenance: ImageProvenance
    file: SeriesFile


def render_slices(
    series: DicomSeries,
    *,
    item: int,
    slices: int | None,
    windows: Sequence[str],
    left_out: Counter[str] | None = None,
) -> Iterator[RenderedSlice]:
    """At most `slices` evenly spaced slices of a series (None: all), each in every window.

    `windows` are as `DicomFile.render` takes them; if all are presets of CT and the series is not
    CT, the file's own window is used. `item` goes into the provenance. A file that cannot be
    rendered raises, or is counted in `left_out`.

    Raises:
        ImageError: a damaged file, where `left_out` is None.
        InputError: an unknown window.
    """
    windows = _applicable_windows(series, windows)
    frame_counts = [file.n_frames for file in series.files]
    starts = list(accumulate(frame_counts, initial=0))
    for index, frames in select_frames(frame_counts, slices):
        try:
            yield from _render_file(
                series, series.files[index], starts[index], item, frames, windows
            )
        except ImageError:
            if left_out is None:
                raise
            left_out["damaged"] += 1


def render_slice(series: DicomSeries, position: int, *, item: int, window: str) -> RenderedSlice:
    """The slice at `position` of a series, from 1, in one window as `DicomFile.render` takes it.

    Raises:
        ImageError: a damaged file.
        InputError: no such position, or an unknown window.
    """
    windows, start = _applicable_windows(series, [window]), 0
    for file in series.files if position >= 1 else ():
        if position <= start + file.n_frames:
            return next(_render_file(series, file, start, item, [position - 1 - start], windows))
        start += file.n_frames
    raise InputError(f"the series has no image {position}; it has {series.n_images}.")


def _applicable_windows(series: DicomSeries, windows: Sequence[str]) -> Sequence[str]:
    # The numbers of a preset are HU: they mean nothing elsewhere.
    only_presets = all(is_ct_preset(window) for window in parse_windows(windows))
    return (FILE_WINDOW,) if only_presets and series.modality != "CT" else windows


def _render_file(
    series: DicomSeries,
    file: SeriesFile,
    start: int,
    item: int,
    frames: Sequence[int] | None,
    windows: Sequence[str],
) -> Iterator[RenderedSlice]:
    """Frames of a file, whose first is number `start` of its series from 0."""
    with open_dicom(file.file.source, name=file.file.name) as dicom_file:
        for frame in dicom_file.render(frames=frames, windows=windows):
            provenance = _provenance(series, file, frame, item, start + frame.frame + 1)
            yield RenderedSlice(encode_png(frame.pixels), provenance, file)


def _provenance(
    series: DicomSeries, file: SeriesFile, frame: RenderedFrame, item: int, index: int
) -> ImageProvenance:
    window = frame.window
    copied = ("modality", "body_part", "view", "laterality", "series_number", "spacing")
    return ImageProvenance(
        item=item,
        kind="dicom",
        rows=frame.pixels.shape[0],
        columns=frame.pixels.shape[1],
        series=series.number,
        index=index,
        total=series.n_images,
        window=window.name,
        center=window.center,
        width=window.width,
        **{name: getattr(file.metadata, name) for name in copied},
    )
