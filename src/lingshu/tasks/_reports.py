"""Chest X-ray reports: a publisher's table or list becomes samples that ask for a report.

Records come as ReXrank writes them (section_findings, section_impression, image_path, and the study
as key), as {id, image, findings, impression}, or as rows of a table with those columns.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from lingshu.core.prompts import REPORT
from lingshu.core.report_sections import ReportSections, format_reference, normalize_whitespace
from lingshu.core.rows import RowError
from lingshu.core.types import Drop, Sample, Task
from lingshu.scoring import report, token_f1
from lingshu.sources.hub import DownloadedRepo
from lingshu.tasks._benchmark import (
    BenchmarkSource,
    Reader,
    Row,
    RowConverter,
    benchmark,
    read_samples,
)
from lingshu.tasks._synthetic import image_samples

SUFFIXES = (".png", ".jpg", ".jpeg")


def convert_row(raw: Row) -> Row:
    """The question row of one study (or image, where each image has its own record)."""
    images = raw["image_path"] if "image_path" in raw else raw["image"]
    name = raw.get("_key") or raw.get("id") or raw.get("study_id")
    if name is None:
        raise RowError("no_id: the record names no study.")
    sections = ReportSections(
        normalize_whitespace(raw.get("section_findings", raw.get("findings"))),
        normalize_whitespace(raw.get("section_impression", raw.get("impression"))),
    )
    return question_row(
        sections,
        [images] if isinstance(images, str) else list(images),
        name=str(name),
        group=str(raw.get("patient") or name),
    )


def question_row(sections: ReportSections, images: list[str], *, name: str, group: str) -> Row:
    """The question row of a report.

    Raises:
        RowError: empty_report where findings and impression are both empty, no_image without an
            image.
    """
    if not sections.findings and not sections.impression:
        raise RowError("empty_report: findings and impression are both empty.")
    if not images:
        raise RowError("no_image: the study has no image.")
    return {
        "id": name,
        "question": REPORT,
        "gold": format_reference(sections),
        "images": images,
        "group": group,
        "kind": "report",
        "modality": "X-ray",
        "findings": sections.findings,
        "impression": sections.impression,
    }


def read_studies(
    source: BenchmarkSource, convert_row: RowConverter = convert_row
) -> Iterable[Sample | Drop]:
    """The studies of the first list that is present; images under any of the usual suffixes."""
    table = next(name for name in source.repo.files if source.files.has_files((name,)))
    single = replace(source, repo=replace(source.repo, files=(table,), single_table=True))

    def convert(raw: Row) -> Row:
        values = convert_row(raw)
        images = [_find_image(str(name), source.files) for name in values["images"]]
        return {**values, "images": images}

    return read_samples(single, convert)


def _find_image(name: str, files: DownloadedRepo) -> str:
    """The name of an image's file: tables name jpg files where the publisher gives png files."""
    path = PurePosixPath(name)
    stem = str(path.with_suffix("")) if path.suffix in SUFFIXES else name
    candidates = (name, stem, *(stem + suffix for suffix in SUFFIXES))
    return next((candidate for candidate in candidates if files.find(candidate)), name)


def report_benchmark(
    name: str, *, reader: Reader = read_studies, n_images: int = 2, **task_fields: Any
) -> Task:
    """A benchmark of chest X-ray reports: token F1 for each sample, report metrics for the set."""
    return benchmark(
        name,
        reader=reader,
        score=token_f1.score,
        synthetic=image_samples("report", n_images=n_images),
        max_tokens=1024,
        metrics=report.METRICS,
        **task_fields,
    )
