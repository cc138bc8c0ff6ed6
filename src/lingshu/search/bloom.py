"""A Bloom filter: rejects most hashes that are not in a set before a large table is searched."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BITS_PER_HASH = 16


class BloomFilter(NamedTuple):
    """2^log2_size bits, of which each hash sets two: by its leading bits, and by the next ones.

    It can be pickled. About one in a hundred of the other hashes passes.
    """

    bits: NDArray[np.uint8]
    log2_size: int

    @classmethod
    def build(cls, hashes: NDArray[np.uint64]) -> BloomFilter:
        log2_size = min(32, max(16, (len(hashes) * BITS_PER_HASH).bit_length()))
        bits = np.zeros(1 << (log2_size - 3), np.uint8)
        for shift in (0, log2_size):
            bit_index = (hashes << np.uint64(shift)) >> np.uint64(64 - log2_size)
            masks = np.uint8(1) << (bit_index & np.uint64(7)).astype(np.uint8)
            np.bitwise_or.at(bits, bit_index >> np.uint64(3), masks)
        return cls(bits, log2_size)

    def candidate_indices(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The positions of the hashes that may be in the set; all others are not."""
        candidates = np.flatnonzero(self._is_set(hashes))
        return candidates[self._is_set(hashes[candidates] << np.uint64(self.log2_size))]

    def _is_set(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        bit_index = hashes >> np.uint64(64 - self.log2_size)
        shifts = (bit_index & np.uint64(7)).astype(np.uint8)
        return (self.bits[bit_index >> np.uint64(3)] >> shifts & np.uint8(1)).view(np.bool_)
