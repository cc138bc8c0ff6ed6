"""The quickstart: synthesize data, train a tiny model, evaluate it, explain it on one page.

OUT/data/{text,captions,...}        synthetic DATASETs
OUT/train/                          the training run; train/checkpoint is the model, train/start the untrained one
OUT/rl/                             reinforcement learning from a shorter start of its own
OUT/moft/                           two short trajectories from the model, their averages, and a soup
OUT/eval/{trained,untrained}/       replies, scores and reports
OUT/images/                         a few held-out images to ask about
OUT/summary.json, report.html       the results
"""

from __future__ import annotations

import logging
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lingshu.core.config import to_plain
from lingshu.core.errors import ConfigError
from lingshu.core.files import read_json, write_json
from lingshu.core.run_card import RunCard, write_run_card
from lingshu.core.types import Image, Task
from lingshu.quickstart import moft
from lingshu.quickstart.phantoms import (
    curate_data,
    evaluate,
    filter_task,
    held_out,
    task_samples,
)
from lingshu.quickstart.reinforcement import measure_rl
from lingshu.quickstart.report import QuickstartResult, training_log, write_page
from lingshu.recipes import phantom_moft, phantom_rl, quickstart
from lingshu.sources.phantom import KINDS, MAIN_KINDS
from lingshu.train.config import Stage, TrainConfig

SUMMARY, PAGE = "summary.json", "report.html"
N_EXAMPLES = 12  # sample images on the page, one of each modality
RL_IMAGES = 80  # held-out images whose questions are asked before and after reinforcement learning
SIZES = {**quickstart.SIZES, **phantom_rl.SIZES, **moft.SIZES}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What a quickstart runs: the training run, the images of each data group, the stages that end
    in rewards, the steps of each MOFT trajectory, and the number of test images (None: all).
    """

    train: TrainConfig = field(default_factory=quickstart.recipe)
    sizes: Mapping[str, int] = field(default_factory=lambda: SIZES)
    rl_stages: Sequence[Stage] = field(default_factory=phantom_rl.stages)
    moft_steps: int = phantom_moft.SHORT_STEPS
    images: int | None = None


def read_finished(out: Path, seed: int) -> dict[str, Any] | None:
    """The summary of a finished quickstart in OUT.

    Raises:
        ConfigError: OUT holds a quickstart of another seed, or something else.
    """
    if not (out / SUMMARY).exists():
        return None
    finished = read_json(out / SUMMARY)
    if "seed" not in finished:
        raise ConfigError(
            f"{out} holds a {SUMMARY} that no quickstart wrote; choose another --out."
        )
    if finished["seed"] != seed:
        raise ConfigError(
            f"{out} holds a finished quickstart of seed {finished['seed']}; choose another --out."
        )
    return finished


def run(plan: Plan, out: Path, *, seed: int) -> dict[str, Any]:
    """Run a quickstart and return its summary; an interrupted one resumes.

    Raises:
        ConfigError: OUT holds a quickstart of another seed, or something else.
    """
    finished = read_finished(out, seed)
    if finished is not None:
        return finished
    started = time.monotonic()
    logger.info("creating %d phantoms", sum(plan.sizes.values()))
    moft_sizes = {group: plan.sizes[group] for group in moft.SIZES}
    sizes = {group: images for group, images in plan.sizes.items() if group not in moft_sizes}
    data = curate_data(out / "data", sizes, seed)
    data |= curate_data(out / "data", moft_sizes, seed, first=sum(sizes.values()), annotated=True)
    config = replace(
        plan.train, seed=seed, data={name: str(data[name]) for name in plan.train.data}
    )
    branch, checkpoint, moft_result = _train(plan, config, data, out, seed)
    task = held_out(plan.images)
    main_task = filter_task(task, lambda sample: sample.meta.kind in MAIN_KINDS)
    rows = evaluate(checkpoint, task, out / "eval" / "trained", config.threads)
    untrained_rows = evaluate(
        out / "train" / "start", main_task, out / "eval" / "untrained", config.threads
    )
    rl_samples = [
        sample
        for sample in task_samples(held_out(min(RL_IMAGES, plan.images or RL_IMAGES)))
        if sample.meta.kind in MAIN_KINDS
    ]
    rl = measure_rl(branch, out / "rl", rl_samples)
    stages, log = training_log(out / "train")
    result = QuickstartResult(
        rows=rows,
        untrained_rows=untrained_rows,
        stages=stages,
        log=log,
        rl=rl,
        moft=moft_result,
        checkpoint=checkpoint,
        seed=seed,
        wall_s=round(time.monotonic() - started, 1),
        peak_rss_mb=_peak_rss_mb(),
    )
    write_page(out / PAGE, result, _save_images(out / "images", task))
    write_run_card(out, RunCard("quickstart", to_plain(config), seed))
    summary = result.as_json()
    write_json(out / SUMMARY, summary)
    return summary


def _train(
    plan: Plan, config: TrainConfig, data: Mapping[str, Path], out: Path, seed: int
) -> tuple[TrainConfig, Path, moft.MoftResult]:
    """Train the model, the branch with rewards and the two trajectories; returns the configuration
    of the branch, the model's checkpoint and the trajectories' result.
    """
    from lingshu.train.loop import stage_folder, train
    from lingshu.train.progress import progress_line

    branch = replace(
        phantom_rl.rl_branch(str(stage_folder(out / "train", 2, config.stages[2].name))),
        stages=tuple(plan.rl_stages),
        seed=seed,
        data={name: str(data[name]) for name in phantom_rl.SIZES},
        log_every=1,
        tensorboard=config.tensorboard,
    )
    questions = moft.QUESTIONS
    if plan.images:
        questions = min(questions, len(KINDS) * plan.images)
    with progress_line() as progress:
        checkpoint = train(config, out / "train", resume=True, progress=progress)
        train(branch, out / "rl", resume=True, progress=progress)
        moft_result = moft.run_moft(
            checkpoint,
            data["moft"],
            data["moft_held"],
            out / "moft",
            seed=seed,
            progress=progress,
            steps=plan.moft_steps,
            questions=questions,
            threads=config.threads,
        )
    return branch, checkpoint, moft_result


def _save_images(folder: Path, task: Task) -> list[tuple[Path, Image, str]]:
    """A few held-out images as files, to be asked about, with the prefix of their samples' ids."""
    from lingshu.imaging.read import image_bytes

    folder.mkdir(parents=True, exist_ok=True)
    saved: dict[str, tuple[Path, Image, str]] = {}
    for sample in task_samples(task):
        group = sample.meta.group
        if group is None or group in saved:
            continue
        if len(saved) == N_EXAMPLES:
            break
        path = folder / f"{sample.meta.modality}.png"
        path.write_bytes(image_bytes(sample.images[0]))
        saved[group] = (path, sample.images[0], group)
    return list(saved.values())


def _peak_rss_mb() -> float:
    """The largest resident memory of this process so far, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts kibibytes, macOS bytes.
    return round(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6, 1)
