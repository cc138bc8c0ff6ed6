"""Every sample of a run on its report page: the rows and images that sample_browser.js shows.

The rows are read from the disk a second time and written as they are read; only their offsets are
in memory.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from lingshu.core.artifacts import iterate_scores
from lingshu.evaluate.calibration import confidence_of
from lingshu.evaluate.generate import REQUESTS
from lingshu.evaluate.report.model import EvaluationReport, TaskReport
from lingshu.evaluate.spool import RowIndex
from lingshu.evaluate.store import scores_files
from lingshu.evaluate.summary import awaiting_judge
from lingshu.evaluate.thumbnails import MAX_THUMBNAIL_BYTES, THUMBNAILS

MAX_SAMPLES = 50_000
# Characters of questions and replies on a page; long ones are cut to a fair share of it, and say so.
MAX_TEXT_CHARS = 64 << 20
MAX_REPLY_CHARS, MIN_REPLY_CHARS = 8000, 800


class Browser:
    """What samples.html.j2 shows; a context manager that holds the run's files open.

    `against` is the folder of a second run, whose replies are shown next to those with the same id
    and gold. At most `max_samples` samples and `max_bytes` of images are on the page; `excluded`
    counts the rest once `rows` is exhausted.
    """

    def __init__(
        self,
        run: Path,
        report: EvaluationReport,
        *,
        against: Path | None = None,
        max_samples: int = MAX_SAMPLES,
        max_bytes: int = MAX_THUMBNAIL_BYTES,
    ) -> None:
        self._run, self._report, self._against = run, report, against
        self._samples_left, self._max_bytes = max_samples, max_bytes
        self.n_samples = sum(task.n_rows for task in report.tasks)
        self._max_reply_chars = max(
            MIN_REPLY_CHARS,
            min(MAX_REPLY_CHARS, MAX_TEXT_CHARS // max(1, min(self.n_samples, max_samples))),
        )
        self._thumbnails: list[tuple[RowIndex, str]] = []
        self._files = ExitStack()
        self.excluded = {"samples": 0, "images": 0}

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    @property
    def other(self) -> dict[str, str] | None:
        paired = self._report.paired if self._against else None
        return None if paired is None else {"run": paired.run, "model": paired.model}

    @property
    def tasks(self) -> list[dict[str, Any]]:
        keys = ("name", "title", "protocol")
        return [
            {key: getattr(task, key) for key in keys} | {"facets": list(task.facets)}
            for task in self._report.tasks
        ]

    def thumbnails(self) -> Iterator[str]:
        """The images of the rows so far, in base64, in the order of their numbers."""
        return (str((rows.row(name) or {}).get("jpeg")) for rows, name in self._thumbnails)

    def _open(self, path: Path, key: str, *, allow_truncated: bool = False) -> RowIndex:
        index = self._files.enter_context(RowIndex())
        return index.add_file(path, key, allow_truncated=allow_truncated)

    def rows(self) -> Iterator[dict[str, Any]]:
        bytes_left = self._max_bytes
        for task_index, task in enumerate(self._report.tasks):
            byte_budget = bytes_left // (len(self._report.tasks) - task_index)
            requests = self._open(self._run / task.name / REQUESTS, "id")
            stored = self._open(self._run / task.name / THUMBNAILS, "image", allow_truncated=True)
            images = _ThumbnailSelection(requests, stored, byte_budget, self._thumbnails)
            n_rows = 0
            for row in islice(self._task_rows(task, images), self._samples_left):
                n_rows += 1
                yield row | {"task": task_index}
            self._samples_left -= n_rows
            bytes_left -= byte_budget - images.bytes_left
            self.excluded["samples"] += max(0, task.n_rows - n_rows)
            self.excluded["images"] += images.excluded

    def _task_rows(self, task: TaskReport, images: _ThumbnailSelection) -> Iterator[dict[str, Any]]:
        files = _protocol_files(self._run / task.name)
        protocols = [name for name in task.all_protocols if name in files]
        if not protocols:
            return
        others = {name: self._open(files[name], "id") for name in protocols[1:]}
        other_files = _protocol_files(self._against / task.name) if self._against else {}
        other_run = self._open(other_files.get(protocols[0], Path()), "id")
        for row in iterate_scores(files[protocols[0]]):
            entry = self._sample_entry(row, task)
            scores = {name: index.row(row["id"]) for name, index in others.items()}
            other_row = other_run.row(row["id"])
            # The same id over another answer is another item.
            if other_row is not None and other_row.get("gold") == row.get("gold"):
                reply = self._text(other_row.get("reply"))
                entry["other"] = self._score(other_row) | {"reply": reply}
            entry["also"] = {name: self._score(score) for name, score in scores.items() if score}
            yield _non_empty(entry | {"images": images.indices(row["id"])})

    def _sample_entry(self, row: Mapping[str, Any], task: TaskReport) -> dict[str, Any]:
        choices, metrics = row.get("choices"), row.get("metrics")
        if isinstance(choices, Mapping):
            choices = [f"{letter}. {text}" for letter, text in choices.items()]
        return {
            "id": str(row["id"]),
            **self._score(row),
            "reply": self._text(row.get("reply")),
            "question": self._text(row.get("question")),
            "choices": _to_texts(choices),
            "gold": _to_texts(row.get("gold")),
            "facets": {
                name: _to_text(row[name]) for name in task.facets if row.get(name) is not None
            },
            "group": None if row.get("group") is None else str(row["group"]),
            "metrics": dict(metrics) if isinstance(metrics, Mapping) else None,
            "cut": bool(row.get("truncated")),
        }

    def _score(self, row: Mapping[str, Any]) -> dict[str, Any]:
        judge_field = row.get("judge")
        judge = judge_field if isinstance(judge_field, Mapping) else {}
        texts = {
            name: self._text(source.get(name))
            for source, name in ((row, "prediction"), (row, "note"), (judge, "reason"))
        }
        keys = ("verdict", "points", "criterion", "reason")
        criteria = [
            [self._text(part.get(key)) or "" for key in keys]
            for part in judge.get("criteria") or ()
            if isinstance(part, Mapping)
        ]
        score = {"outcome": outcome(row), "value": row["value"]}
        known = {"criteria": criteria, "confidence": confidence_of(row)}
        return score | _non_empty({**texts, **known})

    def _text(self, value: object) -> str | None:
        """Text for the page; of a long one its beginning and its end, which usually has the answer."""
        if value is None:
            return None
        text, limit = _to_text(value), self._max_reply_chars
        if len(text) <= limit:
            return text
        head, tail = text[: limit // 3], text[limit // 3 - limit :]
        return f"{head}\n[… {len(text) - limit:,} characters are not on this page …]\n{tail}"


def outcome(row: Mapping[str, Any]) -> str:
    """A scores row in one word: right, partly, wrong, waiting (for a judge), unscored or status."""
    if awaiting_judge(row):
        return "waiting"
    if row["status"] != "ok" or row["value"] is None:
        return "unscored" if row["status"] == "ok" else str(row["status"])
    return "right" if row["value"] >= 1 else "partly" if row["value"] > 0 else "wrong"


def _protocol_files(folder: Path) -> dict[str, Path]:
    """The scores files of a task's folder by the protocol that their rows name."""
    files: dict[str, Path] = {}
    for name, path in scores_files(folder):
        files.setdefault(str(next(iterate_scores(path), {}).get("protocol") or name), path)
    return files


class _ThumbnailSelection:
    """The images of one task, numbered in the order of use, until `bytes_left` of base64 is spent."""

    def __init__(
        self,
        requests: RowIndex,
        stored: RowIndex,
        bytes_left: int,
        thumbnails: list[tuple[RowIndex, str]],
    ) -> None:
        self._requests, self._stored = requests, stored
        self._image_indices: dict[str, int] = {}
        self._thumbnails = thumbnails
        self.bytes_left, self.excluded = bytes_left, 0

    def indices(self, name: object) -> list[int | None]:
        """The numbers of a sample's images, None for those that are not on the page."""
        request = self._requests.row(name) or {}
        indices = [self._image_index(str(digest)) for digest in request.get("images", ())]
        self.excluded += indices.count(None)
        return indices

    def _image_index(self, digest: str) -> int | None:
        if digest in self._image_indices:
            return self._image_indices[digest]
        row = self._stored.row(digest) if self.bytes_left > 0 else None
        if row is None:
            return None
        size = len(str(row.get("jpeg")))
        if size > self.bytes_left:
            # The first one that does not fit is the last: the selection depends on the order alone.
            self.bytes_left = 0
            return None
        self.bytes_left -= size
        self._thumbnails.append((self._stored, digest))
        self._image_indices[digest] = len(self._thumbnails) - 1
        return self._image_indices[digest]


def _non_empty(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is empty, except `value` and `reply`, where that means something."""
    kept = ("value", "reply")
    return {k: v for k, v in values.items() if k in kept or v not in (None, "", False, [], {})}


def _to_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _to_texts(value: object) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [_to_text(value)]
    return [_to_text(item) for item in value]
