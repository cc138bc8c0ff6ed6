"""Sets of duplicates in a signature table: which row of each stays.

The runner adds the columns `source` and `rank`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from lingshu.ops._keepers import keepers

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

Value = TypeVar("Value")


def column(table: pa.Table, name: str, missing: Value) -> list[Value]:
    """A column's values; `missing` for every row where the table has no such column."""
    return table[name].to_pylist() if name in table.column_names else [missing] * table.num_rows


def split_groups(
    groups: Sequence[int] | NDArray[np.int64], parts: Sequence[Hashable]
) -> NDArray[np.int64]:
    """Each group taken apart by a further property of its rows; for each row the smallest row of
    its part.
    """
    first: dict[tuple[int, Hashable], int] = {}
    found = [
        first.setdefault((int(group), part), row)
        for row, (group, part) in enumerate(zip(groups, parts, strict=True))
    ]
    return np.array(found, np.int64)


class Kept:
    """For each row of a table the row that is kept in its place, itself until it is found to be a
    duplicate.
    """

    def __init__(self, rows: int) -> None:
        self.keeper: NDArray[np.int64] = np.arange(rows)

    def add(self, table: pa.Table, rows: Sequence[int], groups: NDArray[np.int64]) -> None:
        """Keep one of each group among some rows: largest `area`, longest `caption`, best `rank`,
        least `id`.
        """
        if not rows:
            return
        part = table.take(list(rows))
        area = [value or 0 for value in part["area"].to_pylist()]
        captions = [value or "" for value in part["caption"].to_pylist()]
        chosen = keepers(
            groups,
            area=area,
            captions=captions,
            rank=column(part, "rank", 0),
            ids=part["id"].to_pylist(),
        )
        self.keeper[list(rows)] = np.asarray(rows)[chosen]
