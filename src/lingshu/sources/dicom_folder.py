"""A hospital's folder of DICOM files as pseudonymous samples, with reports and questions from
tables where there are some.

Licence, revision and link: the hospital's own; every sample is private and not yet de-identified,
for pixels may hold names too. No name, number, date or path is carried: patients, studies and
series are hashes under a key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

from lingshu.core.errors import BadImage, InputError
from lingshu.core.nouns import Drop, Image, Meta, Sample
from lingshu.core.rows import sample_from_row
from lingshu.imaging._dicom_facts import Risk
from lingshu.imaging.dicom import DicomFacts, NoDicom, open_dicom
from lingshu.imaging.named import Named, named_in
from lingshu.imaging.pseudonyms import check_key
from lingshu.imaging.read import encode_png
from lingshu.imaging.walk import files_below, frames_of_files
from lingshu.sources._ids import Once, look, with_ids
from lingshu.sources._reports import Joined
from lingshu.sources._reports import questions as table_of_questions
from lingshu.sources._reports import reports as table_of_reports

Per = Literal["image", "series", "study"]
_RISKS: tuple[Risk, ...] = ("low", "likely", "stated")
QUESTION = "Write the radiology report of this study."


@dataclass(frozen=True, slots=True)
class Options:
    """What the samples of a folder are made of; `read` describes each."""

    per: Per
    slices: int | None
    windows: Sequence[str] | None
    question: str
    key: bytes


class Tables(NamedTuple):
    """What is said of the studies: a table of reports with the column that holds them, and one of
    questions.
    """

    reports: Joined | None
    column: str
    questions: Joined | None

    def unused(self) -> Iterator[Drop]:
        """What belongs to no image, and rows that lack something."""
        if self.reports:
            yield from (
                Drop(
                    f"report-{n}",
                    "report_without_images",
                    f"no image belongs to report {n} of the table.",
                )
                for n in self.reports.unused
            )
            yield from (
                Drop("report", "empty_report", "a row without text or without a number to join by.")
                for _ in range(self.reports.empty)
            )
        if self.questions:
            yield from (
                Drop(
                    f"question-{n}",
                    "question_without_images",
                    f"no image belongs to question {n} of the table.",
                )
                for n in self.questions.unused
            )
            why = "a row without a question, an answer or a number to join by."
            yield from (
                Drop("question", "empty_question", why) for _ in range(self.questions.empty)
            )


def read(
    path: Path, *, per: Per = "study", slices: int | None = 8, windows: Sequence[str] | None = None, reports: Path | None = None,
    columns: Mapping[str, str] | None = None, question: str = QUESTION, questions: Path | None = None, key: bytes | None = None,
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
    holds are taken out of what these tables say of it (imaging/named.py). Without a `key` a random
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
    options = Options(per, slices, windows, question, check_key(key))
    told, column = table_of_reports(reports, columns, options.key) if reports else (None, "")
    tables = Tables(told, column, table_of_questions(questions, options.key) if questions else None)
    once, files = Once(), list(files_below(path))
    if per == "image":
        for number in range(1, len(files) + 1):
            for result in _one(path, files, number, options, tables):
                yield once(result)
    else:
        groups: dict[str, dict[str, list[_Found]]] = {}
        yield from _scan(path, files, options, groups)
        for series in groups.values():
            for result in _group(path, files, series, options, tables):
                yield once(result)
    yield from tables.unused()


@dataclass(frozen=True, slots=True)
class _Found:
    """A file with pixels: its number, where it belongs in its series, its frames, and what its
    header fears of them.
    """

    number: int
    order: tuple[float, int]
    frames: int
    risk: Risk
    burned_in: bool | None
    recognisable: bool | None


def _scan(
    path: Path, files: Sequence[Path], options: Options, groups: dict[str, dict[str, list[_Found]]]
) -> Iterator[Drop]:
    """Read the facts of every file into `groups`, by study or series and then by series; yield what
    is left out.
    """
    instances: set[str] = set()
    for number in range(1, len(files) + 1):
        facts = _facts(path, files, number, options.key)
        if isinstance(facts, Drop):
            yield facts
            continue
        if facts.instance is not None and facts.instance in instances:
            yield Drop(f"file-{number}", "duplicate_id", f"file {number} repeats an image.")
            continue
        instances.add(facts.instance or f"file-{number}")
        series = facts.series or f"file-{number}"
        whole = (facts.study or series) if options.per == "study" else series
        order = (
            facts.position if facts.position is not None else float(facts.number or 0),
            facts.number or number,
        )
        groups.setdefault(whole, {}).setdefault(series, []).append(
            _Found(
                number,
                order,
                facts.frames,
                facts.burned_in_risk,
                facts.burned_in,
                facts.recognisable,
            )
        )


def _facts(path: Path, files: Sequence[Path], number: int, key: bytes) -> DicomFacts | Drop:
    name, file = f"file {number}", path / files[number - 1]
    if file.is_symlink():
        return Drop(f"file-{number}", "link", f"{name} is a link; links are not followed.")
    try:
        with open_dicom(file, name=name) as opened:
            facts = opened.facts(key)
    except BadImage as error:
        return Drop(
            f"file-{number}", "not_dicom" if isinstance(error, NoDicom) else "bad_dicom", str(error)
        )
    return (
        facts
        if facts.has_pixels
        else Drop(f"file-{number}", "no_pixels", f"{name} holds no pixel data.")
    )


class _Picture(NamedTuple):
    """A rendered frame as a PNG file: pixels of a whole study would fill the memory."""

    frame: int
    png: bytes
    window: str


def _pictures(
    path: Path, files: Sequence[Path], number: int, frames: Sequence[int] | None, options: Options
) -> Iterator[_Picture]:
    with open_dicom(path / files[number - 1], name=f"file {number}") as opened:
        for one in opened.render(frames=frames, windows=options.windows):
            yield _Picture(one.frame, encode_png(one.pixels), one.window)


def _one(
    path: Path, files: Sequence[Path], number: int, options: Options, tables: Tables
) -> Iterator[Sample | Drop]:
    facts = _facts(path, files, number, options.key)
    if isinstance(facts, Drop):
        yield facts
        return
    name = facts.instance or f"file-{number}"
    try:
        for frame, shown in groupby(
            _pictures(path, files, number, None, options), key=lambda one: one.frame
        ):
            yield from _samples(
                f"{name}-{frame}",
                facts,
                list(shown),
                options,
                tables,
                _named(path, files, [number], tables),
            )
    except BadImage as error:
        yield Drop(f"file-{number}", "bad_dicom", str(error))


def _group(
    path: Path,
    files: Sequence[Path],
    series: Mapping[str, list[_Found]],
    options: Options,
    tables: Tables,
) -> Iterator[Sample | Drop]:
    """The sample of one series or study; a file that cannot be rendered is left out of it and
    counted.
    """
    shown: list[_Picture] = []
    used: list[_Found] = []
    first: DicomFacts | None = None
    for found in series.values():
        placed = sorted(found, key=lambda one: one.order)
        for place, frames in frames_of_files([one.frames for one in placed], options.slices):
            number = placed[place].number
            try:
                shown += list(_pictures(path, files, number, frames, options))
                used.append(placed[place])
                if first is None:
                    facts = _facts(path, files, number, options.key)
                    first = None if isinstance(facts, Drop) else facts
            except BadImage as error:
                yield Drop(f"file-{number}", "bad_dicom", str(error))
    if first and shown:
        first = _worst(first, used)
        if len(series) > 1:
            first = replace(first, series=None)
        whole = first.study if options.per == "study" else first.series
        numbers = [found[0].number for found in series.values()]
        name = whole or first.series or first.instance or "image"
        yield from _samples(
            name, first, shown, options, tables, _named(path, files, numbers, tables)
        )


def _worst(facts: DicomFacts, used: Sequence[_Found]) -> DicomFacts:
    """Facts of many files: a name in the pixels of one of them is a name in the sample."""
    return replace(
        facts,
        burned_in_risk=max((one.risk for one in used), key=_RISKS.index),
        burned_in=_any([one.burned_in for one in used]),
        recognisable=_any([one.recognisable for one in used]),
    )


def _any(values: Sequence[bool | None]) -> bool | None:
    return True if True in values else None if None in values else False


def _named(
    path: Path, files: Sequence[Path], numbers: Sequence[int], tables: Tables
) -> list[Named]:
    """Whom the headers name, one file of each series; nobody is looked for where no text is joined."""
    if not (tables.reports or tables.questions):
        return []
    return [named_in(path / files[number - 1], name=f"file {number}") for number in numbers]


def _without(text: str, named: Sequence[Named]) -> str:
    for one in named:
        text = one.without(text)
    return text


def _samples(
    name: str,
    facts: DicomFacts,
    shown: Sequence[_Picture],
    options: Options,
    tables: Tables,
    named: Sequence[Named],
) -> Iterator[Sample | Drop]:
    """The report of some images, or the images alone where nothing is said of them, and every
    question about them.
    """
    images = tuple(Image(data=one.png) for one in shown)
    report = (
        next((row[tables.column] for row in tables.reports.of(facts, most=1)), None)
        if tables.reports
        else None
    )
    meta = Meta(deidentified=False, modality=facts.modality, extra=_extra(facts, shown))
    meta = with_ids(meta, {"patient": facts.patient, "study": facts.study, "series": facts.series})
    asked = tables.questions.of(facts) if tables.questions else []
    if report:
        yield Sample(
            name, look(images, options.question), images, meta=replace(meta, kind="report")
        ).with_answer(_without(report, named))
    elif not asked:
        yield Sample(name, look(images, None), images, meta=meta)
    for number, said in enumerate(asked, 1):
        row = {key: _without(text, named) for key, text in said.items()}
        made = sample_from_row({**row, "id": f"{name}-q{number}"}, number, images)
        if isinstance(made, Sample) and made.gold:
            made = replace(
                made, meta=replace(meta, kind=made.meta.kind, language=made.meta.language)
            ).with_answer(made.gold[0])
        yield made


def _extra(facts: DicomFacts, shown: Sequence[_Picture]) -> dict[str, str]:
    """What later steps decide by, as text; what is not known is left out."""
    known = {
        "windows": "; ".join(one.window for one in shown),
        "burned_in_risk": facts.burned_in_risk,
        "burned_in": None if facts.burned_in is None else "yes" if facts.burned_in else "no",
        "recognisable": (
            None if facts.recognisable is None else "yes" if facts.recognisable else "no"
        ),
        "body_part": facts.body_part,
        "view": facts.view,
        "laterality": facts.laterality,
        "sop_class": facts.sop_class,
        "transfer_syntax": facts.transfer_syntax,
        "spacing_mm": (
            None if facts.spacing is None else f"{facts.spacing[0]:.4g} x {facts.spacing[1]:.4g}"
        ),
        "thickness_mm": None if facts.thickness is None else f"{facts.thickness:.4g}",
    }
    return {name: value for name, value in known.items() if value is not None}
