"""A bit for each hash of a set: most strangers are turned away before a large sorted table is
searched.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BITS_EACH = 16


class Filter(NamedTuple):
    """2^size bits, of which each hash sets two: those its leading bits name, and those the next
    ones do. It pickles.

    Of strangers some one in a hundred gets through.
    """

    bits: NDArray[np.uint8]
    size: int

    @classmethod
    def build(cls, hashes: NDArray[np.uint64]) -> Filter:
        size = min(32, max(16, (len(hashes) * BITS_EACH).bit_length()))
        bits = np.zeros(1 << (size - 3), np.uint8)
        for skipped in (0, size):
            spot = (hashes << np.uint64(skipped)) >> np.uint64(64 - size)
            np.bitwise_or.at(
                bits, spot >> np.uint64(3), np.uint8(1) << (spot & np.uint64(7)).astype(np.uint8)
            )
        return cls(bits, size)

    def passed(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The places of the hashes that may be in the set; all others are not."""
        first = np.flatnonzero(self._set(hashes))
        return first[self._set(hashes[first] << np.uint64(self.size))]

    def _set(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        spot = hashes >> np.uint64(64 - self.size)
        return (
            self.bits[spot >> np.uint64(3)] >> (spot & np.uint64(7)).astype(np.uint8) & np.uint8(1)
        ).view(np.bool_)
