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

from lingshu.core.nouns import Message, Meta, Sample
from lingshu.ops._buckets import Over
from lingshu.ops._image_signature import Signature
from lingshu.ops._items import items, split_choices
from lingshu.ops._overlap import Index, Item, contaminated, overlaps

LONG = (
    "A 47-year-old man comes to the clinic with swelling of both legs, a distended abdomen and"
    " raised neck veins after years of untreated pericarditis; which of the following mechanisms"
    " best explains his findings on examination today?"
)


def prose(count: int, seed: int) -> str:
    pick = random.Random(seed)
    return " ".join(f"w{pick.randrange(5000)}" for _ in range(count))


def kinds(train: Item, test: Item | list[Item]) -> list[tuple[str, str]]:
    index = Index.build(test if isinstance(test, list) else [test])
    return [(each.test_id, each.kind) for each in index.find(train)]


def image(number: int, *, file: int | None = None, turned: int = 0) -> Signature:
    bits = np.unpackbits(np.random.default_rng(number).integers(0, 256, 32, dtype=np.uint8))
    bits[:turned] ^= 1
    return Signature(
        bytes([number if file is None else file]) * 16,
        bytes([number, turned]) * 8,
        np.packbits(bits).tobytes(),
    )


def test_exact_text_whatever_its_spelling():
    assert kinds(Item("a", LONG.upper().replace(",", " ")), Item("t", LONG)) == [
        ("t", "exact_text")
    ]
    assert kinds(Item("a", prose(30, 0)), Item("t", LONG)) == []


def test_a_short_question_needs_the_same_choices():
    test = Item(
        "t",
        "The auditory tube",
        choices=("is short", "joins ear and nose", "is straight", "is closed"),
    )
    same = ("Is closed.", "joins ear and nose", "is short", "is open", "is straight")
    assert kinds(Item("a", "The auditory tube:", choices=same), test) == [("t", "exact_text")]
    assert kinds(Item("a", "The auditory tube:", choices=("w", "x", "y", "z")), test) == [
        ("t", "boilerplate")
    ]
    assert kinds(Item("a", "The auditory tube:"), test) == [("t", "boilerplate")]


def test_a_short_question_with_its_answer_is_an_item():
    answer = "People who smoke or use smokeless tobacco have a raised risk of it."
    test = Item("t", "What causes it?", answer)
    assert kinds(Item("a", "what causes it", answer.lower()), test) == [("t", "exact_text")]
    assert kinds(
        Item(
            "a", "what causes it", "Something that nobody has written about before, in other words."
        ),
        test,
    ) == [("t", "boilerplate")]


def test_a_question_inside_a_longer_text():
    inside = Item("a", answer=f"{prose(80, 1)} {LONG} {prose(80, 2)}", question="Explain.")
    assert kinds(inside, Item("t", LONG)) == [("t", "ngram13")]
    middle = "what is the most likely cause of recurrent painless jaundice in elderly smokers"
    assert kinds(Item("a", f"{prose(40, 3)} {middle[5:]} {prose(40, 4)}"), Item("t", middle)) == [
        ("t", "ngram8")
    ]


def test_a_reworded_text_is_found_by_its_shingles():
    words = prose(48, 5).split()
    # Every 13-word window is broken, three quarters of the 5-word shingles are whole.
    changed = [f"x{place}" if place % 13 == 12 else word for place, word in enumerate(words)]
    assert kinds(Item("a", " ".join(changed)), Item("t", " ".join(words))) == []
    twice = Item("a", " ".join(words[:47]))
    assert kinds(twice, Item("t", " ".join(words))) == [("t", "ngram13")]
    short = "does the film show a small nodule near the left upper hilum of this patient"
    assert kinds(Item("a", short + " now"), Item("t", "today " + short)) == [("t", "ngram13")]
    twelve = "does this radiograph show a small nodule near the left upper hilum"
    assert kinds(Item("a", twelve), Item("t", twelve + " today")) == [("t", "minhash")]


def test_a_few_shared_windows_are_boilerplate():
    vitals = (
        "his temperature is 37 c pulse is 80 min respirations are 12 min and blood pressure is 120"
        " 80 mm hg"
    )
    short = " ".join(vitals.split()[:15])
    one, other = (
        Item(name, f"{prose(60, seed)} {short} {prose(60, seed + 1)}")
        for name, seed in (("a", 10), ("t", 20))
    )
    [found] = Index.build([other]).find(one)
    assert (found.kind, found.evidence) == (
        "boilerplate",
        "3 shared 13-word windows, 0 of them frequent in the test set",
    )


def test_what_many_test_items_share_is_boilerplate():
    preamble = prose(40, 6)
    tests = [Item(f"t{number}", f"{preamble} {prose(30, 100 + number)}") for number in range(12)]
    found = Index.build(tests).find(Item("a", f"{preamble} {prose(30, 7)}"))
    assert Counter(each.kind for each in found) == {"boilerplate": 12}
    # The item's own words tell it all the same.
    found = Index.build(tests).find(Item("a", tests[3].question))
    assert {each.kind for each in found if each.test_id == "t3"} == {"exact_text"}
    report = (
        "the heart is normal in size and the lungs are clear without effusion or pneumothorax today"
    )
    found = Index.build([Item(f"t{number}", report) for number in range(12)]).find(
        Item("a", report)
    )
    assert {each.kind for each in found} == {"boilerplate"} and "12 test items" in found[0].evidence


def test_a_question_that_many_ask_does_not_hide_a_shared_answer():
    tests = [
        Item(f"t{number}", "Describe the findings.", prose(40, 400 + number))
        for number in range(12)
    ]
    found = Index.build(tests).find(Item("a", "Describe the findings.", f"{tests[0].answer} again"))
    assert {(each.test_id, each.kind) for each in found if each.kind != "boilerplate"} == {
        ("t0", "ngram13")
    }


def test_what_many_training_items_share_is_boilerplate_unless_it_covers_a_test_item():
    sentence = prose(30, 8)
    train = [Item(f"a{number}", f"{sentence} {prose(30, 200 + number)}") for number in range(12)]
    quoted = Index.build([Item("t", f"{sentence} {prose(60, 9)}")])
    assert {each.kind for each in overlaps(train, quoted).overlaps} == {"boilerplate"}
    assert {each.kind for each in quoted.find_all(train).overlaps} == {"ngram13"}
    leaked = Index.build([Item("t", sentence)])
    assert Counter(each.kind for each in overlaps(train, leaked).overlaps) == {"ngram13": 12}


def test_images():
    test = Item("t", "Is there a fracture?", images=(image(1), image(2)))
    assert kinds(Item("a", "Where?", images=(image(1),)), test) == [("t", "image_exact")]
    assert kinds(Item("a", "Where?", images=(image(1, file=77),)), test) == [("t", "image_exact")]
    assert kinds(Item("a", "Where?", images=(image(2, file=78, turned=8),)), test) == [
        ("t", "image_near")
    ]
    assert kinds(Item("a", "Where?", images=(image(2, file=78, turned=9),)), test) == []
    assert kinds(Item("a", "is there a fracture", images=(image(1),)), test) == [
        ("t", "image_exact"),
        ("t", "image_question"),
    ]
    # The same question about another picture is no leak.
    assert kinds(Item("a", "is there a fracture", images=(image(5),)), test) == [
        ("t", "boilerplate")
    ]
    assert kinds(
        Item("a", "Is there a fracture?", images=(image(5),), choices=("yes", "no")), test
    ) == [("t", "boilerplate")]


def test_studies():
    assert kinds(
        Item("a", "Describe it.", studies=("s1", "p1")), Item("t", "Findings?", studies=("p1",))
    ) == [("t", "study")]


def test_boilerplate_beyond_the_limit_is_counted():
    tests = [Item(f"t{number}", "Is it so?", images=(image(number),)) for number in range(100)]
    found = Index.build(tests).find_all([Item("a", "Is it so?")])
    assert len(found.overlaps) == 2 and found.unlisted == 98 and found.over == Over()
    phrase = prose(15, 30)
    tests = [Item(f"t{number}", f"{prose(30, 300 + number)} {phrase}") for number in range(100)]
    found = Index.build(tests).find_all([Item("a", f"{phrase} {prose(30, 31)}")])
    assert len(found.overlaps) == 64 and found.unlisted == 36
    some = Index.build(tests).find_all(
        [Item("a", f"{phrase} {prose(30, 31)} {tests[90].question}")]
    )
    assert [each.test_id for each in some.overlaps if each.kind == "ngram13"] == ["t90"]


def test_an_index_pickles_and_counts_add_up():
    tests = [Item("t", LONG, images=(image(1),), studies=("s",))]
    index = pickle.loads(pickle.dumps(Index.build(tests)))
    train = [Item("a", LONG), Item("b", prose(20, 0))]
    seen = index.frequencies(train[:1]) + index.frequencies(train[1:])
    assert seen.items == 2 and int(seen.counts.sum()) == len(index.thirteen.hashes)
    assert [each.train_id for each in index.noting(seen).find_all(train).overlaps] == ["a"]


def test_nothing_to_compare():
    assert Index.build([]).find(Item("a", LONG, images=(image(1),), studies=("s",))) == []
    assert Index.build([Item("t", LONG)]).find_all([]).overlaps == []
    assert Index.build([Item("t"), Item("u", images=(image(1),))]).find(Item("a", "...")) == []


def test_chinese_is_compared_by_characters():
    text = (
        "患者男性四十七岁，双下肢水肿伴腹胀三个月，颈静脉怒张，既往有心包炎病史，"
        "下列哪项最可能是其发病机制？"
    )
    assert kinds(Item("a", f"请回答：{text}"), Item("t", text)) == [("t", "ngram13")]


def test_contaminated_leaves_boilerplate_out():
    found = Index.build([Item("t", LONG, studies=("s",)), Item("u", "Why?")]).find(
        Item("a", LONG, studies=("s",))
    )
    found += Index.build([Item("u", "Why?")]).find(Item("a", "Why?"))
    assert contaminated(found) == {"t": {"exact_text": 1, "study": 1}}


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
    found = list(items(sample, [image(1)]))
    assert [(each.question, each.answer.strip()) for each in found] == [
        ("Where?", "Left."),
        ("How large?", "3 cm"),
    ]
    assert found[0].studies == ("p", "s") and found[1].images == (image(1),)


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


def real_item(row: dict, *, with_choices: bool) -> Item:
    if "OSCE_Examination" in row:
        return Item(str(row["id"]), json.dumps(row["OSCE_Examination"]))
    if "output" in row:
        return Item(str(row["id"]), row.get("input") or row["instruction"], row["output"])
    stem, choices = split_choices(
        row.get("question_stem") or row.get("question") or row.get("text", "")
    )
    given = row.get("options") or split_choices(row.get("question", ""))[1]
    given = (
        list(given.values())
        if isinstance(given, dict)
        else [o["content"] if isinstance(o, dict) else o for o in given]
    )
    return Item(str(row["id"]), stem, choices=tuple(given or choices) if with_choices else ())


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
    told: dict[bool, dict[str, Counter[str]]] = {
        True: defaultdict(Counter),
        False: defaultdict(Counter),
    }
    for with_choices in (True, False):
        wanted = [row for row in truth if with_choices or row["kind"] == "exact_short_stem_only"]
        for one, other in sorted({(row["a_slice"], row["b_slice"]) for row in wanted}):
            index = Index.build([real_item(row, with_choices=with_choices) for row in rows[other]])
            found = overlaps(
                [real_item(row, with_choices=with_choices) for row in rows[one]], index
            ).overlaps
            kind = {(each.train_id, each.test_id): each.kind for each in found}
            for row in wanted:
                if (row["a_slice"], row["b_slice"]) == (one, other):
                    told[with_choices][row["kind"]][
                        kind.get((row["a_id"], row["b_id"]), "not found")
                    ] += 1
    return told


def test_known_texts_are_found(real):
    exact, near = real[True]["exact_text"], real[True]["near_text_13gram_ge8"]
    assert exact["exact_text"] >= 0.98 * exact.total() > 400
    # The key calls a pair near where only its questions are the same and the answers nearly so.
    assert near["ngram13"] + near["exact_text"] >= 0.98 * near.total() > 180


def test_known_boilerplate_is_boilerplate(real):
    few = real[True]["shared_13gram_few"]
    assert few["boilerplate"] == few.total() > 80
    # The key compared stems alone. By their stems alone these pairs are boilerplate; with their
    # choices, which agree in every pair and in 33 of 85 stand in the same order, they are the same
    # items.
    stems, choices = real[False]["exact_short_stem_only"], real[True]["exact_short_stem_only"]
    assert stems["boilerplate"] == stems.total() == choices["exact_text"] == 85


def test_known_images_are_found(shared_data):
    from lingshu.core.nouns import Image
    from lingshu.imaging.read import decode, image_bytes
    from lingshu.ops._image_signature import signature_of

    truth = [
        row
        for row in map(json.loads, (shared_data / "overlap_truth/rows.jsonl").open())
        if row["a_slice"] == "vqa_rad"
    ]
    folder, signatures = shared_data / "vqa_rad", {}
    sides: dict[str, list[Item]] = {"train": [], "test": []}
    names = {}
    for row in map(json.loads, (folder / "rows.jsonl").open()):
        if row["image"] not in signatures:
            data = image_bytes(Image(path=str(folder / row["image"])))
            signatures[row["image"]] = signature_of(data, decode(data, name=row["image"]))
        names[row["id"]] = f"train:{row['image_name']}"
        sides[row["split"]].append(
            Item(row["id"], row["question"], images=(signatures[row["image"]],))
        )
    found = overlaps(sides["train"], Index.build(sides["test"])).overlaps
    same = {(each.test_id, names[each.train_id]) for each in found if each.kind == "image_exact"}
    wanted = {(row["a_id"], row["b_id"]) for row in truth if row["kind"] == "same_image_train_test"}
    assert len(same & wanted) >= 0.98 * len(wanted) and len(wanted) > 270
    questions = {(each.test_id, each.train_id) for each in found if each.kind == "image_question"}
    assert {
        (row["a_id"], row["b_id"])
        for row in truth
        if row["kind"] == "same_image_and_question_train_test"
    } <= {pair for one, other in questions for pair in ((one, other), (other, one))}


def test_known_studies_are_found(shared_data):
    truth = [
        row
        for row in map(json.loads, (shared_data / "overlap_truth/rows.jsonl").open())
        if row["kind"].startswith("same_study")
    ]

    def study(name: str) -> str:
        return re.match(r"(?:CXR|open_i_)?(\d+)", name)[1]  # type: ignore[index]

    def read(name: str, field: str) -> list[Item]:
        rows = map(json.loads, (shared_data / name / "rows.jsonl").open())
        return [Item(row["id"], row.get(field) or "", studies=(study(row["id"]),)) for row in rows]

    index = Index.build(read("iuxray_reports", "report"))
    train = read("iuxray_corpus_captions", "text") + read("medevalkit_iuxray_testlist", "findings")
    found = {
        (each.train_id, each.test_id)
        for each in overlaps(train, index).overlaps
        if each.kind == "study"
    }
    wanted = {(row["a_id"], row["b_id"]) for row in truth}
    assert len(found & wanted) >= 0.98 * len(wanted) and len(wanted) > 700
