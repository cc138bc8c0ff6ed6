"""Opening a file that a client named: below an allowed folder, without links, a regular file.

Every refusal has one message: nobody learns from it what is outside, or whether a file exists.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from lingshu.core.errors import ConfigError, InputError

REFUSED_MESSAGE = (
    "there is no such file below the allowed folder, or it is a link or not a regular file; name one"
    " that is in it."
)


class SafeFolder:
    """A folder below which clients may name files.

    Names are relative to the folder, or absolute and below it, or `file://` addresses of such. The
    folder itself may be reached through links; below it none is followed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self.folder = folder.resolve(strict=True)
        except (OSError, RuntimeError) as error:
            problem = f"--root {folder} cannot be opened"
            raise ConfigError(f"{problem}; give a folder that exists.") from error
        if not self.folder.is_dir():
            raise ConfigError(f"--root {folder} is not a folder; give the folder of the files.")
        self._unresolved_folder = PurePosixPath(folder.absolute())

    def read(self, name: str, *, max_bytes: int) -> bytes:
        """The content of a file of at most `max_bytes`.

        Raises:
            InputError: not below the folder, reached over a link, not a regular file, or too large.
                The message names no path.
        """
        handle = self._open(self.parts(name), folder=False)
        try:
            size = os.fstat(handle).st_size
            if size > max_bytes:
                problem = f"the file has {size >> 20} MB, more than {max_bytes >> 20} MB"
                raise InputError(f"{problem}; make it smaller.")
            blocks: list[bytes] = []
            while size > 0 and (block := os.read(handle, min(size, 1 << 20))):
                blocks.append(block)
                size -= len(block)
            return b"".join(blocks)
        except OSError as error:
            raise InputError(REFUSED_MESSAGE) from error
        finally:
            os.close(handle)

    def path(self, name: str) -> Path:
        """The path of a file or folder that was checked now: only safe where no attacker can write.

        Raises:
            InputError: as read.
        """
        parts = self.parts(name)
        try:
            os.close(self._open(parts, folder=False))
        except InputError:
            os.close(self._open(parts, folder=True))
        return self.folder.joinpath(*parts)

    def parts(self, name: str) -> tuple[str, ...]:
        """The components of a name below the folder; nothing is opened.

        Raises:
            InputError: the name is empty, has "..", or is outside.
        """
        path = PurePosixPath(_path_from_uri(name))
        if path.is_absolute():
            bases = PurePosixPath(self.folder), self._unresolved_folder
            base = next((base for base in bases if path.is_relative_to(base)), None)
            if base is None:
                raise InputError(REFUSED_MESSAGE)
            path = path.relative_to(base)
        if ".." in path.parts or any("\0" in part for part in path.parts):
            raise InputError(REFUSED_MESSAGE)
        return path.parts

    def _open(self, parts: tuple[str, ...], *, folder: bool) -> int:
        """A handle on a file or folder; each component is opened from its parent, and no link."""
        if not parts and not folder:
            raise InputError(REFUSED_MESSAGE)
        folder_flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        # Not blocking: opening a named pipe without a writer would wait forever.
        file_flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        last_flags = folder_flags if folder else file_flags
        handle = -1
        try:
            handle = os.open(self.folder, folder_flags)
            for position, part in enumerate(parts, 1):
                flags = last_flags if position == len(parts) else folder_flags
                child = os.open(part, flags, dir_fd=handle)
                os.close(handle)
                handle = child
            if not folder and not stat.S_ISREG(os.fstat(handle).st_mode):
                raise InputError(REFUSED_MESSAGE)
        except (OSError, ValueError, InputError) as error:
            if handle >= 0:
                os.close(handle)
            raise InputError(REFUSED_MESSAGE) from error
        return handle


def _path_from_uri(name: str) -> str:
    """The path in a `file://` address, or the name itself."""
    if name[:5].lower() != "file:":
        return name
    try:
        parts = urlsplit(name)
        host, path = parts.hostname, unquote(parts.path, errors="strict")
        path.encode()  # refuse lone surrogates
    except ValueError as error:
        raise InputError(REFUSED_MESSAGE) from error
    if host not in (None, "localhost") or parts.query or parts.fragment:
        raise InputError(REFUSED_MESSAGE)
    return path
