"""`lingshu report`: reports from stored scores, of one run and of several."""

from pathlib import Path

import pytest

from lingshu.core.artifacts import write_scores
from lingshu.core.errors import ArtifactError, InputError
from lingshu.core.files import read_json
from tests.support.evaluation import report


def run(folder: Path, **right: int) -> Path:
    for task, count in right.items():
        rows = [
            {"id": str(i), "value": float(i < count), "status": "ok", "kind": "side"}
            for i in range(4)
        ]
        write_scores(folder / task / "scores.jsonl", rows)
    return folder


def test_scores_alone_make_a_report(tmp_path, capsys):
    folder = run(tmp_path / "one", side=3)
    assert report(folder) == 0
    report_json = read_json(folder / "report.json")
    assert report_json["model"] == "one"
    assert report_json["tasks"][0]["summary"]["accuracy"]["value"] == 0.75
    assert report_json["tasks"][0]["facets"]["kind"]["side"]["n"] == 4
    assert "75.0" in capsys.readouterr().out


def test_runs_side_by_side(tmp_path, capsys):
    one, two = run(tmp_path / "one", side=3, size=4), run(tmp_path / "two", side=1)
    assert report(one, two) == 0
    lines = capsys.readouterr().out.splitlines()
    side = next(line for line in lines if line.startswith("side"))
    assert side.split()[1] == "75.0" and "25.0" in side
    assert next(line for line in lines if line.startswith("size")).endswith("–")


def test_wrong_folders_are_named(tmp_path):
    with pytest.raises(InputError, match="no run"):
        report()
    with pytest.raises(ArtifactError, match="no scores"):
        report(tmp_path)
