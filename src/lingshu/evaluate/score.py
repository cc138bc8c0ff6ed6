"""Step 2 of an evaluation: score stored replies, without the model or the images.

OUT/<task>/scores.jsonl              one row per sample in the order of the task, for the report
OUT/<task>/scores.<protocol>.jsonl   the same under another protocol than strict
OUT/<task>/metrics.json              metrics over all replies, where the task has some; the values
                                     of a sample are in its row under `metrics`
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lingshu.core.artifacts import (
    SCORES,
    enumerate_replies,
    reply_files,
    reply_from_row,
    score_row,
    write_scores,
)
from lingshu.core.confidence import read_confidence
from lingshu.core.errors import ArtifactError, InputError, describe_error, one_line
from lingshu.core.files import enumerate_jsonl, enumerate_offsets, sha256_file, write_json
from lingshu.core.types import MetricResult, Reply, Sample, Score, Scorer, Task
from lingshu.evaluate.generate import REQUESTS
from lingshu.evaluate.metrics import METRICS_FILE, compute_metrics, metrics_table, sample_values
from lingshu.evaluate.spool import RowIndex
from lingshu.evaluate.summary import awaiting_judge
from lingshu.scoring.protocols.table import protocol_scorer

NOT_GENERATED = "no reply was generated for this sample"
STRICT = "strict"


class ScoringResult(NamedTuple):
    """How many rows were scored, how many of them failed, and how many more wait for a judge."""

    n_rows: int
    n_errors: int
    n_awaiting_judge: int


def score(
    task: Task,
    samples: Sequence[Sample],
    folder: Path,
    *,
    protocols: Sequence[str] = (STRICT,),
    weights: Path | None = None,
) -> ScoringResult:
    """Score stored replies under each protocol, write the files, and count the first one's.

    A reply that failed, is missing or cannot be scored has the status `error` and a note that says
    why. One reply is in memory at a time, all of them for a task with metrics. `weights` is the
    folder in which metrics find their models.

    Raises:
        ArtifactError: the folder has no replies.
        UnknownNameError: no such protocol.
        InputError: no protocol at all, or two samples share an id.
        StorageError: the disk refused a write.
    """
    if not protocols:
        raise InputError("no protocol is named; give strict, paper or medevalkit.")
    if not (folder / REQUESTS).is_file() or not reply_files(folder):
        raise ArtifactError(
            f"{folder} has no replies to score ({REQUESTS} and replies*.jsonl are needed); run"
            " `lingshu eval` first."
        )
    if len({sample.id for sample in samples}) < len(samples):
        raise InputError(
            f"{task.name} has two samples with one id; ids must differ, or replies would be"
            " mixed up."
        )
    scorers = {name: protocol_scorer(task.score, name) for name in dict.fromkeys(protocols)}
    requests = enumerate_jsonl(folder / REQUESTS, allow_truncated=False)
    keys = {row["id"]: row["key"] for _, row in requests}
    results_by_protocol: dict[str, ScoringResult] = {}
    results: list[MetricResult] = []
    with ReplyIndex(folder, set(keys.values())) as replies:

        def rows(protocol: str) -> Iterator[dict[str, Any]]:
            n_errors = n_awaiting_judge = 0
            for index, sample in enumerate(samples):
                reply = replies.get(keys.get(sample.id))
                fields = {"protocol": protocol} | passthrough_fields(task, sample, reply)
                result = score_reply(scorers[protocol], sample, reply)
                fields |= confidence_fields(scorers[protocol], sample, reply, result)
                row = score_row(sample.id, result, fields)
                if results and protocol == STRICT:
                    row["metrics"] = sample_values(results, index)
                n_errors += count_failed([row])
                n_awaiting_judge += awaiting_judge(row)
                yield row
            results_by_protocol[protocol] = ScoringResult(len(samples), n_errors, n_awaiting_judge)

        if task.metrics:
            stored = (replies.get(keys.get(sample.id)) for sample in samples)
            texts = [None if reply is None else reply.text for reply in stored]
            results = compute_metrics(task.metrics, samples, texts, weights=weights)
            write_json(folder / METRICS_FILE, metrics_table(results, samples))
        previous_digest = _scores_digest(folder)
        for protocol in sorted(scorers, key=lambda name: name != STRICT):
            write_scores(scores_file(folder, protocol), rows(protocol))
            if protocol == STRICT and _scores_digest(folder) != previous_digest:
                # They are of other replies or answers; at once, since a kill must not leave them
                # next to these scores. A judge that runs again still has its verdicts cached.
                for stale_path in folder.glob("scores.*.jsonl"):
                    stale_path.unlink(missing_ok=True)
    return results_by_protocol[protocols[0]]


def _scores_digest(folder: Path) -> str | None:
    path = scores_file(folder)
    return sha256_file(path) if path.is_file() else None


TRUNCATED = "truncated before it gave an answer"


def count_failed(rows: Iterable[Mapping[str, Any]]) -> int:
    """How many scores rows failed; those that only wait for a judge did not."""
    return sum(row["status"] == "error" and not awaiting_judge(row) for row in rows)


def scores_file(folder: Path, protocol: str = STRICT) -> Path:
    """The scores file of a task's folder under a protocol."""
    return folder / (SCORES if protocol == STRICT else f"scores.{protocol}.jsonl")


def score_reply(scorer: Scorer, sample: Sample, reply: Reply | None) -> Score:
    """The score of one reply; a sample that cannot be scored is an `error`, never fatal."""
    if reply is None:
        return Score(None, "error", note=NOT_GENERATED)
    if reply.text is None:
        return Score(None, "error", note=reply.error or "the engine gave no text")
    try:
        result = final_score(scorer(sample, reply.text), reply.finish)
        if result.value is None or math.isfinite(result.value):
            return result
        note = f"the scorer gave {result.value}"
    except InputError as error:
        note = one_line(error)
    except Exception as error:  # a scorer may be anyone's code: one reply must not cost the others
        note = f"the scorer failed: {describe_error(error)}"
    return Score(None, "error", note=note)


def confidence_fields(
    scorer: Scorer, sample: Sample, reply: Reply | None, score: Score
) -> dict[str, Any]:
    """The fields of a scores row for the confidence in the answer of `score`; none where unknown."""

    def read(text: str) -> Score:
        try:
            return scorer(sample, text)
        except (
            Exception
        ):  # a beginning of the reply that anyone's scorer cannot take reads as nothing
            return Score(None, "unparsed")

    confidence = None if reply is None else read_confidence(reply, score, read)
    if confidence is None:
        return {}
    return {"confidence": confidence.value, "confidence_method": confidence.method}


def final_score(score: Score, finish: str | None) -> Score:
    """The score of a reply that ended so: one truncated at max_tokens (`finish` "length") counts only
    if it had declared its answer.
    """
    if finish != "length" or score.is_final or score.status != "ok":
        return score
    return Score(None, "unparsed", note=TRUNCATED)


def passthrough_fields(task: Task, sample: Sample, reply: Reply | None) -> dict[str, Any]:
    """The fields of a scores row besides the score: question, answers, and facets to group by."""
    row: dict[str, Any] = {
        "question": sample.question,
        "gold": list(sample.gold or ()),
        "reply": None if reply is None else reply.text,
        "kind": sample.meta.kind,
        "group": sample.meta.group,
    }
    if sample.choices:
        row["choices"] = list(sample.choices)
    if reply is not None and reply.finish == "length":
        row["truncated"] = True
    facets: Mapping[str, str | None] = {name: sample.meta.facet(name) for name in task.facets}
    return row | {name: value for name, value in facets.items() if name not in row}


class ReplyIndex(RowIndex):
    """The stored reply that counts for each of `keys`: its first answer, else its last error.

    Raises:
        ArtifactError: a row that is not a reply.
    """

    def __init__(self, folder: Path, keys: Container[str]) -> None:
        super().__init__()
        failed: set[str] = set()
        for path in reply_files(folder):
            self.offsets[path] = {}
            numbered = ((number, (key, reply)) for number, key, reply in enumerate_replies(path))
            for offset, (key, reply) in enumerate_offsets(path, numbered):
                is_new = not any(key in offsets for offsets in self.offsets.values())
                if key in keys and (is_new or key in failed):
                    for offsets in self.offsets.values():
                        offsets.pop(key, None)
                    self.offsets[path][key] = offset
                    (failed.add if reply.error else failed.discard)(key)

    def get(self, key: str | None) -> Reply | None:
        row = self.row(key)
        return reply_from_row(row) if row else None
