"""The quickstart's result as summary.json and as one self-contained page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lingshu.core.files import read_json, write_text
from lingshu.core.types import Image
from lingshu.evaluate.report import html
from lingshu.evaluate.report.build import DISCLAIMER, percent, summarize
from lingshu.evaluate.report.html import Bar, Figure, Series
from lingshu.evaluate.statistics import Interval, bootstrap, wilson_fallback
from lingshu.imaging.read import image_bytes
from lingshu.quickstart import moft as moft_module
from lingshu.quickstart import reinforcement
from lingshu.quickstart.moft import MoftResult
from lingshu.quickstart.reinforcement import RlResult
from lingshu.sources.phantom import KINDS, MAIN_KINDS
from lingshu.train.config import TrainConfig
from lingshu.train.log import SUMMARY_FILE, read_log

# the others are shown with their lesion question
EXAMPLE_KIND = {"x-ray": "report", "ct": "count", "mri": "open"}


@dataclass(frozen=True)
class QuickstartResult:
    """What a quickstart came to.

    `overall` is the unweighted mean over the four main kinds of question.
    """

    overall: Interval
    by_question: Mapping[str, Interval]
    untrained: float
    untrained_by: Mapping[str, float]
    majority: float
    majority_by: Mapping[str, float]
    stages: Sequence[Mapping[str, Any]]
    log: Sequence[Mapping[str, Any]]
    rows: Sequence[Mapping[str, Any]]
    rl: RlResult
    moft: MoftResult
    parameters: int
    seed: int
    wall_s: float
    peak_rss_mb: float
    checkpoint: str


def collect_result(
    out: Path,
    config: TrainConfig,
    trained: Sequence[Mapping[str, Any]],
    untrained: Sequence[Mapping[str, Any]],
    rl: RlResult,
    moft: MoftResult,
    *,
    wall_s: float,
    peak_rss_mb: float,
) -> QuickstartResult:
    """Gather the numbers of a finished run."""
    untrained_by = {kind: _share(untrained, kind) for kind in MAIN_KINDS}
    majority_by = {kind: majority(trained, kind) for kind in KINDS}
    checkpoint = out / "train" / "checkpoint"
    return QuickstartResult(
        overall=mean_of_kinds(trained, MAIN_KINDS),
        by_question={
            kind: summarize([r for r in trained if r["kind"] == kind]).accuracy for kind in KINDS
        },
        untrained=sum(untrained_by.values()) / len(untrained_by),
        untrained_by=untrained_by,
        majority=sum(majority_by[kind] for kind in MAIN_KINDS) / len(MAIN_KINDS),
        majority_by=majority_by,
        stages=read_json(out / "train" / SUMMARY_FILE)["stages"],
        log=read_log(out / "train"),
        rows=trained,
        rl=rl,
        moft=moft,
        parameters=count_parameters(checkpoint),
        seed=config.seed,
        wall_s=round(wall_s, 1),
        peak_rss_mb=peak_rss_mb,
        checkpoint=str(checkpoint),
    )


def count_parameters(checkpoint: Path) -> int:
    from lingshu.weights.safetensors_header import read_headers

    return sum(
        int(np.prod(tensor.shape))
        for path in checkpoint.glob("*.safetensors")
        for tensor in read_headers(path).values()
    )


def _share(rows: Sequence[Mapping[str, Any]], kind: str) -> float:
    values = [row["value"] or 0.0 for row in rows if row["kind"] == kind]
    return sum(values) / max(1, len(values))


def majority(rows: Sequence[Mapping[str, Any]], kind: str) -> float:
    """What always giving the commonest gold answer of this kind would score on these very rows."""
    gold_counts = Counter(row["gold"][0] for row in rows if row["kind"] == kind)
    return max(gold_counts.values()) / sum(gold_counts.values()) if gold_counts else 0.0


def mean_of_kinds(rows: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> Interval:
    """The unweighted mean of the kinds' accuracies, its interval by drawing whole images."""
    selected = [row for row in rows if row["kind"] in kinds]
    kind = np.array([kinds.index(row["kind"]) for row in selected])
    value = np.array([row["value"] or 0.0 for row in selected])

    def mean(indices: Any) -> float | None:
        sizes = np.bincount(kind[indices], minlength=len(kinds))
        sums = np.bincount(kind[indices], weights=value[indices], minlength=len(kinds))
        return None if (sizes == 0).any() else float(np.mean(sums / sizes))

    images = [row["group"] for row in selected]
    return wilson_fallback(bootstrap(mean, images), len(set(images)))


def as_json(result: QuickstartResult) -> dict[str, Any]:
    """summary.json; shares between 0 and 1, `overall` over the four main kinds."""
    return {
        "accuracy": {
            "overall": result.overall._asdict(),
            "by_question": {
                kind: interval._asdict() for kind, interval in result.by_question.items()
            },
        },
        "untrained_accuracy": result.untrained,
        "majority_accuracy": result.majority,
        "stages": [
            {key: stage[key] for key in ("name", "steps", "seconds", "first_loss", "last_loss")}
            for stage in result.stages
        ],
        "rl": reinforcement.as_json(result.rl),
        "moft": moft_module.as_json(result.moft),
        "seed": result.seed,
        "wall_s": result.wall_s,
        "peak_rss_mb": result.peak_rss_mb,
        "checkpoint": result.checkpoint,
    }


def write_page(
    path: Path, result: QuickstartResult, examples: Sequence[tuple[Path, Image, str]]
) -> None:
    """Write report.html: curves, accuracy by kind of question with intervals, and what the model
    says to some images.
    """
    lead = (
        f"A Qwen2.5-VL of {result.parameters / 1e6:.1f} M parameters, trained from random weights"
        f" on drawn phantoms (seed {result.seed}) in {result.wall_s:.0f} s with"
        f" {result.peak_rss_mb:.0f} MB of memory. {DISCLAIMER}"
    )
    extra_sections = [reinforcement.section(result.rl), moft_module.section(result.moft)]
    sections = [
        _result(result),
        _questions(result),
        _samples(result, examples),
        _learning(result),
        *extra_sections,
    ]
    write_text(path, html.page("lingshu quickstart", sections, lead=lead))


def _result(result: QuickstartResult) -> str:
    overall = result.overall
    row = [
        ["trained", percent(overall.value), f"{percent(overall.low)} to {percent(overall.high)}"],
        ["untrained", percent(result.untrained), "-"],
        ["majority answer", percent(result.majority), "-"],
    ]
    explanation = (
        "Accuracy on held-out phantoms, the unweighted mean of the modality, lesion, side and size"
        f" questions. The interval is a bootstrap over images ({overall.n} questions). The majority"
        " answer is the commonest right answer of each kind."
    )
    return html.section(
        "Result",
        html.paragraph(explanation),
        html.table(["model", "accuracy (%)", "95% interval"], row),
    )


def _questions(result: QuickstartResult) -> str:
    bars = [
        Bar(kind, i.value, i.low, i.high, f"n = {i.n}") for kind, i in result.by_question.items()
    ]
    rows = []
    for kind, interval in result.by_question.items():
        untrained_accuracy, majority_accuracy = (
            result.untrained_by.get(kind),
            result.majority_by.get(kind),
        )
        span = f"{percent(interval.low)} to {percent(interval.high)}"
        rows.append(
            [
                kind,
                percent(interval.value),
                span,
                str(interval.n),
                percent(untrained_accuracy),
                percent(majority_accuracy),
            ]
        )
    explanation = (
        "Wilson intervals. Choice asks for the letter of one of four modalities, open and report"
        " for a whole phrase that must match word for word; these harder kinds are given as they"
        " come out and are not part of the overall accuracy."
    )
    header = ["question", "accuracy (%)", "95% interval", "n", "untrained (%)", "majority (%)"]
    return html.section(
        "Accuracy by kind of question",
        html.paragraph(explanation),
        html.interval_plot(bars),
        html.table(header, rows),
    )


def _learning(result: QuickstartResult) -> str:
    parts = []
    for stage in result.stages:
        points = [
            (float(row["step"]), float(row["loss"]))
            for row in result.log
            if row["stage"] == stage["name"]
        ]
        parts += [
            html.heading(f"{stage['name']}: {stage['steps']} steps, {stage['seconds']:.0f} s"),
            html.line_plot(
                [Series("loss per supervised token", points)], x_label="step", y_label="loss"
            ),
        ]
    explanation = (
        "Base teaches the random language model its words, without images. Shallow alignment trains"
        " vision and projector while language is frozen, deep alignment trains everything on"
        " captions, instruction tuning on dialogues."
    )
    return html.section("Learning", html.paragraph(explanation), *parts)


def _samples(result: QuickstartResult, examples: Sequence[tuple[Path, Image, str]]) -> str:
    by_id = {row["id"]: row for row in result.rows}
    figures = []
    for path, image, group in examples:
        row = by_id.get(f"{group}-{EXAMPLE_KIND.get(path.stem, 'lesion')}")
        if row is None:
            continue
        figures.append(
            Figure(
                image_bytes(image),
                row["question"],
                row["reply"] or "(none)",
                row["gold"][0],
                row["value"] == 1.0,
            )
        )
    explanation = "The first held-out phantom of each modality, not picked by its outcome."
    return html.section("What it says", html.paragraph(explanation), html.figure_grid(figures))
