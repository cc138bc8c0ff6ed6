"""Review of generated samples: queues of a folder, blinded texts, verdicts as curation reads them.

    REVIEW/.../OUT/review/queue.jsonl        what `lingshu synthesize --out OUT` wrote there
    REVIEW/.../OUT.verdicts/REVIEWER.jsonl   one file a reviewer, outside OUT, which a new run replaces

Every verdict is one line, written and synced before the page gets a response. Undo removes the last
line of the reviewer's own file. Neither of two texts reveals which came first: the order is random
per sample and reviewer, and only the server knows it.
"""

from __future__ import annotations

import hashlib
import re
import threading
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, Field, StrictStr, ValidationError

from lingshu.core.errors import InputError
from lingshu.core.files import JsonlAppender, enumerate_jsonl
from lingshu.core.rows import LETTERS
from lingshu.core.safe_folder import SafeFolder
from lingshu.curate.review import Verdict, group_by_sample, read_verdicts, summarize_reviews
from lingshu.imaging.read import MAX_BYTES, decode, png_bytes
from lingshu.ui.http import RequestModel, WorkerPool, add_route, parse_body
from lingshu.ui.runs import find_folders

QUEUE_FILE = "queue.jsonl"
MAX_ROWS = 5000
ReviewerName = Annotated[str, Field(min_length=1, max_length=80)]
QueueName = Annotated[str, Field(max_length=1000)]
Side = Literal["a", "b"]
_SIDES: tuple[Side, Side] = ("a", "b")


class VerdictRequest(RequestModel):
    """A verdict as the page sends it; `side` is the preferred one, as the reviewer saw it."""

    queue: QueueName
    reviewer: ReviewerName
    id: Annotated[str, Field(min_length=1, max_length=1000)]
    verdict: Literal["accept", "edit", "reject", "prefer"]
    text: Annotated[str, Field(max_length=100_000)] | None = None
    reason: Annotated[str, Field(max_length=2000)] | None = None
    side: Side | None = None


class UndoRequest(RequestModel):
    """Removes a reviewer's last verdict."""

    queue: QueueName
    reviewer: ReviewerName


class ReviewRow(BaseModel):
    """A sample in a queue; `second` is the other text, if there are two."""

    id: Annotated[StrictStr, Field(min_length=1)]
    kind: StrictStr
    question: StrictStr
    first: StrictStr
    images: tuple[StrictStr, ...] = ()
    second: Any = None
    modality: Any = None

    def model_post_init(self, _context: object) -> None:
        if not (isinstance(self.second, str) and self.second.strip()) or self.second == self.first:
            self.second = None
        if not isinstance(self.modality, str):
            self.modality = None

    def texts(self, reviewer: str) -> tuple[str, ...]:
        """The texts in the order that this reviewer sees."""
        if self.second is None:
            return (self.first,)
        return (self.second, self.first) if self.is_swapped(reviewer) else (self.first, self.second)

    def is_swapped(self, reviewer: str) -> bool:
        digest = hashlib.sha256(f"{self.id}\0{reviewer}".encode("utf-8", "replace")).digest()
        return bool(digest[0] & 1)


class ReviewStore:
    """The queues and verdicts below a folder; one writer at a time."""

    def __init__(self, root: SafeFolder | None) -> None:
        self._root = root
        self._lock = threading.Lock()

    def add_routes(self, app: FastAPI, workers: WorkerPool) -> None:
        async def list_queues(request: Request) -> object:
            return {"queues": await workers.run(request, self.list_queues)}

        async def queue_state(request: Request) -> object:
            params = request.query_params
            queue, reviewer = params.get("queue", ""), params.get("reviewer", "")
            return await workers.run(request, lambda: self.queue_state(queue, reviewer))

        async def image(request: Request) -> Response:
            names = [request.query_params.get(name, "") for name in ("queue", "id", "image")]
            data = await workers.run(request, lambda: self.image(*names))
            return Response(data, media_type="image/png")

        async def judge(request: Request) -> object:
            body = await parse_body(request, VerdictRequest)
            return await workers.run(request, lambda: self.judge(body))

        async def undo(request: Request) -> object:
            body = await parse_body(request, UndoRequest)
            return await workers.run(request, lambda: self.undo(body.queue, body.reviewer))

        add_route(app, "/page/api/review", list_queues)
        add_route(app, "/page/api/review/queue", queue_state)
        add_route(app, "/page/api/review/image", image)
        add_route(app, "/page/api/review/verdicts", judge, "POST")
        add_route(app, "/page/api/review/undo", undo, "POST")

    def list_queues(self) -> list[dict[str, Any]]:
        """The queues below the folder.

        Raises:
            InputError: the server has no such folder.
        """
        root = self._folder().folder
        queues = []
        for folder in find_folders(root, QUEUE_FILE):
            name = str(folder.relative_to(root))
            title = folder.parent.name if folder.name == "review" else folder.name
            try:
                n_rows, reviewers = len(self._rows(name)), _count(self._verdicts(name))
            except InputError:
                n_rows, reviewers = 0, {}  # opening the queue reports what is wrong
            queues.append({"queue": name, "name": title, "rows": n_rows, "reviewers": reviewers})
        return queues

    def queue_state(self, queue: str, reviewer: str) -> dict[str, Any]:
        """A queue as one reviewer sees it, their verdicts, and all reviewers' progress and agreement."""
        reviewer = _normalize_reviewer(reviewer)
        rows = self._rows(queue)
        own_verdicts = {
            verdict.id: _verdict_view(verdict, rows, reviewer)
            for verdict in self._verdicts(queue)
            if verdict.reviewer == reviewer
        }
        row_entries = [
            {
                "id": row.id,
                "kind": row.kind,
                "question": row.question,
                "texts": row.texts(reviewer),
                "images": len(row.images),
                "modality": row.modality,
            }
            for row in rows.values()
        ]
        progress = self._progress(queue, rows, reviewer)
        return {"rows": row_entries, "own_verdicts": own_verdicts, **progress}

    def image(self, queue: str, name: str, index: str) -> bytes:
        """An image of a sample as PNG.

        Raises:
            InputError: there is none.
        """
        row = self._rows(queue).get(name)
        if row is None or index not in map(str, range(len(row.images))):
            raise InputError("there is no such image in the queue.")
        path = Path(*self._folder().parts(queue)) / row.images[int(index)]
        data = self._folder().read(str(path), max_bytes=MAX_BYTES)
        return png_bytes(decode(data, name="the image"))

    def judge(self, body: VerdictRequest) -> dict[str, Any]:
        """Write a verdict.

        Raises:
            InputError: it does not fit the sample.
            StorageError: the disk refused the write; nothing was written.
        """
        rows, reviewer = self._rows(body.queue), _normalize_reviewer(body.reviewer)
        row = rows.get(body.id)
        if row is None:
            raise InputError("there is no such sample in the queue; open it again.")
        verdict = _build_verdict(body, row, reviewer)
        record = {key: value for key, value in asdict(verdict).items() if value is not None}
        with self._lock, JsonlAppender(self._file(body.queue, reviewer)) as file:
            file.append([record])
        own_verdicts = {row.id: _verdict_view(verdict, rows, reviewer)}
        return {"own_verdicts": own_verdicts, **self._progress(body.queue, rows, reviewer)}

    def undo(self, queue: str, reviewer: str) -> dict[str, Any]:
        """Remove a reviewer's last verdict; an earlier one on the same sample counts again.

        Raises:
            InputError: there is none.
        """
        path = self._file(queue, _normalize_reviewer(reviewer))
        last = None
        with self._lock:
            if path.is_file():
                with JsonlAppender(path) as file:
                    last = file.pop_last()
        if last is None:
            raise InputError("there is nothing to undo.")
        return {"undone": last.get("id"), **self.queue_state(queue, reviewer)}

    def _folder(self) -> SafeFolder:
        if self._root is None:
            raise InputError("this server shows no review; start it with --review FOLDER.")
        return self._root

    def _rows(self, queue: str) -> dict[str, ReviewRow]:
        name = QUEUE_FILE if queue in ("", ".") else f"{queue}/{QUEUE_FILE}"
        path = self._folder().path(name)
        rows: dict[str, ReviewRow] = {}
        try:
            for line_number, record in enumerate_jsonl(path, allow_truncated=False):
                if len(rows) >= MAX_ROWS:
                    raise InputError(f"the queue has more than {MAX_ROWS} samples; split it.")
                row = _parse_row(record, line_number)
                rows[row.id] = row
        except InputError as error:
            raise InputError(str(error).replace(str(path), "the queue")) from None
        return rows

    def _verdict_folder(self, queue: str) -> Path:
        folder = self._folder().folder.joinpath(*self._folder().parts(queue))
        output_folder = folder.parent if folder.name == "review" else folder
        return output_folder.with_name(f"{output_folder.name}.verdicts")

    def _file(self, queue: str, reviewer: str) -> Path:
        slug = re.sub(r"[^a-z0-9]+", "-", reviewer.lower()).strip("-")[:40]
        # Two names must not share a file, and names in other scripts have no slug.
        digest = hashlib.sha256(reviewer.encode("utf-8", "replace")).hexdigest()[:6]
        parts = (slug, digest if slug != reviewer else "")
        return self._verdict_folder(queue) / ("-".join(filter(None, parts)) + ".jsonl")

    def _verdicts(self, queue: str) -> list[Verdict]:
        folder = self._verdict_folder(queue)
        files = sorted(
            path for path in folder.glob("*.jsonl") if path.is_file() and not path.is_symlink()
        )
        try:
            with self._lock:
                return read_verdicts(files)
        except InputError as error:
            raise InputError(str(error).replace(f"{folder.parent}/", "")) from None

    def _progress(self, queue: str, rows: Mapping[str, ReviewRow], reviewer: str) -> dict[str, Any]:
        verdicts = [verdict for verdict in self._verdicts(queue) if verdict.id in rows]
        summary = summarize_reviews("all", list(group_by_sample(verdicts).values()))
        file = self._file(queue, reviewer)
        return {
            "reviewers": _count(verdicts),
            "agreement": [pair._asdict() for pair in summary.agreement],
            "file": f"{file.parent.name}/{file.name}",
        }


def _count(verdicts: list[Verdict]) -> dict[str, int]:
    return dict(Counter(verdict.reviewer for verdict in verdicts))


def _normalize_reviewer(name: str) -> str:
    """A reviewer's name as it is stored.

    Raises:
        InputError: it is empty, too long, or has characters that are not printable.
    """
    normalized = " ".join(unicodedata.normalize("NFC", name).split())
    if not 1 <= len(normalized) <= 80 or not normalized.isprintable():
        raise InputError("a reviewer's name has 1 to 80 printable characters; type yours.")
    return normalized


def _parse_row(record: Mapping[str, Any], line_number: int) -> ReviewRow:
    try:
        return ReviewRow.model_validate({**record, "images": record.get("images") or ()})
    except ValidationError:
        raise InputError(
            f"the queue, line {line_number}: a row has id, kind, question, first and images."
        ) from None


def _build_verdict(body: VerdictRequest, row: ReviewRow, reviewer: str) -> Verdict:
    """A verdict in the form that curation reads.

    Raises:
        InputError: something is missing.
    """
    text, reason = (body.text or "").strip() or None, (body.reason or "").strip() or None
    if body.verdict == "edit":
        if text is None:
            raise InputError("an edit needs its text.")
        if row.first.strip() in LETTERS and text not in LETTERS:
            raise InputError(
                "the answer is the letter of a choice: write one letter, or reject the sample."
            )
        return Verdict(row.id, reviewer, "edit", text=text)
    if body.verdict == "reject":
        if reason is None:
            raise InputError("a rejection needs its reason.")
        return Verdict(row.id, reviewer, "reject", reason=reason)
    if body.verdict == "prefer":
        if row.second is None or body.side is None:
            raise InputError("a preference is between two texts; accept, edit or reject this one.")
        first = (body.side == "a") != row.is_swapped(reviewer)
        return Verdict(row.id, reviewer, "prefer", prefer="first" if first else "second")
    if row.second is not None:
        # Accepting means the first text, and the reviewer does not know which that is.
        raise InputError("there are two texts; say which one is better, edit one, or reject both.")
    return Verdict(row.id, reviewer, "accept")


def _verdict_view(verdict: Verdict, rows: Mapping[str, ReviewRow], reviewer: str) -> dict[str, Any]:
    """A verdict as its reviewer gave it: a preference by its side."""
    row = rows.get(verdict.id)
    view = {
        "verdict": verdict.verdict,
        "text": verdict.text,
        "reason": verdict.reason,
        "side": None,
    }
    if verdict.prefer is not None and row is not None:
        view["side"] = _SIDES[(verdict.prefer == "second") != row.is_swapped(reviewer)]
    return view
