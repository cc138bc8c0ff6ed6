"""Mix: the composition of a training stage, by counts or shares of its groups.

`composition: lingshu_stage_3` is the paper's: medical multimodal 2.7M, medical captions 2.0M,
general multimodal 1.2M, general text 1.0M, medical text 0.173M. The numbers are the removal sizes
of its ablation (Table 10), whose sum is the 7.1M that it states; the corpus cards hold them and the
group of each corpus. Nothing is repeated: a group that is too small stays whole, and the card
states how much is missing.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from lingshu.core.quotas import UNKNOWN, group_rows, group_sizes, rows_over_quota
from lingshu.core.step_types import Decision, Pixels, Signature, TableStep
from lingshu.core.types import Drop, Sample
from lingshu.ops._sample_fields import check_choice, facet_value, require
from lingshu.sources import corpora


def step(
    *,
    by: str = "source",
    groups: Mapping[str, str] | None = None,
    counts: Mapping[str, int] | None = None,
    shares: Mapping[str, float] | None = None,
    composition: str | None = None,
    scale: float = 1.0,
    total: int | None = None,
    other_groups: str = "drop",
    seed: int = 0,
) -> TableStep:
    """Cut every group to its part of the mix.

    Args:
        by: the facet that names a sample's group; `source` is the source's name in the run.
        groups: facet value -> group, for values that are not themselves a group's name.
        counts: group -> requested samples.
        shares: group -> part of the mix (any positive numbers); needs no counts.
        composition: a composition of the corpus cards by its name, instead of groups and counts.
        scale: factor on every count: 0.01 mixes a hundredth.
        total: samples in the mix when shares are given; None takes the most that the scarcest group
            allows.
        other_groups: what happens to samples of other groups: `drop` or `keep`.
        seed: selects the samples of a group that stay.

    Drops: over_quota, not_in_mix.
    """
    if composition is not None:
        require(
            not (groups or counts or shares),
            "mix: composition replaces groups, counts and shares; give one of them.",
        )
        preset = corpora.composition(composition)
        groups, counts = preset.groups, preset.counts
    counts, shares, group_of = dict(counts or {}), dict(shares or {}), dict(groups or {})
    require(bool(counts) != bool(shares), "mix: give either counts or shares.")
    require(scale > 0, f"mix: scale is {scale}; it must be above 0.")
    require(all(n >= 0 for n in counts.values()), f"mix: counts are {counts}; none may be below 0.")
    require(all(n > 0 for n in shares.values()), f"mix: shares are {shares}; each must be above 0.")
    check_choice("mix", "other_groups", other_groups, ("drop", "keep"))

    def sign(sample: Sample, _: Pixels) -> Signature:
        return {"group": facet_value(sample, by) or UNKNOWN}

    def decide(table: pa.Table) -> Decision:
        # A row may state a source of its own, such as an article; the composition means the run's.
        by_source = by == "source" and "source" in table.column_names
        values = map(str, table["source" if by_source else "group"].to_pylist())
        ids, row_groups = table["id"].to_pylist(), [group_of.get(value, value) for value in values]
        rows = group_rows(row_groups)
        sizes = group_sizes(rows)
        targets = {group: round(n * scale) for group, n in counts.items()}
        if shares:
            targets = _counts_from_shares(shares, sizes, total)
        drops = {
            row: Drop(ids[row], "over_quota", f"{group}: {targets[group]} of {sizes[group]} stay")
            for group, row in rows_over_quota(rows, targets, ids, seed)
        }
        if other_groups == "drop":
            drops |= {
                row: Drop(ids[row], "not_in_mix", group)
                for row, group in enumerate(row_groups)
                if group not in targets
            }
        stats: dict[str, int | float | str] = {}
        for group, n in targets.items():
            stats |= {f"requested of {group}": n, f"kept of {group}": min(n, sizes.get(group, 0))}
        return Decision(drops, stats=stats)

    return TableStep(sign, decide)


def _counts_from_shares(
    shares: dict[str, float], sizes: Mapping[str, int], total: int | None
) -> dict[str, int]:
    total_share = sum(shares.values())
    fractions = {group: share / total_share for group, share in shares.items()}
    size = total
    if size is None:
        size = min(int(sizes.get(group, 0) / fraction) for group, fraction in fractions.items())
    # Rounding up could request one sample more than a group has.
    return {group: int(fraction * size + 1e-9) for group, fraction in fractions.items()}
