"""Hashes of large files: computed once, and never those of another content."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lingshu.core import files
from lingshu.core.errors import ArtifactError
from lingshu.core.files import sha256_bytes, sha256_files

LARGE = files.CACHED_BYTES


@pytest.fixture
def hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose content was read, in a home folder of the test; any file is settled."""
    read: list[Path] = []
    sha256_file = files.sha256_file

    def counting(path: Path) -> str:
        read.append(path)
        return sha256_file(path)

    monkeypatch.setattr(files, "sha256_file", counting)
    monkeypatch.setattr(files, "SETTLED_NS", 0)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return read


def test_a_large_file_is_read_once_and_a_small_one_each_time(
    tmp_path: Path, hashed: list[Path]
) -> None:
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(bytes(LARGE))
    small.write_bytes(b"x")
    expected = [sha256_bytes(bytes(LARGE)), sha256_bytes(b"x")]
    assert sha256_files([large, small]) == sha256_files([large, small]) == expected
    assert sorted(path.name for path in hashed) == ["large", "small", "small"]


@pytest.mark.parametrize("how", ["in place", "copy", "rename"])
def test_other_bytes_of_equal_size_and_time_have_another_hash(
    tmp_path: Path, hashed: list[Path], how: str
) -> None:
    path, other = tmp_path / "weights", tmp_path / "other"
    path.write_bytes(bytes(LARGE))
    (first,) = sha256_files([path])
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    other.write_bytes(b"1" * LARGE)
    os.utime(other, ns=times)
    if how == "rename":
        other.rename(path)
    elif how == "copy":
        shutil.copy2(other, path)
    else:
        path.write_bytes(other.read_bytes())
    os.utime(path, ns=times)
    assert sha256_files([path]) == [sha256_bytes(b"1" * LARGE)] != [first]
    assert len(hashed) == 2


def test_a_link_is_the_file_that_it_points_at(tmp_path: Path, hashed: list[Path]) -> None:
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode() * LARGE)
    link = tmp_path / "link"
    link.symlink_to("a")
    first = sha256_files([link, tmp_path / "a"])
    link.unlink()
    link.symlink_to("b")
    assert first[0] == first[1] != sha256_files([link])[0]
    assert len(hashed) <= 3


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"path": 1, "stat": null}', "[" * 100_000])
def test_a_damaged_entry_is_ignored(tmp_path: Path, hashed: list[Path], damage: str) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(LARGE))
    sha256_files([path])
    (entry,) = files.cache_folder().iterdir()
    entry.write_text(damage)
    assert sha256_files([path]) == [sha256_bytes(bytes(LARGE))]
    assert len(hashed) == 2


def test_a_file_that_changed_just_now_is_not_remembered(
    tmp_path: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SETTLED_NS", 10**18)
    path = tmp_path / "weights"
    path.write_bytes(bytes(LARGE))
    sha256_files([path])
    sha256_files([path])
    assert len(hashed) == 2


def test_a_home_that_cannot_be_written_only_costs_time(
    tmp_path: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    path = tmp_path / "weights"
    path.write_bytes(bytes(LARGE))
    assert sha256_files([path]) == sha256_files([path]) == [sha256_bytes(bytes(LARGE))]
    assert len(hashed) == 2


def test_many_may_write_the_same_entry(tmp_path: Path, hashed: list[Path]) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(LARGE))
    with ThreadPoolExecutor(8) as executor:
        results = set(executor.map(lambda _: sha256_files([path])[0], range(16)))
    assert results == {sha256_bytes(bytes(LARGE))}
    assert 1 <= len(hashed) <= 16
    assert len(list(files.cache_folder().iterdir())) == 1


def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, hashed: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(LARGE))

    def growing(path: Path) -> str:
        path.write_bytes(bytes(LARGE + 1))
        return ""

    monkeypatch.setattr(files, "sha256_file", growing)
    with pytest.raises(ArtifactError, match="changed while it was read"):
        sha256_files([path])
    with pytest.raises(ArtifactError, match="cannot be read"):
        sha256_files([tmp_path / "missing"])
    assert hashed == []
