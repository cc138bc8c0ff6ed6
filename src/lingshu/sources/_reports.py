"""A table of reports, joined to studies by keyed hashes: the numbers in it are never carried."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from lingshu.core.errors import InputError, nearest, one_line
from lingshu.imaging.dicom import DicomFacts
from lingshu.imaging.pseudonyms import pseudonym
from lingshu.sources.csv import MAX_FIELD

# What a report may be joined by, the narrowest first.
JOINS = ("series", "study", "accession", "patient")
DEFAULT = {"accession": "accession", "report": "report"}


class Reports:
    """Reports by the hashes of what they belong to. Remembers which were used."""

    def __init__(self, path: Path, columns: Mapping[str, str] | None, key: bytes) -> None:
        self._columns = dict(columns or DEFAULT)
        unknown = next((name for name in self._columns if name not in (*JOINS, "report")), None)
        if unknown is not None or "report" not in self._columns or len(self._columns) < 2:
            raise InputError(f"reports are joined by columns for report and one of {', '.join(JOINS)}, not {', '.join(self._columns)}.")
        self._joins = [kind for kind in JOINS if kind in self._columns]
        self._texts: list[str] = []
        self._found: dict[tuple[str, str], int] = {}
        self._used: set[int] = set()
        self.empty = 0
        self._load(path, key)

    def _load(self, path: Path, key: bytes) -> None:
        try:
            csv.field_size_limit(MAX_FIELD)
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = csv.DictReader(file)
                for column in self._columns.values():
                    if column not in (rows.fieldnames or ()):
                        raise InputError(f"{path} has no column {column!r}; {nearest(column, rows.fieldnames or ())}")
                for row in rows:
                    self._add(row, key)
        except (OSError, csv.Error, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read as a table of reports ({one_line(error)}); check the file.") from error

    def _add(self, row: Mapping[str, str | None], key: bytes) -> None:
        text = (row.get(self._columns["report"]) or "").strip()
        hashes = {kind: pseudonym(key, kind, row.get(self._columns[kind]) or "") for kind in self._joins}
        if not text or not any(hashes.values()):
            self.empty += 1
            return
        for kind, value in hashes.items():
            if value is not None:
                self._found.setdefault((kind, value), len(self._texts))
        self._texts.append(text)

    def of(self, facts: DicomFacts) -> str | None:
        """The report on an image's series, study, accession or patient; None where there is none."""
        for kind in self._joins:
            value = getattr(facts, kind)
            place = self._found.get((kind, value)) if value else None
            if place is not None:
                self._used.add(place)
                return self._texts[place]
        return None

    @property
    def unused(self) -> list[int]:
        """The numbers of the reports, from 1, that no image was found for."""
        return [place + 1 for place in range(len(self._texts)) if place not in self._used]
