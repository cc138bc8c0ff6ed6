"""The decoder in a separate process: the same values, and an error instead of a crash when it
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

from lingshu.imaging.dicom import gdcm_process, pixels
from lingshu.imaging.dicom.file import open_dicom
from lingshu.imaging.dicom.gdcm_process import DecodeError, DecoderCrashed, decode_in_subprocess
from tests.support.dicom_files import as_jpeg

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
    with open_dicom(file, name="f") as dicom_file:
        in_process = next(dicom_file.values())
    monkeypatch.setattr(pixels, "DECODER_PLUGINS", ("gdcm",))
    with open_dicom(file, name="f") as dicom_file:
        from_subprocess = next(dicom_file.values())
    assert (
        in_process.dtype == from_subprocess.dtype
        and np.abs(in_process.astype(int) - from_subprocess).max() <= 1
    )


def test_a_frame_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(DecodeError):
        decode_in_subprocess(b"\xff\xd8 no frame", dict(OPTIONS))


def test_a_decoder_that_died_is_replaced() -> None:
    assert decode_in_subprocess(frame(), dict(OPTIONS)).shape == (48, 64)
    (decoder,) = gdcm_process._decoder_processes(os.getpid())
    decoder._process.kill()
    decoder._process.wait()
    with pytest.raises(DecoderCrashed):
        decoder.decode(frame(), dict(OPTIONS))
    assert decode_in_subprocess(frame(), dict(OPTIONS)).shape == (48, 64)


def test_a_stuck_decoder_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    decode_in_subprocess(frame(), dict(OPTIONS))
    (decoder,) = gdcm_process._decoder_processes(os.getpid())
    os.kill(decoder._process.pid, signal.SIGSTOP)
    monkeypatch.setattr(gdcm_process, "TIMEOUT_S", 0.05)
    with pytest.raises(DecoderCrashed, match="stuck"):
        decode_in_subprocess(frame(), dict(OPTIONS))
    monkeypatch.undo()
    assert decode_in_subprocess(frame(), dict(OPTIONS)).shape == (48, 64)
