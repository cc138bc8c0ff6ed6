"""What identifies an image: digests of its file and of its pixels, and perceptual hashes of its
grey picture.

A perceptual hash is the sign, against their median, of the lowest coefficients of the cosine
transform of a small grey copy: 16 x 16 of 64 x 64 for 256 bits (our default, searched at radius 8),
8 x 8 of 32 x 32 for 64 bits (the hash that the Lingshu paper's deduplication uses, at radius 0).
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import PIL.Image

Bits = Literal[64, 256]
# Coefficients are rounded to an eighth of a grey level: in a flat picture they are rounding noise,
# and so would be its hash.
STEPS = 8.0
# Sums of more bytes than this may leave the range of 32 bits.
_INT32_PIXELS = (2**31 - 1) // 255


class Signature(NamedTuple):
    """Digest of the encoded file, digest of the grey pixels, and the 256-bit perceptual hash, as
    bytes.
    """

    file: bytes
    pixels: bytes
    phash: bytes


def signature(data: bytes, grey: NDArray[np.uint8]) -> Signature:
    """The signature of an image from its encoded file and its grey pixels (height x width)."""
    return Signature(file_digest(data), pixel_digest(grey), perceptual_hash(grey).tobytes())


def file_digest(data: bytes) -> bytes:
    """16 bytes that differ where the files do: sha256, cut; processors compute it faster than
    BLAKE2.
    """
    return hashlib.sha256(data).digest()[:16]


def pixel_digest(pixels: NDArray[np.uint8]) -> bytes:
    """Shape and checksum of the pixels, 16 bytes: tells apart images whose perceptual hashes agree,
    at a third of sha256's cost.
    """
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    return struct.pack(
        "<4I", height, width, channels, zlib.crc32(np.ascontiguousarray(pixels).data)
    )


def perceptual_hash(grey: NDArray[np.uint8], *, bits: Bits = 256) -> NDArray[np.uint8]:
    """The packed hash (`bits` / 8 bytes) of one grey picture (height x width)."""
    low, half = (16 if bits == 256 else 8), bits // 2
    found = np.rint(_lowest(grey, low).reshape(bits) * STEPS)
    # The mean of the two middle values, without the checks that make np.median ten times as slow on
    # few numbers.
    middle = np.partition(found, (half - 1, half))
    return np.packbits(found > (middle[half - 1] + middle[half]) / 2)


def _lowest(grey: NDArray[np.uint8], low: int) -> NDArray[np.float64]:
    """The `low` x `low` lowest coefficients of the cosine transform of the means of 4 `low` x 4
    `low` areas of a picture.

    Means are differences of running sums at the areas' borders, and all of it is linear: two
    products of small matrices take the sums at the pixels around the borders straight to
    coefficients, at a fifth of OpenCV's INTER_AREA and dct.
    """
    import cv2

    size = 4 * low
    height, width = grey.shape
    if min(height, width) < 2 * size:
        small = cv2.resize(grey, (size, size), interpolation=cv2.INTER_AREA)
        return _cosines(low) @ small @ _cosines(low).T
    sums = cv2.integral(grey, sdepth=cv2.CV_32S if grey.size <= _INT32_PIXELS else cv2.CV_64F)
    rows, down = _borders(height, low)
    columns, across = _borders(width, low)
    return down @ sums.take(rows, axis=0).take(columns, axis=1) @ across.T


@lru_cache(maxsize=1024)  # images of one source share their sides
def _borders(length: int, low: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The places around the borders of 4 `low` areas of a side, and the matrix that takes running
    sums there to coefficients.
    """
    size = 4 * low
    places = np.arange(size + 1) * (length / size)
    before = np.minimum(places.astype(np.intp), length - 1)
    # A border between two pixels: the sum there lies between those of the pixels around.
    behind = np.diag(places - before)
    sums = np.concatenate((np.eye(size + 1) - behind, behind), axis=1)
    return np.concatenate((before, before + 1)), _cosines(low) @ (sums[1:] - sums[:-1]) * (
        size / length
    )


@lru_cache
def _cosines(low: int) -> NDArray[np.float64]:
    """The `low` lowest rows of the orthonormal cosine transform (DCT-II) of 4 `low` values."""
    size = 4 * low
    waves = np.cos(np.pi / size * np.outer(np.arange(low), np.arange(size) + 0.5)) * np.sqrt(
        2 / size
    )
    waves[0] *= np.sqrt(0.5)
    return waves


def signature_of(data: bytes, picture: PIL.Image.Image) -> Signature:
    """The signature of an image from its encoded file and what imaging.read.decode made of it."""
    return signature(data, np.asarray(picture.convert("L")))
