"""`lingshu eval --judge`: the command from end to end with a custom judge."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lingshu.core.errors import EngineError, InputError
from lingshu.core.files import read_json, read_jsonl, write_jsonl
from lingshu.core.types import EngineOptions
from lingshu.engines.openai import OpenAIEngine
from lingshu.evaluate.run import KEY_VARIABLE, JudgeConfig
from lingshu.inference.engines import open_engine
from tests.support.evaluation import evaluate

# A judge that finds correct, or met, what begins as the gold or holds "made up"; it counts its
# calls in a file.
JUDGE = '''"""A judge by rules."""
import json, re
from pathlib import Path
from lingshu.core.types import Reply

class Rules:
    model, digest, endpoint = "rule_agreement", "1", None

    def generate(self, samples, sampling, *, skip=()):
        for sample in samples:
            with Path(__file__).with_name("asked").open("a") as asked:
                asked.write(sample.id + "\\n")
            text = sample.question
            code = re.search(r"carry the code (\\w+)", text)[1]
            part = lambda name: re.search(rf"<{name}-{code}>\\n(.*?)\\n</{name}-{code}>", text, re.S)
            if part("criterion"):
                word = "met" if part("criterion")[1].split()[-1] in part("reply")[1] else "not met"
            else:
                word = "correct" if part("answer")[1] == part("standard-answer")[1].split(". ")[-1] else "incorrect"
            yield [Reply(sample.id, json.dumps({"case": code, "reason": "so", "verdict": word}), 0, "stop")]

def load(model, options):
    return Rules()
'''


@pytest.fixture
def judge(tmp_path: Path) -> str:
    path = tmp_path / "rules.py"
    path.write_text(JUDGE)
    return str(path)


def count_calls(judge: str) -> int:
    path = Path(judge).with_name("asked")
    return len(path.read_text().splitlines()) if path.is_file() else 0


def test_replies_are_judged_once_and_reported(
    judge: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert evaluate("echo", "vqa_rad", out=out, synthetic=True) == 0
    before = (out / "vqa_rad" / "scores.jsonl").read_bytes()
    assert evaluate("echo", "vqa_rad", out=out, synthetic=True, judge=judge) == 0
    calls = count_calls(judge)
    output = capsys.readouterr().out
    assert calls == len(list(read_jsonl(out / "vqa_rad" / "judge" / "calls.jsonl"))) > 0
    assert (
        "judge: VQA-RAD: synthetic samples" in output
        and "Agrees with the rules: 100.0%" in output
        and "0 generated now" in output
    )
    card = read_json(out / "run.json")
    assert card["config"]["judge"]["model"] == judge and card["notes"]["tasks"]["vqa_rad"][
        "protocol"
    ] == ["strict", "judge"]
    assert (out / "vqa_rad" / "scores.jsonl").read_bytes() == before
    page = (out / "report.html").read_bytes()
    assert evaluate("echo", "vqa_rad", out=out, synthetic=True, judge=judge) == 0
    assert count_calls(judge) == calls and (out / "report.html").read_bytes() == page


def test_without_a_judge_nothing_is_judged_and_old_verdicts_are_not_shown(
    judge: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    evaluate("echo", "vqa_rad", out=out, synthetic=True)
    plain = (out / "report.json").read_bytes()
    evaluate("echo", "vqa_rad", out=out, synthetic=True, judge=judge)
    assert (out / "report.json").read_bytes() != plain
    evaluate("echo", "vqa_rad", out=out, synthetic=True)
    assert (out / "report.json").read_bytes() == plain


def test_a_rubric_is_led_by_its_judge(
    judge: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    output = "echo:It is made up; which person wants to know?"
    assert evaluate(output, "healthbench", out=out, synthetic=True) == 0
    assert "needs a judge: not scored, 2 kept" in capsys.readouterr().out
    assert evaluate(output, "healthbench", out=out, synthetic=True, judge=judge) == 0
    (task,) = read_json(out / "report.json")["tasks"]
    # Made up (5) and asking why (3) are met, naming a country that it lies "in" (-4) is not.
    assert task["protocol"] == "judge" and task["summary"]["accuracy"]["value"] == 1.0
    assert {
        name: one["value"] for name, one in task["judge_result"]["criterion_scores"].items()
    } == {
        "accuracy": 1.0,
        "context_awareness": 1.0,
    }
    assert count_calls(judge) == 6


def test_a_judge_of_rules_needs_no_model(tmp_path: Path) -> None:
    for output, name in (("echo", "right"), ("echo:no idea", "wrong")):
        assert evaluate(output, "smoke", out=tmp_path / name, synthetic=True, judge="scripted") == 0
        tasks = [
            task
            for task in read_json(tmp_path / name / "report.json")["tasks"]
            if task["judge_result"]
        ]
        assert len(tasks) == 5 and not any(task["judge_result"]["failed"] for task in tasks)
        assert all(
            task["judge_result"]["rule_agreement"]["observed_agreement"] == 1.0
            for task in tasks
            if task["judge_result"]["rule_agreement"]
        )
        assert {task["protocols"]["judge"]["summary"]["accuracy"]["value"] for task in tasks} == {
            float(name == "right")
        }


def test_reports_are_not_judged(
    judge: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("echo", "iu_xray", out=tmp_path / "out", synthetic=True, judge=judge) == 0
    assert "nothing to judge" in capsys.readouterr().out and count_calls(judge) == 0


def test_labels_of_people(judge: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    evaluate("echo", "vqa_rad", out=out, synthetic=True)
    names = [row["id"] for row in read_jsonl(out / "vqa_rad" / "scores.jsonl")]
    write_jsonl(
        tmp_path / "labels.jsonl",
        [{"id": name, "verdict": "correct"} for name in [*names, "elsewhere"]],
    )
    evaluate(
        "echo",
        "vqa_rad",
        out=out,
        synthetic=True,
        judge=judge,
        judge_human_labels=tmp_path / "labels.jsonl",
    )
    output = capsys.readouterr().out
    assert f"with people: 100.0% of {len(names)}, kappa not defined" in output
    assert "1 labels are of replies that were not judged" in output


def test_a_judge_without_verdicts_gives_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate("echo", "vqa_rad", out=tmp_path / "out", synthetic=True, judge="echo:yes") == 1
    assert "malformed" in capsys.readouterr().out
    assert {
        row["status"] for row in read_jsonl(tmp_path / "out" / "vqa_rad" / "scores.judge.jsonl")
    } == {"error"}


def test_a_judge_that_cannot_be_reached_is_named_as_the_judge(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"the judge: http://127\.0\.0\.1:9/v1 does not answer"):
        evaluate(
            "echo", "vqa_rad", out=tmp_path / "out", synthetic=True, judge="http://127.0.0.1:9/v1#m"
        )
    assert (tmp_path / "out" / "vqa_rad" / "scores.jsonl").is_file()


def test_options_of_a_judge_need_a_judge() -> None:
    assert JudgeConfig(max_tokens=64).check() == []
    for config in (
        JudgeConfig(key_file=Path("k")),
        JudgeConfig(budget=5),
        JudgeConfig(human_labels=Path("l")),
        JudgeConfig(agreement=("a",)),
        JudgeConfig(allow_remote=True),
    ):
        with pytest.raises(InputError, match="--judge MODEL"):
            config.check()
    with pytest.raises(InputError, match="--judge-budget 0"):
        JudgeConfig(model="echo", budget=0).check()


def test_the_judge_has_its_own_key_and_its_own_permissions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "https://judge.example/v1#j"
    (tmp_path / "key").write_text("from-file\n")
    monkeypatch.setenv("OPENAI_API_KEY", "the-models")
    options = EngineOptions(api_key=None)

    def key(config: JudgeConfig) -> str | None:
        engine = open_engine(url, config.engine_options(options))
        assert (
            isinstance(engine, OpenAIEngine)
            and not engine.data_policy.agreements
            and not engine.data_policy.allow_private
        )
        return engine.server.api_key

    assert key(JudgeConfig(model=url)) == "the-models"
    monkeypatch.setenv(KEY_VARIABLE, "from-environment")
    assert key(JudgeConfig(model=url)) == "from-environment"
    assert key(JudgeConfig(model=url, key_file=tmp_path / "key")) == "from-file"
    assert "from-" not in json.dumps(
        JudgeConfig(model=url, key_file=Path("key")).__dict__, default=str
    )
    for name in ("missing", "empty"):
        (tmp_path / "empty").write_text(" \n")
        with pytest.raises(InputError, match=r"--judge-key-file .* (cannot be read|is empty)"):
            key(JudgeConfig(model=url, key_file=tmp_path / name))
