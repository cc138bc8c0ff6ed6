"""DICOM files: safe facts and 8-bit frames. No name, number, date or free text of a patient gets
past this file.

Rendering follows PS3.3 C.7.6.3 and C.11: stored values -> modality LUT or rescale -> window or VOI
LUT -> MONOCHROME1 turned over -> 8 bits. Decoders are those of pydicom (python-gdcm,
pylibjpeg-openjpeg, pyjpegls, Pillow).
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from lingshu.core.errors import ImageError
from lingshu.imaging.dicom.elements import (
    DicomElements,
    NoPixelDataError,
    NotDicomError,
    read_elements,
    wrap_parse_errors,
)
from lingshu.imaging.dicom.metadata import DicomMetadata, read_metadata
from lingshu.imaging.dicom.pixels import decode_frames
from lingshu.imaging.dicom.windowing import WindowedImage, render_windows
from lingshu.imaging.windows import Window, parse_windows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "DicomMetadata",
    "DicomFile",
    "NotDicomError",
    "NoPixelDataError",
    "RenderedFrame",
    "open_dicom",
]
MAX_FILE_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class RenderedFrame:
    """One frame as shown in one window: height x width grey or height x width x 3 RGB; `window` is
    the record of `shown_in`.
    """

    pixels: NDArray[np.uint8]
    frame: int
    voi_window: Window

    @property
    def window(self) -> str:
        return str(self.voi_window)


class DicomFile:
    """An open DICOM file; `open_dicom` makes one."""

    def __init__(self, elements: DicomElements, name: str) -> None:
        self._elements, self._name = elements, name

    def metadata(self, key: bytes) -> DicomMetadata:
        """What may be known of the image. Ids are hashed with `key` (core/pseudonyms.py).

        Raises:
            BadImage: the elements are damaged.
        """
        with wrap_parse_errors(self._name, "reading the facts"):
            return read_metadata(self._elements, key)

    def values(self, frames: Sequence[int] | None = None) -> Iterator[NDArray[Any]]:
        """The stored values of frames in order, as the installed decoders give them (YBR as RGB);
        one frame is held at a time.

        `frames` are numbers from 0 in ascending order, None means all.

        Raises:
            NoPixels: the file holds no pixel data.
            BadImage: damaged, cut short, larger than 50 megapixels a frame, or of a transfer syntax
                without a decoder.
        """
        return (values for _, values in decode_frames(self._elements, self._name, frames))

    def render(
        self, *, frames: Sequence[int] | None = None, windows: Sequence[str] | None = None
    ) -> Iterator[RenderedFrame]:
        """Frames as 8-bit pictures, each in every window, with the window that was used.

        `windows` holds presets of imaging/windows.py for CT in HU, "CENTER,WIDTH" for any modality,
        and "file" for the file's own first window. A preset means nothing to other modalities,
        which are then shown in the file's own windows. Without it, the windows that the file states
        are used, else for CT lung, soft and bone ("file" alone: soft), else the range from the
        least to the greatest value. A colour image has one picture per frame and no window.

        Raises:
            NoPixels, BadImage: as `values`.
            InputError: a window that no preset is called.
        """
        parse_windows(windows or ())
        for frame, values in decode_frames(self._elements, self._name, frames):
            with wrap_parse_errors(self._name, "rendering"):
                images: list[WindowedImage] = render_windows(self._elements, values, frame, windows)
            yield from (RenderedFrame(image.pixels, frame, image.window) for image in images)


@contextlib.contextmanager
def open_dicom(source: Path | bytes, *, name: str) -> Iterator[DicomFile]:
    """Open a DICOM file, or one in memory. Errors call it `name`: a path is often a patient's name,
    so choose it with care.

    Raises:
        NoDicom: it is no DICOM file.
        BadImage: it is missing, no regular file, over 4 GB, or its elements are damaged.
        MissingExtra: pydicom is not installed.
    """
    with contextlib.ExitStack() as stack:
        file: BinaryIO = (
            io.BytesIO(source)
            if isinstance(source, bytes)
            else stack.enter_context(open_file(source, name))
        )
        yield DicomFile(read_elements(file, name=name), name)


@contextlib.contextmanager
def open_file(path: Path, name: str) -> Iterator[BinaryIO]:
    """A regular file of at most 4 GB, open for reading; errors call it `name` and tell nothing of
    its path.

    Raises:
        BadImage: missing, a folder, no regular file, or too large.
    """
    try:
        # Not blocking: opening a named pipe that nobody writes to would wait for ever.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        # Neither the system's error nor its text may follow: both hold the path.
        reason = error.strerror if isinstance(error, OSError) else "no possible file name"
        raise ImageError(f"{name} cannot be opened ({reason}); check the file.") from None
    file_stat = os.fstat(fd)
    if stat.S_ISDIR(file_stat.st_mode):
        os.close(fd)
        raise ImageError(f"{name} is a folder; give a file.")
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(file_stat.st_mode):
            raise ImageError(f"{name} is no regular file; leave it out.")
        if file_stat.st_size > MAX_FILE_BYTES:
            raise ImageError(
                f"{name} has {file_stat.st_size >> 30} GB, more than {MAX_FILE_BYTES >> 30} GB;"
                " split it."
            )
        yield file
