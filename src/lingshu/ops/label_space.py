"""The labels of a data set: every value that a facet takes within each source, noted on its
samples.

What vqa_template takes its wrong options from: the other labels of the same source.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING

from lingshu.core.step_types import Decision, Pixels, Signature, TableStep
from lingshu.core.types import Drop, Sample
from lingshu.ops._sample_fields import require

if TYPE_CHECKING:
    import pyarrow as pa

LABELS_KEY = "labels"


def step(*, facet: str = "label", min_labels: int = 2) -> TableStep:
    """Note the labels of a sample's source on it, as a JSON list in `meta.extra["labels"]`.

    Args:
        facet: facet of the samples that holds the label.
        min_labels: samples of a source with fewer labels are dropped: nothing could be asked.

    Drops: no_label, few_labels.
    """
    require(min_labels >= 1, f"label_space: min_labels is {min_labels}; it must be at least 1.")

    def sign(sample: Sample, _: Pixels) -> Signature:
        return {"label": sample.meta.facet(facet), "corpus": sample.meta.source}

    def decide(table: pa.Table) -> Decision:
        rows = list(
            zip(*(table[name].to_pylist() for name in ("id", "label", "corpus")), strict=True)
        )
        labels_by_source: dict[str | None, set[str]] = defaultdict(set)
        for _, label, source in rows:
            if label:
                labels_by_source[source].add(label)
        labels_json = {
            source: json.dumps(sorted(labels), ensure_ascii=False)
            for source, labels in labels_by_source.items()
        }
        drops: dict[int, Drop] = {}
        notes: dict[int, dict[str, str]] = {}
        for row, (name, label, source) in enumerate(rows):
            if not label:
                drops[row] = Drop(name, "no_label", f"it has no {facet}")
            elif len(labels_by_source[source]) < min_labels:
                drops[row] = Drop(
                    name, "few_labels", f"its source has {len(labels_by_source[source])}"
                )
            else:
                notes[row] = {LABELS_KEY: labels_json[source]}
        return Decision(
            drops,
            notes,
            {
                f"labels of {source}": len(labels)
                for source, labels in sorted(labels_by_source.items(), key=str)
            },
        )

    return TableStep(sign, decide)
