"""Which samples are still to be answered, and under which keys: fifty bytes a sample, so that a run
of any size fits.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left

KEY_BYTES = 32


class PendingSamples:
    """Keys by sample id. Filled with `add`, closed with `seal`, then asked; every sample waits
    until it is `settle`d.

    Ids are held as 64-bit hashes: among a million samples two of them meet by chance once in thirty
    million runs, and would be reported as one id given twice.
    """

    def __init__(self) -> None:
        self._hashes = array("q")
        self._keys = bytearray()
        self._order = array("q")
        self._pending = bytearray()
        self.n_pending = 0

    def add(self, name: str, key: str) -> None:
        """Take in a sample with its key, a sha256 in hexadecimal digits."""
        self._hashes.append(hash(name))
        self._keys += bytes.fromhex(key)

    def freeze(self) -> int | None:
        """Make it ready to be asked; the place of a sample whose id was given before, None where
        all differ.
        """
        unsorted_hashes = self._hashes
        self._order = array(
            "q", sorted(range(len(unsorted_hashes)), key=unsorted_hashes.__getitem__)
        )
        self._hashes = array("q", (unsorted_hashes[index] for index in self._order))
        self._pending = bytearray(b"\1" * len(unsorted_hashes))
        self.n_pending = len(unsorted_hashes)
        duplicates = (
            i for i in range(1, len(unsorted_hashes)) if self._hashes[i] == self._hashes[i - 1]
        )
        duplicate = next(duplicates, None)
        return None if duplicate is None else self._order[duplicate]

    def __contains__(self, name: str) -> bool:
        """Whether a sample of this id is waited for."""
        index = self._find_index(name)
        return index is not None and bool(self._pending[index])

    def key(self, name: str) -> str:
        index = self._find_index(name)
        if index is None:
            raise KeyError(name)
        return self._keys[KEY_BYTES * index : KEY_BYTES * (index + 1)].hex()

    def mark_done(self, name: str) -> None:
        """A sample is waited for no longer."""
        index = self._find_index(name)
        if index is not None and self._pending[index]:
            self._pending[index] = 0
            self.n_pending -= 1

    def _find_index(self, name: str) -> int | None:
        target = hash(name)
        position = bisect_left(self._hashes, target)
        return (
            self._order[position]
            if position < len(self._hashes) and self._hashes[position] == target
            else None
        )
