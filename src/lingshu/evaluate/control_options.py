"""The controls of an evaluation: asked after the task's own questions, with the same engine and the
same kind of store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lingshu.core.data_policy import DataPolicy
from lingshu.core.types import Drop, Engine, Sample, Sampling, Task
from lingshu.evaluate.data import LoadedTask

if TYPE_CHECKING:
    from lingshu.cli.eval import EvalConfig
    from lingshu.evaluate.control_run import Control


def parse_option(text: str | None) -> tuple[str, ...]:
    """The controls that `--controls` names.

    Raises:
        InputError: one that there is not.
    """
    if text is None:
        return ()
    from lingshu.evaluate.controls import parse_controls

    return parse_controls(text)


def generate_controls(
    loaded: LoadedTask,
    engine: Engine,
    folder: Path,
    config: EvalConfig,
    *,
    sampling: Sampling,
    data_policy: DataPolicy,
) -> tuple[list[Control], Counter[str]]:
    """Make and ask the questions of the controls that the run names; them, and the counts. Without
    any named, nothing is done.

    Raises:
        LingshuError: as a run does.
    """
    if not config.controls:
        return [], Counter()
    from lingshu.core.progress import progress_bar
    from lingshu.evaluate import control_run as control_run
    from lingshu.imaging.cache import ImageCache
    from lingshu.imaging.read import ShardReader, image_bytes

    task, world_size = loaded.task, config.world_size
    plan = control_run.ControlPlan(
        config.controls, config.n_shuffles, config.seed, config.prompt_style
    )
    with ShardReader() as shards:
        with ImageCache(shards=shards) as image_cache:
            controls = control_run.prepare(
                plan,
                task,
                loaded.samples,
                partial(_load_original_samples, task, config),
                folder,
                header=image_cache.header,
            )
        common_options = {
            "sampling": sampling,
            "images": partial(image_bytes, shards=shards),
            "data_policy": data_policy,
        }
        generated = control_run.generate_controls(
            controls,
            task,
            engine,
            folder,
            **common_options,
            progress=progress_bar,
            rank=config.rank,
            world_size=world_size,
        )
    counts = {
        "control_questions": generated.n_samples,
        "control_answered_before": generated.n_answered_before,
        "control_requested": generated.n_requested,
    }
    return controls, Counter(counts | {"control_errors": generated.n_errors})


def count_pending(controls: Sequence[Control], folder: Path) -> int:
    """How many questions of the controls no process has a row of yet."""
    if not controls:
        return 0
    from lingshu.evaluate.control_run import n_pending

    return n_pending(controls, folder)


def score(controls: Sequence[Control], loaded: LoadedTask, folder: Path) -> dict[str, int]:
    """Score what the controls were answered; the count of failures, where there are controls."""
    if not controls:
        return {}
    from lingshu.evaluate.control_run import score_all

    return {"control_errors": score_all(controls, loaded.task, loaded.samples, folder)}


def _load_original_samples(task: Task, config: EvalConfig) -> Iterator[Sample]:
    """The samples before the task's prompt has worded them."""
    data = None if config.data is None else Path(config.data)
    samples: Iterable[Sample | Drop] = (
        task.synthetic(config.seed) if config.synthetic else task.samples(data)
    )
    return (item for item in samples if isinstance(item, Sample))


def summary_line(counts: Mapping[str, int]) -> str:
    """How many questions the controls took, on one line."""
    labels = (
        ("control_requested", "asked now"),
        ("control_answered_before", "answered before"),
        ("control_errors", "errors"),
    )
    parts = ", ".join(f"{counts.get(key, 0)} {label}" for key, label in labels)
    return f"controls: {counts.get('control_questions', 0)} questions, {parts}"
