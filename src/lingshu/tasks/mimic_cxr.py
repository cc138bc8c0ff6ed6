"""MIMIC-CXR, test split: studies of one or more chest X-rays, findings and impression to be
written.

Licence: PhysioNet Credentialed Health Data License (credentialed). Revision: the files in hand.
Link: https://physionet.org/content/mimic-cxr/2.1.0/ Reads ReXRank_MIMICCXR_test.json, or
mimic-cxr-2.0.0-split.csv(.gz) with the reports; images in files/ as MIMIC-CXR-JPG has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lingshu.core.nouns import Drop, Sample
from lingshu.scoring import report, token_f1
from lingshu.sources import hub
from lingshu.sources._sections import sections
from lingshu.sources.hub import Repo
from lingshu.tasks import _reports
from lingshu.tasks._shared import About, benchmark, made, once
from lingshu.tasks._twins import pictures

AGREEMENT = "physionet-mimic-cxr"
SPLIT = "**/mimic-cxr-2.0.0-split.csv*"


def row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """One study of the split table: subject_id, study_id, its dicom_ids, and the text of its
    report.
    """
    folder = f"p{raw['subject_id'][:2]}/p{raw['subject_id']}/s{raw['study_id']}"
    images = [f"{folder}/{name}.jpg" for name in raw["dicom_ids"]]
    return _reports.question(
        sections(raw["report"]), images, name=f"s{raw['study_id']}", group=f"p{raw['subject_id']}"
    )


def reader(about: About, repo: Repo, place: hub.Place) -> Iterator[Sample | Drop]:
    """The studies of ReXrank's list if it is there, else those that the split table calls test."""
    if place.has(repo.files[:1]):
        yield from _reports.reader(about, repo, place)
        return
    studies: dict[tuple[str, str], list[str]] = {}
    for image in hub.table(place.files((SPLIT,))[0][1]):
        if image["split"] == "test":
            studies.setdefault((image["subject_id"], image["study_id"]), []).append(
                image["dicom_id"]
            )
    seen: set[str] = set()
    for number, ((subject, study), names) in enumerate(studies.items()):
        path = place.find(f"p{subject[:2]}/p{subject}/s{study}.txt")
        if path is None:
            yield Drop(f"s{study}", "no_report", "there is no text of its report.")
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        values = {"subject_id": subject, "study_id": study, "dicom_ids": names, "report": text}
        yield once(seen, made(about, row, values, number, (), place))


TASK = benchmark(
    "mimic_cxr",
    title="MIMIC-CXR reports (test)",
    repo=Repo(
        None,
        ("**/ReXRank_MIMICCXR_test.json", SPLIT),
        link="https://physionet.org/content/mimic-cxr/2.1.0/",
    ),
    licence="PhysioNet Credentialed Health Data License",
    access="credentialed",
    agreement=AGREEMENT,
    reader=reader,
    score=token_f1.score,
    twin=pictures("report", images=2),
    variants=((2347, "ReXrank's test list"), (2195, "the paper's count")),
    max_tokens=_reports.MAX_TOKENS,
    metrics=report.METRICS,
)
