"""Images for curation: header, bytes and pixels, read and decoded once while several steps look at
one sample.

JPEG and plain PNG are decoded by OpenCV, which lets other threads run meanwhile; everything else
goes the way of imaging/read.py. Files that OpenCV would fill up in silence (cut short, damaged
chunks) are refused before.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from lingshu.core.errors import ImageError
from lingshu.core.types import Image
from lingshu.imaging.headers import ImageHeader, TruncatedHeader, check_complete, read_header
from lingshu.imaging.read import MAX_PIXELS, ShardReader, decode, image_bytes, image_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Inside the class the name `bytes` is a method.
EncodedImage = bytes
# Where the size of nearly every image is told. Much of what is looked at is decoded next: most
# files are read once, whole.
HEAD_BYTES = 256 << 10
# Exif orientation -> how a stored image is set upright: mirrored left to right first, then turned
# clockwise by quarters.
_UPRIGHT = {
    2: (True, 0),
    3: (False, 2),
    4: (True, 2),
    5: (True, 3),
    6: (False, 1),
    7: (True, 1),
    8: (False, 3),
}


class ImageCache:
    """Opens images and remembers the last ones, so that the steps that look at one sample decode it
    once.

    At most `keep` images and about `cache_mb` megabytes of them are held. Arrays are read-only:
    others may hold them too. Not for several threads at once: each has its own.
    """

    def __init__(
        self, *, shards: ShardReader | None = None, max_images: int = 8, cache_mb: int = 64
    ) -> None:
        self._shards = shards or ShardReader()
        self._max_images, self._max_cache_bytes = max_images, cache_mb << 20
        # From the one asked for longest ago to the last one.
        self._entries: dict[Hashable, _CachedImage] = {}
        self._total_bytes = 0

    def header(self, image: Image) -> ImageHeader:
        """Format, width and height of the upright image; of an image in a file of its own the first
        256 KB are read.

        Raises:
            BadImage: missing, empty, over 64 MB, of another format, or its header is damaged.
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
        """The encoded file of an image, as it lies there.

        Raises:
            BadImage: missing, empty or over 64 MB.
        """
        entry = self._get_entry(image)
        data = self._bytes(entry)
        self._evict(entry)
        return data

    def gray(self, image: Image) -> NDArray[np.uint8]:
        """Height x width grey values: the luminance of a JPEG as it is stored, else of RGB by ITU-R
        BT.601 weights.

        Transparency is on white, the Exif orientation applied, and deep grey is divided by the
        smallest power of two that holds its largest value (imaging/read.py). The values do not
        depend on what else was asked before.

        Raises:
            BadImage: missing, empty, truncated, damaged, of another format, over 64 MB or over 50
                megapixels.
        """
        entry = self._get_entry(image)
        if entry.gray is None:
            entry.gray = _read_only(self._gray(entry))
            self._evict(entry)
        return entry.gray

    def rgb(self, image: Image) -> NDArray[np.uint8]:
        """Height x width x 3 RGB values; otherwise as `gray`.

        Raises:
            BadImage: as `gray`.
        """
        entry = self._get_entry(image)
        if entry.rgb is None:
            entry.rgb = _read_only(self._rgb(entry, *self._check_decodable(entry)))
            self._evict(entry)
        return entry.rgb

    def _gray(self, entry: _CachedImage) -> NDArray[Any]:
        import cv2

        header, use_opencv = self._check_decodable(entry)
        if use_opencv and (header.format == "JPEG" or header.channels == 1):
            # A JPEG holds its luminance apart: the colours need not be decoded at all.
            pixels = _decode_opencv(self._bytes(entry), header, grayscale=True)
            if pixels is not None:
                return pixels
        if entry.rgb is None:
            entry.rgb = _read_only(self._rgb(entry, header, use_opencv))
        return cv2.cvtColor(entry.rgb, cv2.COLOR_RGB2GRAY)

    def _rgb(self, entry: _CachedImage, header: ImageHeader, use_opencv: bool) -> NDArray[Any]:
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

    def _check_decodable(self, entry: _CachedImage) -> tuple[ImageHeader, bool]:
        """The header of an image that may be decoded, being whole and within the limits; whether
        OpenCV reads it as imaging/read.py.
        """
        data = self._bytes(entry)
        if entry.header is None:
            entry.header = read_header(data, name=entry.name)
        header = entry.header
        if header.pixels > MAX_PIXELS:
            size = (
                f"{header.width} x {header.height} pixels, more than {MAX_PIXELS // 1_000_000}"
                " megapixels"
            )
            raise ImageError(f"{entry.name} has {size}; make it smaller.")
        has_late_orientation = check_complete(data, header, name=entry.name)
        return header, _opencv_compatible(header) and not has_late_orientation

    def _get_entry(self, image: Image) -> _CachedImage:
        # Hashing the image itself is ten times slower.
        key: Hashable = image.data or (
            image.path if image.row is None else (image.path, image.row, image.index)
        )
        entry = self._entries.pop(key, None) or _CachedImage(image)
        self._entries[key] = entry
        if len(self._entries) > self._max_images:
            self._total_bytes -= self._entries.pop(next(iter(self._entries))).counted_bytes
        return entry

    def _evict(self, entry: _CachedImage) -> None:
        """Let go of what was asked for longest ago, until the rest fits with what `last` has grown
        to.
        """
        self._total_bytes += entry.size - entry.counted_bytes
        entry.counted_bytes = entry.size
        while self._total_bytes > self._max_cache_bytes and len(self._entries) > 1:
            self._total_bytes -= self._entries.pop(next(iter(self._entries))).counted_bytes

    def close(self) -> None:
        """Forget every image and close the shards."""
        self._entries.clear()
        self._total_bytes = 0
        self._shards.close()

    def __enter__(self) -> ImageCache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _CachedImage:
    """What is known of one image so far."""

    __slots__ = ("counted_bytes", "data", "gray", "header", "image", "name", "rgb")

    def __init__(self, image: Image) -> None:
        self.image, self.name = image, image_name(image)
        self.header: ImageHeader | None = None
        self.data: bytes | None = None
        self.gray: NDArray[np.uint8] | None = None
        self.rgb: NDArray[np.uint8] | None = None
        self.counted_bytes = 0  # bytes, when its pixels were last made

    @property
    def size(self) -> int:
        size = len(self.data) if self.data else 0
        for pixels in (self.gray, self.rgb):
            if pixels is not None:
                size += pixels.nbytes
        return size


def _opencv_compatible(header: ImageHeader) -> bool:
    """Not so for palettes, transparency, CMYK and deep values, nor where the orientation may stand
    elsewhere than in the header.
    """
    return (
        header.format in ("PNG", "JPEG")
        and header.is_plain
        and header.bits == 8
        and header.channels in (1, 3)
    )


def _decode_opencv(data: bytes, header: ImageHeader, *, grayscale: bool) -> NDArray[Any] | None:
    """Upright pixels, RGB or grey; None where OpenCV reads none or another size, and the other
    decoder shall judge.
    """
    import cv2
    import numpy as np

    flags = (
        cv2.IMREAD_GRAYSCALE if grayscale else cv2.IMREAD_COLOR_RGB
    ) | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    if pixels is None:
        return None
    mirrored, quarters = _UPRIGHT.get(header.orientation, (False, 0))
    if mirrored:
        pixels = cv2.flip(pixels, 1)
    if quarters:
        pixels = cv2.rotate(
            pixels,
            (cv2.ROTATE_90_CLOCKWISE, cv2.ROTATE_180, cv2.ROTATE_90_COUNTERCLOCKWISE)[quarters - 1],
        )
    return pixels if pixels.shape[:2] == (header.height, header.width) else None


def _read_only(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    view = pixels.view()
    view.flags.writeable = False
    return view
