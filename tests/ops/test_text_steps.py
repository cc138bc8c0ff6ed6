"""Steps that read words: length, language, licences, identifiers, scraped replies.

All names and numbers are made up.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lingshu.core.errors import ConfigError, InputError
from lingshu.core.nouns import Message, Meta, Sample
from lingshu.ops import clean_replies, language, licences, scrub_identifiers, text_length
from lingshu.ops._identifiers import scrub
from lingshu.ops.licences import is_permissive
from lingshu.ops.text_length import approximate_tokens
from tests.ops.loops import mapped, said

# --- length
# --------------------------------------------------------------------------------------------------------


def test_captions_are_kept_from_the_least_to_the_greatest_length() -> None:
    captions = {
        n: said(str(n), "Describe.", " ".join(["lesion"] * n), kind="caption")
        for n in (9, 10, 1024, 1025)
    }
    found = mapped(text_length.step(), list(captions.values()))
    assert found.ids == ["10", "1024"] and found.reasons == {"9": "too_short", "1025": "too_long"}


def test_other_kinds_may_be_short() -> None:
    assert mapped(text_length.step(), [said("q", "Is it?", "yes", kind="yes_no")]).ids == ["q"]
    assert (
        mapped(text_length.step(kinds=[]), [said("q", "Is it?", "yes", kind="yes_no")])
        .drops[0]
        .reason
        == "too_short"
    )


def test_the_approximation_counts_words_digits_and_characters() -> None:
    assert approximate_tokens("A mass, 12 mm.") == 7
    assert approximate_tokens("左肺结节") == 4
    assert approximate_tokens("adenocarcinoma") == 2


def test_a_tokenizer_of_ones_own_is_read_and_part_of_the_key(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")
    )
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.save(str(tmp_path / "tokenizer.json"))
    step = text_length.step(min_tokens=3, tokenizer=str(tmp_path))
    assert step.reads == (str(tmp_path / "tokenizer.json"),)
    assert mapped(
        step, [said("3", "?", "a b c", kind="caption"), said("2", "?", "a b", kind="caption")]
    ).ids == ["3"]
    with pytest.raises(InputError, match=r"tokenizer\.json cannot be read"):
        mapped(text_length.step(tokenizer=str(tmp_path / "none")), [])


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
def test_language_is_told_or_not_guessed(text: str, expected: str | None) -> None:
    assert language.language_of(text) == expected


def test_language_tags_filters_and_keeps_what_was_stated() -> None:
    samples = [
        said("en", "Is it in the lung?", "yes"),
        said("zh", "这是肺吗？", "是"),
        said("short", "T2", "FLAIR", language="en"),
        said("none", "T2"),
    ]
    assert [s.meta.language for s in mapped(language.step(), samples).kept] == [
        "en",
        "zh",
        "en",
        None,
    ]
    found = mapped(language.step(keep=["en"], unsure="drop"), samples)
    assert found.reasons == {"zh": "language_zh", "none": "language_unsure"}


# --- licences
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
def test_permissive_licences(name: str) -> None:
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
def test_other_licences(name: str) -> None:
    assert not is_permissive(name)


def test_licence_and_access_are_filtered_apart() -> None:
    samples = [
        said("free", "q", licence="CC-BY-4.0", access="open"),
        said("nc", "q", licence="CC-BY-NC-4.0", access="open"),
        said("unknown", "q", access="open"),
        said("gated", "q", licence="MIT", access="credentialed", agreement="physionet"),
    ]
    assert mapped(licences.step(), samples).reasons == {
        "nc": "licence_not_permissive", "unknown": "licence_unknown", "gated": "access_credentialed",
    }  # fmt: skip
    assert mapped(licences.step(licence="any", agreements=["physionet"]), samples).drops == []
    assert mapped(licences.step(also=["cc by-nc 4.0"]), samples).ids == ["free", "nc"]


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
            "A [AGE]-year-old woman of [ADDRESS]",
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
    assert scrub(text)[0] == expected


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
def test_medicine_is_no_identifier(text: str) -> None:
    assert scrub(text)[0] == text


def test_scrubbing_counts_by_kind_and_reaches_every_text() -> None:
    sample = said(
        "a",
        "Who is Dr. Example?",
        "Mr. Person, on 2019-03-12.",
        gold=("Mr. Person",),
        remark="call 617-555-0198",
        study="0123456789abcdef",
    )
    (found,) = mapped(scrub_identifiers.step(), [sample]).kept
    assert (
        found.meta.extra["scrubbed"] == "date 1, name 3, phone 1"
        and found.meta.extra["study"] == "0123456789abcdef"
    )
    assert found.gold == ("Mr. [NAME]",) and "Person" not in str(found)
    assert mapped(scrub_identifiers.step(max_found=2), [sample]).reasons == {
        "a": "too_many_identifiers"
    }
    plain = said("b", "Is it the lung?", "yes")
    assert mapped(scrub_identifiers.step(), [plain]).kept == [plain]


# --- replies
# -------------------------------------------------------------------------------------------------------

REPLY = (
    "Hi, Welcome to HealthCareMagic. I have gone through your query. You should rest and drink"
    " fluids, e.g. water. The pain may be muscular. Hope this helps. Regards, Dr. Jon Example, MBBS"
)


def test_greetings_signatures_and_contacts_go() -> None:
    (found,) = mapped(clean_replies.step(), [said("a", "My back hurts.", REPLY)]).kept
    assert (
        found.messages[-1].text
        == "You should rest and drink fluids, e.g. water. The pain may be muscular."
    )
    assert "name 1" in found.meta.extra["cleaned"]


def test_chinese_replies_too() -> None:
    reply = (
        "您好，根据描述考虑胃炎，建议做胃镜检查，并规律饮食，避免辛辣刺激。希望以上回答对您有帮助，"
        "祝您早日康复！"
    )
    (found,) = mapped(clean_replies.step(), [said("a", "胃痛", reply)]).kept
    assert found.messages[-1].text == "根据描述考虑胃炎，建议做胃镜检查，并规律饮食，避免辛辣刺激。"


def test_a_reply_of_nothing_else_is_dropped_and_a_clean_one_is_left() -> None:
    clean = said(
        "b",
        "?",
        "Take care of the wound by washing it daily. Wishing wells aside, the dose is 5 mg.",
    )
    found = mapped(
        clean_replies.step(),
        [said("a", "?", "Hello. Hope this helps. Regards, Dr. Jon Example"), clean],
    )
    assert found.reasons == {"a": "reply_too_short"} and found.kept == [clean]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: text_length.step(min_tokens=5, max_tokens=4),
        lambda: text_length.step(of="question"),
        lambda: language.step(unsure="maybe"),
        lambda: licences.step(licence="free"),
        lambda: licences.step(access=["secret"]),
        lambda: scrub_identifiers.step(max_found=-1),
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
    found = [scrub(caption)[1] for caption in captions if caption]
    assert sum(bool(counts) for counts in found) <= 0.005 * len(found)


def test_a_keyed_hash_keeps_its_digits() -> None:
    # Eleven digits in a row that begin with 158 would be a mobile number.
    notes = {
        "patient": "15800378151fd065e744",
        "phone": "15800378151",
        "study": "15800378151580037815",
    }
    (found,) = mapped(
        scrub_identifiers.step(),
        [Sample("a", (Message("user", ("What?",)),), meta=Meta(extra=notes))],
    ).kept
    assert found.meta.extra["patient"] == "15800378151fd065e744"
    assert found.meta.extra["phone"] == "[PHONE]" and found.meta.extra["scrubbed"] == "phone 1"
