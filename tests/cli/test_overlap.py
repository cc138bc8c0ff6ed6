"""`lingshu overlap`: rows, DATASET folders and tasks compared; failures counted, wrong input
refused.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from lingshu.cli.main import main
from lingshu.cli.overlap import overlap
from lingshu.core.artifacts import write_dataset
from lingshu.core.errors import InputError
from lingshu.core.files import read_json, read_jsonl
from lingshu.core.run_card import RunCard
from lingshu.core.types import Message, Meta, Sample
from lingshu.imaging.read import encode_png

LONG = (
    "Which of the following vessels supplies the lateral wall of the left ventricle in most people,"
    " and by which branch?"
)

TASK = """from lingshu.core.types import Message, Provenance, Sample, Task
ITEMS = [Sample(name, (Message("user", (text,)),)) for name, text in (("m1", LONG), ("m2", "Something else?"))]
TASK = Task("mine", "Mine", Provenance("drawn", "Apache-2.0"), lambda data: ITEMS, lambda sample, reply: None, lambda seed: ITEMS)
"""


def random_png(seed: int) -> bytes:
    return encode_png(
        np.random.default_rng(seed)
        .integers(0, 256, (8, 8), dtype=np.uint8)
        .repeat(20, 0)
        .repeat(20, 1)
    )


def write(path: Path, *rows: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def test_set(tmp_path: Path) -> Path:
    folder = tmp_path / "test"
    rows = (
        {"id": "q1", "question": LONG, "choices": ["LCX", "LAD"]},
        {"id": "q2", "question": "Is there a mass?", "images": ["a.png"], "group": "p9"},
        {"id": "q3", "question": "Where is it?", "image": "b.png"},
    )
    write(folder / "rows.jsonl", *rows)
    (folder / "a.png").write_bytes(random_png(1))
    (folder / "b.png").write_bytes(random_png(2))
    return folder


def run(*words: object) -> int:
    return main(["overlap", *map(str, words)])


def pairs(path: Path) -> list[tuple[str, str, str]]:
    return [(row["train_id"], row["test_id"], row["kind"]) for row in read_jsonl(path)]


def test_rows_against_rows(tmp_path, test_set, capsys):
    train = write(
        tmp_path / "train.jsonl",
        {"id": "n1", "text": LONG.lower()},
        {"id": "n2", "question": "is there a mass", "image": "copy.png", "answer": "yes"},
        {"id": "n3", "text": "Nothing in common with any other.", "patient": "p9"},
    )
    (tmp_path / "copy.png").write_bytes(random_png(1))
    out = tmp_path / "overlaps.jsonl"
    assert run(train, "--against", test_set, "--out", out) == 0
    assert pairs(out) == [
        ("n1", "q1", "exact_text"),
        ("n2", "q2", "image_exact"),
        ("n2", "q2", "image_question"),
        ("n3", "q2", "study"),
    ]
    assert {(row["train"], row["test"]) for row in read_jsonl(out)} == {(str(train), str(test_set))}
    summary = json.loads(capsys.readouterr().out)
    assert summary["test"][str(test_set)] == {
        "items": 3,
        "contaminated": 2,
        "share": 0.6667,
        "by_kind": {"exact_text": 1, "image_exact": 1, "image_question": 1, "study": 1},
    }
    assert summary["train_items_to_leave_out"] == 3 and summary["failed"] == {}
    card = read_json(tmp_path / "overlaps.jsonl.run.json")
    assert (
        card["verb"] == "overlap"
        and card["counts"]["pairs_exact_text"] == 1
        and len(card["hashes"]) == 3
    )


def test_boilerplate_is_listed_but_not_counted_as_contamination(tmp_path, capsys):
    train = write(tmp_path / "train.jsonl", {"id": "n1", "question": "Why?"})
    test = write(tmp_path / "test.jsonl", {"id": "q1", "question": "Why?"})
    assert run(train, "--against", test, "--out", tmp_path / "o.jsonl") == 0
    summary = json.loads(capsys.readouterr().out)
    assert pairs(tmp_path / "o.jsonl") == [("n1", "q1", "boilerplate")]
    assert summary["test"][str(test)]["contaminated"] == summary["train_items_to_leave_out"] == 0


def test_a_dataset_and_its_dialogues(tmp_path, test_set):
    states = (
        Message("user", (0, "What is this?")),
        Message("assistant", ("A scan.",)),
        Message("user", ("Where is it?",)),
    )
    sample = Sample("d1", states, meta=Meta(source="s", group="p9")).with_answer("On the left.")
    other = Sample(
        "d2", (Message("user", (LONG + "\nA. LCX\nB. LAD",)),), gold=("A",), choices=("LCX", "LAD")
    )
    write_dataset(
        tmp_path / "data", "d", [(sample, [random_png(2)]), (other, [])], RunCard("test", {})
    )
    out = tmp_path / "overlaps.jsonl"
    assert run(tmp_path / "data", "--against", test_set, "--out", out) == 0
    assert pairs(out) == [
        ("d1", "q2", "study"),
        ("d1", "q3", "image_exact"),
        ("d1", "q3", "image_question"),
        ("d2", "q1", "exact_text"),
    ]


def test_a_task_and_a_set_against_itself(tmp_path, test_set, capsys):
    out = tmp_path / "overlaps.jsonl"
    task = tmp_path / "mine.py"
    task.write_text(TASK.replace("LONG", repr(LONG)))
    assert run(test_set, "--against", task, test_set, "--out", out) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (
        summary["test"][str(task)]["contaminated"],
        summary["test"][str(test_set)]["contaminated"],
    ) == (1, 0)
    assert pairs(out) == [("q1", "m1", "exact_text")]


def test_what_cannot_be_read_is_counted(tmp_path, test_set, capsys):
    (test_set / "b.png").write_bytes(b"no picture")
    train = write(
        tmp_path / "train.jsonl",
        {"id": "n1", "text": LONG},
        {"id": "n2", "answer": "no question"},
        {"id": "n3", "image": "gone.png"},
    )
    out = tmp_path / "overlaps.jsonl"
    assert run(train, "--against", test_set, "--out", out) == 1
    assert pairs(out) == [("n1", "q1", "exact_text")]
    assert json.loads(capsys.readouterr().out)["failed"] == {
        "train no_question": 1,
        "unreadable images": 2,
    }


@pytest.mark.parametrize(
    ("words", "about"),
    [
        (["none.jsonl", "--against", "TEST"], "none.jsonl does not exist"),
        (["TEST", "--against", "vqa_rod"], "did you mean 'vqa_rad'"),
        (["EMPTY", "--against", "TEST"], "neither a DATASET folder"),
        (["BROKEN", "--against", "TEST"], "line 1: not valid JSON"),
        (["OUTSIDE", "--against", "TEST"], "is outside"),
        (["NUMBER", "--against", "TEST"], "must name files"),
        (["TEST", "--against", "TEST", "--radius", "40"], "--radius 40"),
        (["--against", "TEST"], "name the training data"),
    ],
)
def test_wrong_input(tmp_path, test_set, capsys, words, about):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.jsonl").write_text("{\n")
    paths = {
        "TEST": test_set,
        "EMPTY": tmp_path / "empty",
        "BROKEN": tmp_path / "broken.jsonl",
        "OUTSIDE": write(
            tmp_path / "outside" / "rows.jsonl", {"id": "x", "image": "../test/a.png"}
        ),
        "NUMBER": write(tmp_path / "number.jsonl", {"id": "x", "images": [3]}),
    }
    out = tmp_path / "overlaps.jsonl"
    assert run(*(paths.get(word, word) for word in words), "--out", out) == 2
    assert about in capsys.readouterr().err
    assert not out.exists() and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("swapped", [False, True])
def test_an_empty_set_is_not_called_clean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], swapped: bool
) -> None:
    (tmp_path / "some.jsonl").write_text('{"id": "a", "question": "Which?", "gold": "left"}\n')
    (tmp_path / "none.jsonl").write_text("")
    first, second = ("none", "some") if swapped else ("some", "none")
    out = tmp_path / "overlaps.jsonl"
    assert (
        main(
            [
                "overlap",
                str(tmp_path / f"{first}.jsonl"),
                "--against",
                str(tmp_path / f"{second}.jsonl"),
                "--out",
                str(out),
            ]
        )
        == 2
    )
    assert "none.jsonl holds no item" in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize("name", ["a\\u0000b", "\\ud800"])
def test_an_image_name_that_no_file_can_have_is_named_by_its_line(tmp_path, name):
    (tmp_path / "a.jsonl").write_text(
        f'{{"id": "1", "question": "What is it?", "image": "{name}"}}\n'
    )
    with pytest.raises(InputError, match="line 1: an image has a name that no file can have"):
        overlap(
            str(tmp_path / "a.jsonl"),
            against=(str(tmp_path / "a.jsonl"),),
            out=tmp_path / "o.jsonl",
        )
