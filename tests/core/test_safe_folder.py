"""Files that clients name: nothing outside the folder is opened, and no refusal tells what is
there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lingshu.core.errors import ConfigError, InputError
from lingshu.core.safe_folder import REFUSED_MESSAGE, SafeFolder

SECRET = b"canary"


@pytest.fixture
def root_folder(tmp_path: Path) -> Iterator[Path]:
    remaining_sources = tmp_path / "root" / "a b"
    remaining_sources.mkdir(parents=True)
    (remaining_sources / "scan.png").write_bytes(b"scan")
    (tmp_path / "secret").write_bytes(SECRET)
    (tmp_path / "root_evil").mkdir()
    (tmp_path / "root_evil" / "secret").write_bytes(SECRET)
    (tmp_path / "root" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "root" / "up").symlink_to(tmp_path)
    (tmp_path / "root" / "inner").symlink_to(remaining_sources / "scan.png")
    os.mkfifo(tmp_path / "root" / "pipe")
    yield tmp_path


def test_files_below_the_folder_are_read(root_folder: Path) -> None:
    root = SafeFolder(root_folder / "root")
    for name in (
        "a b/scan.png",
        f"{root_folder}/root/a b/scan.png",
        f"file://{root_folder}/root/a%20b/scan.png",
        f"FILE://localhost{root_folder}/root/a%20b/scan.png",
    ):
        assert root.read(name, max_bytes=10) == b"scan"
    assert root.path("a b") == root_folder / "root" / "a b"


def test_the_folder_itself_may_be_a_link(root_folder: Path) -> None:
    (root_folder / "alias").symlink_to(root_folder / "root")
    assert (
        SafeFolder(root_folder / "alias").read(f"{root_folder}/alias/a b/scan.png", max_bytes=10)
        == b"scan"
    )


NAMES = (
    "../secret", "a b/../../secret", "{root_folder}/secret", "{root_folder}/root_evil/secret", "{root_folder}/root/../secret", "/etc/passwd", "/dev/zero",
    "link", "up/secret", "inner", "pipe", "a b", "", ".", "a b/scan.png/x", "nothing", "a b/scan.png\0", "~/x", "/proc/self/environ",
    "file:///etc/passwd", "file://{root_folder}/secret", "file://host{root_folder}/root/a%20b/scan.png", "file://{root_folder}/root/%2e%2e/secret",
    "file://{root_folder}/root/..%2fsecret", "file:///%ff", "file://[", "file://{root_folder}/root/a%20b/scan.png?x", "x" * 5000,
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_nothing_else_is_opened_and_every_refusal_has_the_same_text(
    root_folder: Path, name: str
) -> None:
    with pytest.raises(InputError) as refused:
        SafeFolder(root_folder / "root").read(name.format(root_folder=root_folder), max_bytes=10)
    assert str(refused.value) == REFUSED_MESSAGE


def test_a_path_is_given_for_what_could_be_opened_alone(root_folder: Path) -> None:
    for name in ("up", "link", "../root_evil", "pipe", f"{root_folder}/root_evil"):
        with pytest.raises(InputError, match="no such file below"):
            SafeFolder(root_folder / "root").path(name)


def test_large_files_are_refused(root_folder: Path) -> None:
    with pytest.raises(InputError, match="the file has"):
        SafeFolder(root_folder / "root").read("a b/scan.png", max_bytes=3)


def test_a_root_must_be_a_folder(root_folder: Path) -> None:
    for name in ("nothing", "secret"):
        with pytest.raises(ConfigError, match="--root"):
            SafeFolder(root_folder / name)
