"""Folders of images: one sample per file, labelled by the folder it lies in or not at all.

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
from lingshu.deidentify.ids import (
    NamePolicy,
    file_naming,
    image_messages,
    use_folder_labels,
    with_ids,
)
from lingshu.imaging.files import IMAGE_SUFFIXES, iter_files
from lingshu.imaging.headers import read_header
from lingshu.imaging.read import decode_mask, image_bytes, image_name, open_image
from lingshu.sources._masks import MaskIndex, find_masks, region_metadata, union_of_masks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def read(
    path: Path, *, labels: bool | None = None, question: str | None = None, exclude: Sequence[str] = (), mask: Sequence[str] | None = None,
    regions: Mapping[str, str] | None = None, patient: str | None = None, names: NamePolicy = "keep", key: bytes | None = None,
) -> Iterator[Sample | Drop]:  # fmt: skip
    """The images below a folder in order of their paths; without a `mask` they are found, not
    opened.

    With `labels` the first folder on the way to a file is its label, in `extra`; with a `question`
    it is also the right answer. None means labels, but with hashed names only where there is a
    question: folders may be called by patients. Files that match a pattern of `exclude` are left
    out ("*_mask.png"). `patient` is a regular expression whose first group finds the patient in a
    path. With `names="hash"` neither path nor name is carried: ids are hashes under `key`, and
    samples hold their images.

    `mask` tells where the masks of an image lie: a regular expression and what stands for its match
    in their paths, such as `["\\.png$", "_mask*.png"]` (see _masks.py). What they mark is carried
    as `extra["boxes"]`, and with `regions`, which calls values of masks by their names ({"1":
    "tumour"}), as the label. Images without a mask stay, masks themselves do not.

    Drops: not_an_image, excluded, link, missing_image, mask, bad_mask, bad_image (one with a mask).

    Raises:
        InputError: no folder, or an option that is none.
    """
    namer = file_naming(names, check_key(key), patient)
    labels = use_folder_labels(labels, names, question)
    masks = find_masks((path_found.as_posix() for path_found in iter_files(path)), mask)
    for file_number, relative in enumerate(iter_files(path), 1):
        name, file = namer.sample_id(relative), os.path.join(path, relative)  # noqa: PTH118 - a text, which is what an Image holds
        if any(fnmatch(relative.name, pattern) for pattern in exclude):
            yield Drop(name, "excluded")
        elif os.path.islink(file):  # noqa: PTH114
            yield Drop(name, "link", f"file {file_number} is a link; links are not followed.")
        elif relative.suffix.lower() not in IMAGE_SUFFIXES:
            yield Drop(
                name, "not_an_image", f"file {file_number} is none of {' '.join(IMAGE_SUFFIXES)}."
            )
        elif relative.as_posix() in masks.mask_files:
            yield Drop(name, "mask", "it marks regions of another image.")
        else:
            label = relative.parts[0] if labels and len(relative.parts) > 1 else None
            annotation = _mask_metadata(path, relative, masks, regions or {})
            if isinstance(annotation, tuple):
                reason, message = annotation
                subject = (
                    f"file {file_number}"
                    if reason == "bad_image"
                    else f"the mask of file {file_number}"
                )
                # The message names the file, and where the folder lies.
                detail = (
                    f"{subject} cannot be used."
                    if names == "hash"
                    else message.replace(f"{path}{os.sep}", "")
                )
                yield Drop(name, reason, detail)
                continue
            extra = ({"label": label} if label else {}) | annotation
            yield _sample(
                name,
                file,
                namer.names,
                with_ids(Meta(extra=extra), namer.patient_ids(relative)),
                question,
                file_number,
            )


def _mask_metadata(
    path: Path, relative: Path, masks: MaskIndex, regions: Mapping[str, str]
) -> dict[str, str] | tuple[str, str]:
    """What the masks of an image mark, or the reason and the words of the error that stood in the
    way.
    """
    mask_names = masks.by_image.get(relative.as_posix())
    if not mask_names:
        return {}
    image = Image(path=str(path / relative))
    try:
        width, height = open_image(image).size
    except ImageError as error:
        return "bad_image", str(error)
    try:
        mask_arrays = [_read_mask(Image(path=str(path / mask_name))) for mask_name in mask_names]
        return region_metadata(union_of_masks(mask_arrays, (height, width)), regions)
    except ImageError as error:
        return "bad_mask", str(error)


def _read_mask(image: Image) -> NDArray[np.generic]:
    """Height x width values of a mask; of a JPEG, whose borders are smeared, black and white."""
    import numpy as np

    data = image_bytes(image)
    values = decode_mask(data, name=image_name(image))
    return (values >= 128).astype(np.uint8) if read_header(data).format == "JPEG" else values


def _sample(
    name: str, file: str, names: NamePolicy, meta: Meta, question: str | None, file_number: int
) -> Sample | Drop:
    image = Image(path=file)
    if names == "hash":
        try:
            image = Image(data=image_bytes(image))
        except ImageError:
            # The message would name the file.
            return Drop(name, "missing_image", f"file {file_number} cannot be read.")
    gold = None
    if question and (label := meta.extra.get("label")):
        meta, gold = replace(meta, kind="label"), (label,)
    return Sample(name, image_messages((image,), question), (image,), gold, meta=meta)
