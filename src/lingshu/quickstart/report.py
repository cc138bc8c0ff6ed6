"""The quickstart's result as summary.json and as one self-contained page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from lingshu.core.files import read_json, write_text
from lingshu.core.types import Image
from lingshu.evaluate.report.render import DISCLAIMER, Figure, render_page
from lingshu.evaluate.statistics import Interval, bootstrap, wilson_fallback
from lingshu.evaluate.summary import summarize
from lingshu.imaging.read import image_bytes
from lingshu.quickstart.moft import MoftResult
from lingshu.quickstart.reinforcement import RlResult
from lingshu.sources.phantom import KINDS, MAIN_KINDS
from lingshu.train.log import SUMMARY_FILE, read_log

Rows = Sequence[Mapping[str, Any]]
# The others are shown with their lesion question.
EXAMPLE_KIND = {"x-ray": "report", "ct": "count", "mri": "open"}


@dataclass(frozen=True)
class QuickstartResult:
    """The numbers of a finished quickstart: rows of scores of the trained and the untrained model,
    the training log, and the results of the later parts.
    """

    rows: Rows
    untrained_rows: Rows
    stages: Rows
    log: Rows
    rl: RlResult
    moft: MoftResult
    checkpoint: Path
    seed: int
    wall_s: float
    peak_rss_mb: float

    @cached_property
    def overall(self) -> Interval:
        """The unweighted mean over the four main kinds of question."""
        return mean_of_kinds(self.rows, MAIN_KINDS)

    @cached_property
    def by_question(self) -> dict[str, Interval]:
        return {
            kind: summarize([row for row in self.rows if row["kind"] == kind]).accuracy
            for kind in KINDS
        }

    @cached_property
    def untrained_by(self) -> dict[str, float]:
        return {kind: _mean_value(self.untrained_rows, kind) for kind in MAIN_KINDS}

    @cached_property
    def untrained(self) -> float:
        return sum(self.untrained_by.values()) / len(MAIN_KINDS)

    @cached_property
    def majority_by(self) -> dict[str, float]:
        return {kind: majority(self.rows, kind) for kind in KINDS}

    @cached_property
    def majority(self) -> float:
        return sum(self.majority_by[kind] for kind in MAIN_KINDS) / len(MAIN_KINDS)

    def as_json(self) -> dict[str, Any]:
        """summary.json; shares between 0 and 1, `overall` over the four main kinds."""
        by_question = {kind: value._asdict() for kind, value in self.by_question.items()}
        keys = ("name", "steps", "seconds", "first_loss", "last_loss")
        return {
            "accuracy": {"overall": self.overall._asdict(), "by_question": by_question},
            "untrained_accuracy": self.untrained,
            "majority_accuracy": self.majority,
            "stages": [{key: stage[key] for key in keys} for stage in self.stages],
            "rl": self.rl.as_json(),
            "moft": self.moft.as_json(),
            "seed": self.seed,
            "wall_s": self.wall_s,
            "peak_rss_mb": self.peak_rss_mb,
            "checkpoint": str(self.checkpoint),
        }


def training_log(train: Path) -> tuple[Rows, Rows]:
    """The stages and the log of a training run."""
    return read_json(train / SUMMARY_FILE)["stages"], read_log(train)


def _mean_value(rows: Rows, kind: str) -> float:
    values = [row["value"] or 0.0 for row in rows if row["kind"] == kind]
    return sum(values) / max(1, len(values))


def majority(rows: Rows, kind: str) -> float:
    """The accuracy of always giving the most common gold answer of this kind on these rows."""
    gold_counts = Counter(row["gold"][0] for row in rows if row["kind"] == kind)
    return max(gold_counts.values()) / sum(gold_counts.values()) if gold_counts else 0.0


def mean_of_kinds(rows: Rows, kinds: Sequence[str]) -> Interval:
    """The unweighted mean of the kinds' accuracies, with a bootstrap interval over whole images."""
    selected = [row for row in rows if row["kind"] in kinds]
    kind = np.array([kinds.index(row["kind"]) for row in selected])
    value = np.array([row["value"] or 0.0 for row in selected])

    def mean(indices: Any) -> float | None:
        sizes = np.bincount(kind[indices], minlength=len(kinds))
        sums = np.bincount(kind[indices], weights=value[indices], minlength=len(kinds))
        return None if (sizes == 0).any() else float(np.mean(sums / sizes))

    images = [row["group"] for row in selected]
    return wilson_fallback(bootstrap(mean, images), len(set(images)))


def _count_parameters(checkpoint: Path) -> int:
    from lingshu.weights.safetensors_io import read_headers

    tensors = (
        tensor
        for path in checkpoint.glob("*.safetensors")
        for tensor in read_headers(path).values()
    )
    return sum(int(np.prod(tensor.shape)) for tensor in tensors)


def write_page(
    path: Path, result: QuickstartResult, examples: Sequence[tuple[Path, Image, str]]
) -> None:
    """Write report.html; `examples` are image files with their samples."""
    parameters = _count_parameters(result.checkpoint)
    lead = (
        f"A Qwen2.5-VL of {parameters / 1e6:.1f} M parameters, trained from random weights on"
        f" synthetic phantoms (seed {result.seed}) in {result.wall_s:.0f} s with"
        f" {result.peak_rss_mb:.0f} MB of memory. {DISCLAIMER}"
    )
    by_id = {row["id"]: row for row in result.rows}
    figures = []
    for file, image, group in examples:
        row = by_id.get(f"{group}-{EXAMPLE_KIND.get(file.stem, 'lesion')}")
        if row is not None:
            reply, is_right = row["reply"] or "(none)", row["value"] == 1.0
            figures.append(
                Figure(image_bytes(image), row["question"], reply, row["gold"][0], is_right)
            )
    page = render_page(
        "quickstart/templates/report.html.j2",
        title="lingshu quickstart",
        lead=lead,
        result=result,
        rl=result.rl,
        moft=result.moft,
        figures=figures,
    )
    write_text(path, page)
