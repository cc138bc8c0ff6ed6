"""MIMIC-CXR, test split: studies of one or more chest X-rays, findings and impression to be
written.

License: PhysioNet Credentialed Health Data License (credentialed). Revision: the files in hand.
Link: https://physionet.org/content/mimic-cxr/2.1.0/

Reads ReXRank_MIMICCXR_test.json, or mimic-cxr-2.0.0-split.csv(.gz) with the reports; images in
files/ as MIMIC-CXR-JPG has them.
"""

from collections.abc import Iterable, Iterator

from lingshu.core.report_sections import split_sections
from lingshu.core.types import Drop, Sample
from lingshu.sources import hub
from lingshu.sources.hub import HubRepo, RawRow
from lingshu.tasks import BenchmarkSource, Row, _reports, read_samples

SPLIT_TABLE = "**/mimic-cxr-2.0.0-split.csv*"


def convert_row(raw: Row) -> Row:
    """One study of the split table: its ids, its dicom_ids, and the text of its report."""
    folder = f"p{raw['subject_id'][:2]}/p{raw['subject_id']}/s{raw['study_id']}"
    return _reports.question_row(
        split_sections(raw["report"]),
        [f"{folder}/{dicom_id}.jpg" for dicom_id in raw["dicom_ids"]],
        name=f"s{raw['study_id']}",
        group=f"p{raw['subject_id']}",
    )


def reader(source: BenchmarkSource) -> Iterable[Sample | Drop]:
    """The studies of ReXrank's list if it is present, else the test studies of the split table."""
    if source.files.has_files(source.repo.files[:1]):
        return _reports.read_studies(source)
    return read_samples(source, convert_row, _test_studies(source))


def _test_studies(source: BenchmarkSource) -> Iterator[RawRow | Drop]:
    name, table = source.files.files((SPLIT_TABLE,))[0]
    studies: dict[tuple[str, str], list[str]] = {}
    for image in hub.read_csv_rows(table):
        if image["split"] == "test":
            study = image["subject_id"], image["study_id"]
            studies.setdefault(study, []).append(image["dicom_id"])
    for index, ((subject, study), dicom_ids) in enumerate(studies.items()):
        path = source.files.find(f"p{subject[:2]}/p{subject}/s{study}.txt")
        if path is None:
            yield Drop(f"s{study}", "no_report", "the text of its report is missing.")
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        values = {"subject_id": subject, "study_id": study, "dicom_ids": dicom_ids, "report": text}
        yield RawRow(values, (), name, index)


TASK = _reports.report_benchmark(
    "mimic_cxr", title="MIMIC-CXR reports (test)", reader=reader,
    repo=HubRepo(
        None,
        ("**/ReXRank_MIMICCXR_test.json", SPLIT_TABLE),
        link="https://physionet.org/content/mimic-cxr/2.1.0/",
    ),
    license="PhysioNet Credentialed Health Data License", access="credentialed",
    agreement="physionet-mimic-cxr",
    known_counts=((2347, "ReXrank's test list"), (2195, "the paper's count")),
)  # fmt: skip
