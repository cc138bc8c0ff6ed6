"""Quotas of groups by water-filling, and which rows they keep.

A row's order depends on its id and the seed alone: shards and arrival do not change what is kept.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

UNKNOWN = "unknown"


def stable_hash(key: str, seed: int) -> int:
    """A number uniform below 2^64, decided by a name and a seed."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=8).digest(), "big")


def stable_uniform(key: str, seed: int) -> float:
    """A number uniform in [0, 1), decided by a name and a seed."""
    return (stable_hash(key, seed) >> 11) / float(1 << 53)


def allocate_quotas(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Quotas that sum to `total` at most: small groups stay complete, large ones share the rest."""
    quotas: dict[str, int] = {}
    remaining = total
    ordered = sorted(sizes.items(), key=lambda entry: (entry[1], entry[0]))
    for index, (name, size) in enumerate(ordered):
        quotas[name] = min(size, remaining // (len(sizes) - index))
        remaining -= quotas[name]
    return quotas


def group_rows(groups: Iterable[str]) -> dict[str, list[int]]:
    """The rows of each group."""
    rows_by_group: defaultdict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        rows_by_group[group].append(row)
    return dict(rows_by_group)


def group_sizes(rows_by_group: Mapping[str, Sequence[int]]) -> dict[str, int]:
    return {group: len(rows) for group, rows in rows_by_group.items()}


def rows_over_quota(
    rows_by_group: Mapping[str, Sequence[int]],
    quotas: Mapping[str, int],
    ids: Sequence[str],
    seed: int,
) -> list[tuple[str, int]]:
    """The rows above their group's quota as (group, row), by row; without a quota all are kept."""
    over_quota: list[tuple[str, int]] = []
    for group, members in rows_by_group.items():
        if len(members) > quotas.get(group, len(members)):
            ordered = sorted(members, key=lambda row: (stable_hash(ids[row], seed), ids[row]))
            over_quota += [(group, row) for row in ordered[quotas[group] :]]
    return sorted(over_quota, key=lambda pair: pair[1])
