"""CheXpert Plus, its validation split as test: 234 chest X-rays, findings and impression to be
written for each.

Licence: Stanford AIMI data use agreement (form). Revision: the files in hand. Link:
https://aimi.stanford.edu/datasets/chexpert-plus Reads df_chexpert_plus_240401.csv with its PNG
folder, or the list ReXRank_CheXpertPlus.json (200 studies, 234 images).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lingshu.core.report_sections import ReportSections, normalize_whitespace, split_sections
from lingshu.core.rows import RowError
from lingshu.core.types import Drop, Sample
from lingshu.scoring import report, token_f1
from lingshu.sources import hub
from lingshu.sources.hub import HubRepo
from lingshu.tasks import _reports
from lingshu.tasks._benchmark import SampleDefaults, benchmark
from lingshu.tasks._synthetic import image_samples

AGREEMENT = "stanford-aimi-chexpert-plus"


def convert_row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The columns path_to_image, section_findings, section_impression, report, deid_patient_id,
    split; or a ReXrank record.
    """
    if "path_to_image" not in raw:
        return _reports.convert_row(raw)
    if raw["split"] not in ("valid", "validate", "validation"):
        raise RowError("not_test", f"the row belongs to the split {raw['split']!r}.")
    report = ReportSections(
        normalize_whitespace(raw["section_findings"]),
        normalize_whitespace(raw["section_impression"]),
    )
    if not any(report):
        report = split_sections(str(raw.get("report") or ""))
    image = raw["path_to_image"]
    return _reports.question_row(report, [image], name=image, group=raw["deid_patient_id"])


def reader(
    defaults: SampleDefaults, repo: HubRepo, local_repo: hub.DownloadedRepo
) -> Iterator[Sample | Drop]:
    """One sample for each image of the first table or list that is there."""
    return _reports.reader(defaults, repo, local_repo, convert_row)


TASK = benchmark(
    "chexpert_plus",
    title="CheXpert Plus reports",
    repo=HubRepo(
        None,
        ("**/df_chexpert_plus_*.csv", "**/ReXRank_CheXpertPlus.json"),
        link="https://aimi.stanford.edu/datasets/chexpert-plus",
    ),
    license="Stanford AIMI data use agreement",
    access="form",
    agreement=AGREEMENT,
    reader=reader,
    score=token_f1.score,
    synthetic=image_samples("report"),
    expected_n=234,
    variants=((200, "ReXrank's count of studies; 234 counts images"),),
    max_tokens=_reports.MAX_TOKENS,
    metrics=report.METRICS,
)
