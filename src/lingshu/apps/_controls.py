"""The controls of an evaluation: asked after the task's own questions, with the same engine and the
same kind of store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lingshu.apps._eval_data import Loaded
from lingshu.core.nouns import Drop, Engine, Sample, Sampling, Task
from lingshu.core.release import Release

if TYPE_CHECKING:
    from lingshu.apps.evaluate import EvalConfig
    from lingshu.evaluate._control_run import Control


def named(text: str | None) -> tuple[str, ...]:
    """The controls that `--controls` names.

    Raises:
        InputError: one that there is not.
    """
    if text is None:
        return ()
    from lingshu.evaluate.controls import names_of

    return names_of(text)


def ask(
    loaded: Loaded,
    engine: Engine,
    folder: Path,
    config: EvalConfig,
    *,
    sampling: Sampling,
    release: Release,
) -> tuple[list[Control], Counter[str]]:
    """Make and ask the questions of the controls that the run names; them, and the counts. Without
    any named, nothing is done.

    Raises:
        LingshuError: as a run does.
    """
    if not config.controls:
        return [], Counter()
    from lingshu.evaluate import _control_run as step
    from lingshu.evaluate.progress import shown
    from lingshu.imaging.pictures import Pictures
    from lingshu.imaging.read import ShardReader, image_bytes

    task, world = loaded.task, config.world
    plan = step.Plan(config.controls, config.shuffles, config.seed, config.style)
    with ShardReader() as shards:
        with Pictures(shards=shards) as pictures:
            controls = step.prepare(
                plan,
                task,
                loaded.samples,
                partial(_as_given, task, config),
                folder,
                header=pictures.header,
            )
        asking = {
            "sampling": sampling,
            "images": partial(image_bytes, shards=shards),
            "release": release,
        }
        made = step.ask(
            controls, task, engine, folder, **asking, progress=shown, rank=config.rank, world=world
        )
    counts = {
        "control_questions": made.samples,
        "control_answered_before": made.before,
        "control_asked": made.asked,
    }
    return controls, Counter(counts | {"control_errors": made.errors})


def missing(controls: Sequence[Control], folder: Path) -> int:
    """How many questions of the controls no process has a row of yet."""
    if not controls:
        return 0
    from lingshu.evaluate._control_run import still_missing

    return still_missing(controls, folder)


def score(controls: Sequence[Control], loaded: Loaded, folder: Path) -> dict[str, int]:
    """Score what the controls were answered; the count of failures, where there are controls."""
    if not controls:
        return {}
    from lingshu.evaluate._control_run import score_all

    return {"control_errors": score_all(controls, loaded.task, loaded.samples, folder)}


def _as_given(task: Task, config: EvalConfig) -> Iterator[Sample]:
    """The samples before the task's prompt has worded them."""
    data = None if config.data is None else Path(config.data)
    found: Iterable[Sample | Drop] = task.twin(config.seed) if config.twin else task.samples(data)
    return (item for item in found if isinstance(item, Sample))


def told(counts: Mapping[str, int]) -> str:
    """How many questions the controls took, on one line."""
    labels = (
        ("control_asked", "asked now"),
        ("control_answered_before", "answered before"),
        ("control_errors", "errors"),
    )
    asked = ", ".join(f"{counts.get(key, 0)} {label}" for key, label in labels)
    return f"controls: {counts.get('control_questions', 0)} questions, {asked}"
