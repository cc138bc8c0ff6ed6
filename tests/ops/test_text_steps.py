"""Steps that read words: length, language, licenses, identifiers, scraped replies.

All names and numbers are made up.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lingshu.core.errors import ConfigError, InputError
from lingshu.core.types import Message, Meta, Sample
from lingshu.deidentify.scrub import scrub
from lingshu.ops import clean_replies, language, licenses, scrub_identifiers, text_length
from lingshu.ops.licenses import is_permissive
from lingshu.ops.text_length import approximate_token_count
from tests.support.step_runners import qa_sample, run_map_step

# --- length
# --------------------------------------------------------------------------------------------------------


def test_captions_are_kept_from_the_shortest_to_the_longest_length() -> None:
    captions = {
        n: qa_sample(str(n), "Describe.", " ".join(["lesion"] * n), kind="caption")
        for n in (9, 10, 1024, 1025)
    }
    result = run_map_step(text_length.step(), list(captions.values()))
    assert result.ids == ["10", "1024"] and result.reasons == {"9": "too_short", "1025": "too_long"}


def test_other_kinds_may_be_short() -> None:
    assert run_map_step(
        text_length.step(), [qa_sample("q", "Is it?", "yes", kind="yes_no")]
    ).ids == ["q"]
    assert (
        run_map_step(text_length.step(kinds=[]), [qa_sample("q", "Is it?", "yes", kind="yes_no")])
        .drops[0]
        .reason
        == "too_short"
    )


def test_the_approximation_counts_words_digits_and_characters() -> None:
    assert approximate_token_count("A mass, 12 mm.") == 7
    assert approximate_token_count("左肺结节") == 4
    assert approximate_token_count("adenocarcinoma") == 2


def test_a_custom_tokenizer_is_read_and_part_of_the_key(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    step = text_length.step(min_tokens=3, tokenizer=str(tmp_path))
    assert step.input_files == (str(tmp_path / "tokenizer.json"),)
    assert text_length.step(tokenizer="").input_files == ("tokenizer.json",)
    assert run_map_step(
        step,
        [qa_sample("3", "?", "a b c", kind="caption"), qa_sample("2", "?", "a b", kind="caption")],
    ).ids == ["3"]
    with pytest.raises(InputError, match=r"tokenizer\.json cannot be read"):
        run_map_step(text_length.step(tokenizer=str(tmp_path / "none")), [])


# --- language
# ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Is there a nodule in the left lung?", "en"),
        ("左肺可见结节。", "zh"),
        ("CT 平扫显示 left lung 结节影", "zh"),
        ("胸部X線写真で右下葉に浸潤影を認める。", "other"),
        ("La radiographie montre une opacité du lobe inférieur droit.", "other"),
        ("Das Röntgenbild zeigt eine Verschattung im rechten Unterlappen.", "other"),
        ("Рентгенограмма показывает затемнение.", "other"),
        ("adenocarcinoma", None),
        ("T2 FLAIR", None),
        ("", None),
    ],
)
def test_language_is_detected_or_left_open(text: str, expected: str | None) -> None:
    assert language.detect_language(text) == expected


def test_language_tags_filters_and_keeps_what_was_stated() -> None:
    samples = [
        qa_sample("en", "Is it in the lung?", "yes"),
        qa_sample("zh", "这是肺吗？", "是"),
        qa_sample("short", "T2", "FLAIR", language="en"),
        qa_sample("none", "T2"),
    ]
    assert [s.meta.language for s in run_map_step(language.step(), samples).kept] == [
        "en",
        "zh",
        "en",
        None,
    ]
    result = run_map_step(language.step(keep=["en"], on_uncertain="drop"), samples)
    assert result.reasons == {"zh": "language_zh", "none": "language_unsure"}


# --- licenses
# ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "CC-BY-4.0",
        "CC BY 4.0 International",
        "cc0-1.0",
        "Apache-2.0",
        "MIT License",
        "BSD-3-Clause",
        "ODC-BY-1.0",
    ],
)
def test_permissive_licenses(name: str) -> None:
    assert is_permissive(name)


@pytest.mark.parametrize(
    "name",
    [
        "CC-BY-NC-4.0",
        "CC BY-SA 4.0",
        "CC-BY-ND-4.0",
        "GPL-3.0",
        "MIT AND CC-BY-NC-4.0",
        "research use",
        "unclear",
    ],
)
def test_other_licenses(name: str) -> None:
    assert not is_permissive(name)


def test_license_and_access_are_filtered_apart() -> None:
    samples = [
        qa_sample("free", "q", license="CC-BY-4.0", access="open"),
        qa_sample("nc", "q", license="CC-BY-NC-4.0", access="open"),
        qa_sample("unknown", "q", access="open"),
        qa_sample("gated", "q", license="MIT", access="credentialed", agreement="physionet"),
    ]
    assert run_map_step(licenses.step(), samples).reasons == {
        "nc": "license_not_permissive", "unknown": "license_unknown", "gated": "access_credentialed",
    }  # fmt: skip
    assert run_map_step(licenses.step(license="any", agreements=["physionet"]), samples).drops == []
    assert run_map_step(licenses.step(extra_licenses=["cc by-nc 4.0"]), samples).ids == [
        "free",
        "nc",
    ]


# --- identifiers
# ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Seen by Dr. Jon Example on 03/12/2019.", "Seen by Dr. [NAME] on [DATE]."),
        ("Patient Name: JANE DOE   MRN: 00123456", "Patient Name: [NAME]   MRN: [ID]"),
        ("Signed by: Ada Sample, MD, 12 March 2019", "Signed by: [NAME], MD, [DATE]"),
        ("Accession No. A12345678, call 617-555-0198", "Accession No. [ID], call [PHONE]"),
        ("Mail j.doe@example.org, see https://example.org/a?b=1.", "Mail [EMAIL], see [URL]."),
        (
            "A 94-year-old woman of 45 Oak Street, Boston, MA 02139",
            "A [AGE]-year-old woman of [LOCATION]",
        ),
        ("DOE^JANE^A 1.2.840.113619.2.55.3", "[NAME] [ID]"),
        (
            "姓名：张小明，手机13812345678，2019年3月12日就诊",
            "姓名：[NAME]，手机[PHONE]，[DATE]就诊",
        ),
        ("李建国主任医师，住院号：ZY20190312", "[NAME]主任医师，住院号：[ID]"),
    ],
)
def test_identifiers_become_placeholders(text: str, expected: str) -> None:
    assert scrub(text).text == expected


@pytest.mark.parametrize(
    "text",
    [
        "Give 500 mg twice daily, 0.9% NaCl 1000 ml, 100-200-3000 IU.",
        "Degeneration at T12-L1, L4-5 and C3/4; stage T2N0M0, IIIA; Gleason 3+4=7.",
        "BP 120/80, CD4+ 250, p < 0.001, magnification ×400, 10-20-30 mm.",
        "GenBank accession number NM_001234; HLA-B27; Fig 3.2.1; in 2019; ages 80-90 years.",
        "MR imaging and Doppler; Dr. said so; May be seen in May.",
        "A 65-year-old man. Patient: Okay, thanks. Doctor, What is it?",
        "周围医生、任何医生；肿瘤直径3厘米，89岁男性。",
    ],
)
def test_medical_terms_are_not_identifiers(text: str) -> None:
    assert scrub(text).text == text


def test_scrubbing_counts_by_kind_and_reaches_every_text() -> None:
    sample = qa_sample(
        "a",
        "Who is Dr. Example?",
        "Mr. Person, on 2019-03-12.",
        gold=("Mr. Person",),
        remark="call 617-555-0198",
        study="0123456789abcdef",
    )
    (result,) = run_map_step(scrub_identifiers.step(), [sample]).kept
    assert (
        result.meta.extra["scrubbed"] == "date 1; name 3; phone 1"
        and result.meta.extra["study"] == "0123456789abcdef"
    )
    assert result.gold == ("Mr. [NAME]",) and "Person" not in str(result)
    assert run_map_step(scrub_identifiers.step(max_identifiers=2), [sample]).reasons == {
        "a": "too_many_identifiers"
    }
    plain = qa_sample("b", "Is it the lung?", "yes")
    assert run_map_step(scrub_identifiers.step(), [plain]).kept == [plain]


# --- replies
# -------------------------------------------------------------------------------------------------------

REPLY = (
    "Hi, Welcome to HealthCareMagic. I have gone through your query. You should rest and drink"
    " fluids, e.g. water. The pain may be muscular. Hope this helps. Regards, Dr. Jon Example, MBBS"
)


def test_greetings_signatures_and_contacts_are_removed() -> None:
    (result,) = run_map_step(clean_replies.step(), [qa_sample("a", "My back hurts.", REPLY)]).kept
    assert (
        result.messages[-1].text
        == "You should rest and drink fluids, e.g. water. The pain may be muscular."
    )
    assert "name 1" in result.meta.extra["cleaned"]


def test_chinese_replies_too() -> None:
    reply = (
        "您好，根据描述考虑胃炎，建议做胃镜检查，并规律饮食，避免辛辣刺激。希望以上回答对您有帮助，"
        "祝您早日康复！"
    )
    (result,) = run_map_step(clean_replies.step(), [qa_sample("a", "胃痛", reply)]).kept
    assert (
        result.messages[-1].text == "根据描述考虑胃炎，建议做胃镜检查，并规律饮食，避免辛辣刺激。"
    )


def test_a_reply_of_nothing_else_is_dropped_and_a_clean_one_is_left() -> None:
    clean_text = qa_sample(
        "b",
        "?",
        "Take care of the wound by washing it daily. Wishing wells aside, the dose is 5 mg.",
    )
    result = run_map_step(
        clean_replies.step(),
        [qa_sample("a", "?", "Hello. Hope this helps. Regards, Dr. Jon Example"), clean_text],
    )
    assert result.reasons == {"a": "reply_too_short"} and result.kept == [clean_text]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: text_length.step(min_tokens=5, max_tokens=4),
        lambda: text_length.step(field="question"),
        lambda: language.step(on_uncertain="maybe"),
        lambda: licenses.step(license="free"),
        lambda: licenses.step(access=["secret"]),
        lambda: scrub_identifiers.step(max_identifiers=-1),
        lambda: clean_replies.step(min_words=-1),
    ],
)
def test_parameters_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(ConfigError):
        wrong()


@pytest.mark.parametrize("slice_name", ["pmcoa_captions", "roco_captions_ccby"])
def test_real_captions_lose_next_to_nothing(slice_name: str) -> None:
    rows = Path(__file__).parents[3] / "shared" / "data" / slice_name / "rows.jsonl"
    if not rows.is_file():
        pytest.skip("the data are not here")
    captions = [
        str(row.get("caption") or row.get("report") or "")
        for row in map(json.loads, rows.read_text(encoding="utf-8").splitlines())
    ]
    result = [scrub(caption).counts for caption in captions if caption]
    # ROCO's five are identifiers: a date, initials after "Madame", a link, two people's names.
    assert sum(bool(counts) for counts in result) <= 5


def test_a_keyed_hash_keeps_its_digits() -> None:
    # Eleven digits in a row that begin with 158 would be a mobile number.
    notes = {
        "patient": "15800378151fd065e744",
        "phone": "15800378151",
        "study": "15800378151580037815",
    }
    (result,) = run_map_step(
        scrub_identifiers.step(),
        [Sample("a", (Message("user", ("What?",)),), meta=Meta(extra=notes))],
    ).kept
    assert result.meta.extra["patient"] == "15800378151fd065e744"
    assert result.meta.extra["phone"] == "[PHONE]" and result.meta.extra["study"] == "[ID]"
