"""Mutated and truncated PNG, JPEG and DICOM files: pixels or an ImageError, never another error, and
bounded memory.
"""

from __future__ import annotations

import importlib.util
import io
import random
import resource
from collections.abc import Callable

import numpy as np
import PIL.Image
import pytest

from lingshu.core.errors import ImageError
from lingshu.core.types import Image
from lingshu.imaging.cache import ImageCache

DICOM = importlib.util.find_spec("pydicom") is not None
SEED = 20261120


def noisy(height: int, width: int, channels: int = 1) -> np.ndarray:
    rng = np.random.default_rng(SEED)
    return rng.integers(
        0, 255, (height, width) if channels == 1 else (height, width, channels), dtype=np.uint8
    )


def encoded(kind: str, pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def sample_images() -> list[bytes]:
    deep = (noisy(24, 24).astype(np.uint16) * 200).astype(np.uint16)
    transparent = noisy(20, 20, 4)
    files = [encoded("PNG", p) for p in (noisy(32, 40), noisy(24, 24, 3), transparent, deep)]
    return [
        *files,
        *(
            encoded("JPEG", p, progressive=flag)
            for p in (noisy(32, 40), noisy(24, 24, 3))
            for flag in (False, True)
        ),
    ]


def sample_dicoms() -> list[bytes]:
    from pydicom.uid import (
        DeflatedExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        JPEG2000Lossless,
        JPEGLSLossless,
        RLELossless,
    )

    from tests.support.dicom_files import as_jpeg, compressed, dicom

    uncompressed = dicom(noisy(64, 64), WindowCenter="100", WindowWidth="80", PatientName="A^B")
    files = [
        uncompressed,
        as_jpeg(noisy(32, 32)),
        dicom(noisy(16, 16, 3)),
        dicom(noisy(3, 64).reshape(3, 8, 8)),
    ]
    files += [
        dicom(noisy(16, 16), syntax=s)
        for s in (DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian)
    ]
    for syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
        try:
            files.append(compressed(uncompressed, syntax))
        except (RuntimeError, NotImplementedError):
            continue
    return files


def mutated(file: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, a stretch removed, doubled or zeroed, or the end cut off."""
    data = bytearray(file)
    for _ in range(rng.randint(1, 4)):
        # Half of the changes go to the head, where the sizes are.
        index = rng.randrange(min(len(data), 400) if rng.random() < 0.5 else len(data))
        length = rng.randint(1, 40)
        action = rng.randrange(6)
        if action <= 2:
            data[index] = rng.choice((0, 0xFF, 0x7F, 0x80, rng.randrange(256)))
        elif action == 3:
            del data[index : index + length]
        elif action == 4:
            data[index:index] = data[index : index + length]
        else:
            del data[max(1, index) :]
        data = data or bytearray(b"\0")
    return bytes(data)


def open_cached_image(data: bytes) -> None:
    with ImageCache() as cache:
        image = Image(data=data)
        header = cache.header(image)
        gray, rgb = cache.gray(image), cache.rgb(image)
        assert gray.shape == (header.height, header.width) and rgb.shape == (*gray.shape, 3)


def open_file(data: bytes) -> None:
    from lingshu.imaging.dicom.file import open_dicom

    with open_dicom(data, name="the file") as dicom_file:
        dicom_file.metadata(b"0123456789abcdef")
        for index, frame in enumerate(dicom_file.render()):
            assert frame.pixels.dtype == np.uint8
            if index > 40:
                break


def survivors(
    files: list[bytes], count: int, open_function: Callable[[bytes], None]
) -> tuple[int, int]:
    """How many mutated files gave pixels and how many an ImageError; everything else fails the test."""
    rng = random.Random(SEED)
    n_opened = n_refused = 0
    for _ in range(count):
        try:
            open_function(mutated(rng.choice(files), rng))
            n_opened += 1
        except ImageError as error:
            assert "\n" not in str(error)
            n_refused += 1
    return n_opened, n_refused


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [300, pytest.param(6000, marks=pytest.mark.slow)])
def test_mutated_images_give_pixels_or_bad_image(
    count: int, capfd: pytest.CaptureFixture[str]
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    n_opened, n_refused = survivors(sample_images(), count, open_cached_image)
    assert n_opened > 0 and n_refused > count // 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 << 10


@pytest.mark.skipif(not DICOM, reason="pydicom is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [300, pytest.param(6000, marks=pytest.mark.slow)])
def test_mutated_dicoms_give_pixels_or_bad_image(
    count: int, capfd: pytest.CaptureFixture[str]
) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    n_opened, n_refused = survivors(sample_dicoms(), count, open_file)
    assert n_opened > 0 and n_refused > count // 4
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 << 10


@pytest.mark.parametrize(
    "file", sample_images()[:8:2], ids=["png", "png alpha", "jpeg", "jpeg color"]
)
def test_every_truncation_is_refused(file: bytes) -> None:
    for length in range(1, len(file) - 1, 7):
        with pytest.raises(ImageError):
            open_cached_image(file[:length])
