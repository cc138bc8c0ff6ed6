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

from lingshu.apps._mcp_images import STUDY, Shown
from lingshu.apps._page_http import Json, Workers, add
from lingshu.apps._serve_wire import Refused
from lingshu.core.errors import BadImage, InputError
from lingshu.core.rooted import Rooted
from lingshu.imaging.dicom import open_dicom
from lingshu.imaging.reference import study_reference
from lingshu.imaging.seen import seen_to_json
from lingshu.imaging.study import Picture, Series, Study, picture_at

HELD = 16
LISTED = 500


@dataclass(frozen=True)
class Entry:
    """A study in the list. `day` decides the order and is told to nobody."""

    id: str
    files: int
    modality: str | None
    body_part: str | None
    patient: str | None
    day: str | None


class Studies:
    """Remembers the entries of the list and the studies opened last."""

    def __init__(self, root: Rooted | None) -> None:
        self.shown = Shown(root)
        self._turn = threading.Lock()
        self._entries: dict[tuple[str, tuple[Path, ...]], Entry] = {}
        self._opened: OrderedDict[str, Study] = OrderedDict()

    def add(self, app: FastAPI, workers: Workers) -> None:
        async def listing(request: Request) -> Response:
            return Json(await workers.do(request, self.listed))

        async def study(request: Request) -> Response:
            name = request.query_params.get("study", "")
            return Json(await workers.do(request, lambda: study_json(self.study(name))))

        async def slice_(request: Request) -> Response:
            asked = request.query_params
            series, place = _number(asked.get("series")), _number(asked.get("place"))
            window, name = asked.get("window", "file"), asked.get("study", "")
            found = await workers.do(request, lambda: self.picture(name, series, place, window))
            # ASCII JSON: a header holds nothing else.
            return Response(
                found.png,
                media_type="image/png",
                headers={"X-Lingshu-Seen": json.dumps(seen_to_json(found.seen))},
            )

        add(app, "/page/api/studies", listing)
        add(app, "/page/api/study", study)
        add(app, "/page/api/slice", slice_)

    def listed(self) -> dict[str, Any]:
        """Every study, those of one patient in the order of their dates.

        Raises:
            InputError: the server has no folder of studies.
        """
        index = self.shown.index()
        with self._turn:
            # Nothing is kept of files that have gone.
            self._entries = {pair: self._entry(*pair) for pair in index.studies.items()}
            entries = list(self._entries.values())
            self._opened.clear()  # files may have come or gone
        groups: dict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            groups[entry.patient or entry.id].append(entry)
        told = []
        for group in groups.values():
            # Without dates there is no order to tell.
            dated = all(entry.day for entry in group)
            for rank, entry in enumerate(sorted(group, key=lambda one: one.day or ""), 1):
                facts = {
                    "id": entry.id,
                    "patient": entry.patient,
                    "files": entry.files,
                    "modality": entry.modality,
                }
                told.append(
                    {
                        **facts,
                        "body_part": entry.body_part,
                        "rank": rank if dated else None,
                        "of": len(group),
                    }
                )
        return {
            "studies": told[:LISTED],
            "more": max(0, len(told) - LISTED),
            "complete": index.complete,
            "other": index.other_files,
        }

    def _entry(self, name: str, files: tuple[Path, ...]) -> Entry:
        if (name, files) in self._entries:
            return self._entries[name, files]
        try:
            with open_dicom(files[0], name="a file") as opened:
                facts = opened.facts(self.shown.key)
            day = study_reference(files[:1]).elements.get("StudyDate")
            return Entry(name, len(files), facts.modality, facts.body_part, facts.patient, day)
        except InputError:
            return Entry(name, len(files), None, None, None, None)

    def study(self, name: str) -> Study:
        """A study of the list.

        Raises:
            InputError: there is none of that name.
        """
        with self._turn:
            if name in self._opened:
                self._opened.move_to_end(name)
                return self._opened[name]
        found = self.shown.study(STUDY + name)
        with self._turn:
            self._opened[name] = found
            while len(self._opened) > HELD:
                self._opened.popitem(last=False)
        return found

    def picture(self, name: str, series: int, place: int, window: str, *, item: int = 1) -> Picture:
        """One slice of a study in one window.

        Raises:
            InputError, BadImage: there is none, or it cannot be shown.
        """
        study = self.study(name)
        if not 1 <= series <= len(study.series):
            raise InputError(f"the study has no series {series}; it has {len(study.series)}.")
        try:
            return picture_at(study.series[series - 1], place, item=item, window=window)
        except BadImage as error:
            raise BadImage(f"this image cannot be shown: {error}") from None


def study_json(study: Study) -> dict[str, Any]:
    """The series of a study as the viewer lists them."""
    return {
        "series": [_series_json(series) for series in study.series],
        "left_out": dict(study.left_out),
    }


def _series_json(series: Series) -> dict[str, Any]:
    facts = series.parts[0].facts
    place = {
        "number": series.number,
        "images": series.images,
        "localizer": series.localizer,
        "own_number": facts.series_number,
    }
    return {**place, "modality": facts.modality, "body_part": facts.body_part, "view": facts.view}


def _number(text: str | None) -> int:
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 9:
        raise Refused(400, "series and place are whole numbers from 1.", code="invalid_value")
    return int(text)
