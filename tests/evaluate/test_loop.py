"""Generate, score, report: resumable, matched by key, and the same bytes whichever way a run came
about.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lingshu.core.errors import ArtifactError, DataPolicyError, EngineError, ImageError, InputError
from lingshu.core.files import read_jsonl
from lingshu.core.types import (
    EngineOptions,
    Image,
    Message,
    Meta,
    Reply,
    Sample,
    Sampling,
    Task,
)
from lingshu.engines import echo
from lingshu.evaluate.generate import generate
from lingshu.evaluate.report import build
from lingshu.evaluate.report.model import TaskReport
from lingshu.evaluate.store import ScoredTask
from lingshu.imaging.read import image_bytes
from tests.support.evaluation import RecordingEngine, demo_task, score


def samples(count: int = 10) -> list[Sample]:
    return [
        Sample(
            f"s{i}",
            (Message("user", (f"Question {i}?",)),),
            gold=("yes" if i % 2 else "no",),
            meta=Meta(access="open", kind=("side", "size")[i % 2], group=f"patient-{i // 2}"),
        )
        for i in range(count)
    ]


TASK = demo_task(samples(), facets=("kind",))


def run(
    engine, folder: Path, *, samples_override: Sequence[Sample] | None = None, task: Task = TASK
):
    return generate(
        task, samples_override or samples(), engine, folder, sampling=Sampling(), images=image_bytes
    )


def test_every_sample_is_generated_once_and_scored_in_order(tmp_path):
    generated = run(RecordingEngine(reverse=True), tmp_path)
    assert generated == (10, 0, 10, 0, 0)
    rows = score(TASK, samples(), tmp_path)
    assert [row["id"] for row in rows] == [f"s{i}" for i in range(10)]
    assert {row["value"] for row in rows} == {1.0}
    assert rows[1] == {
        "id": "s1", "value": 1.0, "status": "ok", "prediction": "yes", "note": None, "protocol": "strict",
        "question": "Question 1?", "gold": ["yes"], "reply": "yes", "kind": "size", "group": "patient-0",
    }  # fmt: skip


def test_a_run_resumes_where_it_stopped_even_behind_a_torn_line(tmp_path):
    with pytest.raises(EngineError):
        run(RecordingEngine(stop_after=4), tmp_path)
    with (tmp_path / "replies.jsonl").open("a") as file:
        file.write('{"key": "abc", "te')
    engine = RecordingEngine()
    assert run(engine, tmp_path) == (10, 4, 6, 0, 0)
    assert engine.requested_ids == [f"s{i}" for i in range(4, 10)]
    keys = [row["key"] for row in read_jsonl(tmp_path / "replies.jsonl")]
    assert len(keys) == len(set(keys)) == 10


def test_a_half_answered_run_is_scored_with_the_rest_as_errors(tmp_path):
    with pytest.raises(EngineError):
        run(RecordingEngine(stop_after=4), tmp_path)
    rows = score(TASK, samples(), tmp_path)
    assert [row["status"] for row in rows] == ["ok"] * 4 + ["error"] * 6


def test_another_question_model_or_decoding_is_another_reply(tmp_path):
    run(RecordingEngine(answer="no"), tmp_path)
    changed = [replace(samples()[0], messages=(Message("user", ("Rephrased?",)),)), *samples()[1:]]
    engine = RecordingEngine()
    assert run(engine, tmp_path, samples_override=changed).n_requested == 1
    assert engine.requested_ids == ["s0"]
    assert (
        run(
            RecordingEngine(),
            tmp_path,
            task=replace(TASK, provenance=replace(TASK.provenance, revision="2")),
        ).n_requested
        == 10
    )
    assert [row["reply"] for row in score(TASK, samples(), tmp_path)] == ["no", "yes"] * 5


def test_a_changed_order_of_samples_changes_no_score(tmp_path):
    """Stored replies first, fresh ones second, zipped with the task's order: the misalignment that
    must not happen.
    """
    run(RecordingEngine(), tmp_path, samples_override=samples()[5:])
    run(RecordingEngine(), tmp_path, samples_override=samples())
    assert [row["value"] for row in score(TASK, samples(), tmp_path)] == [1.0] * 10


def test_an_unreadable_image_is_counted_and_fixed_by_the_next_run(tmp_path):
    image_path = tmp_path / "late.png"
    requested = [
        *samples(3),
        replace(samples(1)[0], id="pictured", images=(Image(str(image_path)),)),
    ]
    engine = echo.load("echo", EngineOptions())
    for _ in range(2):
        assert run(engine, tmp_path, samples_override=requested).n_errors == 1
    assert len(list(read_jsonl(tmp_path / "replies.jsonl"))) == 4
    row = score(TASK, requested, tmp_path)[3]
    assert (row["status"], row["value"]) == ("error", None)
    assert "late.png" in row["note"]
    from PIL import Image as PilImage

    PilImage.new("L", (8, 8)).save(image_path)
    assert run(engine, tmp_path, samples_override=requested) == (4, 3, 1, 0, 0)
    assert score(TASK, requested, tmp_path)[3]["value"] == 1.0


def test_failed_replies_are_errors_and_retried(tmp_path):
    class Failing(RecordingEngine):
        def generate(self, samples, sampling, *, skip=()):
            for sample in samples[:9]:  # and one without any reply
                yield [
                    (
                        Reply(sample.id, None, error="HTTP 500")
                        if sample.id == "s1"
                        else Reply(sample.id, "yes")
                    )
                ]

    assert run(Failing(), tmp_path).n_errors == 2
    rows = score(TASK, samples(), tmp_path)
    assert [(row["id"], row["note"]) for row in rows if row["status"] == "error"] == [
        ("s1", "HTTP 500"),
        ("s9", "the engine gave no reply"),
    ]
    engine = RecordingEngine()
    assert run(engine, tmp_path) == (10, 8, 2, 0, 0)
    assert engine.requested_ids == ["s1", "s9"]


def test_an_engine_that_answers_other_samples_is_refused(tmp_path):
    class Confused(RecordingEngine):
        def generate(self, samples, sampling, *, skip=()):
            yield [Reply("s1", "yes"), Reply("s1", "no")]

    with pytest.raises(EngineError, match="'s1'"):
        run(Confused(), tmp_path)
    assert not list(read_jsonl(tmp_path / "replies.jsonl"))


def test_samples_that_may_not_leave_are_refused_before_the_first_request(tmp_path):
    engine = RecordingEngine()
    engine.endpoint = "https://example.org/v1"
    private = [*samples(2), replace(samples(1)[0], id="p", meta=Meta())]
    with pytest.raises(DataPolicyError, match="'p'"):
        run(engine, tmp_path, samples_override=private)
    assert not engine.requested_ids
    assert not list(tmp_path.iterdir())


def test_two_samples_of_one_id_are_refused(tmp_path):
    with pytest.raises(InputError, match="'s0'"):
        run(RecordingEngine(), tmp_path, samples_override=[*samples(2), *samples(1)])


def test_a_gold_that_cannot_be_scored_is_an_error_of_its_sample_alone(tmp_path):
    requested = [*samples(2), replace(samples(1)[0], id="bad", gold=None)]
    engine = RecordingEngine(answer="no")
    run(engine, tmp_path, samples_override=requested)
    assert [row["status"] for row in score(TASK, requested, tmp_path)] == ["ok", "ok", "error"]


def test_scoring_a_folder_without_replies_names_the_command_to_run(tmp_path):
    with pytest.raises(ArtifactError, match="lingshu eval"):
        score(TASK, samples(), tmp_path)


def rows(*statuses: str, **extra: str) -> list[dict]:
    values = {"right": (1.0, "ok"), "wrong": (0.0, "ok")}
    result = []
    for i, status in enumerate(statuses):
        value, row_status = values.get(status, (None, status))
        result.append({"id": f"r{i}", "value": value, "status": row_status, **extra})
    return result


def test_denominators():
    summary = build.summarize(
        rows("right", "right", "wrong", "empty", "refused", "multiple", "unparsed", "error")
    )
    assert (summary.n, summary.correct) == (7, 2)
    assert summary.accuracy.value == 2 / 7
    assert (summary.parsed_accuracy.value, summary.parsed_accuracy.n) == (2 / 3, 3)
    assert summary.statuses == {
        "ok": 3,
        "unparsed": 1,
        "refused": 1,
        "empty": 1,
        "multiple": 1,
        "error": 1,
    }


def test_parts_of_a_point_are_averaged_and_their_groups_count():
    given = [
        {"id": str(i), "value": v, "status": "ok", "group": i // 2}
        for i, v in enumerate((0.5, 0.5, 1.0, 1.0))
    ]
    summary = build.summarize(given)
    assert (
        summary.accuracy.value == 0.75
        and summary.method == "effective wilson"
        and summary.metric == "mean score"
    )
    # Two groups of two: their difference is all there is, and with one degree of freedom it says
    # next to nothing.
    assert summary.accuracy[1:3] == pytest.approx((0.0, 1.0), abs=1e-3)


def report_of(name: str, scores: list[dict], **metadata: object) -> TaskReport:
    return build.task_report(ScoredTask(name, metadata, {"strict": scores}))


def test_more_than_a_hundredth_of_errors_is_reported_first():
    few = build.assemble("m", [report_of("t", rows(*["right"] * 99, "error"))])
    many = build.assemble("m", [report_of("t", rows(*["right"] * 98, "error", "error"))])
    assert few.warning is None
    assert many.warning is not None and many.warning.startswith("2 of 100 samples (2.0%) failed")
    assert build.as_markdown(many).startswith("**2 of 100 samples")
    html = "".join(build.iterate_html(many))
    assert html.index('class="notice"') < html.index("<h2>")


def test_macro_and_micro_over_tasks():
    tasks = [
        report_of("a", rows("right")),
        report_of("b", rows("wrong", "wrong", "wrong")),
    ]
    evaluation_report = build.assemble("m", tasks)
    assert (evaluation_report.macro, evaluation_report.micro) == (0.5, 0.25)


def test_text_from_data_cannot_break_a_report():
    evil = '<script>alert("x")</script>|\n# head'
    evaluation_report = build.assemble(
        evil, [report_of("t", rows("right", kind=evil), title=evil, by=["kind"])]
    )
    assert "<script" not in "".join(build.iterate_html(evaluation_report))
    table_lines = [
        line for line in build.as_markdown(evaluation_report).splitlines() if line.startswith("|")
    ]
    assert {line.replace("\\|", "").count("|") for line in table_lines} == {9}
    assert "\n# head" not in build.as_markdown(evaluation_report)


def test_facets_count_what_they_do_not_know():
    given = [*rows("right", kind="side"), *rows("wrong")]
    assert set(build.by_facet(given, ["kind", "lang"])["kind"]) == {"side", "unknown"}
    assert "lang" not in build.by_facet(given, ["kind", "lang"])


def test_a_report_is_the_same_bytes_from_the_same_scores(tmp_path):
    run(RecordingEngine(), tmp_path / "one" / "demo")
    with pytest.raises(EngineError):
        run(RecordingEngine(stop_after=3), tmp_path / "two" / "demo")
    run(RecordingEngine(reverse=True), tmp_path / "two" / "demo")
    for name in ("one", "two"):
        score(TASK, samples(), tmp_path / name / "demo")
        build.write(tmp_path / name, replace(build.build(tmp_path / name), model="m"))
    for name in ("report.json", "report.md", "report.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    output = json.loads((tmp_path / "one" / "report.json").read_text())
    assert output["tasks"][0]["summary"]["accuracy"]["value"] == 1.0
    assert set(output["tasks"][0]["facets"]["kind"]) == {"side", "size"}


def test_images_are_read_once_per_file(tmp_path):
    read: list[str | None] = []

    def reader(image: Image) -> bytes:
        read.append(image.path)
        if image.path == "bad":
            raise ImageError("bad cannot be opened.")
        return b"x"

    requested = [replace(sample, images=(Image("shared"),)) for sample in samples(4)]
    generate(TASK, requested, RecordingEngine(), tmp_path, sampling=Sampling(), images=reader)
    assert read == ["shared"]
