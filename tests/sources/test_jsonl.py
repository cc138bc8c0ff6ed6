"""Rows of a JSONL file: what becomes a sample, what is dropped and why, and that nothing outside
the folder is touched.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lingshu.core.errors import InputError
from lingshu.core.types import Drop, Sample
from lingshu.sources.jsonl import read


def write_folder(path: Path, *rows: object) -> Path:
    (path / "images").mkdir(parents=True)
    (path / "images" / "a.png").write_bytes(b"not decoded here")
    (path / "rows.jsonl").write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows),
        encoding="utf-8",
    )
    return path


def read_sample(path: Path, row: object) -> Sample:
    (result,) = read(write_folder(path, row))
    assert isinstance(result, Sample), result
    return result


def read_drop(path: Path, row: object) -> str:
    (result,) = read(write_folder(path, row))
    assert isinstance(result, Drop), result
    return result.reason


def test_a_row_becomes_a_sample(tmp_path: Path) -> None:
    row = {
        "id": "q1",
        "image": "images/a.png",
        "question": "是肺炎吗?",
        "answer": "是",
        "lang": "zh",
        "_group": "p7",
        "label": 1,
        "note": None,
    }
    found = read_sample(tmp_path / "d", row)
    assert (found.id, found.question, found.gold) == ("q1", "是肺炎吗?", ("是",))
    assert [image.path for image in found.images] == [str((tmp_path / "d/images/a.png").resolve())]
    assert found.messages[0].parts == (0, "是肺炎吗?")
    assert (found.meta.language, found.meta.group, found.meta.access, found.meta.extra) == (
        "zh",
        "p7",
        "private",
        {"label": "1"},
    )


def test_a_file_or_its_folder_is_read_and_rows_without_id_are_numbered(tmp_path: Path) -> None:
    target = write_folder(tmp_path / "d", {"question": "a?"}, "", {"question": "b?"})
    assert list(read(target)) == list(read(target / "rows.jsonl"))
    assert [s.id for s in read(target)] == ["row-1", "row-3"]


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        (["yes", "true", "yes"], ("yes", "true")),
        (3, ("3",)),
        (2.5, ("2.5",)),
        (None, None),
        ([], None),
        (" no ", ("no",)),
    ],
)
def test_answers_are_texts(tmp_path: Path, answer: object, gold: object) -> None:
    assert read_sample(tmp_path / "d", {"question": "?", "answer": answer}).gold == gold


@pytest.mark.parametrize(
    ("choices", "answer", "gold"),
    [
        (["CT", "MRI"], "MRI", "B"),
        (["CT", "MRI"], " b. ", "B"),
        (["CT", "MRI"], "(B) mri", "B"),
        (["A. CT", "B. MRI"], "mri", "B"),
        ({"B": "MRI", "A": "CT"}, "MRI", "B"),
        (["A", "B", "AB", "O"], "AB", "C"),
        (["A", "C", "D", "K"], "C", "C"),  # vitamins: a letter alone is a letter
        (["A", "C", "D", "K"], "B. C", "B"),
        ([1, 2], 2, "B"),
    ],
)
def test_gold_among_choices_is_a_letter(
    tmp_path: Path, choices: object, answer: object, gold: str
) -> None:
    found = read_sample(
        tmp_path / "d", {"question": "Which?", "choices": choices, "answer": answer}
    )
    assert found.gold == (gold,)
    assert not any(choice.startswith(("A.", "B.")) for choice in found.choices)
    assert found.question.startswith("Which?\nA. ")


def test_choices_that_the_question_lists_are_not_listed_twice(tmp_path: Path) -> None:
    question = "Which? (A) CT (B) MRI"
    assert (
        read_sample(
            tmp_path / "d", {"question": question, "choices": ["CT", "MRI"], "answer": "A"}
        ).question
        == question
    )


def test_a_dialogue_is_read_as_it_is(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Here: "},
                {"type": "image", "image": 0},
                {"type": "text", "text": "?"},
            ],
        },
        {"role": "assistant", "content": "Yes."},
    ]
    found = read_sample(tmp_path / "d", {"images": ["images/a.png"], "messages": turns})
    assert found.answered and found.messages[1].parts == ("Here: ", 0, "?")
    without_position = read_sample(
        tmp_path / "e", {"images": ["images/a.png"], "messages": [{"role": "user", "content": "?"}]}
    )
    assert without_position.messages[0].parts == (0, "?")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"answer": "yes"}, "no_question"),
        ({"question": "  "}, "no_question"),
        ({"question": 5}, "no_question"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "no_question"),
        ({"messages": "x"}, "bad_messages"),
        ({"messages": [5]}, "bad_messages"),
        ({"messages": [{"role": "user", "content": [5]}]}, "bad_messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "image": 0}]}]},
            "bad_messages",
        ),
        (
            {
                "messages": [{"role": "user", "content": [{"type": "image", "image": True}]}],
                "image": "images/a.png",
            },
            "bad_messages",
        ),
        ({"messages": [{"role": "robot", "content": "x"}]}, "bad_messages"),
        ({"question": "?", "answer": {"a": 1}}, "bad_answer"),
        ({"question": "?", "answer": True}, "bad_answer"),
        ({"question": "?", "answer": " "}, "empty_answer"),
        ({"question": "?", "choices": "AB"}, "bad_choices"),
        ({"question": "?", "choices": {"A": "x", "C": "y"}}, "bad_choices"),
        ({"question": "?", "choices": [str(i) for i in range(27)]}, "bad_choices"),
        ({"question": "?", "choices": ["x", "y"], "answer": "z"}, "answer_not_in_choices"),
        ({"question": "?", "access": "public"}, "bad_access"),
        ({"question": "?", "deidentified": "yes"}, "bad_deidentified"),
        ({"question": "?", "image": 5}, "bad_image"),
        ({"question": "?", "images": ["images/a.png", ""]}, "bad_image"),
        ({"question": "?", "image": "images/no.png"}, "missing_image"),
        ({"question": "?", "image": "images"}, "missing_image"),
        ({"question": "?", "image": "nul\0.png"}, "missing_image"),
        ({"question": "?", "image": "x" * 5000}, "missing_image"),
        ({"question": "?", "image": "../secret.png"}, "image_outside_folder"),
        ({"question": "?", "image": "images/../../secret.png"}, "image_outside_folder"),
        ({"question": "?", "image": "/etc/passwd"}, "image_outside_folder"),
        ({"question": "?", "image": "../data_evil/x.png"}, "image_outside_folder"),
        ("[1]", "bad_json"),
        ('{"question": "?', "bad_json"),
        ('{"question": "\\ud800"}', "bad_json"),
        ("[" * 100_000, "bad_json"),
    ],
)
def test_a_row_that_cannot_be_used_is_dropped_with_its_reason(
    tmp_path: Path, row: object, reason: str
) -> None:
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "data_evil").mkdir()
    (tmp_path / "data_evil" / "x.png").write_bytes(b"x")
    assert read_drop(tmp_path / "data", row) == reason


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"x")
    target = write_folder(
        tmp_path / "d",
        {"question": "?", "image": "images/link.png"},
        {"question": "?", "image": "images/up/secret.png"},
    )
    (target / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    (target / "images" / "up").symlink_to(tmp_path)
    assert [result.reason for result in read(target) if isinstance(result, Drop)] == [
        "image_outside_folder"
    ] * 2


def test_one_bad_row_does_not_stop_the_others(tmp_path: Path) -> None:
    target = write_folder(
        tmp_path / "d",
        {"id": "a", "question": "?"},
        "junk",
        {"id": "a", "question": "again?"},
        {"id": "b", "question": "?"},
    )
    results = list(read(target))
    assert [(r.id, getattr(r, "reason", None)) for r in results] == [
        ("a", None), ("row-2", "bad_json"), ("a", "duplicate_id"), ("b", None),
    ]  # fmt: skip
    assert isinstance(results[2], Drop)
    assert results[2].detail == "line 3: an earlier row has this id."


def test_no_rows_at_all_is_an_error_that_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rows\.jsonl does not exist; give a folder"):
        list(read(tmp_path))


def test_real_rows_are_read(shared_data: Path) -> None:
    results = list(read(shared_data / "vqa_rad"))
    assert len(results) == 1452 and all(isinstance(result, Sample) for result in results)
