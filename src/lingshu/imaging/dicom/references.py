"""Who and what a study is about, read from its files so that a report can be stored beside them:
the one place that names a patient.

Only the elements listed here are read, and only when somebody asks for a report that names its
patient. Nothing of them shows in the text form of a reference, in an error, or in a log.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lingshu.core.errors import InputError
from lingshu.imaging.dicom.elements import wrap_parse_errors
from lingshu.imaging.dicom.file import open_file

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# DICOM keyword -> what its value must look like; another value is left out. PS3.3 C.7.1.1
# (patient), C.7.2.1 (study).
_LO_PATTERN = r"[^\x00-\x1f\x7f\\]{1,64}"
_ELEMENTS: Mapping[str, str] = {
    "PatientName": r"[^\x00-\x1f\x7f\\]{1,324}",
    "PatientID": _LO_PATTERN,
    "IssuerOfPatientID": _LO_PATTERN,
    "PatientBirthDate": r"\d{8}",
    "PatientSex": r"[MFO]",
    "StudyDate": r"\d{8}",
    "StudyTime": r"\d{2,6}(\.\d{1,6})?",
    "StudyID": r"[^\x00-\x1f\x7f\\]{1,16}",
    "AccessionNumber": r"[^\x00-\x1f\x7f\\]{1,16}",
    "ReferringPhysicianName": r"[^\x00-\x1f\x7f\\]{1,324}",
}
_IDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")
_UID = re.compile(r"[0-9.]{1,64}")


class ReferencedInstance(NamedTuple):
    """One image that a report is about."""

    series: str
    sop_class: str
    sop_instance: str


@dataclass(frozen=True, repr=False)
class StudyReference:
    """The patient, the study and the images of a report.

    `elements` holds DICOM keywords and values, those that are known.
    """

    study: str
    elements: Mapping[str, str] = field(default_factory=dict)
    images: tuple[ReferencedInstance, ...] = ()

    def __repr__(self) -> str:
        return f"StudyReference({len(self.images)} images)"


def read_study_reference(files: Sequence[Path | bytes]) -> StudyReference:
    """The reference of a study from the DICOM files that a model saw.

    Raises:
        InputError: no file, a file without valid UIDs, or files of several studies or patients.
        BadImage: a file that is no DICOM file.
        MissingExtra: pydicom is not installed.
    """
    if not files:
        raise InputError(
            "a report that names its patient needs a DICOM study: the patient and the study are"
            " taken from it."
        )
    headers = list(_headers(files))
    ids = [[str(header.get(name, "") or "").strip() for name in _IDS] for header in headers]
    if not all(_UID.fullmatch(uid) for row in ids for uid in row):
        raise InputError(
            "a file of the study lacks a valid UID of its study, series or image; a report cannot"
            " refer to it."
        )
    elements = {
        name: value
        for name, pattern in _ELEMENTS.items()
        if re.fullmatch(pattern, value := _text(headers[0], name))
    }
    if (
        len({row[0] for row in ids}) > 1
        or len({_text(header, "PatientID") for header in headers}) > 1
    ):
        raise InputError(
            "the images are of several studies or patients; draft the report of one study."
        )
    return StudyReference(ids[0][0], elements, tuple(ReferencedInstance(*row[1:]) for row in ids))


def _headers(files: Sequence[Path | bytes]) -> Iterator[Dataset]:
    from pydicom import dcmread

    for index, file in enumerate(files, 1):
        name = f"file {index} of the study"
        if isinstance(file, bytes):
            with wrap_parse_errors(name, "reading the study"):
                header = dcmread(
                    io.BytesIO(file),
                    stop_before_pixels=True,
                    force=True,
                    specific_tags=[*_ELEMENTS, *_IDS],
                )
        else:
            with open_file(file, name) as stream, wrap_parse_errors(name, "reading the study"):
                header = dcmread(
                    stream, stop_before_pixels=True, force=True, specific_tags=[*_ELEMENTS, *_IDS]
                )
        with wrap_parse_errors(name, "reading the study"):
            header.decode()
            yield header


def _text(header: Dataset, name: str) -> str:
    # An unreadable value is as good as none: it would only be left out.
    with wrap_parse_errors("the study", f"reading {name}"):
        return str(header.get(name, "") or "").strip()
