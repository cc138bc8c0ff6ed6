"""Studies, evaluations and review queues made up for the tests of the page, with names that are
markup.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from lingshu.apps._page_app import Folders, Page
from lingshu.core.nouns import Live
from lingshu.core.options import EngineOptions
from lingshu.core.rooted import Rooted
from lingshu.engines import echo
from lingshu.engines._whole import WholeReplies
from lingshu.imaging.read import png_bytes
from tests.imaging._dicoms import planted, saved
from tests.tiny import picture

EVIL = "<img src=x onerror=\"document.title='gone'\"><script>document.title='gone'</script>"
# A file's name may hold no slash.
EVIL_NAME = "<img src=x onerror=document.title=1>"
SCANS = 5


def speaking(text: str) -> Live:
    """A model without weights that says one thing."""
    return WholeReplies(echo.load(f"echo:{text}", EngineOptions()))


def folders(place: Path) -> Page:
    """A page over two CT studies of one patient and a radiograph, a report, and a queue of four
    samples.
    """
    for number, day in enumerate(("20200101", "20210101")):
        for z in range(SCANS):
            _write(
                place / "root" / f"ZZQUX {number}" / f"{z}.dcm",
                slice_of(z),
                f"1.2.826.9900{number}",
                StudyDate=day,
            )
    _write(
        place / "root" / EVIL_NAME / f"{EVIL_NAME}.dcm",
        radiograph(),
        "1.2.826.99005",
        PatientName="<b>x</b>",
        StudyDescription=EVIL_NAME,
        PatientID="ZZMRN-2",
    )
    run = place / "runs" / EVIL_NAME
    run.mkdir(parents=True)
    (run / "report.html").write_text("<!doctype html><title>A report</title><p>Scores.")
    accuracy = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 90}
    (run / "report.json").write_text(
        json.dumps({"model": EVIL, "tasks": [{"name": "t", "summary": {"accuracy": accuracy}}]})
    )
    queue(place / "review" / "captions" / "review")
    return Page(Folders(*(Rooted(place / name) for name in ("root", "runs", "review"))))


def slice_of(z: int) -> bytes:
    """A CT slice: air around a disc of soft tissue."""
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    values = np.where(x**2 + y**2 < 0.5, 40 + 5 * z, -900).astype(np.int16)
    place = {
        "ImagePositionPatient": [0, 0, 5.0 * z],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [2, 1],
    }
    return planted(
        values, Modality="CT", RescaleSlope=1, RescaleIntercept=0, InstanceNumber=z + 1, **place
    )


def radiograph() -> bytes:
    return planted((np.arange(40 * 30).reshape(40, 30) * 3).astype(np.uint16), Modality="CR")


def queue(folder: Path) -> None:
    """Two samples with one text and two with two."""
    (folder / "images").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for number in range(4):
        name = f"images/{number}.png"
        (folder / name).write_bytes(png_bytes(picture(number)))
        second = None if number < 2 else f"other text {number}"
        texts = {"question": "Describe it.", "first": f"text {number} {EVIL}", "second": second}
        rows.append(
            {
                "id": f"s{number}",
                "kind": "caption",
                **texts,
                "images": [name],
                "source": "made up",
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
    path.write_bytes(saved(data))
