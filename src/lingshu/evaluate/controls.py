"""What the controls of a task found, from scores alone: each beside the run's score on the same
items.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lingshu.core.artefacts import SCORES, iterate_scores
from lingshu.core.errors import ArtefactError, InputError, nearest
from lingshu.core.files import read_json, sha256_file
from lingshu.core.rows import LETTERS
from lingshu.core.shares import Interval
from lingshu.evaluate.compare import matched
from lingshu.evaluate.generate import ASKED
from lingshu.evaluate.paired import PairedTest, difference, mcnemar
from lingshu.evaluate.summary import Row, group_of, summarise, value_of

NAMES = ("blind", "shuffle", "constant", "wording")
CONTROLS = "controls"
CARD = "controls.json"
STALE = "made for other questions, another decoding or other data than this run's; run it again"
KEPT = ("id", "value", "status", "read", "note", "gold", "choices", "kind", "group", "protocol")


class Compared(NamedTuple):
    """A control beside the run on the `n` items that both answered; `errors` counts the questions
    of the control that failed.

    `control` has the interval that fits the items; `difference` is run - control with its interval
    by drawing whole groups. `test` is None for values between right and wrong.
    """

    name: str
    n: int
    control: Interval
    own: float | None
    difference: Interval
    test: PairedTest | None
    errors: int = 0


class Position(NamedTuple):
    """Over all orders: how often the right answer stood at a letter, how often it was found there,
    and how often that letter was chosen.
    """

    letter: str
    right_answer_here: Interval
    chosen: int


class Spread(NamedTuple):
    """Accuracy over `wordings` (the task's own among them) on the `n` items answered in all;
    `deviation` is over wordings, with n - 1.
    """

    wordings: int
    n: int
    lowest: float
    highest: float
    deviation: float


@dataclass(frozen=True)
class ControlResult:
    """What one control found. `why` says why there is nothing; `left_out` counts the items it does
    not apply to.

    `same` is the share of items whose chosen option stayed the same in every order, `positions` go
    with it. `constants` are the accuracies by answer, `spread` is over wordings.
    """

    name: str
    lines: tuple[Compared, ...] = ()
    why: str | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    same: Interval | None = None
    positions: tuple[Position, ...] = ()
    constants: tuple[tuple[str, Interval], ...] = ()
    spread: Spread | None = None


def names_of(text: str) -> tuple[str, ...]:
    """The controls of a list with commas between, in the order of NAMES.

    Raises:
        InputError: one that there is not, or none.
    """
    given = [part.strip() for part in text.split(",") if part.strip()]
    for name in given:
        if name not in NAMES:
            raise InputError(f"there is no control {name!r}; {nearest(name, NAMES)}")
    if not given:
        raise InputError(f"--controls names nothing; choose among {', '.join(NAMES)}.")
    return tuple(name for name in NAMES if name in given)


def compare(own: Sequence[Row], control: Sequence[Row], *, name: str = "blind") -> Compared:
    """A control beside a run, from two files of SCORES rows of the same items, matched by id.

    So the blind control of stored replies is had without a model: score the replies to the true
    images and those to black ones (`lingshu score`), and pass both lists of rows. Items that
    failed, or are in one file alone, are left out.

    Raises:
        ArtefactError: an id stands twice in one file.
    """
    pairs, _ = matched(own, control)
    ours, theirs = [row for row, _ in pairs], [row for _, row in pairs]
    errors = sum(row["status"] == "error" for row in control)
    return _beside(name, ours, theirs, errors)


def _beside(name: str, own: Sequence[Row], control: Sequence[Row], errors: int) -> Compared:
    first, second, groups = (
        list(map(value_of, own)),
        list(map(value_of, control)),
        list(map(group_of, own)),
    )
    n = len(own)
    binary = n > 0 and {*first, *second} <= {0.0, 1.0}
    test = (
        mcnemar([a == 1.0 for a in first], [b == 1.0 for b in second], groups) if binary else None
    )
    mean = math.fsum(first) / n if n else None
    return Compared(
        name, n, summarise(control).accuracy, mean, difference(first, second, groups), test, errors
    )


def read_controls(folder: Path) -> tuple[ControlResult, ...]:
    """The controls of the task whose run lies in `folder`, none where none was asked for.

    Raises:
        ArtefactError: controls.json, or scores that it names, are missing or damaged.
    """
    path = folder / CONTROLS / CARD
    if not path.is_file():
        return ()
    card = read_json(path)
    entries = card.get("controls")
    if not isinstance(entries, dict) or not all(
        isinstance(entry, dict) for entry in entries.values()
    ):
        raise ArtefactError(
            f"{path} is damaged; run `lingshu eval` with --controls again, or remove it."
        )
    names = [name for name in NAMES if name in entries]
    own = _rows(folder / SCORES)
    if (card.get("asked"), card.get("answers")) != (
        sha256_file(folder / ASKED),
        answers_digest(own),
    ):
        return tuple(ControlResult(name, why=STALE) for name in names)
    try:
        return tuple(_result(name, entries[name], own, folder / CONTROLS) for name in names)
    except (KeyError, TypeError, IndexError) as error:
        raise ArtefactError(
            f"{path} is damaged ({error}); run `lingshu eval` with --controls again, or remove it."
        ) from error


def answers_digest(rows: Iterable[Row]) -> str:
    """What identifies the right answers of a run: with other ones its controls would be compared by
    two measures.
    """
    found = hashlib.sha256()
    for row in rows:
        found.update(json.dumps([row["id"], row.get("gold"), row.get("choices")]).encode())
    return found.hexdigest()


def _rows(path: Path) -> list[Row]:
    # Questions and replies are most of a file, and nothing of them is compared.
    return [{key: row[key] for key in KEPT if key in row} for row in iterate_scores(path)]


def _result(name: str, entry: Mapping[str, Any], own: Sequence[Row], where: Path) -> ControlResult:
    left_out = dict(entry["left_out"])
    if entry["why"]:
        return ControlResult(name, why=entry["why"], left_out=left_out)
    variants = [_rows(where / folder / SCORES) for folder in entry["variants"]]
    if name == "shuffle":
        found = _shuffled(own, variants)
    elif name == "wording":
        found = _reworded(own, variants)
    elif name == "constant":
        found = _constant(entry["constants"], entry["names"], own, variants)
    else:
        found = ControlResult(name, (compare(own, variants[0], name="black images"),))
    if not any(line.n for line in found.lines):
        return ControlResult(name, why=_nothing(variants), left_out=left_out)
    return ControlResult(
        name,
        found.lines,
        None,
        left_out,
        found.same,
        found.positions,
        found.constants,
        found.spread,
    )


def _nothing(variants: Sequence[Sequence[Row]]) -> str:
    """Why no item was answered in the run and in the control."""
    notes = [
        str(row.get("note") or "") for rows in variants for row in rows if row["status"] == "error"
    ]
    return (
        "no question was answered and scored here and in the"
        f" run{f'; the first: {notes[0][:200]}' if notes else ''}"
    )


# --- options in other orders
# -----------------------------------------------------------------------------------------


def _shuffled(own: Sequence[Row], variants: Sequence[Sequence[Row]]) -> ControlResult:
    answered: dict[str, list[Row]] = {}
    for row in (row for rows in variants for row in rows if row["status"] != "error"):
        answered.setdefault(str(row["id"]), []).append(row)
    asked = [row for row in own if row["status"] != "error" and str(row["id"]) in answered]
    orders = [(row, *answered[str(row["id"])]) for row in asked]
    shares = [
        _valued(row, math.fsum(map(value_of, others)) / len(others)) for row, *others in orders
    ]
    errors = sum(row["status"] == "error" for rows in variants for row in rows)
    label = f"options in {len(variants)} other order{'s' if len(variants) > 1 else ''}"
    # An item of which an order failed cannot tell whether the choice would have stayed.
    asked_of = Counter(str(row["id"]) for rows in variants for row in rows)
    whole = [rows for rows in orders if len(rows) == 1 + asked_of[str(rows[0]["id"])]]
    same = summarise([_valued(rows[0], float(_same(rows))) for rows in whole]).accuracy
    return ControlResult(
        "shuffle", (_beside(label, asked, shares, errors),), same=same, positions=_positions(orders)
    )


def _valued(row: Row, value: float) -> Row:
    return {**row, "value": value, "status": "ok"}


def _chosen(row: Row) -> str | None:
    """The letter of the option that a reply chose, None where none was read."""
    letter, options = row.get("read"), len(row.get("choices") or ())
    return (
        letter
        if row["status"] == "ok"
        and isinstance(letter, str)
        and len(letter) == 1
        and letter in LETTERS[:options]
        else None
    )


def _same(rows: Iterable[Row]) -> bool:
    """Whether every reply chose the option of one and the same text."""
    texts = {
        None if (letter := _chosen(row)) is None else row["choices"][LETTERS.index(letter)]
        for row in rows
    }
    return len(texts) == 1 and None not in texts


def _positions(orders: Sequence[Sequence[Row]]) -> tuple[Position, ...]:
    asked: dict[str, list[Row]] = {}
    chosen = Counter[str]()
    for row in (row for rows in orders for row in rows):
        letter = _chosen(row)
        if letter is not None:
            chosen[letter] += 1
        for gold in (row.get("gold") or ())[:1]:
            asked.setdefault(str(gold), []).append(row)
    letters = sorted({*asked, *chosen} & set(LETTERS))
    return tuple(
        Position(letter, summarise(asked.get(letter, [])).accuracy, chosen[letter])
        for letter in letters
    )


# --- other words, and constants
# --------------------------------------------------------------------------------------


def _reworded(own: Sequence[Row], variants: Sequence[Sequence[Row]]) -> ControlResult:
    lines = tuple(
        compare(own, rows, name=f"wording {number}") for number, rows in enumerate(variants, 1)
    )
    by_id = [
        {str(row["id"]): value_of(row) for row in rows if row["status"] != "error"}
        for rows in (own, *variants)
    ]
    ids = [name for name in by_id[0] if all(name in found for found in by_id)]
    if not ids or not variants:
        return ControlResult("wording", lines)
    values = [math.fsum(found[name] for name in ids) / len(ids) for found in by_id]
    mean = math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return ControlResult(
        "wording", lines, spread=Spread(len(values), len(ids), min(values), max(values), deviation)
    )


def _constant(
    table: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    own: Sequence[Row],
    variants: Sequence[Sequence[Row]],
) -> ControlResult:
    intervals = tuple((str(line["name"]), Interval(**line["accuracy"])) for line in table)
    labels = [f"best constant: {names[0]}", *names[1:]]
    lines = tuple(
        compare(own, rows, name=label) for label, rows in zip(labels, variants, strict=True)
    )
    return ControlResult("constant", lines, constants=intervals)
