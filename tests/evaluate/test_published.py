"""The published leaderboard in the package, and runs compared with it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lingshu.core.artifacts import write_scores
from lingshu.core.errors import ArtifactError, InputError
from lingshu.core.files import read_json
from lingshu.evaluate import published
from lingshu.evaluate.report import build
from lingshu.evaluate.statistics import macro
from lingshu.evaluate.store import ScoredRun, ScoredTask
from tests.support.evaluation import report as command

SHARED = Path(__file__).parents[3] / "shared" / "leaderboard.json"
MULTIMODAL = ("MMMU-Med", "VQA-RAD", "SLAKE", "PathVQA", "PMC-VQA", "OmniMedVQA", "MedXpertQA-MM")


def rows(right: int, n: int) -> list[dict]:
    return [
        {"id": f"i{i}", "value": float(i < right), "status": "ok", "gold": ["yes"]}
        for i in range(n)
    ]


def make_task(name: str, column: object, right: int, n_rows: int, **more) -> ScoredTask:
    return ScoredTask(name, {"published": column, **more}, {"strict": rows(right, n_rows)})


def make_run(*tasks: ScoredTask, model: str = "lingshu-medical-mllm/Lingshu-7B") -> ScoredRun:
    return ScoredRun("run", model, tasks)


def cells(paper: published.PublishedComparison) -> dict[str, published.Cell]:
    return {cell.column: cell for cell in paper.cells}


def test_the_printed_rows_of_the_package():
    tables = published.load_leaderboard()["tables"]
    lingshu = {row["model"]: row for row in tables["multimodal"]["rows"]}["Lingshu-7B"]
    assert [lingshu["scores"][column] for column in MULTIMODAL] == [
        54.0,
        67.9,
        83.1,
        61.9,
        56.3,
        82.9,
        26.7,
    ]
    assert lingshu["avg_published"] == 61.8
    for table in ("multimodal", "textual"):
        for row in tables[table]["rows"]:
            if row["avg_recomputed"] is not None:
                assert macro(list(row["scores"].values())) == pytest.approx(
                    row["avg_recomputed"], abs=0.0051
                ), row["model"]
    assert [len(tables[name]["rows"]) for name in ("multimodal", "textual", "report")] == [
        28,
        25,
        21,
    ]


@pytest.mark.skipif(
    not SHARED.is_file(),
    reason="the transcription that the package's copy was taken from is not here",
)
def test_the_package_holds_the_transcription_as_it_is():
    assert published.load_leaderboard() == json.loads(SHARED.read_text(encoding="utf-8"))


def test_a_column_is_named_by_the_run_card_alone():
    assert published.published_column(make_task("any", ["multimodal", "PathVQA"], 1, 2)) == (
        "multimodal",
        "PathVQA",
    )
    assert published.published_column(make_task("any", "PubMedQA", 1, 2)) == ("textual", "PubMedQA")
    assert published.published_column(make_task("any", ("report", "IU-Xray/CIDEr"), 1, 2)) == (
        "report",
        "IU-Xray/CIDEr",
    )
    assert published.published_column(make_task("PathVQA", None, 1, 2)) is None
    with pytest.raises(ArtifactError, match="did you mean 'PathVQA'"):
        published.published_column(make_task("any", ["multimodal", "PathVQ"], 1, 2))
    with pytest.raises(ArtifactError):
        published.published_column(make_task("any", ["textual", "PathVQA"], 1, 2))


def test_differences_in_points_and_which_lie_outside():
    run = make_run(
        make_task("a", "PMC-VQA", 540, 1000),
        make_task("b", "OmniMedVQA", 700, 1000),
        make_task("c", "PathVQA", 61_000, 100_000),
    )
    result = cells(published.compare(run))
    assert result["PMC-VQA"].difference == pytest.approx(54.0 - 56.3)
    assert result["PMC-VQA"].is_outside is False  # 54.0 with 50.9 to 57.1 holds 56.3
    assert result["OmniMedVQA"].is_outside is True
    # Outside an interval of half a point, but within the point below which a judged column says
    # nothing.
    assert (result["PathVQA"].tolerance, result["PathVQA"].is_outside) == (1.0, False)


def test_tasks_of_one_column_are_pooled():
    run = make_run(make_task("en", "SLAKE", 9, 10, n=10), make_task("zh", "SLAKE", 11, 30, n=31))
    paper = published.compare(run)
    column = paper.columns[0]
    assert (column.tasks, column.summary.n, column.summary.accuracy.value, column.expected) == (
        ("en", "zh"),
        40,
        0.5,
        41,
    )
    assert cells(paper)["SLAKE"].difference == pytest.approx(50.0 - 83.1)


def test_a_protocol_needs_every_task_of_its_column():
    both = {"strict": rows(1, 2), "paper": rows(2, 2)}
    en, zh = (
        ScoredTask("en", {"published": "SLAKE"}, both),
        ScoredTask("zh", {"published": "SLAKE"}, {"strict": rows(1, 2)}),
    )
    assert [column.protocol for column in published.fill_columns(make_run(en, zh))] == ["strict"]
    assert [column.protocol for column in published.fill_columns(make_run(en))] == [
        "strict",
        "paper",
    ]


def test_the_average_as_published_needs_all_columns():
    tasks = [make_task(name, name, 5 + i, 10 + i) for i, name in enumerate(MULTIMODAL)]
    [part] = published.compute_averages(published.fill_columns(make_run(*tasks[:6])))
    assert (part.macro, len(part.columns), part.n_columns) == (None, 6, 7)
    assert (
        cells(published.compare(make_run(*tasks[:6])))["avg_published"].skip_reason
        == "6 of 7 columns"
    )
    [full] = published.compute_averages(published.fill_columns(make_run(*tasks)))
    assert full.macro == pytest.approx(sum((5 + i) / (10 + i) for i in range(7)) / 7)
    assert full.micro == pytest.approx(56 / 91)
    # 60.05 to one decimal is what the paper would print.
    assert cells(published.compare(make_run(*tasks)))["avg_published"].difference == pytest.approx(
        round(100 * (full.macro or 0), 1) - 61.8
    )


def test_suspect_cells_are_skipped_and_named():
    paper = published.compare(make_run(make_task("a", "PMC-VQA", 5, 10)), "MedDr-40B")
    cell = cells(paper)["PMC-VQA"]
    assert cell.published == 13.9 and cell.difference is None and cell.is_unreliable
    assert cell.skip_reason is not None and "below random guessing" in cell.skip_reason
    assert [
        (unreliable["model"], unreliable["column"])
        for unreliable in paper.unreliable_cells
        if unreliable["column"] == "PMC-VQA"
    ] == [("MedDr-40B", "PMC-VQA")]
    # The reports' 296 studies are another split than their name says, in every row.
    assert "not comparable" in (
        cells(published.compare(make_run(make_task("a", "IU-Xray/CIDEr", 5, 10))))[
            "IU-Xray/CIDEr"
        ].skip_reason
        or ""
    )


def test_cells_that_were_never_printed_are_not_zero():
    cell = cells(published.compare(make_run(make_task("a", "OmniMedVQA", 5, 10)), "Med-R1-2B"))[
        "OmniMedVQA"
    ]
    assert (cell.published, cell.difference, cell.skip_reason) == (None, None, "not published")
    absent = cells(published.compare(make_run(make_task("a", "PubMedQA", 5, 10)), "Lingshu-RL-7B"))[
        "PubMedQA"
    ]
    assert absent.skip_reason == "Lingshu-RL-7B has no row in this table"


@pytest.mark.parametrize(
    ("model", "requested", "reference", "named"),
    [
        ("lingshu-medical-mllm/Lingshu-32B", None, "Lingshu-32B", True),
        ("http://localhost:8000/v1#lingshu-7b", None, "Lingshu-7B", True),
        ("mine", None, "Lingshu-7B", False),
        ("mine", "gpt-4.1", "GPT-4.1", True),
    ],
)
def test_the_row_to_compare_with(model, requested, reference, named):
    paper = published.compare(make_run(make_task("a", "PMC-VQA", 5, 10), model=model), requested)
    assert (paper.reference, paper.is_reference_named) == (reference, named)


def test_invalid_requests_are_named():
    with pytest.raises(InputError, match="did you mean 'Lingshu-7B'"):
        published.compare(make_run(make_task("a", "PMC-VQA", 5, 10)), "Lingshu-7")
    with pytest.raises(InputError, match="no task with a published column"):
        published.compare(make_run(make_task("a", None, 5, 10)))


def test_against_paper_in_every_form(tmp_path, capsys):
    write_scores(tmp_path / "t" / "scores.jsonl", rows(30, 40))
    write_scores(tmp_path / "t" / "scores.paper.jsonl", rows(20, 40))
    metadata = {"published": ["multimodal", "PMC-VQA"], "n": 2000}
    (tmp_path / "run.json").write_text(
        json.dumps({"notes": {"model": "mine", "tasks": {"t": metadata}}})
    )
    assert command(tmp_path, against="paper:MedDr-40B") == 0
    assert command(tmp_path, against="paper") == 0
    out = capsys.readouterr().out
    assert (
        "not compared †" in out
        and "† MedDr-40B, PMC-VQA, 13.9: below random guessing" in out
        and "+18.7" in out
    )
    markdown, html = (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()
    for output in (markdown, html):
        assert (
            "ours (strict)" in output
            and "ours (paper)" in output
            and "published (authors')" in output.replace("&#39;", "'")
        )
        assert "40 of 2000" in output and "this run, paper" in output and "13.9 †" in output
        assert "has no printed name; --against paper:MODEL" in output
    output = read_json(tmp_path / "report.json")["paper"]
    assert (
        output["cells"][0]["difference"] == pytest.approx(18.7)
        and output["cells"][0]["is_outside"] is None
    )
    assert (
        output["cells"][0]["no_verdict_reason"] == "part of the benchmark"
        and "part of the benchmark: no verdict" in markdown
    )
    assert output["rows"]["multimodal"]["GPT-5"]["PMC-VQA"] == 60.0
    assert build.build(tmp_path).paper is None
    assert build.build(tmp_path).averages[0].columns == ("PMC-VQA",)


def test_other_items_than_the_benchmarks_get_no_verdict(tmp_path):
    def cell(n: int | None, **more) -> published.Cell:
        task = replace(
            make_task("a", "OmniMedVQA", 700, 1000, **({} if n is None else {"n": n})), **more
        )
        return cells(published.compare(make_run(task)))["OmniMedVQA"]

    assert (cell(1000).is_outside, cell(1000).no_verdict_reason) == (True, None)
    assert (cell(None).is_outside, cell(None).no_verdict_reason) == (True, None)
    assert (cell(1001).is_outside, cell(1001).no_verdict_reason) == (None, "part of the benchmark")
    assert (cell(900).is_outside, cell(900).no_verdict_reason) == (
        None,
        "other data, 1000 items and not 900",
    )
    assert (cell(None, limit=1000).is_outside, cell(None, limit=1000).no_verdict_reason) == (
        None,
        "part of the benchmark",
    )
    assert cell(1000, limit=2000).is_outside is True
    medbullets = cells(
        published.compare(make_run(make_task("m", ["textual", "Medbullets"], 100, 308, n=308)))
    )["Medbullets"]
    assert medbullets.is_outside is None and "four or five options" in (
        medbullets.no_verdict_reason or ""
    )


def test_another_length_limit_than_the_published_one_is_reported(tmp_path):
    for name in ("a", "b", "c"):
        write_scores(tmp_path / name / "scores.jsonl", rows(30, 40))
    tasks = {name: {"published": ["multimodal", "PMC-VQA"]} for name in ("a", "b", "c")}
    config = {"sampling": {"a": {"max_tokens": 16}, "b": {"max_tokens": 8192}}, "limit": 40}
    (tmp_path / "run.json").write_text(
        json.dumps({"config": config, "notes": {"model": "mine", "tasks": tasks}})
    )
    evaluation_report = build.build(tmp_path, against="paper")
    assert (
        "- Replies had at most 16 tokens here and 8,192 in the published runs: a.\n"
        in build.as_markdown(evaluation_report)
    )
    assert (
        evaluation_report.paper is not None
        and evaluation_report.paper.cells[0].no_verdict_reason == "part of the benchmark"
    )
