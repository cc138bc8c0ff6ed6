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
from lingshu.core.steps import Decision, TableStep
from lingshu.curate.config import StepUse
from lingshu.curate.ledger import Ledger
from lingshu.curate.plan import build
from lingshu.curate.rows import read_rows, read_signatures
from lingshu.curate.work import SHOWN, Lost

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Decided:
    """What a decision says of one shard: the rows that are out, and what is noted of those that
    stay.
    """

    out: Set[int] = frozenset()
    notes: Mapping[int, Mapping[str, str]] = field(default_factory=dict)


class Shown(NamedTuple):
    """A dropped row as an example: why, and the sample as JSON."""

    reason: str
    detail: str
    text: str


class Result(NamedTuple):
    """A decision with its counts."""

    shards: list[Decided]
    ledger: Ledger
    lost: list[Lost]
    told: Mapping[str, Any]
    examples: list[Shown]


def decided(
    use: StepUse, shards: Sequence[Path], sources: Sequence[str], ranks: Mapping[str, int]
) -> Result:
    """Let a table step decide over the signatures of all shards.

    Raises:
        InputError: it dropped or noted a row that its table does not have.
    """
    step = build(use)
    assert isinstance(step, TableStep)
    table, where, origins = _gather(use, shards, sources, ranks)
    found = step.decide(table) if table.num_rows else Decision({})
    wrong = next(
        (row for row in (*found.drops, *found.notes) if not 0 <= row < table.num_rows), None
    )
    if wrong is not None:
        raise InputError(
            f"step {use.name!r} decided on row {wrong} of {table.num_rows}; rows are counted"
            " from 0."
        )
    ledger, lost = Ledger(), []
    for origin, count in Counter(origins.tolist()).items():
        ledger.leave(use.name, sources[int(origin)], count)
    out: list[set[int]] = [set() for _ in shards]
    notes: list[dict[int, Mapping[str, str]]] = [{} for _ in shards]
    examples: dict[str, list[tuple[int, int, str]]] = {}
    for row, drop in sorted(found.drops.items()):
        shard, place = where[row].tolist()
        source = sources[int(origins[row])]
        ledger.leave(use.name, source, -1)
        ledger.drop(use.name, source, drop.reason)
        lost.append(Lost(use.name, source, table["id"][row].as_py(), drop.reason, drop.detail))
        out[shard].add(place)
        kept = examples.setdefault(drop.reason, [])
        if len(kept) < SHOWN:
            kept.append((shard, place, drop.detail))
    for row, noted in found.notes.items():
        if row not in found.drops:
            shard, place = where[row].tolist()
            notes[shard][place] = dict(noted)
    shown = [
        Shown(reason, detail, read_rows(shards[shard])[place].text)
        for reason, kept in examples.items()
        for shard, place, detail in kept
    ]
    return Result(
        [Decided(frozenset(o), n) for o, n in zip(out, notes, strict=True)],
        ledger,
        lost,
        dict(found.told),
        shown,
    )


class Gathered(NamedTuple):
    """The signed rows of all shards in one table, where each lies (rows x 2: shard, place in it),
    and the number of its source.
    """

    table: pa.Table
    where: NDArray[np.int64]
    origins: NDArray[np.int32]


def _gather(
    use: StepUse, shards: Sequence[Path], sources: Sequence[str], ranks: Mapping[str, int]
) -> Gathered:
    import numpy as np
    import pyarrow as pa

    tables: list[pa.Table] = [
        pa.table({"id": pa.array([], pa.string()), "origin": pa.array([], pa.int32())})
    ]
    where = [np.zeros((0, 2), np.int64)]
    for number, path in enumerate(shards):
        found = read_signatures(path)
        signed = found["signed"]
        places = np.flatnonzero(signed.to_numpy())
        where.append(np.stack([np.full(len(places), number), places], axis=1))
        tables.append(found.filter(signed).drop_columns(["signed"]))
    table = pa.concat_tables(tables, promote_options="permissive")
    origins = table["origin"].to_numpy()
    for place, (name, column) in enumerate(
        (
            ("source", pa.array([sources[int(o)] for o in origins.tolist()], pa.string())),
            ("rank", pa.array([ranks[sources[int(o)]] for o in origins.tolist()], pa.int64())),
        ),
        1,
    ):
        if name in table.column_names:
            raise InputError(
                f"step {use.name!r} signs with the column {name!r}, which the runner adds itself;"
                " name it otherwise."
            )
        table = table.add_column(place, name, column)
    return Gathered(table.drop_columns(["origin"]), np.concatenate(where), origins)


def repeated_ids(shards: Sequence[tuple[Path, Set[int]]]) -> Iterator[dict[int, tuple[str, int]]]:
    """For each shard the rows whose id an earlier row has: row -> (id, number of the source).

    Rows that are `out` do not count.
    """
    import numpy as np
    import pyarrow as pa

    columns = [_ids(path, out) for path, out in shards]
    counts = pa.chunked_array(
        [chunk for found in columns for chunk in found["id"].chunks], pa.string()
    ).value_counts()
    several = set(
        counts.field("values")
        .take(pa.array(np.flatnonzero(counts.field("counts").to_numpy() > 1)))
        .to_pylist()
    )
    seen: set[str] = set()
    for found in columns:
        repeats: dict[int, tuple[str, int]] = {}
        if several:
            for name, row, origin in zip(
                *(found[c].to_pylist() for c in ("id", "row", "origin")), strict=True
            ):
                if name in seen:
                    repeats[row] = (name, origin)
                elif name in several:
                    seen.add(name)
        yield repeats


def _ids(path: Path, out: Set[int]) -> pa.Table:
    import pyarrow as pa

    with pa.OSFile(str(path)) as source:
        table = (
            pa.ipc.open_file(source)
            .read_all()
            .select(["id", "origin"])
            .replace_schema_metadata(None)
        )
    table = table.append_column("row", pa.array(range(table.num_rows), pa.int64()))
    return (
        table.filter(pa.array([row not in out for row in range(table.num_rows)], pa.bool_()))
        if out
        else table
    )
