"""Ids of patients, studies, series and articles, carried with every sample from the start, as keyed
hashes alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Literal

from lingshu.core.errors import InputError
from lingshu.core.nouns import Drop, Image, Message, Meta, Sample
from lingshu.imaging.pseudonyms import pseudonym

# From the widest to the narrowest: samples that share the widest known one belong on one side of a
# split.
KINDS = ("patient", "article", "study", "series")
Names = Literal["keep", "hash"]


def check_kinds(ids: Mapping[str, str]) -> None:
    """Refuse an id of a kind that is not known.

    Raises:
        InputError: it names the kinds.
    """
    unknown = next((kind for kind in ids if kind not in KINDS), None)
    if unknown is not None:
        raise InputError(f"{unknown!r} is no kind of id; choose among {', '.join(KINDS)}.")


def hashes(ids: Mapping[str, str | None], key: bytes) -> dict[str, str]:
    """The keyed hashes of raw ids; empty ids are left out."""
    found = {kind: pseudonym(key, kind, ids.get(kind) or "") for kind in KINDS}
    return {kind: value for kind, value in found.items() if value}


def with_ids(meta: Meta, known: Mapping[str, str | None]) -> Meta:
    """`meta` with hashed ids: the widest as its group, each under its kind in `extra`."""
    if not known:
        return meta
    found = {kind: value for kind in KINDS if (value := known.get(kind))}
    if not found:
        return meta
    kind, value = next(iter(found.items()))
    return replace(meta, group=f"{kind}-{value}", extra={**meta.extra, **found})


@dataclass(frozen=True)
class Naming:
    """How files are called: by their names (`keep`), or by keyed hashes where a name may be a
    patient's (`hash`).

    `patient` finds the patient in a relative path by its first group; the raw text is never
    carried.
    """

    names: Names
    key: bytes
    patient: re.Pattern[str] | None = None

    def id(self, relative: PurePath) -> str:
        text = relative.as_posix()
        return text if self.names == "keep" else f"file-{pseudonym(self.key, 'file', text)}"

    def ids(self, relative: PurePath) -> dict[str, str]:
        found = self.patient.search(relative.as_posix()) if self.patient else None
        return hashes({"patient": found[1]}, self.key) if found else {}


def naming(names: Names, key: bytes, patient: str | None) -> Naming:
    """Check the options of a reader of files.

    Raises:
        InputError: no pattern with a group, or another way of naming.
    """
    if names not in ("keep", "hash"):
        raise InputError(f"names cannot be {names!r}; choose keep or hash.")
    try:
        pattern = re.compile(patient) if patient else None
    except re.error as error:
        raise InputError(f"patient is no regular expression ({error}); mend it.") from error
    if pattern is not None and pattern.groups < 1:
        raise InputError(
            "patient needs a group that holds the patient's part of a path, such as"
            " 'patient([0-9]+)'."
        )
    return Naming(names, key, pattern)


def labelled(labels: bool | None, names: Names, question: str | None) -> bool:
    """Whether folders are labels: as asked, else wherever names are kept or a question needs an
    answer.
    """
    return names == "keep" or question is not None if labels is None else labels


def look(images: tuple[Image, ...], question: str | None) -> tuple[Message, ...]:
    """A user turn that shows every image, and asks `question` where there is one."""
    return (Message("user", (*range(len(images)), *((question,) if question else ()))),)


class Once:
    """Remembers the ids that a reader gave out, so that a second row of one id becomes a Drop."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, result: Sample | Drop) -> Sample | Drop:
        if isinstance(result, Drop):
            return result
        if result.id in self._seen:
            return Drop(result.id, "duplicate_id", "an earlier row has this id.")
        self._seen.add(result.id)
        return result
