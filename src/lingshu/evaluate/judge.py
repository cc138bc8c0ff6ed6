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

from lingshu.core.artefacts import SCORES, iterate_scores, score_row, write_scores
from lingshu.core.calls import Budget, Calls, Outcome
from lingshu.core.errors import ArtefactError, InputError
from lingshu.core.forms import Request
from lingshu.core.messages import user_turn
from lingshu.core.nouns import Criterion, Engine, Image, Sample, Sampling, Score, Task
from lingshu.core.release import Release
from lingshu.evaluate._judged import FOUND, JUDGE, JUDGE_FAILED, Judged, Label, Tally, write_judged
from lingshu.evaluate.progress import Progress, Silent
from lingshu.evaluate.score import scores_file
from lingshu.scoring._rubric import all_met, rubric_range, rubric_score
from lingshu.scoring._text import spoken
from lingshu.scoring._verdict import WORDING, ask_finding, ask_verdict, finding_form, verdict_form

FOLDER = "judge"
# Asked together: enough to keep a server busy, few enough that a benchmark need not lie in memory.
CHUNK_REQUESTS = 512
NO_POINTS = "no criterion has positive points: there is no score"


class Found(NamedTuple):
    """What the verdicts came to, and how many labels of people belong to the task."""

    judged: Judged
    labelled: int


@dataclass(frozen=True)
class _Case:
    """A row of scores.jsonl on its way: settled with a score, or with what the judge is to be
    asked.
    """

    row: Mapping[str, Any]
    settled: Score | None = None
    requests: Sequence[Request[Any]] = ()
    criteria: Sequence[Criterion] | None = None


def open_calls(
    engine: Engine,
    folder: Path,
    *,
    budget: Budget | None = None,
    release: Release | None = None,
    tries: int = 3,
    repeats: int = 0,
) -> Calls:
    """The judge with its memory below a task's folder.

    Raises:
        StorageError: another process is at work there.
    """

    def no_image(image: Image) -> bytes:
        raise AssertionError(f"a judge is shown words alone, not {image}")

    return Calls(
        engine,
        folder / FOLDER,
        images=no_image,
        budget=budget,
        release=release,
        tries=tries,
        repeats=repeats,
    )


def judgeable(task: Task, sample: Sample) -> bool:
    """Whether there is anything to judge a reply by."""
    return task.criteria is not None or bool(sample.gold and sample.meta.kind != "report")


def judge(
    task: Task,
    samples: Sequence[Sample],
    folder: Path,
    calls: Calls,
    *,
    sampling: Sampling,
    labels: Sequence[Label] = (),
    progress: Progress | None = None,
) -> Found:
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
    tally, progress = (
        Tally(task.name, labels, rubric=task.criteria is not None),
        progress or Silent(),
    )
    progress.start(len(samples), 0)

    def rows() -> Iterator[dict[str, Any]]:
        for chunk in _chunks(task, samples, folder):
            outcomes = iter(
                calls.ask([request for case in chunk for request in case.requests], sampling)
            )
            made = [_row(case, [next(outcomes) for _ in case.requests]) for case in chunk]
            progress.advance(
                len(made), sum(str(row["note"] or "").startswith(JUDGE_FAILED) for row in made)
            )
            for row in made:
                tally.add(row)
                yield row

    write_scores(scores_file(folder, JUDGE), rows())
    found = Found(tally.told(model=calls.engine.model, wording=WORDING), tally.labelled)
    write_judged(folder, found.judged)
    return found


def _chunks(task: Task, samples: Sequence[Sample], folder: Path) -> Iterator[list[_Case]]:
    chunk: list[_Case] = []
    asked = 0
    scored = iterate_scores(folder / SCORES)
    for sample in samples:
        row = next(scored, None)
        if row is None or row["id"] != sample.id:
            break
        chunk.append(_case(task, sample, row))
        asked += len(chunk[-1].requests)
        if asked >= CHUNK_REQUESTS:
            yield chunk
            chunk, asked = [], 0
    else:
        if next(scored, None) is None:
            yield chunk
            return
    raise ArtefactError(
        f"{folder / SCORES} is over other samples than those to be judged; score them again."
    )


def _case(task: Task, sample: Sample, row: Mapping[str, Any]) -> _Case:
    reply = row.get("reply")
    if not isinstance(reply, str):
        return _Case(row, Score(None, "error", note=row.get("note")))
    if not judgeable(task, sample):
        return _Case(row, Score(row["value"], row["status"], row.get("read"), row.get("note")))
    said = spoken(reply).strip()
    if not said:
        return _Case(row, Score(None, "empty"))
    if task.criteria is None:
        asked = ask_verdict(sample, said)
        return _Case(
            row, requests=[Request(_shown(sample, asked.text, 0), verdict_form(asked.case))]
        )
    try:
        criteria = list(task.criteria(sample))
    except InputError as error:
        return _Case(row, Score(None, "error", note=f"no rubric: {error}"))
    if not any(criterion.points > 0 for criterion in criteria):
        return _Case(row, Score(None, "ok", note=NO_POINTS))
    found = [ask_finding(sample, said, criterion.text) for criterion in criteria]
    requests = [
        Request(_shown(sample, asked.text, place), finding_form(asked.case))
        for place, asked in enumerate(found)
    ]
    return _Case(row, requests=requests, criteria=criteria)


def _shown(sample: Sample, text: str, place: int) -> Sample:
    """What the judge is asked, under all that is known of who may see the sample."""
    return Sample(f"{sample.id}/{place}", (user_turn(text, 0),), meta=sample.meta)


def _row(case: _Case, outcomes: Sequence[Outcome[Any]]) -> dict[str, Any]:
    known = {key: value for key, value in case.row.items() if key not in ("protocol", "metrics")}
    known |= {"rule": {key: case.row.get(key) for key in ("value", "status", "read")}}
    if case.settled is not None:
        return score_row(case.row["id"], case.settled, {"protocol": JUDGE, **known})
    score, parts = _one(outcomes[0]) if case.criteria is None else _several(case.criteria, outcomes)
    return score_row(case.row["id"], score, {"protocol": JUDGE, **known, "judge": parts})


def _one(outcome: Outcome[Any]) -> tuple[Score, dict[str, Any]]:
    if outcome.value is None:
        return _failed([outcome], 1), {
            "verdict": None,
            "failed": outcome.reject,
            "range": [0.0, 1.0],
        }
    verdict = outcome.value
    return Score(float(verdict.verdict == "correct"), read=verdict.verdict), {
        "verdict": verdict.verdict,
        "reason": verdict.reason,
    }


def _several(
    criteria: Sequence[Criterion], outcomes: Sequence[Outcome[Any]]
) -> tuple[Score, dict[str, Any]]:
    points = [criterion.points for criterion in criteria]
    told = [
        {
            "name": criterion.name,
            "points": criterion.points,
            "criterion": criterion.text,
            "verdict": None if outcome.value is None else outcome.value.verdict,
            "reason": outcome.reject if outcome.value is None else outcome.value.reason,
        }
        for criterion, outcome in zip(criteria, outcomes, strict=True)
    ]
    met = [
        None if outcome.value is None else outcome.value.verdict == FOUND[0] for outcome in outcomes
    ]
    missing = [outcome for outcome in outcomes if outcome.value is None]
    if missing:
        often = Counter(str(outcome.reject) for outcome in missing).most_common(1)[0][0]
        bounds = rubric_range(points, met)
        return _failed(missing, len(outcomes)), {
            "criteria": told,
            "failed": often,
            "range": None if bounds is None else list(bounds),
        }
    known = [bool(one) for one in met]
    score = Score(rubric_score(points, known), read=f"{sum(known)} of {len(known)} met")
    return score, {"criteria": told, "all_met": all_met(points, known)}


def _failed(missing: Sequence[Outcome[Any]], of: int) -> Score:
    first = missing[0]
    share = f"{len(missing)} of {of} criteria: " if of > 1 else ""
    detail = f" ({first.detail})" if first.detail else ""
    return Score(None, "error", note=f"{JUDGE_FAILED} {share}{first.reject}{detail}")
