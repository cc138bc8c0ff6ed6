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

from lingshu.core.errors import BadImage
from lingshu.imaging._dicom_facts import DicomFacts, facts_of
from lingshu.imaging._dicom_pixels import decoded
from lingshu.imaging._dicom_show import Shown, show
from lingshu.imaging._elements import Elements, NoDicom, NoPixels, parsing, read_elements
from lingshu.imaging.windows import Window, presets

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["DicomFacts", "DicomFile", "NoDicom", "NoPixels", "Rendered", "open_dicom"]
MAX_FILE_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class Rendered:
    """One frame as shown in one window: height x width grey or height x width x 3 RGB; `window` is
    the record of `shown_in`.
    """

    pixels: NDArray[np.uint8]
    frame: int
    shown_in: Window

    @property
    def window(self) -> str:
        return str(self.shown_in)


class DicomFile:
    """An open DICOM file; `open_dicom` makes one."""

    def __init__(self, elements: Elements, name: str) -> None:
        self._elements, self._name = elements, name

    def facts(self, key: bytes) -> DicomFacts:
        """What may be known of the image. Ids are hashed with `key` (imaging/pseudonyms.py).

        Raises:
            BadImage: the elements are damaged.
        """
        with parsing(self._name, "reading the facts"):
            return facts_of(self._elements, key)

    def values(self, frames: Sequence[int] | None = None) -> Iterator[NDArray[Any]]:
        """The stored values of frames in order, as the installed decoders give them (YBR as RGB);
        one frame is held at a time.

        `frames` are numbers from 0 in ascending order, None means all.

        Raises:
            NoPixels: the file holds no pixel data.
            BadImage: damaged, cut short, larger than 50 megapixels a frame, or of a transfer syntax
                without a decoder.
        """
        return (values for _, values in decoded(self._elements, self._name, frames))

    def render(
        self, *, frames: Sequence[int] | None = None, windows: Sequence[str] | None = None
    ) -> Iterator[Rendered]:
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
        presets(windows or ())
        for frame, values in decoded(self._elements, self._name, frames):
            with parsing(self._name, "rendering"):
                shown: list[Shown] = show(self._elements, values, frame, windows)
            yield from (Rendered(one.pixels, frame, one.window) for one in shown)


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
            else stack.enter_context(opened_file(source, name))
        )
        yield DicomFile(read_elements(file, name=name), name)


@contextlib.contextmanager
def opened_file(path: Path, name: str) -> Iterator[BinaryIO]:
    """A regular file of at most 4 GB, open for reading; errors call it `name` and tell nothing of
    its path.

    Raises:
        BadImage: missing, a folder, no regular file, or too large.
    """
    try:
        # Not blocking: opening a named pipe that nobody writes to would wait for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        # Neither the system's error nor its text may follow: both hold the path.
        reason = error.strerror if isinstance(error, OSError) else "no possible file name"
        raise BadImage(f"{name} cannot be opened ({reason}); check the file.") from None
    facts = os.fstat(handle)
    if stat.S_ISDIR(facts.st_mode):
        os.close(handle)
        raise BadImage(f"{name} is a folder; give a file.")
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(facts.st_mode):
            raise BadImage(f"{name} is no regular file; leave it out.")
        if facts.st_size > MAX_FILE_BYTES:
            raise BadImage(
                f"{name} has {facts.st_size >> 30} GB, more than {MAX_FILE_BYTES >> 30} GB;"
                " split it."
            )
        yield file
