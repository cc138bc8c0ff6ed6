"""Images inside zip and tar archives, read member by member; nothing is ever unpacked to the disk.

License, revision and link: the user's own; a recipe states them, and until then every sample counts
as private.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, cast

from lingshu.core.errors import ImageError, InputError
from lingshu.core.pseudonyms import check_key
from lingshu.core.types import Drop, Image, Meta, Sample
from lingshu.deidentify.ids import (
    FileNaming,
    IdDeduplicator,
    NamePolicy,
    file_naming,
    image_messages,
    use_folder_labels,
    with_ids,
)
from lingshu.imaging.files import IMAGE_SUFFIXES, iter_files
from lingshu.imaging.headers import read_header
from lingshu.imaging.read import MAX_BYTES

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2")
MAX_ENTRIES = 1_000_000
# Images hardly shrink; what grows a hundredfold is made to fill memory or time. Small members may
# be flat pictures.
MAX_RATIO = 100
_MIN_RATIO_BYTES = 1 << 20
# Names and other notes about a member that a tar archive holds in members of their own.
_MAX_EXTENDED_HEADER_BYTES = 1 << 20
_DRIVE = re.compile(r"[A-Za-z]:")


def read(
    path: Path,
    *,
    labels: bool | None = None,
    question: str | None = None,
    patient: str | None = None,
    names: NamePolicy = "keep",
    key: bytes | None = None,
) -> Iterator[Sample | Drop]:
    """The images in a zip or tar archive (also .tar.gz, .tar.bz2), or in every archive below a
    folder, in order.

    Samples hold their images. The options are those of the source `folders`. Drops: unsafe_name
    (absolute, `..`, a drive), link, special_entry (devices, pipes, sparse files), encrypted,
    too_large (over 64 MB), bomb, bad_entry, not_an_image, bad_image, duplicate_id, bad_archive.

    Raises:
        InputError: no such file, a file that is no archive, or an option that is none.
    """
    namer = file_naming(names, check_key(key), patient)
    labels = use_folder_labels(labels, names, question)
    if path.is_file() and _archive_type(path) is None:
        raise InputError(
            f"{path} is no zip or tar archive; give one ending in .zip, {', '.join(TAR_SUFFIXES)}."
        )
    is_folder = not path.is_file()
    archives = [path / relative for relative in iter_files(path)] if is_folder else [path]
    deduplicate = IdDeduplicator()
    for archive in archives:
        if _archive_type(archive) is None:
            yield Drop(
                namer.sample_id(archive.relative_to(path)),
                "bad_archive",
                "a file that is no zip or tar archive.",
            )
            continue
        prefix = archive.relative_to(path).with_suffix("") if is_folder else PurePosixPath()
        for member_number, member in enumerate(_iter_members(archive), 1):
            yield deduplicate(
                _sample(
                    member,
                    member_number,
                    PurePosixPath(prefix),
                    namer,
                    labels=labels,
                    question=question,
                )
            )


class _Member(NamedTuple):
    """A member by name with its bytes, or with the reason why it is left out."""

    name: str
    data: bytes = b""
    reason: str = ""
    detail: str = ""


class _ArchiveBomb(Exception):
    """More came out of an archive than an archive of images can hold."""


def _archive_type(path: Path) -> str | None:
    name = path.name.lower()
    return "zip" if name.endswith(".zip") else "tar" if name.endswith(TAR_SUFFIXES) else None


def _iter_members(archive: Path) -> Iterator[_Member]:
    try:
        yield from _iter_zip(archive) if _archive_type(archive) == "zip" else _iter_tar(archive)
    except _ArchiveBomb:
        yield _Member(
            "",
            reason="bomb",
            detail="it unpacks to far more than an archive of images; the rest is not read.",
        )
    except Exception as error:
        # On damaged headers the readers raise a dozen classes, whose messages quote names.
        yield _Member(
            "",
            reason="bad_archive",
            detail=f"it is damaged or cut short ({type(error).__name__}); the rest is not read.",
        )


def _sample(
    member: _Member,
    member_number: int,
    prefix: PurePosixPath,
    namer: FileNaming,
    *,
    labels: bool,
    question: str | None,
) -> Sample | Drop:
    relative = prefix / (member.name or f"entry-{member_number}")
    if member.reason:
        # A name that is refused is not repeated: it may be anything.
        name = (
            f"{prefix.name}-entry-{member_number}"
            if namer.names == "keep" and prefix.name
            else f"entry-{member_number}"
        )
        return Drop(name, member.reason, f"entry {member_number}: {member.detail}")
    name = namer.sample_id(relative)
    try:
        read_header(member.data, name=f"entry {member_number}")
    except ImageError as error:
        return Drop(name, "bad_image", str(error))
    member_path = PurePosixPath(member.name)
    label = member_path.parts[0] if labels and len(member_path.parts) > 1 else None
    meta = Meta(
        kind="label" if label and question else None, extra={"label": label} if label else {}
    )
    image = Image(data=member.data)
    gold = (label,) if label and question else None
    return Sample(
        name,
        image_messages((image,), question),
        (image,),
        gold,
        meta=with_ids(meta, namer.patient_ids(relative)),
    )


def _check_member(name: str, size: int) -> _Member | None:
    """Why a member is not read, by its name and stated size; None where it may be."""
    path = PurePosixPath(name)
    # Backslashes separate folders on Windows, so "..\\x" climbs there.
    if (
        not name
        or "\0" in name
        or "\\" in name
        or path.is_absolute()
        or ".." in path.parts
        or _DRIVE.match(name)
    ):
        return _Member(
            name,
            reason="unsafe_name",
            detail="its name leads out of the archive; the archive is not to be trusted.",
        )
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        return _Member(name, reason="not_an_image", detail=f"none of {' '.join(IMAGE_SUFFIXES)}.")
    if size > MAX_BYTES:
        return _Member(
            name, reason="too_large", detail=f"{size >> 20} MB are more than {MAX_BYTES >> 20} MB."
        )
    return None


def _iter_zip(archive: Path) -> Iterator[_Member]:
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


def _check_zip_member(info: zipfile.ZipInfo, kind: int) -> _Member | None:
    name = info.orig_filename
    if kind == stat.S_IFLNK:
        return _Member(name, reason="link", detail="a link; links are not followed.")
    if kind not in (0, stat.S_IFREG):
        return _Member(name, reason="special_entry", detail="a device, pipe or socket.")
    rejected = _check_member(name, info.file_size)
    if rejected:
        return rejected
    if info.flag_bits & 1:
        return _Member(
            name, reason="encrypted", detail="encrypted; unpack it with its password first."
        )
    if info.file_size > _MIN_RATIO_BYTES and info.file_size > MAX_RATIO * info.compress_size:
        return _Member(
            name, reason="bomb", detail="it unpacks to more than a hundred times its size."
        )
    return None


def _read_zip_member(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    try:
        with file.open(info) as stream:
            return _Member(info.filename, stream.read(MAX_BYTES + 1))
    except Exception as error:
        # As for a whole archive: BadZipFile, zlib.error, EOFError, NotImplementedError,
        # RuntimeError and more.
        return _Member(
            info.filename, reason="bad_entry", detail=f"damaged ({type(error).__name__})."
        )


class _BoundedStream:
    """A stream that stops once more has come out of it than `limit`."""

    def __init__(self, file: BinaryIO, limit: int) -> None:
        self._file, self._remaining = file, limit

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._remaining -= len(data)
        if self._remaining < 0:
            raise _ArchiveBomb
        return data


class _BoundedTarInfo(tarfile.TarInfo):
    """A member whose notes (long names, extended headers) are bounded: tarfile would read them
    whole, whatever they claim.
    """

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        extended_types = (
            tarfile.XHDTYPE,
            tarfile.XGLTYPE,
            tarfile.SOLARIS_XHDTYPE,
            tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK,
        )
        if self.type in extended_types and not 0 <= self.size <= _MAX_EXTENDED_HEADER_BYTES:
            raise _ArchiveBomb
        return super()._proc_member(tar)  # type: ignore[misc]


def _iter_tar(archive: Path) -> Iterator[_Member]:
    with contextlib.ExitStack() as stack:
        name, size = archive.name.lower(), archive.stat().st_size
        stream: BinaryIO
        if name.endswith((".gz", ".tgz")):
            stream, limit = (
                cast(BinaryIO, stack.enter_context(gzip.open(archive))),
                MAX_RATIO * size + MAX_BYTES,
            )
        elif name.endswith((".bz2", ".tbz2")):
            stream, limit = (
                cast(BinaryIO, stack.enter_context(bz2.open(archive))),
                MAX_RATIO * size + MAX_BYTES,
            )
        else:
            stream, limit = stack.enter_context(archive.open("rb")), size
        # As a stream: members are read in their order and nothing is sought.
        tar = stack.enter_context(
            tarfile.open(fileobj=_BoundedStream(stream, limit), mode="r|", tarinfo=_BoundedTarInfo)  # type: ignore[call-overload]
        )
        for index, info in enumerate(tar):
            if index >= MAX_ENTRIES:
                raise _ArchiveBomb
            # tarfile keeps every member it met.
            tar.members = []
            if not info.isdir():
                yield _check_tar_member(info) or _read_tar_member(tar, info)


def _check_tar_member(info: tarfile.TarInfo) -> _Member | None:
    if info.issym() or info.islnk():
        return _Member(info.name, reason="link", detail="a link; links are not followed.")
    if not info.isreg() or info.issparse():
        return _Member(info.name, reason="special_entry", detail="a device, pipe or sparse file.")
    return _check_member(info.name, info.size)


def _read_tar_member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    stream = tar.extractfile(info)
    data = stream.read(MAX_BYTES + 1) if stream else b""
    if len(data) != info.size:
        return _Member(info.name, reason="bad_entry", detail="cut short.")
    return _Member(info.name, data)
