"""Images for curation: header, bytes and pixels, read and decoded once while several steps look at
one sample.

JPEG and plain PNG are decoded by OpenCV, which lets other threads run meanwhile; everything else
goes the way of imaging/read.py. Files that OpenCV would fill up in silence (cut short, damaged
chunks) are refused before.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from lingshu.core.errors import BadImage
from lingshu.core.nouns import Image
from lingshu.imaging.headers import EndsEarly, Header, check_whole, read_header
from lingshu.imaging.read import MAX_PIXELS, ShardReader, decode, image_bytes, image_name

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Inside the class the name `bytes` is a method.
Encoded = bytes
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


class Pictures:
    """Opens images and remembers the last ones, so that the steps that look at one sample decode it
    once.

    At most `keep` images and about `cache_mb` megabytes of them are held. Arrays are read-only:
    others may hold them too. Not for several threads at once: each has its own.
    """

    def __init__(
        self, *, shards: ShardReader | None = None, keep: int = 8, cache_mb: int = 64
    ) -> None:
        self._shards = shards or ShardReader()
        self._keep, self._cache_bytes = keep, cache_mb << 20
        # From the one asked for longest ago to the last one.
        self._held: dict[Hashable, _Held] = {}
        self._size = 0

    def header(self, image: Image) -> Header:
        """Format, width and height of the upright image; of an image in a file of its own the first
        256 KB are read.

        Raises:
            BadImage: missing, empty, over 64 MB, of another format, or its header is damaged.
        """
        held = self._hold(image)
        if held.header is None:
            data = held.data or image_bytes(image, shards=self._shards, first=HEAD_BYTES)
            if len(data) != HEAD_BYTES:
                held.data = data
            try:
                held.header = read_header(data, name=held.name)
            except EndsEarly:
                held.header = read_header(self._bytes(held), name=held.name)
        return held.header

    def bytes(self, image: Image) -> Encoded:
        """The encoded file of an image, as it lies there.

        Raises:
            BadImage: missing, empty or over 64 MB.
        """
        held = self._hold(image)
        data = self._bytes(held)
        self._forget(held)
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
        held = self._hold(image)
        if held.gray is None:
            held.gray = _frozen(self._gray(held))
            self._forget(held)
        return held.gray

    def rgb(self, image: Image) -> NDArray[np.uint8]:
        """Height x width x 3 RGB values; otherwise as `gray`.

        Raises:
            BadImage: as `gray`.
        """
        held = self._hold(image)
        if held.rgb is None:
            held.rgb = _frozen(self._rgb(held, *self._ready(held)))
            self._forget(held)
        return held.rgb

    def _gray(self, held: _Held) -> NDArray[Any]:
        import cv2

        header, direct = self._ready(held)
        if direct and (header.format == "JPEG" or header.channels == 1):
            # A JPEG holds its luminance apart: the colours need not be decoded at all.
            found = _opencv(self._bytes(held), header, grey=True)
            if found is not None:
                return found
        if held.rgb is None:
            held.rgb = _frozen(self._rgb(held, header, direct))
        return cv2.cvtColor(held.rgb, cv2.COLOR_RGB2GRAY)

    def _rgb(self, held: _Held, header: Header, direct: bool) -> NDArray[Any]:
        import numpy as np

        if direct:
            found = _opencv(self._bytes(held), header, grey=False)
            if found is not None:
                return found
        return np.asarray(decode(self._bytes(held), name=held.name))

    def _bytes(self, held: _Held) -> Encoded:
        if held.data is None:
            held.data = image_bytes(held.image, shards=self._shards)
        return held.data

    def _ready(self, held: _Held) -> tuple[Header, bool]:
        """The header of an image that may be decoded, being whole and within the limits; whether
        OpenCV reads it as imaging/read.py.
        """
        data = self._bytes(held)
        if held.header is None:
            held.header = read_header(data, name=held.name)
        header = held.header
        if header.pixels > MAX_PIXELS:
            size = (
                f"{header.width} x {header.height} pixels, more than {MAX_PIXELS // 1_000_000}"
                " megapixels"
            )
            raise BadImage(f"{held.name} has {size}; make it smaller.")
        turned = check_whole(data, header, name=held.name)
        return header, _direct(header) and not turned

    def _hold(self, image: Image) -> _Held:
        # Hashing the image itself is ten times slower.
        key: Hashable = image.data or (
            image.path if image.row is None else (image.path, image.row, image.index)
        )
        held = self._held.pop(key, None) or _Held(image)
        self._held[key] = held
        if len(self._held) > self._keep:
            self._size -= self._held.pop(next(iter(self._held))).counted
        return held

    def _forget(self, last: _Held) -> None:
        """Let go of what was asked for longest ago, until the rest fits with what `last` has grown
        to.
        """
        self._size += last.size - last.counted
        last.counted = last.size
        while self._size > self._cache_bytes and len(self._held) > 1:
            self._size -= self._held.pop(next(iter(self._held))).counted

    def close(self) -> None:
        """Forget every image and close the shards."""
        self._held.clear()
        self._size = 0
        self._shards.close()

    def __enter__(self) -> Pictures:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Held:
    """What is known of one image so far."""

    __slots__ = ("counted", "data", "gray", "header", "image", "name", "rgb")

    def __init__(self, image: Image) -> None:
        self.image, self.name = image, image_name(image)
        self.header: Header | None = None
        self.data: bytes | None = None
        self.gray: NDArray[np.uint8] | None = None
        self.rgb: NDArray[np.uint8] | None = None
        self.counted = 0  # bytes, when its pixels were last made

    @property
    def size(self) -> int:
        size = len(self.data) if self.data else 0
        for pixels in (self.gray, self.rgb):
            if pixels is not None:
                size += pixels.nbytes
        return size


def _direct(header: Header) -> bool:
    """Not so for palettes, transparency, CMYK and deep values, nor where the orientation may stand
    elsewhere than in the header.
    """
    return (
        header.format in ("PNG", "JPEG")
        and header.plain
        and header.bits == 8
        and header.channels in (1, 3)
    )


def _opencv(data: bytes, header: Header, *, grey: bool) -> NDArray[Any] | None:
    """Upright pixels, RGB or grey; None where OpenCV reads none or another size, and the other
    decoder shall judge.
    """
    import cv2
    import numpy as np

    flags = (cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR_RGB) | cv2.IMREAD_IGNORE_ORIENTATION
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


def _frozen(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    view = pixels.view()
    view.flags.writeable = False
    return view
