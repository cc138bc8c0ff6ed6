"""Datasets as published: files of a hub repository, downloaded on first use or in a local folder.

License, revision and link: each dataset's own; the task that reads it states them. A repository is
a link of the form https://huggingface.co/datasets/OWNER/NAME, and its revision is the commit that
the download resolves to. Rows come from parquet, jsonl, json and csv files; images stay in the
shards or files of the repository.
"""

from __future__ import annotations

import csv
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
from lingshu.sources.csv import open_table

SUFFIXES = (".parquet", ".jsonl", ".json", ".csv")
_SHARD_SUFFIX = re.compile(r"-\d{5}-of-\d{5}(?=\.)")
NamedPath = tuple[str, Path]  # a file and its name relative to its root


@dataclass(frozen=True)
class HubRepo:
    """Patterns for the files of a split, and for zip archives that hold more of them.

    `id` is OWNER/NAME on the hub; `link` says where the files come from if they are not there.
    `extra` are patterns of files needed in addition to the rows. With `single_table` the patterns
    are alternative names of the same rows: the first that matches is read, and it may match one
    file or its parts (NAME-00000-of-00002), no more.
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
    """A row as published: values, images of its shard, file name, and number in it from 0."""

    values: Mapping[str, Any]
    images: Sequence[Image]
    file: str
    row_index: int


class DownloadedRepo:
    """The folders that hold a repository's files; finds rows and images in them."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = tuple(root.resolve() for root in roots)
        self._folders: list[Path] | None = None

    def files(self, patterns: Sequence[str]) -> list[NamedPath]:
        """The files that match, in order of their names relative to a root."""
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
        """The image that a row names, if it is there."""
        path = self.find(name)
        return None if path is None else Image(path=str(path))

    def find(self, name: str) -> Path | None:
        """A file by its name relative to a root or to a folder up to two levels below it."""
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts or not relative.parts:
            return None
        if self._folders is None:
            globs = [(root, pattern) for root in self.roots for pattern in ("*", "*/*")]
            found = [path for root, pattern in globs for path in sorted(root.glob(pattern))]
            self._folders = [*self.roots, *(path for path in found if path.is_dir())]
        for position, folder in enumerate(self._folders):
            path = folder / relative
            if path.is_file():
                # Images of one dataset are close together: the folder of the last one comes first.
                self._folders.insert(0, self._folders.pop(position))
                return path
        return None


def find_local(repo: HubRepo, folder: Path) -> DownloadedRepo | None:
    """The repository's files in your own folder, archives unpacked; None without its rows."""
    downloaded = DownloadedRepo([folder])
    return downloaded if folder.is_dir() and downloaded.has_files(repo.files) else None


def download(repo: HubRepo) -> DownloadedRepo:
    """The repository's files in the hub's cache, downloaded if necessary, archives unpacked.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        InputError: not on the hub, or not reachable; says where to put the data instead.
    """
    snapshot = _snapshot(repo)
    archives = DownloadedRepo([snapshot]).files(repo.archives)
    return DownloadedRepo([snapshot, *(_unpacked(repo, snapshot, path) for _, path in archives)])


def revision(repo: HubRepo) -> str | None:
    """The commit that `download` resolves to: the name of its snapshot folder."""
    return _snapshot(repo).name


def _snapshot(repo: HubRepo) -> Path:
    hint = "put its files or rows.jsonl into DIR/TASK and pass --data DIR (docs/build.md)"
    if repo.id is None:
        raise InputError(f"this dataset is not on the hub; get it from {repo.address} and {hint}.")
    try:
        import huggingface_hub
    except ImportError as error:
        raise MissingExtraError.of("huggingface_hub", "hub") from error
    patterns = [*repo.files, *repo.archives, *repo.extra]
    # To the hub's client "**/name" requires a folder; here it also matches without one.
    patterns += [pattern.removeprefix("**/") for pattern in patterns if pattern.startswith("**/")]
    try:
        snapshot = huggingface_hub.snapshot_download(
            repo.id, repo_type="dataset", revision=repo.revision, allow_patterns=patterns
        )
    except Exception as error:
        # The client raises its own, its transport's and the system's errors; to a user all mean
        # that the data is not available.
        problem = f"cannot be downloaded from the hub ({one_line(error)[:200]})"
        raise InputError(f"{repo.id} {problem}; or {hint}.") from error
    return Path(snapshot)


def _unpacked(repo: HubRepo, snapshot: Path, archive: Path) -> Path:
    """The folder with an archive's files, unpacked once."""
    import huggingface_hub

    namespace = str(repo.id).replace("/", "--")
    cache_folder = huggingface_hub.cached_assets_path(
        "lingshu", namespace=namespace, subfolder=snapshot.name
    )
    target = Path(cache_folder) / archive.stem
    if not target.is_dir():
        unpack(archive, target)
    return target


def unpack(archive: Path, target: Path) -> None:
    """Unpack a zip archive to the folder `target`, completely or not at all.

    If another process was first, its folder is kept.

    Raises:
        InputError: the archive is damaged or leads out of its folder, or `target` is in the way.
        StorageError: the disk refused.
    """
    with storage_errors(target):
        temporary = Path(tempfile.mkdtemp(prefix=f".{archive.stem}.", dir=target.parent))
        try:
            with zipfile.ZipFile(archive) as file:
                for name in file.namelist():
                    path = PurePosixPath(name)
                    if path.is_absolute() or ".." in path.parts:
                        problem = f"{archive.name} holds {name!r}, which leads out of its folder"
                        raise InputError(f"{problem}; do not trust the archive.")
                file.extractall(temporary)
            _rename(temporary, target)
        except zipfile.BadZipFile as error:
            remedy = "delete it so that it is downloaded again"
            raise InputError(f"{archive} is damaged ({error}); {remedy}.") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _rename(folder: Path, target: Path) -> None:
    try:
        folder.rename(target)
    except OSError as error:
        # Ranks of one run unpack at the same time; an existing folder of that name is complete.
        if not target.is_dir():
            problem = f"{target.name} cannot be unpacked to {target} ({error.strerror})"
            raise InputError(f"{problem}; move away what is there.") from error


def rows(repo: HubRepo, downloaded: DownloadedRepo) -> Iterator[RawRow]:
    """Every row of the repository's files in order of file and line.

    Raises:
        InputError: no such file, or one that cannot be read.
    """
    select = _single_table if repo.single_table else _readable
    files = select(downloaded, repo.files)
    if not files:
        problem = f"{downloaded.roots[0]} holds none of {', '.join(repo.files)}"
        raise InputError(f"{problem}; get them from {repo.address}.")
    for name, path in files:
        for row_index, (values, images) in enumerate(_read_rows(path)):
            yield RawRow(values, images, name, row_index)


def _readable(downloaded: DownloadedRepo, patterns: Sequence[str]) -> list[NamedPath]:
    return [(name, path) for name, path in downloaded.files(patterns) if path.suffix in SUFFIXES]


def _single_table(downloaded: DownloadedRepo, patterns: Sequence[str]) -> list[NamedPath]:
    """The file, or the parts of the file, of the first pattern that matches."""
    matches = (_readable(downloaded, (pattern,)) for pattern in patterns)
    files = next(filter(None, matches), [])
    names = [name for name, _ in files]
    is_one_table = len({_SHARD_SUFFIX.sub("", name) for name in names}) <= 1
    if not is_one_table or (len(files) > 1 and not all(map(_SHARD_SUFFIX.search, names))):
        problem = f"{downloaded.roots[0]} holds {', '.join(names[:8])}"
        raise InputError(f"{problem}, of which only one can be meant; move the others away.")
    return files


def _read_rows(path: Path) -> Iterator[tuple[Mapping[str, Any], Sequence[Image]]]:
    if path.suffix == ".parquet":
        yield from parquet.rows(path)
    elif path.suffix == ".jsonl":
        yield from ((row, ()) for _, row in enumerate_jsonl(path, allow_truncated=False))
    else:
        read_records = read_csv_rows if path.suffix == ".csv" else read_json_records
        yield from ((row, ()) for row in read_records(path))


def read_csv_rows(path: Path) -> Iterator[dict[str, str]]:
    """The rows of a csv file, also gzipped, by the names in its first line.

    Raises:
        InputError: the file cannot be read.
    """
    with open_table(path, errors="strict") as file:
        yield from csv.DictReader(file)


def read_json_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a json file: a list, or an object of objects (its keys go to `_key`).

    A file of JSON lines that is called .json is read too. What is not an object goes to `_value`.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path} cannot be read ({one_line(error)}); copy the file again."
        raise InputError(message) from error
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        yield from (row for _, row in enumerate_jsonl(path, allow_truncated=False))
        return
    values = value.values() if isinstance(value, dict) else ()
    if values and all(isinstance(item, dict | list) for item in values):
        yield from ({"_key": key, **_record(item)} for key, item in value.items())
    else:
        yield from map(_record, value if isinstance(value, list) else [value])


def _record(item: object) -> dict[str, Any]:
    return item if isinstance(item, dict) else {"_value": item}


def read(path: Path) -> Iterator[Sample | Drop]:
    """Rows (core/rows.py) of files on the hub, named as OWNER/NAME/PATTERN.

    Raises:
        InputError: no such files, or the hub cannot be reached.
        MissingExtraError: huggingface_hub is not installed.
    """
    owner, _, rest = path.as_posix().partition("/")
    name, _, pattern = rest.partition("/")
    if not (owner and name and pattern):
        remedy = "give OWNER/NAME/PATTERN, such as owner/set/data/train-*.parquet"
        raise InputError(f"{path} names no files on the hub; {remedy}.")
    repo = HubRepo(f"{owner}/{name}", (pattern,))
    for row_number, raw in enumerate(rows(repo, download(repo)), 1):
        fields = {**raw.values, "id": raw.values.get("id") or f"{raw.file}-{raw.row_index}"}
        yield sample_from_row(fields, row_number, raw.images)
