"""DICOM files: safe metadata and 8-bit frames; no name, number, date or text of a patient.

Rendering follows PS3.3 C.7.6.3 and C.11: stored values -> modality LUT or rescale -> window or VOI
LUT -> MONOCHROME1 inverted -> 8 bits. The decoders are those of pydicom (python-gdcm,
pylibjpeg-openjpeg, pyjpegls, Pillow).
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from lingshu.imaging.dicom.elements import DicomElements, read_elements, wrap_parse_errors
from lingshu.imaging.dicom.metadata import DicomMetadata, read_metadata
from lingshu.imaging.dicom.pixels import decode_frames
from lingshu.imaging.dicom.windowing import render_windows
from lingshu.imaging.read import open_regular_file
from lingshu.imaging.windows import Window, parse_windows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_FILE_BYTES = 4 << 30


@dataclass(frozen=True, slots=True)
class RenderedFrame:
    """One frame in one window: height x width gray or height x width x 3 RGB."""

    pixels: NDArray[np.uint8]
    frame: int
    window: Window


class DicomFile:
    """An open DICOM file; see `open_dicom`."""

    def __init__(self, elements: DicomElements, name: str) -> None:
        self._elements, self._name = elements, name

    def metadata(self, key: bytes) -> DicomMetadata:
        """The safe metadata of the image; ids are hashed with `key` (deidentify/pseudonyms.py).

        Raises:
            ImageError: the elements are damaged.
        """
        with wrap_parse_errors(self._name, "reading the metadata"):
            return read_metadata(self._elements, key)

    def values(self, frames: Sequence[int] | None = None) -> Iterator[NDArray[Any]]:
        """The stored values of frames as the installed decoders give them (YBR as RGB), one by one.

        `frames` are numbers from 0 in ascending order; None means all.

        Raises:
            NoPixelDataError: the file holds no pixel data.
            ImageError: damaged, truncated, over 50 megapixels a frame, or without a decoder.
        """
        return (values for _, values in decode_frames(self._elements, self._name, frames))

    def render(
        self, *, frames: Sequence[int] | None = None, windows: Sequence[str] | None = None
    ) -> Iterator[RenderedFrame]:
        """Frames as 8-bit images, each in every window.

        `windows` holds presets of imaging/windows.py for CT in HU, "CENTER,WIDTH" for any modality,
        and "file" for the file's own first window. Other modalities than CT ignore presets and are
        shown in the file's own windows. Without `windows` the windows that the file states are
        used, else for CT lung, soft and bone ("file" alone: soft), else the range of the values. A
        color image has one image per frame and no window.

        Raises:
            NoPixelDataError, ImageError: as `values`.
            InputError: an unknown window.
        """
        parse_windows(windows or ())
        for frame, values in decode_frames(self._elements, self._name, frames):
            with wrap_parse_errors(self._name, "rendering"):
                images = render_windows(self._elements, values, frame, windows)
            yield from (RenderedFrame(image.pixels, frame, image.window) for image in images)


@contextlib.contextmanager
def open_dicom(source: Path | bytes, *, name: str) -> Iterator[DicomFile]:
    """Open a DICOM file or its bytes. Errors call it `name`: a path often holds a patient's name.

    Raises:
        NotDicomError: it is not a DICOM file.
        ImageError: it is missing, not a regular file, over 4 GB, or its elements are damaged.
        MissingExtraError: pydicom is not installed.
    """
    with open_file(source, name) as file:
        yield DicomFile(read_elements(file, name=name), name)


@contextlib.contextmanager
def open_file(source: Path | bytes, name: str) -> Iterator[BinaryIO]:
    """A regular file of at most 4 GB, or bytes, open for reading; errors do not contain its path.

    Raises:
        ImageError: missing, not a regular file, or too large.
    """
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    fd, _ = open_regular_file(source, name, max_bytes=MAX_FILE_BYTES)
    with os.fdopen(fd, "rb") as file:
        yield file
