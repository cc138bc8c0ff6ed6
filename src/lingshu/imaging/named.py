"""Whom a DICOM file names: the words that must not stay in a report or a question about its images.

A bare surname in running text looks like any other word; the header of the study knows it. Only the
elements listed here are read, the words live as long as one study is read, and nothing of them
shows in an error or a log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from lingshu.core.errors import BadImage
from lingshu.imaging._elements import parsing
from lingshu.imaging.dicom import opened_file

# People: DICOM PS3.3 C.7.1.1, C.7.2.1, C.7.3.1. Numbers: those that stand in reports.
_PEOPLE = (
    "PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName", "ResponsiblePerson", "ReferringPhysicianName",
    "ConsultingPhysicianName", "RequestingPhysician", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy",
    "PerformingPhysicianName", "OperatorsName",
)  # fmt: skip
_NUMBERS = ("PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID")
# Shorter ones are parts of too many other words and numbers.
FEWEST_LETTERS, FEWEST_CJK, FEWEST_DIGITS = 3, 2, 4
_CJK = re.compile(r"[\u3400-\u9fff\uac00-\ud7af\u3040-\u30ff]")
NAME, NUMBER = "[NAME]", "[ID]"


class Named:
    """The names and numbers of a study's header, as patterns; `without` takes them out of a text."""

    def __init__(self, people: Iterable[str], numbers: Iterable[str]) -> None:
        names = sorted({part for name in people for part in _parts(name)}, key=len, reverse=True)
        ids = sorted(
            {number for number in numbers if len(re.sub(r"\W", "", number)) >= FEWEST_DIGITS},
            key=len,
            reverse=True,
        )
        self._names = _any(names, cased=True)
        self._ids = _any(ids, cased=False)

    def without(self, text: str) -> str:
        """The text with placeholders for what the header names.

        A name counts where it is written as one, with a capital: the patient White is found, white
        matter stays.
        """
        text = self._ids.sub(NUMBER, text) if self._ids else text
        return self._names.sub(NAME, text) if self._names else text


def named_in(path: Path, *, name: str) -> Named:
    """What the header of a DICOM file names. Errors call the file `name`; a header that cannot be
    read names nobody.

    Raises:
        BadImage: the file cannot be opened.
    """
    from pydicom import dcmread

    found: dict[str, list[str]] = {}
    with opened_file(path, name) as file:
        try:
            with parsing(name, "reading names"):
                header = dcmread(
                    file, stop_before_pixels=True, force=True, specific_tags=[*_PEOPLE, *_NUMBERS]
                )
                header.decode()
                for keyword in (*_PEOPLE, *_NUMBERS):
                    value = header.get(keyword)
                    several = (
                        value if isinstance(value, list) or hasattr(value, "append") else [value]
                    )
                    found[keyword] = [str(one).strip() for one in several if one]
        except BadImage:
            return Named((), ())
    return Named(
        (text for key in _PEOPLE for text in found[key]),
        (text for key in _NUMBERS for text in found[key]),
    )


def _parts(name: str) -> Iterator[str]:
    """The words of a DICOM person name: groups (=) of components (^); one of Chinese characters
    also as it is written, in one.
    """
    for group in name.split("="):
        words = [word for word in re.split(r"[\^\s,.;()]+", group) if word]
        joined = "".join(words)
        if _CJK.search(joined):
            yield from (word for word in (joined, *words) if len(word) >= FEWEST_CJK)
        else:
            # Of a double name either half stands alone in some reports.
            halves = [half for word in words if "-" in word for half in word.split("-")]
            yield from (
                word for word in (*words, *halves) if sum(map(str.isalpha, word)) >= FEWEST_LETTERS
            )


def _any(words: Iterable[str], *, cased: bool) -> re.Pattern[str] | None:
    """One pattern for all of them, the longest first; no word characters of its own kind may stand
    around a match.
    """
    found = []
    for word in words:
        if _CJK.search(word):
            found.append(re.escape(word))
        elif cased:
            # Headers write in capitals; of what follows the first one nothing is known: MCDONALD is
            # McDonald.
            found.append(
                rf"\b(?:{re.escape(word)}|{re.escape(word[:1].upper())}(?i:{re.escape(word[1:])}))\b"
            )
        else:
            found.append(rf"(?<!\w){re.escape(word)}(?!\w)")
    return re.compile("|".join(found)) if found else None
