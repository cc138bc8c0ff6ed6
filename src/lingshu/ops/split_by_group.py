"""Split into train and validation so that no patient, study or image is on both sides.

Samples that share `meta.group` or an image (equal files) belong together, also through a third one,
and go to one side as a whole. The side is decided by a hash of their names and the seed, not
counted out: adding data leaves the others where they were, unless it joins two groups. The share is
therefore met in expectation; with few groups try another seed if the card's counts do not suit.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pyarrow as pa

from lingshu.core.quotas import stable_uniform
from lingshu.core.step_types import Decision, Pixels, Signature, TableStep
from lingshu.core.types import Drop, Sample
from lingshu.ops._sample_fields import check_choice, facet_value, require
from lingshu.search.buckets import connected_components


def step(
    *,
    validation: float = 0.05,
    by: str = "group",
    images: bool = True,
    keep: str = "both",
    seed: int = 0,
) -> TableStep:
    """Name each sample's side in `meta.extra["split"]`, train or validation.

    Args:
        validation: share of the groups that is held out, above 0 and below 1.
        by: the facet that names the patient or study.
        images: whether samples that share an image file belong together too.
        keep: `both`, or the one side to keep: `train` or `validation`; the other is dropped. Two
            runs that keep a side each share no patient if all else is equal: sources, seed,
            validation, and the key for hashing ids.
        seed: selects the groups that are held out.

    Drops: held_out, not_held_out.
    """
    require(
        0 < validation < 1,
        f"split_by_group: validation is {validation}; it must be between 0 and 1.",
    )
    check_choice("split_by_group", "keep", keep, ("both", "train", "validation"))

    def sign(sample: Sample, pixels: Pixels) -> Signature:
        group = facet_value(sample, by)
        names = [] if group is None else [f"group {group}"]
        for image in sample.images if images else ():
            names.append(f"image {hashlib.sha256(pixels.bytes(image)).hexdigest()[:32]}")
        return {"names": json.dumps(names or [f"id {sample.id}"])}

    def decide(table: pa.Table) -> Decision:
        ids, names = table["id"].to_pylist(), map(json.loads, table["names"].to_pylist())
        splits = _assign_splits(list(names), validation, seed)
        reason = "held_out" if keep == "train" else "not_held_out"
        drops = {
            row: Drop(ids[row], reason)
            for row, split in enumerate(splits)
            if keep not in ("both", split)
        }
        notes = {row: {"split": split} for row, split in enumerate(splits) if row not in drops}
        stats = {side: splits.count(side) for side in ("train", "validation")}
        return Decision(drops, notes, stats)

    return TableStep(sign, decide, split_sides=keep != "both")


def _assign_splits(names_by_row: list[list[str]], validation: float, seed: int) -> list[str]:
    # The least of the names that belong together decides, whatever the order of the rows.
    names = sorted({name for row in names_by_row for name in row})
    index = {name: i for i, name in enumerate(names)}
    pairs = [(index[first], index[other]) for first, *others in names_by_row for other in others]
    left, right = np.array(pairs, np.int64).reshape(-1, 2).T
    smallest = connected_components(left, right, n_rows=len(names)).tolist()
    shares = (stable_uniform(names[smallest[index[row[0]]]], seed) for row in names_by_row)
    return ["validation" if share < validation else "train" for share in shares]
