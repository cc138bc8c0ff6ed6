"""The disk layer: whole files or nothing, JSONL that survives a kill, and manifests that notice a
change.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from lingshu.core.errors import ArtifactError, InputError, StorageError
from lingshu.core.files import (
    JsonlAppender,
    atomic_file,
    atomic_folder,
    check_manifest,
    digest,
    enumerate_jsonl,
    enumerate_offsets,
    output_lock,
    read_json,
    read_jsonl,
    read_line,
    write_json,
    write_jsonl,
    write_manifest,
    write_text,
)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_file_is_written_completely_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "first")
    with pytest.raises(RuntimeError), atomic_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "first"
    assert names(tmp_path) == {"new", "new/a.txt"}


def test_a_folder_is_written_completely_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out"
    for content in ("one", "two"):
        with atomic_folder(path) as temporary:
            (temporary / content).write_text(content)
            write_manifest(temporary)
    with pytest.raises(RuntimeError), atomic_folder(path) as temporary:
        (temporary / "three").touch()
        raise RuntimeError
    assert names(tmp_path) == {"out", "out/two", "out/manifest.json"}


def test_a_folder_that_a_person_filled_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").touch()
    (tmp_path / "file").touch()
    for path in (tmp_path / "thesis", tmp_path / "file"):
        with pytest.raises(StorageError, match="choose another --out"), atomic_folder(path):
            raise AssertionError("it must not begin")
    assert names(tmp_path) == {"thesis", "thesis/chapter.txt", "file"}


def test_a_path_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "below.txt", tmp_path / "folder", tmp_path / ("x" * 300)):
        with pytest.raises(StorageError, match="cannot be written"):
            write_text(path, "x")
    with pytest.raises(StorageError):
        JsonlAppender(tmp_path / "file" / "a.jsonl")
    assert names(tmp_path) == {"file", "folder"}


def test_a_full_disk_reported_only_in_a_message_is_understood(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no space left"), atomic_folder(tmp_path / "out"):
        raise Exception("Error while serializing: I/O error: No space left on device (os error 28)")
    with pytest.raises(ValueError, match="something else"), atomic_folder(tmp_path / "out"):
        raise ValueError("something else")
    assert names(tmp_path) == set()


FULL_DISK = """
import resource, sys
from pathlib import Path
import lingshu.core.artifacts as artifacts
from lingshu.core import errors, files, run_card, types

out = Path(sys.argv[1])
log = files.JsonlAppender(out / "log.jsonl")
log.append([{"row": 1}])
files.write_text(out / "old.txt", "old")
import pyarrow.parquet, numpy  # before the limit, so that only the writes below meet it
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
big = "x" * 100_000
noise = numpy.random.default_rng(0).bytes(100_000)
for write in (
    lambda: files.write_text(out / "old.txt", big),
    lambda: files.write_json(out / "new.json", {"a": big}),
    lambda: files.write_jsonl(out / "new.jsonl", [{"a": big}]),
    lambda: log.append([{"a": 1}, {"a": big}]),
    lambda: artifacts.write_dataset(
        out / "dataset", "d", [(types.Sample("a", (), (types.Image(),)), [noise])], run_card.RunCard("test", {})
    ),
):
    try:
        write()
    except errors.StorageError as error:
        assert "no space left" in str(error), error
    else:
        raise SystemExit("a full disk went unnoticed")
log.append([{"row": 2}])
"""


def test_a_full_disk_is_one_clear_error_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert names(tmp_path) == {"log.jsonl", "old.txt"}
    assert (tmp_path / "old.txt").read_text() == "old"
    assert [row["row"] for row in read_jsonl(tmp_path / "log.jsonl")] == [1, 2]


def test_a_torn_last_line_is_skipped_and_then_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for truncated in ('{"row": ', '{"row": 9}', "\x00\x00", '{"text": "' + "x" * 200_000):
        path.write_text('{"row": 1}\n' + truncated, encoding="utf-8")
        with JsonlAppender(path) as log:
            log.append([{"row": 2}, {"row": 3}])
        assert [row["row"] for row in read_jsonl(path)] == [1, 2, 3]


def test_a_log_torn_in_its_first_line_starts_again(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"row')
    assert list(read_jsonl(path)) == []
    with JsonlAppender(path) as log:
        log.append([{"row": "一"}])
    assert path.read_text("utf-8") == '{"row": "一", "row_sha256": "c00117424592db42"}\n'


def appended(folder: Path) -> Path:
    path = folder / "log.jsonl"
    with JsonlAppender(path) as log:
        first, second = log.append([{"n": 1, "text": "ü"}, {"n": 2}])
        assert second - first == 57
        assert log.append([]) == []
    return path


def test_rows_of_a_log_come_back_without_their_checksum_and_where_they_are(tmp_path: Path) -> None:
    path = appended(tmp_path)
    assert list(read_jsonl(path)) == [{"n": 1, "text": "ü"}, {"n": 2}]
    rows = enumerate_jsonl(path, allow_truncated=True)
    with path.open("rb") as file:
        assert [read_line(file, at) == row for at, row in enumerate_offsets(path, rows)] == [
            True
        ] * 2
    with JsonlAppender(path) as log:
        assert log.pop_last() == {"n": 2}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"n": 2', '"n": 3'),
        ('"n": 2', '"n":  2'),
        ('"n": 2', '"n": null'),
        (', "row_sha256": "', ', "row_sha257": "'),
        (', "row_sha256": "', ', "row_sha256": "0'),
        ('{"n": 2, "row_sha256"', '{"m": 2, "row_sha256"'),
    ],
)
def test_a_changed_row_of_a_log_is_named(tmp_path: Path, old: str, new: str) -> None:
    path = appended(tmp_path)
    first, second = path.read_text("utf-8").splitlines(keepends=True)
    path.write_text(first + second.replace(old, new), "utf-8")
    with pytest.raises(
        InputError, match=r"log\.jsonl, line 2: the row does not match its row_sha256"
    ):
        list(read_jsonl(path))


def test_rows_of_an_older_version_stay_readable_before_those_with_checksums(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"n": 0}\n')
    assert next(read_jsonl(appended(tmp_path))) == {"n": 0}


def test_a_log_in_a_manifest_may_grow_and_nothing_else(tmp_path: Path) -> None:
    log, other = appended(tmp_path), tmp_path / "other.json"
    other.write_text("{}")
    write_manifest(tmp_path, is_append_only=lambda path: path == log)
    with JsonlAppender(log) as appender:
        appender.append([{"n": 3}])
    assert check_manifest(tmp_path)
    for path in (log, other):
        before = path.read_bytes()
        for changed in (before[:1], b" " + before[1:], b"\n" + before):
            path.write_bytes(changed)
            with pytest.raises(ArtifactError, match=path.name):
                check_manifest(tmp_path)
        path.write_bytes(before)
    assert check_manifest(tmp_path)


@pytest.mark.parametrize("line", ['{"a": ', "[1]", "5", "\udc80", "[" * 100_000])
def test_a_bad_line_in_the_middle_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line.encode(errors="surrogateescape") + b"\n" + b'{"a": 2}\n')
    with pytest.raises(InputError, match=r"a\.jsonl, line 2"):
        list(read_jsonl(path))


def test_not_a_number_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_jsonl(tmp_path / "a.jsonl", [{"loss": math.nan}])
    assert names(tmp_path) == set()


def test_json_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(ArtifactError, match=r"a\.json does not exist"):
        read_json(path)
    for content in (b"", b"{", b"[1]", b"\xff", b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"a\.json"):
            read_json(path)
    write_json(path, {"a": 1})
    assert read_json(path) == {"a": 1}


def test_the_last_row_is_taken_back_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"n": 1}, {"n": 2, "long": "x" * 200_000}, {"n": 3}]
    with JsonlAppender(path) as file:
        file.append(rows)
        assert [file.pop_last() for _ in range(2)] == rows[:0:-1]
        file.append([{"n": 4}])
    assert list(read_jsonl(path)) == [{"n": 1}, {"n": 4}]
    with JsonlAppender(path) as file:
        assert [file.pop_last() for _ in range(3)] == [{"n": 4}, {"n": 1}, None]
    path.write_text('{"n": 1}\nno JSON\n')
    with JsonlAppender(path) as file, pytest.raises(InputError, match="last line"):
        file.pop_last()
    assert path.read_text().endswith("no JSON\n")


def test_a_manifest_notices_every_change(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    (folder / "data").mkdir(parents=True)
    assert check_manifest(folder) is None
    (folder / "data" / "a").write_bytes(b"abc")
    assert write_manifest(folder) == check_manifest(folder)
    (folder / "data" / "a").write_bytes(b"abd")
    with pytest.raises(ArtifactError, match="does not match its sha256"):
        check_manifest(folder)
    (folder / "data" / "a").write_bytes(b"ab")
    with pytest.raises(ArtifactError, match="has 2 bytes"):
        check_manifest(folder)
    (folder / "data" / "a").unlink()
    with pytest.raises(ArtifactError, match="is missing though"):
        check_manifest(folder)
    for files in (None, [], {"a": 1}, {"a": {"bytes": 1}}):
        (folder / "manifest.json").write_text(json.dumps({"files": files}))
        with pytest.raises(ArtifactError, match="has no list of files"):
            check_manifest(folder)


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})


def test_a_number_too_large_for_a_float_is_no_json(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": 1e400}\n')
    with pytest.raises(InputError, match="too large for a number"):
        list(read_jsonl(tmp_path / "rows.jsonl"))


@pytest.mark.parametrize("write", [lambda p: write_json(p, {"a": 1}), lambda p: write_folder(p)])
def test_what_a_killed_process_left_behind_is_removed_by_the_next(tmp_path: Path, write) -> None:
    path = tmp_path / "out"
    write(path)
    unbroken = names(tmp_path)
    if path.is_dir():
        (tmp_path / ".out.tmp").mkdir()
        (tmp_path / ".out.tmp" / "half").write_text("x")
        (tmp_path / ".out.tmp.lock").touch()
    else:
        (tmp_path / ".out.tmp").write_text("a much longer text than the next one")
    write(path)
    assert names(tmp_path) == unbroken


def write_folder(path: Path) -> None:
    with atomic_folder(path) as folder:
        write_json(folder / "run.json", {})


def test_a_replacement_that_was_killed_half_way_is_undone(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write_folder(path)
    path.rename(tmp_path / ".out.old")
    with pytest.raises(ZeroDivisionError), atomic_folder(path):
        assert (path / "run.json").is_file()
        raise ZeroDivisionError
    assert (path / "run.json").is_file()
    assert not list(tmp_path.glob(".*"))


def test_a_second_writer_of_one_output_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out"
    for first, second in ((output_lock, output_lock), (atomic_folder, atomic_folder)):
        with (
            first(path),
            pytest.raises(StorageError, match="out is being written by another process"),
            second(path),
        ):
            pass
    with output_lock(path), atomic_folder(path) as folder:
        write_json(folder / "run.json", {})
    assert not list(tmp_path.glob(".*"))


def test_two_writers_of_one_file_both_finish(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with atomic_file(path) as first:
        first.write_text("first")
        with atomic_file(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert not list(tmp_path.glob(".*"))
