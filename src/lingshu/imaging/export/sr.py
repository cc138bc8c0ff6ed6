"""A draft as a DICOM Basic Text SR: PARTIAL, UNVERIFIED and PRELIMINARY, with its author named.

Source: DICOM PS3.3 A.35.1 (Basic Text SR), C.17 (SR modules); PS3.16 TID 2000, 1002-1004, CID 7000.
"""

from __future__ import annotations

import io
import uuid
from itertools import groupby
from typing import TYPE_CHECKING, Any

from lingshu.core.errors import MissingExtraError
from lingshu.imaging.dicom.references import ELEMENT_PATTERNS, StudyReference
from lingshu.imaging.export.report_draft import ReportDraft

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

MANUFACTURER = "lingshu (research use only)"
_SERIES_NUMBER = 9901  # far from a scanner's numbers


def draft_to_sr(draft: ReportDraft, reference: StudyReference) -> bytes:
    """A DICOM file with the draft's sections, for the PACS that holds the study.

    Raises:
        MissingExtraError: pydicom is not installed.
    """
    try:
        from pydicom.dataset import FileMetaDataset
        from pydicom.uid import BasicTextSRStorage, ExplicitVRLittleEndian, generate_uid
    except ImportError as error:
        raise MissingExtraError.of("pydicom", "dicom") from error
    day, time = f"{draft.created:%Y%m%d}", f"{draft.created:%H%M%S}"
    known = dict(reference.elements)
    # Patient and study modules: elements of type 2 are present, and empty if unknown.
    type_2 = dict.fromkeys(ELEMENT_PATTERNS.keys() - {"IssuerOfPatientID"}, "")
    sr = _dataset(
        SpecificCharacterSet="ISO_IR 192",
        SOPClassUID=BasicTextSRStorage,
        SOPInstanceUID=generate_uid(),
        **(type_2 | known),
        StudyInstanceUID=reference.study,
        SeriesInstanceUID=generate_uid(),
        Modality="SR",
        SeriesNumber=_SERIES_NUMBER,
        InstanceNumber=1,
        Manufacturer=MANUFACTURER,
        SeriesDescription="Draft report, not verified",
        **dict.fromkeys(("ContentDate", "SeriesDate", "InstanceCreationDate"), day),
        **dict.fromkeys(("ContentTime", "SeriesTime", "InstanceCreationTime"), time),
        TimezoneOffsetFromUTC=draft.created.strftime("%z")[:5],
        CompletionFlag="PARTIAL",
        CompletionFlagDescription="Draft written by a machine"
        + (", edited by a person" if draft.edited else ""),
        VerificationFlag="UNVERIFIED",
        PreliminaryFlag="PRELIMINARY",
        ReferencedPerformedProcedureStepSequence=[],
        PerformedProcedureCodeSequence=[],
        CurrentRequestedProcedureEvidenceSequence=[_evidence(reference)],
        ValueType="CONTAINER",
        ContinuityOfContent="SEPARATE",
        ConceptNameCodeSequence=[_code("18748-4", "LN", "Diagnostic imaging report")],
        ContentSequence=[*_context(draft), *_sections(draft)],
    )
    # Some servers store a file without a preamble unchanged, and readers then refuse it.
    sr.preamble = b"\0" * 128
    sr.file_meta = FileMetaDataset()
    sr.file_meta.MediaStorageSOPClassUID = BasicTextSRStorage
    sr.file_meta.MediaStorageSOPInstanceUID = sr.SOPInstanceUID
    sr.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    sr.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _context(draft: ReportDraft) -> list[Dataset]:
    """The language, and the observing device: the model, with the digest of its weights."""
    language = ("en", "English") if draft.language == "en" else ("zh", "Chinese")
    name = draft.model or "unknown"
    # PS3.5 B.2: a UID from a UUID; the same weights have the same one everywhere.
    device = f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, draft.digest).int}"
    language_concept = _code("121049", "DCM", "Language of Content Item and Descendants")
    language_code = _code(language[0], "RFC5646", language[1])
    device_code = _code("121007", "DCM", "Device")

    def observer(code: str, meaning: str, value_type: str = "TEXT", **value: Any) -> Dataset:
        concept = _code(code, "DCM", meaning)
        return _item("HAS OBS CONTEXT", value_type, concept, **value)

    return [
        _item("HAS CONCEPT MOD", "CODE", language_concept, ConceptCodeSequence=[language_code]),
        observer("121005", "Observer Type", "CODE", ConceptCodeSequence=[device_code]),
        observer("121012", "Device Observer UID", "UIDREF", UID=device),
        observer("121013", "Device Observer Name", TextValue=name),
        observer("121014", "Device Observer Manufacturer", TextValue=MANUFACTURER),
        observer("121015", "Device Observer Model Name", TextValue=name),
        observer("121016", "Device Observer Serial Number", TextValue=f"sha256:{draft.digest}"),
    ]


def _sections(draft: ReportDraft) -> list[Dataset]:
    items = []
    for text, section, concept in (
        (draft.findings, ("59776-5", "LN", "Findings"), ("121071", "DCM", "Finding")),
        (draft.impression, ("19005-8", "LN", "Impressions"), ("121073", "DCM", "Impression")),
    ):
        if text:
            content = [_text(_code(*concept), text)]
            elements = {"ContinuityOfContent": "SEPARATE", "ContentSequence": content}
            items.append(_item("CONTAINS", "CONTAINER", _code(*section), **elements))
    return [*items, _text(_code("121106", "DCM", "Comment"), "\n".join(draft.provenance))]


def _text(concept: Dataset, text: str) -> Dataset:
    return _item("CONTAINS", "TEXT", concept, TextValue=text.replace("\n", "\r\n"))


def _evidence(reference: StudyReference) -> Dataset:
    series = []
    for uid, images in groupby(sorted(set(reference.images)), key=lambda image: image.series):
        references = [
            _dataset(
                ReferencedSOPClassUID=image.sop_class, ReferencedSOPInstanceUID=image.sop_instance
            )
            for image in images
        ]
        series.append(_dataset(SeriesInstanceUID=uid, ReferencedSOPSequence=references))
    return _dataset(StudyInstanceUID=reference.study, ReferencedSeriesSequence=series)


def _item(relationship: str, value_type: str, concept: Dataset, **value: Any) -> Dataset:
    return _dataset(
        RelationshipType=relationship,
        ValueType=value_type,
        ConceptNameCodeSequence=[concept],
        **value,
    )


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    return _dataset(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def _dataset(**elements: Any) -> Dataset:
    from pydicom.dataset import Dataset

    dataset = Dataset()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset
