"""The labels of a data set: every value that a facet takes within each source, noted on its
samples.

vqa_template takes its wrong options from them: the other labels of the same source.
"""

from __future__ import annotations

import json
from collections import defaultdict

import pyarrow as pa

from lingshu.core.step_types import Decision, Pixels, Signature, TableStep
from lingshu.core.types import Drop, Sample
from lingshu.ops._sample_fields import check_minimum

LABELS_KEY = "labels"


def step(*, facet: str = "label", min_labels: int = 2) -> TableStep:
    """Note the labels of a sample's source on it, as a JSON list in `meta.extra["labels"]`.

    Args:
        facet: facet of the samples that holds the label.
        min_labels: samples of a source with fewer labels are dropped: there is nothing to ask.

    Drops: no_label, few_labels.
    """
    check_minimum("label_space", 1, min_labels=min_labels)

    def sign(sample: Sample, _: Pixels) -> Signature:
        return {"label": sample.meta.facet(facet), "corpus": sample.meta.source}

    def decide(table: pa.Table) -> Decision:
        ids, labels, sources = (table[name].to_pylist() for name in ("id", "label", "corpus"))
        labels_by_source: defaultdict[str | None, set[str]] = defaultdict(set)
        for label, source in zip(labels, sources, strict=True):
            if label:
                labels_by_source[source].add(label)
        notes_by_source = {
            source: {LABELS_KEY: json.dumps(sorted(names), ensure_ascii=False)}
            for source, names in labels_by_source.items()
        }
        drops: dict[int, Drop] = {}
        notes: dict[int, dict[str, str]] = {}
        for row, (name, label, source) in enumerate(zip(ids, labels, sources, strict=True)):
            n_labels = len(labels_by_source[source])
            if not label:
                drops[row] = Drop(name, "no_label", f"it has no {facet}")
            elif n_labels < min_labels:
                drops[row] = Drop(name, "few_labels", f"its source has {n_labels}")
            else:
                notes[row] = notes_by_source[source]
        stats = {
            f"labels of {source}": len(names)
            for source, names in sorted(labels_by_source.items(), key=str)
            if names
        }
        return Decision(drops, notes, stats)

    return TableStep(sign, decide)
