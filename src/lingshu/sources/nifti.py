"""Volumes (NIfTI and what else nibabel opens) as slices along z, rendered to PNG.

License, revision and link: the user's own; a recipe states them, and until then every sample counts
as private.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lingshu.core.errors import ImageError, InputError
from lingshu.core.pseudonyms import check_key
from lingshu.core.types import Drop, Image, Meta, Sample
from lingshu.deidentify.ids import NamePolicy, file_naming, image_messages, with_ids
from lingshu.imaging.boxes import select_mask_slices
from lingshu.imaging.files import VOLUME_SUFFIXES, evenly_spaced, iter_files
from lingshu.imaging.nifti import Slice, Volume, open_volume, to_display_orientation
from lingshu.imaging.read import encode_png
from lingshu.sources._masks import find_masks, region_metadata, union_of_masks

if TYPE_CHECKING:
    from numpy.typing import NDArray


def read(
    path: Path, *, per: Literal["slice", "volume"] = "slice", slices: int | None = 8, times: int = 1, windows: Sequence[str] | None = None,
    modality: str | None = None, exclude: Sequence[str] = (), mask: Sequence[str] | None = None, regions: Mapping[str, str] | None = None,
    patient: str | None = None, names: NamePolicy = "hash", key: bytes | None = None,
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
    namer = file_naming(names, check_key(key), patient)
    root = path if path.is_dir() else path.parent
    masks = find_masks((file.as_posix() for file in iter_files(path)), mask)
    for file_number, relative in enumerate(
        [Path(path.name)] if path.is_file() else iter_files(path), 1
    ):
        name = namer.sample_id(relative)
        if any(fnmatch(relative.name, pattern) for pattern in exclude):
            yield Drop(name, "excluded")
            continue
        if not relative.name.lower().endswith(VOLUME_SUFFIXES):
            yield Drop(
                name, "not_a_volume", f"file {file_number} is none of {' '.join(VOLUME_SUFFIXES)}."
            )
            continue
        if relative.as_posix() in masks.mask_files:
            yield Drop(name, "mask", "it marks regions of another volume.")
            continue
        meta = with_ids(
            Meta(modality=modality, extra={"volume": name}), namer.patient_ids(relative)
        )
        if meta.group is None:
            # Slices of one volume belong on one side of a split, whatever else is known.
            meta = Meta(modality=modality, group=f"volume-{name}", extra=meta.extra)
        try:
            with open_volume(
                root / relative, name=name if names == "keep" else f"file {file_number}"
            ) as volume:
                if mask:
                    mask_paths = [
                        root / mask_name
                        for mask_name in masks.by_image.get(relative.as_posix(), ())
                    ]
                    yield from _mask_samples(
                        volume, mask_paths, name, meta, slices, windows, regions or {}
                    )
                else:
                    yield from _volume_samples(volume, name, meta, per, slices, times, windows)
        except ImageError as error:
            yield Drop(name, "bad_volume", str(error))


def _volume_samples(
    volume: Volume,
    name: str,
    meta: Meta,
    per: str,
    slices: int | None,
    times: int,
    windows: Sequence[str] | None,
) -> Iterator[Sample]:
    rendered = volume.render(
        slices=evenly_spaced(volume.shape[2], slices),
        times=evenly_spaced(volume.n_times, times),
        windows=windows,
    )
    if per == "volume":
        if slices_shown := list(rendered):
            yield _sample(name, slices_shown, meta)
        return
    for (time, z), group in groupby(rendered, key=lambda image: (image.time, image.z)):
        yield _sample(f"{name}-t{time}-z{z}", list(group), meta)


def _mask_samples(
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
        mask_values = union_of_masks(
            [_read_mask(path, volume) for path in masks], volume.shape[::-1]
        )
    except ImageError as error:
        yield Drop(name, "bad_mask", str(error))
        return
    z_indices = [
        image.slice_index
        for image in select_mask_slices(
            mask_values, max_slices=len(mask_values) if slices is None else slices
        )
    ]
    if not z_indices:
        yield Drop(name, "nothing_marked")
        return
    for z, rendered in groupby(
        volume.render(slices=z_indices, windows=windows), key=lambda image: image.z
    ):
        metadata = region_metadata(mask_values[z], regions)
        yield _sample(
            f"{name}-t0-z{z}", list(rendered), replace(meta, extra={**meta.extra, **metadata})
        )


def _read_mask(path: Path, volume: Volume) -> NDArray[Any]:
    """The values of a mask, slices x height x width as the slices of its volume are shown.

    Raises:
        BadImage: it cannot be read, or does not lie on the voxels of the volume.
    """
    import numpy as np

    with open_volume(path, name="the mask") as mask_volume:
        if mask_volume.shape != volume.shape or any(
            abs(a - b) > 0.01 * b for a, b in zip(mask_volume.spacing, volume.spacing, strict=True)
        ):
            raise ImageError(
                "the mask has other voxels than its volume; resample it to the volume's."
            )
        if mask_volume.n_times not in (1, volume.n_times):
            raise ImageError(
                f"the mask has {mask_volume.n_times} times, its volume {volume.n_times}; give one mask for"
                " each volume, or one for all."
            )
        # An origin or an axis that differs puts the rectangles elsewhere. Half a voxel is what
        # headers are rounded by.
        if not np.abs(mask_volume.corners() - volume.corners()).max() <= max(volume.spacing) / 2:
            raise ImageError(
                "the mask lies elsewhere than its volume by their affines; mend its header, or"
                " resample it to the volume's."
            )
        values = mask_volume.voxels()
        if values.dtype.names:
            raise ImageError("the mask has colours; give a volume of numbers.")
        return to_display_orientation(np.nan_to_num(values, posinf=0.0, neginf=0.0))


def _sample(name: str, rendered: Sequence[Slice], meta: Meta) -> Sample:
    images = tuple(Image(data=encode_png(image.pixels)) for image in rendered)
    extra = {
        **meta.extra,
        "windows": "; ".join(str(image.window) for image in rendered),
        "slices": " ".join(str(image.z) for image in rendered),
    }
    return Sample(name, image_messages(images, None), images, meta=replace(meta, extra=extra))
