"""The controls of a run: the same questions under other conditions, compared with the run.

OUT/<task>/controls/blind/       replies, requests and scores, as in the folder of the task
OUT/<task>/controls/shuffle/1/   the same, for the first other order of each item's options
OUT/<task>/controls/wording/1/   the same, for the first paraphrase
OUT/<task>/controls/none_of_the_above/  the same, with the right option replaced
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
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from lingshu.core.artifacts import SCORES, iterate_scores, score_row, write_scores
from lingshu.core.errors import ArtifactError, parse_names
from lingshu.core.files import read_json, sha256_file, write_json
from lingshu.core.progress import progress_bar
from lingshu.core.rows import LETTERS
from lingshu.core.stats import Interval
from lingshu.core.types import Engine, Image, PromptStyle, Reply, Sample, Task
from lingshu.evaluate import perturbations
from lingshu.evaluate.compare import match_rows, paired_scores
from lingshu.evaluate.data import LoadedTask
from lingshu.evaluate.generate import REQUESTS, GenerationResult, generate
from lingshu.evaluate.score import STRICT, score, score_reply
from lingshu.evaluate.spool import DiskSamples
from lingshu.evaluate.statistics import PairedTest, difference, macro
from lingshu.evaluate.summary import Row, row_value, summarize
from lingshu.imaging.headers import ImageFileHeader
from lingshu.scoring import yes_no

CONTROL_NAMES = ("blind", "shuffle", "constant", "wording", "none_of_the_above")
CONTROLS = "controls"
CONTROLS_FILE = "controls.json"
STALE_REASON = (
    "made for other questions, another decoding or other data than this run's; run it again"
)
ROW_FIELDS = ("id", "value", "status", "prediction", "note", "gold", "choices", "kind", "group", "protocol")  # fmt: skip
BY_KIND = "the most frequent gold of each kind"
Perturbation = Callable[[Sample], Sample | str | None]


def parse_controls(text: str | None) -> tuple[str, ...]:
    """The controls of a comma-separated list, in the order of CONTROL_NAMES; None requests none.

    Raises:
        InputError: an unknown control, or an empty list.
    """
    if text is None:
        return ()
    return parse_names(text, CONTROL_NAMES, what="control", option="--controls")


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
    header: Callable[[Image], ImageFileHeader],
    n_shuffles: int = 3,
    seed: int = 0,
    prompt_style: PromptStyle = "direct",
) -> list[Control]:
    """The questions of every named control, in files below `folder` that the process removes."""
    controls_folder, task = folder / CONTROLS, loaded.task
    prepared = []

    def apply_prompt(sample: Sample) -> Sample:
        return task.prompt(sample, prompt_style) if task.prompt else sample

    for name in names:
        samples: Sequence[Sample] = loaded.samples
        perturbs: dict[str, Perturbation] = {}
        if name == "blind":
            perturbs = {name: partial(perturbations.with_black_images, header=header)}
        elif name == "shuffle":
            samples = _original_samples(loaded, controls_folder)
            perturbs = {
                f"shuffle/{index + 1}": _shuffle(index, n_shuffles, seed, apply_prompt)
                for index in range(n_shuffles)
            }
        elif name == "none_of_the_above":
            samples = _original_samples(loaded, controls_folder)
            perturbs = {
                name: partial(perturbations.without_right_option, apply_prompt=apply_prompt)
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
    index: int, n_shuffles: int, seed: int, apply_prompt: Callable[[Sample], Sample]
) -> Perturbation:
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
    """Generate replies to every variant, with the `options` and errors of `generate`."""
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
    """Score every variant and the constants, write controls.json, and count failed questions.

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
            entries[control.name] |= _score_constants(task, samples, controls_folder)
    ordered = {name: entries[name] for name in CONTROL_NAMES if name in entries}
    card = {**_run_digests(folder), "controls": ordered}
    write_json(controls_folder / CONTROLS_FILE, card)
    return errors


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


def _score_constants(task: Task, samples: Sequence[Sample], folder: Path) -> dict[str, Any]:
    """Score every constant answer by the task's own scorer, for controls.json.

    Written are the rows of the best one (the first of equals), and of BY_KIND where the questions
    are of several kinds; none where no two questions share an answer, or nothing can be scored.
    """
    table: list[dict[str, Any]] = []
    best: dict[str, list[dict[str, Any]]] = {}
    by_kind: dict[str, list[dict[str, Any]]] = {}
    max_accuracy = -1.0
    for name, answer in _constant_answers(samples):
        rows = [_constant_row(task, sample, answer(sample)) for sample in samples]
        summary = summarize(rows)
        accuracy = summary.accuracy
        if accuracy.value is None:
            continue
        counts = {"n": summary.n, "correct": summary.correct}
        table.append({"name": name, **counts, "accuracy": accuracy._asdict()})
        if name == BY_KIND:
            by_kind = {name: rows}
        elif accuracy.value > max_accuracy:
            best, max_accuracy = {name: rows}, accuracy.value
    written = {f"constant/{i}": entry for i, entry in enumerate((best | by_kind).items(), 1)}
    for variant, (_, rows) in written.items():
        write_scores(folder / variant / SCORES, rows)
    return {
        "constants": table,
        "reason": None if written else "no answer that two questions share",
        "variants": list(written),
        "names": [name for name, _ in written.values()],
    }


def _constant_row(task: Task, sample: Sample, text: str) -> dict[str, Any]:
    fields = {
        "protocol": STRICT,
        "gold": list(sample.gold or ()),
        "reply": text,
        "kind": sample.meta.kind,
        "group": sample.meta.group,
    }
    return score_row(sample.id, score_reply(task.score, sample, Reply(sample.id, text)), fields)


def _constant_answers(samples: Sequence[Sample]) -> Iterator[tuple[str, Callable[[Sample], str]]]:
    """The letters, yes and no, and the most frequent gold, of all questions and of each kind."""

    def always(text: str) -> Callable[[Sample], str]:
        return lambda _: text

    golds: dict[str, Counter[str]] = {}
    letters, polarities = "", ()
    for sample in samples:
        letters = max(letters, LETTERS[: len(sample.choices)], key=len)
        gold = " ".join((sample.gold or ("",))[0].split())
        if not sample.choices and yes_no.as_polarity(gold) is not None:
            polarities = ("yes", "no")
        if gold:
            golds.setdefault(sample.meta.kind or "", Counter())[gold] += 1
    answers = [*letters, *polarities]
    yield from ((text, always(text)) for text in answers)
    all_golds = sum(golds.values(), Counter[str]())
    [(frequent, count)] = all_golds.most_common(1) or [("", 0)]
    if count > 1 and frequent.casefold() not in map(str.casefold, answers):
        shown = frequent if len(frequent) <= 60 else f"{frequent[:57]}..."
        yield f"the most frequent gold: {shown}", always(frequent)
    if len(golds) > 1 and count > 1:
        by_kind = {kind: counts.most_common(1)[0][0] for kind, counts in golds.items()}
        yield BY_KIND, lambda sample: by_kind.get(sample.meta.kind or "", frequent)


# --- results


class ControlComparison(NamedTuple):
    """A control and the run on the `n` items that both answered; `n_errors` failed in the control.

    `control_accuracy` has the interval that fits the items; `difference` is run - control, its
    interval by resampling whole groups. `test` is None for values between right and wrong.
    """

    name: str
    n: int
    control_accuracy: Interval
    run_accuracy: float | None
    difference: Interval
    test: PairedTest | None
    n_errors: int = 0


class LetterPosition(NamedTuple):
    """Over all orders: accuracy with the right answer at a letter, and how often it was chosen."""

    letter: str
    accuracy: Interval
    n_chosen: int


class ParaphraseSpread(NamedTuple):
    """Accuracy over wordings, the task's own too, on the `n` items in all; `std` over n - 1."""

    n_paraphrases: int
    n: int
    min_accuracy: float
    max_accuracy: float
    std: float


@dataclass(frozen=True)
class ControlResult:
    """The result of one control, or the `reason` for none; `excluded` counts other items.

    `consistency` is the share of items whose chosen option stayed the same in every order,
    `constants` are the accuracies by answer, `chance` is the accuracy of a guess where the right
    option was replaced.
    """

    name: str
    comparisons: tuple[ControlComparison, ...] = ()
    reason: str | None = None
    excluded: Mapping[str, int] = field(default_factory=dict)
    consistency: Interval | None = None
    positions: tuple[LetterPosition, ...] = ()
    constants: tuple[tuple[str, Interval], ...] = ()
    spread: ParaphraseSpread | None = None
    chance: float | None = None

    @property
    def is_above_chance(self) -> bool:
        """Whether the interval of a control with a known chance is wholly above it."""
        lows = [comparison.control_accuracy.low for comparison in self.comparisons]
        return self.chance is not None and all(low and low > self.chance for low in lows)


def compare(
    run_rows: Sequence[Row], control_rows: Sequence[Row], *, name: str = "blind"
) -> ControlComparison:
    """A control and a run, from two files of SCORES rows of the same items, matched by id.

    This gives the blind control of stored replies without a model: score the replies to the true
    images and those to black ones (`lingshu score`), and pass both lists of rows. Items that failed
    or are in one file alone are left out.

    Raises:
        ArtifactError: an id occurs twice in one file.
    """
    pairs, _ = match_rows(run_rows, control_rows)
    return _compare_pairs(name, pairs, _count_errors(control_rows))


def _compare_pairs(name: str, pairs: Sequence[tuple[Row, Row]], n_errors: int) -> ControlComparison:
    scores = paired_scores(pairs)
    accuracy, mean = summarize([control for _, control in pairs]).accuracy, macro(scores.first)
    gap, test = difference(*scores), scores.test()
    return ControlComparison(name, len(pairs), accuracy, mean, gap, test, n_errors)


def _count_errors(rows: Iterable[Row]) -> int:
    return sum(row["status"] == "error" for row in rows)


def read_controls(folder: Path) -> tuple[ControlResult, ...]:
    """The controls of the task whose run is in `folder`; empty where there are none.

    Raises:
        ArtifactError: controls.json, or scores that it names, are missing or damaged.
    """
    path = folder / CONTROLS / CONTROLS_FILE
    if not path.is_file():
        return ()
    remedy = "run `lingshu eval` with --controls again, or remove it"
    card = read_json(path)
    entries = card.get("controls")
    if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
        raise ArtifactError(f"{path} is damaged; {remedy}.")
    names = [name for name in CONTROL_NAMES if name in entries]
    run_rows = _rows(folder / SCORES)
    digests = sha256_file(folder / REQUESTS), _answers_digest(run_rows)
    if (card.get("requests"), card.get("answers")) != digests:
        return tuple(ControlResult(name, reason=STALE_REASON) for name in names)
    try:
        return tuple(_result(name, entries[name], run_rows, folder / CONTROLS) for name in names)
    except (KeyError, TypeError, IndexError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); {remedy}.") from error


def _rows(path: Path) -> list[Row]:
    # Questions and replies are most of a file, and are not compared.
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
        labels = [f"best constant: {entry['names'][0]}", *entry["names"][1:]]
        constants = tuple((str(e["name"]), Interval(**e["accuracy"])) for e in entry["constants"])
        comparisons = tuple(
            compare(run_rows, rows, name=label)
            for label, rows in zip(labels, variants, strict=True)
        )
        result = ControlResult(name, comparisons, constants=constants)
    elif name == "none_of_the_above":
        sizes = [len(row["choices"]) for row in variants[0] if row["status"] != "error"]
        chance = math.fsum(1 / size for size in sizes) / len(sizes) if sizes else None
        by_id = {str(row["id"]): row for row in variants[0] if row["status"] != "error"}
        pairs = [
            (row, _with_value(row, row_value(by_id[str(row["id"])])))
            for row in run_rows
            if row["status"] != "error" and str(row["id"]) in by_id
        ]
        comparison = _compare_pairs("right option replaced", pairs, _count_errors(variants[0]))
        result = ControlResult(name, (comparison,), chance=chance)
    else:
        result = ControlResult(name, (compare(run_rows, variants[0], name="black images"),))
    if any(comparison.n for comparison in result.comparisons):
        return replace(result, excluded=excluded)
    failed = [row for rows in variants for row in rows if row["status"] == "error"]
    first = f"; the first: {failed[0].get('note') or ''!s:.200}" if failed else ""
    reason = f"no question was answered and scored here and in the run{first}"
    return ControlResult(name, reason=reason, excluded=excluded)


def _shuffle_result(run_rows: Sequence[Row], variants: Sequence[Sequence[Row]]) -> ControlResult:
    rows_by_id: dict[str, list[Row]] = {}
    n_variants = Counter[str]()
    for row in chain.from_iterable(variants):
        n_variants[str(row["id"])] += 1
        if row["status"] != "error":
            rows_by_id.setdefault(str(row["id"]), []).append(row)
    items = [
        (row, *rows_by_id[str(row["id"])])
        for row in run_rows
        if row["status"] != "error" and str(row["id"]) in rows_by_id
    ]
    pairs = [
        (row, _with_value(row, math.fsum(map(row_value, others)) / len(others)))
        for row, *others in items
    ]
    # With a failed order it is unknown whether the choice stayed the same.
    complete = [rows for rows in items if len(rows) == 1 + n_variants[str(rows[0]["id"])]]
    consistent = [_with_value(rows[0], float(_chose_same_option(rows))) for rows in complete]
    label = f"options in {len(variants)} other order{'s' if len(variants) > 1 else ''}"
    return ControlResult(
        "shuffle",
        (_compare_pairs(label, pairs, sum(map(_count_errors, variants))),),
        consistency=summarize(consistent).accuracy,
        positions=_letter_positions(list(chain.from_iterable(items))),
    )


def _with_value(row: Row, value: float) -> Row:
    return {**row, "value": value, "status": "ok"}


def _chosen_letter(row: Row) -> str | None:
    """The letter of the option that a reply chose, None where none was read."""
    letter, letters = row.get("prediction"), LETTERS[: len(row.get("choices") or ())]
    return letter if row["status"] == "ok" and letter in [*letters] else None


def _chose_same_option(rows: Iterable[Row]) -> bool:
    """Whether every reply chose the option of the same text."""
    texts = {
        None if (letter := _chosen_letter(row)) is None else row["choices"][LETTERS.index(letter)]
        for row in rows
    }
    return len(texts) == 1 and None not in texts


def _letter_positions(rows: Sequence[Row]) -> tuple[LetterPosition, ...]:
    rows_by_letter: dict[str, list[Row]] = {}
    for row in rows:
        for gold in (row.get("gold") or ())[:1]:
            rows_by_letter.setdefault(str(gold), []).append(row)
    n_chosen = Counter(filter(None, map(_chosen_letter, rows)))
    letters = sorted({*rows_by_letter, *n_chosen} & set(LETTERS))
    return tuple(
        LetterPosition(letter, summarize(rows_by_letter.get(letter, [])).accuracy, n_chosen[letter])
        for letter in letters
    )


def _paraphrase_result(run_rows: Sequence[Row], variants: Sequence[Sequence[Row]]) -> ControlResult:
    comparisons = tuple(
        compare(run_rows, rows, name=f"wording {number}") for number, rows in enumerate(variants, 1)
    )
    by_id = [
        {str(row["id"]): row_value(row) for row in rows if row["status"] != "error"}
        for rows in (run_rows, *variants)
    ]
    ids = [name for name in by_id[0] if all(name in values for values in by_id)]
    if not ids or not variants:
        return ControlResult("wording", comparisons)
    means = [math.fsum(values[name] for name in ids) / len(ids) for values in by_id]
    mean = math.fsum(means) / len(means)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in means) / (len(means) - 1))
    spread = ParaphraseSpread(len(means), len(ids), min(means), max(means), std)
    return ControlResult("wording", comparisons, spread=spread)
