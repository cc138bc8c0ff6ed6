"""Which samples are still to be answered, and under which keys: fifty bytes a sample, so that a run
of any size fits.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left

KEY_BYTES = 32


class Ledger:
    """Keys by sample id. Filled with `add`, closed with `seal`, then asked; every sample waits
    until it is `settle`d.

    Ids are held as 64-bit hashes: among a million samples two of them meet by chance once in thirty
    million runs, and would be reported as one id given twice.
    """

    def __init__(self) -> None:
        self._hashes = array("q")
        self._keys = bytearray()
        self._order = array("q")
        self._waits = bytearray()
        self.waiting = 0

    def add(self, name: str, key: str) -> None:
        """Take in a sample with its key, a sha256 in hexadecimal digits."""
        self._hashes.append(hash(name))
        self._keys += bytes.fromhex(key)

    def seal(self) -> int | None:
        """Make it ready to be asked; the place of a sample whose id was given before, None where
        all differ.
        """
        unsorted = self._hashes
        self._order = array("q", sorted(range(len(unsorted)), key=unsorted.__getitem__))
        self._hashes = array("q", (unsorted[place] for place in self._order))
        self._waits = bytearray(b"\1" * len(unsorted))
        self.waiting = len(unsorted)
        same = (at for at in range(1, len(unsorted)) if self._hashes[at] == self._hashes[at - 1])
        found = next(same, None)
        return None if found is None else self._order[found]

    def __contains__(self, name: str) -> bool:
        """Whether a sample of this id is waited for."""
        place = self._place(name)
        return place is not None and bool(self._waits[place])

    def key(self, name: str) -> str:
        place = self._place(name)
        if place is None:
            raise KeyError(name)
        return self._keys[KEY_BYTES * place : KEY_BYTES * (place + 1)].hex()

    def settle(self, name: str) -> None:
        """A sample is waited for no longer."""
        place = self._place(name)
        if place is not None and self._waits[place]:
            self._waits[place] = 0
            self.waiting -= 1

    def _place(self, name: str) -> int | None:
        wanted = hash(name)
        at = bisect_left(self._hashes, wanted)
        return self._order[at] if at < len(self._hashes) and self._hashes[at] == wanted else None
