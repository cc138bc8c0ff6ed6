"""Ids of patients, studies, series and articles, which samples only carry as keyed hashes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import Literal

from lingshu.core.errors import InputError
from lingshu.core.pseudonyms import pseudonym
from lingshu.core.types import Drop, Image, Message, Meta, Sample

# From the widest to the narrowest; the widest known one is the group that a split keeps together.
ID_KINDS = ("patient", "article", "study", "series")
NamePolicy = Literal["keep", "hash"]


def check_kinds(ids: Mapping[str, str]) -> None:
    """Raise InputError for an id of an unknown kind."""
    for kind in ids:
        if kind not in ID_KINDS:
            raise InputError(f"{kind!r} is not a kind of id; choose among {', '.join(ID_KINDS)}.")


def hash_ids(ids: Mapping[str, str | None], key: bytes) -> dict[str, str]:
    """The keyed hashes of raw ids; empty ids are left out."""
    hashed = {kind: pseudonym(key, kind, ids.get(kind) or "") for kind in ID_KINDS}
    return {kind: value for kind, value in hashed.items() if value}


def with_ids(meta: Meta, hashed_ids: Mapping[str, str | None]) -> Meta:
    """`meta` with hashed ids: the widest as its group, each under its kind in `extra`."""
    ids = {kind: value for kind in ID_KINDS if (value := hashed_ids.get(kind))}
    if not ids:
        return meta
    kind, value = next(iter(ids.items()))
    return replace(meta, group=f"{kind}-{value}", extra={**meta.extra, **ids})


@dataclass(frozen=True)
class FileNaming:
    """How samples of files are named: by path (`keep`), or by a keyed hash of it (`hash`).

    The first group of `patient_pattern` finds the patient in a relative path; it is only hashed.
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
        InputError: `patient` is not a pattern with a group, or `names` is unknown.
    """
    if names not in ("keep", "hash"):
        raise InputError(f"names cannot be {names!r}; choose keep or hash.")
    try:
        pattern = re.compile(patient) if patient else None
    except re.error as error:
        raise InputError(f"patient is not a regular expression ({error}); fix it.") from error
    if pattern is not None and pattern.groups < 1:
        raise InputError(
            "patient needs a group for the patient's part of a path, such as 'patient([0-9]+)'."
        )
    return FileNaming(names, key, pattern)


def use_folder_labels(labels: bool | None, names: NamePolicy, question: str | None) -> bool:
    """Whether folders are labels; by default where names are kept or a question needs an answer."""
    if labels is not None:
        return labels
    return names == "keep" or question is not None


def image_messages(images: tuple[Image, ...], question: str | None) -> tuple[Message, ...]:
    """A user turn with every image, and the question if there is one."""
    return (Message("user", (*range(len(images)), *((question,) if question else ()))),)


class IdDeduplicator:
    """Turns the second row of an id into a Drop, whose detail begins with `location`."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, sample: Sample | Drop, location: str = "") -> Sample | Drop:
        if isinstance(sample, Drop):
            return sample
        if sample.id in self._seen:
            return Drop(sample.id, "duplicate_id", f"{location}an earlier row has this id.")
        self._seen.add(sample.id)
        return sample
