"""Synthetic studies, evaluations and review queues for the tests of the page, with names that are
markup.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from lingshu.core.safe_folder import SafeFolder
from lingshu.core.types import AsyncEngine, EngineOptions
from lingshu.engines import echo
from lingshu.imaging.read import png_bytes
from lingshu.inference.engines import BlockingEngineAdapter
from lingshu.ui.app import UiFolders, WebUI
from tests.support.dicom_files import dicom_with_identifiers, to_bytes
from tests.support.tiny import make_image

EVIL = "<img src=x onerror=\"document.title='gone'\"><script>document.title='gone'</script>"
# A file's name may hold no slash.
EVIL_NAME = "<img src=x onerror=document.title=1>"
N_SLICES = 5


def fixed_reply_engine(text: str) -> AsyncEngine:
    """A model without weights that always gives one reply."""
    return BlockingEngineAdapter(echo.load(f"echo:{text}", EngineOptions()))


def web_ui(root: Path) -> WebUI:
    """A page over two CT studies of one patient and a radiograph, a report, and a queue of four
    samples.
    """
    for index, study_date in enumerate(("20200101", "20210101")):
        for z in range(N_SLICES):
            _write(
                root / "root" / f"ZZQUX {index}" / f"{z}.dcm",
                ct_slice(z),
                f"1.2.826.9900{index}",
                StudyDate=study_date,
            )
    _write(
        root / "root" / EVIL_NAME / f"{EVIL_NAME}.dcm",
        radiograph(),
        "1.2.826.99005",
        PatientName="<b>x</b>",
        StudyDescription=EVIL_NAME,
        PatientID="ZZMRN-2",
    )
    run = root / "runs" / EVIL_NAME
    run.mkdir(parents=True)
    (run / "report.html").write_text("<!doctype html><title>A report</title><p>Scores.")
    accuracy = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 90}
    (run / "report.json").write_text(
        json.dumps({"model": EVIL, "tasks": [{"name": "t", "summary": {"accuracy": accuracy}}]})
    )
    write_queue(root / "review" / "captions" / "review")
    return WebUI(UiFolders(*(SafeFolder(root / name) for name in ("root", "runs", "review"))))


def ct_slice(z: int) -> bytes:
    """A CT slice: air around a disc of soft tissue."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    values = np.where(x**2 + y**2 < 0.5, 40 + 5 * z, -900).astype(np.int16)
    position = {
        "ImagePositionPatient": [0, 0, 5.0 * z],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [2, 1],
    }
    return dicom_with_identifiers(
        values, Modality="CT", RescaleSlope=1, RescaleIntercept=0, InstanceNumber=z + 1, **position
    )


def radiograph() -> bytes:
    return dicom_with_identifiers(
        (np.arange(40 * 30).reshape(40, 30) * 3).astype(np.uint16), Modality="CR"
    )


def write_queue(folder: Path) -> None:
    """Two samples with one text and two with two."""
    (folder / "images").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for index in range(4):
        name = f"images/{index}.png"
        (folder / name).write_bytes(png_bytes(make_image(index)))
        second = None if index < 2 else f"other text {index}"
        texts = {"question": "Describe it.", "first": f"text {index} {EVIL}", "second": second}
        rows.append(
            {
                "id": f"s{index}",
                "kind": "caption",
                **texts,
                "images": [name],
                "source": "synthetic",
                "modality": "ct",
            }
        )
    (folder / "queue.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write(path: Path, file: bytes, study: str, **elements: str) -> None:
    data = pydicom.dcmread(io.BytesIO(file))
    data.StudyInstanceUID, data.SeriesInstanceUID = study, f"{study}.1"
    for name, value in elements.items():
        setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_bytes(data))
