"""CheXpert Plus, its validation split as test: 234 chest X-rays, findings and impression to be
written for each.

License: Stanford AIMI data use agreement (form). Revision: the files in hand. Link:
https://aimi.stanford.edu/datasets/chexpert-plus

Reads df_chexpert_plus_240401.csv with its PNG folder, or the list ReXRank_CheXpertPlus.json (200
studies, 234 images).
"""

from functools import partial

from lingshu.core.report_sections import ReportSections, normalize_whitespace, split_sections
from lingshu.core.rows import RowError
from lingshu.sources.hub import HubRepo
from lingshu.tasks import Row, _reports


def convert_row(raw: Row) -> Row:
    """A row of the table, or a ReXrank record; only the validation split is kept."""
    if "path_to_image" not in raw:
        return _reports.convert_row(raw)
    if raw["split"] not in ("valid", "validate", "validation"):
        raise RowError(f"not_test: the row belongs to the split {raw['split']!r}.")
    sections = ReportSections(
        normalize_whitespace(raw["section_findings"]),
        normalize_whitespace(raw["section_impression"]),
    )
    if not any(sections):
        sections = split_sections(str(raw.get("report") or ""))
    image = raw["path_to_image"]
    return _reports.question_row(sections, [image], name=image, group=raw["deid_patient_id"])


TASK = _reports.report_benchmark(
    "chexpert_plus", title="CheXpert Plus reports", license="Stanford AIMI data use agreement",
    repo=HubRepo(
        None,
        ("**/df_chexpert_plus_*.csv", "**/ReXRank_CheXpertPlus.json"),
        link="https://aimi.stanford.edu/datasets/chexpert-plus",
    ),
    access="form", agreement="stanford-aimi-chexpert-plus",
    reader=partial(_reports.read_studies, convert_row=convert_row), n_images=1, expected_n=234,
    known_counts=((200, "ReXrank's count of studies; 234 counts images"),),
)  # fmt: skip
