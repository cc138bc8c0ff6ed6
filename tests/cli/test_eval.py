"""`lingshu eval`: what it writes, what it counts, what it refuses."""

import json

import pytest

from lingshu.core.errors import (
    DataPolicyError,
    EngineError,
    InputError,
    LingshuError,
    MissingExtraError,
    UnknownNameError,
)
from lingshu.core.files import read_json, read_jsonl
from lingshu.core.types import EngineOptions, PromptStyle
from lingshu.evaluate.store import read_run
from lingshu.inference.engines import engine_name, open_engine
from tests.support.evaluation import evaluate

TASK = '''"""Ten questions, two of them with an image that is not there, and two rows that were dropped."""
from lingshu.core.messages import user_turn
from lingshu.core.types import Drop, Image, Meta, Provenance, Sample, Task
from lingshu.scoring import auto

MISSING = {missing}

def samples(data):
    for i in range(10):
        images = (Image("nowhere.png"),) if i in MISSING else ()
        choices = ("left", "right") if i >= 5 else ()
        gold = "A" if choices else "yes"
        meta = Meta(access={access!r}, kind="side" if choices else "lesion")
        yield Sample(f"s{{i}}", (user_turn(f"Question {{i}}?", len(images)),), images, (gold,), choices, meta)
    yield Drop("a", "no_gold")
    yield Drop("b", "no_gold")

TASK = Task({name!r}, {title!r}, Provenance("made up", "CC0"), samples, auto.score, lambda seed: [], facets=("kind",))
'''


@pytest.fixture
def task(tmp_path):
    def write(name: str = "demo", *, missing: tuple[int, ...] = (), access: str = "open") -> str:
        path = tmp_path / f"{name}.py"
        path.write_text(
            TASK.format(name=name, title=name.title(), missing=missing, access=access),
            encoding="utf-8",
        )
        return str(path)

    return write


def test_a_run_writes_replies_scores_report_and_run_card(task, tmp_path, capsys):
    out = tmp_path / "out"
    assert evaluate("echo", task(), out=out) == 0
    assert len(list(read_jsonl(out / "demo" / "replies.jsonl"))) == 10
    assert [row["value"] for row in read_jsonl(out / "demo" / "scores.jsonl")] == [1.0] * 10
    assert {path.name for path in out.glob("report.*")} == {
        "report.json",
        "report.md",
        "report.html",
    }
    card = read_json(out / "run.json")
    assert (card["verb"], card["config"]["model"]) == ("eval", "echo")
    assert card["counts"] == {
        "samples": 10,
        "answered_before": 0,
        "requested": 10,
        "errors": 0,
        "scaled_images": 0,
        "dropped": 2,
    }
    captured = capsys.readouterr()
    assert "10 samples, 10 generated now, 0 before, 2 dropped, 0 errors" in captured.out
    assert "demo: 10/10, 0 failed" in captured.err
    assert "dropped: no_gold 2" in (out / "report.md").read_text()


def test_errors_are_counted_and_give_exit_code_1(task, tmp_path, capsys):
    out = tmp_path / "out"
    assert evaluate("echo", task(missing=(2, 7)), out=out) == 1
    report_json = read_json(out / "report.json")
    assert report_json["tasks"][0]["summary"]["statuses"]["error"] == 2
    assert report_json["tasks"][0]["summary"]["n"] == 8
    assert capsys.readouterr().out.startswith("WARNING: 2 of 10 samples (20.0%) failed")


def test_several_tasks_make_one_report_with_means(task, tmp_path):
    out = tmp_path / "out"
    assert evaluate("echo:yes", f"{task('one')}, {task('two')}", out=out, limit=6) == 0
    report_json = read_json(out / "report.json")
    assert [task_row["name"] for task_row in report_json["tasks"]] == ["one", "two"]
    assert report_json["macro"] == pytest.approx(5 / 6)


def test_a_second_run_generates_nothing_and_keeps_the_report(task, tmp_path):
    out = tmp_path / "out"
    name = task()
    evaluate("echo", name, out=out)
    kept = {path.name: path.read_bytes() for path in out.glob("report.*")}
    evaluate("echo", name, out=out)
    assert read_json(out / "run.json")["counts"]["requested"] == 0
    assert {path.name: path.read_bytes() for path in out.glob("report.*")} == kept


def test_other_options_generate_again(task, tmp_path):
    name, out = task(), tmp_path / "out"
    for run in (
        lambda: evaluate("echo", name, out=out),
        lambda: evaluate("echo", name, out=out, seed=1),
        lambda: evaluate("echo", name, out=out, temperature=0.5),
        lambda: evaluate("echo", name, out=out, max_tokens=9),
    ):
        run()
        assert read_json(out / "run.json")["counts"]["requested"] == 10


def test_wrong_input_is_named(task, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="no task"):
        evaluate("echo", " , ", out=out)
    with pytest.raises(InputError, match="twice"):
        evaluate("echo", f"{task()},{task()}", out=out)
    with pytest.raises(UnknownNameError, match="no_such_task"):
        evaluate("echo", "no_such_task", out=out)
    with pytest.raises(InputError, match="--limit"):
        evaluate("echo", task(), out=out, limit=0)
    (tmp_path / "odd.py").write_text('"""Odd."""\nTASK = 1\n')
    with pytest.raises(InputError, match="not a Task"):
        evaluate("echo", str(tmp_path / "odd.py"), out=out)
    (tmp_path / "up.py").write_text(TASK.format(name="../up", title="t", missing=(), access="open"))
    with pytest.raises(InputError, match="folder"):
        evaluate("echo", str(tmp_path / "up.py"), out=out)
    assert not out.exists()


def test_private_samples_stay_here_unless_allowed(task, tmp_path):
    with pytest.raises(DataPolicyError, match="--allow-remote"):
        evaluate("https://example.org/v1#m", task(access="private"), out=tmp_path / "out")
    assert not (tmp_path / "out" / "demo").exists()


@pytest.mark.parametrize(
    ("model", "engine"),
    [("echo", "echo"), ("echo:no", "echo"), ("http://127.0.0.1:1/v1#m", "openai"), ("https://h/v1#m", "openai"), ("runs/a", "hf"),
     ("lingshu-medical-mllm/Lingshu-7B", "hf"), ("mine.py", "mine.py"), ("echoes", "hf")],
)  # fmt: skip
def test_a_model_name_leads_to_its_engine(model, engine):
    assert engine_name(model) == engine


def test_a_custom_engine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        '"""Mine."""\nfrom lingshu.engines import echo\ndef load(model, options):\n    return'
        ' echo.load("echo:no", options)\n'
    )
    assert open_engine(str(path), EngineOptions()).model == "echo:no"


def test_a_missing_torch_names_the_extra(tmp_path):
    path = tmp_path / "needs.py"
    path.write_text(
        '"""Needs torch."""\ndef load(model, options):\n    raise ModuleNotFoundError("no",'
        ' name="torch.nn")\n'
    )
    with pytest.raises(MissingExtraError, match=r"lingshu\[torch\]"):
        open_engine(str(path), EngineOptions())


def test_the_command_line_reaches_it(task, tmp_path, capsys):
    from lingshu.cli.main import main

    out = tmp_path / "out"
    assert main(["eval", "echo", task(), "--out", str(out), "--limit", "3"]) == 0
    assert main(["report", str(out)]) == 0
    assert main(["eval", "echo", "nothing", "--out", str(out)]) == 2
    assert json.loads((out / "report.json").read_text())["model"] == "echo"
    assert "3 samples" in capsys.readouterr().out


def test_a_suite_of_synthetic_tasks_runs_without_data_under_every_protocol(tmp_path, capsys):
    out = tmp_path / "out"
    assert (
        evaluate("echo", "paper_multimodal,paper_text", out=out, synthetic=True, protocol="all")
        == 0
    )
    card = read_json(out / "run.json")
    assert len(card["notes"]["tasks"]) == 15
    assert card["notes"]["tasks"]["slake"]["protocol"] == ["strict", "paper", "medevalkit"]
    assert card["notes"]["tasks"]["slake"]["known_issues"]["medevalkit"]
    for name in ("scores.jsonl", "scores.paper.jsonl", "scores.medevalkit.jsonl"):
        assert (out / "slake" / name).is_file()
    assert all(row["value"] == 1.0 for row in read_jsonl(out / "slake" / "scores.jsonl"))
    # Synthetic questions are not the benchmark: their score is not compared with a published value.
    assert card["notes"]["tasks"]["slake"]["published"] is None


def test_prompt_styles_differ_in_wording_and_in_room_to_reason(tmp_path):
    expected: dict[PromptStyle, int] = {"direct": 256, "cot": 8192}
    for style, max_tokens in expected.items():
        assert (
            evaluate(
                "echo", "medqa_usmle", out=tmp_path / style, synthetic=True, prompt_style=style
            )
            == 0
        )
        assert (
            read_json(tmp_path / style / "run.json")["config"]["sampling"]["medqa_usmle"][
                "max_tokens"
            ]
            == max_tokens
        )
    keys = [
        {row["key"] for row in read_jsonl(tmp_path / style / "medqa_usmle" / "replies.jsonl")}
        for style in ("direct", "cot")
    ]
    assert not keys[0] & keys[1]


def test_processes_share_the_questions_and_the_last_one_reports(task, tmp_path, capsys):
    path, out, single_process = task(), tmp_path / "out", tmp_path / "whole"
    assert evaluate("echo", path, out=out, rank=1, world_size=2) == 0
    assert "5 still with other processes" in capsys.readouterr().out
    assert not (out / "report.json").exists()
    assert evaluate("echo", path, out=out, rank=0, world_size=2) == 0
    assert evaluate("echo", path, out=single_process) == 0
    assert (out / "report.json").read_bytes() == (single_process / "report.json").read_bytes()


CONCURRENT_TASK = '''"""Says yes; while the first process asks the second task, the other one does all of its share."""
from pathlib import Path

from lingshu.core.types import Reply
from tests.support.evaluation import evaluate

asked = []

class Engine:
    model, digest, endpoint = "overtaken", "1", None

    def generate(self, samples, sampling, *, skip=()):
        asked.append(len(samples))
        if len(asked) == 2:
            evaluate({me!r}, {tasks!r}, out=Path({out!r}), rank=0, world_size=2)
        yield [Reply(sample.id, "yes", finish="stop") for sample in samples if (sample.id, 0) not in skip]

def load(model, options):
    return Engine()
'''


def test_the_last_process_reports_also_where_each_was_last_in_one_task(task, tmp_path, capsys):
    me, out, tasks = tmp_path / "overtaken.py", tmp_path / "out", f"{task('one')},{task('two')}"
    me.write_text(CONCURRENT_TASK.format(me=str(me), tasks=tasks, out=str(out)), encoding="utf-8")
    assert evaluate(str(me), tasks, out=out, rank=1, world_size=2) == 0
    assert capsys.readouterr().out.count("still with other processes") == 1
    assert [task["summary"]["n"] for task in read_json(out / "report.json")["tasks"]] == [10, 10]


def test_a_later_command_does_not_forget_how_an_earlier_task_was_run(task, tmp_path):
    out = tmp_path / "out"
    assert evaluate("echo", task("one"), out=out, limit=3, max_tokens=7) == 0
    assert evaluate("echo", task("two"), out=out, max_tokens=9) == 0
    assert [
        (scored_task.name, scored_task.limit, scored_task.max_tokens)
        for scored_task in read_run(out).tasks
    ] == [
        ("one", 3, 7),
        ("two", None, 9),
    ]


def test_data_of_another_size_are_refused_unless_a_part_is_requested(tmp_path):
    rows = tmp_path / "data" / "medqa_usmle"
    rows.mkdir(parents=True)
    row = {"id": "1", "question": "Which?", "choices": ["a", "b", "c", "d"], "gold": "B"}
    (rows / "rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="medqa_usmle has 1 samples where its source states 1273"):
        evaluate("echo", "medqa_usmle", out=tmp_path / "out", data=tmp_path / "data")
    assert (
        evaluate("echo", "medqa_usmle", out=tmp_path / "out", data=tmp_path / "data", limit=5) == 0
    )
    notes = read_json(tmp_path / "out" / "run.json")["notes"]["tasks"]["medqa_usmle"]
    assert notes["revision"].startswith("sha256:") and notes["published"] == [
        "textual",
        "MedQA-USMLE",
    ]


def test_one_folder_holds_one_model(task, tmp_path):
    path, out = task(), tmp_path / "out"
    assert evaluate("echo", path, out=out) == 0
    before = (out / "report.json").read_bytes()
    for other in ("echo:no", "http://127.0.0.1:9/v1#other"):
        with pytest.raises(
            InputError, match=r"holds an evaluation of 'echo' .*; choose another --out"
        ):
            evaluate(other, path, out=out)
    assert read_json(out / "run.json")["notes"]["model"] == "echo"
    assert (out / "report.json").read_bytes() == before


def test_a_run_that_fails_puts_no_card_next_to_the_scores(task, tmp_path):
    with pytest.raises(EngineError):
        evaluate("http://127.0.0.1:9/v1#nobody", task(), out=tmp_path / "out")
    assert not (tmp_path / "out" / "run.json").exists()


def test_another_task_in_the_same_folder_keeps_the_metadata_of_the_first(task, tmp_path):
    out = tmp_path / "out"
    assert evaluate("echo", task("one"), out=out) == 0
    assert evaluate("echo", task("two"), out=out) == 0
    tasks = read_json(out / "run.json")["notes"]["tasks"]
    assert (tasks["one"]["title"], tasks["two"]["title"]) == ("One", "Two")


def test_drops_are_named_on_the_disk_and_counted_on_the_screen(task, tmp_path, capsys):
    assert evaluate("echo", task(), out=tmp_path / "out") == 0
    assert "dropped: no_gold 2 (listed in drops.jsonl" in capsys.readouterr().out
    assert [row["id"] for row in read_jsonl(tmp_path / "out" / "demo" / "drops.jsonl")] == [
        "a",
        "b",
    ]


def test_one_of_several_tasks_without_data_is_left_out_and_reported(tmp_path, capsys):
    data = tmp_path / "data" / "vqa"
    data.mkdir(parents=True)
    (data / "rows.jsonl").write_text(
        '{"id": "1", "question": "Is it?", "gold": "yes"}\n', encoding="utf-8"
    )
    assert evaluate("echo", "medqa_usmle,vqa", out=tmp_path / "out", data=tmp_path / "data") == 1
    report_json = capsys.readouterr().out
    assert "skipped: medqa_usmle: " in report_json and "1 generated now" in report_json
    assert read_json(tmp_path / "out" / "run.json")["notes"]["excluded"].keys() == {"medqa_usmle"}


def test_a_third_party_task_or_engine_that_fails_is_one_line(task, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text('"""Mine."""\n1 / 0\n')
    with pytest.raises(
        InputError, match=r"broken.py cannot be loaded: ZeroDivisionError: .*\(broken.py, line 2\)"
    ):
        evaluate("echo", str(broken), out=tmp_path / "out")
    engine = tmp_path / "engine.py"
    engine.write_text(
        '"""Mine."""\nclass Engine:\n    model, digest, endpoint = "mine", "1", None\n    def'
        " generate(self, samples, sampling, *, skip=()):\n        raise RuntimeError('out of"
        " memory')\n        yield []\ndef load(model, options):\n    return Engine()\n"
    )
    with pytest.raises(
        EngineError, match=r"mine failed: RuntimeError: out of memory .*run the same command again"
    ):
        evaluate(str(engine), task(), out=tmp_path / "out")


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": float("nan")},
        {"temperature": -1.0},
        {"max_tokens": 0},
        {"concurrency": 0},
        {"threads": 0},
    ],
)
def test_options_without_effect_are_refused(task, tmp_path, wrong):
    with pytest.raises(LingshuError, match=next(iter(wrong))):  # before the model is opened
        evaluate("no/such/model", task(), out=tmp_path / "out", **wrong)
    assert not (tmp_path / "out" / "run.json").exists()
