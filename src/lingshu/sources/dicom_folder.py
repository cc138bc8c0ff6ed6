"""A hospital's folder of DICOM files as pseudonymous samples, with tables of reports and questions.

License, revision and link: the hospital's own; every sample is private and not yet de-identified,
because pixels may hold names too. No name, number, date or path is carried: patients, studies and
series are hashes under a key.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

from lingshu.core.errors import ImageError, InputError
from lingshu.core.pseudonyms import check_key, pseudonym
from lingshu.core.rows import sample_from_row
from lingshu.core.types import Drop, Image, Meta, Sample
from lingshu.deidentify.header import read_study_identifiers
from lingshu.deidentify.ids import IdDeduplicator, image_messages, with_ids
from lingshu.deidentify.matcher import StudyMatcher
from lingshu.deidentify.scrub import DatePolicy, scrub, shift_days_of
from lingshu.deidentify.spans import IdentifierSpan, count_notes
from lingshu.imaging.dicom.elements import NotDicomError
from lingshu.imaging.dicom.file import open_dicom
from lingshu.imaging.dicom.metadata import BurnedInRisk, DicomMetadata, highest_risk
from lingshu.imaging.dicom.study import series_sort_key
from lingshu.imaging.files import iter_files, select_frames
from lingshu.imaging.read import encode_png
from lingshu.sources.csv import check_columns, open_table

SampleUnit = Literal["image", "series", "study"]
DEFAULT_QUESTION = "Write the radiology report of this study."
# What a row of a table may be joined by, the narrowest first.
JOIN_KEYS = ("series", "study", "accession", "patient")
DEFAULT_COLUMNS = {"accession": "accession", "report": "report"}
# Columns of a table of questions that are read.
QUESTION_COLUMNS = ("question", "answer")
OPTIONAL_COLUMNS = ("choices", "kind", "language")


def read(
    path: Path,
    *,
    per: SampleUnit = "study",
    slices: int | None = 8,
    windows: Sequence[str] | None = None,
    reports: Path | None = None,
    columns: Mapping[str, str] | None = None,
    question: str = DEFAULT_QUESTION,
    questions: Path | None = None,
    dates: Literal["remove", "shift"] = "remove",
    key: bytes | None = None,
) -> Iterator[Sample | Drop]:
    """One sample for each image, series or study below a folder, with images rendered to PNG.

    At most `slices` images of a series are used, evenly along the scan (None for all); with
    `per="image"`, every frame is. `windows` names presets for CT (lung, soft, bone, brain, liver);
    without it the file's own windows are used, else lung, soft and bone. `reports` is a table;
    `columns` says which of its columns are `report` and `study`, `series`, `accession` or
    `patient`. The sample of a study with a report asks `question` and is answered by it.
    `questions` is a table with the columns `question`, `answer` and one of those four, and
    optionally `choices`, `kind` and `language`: each row is one more sample with the same images.
    Identifiers are removed from the text of both tables, by rule and by what the headers of all
    files of the study hold (deidentify/scrub.py). `dates="shift"` moves the dates of a patient by
    one number of days, which the key decides, so that intervals stay. Without a `key` a random one is used, and no two runs give the same ids.

    Files have no names here: "file 17" is the 17th of `imaging.files.iter_files`. Drops: not_dicom,
    no_pixels, bad_dicom, link, duplicate_id, report_without_images, empty_report,
    question_without_images, empty_question, and those of core/rows.py for a question.

    Raises:
        InputError: not a folder, no such column, or a wrong option.
        MissingExtraError: pydicom is not installed.
    """
    if per not in ("image", "series", "study"):
        raise InputError(f"per cannot be {per!r}; choose image, series or study.")
    if dates not in ("remove", "shift"):
        raise InputError(f"dates cannot be {dates!r}; choose remove or shift.")
    key = check_key(key)
    columns = columns or DEFAULT_COLUMNS
    folder = _DicomFolder(
        files=[path / relative for relative in iter_files(path)],
        key=key,
        slices=slices,
        windows=windows,
        question=question,
        report_column=columns.get("report", ""),
        reports=_report_table(reports, columns, key) if reports else None,
        questions=_question_table(questions, key) if questions else None,
        dates=dates,
    )
    deduplicate = IdDeduplicator()
    if per == "image":
        for file_number in range(1, len(folder.files) + 1):
            for result in folder.image_samples(file_number):
                yield deduplicate(result)
    else:
        groups: dict[str, dict[str, list[_ImageFile]]] = {}
        yield from folder.scan(groups, by_study=per == "study")
        for series in groups.values():
            for result in folder.group_samples(series, by_study=per == "study"):
                yield deduplicate(result)
    yield from folder.unmatched()


class _JoinedTable:
    """Rows of a table by the hashes of what they belong to; records which were used.

    `join_columns` maps JOIN_KEYS to the columns with the numbers to join by; `required` columns
    must exist and be filled, `optional` ones may be missing. A row that lacks one, or has no
    number, counts as empty. The numbers are never carried.

    Raises:
        InputError: a column that is missing or occurs twice, or a table that cannot be read.
    """

    def __init__(
        self,
        path: Path,
        join_columns: Mapping[str, str],
        required: Sequence[str],
        optional: Sequence[str] = (),
        *,
        key: bytes,
    ) -> None:
        self._join_columns = {
            kind: join_columns[kind] for kind in JOIN_KEYS if kind in join_columns
        }
        self._required, self._columns = required, (*required, *optional)
        self._rows: list[dict[str, str]] = []
        self._rows_by_hash: dict[tuple[str, str], list[int]] = {}
        self._matched: set[int] = set()
        self.n_empty = 0
        with open_table(path, errors="strict") as file:
            rows = csv.DictReader(file)
            joined = list(self._join_columns.values())
            names = list(rows.fieldnames or ())
            check_columns(path, names, [*joined, *required], [*joined, *self._columns])
            for row in rows:
                self._add(row, key)

    def _add(self, row: Mapping[str, str | None], key: bytes) -> None:
        values = {name: text for name in self._columns if (text := (row.get(name) or "").strip())}
        hashes = {
            kind: digest
            for kind, column in self._join_columns.items()
            if (digest := pseudonym(key, kind, row.get(column) or "")) is not None
        }
        if not hashes or not all(name in values for name in self._required):
            self.n_empty += 1
            return
        for join_key in hashes.items():
            self._rows_by_hash.setdefault(join_key, []).append(len(self._rows))
        self._rows.append(values)

    def rows_for(
        self, metadata: DicomMetadata, *, max_rows: int | None = None
    ) -> list[dict[str, str]]:
        """The rows of an image's series, else of its study, else of its accession or patient."""
        for kind in self._join_columns:
            digest = getattr(metadata, kind)
            indices = self._rows_by_hash.get((kind, digest), [])[:max_rows] if digest else []
            if indices:
                self._matched.update(indices)
                return [self._rows[index] for index in indices]
        return []

    def drops(self, noun: str, empty_detail: str) -> Iterator[Drop]:
        """The rows that belong to no image, and those that were empty."""
        for number in range(1, len(self._rows) + 1):
            if number - 1 not in self._matched:
                detail = f"no image belongs to {noun} {number} of the table."
                yield Drop(f"{noun}-{number}", f"{noun}_without_images", detail)
        for _ in range(self.n_empty):
            yield Drop(noun, f"empty_{noun}", empty_detail)


def _report_table(path: Path, columns: Mapping[str, str], key: bytes) -> _JoinedTable:
    unknown = columns.keys() - {*JOIN_KEYS, "report"}
    if unknown or "report" not in columns or len(columns) < 2:
        problem = f"reports are joined by columns for report and one of {', '.join(JOIN_KEYS)}"
        raise InputError(f"{problem}, not {', '.join(columns)}.")
    return _JoinedTable(path, columns, (columns["report"],), key=key)


def _question_table(path: Path, key: bytes) -> _JoinedTable:
    with open_table(path, errors="strict") as file:
        header = next(csv.reader(file), [])
    join_columns = {kind: kind for kind in JOIN_KEYS if kind in header}
    if not join_columns:
        problem = f"has none of the columns {', '.join(JOIN_KEYS)}"
        raise InputError(f"{path} {problem}, one of which says what a question is about.")
    return _JoinedTable(path, join_columns, QUESTION_COLUMNS, OPTIONAL_COLUMNS, key=key)


class _ImageFile(NamedTuple):
    """A file with pixels: its number, position in its series, frames, and risks in its header."""

    file_number: int
    sort_key: tuple[float, int]
    n_frames: int
    risk: BurnedInRisk
    burned_in: bool | None
    recognizable: bool | None


class _StudyScrubber(NamedTuple):
    """Removes identifiers from the texts of one study."""

    matcher: StudyMatcher
    dates: DatePolicy
    shift_days: int

    def clean(self, text: str) -> tuple[str, tuple[IdentifierSpan, ...]]:
        return scrub(text, self.matcher, dates=self.dates, shift_days=self.shift_days)


class _PngFrame(NamedTuple):
    """A rendered frame as a PNG file: pixels of a whole study would fill the memory."""

    frame: int
    png: bytes
    window: str


@dataclass(frozen=True)
class _DicomFolder:
    """The files of a folder and how samples are built from them; `read` describes each option."""

    files: Sequence[Path]
    key: bytes
    slices: int | None
    windows: Sequence[str] | None
    question: str
    report_column: str
    reports: _JoinedTable | None
    questions: _JoinedTable | None
    dates: DatePolicy

    def scan(
        self, groups: dict[str, dict[str, list[_ImageFile]]], *, by_study: bool
    ) -> Iterator[Drop]:
        """Read the metadata of every file into `groups`, by study or series and then by series."""
        instances: set[str] = set()
        for file_number in range(1, len(self.files) + 1):
            metadata = self._metadata(file_number)
            if isinstance(metadata, Drop):
                yield metadata
                continue
            name = f"file-{file_number}"
            if metadata.instance is not None and metadata.instance in instances:
                yield Drop(name, "duplicate_id", f"file {file_number} repeats an image.")
                continue
            instances.add(metadata.instance or name)
            series = metadata.series or name
            group_id = (metadata.study or series) if by_study else series
            image_file = _ImageFile(
                file_number,
                series_sort_key(metadata, file_number),
                metadata.n_frames,
                metadata.burned_in_risk,
                metadata.burned_in,
                metadata.recognizable,
            )
            groups.setdefault(group_id, {}).setdefault(series, []).append(image_file)

    def _metadata(self, file_number: int) -> DicomMetadata | Drop:
        name, file = f"file {file_number}", self.files[file_number - 1]
        drop_name = f"file-{file_number}"
        if file.is_symlink():
            return Drop(drop_name, "link", f"{name} is a link; links are not followed.")
        try:
            with open_dicom(file, name=name) as dicom_file:
                metadata = dicom_file.metadata(self.key)
        except ImageError as error:
            reason = "not_dicom" if isinstance(error, NotDicomError) else "bad_dicom"
            return Drop(drop_name, reason, str(error))
        if not metadata.has_pixels:
            return Drop(drop_name, "no_pixels", f"{name} holds no pixel data.")
        return metadata

    def _render(self, file_number: int, frames: Sequence[int] | None) -> Iterator[_PngFrame]:
        file = self.files[file_number - 1]
        with open_dicom(file, name=f"file {file_number}") as dicom_file:
            for frame in dicom_file.render(frames=frames, windows=self.windows):
                yield _PngFrame(frame.frame, encode_png(frame.pixels), str(frame.window))

    def image_samples(self, file_number: int) -> Iterator[Sample | Drop]:
        """One sample for each frame of a file."""
        metadata = self._metadata(file_number)
        if isinstance(metadata, Drop):
            yield metadata
            return
        name = metadata.instance or f"file-{file_number}"
        try:
            frames = groupby(self._render(file_number, None), key=lambda image: image.frame)
            for frame, rendered in frames:
                yield from self._samples(f"{name}-{frame}", metadata, list(rendered), [file_number])
        except ImageError as error:
            yield Drop(f"file-{file_number}", "bad_dicom", str(error))

    def group_samples(
        self, series: Mapping[str, list[_ImageFile]], *, by_study: bool
    ) -> Iterator[Sample | Drop]:
        """The sample of one series or study; files that cannot be rendered are dropped from it."""
        rendered: list[_PngFrame] = []
        rendered_files: list[_ImageFile] = []
        first: DicomMetadata | None = None
        for series_files in series.values():
            ordered = sorted(series_files, key=lambda file: file.sort_key)
            for index, frames in select_frames([file.n_frames for file in ordered], self.slices):
                file_number = ordered[index].file_number
                try:
                    rendered += list(self._render(file_number, frames))
                    rendered_files.append(ordered[index])
                    if first is None:
                        metadata = self._metadata(file_number)
                        first = None if isinstance(metadata, Drop) else metadata
                except ImageError as error:
                    yield Drop(f"file-{file_number}", "bad_dicom", str(error))
        if first and rendered:
            first = _with_max_risk(first, rendered_files)
            if len(series) > 1:
                first = replace(first, series=None)
            group_id = first.study if by_study else first.series
            name = group_id or first.series or first.instance or "image"
            file_numbers = [file.file_number for files in series.values() for file in files]
            yield from self._samples(name, first, rendered, file_numbers)

    def _samples(
        self,
        name: str,
        metadata: DicomMetadata,
        rendered: Sequence[_PngFrame],
        file_numbers: Sequence[int],
    ) -> Iterator[Sample | Drop]:
        """The report of some images and every question about them, else the images alone."""
        images = tuple(Image(data=frame.png) for frame in rendered)
        ids = {"patient": metadata.patient, "study": metadata.study, "series": metadata.series}
        extra = _extra(metadata, rendered)
        meta = with_ids(Meta(deidentified=False, modality=metadata.modality, extra=extra), ids)
        reports = self.reports.rows_for(metadata, max_rows=1) if self.reports else []
        questions = self.questions.rows_for(metadata) if self.questions else []
        if not reports and not questions:
            yield Sample(name, image_messages(images, None), images, meta=meta)
            return
        study = self._study_scrubber(file_numbers, metadata)
        if reports:
            messages = image_messages(images, self.question)
            report, found = study.clean(reports[0][self.report_column])
            noted = replace(meta, kind="report", extra={**meta.extra, **count_notes(found, {})})
            yield Sample(name, messages, images, meta=noted).with_answer(report)
        for number, question in enumerate(questions, 1):
            cleaned = {field: study.clean(text) for field, text in question.items()}
            row = {field: text for field, (text, _) in cleaned.items()}
            sample = sample_from_row({**row, "id": f"{name}-q{number}"}, number, images)
            if isinstance(sample, Sample) and sample.gold:
                found = [span for _, spans in cleaned.values() for span in spans]
                extra = {**meta.extra, **count_notes(found, {})}
                kind, language = sample.meta.kind, sample.meta.language
                noted = replace(meta, kind=kind, language=language, extra=extra)
                sample = replace(sample, meta=noted).with_answer(sample.gold[0])
            yield sample

    def _study_scrubber(
        self, file_numbers: Sequence[int], metadata: DicomMetadata
    ) -> _StudyScrubber:
        """What removes the identifiers that all files of a study hold from its texts."""
        files = [(self.files[number - 1], f"file {number}") for number in file_numbers]
        matcher = StudyMatcher(read_study_identifiers(files))
        patient = metadata.patient or metadata.study or metadata.series or ""
        return _StudyScrubber(matcher, self.dates, shift_days_of(self.key, patient))

    def unmatched(self) -> Iterator[Drop]:
        """The rows of the tables that became no sample."""
        if self.reports:
            detail = "a row without text or without a number to join by."
            yield from self.reports.drops("report", detail)
        if self.questions:
            detail = "a row without a question, an answer or a number to join by."
            yield from self.questions.drops("question", detail)


def _with_max_risk(metadata: DicomMetadata, rendered_files: Sequence[_ImageFile]) -> DicomMetadata:
    """Metadata of many files: a name in the pixels of one of them is a name in the sample."""
    return replace(
        metadata,
        burned_in_risk=highest_risk([file.risk for file in rendered_files]) or "low",
        burned_in=_any_true([file.burned_in for file in rendered_files]),
        recognizable=_any_true([file.recognizable for file in rendered_files]),
    )


def _any_true(values: Sequence[bool | None]) -> bool | None:
    if True in values:
        return True
    return None if None in values else False


def _extra(metadata: DicomMetadata, rendered: Sequence[_PngFrame]) -> dict[str, str]:
    """What later steps decide by, as text; unknown values are left out."""
    yes_no = {True: "yes", False: "no", None: None}
    spacing, thickness = metadata.spacing, metadata.thickness
    values = {
        "windows": "; ".join(frame.window for frame in rendered),
        "burned_in_risk": metadata.burned_in_risk,
        "burned_in": yes_no[metadata.burned_in],
        "recognizable": yes_no[metadata.recognizable],
        "body_part": metadata.body_part,
        "view": metadata.view,
        "laterality": metadata.laterality,
        "sop_class": metadata.sop_class,
        "transfer_syntax": metadata.transfer_syntax,
        "spacing_mm": None if spacing is None else f"{spacing[0]:.4g} x {spacing[1]:.4g}",
        "thickness_mm": None if thickness is None else f"{thickness:.4g}",
    }
    return {name: value for name, value in values.items() if value is not None}
