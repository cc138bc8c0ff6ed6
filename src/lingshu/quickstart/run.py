"""`lingshu quickstart`: draw data, train a tiny model through every stage, evaluate it, and explain
the result on one page.

OUT/data/{text,captions,...}        drawn DATASETs
OUT/train/                          the training run; train/checkpoint is the model, train/start the untrained one
OUT/rl/                             reinforcement learning from a shorter start of its own
OUT/moft/                           two short trajectories from the model, their averages, and a soup beside them
OUT/eval/{trained,untrained}/       replies, scores and reports
OUT/images/                         a few held-out images, to ask about
OUT/summary.json, build.html       what came out
"""

from __future__ import annotations

import resource
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lingshu.core.artifacts import read_scores
from lingshu.core.config import to_plain
from lingshu.core.engine_options import EngineOptions
from lingshu.core.errors import ConfigError
from lingshu.core.files import read_json, write_json
from lingshu.core.run_card import RunCard, write_run_card
from lingshu.core.types import Image, Sample, Task
from lingshu.quickstart import moft as moft_module
from lingshu.quickstart.reinforcement import measure_rl
from lingshu.quickstart.report import as_json, collect_result, write_page
from lingshu.recipes import curation_phantom, phantom_moft, phantom_rl
from lingshu.recipes.quickstart import SIDE, SIZES, recipe
from lingshu.sources.phantom import KINDS, MAIN_KINDS
from lingshu.tasks import phantom
from lingshu.train.config import Stage, TrainConfig

SUMMARY, PAGE = "summary.json", "report.html"
N_EXAMPLES = 12  # sample images on the page, one of each modality
BATCH = 64
RL_IMAGES = 80  # held-out images whose questions are asked before and after reinforcement learning


def quickstart(*, out: Path = Path("quickstart"), seed: int = 0) -> int:
    """Draw data, train a tiny model through every stage, evaluate it and explain the result.

    Parameters
    ----------
    out
        Folder for everything that is made. An interrupted quickstart in it goes on where it
        stopped.
    seed
        Decides the drawn images, the first weights and the order of samples.
    """
    sizes = {**SIZES, **phantom_rl.SIZES, **moft_module.SIZES}
    return run(recipe(), sizes, out, phantom_rl.stages(), phantom_moft.SHORT_STEPS, seed=seed)


def run(
    config: TrainConfig,
    sizes: Mapping[str, int],
    out: Path,
    rl_stages: Sequence[Stage],
    moft_steps: int,
    *,
    seed: int,
    images: int | None = None,
) -> int:
    """The quickstart with another configuration, fewer drawn samples, other stages that end in
    rewards, trajectories of another length, or fewer test images.

    A finished one is told again, not run again.

    Raises:
        ConfigError: OUT holds a quickstart of another seed, or something else.
    """
    from lingshu.train.log import progress_line
    from lingshu.train.loop import stage_folder, train

    if (out / SUMMARY).exists():
        finished = read_json(out / SUMMARY)
        if "seed" not in finished:
            raise ConfigError(
                f"{out} holds a {SUMMARY} that no quickstart wrote; choose another --out."
            )
        if finished["seed"] != seed:
            raise ConfigError(
                f"{out} holds a finished quickstart of seed {finished['seed']}; choose another"
                " --out."
            )
        print_status(f"{out} holds a finished quickstart; remove the folder to run it anew")
        print_summary(finished, out)
        return 0
    started = time.monotonic()
    print_status(f"drawing {sum(sizes.values())} phantoms in twelve modality styles")
    moft_sizes = {group: sizes[group] for group in moft_module.SIZES}
    supervised_sizes = {
        group: n_images for group, n_images in sizes.items() if group not in moft_sizes
    }
    data = curate_data(out / "data", supervised_sizes, seed)
    entities = moft_module.curate_data(
        out / "data", first=sum(supervised_sizes.values()), seed=seed, sizes=moft_sizes
    )
    config = replace(config, seed=seed, data={name: data[name] for name in config.data})
    branch = replace(
        phantom_rl.rl_branch(str(stage_folder(out / "train", 2, config.stages[2].name))),
        stages=tuple(rl_stages), seed=seed, data={name: data[name] for name in phantom_rl.SIZES},
        log_every=1, tensorboard=config.tensorboard,
    )  # fmt: skip
    with progress_line() as progress:
        checkpoint = train(config, out / "train", resume=True, progress=progress)
        train(branch, out / "rl", resume=True, progress=progress)
        n_questions = (
            min(moft_module.QUESTIONS, len(KINDS) * images) if images else moft_module.QUESTIONS
        )
        moft = moft_module.run_moft(
            checkpoint, entities["moft"], entities["moft_held"], out / "moft",
            seed=seed, progress=progress, steps=moft_steps, questions=n_questions, threads=config.threads,
        )  # fmt: skip
    task = held_out(images)
    main_task = filter_task(task, lambda sample: sample.meta.kind in MAIN_KINDS)
    trained_rows = evaluate(checkpoint, task, out / "eval" / "trained", config)
    untrained_rows = evaluate(
        out / "train" / "start", main_task, out / "eval" / "untrained", config
    )
    rl_task = filter_task(
        held_out(min(RL_IMAGES, images or RL_IMAGES)), lambda sample: sample.meta.kind in MAIN_KINDS
    )
    rl = measure_rl(
        branch,
        out / "rl",
        [sample for sample in rl_task.samples(None) if isinstance(sample, Sample)],
    )
    result = collect_result(
        out,
        config,
        trained_rows,
        untrained_rows,
        rl,
        moft,
        wall_s=time.monotonic() - started,
        peak_rss_mb=peak_rss_mb(),
    )
    examples = save_images(out / "images", task)
    write_page(out / PAGE, result, examples)
    write_run_card(out, RunCard("quickstart", to_plain(config), seed))
    summary = as_json(result)
    write_json(out / SUMMARY, summary)
    print_summary(summary, out)
    return 0


def print_status(text: str) -> None:
    print(f"quickstart: {text}", file=sys.stderr, flush=True)


def curate_data(folder: Path, sizes: Mapping[str, int], seed: int) -> dict[str, str]:
    """Draw and curate each data group; no phantom serves two groups.

    A group that is whole already is kept.
    """
    from lingshu.curate.run import curate

    first, folders = 0, {}
    for group, n_images in sizes.items():
        target = folder / group
        curate(
            curation_phantom.recipe(
                purpose=group, images=n_images, first=first, seed=seed, side=SIDE
            ),
            target,
        )
        first += n_images
        folders[group] = str(target)
    return folders


def held_out(images: int | None) -> Task:
    """The phantom task, on its first `images` images where that is fewer."""
    task = phantom.TASK
    if images is None:
        return task
    group_ids = {f"phantom-{phantom.SEED}-test-{index}" for index in range(images)}
    return filter_task(task, lambda sample: sample.meta.group in group_ids)


def filter_task(task: Task, predicate: Callable[[Sample], bool]) -> Task:
    """A task with those of its samples that are wanted."""
    return replace(
        task,
        samples=lambda data: (
            s for s in task.samples(data) if isinstance(s, Sample) and predicate(s)
        ),
    )


def evaluate(checkpoint: Path, task: Task, folder: Path, config: TrainConfig) -> list[dict]:
    """Ask, score and report; returns the scores rows."""
    from lingshu.core.progress import progress_bar
    from lingshu.core.types import Sampling
    from lingshu.engines.hf import load
    from lingshu.evaluate.generate import generate
    from lingshu.evaluate.report import build
    from lingshu.evaluate.score import score, scores_file
    from lingshu.imaging.read import image_bytes

    engine = load(str(checkpoint), EngineOptions(batch_size=BATCH, threads=config.threads))
    samples = [sample for sample in task.samples(None) if isinstance(sample, Sample)]
    with progress_bar(f"{folder.name} model") as progress:
        sampling = Sampling(max_tokens=task.max_tokens)
        generation = generate(
            task,
            samples,
            engine,
            folder / task.name,
            sampling=sampling,
            images=image_bytes,
            thumbnails=True,
            progress=progress,
        )
    score(task, samples, folder / task.name)
    card = RunCard(
        "eval",
        {"model": folder.name, "tasks": [task.name]},
        0,
        {"samples": generation.n_samples, "errors": generation.n_errors},
    )
    write_run_card(folder, card)
    build.write(folder, build.build(folder))
    return read_scores(scores_file(folder / task.name))


def save_images(folder: Path, task: Task) -> list[tuple[Path, Image, str]]:
    """A few held-out images as files, to be asked about; with the sample id prefix that names each."""
    from lingshu.imaging.read import image_bytes

    folder.mkdir(parents=True, exist_ok=True)
    saved: dict[str, tuple[Path, Image, str]] = {}
    for sample in task.samples(None):
        if (
            not isinstance(sample, Sample)
            or sample.meta.group is None
            or sample.meta.group in saved
        ):
            continue
        if len(saved) == N_EXAMPLES:
            break
        path = folder / f"{sample.meta.modality}.png"
        path.write_bytes(image_bytes(sample.images[0]))
        saved[sample.meta.group] = (path, sample.images[0], sample.meta.group)
    return list(saved.values())


def peak_rss_mb() -> float:
    """The largest resident memory of this process so far, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts kibibytes, macOS bytes.
    return round(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6, 1)


def print_summary(summary: Mapping[str, Any], out: Path) -> None:
    """What a person reads at the end: the numbers, the page, and the line that asks the model."""
    overall = summary["accuracy"]["overall"]
    value, low, high = (100 * overall[key] for key in ("value", "low", "high"))
    print(f"accuracy {value:.1f}% (95% interval {low:.1f} to {high:.1f}, n = {overall['n']})")
    print(
        f"untrained {100 * summary['untrained_accuracy']:.1f}%, majority answer"
        f" {100 * summary['majority_accuracy']:.1f}%"
    )
    before, after = (summary["rl"]["sampled"][phase] for phase in ("before", "after"))
    print(
        f"rewarded: reward of drawn replies {before['reward']:.2f} -> {after['reward']:.2f}, in"
        f" shape {100 * before['format']:.0f}% -> {100 * after['format']:.0f}%"
    )
    points = {
        point["weight"]: 100 * point["accuracy"]["value"] for point in summary["moft"]["points"]
    }
    soup = 100 * summary["moft"]["soup"]["accuracy"]["value"]
    print(
        f"averaged: {points[1.0]:.1f}% and {points[0.0]:.1f}% apart, {points[0.5]:.1f}% half and"
        f" half, a plain soup {soup:.1f}%"
    )
    print(f"page: {out / PAGE}")
    image = sorted((out / "images").glob("*.png"))[0]
    print(
        "ask it: "
        + shlex.join(
            ["lingshu", "ask", summary["checkpoint"], "Which imaging modality is this?", str(image)]
        )
    )
