"""CheXpert Plus, its validation split as test: 234 chest X-rays, findings and impression to be
written for each.

Licence: Stanford AIMI data use agreement (form). Revision: the files in hand. Link:
https://aimi.stanford.edu/datasets/chexpert-plus Reads df_chexpert_plus_240401.csv with its PNG
folder, or the list ReXRank_CheXpertPlus.json (200 studies, 234 images).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lingshu.core.nouns import Drop, Sample
from lingshu.core.rows import BadRow
from lingshu.scoring import report, token_f1
from lingshu.sources import hub
from lingshu.sources._sections import Report, sections, tidy
from lingshu.sources.hub import Repo
from lingshu.tasks import _reports
from lingshu.tasks._shared import About, benchmark
from lingshu.tasks._twins import pictures

AGREEMENT = "stanford-aimi-chexpert-plus"


def row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The columns path_to_image, section_findings, section_impression, report, deid_patient_id,
    split; or a ReXrank record.
    """
    if "path_to_image" not in raw:
        return _reports.row(raw)
    if raw["split"] not in ("valid", "validate", "validation"):
        raise BadRow("not_test", f"the row belongs to the split {raw['split']!r}.")
    report = Report(tidy(raw["section_findings"]), tidy(raw["section_impression"]))
    if not any(report):
        report = sections(str(raw.get("report") or ""))
    image = raw["path_to_image"]
    return _reports.question(report, [image], name=image, group=raw["deid_patient_id"])


def reader(about: About, repo: Repo, place: hub.Place) -> Iterator[Sample | Drop]:
    """One sample for each image of the first table or list that is there."""
    return _reports.reader(about, repo, place, row)


TASK = benchmark(
    "chexpert_plus",
    title="CheXpert Plus reports",
    repo=Repo(
        None,
        ("**/df_chexpert_plus_*.csv", "**/ReXRank_CheXpertPlus.json"),
        link="https://aimi.stanford.edu/datasets/chexpert-plus",
    ),
    licence="Stanford AIMI data use agreement",
    access="form",
    agreement=AGREEMENT,
    reader=reader,
    score=token_f1.score,
    twin=pictures("report"),
    n=234,
    variants=((200, "ReXrank's count of studies; 234 counts images"),),
    max_tokens=_reports.MAX_TOKENS,
    metrics=report.METRICS,
)
