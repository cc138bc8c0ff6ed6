"""Step 2 of an evaluation: score stored replies. Needs the task and its questions, but neither the
model nor the images.

OUT/<task>/scores.jsonl              one row per sample in the order of the task, with all that the report needs
OUT/<task>/scores.<protocol>.jsonl   the same under another protocol than strict
OUT/<task>/metrics.json              the metrics of a task that has some, over all replies; a row's share is in its `metrics`
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lingshu.core.artefacts import SCORES, reply_files, score_row, write_scores
from lingshu.core.errors import ArtefactError, InputError, fault, one_line
from lingshu.core.files import read_jsonl, sha256_file, write_json
from lingshu.core.nouns import Measured, Reply, Sample, Score, Scorer, Task
from lingshu.evaluate._replies import ReplyIndex
from lingshu.evaluate.generate import ASKED
from lingshu.evaluate.measure import METRICS, measure, table, values_of
from lingshu.evaluate.summary import unjudged
from lingshu.scoring._protocols import scorer as scorer_of

NEVER_ASKED = "this sample was never asked"
STRICT = "strict"


class Scored(NamedTuple):
    """How many rows were scored, how many of them failed, and how many more wait for a judge."""

    rows: int
    errors: int
    unjudged: int


def score(
    task: Task,
    samples: Sequence[Sample],
    folder: Path,
    *,
    protocols: Sequence[str] = (STRICT,),
    weights: Path | None = None,
) -> Scored:
    """Score the replies in `folder` under each protocol, write its scores file and return the
    counts of the first one.

    A reply that failed, was never asked for or cannot be scored has the status `error` and a note
    that says why. One reply is in memory at a time, all of them for a task with metrics; the rows
    are read back with `read_scores`. `weights` is the folder in which metrics find their models.

    Raises:
        ArtefactError: the folder has no replies.
        UnknownName: no such protocol.
        InputError: no protocol at all, or two samples share an id.
        StorageError: the disk refused a write.
    """
    if not protocols:
        raise InputError("no protocol is named; give strict, paper or medevalkit.")
    if not (folder / ASKED).is_file() or not reply_files(folder):
        raise ArtefactError(
            f"{folder} has no replies to score ({ASKED} and replies*.jsonl are needed); run"
            " `lingshu eval` first."
        )
    if len({sample.id for sample in samples}) < len(samples):
        raise InputError(
            f"{task.name} has two samples with one id; ids must differ, or replies would be"
            " mixed up."
        )
    graders = {protocol: scorer_of(task.score, protocol) for protocol in dict.fromkeys(protocols)}
    keys = {row["id"]: row["key"] for row in read_jsonl(folder / ASKED)}
    told: dict[str, Scored] = {}
    measured: list[Measured] = []
    with ReplyIndex(folder, set(keys.values())) as replies:

        def rows(protocol: str) -> Iterator[dict[str, Any]]:
            count = errors = waiting = 0
            for place, sample in enumerate(samples):
                reply = replies.get(keys.get(sample.id))
                found = score_reply(graders[protocol], sample, reply)
                row = score_row(
                    sample.id, found, {"protocol": protocol} | carried(task, sample, reply)
                )
                if measured and protocol == STRICT:
                    row["metrics"] = values_of(measured, place)
                count, errors, waiting = count + 1, errors + failed([row]), waiting + unjudged(row)
                yield row
            told[protocol] = Scored(count, errors, waiting)

        if task.metrics:
            found = (replies.get(keys.get(sample.id)) for sample in samples)
            measured = measure(
                task.metrics,
                samples,
                [None if reply is None else reply.text for reply in found],
                weights=weights,
            )
            write_json(folder / METRICS, table(measured, samples))
        before = _known(folder)
        for protocol in sorted(graders, key=lambda name: name != STRICT):
            write_scores(scores_file(folder, protocol), rows(protocol))
            if protocol == STRICT and _known(folder) != before:
                # Of other replies or answers; at once, for a kill must not leave them beside the
                # scores of these. A judge that is asked again still knows what it said.
                for stale in folder.glob("scores.*.jsonl"):
                    stale.unlink(missing_ok=True)
    return told[protocols[0]]


def _known(folder: Path) -> str | None:
    path = scores_file(folder)
    return sha256_file(path) if path.is_file() else None


def failed(rows: Iterable[Mapping[str, Any]]) -> int:
    """How many scores rows failed; those that only wait for a judge did not."""
    return sum(row["status"] == "error" and not unjudged(row) for row in rows)


def scores_file(folder: Path, protocol: str = STRICT) -> Path:
    """The scores file of a task's folder under a protocol."""
    return folder / (SCORES if protocol == STRICT else f"scores.{protocol}.jsonl")


def score_reply(scorer: Scorer, sample: Sample, reply: Reply | None) -> Score:
    """The score of one reply; a sample that cannot be scored is an `error`, never fatal."""
    if reply is None:
        return Score(None, "error", note=NEVER_ASKED)
    if reply.text is None:
        return Score(None, "error", note=reply.error or "the engine gave no text")
    try:
        found = scorer(sample, reply.text)
        if found.value is not None and not math.isfinite(found.value):
            return Score(None, "error", note=f"the scorer gave {found.value}")
    except InputError as error:
        return Score(None, "error", note=one_line(error))
    except (
        Exception
    ) as error:  # a scorer may be anyone's code, and one reply must not cost all the others
        return Score(None, "error", note=f"the scorer failed: {fault(error)}")
    return found


def carried(task: Task, sample: Sample, reply: Reply | None) -> dict[str, Any]:
    """What a scores row says besides the score: the question and its answers, and the facets to
    group by.
    """
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
    facets: Mapping[str, str | None] = {name: sample.meta.facet(name) for name in task.by}
    return row | {name: value for name, value in facets.items() if name not in row}
