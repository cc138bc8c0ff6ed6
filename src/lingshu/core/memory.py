"""Freed memory of the C library: kept for the next block of its size, or returned to the system."""

from __future__ import annotations

import contextlib
import ctypes
import sys

# Of malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def retain_freed_memory(size: int) -> None:
    """Keep up to `size` bytes of freed memory for smaller blocks, with glibc only.

    glibc returns large blocks at once, and the system has to clear the next one again.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            c = ctypes.CDLL(None)
            c.mallopt(M_MMAP_THRESHOLD, size)
            c.mallopt(M_TRIM_THRESHOLD, size)


def release_freed_memory() -> None:
    """Return freed memory of this process and of Arrow's pool to the system."""
    if "pyarrow" in sys.modules:
        import pyarrow as pa

        pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
