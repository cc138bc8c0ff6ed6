"""The controls of a run: the same questions with black images, reordered options or other words,
and constant answers.

OUT/<task>/controls/blind/       replies, asked and scores, as in the folder of the task
OUT/<task>/controls/shuffle/1/   the same, for the first other order of each item's options
OUT/<task>/controls/wording/1/   the same, for the first paraphrase
OUT/<task>/controls/constant/1/  scores.jsonl of the best constant answer; no model is asked
OUT/<task>/controls/controls.json   which controls there are, over which questions, and why others do not apply

Every folder but that of the constants is filled by generate.py and scored by score.py: what holds
for a run holds for its controls. controls.json names the run by the digests of its requests.jsonl and
of its right answers, so that no control is shown beside another run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lingshu.core.artifacts import SCORES, iterate_scores, write_scores
from lingshu.core.data_policy import DataPolicy
from lingshu.core.errors import ArtifactError
from lingshu.core.files import read_json, sha256_file, write_json
from lingshu.core.progress import NoProgress, Progress
from lingshu.core.types import Engine, Image, PromptStyle, Sample, Sampling, Task
from lingshu.evaluate import paraphrases as paraphrases
from lingshu.evaluate.constant_replies import constant_baselines
from lingshu.evaluate.controls import CONTROL_NAMES, CONTROLS, CONTROLS_FILE, answers_digest
from lingshu.evaluate.generate import REQUESTS, GenerationResult, count_pending, generate
from lingshu.evaluate.perturbations import (
    NO_OPTIONS,
    option_orders,
    paraphrase,
    shuffle_options,
    with_black_images,
)
from lingshu.evaluate.score import score
from lingshu.evaluate.spool import DiskSamples
from lingshu.imaging.headers import ImageHeader


@dataclass(frozen=True)
class ControlVariant:
    """One set of changed questions: its folder below `controls`, and its samples."""

    folder: str
    samples: Sequence[Sample]


@dataclass(frozen=True)
class Control:
    """One control of a task, ready to be asked. `excluded` counts the items it does not apply to,
    by reason.

    `reason` says why it applies to none; there are no variants then, nor for constants, where nobody
    is asked.
    """

    name: str
    variants: tuple[ControlVariant, ...] = ()
    excluded: Mapping[str, int] = field(default_factory=dict)
    reason: str | None = None


@dataclass(frozen=True)
class ControlPlan:
    """Which controls to run, and what decides their questions."""

    names: tuple[str, ...]
    n_shuffles: int = 3
    seed: int = 0
    prompt_style: PromptStyle = "direct"


def prepare(
    plan: ControlPlan,
    task: Task,
    samples: Sequence[Sample],
    load_original_samples: Callable[[], Iterable[Sample]],
    folder: Path,
    *,
    header: Callable[[Image], ImageHeader],
) -> list[Control]:
    """The questions of every control of the plan, in files below the task's `folder` that are gone
    with the process.

    `samples` are those of the run; `as_given` yields them once more as the task does, before its
    prompt has worded them.
    """
    controls_folder = folder / CONTROLS
    controls: list[Control] = []
    for name in plan.names:
        if name == "blind":
            perturbed = _PerturbedSamples(samples, lambda sample: with_black_images(sample, header))
            controls.append(
                _make_control(
                    name,
                    [ControlVariant(name, DiskSamples(perturbed, controls_folder))],
                    perturbed.excluded,
                )
            )
        elif name == "shuffle":
            controls.append(
                _shuffle_control(plan, task, samples, load_original_samples, controls_folder)
            )
        elif name == "wording":
            controls.append(_paraphrase_control(task, samples, controls_folder))
        else:
            controls.append(Control(name))
    return controls


class _PerturbedSamples(Iterable[Sample]):
    """The samples that a change gives, and a count of the others by reason once they have all been
    gone through.
    """

    def __init__(
        self, samples: Iterable[Sample], perturb: Callable[[Sample], Sample | str | None]
    ) -> None:
        self._samples, self._perturb = samples, perturb
        self.excluded: Mapping[str, int] = {}

    def __iter__(self) -> Iterator[Sample]:
        counts = Counter[str]()
        for sample in self._samples:
            perturbed = self._perturb(sample)
            if isinstance(perturbed, Sample):
                yield perturbed
            elif perturbed is not None:
                counts[perturbed] += 1
        self.excluded = dict(sorted(counts.items()))


def _make_control(
    name: str, variants: Sequence[ControlVariant], excluded: Mapping[str, int]
) -> Control:
    non_empty = tuple(variant for variant in variants if len(variant.samples))
    if non_empty:
        return Control(name, non_empty, excluded)
    return Control(
        name,
        (),
        excluded,
        ", ".join(f"{reason} ({count})" for reason, count in excluded.items()) or "no questions",
    )


def _shuffle_control(
    plan: ControlPlan,
    task: Task,
    samples: Sequence[Sample],
    load_original_samples: Callable[[], Iterable[Sample]],
    controls_folder: Path,
) -> Control:
    sample_ids = {sample.id for sample in samples}
    original_samples = DiskSamples(
        _select_by_id(sample_ids, load_original_samples()), controls_folder
    )
    if len(original_samples) < len(sample_ids):
        raise ArtifactError(
            f"{task.name} gave {len(original_samples)} of its {len(sample_ids)} samples the second time; run it on"
            " data that stay as they are."
        )

    def apply_prompt(sample: Sample) -> Sample:
        return task.prompt(sample, plan.prompt_style) if task.prompt else sample

    def make_perturbation(variant_index: int) -> Callable[[Sample], Sample | str | None]:
        def perturb(sample: Sample) -> Sample | str | None:
            if len(sample.choices) < 2:
                return NO_OPTIONS
            orders = option_orders(sample.id, len(sample.choices), plan.n_shuffles, seed=plan.seed)
            return (
                shuffle_options(sample, orders[variant_index], apply_prompt)
                if variant_index < len(orders)
                else None
            )

        return perturb

    variants, excluded = [], {}
    for variant_index in range(plan.n_shuffles):
        perturbed = _PerturbedSamples(original_samples, make_perturbation(variant_index))
        variants.append(
            ControlVariant(f"shuffle/{variant_index + 1}", DiskSamples(perturbed, controls_folder))
        )
        # Later orders leave out the same items, and say nothing of those with fewer orders.
        excluded = excluded or perturbed.excluded
    return _make_control("shuffle", variants, excluded)


def _select_by_id(sample_ids: Set[str], samples: Iterable[Sample]) -> Iterator[Sample]:
    """The samples of these ids; no more is read than they need."""
    remaining = set(sample_ids)
    for sample in samples:
        if sample.id in remaining:
            remaining.remove(sample.id)
            yield sample
        if not remaining:
            return


def _paraphrase_control(task: Task, samples: Sequence[Sample], controls_folder: Path) -> Control:
    variants, excluded = [], {}
    for variant_index in range(paraphrases.N_PARAPHRASES):
        perturbed = _PerturbedSamples(
            samples,
            lambda sample, variant_index=variant_index: paraphrase(
                sample, variant_index, is_bare=task.prompt is None
            ),
        )
        variants.append(
            ControlVariant(f"wording/{variant_index + 1}", DiskSamples(perturbed, controls_folder))
        )
        excluded = perturbed.excluded
    return _make_control("wording", variants, excluded)


def generate_controls(
    controls: Sequence[Control],
    task: Task,
    engine: Engine,
    folder: Path,
    *,
    sampling: Sampling,
    images: Callable[[Image], bytes],
    data_policy: DataPolicy | None = None,
    progress: Callable[[str], AbstractContextManager[Progress]] = lambda _: nullcontext(
        NoProgress()
    ),
    rank: int = 0,
    world_size: int = 1,
) -> GenerationResult:
    """Ask every variant's questions that are not answered yet; the counts are over all of them.

    Raises as `generate` does.
    """
    total = GenerationResult(0, 0, 0, 0)
    for variant in [variant for control in controls for variant in control.variants]:
        with progress(f"{task.name}, {variant.folder}") as task_progress:
            generated = generate(
                task,
                variant.samples,
                engine,
                folder / CONTROLS / variant.folder,
                sampling=sampling,
                images=images,
                data_policy=data_policy,
                progress=task_progress,
                rank=rank,
                world_size=world_size,
            )
        total = GenerationResult(*(a + b for a, b in zip(total, generated, strict=True)))
    return total


def n_pending(controls: Sequence[Control], folder: Path) -> int:
    """How many questions of the controls no process has a row of yet."""
    return sum(
        count_pending(folder / CONTROLS / variant.folder)
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
    controls_folder = folder / CONTROLS
    task_without_metrics = replace(task, metrics=())
    errors = 0
    entries: dict[str, Any] = _existing_entries(folder)
    for control in controls:
        entry: dict[str, Any] = {"reason": control.reason, "excluded": dict(control.excluded)}
        for variant in control.variants:
            errors += score(
                task_without_metrics, variant.samples, controls_folder / variant.folder
            ).n_errors
        entry["variants"] = [variant.folder for variant in control.variants]
        if control.name == "constant":
            baselines = constant_baselines(task, samples)
            entry |= {
                "constants": baselines.table,
                "reason": None if baselines.rows else "no answer that two questions share",
            }
            entry["variants"] = [f"constant/{index}" for index, _ in enumerate(baselines.rows, 1)]
            entry["names"] = list(baselines.rows)
            for variant_folder, rows in zip(
                entry["variants"], baselines.rows.values(), strict=True
            ):
                write_scores(controls_folder / variant_folder / SCORES, rows)
        entries[control.name] = entry
    write_json(
        controls_folder / CONTROLS_FILE,
        {
            **_run_digests(folder),
            "controls": {name: entries[name] for name in CONTROL_NAMES if name in entries},
        },
    )
    return errors


def _run_digests(folder: Path) -> dict[str, str]:
    """What identifies the run that the controls of a folder qualify."""
    return {
        "requests": sha256_file(folder / REQUESTS),
        "answers": answers_digest(iterate_scores(folder / SCORES)),
    }


def _existing_entries(folder: Path) -> dict[str, Any]:
    """What earlier commands did for this very run."""
    path = folder / CONTROLS / CONTROLS_FILE
    if not path.is_file():
        return {}
    card = read_json(path)
    if not isinstance(card.get("controls"), dict) or any(
        card.get(name) != value for name, value in _run_digests(folder).items()
    ):
        return {}
    return dict(card["controls"])
