"""The controls of a run: the same questions with black images, reordered options or other words,
and constant answers.

OUT/<task>/controls/blind/       replies, asked and scores, as in the folder of the task
OUT/<task>/controls/shuffle/1/   the same, for the first other order of each item's options
OUT/<task>/controls/wording/1/   the same, for the first paraphrase
OUT/<task>/controls/constant/1/  scores.jsonl of the best constant answer; no model is asked
OUT/<task>/controls/controls.json   which controls there are, over which questions, and why others do not apply

Every folder but that of the constants is filled by generate.py and scored by score.py: what holds
for a run holds for its controls. controls.json names the run by the digests of its asked.jsonl and
of its right answers, so that no control is shown beside another run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lingshu.core.artefacts import SCORES, iterate_scores, write_scores
from lingshu.core.errors import ArtefactError
from lingshu.core.files import read_json, sha256_file, write_json
from lingshu.core.nouns import Engine, Image, Sample, Sampling, Style, Task
from lingshu.core.release import Release
from lingshu.evaluate import _control_wordings as wordings
from lingshu.evaluate._control_constants import constants
from lingshu.evaluate._control_samples import NO_OPTIONS, blind, orders, reworded, shuffled
from lingshu.evaluate.controls import CARD, CONTROLS, NAMES, answers_digest
from lingshu.evaluate.generate import ASKED, Generated, generate, missing
from lingshu.evaluate.progress import Progress, Silent
from lingshu.evaluate.score import score
from lingshu.evaluate.spool import Spool
from lingshu.imaging.headers import Header


@dataclass(frozen=True)
class Variant:
    """One set of changed questions: its folder below `controls`, and its samples."""

    folder: str
    samples: Sequence[Sample]


@dataclass(frozen=True)
class Control:
    """One control of a task, ready to be asked. `left_out` counts the items it does not apply to,
    by reason.

    `why` says why it applies to none; there are no variants then, nor for constants, where nobody
    is asked.
    """

    name: str
    variants: tuple[Variant, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    why: str | None = None


@dataclass(frozen=True)
class Plan:
    """Which controls to run, and what decides their questions."""

    names: tuple[str, ...]
    shuffles: int = 3
    seed: int = 0
    style: Style = "direct"


def prepare(
    plan: Plan,
    task: Task,
    samples: Sequence[Sample],
    as_given: Callable[[], Iterable[Sample]],
    folder: Path,
    *,
    header: Callable[[Image], Header],
) -> list[Control]:
    """The questions of every control of the plan, in files below the task's `folder` that are gone
    with the process.

    `samples` are those of the run; `as_given` yields them once more as the task does, before its
    prompt has worded them.
    """
    where = folder / CONTROLS
    found: list[Control] = []
    for name in plan.names:
        if name == "blind":
            made = _Made(samples, lambda sample: blind(sample, header))
            found.append(_control(name, [Variant(name, Spool(made, where))], made.left_out))
        elif name == "shuffle":
            found.append(_shuffle(plan, task, samples, as_given, where))
        elif name == "wording":
            found.append(_wording(task, samples, where))
        else:
            found.append(Control(name))
    return found


class _Made(Iterable[Sample]):
    """The samples that a change gives, and a count of the others by reason once they have all been
    gone through.
    """

    def __init__(
        self, samples: Iterable[Sample], change: Callable[[Sample], Sample | str | None]
    ) -> None:
        self._samples, self._change = samples, change
        self.left_out: Mapping[str, int] = {}

    def __iter__(self) -> Iterator[Sample]:
        counts = Counter[str]()
        for sample in self._samples:
            found = self._change(sample)
            if isinstance(found, Sample):
                yield found
            elif found is not None:
                counts[found] += 1
        self.left_out = dict(sorted(counts.items()))


def _control(name: str, variants: Sequence[Variant], left_out: Mapping[str, int]) -> Control:
    filled = tuple(variant for variant in variants if len(variant.samples))
    if filled:
        return Control(name, filled, left_out)
    return Control(
        name,
        (),
        left_out,
        ", ".join(f"{reason} ({count})" for reason, count in left_out.items()) or "no questions",
    )


def _shuffle(
    plan: Plan,
    task: Task,
    samples: Sequence[Sample],
    as_given: Callable[[], Iterable[Sample]],
    where: Path,
) -> Control:
    wanted = {sample.id for sample in samples}
    given = Spool(_those(wanted, as_given()), where)
    if len(given) < len(wanted):
        raise ArtefactError(
            f"{task.name} gave {len(given)} of its {len(wanted)} samples the second time; run it on"
            " data that stay as they are."
        )

    def ask(sample: Sample) -> Sample:
        return task.prompt(sample, plan.style) if task.prompt else sample

    def changed(number: int) -> Callable[[Sample], Sample | str | None]:
        def change(sample: Sample) -> Sample | str | None:
            if len(sample.choices) < 2:
                return NO_OPTIONS
            drawn = orders(sample.id, len(sample.choices), plan.shuffles, seed=plan.seed)
            return shuffled(sample, drawn[number], ask) if number < len(drawn) else None

        return change

    variants, left_out = [], {}
    for number in range(plan.shuffles):
        made = _Made(given, changed(number))
        variants.append(Variant(f"shuffle/{number + 1}", Spool(made, where)))
        # Later orders leave out the same items, and say nothing of those with fewer orders.
        left_out = left_out or made.left_out
    return _control("shuffle", variants, left_out)


def _those(wanted: Set[str], samples: Iterable[Sample]) -> Iterator[Sample]:
    """The samples of these ids; no more is read than they need."""
    left = set(wanted)
    for sample in samples:
        if sample.id in left:
            left.remove(sample.id)
            yield sample
        if not left:
            return


def _wording(task: Task, samples: Sequence[Sample], where: Path) -> Control:
    variants, left_out = [], {}
    for number in range(wordings.COUNT):
        made = _Made(
            samples,
            lambda sample, number=number: reworded(sample, number, framed=task.prompt is None),
        )
        variants.append(Variant(f"wording/{number + 1}", Spool(made, where)))
        left_out = made.left_out
    return _control("wording", variants, left_out)


def ask(
    controls: Sequence[Control],
    task: Task,
    engine: Engine,
    folder: Path,
    *,
    sampling: Sampling,
    images: Callable[[Image], bytes],
    release: Release | None = None,
    progress: Callable[[str], AbstractContextManager[Progress]] = lambda _: nullcontext(Silent()),
    rank: int = 0,
    world: int = 1,
) -> Generated:
    """Ask every variant's questions that are not answered yet; the counts are over all of them.

    Raises as `generate` does.
    """
    total = Generated(0, 0, 0, 0)
    for variant in [variant for control in controls for variant in control.variants]:
        with progress(f"{task.name}, {variant.folder}") as told:
            made = generate(
                task,
                variant.samples,
                engine,
                folder / CONTROLS / variant.folder,
                sampling=sampling,
                images=images,
                release=release,
                progress=told,
                rank=rank,
                world=world,
            )
        total = Generated(*(a + b for a, b in zip(total, made, strict=True)))
    return total


def still_missing(controls: Sequence[Control], folder: Path) -> int:
    """How many questions of the controls no process has a row of yet."""
    return sum(
        missing(folder / CONTROLS / variant.folder)
        for control in controls
        for variant in control.variants
    )


def score_all(
    controls: Sequence[Control], task: Task, samples: Sequence[Sample], folder: Path
) -> int:
    """Score every variant and the constants, write controls.json, and return how many questions
    failed.

    Only the score is made, under the protocol strict: metrics over all replies are the run's alone.
    """
    where = folder / CONTROLS
    alone = replace(task, metrics=())
    errors = 0
    told: dict[str, Any] = _kept(folder)
    for control in controls:
        entry: dict[str, Any] = {"why": control.why, "left_out": dict(control.left_out)}
        for variant in control.variants:
            errors += score(alone, variant.samples, where / variant.folder).errors
        entry["variants"] = [variant.folder for variant in control.variants]
        if control.name == "constant":
            found = constants(task, samples)
            entry |= {
                "constants": found.table,
                "why": None if found.rows else "no answer that two questions share",
            }
            entry["variants"] = [f"constant/{place}" for place, _ in enumerate(found.rows, 1)]
            entry["names"] = list(found.rows)
            for variant_folder, rows in zip(entry["variants"], found.rows.values(), strict=True):
                write_scores(where / variant_folder / SCORES, rows)
        told[control.name] = entry
    write_json(
        where / CARD,
        {**_run(folder), "controls": {name: told[name] for name in NAMES if name in told}},
    )
    return errors


def _run(folder: Path) -> dict[str, str]:
    """What identifies the run that the controls of a folder qualify."""
    return {
        "asked": sha256_file(folder / ASKED),
        "answers": answers_digest(iterate_scores(folder / SCORES)),
    }


def _kept(folder: Path) -> dict[str, Any]:
    """What earlier commands did for this very run."""
    path = folder / CONTROLS / CARD
    if not path.is_file():
        return {}
    card = read_json(path)
    if not isinstance(card.get("controls"), dict) or any(
        card.get(name) != value for name, value in _run(folder).items()
    ):
        return {}
    return dict(card["controls"])
