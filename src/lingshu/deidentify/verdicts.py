"""What people found when they read scrubbed texts, and how it changes the next run.

    residual_risk.jsonl, one line a text: {"id", "reviewer", "missed": [...], "wrong": [...]}

`missed` are identifiers that were left, as the text writes them; `wrong` are words that were
replaced and identify nobody. A line with neither says that a person read the text and found none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lingshu.core.errors import InputError
from lingshu.core.files import enumerate_jsonl
from lingshu.core.stats import Interval, wilson
from lingshu.deidentify.spans import IdentifierSpan
from lingshu.deidentify.words import fold

_KEYS = frozenset(("id", "reviewer", "missed", "wrong"))


@dataclass(frozen=True)
class ResidualVerdicts:
    """The verdicts of a file: texts that were read, and what was found in them."""

    n_read: int
    n_with_missed: int
    missed: frozenset[str]
    wrong: frozenset[str]

    @property
    def risk(self) -> Interval:
        """The share of texts with an identifier that was left, with its interval."""
        return wilson(self.n_with_missed, self.n_read)

    def find_missed(self, text: str) -> Iterator[IdentifierSpan]:
        """Where a text writes what was missed, in any case, as words of its own."""
        for value in self.missed:
            pattern = rf"(?<!\w){re.escape(value)}(?!\w)" if value.isascii() else re.escape(value)
            for match in re.finditer(pattern, text, re.IGNORECASE):
                kind = "id" if any(map(str.isdigit, value)) else "name"
                yield IdentifierSpan(match.start(), match.end(), kind, "verdict of a person")


def read_verdicts(path: Path) -> ResidualVerdicts:
    """The verdicts of a JSONL file; of one reviewer's lines on one text the last counts.

    Raises:
        InputError: a line that is not a verdict: names the file, the line and the fault.
    """
    rows: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
    for line_number, row in enumerate_jsonl(path, allow_truncated=False):
        found = row.get("missed") or [], row.get("wrong") or []
        lists = all(isinstance(one, list) and all(isinstance(v, str) for v in one) for one in found)
        if set(row) - _KEYS or not row.get("id") or not row.get("reviewer") or not lists:
            problem = f"{path}, line {line_number}: a verdict has id, reviewer, missed and wrong"
            raise InputError(f"{problem}, the last two lists of texts.")
        rows[str(row["id"]), str(row["reviewer"])] = found
    if not rows:
        raise InputError(f"{path} holds no verdict; read some texts of residual_risk.html first.")
    with_missed = {id for (id, _), (missed, _) in rows.items() if any(map(str.strip, missed))}
    return ResidualVerdicts(
        n_read=len({id for id, _ in rows}),
        n_with_missed=len(with_missed),
        missed=frozenset(v.strip() for missed, _ in rows.values() for v in missed if v.strip()),
        wrong=frozenset(fold(v.strip()) for _, wrong in rows.values() for v in wrong if v.strip()),
    )
