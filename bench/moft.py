"""MOFT on phantoms, three seeds: plain fine-tuning, entities at 2.5, their average, and what the
average has to be compared with.

    python bench/moft.py [--steps N] [--images N] [--seeds N]

Every seed trains the quickstart's chain up to deep alignment once, and from there each run of
recipes/phantom_moft.py with the instruction stage's steps. Averages weight both models equally. The options
are for trying it; the page is written without them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from _record import record, table

from lingshu.analysis.likelihood import SampleLikelihood, likelihoods
from lingshu.analysis.likelihood import encode_held_out as encode_held_out
from lingshu.analysis.merge_path import Barrier, barrier
from lingshu.core import config as configuration
from lingshu.core.files import read_json
from lingshu.core.stats import Interval
from lingshu.core.types import Task
from lingshu.evaluate.statistics import bootstrap_mean, difference
from lingshu.evaluate.summary import group_key, interval_text, percent, row_value
from lingshu.models.load import load
from lingshu.quickstart.phantoms import curate_data, evaluate, held_out
from lingshu.recipes import phantom_moft, quickstart
from lingshu.sources.phantom import KINDS
from lingshu.train.log import SUMMARY_FILE
from lingshu.train.loop import train
from lingshu.weights.base import MergeWeights
from lingshu.weights.output import MergePlan, merge

SEEDS = 3
N_HELD_OUT = 480  # dialogues about phantoms that no group was built from
# Name of a model -> how the page calls it; averages are of the two runs named.
RUNS = {
    "fluency": "SFT (c = 1)", "entities": "entities at c = 2.5", "dft": "DFT", "second_seed": "SFT, second seed",
    "random_tokens": "random tokens at 2.5",
}  # fmt: skip
AVERAGES = {
    "moft": ("fluency", "entities"),
    "soup": ("fluency", "second_seed"),
    "random_average": ("fluency", "random_tokens"),
}
TITLES = {
    **RUNS,
    "moft": "MOFT: average of SFT and c = 2.5",
    "soup": "soup: average of two SFT seeds",
    "random_average": "average of SFT and random tokens",
}


@dataclass(frozen=True)
class Measurement:
    """Scores rows and likelihoods of one model."""

    rows: Sequence[Mapping]
    likelihoods: Sequence[SampleLikelihood]


@dataclass(frozen=True)
class SeedResult:
    """The results of one seed: every model, the share of entity tokens, the barriers of both
    averages, CPU seconds of a run.
    """

    models: Mapping[str, Measurement]
    share: float
    barriers: Mapping[str, Barrier]
    seconds: Mapping[str, float]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, help="steps of every stage, for a try")
    parser.add_argument("--images", type=int, help="test images, for a try")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    options = parser.parse_args()
    is_trial = options.steps is not None or options.images is not None or options.seeds != SEEDS
    found = []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            found.append(run_seed(seed, Path(folder), held_out(options.images), options.steps))
    summary = page(found)
    if is_trial:
        print(summary)
    else:
        record("moft", "MOFT on phantoms, three seeds", summary)


def run_seed(seed: int, folder: Path, task: Task, steps: int | None) -> SeedResult:
    """Train and measure everything of one seed."""
    chain = quickstart.recipe()
    stages = chain.stages[:-1]
    sizes = {name: number for name, number in quickstart.SIZES.items() if name != "instruct"}
    dataset_sizes = {"instruct": phantom_moft.SIZES["instruct"], "held": N_HELD_OUT}
    if steps is not None:
        stages = tuple(replace(stage, steps=steps) for stage in stages)
        sizes, dataset_sizes = dict.fromkeys(sizes, 40), dict.fromkeys(dataset_sizes, 60)
    data = curate_data(folder / "data", sizes, seed)
    annotated = curate_data(
        folder / "data", dataset_sizes, seed, first=sum(sizes.values()), annotated=True
    )
    groups = {name: str(path) for name, path in data.items()}
    start = train(
        replace(chain, stages=stages, data=groups, seed=seed, tensorboard=False), folder / "start"
    )
    ends, seconds, share = {}, {}, 0.0
    for name in RUNS:
        config = configuration.override(
            replace(phantom_moft.recipe(), model=str(start)), phantom_moft.VARIANTS[name]
        )
        stage = config.stages[0] if steps is None else replace(config.stages[0], steps=steps)
        config = replace(
            config,
            stages=(stage,),
            data={"instruct": str(annotated["instruct"])},
            tensorboard=False,
        )
        started = time.process_time()
        # Runs of a seed see the same order; the second seed is one that no other run has.
        ends[name] = train(
            replace(config, seed=seed + 100 * (name == "second_seed")), folder / name
        )
        seconds[name] = time.process_time() - started
        share = read_json(folder / name / SUMMARY_FILE)["stages"][0]["entities"]["fraction"]
        print(f"seed {seed}, {name}: {seconds[name]:.0f} CPU s", file=sys.stderr, flush=True)
    for name, pair in AVERAGES.items():
        ends[name] = folder / name
        merge(MergePlan((ends[pair[0]], ends[pair[1]])), ends[name], MergeWeights((0.5, 0.5)))
    models = {
        name: measure(path, annotated["held"], task, folder / "measured" / name)
        for name, path in ends.items()
    }
    return SeedResult(
        models, share, {name: entity_barrier(models, name) for name in AVERAGES}, seconds
    )


def measure(checkpoint: Path, held_out: Path, task: Task, out: Path) -> Measurement:
    rows = evaluate(checkpoint, task, out, quickstart.recipe().threads)
    loaded = load(str(checkpoint))
    return Measurement(
        rows,
        likelihoods(
            loaded,
            encode_held_out([held_out], loaded.processor),
            out / "likelihood.jsonl",
            batch=32,
        ),
    )


def entity_barrier(models: Mapping[str, Measurement], name: str) -> Barrier:
    """The barrier at the middle of an average's two ends."""
    first, second = AVERAGES[name]
    likelihoods = [models[each].likelihoods for each in (second, name, first)]
    groups = [row.group or row.id for row in likelihoods[0]]
    found = barrier(
        [0.0, 0.5, 1.0],
        [[row.nll for row in rows] for rows in likelihoods],
        [row.tokens for row in likelihoods[0]],
        groups,
    )
    assert found is not None
    return found


# --- the page
# --------------------------------------------------------------------------------------------------------


def pooled(
    seeds: Sequence[SeedResult], name: str, kinds: Sequence[str] = KINDS
) -> list[tuple[float, tuple]]:
    """The value of each question of all seeds with its group: images are the same in all of them,
    so they are resampled together.
    """
    return [
        (row_value(row), group_key(row))
        for seed in seeds
        for row in seed.models[name].rows
        if row["kind"] in kinds
    ]  # type: ignore[misc]


def accuracy(seeds: Sequence[SeedResult], name: str, kinds: Sequence[str] = KINDS) -> Interval:
    pairs = pooled(seeds, name, kinds)
    return bootstrap_mean([value for value, _ in pairs], [group for _, group in pairs])


def nats(seeds: Sequence[SeedResult], name: str, client_name: str) -> str:
    means = []
    for seed in seeds:
        rows = seed.models[name].likelihoods
        marked, all_nll = sum(row.entity_nll or 0.0 for row in rows), sum(row.nll for row in rows)
        tokens, all_tokens = (
            sum(row.entity_tokens or 0 for row in rows),
            sum(row.tokens for row in rows),
        )
        sums = {
            "entity": (marked, tokens),
            "other": (all_nll - marked, all_tokens - tokens),
            "all": (all_nll, all_tokens),
        }[client_name]
        means.append(sums[0] / sums[1])
    return f"{np.mean(means):.4f} ({min(means):.4f} to {max(means):.4f})"


def gain(seeds: Sequence[SeedResult], name: str, against: str) -> str:
    lingshu_run, peer_run = pooled(seeds, name), pooled(seeds, against)
    found = difference(
        [value for value, _ in lingshu_run],
        [value for value, _ in peer_run],
        [group for _, group in lingshu_run],
    )
    span = (
        ""
        if found.low is None or found.high is None
        else f" ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
    )
    return f"{100 * (found.value or 0):+.1f}{span}"


def page(seeds: Sequence[SeedResult]) -> str:
    each = [
        ", ".join(f"{percent(accuracy([seed], name).value)}" for seed in seeds) for name in TITLES
    ]
    overall = [accuracy(seeds, name) for name in TITLES]
    first = table(
        [
            "model",
            "accuracy, all kinds (%)",
            "95% interval",
            "by seed",
            "NLL of entity tokens",
            "NLL of other tokens",
        ],
        [
            [
                title,
                percent(overall_accuracy.value),
                interval_text(overall_accuracy),
                by_seed,
                nats(seeds, name, "entity"),
                nats(seeds, name, "other"),
            ]
            for (name, title), overall_accuracy, by_seed in zip(
                TITLES.items(), overall, each, strict=True
            )
        ],
    )
    by_kind = table(
        ["accuracy (%)", *KINDS],
        [
            [
                title,
                *(
                    f"{percent(i.value)} ({interval_text(i)})"
                    for i in (accuracy(seeds, name, (kind,)) for kind in KINDS)
                ),
            ]
            for name, title in TITLES.items()
        ],
    )
    pairs = (
        ("moft", "fluency"),
        ("moft", "soup"),
        ("soup", "fluency"),
        ("entities", "fluency"),
        ("random_average", "soup"),
        ("dft", "fluency"),
    )
    gains = table(["accuracy points, paired by question", "difference (95% interval)"], [
        [f"{TITLES[one]} against {TITLES[other]}", gain(seeds, one, other)] for one, other in pairs
    ])  # fmt: skip
    barriers = table(
        [
            "barrier at the midpoint (nats per token)",
            *(f"seed {number}" for number in range(len(seeds))),
        ],
        [
            [
                TITLES[name],
                *(
                    f"{seed.barriers[name].value.value:.4f} (tolerated"
                    f" {seed.barriers[name].tolerance:.4f})"
                    for seed in seeds
                ),
            ]
            for name in AVERAGES
        ],
    )
    stage = phantom_moft.recipe().stages[0]
    shares = ", ".join(percent(seed.share) for seed in seeds)
    spent = np.mean([value for seed in seeds for value in seed.seconds.values()])
    summary = (
        "From one checkpoint after deep alignment for each seed, `phantom_moft` trains the"
        f" instruction stage ({stage.steps} steps of {stage.batch} dialogues at"
        f" {stage.learning_rates.language:g}) once for each of {', '.join(RUNS.values())}."
        " Averages weight"
        f" both models equally. Entity tokens are {shares}% of the supervised ones (MOFT states"
        " 11.64%);"
        " runs of a seed see the same tokens in the same order, except the second seed."
        f" {spent:.0f} CPU seconds per run on average. Accuracy on all kinds of questions about"
        " held-out phantoms, seeds pooled, bootstrap intervals over images; likelihoods are"
        " means over"
        f" seeds with minimum and maximum, on {N_HELD_OUT} held-out dialogues. The intervals hold"
        " for these seeds and do not cover the variation between seeds, which the column by seed"
        " shows. Equal weights were fixed beforehand and not selected on these questions."
    )
    return "\n\n".join([summary, first, gains, by_kind, barriers])


if __name__ == "__main__":
    main()
