"""Volumes (NIfTI and what else nibabel opens) as slices along z, rendered to PNG.

Licence, revision and link: the user's own; a recipe states them, and until then every sample counts
as private.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lingshu.core.errors import BadImage, InputError
from lingshu.core.nouns import Drop, Image, Meta, Sample
from lingshu.imaging.nifti import Slice, Volume, open_volume, upright
from lingshu.imaging.pseudonyms import check_key
from lingshu.imaging.read import encode_png
from lingshu.imaging.regions import slices_of
from lingshu.imaging.walk import VOLUME_SUFFIXES, evenly, files_below
from lingshu.sources._ids import Names, look, naming, with_ids
from lingshu.sources._masks import find_masks, region_facts, united

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read(
    path: Path, *, per: Literal["slice", "volume"] = "slice", slices: int | None = 8, times: int = 1, windows: Sequence[str] | None = None,
    modality: str | None = None, exclude: Sequence[str] = (), mask: Sequence[str] | None = None, regions: Mapping[str, str] | None = None,
    patient: str | None = None, names: Names = "hash", key: bytes | None = None,
) -> Iterator[Sample | Drop]:  # fmt: skip
    """Slices of one volume file, or of every one below a folder, one sample for each slice or for
    each volume.

    `slices` are taken evenly along z, None for all; `times` evenly from a 4-D file. `windows` names
    presets for CT in HU (lung, soft, bone, brain, liver): each slice is then shown once in each.
    The other options are those of the source `folders`; names are hashed unless `names="keep"`.

    With a `mask`, `["^images/", "labels/"]` for one, the `slices` are those of the first time that
    show most of what is marked, and volumes without a mask are dropped.

    Drops: not_a_volume, bad_volume, excluded, mask, no_mask, bad_mask, nothing_marked.

    Raises:
        InputError: no such file, or an option that is none.
        MissingExtra: nibabel is not installed.
    """
    if per not in ("slice", "volume"):
        raise InputError(f"per cannot be {per!r}; choose slice or volume.")
    if mask and (per != "slice" or not path.is_dir()):
        raise InputError(
            "mask is for the slices of volumes below a folder; leave per at slice, and give the"
            " folder."
        )
    called = naming(names, check_key(key), patient)
    root = path if path.is_dir() else path.parent
    masks = find_masks((found.as_posix() for found in files_below(path)), mask)
    for number, relative in enumerate(
        [Path(path.name)] if path.is_file() else files_below(path), 1
    ):
        name = called.id(relative)
        if any(fnmatch(relative.name, pattern) for pattern in exclude):
            yield Drop(name, "excluded")
            continue
        if not relative.name.lower().endswith(VOLUME_SUFFIXES):
            yield Drop(
                name, "not_a_volume", f"file {number} is none of {' '.join(VOLUME_SUFFIXES)}."
            )
            continue
        if relative.as_posix() in masks.files:
            yield Drop(name, "mask", "it marks regions of another volume.")
            continue
        meta = with_ids(Meta(modality=modality, extra={"volume": name}), called.ids(relative))
        if meta.group is None:
            # Slices of one volume belong on one side of a split, whatever else is known.
            meta = Meta(modality=modality, group=f"volume-{name}", extra=meta.extra)
        try:
            with open_volume(
                root / relative, name=name if names == "keep" else f"file {number}"
            ) as volume:
                if mask:
                    others = [root / other for other in masks.of.get(relative.as_posix(), ())]
                    yield from _marked(volume, others, name, meta, slices, windows, regions or {})
                else:
                    yield from _samples(volume, name, meta, per, slices, times, windows)
        except BadImage as error:
            yield Drop(name, "bad_volume", str(error))


def _samples(
    volume: Volume,
    name: str,
    meta: Meta,
    per: str,
    slices: int | None,
    times: int,
    windows: Sequence[str] | None,
) -> Iterator[Sample]:
    shown = volume.render(
        slices=evenly(volume.shape[2], slices), times=evenly(volume.times, times), windows=windows
    )
    if per == "volume":
        if held := list(shown):
            yield _sample(name, held, meta)
        return
    for (time, z), one in groupby(shown, key=lambda each: (each.time, each.z)):
        yield _sample(f"{name}-t{time}-z{z}", list(one), meta)


def _marked(
    volume: Volume,
    masks: Sequence[Path],
    name: str,
    meta: Meta,
    slices: int | None,
    windows: Sequence[str] | None,
    regions: Mapping[str, str],
) -> Iterator[Sample | Drop]:
    """The slices that show most of what the masks of a volume mark, with its rectangles and names."""
    if not masks:
        yield Drop(name, "no_mask")
        return
    try:
        marks = united([_mask(path, volume) for path in masks], volume.shape[::-1])
    except BadImage as error:
        yield Drop(name, "bad_mask", str(error))
        return
    chosen = [one.place for one in slices_of(marks, most=len(marks) if slices is None else slices)]
    if not chosen:
        yield Drop(name, "nothing_marked")
        return
    for z, held in groupby(volume.render(slices=chosen, windows=windows), key=lambda one: one.z):
        facts = region_facts(marks[z], regions)
        yield _sample(f"{name}-t0-z{z}", list(held), replace(meta, extra={**meta.extra, **facts}))


def _mask(path: Path, volume: Volume) -> NDArray[Any]:
    """The values of a mask, slices x height x width as the slices of its volume are shown.

    Raises:
        BadImage: it cannot be read, or does not lie on the voxels of the volume.
    """
    import numpy as np

    with open_volume(path, name="the mask") as found:
        if found.shape != volume.shape or any(
            abs(a - b) > 0.01 * b for a, b in zip(found.spacing, volume.spacing, strict=True)
        ):
            raise BadImage(
                "the mask has other voxels than its volume; resample it to the volume's."
            )
        if found.times not in (1, volume.times):
            raise BadImage(
                f"the mask has {found.times} times, its volume {volume.times}; give one mask for"
                " each volume, or one for all."
            )
        # An origin or an axis that differs puts the rectangles elsewhere. Half a voxel is what
        # headers are rounded by.
        if not np.abs(found.corners() - volume.corners()).max() <= max(volume.spacing) / 2:
            raise BadImage(
                "the mask lies elsewhere than its volume by their affines; mend its header, or"
                " resample it to the volume's."
            )
        values = found.voxels()
        if values.dtype.names:
            raise BadImage("the mask has colours; give a volume of numbers.")
        return upright(np.nan_to_num(values, posinf=0.0, neginf=0.0))


def _sample(name: str, shown: Sequence[Slice], meta: Meta) -> Sample:
    images = tuple(Image(data=encode_png(one.pixels)) for one in shown)
    extra = {
        **meta.extra,
        "windows": "; ".join(one.window for one in shown),
        "slices": " ".join(str(one.z) for one in shown),
    }
    return Sample(name, look(images, None), images, meta=replace(meta, extra=extra))
