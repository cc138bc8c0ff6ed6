"""Graphics cards by name, for planning: their peak speed in bfloat16 and their memory.

Peaks are those of dense matrix products with float32 sums, half of what a data sheet prints "with
sparsity". Sources: the makers' data sheets of each card, and for the RTX cards the appendices of
NVIDIA's Ampere, Ada and Blackwell white papers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lingshu.core.errors import UnknownNameError, suggest_name

# What is left of a card's memory beside the context of its driver, communication buffers and
# fragmentation.
USABLE_FRACTION = 0.9


@dataclass(frozen=True)
class Gpu:
    """`peak` in dense bfloat16 FLOP/s, `memory` in bytes (GB of the data sheet, 10^9)."""

    name: str
    peak_flops: float
    memory_bytes: float

    def has_capacity(self, size: float) -> bool:
        return size <= USABLE_FRACTION * self.memory_bytes


# name: (TFLOP/s, GB)
_CARDS: dict[str, tuple[float, float]] = {
    "A10": (125, 24),
    "A100-40GB": (312, 40),
    "A100-80GB": (312, 80),
    "A40": (149.7, 48),
    "A6000": (154.8, 48),
    "B200": (2250, 180),
    "H100": (989.4, 80),  # SXM
    "H100-NVL": (835.5, 94),
    "H100-PCIe": (756, 80),
    "H20": (148, 96),
    "H200": (989.4, 141),
    "L4": (121, 24),
    "L40S": (362, 48),
    "RTX3090": (71, 24),
    "RTX4090": (165.2, 24),
    "RTX5090": (209.5, 32),
    "RTX6000-Ada": (364.2, 48),
}
GPUS = {
    name: Gpu(name, teraflops * 1e12, gigabytes * 1e9)
    for name, (teraflops, gigabytes) in _CARDS.items()
}


def find_gpu(name: str) -> Gpu:
    """The card of that name; upper and lower case, blanks and dashes make no difference.

    Raises:
        UnknownName: it is not on file; the message suggests the nearest.
    """
    for card_name, card in GPUS.items():
        if _normalize_name(card_name) == _normalize_name(name):
            return card
    raise UnknownNameError(f"the GPU {name!r} is not on file; {suggest_name(name.upper(), GPUS)}")


def _normalize_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
