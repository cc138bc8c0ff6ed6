"""A hospital's folder of DICOM files as pseudonymous samples, with reports from a table where there are some.

Licence, revision and link: the hospital's own; every sample is private and not yet de-identified, for pixels may hold
names too. No name, number, date or path is carried: patients, studies and series are hashes under a key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

from lingshu.core.errors import BadImage, InputError
from lingshu.core.nouns import Drop, Image, Meta, Sample
from lingshu.imaging.dicom import DicomFacts, NoDicom, open_dicom
from lingshu.imaging.pseudonyms import check_key
from lingshu.imaging.read import encode_png
from lingshu.imaging.walk import files_below, frames_of_files
from lingshu.sources._ids import Once, look, with_ids
from lingshu.sources._reports import Reports

Per = Literal["image", "series", "study"]
QUESTION = "Write the radiology report of this study."


@dataclass(frozen=True, slots=True)
class Options:
    """What the samples of a folder are made of; `read` describes each."""

    per: Per
    slices: int | None
    windows: Sequence[str] | None
    question: str
    key: bytes


def read(
    path: Path, *, per: Per = "study", slices: int | None = 8, windows: Sequence[str] | None = None, reports: Path | None = None,
    columns: Mapping[str, str] | None = None, question: str = QUESTION, key: bytes | None = None,
) -> Iterator[Sample | Drop]:  # fmt: skip
    """One sample for each image, series or study below a folder. Images are rendered to PNG, one sample at a time.

    Of every series at most `slices` images are taken, evenly along the scan (None for all); of one image, every frame.
    `windows` names presets for CT (lung, soft, bone, brain, liver); without it the file's own windows count, else lung,
    soft and bone. `reports` is a table; `columns` says which of its columns are `report` and `study`, `series`,
    `accession` or `patient`. A study with a report is asked `question` and answered by it. Without a `key` a random one
    is used, and no two runs give the same ids.

    Files have no names here: "file 17" is the 17th below the folder in the order of `files_below`. Drops: not_dicom,
    no_pixels, bad_dicom, link, duplicate_id, report_without_images, empty_report.

    Raises:
        InputError: no folder, no such column, or an option that is none.
        MissingExtra: pydicom is not installed.
    """
    if per not in ("image", "series", "study"):
        raise InputError(f"per cannot be {per!r}; choose image, series or study.")
    options = Options(per, slices, windows, question, check_key(key))
    table = Reports(reports, columns, options.key) if reports else None
    once, files = Once(), list(files_below(path))
    if per == "image":
        for number in range(1, len(files) + 1):
            for result in _one(path, files, number, options, table):
                yield once(result)
    else:
        groups: dict[str, dict[str, list[_Found]]] = {}
        yield from _scan(path, files, options, groups)
        for series in groups.values():
            for result in _group(path, files, series, options, table):
                yield once(result)
    if table:
        yield from (Drop(f"report-{n}", "report_without_images", f"no image belongs to report {n} of the table.") for n in table.unused)
        yield from (Drop("report", "empty_report", "a row without text or without a number to join by.") for _ in range(table.empty))


@dataclass(frozen=True, slots=True)
class _Found:
    """A file with pixels: its number, where it belongs in its series, and its frames."""

    number: int
    order: tuple[float, int]
    frames: int


def _scan(path: Path, files: Sequence[Path], options: Options, groups: dict[str, dict[str, list[_Found]]]) -> Iterator[Drop]:
    """Read the facts of every file into `groups`, by study or series and then by series; yield what is left out."""
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
        order = (facts.position if facts.position is not None else float(facts.number or 0), facts.number or number)
        groups.setdefault(whole, {}).setdefault(series, []).append(_Found(number, order, facts.frames))


def _facts(path: Path, files: Sequence[Path], number: int, key: bytes) -> DicomFacts | Drop:
    name, file = f"file {number}", path / files[number - 1]
    if file.is_symlink():
        return Drop(f"file-{number}", "link", f"{name} is a link; links are not followed.")
    try:
        with open_dicom(file, name=name) as opened:
            facts = opened.facts(key)
    except BadImage as error:
        return Drop(f"file-{number}", "not_dicom" if isinstance(error, NoDicom) else "bad_dicom", str(error))
    return facts if facts.has_pixels else Drop(f"file-{number}", "no_pixels", f"{name} holds no pixel data.")


class _Picture(NamedTuple):
    """A rendered frame as a PNG file: pixels of a whole study would fill the memory."""

    frame: int
    png: bytes
    window: str


def _pictures(path: Path, files: Sequence[Path], number: int, frames: Sequence[int] | None, options: Options) -> Iterator[_Picture]:
    with open_dicom(path / files[number - 1], name=f"file {number}") as opened:
        for one in opened.render(frames=frames, windows=options.windows):
            yield _Picture(one.frame, encode_png(one.pixels), one.window)


def _one(path: Path, files: Sequence[Path], number: int, options: Options, table: Reports | None) -> Iterator[Sample | Drop]:
    facts = _facts(path, files, number, options.key)
    if isinstance(facts, Drop):
        yield facts
        return
    name = facts.instance or f"file-{number}"
    try:
        for frame, shown in groupby(_pictures(path, files, number, None, options), key=lambda one: one.frame):
            yield _sample(f"{name}-{frame}", facts, list(shown), options, table)
    except BadImage as error:
        yield Drop(f"file-{number}", "bad_dicom", str(error))


def _group(
    path: Path, files: Sequence[Path], series: Mapping[str, list[_Found]], options: Options, table: Reports | None
) -> Iterator[Sample | Drop]:
    """The sample of one series or study; a file that cannot be rendered is left out of it and counted."""
    shown: list[_Picture] = []
    first: DicomFacts | None = None
    for found in series.values():
        placed = sorted(found, key=lambda one: one.order)
        for place, frames in frames_of_files([one.frames for one in placed], options.slices):
            number = placed[place].number
            try:
                shown += list(_pictures(path, files, number, frames, options))
                if first is None:
                    facts = _facts(path, files, number, options.key)
                    first = None if isinstance(facts, Drop) else facts
            except BadImage as error:
                yield Drop(f"file-{number}", "bad_dicom", str(error))
    if first and shown:
        if len(series) > 1:
            first = replace(first, series=None)
        whole = first.study if options.per == "study" else first.series
        yield _sample(whole or first.series or first.instance or "image", first, shown, options, table)


def _sample(name: str, facts: DicomFacts, shown: Sequence[_Picture], options: Options, table: Reports | None) -> Sample:
    images = tuple(Image(data=one.png) for one in shown)
    report = table.of(facts) if table else None
    meta = Meta(deidentified=False, modality=facts.modality, kind="report" if report else None, extra=_extra(facts, shown))
    meta = with_ids(meta, {"patient": facts.patient, "study": facts.study, "series": facts.series})
    sample = Sample(name, look(images, options.question if report else None), images, meta=meta)
    return sample.with_answer(report) if report else sample


def _extra(facts: DicomFacts, shown: Sequence[_Picture]) -> dict[str, str]:
    """What later steps decide by, as text; what is not known is left out."""
    known = {
        "windows": "; ".join(one.window for one in shown),
        "burned_in_risk": facts.burned_in_risk,
        "burned_in": None if facts.burned_in is None else "yes" if facts.burned_in else "no",
        "recognisable": None if facts.recognisable is None else "yes" if facts.recognisable else "no",
        "body_part": facts.body_part,
        "view": facts.view,
        "laterality": facts.laterality,
        "sop_class": facts.sop_class,
        "transfer_syntax": facts.transfer_syntax,
        "spacing_mm": None if facts.spacing is None else f"{facts.spacing[0]:.4g} x {facts.spacing[1]:.4g}",
        "thickness_mm": None if facts.thickness is None else f"{facts.thickness:.4g}",
    }
    return {name: value for name, value in known.items() if value is not None}
