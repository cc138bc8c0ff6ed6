"""The identifying values in the headers of a study, to be searched in a report about its images.

Every element of every file counts, in sequences and private ones too, by its value representation
(PS3.5 6.2) and keyword: people, numbers, dates, locations, and words of free text. They are kept while
one study is read, and never shown in an error or a log.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from lingshu.core.errors import ImageError
from lingshu.deidentify.dates import parse_header_dates
from lingshu.imaging.dicom.elements import wrap_parse_errors
from lingshu.imaging.dicom.file import open_file

if TYPE_CHECKING:
    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset

MAX_VALUES, MAX_CHARS = 4000, 4000  # of one study, of one value
_MAX_DEPTH = 8
# UIDs of the standard (PS3.6 annex A) name classes and syntaxes, nobody.
_STANDARD_UID = "1.2.840.10008."
_LOCATION = re.compile(
    "Institution|Address|Department|StationName|Residence|PatientLocation|CurrentPatientLocation"
    "|RegionOf|ServiceEpisodeDescription|PerformedLocation|ScheduledProcedureStepLocation"
)
_NUMBER = re.compile(
    "(?:ID|IDs|Number|Numbers|UID|Identifier|Identification|Telephone)$|SerialNumber|Telephone|BarcodeValue"
    "|DeviceIdentifier|Accession"
)
# Numbers that count and order, and identifiers of software, models and code lists.
_NO_NUMBER = re.compile(
    "^(?:Series|Acquisition|Instance|Item|Frame|Temporal|Overlay|Curve|Segment|Reference|Image|Window|Echo|Lossy|Version"
    "|Coding|Mapping|Context|Private|Issuer|Manufacturer|Model|Collimator|Filter|Grid|Focal|Protocol|Template|Lookup|Beam|ROI|Fraction)"
)
_PERSON = re.compile(
    "Name(?:s)?$|Physician|Operators|Person$|Performer|Observer|Requester|EnteredBy"
)
_NO_PERSON = re.compile(
    "Manufacturer|ModelName|Protocol|Sequence|Scheme|Agent|Code|Private|Application|Station|Institution|Tomo|Filter|Application|Template|Pulse"
)
_TEXT = re.compile(
    "Comments|History|Reason|Occupation|Alerts|Allergies|State|Visit|Narrative|TextValue|TextString|ContentDescription|Requested.*Description"
    "|SpecialNeeds|OrderCallback|Description$"
)
_DESCRIPTION = re.compile(
    "^(?:Study|Series|Acquisition|Derivation|Code|Protocol|PerformedProcedureStep|RequestedProcedure)"
)
_ID_WORD = re.compile(r"(?<![\w.])[A-Za-z]{0,6}[-_/]?\d[\w/-]{4,40}(?![\w.])")


@dataclass(frozen=True)
class StudyIdentifiers:
    """What the headers of a study hold: raw values by what they identify."""

    people: frozenset[str] = field(default=frozenset(), repr=False)
    numbers: frozenset[str] = field(default=frozenset(), repr=False)
    locations: frozenset[str] = field(default=frozenset(), repr=False)
    texts: frozenset[str] = field(default=frozenset(), repr=False)
    dates: frozenset[date] = field(default=frozenset(), repr=False)

    def __or__(self, other: StudyIdentifiers) -> StudyIdentifiers:
        names = [one.name for one in fields(self)]
        return StudyIdentifiers(
            **{name: getattr(self, name) | getattr(other, name) for name in names}
        )


def read_study_identifiers(files: Iterable[tuple[Path | bytes, str]]) -> StudyIdentifiers:
    """The identifiers in the headers of DICOM files, each with the name that errors give it.

    A header that cannot be parsed gives what was read before its fault.

    Raises:
        ImageError: a file cannot be opened.
    """
    collected = _Collected()
    for path, name in files:
        with open_file(path, name) as file:
            collected.read(file, name)
    return collected.identifiers()


class _Collected:
    """Values by what they identify, each once; a study repeats most of them in every file."""

    def __init__(self) -> None:
        self._by_class: dict[str, set[str]] = {}
        self._count = 0

    def read(self, file: object, name: str) -> None:
        from pydicom import dcmread

        try:
            with wrap_parse_errors(name, "reading names"):
                header = dcmread(file, stop_before_pixels=True, force=True)  # type: ignore[arg-type]
                # A value that its character set cannot decode is searched as it is.
                with contextlib.suppress(LookupError, ValueError):
                    header.decode()
                self._dataset(header, depth=0)
        except ImageError:
            return

    def _dataset(self, dataset: Dataset, *, depth: int) -> None:
        for tag in list(dataset.keys()):
            if tag.group in (0x0002, 0x7FE0) or self._count >= MAX_VALUES:
                continue
            try:
                element = dataset[tag]
            except Exception:
                continue
            if element.VR == "SQ":
                for item in element.value or () if depth < _MAX_DEPTH else ():
                    self._dataset(item, depth=depth + 1)
            else:
                for kind, value in _classify(element):
                    self._add(kind, value)

    def _add(self, kind: str, value: str) -> None:
        values = self._by_class.setdefault(kind, set())
        if value not in values:
            values.add(value)
            self._count += 1

    def identifiers(self) -> StudyIdentifiers:
        def values(kind: str) -> frozenset[str]:
            return frozenset(self._by_class.get(kind, ()))

        dates = parse_header_dates(values("date"))
        return StudyIdentifiers(
            values("person"), values("number"), values("location"), values("text"), dates
        )


def _classify(element: DataElement) -> Iterator[tuple[str, str]]:
    keyword, vr = element.keyword or "", element.VR
    for value in _values(element):
        if vr == "PN":
            yield "person", value
        elif vr in ("DA", "DT"):
            yield "date", value
        elif vr == "UI":
            if not value.startswith(_STANDARD_UID):
                yield "number", value
        elif element.tag.is_private:
            yield from _private(value)
        elif vr in ("LO", "SH", "ST", "LT", "UT", "UC", "UR", "AE"):
            if _LOCATION.search(keyword):
                yield "location", value
            elif _NUMBER.search(keyword) and not _NO_NUMBER.search(keyword):
                yield "number", value
            elif _PERSON.search(keyword) and not _NO_PERSON.search(keyword):
                yield "person", value
            elif _TEXT.search(keyword) and not _DESCRIPTION.search(keyword):
                yield "text", value
                for number in _ID_WORD.findall(value):
                    yield "number", number
            elif "^" in value:
                yield "person", value


def _private(value: str) -> Iterator[tuple[str, str]]:
    """A private value tells by its form what it is: a name with ^, or a number."""
    if "^" in value and len(value) < 100:
        yield "person", value
    elif len(value) < 200:
        for number in _ID_WORD.findall(value):
            if sum(map(str.isdigit, number)) >= 5:
                yield "number", number
        if len(value.split()) > 2:
            yield "text", value


def _values(element: DataElement) -> Iterator[str]:
    value = element.value
    if isinstance(value, bytes):
        # Private elements whose representation is not known: only what is plainly text.
        if len(value) > MAX_CHARS or not value or any(byte < 9 for byte in value.rstrip(b"\0")):
            return
        value = value.decode("utf-8", "replace").strip("\0 ")
    items = value if hasattr(value, "append") else [value]
    for item in items:
        text = str(item).strip() if item is not None else ""
        if text and len(text) <= MAX_CHARS:
            yield text
