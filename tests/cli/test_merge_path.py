"""The report of a merge path: likelihood and accuracy at each point, the barrier, the weight to
take, and going on after a stop.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from lingshu.analysis.merge_path import PATH_HTML, PATH_JSON, report_path
from lingshu.core.entities import EntityMatcher, find_spans, with_spans
from lingshu.core.errors import ConfigError
from lingshu.core.run_card import RunCard
from lingshu.evaluate.run import EvalConfig
from lingshu.inference.engines import open_engine
from lingshu.models.export import export
from lingshu.sources import phantom
from tests.support.tiny import tiny, write_phantoms

WEIGHTS = (0.0, 0.5, 1.0)


def config(limit: int) -> EvalConfig:
    return EvalConfig(limit=limit, max_tokens=2, threads=1)


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[float, Path]]:
    """Two models that differ a little, and their average."""
    folder = tmp_path_factory.mktemp("models")
    model, processor = tiny("qwen2_5_vl")
    torch.manual_seed(0)
    merged_points = []
    noise = {name: 0.05 * torch.randn_like(p) for name, p in model.named_parameters()}
    for weight in WEIGHTS:
        changed = copy.deepcopy(model)
        with torch.no_grad():
            for name, parameter in changed.named_parameters():
                parameter += (1 - weight) * noise[name]
        export(changed, processor, folder / f"{weight:g}", RunCard("test", {}))
        merged_points.append((weight, folder / f"{weight:g}"))
    return merged_points


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    terms = EntityMatcher(["left", "right", "small", "large", "lesion"])
    samples = [
        with_spans(sample, find_spans(sample, terms))
        for sample in phantom.training_samples(5, 12, "instruct")
    ]
    return write_phantoms(tmp_path_factory.mktemp("held") / "data", samples)


def test_a_path_is_reported_and_resumes_where_it_stopped(
    points: list[tuple[float, Path]], held_out: Path, tmp_path: Path
) -> None:
    out, options = tmp_path / "path", config(8)
    path = report_path(out, points[::-1], open_engine, options, data=held_out, tasks=["phantom"])
    assert not path.failed
    report = json.loads((out / PATH_JSON).read_text())
    assert [point["weight"] for point in report["points"]] == [0.0, 0.5, 1.0]
    for point in report["points"]:
        nll, share = point["nll"], report["data"]["entities"]["fraction"]
        assert nll["all"] == pytest.approx(share * nll["entities"] + (1 - share) * nll["others"])
        assert point["tasks"]["phantom"]["accuracy"]["n"] == 8 and set(
            point["tasks"]["phantom"]["by_kind"]
        ) > {"lesion", "modality"}
    ends = {point["weight"]: point["nll"]["all"] for point in report["points"]}
    excess = {row["weight"]: row["value"] for row in report["barrier"]["excess"]}
    assert (
        excess[0.5] == pytest.approx(ends[0.5] - (ends[0.0] + ends[1.0]) / 2)
        and abs(excess[0.0]) < 1e-12
    )
    assert report["barrier"]["value"] == pytest.approx(max(excess.values()))
    assert report["barrier"]["tolerance"] == pytest.approx(0.02 * (ends[0.0] + ends[1.0]) / 2)
    assert report["recommended"] == {
        "weight": min(ends, key=lambda weight: ends[weight]),
        "by": "likelihood",
    }
    assert "0.5" in report["gains"]["phantom"] and report["notices"] == []
    page = (out / PATH_HTML).read_text()
    assert "Which weight" in page and "entity tokens" in page and "<script" not in page

    files = [*out.glob("likelihood/*.jsonl"), *out.glob("eval/*/phantom/replies.jsonl")]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert len(files) == 6
    (out / PATH_JSON).unlink()
    path = report_path(out, points, open_engine, options, data=held_out, tasks=["phantom"])
    assert not path.failed
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert json.loads((out / PATH_JSON).read_text()) == report


def test_a_weight_that_is_chosen_on_what_is_reported_is_marked_as_such(
    points: list[tuple[float, Path]], tmp_path: Path
) -> None:
    options = config(4)
    report_path(tmp_path / "same", points[:2], open_engine, options, tasks=["phantom"])
    report = json.loads((tmp_path / "same" / PATH_JSON).read_text())
    assert (
        report["recommended"]["by"] == "reported accuracy"
        and "too good" in report["notices"][0]
        and report["barrier"] is None
    )
    # without the first model there is nothing to compare with
    assert "gains" in report and report["gains"] == {}
    report_path(
        tmp_path / "two",
        points[:1],
        open_engine,
        options,
        tasks=["phantom"],
        select_by=["phantom"],
    )
    report = json.loads((tmp_path / "two" / PATH_JSON).read_text())
    assert (
        report["recommended"]["by"] == "validation accuracy"
        and "not an estimate for new data" in report["notices"][0]
    )
    copied = tmp_path / "copied.py"
    copied.write_text(
        "from dataclasses import replace\nfrom lingshu.tasks import phantom\nTASK ="
        " replace(phantom.TASK, name='copied')\n"
    )
    report_path(
        tmp_path / "copy",
        points[:1],
        open_engine,
        options,
        tasks=["phantom"],
        select_by=[str(copied)],
    )
    report = json.loads((tmp_path / "copy" / PATH_JSON).read_text())
    assert (
        "groups of the tasks that select the weight are also in the reported tasks"
        in report["notices"][0]
    )


def test_a_path_that_cannot_be_measured_is_refused(
    points: list[tuple[float, Path]], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="give --data FOLDER or --tasks NAMES"):
        report_path(tmp_path, points, open_engine, config(4))
    with pytest.raises(ConfigError, match="each weight once"):
        report_path(tmp_path, [points[0], points[0]], open_engine, config(4), tasks=["phantom"])


TASK = '''"""Mine."""
from lingshu.core.messages import user_turn
from lingshu.core.types import Meta, Provenance, Sample, Task
from lingshu.scoring import auto

def samples(data=None):
    return [Sample(str(i), (user_turn("Which?", 0),), gold=("left",), meta=Meta(access="open", kind="open")) for i in range({})]

TASK = Task("mine", "Mine", Provenance("made up", "CC0"), samples, auto.score, lambda seed: samples())
'''


def test_tasks_of_an_earlier_report_do_not_count_and_a_changed_task_is_run_again(
    points: list[tuple[float, Path]], tmp_path: Path
) -> None:
    own = tmp_path / "mine.py"
    own.write_text(TASK.format(2))
    out, options = tmp_path / "out", config(4)

    def run_report(tasks: list[str]) -> dict:
        report_path(out, points[:1], open_engine, options, tasks=tasks, select_by=tasks)
        return json.loads((out / PATH_JSON).read_text())["points"][0]["tasks"]

    assert list(run_report(["phantom"])) == ["phantom"]
    assert {name: one["accuracy"]["n"] for name, one in run_report([str(own)]).items()} == {
        "mine": 2
    }
    done = out / "eval/0/request.json"
    before = done.read_text()
    run_report([str(own)])
    assert done.read_text() == before
    own.write_text(TASK.format(3))  # a process loads a file once; the next one will read it
    run_report([str(own)])
    assert done.read_text() != before
