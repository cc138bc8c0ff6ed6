"""The decoder in a process of its own: the same values, and an error instead of our end when it
dies or gets stuck.
"""

from __future__ import annotations

import io
import os
import signal

import numpy as np
import pytest

pytest.importorskip("gdcm", reason="python-gdcm is not installed")
pytest.importorskip("pydicom", reason="pydicom is not installed")

from lingshu.imaging import _dicom_pixels, _gdcm_apart
from lingshu.imaging._gdcm_apart import Died, Refused, decode_apart
from lingshu.imaging.dicom import open_dicom
from tests.imaging._dicoms import as_jpeg

PIXELS = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (48, 1))
OPTIONS = {
    "transfer_syntax_uid": "1.2.840.10008.1.2.4.50", "rows": 48, "columns": 64, "samples_per_pixel": 1, "number_of_frames": 1,
    "bits_allocated": 8, "bits_stored": 8, "pixel_representation": 0, "photometric_interpretation": "MONOCHROME2",
    "planar_configuration": 0, "pixel_keyword": "PixelData", "pixel_vr": "OB",
}  # fmt: skip


def frame() -> bytes:
    import PIL.Image

    buffer = io.BytesIO()
    PIL.Image.fromarray(PIXELS).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def test_values_are_those_of_the_decoder_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    file = as_jpeg(PIXELS)
    with open_dicom(file, name="f") as opened:
        here = next(opened.values())
    monkeypatch.setattr(_dicom_pixels, "PLUGINS", ("gdcm",))
    with open_dicom(file, name="f") as opened:
        apart = next(opened.values())
    assert here.dtype == apart.dtype and np.abs(here.astype(int) - apart).max() <= 1


def test_a_frame_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(Refused):
        decode_apart(b"\xff\xd8 no frame", dict(OPTIONS))


def test_after_the_decoder_died_another_one_serves() -> None:
    assert decode_apart(frame(), dict(OPTIONS)).shape == (48, 64)
    (child,) = _gdcm_apart._children(os.getpid())
    child._process.kill()
    child._process.wait()
    with pytest.raises(Died):
        child.decode(frame(), dict(OPTIONS))
    assert decode_apart(frame(), dict(OPTIONS)).shape == (48, 64)


def test_a_decoder_that_is_stuck_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    decode_apart(frame(), dict(OPTIONS))
    (child,) = _gdcm_apart._children(os.getpid())
    os.kill(child._process.pid, signal.SIGSTOP)
    monkeypatch.setattr(_gdcm_apart, "PATIENCE_S", 0.05)
    with pytest.raises(Died, match="stuck"):
        decode_apart(frame(), dict(OPTIONS))
    monkeypatch.undo()
    assert decode_apart(frame(), dict(OPTIONS)).shape == (48, 64)
