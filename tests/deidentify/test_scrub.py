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

from lingshu.core.errors import ConfigError, InputError
from lingshu.deidentify.header import StudyIdentifiers, read_study_identifiers
from lingshu.deidentify.matcher import StudyMatcher
from lingshu.deidentify.scrub import scrub, shift_days_of
from lingshu.deidentify.spans import IdentifierSpan, count_notes, parse_counts
from lingshu.deidentify.verdicts import read_verdicts

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


def test_verdicts_of_people_remove_what_was_missed_and_keep_what_was_wrong(tmp_path: Path) -> None:
    lines = [
        {"id": "a", "reviewer": "kl", "missed": ["Zzgrub Ost"], "wrong": []},
        {"id": "b", "reviewer": "kl", "missed": [], "wrong": ["Quell"]},
    ]
    path = tmp_path / "verdicts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    verdicts = read_verdicts(path)
    assert (verdicts.n_read, verdicts.n_with_missed, verdicts.risk.value) == (2, 1, 0.5)
    text, finder = "zzgrub ost seen by Dr. Quell", [verdicts.find_missed]
    result = scrub(text, detectors=finder, wrong=verdicts.wrong)
    assert result.text == "[NAME] seen by Dr. Quell"
    study = StudyMatcher(StudyIdentifiers(people=frozenset({"Quell^Ina"})))
    assert scrub("Dr. Quell", study, wrong=verdicts.wrong).text == "Dr. [NAME]"
    path.write_text('{"id": "a", "missed": "x"}\n')
    with pytest.raises(InputError, match="line 1: a verdict has id, reviewer, missed and wrong"):
        read_verdicts(path)


def token_model(folder: Path) -> Path:
    """A model that finds one word: its embedding is what the classifier looks for."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "xqzt", "edema"]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    config = BertConfig(
        vocab_size=4,
        hidden_size=4,
        num_hidden_layers=0,
        num_attention_heads=1,
        intermediate_size=4,
        id2label={0: "O", 1: "B-PER"},
    )
    model = BertForTokenClassification(config).eval()
    with torch.no_grad():
        for parameter in model.bert.embeddings.parameters():
            if parameter.dim() == 2:
                parameter.zero_()
        model.bert.embeddings.word_embeddings.weight.copy_(torch.eye(4))
        model.classifier.weight.copy_(torch.tensor([[0.0] * 4, [-4, -4, 20, 20]]))
        model.classifier.bias.zero_()
    model.save_pretrained(folder)
    return folder


def test_a_local_model_adds_names_but_no_ordinary_words(tmp_path: Path) -> None:
    from lingshu.deidentify.detectors import token_classification

    folder = str(token_model(tmp_path))
    find = token_classification.detector(model=folder)
    text = "Dr. Hale saw xqzt with edema ." + " lung" * 500 + " xqzt"
    assert scrub(text, detectors=[find]).text.count("[NAME]") == 3
    everything = token_classification.detector(model=folder, ordinary_words=True)
    assert "with [NAME] ." in scrub(text, detectors=[everything]).text
    with pytest.raises(ConfigError, match="has no label that is known"):
        token_classification.detector(model=folder, labels={"LOC": "location"})
    with pytest.raises(ConfigError, match="is not a folder"):
        token_classification.detector(model=folder + "-none")
