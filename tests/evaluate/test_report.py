"""Reports: intervals that fit the data, protocols side by side, the same bytes however they came
about.
"""

import json
import re
from pathlib import Path

import pytest

from lingshu.cli.report import comparison_table
from lingshu.core.artifacts import write_scores
from lingshu.core.errors import ArtifactError, InputError
from lingshu.core.files import read_json
from lingshu.evaluate.report import build
from lingshu.evaluate.report.model import EvaluationReport, TaskReport
from lingshu.evaluate.summary import by_facet, summarize
from lingshu.scoring.protocols.table import quirks
from lingshu.scoring.rubric import NEEDS_JUDGE
from tests.support.evaluation import report as command


def rows(right: int, n: int, *, group: int = 0, **extra) -> list[dict]:
    """The first `right` of `n` items are right; every `group` of them share a patient, 0 for none."""
    return [
        {
            "id": f"i{i}",
            "value": float(i < right),
            "status": "ok",
            "group": f"p{i // group}" if group else None,
            **extra,
        }
        for i in range(n)
    ]


def make_run(folder: Path, files: dict[str, list[dict]], **metadata) -> Path:
    for name, result in files.items():
        write_scores(folder / name, result)
    tasks = {name.split("/")[0]: metadata for name in files}
    (folder / "run.json").write_text(json.dumps({"notes": {"model": "m", "tasks": tasks}}))
    return folder


def overview_rows(report: EvaluationReport) -> list[list[str]]:
    """The cells of the table over all tasks."""
    overview = build.as_markdown(report).split("## Overview")[1].split("\n\n")[1]
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in overview.splitlines()[2:]
    ]


def test_the_interval_is_chosen_by_the_data():
    alone, patients = summarize(rows(5, 10)), summarize(rows(5, 10, group=2))
    assert (alone.method, alone.groups) == ("wilson", 10)
    assert (patients.method, patients.groups) == ("effective wilson", 5)
    assert summarize([{"id": "a", "value": 0.5, "status": "ok"}]).method == "effective wilson"
    assert summarize([{"id": "a", "value": -0.5, "status": "ok"}]).method == "bootstrap"
    assert alone.accuracy[1:3] != patients.accuracy[1:3]
    # Every item with a group of its own is independent.
    assert summarize(rows(5, 10, group=1)).accuracy == alone.accuracy


def test_identical_groups_still_have_an_interval():
    """A bootstrap of ten right answers is 100% to 100%; five patients know no more than five items."""
    assert summarize(rows(10, 10, group=2)).accuracy == pytest.approx(
        (1.0, 0.5655, 1.0, 10), abs=1e-4
    )
    half = [
        {"id": str(i), "value": float(i % 2), "status": "ok", "group": i // 2} for i in range(8)
    ]
    assert summarize(half).accuracy == pytest.approx((0.5, 0.0798, 0.9202, 8), abs=1e-3)
    assert summarize([]).accuracy.value is None
    # Two patients of one and of three questions: as for two items, and so for replies that are all
    # wrong.
    uneven = [{"id": str(i), "value": 1.0, "status": "ok", "group": int(i > 0)} for i in range(4)]
    assert summarize(uneven).accuracy == pytest.approx((1.0, 0.3424, 1.0, 4), abs=1e-4)
    assert summarize([{**row, "value": 0.0} for row in uneven]).accuracy == pytest.approx(
        (0.0, 0.0, 0.6576, 4), abs=1e-4
    )


def test_a_failed_item_does_not_decide_the_method():
    result = [*rows(2, 4), {"id": "x", "value": None, "status": "error", "group": "p"}]
    assert summarize(result).method == "wilson"


def test_groups_of_a_task_use_its_method():
    result = [
        *rows(2, 4, group=2, kind="a"),
        *({**row, "id": row["id"] + "b", "group": None} for row in rows(1, 3, kind="b")),
    ]
    assert {
        one.method
        for one in by_facet(result, ["kind"], method=summarize(result).method)["kind"].values()
    } == {"effective wilson"}


def test_each_table_names_its_method_and_protocol(tmp_path):
    files = {
        "a/scores.jsonl": rows(3, 6, kind="x"),
        "b/scores.jsonl": rows(3, 6, group=2, kind="y"),
    }
    evaluation_report = build.build(make_run(tmp_path, files))
    for output in (
        build.as_markdown(evaluation_report),
        "".join(build.iterate_html(evaluation_report)),
    ):
        assert (
            "Protocol: strict. Intervals: Wilson: a; Wilson for the effective number of items: b."
            " Groups: b 3." in output
        )
        assert output.count("Protocol: strict.") == 3  # the overview and one facet of each task
        assert "Protocol: strict. Intervals: Wilson for the effective number of items." in output


def test_protocols_stand_side_by_side(tmp_path):
    files = {
        "a/scores.jsonl": rows(3, 4),
        "a/scores.medevalkit.jsonl": rows(1, 4, protocol="medevalkit"),
    }
    evaluation_report = build.build(
        make_run(tmp_path, files, known_issues={"medevalkit": ["An empty reply is right."]})
    )
    assert evaluation_report.tasks[0].protocol == "strict"
    assert evaluation_report.tasks[0].summary.correct == 3
    assert evaluation_report.tasks[0].protocols["medevalkit"].summary.correct == 1
    markdown = build.as_markdown(evaluation_report)
    assert "|  | strict | medevalkit |" in markdown
    assert "75.0 (30.1 to 95.4), unread 0 | 25.0 (4.6 to 69.9), unread 0" in markdown
    assert "### Known behavior of the protocol medevalkit\n\n- An empty reply is right." in markdown


def test_what_is_known_of_a_protocol_is_reported_without_a_run_card(tmp_path):
    for protocol in ("medevalkit", "paper"):
        write_scores(tmp_path / "a" / f"scores.{protocol}.jsonl", rows(1, 4, protocol=protocol))
    write_scores(tmp_path / "a" / "scores.jsonl", rows(2, 4))
    evaluation_report = build.build(tmp_path)
    assert list(evaluation_report.tasks[0].protocols) == ["paper", "medevalkit"]
    for protocol in ("medevalkit", "paper"):
        assert evaluation_report.tasks[0].protocols[protocol].known_issues == quirks(protocol)
    assert all(
        sentence.replace("<", "&lt;") in build.as_markdown(evaluation_report)
        for sentence in quirks("medevalkit")
    )


def test_the_run_card_names_which_protocol_leads(tmp_path):
    files = {"a/scores.jsonl": rows(3, 4), "a/scores.paper.jsonl": rows(1, 4)}
    evaluation_report = build.build(
        make_run(tmp_path, files, protocol="paper", known_issues=["It cuts."])
    )
    assert (
        evaluation_report.tasks[0].protocol,
        evaluation_report.tasks[0].summary.correct,
        evaluation_report.tasks[0].known_issues,
    ) == (
        "paper",
        1,
        ("It cuts.",),
    )
    assert list(evaluation_report.tasks[0].protocols) == ["strict"]
    assert list(build.build(make_run(tmp_path, files, protocol=["paper"])).tasks[0].protocols) == []
    assert (
        build.build(make_run(tmp_path / "alone", {"a/scores.paper.jsonl": rows(1, 4)}))
        .tasks[0]
        .protocol
        == "paper"
    )


def test_scores_left_over_from_other_items_are_not_shown(tmp_path):
    run = make_run(tmp_path, {"a/scores.jsonl": rows(3, 4), "a/scores.paper.jsonl": rows(1, 3)})
    task = build.build(run).tasks[0]
    assert not task.protocols
    assert "under the protocol paper are over other items" in task.excluded[0]
    assert task.excluded[0] in build.as_markdown(build.build(run))


def test_scores_of_mixed_or_doubled_protocols_are_refused(tmp_path):
    mixed = [*rows(1, 1, protocol="strict"), {**rows(1, 1, protocol="paper")[0], "id": "z"}]
    with pytest.raises(ArtifactError, match="mixes the protocols paper, strict"):
        build.build(make_run(tmp_path / "mixed", {"a/scores.jsonl": mixed}))
    duplicate = {"a/scores.jsonl": rows(1, 2, protocol="paper"), "a/scores.paper.jsonl": rows(1, 2)}
    with pytest.raises(ArtifactError, match="once more"):
        build.build(make_run(tmp_path / "twice", duplicate))
    named = {"a/scores.jsonl": rows(1, 2), "a/scores.strict.jsonl": rows(2, 2)}
    with pytest.raises(ArtifactError, match="protocol strict once more"):
        build.build(make_run(tmp_path / "named", named))


def test_a_report_without_samples_holds_no_replies(tmp_path):
    run = make_run(
        tmp_path,
        {
            "a/scores.jsonl": rows(
                300, 600, question="a long question " * 50, reply="a long reply " * 50, gold=["yes"]
            )
        },
    )
    command(run, no_samples=True)
    for name in ("report.json", "report.md", "report.html"):
        assert "a long" not in (run / name).read_text()
        assert (run / name).stat().st_size < 20_000


def test_against_another_run_in_every_form(tmp_path, capsys):
    ours = make_run(
        tmp_path / "ours", {"a/scores.jsonl": rows(8, 10), "b/scores.jsonl": rows(5, 5)}
    )
    theirs = make_run(tmp_path / "theirs", {"a/scores.jsonl": rows(2, 10)})
    assert command(ours, against=str(theirs)) == 0
    out = capsys.readouterr().out
    assert "+60.0" in out and "0.031" in out  # 6 : 0 items, 2 / 2^6
    output = read_json(ours / "report.json")["paired"]
    assert output["run"] == "theirs" and output["tasks"][0]["test"] == {
        "p_value": 0.03125,
        "name": "McNemar, exact",
        "n_discordant": 6,
    }
    assert output["excluded"] == {"b": "only in this run"}
    for name in ("report.md", "report.html"):
        output = (ours / name).read_text()
        assert "+60.0" in output and "6 : 0" in output and "b: only in this run." in output
        assert str(tmp_path) not in output
    kept = [(ours / name).read_bytes() for name in ("report.json", "report.md", "report.html")]
    command(ours, against=str(theirs))
    assert kept == [
        (ours / name).read_bytes() for name in ("report.json", "report.md", "report.html")
    ]
    command(ours)
    assert read_json(ours / "report.json")["paired"] is None


def test_a_terminal_shows_several_runs_and_what_each_is_compared_with(tmp_path, capsys):
    runs = [make_run(tmp_path / name, {"a/scores.jsonl": rows(1, 2)}) for name in ("x", "y")]
    command(*runs)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and "" not in lines and lines[3].startswith("report: ")
    command(*runs, against=str(runs[0]))
    assert capsys.readouterr().out.count("\n\nAgainst x (m)\n\n") == 2


def test_a_wrong_other_run_leaves_the_reports_as_they_are(tmp_path):
    ours, other = (
        make_run(tmp_path / "ours", {"a/scores.jsonl": rows(1, 2)}),
        make_run(tmp_path / "other", {"b/scores.jsonl": rows(1, 2)}),
    )
    with pytest.raises(InputError, match="ours and other have no task in common"):
        command(ours, against=str(other))
    with pytest.raises(ArtifactError, match="holds no scores"):
        command(ours, against=str(tmp_path / "absent"))
    assert not (ours / "report.json").exists()


def test_a_task_that_needs_a_judge_did_not_fail(tmp_path):
    waits = [
        {
            "id": f"h{i}",
            "value": None,
            "status": "error",
            "note": f"{NEEDS_JUDGE}: sample {i}",
            "kind": "rubric",
        }
        for i in range(9)
    ]
    evaluation_report = build.build(
        make_run(tmp_path, {"a/scores.jsonl": rows(3, 4), "h/scores.jsonl": waits})
    )
    assert (evaluation_report.warning, evaluation_report.macro, evaluation_report.micro) == (
        None,
        0.75,
        0.75,
    )
    assert (
        evaluation_report.tasks[1].summary.statuses["error"]
        == evaluation_report.tasks[1].summary.n_awaiting_judge
        == 9
    )
    overview = overview_rows(evaluation_report)
    assert overview[1] == ["h (needs a judge: not scored, 9 kept)", *"––––––", "0"]
    assert len(overview) == 2
    for output in (
        build.as_markdown(evaluation_report),
        "".join(build.iterate_html(evaluation_report)),
    ):
        assert "error 0, needs a judge: not scored 9" in output
    assert comparison_table(["x"], [evaluation_report])[1][1] == ["h", "needs a judge: not scored"]
    failed = [*waits, {"id": "x", "value": None, "status": "error", "note": "busy"}]
    evaluation_report = build.build(
        make_run(tmp_path / "failed", {"a/scores.jsonl": rows(3, 4), "h/scores.jsonl": failed})
    )
    assert evaluation_report.warning is not None and evaluation_report.warning.startswith(
        "1 of 5 samples"
    )


@pytest.mark.parametrize(
    ("problem", "cause"),
    [
        ({"status": "unparsed", "value": None, "truncated": True}, "max_tokens is too small"),
        ({"status": "ok", "value": 1.0, "truncated": True}, "max_tokens is too small"),
        ({"status": "refused", "value": None}, "the model refuses"),
        ({"status": "empty", "value": None}, "the chat template is wrong"),
        ({"status": "multiple", "value": None}, "the chat template is wrong"),
    ],
)
def test_many_replies_with_a_problem_are_warned_of_first(tmp_path, capsys, problem, cause):
    good = rows(57, 94)
    bad = [row | problem | {"id": f"bad{i}"} for i, row in enumerate(rows(0, 6))]
    run = make_run(tmp_path / "loud", {"t/scores.jsonl": good + bad})
    warning = build.build(run).warning
    assert warning is not None and f"likely cause: {cause}" in warning
    assert "6 of 100 replies (6.0%)" in warning and "accuracy without them: 60.6 (" in warning
    quiet = make_run(tmp_path / "quiet", {"t/scores.jsonl": good + bad[:4]})
    assert build.build(quiet).warning is None
    command(run)
    assert capsys.readouterr().out.startswith("WARNING: ")
    markdown = (run / "report.md").read_text(encoding="utf-8")
    assert markdown.index("likely cause") < markdown.index("|")


def test_means_are_over_tasks_of_one_measure(tmp_path):
    graded = [{"id": str(i), "value": 0.2, "status": "ok", "kind": "report"} for i in range(4)]
    perfect = [{**row, "value": 1.0} for row in graded]
    files = {"a/scores.jsonl": rows(3, 4), "b/scores.jsonl": rows(1, 4), "c/scores.jsonl": graded}
    evaluation_report = build.build(make_run(tmp_path / "one", files))
    assert (evaluation_report.macro, evaluation_report.micro) == (0.5, 0.5)
    assert "Not accuracy but the mean of scores between 0 and 1: c." in build.as_markdown(
        evaluation_report
    )
    # A scorer of reports gives parts of a point, even where all of them are whole.
    evaluation_report = build.build(
        make_run(tmp_path / "two", {**files, "d/scores.jsonl": perfect})
    )
    assert [(row[0], row[3]) for row in overview_rows(evaluation_report)[4:]] == [
        ("mean over tasks (macro)", "50.0"), ("mean over samples (micro)", "50.0"),
        ("mean score over tasks (macro)", "60.0"), ("mean score over samples (micro)", "60.0"),
    ]  # fmt: skip
    other = make_run(tmp_path / "other", files)
    paired = build.build(tmp_path / "one", against=str(other)).paired
    assert paired is not None and paired.macro == {"strict": 0.0}


@pytest.mark.parametrize(
    "card",
    [
        {"notes": []}, {"notes": {"tasks": []}}, {"notes": {"tasks": {"a": []}}}, {"notes": {"tasks": {"a": {"n": "4"}}}},
        {"notes": {"tasks": {"a": {"facets": "kind"}}}}, {"notes": {"tasks": {"a": {"published": ["x", "y", "z"]}}}},
        {"notes": {"tasks": {"a": {"known_issues": {"strict": 1}}}}}, {"config": 3}, {"config": {"sampling": {"a": 1}}},
    ],
)  # fmt: skip
def test_a_damaged_run_card_is_named(tmp_path, card):
    write_scores(tmp_path / "a" / "scores.jsonl", rows(1, 2))
    (tmp_path / "run.json").write_text(json.dumps(card))
    with pytest.raises(
        ArtifactError,
        match=r"run\.json: .* cannot be .*; the file is damaged: run `lingshu eval` again",
    ):
        build.build(tmp_path)


def test_markdown_in_data_is_shown_and_not_followed(tmp_path):
    evaluation_report = build.build(
        make_run(tmp_path, {"a/scores.jsonl": rows(1, 2, kind="![x](http://a.example) \\![y](z)")})
    )
    assert "| \\!\\[x\\](http://a.example) \\\\\\!\\[y\\](z) |" in build.as_markdown(
        evaluation_report
    )


def test_control_characters_of_data_are_visible_escapes() -> None:
    summary = summarize([{"id": "a", "value": 1.0, "status": "ok"}])
    text = build.as_text(
        build.assemble("m\x1b[2J\u202e", [TaskReport("t", summary, {}, title="a\x07b\x9b")])
    )
    markdown = build.as_markdown(
        build.assemble("m\x1b[2J\u202e", [TaskReport("t", summary, {}, title="a\x07b\x9b")])
    )
    for shown in (text, markdown):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", shown)
        assert "u0007b" in shown
