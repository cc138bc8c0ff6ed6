"""Files of a finished run that were changed are named; nothing of them reaches a report."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from lingshu.cli.main import main
from lingshu.core.files import read_json

COMMAND = [
    *("eval", "echo:yes", "vqa_rad", "--synthetic", "--protocol", "all"),
    *("--controls", "constant,blind", "--judge", "scripted"),
]
REPORTS = ("report.json", "report.md", "report.html")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "run"
    assert main([*COMMAND, "--out", str(run)]) == 0
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run")


def _number(data: bytes) -> bytes:
    return re.sub(rb"\d", lambda m: b"%d" % ((int(m[0]) + 1) % 10), data, count=1)


def _lines(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


EDITS = {
    "a digit changed": _number,
    "a value is null": lambda data: data.replace(b'"value": 1.0', b'"value": null', 1),
    "a value is NaN": lambda data: data.replace(b'"value": 1.0', b'"value": NaN', 1),
    "a text is a number": lambda data: data.replace(b'"text": "yes"', b'"text": 5', 1),
    "the first line removed": lambda data: b"".join(_lines(data)[1:]),
    "the last line removed": lambda data: b"".join(_lines(data)[:-1]),
    "the first line twice": lambda data: b"".join([*_lines(data)[:1], data]),
    "the order turned": lambda data: b"".join(reversed(_lines(data))),
    "the last byte lost": lambda data: data[:-1],
    "half of it lost": lambda data: data[: len(data) // 2],
    "all of it lost": lambda _: b"",
    "a block of zeros": lambda data: data[:40] + bytes(16) + data[56:],
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_changed_file_of_a_run_is_refused_by_its_name(
    finished: Path, run: Path, edit, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [path for path in finished.rglob("*.json*") if path.name not in REPORTS]
    changed = []
    for path in files:
        data = edit(path.read_bytes())
        if data == path.read_bytes():
            continue
        changed.append(path.name)
        copy = run / path.relative_to(finished)
        copy.write_bytes(data)
        if main(["report", str(run)]) == 0:
            # Blanks of the manifest: nothing that it says was changed.
            assert path.name == "manifest.json"
            assert read_json(copy) == read_json(path)
        else:
            [line] = capsys.readouterr().err.splitlines()
            assert path.name in line or "manifest.json" in line
        copy.write_bytes(path.read_bytes())
    assert changed
    assert main(["report", str(run)]) == 0
    assert (run / "report.json").read_bytes() == (finished / "report.json").read_bytes()


def test_a_scores_file_of_another_run_is_refused(run: Path, capsys) -> None:
    shutil.copy(run / "vqa_rad" / "scores.jsonl", run / "vqa_rad" / "scores.mine.jsonl")
    assert main(["report", str(run)]) == 2
    assert "scores.mine.jsonl is not listed" in capsys.readouterr().err


def test_a_changed_reply_is_named_when_the_run_continues(run: Path, capsys) -> None:
    path = run / "vqa_rad" / "replies.jsonl"
    path.write_text(path.read_text().replace('"text": "yes"', '"text": "no"', 1))
    assert main([*COMMAND, "--out", str(run)]) == 2
    assert "replies.jsonl, line 1: the row does not match" in capsys.readouterr().err
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    assert main([*COMMAND, "--out", str(run)]) == 0
    assert "1 generated now, 5 before" in capsys.readouterr().out
    assert main(["report", str(run)]) == 0


def test_a_run_of_an_older_version_is_reported_with_a_warning(run: Path, capsys) -> None:
    before = read_json(run / "report.json")
    (run / "manifest.json").unlink()
    capsys.readouterr()
    assert main(["report", str(run)]) == 0
    assert "could not be checked" in capsys.readouterr().err
    assert read_json(run / "report.json") == before
    assert main([*COMMAND, "--out", str(run)]) == 0
    assert main(["report", str(run)]) == 0
    assert "could not be checked" not in capsys.readouterr().err


def test_a_row_twice_is_refused_without_a_manifest_too(run: Path, capsys) -> None:
    (run / "manifest.json").unlink()
    path = run / "vqa_rad" / "scores.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines(keepends=True)[0])
    assert main(["report", str(run)]) == 2
    assert re.search(r"scores\.jsonl has the id .* twice", capsys.readouterr().err)


def test_scores_of_a_file_are_compared_with_its_run_card(tmp_path: Path, capsys) -> None:
    replies, scores = tmp_path / "replies.jsonl", tmp_path / "run" / "mine" / "scores.jsonl"
    rows = [{"id": str(n), "gold": "yes", "reply": "yes"} for n in range(3)]
    replies.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["score", str(replies), "--scorer", "yes_no", "--out", str(scores)]) == 0
    capsys.readouterr()
    assert main(["report", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().err == ""
    scores.write_text(scores.read_text().replace('"value": 1.0', '"value": 0.0', 1))
    assert main(["report", str(tmp_path / "run")]) == 2
    assert "scores.jsonl does not match its sha256" in capsys.readouterr().err
