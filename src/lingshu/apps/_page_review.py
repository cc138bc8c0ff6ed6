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

from lingshu.apps._page_http import Json, Taken, Workers, add, folders_with, taken
from lingshu.core.errors import InputError
from lingshu.core.files import JsonlAppender, numbered_jsonl
from lingshu.core.rooted import Rooted
from lingshu.core.rows import LETTERS
from lingshu.curate.review import Verdict, by_sample, quality, read_verdicts
from lingshu.imaging.read import MAX_BYTES, decode, png_bytes

QUEUE = "queue.jsonl"
MAX_ROWS = 5000
Name = Annotated[str, Field(min_length=1, max_length=80)]
Side = Literal["a", "b"]
_SIDES: tuple[Side, Side] = ("a", "b")


class Judged(Taken):
    """A verdict as the page sends it; `side` is what is preferred, as the reviewer saw it."""

    queue: Annotated[str, Field(max_length=1000)]
    reviewer: Name
    id: Annotated[str, Field(min_length=1, max_length=1000)]
    verdict: Literal["accept", "edit", "reject", "prefer"]
    text: Annotated[str, Field(max_length=100_000)] | None = None
    reason: Annotated[str, Field(max_length=2000)] | None = None
    side: Side | None = None


class Undoing(Taken):
    """A reviewer's wish to take the last verdict back."""

    queue: Annotated[str, Field(max_length=1000)]
    reviewer: Name


@dataclass(frozen=True)
class Row:
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
        return (self.second, self.first) if self.turned(reviewer) else (self.first, self.second)

    def turned(self, reviewer: str) -> bool:
        return bool(
            hashlib.sha256(f"{self.id}\0{reviewer}".encode("utf-8", "replace")).digest()[0] & 1
        )


class Reviews:
    """One writer at a time."""

    def __init__(self, root: Rooted | None) -> None:
        self._root = root
        self._turn = threading.Lock()

    def add(self, app: FastAPI, workers: Workers) -> None:
        async def queues(request: Request) -> Response:
            return Json({"queues": await workers.do(request, self.queues)})

        async def state(request: Request) -> Response:
            queue, reviewer = (
                request.query_params.get("queue", ""),
                request.query_params.get("reviewer", ""),
            )
            return Json(await workers.do(request, lambda: self.state(queue, _reviewer(reviewer))))

        async def image(request: Request) -> Response:
            asked = request.query_params
            data = await workers.do(
                request,
                lambda: self.image(
                    asked.get("queue", ""), asked.get("id", ""), asked.get("image", "")
                ),
            )
            return Response(data, media_type="image/png")

        async def judge(request: Request) -> Response:
            judged = await taken(request, Judged)
            return Json(await workers.do(request, lambda: self.judge(judged)))

        async def undo(request: Request) -> Response:
            asked = await taken(request, Undoing)
            return Json(
                await workers.do(request, lambda: self.undo(asked.queue, _reviewer(asked.reviewer)))
            )

        add(app, "/page/api/review", queues)
        add(app, "/page/api/review/queue", state)
        add(app, "/page/api/review/image", image)
        add(app, "/page/api/review/verdicts", judge, "POST")
        add(app, "/page/api/review/undo", undo, "POST")

    def queues(self) -> list[dict[str, Any]]:
        """The queues below the folder.

        Raises:
            InputError: the server has no such folder.
        """
        root = self._folder().folder
        found = []
        for folder in folders_with(root, QUEUE):
            name = str(folder.relative_to(root))
            told = folder.parent.name if folder.name == "review" else folder.name
            try:
                counts = {"rows": len(self._rows(name)), "reviewers": self._counts(name)}
            except InputError:
                # opening it tells what is wrong; the others are there all the same
                counts = {"rows": 0, "reviewers": {}}
            found.append({"queue": name, "name": told, **counts})
        return found

    def state(self, queue: str, reviewer: str) -> dict[str, Any]:
        """A queue as one reviewer sees it, what they said so far, and how far everybody is and
        agrees.
        """
        rows = self._rows(queue)
        mine = {
            verdict.id: _seen_by(verdict, rows, reviewer)
            for verdict in self._verdicts(queue)
            if verdict.reviewer == reviewer
        }
        told = [
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
        return {"rows": told, "mine": mine, **self._progress(queue, rows, reviewer)}

    def image(self, queue: str, name: str, number: str) -> bytes:
        """A picture of a sample as PNG.

        Raises:
            InputError: there is none.
        """
        row = self._rows(queue).get(name)
        if row is None or not (
            number.isascii()
            and number.isdigit()
            and len(number) < 4
            and int(number) < len(row.images)
        ):
            raise InputError("there is no such image in the queue.")
        folder = Path(*self._folder().parts(queue))
        return png_bytes(
            decode(
                self._folder().read(str(folder / row.images[int(number)]), limit=MAX_BYTES),
                name="the image",
            )
        )

    def judge(self, judged: Judged) -> dict[str, Any]:
        """Write a verdict.

        Raises:
            InputError: it does not fit the sample. StorageError: the disk refused; nothing was
                written.
        """
        rows, reviewer = self._rows(judged.queue), _reviewer(judged.reviewer)
        row = rows.get(judged.id)
        if row is None:
            raise InputError("there is no such sample in the queue; open it again.")
        verdict = _checked(judged, row, reviewer)
        with self._turn, JsonlAppender(self._file(judged.queue, reviewer)) as file:
            file.append(
                [{key: value for key, value in asdict(verdict).items() if value is not None}]
            )
        return {
            "mine": {row.id: _seen_by(verdict, rows, reviewer)},
            **self._progress(judged.queue, rows, reviewer),
        }

    def undo(self, queue: str, reviewer: str) -> dict[str, Any]:
        """Take a reviewer's last verdict away; an earlier one on the same sample counts again.

        Raises:
            InputError: there is none.
        """
        path = self._file(queue, reviewer)
        with self._turn:
            if not path.is_file():
                raise InputError("there is nothing to undo.")
            with JsonlAppender(path) as file:
                last = file.drop_last()
        if last is None:
            raise InputError("there is nothing to undo.")
        return {"undone": last.get("id"), **self.state(queue, reviewer)}

    # --- files
    # ---------------------------------------------------------------------------------------------------

    def _folder(self) -> Rooted:
        if self._root is None:
            raise InputError("this server shows no review; start it with --review FOLDER.")
        return self._root

    def _rows(self, queue: str) -> dict[str, Row]:
        path = self._folder().path(f"{queue}/{QUEUE}" if queue not in ("", ".") else QUEUE)
        found: dict[str, Row] = {}
        try:
            for number, row in numbered_jsonl(path, torn_ok=False):
                if len(found) >= MAX_ROWS:
                    raise InputError(f"the queue has more than {MAX_ROWS} samples; split it.")
                one = _row(row, number)
                found[one.id] = one
        except InputError as error:
            raise InputError(str(error).replace(str(path), "the queue")) from None
        return found

    def _place(self, queue: str) -> Path:
        """The folder of verdicts on a queue."""
        folder = self._folder().folder.joinpath(*self._folder().parts(queue))
        made = folder.parent if folder.name == "review" else folder
        return made.with_name(f"{made.name}.verdicts")

    def _file(self, queue: str, reviewer: str) -> Path:
        plain = re.sub(r"[^a-z0-9]+", "-", reviewer.lower()).strip("-")[:40]
        # Two names must not share a file, and one of other letters than these has no plain form.
        mark = (
            ""
            if plain == reviewer
            else hashlib.sha256(reviewer.encode("utf-8", "replace")).hexdigest()[:6]
        )
        return self._place(queue) / ("-".join(filter(None, (plain, mark))) + ".jsonl")

    def _verdicts(self, queue: str) -> list[Verdict]:
        place = self._place(queue)
        files = (
            sorted(
                path for path in place.glob("*.jsonl") if path.is_file() and not path.is_symlink()
            )
            if place.is_dir()
            else []
        )
        try:
            with self._turn:
                return read_verdicts(files)
        except InputError as error:
            raise InputError(str(error).replace(f"{place.parent}/", "")) from None

    def _counts(self, queue: str) -> dict[str, int]:
        counts: dict[str, int] = {}
        for verdict in self._verdicts(queue):
            counts[verdict.reviewer] = counts.get(verdict.reviewer, 0) + 1
        return counts

    def _progress(self, queue: str, rows: Mapping[str, Row], reviewer: str) -> dict[str, Any]:
        known = [verdict for verdict in self._verdicts(queue) if verdict.id in rows]
        done: dict[str, int] = {}
        for verdict in known:
            done[verdict.reviewer] = done.get(verdict.reviewer, 0) + 1
        pairs = [
            pair._asdict() for pair in quality("all", list(by_sample(known).values())).agreement
        ]
        file = self._file(queue, reviewer)
        return {"reviewers": done, "agreement": pairs, "file": f"{file.parent.name}/{file.name}"}


def _reviewer(name: str) -> str:
    """A reviewer's name as it is written down.

    Raises:
        InputError: it is empty, too long, or holds what is no letter.
    """
    found = " ".join(unicodedata.normalize("NFC", name).split())
    if not 1 <= len(found) <= 80 or not found.isprintable():
        raise InputError("a reviewer's name has 1 to 80 printable characters; type yours.")
    return found


def _row(found: Mapping[str, Any], number: int) -> Row:
    texts = {key: found.get(key) for key in ("id", "kind", "question", "first")}
    images = found.get("images") or []
    second, modality = found.get("second"), found.get("modality")
    named = isinstance(images, Sequence) and all(isinstance(one, str) for one in images)
    if not named or not all(isinstance(value, str) for value in texts.values()) or not texts["id"]:
        raise InputError(
            f"the queue, line {number}: a row has id, kind, question, first and images."
        )
    other = (
        second if isinstance(second, str) and second.strip() and second != texts["first"] else None
    )
    told = modality if isinstance(modality, str) else None
    return Row(
        str(texts["id"]),
        str(texts["kind"]),
        str(texts["question"]),
        str(texts["first"]),
        other,
        tuple(images),
        told,
    )


def _checked(judged: Judged, row: Row, reviewer: str) -> Verdict:
    """A verdict in the form that curation reads.

    Raises:
        InputError: what it lacks.
    """
    text, reason = (judged.text or "").strip() or None, (judged.reason or "").strip() or None
    if judged.verdict == "edit":
        if text is None:
            raise InputError("an edit needs its text.")
        if row.first.strip() in LETTERS and text not in LETTERS:
            raise InputError(
                "the answer is the letter of a choice: write one letter, or reject the sample."
            )
        return Verdict(row.id, reviewer, "edit", text=text)
    if judged.verdict == "reject":
        if reason is None:
            raise InputError("a rejection needs its reason.")
        return Verdict(row.id, reviewer, "reject", reason=reason)
    if judged.verdict == "prefer":
        if row.second is None or judged.side is None:
            raise InputError("a preference is between two texts; accept, edit or reject this one.")
        first = (judged.side == "a") != row.turned(reviewer)
        return Verdict(row.id, reviewer, "prefer", prefer="first" if first else "second")
    if row.second is not None:
        # Accepting means the first text, and the reviewer does not know which that is.
        raise InputError("there are two texts; say which one is better, edit one, or reject both.")
    return Verdict(row.id, reviewer, "accept")


def _seen_by(verdict: Verdict, rows: Mapping[str, Row], reviewer: str) -> dict[str, Any]:
    """A verdict as its reviewer gave it: a preference by its side."""
    row = rows.get(verdict.id)
    side = None
    if verdict.prefer is not None and row is not None:
        side = _SIDES[(verdict.prefer == "second") != row.turned(reviewer)]
    return {
        "verdict": verdict.verdict,
        "text": verdict.text,
        "reason": verdict.reason,
        "side": side,
    }
