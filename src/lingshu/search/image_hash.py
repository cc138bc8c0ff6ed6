"""What identifies an image: digests of its file and of its pixels, and perceptual hashes.

A perceptual hash is the sign, against their median, of the lowest coefficients of the cosine
transform of a small gray copy: 16 x 16 of 64 x 64 for 256 bits (our default, searched at radius 8),
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

HashBits = Literal[64, 256]
# Coefficients are rounded to an eighth of a gray level: in a flat image they are rounding noise.
ROUNDING_STEPS = 8.0
# Sums of more bytes than this may leave the range of 32 bits.
_INT32_PIXELS = (2**31 - 1) // 255


class ImageSignature(NamedTuple):
    """Digests of the encoded file and of the gray pixels, and the 256-bit perceptual hash."""

    file: bytes
    pixels: bytes
    phash: bytes


def image_signature(data: bytes, gray: NDArray[np.uint8]) -> ImageSignature:
    """The signature of an image from its encoded file and its gray pixels (height x width)."""
    return ImageSignature(file_digest(data), pixel_digest(gray), perceptual_hash(gray).tobytes())


def file_digest(data: bytes) -> bytes:
    """16 bytes that differ where the files do: sha256, truncated; faster than BLAKE2."""
    return hashlib.sha256(data).digest()[:16]


def pixel_digest(pixels: NDArray[np.uint8]) -> bytes:
    """Shape and checksum of the pixels, 16 bytes, at a third of the cost of sha256."""
    height, width, channels = (*pixels.shape, 1)[:3]
    checksum = zlib.crc32(np.ascontiguousarray(pixels).data)
    return struct.pack("<4I", height, width, channels, checksum)


def perceptual_hash(gray: NDArray[np.uint8], *, bits: HashBits = 256) -> NDArray[np.uint8]:
    """The packed hash (`bits` / 8 bytes) of one gray image (height x width)."""
    low, middle_index = (16 if bits == 256 else 8), bits // 2
    coefficients = np.rint(_low_frequencies(gray, low).reshape(bits) * ROUNDING_STEPS)
    # The median, without the checks that make np.median ten times as slow on few numbers.
    middle = np.partition(coefficients, (middle_index - 1, middle_index))
    return np.packbits(coefficients > (middle[middle_index - 1] + middle[middle_index]) / 2)


def _low_frequencies(gray: NDArray[np.uint8], low: int) -> NDArray[np.float64]:
    """The lowest `low` x `low` cosine coefficients of the means of 4 `low` x 4 `low` areas.

    Means are differences of running sums at the borders of the areas, and all of it is linear: two
    products of small matrices map the sums at the pixels around the borders to coefficients, in a
    fifth of the time of OpenCV's INTER_AREA and dct.
    """
    import cv2

    size = 4 * low
    height, width = gray.shape
    if min(height, width) < 2 * size:
        small = cv2.resize(gray, (size, size), interpolation=cv2.INTER_AREA)
        return _dct_matrix(low) @ small @ _dct_matrix(low).T
    sums = cv2.integral(gray, sdepth=cv2.CV_32S if gray.size <= _INT32_PIXELS else cv2.CV_64F)
    rows, row_matrix = _area_borders(height, low)
    columns, column_matrix = _area_borders(width, low)
    return row_matrix @ sums.take(rows, axis=0).take(columns, axis=1) @ column_matrix.T


@lru_cache(maxsize=1024)  # images of one source often have one size
def _area_borders(length: int, low: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Positions around the borders of a side's areas; the matrix from sums to coefficients."""
    size = 4 * low
    positions = np.arange(size + 1) * (length / size)
    floor = np.minimum(positions.astype(np.intp), length - 1)
    # A border between two pixels: the sum there is interpolated.
    fractions = np.diag(positions - floor)
    sums = np.concatenate((np.eye(size + 1) - fractions, fractions), axis=1)
    matrix = _dct_matrix(low) @ (sums[1:] - sums[:-1]) * (size / length)
    return np.concatenate((floor, floor + 1)), matrix


@lru_cache
def _dct_matrix(low: int) -> NDArray[np.float64]:
    """The `low` lowest rows of the orthonormal cosine transform (DCT-II) of 4 `low` values."""
    size = 4 * low
    matrix = np.cos(np.pi / size * np.outer(np.arange(low), np.arange(size) + 0.5))
    matrix *= np.sqrt(2 / size)
    matrix[0] *= np.sqrt(0.5)
    return matrix


def signature_from_image(data: bytes, image: PIL.Image.Image) -> ImageSignature:
    """The signature of an image from its encoded file and its decoded image."""
    return image_signature(data, np.asarray(image.convert("L")))
