"""MIMIC-CXR, test split: studies of one or more chest X-rays, findings and impression to be
written.

Licence: PhysioNet Credentialed Health Data License (credentialed). Revision: the files in hand.
Link: https://physionet.org/content/mimic-cxr/2.1.0/ Reads ReXRank_MIMICCXR_test.json, or
mimic-cxr-2.0.0-split.csv(.gz) with the reports; images in files/ as MIMIC-CXR-JPG has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lingshu.core.report_sections import split_sections
from lingshu.core.types import Drop, Sample
from lingshu.scoring import report, token_f1
from lingshu.sources import hub
from lingshu.sources.hub import HubRepo
from lingshu.tasks import _reports
from lingshu.tasks._benchmark import SampleDefaults, benchmark, build_sample, unique
from lingshu.tasks._synthetic import image_samples

AGREEMENT = "physionet-mimic-cxr"
SPLIT_TABLE = "**/mimic-cxr-2.0.0-split.csv*"


def convert_row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """One study of the split table: subject_id, study_id, its dicom_ids, and the text of its
    report.
    """
    folder = f"p{raw['subject_id'][:2]}/p{raw['subject_id']}/s{raw['study_id']}"
    images = [f"{folder}/{dicom_id}.jpg" for dicom_id in raw["dicom_ids"]]
    return _reports.question_row(
        split_sections(raw["report"]),
        images,
        name=f"s{raw['study_id']}",
        group=f"p{raw['subject_id']}",
    )


def reader(
    defaults: SampleDefaults, repo: HubRepo, local_repo: hub.DownloadedRepo
) -> Iterator[Sample | Drop]:
    """The studies of ReXrank's list if it is there, else those that the split table calls test."""
    if local_repo.has_files(repo.files[:1]):
        yield from _reports.reader(defaults, repo, local_repo)
        return
    studies: dict[tuple[str, str], list[str]] = {}
    for image in hub.read_csv_rows(local_repo.files((SPLIT_TABLE,))[0][1]):
        if image["split"] == "test":
            studies.setdefault((image["subject_id"], image["study_id"]), []).append(
                image["dicom_id"]
            )
    seen_ids: set[str] = set()
    for index, ((subject, study), dicom_ids) in enumerate(studies.items()):
        path = local_repo.find(f"p{subject[:2]}/p{subject}/s{study}.txt")
        if path is None:
            yield Drop(f"s{study}", "no_report", "there is no text of its report.")
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        values = {"subject_id": subject, "study_id": study, "dicom_ids": dicom_ids, "report": text}
        yield unique(seen_ids, build_sample(defaults, convert_row, values, index, (), local_repo))


TASK = benchmark(
    "mimic_cxr",
    title="MIMIC-CXR reports (test)",
    repo=HubRepo(
        None,
        ("**/ReXRank_MIMICCXR_test.json", SPLIT_TABLE),
        link="https://physionet.org/content/mimic-cxr/2.1.0/",
    ),
    license="PhysioNet Credentialed Health Data License",
    access="credentialed",
    agreement=AGREEMENT,
    reader=reader,
    score=token_f1.score,
    synthetic=image_samples("report", n_images=2),
    variants=((2347, "ReXrank's test list"), (2195, "the paper's count")),
    max_tokens=_reports.MAX_TOKENS,
    metrics=report.METRICS,
)
