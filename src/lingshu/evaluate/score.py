"""Step 2 of an evaluation: score stored replies. Needs the task and its questions, but neither the model nor the images.

OUT/<task>/scores.jsonl    one row per sample in the order of the task, with all that the report needs
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lingshu.core.artefacts import REPLIES, SCORES, ReplyStore, score_row, write_scores
from lingshu.core.errors import ArtefactError, InputError, one_line
from lingshu.core.files import read_jsonl
from lingshu.core.nouns import Reply, Sample, Score, Scorer, Task
from lingshu.evaluate.generate import ASKED

NEVER_ASKED = "this sample was never asked"


def score(task: Task, samples: Sequence[Sample], folder: Path) -> list[dict[str, Any]]:
    """Score the replies in `folder`, write scores.jsonl and return its rows.

    A reply that failed, was never asked for or cannot be scored has the status `error` and a note that says why.

    Raises:
        ArtefactError: the folder has no replies.
        StorageError: the disk refused a write.
    """
    if not (folder / ASKED).is_file() or not (folder / REPLIES).is_file():
        raise ArtefactError(f"{folder} has no replies to score ({ASKED} and {REPLIES} are needed); run `lingshu eval` first.")
    keys = {row["id"]: row["key"] for row in read_jsonl(folder / ASKED)}
    with ReplyStore(folder / REPLIES) as store:
        rows = []
        for sample in samples:
            reply = store.reply(keys[sample.id]) if sample.id in keys else None
            rows.append(score_row(sample.id, score_reply(task.score, sample, reply), carried(task, sample, reply)))
    write_scores(folder / SCORES, rows)
    return rows


def score_reply(scorer: Scorer, sample: Sample, reply: Reply | None) -> Score:
    """The score of one reply; a sample that cannot be scored is an `error`, never fatal."""
    if reply is None:
        return Score(None, "error", note=NEVER_ASKED)
    if reply.text is None:
        return Score(None, "error", note=reply.error or "the engine gave no text")
    try:
        return scorer(sample, reply.text)
    except InputError as error:
        return Score(None, "error", note=one_line(error))


def carried(task: Task, sample: Sample, reply: Reply | None) -> dict[str, Any]:
    """What a scores row says besides the score: the question and its answers, and the facets to group by."""
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
