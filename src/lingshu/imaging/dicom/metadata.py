"""What may be known of a DICOM image past ingestion: keyed hashes, numbers, and words from closed
lists.

A word is carried only if the list here holds it, so that a name typed into a field for a body part
stays behind.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from lingshu.core.pseudonyms import pseudonym
from lingshu.imaging.dicom.elements import ID_TAGS, DicomElements

BurnedInRisk = Literal["stated", "likely", "low"]
# DICOM PS3.3 C.7.3.1.1.1, those that carry pixels.
_MODALITIES = """
AR AS BI BMD CF CP CR CS CT DD DF DG DM DS DX EC ECG EPS ES FA FS GM HC HD IO IVOCT IVUS KER LEN LP LS MA MG MR MS NM OAM OCT OP OPM OPR
OPT OPTBSV OPTENF OPV OSS OT PA POS PT PX REG RESP RF RG RTDOSE RTIMAGE SC SEG SM SMR SR SRF ST TG US VA VF XA XC
"""
# DICOM PS3.16 CID 2 and the terms that modalities write (PS3.16 Annex L).
_BODY_PARTS = """
ABDOMEN ABDOMENPELVIS ADRENAL ANKLE AORTA ARM AXILLA BACK BLADDER BONE BRAIN BREAST BRONCHUS BUTTOCK CALCANEUS CALF CAROTID CEREBELLUM
CERVIX CHEEK CHEST CHESTABDOMEN CHESTABDPELVIS CHOROIDPLEXUS CIRCLEOFWILLIS CLAVICLE COCCYX COLON CORNEA CORONARYARTERY CSPINE CTSPINE
DUODENUM EAR ELBOW ESOPHAGUS EXTREMITY EYE EYELID FACE FEMUR FINGER FOOT GALLBLADDER HAND HEAD HEADNECK HEART HIP HUMERUS ILEUM ILIUM
IAC JAW JEJUNUM KIDNEY KNEE LARYNX LEG LIVER LSPINE LSSPINE LUNG MANDIBLE MAXILLA MEDIASTINUM MOUTH NECK NECKCHEST NOSE ORBIT OVARY
PANCREAS PAROTID PATELLA PELVIS PENIS PHARYNX PROSTATE RECTUM RIB SCALP SCAPULA SCROTUM SHOULDER SKULL SPINE SPLEEN SSPINE STERNUM
STOMACH TESTIS THIGH THUMB THYMUS THYROID TIBIA TLSPINE TOE TONGUE TRACHEA TSPINE UMBILICALCORD URETER URETHRA UTERUS VAGINA VULVA
WHOLEBODY WRIST ZYGOMA
"""
_VIEWS = """
AP PA LL RL RLD LLD RLO LLO LPO RPO RAO LAO CC MLO ML LM XCC XCCL XCCM CV AT FB SIO TAN LATERAL
"""
# Made by people and machines that like to write names into pixels.
_BURNED_IN = """
US SC OT XC ES GM XA RF IVUS EC DG TG OP SR DM AS CP LP HC KER LEN FA DS
"""
MODALITIES, BODY_PARTS, VIEWS = (
    frozenset(words.split()) for words in (_MODALITIES, _BODY_PARTS, _VIEWS)
)
_BURNED_IN_MODALITIES = frozenset(_BURNED_IN.split())
_BURNED_IN_SOP_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.7",
    "1.2.840.10008.5.1.4.1.1.6",
    "1.2.840.10008.5.1.4.1.1.3",
    "1.2.840.10008.5.1.4.1.1.77",
)
_STANDARD_UID = re.compile(r"1\.2\.840\.10008\.[0-9.]{1,48}")


@dataclass(frozen=True, slots=True)
class DicomMetadata:
    """The safe facts of one DICOM image; None means not stated, or stated in words that no list
    holds.

    `patient`, `study`, `series`, `instance` and `accession` are keyed hashes. `spacing` is (row,
    column) in mm, `position` the place in mm along the normal of the image plane, `number` the
    place in the series, `series_number` that of the series in its study. `sop_class` and
    `transfer_syntax` are names of the DICOM standard. `burned_in` is the file's own word,
    `burned_in_risk` ours: "stated" by the file, "likely" for kinds of image that often hold text,
    else "low".
    """

    patient: str | None
    study: str | None
    series: str | None
    instance: str | None
    accession: str | None
    modality: str | None
    body_part: str | None
    view: str | None
    laterality: str | None
    sop_class: str | None
    transfer_syntax: str | None
    rows: int | None
    columns: int | None
    n_frames: int
    bits: int | None
    photometric: str | None
    derived: bool | None
    localizer: bool
    instance_number: int | None
    series_number: int | None
    position: float | None
    spacing: tuple[float, float] | None
    thickness: float | None
    burned_in: bool | None
    recognizable: bool | None
    burned_in_risk: BurnedInRisk
    has_pixels: bool


def read_metadata(elements: DicomElements, key: bytes) -> DicomMetadata:
    """Read the allow-listed facts of a parsed file; ids are hashed with `key`."""
    modality = _defined_term(elements.text(0x00080060), MODALITIES)
    image_type = elements.text(0x00080008).upper().split("\\")
    burned_in, sop_class = _yes_no(elements.text(0x00280301)), elements.text(0x00080016)
    spacing = [n for n in elements.numbers(0x00280030) if 0 < n < 1000]
    thickness = [n for n in elements.numbers(0x00180050) if 0 < n < 1000]
    ids = {kind: pseudonym(key, kind, elements.raw_value(tag)) for kind, tag in ID_TAGS.items()}
    return DicomMetadata(
        **ids,
        modality=modality,
        body_part=_defined_term(
            elements.text(0x00180015).replace(" ", "").replace("_", ""), BODY_PARTS
        ),
        view=_defined_term(elements.text(0x00185101), VIEWS),
        laterality=_defined_term(
            elements.text(0x00200062) or elements.text(0x00200060), frozenset("LRBU")
        ),
        sop_class=_standard_name(sop_class),
        transfer_syntax=_standard_name(elements.transfer_syntax),
        rows=elements.uint16(0x00280010),
        columns=elements.uint16(0x00280011),
        n_frames=frame_count(elements) or 0,
        bits=elements.uint16(0x00280101),
        photometric=_defined_term(elements.text(0x00280004), PHOTOMETRIC),
        derived=None if image_type == [""] else image_type[0] == "DERIVED",
        localizer="LOCALIZER" in image_type,
        instance_number=_integer(elements, 0x00200013),
        series_number=_integer(elements, 0x00200011),
        position=_position(elements),
        spacing=(spacing[0], spacing[1]) if len(spacing) == 2 else None,
        thickness=thickness[0] if thickness else None,
        burned_in=burned_in,
        recognizable=_yes_no(elements.text(0x00280302)),
        burned_in_risk=_burned_in_risk(burned_in, modality, sop_class, elements),
        has_pixels=elements.keyword is not None,
    )


PHOTOMETRIC = frozenset((
    "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_PARTIAL_422",
    "YBR_ICT", "YBR_RCT",
))  # fmt: skip


def frame_count(elements: DicomElements) -> int | None:
    """How many frames the file says it has, 1 where it says nothing, None where it says no number."""
    text = elements.text(0x00280008)
    if not text:
        return 1
    try:
        return max(1, int(text)) if len(text) <= 12 else None
    except ValueError:
        return None


def _defined_term(text: str, vocabulary: frozenset[str]) -> str | None:
    return text.upper() if text.upper() in vocabulary else None


def _yes_no(text: str) -> bool | None:
    return {"YES": True, "NO": False}.get(text.upper())


def _integer(elements: DicomElements, tag: int) -> int | None:
    text = elements.text(tag)
    # Longer ones are no place in a series, and may be anything.
    return (
        int(text) if text.lstrip("+-").isdecimal() and text.isascii() and len(text) <= 6 else None
    )


def _position(elements: DicomElements) -> float | None:
    origin, axes = elements.numbers(0x00200032), elements.numbers(0x00200037)
    if (
        len(origin) != 3
        or len(axes) != 6
        or max(map(abs, origin)) > 1e5
        or max(map(abs, axes)) > 1.01
    ):
        return None
    a, b = axes[:3], axes[3:]
    normal = (a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0])
    return round(sum(p * n for p, n in zip(origin, normal, strict=True)), 3)


def _standard_name(uid: str) -> str | None:
    if not _STANDARD_UID.fullmatch(uid):
        return None
    from pydicom.uid import UID

    name = UID(uid).name
    return None if name == uid else name


def _burned_in_risk(
    burned_in: bool | None, modality: str | None, sop_class: str, elements: DicomElements
) -> BurnedInRisk:
    if burned_in:
        return "stated"
    # A "NO" is believed of scanners only: converters and ultrasound machines write it beside names
    # in the picture.
    has_text = (
        modality in _BURNED_IN_MODALITIES
        or modality is None
        or sop_class.startswith(_BURNED_IN_SOP_CLASSES)
    )
    converted = bool(elements.text(0x00080064)) or (elements.uint16(0x00280002) or 1) > 1
    return "likely" if has_text or (converted and burned_in is None) else "low"
