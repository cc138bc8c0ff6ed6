"""The studies below the allowed folder for the page's viewer: a list without identities, series,
and single slices in a window.

A study and its patient are called by keyed hashes that change with every start of the server. Dates
stay here: of several studies of a patient the page is told their order alone.
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
from lingshu.mcp.images import STUDY_URI_PREFIX, MediaResolver
from lingshu.serve.schema import HTTPError
from lingshu.ui.http import LenientJSONResponse, WorkerPool, add_route

MAX_OPEN_STUDIES = 16
MAX_LISTED = 500


@dataclass(frozen=True)
class StudyListEntry:
    """A study in the list. `day` decides the order and is told to nobody."""

    id: str
    files: int
    modality: str | None
    body_part: str | None
    patient: str | None
    study_date: str | None


class StudyCatalog:
    """Remembers the entries of the list and the studies opened last."""

    def __init__(self, root: SafeFolder | None) -> None:
        self.media = MediaResolver(root)
        self._lock = threading.Lock()
        self._entries: dict[tuple[str, tuple[Path, ...]], StudyListEntry] = {}
        self._open_studies: OrderedDict[str, Study] = OrderedDict()

    def add_routes(self, app: FastAPI, workers: WorkerPool) -> None:
        async def list_studies(request: Request) -> Response:
            return LenientJSONResponse(await workers.run(request, self.list_studies))

        async def study(request: Request) -> Response:
            name = request.query_params.get("study", "")
            return LenientJSONResponse(
                await workers.run(request, lambda: study_json(self.open_study(name)))
            )

        async def slice_image(request: Request) -> Response:
            params = request.query_params
            series, index = _parse_index(params.get("series")), _parse_index(params.get("index"))
            window, name = params.get("window", "file"), params.get("study", "")
            rendered = await workers.run(
                request, lambda: self.render_slice(name, series, index, window)
            )
            # ASCII JSON: a header holds nothing else.
            return Response(
                rendered.png,
                media_type="image/png",
                headers={
                    "X-Lingshu-Image-Provenance": json.dumps(
                        provenance_to_json(rendered.provenance)
                    )
                },
            )

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
            # Nothing is kept of files that have gone.
            self._entries = {pair: self._entry(*pair) for pair in index.studies.items()}
            entries = list(self._entries.values())
            self._open_studies.clear()  # files may have come or gone
        groups: dict[str, list[StudyListEntry]] = defaultdict(list)
        for entry in entries:
            groups[entry.patient or entry.id].append(entry)
        rows = []
        for group in groups.values():
            # Without dates there is no order to tell.
            has_dates = all(entry.study_date for entry in group)
            for rank, entry in enumerate(
                sorted(group, key=lambda study_entry: study_entry.study_date or ""), 1
            ):
                fields = {
                    "id": entry.id,
                    "patient": entry.patient,
                    "files": entry.files,
                    "modality": entry.modality,
                }
                rows.append(
                    {
                        **fields,
                        "body_part": entry.body_part,
                        "rank": rank if has_dates else None,
                        "total": len(group),
                    }
                )
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
            return StudyListEntry(
                name,
                len(files),
                metadata.modality,
                metadata.body_part,
                metadata.patient,
                study_date,
            )
        except InputError:
            return StudyListEntry(name, len(files), None, None, None, None)

    def open_study(self, name: str) -> Study:
        """A study of the list.

        Raises:
            InputError: there is none of that name.
        """
        with self._lock:
            if name in self._open_studies:
                self._open_studies.move_to_end(name)
                return self._open_studies[name]
        opened_study = self.media.load_study(STUDY_URI_PREFIX + name)
        with self._lock:
            self._open_studies[name] = opened_study
            while len(self._open_studies) > MAX_OPEN_STUDIES:
                self._open_studies.popitem(last=False)
        return opened_study

    def render_slice(
        self, name: str, series: int, index: int, window: str, *, item: int = 1
    ) -> RenderedSlice:
        """One slice of a study in one window.

        Raises:
            InputError, BadImage: there is none, or it cannot be shown.
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
    fields = {
        "number": series.number,
        "images": series.n_images,
        "is_localizer": series.is_localizer,
        "own_number": metadata.series_number,
    }
    return {
        **fields,
        "modality": metadata.modality,
        "body_part": metadata.body_part,
        "view": metadata.view,
    }


def _parse_index(text: str | None) -> int:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 9:
        raise HTTPError(400, "series and place are whole numbers from 1.", code="invalid_value")
    return int(text)
