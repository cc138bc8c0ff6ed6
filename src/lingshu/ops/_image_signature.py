"""What identifies an image: digests of its file and of its pixels, and perceptual hashes of its grey picture.

A perceptual hash is the sign, against their median, of the lowest coefficients of the cosine transform of a small grey
copy: 16 x 16 of 64 x 64 for 256 bits (our default, searched at radius 8), 8 x 8 of 32 x 32 for 64 bits (the hash that the
Lingshu paper's deduplication uses, at radius 0).
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import PIL.Image

Bits = Literal[64, 256]
# Coefficients are rounded to an eighth of a grey level: in a flat picture they are rounding noise, and so would be its hash.
STEPS = 8.0
# Sums of more bytes than this may leave the range of 32 bits.
_INT32_PIXELS = (2**31 - 1) // 255


class Signature(NamedTuple):
    """Digest of the encoded file, digest of the grey pixels, and the 256-bit perceptual hash, as bytes."""

    file: bytes
    pixels: bytes
    phash: bytes


def signature(data: bytes, grey: NDArray[np.uint8]) -> Signature:
    """The signature of an image from its encoded file and its grey pixels (height x width)."""
    return Signature(file_digest(data), pixel_digest(grey), perceptual_hash(grey).tobytes())


def file_digest(data: bytes) -> bytes:
    """16 bytes that differ where the files do: sha256, cut; processors compute it faster than BLAKE2."""
    return hashlib.sha256(data).digest()[:16]


def pixel_digest(pixels: NDArray[np.uint8]) -> bytes:
    """Shape and checksum of the pixels, 16 bytes: tells apart images whose perceptual hashes agree, at a third of sha256's cost."""
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    return struct.pack("<4I", height, width, channels, zlib.crc32(np.ascontiguousarray(pixels).data))


def perceptual_hash(grey: NDArray[np.uint8], *, bits: Bits = 256) -> NDArray[np.uint8]:
    """The packed hash (`bits` / 8 bytes) of one grey picture (height x width)."""
    return perceptual_hashes([grey], bits=bits)[0]


def perceptual_hashes(greys: Sequence[NDArray[np.uint8]], *, bits: Bits = 256) -> NDArray[np.uint8]:
    """The packed hashes of several grey pictures, pictures x `bits` / 8 bytes; one alone gives the same as among others."""
    import cv2

    low = 16 if bits == 256 else 8
    size = 4 * low
    blocks = np.empty((len(greys), low, low), np.float32)
    for place, grey in enumerate(greys):
        blocks[place] = cv2.dct(_shrunk(grey, size))[:low, :low]
    flat = np.rint(blocks.reshape(len(greys), bits) * np.float32(STEPS))
    half = bits // 2
    # The mean of the two middle values, without the checks that make np.median ten times as slow on few numbers.
    middle = np.partition(flat, (half - 1, half), axis=1)[:, half - 1 : half + 1]
    return np.packbits(flat > (middle[:, :1] + middle[:, 1:]) / 2, axis=1)


def _shrunk(grey: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """`size` x `size` means of the areas that a grey picture is cut into, as whole numbers: what OpenCV's INTER_AREA gives.

    Read off a table of running sums, which costs a third of INTER_AREA where the sides are no multiples of `size`.
    """
    import cv2

    height, width = grey.shape
    if min(height, width) < 2 * size:
        return cv2.resize(grey, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)
    sums = cv2.integral(grey, sdepth=cv2.CV_32S if grey.size <= _INT32_PIXELS else cv2.CV_64F)
    rows, down = _borders(height, size)
    columns, across = _borders(width, size)
    # Borders of areas fall between pixels: the sums there lie between those of the pixels around.
    near = sums.take(rows, axis=0).take(columns, axis=1)
    lines = near[: size + 1] + (near[size + 1 :] - near[: size + 1]) * down[:, None]
    corners = lines[:, : size + 1] + (lines[:, size + 1 :] - lines[:, : size + 1]) * across
    bands = corners[1:] - corners[:-1]
    return np.rint((bands[:, 1:] - bands[:, :-1]) * (size * size / grey.size)).astype(np.float32)


@lru_cache(maxsize=1024)  # images of one source share their sides
def _borders(length: int, size: int) -> tuple[NDArray[np.intp], NDArray[np.floating]]:
    """The pixels before and behind each border of `size` areas along a side, and how far the border lies between them."""
    place = np.arange(size + 1) * (length / size)
    before = np.minimum(place.astype(np.intp), length - 1)
    return np.concatenate((before, before + 1)), place - before


def signature_of(data: bytes, picture: PIL.Image.Image) -> Signature:
    """The signature of an image from its encoded file and what imaging.read.decode made of it."""
    return signature(data, np.asarray(picture.convert("L")))
