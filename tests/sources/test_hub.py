"""Publishers' files: rows of four formats, images next to them and in shards, and the hub's cache
without a network.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lingshu.core.errors import InputError, StorageError
from lingshu.core.types import Image
from lingshu.imaging.read import encode_png, open_image
from lingshu.sources import hub
from lingshu.sources.hub import DownloadedRepo, HubRepo

SHA = "0123456789abcdef0123456789abcdef01234567"


def png(value: int) -> bytes:
    return encode_png(np.full((8, 8), value, np.uint8))


def read_values(repo: HubRepo, downloaded: DownloadedRepo) -> list[dict]:
    return [dict(raw.values) for raw in hub.rows(repo, downloaded)]


def test_rows_of_every_format_come_in_order_of_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\ufeffid,text\n1,one\n2,two\n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"id": 3}\n\n{"id": 4}\n')
    (tmp_path / "c.json").write_text('[{"id": 5}, [6]]')
    (tmp_path / "d.json").write_text('{"s7": {"id": 7}, "s8": [8]}')
    (tmp_path / "e.json").write_text('{"id": 9}\n{"id": 10}\n')
    found = read_values(HubRepo("o/n", ("*.csv", "*.jsonl", "*.json")), DownloadedRepo([tmp_path]))
    assert found == [
        {"id": "1", "text": "one"}, {"id": "2", "text": "two"}, {"id": 3}, {"id": 4}, {"id": 5}, {"_value": [6]},
        {"_key": "s7", "id": 7}, {"_key": "s8", "_value": [8]}, {"id": 9}, {"id": 10},
    ]  # fmt: skip


def test_a_table_may_be_packed(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n"))
    assert list(hub.read_csv_rows(tmp_path / "t.csv.gz")) == [{"a": "1", "b": "2"}]


@pytest.mark.parametrize("text", ["{", '{"a": 1}\nnothing\n', "\x00"])
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=r"a\.json"):
        read_values(HubRepo("o/n", ("a.json",)), DownloadedRepo([tmp_path]))


def test_numbered_image_columns_are_the_images_of_a_row(tmp_path: Path) -> None:
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

    def cell(value: int | None) -> dict | None:
        return None if value is None else {"bytes": png(value), "path": None}

    columns = {
        "id": ["a", "b"],
        "image_1": [cell(10), cell(20)],
        "image_2": [None, cell(30)],
        "image_10": [cell(40), None],
    }
    schema = pa.schema(
        [("id", pa.string()), *((name, image) for name in ("image_1", "image_2", "image_10"))]
    )
    pq.write_table(pa.table(columns, schema), tmp_path / "x.parquet")
    first, second = hub.rows(HubRepo("o/n", ("*.parquet",)), DownloadedRepo([tmp_path]))
    assert (
        first.values == {"id": "a"}
        and [i.index for i in first.images] == [0, 2]
        and [i.index for i in second.images] == [0, 1]
    )
    assert [open_image(i).getpixel((0, 0)) for i in (*first.images, *second.images)] == [
        (v,) * 3 for v in (10, 40, 20, 30)
    ]


def test_images_are_found_up_to_two_folders_below_and_never_outside(tmp_path: Path) -> None:
    (tmp_path / "in" / "a" / "b" / "p1").mkdir(parents=True)
    (tmp_path / "in" / "a" / "b" / "p1" / "x.png").write_bytes(png(1))
    (tmp_path / "secret.png").write_bytes(png(2))
    downloaded = DownloadedRepo([tmp_path / "in"])
    assert downloaded.image("p1/x.png") == Image(path=str((tmp_path / "in/a/b/p1/x.png").resolve()))
    assert [
        downloaded.image(name)
        for name in ("y.png", "../secret.png", str(tmp_path / "secret.png"), "")
    ] == [None] * 4


def write_cache(home: Path) -> dict[str, str]:
    """An offline hub cache with one data set that has rows and a zip of images."""
    repo = home / "hub" / "datasets--o--n"
    snapshot = repo / "snapshots" / SHA
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(SHA)
    (snapshot / "test.json").write_text(json.dumps([{"question": "?", "img": "p/x.png"}]))
    with zipfile.ZipFile(snapshot / "imgs.zip", "w") as file:
        file.writestr("imgs/p/x.png", png(7))
    return {
        **os.environ,
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_ASSETS_CACHE": str(home / "assets"),
        "HF_HUB_OFFLINE": "1",
    }


CODE = """
from pathlib import Path
from lingshu.core.errors import InputError
from lingshu.sources import hub
repo = hub.HubRepo("o/n", ("test.json",), archives=("imgs.zip",))
for _ in range(2):
    place = hub.download(repo)
    raw, = hub.rows(repo, place)
    print(raw.values["question"], place.image(raw.values["img"]) is not None, hub.revision(repo))
print([s.id for s in hub.read(Path("o/n/test.json"))])
try:
    hub.download(hub.HubRepo("o/other", ("test.json",)))
except InputError as error:
    print(error)
"""


def test_a_download_is_read_from_the_cache_and_its_archive_unpacked(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        capture_output=True,
        text=True,
        timeout=60,
        env=write_cache(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    *found, ids, refused = done.stdout.splitlines()
    assert found == [f"? True {SHA}"] * 2 and ids == "['test.json-0']"
    assert "o/other cannot be downloaded" in refused and "--data DIR" in refused


def test_an_archive_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    env = write_cache(tmp_path)
    with zipfile.ZipFile(
        tmp_path / "hub" / "datasets--o--n" / "snapshots" / SHA / "imgs.zip", "a"
    ) as file:
        file.writestr("../../evil.txt", "x")
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60, env=env
    )
    assert done.returncode == 1 and "leads out of its folder" in done.stderr
    assert not list(tmp_path.rglob("evil.txt")) and not [
        p for p in (tmp_path / "assets").rglob("*") if p.is_file()
    ]


def test_what_is_not_on_the_hub_explains_where_it_comes_from() -> None:
    with pytest.raises(InputError, match=r"https://example\.org.*--data DIR"):
        hub.download(HubRepo(None, ("a.json",), link="https://example.org"))


@pytest.mark.parametrize("name", ["owner", "owner/set"])
def test_a_source_on_the_hub_needs_a_pattern(name: str) -> None:
    with pytest.raises(InputError, match="OWNER/NAME/PATTERN"):
        list(hub.read(Path(name)))


def test_the_second_to_unpack_uses_the_files_of_the_first(tmp_path: Path) -> None:
    archive, target = tmp_path / "imgs.zip", tmp_path / "imgs"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("x.png", png(7))
    hub.unpack(archive, target)
    hub.unpack(archive, target)
    assert (target / "x.png").read_bytes() == png(7) and sorted(
        p.name for p in tmp_path.iterdir()
    ) == ["imgs", "imgs.zip"]


def test_an_unpacked_folder_that_cannot_take_its_name_is_one_clear_error(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "imgs.zip", "w") as file:
        file.writestr("x.png", png(7))
    (tmp_path / "imgs").write_text("a file of that name")
    with pytest.raises(InputError, match="cannot be unpacked to"):
        hub.unpack(tmp_path / "imgs.zip", tmp_path / "imgs")
    with pytest.raises(StorageError):
        hub.unpack(tmp_path / "imgs.zip", tmp_path / "imgs" / "below")


def test_one_of_several_patterns_is_the_first_that_matches(tmp_path: Path) -> None:
    for name in ("test-00000-of-00002.jsonl", "test-00001-of-00002.jsonl", "other.jsonl"):
        (tmp_path / name).write_text('{"a": 1}\n')
    repo = HubRepo("o/n", ("none.jsonl", "test-*.jsonl", "other.jsonl"), single_table=True)
    assert len(read_values(repo, DownloadedRepo([tmp_path]))) == 2  # the parts of one table
    (tmp_path / "test-extra.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(
        InputError, match=r"test-00000-of-00002\.jsonl, .*test-extra\.jsonl.*only one"
    ):
        read_values(repo, DownloadedRepo([tmp_path]))
