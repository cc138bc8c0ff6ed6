"""Data sets as their publishers give them out: files of a hub repository, downloaded on first use
or lying in a folder.

License, revision and link: each data set's own; the task that reads it states them. A repository is
a link of the form https://huggingface.co/datasets/OWNER/NAME, and its revision is the commit that
the download resolves to. Rows come from parquet, jsonl, json and csv files; images stay where they
are, in shards or in files beside the rows.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from lingshu.core.errors import InputError, MissingExtraError, one_line
from lingshu.core.files import enumerate_jsonl, storage_errors
from lingshu.core.rows import sample_from_row
from lingshu.core.types import Drop, Image, Sample
from lingshu.sources import parquet

SUFFIXES = (".parquet", ".jsonl", ".json", ".csv")
# A field of a csv file may hold a whole article; the reader's own limit is 128 KB.
MAX_FIELD = 16 << 20
_SHARD_SUFFIX = re.compile(r"-\d{5}-of-\d{5}(?=\.)")


@dataclass(frozen=True)
class HubRepo:
    """Which files of a repository hold a split: patterns relative to it, and zip archives that hold
    more of them.

    `id` is OWNER/NAME on the hub; `link` says where the files come from when they are not there.
    `extra` are patterns of files that are needed beside the rows. With `one` the patterns are other
    names of the same rows: the first that matches is read, and it may match one file or the parts
    of one (NAME-00000-of-00002), no more.
    """

    id: str | None
    files: tuple[str, ...]
    archives: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    revision: str | None = None
    link: str | None = None
    single_table: bool = False

    @property
    def address(self) -> str:
        return self.link or f"https://huggingface.co/datasets/{self.id}"


class RawRow(NamedTuple):
    """One row as it was published: its values, the images of its shard, the file it came from and
    its number there, from 0.
    """

    values: Mapping[str, Any]
    images: Sequence[Image]
    file: str
    row_index: int


class DownloadedRepo:
    """The folders that hold a repository's files; finds rows and images in them.

    Remembers where the last image lay.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = tuple(root.resolve() for root in roots)
        self._folders: list[Path] | None = None

    def files(self, patterns: Sequence[str]) -> list[tuple[str, Path]]:
        """The files that match, by name relative to their root, in order."""
        paths = {
            str(path.relative_to(root)): path
            for root in self.roots
            for pattern in patterns
            for path in root.glob(pattern)
        }
        return sorted((name, path) for name, path in paths.items() if path.is_file())

    def has_files(self, patterns: Sequence[str]) -> bool:
        return any(True for root in self.roots for pattern in patterns for _ in root.glob(pattern))

    def image(self, name: str) -> Image | None:
        """The image that a row names; None where there is none."""
        path = self.find(name)
        return None if path is None else Image(path=str(path))

    def find(self, name: str) -> Path | None:
        """A file by its name relative to a root or to a folder up to two below it; None where there
        is none.
        """
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts or not relative.parts:
            return None
        if self._folders is None:
            subfolders = [
                p
                for root in self.roots
                for pattern in ("*", "*/*")
                for p in sorted(root.glob(pattern))
                if p.is_dir()
            ]
            self._folders = [*self.roots, *subfolders]
        for position, folder in enumerate(self._folders):
            path = folder / relative
            if path.is_file():
                # Images of one data set lie together: the folder of the last one is tried first.
                self._folders.insert(0, self._folders.pop(position))
                return path
        return None


def find_local(repo: HubRepo, folder: Path) -> DownloadedRepo | None:
    """The repository's files in a folder of one's own, archives unpacked; None where its rows are
    not there.
    """
    downloaded = DownloadedRepo([folder])
    return downloaded if folder.is_dir() and downloaded.has_files(repo.files) else None


def download(repo: HubRepo) -> DownloadedRepo:
    """The repository's files in the hub's cache, downloaded if they are not there, archives
    unpacked beside it.

    Raises:
        MissingExtra: huggingface_hub is not installed.
        InputError: it is not on the hub, or cannot be reached; says where to put the data instead.
    """
    snapshot = _snapshot(repo)
    return DownloadedRepo(
        [
            snapshot,
            *(
                _unpack_archive(repo, snapshot, path)
                for _, path in DownloadedRepo([snapshot]).files(repo.archives)
            ),
        ]
    )


def revision(repo: HubRepo) -> str | None:
    """The commit that `download` resolves to: the name of its snapshot folder."""
    return _snapshot(repo).name


def _snapshot(repo: HubRepo) -> Path:
    hint = "put its files or rows.jsonl into DIR/TASK and pass --data DIR (docs/build.md)"
    if repo.id is None:
        raise InputError(f"these data are not on the hub; get them from {repo.address} and {hint}.")
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingExtraError.of("huggingface_hub", "hub") from error
    patterns = [*repo.files, *repo.archives, *repo.extra]
    # To the hub's client "**/name" means a folder at least; here it also means none.
    patterns += [pattern.removeprefix("**/") for pattern in patterns if pattern.startswith("**/")]
    try:
        snapshot = huggingface_hub.snapshot_download(
            repo.id, repo_type="dataset", revision=repo.revision, allow_patterns=patterns
        )
    except Exception as error:
        # The client raises its own, its transport's and the system's errors; for a user all mean
        # that the data are not there.
        raise InputError(
            f"{repo.id} cannot be downloaded from the hub ({one_line(error)[:200]}); or {hint}."
        ) from error
    return Path(snapshot)


def _unpack_archive(repo: HubRepo, snapshot: Path, archive: Path) -> Path:
    """The folder with an archive's files, unpacked once; a kill leaves no half of it under its
    name.
    """
    import huggingface_hub

    cache_folder = huggingface_hub.cached_assets_path(
        "lingshu", namespace=str(repo.id).replace("/", "--"), subfolder=snapshot.name
    )
    target = Path(cache_folder) / archive.stem
    if not target.is_dir():
        unpack(archive, target)
    return target


def unpack(archive: Path, target: Path) -> None:
    """Unpack a zip archive to the folder `target`, whole or not at all; where another process was
    first, its folder stays.

    Raises:
        InputError: the archive is damaged or leads out of its folder, or the folder cannot take its
            name.
        StorageError: the disk refused.
    """
    with storage_errors(target):
        temporary = Path(tempfile.mkdtemp(prefix=f".{archive.stem}.", dir=target.parent))
        try:
            with zipfile.ZipFile(archive) as file:
                for name in file.namelist():
                    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                        raise InputError(
                            f"{archive.name} holds {name!r}, which leads out of its folder; the"
                            " archive is not to be trusted."
                        )
                file.extractall(temporary)
            _rename(temporary, target)
        except zipfile.BadZipFile as error:
            raise InputError(
                f"{archive} is damaged ({error}); delete it so that it is downloaded again."
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _rename(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError as error:
        # Ranks of one run unpack at the same time; a folder that is there under its name is whole.
        if not target.is_dir():
            raise InputError(
                f"{target.name} cannot be unpacked to {target} ({error.strerror}); move away what"
                " lies there."
            ) from error


def rows(repo: HubRepo, downloaded: DownloadedRepo) -> Iterator[RawRow]:
    """Every row of the repository's files in order of file and line.

    Raises:
        InputError: no such file, or one that cannot be read.
    """
    files = (
        _single_table(repo, downloaded) if repo.single_table else _readable(downloaded, repo.files)
    )
    if not files:
        raise InputError(
            f"{downloaded.roots[0]} holds none of {', '.join(repo.files)}; get them from {repo.address}."
        )
    for name, path in files:
        for row_index, (values, images) in enumerate(_read_rows(path)):
            yield RawRow(values, images, name, row_index)


def _readable(downloaded: DownloadedRepo, patterns: Sequence[str]) -> list[tuple[str, Path]]:
    return [(name, path) for name, path in downloaded.files(patterns) if path.suffix in SUFFIXES]


def _single_table(repo: HubRepo, downloaded: DownloadedRepo) -> list[tuple[str, Path]]:
    """The file, or the parts of the file, that the first matching pattern names; empty where none
    matches.
    """
    files_found = next(
        (files for pattern in repo.files if (files := _readable(downloaded, (pattern,)))), []
    )
    base_names = {_SHARD_SUFFIX.sub("", name) for name, _ in files_found}
    if len(base_names) > 1 or (
        len(files_found) > 1 and not all(_SHARD_SUFFIX.search(name) for name, _ in files_found)
    ):
        names = ", ".join(name for name, _ in files_found[:8])
        raise InputError(
            f"{downloaded.roots[0]} holds {names}, of which only one can be meant; move the others away."
        )
    return files_found


def _read_rows(path: Path) -> Iterator[tuple[Mapping[str, Any], Sequence[Image]]]:
    if path.suffix == ".parquet":
        yield from parquet.rows(path)
    elif path.suffix == ".jsonl":
        yield from ((row, ()) for _, row in enumerate_jsonl(path, allow_truncated=False))
    elif path.suffix == ".csv":
        yield from ((row, ()) for row in read_csv_rows(path))
    else:
        yield from ((row, ()) for row in read_json_records(path))


def read_csv_rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a csv file, also gzipped, by the names in its first line.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        opener = gzip.open if path.suffix == ".gz" else open
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            csv.field_size_limit(MAX_FIELD)
            yield from csv.DictReader(file)
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read as a table ({one_line(error)}); copy the file again."
        ) from error


def read_json_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a json file: a list of them, or an object whose values they are (its keys go
    to `_key`).

    A file of JSON lines that is called .json is read too. What is no object itself goes to
    `_value`.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} cannot be read ({one_line(error)}); copy the file again."
        ) from error
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        yield from (row for _, row in enumerate_jsonl(path, allow_truncated=False))
        return
    if (
        isinstance(value, dict)
        and value
        and all(isinstance(v, dict | list) for v in value.values())
    ):
        yield from (
            {"_key": key, **(v if isinstance(v, dict) else {"_value": v})}
            for key, v in value.items()
        )
        return
    for item in value if isinstance(value, list) else [value]:
        yield item if isinstance(item, dict) else {"_value": item}


def read(path: Path) -> Iterator[Sample | Drop]:
    """The question-and-answer rows of files on the hub, named as OWNER/NAME/PATTERN; core/rows.py
    says what a row may hold.

    Raises:
        InputError: no such files, or the hub cannot be reached.
        MissingExtra: huggingface_hub is not installed.
    """
    owner, _, rest = path.as_posix().partition("/")
    name, _, pattern = rest.partition("/")
    if not (owner and name and pattern):
        raise InputError(
            f"{path} names no files on the hub; give OWNER/NAME/PATTERN, such as"
            " owner/set/data/train-*.parquet."
        )
    repo = HubRepo(f"{owner}/{name}", (pattern,))
    for row_number, raw in enumerate(rows(repo, download(repo)), 1):
        yield sample_from_row(
            {**raw.values, "id": raw.values.get("id") or f"{raw.file}-{raw.row_index}"},
            row_number,
            raw.images,
        )
