"""Tables: columns mapped, ids hashed, a damaged row costs itself alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from lingshu.core.errors import InputError
from lingshu.core.types import Drop, Sample
from lingshu.imaging.read import open_image
from lingshu.sources import csv
from tests.support.source_files import KEY, PNG, drop_reasons, only_samples


def write_table(folder: Path, text: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    (folder / "a.png").write_bytes(PNG)
    return path


def test_columns_by_the_names_of_rows_need_no_mapping(tmp_path: Path) -> None:
    path = write_table(
        tmp_path, 'id,question,answer,image,license,note\n1,"Is it, so?",yes,a.png,CC0-1.0,\n'
    )
    (sample,) = only_samples(csv.read(path))
    assert (sample.id, sample.question, sample.gold, sample.meta.license) == (
        "1",
        "Is it, so?",
        ("yes",),
        "CC0-1.0",
    )
    assert (
        open_image(sample.images[0]).size == (4, 3)
        and sample.meta.extra == {}
        and sample.meta.access == "private"
    )


def test_mapped_columns_are_the_only_ones_read(tmp_path: Path) -> None:
    path = write_table(tmp_path, "Q\tfile\tNAME\nWhat?\ta.png\tZZNAME\n", "t.tsv")
    (sample,) = only_samples(csv.read(path, columns={"question": "Q", "image": "file"}))
    assert sample.question == "What?" and len(sample.images) == 1 and "ZZNAME" not in repr(sample)


def test_ids_are_carried_as_hashes_alone(tmp_path: Path) -> None:
    path = write_table(tmp_path, "question,pid,sid\nWhat?,ZZ17,ZZ99\nWhere?,ZZ17,ZZ98\n")
    one, two = only_samples(csv.read(path, ids={"patient": "pid", "study": "sid"}, key=KEY))
    assert (
        one.meta.group == two.meta.group
        and one.meta.group
        and one.meta.group.startswith("patient-")
    )
    assert one.meta.extra["study"] != two.meta.extra["study"] and "ZZ" not in repr((one, two))
    assert (
        only_samples(csv.read(path, ids={"patient": "pid"}, key=b"another key 1234"))[0].meta.group
        != one.meta.group
    )


def test_a_damaged_row_is_a_drop_and_the_next_is_read(tmp_path: Path) -> None:
    rows = [
        b"id,question,image",
        b"1,What?,",
        b"2,too,many,fields",
        b"3,\xff\xfe?,",
        b"4,Where?,missing.png",
        b"5,Up?,../a.png",
        b"1,Again?,",
        b"",
        b"6,Last?,a.png",
    ]
    found = list(csv.read(write_table(tmp_path, b"\n".join(rows))))
    assert [f.id for f in found if isinstance(f, Sample)] == ["1", "6"]
    assert drop_reasons(found) == [
        "bad_row",
        "bad_text",
        "missing_image",
        "image_outside_folder",
        "duplicate_id",
    ]
    assert all(isinstance(f, Sample | Drop) for f in found)


def test_several_images_are_given_as_a_list(tmp_path: Path) -> None:
    path = write_table(tmp_path, 'question,images\nWhat?,"[""a.png"", ""a.png""]"\n')
    assert len(only_samples(csv.read(path))[0].images) == 2


def test_wrong_options_are_named(tmp_path: Path) -> None:
    path = write_table(tmp_path, "question\nWhat?\n")
    with pytest.raises(InputError, match="no column 'Question'"):
        list(csv.read(path, columns={"question": "Question"}))
    with pytest.raises(InputError, match="not a kind of id"):
        list(csv.read(path, ids={"person": "question"}))
    with pytest.raises(InputError, match="cannot be read"):
        list(csv.read(tmp_path / "none.csv"))


def test_a_repeated_column_is_refused_where_it_is_read(tmp_path: Path) -> None:
    path = write_table(tmp_path, "question,answer,answer,note\nIs it?,yes,no,x\n")
    for columns in (None, {"question": "question", "answer": "answer"}):
        with pytest.raises(InputError, match="has the column 'answer' 2 times"):
            list(csv.read(path, columns=columns))
    assert only_samples(csv.read(path, columns={"question": "question"}))[0].gold is None
