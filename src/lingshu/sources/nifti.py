"""Volumes (NIfTI and what else nibabel opens) as slices along z, rendered to PNG.

Licence, revision and link: the user's own; a recipe states them, and until then every sample counts as private.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from lingshu.core.errors import BadImage, InputError
from lingshu.core.nouns import Drop, Image, Meta, Sample
from lingshu.imaging.nifti import Slice, Volume, open_volume
from lingshu.imaging.pseudonyms import check_key
from lingshu.imaging.read import encode_png
from lingshu.imaging.walk import VOLUME_SUFFIXES, evenly, files_below
from lingshu.sources._ids import Names, look, naming, with_ids


def read(
    path: Path, *, per: Literal["slice", "volume"] = "slice", slices: int | None = 8, times: int = 1, windows: Sequence[str] | None = None,
    modality: str | None = None, exclude: Sequence[str] = (), patient: str | None = None, names: Names = "hash", key: bytes | None = None,
) -> Iterator[Sample | Drop]:  # fmt: skip
    """Slices of one volume file, or of every one below a folder, one sample for each slice or for each volume.

    `slices` are taken evenly along z, None for all; `times` evenly from a 4-D file. `windows` names presets for CT in HU
    (lung, soft, bone, brain, liver): each slice is then shown once in each. The other options are those of the source
    `folders`; names are hashed unless `names="keep"`. Drops: not_a_volume, bad_volume, excluded.

    Raises:
        InputError: no such file, or an option that is none.
        MissingExtra: nibabel is not installed.
    """
    if per not in ("slice", "volume"):
        raise InputError(f"per cannot be {per!r}; choose slice or volume.")
    called = naming(names, check_key(key), patient)
    root = path if path.is_dir() else path.parent
    for number, relative in enumerate([Path(path.name)] if path.is_file() else files_below(path), 1):
        name = called.id(relative)
        if any(fnmatch(relative.name, pattern) for pattern in exclude):
            yield Drop(name, "excluded")
            continue
        if not relative.name.lower().endswith(VOLUME_SUFFIXES):
            yield Drop(name, "not_a_volume", f"file {number} is none of {' '.join(VOLUME_SUFFIXES)}.")
            continue
        meta = with_ids(Meta(modality=modality, extra={"volume": name}), called.ids(relative))
        if meta.group is None:
            # Slices of one volume belong on one side of a split, whatever else is known.
            meta = Meta(modality=modality, group=f"volume-{name}", extra=meta.extra)
        try:
            with open_volume(root / relative, name=name if names == "keep" else f"file {number}") as volume:
                yield from _samples(volume, name, meta, per, slices, times, windows)
        except BadImage as error:
            yield Drop(name, "bad_volume", str(error))


def _samples(
    volume: Volume, name: str, meta: Meta, per: str, slices: int | None, times: int, windows: Sequence[str] | None
) -> Iterator[Sample]:
    shown = volume.render(slices=evenly(volume.shape[2], slices), times=evenly(volume.times, times), windows=windows)
    held: list[Slice] = []
    for one in shown:
        if per == "slice" and held and (held[0].z, held[0].time) != (one.z, one.time):
            yield _sample(f"{name}-t{held[0].time}-z{held[0].z}", held, meta)
            held = []
        held.append(one)
    if held:
        yield _sample(name if per == "volume" else f"{name}-t{held[0].time}-z{held[0].z}", held, meta)


def _sample(name: str, shown: Sequence[Slice], meta: Meta) -> Sample:
    images = tuple(Image(data=encode_png(one.pixels)) for one in shown)
    extra = {**meta.extra, "windows": "; ".join(one.window for one in shown), "slices": " ".join(str(one.z) for one in shown)}
    return Sample(name, look(images, None), images, meta=replace(meta, extra=extra))
