"""Between scoring and reporting: a judge's verdicts on stored replies, as a protocol of their own.

OUT/<task>/scores.judge.jsonl    rows as in scores.jsonl, in the same order; `judge` holds the parts
                                 of the verdict, `rule` the score of the rules
OUT/<task>/judge.json            counts, the score with its range, agreement with rules and people
OUT/<task>/judge/calls.jsonl     every raw answer of the judge; a repeated question is not sent again

Where a task has criteria, each is one question and the score is that of the rubric; elsewhere the
reply is correct or incorrect against the gold. A judge sees text only, no image. Empty replies are
not shown to it; reports, which are measured, and samples without a gold keep the score of the rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lingshu.core.artifacts import SCORES, iterate_scores, score_row, write_scores
from lingshu.core.cached_client import CachedClient, CallResult, Request
from lingshu.core.errors import ArtifactError, InputError
from lingshu.core.messages import user_turn
from lingshu.core.progress import NoProgress, Progress
from lingshu.core.reply_text import strip_reasoning
from lingshu.core.types import Criterion, Engine, Image, Sample, Sampling, Score, Task
from lingshu.evaluate import judgments
from lingshu.evaluate.judge_prompts import (
    JudgePrompt,
    criterion_prompt,
    prompt_digest,
    verdict_prompt,
)
from lingshu.evaluate.score import scores_file

JUDGE_FOLDER = "judge"
# Sent together: enough to keep a server busy, few enough that a benchmark need not be in memory.
CHUNK_REQUESTS = 512
NO_POINTS = "no criterion has positive points: there is no score"


class JudgeSummary(NamedTuple):
    """The result of the verdicts, and how many human labels belong to the task."""

    result: judgments.JudgeResult
    n_labeled: int


@dataclass(frozen=True)
class _JudgeCase:
    """A row of scores.jsonl on its way: with a known score, or with requests to the judge."""

    row: Mapping[str, Any]
    known_score: Score | None = None
    requests: Sequence[Request[Any]] = ()
    criteria: Sequence[Criterion] | None = None


def open_judge_client(engine: Engine, folder: Path, **options: Any) -> CachedClient:
    """The judge with its cache below a task's folder; `options` are those of CachedClient.

    Raises:
        StorageError: another process uses the cache.
    """

    def no_image(image: Image) -> bytes:
        raise AssertionError(f"a judge sees text only, not {image}")

    return CachedClient(engine, folder / JUDGE_FOLDER, images=no_image, **options)


def is_judgeable(task: Task, sample: Sample) -> bool:
    """Whether there is anything to judge a reply by."""
    return task.criteria is not None or bool(sample.gold and sample.meta.kind != "report")


def judge(
    task: Task,
    samples: Sequence[Sample],
    folder: Path,
    calls: CachedClient,
    *,
    sampling: Sampling,
    labels: Sequence[judgments.HumanLabel] = (),
    progress: Progress | None = None,
) -> JudgeSummary:
    """Request unknown verdicts on scored replies; write scores.judge.jsonl and judge.json.

    A reply without a verdict, after all attempts, has the status `error` and a note that begins
    with "judge failed:".

    Raises:
        ArtifactError: scores.jsonl is missing, or over other samples.
        EngineError: the judge cannot answer at all; verdicts so far are kept, and the same call
            resumes from there.
        InputError: a label that does not fit its rubric.
        StorageError: the disk refused a write.
    """
    counts = judgments.JudgeCounts(task.name, labels, rubric=task.criteria is not None)
    progress = progress or NoProgress()
    progress.start(len(samples), 0)

    def rows() -> Iterator[dict[str, Any]]:
        for chunk in _chunks(task, samples, folder):
            requests = [request for case in chunk for request in case.requests]
            results = iter(calls.ask(requests, sampling))
            judged = [_row(case, [next(results) for _ in case.requests]) for case in chunk]
            notes = [str(row["note"] or "") for row in judged]
            progress.advance(
                len(judged), sum(note.startswith(judgments.JUDGE_FAILED) for note in notes)
            )
            for row in judged:
                counts.add(row)
                yield row

    write_scores(scores_file(folder, judgments.JUDGE), rows())
    result = counts.result(model=calls.engine.model, prompt_digest=prompt_digest())
    judgments.write_judge_result(folder, result)
    return JudgeSummary(result, counts.n_labeled)


def _chunks(task: Task, samples: Sequence[Sample], folder: Path) -> Iterator[list[_JudgeCase]]:
    chunk: list[_JudgeCase] = []
    n_requests = 0
    scored = iterate_scores(folder / SCORES)
    for sample in samples:
        row = next(scored, None)
        if row is None or row["id"] != sample.id:
            break
        chunk.append(_make_case(task, sample, row))
        n_requests += len(chunk[-1].requests)
        if n_requests >= CHUNK_REQUESTS:
            yield chunk
            chunk, n_requests = [], 0
    else:
        if next(scored, None) is None:
            yield chunk
            return
    raise ArtifactError(
        f"{folder / SCORES} is over other samples than those to be judged; score them again."
    )


def _make_case(task: Task, sample: Sample, row: Mapping[str, Any]) -> _JudgeCase:
    reply = row.get("reply")
    if not isinstance(reply, str):
        return _JudgeCase(row, Score(None, "error", note=row.get("note")))
    if not is_judgeable(task, sample):
        score = Score(row["value"], row["status"], row.get("prediction"), row.get("note"))
        return _JudgeCase(row, score)
    answer = strip_reasoning(reply).strip()
    if not answer:
        return _JudgeCase(row, Score(None, "empty"))
    if task.criteria is None:
        return _JudgeCase(row, requests=[_request(sample, verdict_prompt(sample, answer), 0)])
    try:
        criteria = list(task.criteria(sample))
    except InputError as error:
        return _JudgeCase(row, Score(None, "error", note=f"no rubric: {error}"))
    if not any(criterion.points > 0 for criterion in criteria):
        return _JudgeCase(row, Score(None, "ok", note=NO_POINTS))
    requests = [
        _request(sample, criterion_prompt(sample, answer, criterion.text), index)
        for index, criterion in enumerate(criteria)
    ]
    return _JudgeCase(row, requests=requests, criteria=criteria)


def _request(sample: Sample, prompt: JudgePrompt, index: int) -> Request[Any]:
    # The sample's metadata decides who may see it.
    turn = user_turn(prompt.text, 0)
    judge_sample = Sample(f"{sample.id}/{index}", (turn,), meta=sample.meta)
    return Request(judge_sample, prompt.response_format())


def _row(case: _JudgeCase, results: Sequence[CallResult[Any]]) -> dict[str, Any]:
    row = case.row
    fields = {key: value for key, value in row.items() if key not in ("protocol", "metrics")}
    fields["rule"] = {key: row.get(key) for key in ("value", "status", "prediction")}
    score = case.known_score
    if score is None:
        if case.criteria:
            score, fields["judge"] = _grade_criteria(case.criteria, results)
        else:
            score, fields["judge"] = _grade_verdict(*results)
    return score_row(row["id"], score, {"protocol": judgments.JUDGE, **fields})


def _grade_verdict(result: CallResult[Any]) -> tuple[Score, dict[str, Any]]:
    if result.value is None:
        parts = {"verdict": None, "failed": result.reject_reason, "range": [0.0, 1.0]}
        return _failed_score([result], 1), parts
    verdict = result.value.verdict
    score = Score(float(verdict == "correct"), prediction=verdict)
    return score, {"verdict": verdict, "reason": result.value.reason}


def _grade_criteria(
    criteria: Sequence[Criterion], results: Sequence[CallResult[Any]]
) -> tuple[Score, dict[str, Any]]:
    rows = [
        {
            "name": criterion.name,
            "points": criterion.points,
            "criterion": criterion.text,
            "verdict": None if result.value is None else result.value.verdict,
            "reason": result.reject_reason if result.value is None else result.value.reason,
        }
        for criterion, result in zip(criteria, results, strict=True)
    ]
    points = [criterion.points for criterion in criteria]
    missing = [result for result in results if result.value is None]
    if missing:
        met = [row["verdict"] and row["verdict"] == judgments.CRITERION_VERDICTS[0] for row in rows]
        bounds = judgments.rubric_range(points, met)
        reasons = Counter(str(result.reject_reason) for result in missing)
        return _failed_score(missing, len(results)), {
            "criteria": rows,
            "failed": max(reasons, key=reasons.__getitem__),
            "range": None if bounds is None else list(bounds),
        }
    met = [row["verdict"] == judgments.CRITERION_VERDICTS[0] for row in rows]
    score = Score(judgments.rubric_score(points, met), prediction=f"{sum(met)} of {len(met)} met")
    return score, {"criteria": rows, "all_met": judgments.all_met(points, met)}


def _failed_score(missing: Sequence[CallResult[Any]], n_requests: int) -> Score:
    first = missing[0]
    prefix = f"{len(missing)} of {n_requests} criteria: " if n_requests > 1 else ""
    detail = f" ({first.detail})" if first.detail else ""
    return Score(
        None, "error", note=f"{judgments.JUDGE_FAILED} {prefix}{first.reject_reason}{detail}"
    )
