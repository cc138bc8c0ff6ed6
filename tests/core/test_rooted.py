"""Files that clients name: nothing outside the folder is opened, and no refusal tells what is
there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lingshu.core.errors import ConfigError, InputError
from lingshu.core.rooted import REFUSED, Rooted

SECRET = b"canary"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    inside = tmp_path / "root" / "a b"
    inside.mkdir(parents=True)
    (inside / "scan.png").write_bytes(b"scan")
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "root_evil").mkdir()
    (tmp_path / "root_evil" / "secret").write_bytes(SECRET)
    (tmp_path / "root" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "root" / "up").symlink_to(tmp_path)
    (tmp_path / "root" / "inner").symlink_to(inside / "scan.png")
    os.mkfifo(tmp_path / "root" / "pipe")
    yield tmp_path


def test_files_below_the_folder_are_read(place: Path) -> None:
    root = Rooted(place / "root")
    for name in (
        "a b/scan.png",
        f"{place}/root/a b/scan.png",
        f"file://{place}/root/a%20b/scan.png",
        f"FILE://localhost{place}/root/a%20b/scan.png",
    ):
        assert root.read(name, limit=10) == b"scan"
    assert root.path("a b") == place / "root" / "a b"


def test_the_folder_itself_may_be_a_link(place: Path) -> None:
    (place / "alias").symlink_to(place / "root")
    assert Rooted(place / "alias").read(f"{place}/alias/a b/scan.png", limit=10) == b"scan"


NAMES = (
    "../secret", "a b/../../secret", "{place}/secret", "{place}/root_evil/secret", "{place}/root/../secret", "/etc/passwd", "/dev/zero",
    "link", "up/secret", "inner", "pipe", "a b", "", ".", "a b/scan.png/x", "nothing", "a b/scan.png\0", "~/x", "/proc/self/environ",
    "file:///etc/passwd", "file://{place}/secret", "file://host{place}/root/a%20b/scan.png", "file://{place}/root/%2e%2e/secret",
    "file://{place}/root/..%2fsecret", "file:///%ff", "file://[", "file://{place}/root/a%20b/scan.png?x", "x" * 5000,
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_nothing_else_is_opened_and_every_refusal_reads_alike(place: Path, name: str) -> None:
    with pytest.raises(InputError) as refused:
        Rooted(place / "root").read(name.format(place=place), limit=10)
    assert str(refused.value) == REFUSED


def test_a_path_is_given_for_what_could_be_opened_alone(place: Path) -> None:
    for name in ("up", "link", "../root_evil", "pipe", f"{place}/root_evil"):
        with pytest.raises(InputError, match="no such file below"):
            Rooted(place / "root").path(name)


def test_large_files_are_refused(place: Path) -> None:
    with pytest.raises(InputError, match="the file has"):
        Rooted(place / "root").read("a b/scan.png", limit=3)


def test_a_root_must_be_a_folder(place: Path) -> None:
    for name in ("nothing", "secret"):
        with pytest.raises(ConfigError, match="--root"):
            Rooted(place / name)
