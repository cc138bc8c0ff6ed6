"""`lingshu quickstart`: train, evaluate and explain a tiny model on synthetic images, from scratch."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def quickstart(*, out: Path = Path("quickstart"), seed: int = 0) -> int:
    """Synthesize data, train a tiny model through every stage, evaluate it and explain the result.

    Args:
        out: Folder for all output. An interrupted quickstart in it resumes.
        seed: Decides the synthetic images, the initial weights and the order of samples.
    """
    from lingshu.quickstart.run import Plan, read_finished, run

    if read_finished(out, seed) is not None:
        message = f"{out} holds a finished quickstart; remove the folder to run it again"
    else:
        message = f"phantoms, training and evaluation in {out}"
    print(f"quickstart: {message}", file=sys.stderr, flush=True)
    print_summary(run(Plan(), out, seed=seed), out)
    return 0


def print_summary(summary: Mapping[str, Any], out: Path) -> None:
    """Print the numbers, the page, and the command that asks the model."""
    overall = summary["accuracy"]["overall"]
    value, low, high = (100 * overall[key] for key in ("value", "low", "high"))
    print(f"accuracy {value:.1f}% (95% interval {low:.1f} to {high:.1f}, n = {overall['n']})")
    untrained, majority = summary["untrained_accuracy"], summary["majority_accuracy"]
    print(f"untrained {100 * untrained:.1f}%, majority answer {100 * majority:.1f}%")
    before, after = (summary["rl"]["sampled"][phase] for phase in ("before", "after"))
    print(
        f"rewarded: reward of sampled replies {before['reward']:.2f} -> {after['reward']:.2f}, in"
        f" format {100 * before['format']:.0f}% -> {100 * after['format']:.0f}%"
    )
    points = summary["moft"]["points"]
    accuracy = {point["weight"]: 100 * point["accuracy"]["value"] for point in points}
    soup = 100 * summary["moft"]["soup"]["accuracy"]["value"]
    print(
        f"averaged: {accuracy[1.0]:.1f}% and {accuracy[0.0]:.1f}% apart, {accuracy[0.5]:.1f}% half"
        f" and half, a plain soup {soup:.1f}%"
    )
    print(f"page: {out / 'report.html'}")
    image = min((out / "images").glob("*.png"))
    question = "Which imaging modality is this?"
    command = ["lingshu", "ask", summary["checkpoint"], question, str(image)]
    print(f"ask it: {shlex.join(command)}")
