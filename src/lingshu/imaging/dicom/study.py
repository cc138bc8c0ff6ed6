"""A study's DICOM files as series in order of place, and a choice of their slices as pictures.

Nothing of a file but the facts of imaging/dicom/metadata.py is read. Errors call a file as its caller
does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lingshu.core.errors import ImageError, InputError
from lingshu.imaging.dicom.file import DicomMetadata, NoPixelDataError, NotDicomError, open_dicom
from lingshu.imaging.files import select_frames
from lingshu.imaging.provenance import ImageProvenance
from lingshu.imaging.read import encode_png
from lingshu.imaging.windows import FILE_WINDOW, Window, is_ct_preset, parse_windows

Source = Path | bytes


@dataclass(frozen=True, slots=True)
class NamedSource:
    """A file, or its bytes, and what errors call it: a path is often a patient's name, so it is no
    path.
    """

    source: Source = field(repr=False)
    name: str


@dataclass(frozen=True, slots=True)
class SeriesFile:
    """One file of a series with the facts of it."""

    file: NamedSource
    metadata: DicomMetadata
    sort_key: tuple[float, int]

    @property
    def n_frames(self) -> int:
        """As the file states them.

        Where that is no number, one is tried: the file's own error is then told.
        """
        return max(1, self.metadata.n_frames)


@dataclass(frozen=True, slots=True)
class DicomSeries:
    """The files of one series in the order of their places; `number` counts the series of a study
    from 1.
    """

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
        number = self.files[0].metadata.series_number
        fields = [
            f"{self.number}: {self.modality or 'unknown modality'}",
            f"{self.n_images} image{'s' if self.n_images != 1 else ''}",
        ]
        fields += [f"number {number}"] if number is not None else []
        return ", ".join([*fields, *(["localizer"] if self.is_localizer else [])])


@dataclass(frozen=True, slots=True)
class Study:
    """Series by their numbers, and how many files were left out for which reason.

    Hashes tell patients and studies apart.
    """

    series: tuple[DicomSeries, ...]
    left_out: Mapping[str, int]
    patients: frozenset[str]
    studies: frozenset[str]


def read_study(files: Sequence[NamedSource], *, key: bytes, strict: bool) -> Study:
    """Find the series in DICOM files, sorted by place along the scan, else by number; an image that
    comes twice counts once.

    With `strict` a file that is no DICOM image raises; without, it is left out and counted. `key`
    hashes the ids.

    Raises:
        BadImage: with `strict`, the first bad file.
        MissingExtra: pydicom is not installed.
    """
    left_out: Counter[str] = Counter()
    files_by_series: dict[str, list[SeriesFile]] = {}
    instances: set[str] = set()
    patients, studies = set[str](), set[str]()
    for index, file in enumerate(files):
        metadata = _read_metadata(file, key, left_out, strict=strict)
        if metadata is None:
            continue
        if metadata.instance is not None and metadata.instance in instances:
            left_out["repeated"] += 1
            continue
        instances.add(metadata.instance or f"#{index}")
        patients.update(filter(None, (metadata.patient,)))
        studies.update(filter(None, (metadata.study,)))
        sort_key = (
            metadata.position
            if metadata.position is not None
            else float(metadata.instance_number or 0),
            metadata.instance_number or index,
        )
        files_by_series.setdefault(metadata.series or f"#{index}", []).append(
            SeriesFile(file, metadata, sort_key)
        )
    # As the study numbers them; a series without a number follows, in the order of the files.
    sorted_series = sorted(
        files_by_series.values(),
        key=lambda series_files: (
            series_files[0].metadata.series_number
            if series_files[0].metadata.series_number is not None
            else 10**7
        ),
    )
    series = tuple(
        DicomSeries(n, tuple(sorted(series_files, key=lambda one: one.sort_key)))
        for n, series_files in enumerate(sorted_series, 1)
    )
    return Study(series, left_out, frozenset(patients), frozenset(studies))


def _read_metadata(
    file: NamedSource, key: bytes, left_out: Counter[str], *, strict: bool
) -> DicomMetadata | None:
    try:
        with open_dicom(file.source, name=file.name) as dicom_file:
            metadata = dicom_file.metadata(key)
        if not metadata.has_pixels:
            raise NoPixelDataError(f"{file.name} holds no pixel data; leave it out.")
        return metadata
    except ImageError as error:
        if strict:
            raise
        left_out[
            "no DICOM"
            if isinstance(error, NotDicomError)
            else "without pixels"
            if isinstance(error, NoPixelDataError)
            else "damaged"
        ] += 1
        return None


def select_series(study: Study, numbers: Sequence[int] | None) -> list[DicomSeries]:
    """The series to show: those wanted by number, else every single image and the longest of the
    others, localizers left out.

    Raises:
        InputError: a number that no series has.
    """
    if numbers is not None:
        unknown = next((n for n in numbers if not 1 <= n <= len(study.series)), None)
        if unknown is not None:
            raise InputError(
                f"there is no series {unknown}; there are: {format_series_list(study)}."
            )
        return [study.series[n - 1] for n in numbers]
    candidates = [candidate for candidate in study.series if not candidate.is_localizer] or list(
        study.series
    )
    longest_series = max(candidates, key=lambda candidate: (candidate.n_images, -candidate.number))
    return [
        candidate
        for candidate in candidates
        if candidate.n_images == 1 or candidate is longest_series
    ]


def format_series_list(study: Study) -> str:
    return "; ".join(map(str, study.series))


class RenderedSlice(NamedTuple):
    """One slice in one window, as a PNG file without metadata: pixels of a whole study would fill
    the memory.
    """

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
    """At most `slices` slices of a series (None: all), taken evenly, each in every window.

    `windows` are as `DicomFile.render` takes them; presets of CT alone stand for the file's own
    window where the series is no CT. `item` is written into what was seen. A file that cannot be
    rendered raises, or is counted in `left_out`.

    Raises:
        BadImage: a damaged file, where `left_out` is None.
        InputError: a window that none is called.
    """
    only_presets = all(is_ct_preset(window) for window in parse_windows(windows))
    effective_windows = (FILE_WINDOW,) if only_presets and series.modality != "CT" else windows
    frame_counts = [file.n_frames for file in series.files]
    starts = [sum(frame_counts[:file_index]) for file_index in range(len(frame_counts))]
    for file_index, frame_indices in select_frames(frame_counts, slices):
        file = series.files[file_index]
        try:
            with open_dicom(file.file.source, name=file.file.name) as dicom_file:
                for frame in dicom_file.render(frames=frame_indices, windows=effective_windows):
                    yield RenderedSlice(
                        encode_png(frame.pixels),
                        _provenance(
                            series,
                            file,
                            item,
                            starts[file_index] + frame.frame,
                            frame.voi_window,
                            frame.pixels.shape,
                        ),
                        file,
                    )
        except ImageError:
            if left_out is None:
                raise
            left_out["damaged"] += 1


def render_slice(series: DicomSeries, position: int, *, item: int, window: str) -> RenderedSlice:
    """The slice at `place` of a series, from 1, in one window as `DicomFile.render` takes it.

    Raises:
        BadImage: a damaged file.
        InputError: there is no such place, or no window is called so.
    """
    remaining = position
    for file in series.files if position >= 1 else ():
        if remaining <= file.n_frames:
            # The numbers of a preset are HU: they mean nothing elsewhere.
            use_file_window = series.modality != "CT" and any(
                is_ct_preset(frame) for frame in parse_windows([window])
            )
            with open_dicom(file.file.source, name=file.file.name) as dicom_file:
                frame = next(
                    dicom_file.render(
                        frames=[remaining - 1], windows=[FILE_WINDOW if use_file_window else window]
                    )
                )
            return RenderedSlice(
                encode_png(frame.pixels),
                _provenance(series, file, item, position - 1, frame.voi_window, frame.pixels.shape),
                file,
            )
        remaining -= file.n_frames
    raise InputError(f"the series has no image {position}; it has {series.n_images}.")


def _provenance(
    series: DicomSeries,
    file: SeriesFile,
    item: int,
    index: int,
    window: Window,
    shape: tuple[int, ...],
) -> ImageProvenance:
    metadata = file.metadata
    return ImageProvenance(
        item=item,
        kind="dicom",
        rows=shape[0],
        columns=shape[1],
        modality=metadata.modality,
        body_part=metadata.body_part,
        view=metadata.view,
        laterality=metadata.laterality,
        series=series.number,
        series_number=metadata.series_number,
        index=index + 1,
        total=series.n_images,
        window=window.name,
        center=window.center,
        width=window.width,
        spacing=metadata.spacing,
    )
