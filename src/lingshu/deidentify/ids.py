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
from lingshu.core.pseudonyms import pseudonym
from lingshu.core.types import Drop, Image, Message, Meta, Sample

# From the widest to the narrowest: samples that share the widest known one belong on one side of a
# split.
ID_KINDS = ("patient", "article", "study", "series")
NamePolicy = Literal["keep", "hash"]


def check_kinds(ids: Mapping[str, str]) -> None:
    """Refuse an id of a kind that is not known.

    Raises:
        InputError: it names the kinds.
    """
    unknown = next((kind for kind in ids if kind not in ID_KINDS), None)
    if unknown is not None:
        raise InputError(f"{unknown!r} is no kind of id; choose among {', '.join(ID_KINDS)}.")


def hash_ids(ids: Mapping[str, str | None], key: bytes) -> dict[str, str]:
    """The keyed hashes of raw ids; empty ids are left out."""
    hashed = {kind: pseudonym(key, kind, ids.get(kind) or "") for kind in ID_KINDS}
    return {kind: value for kind, value in hashed.items() if value}


def with_ids(meta: Meta, hashed_ids: Mapping[str, str | None]) -> Meta:
    """`meta` with hashed ids: the widest as its group, each under its kind in `extra`."""
    if not hashed_ids:
        return meta
    ids = {kind: value for kind in ID_KINDS if (value := hashed_ids.get(kind))}
    if not ids:
        return meta
    kind, value = next(iter(ids.items()))
    return replace(meta, group=f"{kind}-{value}", extra={**meta.extra, **ids})


@dataclass(frozen=True)
class FileNaming:
    """How files are called: by their names (`keep`), or by keyed hashes where a name may be a
    patient's (`hash`).

    `patient` finds the patient in a relative path by its first group; the raw text is never
    carried.
    """

    names: NamePolicy
    key: bytes
    patient_pattern: re.Pattern[str] | None = None

    def sample_id(self, relative: PurePath) -> str:
        text = relative.as_posix()
        return text if self.names == "keep" else f"file-{pseudonym(self.key, 'file', text)}"

    def patient_ids(self, relative: PurePath) -> dict[str, str]:
        match = self.patient_pattern.search(relative.as_posix()) if self.patient_pattern else None
        return hash_ids({"patient": match[1]}, self.key) if match else {}


def file_naming(names: NamePolicy, key: bytes, patient: str | None) -> FileNaming:
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
    return FileNaming(names, key, pattern)


def use_folder_labels(labels: bool | None, names: NamePolicy, question: str | None) -> bool:
    """Whether folders are labels: as asked, else wherever names are kept or a question needs an
    answer.
    """
    return names == "keep" or question is not None if labels is None else labels


def image_messages(images: tuple[Image, ...], question: str | None) -> tuple[Message, ...]:
    """A user turn that shows every image, and asks `question` where there is one."""
    return (Message("user", (*range(len(images)), *((question,) if question else ()))),)


class IdDeduplicator:
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
