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
from lingshu.evaluate.report.render import DISCLAIMER, Figure, render_page
from lingshu.evaluate.statistics import Interval, bootstrap, wilson_fallback
from lingshu.evaluate.summary import summarize
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
    from lingshu.weights.safetensors_io import read_headers

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
        f" on synthetic phantoms (seed {result.seed}) in {result.wall_s:.0f} s with"
        f" {result.peak_rss_mb:.0f} MB of memory. {DISCLAIMER}"
    )
    page = render_page(
        "quickstart/templates/report.html.j2",
        title="lingshu quickstart",
        lead=lead,
        result=result,
        rl=result.rl,
        moft=result.moft,
        figures=_figures(result, examples),
    )
    write_text(path, page)


def _figures(result: QuickstartResult, examples: Sequence[tuple[Path, Image, str]]) -> list[Figure]:
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
    return figures
