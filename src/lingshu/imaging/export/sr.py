"""A draft as a DICOM Basic Text SR beside the study it is of: PARTIAL, UNVERIFIED and PRELIMINARY,
and it says who wrote it.

Source: DICOM PS3.3 A.35.1 (Basic Text SR), C.17 (SR modules); PS3.16 TID 2000 (report), TID 1002 to
1004 (observer), CID 7000.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from lingshu.core.errors import MissingExtraError
from lingshu.imaging.dicom.references import StudyReference
from lingshu.imaging.export.report_draft import ReportDraft

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MANUFACTURER = "lingshu (research use only)"
# Patient and study modules, elements of type 2: present, and empty where not known.
_TYPE_2_KEYWORDS = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
)
_SERIES_NUMBER = 9901  # out of the way of a scanner's numbers


def draft_to_sr(draft: ReportDraft, reference: StudyReference) -> bytes:
    """A DICOM file with the draft's sections, for storing in the PACS that holds the study.

    Raises:
        MissingExtra: pydicom is not installed.
    """
    try:
        from pydicom.dataset import FileMetaDataset
        from pydicom.uid import BasicTextSRStorage, ExplicitVRLittleEndian, generate_uid
    except ImportError as error:
        raise MissingExtraError.of("pydicom", "dicom") from error
    uid = generate_uid()
    sr = _make_dataset(
        SpecificCharacterSet="ISO_IR 192", SOPClassUID=BasicTextSRStorage, SOPInstanceUID=uid
    )
    for name in (*_TYPE_2_KEYWORDS, "ReferringPhysicianName"):
        setattr(sr, name, reference.elements.get(name, ""))
    if "IssuerOfPatientID" in reference.elements:
        sr.IssuerOfPatientID = reference.elements["IssuerOfPatientID"]
    sr.StudyInstanceUID, sr.SeriesInstanceUID = reference.study, generate_uid()
    sr.Modality, sr.SeriesNumber, sr.InstanceNumber, sr.Manufacturer = (
        "SR",
        _SERIES_NUMBER,
        1,
        MANUFACTURER,
    )
    sr.SeriesDescription = "Draft report, not verified"
    sr.ContentDate = sr.SeriesDate = sr.InstanceCreationDate = draft.created.strftime("%Y%m%d")
    sr.ContentTime = sr.SeriesTime = sr.InstanceCreationTime = draft.created.strftime("%H%M%S")
    sr.TimezoneOffsetFromUTC = draft.created.strftime("%z")[:5]
    edited = ", edited by a person" if draft.edited else ""
    sr.CompletionFlag, sr.CompletionFlagDescription = (
        "PARTIAL",
        f"Draft written by a machine{edited}",
    )
    sr.VerificationFlag, sr.PreliminaryFlag = "UNVERIFIED", "PRELIMINARY"
    sr.ReferencedPerformedProcedureStepSequence, sr.PerformedProcedureCodeSequence = [], []
    sr.CurrentRequestedProcedureEvidenceSequence = [_evidence(reference)]
    sr.ValueType, sr.ContinuityOfContent = "CONTAINER", "SEPARATE"
    sr.ConceptNameCodeSequence = [_code("18748-4", "LN", "Diagnostic imaging report")]
    sr.ContentSequence = [*_context(draft), *_sections(draft)]
    # A file without a preamble is stored by some servers as it came, and refused by those who read
    # it back.
    sr.preamble = b"\0" * 128
    sr.file_meta = FileMetaDataset()
    sr.file_meta.MediaStorageSOPClassUID, sr.file_meta.MediaStorageSOPInstanceUID = (
        BasicTextSRStorage,
        uid,
    )
    sr.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    sr.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _context(draft: ReportDraft) -> list[Dataset]:
    """The language, and the device that observed: the model, its version being the digest of its
    weights.
    """
    language = ("en", "English") if draft.language == "en" else ("zh", "Chinese")
    name = draft.model or "unknown"
    # PS3.5 B.2: a UID from a UUID; the same weights have the same one everywhere.
    device = f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, draft.digest).int}"
    context = "HAS OBS CONTEXT"
    return [
        _item("HAS CONCEPT MOD", "CODE", _code("121049", "DCM", "Language of Content Item and Descendants"), ConceptCodeSequence=[
            _code(language[0], "RFC5646", language[1])
        ]),
        _item(context, "CODE", _code("121005", "DCM", "Observer Type"), ConceptCodeSequence=[_code("121007", "DCM", "Device")]),
        _item(context, "UIDREF", _code("121012", "DCM", "Device Observer UID"), UID=device),
        _item(context, "TEXT", _code("121013", "DCM", "Device Observer Name"), TextValue=name),
        _item(context, "TEXT", _code("121014", "DCM", "Device Observer Manufacturer"), TextValue=MANUFACTURER),
        _item(context, "TEXT", _code("121015", "DCM", "Device Observer Model Name"), TextValue=name),
        _item(context, "TEXT", _code("121016", "DCM", "Device Observer Serial Number"), TextValue=f"sha256:{draft.digest}"),
    ]  # fmt: skip


def _sections(draft: ReportDraft) -> list[Dataset]:
    items = []
    if draft.findings:
        text = _text(_code("121071", "DCM", "Finding"), draft.findings)
        items.append(_container(_code("59776-5", "LN", "Findings"), [text]))
    if draft.impression:
        text = _text(_code("121073", "DCM", "Impression"), draft.impression)
        items.append(_container(_code("19005-8", "LN", "Impressions"), [text]))
    items.append(_text(_code("121106", "DCM", "Comment"), "\n".join(draft.provenance)))
    return items


def _evidence(reference: StudyReference) -> Dataset:
    series = []
    for uid, images in groupby(sorted(set(reference.images)), key=lambda instance: instance.series):
        references = [
            _make_dataset(
                ReferencedSOPClassUID=instance.sop_class,
                ReferencedSOPInstanceUID=instance.sop_instance,
            )
            for instance in images
        ]
        series.append(_make_dataset(SeriesInstanceUID=uid, ReferencedSOPSequence=references))
    return _make_dataset(StudyInstanceUID=reference.study, ReferencedSeriesSequence=series)


def _make_dataset(**elements: Any) -> Dataset:
    from pydicom.dataset import Dataset

    dataset = Dataset()
    for name, value in elements.items():
        setattr(dataset, name, value)
    return dataset


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return _make_dataset(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _item(relationship: str, value_type: str, concept: Dataset, **value: Any) -> Dataset:
    return _make_dataset(
        RelationshipType=relationship,
        ValueType=value_type,
        ConceptNameCodeSequence=[concept],
        **value,
    )


def _text(concept: Dataset, text: str) -> Dataset:
    return _item("CONTAINS", "TEXT", concept, TextValue=text.replace("\n", "\r\n"))


def _container(concept: Dataset, items: Sequence[Dataset]) -> Dataset:
    return _item(
        "CONTAINS",
        "CONTAINER",
        concept,
        ContinuityOfContent="SEPARATE",
        ContentSequence=list(items),
    )
