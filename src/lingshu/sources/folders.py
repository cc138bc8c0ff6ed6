"""Folders of images: one sample per file, labeled by the folder it is in or not at all.

License, revision and link: the user's own; a recipe states them, and until then every sample counts
as private.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from lingshu.core.errors import ImageError
from lingshu.core.pseudonyms import check_key
from lingshu.core.types import Drop, Image, Meta, Sample
from lingshu.deidentify import ids
from lingshu.imaging.files import IMAGE_SUFFIXES, iter_files
from lingshu.imaging.headers import read_header
from lingshu.imaging.read import decode_mask, image_bytes, image_name, open_image
from lingshu.sources._masks import MaskIndex, find_masks, region_metadata, union_of_masks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def read(
    path: Path,
    *,
    labels: bool | None = None,
    question: str | None = None,
    exclude: Sequence[str] = (),
    mask: Sequence[str] | None = None,
    regions: Mapping[str, str] | None = None,
    patient: str | None = None,
    names: ids.NamePolicy = "keep",
    key: bytes | None = None,
) -> Iterator[Sample | Drop]:
    """The images below a folder in order of their paths; without a `mask` they are not opened.

    With `labels` the first folder on the path of a file is its label, in `extra`; with a `question`
    it is also the right answer. None means labels, but with hashed names only if there is a
    question: folders may be named after patients. Files that match a pattern of `exclude` are left
    out ("*_mask.png"). `patient` is a regular expression whose first group finds the patient in a
    path. With `names="hash"` neither path nor name is carried: ids are hashes under `key`, and
    samples hold their images.

    `mask` locates the masks of an image: a regular expression and its replacement in the path, such
    as `["\\.png$", "_mask*.png"]` (see _masks.py). What they mark is carried as `extra["boxes"]`,
    and with `regions`, which names values of masks ({"1": "tumor"}), as the label. Images without a
    mask are kept, masks themselves are not.

    Drops: not_an_image, excluded, link, missing_image, mask, bad_mask, bad_image (one with a mask).

    Raises:
        InputError: not a folder, or a wrong option.
    """
    namer = ids.file_naming(names, check_key(key), patient)
    labels = ids.use_folder_labels(labels, names, question)
    masks = find_masks((relative.as_posix() for relative in iter_files(path)), mask)
    for number, relative in enumerate(iter_files(path), 1):
        name, file = namer.sample_id(relative), os.path.join(path, relative)  # noqa: PTH118 - text
        if any(fnmatch(relative.name, pattern) for pattern in exclude):
            yield Drop(name, "excluded")
        elif os.path.islink(file):  # noqa: PTH114
            yield Drop(name, "link", f"file {number} is a link; links are not followed.")
        elif relative.suffix.lower() not in IMAGE_SUFFIXES:
            detail = f"file {number} is none of {' '.join(IMAGE_SUFFIXES)}."
            yield Drop(name, "not_an_image", detail)
        elif relative.as_posix() in masks.mask_files:
            yield Drop(name, "mask", "it marks regions of another image.")
        else:
            label = relative.parts[0] if labels and len(relative.parts) > 1 else None
            annotation = _mask_metadata(path, relative, masks, regions or {})
            if isinstance(annotation, tuple):
                reason, message = annotation
                # The message names the file and its folder.
                detail = message.replace(f"{path}{os.sep}", "")
                if names == "hash":
                    subject = "the mask of file" if reason == "bad_mask" else "file"
                    detail = f"{subject} {number} cannot be used."
                yield Drop(name, reason, detail)
                continue
            extra = ({"label": label} if label else {}) | annotation
            meta = ids.with_ids(Meta(extra=extra), namer.patient_ids(relative))
            yield _sample(name, file, namer.names, meta, question, number)


def _mask_metadata(
    path: Path, relative: Path, masks: MaskIndex, regions: Mapping[str, str]
) -> dict[str, str] | tuple[str, str]:
    """What the masks of an image mark, or the reason and message of the error."""
    mask_names = masks.by_image.get(relative.as_posix())
    if not mask_names:
        return {}
    try:
        width, height = open_image(Image(path=str(path / relative))).size
    except ImageError as error:
        return "bad_image", str(error)
    try:
        arrays = [_read_mask(Image(path=str(path / mask_name))) for mask_name in mask_names]
        return region_metadata(union_of_masks(arrays, (height, width)), regions)
    except ImageError as error:
        return "bad_mask", str(error)


def _read_mask(image: Image) -> NDArray[np.generic]:
    """Height x width values of a mask; a JPEG, whose borders are blurred, is thresholded at 128."""
    import numpy as np

    data = image_bytes(image)
    values = decode_mask(data, name=image_name(image))
    return (values >= 128).astype(np.uint8) if read_header(data).format == "JPEG" else values


def _sample(
    name: str, file: str, names: ids.NamePolicy, meta: Meta, question: str | None, number: int
) -> Sample | Drop:
    image, gold = Image(path=file), None
    if names == "hash":
        try:
            image = Image(data=image_bytes(image))
        except ImageError:
            # Its message names the file.
            return Drop(name, "missing_image", f"file {number} cannot be read.")
    if question and (label := meta.extra.get("label")):
        meta, gold = replace(meta, kind="label"), (label,)
    return Sample(name, ids.image_messages((image,), question), (image,), gold, meta=meta)
