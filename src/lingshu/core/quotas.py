"""How many of each group stay, and which: quotas by water-filling, rows in an order drawn from
their ids.

The order of a row depends on its id and the seed alone, so that what stays depends neither on
shards nor on arrival.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

UNKNOWN = "unknown"


def stable_hash(key: str, seed: int) -> int:
    """A number drawn from a name and a seed, uniform below 2^64."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=8).digest(), "big")


def stable_uniform(key: str, seed: int) -> float:
    """The same as a number from 0 to 1, 1 excluded."""
    return (stable_hash(key, seed) >> 11) / float(1 << 53)


def allocate_quotas(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Quotas that sum to `total`, or to all there is, as even as the sizes allow: small groups stay
    whole, large ones share the rest.
    """
    quotas: dict[str, int] = {}
    remaining = total
    for index, (name, size) in enumerate(
        sorted(sizes.items(), key=lambda item: (item[1], item[0]))
    ):
        quotas[name] = min(size, remaining // (len(sizes) - index))
        remaining -= quotas[name]
    return quotas


def group_rows(groups: Iterable[str]) -> dict[str, list[int]]:
    """Group -> its rows."""
    rows_by_group: defaultdict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        rows_by_group[group].append(row)
    return dict(rows_by_group)


def rows_over_quota(
    rows_by_group: Mapping[str, Sequence[int]],
    quotas: Mapping[str, int],
    ids: Sequence[str],
    seed: int,
) -> list[tuple[str, int]]:
    """The rows that exceed their group's quota, as (group, row), in order of row; a group without a
    quota loses nothing.
    """
    over_quota = [
        (group, row)
        for group, members in rows_by_group.items()
        if len(members) > quotas.get(group, len(members))
        for row in sorted(members, key=lambda r: (stable_hash(ids[r], seed), ids[r]))[
            quotas[group] :
        ]
    ]
    return sorted(over_quota, key=lambda pair: pair[1])
