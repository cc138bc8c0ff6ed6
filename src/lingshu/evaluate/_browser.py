"""Every sample of a run on its report page: the rows and small pictures that _browser.js lists,
filters and shows.

The rows are read from the disk a second time and written as they are read; in memory are only their
places. All text goes as JSON into a block that no browser runs, and from there into text nodes:
what data say is never taken for HTML.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from html import escape
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lingshu.core.artefacts import SCORES, iterate_scores
from lingshu.core.files import numbered_jsonl
from lingshu.evaluate._thumbnails import MOST_BYTES, THUMBNAILS
from lingshu.evaluate.generate import ASKED
from lingshu.evaluate.summary import unjudged

if TYPE_CHECKING:
    from lingshu.evaluate.report import Report, TaskReport

MOST_SAMPLES = 50_000
# characters of questions and replies on a page; long ones are cut to a fair share of it, and say so
MOST_TEXT = 64 << 20
LONGEST, SHORTEST = 8000, 800
ANCHOR = "samples"


def script() -> str:
    return _file("_browser.js")


def style() -> str:
    return _file("_browser.css")


def _file(name: str) -> str:
    return resources.files("lingshu.evaluate").joinpath(name).read_text(encoding="utf-8")


class Browser:
    """The section of samples of a page.

    `against` is the folder of a second run, whose replies are put beside those with the same id and
    gold. At most `most_samples` samples and `most_bytes` of pictures are on the page; what is left
    out is counted there.
    """

    def __init__(
        self,
        run: Path,
        report: Report,
        *,
        against: Path | None = None,
        most_samples: int = MOST_SAMPLES,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._run, self._report, self._against = run, report, against
        self._room, self._most_bytes = most_samples, most_bytes
        self.samples = sum(sum(task.summary.statuses.values()) for task in report.tasks)
        self._longest = max(
            SHORTEST, min(LONGEST, MOST_TEXT // max(1, min(self.samples, most_samples)))
        )
        self._pictures: list[tuple[_Rows, int]] = []
        self._left_out = {"samples": 0, "images": 0}

    def pieces(self, script_tag: str) -> Iterator[str]:
        """The section as HTML; the pictures stand behind the script, so that a reader need not wait
        for them.
        """
        with ExitStack() as self._opened:
            yield from self._pieces(script_tag)

    def _pieces(self, script_tag: str) -> Iterator[str]:
        yield _FRAME.replace("{count}", f"{self.samples:,}")
        yield '<script type="application/json" id="samples-data">'
        paired = self._report.paired if self._against else None
        other = None if paired is None else {"run": paired.run, "model": paired.model}
        yield (
            _json(
                {
                    "model": self._report.model,
                    "other": other,
                    "tasks": [*map(_heading, self._report.tasks)],
                }
            )[:-1]
            + ',"rows":['
        )
        mark = "\n"
        for row in self._rows():
            yield mark + _json(row)
            mark = ",\n"
        yield f'\n],"left_out":{_json(self._left_out)}}}</script>\n{script_tag}\n'
        for number, (rows, place) in enumerate(self._pictures):
            yield (
                '<script type="application/json"'
                f' id="picture-{number}">{escape(str(rows.at(place).get("jpeg")))}</script>\n'
            )
        yield "</section>\n"

    def _open(self, path: Path, key: str) -> _Rows:
        return self._opened.enter_context(_Rows(path, key))

    def _rows(self) -> Iterator[dict[str, Any]]:
        bytes_left = self._most_bytes
        for number, task in enumerate(self._report.tasks):
            share = bytes_left // (len(self._report.tasks) - number)
            kept, asked = (self._run / task.name / name for name in (THUMBNAILS, ASKED))
            shelf = _Shelf(
                self._open(asked, "id") if asked.is_file() else None,
                self._open(kept, "image") if kept.is_file() else None,
                share,
                self._pictures,
            )
            count = 0
            for row in islice(self._task(task, number, shelf), self._room):
                count += 1
                yield row
            self._room -= count
            bytes_left -= share - shelf.room
            self._left_out["samples"] += max(0, sum(task.summary.statuses.values()) - count)
            self._left_out["images"] += shelf.left_out

    def _task(self, task: TaskReport, number: int, shelf: _Shelf) -> Iterator[dict[str, Any]]:
        folder = self._run / task.name
        files = _files(folder)
        shown = [name for name in (task.protocol, *task.protocols) if name in files]
        if not shown:
            return
        beside = {name: self._open(files[name], "id") for name in shown[1:]}
        there = _files(self._against / task.name).get(shown[0]) if self._against else None
        other = self._open(there, "id") if there else None
        for row in iterate_scores(files[shown[0]]):
            told = self._told(row, task, number)
            also = {
                name: self._score(found)
                for name, rows in beside.items()
                if (found := rows.get(row["id"]))
            }
            paired = other.get(row["id"]) if other else None
            # The same id over another answer is another item.
            if paired is not None and paired.get("gold") == row.get("gold"):
                told["other"] = self._score(paired) | {"reply": self._text(paired.get("reply"))}
            yield told | _present({"also": also, "images": shelf.images(row["id"])})

    def _told(self, row: Mapping[str, Any], task: TaskReport, number: int) -> dict[str, Any]:
        choices = row.get("choices")
        choices = (
            [f"{letter}. {text}" for letter, text in choices.items()]
            if isinstance(choices, Mapping)
            else choices
        )
        facets = {name: _string(row[name]) for name in task.facets if row.get(name) is not None}
        metrics = row.get("metrics")
        return {
            "id": str(row["id"]),
            "task": number,
            **self._score(row),
            "reply": self._text(row.get("reply")),
        } | _present(
            {
                "question": self._text(row.get("question")),
                "choices": _strings(choices),
                "gold": _strings(row.get("gold")),
                "facets": facets,
                "group": None if row.get("group") is None else str(row["group"]),
                "metrics": (
                    {str(k): v for k, v in metrics.items()}
                    if isinstance(metrics, Mapping)
                    else None
                ),
                "cut": bool(row.get("truncated")),
            }
        )

    def _score(self, row: Mapping[str, Any]) -> dict[str, Any]:
        found = row.get("judge")
        judge = found if isinstance(found, Mapping) else {}
        told = {
            name: self._text(holder.get(name))
            for holder, name in ((row, "read"), (row, "note"), (judge, "reason"))
        }
        parts = [part for part in judge.get("criteria") or () if isinstance(part, Mapping)]
        criteria = [
            [
                self._text(part.get(name)) or ""
                for name in ("verdict", "points", "criterion", "reason")
            ]
            for part in parts
        ]
        return {"outcome": outcome(row), "value": row["value"]} | _present(
            {**told, "criteria": criteria}
        )

    def _text(self, value: object) -> str | None:
        """Text for the page; of a long one its beginning and its end, where an answer usually
        stands.
        """
        if value is None:
            return None
        text = _string(value)
        if len(text) <= self._longest:
            return text
        first, last = self._longest // 3, self._longest - self._longest // 3
        return (
            f"{text[:first]}\n[… {len(text) - self._longest:,} characters are not on this page"
            f" …]\n{text[-last:]}"
        )


def outcome(row: Mapping[str, Any]) -> str:
    """What became of a scores row, in one word: right, partly or wrong where it has a value, else
    its status.

    Besides: `waiting` for a judge, and `unscored` where there was nothing to score.
    """
    if unjudged(row):
        return "waiting"
    if row["status"] != "ok" or row["value"] is None:
        return "unscored" if row["status"] == "ok" else str(row["status"])
    return "right" if row["value"] >= 1 else "partly" if row["value"] > 0 else "wrong"


def _heading(task: TaskReport) -> dict[str, Any]:
    return {
        "name": task.name,
        "title": task.title,
        "protocol": task.protocol,
        "facets": list(task.facets),
    }


def _files(folder: Path) -> dict[str, Path]:
    """The scores files of a task's folder by the protocol that they hold."""
    stem, suffix = SCORES.split(".")
    found: dict[str, Path] = {}
    for path in sorted(
        folder.glob(f"{stem}*.{suffix}"), key=lambda path: (path.name != SCORES, path.name)
    ):
        if path.name == SCORES or path.name.startswith(f"{stem}."):
            first = next(iterate_scores(path), {})
            named = path.name.removeprefix(stem).removesuffix(suffix).strip(".") or "strict"
            found.setdefault(str(first.get("protocol") or named), path)
    return found


class _Rows:
    """The rows of a JSONL file by one of their keys; only their places are held."""

    def __init__(self, path: Path, key: str) -> None:
        self._file: IO[bytes] = path.open("rb")
        self._places: dict[str, int] = {}
        before = 0
        for number, row in numbered_jsonl(path, torn_ok=True):
            for _ in range(number - 1 - before):
                self._file.readline()
            self._places.setdefault(str(row.get(key)), self._file.tell())
            before = number
            self._file.readline()

    def place(self, name: object) -> int | None:
        return self._places.get(str(name))

    def at(self, place: int) -> dict[str, Any]:
        self._file.seek(place)
        return json.loads(self._file.readline().decode("utf-8-sig"))

    def get(self, name: object) -> dict[str, Any] | None:
        place = self.place(name)
        return None if place is None else self.at(place)

    def __enter__(self) -> _Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class _Shelf:
    """The pictures of one task, numbered as samples use them, as far as there is room for them in
    base64.
    """

    def __init__(
        self, asked: _Rows | None, kept: _Rows | None, room: int, pictures: list[tuple[_Rows, int]]
    ) -> None:
        self._asked, self._kept = asked, kept
        self._numbers: dict[str, int] = {}
        self._pictures = pictures
        self.room, self.left_out = room, 0

    def images(self, name: object) -> list[int | None]:
        """The numbers of a sample's pictures, None for those that are not on the page."""
        asked = self._asked.get(name) if self._asked else None
        found = [self._number(str(digest)) for digest in (asked or {}).get("images", ())]
        self.left_out += found.count(None)
        return found

    def _number(self, digest: str) -> int | None:
        if digest in self._numbers:
            return self._numbers[digest]
        place = self._kept.place(digest) if self._kept else None
        if self._kept is None or place is None or self.room <= 0:
            return None
        size = len(str(self._kept.at(place).get("jpeg")))
        if size > self.room:
            # the first that does not fit ends it: which are shown depends on the order alone
            self.room = 0
            return None
        self.room -= size
        self._pictures.append((self._kept, place))
        self._numbers[digest] = len(self._pictures) - 1
        return self._numbers[digest]


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in values.items()
        if value not in (None, "", False) and value != [] and value != {}
    }


def _string(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _strings(value: object) -> list[str]:
    values: Iterable[object] = (
        ()
        if value is None
        else value
        if isinstance(value, Sequence) and not isinstance(value, str)
        else (value,)
    )
    return [_string(each) for each in values]


def _json(value: object) -> str:
    # Every "<" of JSON stands in a text: as its escape it can neither end the block nor open a
    # comment.
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace(
        "<", "\\u003c"
    )


_FRAME = f"""<section id="{ANCHOR}" class="browser">
<h2>Samples</h2>
<p class="caption">All {{count}} samples. This page holds their questions, replies and small images: pass it on only to those who
may see the data. <span class="keys"><kbd>j</kbd> <kbd>k</kbd> or arrows: next and previous · <kbd>/</kbd>: search · <kbd>Esc</kbd>: clear
it</span></p>
<noscript><p class="notice">Samples are listed by a script inside this page, and scripts are off; the scores files hold the
same.</p></noscript>
<form class="filters" role="search" aria-label="Filter samples">
<label class="wide">Search <input type="search" id="search" autocomplete="off" spellcheck="false"
 placeholder="words in question, reply, id …"></label>
<span id="selects"></span>
<button type="reset">Clear filters</button>
</form>
<div id="outcomes" class="chips" role="group" aria-label="Outcome"></div>
<p id="count" role="status" aria-live="polite">Reading the samples …</p>
<div class="panes">
<div id="list" role="listbox" tabindex="0" aria-label="Samples"></div>
<article id="detail" tabindex="0" aria-label="The chosen sample"></article>
</div>
<p id="left-out" class="caption"></p>
"""
