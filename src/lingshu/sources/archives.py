"""Images inside zip and tar archives, read member by member without unpacking them to the disk.

License, revision and link: the user's own; a recipe states them, and until then every sample counts
as private.
"""

from __future__ import annotations

import bz2
import gzip
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

from lingshu.core.errors import ImageError, InputError
from lingshu.core.pseudonyms import check_key
from lingshu.core.rows import RowError
from lingshu.core.types import Drop, Image, Meta, Sample
from lingshu.deidentify import ids
from lingshu.imaging.files import IMAGE_SUFFIXES, iter_files
from lingshu.imaging.headers import read_header
from lingshu.imaging.read import MAX_BYTES

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2")
MAX_ENTRIES = 1_000_000
# Images hardly compress; what grows a hundredfold is made to fill memory or time. Small members may
# be flat images.
MAX_RATIO = 100
_MIN_RATIO_BYTES = 1 << 20
# Tar members with names and other notes about the next member.
_EXTENDED_TYPES = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_MAX_EXTENDED_HEADER_BYTES = 1 << 20
_DRIVE = re.compile(r"[A-Za-z]:")


def read(
    path: Path,
    *,
    labels: bool | None = None,
    question: str | None = None,
    patient: str | None = None,
    names: ids.NamePolicy = "keep",
    key: bytes | None = None,
) -> Iterator[Sample | Drop]:
    """The images in a zip or tar archive (.tar.gz, .tar.bz2), or in every archive below a folder.

    Samples hold their images. The options are those of the source `folders`. Drops: unsafe_name
    (absolute, `..`, a drive), link, special_entry (devices, pipes, sparse files), encrypted,
    too_large (over 64 MB), bomb, bad_entry, not_an_image, bad_image, duplicate_id, bad_archive.

    Raises:
        InputError: no such file, not an archive, or a wrong option.
    """
    namer = ids.file_naming(names, check_key(key), patient)
    labels = ids.use_folder_labels(labels, names, question)
    is_folder = not path.is_file()
    if not is_folder and _archive_type(path) is None:
        remedy = f"give one ending in .zip, {', '.join(TAR_SUFFIXES)}"
        raise InputError(f"{path} is not a zip or tar archive; {remedy}.")
    archives = [path / relative for relative in iter_files(path)] if is_folder else [path]
    deduplicate = ids.IdDeduplicator()
    for archive in archives:
        if _archive_type(archive) is None:
            name = namer.sample_id(archive.relative_to(path))
            yield Drop(name, "bad_archive", "not a zip or tar archive.")
            continue
        prefix = archive.relative_to(path).with_suffix("") if is_folder else PurePosixPath()
        for number, member in enumerate(_iter_members(archive), 1):
            sample = _sample(member, number, PurePosixPath(prefix), namer, labels, question)
            yield deduplicate(sample)


class _Member(NamedTuple):
    """A member of an archive by name."""

    name: str
    data: bytes


# A member, or the reason and the detail why it is left out.
_Result = _Member | RowError


class _ArchiveBomb(Exception):
    """More came out of an archive than an archive of images can hold."""


def _archive_type(path: Path) -> str | None:
    name = path.name.lower()
    if name.endswith(".zip"):
        return "zip"
    return "tar" if name.endswith(TAR_SUFFIXES) else None


def _iter_members(archive: Path) -> Iterator[_Result]:
    try:
        yield from _iter_zip(archive) if _archive_type(archive) == "zip" else _iter_tar(archive)
    except _ArchiveBomb:
        detail = "it unpacks to far more than an archive of images; the rest is not read."
        yield RowError(f"bomb: {detail}")
    except Exception as error:
        # On damaged headers the readers raise a dozen classes, whose messages quote names.
        detail = f"it is damaged or truncated ({type(error).__name__}); the rest is not read."
        yield RowError(f"bad_archive: {detail}")


def _sample(
    member: _Result,
    number: int,
    prefix: PurePosixPath,
    namer: ids.FileNaming,
    labels: bool,
    question: str | None,
) -> Sample | Drop:
    entry = f"entry-{number}"
    if isinstance(member, RowError):
        # A name that is refused is not repeated: it may be anything.
        name = f"{prefix.name}-{entry}" if namer.names == "keep" and prefix.name else entry
        drop = member.to_drop(name)
        return replace(drop, detail=f"entry {number}: {drop.detail}")
    relative = prefix / (member.name or entry)
    name = namer.sample_id(relative)
    try:
        read_header(member.data, name=f"entry {number}")
    except ImageError as error:
        return Drop(name, "bad_image", str(error))
    parts = PurePosixPath(member.name).parts
    label = parts[0] if labels and len(parts) > 1 else None
    gold = (label,) if label and question else None
    extra = {"label": label} if label else {}
    meta = ids.with_ids(
        Meta(kind="label" if gold else None, extra=extra), namer.patient_ids(relative)
    )
    image = Image(data=member.data)
    return Sample(name, ids.image_messages((image,), question), (image,), gold, meta=meta)


def _check_member(name: str, size: int) -> RowError | None:
    """Why a member is not read, by its name and stated size; None if it may be."""
    path = PurePosixPath(name)
    # A backslash separates folders on Windows, so "..\\x" leads upward there.
    is_absolute = path.is_absolute() or _DRIVE.match(name)
    if not name or "\0" in name or "\\" in name or ".." in path.parts or is_absolute:
        return RowError("unsafe_name: its name leads out of the archive; do not trust the archive.")
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return RowError(f"not_an_image: none of {' '.join(IMAGE_SUFFIXES)}.")
    if size > MAX_BYTES:
        return RowError(f"too_large: {size >> 20} MB are more than {MAX_BYTES >> 20} MB.")
    return None


def _iter_zip(archive: Path) -> Iterator[_Result]:
    limit, total = MAX_RATIO * archive.stat().st_size + MAX_BYTES, 0
    with zipfile.ZipFile(archive) as file:
        for index, info in enumerate(file.infolist()):
            total += min(info.file_size, MAX_BYTES)
            if index >= MAX_ENTRIES or total > limit:
                raise _ArchiveBomb
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.filename.endswith("/") and kind in (0, stat.S_IFDIR):
                continue
            yield _check_zip_member(info, kind) or _read_zip_member(file, info)


def _check_zip_member(info: zipfile.ZipInfo, kind: int) -> RowError | None:
    if kind == stat.S_IFLNK:
        return RowError("link: a link; links are not followed.")
    if kind not in (0, stat.S_IFREG):
        return RowError("special_entry: a device, pipe or socket.")
    size = info.file_size
    if problem := _check_member(info.orig_filename, size):
        return problem
    if info.flag_bits & 1:
        return RowError("encrypted: encrypted; unpack it with its password first.")
    if size > _MIN_RATIO_BYTES and size > MAX_RATIO * info.compress_size:
        return RowError("bomb: it unpacks to more than a hundred times its size.")
    return None


def _read_zip_member(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Result:
    try:
        with file.open(info) as stream:
            return _Member(info.filename, stream.read(MAX_BYTES + 1))
    except Exception as error:
        # BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError and more.
        return RowError(f"bad_entry: damaged ({type(error).__name__}).")


class _BoundedStream:
    """A stream that stops once more than `limit` bytes were read."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file, self._remaining = file, limit

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._remaining -= len(data)
        if self._remaining < 0:
            raise _ArchiveBomb
        return data


class _BoundedTarInfo(tarfile.TarInfo):
    """A member whose extended headers are bounded: tarfile would read them in full."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _EXTENDED_TYPES and not 0 <= self.size <= _MAX_EXTENDED_HEADER_BYTES:
            raise _ArchiveBomb
        return super()._proc_member(tar)  # type: ignore[misc]


def _iter_tar(archive: Path) -> Iterator[_Result]:
    name, limit = archive.name.lower(), archive.stat().st_size
    opener: Callable[..., Any] = open
    if not name.endswith(".tar"):
        opener = gzip.open if name.endswith("gz") else bz2.open
        limit = MAX_RATIO * limit + MAX_BYTES
    with opener(archive, "rb") as file:
        stream = _BoundedStream(file, limit)
        # As a stream: members are read in their order, without seeking.
        options: dict[str, Any] = {"fileobj": stream, "mode": "r|", "tarinfo": _BoundedTarInfo}
        with tarfile.open(**options) as tar:
            for index, info in enumerate(tar):
                if index >= MAX_ENTRIES:
                    raise _ArchiveBomb
                tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every member
                if not info.isdir():
                    yield _check_tar_member(info) or _read_tar_member(tar, info)


def _check_tar_member(info: tarfile.TarInfo) -> RowError | None:
    if info.issym() or info.islnk():
        return RowError("link: a link; links are not followed.")
    if not info.isreg() or info.issparse():
        return RowError("special_entry: a device, pipe or sparse file.")
    return _check_member(info.name, info.size)


def _read_tar_member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> _Result:
    stream = tar.extractfile(info)
    data = stream.read(MAX_BYTES + 1) if stream else b""
    if len(data) != info.size:
        return RowError("bad_entry: truncated.")
    return _Member(info.name, data)
