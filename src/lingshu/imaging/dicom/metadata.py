"""The safe metadata of a DICOM image: keyed hashes, numbers, and terms of closed lists.

A term is carried only if terms.json holds it, so that a name typed into the field for a body part
is never carried. Its lists are those of DICOM PS3.3 C.7.3.1.1.1 (modalities that carry pixels) and
C.7.6.3.1.2 (photometric interpretations), of PS3.16 CID 2 with the terms that modalities write
(PS3.16 Annex L), and the modalities of people and devices that often write names into pixels.
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from lingshu.core.files import read_json
from lingshu.core.pseudonyms import pseudonym
from lingshu.imaging.dicom.elements import ID_TAGS, DicomElements

BurnedInRisk = Literal["stated", "likely", "low"]  # the highest first
# Secondary capture, ultrasound (single and multi-frame), visible light.
_BURNED_IN_SOP_CLASSES = tuple(f"1.2.840.10008.5.1.4.1.1.{suffix}" for suffix in (7, 6, 3, 77))
_STANDARD_UID = re.compile(r"1\.2\.840\.10008\.[0-9.]{1,48}")


@dataclass(frozen=True, slots=True)
class DicomMetadata:
    """The safe metadata of one DICOM image; None means not stated, or not in a closed list.

    `patient`, `study`, `series`, `instance` and `accession` are keyed hashes. `spacing` is (row,
    column) in mm, `position` is in mm along the normal of the image plane, `instance_number` is the
    number in the series, `series_number` that of the series in its study. `sop_class` and
    `transfer_syntax` are names of the DICOM standard. `burned_in` is what the file states,
    `burned_in_risk` our estimate: "stated" by the file, "likely" for kinds that often hold text.
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
    """The allow-listed metadata of a parsed file; ids are hashed with `key`."""
    modality = _term(elements.text(0x00080060), "modality")
    body_part = elements.text(0x00180015).replace(" ", "").replace("_", "")
    laterality = (elements.text(0x00200062) or elements.text(0x00200060)).upper()
    image_type = elements.text(0x00080008).upper().split("\\")
    burned_in, sop_class = _yes_no(elements.text(0x00280301)), elements.text(0x00080016)
    spacing = [n for n in elements.numbers(0x00280030) if 0 < n < 1000]
    thickness = [n for n in elements.numbers(0x00180050) if 0 < n < 1000]
    return DicomMetadata(
        **{kind: pseudonym(key, kind, elements.raw_value(tag)) for kind, tag in ID_TAGS.items()},
        modality=modality,
        body_part=_term(body_part, "body_part"),
        view=_term(elements.text(0x00185101), "view"),
        laterality=laterality if laterality in ("L", "R", "B", "U") else None,
        sop_class=_standard_name(sop_class),
        transfer_syntax=_standard_name(elements.transfer_syntax),
        rows=elements.uint16(0x00280010),
        columns=elements.uint16(0x00280011),
        n_frames=frame_count(elements) or 0,
        bits=elements.uint16(0x00280101),
        photometric=_term(elements.text(0x00280004), "photometric"),
        derived=None if image_type == [""] else image_type[0] == "DERIVED",
        localizer="LOCALIZER" in image_type,
        instance_number=_integer(elements.text(0x00200013)),
        series_number=_integer(elements.text(0x00200011)),
        position=_position(elements),
        spacing=(spacing[0], spacing[1]) if len(spacing) == 2 else None,
        thickness=thickness[0] if thickness else None,
        burned_in=burned_in,
        recognizable=_yes_no(elements.text(0x00280302)),
        burned_in_risk=_burned_in_risk(burned_in, modality, sop_class, elements),
        has_pixels=elements.keyword is not None,
    )


@cache
def closed_terms(kind: str) -> frozenset[str]:
    """One of the lists of terms.json."""
    return frozenset(read_json(Path(__file__).with_name("terms.json"))[kind])


def frame_count(elements: DicomElements) -> int | None:
    """The number of frames that the file states, else 1; None where it states something else."""
    text = elements.text(0x00280008)
    if not text:
        return 1
    try:
        return max(1, int(text)) if len(text) <= 12 else None
    except ValueError:
        return None


def _term(text: str, kind: str) -> str | None:
    return text.upper() if text.upper() in closed_terms(kind) else None


def _yes_no(text: str) -> bool | None:
    return {"YES": True, "NO": False}.get(text.upper())


def _integer(text: str) -> int | None:
    # Longer ones are not a position in a series, and may be anything.
    is_integer = text.lstrip("+-").isdecimal() and text.isascii() and len(text) <= 6
    return int(text) if is_integer else None


def _position(elements: DicomElements) -> float | None:
    origin, axes = elements.numbers(0x00200032), elements.numbers(0x00200037)
    if len(origin) != 3 or len(axes) != 6:
        return None
    if max(map(abs, origin)) > 1e5 or max(map(abs, axes)) > 1.01:
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
    is_text_modality = modality is None or modality in closed_terms("burned_in_modality")
    if is_text_modality or sop_class.startswith(_BURNED_IN_SOP_CLASSES):
        return "likely"
    # A "NO" is believed only of scanners: converters and ultrasound devices write it next to names
    # in the image.
    is_converted = bool(elements.text(0x00080064)) or (elements.uint16(0x00280002) or 1) > 1
    return "likely" if is_converted and burned_in is None else "low"


def highest_risk(risks: Container[str | None]) -> BurnedInRisk | None:
    return next((risk for risk in get_args(BurnedInRisk) if risk in risks), None)
