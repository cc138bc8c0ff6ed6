"""The phantoms of the quickstart: curated data groups, the held-out task, and evaluation on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lingshu.core.artifacts import read_scores
from lingshu.core.types import Sample, Task
from lingshu.evaluate.data import LoadedTask, LoadedTasks
from lingshu.evaluate.run import EvalConfig, run
from lingshu.evaluate.score import scores_file
from lingshu.recipes import curation_phantom, phantom_moft
from lingshu.recipes.quickstart import SIDE
from lingshu.tasks import phantom

BATCH_SIZE = 64


def curate_data(
    folder: Path, sizes: Mapping[str, int], seed: int, *, first: int = 0, annotated: bool = False
) -> dict[str, Path]:
    """Curate data groups of so many images, phantoms from number `first` on; no phantom is in two
    groups. `annotated` ones have entity spans. A group that is complete already is kept.
    """
    from lingshu.curate.run import curate

    folders = {}
    for group, images in sizes.items():
        if annotated:
            config = phantom_moft.curation(images=images, first=first, seed=seed)
        else:
            config = curation_phantom.recipe(
                purpose=group, images=images, first=first, seed=seed, side=SIDE
            )
        folders[group] = folder / group
        curate(config, folders[group])
        first += images
    return folders


def held_out(images: int | None) -> Task:
    """The phantom task, on its first `images` images if given."""
    if images is None:
        return phantom.TASK
    groups = {f"phantom-{phantom.SEED}-test-{index}" for index in range(images)}
    return filter_task(phantom.TASK, lambda sample: sample.meta.group in groups)


def filter_task(task: Task, predicate: Callable[[Sample], bool]) -> Task:
    """A task with the samples that meet a condition."""
    return replace(task, samples=lambda _: filter(predicate, task_samples(task)))


def task_samples(task: Task) -> list[Sample]:
    return [sample for sample in task.samples(None) if isinstance(sample, Sample)]


def evaluate(
    checkpoint: Path, task: Task, folder: Path, threads: int | None
) -> list[dict[str, Any]]:
    """Generate replies, score and report; returns the rows of scores."""
    from lingshu.engines.hf import load

    samples = task_samples(task)
    tasks = [LoadedTask(task, samples, (), lambda: iter(samples))]
    config = EvalConfig(batch_size=BATCH_SIZE, threads=threads)
    engine = load(str(checkpoint), config.engine_options)
    run(str(checkpoint), engine, LoadedTasks([task.name], tasks, {}), folder, config)
    return read_scores(scores_file(folder / task.name))
