"""A hospital's folder of DICOM files as pseudonymous samples, with reports and questions from
tables where there are some.

License, revision and link: the hospital's own; every sample is private and not yet de-identified,
for pixels may hold names too. No name, number, date or path is carried: patients, studies and
series are hashes under a key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

from lingshu.core.errors import ImageError, InputError
from lingshu.core.pseudonyms import check_key
from lingshu.core.rows import sample_from_row
from lingshu.core.types import Drop, Image, Meta, Sample
from lingshu.deidentify.ids import IdDeduplicator, image_messages, with_ids
from lingshu.deidentify.names import HeaderNames, read_header_names
from lingshu.imaging.dicom.elements import NotDicomError
from lingshu.imaging.dicom.file import open_dicom
from lingshu.imaging.dicom.metadata import BurnedInRisk, DicomMetadata
from lingshu.imaging.files import iter_files, select_frames
from lingshu.imaging.read import encode_png
from lingshu.sources._report_tables import JoinedTable
from lingshu.sources._report_tables import question_table as load_question_table
from lingshu.sources._report_tables import report_table as load_report_table

SampleUnit = Literal["image", "series", "study"]
_RISK_LEVELS: tuple[BurnedInRisk, ...] = ("low", "likely", "stated")
DEFAULT_QUESTION = "Write the radiology report of this study."


@dataclass(frozen=True, slots=True)
class DicomFolderOptions:
    """What the samples of a folder are made of; `read` describes each."""

    per: SampleUnit
    slices: int | None
    windows: Sequence[str] | None
    question: str
    key: bytes


class StudyTables(NamedTuple):
    """What is said of the studies: a table of reports with the column that holds them, and one of
    questions.
    """

    reports: JoinedTable | None
    column: str
    questions: JoinedTable | None

    def iter_drops(self) -> Iterator[Drop]:
        """What belongs to no image, and rows that lack something."""
        if self.reports:
            yield from (
                Drop(
                    f"report-{n}",
                    "report_without_images",
                    f"no image belongs to report {n} of the table.",
                )
                for n in self.reports.unmatched_rows
            )
            yield from (
                Drop("report", "empty_report", "a row without text or without a number to join by.")
                for _ in range(self.reports.n_empty)
            )
        if self.questions:
            yield from (
                Drop(
                    f"question-{n}",
                    "question_without_images",
                    f"no image belongs to question {n} of the table.",
                )
                for n in self.questions.unmatched_rows
            )
            reason = "a row without a question, an answer or a number to join by."
            yield from (
                Drop("question", "empty_question", reason) for _ in range(self.questions.n_empty)
            )


def read(
    path: Path, *, per: SampleUnit = "study", slices: int | None = 8, windows: Sequence[str] | None = None, reports: Path | None = None,
    columns: Mapping[str, str] | None = None, question: str = DEFAULT_QUESTION, questions: Path | None = None, key: bytes | None = None,
) -> Iterator[Sample | Drop]:  # fmt: skip
    """One sample for each image, series or study below a folder. Images are rendered to PNG, one
    sample at a time.

    Of every series at most `slices` images are taken, evenly along the scan (None for all); of one
    image, every frame. `windows` names presets for CT (lung, soft, bone, brain, liver); without it
    the file's own windows count, else lung, soft and bone. `reports` is a table; `columns` says
    which of its columns are `report` and `study`, `series`, `accession` or `patient`. A study with
    a report is asked `question` and answered by it. `questions` is a table with the columns
    `question`, `answer` and one of those four, and `choices`, `kind` and `language` where it has
    them: each row is one more sample about the same images. Names and numbers that a study's header
    holds are taken out of what these tables say of it (deidentify/names.py). Without a `key` a random
    one is used, and no two runs give the same ids.

    Files have no names here: "file 17" is the 17th below the folder in the order of `files_below`.
    Drops: not_dicom, no_pixels, bad_dicom, link, duplicate_id, report_without_images, empty_report,
    question_without_images, empty_question, and those of core/rows.py for a question.

    Raises:
        InputError: no folder, no such column, or an option that is none.
        MissingExtra: pydicom is not installed.
    """
    if per not in ("image", "series", "study"):
        raise InputError(f"per cannot be {per!r}; choose image, series or study.")
    options = DicomFolderOptions(per, slices, windows, question, check_key(key))
    report_table, column = (
        load_report_table(reports, columns, options.key) if reports else (None, "")
    )
    tables = StudyTables(
        report_table, column, load_question_table(questions, options.key) if questions else None
    )
    deduplicate, files = IdDeduplicator(), list(iter_files(path))
    if per == "image":
        for file_number in range(1, len(files) + 1):
            for result in _image_samples(path, files, file_number, options, tables):
                yield deduplicate(result)
    else:
        groups: dict[str, dict[str, list[_ImageFile]]] = {}
        yield from _scan(path, files, options, groups)
        for series in groups.values():
            for result in _group_samples(path, files, series, options, tables):
                yield deduplicate(result)
    yield from tables.iter_drops()


@dataclass(frozen=True, slots=True)
class _ImageFile:
    """A file with pixels: its number, where it belongs in its series, its frames, and what its
    header fears of them.
    """

    file_number: int
    sort_key: tuple[float, int]
    n_frames: int
    risk: BurnedInRisk
    burned_in: bool | None
    recognizable: bool | None


def _scan(
    path: Path,
    files: Sequence[Path],
    options: DicomFolderOptions,
    groups: dict[str, dict[str, list[_ImageFile]]],
) -> Iterator[Drop]:
    """Read the facts of every file into `groups`, by study or series and then by series; yield what
    is left out.
    """
    instances: set[str] = set()
    for file_number in range(1, len(files) + 1):
        metadata = _read_metadata(path, files, file_number, options.key)
        if isinstance(metadata, Drop):
            yield metadata
            continue
        if metadata.instance is not None and metadata.instance in instances:
            yield Drop(
                f"file-{file_number}", "duplicate_id", f"file {file_number} repeats an image."
            )
            continue
        instances.add(metadata.instance or f"file-{file_number}")
        series = metadata.series or f"file-{file_number}"
        group_id = (metadata.study or series) if options.per == "study" else series
        sort_key = (
            metadata.position
            if metadata.position is not None
            else float(metadata.instance_number or 0),
            metadata.instance_number or file_number,
        )
        groups.setdefault(group_id, {}).setdefault(series, []).append(
            _ImageFile(
                file_number,
                sort_key,
                metadata.n_frames,
                metadata.burned_in_risk,
                metadata.burned_in,
                metadata.recognizable,
            )
        )


def _read_metadata(
    path: Path, files: Sequence[Path], file_number: int, key: bytes
) -> DicomMetadata | Drop:
    name, file = f"file {file_number}", path / files[file_number - 1]
    if file.is_symlink():
        return Drop(f"file-{file_number}", "link", f"{name} is a link; links are not followed.")
    try:
        with open_dicom(file, name=name) as dicom_file:
            metadata = dicom_file.metadata(key)
    except ImageError as error:
        return Drop(
            f"file-{file_number}",
            "not_dicom" if isinstance(error, NotDicomError) else "bad_dicom",
            str(error),
        )
    return (
        metadata
        if metadata.has_pixels
        else Drop(f"file-{file_number}", "no_pixels", f"{name} holds no pixel data.")
    )


class _RenderedFrame(NamedTuple):
    """A rendered frame as a PNG file: pixels of a whole study would fill the memory."""

    frame: int
    png: bytes
    window: str


def _render_frames(
    path: Path,
    files: Sequence[Path],
    file_number: int,
    frames: Sequence[int] | None,
    options: DicomFolderOptions,
) -> Iterator[_RenderedFrame]:
    with open_dicom(path / files[file_number - 1], name=f"file {file_number}") as dicom_file:
        for frame in dicom_file.render(frames=frames, windows=options.windows):
            yield _RenderedFrame(frame.frame, encode_png(frame.pixels), str(frame.window))


def _image_samples(
    path: Path,
    files: Sequence[Path],
    file_number: int,
    options: DicomFolderOptions,
    tables: StudyTables,
) -> Iterator[Sample | Drop]:
    metadata = _read_metadata(path, files, file_number, options.key)
    if isinstance(metadata, Drop):
        yield metadata
        return
    name = metadata.instance or f"file-{file_number}"
    try:
        for frame, rendered in groupby(
            _render_frames(path, files, file_number, None, options), key=lambda image: image.frame
        ):
            yield from _samples(
                f"{name}-{frame}",
                metadata,
                list(rendered),
                options,
                tables,
                _header_names(path, files, [file_number], tables),
            )
    except ImageError as error:
        yield Drop(f"file-{file_number}", "bad_dicom", str(error))


def _group_samples(
    path: Path,
    files: Sequence[Path],
    series: Mapping[str, list[_ImageFile]],
    options: DicomFolderOptions,
    tables: StudyTables,
) -> Iterator[Sample | Drop]:
    """The sample of one series or study; a file that cannot be rendered is left out of it and
    counted.
    """
    rendered: list[_RenderedFrame] = []
    rendered_files: list[_ImageFile] = []
    first_metadata: DicomMetadata | None = None
    for series_files in series.values():
        ordered_files = sorted(series_files, key=lambda file: file.sort_key)
        for index, frames in select_frames(
            [file.n_frames for file in ordered_files], options.slices
        ):
            file_number = ordered_files[index].file_number
            try:
                rendered += list(_render_frames(path, files, file_number, frames, options))
                rendered_files.append(ordered_files[index])
                if first_metadata is None:
                    metadata = _read_metadata(path, files, file_number, options.key)
                    first_metadata = None if isinstance(metadata, Drop) else metadata
            except ImageError as error:
                yield Drop(f"file-{file_number}", "bad_dicom", str(error))
    if first_metadata and rendered:
        first_metadata = _with_max_risk(first_metadata, rendered_files)
        if len(series) > 1:
            first_metadata = replace(first_metadata, series=None)
        group_id = first_metadata.study if options.per == "study" else first_metadata.series
        file_numbers = [series_files[0].file_number for series_files in series.values()]
        name = group_id or first_metadata.series or first_metadata.instance or "image"
        yield from _samples(
            name,
            first_metadata,
            rendered,
            options,
            tables,
            _header_names(path, files, file_numbers, tables),
        )


def _with_max_risk(metadata: DicomMetadata, rendered_files: Sequence[_ImageFile]) -> DicomMetadata:
    """Facts of many files: a name in the pixels of one of them is a name in the sample."""
    return replace(
        metadata,
        burned_in_risk=max((file.risk for file in rendered_files), key=_RISK_LEVELS.index),
        burned_in=_any_true([file.burned_in for file in rendered_files]),
        recognizable=_any_true([file.recognizable for file in rendered_files]),
    )


def _any_true(values: Sequence[bool | None]) -> bool | None:
    return True if True in values else None if None in values else False


def _header_names(
    path: Path, files: Sequence[Path], file_numbers: Sequence[int], tables: StudyTables
) -> list[HeaderNames]:
    """Whom the headers name, one file of each series; nobody is looked for where no text is joined."""
    if not (tables.reports or tables.questions):
        return []
    return [
        read_header_names(path / files[file_number - 1], name=f"file {file_number}")
        for file_number in file_numbers
    ]


def _redact(text: str, header_names: Sequence[HeaderNames]) -> str:
    for names in header_names:
        text = names.redact(text)
    return text


def _samples(
    name: str,
    metadata: DicomMetadata,
    rendered: Sequence[_RenderedFrame],
    options: DicomFolderOptions,
    tables: StudyTables,
    header_names: Sequence[HeaderNames],
) -> Iterator[Sample | Drop]:
    """The report of some images, or the images alone where nothing is said of them, and every
    question about them.
    """
    images = tuple(Image(data=frame.png) for frame in rendered)
    report = (
        next((row[tables.column] for row in tables.reports.rows_for(metadata, max_rows=1)), None)
        if tables.reports
        else None
    )
    meta = Meta(deidentified=False, modality=metadata.modality, extra=_extra(metadata, rendered))
    meta = with_ids(
        meta, {"patient": metadata.patient, "study": metadata.study, "series": metadata.series}
    )
    question_rows = tables.questions.rows_for(metadata) if tables.questions else []
    if report:
        yield Sample(
            name,
            image_messages(images, options.question),
            images,
            meta=replace(meta, kind="report"),
        ).with_answer(_redact(report, header_names))
    elif not question_rows:
        yield Sample(name, image_messages(images, None), images, meta=meta)
    for row_number, question_row in enumerate(question_rows, 1):
        row = {key: _redact(text, header_names) for key, text in question_row.items()}
        sample = sample_from_row({**row, "id": f"{name}-q{row_number}"}, row_number, images)
        if isinstance(sample, Sample) and sample.gold:
            sample = replace(
                sample, meta=replace(meta, kind=sample.meta.kind, language=sample.meta.language)
            ).with_answer(sample.gold[0])
        yield sample


def _extra(metadata: DicomMetadata, rendered: Sequence[_RenderedFrame]) -> dict[str, str]:
    """What later steps decide by, as text; what is not known is left out."""
    values = {
        "windows": "; ".join(frame.window for frame in rendered),
        "burned_in_risk": metadata.burned_in_risk,
        "burned_in": None if metadata.burned_in is None else "yes" if metadata.burned_in else "no",
        "recognizable": (
            None if metadata.recognizable is None else "yes" if metadata.recognizable else "no"
        ),
        "body_part": metadata.body_part,
        "view": metadata.view,
        "laterality": metadata.laterality,
        "sop_class": metadata.sop_class,
        "transfer_syntax": metadata.transfer_syntax,
        "spacing_mm": (
            None
            if metadata.spacing is None
            else f"{metadata.spacing[0]:.4g} x {metadata.spacing[1]:.4g}"
        ),
        "thickness_mm": None if metadata.thickness is None else f"{metadata.thickness:.4g}",
    }
    return {name: value for name, value in values.items() if value is not None}
