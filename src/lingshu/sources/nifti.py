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
    path: Path,
    *,
    per: Literal["slice", "volume"] = "slice",
    slices: int | None = 8,
    times: int = 1,
    windows: Sequence[str] | None = None,
    modality: str | None = None,
    exclude: Sequence[str] = (),
    mask: Sequence[str] | None = None,
    regions: Mapping[str, str] | None = None,
    patient: str | None = None,
    names: NamePolicy = "hash",
    key: bytes | None = None,
) -> Iterator[Sample | Drop]:
    """Slices of one volume file, or of every one below a folder: a sample per slice or per volume.

    `slices` are evenly spaced along z, None for all; `times` evenly in a 4-D file. `windows` names
    presets for CT in HU (lung, soft, bone, brain, liver): each slice is then shown once in each.
    The other options are those of the source `folders`; names are hashed unless `names="keep"`.

    With a `mask`, such as `["^images/", "labels/"]`, the `slices` are those of the first time with
    the largest marked areas, and volumes without a mask are dropped.

    Drops: not_a_volume, bad_volume, excluded, mask, no_mask, bad_mask, nothing_marked.

    Raises:
        InputError: no such file, or a wrong option.
        MissingExtraError: nibabel is not installed.
    """
    if per not in ("slice", "volume"):
        raise InputError(f"per cannot be {per!r}; choose slice or volume.")
    if mask and (per != "slice" or not path.is_dir()):
        remedy = "leave per at slice, and give the folder"
        raise InputError(f"mask is for the slices of volumes below a folder; {remedy}.")
    namer = file_naming(names, check_key(key), patient)
    root = path if path.is_dir() else path.parent
    files = [Path(path.name)] if path.is_file() else list(iter_files(path))
    masks = find_masks((file.as_posix() for file in files), mask)
    for number, relative in enumerate(files, 1):
        name, file = namer.sample_id(relative), relative.as_posix()
        if any(fnmatch(relative.name, pattern) for pattern in exclude):
            yield Drop(name, "excluded")
            continue
        if not file.lower().endswith(VOLUME_SUFFIXES):
            detail = f"file {number} is none of {' '.join(VOLUME_SUFFIXES)}."
            yield Drop(name, "not_a_volume", detail)
            continue
        if file in masks.mask_files:
            yield Drop(name, "mask", "it marks regions of another volume.")
            continue
        meta = Meta(modality=modality, extra={"volume": name})
        meta = with_ids(meta, namer.patient_ids(relative))
        if meta.group is None:
            # Slices of one volume belong in one split, whatever else is known.
            meta = replace(meta, group=f"volume-{name}")
        volume_name = name if names == "keep" else f"file {number}"
        try:
            with open_volume(root / relative, name=volume_name) as volume:
                if mask:
                    mask_paths = [root / mask_file for mask_file in masks.by_image.get(file, ())]
                    yield from _mask_samples(
                        volume, mask_paths, name, meta, slices, windows, regions or {}
                    )
                    continue
                rendered = volume.render(
                    slices=evenly_spaced(volume.shape[2], slices),
                    times=evenly_spaced(volume.n_times, times),
                    windows=windows,
                )
                if per == "slice":
                    for (time, z), group in groupby(rendered, key=lambda s: (s.time, s.z)):
                        yield _sample(f"{name}-t{time}-z{z}", list(group), meta)
                elif rendered := list(rendered):
                    yield _sample(name, rendered, meta)
        except ImageError as error:
            yield Drop(name, "bad_volume", str(error))


def _mask_samples(
    volume: Volume,
    masks: Sequence[Path],
    name: str,
    meta: Meta,
    slices: int | None,
    windows: Sequence[str] | None,
    regions: Mapping[str, str],
) -> Iterator[Sample | Drop]:
    """The slices with the largest marked areas, with boxes and names of their regions."""
    if not masks:
        yield Drop(name, "no_mask")
        return
    try:
        arrays = [_read_mask(path, volume) for path in masks]
        mask = union_of_masks(arrays, volume.shape[::-1])
    except ImageError as error:
        yield Drop(name, "bad_mask", str(error))
        return
    selected = select_mask_slices(mask, max_slices=slices)
    if not selected:
        yield Drop(name, "nothing_marked")
        return
    rendered = volume.render(slices=[item.slice_index for item in selected], windows=windows)
    for z, group in groupby(rendered, key=lambda image: image.z):
        extra = {**meta.extra, **region_metadata(mask[z], regions)}
        yield _sample(f"{name}-t0-z{z}", list(group), replace(meta, extra=extra))


def _read_mask(path: Path, volume: Volume) -> NDArray[Any]:
    """The values of a mask, slices x height x width as the slices of its volume are shown.

    Raises:
        ImageError: it cannot be read, or its voxels are not those of the volume.
    """
    import numpy as np

    with open_volume(path, name="the mask") as mask:
        spacings = zip(mask.spacing, volume.spacing, strict=True)
        if mask.shape != volume.shape or any(abs(a - b) > 0.01 * b for a, b in spacings):
            remedy = "resample it to the volume's"
            raise ImageError(f"the mask has other voxels than its volume; {remedy}.")
        if mask.n_times not in (1, volume.n_times):
            problem = f"the mask has {mask.n_times} times, its volume {volume.n_times}"
            raise ImageError(f"{problem}; give one mask for each volume, or one for all.")
        # Another origin or axis would shift the boxes. Headers are rounded by up to half a voxel.
        if not np.abs(mask.corners() - volume.corners()).max() <= max(volume.spacing) / 2:
            problem = "the mask is elsewhere than its volume by their affines"
            raise ImageError(f"{problem}; fix its header, or resample it to the volume's.")
        values = mask.voxels()
        if values.dtype.names:
            raise ImageError("the mask has colors; give a volume of numbers.")
        return to_display_orientation(np.nan_to_num(values, posinf=0.0, neginf=0.0))


def _sample(name: str, rendered: Sequence[Slice], meta: Meta) -> Sample:
    images = tuple(Image(data=encode_png(image.pixels)) for image in rendered)
    extra = {
        **meta.extra,
        "windows": "; ".join(str(image.window) for image in rendered),
        "slices": " ".join(str(image.z) for image in rendered),
    }
    return Sample(name, image_messages(images, None), images, meta=replace(meta, extra=extra))
