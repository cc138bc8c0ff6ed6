"""The controls of a run: the same questions with black images, reordered options or a paraphrased
instruction, and constant answers; and the result of each, compared with the run on the same items.

OUT/<task>/controls/blind/       replies, requests and scores, as in the folder of the task
OUT/<task>/controls/shuffle/1/   the same, for the first other order of each item's options
OUT/<task>/controls/wording/1/   the same, for the first paraphrase
OUT/<task>/controls/constant/1/  scores.jsonl of the best constant answer; no model is involved
OUT/<task>/controls/controls.json   the controls there are, and why others do not apply

What holds for a run holds for its controls: generate.py fills their folders, score.py scores them.
controls.json names the run by the digests of its requests.jsonl and of its right answers, so that
no control is shown with another run.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from lingshu.core.artifacts import SCORES, iterate_scores, score_row, write_scores
from lingshu.core.errors import ArtifactError, InputError, suggest_name
from lingshu.core.files import read_json, sha256_file, write_json
from lingshu.core.progress import progress_bar
from lingshu.core.rows import LETTERS
from lingshu.core.stats import Interval
from lingshu.core.types import Engine, Image, PromptStyle, Reply, Sample, Task
from lingshu.evaluate import perturbations
from lingshu.evaluate.compare import match_rows
from lingshu.evaluate.data import LoadedTask
from lingshu.evaluate.generate import REQUESTS, GenerationResult, generate
from lingshu.evaluate.score import STRICT, score, score_reply
from lingshu.evaluate.spool import DiskSamples
from lingshu.evaluate.statistics import PairedTest, difference, mcnemar
from lingshu.evaluate.summary import Row, group_key, row_value, summarize
from lingshu.imaging.headers import ImageHeader
from lingshu.scoring import yes_no

CONTROL_NAMES = ("blind", "shuffle", "constant", "wording")
CONTROLS = "controls"
CONTROLS_FILE = "controls.json"
STALE_REASON = (
    "made for other questions, another decoding or other data than this run's; run it again"
)
ROW_FIELDS = ("id", "value", "status", "prediction", "note", "gold", "choices", "kind", "group", "protocol")  # fmt: skip
BY_KIND = "the most frequent gold of each kind"
Perturbation = Callable[[Sample], Sample | str | None]
AnswerFunction = Callable[[Sample], str]


def parse_controls(text: str | None) -> tuple[str, ...]:
    """The controls of a comma-separated list, in the order of CONTROL_NAMES; None requests none.

    Raises:
        InputError: an unknown control, or an empty list.
    """
    if text is None:
        return ()
    names = [part.strip() for part in text.split(",") if part.strip()]
    for name in names:
        if name not in CONTROL_NAMES:
            raise InputError(f"there is no control {name!r}; {suggest_name(name, CONTROL_NAMES)}")
    if not names:
        raise InputError(f"--controls names nothing; choose among {', '.join(CONTROL_NAMES)}.")
    return tuple(name for name in CONTROL_NAMES if name in names)


# --- running them


@dataclass(frozen=True)
class Control:
    """One control of a task, ready to be run: its changed samples by folder below `controls`.

    `excluded` counts the items it does not apply to, by reason; `reason` says why it applies to
    none. Constants have no variants: no model answers.
    """

    name: str
    variants: Mapping[str, Sequence[Sample]] = field(default_factory=dict)
    excluded: Mapping[str, int] = field(default_factory=dict)
    reason: str | None = None


def prepare(
    names: Sequence[str],
    loaded: LoadedTask,
    folder: Path,
    *,
    header: Callable[[Image], ImageHeader],
    n_shuffles: int = 3,
    seed: int = 0,
    prompt_style: PromptStyle = "direct",
) -> list[Control]:
    """The questions of every named control, in files below the task's `folder` that are removed
    with the process.
    """
    controls_folder, task = folder / CONTROLS, loaded.task
    prepared = []
    for name in names:
        samples: Sequence[Sample] = loaded.samples
        perturbs: dict[str, Perturbation] = {}
        if name == "blind":
            perturbs = {name: partial(perturbations.with_black_images, header=header)}
        elif name == "shuffle":
            samples = _original_samples(loaded, controls_folder)
            perturbs = {
                f"shuffle/{index + 1}": _shuffle(task, index, n_shuffles, seed, prompt_style)
                for index in range(n_shuffles)
            }
        elif name == "wording":
            perturbs = {
                f"wording/{index + 1}": partial(
                    perturbations.paraphrase, variant_index=index, is_bare=task.prompt is None
                )
                for index in range(perturbations.N_PARAPHRASES)
            }
        prepared.append(_make_control(name, samples, perturbs, controls_folder))
    return prepared


def _make_control(
    name: str, samples: Sequence[Sample], perturbs: Mapping[str, Perturbation], folder: Path
) -> Control:
    if not perturbs:
        return Control(name)
    variants: dict[str, Sequence[Sample]] = {}
    excluded: dict[str, int] = {}
    for variant, perturb in perturbs.items():
        counts = Counter[str]()
        perturbed = DiskSamples(_perturbed(samples, perturb, counts), folder)
        if len(perturbed):
            variants[variant] = perturbed
        # Later variants exclude the same items, and say nothing of those with fewer orders.
        excluded = excluded or dict(sorted(counts.items()))
    reasons = ", ".join(f"{reason} ({count})" for reason, count in excluded.items())
    return Control(name, variants, excluded, None if variants else reasons or "no questions")


def _perturbed(
    samples: Iterable[Sample], perturb: Perturbation, excluded: Counter[str]
) -> Iterator[Sample]:
    for sample in samples:
        perturbed = perturb(sample)
        if isinstance(perturbed, Sample):
            yield perturbed
        elif perturbed is not None:
            excluded[perturbed] += 1


def _shuffle(
    task: Task, index: int, n_shuffles: int, seed: int, prompt_style: PromptStyle
) -> Perturbation:
    def apply_prompt(sample: Sample) -> Sample:
        return task.prompt(sample, prompt_style) if task.prompt else sample

    def perturb(sample: Sample) -> Sample | str | None:
        if len(sample.choices) < 2:
            return perturbations.NO_OPTIONS
        orders = perturbations.option_orders(sample.id, len(sample.choices), n_shuffles, seed=seed)
        if index >= len(orders):
            return None
        return perturbations.shuffle_options(sample, orders[index], apply_prompt)

    return perturb


def _original_samples(loaded: LoadedTask, folder: Path) -> DiskSamples:
    """The samples of the run as the task yields them, before its prompt."""
    remaining = {sample.id for sample in loaded.samples}
    n_samples = len(remaining)

    def selected() -> Iterator[Sample]:
        for sample in loaded.original_samples():
            if sample.id in remaining:
                remaining.remove(sample.id)
                yield sample
            if not remaining:
                return

    originals = DiskSamples(selected(), folder)
    if remaining:
        raise ArtifactError(
            f"{loaded.task.name} gave {len(originals)} of its {n_samples} samples the second time;"
            " run it on data that does not change."
        )
    return originals


def folders(controls: Sequence[Control], folder: Path) -> list[Path]:
    """The folders of all variants of a task's controls."""
    return [folder / CONTROLS / name for control in controls for name in control.variants]


def generate_all(
    controls: Sequence[Control], task: Task, engine: Engine, folder: Path, **options: Any
) -> GenerationResult:
    """Generate replies to every variant's questions; the counts are over all of them. `options` and
    errors are those of `generate`.
    """
    total = GenerationResult(0, 0, 0, 0)
    for name, samples in [item for control in controls for item in control.variants.items()]:
        with progress_bar(f"{task.name}, {name}") as progress:
            generated = generate(
                task, samples, engine, folder / CONTROLS / name, progress=progress, **options
            )
        total = GenerationResult(*map(sum, zip(total, generated, strict=True)))
    return total


def score_all(
    controls: Sequence[Control], task: Task, samples: Sequence[Sample], folder: Path
) -> int:
    """Score every variant and the constants, write controls.json, and return how many questions
    failed.

    Only the score is made, under the protocol strict: metrics over all replies are the run's alone.
    """
    controls_folder = folder / CONTROLS
    task_without_metrics = replace(task, metrics=())
    errors = 0
    entries = _existing_entries(folder)
    for control in controls:
        for name, variant in control.variants.items():
            errors += score(task_without_metrics, variant, controls_folder / name).n_errors
        entries[control.name] = {
            "reason": control.reason,
            "excluded": dict(control.excluded),
            "variants": list(control.variants),
        }
        if control.name == "constant":
            entries[control.name] |= _write_constants(task, samples, controls_folder)
    ordered = {name: entries[name] for name in CONTROL_NAMES if name in entries}
    card = {**_run_digests(folder), "controls": ordered}
    write_json(controls_folder / CONTROLS_FILE, card)
    return errors


def _write_constants(task: Task, samples: Sequence[Sample], folder: Path) -> dict[str, Any]:
    baselines = constant_baselines(task, samples)
    names = [f"constant/{index}" for index, _ in enumerate(baselines.rows, 1)]
    for name, rows in zip(names, baselines.rows.values(), strict=True):
        write_scores(folder / name / SCORES, rows)
    return {
        "constants": baselines.table,
        "reason": None if baselines.rows else "no answer that two questions share",
        "variants": names,
        "names": list(baselines.rows),
    }


def _run_digests(folder: Path) -> dict[str, str]:
    """What identifies the run that the controls of a folder qualify."""
    return {
        "requests": sha256_file(folder / REQUESTS),
        "answers": _answers_digest(iterate_scores(folder / SCORES)),
    }


def _answers_digest(rows: Iterable[Row]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row["id"], row.get("gold"), row.get("choices")]).encode())
    return digest.hexdigest()


def _existing_entries(folder: Path) -> dict[str, Any]:
    """What earlier commands did for this very run."""
    path = folder / CONTROLS / CONTROLS_FILE
    card = read_json(path) if path.is_file() else {}
    if not isinstance(card.get("controls"), dict):
        return {}
    is_same_run = all(card.get(name) == value for name, value in _run_digests(folder).items())
    return dict(card["controls"]) if is_same_run else {}


# --- constant answers


class ConstantBaselines(NamedTuple):
    """The scores of constant answers. A row of `table` is {"name", "n", "correct", "accuracy"}.

    `rows` has the SCORES rows of the best constant (the first of equals), by its name, and those of
    BY_KIND where the questions are of several kinds. Both are empty where no answer is shared by
    two questions, or nothing can be scored.
    """

    table: list[dict[str, Any]]
    rows: dict[str, list[dict[str, Any]]]


def constant_baselines(task: Task, samples: Sequence[Sample]) -> ConstantBaselines:
    """The score of every constant answer, through the task's own scorer."""
    table: list[dict[str, Any]] = []
    best: dict[str, list[dict[str, Any]]] = {}
    by_kind: dict[str, list[dict[str, Any]]] = {}
    max_accuracy = -1.0
    for name, answer in _constant_answers(samples):
        rows = list(_score_rows(task, samples, answer))
        summary = summarize(rows)
        if summary.accuracy.value is None:
            continue
        table.append(
            {
                "name": name,
                "n": summary.n,
                "correct": summary.correct,
                "accuracy": summary.accuracy._asdict(),
            }
        )
        if name == BY_KIND:
            by_kind = {name: rows}
        elif summary.accuracy.value > max_accuracy:
            best, max_accuracy = {name: rows}, summary.accuracy.value
    return ConstantBaselines(table, best | by_kind)


def _score_rows(
    task: Task, samples: Sequence[Sample], answer: AnswerFunction
) -> Iterator[dict[str, Any]]:
    for sample in samples:
        text = answer(sample)
        score = score_reply(task.score, sample, Reply(sample.id, text))
        fields = {
            "protocol": STRICT,
            "gold": list(sample.gold or ()),
            "reply": text,
            "kind": sample.meta.kind,
            "group": sample.meta.group,
        }
        yield score_row(sample.id, score, fields)


def _constant_answers(samples: Sequence[Sample]) -> Iterator[tuple[str, AnswerFunction]]:
    """The letters of the options, yes and no, the most frequent gold, and that of each kind, as far
    as the questions have them.
    """
    n_options, has_yes_no = 0, False
    golds: dict[str, Counter[str]] = {}
    for sample in samples:
        n_options = max(n_options, len(sample.choices))
        gold = (sample.gold or ("",))[0]
        has_yes_no = has_yes_no or (not sample.choices and yes_no.as_polarity(gold) is not None)
        if gold:
            golds.setdefault(sample.meta.kind or "", Counter())[" ".join(gold.split())] += 1
    answers = [*LETTERS[:n_options], *(("yes", "no") if has_yes_no else ())]
    yield from ((text, _constant_answer(text)) for text in answers)
    all_golds = sum(golds.values(), Counter[str]())
    most_common, count = all_golds.most_common(1)[0] if all_golds else ("", 0)
    if count > 1 and most_common.casefold() not in {text.casefold() for text in answers}:
        yield f"the most frequent gold: {_truncate(most_common)}", _constant_answer(most_common)
    if len(golds) > 1 and count > 1:
        by_kind = {kind: counts.most_common(1)[0][0] for kind, counts in golds.items()}
        yield BY_KIND, lambda sample: by_kind.get(sample.meta.kind or "", most_common)


def _constant_answer(text: str) -> AnswerFunction:
    return lambda _: text


def _truncate(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


# --- what they found


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
        _answers_digest(run_rows),
    ):
        return tuple(ControlResult(name, reason=STALE_REASON) for name in names)
    try:
        return tuple(_result(name, entries[name], run_rows, folder / CONTROLS) for name in names)
    except (KeyError, TypeError, IndexError) as error:
        raise ArtifactError(
            f"{path} is damaged ({error}); run `lingshu eval` with --controls again, or remove it."
        ) from error


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
