"""Chest X-ray reports: from a publisher's table or list to samples that ask for findings and
impression.

Records come as ReXrank writes them (section_findings, section_impression, image_path, and the study
as key), as {id, image, findings, impression}, or as rows of a table with those columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from lingshu.core.prompts import REPORT
from lingshu.core.report_sections import ReportSections, format_reference, normalize_whitespace
from lingshu.core.rows import RowError
from lingshu.core.types import Drop, Sample
from lingshu.sources import hub
from lingshu.sources.hub import HubRepo
from lingshu.tasks._benchmark import RowConverter, SampleDefaults, build_sample, unique

MAX_TOKENS = 1024
SUFFIXES = ("", ".png", ".jpg", ".jpeg")


def convert_row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The question row of one study (or image, where each image has its own record)."""
    images = raw["image_path"] if "image_path" in raw else raw["image"]
    name = raw.get("_key") or raw.get("id") or raw.get("study_id")
    if name is None:
        raise RowError("no_id", "the record names no study.")
    report = ReportSections(
        normalize_whitespace(raw.get("section_findings", raw.get("findings"))),
        normalize_whitespace(raw.get("section_impression", raw.get("impression"))),
    )
    return question_row(
        report,
        [images] if isinstance(images, str) else list(images),
        name=str(name),
        group=str(raw.get("patient") or name),
    )


def question_row(
    report: ReportSections, images: list[str], *, name: str, group: str
) -> Mapping[str, Any]:
    """The question row of a report.

    Raises:
        BadRow: empty_report where findings and impression are both empty, no_image without an
            image.
    """
    if not report.findings and not report.impression:
        raise RowError("empty_report", "findings and impression are both empty.")
    if not images:
        raise RowError("no_image", "the study has no image.")
    return {
        "id": name,
        "question": REPORT,
        "gold": format_reference(report),
        "images": images,
        "group": group,
        "kind": "report",
        "modality": "X-ray",
        "findings": report.findings,
        "impression": report.impression,
    }


def reader(
    defaults: SampleDefaults,
    repo: HubRepo,
    local_repo: hub.DownloadedRepo,
    convert_row: RowConverter = convert_row,
) -> Iterator[Sample | Drop]:
    """The studies of the first list or table that is there, their images found under any of the
    usual suffixes.
    """
    pattern = next(p for p in repo.files if local_repo.has_files((p,)))
    seen_ids: set[str] = set()
    for index, raw in enumerate(
        hub.rows(HubRepo(None, (pattern,), link=repo.link, single_table=True), local_repo)
    ):
        yield unique(
            seen_ids,
            build_sample(
                defaults,
                lambda values: _with_image_paths(convert_row(values), local_repo),
                raw.values,
                index,
                (),
                local_repo,
            ),
        )


def _with_image_paths(
    values: Mapping[str, Any], local_repo: hub.DownloadedRepo
) -> Mapping[str, Any]:
    return {
        **values,
        "images": [_resolve_image(str(name), local_repo) for name in values["images"]],
    }


def _resolve_image(name: str, local_repo: hub.DownloadedRepo) -> str:
    """The name under which an image lies: tables name jpg files where png files are given out."""
    stem = (
        str(PurePosixPath(name).with_suffix(""))
        if PurePosixPath(name).suffix in SUFFIXES[1:]
        else name
    )
    return next(
        (
            candidate
            for candidate in (name, *(stem + suffix for suffix in SUFFIXES))
            if local_repo.find(candidate)
        ),
        name,
    )
