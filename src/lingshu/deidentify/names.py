"""Names and numbers in a DICOM header, to be removed from a report or question about its images.

A bare surname in running text looks like any other word; the header of the study has it. Only the
elements listed here are read, they are kept while one study is read, and never shown in an error or
a log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from lingshu.core.errors import ImageError
from lingshu.imaging.dicom.elements import wrap_parse_errors
from lingshu.imaging.dicom.file import open_file

# People: DICOM PS3.3 C.7.1.1, C.7.2.1, C.7.3.1. Numbers: those that occur in reports.
_PERSON_KEYWORDS = (
    "PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName", "ResponsiblePerson", "ReferringPhysicianName",
    "ConsultingPhysicianName", "RequestingPhysician", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy",
    "PerformingPhysicianName", "OperatorsName",
)  # fmt: skip
_ID_KEYWORDS = ("PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID")
# Shorter ones occur in too many other words and numbers.
MIN_LETTERS, MIN_CJK_CHARS, MIN_DIGITS = 3, 2, 4
_CJK = re.compile(r"[\u3400-\u9fff\uac00-\ud7af\u3040-\u30ff]")
NAME_PLACEHOLDER, ID_PLACEHOLDER = "[NAME]", "[ID]"


class HeaderNames:
    """The names and numbers of a study's header; `redact` removes them from a text."""

    def __init__(self, person_names: Iterable[str], id_numbers: Iterable[str]) -> None:
        names = {part for name in person_names for part in _name_parts(name)}
        ids = {number for number in id_numbers if len(re.sub(r"\W", "", number)) >= MIN_DIGITS}
        self._names = _any_pattern(names, case_sensitive=True)
        self._ids = _any_pattern(ids, case_sensitive=False)

    def redact(self, text: str) -> str:
        """The text with placeholders for the names and numbers of the header.

        A name must be capitalized: the patient White is found, white matter stays.
        """
        text = self._ids.sub(ID_PLACEHOLDER, text) if self._ids else text
        return self._names.sub(NAME_PLACEHOLDER, text) if self._names else text


def read_header_names(path: Path, *, name: str) -> HeaderNames:
    """The names in the header of a DICOM file, none if it cannot be parsed.

    Raises:
        ImageError: the file, which the message calls `name`, cannot be opened.
    """
    from pydicom import dcmread

    keywords = [*_PERSON_KEYWORDS, *_ID_KEYWORDS]
    values: dict[str, list[str]] = {}
    with open_file(path, name) as file:
        try:
            with wrap_parse_errors(name, "reading names"):
                options = {"stop_before_pixels": True, "force": True}
                header = dcmread(file, specific_tags=keywords, **options)
                header.decode()
                for keyword in keywords:
                    value = header.get(keyword)
                    items = value if hasattr(value, "append") else [value]
                    values[keyword] = [str(item).strip() for item in items if item]
        except ImageError:
            return HeaderNames((), ())
    return HeaderNames(
        (text for key in _PERSON_KEYWORDS for text in values[key]),
        (text for key in _ID_KEYWORDS for text in values[key]),
    )


def _name_parts(name: str) -> Iterator[str]:
    """The words of a DICOM person name: groups (=) of components (^), Chinese names also joined."""
    for group in name.split("="):
        words = [word for word in re.split(r"[\^\s,.;()]+", group) if word]
        full_name = "".join(words)
        if _CJK.search(full_name):
            yield from (word for word in (full_name, *words) if len(word) >= MIN_CJK_CHARS)
        else:
            # Some reports use one part of a double name alone.
            parts = [part for word in words if "-" in word for part in word.split("-")]
            for word in (*words, *parts):
                if sum(map(str.isalpha, word)) >= MIN_LETTERS:
                    yield word


def _any_pattern(words: Iterable[str], *, case_sensitive: bool) -> re.Pattern[str] | None:
    """One pattern for all of the words, which only match as whole words."""
    patterns = []
    for word in sorted(words, key=len, reverse=True):
        if _CJK.search(word):
            patterns.append(re.escape(word))
        elif case_sensitive:
            # Headers are often in capitals: MCDONALD is McDonald.
            head, tail = re.escape(word[:1].upper()), re.escape(word[1:])
            patterns.append(rf"\b(?:{re.escape(word)}|{head}(?i:{tail}))\b")
        else:
            patterns.append(rf"(?<!\w){re.escape(word)}(?!\w)")
    return re.compile("|".join(patterns)) if patterns else None
