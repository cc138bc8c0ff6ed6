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


def place(name: str, seed: int) -> int:
    """A number drawn from a name and a seed, uniform below 2^64."""
    return int.from_bytes(
        hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=8).digest(), "big"
    )


def fraction(name: str, seed: int) -> float:
    """The same as a number from 0 to 1, 1 excluded."""
    return (place(name, seed) >> 11) / float(1 << 53)


def fill(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Quotas that sum to `total`, or to all there is, as even as the sizes allow: small groups stay
    whole, large ones share the rest.
    """
    quotas: dict[str, int] = {}
    left = total
    for position, (name, size) in enumerate(
        sorted(sizes.items(), key=lambda item: (item[1], item[0]))
    ):
        quotas[name] = min(size, left // (len(sizes) - position))
        left -= quotas[name]
    return quotas


def rows_by(groups: Iterable[str]) -> dict[str, list[int]]:
    """Group -> its rows."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        found[group].append(row)
    return dict(found)


def beyond(
    rows: Mapping[str, Sequence[int]], quotas: Mapping[str, int], ids: Sequence[str], seed: int
) -> list[tuple[str, int]]:
    """The rows that exceed their group's quota, as (group, row), in order of row; a group without a
    quota loses nothing.
    """
    gone = [
        (group, row)
        for group, members in rows.items()
        if len(members) > quotas.get(group, len(members))
        for row in sorted(members, key=lambda r: (place(ids[r], seed), ids[r]))[quotas[group] :]
    ]
    return sorted(gone, key=lambda pair: pair[1])
