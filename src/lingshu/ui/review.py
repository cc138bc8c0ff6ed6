"""Review of generated samples on the page: queues below a folder, blinded texts, and verdicts in
the form that curation reads.

    REVIEW/.../OUT/review/queue.jsonl        what `lingshu synthesise --out OUT` put there
    REVIEW/.../OUT.verdicts/REVIEWER.jsonl   one file a reviewer, beside OUT: a folder that is made anew would take them along

Every verdict is one line, written and synced before the page hears of it. Undoing takes the last
line of a reviewer's own file away; nobody touches another's. Of two texts neither side tells which
came first: the order is drawn for each sample and reviewer, and only the server knows it.
"""

from __future__ import annotations

import hashlib
import re
import threading
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request, Response
from pydantic import Field

from lingshu.core.errors import InputError
from lingshu.core.files import JsonlAppender, enumerate_jsonl
from lingshu.core.rows import LETTERS
from lingshu.core.safe_folder import SafeFolder
from lingshu.curate.review import Verdict, group_by_sample, read_verdicts, summarize_reviews
from lingshu.imaging.read import MAX_BYTES, decode, png_bytes
from lingshu.ui.http import (
    LenientJSONResponse,
    RequestModel,
    WorkerPool,
    add_route,
    find_folders,
    parse_body,
)

QUEUE_FILE = "queue.jsonl"
MAX_ROWS = 5000
ReviewerName = Annotated[str, Field(min_length=1, max_length=80)]
Side = Literal["a", "b"]
_SIDES: tuple[Side, Side] = ("a", "b")


class VerdictRequest(RequestModel):
    """A verdict as the page sends it; `side` is what is preferred, as the reviewer saw it."""

    queue: Annotated[str, Field(max_length=1000)]
    reviewer: ReviewerName
    id: Annotated[str, Field(min_length=1, max_length=1000)]
    verdict: Literal["accept", "edit", "reject", "prefer"]
    text: Annotated[str, Field(max_length=100_000)] | None = None
    reason: Annotated[str, Field(max_length=2000)] | None = None
    side: Side | None = None


class UndoRequest(RequestModel):
    """A reviewer's wish to take the last verdict back."""

    queue: Annotated[str, Field(max_length=1000)]
    reviewer: ReviewerName


@dataclass(frozen=True)
class ReviewRow:
    """A sample in a queue; `second` is the other text where there are two."""

    id: str
    kind: str
    question: str
    first: str
    second: str | None
    images: tuple[str, ...]
    modality: str | None

    def texts(self, reviewer: str) -> tuple[str, ...]:
        """The texts as this reviewer sees them."""
        if self.second is None:
            return (self.first,)
        return (self.second, self.first) if self.is_swapped(reviewer) else (self.first, self.second)

    def is_swapped(self, reviewer: str) -> bool:
        return bool(
            hashlib.sha256(f"{self.id}\0{reviewer}".encode("utf-8", "replace")).digest()[0] & 1
        )


class ReviewStore:
    """One writer at a time."""

    def __init__(self, root: SafeFolder | None) -> None:
        self._root = root
        self._lock = threading.Lock()

    def add_routes(self, app: FastAPI, workers: WorkerPool) -> None:
        async def list_queues(request: Request) -> Response:
            return LenientJSONResponse({"queues": await workers.run(request, self.list_queues)})

        async def queue_state(request: Request) -> Response:
            queue, reviewer = (
                request.query_params.get("queue", ""),
                request.query_params.get("reviewer", ""),
            )
            return LenientJSONResponse(
                await workers.run(
                    request, lambda: self.queue_state(queue, _normalize_reviewer(reviewer))
                )
            )

        async def image(request: Request) -> Response:
            params = request.query_params
            data = await workers.run(
                request,
                lambda: self.image(
                    params.get("queue", ""), params.get("id", ""), params.get("image", "")
                ),
            )
            return Response(data, media_type="image/png")

        async def judge(request: Request) -> Response:
            verdict_request = await parse_body(request, VerdictRequest)
            return LenientJSONResponse(
                await workers.run(request, lambda: self.judge(verdict_request))
            )

        async def undo(request: Request) -> Response:
            body = await parse_body(request, UndoRequest)
            return LenientJSONResponse(
                await workers.run(
                    request, lambda: self.undo(body.queue, _normalize_reviewer(body.reviewer))
                )
            )

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
                counts = {"rows": len(self._rows(name)), "reviewers": self._verdict_counts(name)}
            except InputError:
                # opening it tells what is wrong; the others are there all the same
                counts = {"rows": 0, "reviewers": {}}
            queues.append({"queue": name, "name": title, **counts})
        return queues

    def queue_state(self, queue: str, reviewer: str) -> dict[str, Any]:
        """A queue as one reviewer sees it, what they said so far, and how far everybody is and
        agrees.
        """
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
            }
            | {"modality": row.modality}
            for row in rows.values()
        ]
        return {
            "rows": row_entries,
            "own_verdicts": own_verdicts,
            **self._progress(queue, rows, reviewer),
        }

    def image(self, queue: str, name: str, index: str) -> bytes:
        """A picture of a sample as PNG.

        Raises:
            InputError: there is none.
        """
        row = self._rows(queue).get(name)
        if row is None or not (
            index.isascii() and index.isdigit() and len(index) < 4 and int(index) < len(row.images)
        ):
            raise InputError("there is no such image in the queue.")
        folder = Path(*self._folder().parts(queue))
        return png_bytes(
            decode(
                self._folder().read(str(folder / row.images[int(index)]), max_bytes=MAX_BYTES),
                name="the image",
            )
        )

    def judge(self, verdict_request: VerdictRequest) -> dict[str, Any]:
        """Write a verdict.

        Raises:
            InputError: it does not fit the sample. StorageError: the disk refused; nothing was
                written.
        """
        rows, reviewer = (
            self._rows(verdict_request.queue),
            _normalize_reviewer(verdict_request.reviewer),
        )
        row = rows.get(verdict_request.id)
        if row is None:
            raise InputError("there is no such sample in the queue; open it again.")
        verdict = _build_verdict(verdict_request, row, reviewer)
        with self._lock, JsonlAppender(self._file(verdict_request.queue, reviewer)) as file:
            file.append(
                [{key: value for key, value in asdict(verdict).items() if value is not None}]
            )
        return {
            "own_verdicts": {row.id: _verdict_view(verdict, rows, reviewer)},
            **self._progress(verdict_request.queue, rows, reviewer),
        }

    def undo(self, queue: str, reviewer: str) -> dict[str, Any]:
        """Take a reviewer's last verdict away; an earlier one on the same sample counts again.

        Raises:
            InputError: there is none.
        """
        path = self._file(queue, reviewer)
        with self._lock:
            if not path.is_file():
                raise InputError("there is nothing to undo.")
            with JsonlAppender(path) as file:
                last = file.pop_last()
        if last is None:
            raise InputError("there is nothing to undo.")
        return {"undone": last.get("id"), **self.queue_state(queue, reviewer)}

    # --- files
    # ---------------------------------------------------------------------------------------------------

    def _folder(self) -> SafeFolder:
        if self._root is None:
            raise InputError("this server shows no review; start it with --review FOLDER.")
        return self._root

    def _rows(self, queue: str) -> dict[str, ReviewRow]:
        path = self._folder().path(
            f"{queue}/{QUEUE_FILE}" if queue not in ("", ".") else QUEUE_FILE
        )
        rows: dict[str, ReviewRow] = {}
        try:
            for line_number, row in enumerate_jsonl(path, allow_truncated=False):
                if len(rows) >= MAX_ROWS:
                    raise InputError(f"the queue has more than {MAX_ROWS} samples; split it.")
                review_row = _parse_row(row, line_number)
                rows[review_row.id] = review_row
        except InputError as error:
            raise InputError(str(error).replace(str(path), "the queue")) from None
        return rows

    def _verdict_folder(self, queue: str) -> Path:
        """The folder of verdicts on a queue."""
        folder = self._folder().folder.joinpath(*self._folder().parts(queue))
        output_folder = folder.parent if folder.name == "review" else folder
        return output_folder.with_name(f"{output_folder.name}.verdicts")

    def _file(self, queue: str, reviewer: str) -> Path:
        slug = re.sub(r"[^a-z0-9]+", "-", reviewer.lower()).strip("-")[:40]
        # Two names must not share a file, and one of other letters than these has no plain form.
        suffix = (
            ""
            if slug == reviewer
            else hashlib.sha256(reviewer.encode("utf-8", "replace")).hexdigest()[:6]
        )
        return self._verdict_folder(queue) / ("-".join(filter(None, (slug, suffix))) + ".jsonl")

    def _verdicts(self, queue: str) -> list[Verdict]:
        folder = self._verdict_folder(queue)
        files = (
            sorted(
                path for path in folder.glob("*.jsonl") if path.is_file() and not path.is_symlink()
            )
            if folder.is_dir()
            else []
        )
        try:
            with self._lock:
                return read_verdicts(files)
        except InputError as error:
            raise InputError(str(error).replace(f"{folder.parent}/", "")) from None

    def _verdict_counts(self, queue: str) -> dict[str, int]:
        counts: dict[str, int] = {}
        for verdict in self._verdicts(queue):
            counts[verdict.reviewer] = counts.get(verdict.reviewer, 0) + 1
        return counts

    def _progress(self, queue: str, rows: Mapping[str, ReviewRow], reviewer: str) -> dict[str, Any]:
        verdicts = [verdict for verdict in self._verdicts(queue) if verdict.id in rows]
        counts: dict[str, int] = {}
        for verdict in verdicts:
            counts[verdict.reviewer] = counts.get(verdict.reviewer, 0) + 1
        pairs = [
            pair._asdict()
            for pair in summarize_reviews("all", list(group_by_sample(verdicts).values())).agreement
        ]
        file = self._file(queue, reviewer)
        return {"reviewers": counts, "agreement": pairs, "file": f"{file.parent.name}/{file.name}"}


def _normalize_reviewer(name: str) -> str:
    """A reviewer's name as it is written down.

    Raises:
        InputError: it is empty, too long, or holds what is no letter.
    """
    normalized = " ".join(unicodedata.normalize("NFC", name).split())
    if not 1 <= len(normalized) <= 80 or not normalized.isprintable():
        raise InputError("a reviewer's name has 1 to 80 printable characters; type yours.")
    return normalized


def _parse_row(record: Mapping[str, Any], line_number: int) -> ReviewRow:
    texts = {key: record.get(key) for key in ("id", "kind", "question", "first")}
    images = record.get("images") or []
    second, modality = record.get("second"), record.get("modality")
    is_valid_images = isinstance(images, Sequence) and all(
        isinstance(image, str) for image in images
    )
    if (
        not is_valid_images
        or not all(isinstance(value, str) for value in texts.values())
        or not texts["id"]
    ):
        raise InputError(
            f"the queue, line {line_number}: a row has id, kind, question, first and images."
        )
    second_text = (
        second if isinstance(second, str) and second.strip() and second != texts["first"] else None
    )
    modality_text = modality if isinstance(modality, str) else None
    return ReviewRow(
        str(texts["id"]),
        str(texts["kind"]),
        str(texts["question"]),
        str(texts["first"]),
        second_text,
        tuple(images),
        modality_text,
    )


def _build_verdict(verdict_request: VerdictRequest, row: ReviewRow, reviewer: str) -> Verdict:
    """A verdict in the form that curation reads.

    Raises:
        InputError: what it lacks.
    """
    text, reason = (
        (verdict_request.text or "").strip() or None,
        (verdict_request.reason or "").strip() or None,
    )
    if verdict_request.verdict == "edit":
        if text is None:
            raise InputError("an edit needs its text.")
        if row.first.strip() in LETTERS and text not in LETTERS:
            raise InputError(
                "the answer is the letter of a choice: write one letter, or reject the sample."
            )
        return Verdict(row.id, reviewer, "edit", text=text)
    if verdict_request.verdict == "reject":
        if reason is None:
            raise InputError("a rejection needs its reason.")
        return Verdict(row.id, reviewer, "reject", reason=reason)
    if verdict_request.verdict == "prefer":
        if row.second is None or verdict_request.side is None:
            raise InputError("a preference is between two texts; accept, edit or reject this one.")
        first = (verdict_request.side == "a") != row.is_swapped(reviewer)
        return Verdict(row.id, reviewer, "prefer", prefer="first" if first else "second")
    if row.second is not None:
        # Accepting means the first text, and the reviewer does not know which that is.
        raise InputError("there are two texts; say which one is better, edit one, or reject both.")
    return Verdict(row.id, reviewer, "accept")


def _verdict_view(verdict: Verdict, rows: Mapping[str, ReviewRow], reviewer: str) -> dict[str, Any]:
    """A verdict as its reviewer gave it: a preference by its side."""
    row = rows.get(verdict.id)
    side = None
    if verdict.prefer is not None and row is not None:
        side = _SIDES[(verdict.prefer == "second") != row.is_swapped(reviewer)]
    return {
        "verdict": verdict.verdict,
        "text": verdict.text,
        "reason": verdict.reason,
        "side": side,
    }
