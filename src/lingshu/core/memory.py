"""What the C library does with freed memory: kept for the next block of its size, or given back to
the system.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys

# Of malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def retain_freed_memory(size: int) -> None:
    """Keep up to `size` bytes of freed memory, and take smaller blocks from it; with another C
    library than glibc nothing.

    glibc gives large blocks back at once, which the system then has to clear again for the next
    one.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            c = ctypes.CDLL(None)
            c.mallopt(M_MMAP_THRESHOLD, size)
            c.mallopt(M_TRIM_THRESHOLD, size)


def release_freed_memory() -> None:
    """Give back what is free in this process, Arrow's pool as well where it was used: after work
    that will not come again soon.
    """
    if "pyarrow" in sys.modules:
        import pyarrow as pa

        pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
