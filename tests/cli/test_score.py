"""`lingshu score`: rows in, scores rows and a summary out, bad rows named by their line."""

import json
from pathlib import Path

import pytest

from lingshu.cli.score import ScoreConfig
from lingshu.cli.score import score as score_file
from lingshu.core.errors import InputError, UnknownNameError
from lingshu.core.files import read_json, read_jsonl

ROWS = [
    {
        "id": "1",
        "question": "Which?",
        "choices": ["A. Cyst", "B. Abscess"],
        "gold": "B",
        "reply": "The answer is: B",
        "kind": "mc",
    },
    {
        "id": "2",
        "question": "Which?",
        "choices": ["Cyst", "Abscess"],
        "gold": "cyst",
        "reply": "Abscess",
        "organ": "liver",
    },
    {"id": "3", "question": "Is it?", "gold": "yes", "reply": "Yes, there is a nodule."},
    {
        "id": "4",
        "question": "Where?",
        "gold": ["left", "left lung"],
        "reply": "Left lung.",
        "lang": "en",
        "group": 7,
    },
    {"id": "5", "question": "Is it?", "gold": "no", "reply": "I cannot determine this."},
]


def score(file: Path, **options) -> int:
    return score_file(file, config=ScoreConfig(**options))


def write(path: Path, rows: list) -> Path:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows),
        encoding="utf-8",
    )
    return path


def test_scores_and_summary(tmp_path, capsys):
    out = tmp_path / "scores.jsonl"
    assert score(write(tmp_path / "in.jsonl", ROWS), scorer="auto", out=out) == 0
    rows = list(read_jsonl(out))
    assert [(row["id"], row["value"], row["status"], row["prediction"]) for row in rows] == [
        ("1", 1.0, "ok", "B"),
        ("2", 0.0, "ok", "B"),
        ("3", 1.0, "ok", "yes"),
        ("4", 1.0, "ok", "Left lung."),
        ("5", None, "refused", None),
    ]
    assert (rows[1]["organ"], rows[3]["group"], rows[0]["question"]) == ("liver", 7, "Which?")
    summary = json.loads(capsys.readouterr().out)
    assert (summary["n"], summary["correct"], summary["accuracy"]["value"]) == (5, 3, 0.6)
    assert summary["accuracy"]["low"] < 0.6 < summary["accuracy"]["high"]
    assert (summary["parsed_accuracy"]["value"], summary["parsed_accuracy"]["n"]) == (0.75, 4)
    assert summary["statuses"]["refused"] == 1
    assert read_json(tmp_path / "scores.jsonl.run.json")["config"]["scorer"] == "auto"


def test_a_failed_generation_is_an_error_and_left_out(tmp_path, capsys):
    file = write(tmp_path / "in.jsonl", [ROWS[0], {**ROWS[2], "reply": None}])
    assert score(file, scorer="auto") == 1
    summary = json.loads(capsys.readouterr().out)
    assert (summary["n"], summary["statuses"]["error"], summary["accuracy"]["value"]) == (1, 1, 1.0)


@pytest.mark.parametrize(
    ("row", "about"),
    [
        ("{broken", "JSON"),
        ("[1]", "object"),
        ('{"id": "x", "gold": "yes", "reply": "yes", "loss": NaN}', "NaN"),
        ({"id": "x", "gold": "yes"}, "reply"),
        ({"id": "x", "gold": "yes", "reply": 3}, "reply"),
        ({"id": "x", "reply": "yes"}, "gold"),
        ({"id": "x", "reply": "B", "gold": "E", "choices": ["a", "b"]}, "answer"),
        ({"id": "x", "reply": "B", "gold": "A", "choices": "ab"}, "choices"),
        ({"id": "x", "reply": "yes", "gold": "yes", "group": ["p1"]}, "group"),
        ({"id": "x", "reply": "yes", "gold": "yes", "group": {"patient": 1}}, "group"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path, row, about):
    file = write(tmp_path / "in.jsonl", [ROWS[0], "", row])
    out = tmp_path / "out.jsonl"
    with pytest.raises(InputError, match=f"line 3.*{about}"):
        score(file, scorer="auto", out=out)
    assert not out.exists()


def test_a_truncated_line_is_not_skipped(tmp_path):
    file = tmp_path / "in.jsonl"
    file.write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(ROWS[1])[:30])
    with pytest.raises(InputError, match="line 2"):
        score(file, scorer="auto")


def test_a_scorer_that_does_not_fit_names_the_line(tmp_path):
    with pytest.raises(InputError, match="line 2"):
        score(write(tmp_path / "in.jsonl", [ROWS[2], ROWS[3]]), scorer="yes_no")


def test_other_wrong_input(tmp_path):
    file = write(tmp_path / "in.jsonl", ROWS)
    with pytest.raises(UnknownNameError, match="exact"):
        score(file, scorer="exakt")
    with pytest.raises(InputError, match="cannot be opened"):
        score(tmp_path / "none.jsonl", scorer="auto")
    with pytest.raises(InputError, match="no rows"):
        score(write(tmp_path / "empty.jsonl", []), scorer="auto")


def test_half_a_surrogate_pair_is_carried_through(tmp_path):
    out = tmp_path / "out.jsonl"
    assert (
        score(
            write(tmp_path / "in.jsonl", ['{"id": "1", "gold": "yes", "reply": "yes \\ud83d"}']),
            scorer="auto",
            out=out,
        )
        == 0
    )
    assert next(read_jsonl(out))["reply"] == "yes \ud83d"


def test_repeated_ids_are_counted(tmp_path, capsys):
    row = {"id": "a", "question": "Is it?", "gold": "yes", "reply": "yes"}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n", encoding="utf-8")
    assert score(path, scorer="auto") == 0
    assert json.loads(capsys.readouterr().out)["repeated_ids"] == 1


def test_an_empty_group_is_not_a_group_shared_by_all_rows(tmp_path, capsys):
    rows = [{"id": str(i), "gold": "yes", "reply": "yes"} for i in range(20)]
    summary = []
    for group in ({}, {"group": ""}):
        assert (
            score(write(tmp_path / "in.jsonl", [row | group for row in rows]), scorer="auto") == 0
        )
        summary.append(json.loads(capsys.readouterr().out)["accuracy"])
    assert summary[0] == summary[1]


def test_a_published_protocol_also_adds_up_as_published(tmp_path, capsys):
    rows = [
        {"id": str(n), "gold": "lung", "kind": "open", "reply": reply, **judge}
        for n, (reply, judge) in enumerate([("lung", {"judge": True}), ("a lung", {"judge": True})])
    ]
    path = write(tmp_path / "in.jsonl", [*rows, {**ROWS[2], "kind": "yes_no"}])
    assert score(path, scorer="auto", protocol="medevalkit") == 0
    totals = json.loads(capsys.readouterr().out)["as_published"]
    # With a judge on, the accuracy of open questions is divided by their number twice.
    assert totals["open"] == {"total": 2, "right": 2, "acc": 0.5}
    assert totals["closed"]["total"] == 1 and totals["all"]["total"] == 3
    assert score(path, scorer="auto") == 0
    assert "as_published" not in json.loads(capsys.readouterr().out)
