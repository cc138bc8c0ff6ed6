"""Parquet shards: a DATASET comes back as it was written, and foreign tables are read by their
columns.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lingshu.core.artifacts import write_dataset
from lingshu.core.errors import ArtifactError, InputError
from lingshu.core.messages import user_turn
from lingshu.core.run_card import RunCard
from lingshu.core.types import Drop, Image, Sample
from lingshu.imaging.read import encode_png, image_bytes, open_image
from lingshu.sources.parquet import read

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def test_a_dataset_gives_its_samples_with_their_pixels(tmp_path: Path) -> None:
    pixels = [np.full((2, 2, 3), i, np.uint8) for i in range(70)]
    rows = [
        (Sample(f"s{i}", (user_turn("?", 1),), (Image(),), ("yes",)), [encode_png(p)])
        for i, p in enumerate(pixels)
    ]
    write_dataset(tmp_path / "d", "d", rows, RunCard("test", {}))
    found = [s for s in read(tmp_path / "d") if isinstance(s, Sample)]
    assert [s.id for s in found] == [f"s{i}" for i in range(70)]
    assert np.array_equal(np.asarray(open_image(found[69].images[0])), pixels[69])


def test_a_damaged_dataset_is_refused(tmp_path: Path) -> None:
    write_dataset(tmp_path / "d", "d", [], RunCard("test", {}))
    (tmp_path / "d/data/part-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match="truncated or changed"):
        list(read(tmp_path / "d"))


@pytest.mark.parametrize(
    ("column", "kind", "cells", "counts"),
    [
        ("image", STRUCT, [{"bytes": b"0", "path": "x.png"}, None], [1, 0]),
        ("image", pa.binary(), [b"0", None], [1, 0]),
        (
            "images",
            pa.list_(STRUCT),
            [[{"bytes": b"0", "path": None}, {"bytes": b"1", "path": None}], []],
            [2, 0],
        ),
        ("images", pa.list_(pa.binary()), [[b"0"], None], [1, 0]),
        (
            "images",
            pa.list_(pa.struct([("bytes", pa.binary())])),
            [[{"bytes": b"0"}], None],
            [1, 0],
        ),
    ],
)
def test_foreign_tables_are_read_by_their_columns(
    tmp_path: Path, column: str, kind: pa.DataType, cells: list, counts: list[int]
) -> None:
    table = pa.table(
        {
            column: pa.array(cells, kind),
            "question": ["one?", "two?"],
            "answer": ["yes", "no"],
            "lang": ["en", "en"],
            "n": [1, 2],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    found = [s for s in read(tmp_path) if isinstance(s, Sample)]
    assert [(s.id, s.question, s.gold, len(s.images)) for s in found] == [
        ("a-1", "one?", ("yes",), counts[0]), ("a-2", "two?", ("no",), counts[1]),
    ]  # fmt: skip
    assert (found[0].meta.language, found[0].meta.extra) == ("en", {"n": "1"})
    assert image_bytes(found[0].images[0]) == b"0"


def test_rows_are_numbered_across_batches_and_row_groups(tmp_path: Path) -> None:
    names = [f"{i}?" for i in range(600)]
    pq.write_table(
        pa.table({"image": [n.encode() for n in names], "question": names}),
        tmp_path / "a.parquet",
        row_group_size=100,
    )
    found = [s for s in read(tmp_path / "a.parquet") if isinstance(s, Sample)]
    assert [image_bytes(found[i].images[0]) for i in (0, 255, 256, 599)] == [
        b"0?",
        b"255?",
        b"256?",
        b"599?",
    ]


def test_rows_without_a_question_and_repeated_ids_are_dropped(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"id": ["a", "b", "a"], "question": ["?", None, "?"]}), tmp_path / "a.parquet"
    )
    assert [r.reason for r in read(tmp_path) if isinstance(r, Drop)] == [
        "no_question",
        "duplicate_id",
    ]


def test_choices_may_be_lists_or_json(tmp_path: Path) -> None:
    for name, value in (("a", [["CT", "MRI"]]), ("b", ['["CT", "MRI"]'])):
        pq.write_table(
            pa.table({"question": ["?"], "choices": value, "answer": ["MRI"]}),
            tmp_path / f"{name}.parquet",
        )
    assert [s.gold for s in read(tmp_path) if isinstance(s, Sample)] == [("B",), ("B",)]


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no parquet file"):
        list(read(tmp_path))
    (tmp_path / "a.parquet").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"a\.parquet cannot be read as parquet"):
        list(read(tmp_path))
