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

from lingshu.core.artifacts import SCORES, iterate_scores
from lingshu.core.errors import ArtifactError, InputError, suggest_name
from lingshu.core.files import read_json, sha256_file
from lingshu.core.rows import LETTERS
from lingshu.core.stats import Interval
from lingshu.evaluate.compare import match_rows
from lingshu.evaluate.generate import REQUESTS
from lingshu.evaluate.paired_tests import PairedTest, difference, mcnemar
from lingshu.evaluate.summary import Row, group_key, row_value, summarize

CONTROL_NAMES = ("blind", "shuffle", "constant", "wording")
CONTROLS = "controls"
CONTROLS_FILE = "controls.json"
STALE_REASON = (
    "made for other questions, another decoding or other data than this run's; run it again"
)
ROW_FIELDS = (
    "id",
    "value",
    "status",
    "prediction",
    "note",
    "gold",
    "choices",
    "kind",
    "group",
    "protocol",
)


class ControlComparison(NamedTuple):
    """A control beside the run on the `n` items that both answered; `errors` counts the questions
    of the control that failed.

    `control` has the interval that fits the items; `difference` is run - control with its interval
    by drawing whole groups. `test` is None for values between right and wrong.
    """

    name: str
    n: int
    control_accuracy: Interval
    run_accuracy: float | None
    difference: Interval
    test: PairedTest | None
    n_errors: int = 0


class LetterPosition(NamedTuple):
    """Over all orders: how often the right answer stood at a letter, how often it was found there,
    and how often that letter was chosen.
    """

    letter: str
    accuracy: Interval
    n_chosen: int


class ParaphraseSpread(NamedTuple):
    """Accuracy over `wordings` (the task's own among them) on the `n` items answered in all;
    `deviation` is over wordings, with n - 1.
    """

    n_paraphrases: int
    n: int
    min_accuracy: float
    max_accuracy: float
    std: float


@dataclass(frozen=True)
class ControlResult:
    """What one control found. `reason` says why there is nothing; `excluded` counts the items it does
    not apply to.

    `same` is the share of items whose chosen option stayed the same in every order, `positions` go
    with it. `constants` are the accuracies by answer, `spread` is over wordings.
    """

    name: str
    comparisons: tuple[ControlComparison, ...] = ()
    reason: str | None = None
    excluded: Mapping[str, int] = field(default_factory=dict)
    consistency: Interval | None = None
    positions: tuple[LetterPosition, ...] = ()
    constants: tuple[tuple[str, Interval], ...] = ()
    spread: ParaphraseSpread | None = None


def parse_controls(text: str) -> tuple[str, ...]:
    """The controls of a list with commas between, in the order of NAMES.

    Raises:
        InputError: one that there is not, or none.
    """
    names = [part.strip() for part in text.split(",") if part.strip()]
    for name in names:
        if name not in CONTROL_NAMES:
            raise InputError(f"there is no control {name!r}; {suggest_name(name, CONTROL_NAMES)}")
    if not names:
        raise InputError(f"--controls names nothing; choose among {', '.join(CONTROL_NAMES)}.")
    return tuple(name for name in CONTROL_NAMES if name in names)


def compare(
    run_rows: Sequence[Row], control_rows: Sequence[Row], *, name: str = "blind"
) -> ControlComparison:
    """A control beside a run, from two files of SCORES rows of the same items, matched by id.

    So the blind control of stored replies is had without a model: score the replies to the true
    images and those to black ones (`lingshu score`), and pass both lists of rows. Items that
    failed, or are in one file alone, are left out.

    Raises:
        ArtefactError: an id stands twice in one file.
    """
    pairs, _ = match_rows(run_rows, control_rows)
    paired_run, paired_control = [row for row, _ in pairs], [row for _, row in pairs]
    errors = sum(row["status"] == "error" for row in control_rows)
    return _compare_paired(name, paired_run, paired_control, errors)


def _compare_paired(
    name: str, run_rows: Sequence[Row], control_rows: Sequence[Row], errors: int
) -> ControlComparison:
    run_values, control_values, groups = (
        list(map(row_value, run_rows)),
        list(map(row_value, control_rows)),
        list(map(group_key, run_rows)),
    )
    n = len(run_rows)
    binary = n > 0 and {*run_values, *control_values} <= {0.0, 1.0}
    test = (
        mcnemar([a == 1.0 for a in run_values], [b == 1.0 for b in control_values], groups)
        if binary
        else None
    )
    mean = math.fsum(run_values) / n if n else None
    return ControlComparison(
        name,
        n,
        summarize(control_rows).accuracy,
        mean,
        difference(run_values, control_values, groups),
        test,
        errors,
    )


def read_controls(folder: Path) -> tuple[ControlResult, ...]:
    """The controls of the task whose run lies in `folder`, none where none was asked for.

    Raises:
        ArtefactError: controls.json, or scores that it names, are missing or damaged.
    """
    path = folder / CONTROLS / CONTROLS_FILE
    if not path.is_file():
        return ()
    card = read_json(path)
    entries = card.get("controls")
    if not isinstance(entries, dict) or not all(
        isinstance(entry, dict) for entry in entries.values()
    ):
        raise ArtifactError(
            f"{path} is damaged; run `lingshu eval` with --controls again, or remove it."
        )
    names = [name for name in CONTROL_NAMES if name in entries]
    run_rows = _rows(folder / SCORES)
    if (card.get("requests"), card.get("answers")) != (
        sha256_file(folder / REQUESTS),
        answers_digest(run_rows),
    ):
        return tuple(ControlResult(name, reason=STALE_REASON) for name in names)
    try:
        return tuple(_result(name, entries[name], run_rows, folder / CONTROLS) for name in names)
    except (KeyError, TypeError, IndexError) as error:
        raise ArtifactError(
            f"{path} is damaged ({error}); run `lingshu eval` with --controls again, or remove it."
        ) from error


def answers_digest(rows: Iterable[Row]) -> str:
    """What identifies the right answers of a run: with other ones its controls would be compared by
    two measures.
    """
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row["id"], row.get("gold"), row.get("choices")]).encode())
    return digest.hexdigest()


def _rows(path: Path) -> list[Row]:
    # Questions and replies are most of a file, and nothing of them is compared.
    return [{key: row[key] for key in ROW_FIELDS if key in row} for row in iterate_scores(path)]


def _result(
    name: str, entry: Mapping[str, Any], run_rows: Sequence[Row], controls_folder: Path
) -> ControlResult:
    excluded = dict(entry["excluded"])
    if entry["reason"]:
        return ControlResult(name, reason=entry["reason"], excluded=excluded)
    variants = [_rows(controls_folder / folder / SCORES) for folder in entry["variants"]]
    if name == "shuffle":
        result = _shuffle_result(run_rows, variants)
    elif name == "wording":
        result = _paraphrase_result(run_rows, variants)
    elif name == "constant":
        result = _constant_result(entry["constants"], entry["names"], run_rows, variants)
    else:
        result = ControlResult(name, (compare(run_rows, variants[0], name="black images"),))
    if not any(comparison.n for comparison in result.comparisons):
        return ControlResult(name, reason=_reason_nothing_compared(variants), excluded=excluded)
    return ControlResult(
        name,
        result.comparisons,
        None,
        excluded,
        result.consistency,
        result.positions,
        result.constants,
        result.spread,
    )


def _reason_nothing_compared(variants: Sequence[Sequence[Row]]) -> str:
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


def _shuffle_result(run_rows: Sequence[Row], variants: Sequence[Sequence[Row]]) -> ControlResult:
    rows_by_id: dict[str, list[Row]] = {}
    for row in (row for rows in variants for row in rows if row["status"] != "error"):
        rows_by_id.setdefault(str(row["id"]), []).append(row)
    answered_rows = [
        row for row in run_rows if row["status"] != "error" and str(row["id"]) in rows_by_id
    ]
    rows_by_item = [(row, *rows_by_id[str(row["id"])]) for row in answered_rows]
    mean_rows = [
        _with_value(row, math.fsum(map(row_value, other_rows)) / len(other_rows))
        for row, *other_rows in rows_by_item
    ]
    errors = sum(row["status"] == "error" for rows in variants for row in rows)
    label = f"options in {len(variants)} other order{'s' if len(variants) > 1 else ''}"
    # An item of which an order failed cannot tell whether the choice would have stayed.
    n_variants = Counter(str(row["id"]) for rows in variants for row in rows)
    complete = [rows for rows in rows_by_item if len(rows) == 1 + n_variants[str(rows[0]["id"])]]
    consistency = summarize(
        [_with_value(rows[0], float(_chose_same_option(rows))) for rows in complete]
    ).accuracy
    return ControlResult(
        "shuffle",
        (_compare_paired(label, answered_rows, mean_rows, errors),),
        consistency=consistency,
        positions=_letter_positions(rows_by_item),
    )


def _with_value(row: Row, value: float) -> Row:
    return {**row, "value": value, "status": "ok"}


def _chosen_letter(row: Row) -> str | None:
    """The letter of the option that a reply chose, None where none was read."""
    letter, options = row.get("prediction"), len(row.get("choices") or ())
    return (
        letter
        if row["status"] == "ok"
        and isinstance(letter, str)
        and len(letter) == 1
        and letter in LETTERS[:options]
        else None
    )


def _chose_same_option(rows: Iterable[Row]) -> bool:
    """Whether every reply chose the option of one and the same text."""
    texts = {
        None if (letter := _chosen_letter(row)) is None else row["choices"][LETTERS.index(letter)]
        for row in rows
    }
    return len(texts) == 1 and None not in texts


def _letter_positions(rows_by_item: Sequence[Sequence[Row]]) -> tuple[LetterPosition, ...]:
    rows_by_letter: dict[str, list[Row]] = {}
    n_chosen = Counter[str]()
    for row in (row for rows in rows_by_item for row in rows):
        letter = _chosen_letter(row)
        if letter is not None:
            n_chosen[letter] += 1
        for gold in (row.get("gold") or ())[:1]:
            rows_by_letter.setdefault(str(gold), []).append(row)
    letters = sorted({*rows_by_letter, *n_chosen} & set(LETTERS))
    return tuple(
        LetterPosition(letter, summarize(rows_by_letter.get(letter, [])).accuracy, n_chosen[letter])
        for letter in letters
    )


# --- other words, and constants
# --------------------------------------------------------------------------------------


def _paraphrase_result(run_rows: Sequence[Row], variants: Sequence[Sequence[Row]]) -> ControlResult:
    comparisons = tuple(
        compare(run_rows, rows, name=f"wording {number}") for number, rows in enumerate(variants, 1)
    )
    by_id = [
        {str(row["id"]): row_value(row) for row in rows if row["status"] != "error"}
        for rows in (run_rows, *variants)
    ]
    ids = [name for name in by_id[0] if all(name in values_by_id for values_by_id in by_id)]
    if not ids or not variants:
        return ControlResult("wording", comparisons)
    values = [math.fsum(values_by_id[name] for name in ids) / len(ids) for values_by_id in by_id]
    mean = math.fsum(values) / len(values)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return ControlResult(
        "wording",
        comparisons,
        spread=ParaphraseSpread(len(values), len(ids), min(values), max(values), std),
    )


def _constant_result(
    table: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    run_rows: Sequence[Row],
    variants: Sequence[Sequence[Row]],
) -> ControlResult:
    intervals = tuple((str(entry["name"]), Interval(**entry["accuracy"])) for entry in table)
    labels = [f"best constant: {names[0]}", *names[1:]]
    comparisons = tuple(
        compare(run_rows, rows, name=label) for label, rows in zip(labels, variants, strict=True)
    )
    return ControlResult("constant", comparisons, constants=intervals)
