"""Chest X-ray reports: from a publisher's table or list to samples that ask for findings and
impression.

Records come as ReXrank writes them (section_findings, section_impression, image_path, and the study
as key), as {id, image, findings, impression}, or as rows of a table with those columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from lingshu.core.nouns import Drop, Sample
from lingshu.core.rows import BadRow
from lingshu.sources import hub
from lingshu.sources._sections import Report, reference, tidy
from lingshu.sources.hub import Repo
from lingshu.tasks._prompts import REPORT
from lingshu.tasks._shared import About, Row, made, once

MAX_TOKENS = 1024
SUFFIXES = ("", ".png", ".jpg", ".jpeg")


def row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The question row of one study (or image, where each image has its own record)."""
    images = raw["image_path"] if "image_path" in raw else raw["image"]
    name = raw.get("_key") or raw.get("id") or raw.get("study_id")
    if name is None:
        raise BadRow("no_id", "the record names no study.")
    report = Report(
        tidy(raw.get("section_findings", raw.get("findings"))),
        tidy(raw.get("section_impression", raw.get("impression"))),
    )
    return question(
        report,
        [images] if isinstance(images, str) else list(images),
        name=str(name),
        group=str(raw.get("patient") or name),
    )


def question(report: Report, images: list[str], *, name: str, group: str) -> Mapping[str, Any]:
    """The question row of a report.

    Raises:
        BadRow: empty_report where findings and impression are both empty, no_image without an
            image.
    """
    if not report.findings and not report.impression:
        raise BadRow("empty_report", "findings and impression are both empty.")
    if not images:
        raise BadRow("no_image", "the study has no image.")
    return {
        "id": name,
        "question": REPORT,
        "gold": reference(report),
        "images": images,
        "group": group,
        "kind": "report",
        "modality": "X-ray",
        "findings": report.findings,
        "impression": report.impression,
    }


def reader(about: About, repo: Repo, place: hub.Place, row: Row = row) -> Iterator[Sample | Drop]:
    """The studies of the first list or table that is there, their images found under any of the
    usual suffixes.
    """
    pattern = next(p for p in repo.files if place.has((p,)))
    seen: set[str] = set()
    for number, raw in enumerate(hub.rows(Repo(None, (pattern,), link=repo.link, one=True), place)):
        yield once(
            seen,
            made(about, lambda values: _found(row(values), place), raw.values, number, (), place),
        )


def _found(values: Mapping[str, Any], place: hub.Place) -> Mapping[str, Any]:
    return {**values, "images": [_named(str(name), place) for name in values["images"]]}


def _named(name: str, place: hub.Place) -> str:
    """The name under which an image lies: tables name jpg files where png files are given out."""
    bare = (
        str(PurePosixPath(name).with_suffix(""))
        if PurePosixPath(name).suffix in SUFFIXES[1:]
        else name
    )
    return next(
        (other for other in (name, *(bare + suffix for suffix in SUFFIXES)) if place.find(other)),
        name,
    )
