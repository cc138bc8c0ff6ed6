"""Calibration: each number against its definition, and the threshold against what it was set on."""

import json
import random

import pytest

from lingshu.core.artifacts import SCORES, write_scores
from lingshu.core.errors import ArtifactError, InputError
from lingshu.core.run_card import RunCard, write_run_card
from lingshu.evaluate.calibration import (
    at_coverage,
    auroc,
    calibration,
    expected_calibration_error,
    read_threshold,
    set_threshold,
    write_threshold,
)
from lingshu.evaluate.report import build
from lingshu.evaluate.store import read_run


def row(number: int, confidence: float | None, value: float | None, **fields) -> dict:
    status = "ok" if value is not None else "unparsed"
    known = {} if confidence is None else {"confidence": confidence}
    return {"id": f"s{number}", "value": value, "status": status, "kind": "k", **known, **fields}


# Sixty answers, ten of each confidence, which are right as often as they are confident.
ROWS = [
    row(10 * step + i, step / 10, float(i < step), confidence_method="stated")
    for step in range(4, 10)
    for i in range(10)
]


def test_calibrated_answers_have_no_error_and_confident_ones_less_risk():
    found = calibration([*ROWS, row(900, None, None), row(901, None, 1.0)])
    assert found is not None
    assert (found.n, found.n_unknown, found.methods) == (60, 2, {"stated": 60})
    assert found.expected_calibration_error.value == pytest.approx(0)
    assert found.risk.value == pytest.approx(0.35)
    assert [(p.threshold, p.coverage, p.risk.value) for p in found.at_coverage] == [
        (0.7, pytest.approx(0.5), pytest.approx(0.2)),
        (0.5, pytest.approx(5 / 6), pytest.approx(0.3)),
        (0.4, 1.0, pytest.approx(0.35)),
    ]
    assert [(bin.high, bin.mean_confidence, bin.accuracy.value) for bin in found.bins] == [
        pytest.approx((step / 10,) * 3) for step in range(4, 10)
    ]


def test_there_is_no_calibration_without_a_confidence():
    assert calibration([row(0, None, 1.0), row(1, 2.0, 1.0), row(2, 0.9, None)]) is None
    assert calibration([]) is None


def test_the_area_is_the_share_of_pairs_in_order_and_a_tie_is_half():
    rng = random.Random(3)
    confidences = [rng.randrange(8) / 8 for _ in range(90)]
    right = [rng.random() < 0.3 + 0.5 * value for value in confidences]
    groups = [number // 3 for number in range(90)]
    pairs = [
        1.0 if high > low else 0.5 if high == low else 0.0
        for high, is_right in zip(confidences, right, strict=True)
        for low, other in zip(confidences, right, strict=True)
        if is_right and not other
    ]
    found = auroc(confidences, right, groups)
    assert found.value == pytest.approx(sum(pairs) / len(pairs))
    assert found.low is not None and found.high is not None and found.value is not None
    assert found.low < found.value < found.high
    alone = auroc(confidences, right, range(90))
    assert alone.value == found.value and alone.low != found.low
    perfect = auroc([0.9] * 9 + [0.1] * 9, [True] * 9 + [False] * 9, range(18))
    assert perfect.value == 1 and perfect.low is not None and 0.6 < perfect.low < 0.8
    assert auroc([0.9, 0.1], [True, True], [1, 2])[:3] == (None, None, None)
    assert auroc([0.9, 0.1], [True, False], [1, 1])[:3] == (1.0, None, None)


def test_the_calibration_error_weighs_bins_by_their_size():
    confidences, values = [0.95, 0.95, 0.95, 0.15], [1.0, 1.0, 0.0, 1.0]
    found = expected_calibration_error(confidences, values, range(4))
    assert found.value == pytest.approx((3 * abs(0.95 - 2 / 3) + abs(0.15 - 1)) / 4)
    ends = (found.low or 0, found.value or 0, found.high or 0)
    assert list(ends) == sorted(set(ends))
    assert expected_calibration_error([0.3], [1.0], [1]).low is None


def test_equal_confidences_stay_together():
    rows = [row(number, 0.5, float(number < 5)) for number in range(10)]
    point = at_coverage(rows, 0.5)
    assert (point.threshold, point.coverage, point.risk.value) == (0.5, 1.0, 0.5)


def make_run(folder, rows=ROWS, tasks=("t",)):
    for task in tasks:
        (folder / task).mkdir(parents=True)
        write_scores(folder / task / SCORES, rows)
    notes = {"model": "m", "digest": "d" * 64, "tasks": {task: {} for task in tasks}}
    write_run_card(folder, RunCard("eval", {}, notes=notes))
    return folder


class Model:
    model, digest, endpoint = "m", "d" * 64, None


def test_a_threshold_names_what_it_was_set_on_and_is_for_that_model_alone(tmp_path):
    run = make_run(tmp_path / "run")
    threshold = set_threshold(run, read_run(run), None, 0.8)
    assert (threshold.threshold, threshold.n, threshold.methods) == (0.5, 60, ("stated",))
    assert threshold.risk.value == pytest.approx(0.3)
    assert "83% are answered and 30.0% of those are wrong instead of 35.0%" in threshold.text
    path = tmp_path / "threshold.json"
    write_threshold(path, threshold)
    assert read_threshold(path) == threshold
    threshold.check_model(Model())
    other = Model()
    other.digest = "e" * 64
    with pytest.raises(
        InputError, match=r"was set for m \(dddddddddddd\), not for m \(eeeeeeeeeeee\)"
    ):
        threshold.check_model(other)


def test_a_changed_threshold_is_refused(tmp_path):
    run = make_run(tmp_path / "run")
    path = tmp_path / "threshold.json"
    write_threshold(path, set_threshold(run, read_run(run), "t", 0.5))
    changed = json.loads(path.read_text()) | {"threshold": 0.1}
    path.write_text(json.dumps(changed))
    with pytest.raises(ArtifactError, match="was changed"):
        read_threshold(path)
    path.write_text("{}")
    with pytest.raises(ArtifactError, match="is not a threshold"):
        read_threshold(path)
    with pytest.raises(ArtifactError, match="does not exist"):
        read_threshold(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("rows", "tasks", "task", "coverage", "message"),
    [
        (ROWS[:19], ("t",), None, 0.8, "19 answers with a confidence"),
        (ROWS, ("t", "u"), None, 0.8, "2 tasks"),
        (ROWS, ("t", "u"), "v", 0.8, "no 'v'"),
        (ROWS, ("t",), None, 0.0, "is not a share"),
        (ROWS, ("t",), None, 1.5, "is not a share"),
    ],
)
def test_a_threshold_without_meaning_is_refused(tmp_path, rows, tasks, task, coverage, message):
    run = make_run(tmp_path / "run", rows, tasks)
    with pytest.raises(InputError, match=message):
        set_threshold(run, read_run(run), task, coverage)


def test_a_report_shows_risk_and_reliability(tmp_path):
    report = build.build(make_run(tmp_path / "run"))
    text = build.as_markdown(report)
    assert "## Confidence: does the model know when it is wrong?" in text
    assert "| 35.0 (24.2 to 47.6) | 20.0 (" in text
    page = "".join(build.iterate_html(report))
    assert "◇ mean confidence" in page and page.count('class="mark"') == 6
    bare = [{k: v for k, v in r.items() if not k.startswith("confidence")} for r in ROWS]
    unknown = build.build(make_run(tmp_path / "bare", bare))
    assert "Confidence" not in build.as_markdown(unknown)
