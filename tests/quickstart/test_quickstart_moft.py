"""The quickstart's MOFT in small: two runs on the same tokens, averages and a soup, told in JSON
and on a page.
"""

from __future__ import annotations

import json
from pathlib import Path

from lingshu.evaluate.report.render import render_page
from lingshu.quickstart.moft import RUNS, WEIGHTS, run_moft
from lingshu.quickstart.phantoms import curate_data


def test_two_runs_are_averaged_and_compared_with_a_soup(checkpoint: Path, tmp_path: Path) -> None:
    sizes = {"moft": 24, "moft_held": 12}
    data = curate_data(tmp_path / "data", sizes, 0, first=500, annotated=True)

    def run():
        return run_moft(
            checkpoint,
            data["moft"],
            data["moft_held"],
            tmp_path / "moft",
            seed=0,
            steps=2,
            questions=8,
        )

    result = run()
    summary = result.as_json()
    assert [point["weight"] for point in summary["points"]] == list(WEIGHTS) and summary[
        "steps"
    ] == 2
    assert 0.1 < summary["entity_share"] < 0.6 and summary["recommended"]["by"] == "likelihood"
    assert summary["barrier"]["tolerance"] > 0 and set(summary["soup"]["nll"]) == {
        "all",
        "entities",
        "others",
    }
    shares = {stage["entities"]["fraction"] for stage in result.stages.values()}
    assert len(shares) == 1  # the same tokens in every run
    weights = {
        name: (tmp_path / "moft" / name / "checkpoint" / "model.safetensors").read_bytes()
        for name in RUNS
    }
    assert len(set(weights.values())) == len(RUNS)
    # The ends of the path are the runs themselves.
    assert (tmp_path / "moft/path/points/1.00/model.safetensors").read_bytes() == weights["fluency"]
    assert (tmp_path / "moft/path/points/0.00/model.safetensors").read_bytes() == weights[
        "entities"
    ]
    html = render_page("quickstart/templates/moft.html.j2", title="", moft=result)
    assert (
        "soup of two plain runs" in html
        and "half and half" in html
        and "say nothing about medicine" in html
    )
    assert json.loads(json.dumps(summary)) == run().as_json() | {"seconds": summary["seconds"]}
