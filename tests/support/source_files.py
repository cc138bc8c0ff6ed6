"""What tests of sources share: a tiny image, a key, and short ways to look at results."""

from __future__ import annotations

import io
from collections.abc import Iterable

import numpy as np
import PIL.Image

from lingshu.core.types import Drop, Sample

KEY = b"0123456789abcdef"


def encode(kind: str, shade: int = 0) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.full((3, 4), shade, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


PNG, JPEG = encode("PNG"), encode("JPEG")


def only_samples(results: Iterable[Sample | Drop]) -> list[Sample]:
    """All of them, none dropped."""
    items = list(results)
    assert not [result for result in items if isinstance(result, Drop)], items
    return [result for result in items if isinstance(result, Sample)]


def drop_reasons(results: Iterable[Sample | Drop]) -> list[str]:
    return [result.reason for result in results if isinstance(result, Drop)]
