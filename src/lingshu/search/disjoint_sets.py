"""Sets of duplicates in a signature table: which row of each stays.

The runner adds the columns `source` and `rank`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from lingshu.search.clusters import representatives

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

ValueT = TypeVar("ValueT")


def column(table: pa.Table, name: str, default: ValueT) -> list[ValueT]:
    """A column's values; `missing` for every row where the table has no such column."""
    return table[name].to_pylist() if name in table.column_names else [default] * table.num_rows


def split_groups(
    groups: Sequence[int] | NDArray[np.int64], keys: Sequence[Hashable]
) -> NDArray[np.int64]:
    """Each group taken apart by a further property of its rows; for each row the smallest row of
    its part.
    """
    first: dict[tuple[int, Hashable], int] = {}
    first_rows = [
        first.setdefault((int(group), key), row)
        for row, (group, key) in enumerate(zip(groups, keys, strict=True))
    ]
    return np.array(first_rows, np.int64)


class DuplicateMap:
    """For each row of a table the row that is kept in its place, itself until it is found to be a
    duplicate.
    """

    def __init__(self, n_rows: int) -> None:
        self.representative: NDArray[np.int64] = np.arange(n_rows)

    def add(self, table: pa.Table, rows: Sequence[int], groups: NDArray[np.int64]) -> None:
        """Keep one of each group among some rows: largest `area`, longest `caption`, best `rank`,
        least `id`.
        """
        if not rows:
            return
        selected = table.take(list(rows))
        area = [value or 0 for value in selected["area"].to_pylist()]
        captions = [value or "" for value in selected["caption"].to_pylist()]
        selected_rows = representatives(
            groups,
            area=area,
            captions=captions,
            rank=column(selected, "rank", 0),
            ids=selected["id"].to_pylist(),
        )
        self.representative[list(rows)] = np.asarray(rows)[selected_rows]
