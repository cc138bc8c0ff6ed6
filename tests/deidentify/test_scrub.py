"""Identifiers in texts: the cases of golden/deidentify, dates, headers, and how they are counted."""

from __future__ import annotations

import io
import json
import re
import time
import unicodedata
from datetime import date
from pathlib import Path

import pytest

from lingshu.deidentify.header import StudyIdentifiers, read_study_identifiers
from lingshu.deidentify.matcher import StudyMatcher
from lingshu.deidentify.scrub import scrub, shift_days_of
from lingshu.deidentify.spans import IdentifierSpan, count_notes, parse_counts

GOLDEN = Path(__file__).parents[1] / "golden" / "deidentify"


def cases(name: str, n_fields: int) -> list[list[str]]:
    lines = (GOLDEN / name).read_text(encoding="utf-8").splitlines()
    return [line.split("|", n_fields - 1) for line in lines if line and not line.startswith("#")]


def matcher(header: str) -> StudyMatcher | None:
    """The matcher of a DICOM file with this header."""
    if not header:
        return None
    return StudyMatcher(read_study_identifiers([(dicom_header(json.loads(header)), "a file")]))


def dicom_header(values: dict[str, str]) -> bytes:
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
    dataset = pydicom.Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, implicit_vr=True, little_endian=True)
    return file.getvalue()


def unmarked(text: str) -> str:
    return re.sub(r"\[\[|\]\]|\{\{|\}\}", "", text)


def test_identifiers_go_and_the_words_around_them_stay() -> None:
    leaks, damages = [], []
    for kind, header, marked in cases("identifiers.txt", 3):
        clean = unicodedata.normalize("NFC", scrub(unmarked(marked), matcher(header)).text)
        planted = re.findall(r"\[\[(.*?)\]\]", marked)
        leaks += [(kind, one, clean) for one in planted if one in clean]
        damages += [one for one in re.findall(r"\{\{(.*?)\}\}", marked) if one not in clean]
    assert leaks == [] and damages == []


def test_clinical_sentences_stay_as_they_are() -> None:
    changed = []
    for header, text in cases("clinical.txt", 2):
        clean = scrub(text, matcher(header)).text
        if clean != text:
            changed.append((header, clean))
    assert changed == []


def test_what_is_scrubbed_is_not_found_again() -> None:
    for _, header, marked in cases("identifiers.txt", 3):
        once = scrub(unmarked(marked), matcher(header)).text
        assert scrub(once, matcher(header)).text == once


@pytest.mark.parametrize(
    ("text", "shifted"),
    [
        ("CT of 03/17/2024, prior 03/10/2024.", "CT of 02/16/2023, prior 02/09/2023."),
        ("vom 17.3.24 und 7. März 2024", "vom 16.2.23 und 6. Februar 2023"),
        ("17-Mar-2024; 2024-03-17; 20240317", "16-Feb-2023; 2023-02-16; 20230216"),
        ("March 17th, 2024; 1st of January 2024", "February 16th, 2023; 2nd of December 2022"),
        ("17 de marzo de 2024; le 2 août 2024", "16 de febrero de 2023; le 4 juillet 2023"),
        ("2024年3月17日", "2023年2月16日"),
    ],
)
def test_dates_are_shifted_in_their_own_form(text: str, shifted: str) -> None:
    assert scrub(text, dates="shift", shift_days=-395).text == shifted


def test_a_date_without_a_year_or_a_form_is_removed_when_others_are_shifted() -> None:
    text = "Film of 3/17, dated march 17th; 二零二四年三月十七日"
    assert (
        scrub(text, dates="shift", shift_days=-395).text == "Film of [DATE], dated [DATE]; [DATE]"
    )
    assert scrub("dated 3/17/2024", dates="keep").text == "dated 3/17/2024"


def test_a_patient_has_one_shift_that_only_the_key_tells() -> None:
    one = shift_days_of(b"k" * 16, "a")
    assert one == shift_days_of(b"k" * 16, "a") and -3652 <= one <= -365
    assert len({shift_days_of(b"k" * 16, str(i)) for i in range(9)}) > 5
    assert one != shift_days_of(b"j" * 16, "a")


def test_dates_of_the_header_are_found_in_ambiguous_forms() -> None:
    known = StudyMatcher(StudyIdentifiers(dates=frozenset({date(2024, 3, 10)})))
    assert scrub("Taken 10-3-24 erect.", known).text == "Taken [DATE] erect."
    assert scrub("sizes 10-3-24 mm").text == "sizes 10-3-24 mm"


def test_sequences_private_elements_and_every_file_of_a_study_count() -> None:
    pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")
    inner = pydicom.Dataset()
    inner.OperatorsName = "Zzinner^Ada"
    dataset = pydicom.Dataset()
    dataset.RequestAttributesSequence = [inner]
    block = dataset.private_block(0x0011, "ZZMAKER", create=True)
    block.add_new(1, "LO", "Zzprivate^Bo")
    block.add_new(2, "LO", "file ZQ-447193-B of archive")
    file = io.BytesIO()
    pydicom.dcmwrite(file, dataset, implicit_vr=False, little_endian=True)
    other = dicom_header({"ReferringPhysicianName": "Zzother^Cy"})
    study = StudyMatcher(read_study_identifiers([(file.getvalue(), "one"), (other, "two")]))
    text = "zzinner, ZZPRIVATE and Zzother saw ZQ447193B; clear lungs."
    assert scrub(text, study).text == "[NAME] and [NAME] saw [ID]; clear lungs."
    assert "Zz" not in repr(StudyIdentifiers(people=frozenset({"Zzinner^Ada"})))


def test_a_detector_adds_spans_and_removes_none() -> None:
    def one_word(text: str) -> list[IdentifierSpan]:
        start = text.index("Xqzt")
        return [IdentifierSpan(start, start + 4, "name", "model")]

    result = scrub("Dr. Hale met Xqzt.", detectors=[one_word])
    assert result.text == "Dr. [NAME] met [NAME]."
    assert [span.rule for span in result.spans][1] == "model"


def test_counts_of_two_passes_add_up() -> None:
    first = count_notes([IdentifierSpan(0, 1, "name", "en title: dr")], {"side": "left"})
    both = count_notes([IdentifierSpan(0, 1, "name", "header name, declined")], first)
    assert both == {
        "scrubbed": "name 2",
        "scrubbed_by": "en title: dr 1; header name, declined 1",
    }
    assert parse_counts(both["scrubbed_by"])["header name, declined"] == 1


PIECES = ["A. ", "1.", "Dr. ", "a@", "1-", "John ", "van ", "(01)", "年", "患者", "様", "12/", "\\"]


@pytest.mark.parametrize("piece", [*PIECES, "http://a.", "x/", "Hospital ", "I, A B", "Q U ", "王"])
def test_long_repeated_texts_take_linear_time(piece: str) -> None:
    # Ten thousand characters of one piece; a pattern that backtracks would take minutes.
    study = StudyMatcher(StudyIdentifiers(people=frozenset({"Quillfeather^Orla"})))
    start = time.process_time()
    scrub(piece * (10_000 // len(piece)), study)
    assert time.process_time() - start < 5
