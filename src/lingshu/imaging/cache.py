"""Images for curation: header, bytes and pixels, read and decoded once for all steps of a sample.

JPEG and plain PNG are decoded by OpenCV, which releases the interpreter lock; everything else by
imaging/read.py. Files that OpenCV would silently complete (truncated, damaged chunks) are refused.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from lingshu.core.files import Closeable
from lingshu.core.types import Image
from lingshu.imaging.headers import ImageFileHeader, TruncatedHeader, check_complete, read_header
from lingshu.imaging.read import ShardReader, check_pixels, decode, image_bytes, image_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EncodedImage = bytes  # inside the class the name `bytes` is a method
# Holds the size of nearly every image. Much of what is inspected is decoded next, so most files are
# read once, in full.
HEAD_BYTES = 256 << 10
# Exif orientations to mirror left to right, and then to turn by clockwise quarters.
_MIRRORED = frozenset((2, 4, 5, 7))
_QUARTER_TURNS = {3: 2, 4: 2, 5: 3, 6: 1, 7: 1, 8: 3}


class ImageCache(Closeable):
    """Opens images and keeps the last ones, so that the steps of one sample decode it once.

    At most `max_images` images and about `cache_mb` megabytes of them are kept. Arrays are
    read-only because they are shared. Not thread-safe: use one cache per thread.
    """

    def __init__(
        self, *, shards: ShardReader | None = None, max_images: int = 8, cache_mb: int = 64
    ) -> None:
        self._shards = shards or ShardReader()
        self._max_images, self._max_cache_bytes = max_images, cache_mb << 20
        self._entries: dict[Hashable, _CachedImage] = {}  # least recently used first
        self._total_bytes = 0

    def header(self, image: Image) -> ImageFileHeader:
        """Format, width and height of the upright image, from the first 256 KB of its file.

        Raises:
            ImageError: missing, empty, over 64 MB, of another format, or its header is damaged.
        """
        entry = self._get_entry(image)
        if entry.header is None:
            data = entry.data or image_bytes(image, shards=self._shards, max_bytes=HEAD_BYTES)
            if len(data) != HEAD_BYTES:
                entry.data = data
            try:
                entry.header = read_header(data, name=entry.name)
            except TruncatedHeader:
                entry.header = read_header(self._bytes(entry), name=entry.name)
        return entry.header

    def bytes(self, image: Image) -> EncodedImage:
        """The encoded file of an image, unchanged.

        Raises:
            ImageError: missing, empty or over 64 MB.
        """
        entry = self._get_entry(image)
        data = self._bytes(entry)
        self._evict(entry)
        return data

    def gray(self, image: Image) -> NDArray[np.uint8]:
        """Height x width gray values: the stored luminance of a JPEG, else of RGB by ITU-R BT.601.

        Transparency, orientation and deep gray are handled as in imaging/read.py. The values do not
        depend on what was requested before.

        Raises:
            ImageError: as `imaging.read.open_image`.
        """
        entry = self._get_entry(image)
        if entry.gray is None:
            entry.gray = _read_only(self._gray(entry))
            self._evict(entry)
        return entry.gray

    def rgb(self, image: Image) -> NDArray[np.uint8]:
        """Height x width x 3 RGB values; otherwise as `gray`."""
        entry = self._get_entry(image)
        if entry.rgb is None:
            entry.rgb = _read_only(self._rgb(entry, *self._check_decodable(entry)))
            self._evict(entry)
        return entry.rgb

    def _gray(self, entry: _CachedImage) -> NDArray[Any]:
        import cv2

        header, use_opencv = self._check_decodable(entry)
        if use_opencv and (header.format == "JPEG" or header.channels == 1):
            # A JPEG stores its luminance separately: the colors need not be decoded at all.
            pixels = _decode_opencv(self._bytes(entry), header, grayscale=True)
            if pixels is not None:
                return pixels
        if entry.rgb is None:
            entry.rgb = _read_only(self._rgb(entry, header, use_opencv))
        return cv2.cvtColor(entry.rgb, cv2.COLOR_RGB2GRAY)

    def _rgb(self, entry: _CachedImage, header: ImageFileHeader, use_opencv: bool) -> NDArray[Any]:
        import numpy as np

        if use_opencv:
            pixels = _decode_opencv(self._bytes(entry), header, grayscale=False)
            if pixels is not None:
                return pixels
        return np.asarray(decode(self._bytes(entry), name=entry.name))

    def _bytes(self, entry: _CachedImage) -> EncodedImage:
        if entry.data is None:
            entry.data = image_bytes(entry.image, shards=self._shards)
        return entry.data

    def _check_decodable(self, entry: _CachedImage) -> tuple[ImageFileHeader, bool]:
        """The header of a complete image within the limits; whether OpenCV decodes it as Pillow."""
        data = self._bytes(entry)
        header = entry.header = entry.header or read_header(data, name=entry.name)
        check_pixels(entry.name, header.width, header.height)
        has_late_orientation = check_complete(data, header, name=entry.name)
        is_supported = header.format in ("PNG", "JPEG") and header.channels in (1, 3)
        is_supported = is_supported and header.is_plain and header.bits == 8
        return header, is_supported and not has_late_orientation

    def _get_entry(self, image: Image) -> _CachedImage:
        # Hashing the image itself is ten times slower.
        key: Hashable = image.data or (
            image.path if image.row is None else (image.path, image.row, image.index)
        )
        entry = self._entries.pop(key, None) or _CachedImage(image)
        self._entries[key] = entry
        if len(self._entries) > self._max_images:
            self._drop_oldest()
        return entry

    def _drop_oldest(self) -> None:
        self._total_bytes -= self._entries.pop(next(iter(self._entries))).counted_bytes

    def _evict(self, entry: _CachedImage) -> None:
        """Count what `entry` has grown to and drop the oldest entries until the rest fits."""
        self._total_bytes += entry.size - entry.counted_bytes
        entry.counted_bytes = entry.size
        while self._total_bytes > self._max_cache_bytes and len(self._entries) > 1:
            self._drop_oldest()

    def close(self) -> None:
        """Drop every image and close the shards."""
        self._entries.clear()
        self._total_bytes = 0
        self._shards.close()


class _CachedImage:
    __slots__ = ("counted_bytes", "data", "gray", "header", "image", "name", "rgb")

    def __init__(self, image: Image) -> None:
        self.image, self.name = image, image_name(image)
        self.header: ImageFileHeader | None = None
        self.data: bytes | None = None
        self.gray: NDArray[np.uint8] | None = None
        self.rgb: NDArray[np.uint8] | None = None
        self.counted_bytes = 0  # its part of the cache's total

    @property
    def size(self) -> int:
        arrays = sum(pixels.nbytes for pixels in (self.gray, self.rgb) if pixels is not None)
        return arrays + len(self.data or b"")


def _decode_opencv(data: bytes, header: ImageFileHeader, *, grayscale: bool) -> NDArray[Any] | None:
    """Upright RGB or gray pixels; None where OpenCV fails or finds another size than the header."""
    import cv2
    import numpy as np

    flags = cv2.IMREAD_GRAYSCALE if grayscale else cv2.IMREAD_COLOR_RGB
    try:
        encoded = np.frombuffer(data, np.uint8)
        pixels = cv2.imdecode(encoded, flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
    if pixels is None:
        return None
    if header.orientation in _MIRRORED:
        pixels = cv2.flip(pixels, 1)
    quarters = _QUARTER_TURNS.get(header.orientation, 0)
    if quarters:
        turns = cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_COUNTERCLOCKWISE
        pixels = cv2.rotate(pixels, turns[quarters - 1])
    return pixels if pixels.shape[:2] == (header.height, header.width) else None


def _read_only(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    view = pixels.view()
    view.flags.writeable = False
    return view
