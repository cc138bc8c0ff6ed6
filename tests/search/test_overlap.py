"""Overlap of training and test items: planted cases of every kind, and the known overlaps of real
data.
"""

import json
import pickle
import random
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from lingshu.core.types import Message, Meta, Sample
from lingshu.search.benchmark_items import benchmark_items, split_choices
from lingshu.search.buckets import Overflow
from lingshu.search.image_hash import ImageSignature
from lingshu.search.overlap import BenchmarkItem, OverlapIndex, find_overlaps

LONG = (
    "A 47-year-old man comes to the clinic with swelling of both legs, a distended abdomen and"
    " raised neck veins after years of untreated pericarditis; which of the following mechanisms"
    " best explains his findings on examination today?"
)


def prose(n_words: int, seed: int) -> str:
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(5000)}" for _ in range(n_words))


def overlap_kinds(
    train: BenchmarkItem, test_item: BenchmarkItem | list[BenchmarkItem]
) -> list[tuple[str, str]]:
    index = OverlapIndex.build(test_item if isinstance(test_item, list) else [test_item])
    return [(overlap.test_id, overlap.kind) for overlap in index.find(train)]


def image(seed: int, *, file: int | None = None, n_flipped: int = 0) -> ImageSignature:
    bits = np.unpackbits(np.random.default_rng(seed).integers(0, 256, 32, dtype=np.uint8))
    bits[:n_flipped] ^= 1
    return ImageSignature(
        bytes([seed if file is None else file]) * 16,
        bytes([seed, n_flipped]) * 8,
        np.packbits(bits).tobytes(),
    )


def test_exact_text_whatever_its_spelling():
    assert overlap_kinds(
        BenchmarkItem("a", LONG.upper().replace(",", " ")), BenchmarkItem("t", LONG)
    ) == [("t", "exact_text")]
    assert overlap_kinds(BenchmarkItem("a", prose(30, 0)), BenchmarkItem("t", LONG)) == []


def test_a_short_question_needs_the_same_choices():
    test_item = BenchmarkItem(
        "t",
        "The auditory tube",
        choices=("is short", "joins ear and nose", "is straight", "is closed"),
    )
    same_choices = ("Is closed.", "joins ear and nose", "is short", "is open", "is straight")
    assert overlap_kinds(
        BenchmarkItem("a", "The auditory tube:", choices=same_choices), test_item
    ) == [("t", "exact_text")]
    assert overlap_kinds(
        BenchmarkItem("a", "The auditory tube:", choices=("w", "x", "y", "z")), test_item
    ) == [("t", "boilerplate")]
    assert overlap_kinds(BenchmarkItem("a", "The auditory tube:"), test_item) == [
        ("t", "boilerplate")
    ]


def test_a_short_question_with_its_answer_is_an_item():
    answer = "People who smoke or use smokeless tobacco have a raised risk of it."
    test_item = BenchmarkItem("t", "What causes it?", answer)
    assert overlap_kinds(BenchmarkItem("a", "what causes it", answer.lower()), test_item) == [
        ("t", "exact_text")
    ]
    assert overlap_kinds(
        BenchmarkItem(
            "a", "what causes it", "Something that nobody has written about before, in other words."
        ),
        test_item,
    ) == [("t", "boilerplate")]


def test_a_question_inside_a_longer_text():
    containing = BenchmarkItem(
        "a", answer=f"{prose(80, 1)} {LONG} {prose(80, 2)}", question="Explain."
    )
    assert overlap_kinds(containing, BenchmarkItem("t", LONG)) == [("t", "ngram13")]
    middle = "what is the most likely cause of recurrent painless jaundice in elderly smokers"
    assert overlap_kinds(
        BenchmarkItem("a", f"{prose(40, 3)} {middle[5:]} {prose(40, 4)}"),
        BenchmarkItem("t", middle),
    ) == [("t", "ngram8")]


def test_a_reworded_text_is_found_by_its_shingles():
    words = prose(48, 5).split()
    # Every 13-word window is broken, three quarters of the 5-word shingles are whole.
    changed = [f"x{index}" if index % 13 == 12 else word for index, word in enumerate(words)]
    assert (
        overlap_kinds(BenchmarkItem("a", " ".join(changed)), BenchmarkItem("t", " ".join(words)))
        == []
    )
    truncated = BenchmarkItem("a", " ".join(words[:47]))
    assert overlap_kinds(truncated, BenchmarkItem("t", " ".join(words))) == [("t", "ngram13")]
    short = "does the film show a small nodule near the left upper hilum of this patient"
    assert overlap_kinds(
        BenchmarkItem("a", short + " now"), BenchmarkItem("t", "today " + short)
    ) == [("t", "ngram13")]
    twelve_words = "does this radiograph show a small nodule near the left upper hilum"
    assert overlap_kinds(
        BenchmarkItem("a", twelve_words), BenchmarkItem("t", twelve_words + " today")
    ) == [("t", "minhash")]


def test_a_few_shared_windows_are_boilerplate():
    boilerplate = (
        "his temperature is 37 c pulse is 80 min respirations are 12 min and blood pressure is 120"
        " 80 mm hg"
    )
    short = " ".join(boilerplate.split()[:15])
    first, second = (
        BenchmarkItem(name, f"{prose(60, seed)} {short} {prose(60, seed + 1)}")
        for name, seed in (("a", 10), ("t", 20))
    )
    [result] = OverlapIndex.build([second]).find(first)
    assert (result.kind, result.evidence) == (
        "boilerplate",
        "3 shared 13-word windows, 0 of them frequent in the test set",
    )


def test_what_many_test_items_share_is_boilerplate():
    preamble = prose(40, 6)
    tests = [
        BenchmarkItem(f"t{index}", f"{preamble} {prose(30, 100 + index)}") for index in range(12)
    ]
    result = OverlapIndex.build(tests).find(BenchmarkItem("a", f"{preamble} {prose(30, 7)}"))
    assert Counter(overlap.kind for overlap in result) == {"boilerplate": 12}
    # The item's own words tell it all the same.
    result = OverlapIndex.build(tests).find(BenchmarkItem("a", tests[3].question))
    assert {overlap.kind for overlap in result if overlap.test_id == "t3"} == {"exact_text"}
    report = (
        "the heart is normal in size and the lungs are clear without effusion or pneumothorax today"
    )
    result = OverlapIndex.build([BenchmarkItem(f"t{index}", report) for index in range(12)]).find(
        BenchmarkItem("a", report)
    )
    assert {overlap.kind for overlap in result} == {"boilerplate"} and "12 test items" in result[
        0
    ].evidence


def test_a_common_question_does_not_hide_a_shared_answer():
    tests = [
        BenchmarkItem(f"t{index}", "Describe the findings.", prose(40, 400 + index))
        for index in range(12)
    ]
    result = OverlapIndex.build(tests).find(
        BenchmarkItem("a", "Describe the findings.", f"{tests[0].answer} again")
    )
    assert {
        (overlap.test_id, overlap.kind) for overlap in result if overlap.kind != "boilerplate"
    } == {("t0", "ngram13")}


def test_what_many_training_items_share_is_boilerplate_unless_it_covers_a_test_item():
    sentence = prose(30, 8)
    train = [
        BenchmarkItem(f"a{index}", f"{sentence} {prose(30, 200 + index)}") for index in range(12)
    ]
    quoted = OverlapIndex.build([BenchmarkItem("t", f"{sentence} {prose(60, 9)}")])
    assert {overlap.kind for overlap in find_overlaps(train, quoted).overlaps} == {"boilerplate"}
    assert {overlap.kind for overlap in quoted.find_all(train).overlaps} == {"ngram13"}
    leaked = OverlapIndex.build([BenchmarkItem("t", sentence)])
    assert Counter(overlap.kind for overlap in find_overlaps(train, leaked).overlaps) == {
        "ngram13": 12
    }


def test_images():
    test_item = BenchmarkItem("t", "Is there a fracture?", images=(image(1), image(2)))
    assert overlap_kinds(BenchmarkItem("a", "Where?", images=(image(1),)), test_item) == [
        ("t", "image_exact")
    ]
    assert overlap_kinds(BenchmarkItem("a", "Where?", images=(image(1, file=77),)), test_item) == [
        ("t", "image_exact")
    ]
    assert overlap_kinds(
        BenchmarkItem("a", "Where?", images=(image(2, file=78, n_flipped=8),)), test_item
    ) == [("t", "image_near")]
    assert (
        overlap_kinds(
            BenchmarkItem("a", "Where?", images=(image(2, file=78, n_flipped=9),)), test_item
        )
        == []
    )
    assert overlap_kinds(
        BenchmarkItem("a", "is there a fracture", images=(image(1),)), test_item
    ) == [
        ("t", "image_exact"),
        ("t", "image_question"),
    ]
    # The same question about another image is not a leak.
    assert overlap_kinds(
        BenchmarkItem("a", "is there a fracture", images=(image(5),)), test_item
    ) == [("t", "boilerplate")]
    assert overlap_kinds(
        BenchmarkItem("a", "Is there a fracture?", images=(image(5),), choices=("yes", "no")),
        test_item,
    ) == [("t", "boilerplate")]


def test_studies():
    assert overlap_kinds(
        BenchmarkItem("a", "Describe it.", studies=("s1", "p1")),
        BenchmarkItem("t", "Findings?", studies=("p1",)),
    ) == [("t", "study")]


def test_boilerplate_beyond_the_limit_is_counted():
    tests = [
        BenchmarkItem(f"t{index}", "Is it so?", images=(image(index),)) for index in range(100)
    ]
    result = OverlapIndex.build(tests).find_all([BenchmarkItem("a", "Is it so?")])
    assert len(result.overlaps) == 2 and result.n_omitted == 98 and result.overflow == Overflow()
    phrase = prose(15, 30)
    tests = [
        BenchmarkItem(f"t{index}", f"{prose(30, 300 + index)} {phrase}") for index in range(100)
    ]
    result = OverlapIndex.build(tests).find_all([BenchmarkItem("a", f"{phrase} {prose(30, 31)}")])
    assert len(result.overlaps) == 64 and result.n_omitted == 36
    some = OverlapIndex.build(tests).find_all(
        [BenchmarkItem("a", f"{phrase} {prose(30, 31)} {tests[90].question}")]
    )
    assert [overlap.test_id for overlap in some.overlaps if overlap.kind == "ngram13"] == ["t90"]


def test_an_index_pickles_and_counts_add_up():
    tests = [BenchmarkItem("t", LONG, images=(image(1),), studies=("s",))]
    index = pickle.loads(pickle.dumps(OverlapIndex.build(tests)))
    train = [BenchmarkItem("a", LONG), BenchmarkItem("b", prose(20, 0))]
    frequencies = index.frequencies(train[:1]) + index.frequencies(train[1:])
    assert frequencies.n_items == 2 and int(frequencies.counts.sum()) == len(index.ngrams13.hashes)
    assert [
        overlap.train_id
        for overlap in index.with_frequent_ngrams(frequencies).find_all(train).overlaps
    ] == ["a"]


def test_nothing_to_compare():
    assert (
        OverlapIndex.build([]).find(BenchmarkItem("a", LONG, images=(image(1),), studies=("s",)))
        == []
    )
    assert OverlapIndex.build([BenchmarkItem("t", LONG)]).find_all([]).overlaps == []
    assert (
        OverlapIndex.build([BenchmarkItem("t"), BenchmarkItem("u", images=(image(1),))]).find(
            BenchmarkItem("a", "...")
        )
        == []
    )


def test_chinese_is_compared_by_characters():
    text = (
        "患者男性四十七岁，双下肢水肿伴腹胀三个月，颈静脉怒张，既往有心包炎病史，"
        "下列哪项最可能是其发病机制？"
    )
    assert overlap_kinds(BenchmarkItem("a", f"请回答：{text}"), BenchmarkItem("t", text)) == [
        ("t", "ngram13")
    ]


def test_a_short_text_is_boilerplate_next_to_other_overlaps():
    result = OverlapIndex.build(
        [BenchmarkItem("t", LONG, studies=("s",)), BenchmarkItem("u", "Why?")]
    ).find(BenchmarkItem("a", LONG, studies=("s",)))
    result += OverlapIndex.build([BenchmarkItem("u", "Why?")]).find(BenchmarkItem("a", "Why?"))
    assert sorted((found.test_id, found.kind) for found in result) == [
        ("t", "exact_text"),
        ("t", "study"),
        ("u", "boilerplate"),
    ]


def test_choices_are_split_off():
    choices = ("vitamin A", "vitamin B")
    for text in ("Lack of vitamin A. Which?\nA. vitamin A\nB. vitamin B", "Lack of vitamin A. Which? (A) vitamin A (B) vitamin B",
                 "Lack of vitamin A. Which?\nAnswer Choices: (A) vitamin A (B) vitamin B"):  # fmt: skip
        assert split_choices(text) == ("Lack of vitamin A. Which?", choices)
    assert split_choices("What is vitamin A. Really?") == ("What is vitamin A. Really?", ())


def test_a_dialogue_is_one_item_for_each_turn():
    turns = (
        Message("user", (0, "Where?")),
        Message("assistant", ("Left.",)),
        Message("user", ("How large?",)),
    )
    sample = Sample("x", turns, gold=("3 cm",), meta=Meta(group="p", extra={"study": "s"}))
    result = list(benchmark_items(sample, [image(1)]))
    assert [(overlap.question, overlap.answer.strip()) for overlap in result] == [
        ("Where?", "Left."),
        ("How large?", "3 cm"),
    ]
    assert result[0].studies == ("p", "s") and result[1].images == (image(1),)


# --- the known overlaps of shared data
# ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared_data() -> Path:
    folder = Path(__file__).parents[3] / "shared" / "data"
    if not (folder / "overlap_truth").is_dir():
        pytest.skip("the folder ../shared/data/overlap_truth is not there")
    return folder


def slice_name(name: str, row: dict) -> str:
    return next((f"{name}:{row[key]}" for key in ("dataset", "set") if key in row), name)


def real_item(row: dict, *, with_choices: bool) -> BenchmarkItem:
    if "OSCE_Examination" in row:
        return BenchmarkItem(str(row["id"]), json.dumps(row["OSCE_Examination"]))
    if "output" in row:
        return BenchmarkItem(str(row["id"]), row.get("input") or row["instruction"], row["output"])
    stem, choices = split_choices(
        row.get("question_stem") or row.get("question") or row.get("text", "")
    )
    given = row.get("options") or split_choices(row.get("question", ""))[1]
    given = (
        list(given.values())
        if isinstance(given, dict)
        else [o["content"] if isinstance(o, dict) else o for o in given]
    )
    return BenchmarkItem(
        str(row["id"]), stem, choices=tuple(given or choices) if with_choices else ()
    )


TEXT_KINDS = ("exact_text", "near_text_13gram_ge8", "shared_13gram_few", "exact_short_stem_only")


@pytest.fixture(scope="module")
def real(shared_data: Path) -> dict[bool, dict[str, Counter[str]]]:
    """With choices and without: kind in the key -> how many of its pairs came out as which kind."""
    truth = [
        row
        for row in map(json.loads, (shared_data / "overlap_truth/rows.jsonl").open())
        if row["kind"] in TEXT_KINDS
    ]
    rows = defaultdict(list)
    for name in {row[side].split(":")[0] for row in truth for side in ("a_slice", "b_slice")}:
        for row in map(json.loads, (shared_data / name / "rows.jsonl").open()):
            rows[slice_name(name, row)].append(row)
    counts: dict[bool, dict[str, Counter[str]]] = {
        True: defaultdict(Counter),
        False: defaultdict(Counter),
    }
    for with_choices in (True, False):
        expected = [row for row in truth if with_choices or row["kind"] == "exact_short_stem_only"]
        for first, second in sorted({(row["a_slice"], row["b_slice"]) for row in expected}):
            index = OverlapIndex.build(
                [real_item(row, with_choices=with_choices) for row in rows[second]]
            )
            result = find_overlaps(
                [real_item(row, with_choices=with_choices) for row in rows[first]], index
            ).overlaps
            kind = {(overlap.train_id, overlap.test_id): overlap.kind for overlap in result}
            for row in expected:
                if (row["a_slice"], row["b_slice"]) == (first, second):
                    counts[with_choices][row["kind"]][
                        kind.get((row["a_id"], row["b_id"]), "not found")
                    ] += 1
    return counts


@pytest.mark.not_fast
def test_known_texts_are_found(real):
    exact, near = real[True]["exact_text"], real[True]["near_text_13gram_ge8"]
    assert exact["exact_text"] >= 0.98 * exact.total() > 400
    # The key calls a pair near where only its questions are the same and the answers nearly so.
    assert near["ngram13"] + near["exact_text"] >= 0.98 * near.total() > 180


@pytest.mark.not_fast
def test_known_boilerplate_is_boilerplate(real):
    few = real[True]["shared_13gram_few"]
    assert few["boilerplate"] == few.total() > 80
    # The key compared stems alone. By their stems alone these pairs are boilerplate; with their
    # choices, which agree in every pair and in 33 of 85 have the same order, they are the same
    # items.
    stems, choices = real[False]["exact_short_stem_only"], real[True]["exact_short_stem_only"]
    assert stems["boilerplate"] == stems.total() == choices["exact_text"] == 85


def test_known_images_are_found(shared_data):
    from lingshu.core.types import Image
    from lingshu.imaging.read import decode, image_bytes
    from lingshu.search.image_hash import signature_from_image

    truth = [
        row
        for row in map(json.loads, (shared_data / "overlap_truth/rows.jsonl").open())
        if row["a_slice"] == "vqa_rad"
    ]
    folder, signatures = shared_data / "vqa_rad", {}
    sides: dict[str, list[BenchmarkItem]] = {"train": [], "test": []}
    names = {}
    for row in map(json.loads, (folder / "rows.jsonl").open()):
        if row["image"] not in signatures:
            data = image_bytes(Image(path=str(folder / row["image"])))
            signatures[row["image"]] = signature_from_image(data, decode(data, name=row["image"]))
        names[row["id"]] = f"train:{row['image_name']}"
        sides[row["split"]].append(
            BenchmarkItem(row["id"], row["question"], images=(signatures[row["image"]],))
        )
    result = find_overlaps(sides["train"], OverlapIndex.build(sides["test"])).overlaps
    same_choices = {
        (overlap.test_id, names[overlap.train_id])
        for overlap in result
        if overlap.kind == "image_exact"
    }
    expected = {
        (row["a_id"], row["b_id"]) for row in truth if row["kind"] == "same_image_train_test"
    }
    assert len(same_choices & expected) >= 0.98 * len(expected) and len(expected) > 270
    questions = {
        (overlap.test_id, overlap.train_id)
        for overlap in result
        if overlap.kind == "image_question"
    }
    assert {
        (row["a_id"], row["b_id"])
        for row in truth
        if row["kind"] == "same_image_and_question_train_test"
    } <= {pair for first, second in questions for pair in ((first, second), (second, first))}


def test_known_studies_are_found(shared_data):
    truth = [
        row
        for row in map(json.loads, (shared_data / "overlap_truth/rows.jsonl").open())
        if row["kind"].startswith("same_study")
    ]

    def study(name: str) -> str:
        return re.match(r"(?:CXR|open_i_)?(\d+)", name)[1]  # type: ignore[index]

    def read(name: str, field: str) -> list[BenchmarkItem]:
        rows = map(json.loads, (shared_data / name / "rows.jsonl").open())
        return [
            BenchmarkItem(row["id"], row.get(field) or "", studies=(study(row["id"]),))
            for row in rows
        ]

    index = OverlapIndex.build(read("iuxray_reports", "report"))
    train = read("iuxray_corpus_captions", "text") + read("medevalkit_iuxray_testlist", "findings")
    result = {
        (overlap.train_id, overlap.test_id)
        for overlap in find_overlaps(train, index).overlaps
        if overlap.kind == "study"
    }
    expected = {(row["a_id"], row["b_id"]) for row in truth}
    assert len(result & expected) >= 0.98 * len(expected) and len(expected) > 700
