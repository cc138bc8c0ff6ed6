"""The quickstart's MOFT in small: two runs on the same tokens, averages and a soup, told in JSON
and on a page.
"""

from __future__ import annotations

import json
from pathlib import Path

from lingshu.apps._quickstart_moft import RUNS, WEIGHTS, as_json, draw, fused, section


def test_two_runs_are_averaged_and_a_soup_stands_beside(checkpoint: Path, tmp_path: Path) -> None:
    data = draw(tmp_path / "data", first=500, seed=0, sizes={"moft": 24, "moft_held": 12})

    def run():
        return fused(
            checkpoint,
            data["moft"],
            data["moft_held"],
            tmp_path / "moft",
            seed=0,
            steps=2,
            questions=8,
        )

    result = run()
    told = as_json(result)
    assert [point["weight"] for point in told["points"]] == list(WEIGHTS) and told["steps"] == 2
    assert 0.1 < told["entity_share"] < 0.6 and told["recommended"]["by"] == "likelihood"
    assert told["barrier"]["tolerance"] > 0 and set(told["soup"]["nll"]) == {
        "all",
        "entities",
        "others",
    }
    shares = {stage["entities"]["share"] for stage in result.stages.values()}
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
    html = section(result)
    assert (
        "soup of two plain runs" in html
        and "half and half" in html
        and "say nothing about medicine" in html
    )
    assert json.loads(json.dumps(told)) == as_json(run()) | {"seconds": told["seconds"]}
