"""Files on disk: atomic files and folders, JSONL that survives a kill, manifests with sha256."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, Self, TypeVar, cast

from lingshu.core.errors import ArtifactError, InputError, StorageError

MANIFEST = "manifest.json"
CACHED_BYTES = 1 << 20  # smaller files are hashed again: that is faster than a second file
# A file that changed less than this before it was hashed could change again within one tick of the
# clock of its file system, with equal times; the coarsest clocks in use tick every two seconds.
SETTLED_NS = 2_500_000_000
HASH_THREADS = 4
ROW_SHA256, ROW_SHA256_DIGITS = "row_sha256", 16
_ROW_SHA256_START = f', "{ROW_SHA256}": '.encode()
T = TypeVar("T")

FileStat = tuple[int, int, int, int, int]
_DISK_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_ACCESS_ERRNOS = {
    *(errno.ENOENT, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
}
_OS_ERROR = re.compile(r"\(os error (\d+)\)")


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn a refused write into one clear StorageError that names `path`."""
    try:
        yield
    except Exception as error:
        code = _errno(error)
        if code in _DISK_FULL_ERRNOS:
            problem = f"no space left while writing {path}"
            raise StorageError(f"{problem}; free some space or choose another --out.") from error
        if code in _ACCESS_ERRNOS:
            problem = f"{path} cannot be written ({os.strerror(code)})"
            raise StorageError(f"{problem}; choose another --out.") from error
        raise


def _errno(error: Exception) -> int:
    """The system's error number, 0 for other errors."""
    if isinstance(error, OSError):
        return error.errno or 0
    # Rust libraries state it in their message alone.
    if type(error).__module__.startswith(("safetensors", "tokenizers", "builtins")):
        match = _OS_ERROR.search(str(error))
        return int(match[1]) if match else 0
    return 0


def sync_folder(folder: Path) -> None:
    """Sync the entries of `folder`, so that a rename in it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path next to `path`; on success it is synced and renamed, else removed.

    Its name is always the same and it is locked, so that the next run of a killed one writes over
    what that left behind.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        handle = _try_lock(temporary)
        if handle is None:
            # Another process writes the same file: the last one to finish counts. Process ids
            # repeat between machines that share a disk.
            temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        is_complete = False
        try:
            if handle is not None:
                os.ftruncate(handle, 0)
            yield temporary
            sync_file(temporary)
            os.replace(temporary, path)
            is_complete = True
            sync_folder(path.parent)
        finally:
            if not is_complete:
                temporary.unlink(missing_ok=True)
            if handle is not None:
                os.close(handle)


def _try_lock(path: Path) -> int | None:
    """A handle of `path`, made if it is missing and locked; None while another process has it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its owner may have renamed or removed it before this process had the lock.
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except FileNotFoundError:
            pass
        except OSError:  # locked, or a disk without locks
            os.close(handle)
            return None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


@contextlib.contextmanager
def output_lock(path: Path) -> Iterator[None]:
    """Refuse a second process that writes the same file or folder at the same time.

    Raises:
        StorageError: another process does, or the disk refused.
    """
    path = path.absolute()
    with _locked(path.with_name(f".{path.name}.lock"), path):
        yield


@contextlib.contextmanager
def _locked(lock: Path, path: Path) -> Iterator[None]:
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = _try_lock(lock)
    if handle is None:
        problem = f"{path} is being written by another process"
        raise StorageError(f"{problem}; wait for it to end, or choose another --out.")
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the name `path` on success, replacing an older artifact.

    One process at a time: the next run of a killed one removes what that left behind.

    Raises:
        StorageError: the disk refused, another process writes the same folder, or `path` is
            something that lingshu did not write.
    """
    names = (f".{path.name}.{suffix}" for suffix in ("tmp", "old", "tmp.lock"))
    temporary, backup, lock = map(path.with_name, names)
    with storage_errors(path), _locked(lock, path):
        shutil.rmtree(temporary, ignore_errors=True)
        if backup.exists():
            # A kill between the two renames below, or before the removal.
            shutil.rmtree(backup) if path.exists() else backup.rename(path)
        if path.exists() and not _is_replaceable(path):
            problem = f"{path} exists and is not an artifact of an earlier run"
            raise StorageError(f"{problem}; choose another --out, or move it away.")
        temporary.mkdir(mode=0o700)
        try:
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    sync_file(file)
            temporary.chmod(0o755)
            if path.exists():
                path.rename(backup)
            temporary.rename(path)
            shutil.rmtree(backup, ignore_errors=True)
            sync_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _is_replaceable(path: Path) -> bool:
    # Never a folder that a user filled: replacing removes everything in it.
    return path.is_dir() and (
        not any(path.iterdir()) or any((path / name).is_file() for name in (MANIFEST, "run.json"))
    )


def write_text(path: Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> dict:
    """A JSON object from a file.

    Raises:
        ArtifactError: the file is missing, or is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} does not exist.") from error
    except (OSError, ValueError, RecursionError) as error:
        problem = f"{path} cannot be read as JSON ({error})"
        raise ArtifactError(f"{problem}; it is damaged, write it again.") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} is not a JSON object.")
    return value


def _reject_non_finite(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _parse_finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:20]} is too large for a number")
    return value


# Without NaN and Infinity, which Python reads but no other program.
_STRICT_DECODER = json.JSONDecoder(parse_constant=_reject_non_finite, parse_float=_parse_finite)


def read_jsonl(path: Path) -> Iterator[dict]:
    """The objects of a JSONL file, without a truncated last line (a kill during a write).

    Raises:
        InputError: the file is missing, or another line is not a JSON object.
    """
    return (row for _, row in enumerate_jsonl(path, allow_truncated=True))


def enumerate_jsonl(path: Path, *, allow_truncated: bool) -> Iterator[tuple[int, dict]]:
    """The objects of a JSONL file with their line numbers, from 1.

    A row that a JsonlAppender wrote is compared with its checksum. `allow_truncated` is for the
    files of such an appender: the last line may be truncated by a kill, and behind a row with a
    checksum every row has one.

    Raises:
        InputError: the file is missing, a line is not a JSON object, or a row was changed.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be opened ({error.strerror}); check the path.") from error
    has_checksums = False
    with file:
        for line_number, line in enumerate(file, 1):
            is_complete = line.endswith(b"\n")
            if not line.strip():
                continue
            try:
                value = _STRICT_DECODER.decode(
                    line.decode("utf-8-sig" if line_number == 1 else "utf-8")
                )
            except (ValueError, RecursionError) as error:
                if allow_truncated and not is_complete:
                    return
                problem = f"{path}, line {line_number}: not valid JSON ({error})"
                raise InputError(f"{problem}; fix or remove the line.") from error
            if not isinstance(value, dict):
                raise InputError(f"{path}, line {line_number}: a JSON object is expected.")
            recorded = value.pop(ROW_SHA256, None)
            has_checksums = recorded is not None or (has_checksums and allow_truncated)
            if has_checksums and (recorded is None or recorded != _row_sha256(line)):
                problem = f"{path}, line {line_number}: the row does not match its {ROW_SHA256}"
                raise InputError(f"{problem}; remove the line, and what it records is made again.")
            yield line_number, value


def enumerate_offsets(path: Path, numbered: Iterable[tuple[int, T]]) -> Iterator[tuple[int, T]]:
    """The rows of a JSONL file, given with line numbers from 1, with the byte offset of their line."""
    last_line = 0
    with path.open("rb") as lines:
        for line_number, row in numbered:
            for _ in range(line_number - 1 - last_line):
                lines.readline()
            offset, last_line = lines.tell(), line_number
            lines.readline()
            yield offset, row


def read_line(file: IO[bytes], offset: int) -> dict[str, Any]:
    """The row at a byte offset of a JSONL file that was checked before."""
    file.seek(offset)
    row = json.loads(file.readline().decode("utf-8-sig"))
    row.pop(ROW_SHA256, None)
    return row


def _row_sha256(line: bytes) -> str | None:
    """The first digits of the sha256 of a line of JSON as it is without them; None for another end."""
    body, separator, _ = line.rpartition(_ROW_SHA256_START)
    return sha256_bytes(body)[:ROW_SHA256_DIGITS] if separator else None


_LINE_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_CANONICAL_ENCODER = json.JSONEncoder(sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def dump_line(row: Mapping[str, object]) -> str:
    line = _LINE_ENCODER.encode(row) + "\n"
    # Half of a surrogate pair has no UTF-8 form, but its escape has.
    return line if line.isascii() else line.encode("utf-8", "backslashreplace").decode("utf-8")


def _dump_checked_line(row: Mapping[str, object]) -> bytes:
    body = dump_line(row).encode()[: -len(b"}\n")]
    checksum = sha256_bytes(body)[:ROW_SHA256_DIGITS]
    return body + _ROW_SHA256_START + f'"{checksum}"}}\n'.encode()


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> int:
    """Write rows as a complete file and return their number."""
    count = 0
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(dump_line(row))
            count += 1
    return count


class Closeable:
    """Something that a `with` block closes at its end."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class JsonlAppender(Closeable):
    """An append-only JSONL file, locked while it is open or its process lives.

    Every `append` is one write and one fsync, so a kill loses at most that call. Each row ends with
    the start of its own sha256, which `enumerate_jsonl` checks and removes.

    Raises:
        StorageError: another process has it open, or the disk refused.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                _lock(self._handle, path)
                self._drop_truncated_line()
            except BaseException:
                os.close(self._handle)
                raise

    def _drop_truncated_line(self) -> None:
        end = os.fstat(self._handle).st_size
        while end > 0:
            start = max(0, end - 65536)
            newline = os.pread(self._handle, end - start, start).rfind(b"\n")
            if newline >= 0:
                os.ftruncate(self._handle, start + newline + 1)
                return
            end = start
        os.ftruncate(self._handle, 0)

    def append(self, rows: Iterable[Mapping[str, object]]) -> list[int]:
        """Append rows; returns the byte offset of each."""
        lines = [_dump_checked_line(row) for row in rows]
        data = b"".join(lines)
        with storage_errors(self.path):
            start = os.fstat(self._handle).st_size
            n_written = 0
            try:
                while n_written < len(data):
                    n_written += os.write(self._handle, data[n_written:])
                os.fsync(self._handle)
            except OSError:
                # A full disk must not leave half a row.
                os.ftruncate(self._handle, start)
                raise
        return [start + offset for offset in accumulate(map(len, lines[:-1]), initial=0)][
            : len(lines)
        ]

    def pop_last(self) -> dict | None:
        """Remove and return the last row, None if there is none; atomic under a kill.

        Raises:
            InputError: it is not a JSON object, and stays.
        """
        with storage_errors(self.path):
            end = os.fstat(self._handle).st_size
            start, line = end, b""
            while start > 0 and b"\n" not in line[:-1]:
                size = min(start, 65536)
                start -= size
                line = os.pread(self._handle, size, start) + line
            line = line[line[:-1].rfind(b"\n") + 1 :]
            if not line:
                return None
            try:
                row = _STRICT_DECODER.decode(line.decode("utf-8"))
            except ValueError as error:
                problem = f"{self.path}, last line: not valid JSON ({error})"
                raise InputError(f"{problem}; fix or remove the line.") from error
            os.ftruncate(self._handle, end - len(line))
            os.fsync(self._handle)
            row.pop(ROW_SHA256, None)
            return row

    def close(self) -> None:
        os.close(self._handle)


def _lock(handle: int, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        problem = f"{path} is being written by another process"
        raise StorageError(f"{problem}; wait for it to end, or choose another --out.") from error
    except OSError as error:
        problem = f"{path} is on a disk without file locks ({error.strerror})"
        raise StorageError(f"{problem}; choose an --out on another one.") from error


def is_locked(path: Path) -> bool:
    """True while a process has `path` open as an append-only file."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def sha256_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Where the hashes of files are remembered; it can be removed at any time."""
    return Path.home() / ".cache" / "lingshu" / "sha256"


def file_stat(path: Path) -> FileStat:
    """Device, inode, size, modification and change time of a file: other ones, another content.

    Raises:
        ArtifactError: the file cannot be read.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def sha256_files(paths: Sequence[Path]) -> list[str]:
    """The sha256 of each file, large ones in parallel and only once as long as they do not change.

    An entry of the cache counts only for a file with the same path, device, inode, size,
    modification time and change time. The change time is set by the system alone, so a copy that
    keeps its modification time (`cp -p`, rsync) is noticed as well.

    Raises:
        ArtifactError: a file cannot be read, or changes while it is read.
    """
    with ThreadPoolExecutor(min(HASH_THREADS, os.cpu_count() or 1)) as executor:
        return list(executor.map(_sha256, paths))


def _sha256(path: Path) -> str:
    started_ns, stat = time.time_ns(), file_stat(path)
    is_large = stat[2] >= CACHED_BYTES
    path = path.resolve()
    if is_large and (cached := _read_entry(path, stat)) is not None:
        return cached
    try:
        sha256 = sha256_file(path)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}); check the path.") from error
    if file_stat(path) != stat:
        raise ArtifactError(f"{path} changed while it was read; try again when it is complete.")
    if is_large and stat[4] <= started_ns - SETTLED_NS:
        _write_entry(path, {"path": str(path), "stat": list(stat), "sha256": sha256})
    return sha256


def _entry_file(path: Path) -> Path:
    return cache_folder() / f"{sha256_bytes(os.fsencode(path))[:32]}.json"


def _read_entry(path: Path, stat: FileStat) -> str | None:
    """The remembered sha256; None for a missing, damaged or outdated entry."""
    try:
        value = json.loads(_entry_file(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):  # RuntimeError: no home folder, or nested JSON
        return None
    if not isinstance(value, dict) or value.get("path") != str(path):
        return None
    sha256 = value.get("sha256")
    is_current = value.get("stat") == list(stat) and isinstance(sha256, str) and len(sha256) == 64
    return sha256 if is_current else None


def _write_entry(path: Path, value: dict[str, object]) -> None:
    # Without a place for the cache every start hashes again, which is slower and no less right.
    with contextlib.suppress(OSError, StorageError, RuntimeError):
        write_json(_entry_file(path), value)


def digest(value: object) -> str:
    """sha256 of a JSON-able value in its canonical form (sorted keys, no blanks)."""
    return sha256_bytes(_CANONICAL_ENCODER.encode(value).encode())


def write_manifest(
    folder: Path,
    known_files: Mapping[str, dict[str, object]] | None = None,
    *,
    paths: Iterable[Path] | None = None,
    is_append_only: Callable[[Path], bool] | None = None,
) -> dict[str, dict[str, object]]:
    """Record size and sha256 of every file below `folder`, or of `paths`, in its manifest.json.

    `known_files` were hashed while they were written. Files that are `is_append_only` may grow.
    """
    files = {}
    names = (path.relative_to(folder) for path in paths or folder.rglob("*") if path.is_file())
    for name in sorted(str(name) for name in names if str(name) != MANIFEST):
        files[name] = (known_files or {}).get(name) or _manifest_entry(folder / name)
        if is_append_only and is_append_only(folder / name):
            files[name]["append_only"] = True
    write_json(folder / MANIFEST, {"files": files})
    return files


def update_manifest(folder: Path, names: Iterable[str]) -> None:
    """Record files of `folder` that were written again; does nothing without a manifest."""
    if (folder / MANIFEST).exists():
        files = read_manifest(folder)
        files |= {name: _manifest_entry(folder / name) for name in names}
        write_json(folder / MANIFEST, {"files": files})


def _manifest_entry(path: Path) -> dict[str, object]:
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def read_manifest(folder: Path) -> dict[str, dict[str, object]]:
    """The files that a manifest.json lists, each with its `bytes` and `sha256`.

    Raises:
        ArtifactError: there is none, or it is damaged.
    """
    files = read_json(folder / MANIFEST).get("files")
    if not isinstance(files, dict) or not all(
        isinstance(info, dict)
        and isinstance(info.get("bytes"), int)
        and isinstance(info.get("sha256"), str)
        for info in files.values()
    ):
        problem = f"{folder / MANIFEST} has no list of files with bytes and sha256"
        raise ArtifactError(f"{problem}; {_MANIFEST_REMEDY}")
    return files


_MANIFEST_REMEDY = "copy the folder again or make it again."


def check_manifest(
    folder: Path,
    *,
    hash_files: Callable[[Sequence[Path]], list[str]] | None = None,
    ignored: Container[str] = (),
    remedy: str = _MANIFEST_REMEDY,
) -> dict[str, dict[str, object]] | None:
    """Compare `folder` with its manifest; None if it has none (a folder of another program).

    `hash_files` returns the sha256 of files, by default of what is read now. Of an append-only file
    the recorded part is compared. Files that are `ignored` may differ.

    Raises:
        ArtifactError: a listed file is missing, has another size or other content.
    """
    if not (folder / MANIFEST).exists():
        return None
    files = read_manifest(folder)
    checked = {folder / name: info for name, info in files.items() if name not in ignored}
    # Sizes first: a truncated file is found before gigabytes are hashed.
    for path, info in checked.items():
        if not path.is_file():
            raise ArtifactError(f"{path} is missing though {MANIFEST} lists it; {remedy}")
        size, may_grow = path.stat().st_size, info.get("append_only") is True
        if size != info["bytes"] and not (may_grow and size > cast("int", info["bytes"])):
            raise ArtifactError(
                f"{path} has {size} bytes, {MANIFEST} says {info['bytes']}: it is truncated or"
                f" changed; {remedy}"
            )
    hashes = hash_files([*checked]) if hash_files else None
    for index, (path, info) in enumerate(checked.items()):
        sha256 = hashes[index] if hashes else _sha256_start(path, cast("int", info["bytes"]))
        if sha256 != info["sha256"]:
            problem = f"{path} does not match its sha256 in {MANIFEST}"
            raise ArtifactError(f"{problem}; {remedy}")
    return files


def _sha256_start(path: Path, n_bytes: int) -> str:
    """The sha256 of the first `n_bytes` of a file."""
    value = hashlib.sha256()
    with path.open("rb") as file:
        while n_bytes > 0 and (block := file.read(min(n_bytes, 1 << 20))):
            value.update(block)
            n_bytes -= len(block)
    return value.hexdigest()
