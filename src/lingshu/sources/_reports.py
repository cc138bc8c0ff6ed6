"""Tables of reports and of questions, joined to studies by keyed hashes: the numbers in them are
never carried.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from lingshu.core.errors import InputError, nearest, one_line
from lingshu.imaging.dicom import DicomFacts
from lingshu.imaging.pseudonyms import pseudonym
from lingshu.sources.csv import MAX_FIELD

# What a row may be joined by, the narrowest first.
JOINS = ("series", "study", "accession", "patient")
DEFAULT = {"accession": "accession", "report": "report"}
# Of a table of questions these columns are read and no other.
ASKED = ("question", "answer")
MORE = ("choices", "kind", "language")


class Joined:
    """Rows of a table by the hashes of what they belong to. Remembers which were used.

    `joins` says which columns hold the numbers to join by; `needed` columns must be there and
    filled, `more` may be. A row that lacks one, or has no number, counts as `empty`.

    Raises:
        InputError: a column that is not there or there twice, or a table that cannot be read.
    """

    def __init__(
        self,
        path: Path,
        joins: Mapping[str, str],
        needed: Sequence[str],
        more: Sequence[str] = (),
        *,
        key: bytes,
    ) -> None:
        self._joins = {kind: joins[kind] for kind in JOINS if kind in joins}
        self._needed, self._wanted = needed, (*needed, *more)
        self._rows: list[dict[str, str]] = []
        self._found: dict[tuple[str, str], list[int]] = {}
        self._used: set[int] = set()
        self.empty = 0
        try:
            csv.field_size_limit(MAX_FIELD)
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = csv.DictReader(file)
                names = list(rows.fieldnames or ())
                for column in (*self._joins.values(), *needed):
                    if column not in names:
                        raise InputError(
                            f"{path} has no column {column!r}; {nearest(column, names)}"
                        )
                twice = next(
                    (
                        column
                        for column in (*self._joins.values(), *self._wanted)
                        if names.count(column) > 1
                    ),
                    None,
                )
                if twice is not None:
                    raise InputError(
                        f"{path} has the column {twice!r} {names.count(twice)} times; rename or"
                        " remove all but one."
                    )
                for row in rows:
                    self._add(row, key)
        except (OSError, csv.Error, UnicodeDecodeError) as error:
            raise _unreadable(path, error) from error

    def _add(self, row: Mapping[str, str | None], key: bytes) -> None:
        known = {name: text for name in self._wanted if (text := (row.get(name) or "").strip())}
        hashes = {
            kind: pseudonym(key, kind, row.get(column) or "")
            for kind, column in self._joins.items()
        }
        if not all(name in known for name in self._needed) or not any(hashes.values()):
            self.empty += 1
            return
        for kind, value in hashes.items():
            if value is not None:
                self._found.setdefault((kind, value), []).append(len(self._rows))
        self._rows.append(known)

    def of(self, facts: DicomFacts, *, most: int | None = None) -> list[dict[str, str]]:
        """The first `most` rows on an image's series, study, accession or patient; of several of
        these the narrowest that has any.
        """
        for kind in self._joins:
            value = getattr(facts, kind)
            places = self._found.get((kind, value), [])[:most] if value else []
            if places:
                self._used.update(places)
                return [self._rows[place] for place in places]
        return []

    @property
    def unused(self) -> list[int]:
        """The numbers of the rows, from 1, that no image was found for."""
        return [place + 1 for place in range(len(self._rows)) if place not in self._used]


def reports(path: Path, columns: Mapping[str, str] | None, key: bytes) -> tuple[Joined, str]:
    """A table of reports and the column of it that holds them; `columns` says what the columns are
    called.

    Raises:
        InputError: columns that are none, and as `Joined`.
    """
    called = dict(columns or DEFAULT)
    unknown = next((name for name in called if name not in (*JOINS, "report")), None)
    if unknown is not None or "report" not in called or len(called) < 2:
        raise InputError(
            f"reports are joined by columns for report and one of {', '.join(JOINS)}, not"
            f" {', '.join(called)}."
        )
    return (
        Joined(
            path,
            {kind: called[kind] for kind in called if kind != "report"},
            (called["report"],),
            key=key,
        ),
        called["report"],
    )


def questions(path: Path, key: bytes) -> Joined:
    """A table of questions with their answers, joined by whichever of the columns series, study,
    accession, patient it has.

    Raises:
        InputError: as `Joined`, or none of these columns.
    """
    head = _head(path)
    joins = {kind: kind for kind in JOINS if kind in head}
    if not joins:
        raise InputError(
            f"{path} has none of the columns {', '.join(JOINS)}, one of which says what a question"
            " is about."
        )
    return Joined(path, joins, ASKED, MORE, key=key)


def _head(path: Path) -> Sequence[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file), [])
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError | csv.Error | UnicodeDecodeError) -> InputError:
    if isinstance(error, UnicodeDecodeError):
        return InputError(f"{path} is no UTF-8; save the table as UTF-8.")
    why = error.strerror if isinstance(error, OSError) else one_line(error)
    return InputError(f"{path} cannot be read as a table ({why}); check the file.")
