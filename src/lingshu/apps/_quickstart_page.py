"""The quickstart's result as summary.json and as one self-contained page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lingshu.apps import _quickstart_moft, _quickstart_rl
from lingshu.apps._quickstart_moft import Fused
from lingshu.apps._quickstart_rl import Reinforced
from lingshu.core.files import read_json, write_text
from lingshu.core.nouns import Image
from lingshu.evaluate import page
from lingshu.evaluate.page import Bar, Figure, Series
from lingshu.evaluate.report import DISCLAIMER, percent, summarise
from lingshu.evaluate.statistics import Interval, bootstrap, or_wilson
from lingshu.imaging.read import image_bytes
from lingshu.sources.phantom import KINDS, MAIN_KINDS
from lingshu.train.config import TrainConfig
from lingshu.train.log import SUMMARY, read_log

# the others are shown with their lesion question
SHOWN_KIND = {"x-ray": "report", "ct": "count", "mri": "open"}


@dataclass(frozen=True)
class Outcome:
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
    rl: Reinforced
    moft: Fused
    parameters: int
    seed: int
    wall_s: float
    peak_rss_mb: float
    checkpoint: str


def outcome(
    out: Path,
    config: TrainConfig,
    trained: Sequence[Mapping[str, Any]],
    untrained: Sequence[Mapping[str, Any]],
    rl: Reinforced,
    moft: Fused,
    *,
    wall_s: float,
    peak_rss_mb: float,
) -> Outcome:
    """Gather the numbers of a finished run."""
    untrained_by = {kind: _share(untrained, kind) for kind in MAIN_KINDS}
    majority_by = {kind: majority(trained, kind) for kind in KINDS}
    checkpoint = out / "train" / "checkpoint"
    return Outcome(
        overall=mean_of_kinds(trained, MAIN_KINDS),
        by_question={
            kind: summarise([r for r in trained if r["kind"] == kind]).accuracy for kind in KINDS
        },
        untrained=sum(untrained_by.values()) / len(untrained_by),
        untrained_by=untrained_by,
        majority=sum(majority_by[kind] for kind in MAIN_KINDS) / len(MAIN_KINDS),
        majority_by=majority_by,
        stages=read_json(out / "train" / SUMMARY)["stages"],
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
    from lingshu.weights.headers import read_headers

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
    golds = Counter(row["gold"][0] for row in rows if row["kind"] == kind)
    return max(golds.values()) / sum(golds.values()) if golds else 0.0


def mean_of_kinds(rows: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> Interval:
    """The unweighted mean of the kinds' accuracies, its interval by drawing whole images."""
    chosen = [row for row in rows if row["kind"] in kinds]
    kind = np.array([kinds.index(row["kind"]) for row in chosen])
    value = np.array([row["value"] or 0.0 for row in chosen])

    def mean(places: Any) -> float | None:
        sizes = np.bincount(kind[places], minlength=len(kinds))
        sums = np.bincount(kind[places], weights=value[places], minlength=len(kinds))
        return None if (sizes == 0).any() else float(np.mean(sums / sizes))

    images = [row["group"] for row in chosen]
    return or_wilson(bootstrap(mean, images), len(set(images)))


def as_json(result: Outcome) -> dict[str, Any]:
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
        "rl": _quickstart_rl.as_json(result.rl),
        "moft": _quickstart_moft.as_json(result.moft),
        "seed": result.seed,
        "wall_s": result.wall_s,
        "peak_rss_mb": result.peak_rss_mb,
        "checkpoint": result.checkpoint,
    }


def write_page(path: Path, result: Outcome, shown: Sequence[tuple[Path, Image, str]]) -> None:
    """Write report.html: curves, accuracy by kind of question with intervals, and what the model
    says to some images.
    """
    lead = (
        f"A Qwen2.5-VL of {result.parameters / 1e6:.1f} M parameters, trained from random weights"
        f" on drawn phantoms (seed {result.seed}) in {result.wall_s:.0f} s with"
        f" {result.peak_rss_mb:.0f} MB of memory. {DISCLAIMER}"
    )
    further = [_quickstart_rl.section(result.rl), _quickstart_moft.section(result.moft)]
    sections = [
        _result(result),
        _questions(result),
        _samples(result, shown),
        _learning(result),
        *further,
    ]
    write_text(path, page.page("lingshu quickstart", sections, lead=lead))


def _result(result: Outcome) -> str:
    overall = result.overall
    row = [
        ["trained", percent(overall.value), f"{percent(overall.low)} to {percent(overall.high)}"],
        ["untrained", percent(result.untrained), "-"],
        ["majority answer", percent(result.majority), "-"],
    ]
    told = (
        "Accuracy on held-out phantoms, the unweighted mean of the modality, lesion, side and size"
        f" questions. The interval is a bootstrap over images ({overall.n} questions). The majority"
        " answer is the commonest right answer of each kind."
    )
    return page.section(
        "Result", page.paragraph(told), page.table(["model", "accuracy (%)", "95% interval"], row)
    )


def _questions(result: Outcome) -> str:
    bars = [
        Bar(kind, i.value, i.low, i.high, f"n = {i.n}") for kind, i in result.by_question.items()
    ]
    rows = []
    for kind, interval in result.by_question.items():
        before, common = result.untrained_by.get(kind), result.majority_by.get(kind)
        span = f"{percent(interval.low)} to {percent(interval.high)}"
        rows.append(
            [kind, percent(interval.value), span, str(interval.n), percent(before), percent(common)]
        )
    told = (
        "Wilson intervals. Choice asks for the letter of one of four modalities, open and report"
        " for a whole phrase that must match word for word; these harder kinds are given as they"
        " come out and are not part of the overall accuracy."
    )
    header = ["question", "accuracy (%)", "95% interval", "n", "untrained (%)", "majority (%)"]
    return page.section(
        "Accuracy by kind of question",
        page.paragraph(told),
        page.interval_plot(bars),
        page.table(header, rows),
    )


def _learning(result: Outcome) -> str:
    parts = []
    for stage in result.stages:
        points = [
            (float(row["step"]), float(row["loss"]))
            for row in result.log
            if row["stage"] == stage["name"]
        ]
        parts += [
            page.subtitle(f"{stage['name']}: {stage['steps']} steps, {stage['seconds']:.0f} s"),
            page.line_plot(
                [Series("loss per supervised token", points)], x_label="step", y_label="loss"
            ),
        ]
    told = (
        "Base teaches the random language model its words, without images. Shallow alignment trains"
        " vision and projector while language is frozen, deep alignment trains everything on"
        " captions, instruction tuning on dialogues."
    )
    return page.section("Learning", page.paragraph(told), *parts)


def _samples(result: Outcome, shown: Sequence[tuple[Path, Image, str]]) -> str:
    by_id = {row["id"]: row for row in result.rows}
    figures = []
    for path, image, group in shown:
        row = by_id.get(f"{group}-{SHOWN_KIND.get(path.stem, 'lesion')}")
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
    told = "The first held-out phantom of each modality, not picked by its outcome."
    return page.section("What it says", page.paragraph(told), page.figure_grid(figures))
