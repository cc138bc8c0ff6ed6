"""Tables of reports and of questions, joined to studies by keyed hashes: the numbers in them are
never carried.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from lingshu.core.errors import InputError, one_line, suggest_name
from lingshu.core.pseudonyms import pseudonym
from lingshu.imaging.dicom.metadata import DicomMetadata
from lingshu.sources.csv import MAX_FIELD

# What a row may be joined by, the narrowest first.
JOIN_KEYS = ("series", "study", "accession", "patient")
DEFAULT_COLUMNS = {"accession": "accession", "report": "report"}
# Of a table of questions these columns are read and no other.
QUESTION_COLUMNS = ("question", "answer")
OPTIONAL_COLUMNS = ("choices", "kind", "language")


class JoinedTable:
    """Rows of a table by the hashes of what they belong to. Remembers which were used.

    `joins` says which columns hold the numbers to join by; `needed` columns must be there and
    filled, `more` may be. A row that lacks one, or has no number, counts as `empty`.

    Raises:
        InputError: a column that is not there or there twice, or a table that cannot be read.
    """

    def __init__(
        self,
        path: Path,
        join_columns: Mapping[str, str],
        required: Sequence[str],
        optional: Sequence[str] = (),
        *,
        key: bytes,
    ) -> None:
        self._join_columns = {
            kind: join_columns[kind] for kind in JOIN_KEYS if kind in join_columns
        }
        self._required, self._columns = required, (*required, *optional)
        self._rows: list[dict[str, str]] = []
        self._rows_by_hash: dict[tuple[str, str], list[int]] = {}
        self._matched: set[int] = set()
        self.n_empty = 0
        try:
            csv.field_size_limit(MAX_FIELD)
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = csv.DictReader(file)
                names = list(rows.fieldnames or ())
                for column in (*self._join_columns.values(), *required):
                    if column not in names:
                        raise InputError(
                            f"{path} has no column {column!r}; {suggest_name(column, names)}"
                        )
                duplicate = next(
                    (
                        column
                        for column in (*self._join_columns.values(), *self._columns)
                        if names.count(column) > 1
                    ),
                    None,
                )
                if duplicate is not None:
                    raise InputError(
                        f"{path} has the column {duplicate!r} {names.count(duplicate)} times; rename or"
                        " remove all but one."
                    )
                for row in rows:
                    self._add(row, key)
        except (OSError, csv.Error, UnicodeDecodeError) as error:
            raise _read_error(path, error) from error

    def _add(self, row: Mapping[str, str | None], key: bytes) -> None:
        values = {name: text for name in self._columns if (text := (row.get(name) or "").strip())}
        hashes = {
            kind: pseudonym(key, kind, row.get(column) or "")
            for kind, column in self._join_columns.items()
        }
        if not all(name in values for name in self._required) or not any(hashes.values()):
            self.n_empty += 1
            return
        for kind, value in hashes.items():
            if value is not None:
                self._rows_by_hash.setdefault((kind, value), []).append(len(self._rows))
        self._rows.append(values)

    def rows_for(
        self, metadata: DicomMetadata, *, max_rows: int | None = None
    ) -> list[dict[str, str]]:
        """The first `most` rows on an image's series, study, accession or patient; of several of
        these the narrowest that has any.
        """
        for kind in self._join_columns:
            value = getattr(metadata, kind)
            indices = self._rows_by_hash.get((kind, value), [])[:max_rows] if value else []
            if indices:
                self._matched.update(indices)
                return [self._rows[index] for index in indices]
        return []

    @property
    def unmatched_rows(self) -> list[int]:
        """The numbers of the rows, from 1, that no image was found for."""
        return [index + 1 for index in range(len(self._rows)) if index not in self._matched]


def report_table(
    path: Path, columns: Mapping[str, str] | None, key: bytes
) -> tuple[JoinedTable, str]:
    """A table of reports and the column of it that holds them; `columns` says what the columns are
    called.

    Raises:
        InputError: columns that are none, and as `Joined`.
    """
    column_names = dict(columns or DEFAULT_COLUMNS)
    unknown = next((name for name in column_names if name not in (*JOIN_KEYS, "report")), None)
    if unknown is not None or "report" not in column_names or len(column_names) < 2:
        raise InputError(
            f"reports are joined by columns for report and one of {', '.join(JOIN_KEYS)}, not"
            f" {', '.join(column_names)}."
        )
    return (
        JoinedTable(
            path,
            {kind: column_names[kind] for kind in column_names if kind != "report"},
            (column_names["report"],),
            key=key,
        ),
        column_names["report"],
    )


def question_table(path: Path, key: bytes) -> JoinedTable:
    """A table of questions with their answers, joined by whichever of the columns series, study,
    accession, patient it has.

    Raises:
        InputError: as `Joined`, or none of these columns.
    """
    header = _read_header(path)
    join_columns = {kind: kind for kind in JOIN_KEYS if kind in header}
    if not join_columns:
        raise InputError(
            f"{path} has none of the columns {', '.join(JOIN_KEYS)}, one of which says what a question"
            " is about."
        )
    return JoinedTable(path, join_columns, QUESTION_COLUMNS, OPTIONAL_COLUMNS, key=key)


def _read_header(path: Path) -> Sequence[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return next(csv.reader(file), [])
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise _read_error(path, error) from error


def _read_error(path: Path, error: OSError | csv.Error | UnicodeDecodeError) -> InputError:
    if isinstance(error, UnicodeDecodeError):
        return InputError(f"{path} is no UTF-8; save the table as UTF-8.")
    reason = error.strerror if isinstance(error, OSError) else one_line(error)
    return InputError(f"{path} cannot be read as a table ({reason}); check the file.")
