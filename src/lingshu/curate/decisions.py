"""Between two passes: a table step's decision over all signatures, cut back into what it says of
each shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lingshu.core.errors import InputError
from lingshu.core.step_types import Decision, TableStep
from lingshu.curate.config import StepConfig
from lingshu.curate.counts import StepCounts
from lingshu.curate.plan import build_step
from lingshu.curate.spill import read_rows, read_signatures
from lingshu.curate.worker import MAX_EXAMPLES, DroppedRow

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


@dataclass(frozen=True)
class ShardDecision:
    """What a decision says of one shard: the rows that are out, and what is noted of those that
    stay.
    """

    dropped_rows: Set[int] = frozenset()
    notes: Mapping[int, Mapping[str, str]] = field(default_factory=dict)


class DropExample(NamedTuple):
    """A dropped row as an example: why, and the sample as JSON."""

    reason: str
    detail: str
    text: str


class DecisionResult(NamedTuple):
    """A decision with its counts."""

    shards: list[ShardDecision]
    counts: StepCounts
    drops: list[DroppedRow]
    stats: Mapping[str, Any]
    examples: list[DropExample]


def decide_shards(
    step_config: StepConfig,
    shards: Sequence[Path],
    sources: Sequence[str],
    ranks: Mapping[str, int],
) -> DecisionResult:
    """Let a table step decide over the signatures of all shards.

    Raises:
        InputError: it dropped or noted a row that its table does not have.
    """
    step = build_step(step_config)
    assert isinstance(step, TableStep)
    table, locations, source_indices = _load_signatures(step_config, shards, sources, ranks)
    decision = step.decide(table) if table.num_rows else Decision({})
    invalid_row = next(
        (row for row in (*decision.drops, *decision.notes) if not 0 <= row < table.num_rows), None
    )
    if invalid_row is not None:
        raise InputError(
            f"step {step_config.name!r} decided on row {invalid_row} of {table.num_rows}; rows are counted"
            " from 0."
        )
    counts, drops = StepCounts(), []
    for source_index, count in Counter(source_indices.tolist()).items():
        counts.record_out(step_config.name, sources[int(source_index)], count)
    dropped_rows: list[set[int]] = [set() for _ in shards]
    notes: list[dict[int, Mapping[str, str]]] = [{} for _ in shards]
    examples: dict[str, list[tuple[int, int, str]]] = {}
    for row, drop in sorted(decision.drops.items()):
        shard, row_index = locations[row].tolist()
        source = sources[int(source_indices[row])]
        counts.record_out(step_config.name, source, -1)
        counts.record_drop(step_config.name, source, drop.reason)
        drops.append(
            DroppedRow(step_config.name, source, table["id"][row].as_py(), drop.reason, drop.detail)
        )
        dropped_rows[shard].add(row_index)
        entries = examples.setdefault(drop.reason, [])
        if len(entries) < MAX_EXAMPLES:
            entries.append((shard, row_index, drop.detail))
    for row, row_notes in decision.notes.items():
        if row not in decision.drops:
            shard, row_index = locations[row].tolist()
            notes[shard][row_index] = dict(row_notes)
    drop_examples = [
        DropExample(reason, detail, read_rows(shards[shard])[row_index].text)
        for reason, entries in examples.items()
        for shard, row_index, detail in entries
    ]
    return DecisionResult(
        [ShardDecision(frozenset(o), n) for o, n in zip(dropped_rows, notes, strict=True)],
        counts,
        drops,
        dict(decision.stats),
        drop_examples,
    )


class SignatureTable(NamedTuple):
    """The signed rows of all shards in one table, where each lies (rows x 2: shard, place in it),
    and the number of its source.
    """

    table: pa.Table
    locations: NDArray[np.int64]
    source_indices: NDArray[np.int32]


def _load_signatures(
    step_config: StepConfig,
    shards: Sequence[Path],
    sources: Sequence[str],
    ranks: Mapping[str, int],
) -> SignatureTable:
    import numpy as np
    import pyarrow as pa

    tables: list[pa.Table] = [
        pa.table({"id": pa.array([], pa.string()), "source_index": pa.array([], pa.int32())})
    ]
    locations = [np.zeros((0, 2), np.int64)]
    for shard_index, path in enumerate(shards):
        signatures = read_signatures(path)
        has_signature = signatures["has_signature"]
        row_indices = np.flatnonzero(has_signature.to_numpy())
        locations.append(np.stack([np.full(len(row_indices), shard_index), row_indices], axis=1))
        tables.append(signatures.filter(has_signature).drop_columns(["has_signature"]))
    table = pa.concat_tables(tables, promote_options="permissive")
    source_indices = table["source_index"].to_numpy()
    for column_index, (name, column) in enumerate(
        (
            ("source", pa.array([sources[int(o)] for o in source_indices.tolist()], pa.string())),
            (
                "rank",
                pa.array([ranks[sources[int(o)]] for o in source_indices.tolist()], pa.int64()),
            ),
        ),
        1,
    ):
        if name in table.column_names:
            raise InputError(
                f"step {step_config.name!r} signs with the column {name!r}, which the runner adds itself;"
                " name it otherwise."
            )
        table = table.add_column(column_index, name, column)
    return SignatureTable(
        table.drop_columns(["source_index"]), np.concatenate(locations), source_indices
    )


def find_duplicate_ids(
    shards: Sequence[tuple[Path, Set[int]]],
) -> Iterator[dict[int, tuple[str, int]]]:
    """For each shard the rows whose id an earlier row has: row -> (id, number of the source).

    Rows that are `out` do not count.
    """
    import numpy as np
    import pyarrow as pa

    columns = [_ids(path, dropped_rows) for path, dropped_rows in shards]
    counts = pa.chunked_array(
        [chunk for id_table in columns for chunk in id_table["id"].chunks], pa.string()
    ).value_counts()
    duplicate_ids = set(
        counts.field("values")
        .take(pa.array(np.flatnonzero(counts.field("counts").to_numpy() > 1)))
        .to_pylist()
    )
    seen: set[str] = set()
    for id_table in columns:
        duplicates: dict[int, tuple[str, int]] = {}
        if duplicate_ids:
            for name, row, source_index in zip(
                *(id_table[c].to_pylist() for c in ("id", "row", "source_index")), strict=True
            ):
                if name in seen:
                    duplicates[row] = (name, source_index)
                elif name in duplicate_ids:
                    seen.add(name)
        yield duplicates


def _ids(path: Path, dropped_rows: Set[int]) -> pa.Table:
    import pyarrow as pa

    with pa.OSFile(str(path)) as source:
        table = (
            pa.ipc.open_file(source)
            .read_all()
            .select(["id", "source_index"])
            .replace_schema_metadata(None)
        )
    table = table.append_column("row", pa.array(range(table.num_rows), pa.int64()))
    return (
        table.filter(
            pa.array([row not in dropped_rows for row in range(table.num_rows)], pa.bool_())
        )
        if dropped_rows
        else table
    )
