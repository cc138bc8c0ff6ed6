"""Between scoring and reporting, on request: a judge gives a verdict on each stored reply, as
scores of a protocol of its own.

OUT/<task>/scores.judge.jsonl    rows as in scores.jsonl, in the same order; `judge` holds the verdict's parts, `rule` the rules' score
OUT/<task>/judge.json            counts, the score with its range, agreement with the rules and with people
OUT/<task>/judge/calls.jsonl     every raw answer of the judge; what was asked once is not asked again

Where a task has criteria, each is asked for on its own and the score is that of the rubric;
elsewhere the reply is correct or incorrect against the gold. A judge sees words alone, no image.
Empty replies are not shown to it, and reports, which are measured, and samples without a gold keep
what the rules said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lingshu.core.artifacts import SCORES, iterate_scores, score_row, write_scores
from lingshu.core.cached_client import Budget, CachedClient, CallResult
from lingshu.core.data_policy import DataPolicy
from lingshu.core.errors import ArtifactError, InputError
from lingshu.core.messages import user_turn
from lingshu.core.progress import NoProgress, Progress
from lingshu.core.reply_text import strip_reasoning
from lingshu.core.response_format import Request
from lingshu.core.types import Criterion, Engine, Image, Sample, Sampling, Score, Task
from lingshu.evaluate.judge_prompts import (
    PROMPT_DIGEST,
    criterion_format,
    criterion_prompt,
    verdict_format,
    verdict_prompt,
)
from lingshu.evaluate.judgments import (
    CRITERION_VERDICTS,
    JUDGE,
    JUDGE_FAILED,
    HumanLabel,
    JudgeCounts,
    JudgeResult,
    write_judge_result,
)
from lingshu.evaluate.rubric import all_met, rubric_range, rubric_score
from lingshu.evaluate.score import scores_file

JUDGE_FOLDER = "judge"
# Asked together: enough to keep a server busy, few enough that a benchmark need not lie in memory.
CHUNK_REQUESTS = 512
NO_POINTS = "no criterion has positive points: there is no score"


class JudgeSummary(NamedTuple):
    """What the verdicts came to, and how many labels of people belong to the task."""

    result: JudgeResult
    n_labeled: int


@dataclass(frozen=True)
class _JudgeCase:
    """A row of scores.jsonl on its way: settled with a score, or with what the judge is to be
    asked.
    """

    row: Mapping[str, Any]
    known_score: Score | None = None
    requests: Sequence[Request[Any]] = ()
    criteria: Sequence[Criterion] | None = None


def open_judge_client(
    engine: Engine,
    folder: Path,
    *,
    budget: Budget | None = None,
    data_policy: DataPolicy | None = None,
    max_attempts: int = 3,
    n_repeats: int = 0,
) -> CachedClient:
    """The judge with its memory below a task's folder.

    Raises:
        StorageError: another process is at work there.
    """

    def no_image(image: Image) -> bytes:
        raise AssertionError(f"a judge is shown words alone, not {image}")

    return CachedClient(
        engine,
        folder / JUDGE_FOLDER,
        images=no_image,
        budget=budget,
        data_policy=data_policy,
        max_attempts=max_attempts,
        engine_retries=n_repeats,
    )


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
    labels: Sequence[HumanLabel] = (),
    progress: Progress | None = None,
) -> JudgeSummary:
    """Ask for the verdicts on the scored replies in `folder` that are not known yet, and write
    scores.judge.jsonl and judge.json.

    A reply without a verdict, after all tries, has the status `error` and a note that begins with
    "judge failed:".

    Raises:
        ArtefactError: scores.jsonl is missing, or over other samples.
        EngineError: the judge cannot answer at all; verdicts so far are kept, and the same call
            goes on from there.
        InputError: a label that does not fit its rubric.
        StorageError: the disk refused a write.
    """
    counts, progress = (
        JudgeCounts(task.name, labels, rubric=task.criteria is not None),
        progress or NoProgress(),
    )
    progress.start(len(samples), 0)

    def rows() -> Iterator[dict[str, Any]]:
        for chunk in _chunks(task, samples, folder):
            outcomes = iter(
                calls.ask([request for case in chunk for request in case.requests], sampling)
            )
            rows_with_verdicts = [
                _row(case, [next(outcomes) for _ in case.requests]) for case in chunk
            ]
            progress.advance(
                len(rows_with_verdicts),
                sum(str(row["note"] or "").startswith(JUDGE_FAILED) for row in rows_with_verdicts),
            )
            for row in rows_with_verdicts:
                counts.add(row)
                yield row

    write_scores(scores_file(folder, JUDGE), rows())
    summary = JudgeSummary(
        counts.result(model=calls.engine.model, prompt_digest=PROMPT_DIGEST), counts.n_labeled
    )
    write_judge_result(folder, summary.result)
    return summary


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
        return _JudgeCase(
            row, Score(row["value"], row["status"], row.get("prediction"), row.get("note"))
        )
    answer = strip_reasoning(reply).strip()
    if not answer:
        return _JudgeCase(row, Score(None, "empty"))
    if task.criteria is None:
        prompt = verdict_prompt(sample, answer)
        return _JudgeCase(
            row,
            requests=[Request(_judge_sample(sample, prompt.text, 0), verdict_format(prompt.case))],
        )
    try:
        criteria = list(task.criteria(sample))
    except InputError as error:
        return _JudgeCase(row, Score(None, "error", note=f"no rubric: {error}"))
    if not any(criterion.points > 0 for criterion in criteria):
        return _JudgeCase(row, Score(None, "ok", note=NO_POINTS))
    prompts = [criterion_prompt(sample, answer, criterion.text) for criterion in criteria]
    requests = [
        Request(_judge_sample(sample, prompt.text, index), criterion_format(prompt.case))
        for index, prompt in enumerate(prompts)
    ]
    return _JudgeCase(row, requests=requests, criteria=criteria)


def _judge_sample(sample: Sample, text: str, index: int) -> Sample:
    """What the judge is asked, under all that is known of who may see the sample."""
    return Sample(f"{sample.id}/{index}", (user_turn(text, 0),), meta=sample.meta)


def _row(case: _JudgeCase, outcomes: Sequence[CallResult[Any]]) -> dict[str, Any]:
    fields = {key: value for key, value in case.row.items() if key not in ("protocol", "metrics")}
    fields |= {"rule": {key: case.row.get(key) for key in ("value", "status", "prediction")}}
    if case.known_score is not None:
        return score_row(case.row["id"], case.known_score, {"protocol": JUDGE, **fields})
    score, parts = (
        _score_verdict(outcomes[0])
        if case.criteria is None
        else _score_criteria(case.criteria, outcomes)
    )
    return score_row(case.row["id"], score, {"protocol": JUDGE, **fields, "judge": parts})


def _score_verdict(outcome: CallResult[Any]) -> tuple[Score, dict[str, Any]]:
    if outcome.value is None:
        return _failed_score([outcome], 1), {
            "verdict": None,
            "failed": outcome.reject_reason,
            "range": [0.0, 1.0],
        }
    verdict = outcome.value
    return Score(float(verdict.verdict == "correct"), prediction=verdict.verdict), {
        "verdict": verdict.verdict,
        "reason": verdict.reason,
    }


def _score_criteria(
    criteria: Sequence[Criterion], outcomes: Sequence[CallResult[Any]]
) -> tuple[Score, dict[str, Any]]:
    points = [criterion.points for criterion in criteria]
    criterion_rows = [
        {
            "name": criterion.name,
            "points": criterion.points,
            "criterion": criterion.text,
            "verdict": None if outcome.value is None else outcome.value.verdict,
            "reason": outcome.reject_reason if outcome.value is None else outcome.value.reason,
        }
        for criterion, outcome in zip(criteria, outcomes, strict=True)
    ]
    met = [
        None if outcome.value is None else outcome.value.verdict == CRITERION_VERDICTS[0]
        for outcome in outcomes
    ]
    missing = [outcome for outcome in outcomes if outcome.value is None]
    if missing:
        most_common_reason = Counter(str(outcome.reject_reason) for outcome in missing).most_common(
            1
        )[0][0]
        bounds = rubric_range(points, met)
        return _failed_score(missing, len(outcomes)), {
            "criteria": criterion_rows,
            "failed": most_common_reason,
            "range": None if bounds is None else list(bounds),
        }
    met_flags = [bool(flag) for flag in met]
    score = Score(
        rubric_score(points, met_flags), prediction=f"{sum(met_flags)} of {len(met_flags)} met"
    )
    return score, {"criteria": criterion_rows, "all_met": all_met(points, met_flags)}


def _failed_score(missing: Sequence[CallResult[Any]], n_requests: int) -> Score:
    first = missing[0]
    prefix = f"{len(missing)} of {n_requests} criteria: " if n_requests > 1 else ""
    detail = f" ({first.detail})" if first.detail else ""
    return Score(None, "error", note=f"{JUDGE_FAILED} {prefix}{first.reject_reason}{detail}")
