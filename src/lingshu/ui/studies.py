"""The studies below the allowed folder: a list without identities, series, single slices.

Studies and patients are named by keyed hashes that change with every start of the server. The page
receives only the order of a patient's studies, never a date.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response

from lingshu.core.errors import ImageError, InputError
from lingshu.core.safe_folder import SafeFolder
from lingshu.imaging.dicom.file import open_dicom
from lingshu.imaging.dicom.references import read_study_reference
from lingshu.imaging.dicom.study import DicomSeries, RenderedSlice, Study, render_slice
from lingshu.imaging.provenance import provenance_to_json
from lingshu.inference.study_index import STUDY_URI_PREFIX, MediaResolver
from lingshu.serve.schema import HTTPError
from lingshu.ui.http import WorkerPool, add_route

MAX_OPEN_STUDIES = 16
MAX_LISTED = 500


@dataclass(frozen=True)
class StudyListEntry:
    """A study in the list; `study_date` decides the order and is not sent."""

    id: str
    files: int
    modality: str | None = None
    body_part: str | None = None
    patient: str | None = None
    study_date: str | None = None


class StudyCatalog:
    """The list of studies, and the studies opened last."""

    def __init__(self, root: SafeFolder | None) -> None:
        self.media = MediaResolver(root)
        self._lock = threading.Lock()
        self._entries: dict[tuple[str, tuple[Path, ...]], StudyListEntry] = {}
        self._open_studies: OrderedDict[str, Study] = OrderedDict()

    def add_routes(self, app: FastAPI, workers: WorkerPool) -> None:
        async def list_studies(request: Request) -> object:
            return await workers.run(request, self.list_studies)

        async def study(request: Request) -> object:
            name = request.query_params.get("study", "")
            return await workers.run(request, lambda: study_json(self.open_study(name)))

        async def slice_image(request: Request) -> Response:
            params = request.query_params
            series, index = _parse_index(params.get("series")), _parse_index(params.get("index"))
            window, name = params.get("window", "file"), params.get("study", "")
            rendered = await workers.run(
                request, lambda: self.render_slice(name, series, index, window)
            )
            provenance = json.dumps(provenance_to_json(rendered.provenance))  # ASCII, for a header
            headers = {"X-Lingshu-Image-Provenance": provenance}
            return Response(rendered.png, media_type="image/png", headers=headers)

        add_route(app, "/page/api/studies", list_studies)
        add_route(app, "/page/api/study", study)
        add_route(app, "/page/api/slice", slice_image)

    def list_studies(self) -> dict[str, Any]:
        """Every study, those of one patient in the order of their dates.

        Raises:
            InputError: the server has no folder of studies.
        """
        index = self.media.build_index()
        with self._lock:
            # Studies whose files were deleted or changed are not kept.
            self._entries = {pair: self._entry(*pair) for pair in index.studies.items()}
            self._open_studies.clear()  # files may have been added or removed
            entries = list(self._entries.values())
        by_patient: dict[str, list[StudyListEntry]] = defaultdict(list)
        for entry in entries:
            by_patient[entry.patient or entry.id].append(entry)
        rows = []
        for group in by_patient.values():
            has_order = all(entry.study_date for entry in group)
            group.sort(key=lambda entry: entry.study_date or "")
            rows += [
                {
                    "id": entry.id,
                    "patient": entry.patient,
                    "files": entry.files,
                    "modality": entry.modality,
                    "body_part": entry.body_part,
                    "rank": rank if has_order else None,
                    "total": len(group),
                }
                for rank, entry in enumerate(group, 1)
            ]
        return {
            "studies": rows[:MAX_LISTED],
            "more": max(0, len(rows) - MAX_LISTED),
            "is_complete": index.is_complete,
            "n_other_files": index.n_other_files,
        }

    def _entry(self, name: str, files: tuple[Path, ...]) -> StudyListEntry:
        if (name, files) in self._entries:
            return self._entries[name, files]
        try:
            with open_dicom(files[0], name="a file") as dicom:
                metadata = dicom.metadata(self.media.key)
            study_date = read_study_reference(files[:1]).elements.get("StudyDate")
        except InputError:
            return StudyListEntry(name, len(files))
        fields = metadata.modality, metadata.body_part, metadata.patient, study_date
        return StudyListEntry(name, len(files), *fields)

    def open_study(self, name: str) -> Study:
        """A study of the list.

        Raises:
            InputError: there is none of that name.
        """
        with self._lock:
            if name in self._open_studies:
                self._open_studies.move_to_end(name)
                return self._open_studies[name]
        study = self.media.load_study(STUDY_URI_PREFIX + name)
        with self._lock:
            self._open_studies[name] = study
            while len(self._open_studies) > MAX_OPEN_STUDIES:
                self._open_studies.popitem(last=False)
        return study

    def render_slice(
        self, name: str, series: int, index: int, window: str, *, item: int = 1
    ) -> RenderedSlice:
        """One slice of a study in one window; `series` and `index` count from 1.

        Raises:
            InputError, ImageError: there is none, or it cannot be shown.
        """
        study = self.open_study(name)
        if not 1 <= series <= len(study.series):
            raise InputError(f"the study has no series {series}; it has {len(study.series)}.")
        try:
            return render_slice(study.series[series - 1], index, item=item, window=window)
        except ImageError as error:
            raise ImageError(f"this image cannot be shown: {error}") from None


def study_json(study: Study) -> dict[str, Any]:
    """The series of a study as the viewer lists them."""
    return {
        "series": [_series_json(series) for series in study.series],
        "left_out": dict(study.left_out),
    }


def _series_json(series: DicomSeries) -> dict[str, Any]:
    metadata = series.files[0].metadata
    return {
        "number": series.number,
        "images": series.n_images,
        "is_localizer": series.is_localizer,
        "own_number": metadata.series_number,
        "modality": metadata.modality,
        "body_part": metadata.body_part,
        "view": metadata.view,
    }


def _parse_index(text: str | None) -> int:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 9:
        raise HTTPError.invalid("series and index are whole numbers from 1.", "invalid_value")
    return int(text)
