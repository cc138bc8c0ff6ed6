"""The patient, study and images that a report refers to: the only module that names a patient.

Only the elements listed here are read, and only for a report that names its patient. Nothing of
them shows in the text form of a reference, in an error, or in a log.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lingshu.core.errors import InputError
from lingshu.imaging.dicom.elements import UID_PATTERN, wrap_parse_errors
from lingshu.imaging.dicom.file import open_file

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# DICOM keyword -> pattern of its value; other values are left out. PS3.3 C.7.1.1 (patient), C.7.2.1
# (study).
_TEXT = r"[^\x00-\x1f\x7f\\]"
ELEMENT_PATTERNS: Mapping[str, str] = {
    "PatientName": _TEXT + "{1,324}",
    "PatientID": _TEXT + "{1,64}",
    "IssuerOfPatientID": _TEXT + "{1,64}",
    "PatientBirthDate": r"\d{8}",
    "PatientSex": r"[MFO]",
    "StudyDate": r"\d{8}",
    "StudyTime": r"\d{2,6}(\.\d{1,6})?",
    "StudyID": _TEXT + "{1,16}",
    "AccessionNumber": _TEXT + "{1,16}",
    "ReferringPhysicianName": _TEXT + "{1,324}",
}
_IDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")


class ReferencedInstance(NamedTuple):
    """The UIDs of one image that a report is about."""

    series: str
    sop_class: str
    sop_instance: str


@dataclass(frozen=True, repr=False)
class StudyReference:
    """The study UID, the known patient and study elements by keyword, and a report's images."""

    study: str
    elements: Mapping[str, str] = field(default_factory=dict)
    images: tuple[ReferencedInstance, ...] = ()

    def __repr__(self) -> str:
        return f"StudyReference({len(self.images)} images)"


def read_study_reference(files: Sequence[Path | bytes]) -> StudyReference:
    """The reference of a study from the DICOM files that a model saw.

    Raises:
        InputError: no file, a file without valid UIDs, or files of several studies or patients.
        ImageError: a file that is not a DICOM file.
        MissingExtraError: pydicom is not installed.
    """
    if not files:
        raise InputError("a report that names its patient needs a DICOM study; give its files.")
    headers = list(_headers(files))
    ids = [[_text(header, name) for name in _IDS] for header in headers]
    if not all(UID_PATTERN.fullmatch(uid) for row in ids for uid in row):
        problem = "a file lacks a valid UID of its study, series or image"
        raise InputError(f"{problem}; a report cannot refer to it.")
    elements = {
        name: value
        for name, pattern in ELEMENT_PATTERNS.items()
        if re.fullmatch(pattern, value := _text(headers[0], name))
    }
    patients = {_text(header, "PatientID") for header in headers}
    if len({row[0] for row in ids}) > 1 or len(patients) > 1:
        problem = "the images are of several studies or patients"
        raise InputError(f"{problem}; draft the report of one study.")
    return StudyReference(ids[0][0], elements, tuple(ReferencedInstance(*row[1:]) for row in ids))


def _headers(files: Sequence[Path | bytes]) -> Iterator[Dataset]:
    from pydicom import dcmread

    tags = [*ELEMENT_PATTERNS, *_IDS]
    for index, source in enumerate(files, 1):
        name = f"file {index} of the study"
        with open_file(source, name) as file, wrap_parse_errors(name, "reading the study"):
            header = dcmread(file, stop_before_pixels=True, force=True, specific_tags=tags)
            header.decode()
        yield header


def _text(header: Dataset, name: str) -> str:
    with wrap_parse_errors("the study", f"reading {name}"):
        return str(header.get(name, "") or "").strip()
