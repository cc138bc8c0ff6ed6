"""Two runs side by side: matched by id, never by position, and nothing left out in silence."""

import random
from dataclasses import replace

import pytest

from lingshu.core.errors import ArtefactError
from lingshu.evaluate._compared import paired_section
from lingshu.evaluate._document import Points
from lingshu.evaluate.compare import compare, compare_rows, matched
from lingshu.evaluate.scored import ScoredRun, ScoredTask


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
    pairs, left_out = matched(ours, theirs)
    assert [(a["id"], b["id"], b["value"]) for a, b in pairs] == [("a", "a", 1.0), ("b", "b", 1.0)]
    assert left_out == {
        "another gold answer": 1,
        "failed in one run or both": 1,
        "only in the other run": 2,
        "only in this run": 1,
    }
    with pytest.raises(ArtefactError, match="'a' more than once"):
        matched([row("a", 1.0), row("a", 0.0)], theirs)


def test_an_unread_reply_is_not_right():
    found = compare_rows(
        task(), [row("a", None), row("b", 1.0)], [row("b", 1.0), row("a", 1.0)], protocol="strict"
    )
    assert (
        found.ours,
        found.theirs,
        found.only_ours,
        found.only_theirs,
        found.difference.value,
    ) == (0.5, 1.0, 0, 1, -0.5)


def test_the_order_of_rows_changes_nothing():
    ours = [row(f"{i}", float(i % 3 > 0), group=i // 4) for i in range(60)]
    theirs = [row(f"{i}", float(i % 2)) for i in range(60)]
    shuffled = random.Random(1).sample(theirs, 60)
    assert compare_rows(task(), ours, theirs, protocol="s") == compare_rows(
        task(), ours, shuffled, protocol="s"
    )
    assert compare_rows(task(), ours, theirs, protocol="s").groups == 15


def test_scores_between_right_and_wrong_have_an_interval_but_no_test():
    ours = [row(str(i), 0.5 + i % 2 / 4) for i in range(20)]
    found = compare_rows(task(), ours, [row(str(i), 0.5) for i in range(20)], protocol="strict")
    assert found.difference.value == 0.125 and found.difference.low is not None
    assert (found.test, found.only_ours) == (None, None)
    assert found.smallest is not None


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
    found = compare(ours, theirs)
    assert [(one.name, one.protocol) for one in found.tasks] == [("t", "strict")]
    assert found.left_out == {
        "mine": "only in this run",
        "other": "only in t",
        "u": "scored under strict here and paper there",
    }
    assert found.macro == {}


def test_no_item_in_common_is_no_result():
    found = compare_rows(task(), [row("a", 1.0)], [row("b", 1.0)], protocol="strict")
    assert (found.pairs, found.ours, found.difference.value, found.test, found.smallest) == (
        0,
        None,
        None,
        None,
        None,
    )


def test_what_has_no_score_is_no_zero():
    """A rubric without positive points: neither run is asked anything by such an item."""
    nothing = {"status": "ok", "gold": []}
    ours = [row("a", 1.0), {**row("b", None), **nothing}]
    found = compare_rows(
        task(), ours, [row("a", 0.0), {**row("b", None), **nothing}], protocol="judge"
    )
    assert (found.pairs, found.ours, found.difference.value, found.left_out) == (
        1,
        1.0,
        1.0,
        {"nothing to score": 1},
    )


def test_runs_over_other_data_are_told():
    runs = [
        ScoredRun("r", "m", (replace(task(row("a", 1.0)), facts={"title": "T", "revision": each}),))
        for each in ("x", "y", "x")
    ]
    assert compare(runs[0], runs[2]).notes == ()
    (told,) = compare(runs[0], runs[1]).notes
    assert told.startswith("T: asked over x here and over y there")
    (shown,) = [
        part for part in paired_section(compare(runs[0], runs[1])).parts if isinstance(part, Points)
    ]
    assert shown.items == (told,)
