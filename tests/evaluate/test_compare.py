"""Two runs side by side: matched by id, never by position, and nothing left out in silence."""

import random
from dataclasses import replace

import pytest

from lingshu.core.errors import ArtifactError
from lingshu.evaluate.compare import compare, compare_rows, match_rows
from lingshu.evaluate.report.build import as_markdown, assemble
from lingshu.evaluate.store import ScoredRun, ScoredTask


def row(name: str, value: float | None, **more) -> dict:
    return {
        "id": name,
        "value": value,
        "status": "ok" if value is not None else "unparsed",
        "gold": ["yes"],
        **more,
    }


def task(*rows: dict, protocol: str = "strict", name: str = "t") -> ScoredTask:
    return ScoredTask(name, {"title": "T"}, {protocol: list(rows)})


def test_rows_are_matched_by_id_and_the_rest_is_counted():
    ours = [
        row("a", 1.0),
        row("b", 0.0),
        row("c", 1.0),
        row("d", 1.0),
        row("e", None, status="error"),
    ]
    theirs = [
        row("e", 1.0),
        row("d", 1.0, gold=["no"]),
        row("x", 1.0),
        row("y", 1.0),
        row("b", 1.0),
        row("a", 1.0),
    ]
    pairs, excluded = match_rows(ours, theirs)
    assert [(a["id"], b["id"], b["value"]) for a, b in pairs] == [("a", "a", 1.0), ("b", "b", 1.0)]
    assert excluded == {
        "another gold answer": 1,
        "failed in one run or both": 1,
        "only in the other run": 2,
        "only in this run": 1,
    }
    with pytest.raises(ArtifactError, match="'a' more than once"):
        match_rows([row("a", 1.0), row("a", 0.0)], theirs)


def test_an_unparsed_reply_is_not_correct():
    result = compare_rows(
        task(), [row("a", None), row("b", 1.0)], [row("b", 1.0), row("a", 1.0)], protocol="strict"
    )
    assert (
        result.accuracy,
        result.baseline_accuracy,
        result.n_only_run,
        result.n_only_baseline,
        result.difference.value,
    ) == (0.5, 1.0, 0, 1, -0.5)


def test_the_order_of_rows_changes_nothing():
    ours = [row(f"{i}", float(i % 3 > 0), group=i // 4) for i in range(60)]
    theirs = [row(f"{i}", float(i % 2)) for i in range(60)]
    shuffled = random.Random(1).sample(theirs, 60)
    assert compare_rows(task(), ours, theirs, protocol="s") == compare_rows(
        task(), ours, shuffled, protocol="s"
    )
    assert compare_rows(task(), ours, theirs, protocol="s").n_groups == 15


def test_scores_between_right_and_wrong_have_an_interval_but_no_test():
    ours = [row(str(i), 0.5 + i % 2 / 4) for i in range(20)]
    result = compare_rows(task(), ours, [row(str(i), 0.5) for i in range(20)], protocol="strict")
    assert result.difference.value == 0.125 and result.difference.low is not None
    assert (result.test, result.n_only_run) == (None, None)
    assert result.min_detectable is not None


def test_only_the_same_protocol_is_compared():
    ours = ScoredRun(
        "o",
        "m",
        (task(row("a", 1.0)), task(row("a", 1.0), name="u"), task(row("a", 1.0), name="mine")),
    )
    theirs = ScoredRun(
        "t",
        "n",
        (task(row("a", 0.0)), task(row("a", 0.0), name="u", protocol="paper"), task(name="other")),
    )
    result = compare(ours, theirs)
    assert [(comparison.name, comparison.protocol) for comparison in result.tasks] == [
        ("t", "strict")
    ]
    assert result.excluded == {
        "mine": "only in this run",
        "other": "only in t",
        "u": "scored under strict here and paper there",
    }
    assert result.macro == {}


def test_no_item_in_common_is_no_result():
    result = compare_rows(task(), [row("a", 1.0)], [row("b", 1.0)], protocol="strict")
    assert (
        result.n_pairs,
        result.accuracy,
        result.difference.value,
        result.test,
        result.min_detectable,
    ) == (
        0,
        None,
        None,
        None,
        None,
    )


def test_a_missing_score_is_not_zero():
    """A rubric without positive points: neither run is asked anything by such an item."""
    nothing = {"status": "ok", "gold": []}
    ours = [row("a", 1.0), {**row("b", None), **nothing}]
    result = compare_rows(
        task(), ours, [row("a", 0.0), {**row("b", None), **nothing}], protocol="judge"
    )
    assert (result.n_pairs, result.accuracy, result.difference.value, result.excluded) == (
        1,
        1.0,
        1.0,
        {"nothing to score": 1},
    )


def test_runs_over_other_data_are_reported():
    runs = [
        ScoredRun(
            "r", "m", (replace(task(row("a", 1.0)), metadata={"title": "T", "revision": revision}),)
        )
        for revision in ("x", "y", "x")
    ]
    assert compare(runs[0], runs[2]).notes == ()
    (output,) = compare(runs[0], runs[1]).notes
    assert output.startswith("T: evaluated over x here and over y there")
    report = assemble("m", [], paired=compare(runs[0], runs[1]))
    assert as_markdown(report).count(f"\n- {output}\n") == 1
