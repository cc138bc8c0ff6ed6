"""Balance: no group of samples (by modality, source, format, kind, ...) larger than its quota.

The paper balances its long captions over modalities and its RL pool over modality and query format
(sections 2.2.1 and 3.1.4) without numbers, so nothing is cut unless a limit is given. With several
facets a group is their combination. The samples that stay are chosen by their ids and the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import pyarrow as pa

from lingshu.core.quotas import UNKNOWN, allocate_quotas, group_rows, group_sizes, rows_over_quota
from lingshu.core.step_types import Decision, Pixels, Signature, TableStep
from lingshu.core.types import Drop, Sample
from lingshu.ops._sample_fields import check_minimum, facet_value, require


def step(
    *,
    by: Sequence[str] = ("modality",),
    cap: int | None = None,
    ratio: float | None = None,
    total: int | None = None,
    seed: int = 0,
) -> TableStep:
    """Keep at most a quota of samples of each group.

    Args:
        by: facets that form a group: fields of Meta, keys of its extra, or `format` (choice,
            yes_no, open, caption, report).
        cap: at most this many samples of each group.
        ratio: no group larger than this multiple of the median group; 1 or more.
        total: this many samples in all, as evenly over the groups as they allow: small groups stay
            whole.
        seed: selects the samples of a group that stay.

    Drops: over_quota. Samples without a value are the group `unknown`.
    """
    require(bool(by), "balance: by names no facet; give one, such as modality.")
    check_minimum("balance", 1, cap=cap, ratio=ratio, total=total)
    require(
        (cap, ratio, total) != (None, None, None), "balance has no limit; give cap, ratio or total."
    )

    def sign(sample: Sample, _: Pixels) -> Signature:
        return {"group": " / ".join(facet_value(sample, name) or UNKNOWN for name in by)}

    def decide(table: pa.Table) -> Decision:
        ids = table["id"].to_pylist()
        rows = group_rows(table["group"].to_pylist())
        sizes = group_sizes(rows)
        quotas = group_quotas(sizes, cap=cap, ratio=ratio, total=total)
        drops = {
            row: Drop(ids[row], "over_quota", f"{group}: {quotas[group]} of {sizes[group]} stay")
            for group, row in rows_over_quota(rows, quotas, ids, seed)
        }
        return Decision(drops, stats={f"kept of {group}": quotas[group] for group in sorted(rows)})

    return TableStep(sign, decide)


def group_quotas(
    sizes: dict[str, int], *, cap: int | None, ratio: float | None, total: int | None
) -> dict[str, int]:
    """The quota of each group; the strictest limit holds."""
    if not sizes:
        return {}
    limit = cap or max(sizes.values())
    if ratio is not None:
        limit = min(limit, max(1, int(ratio * median(sizes.values()))))
    quotas = {group: min(size, limit) for group, size in sizes.items()}
    return quotas if total is None else allocate_quotas(quotas, total)
