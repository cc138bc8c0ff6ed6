"""Folders of images: one sample per file, labelled by the folder it lies in or not at all.

Licence, revision and link: the user's own; a recipe states them, and until then every sample counts
as private.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from lingshu.core.errors import BadImage
from lingshu.core.nouns import Drop, Image, Meta, Sample
from lingshu.imaging.headers import read_header
from lingshu.imaging.pseudonyms import check_key
from lingshu.imaging.read import decode_values, image_bytes, image_name, open_image
from lingshu.imaging.walk import IMAGE_SUFFIXES, files_below
from lingshu.sources._ids import Names, labelled, look, naming, with_ids
from lingshu.sources._masks import Masks, find_masks, region_facts, united

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def read(
    path: Path, *, labels: bool | None = None, question: str | None = None, exclude: Sequence[str] = (), mask: Sequence[str] | None = None,
    regions: Mapping[str, str] | None = None, patient: str | None = None, names: Names = "keep", key: bytes | None = None,
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
    called = naming(names, check_key(key), patient)
    labels = labelled(labels, names, question)
    masks = find_masks((found.as_posix() for found in files_below(path)), mask)
    for number, relative in enumerate(files_below(path), 1):
        name, file = called.id(relative), os.path.join(path, relative)  # noqa: PTH118 - a text, which is what an Image holds
        if any(fnmatch(relative.name, pattern) for pattern in exclude):
            yield Drop(name, "excluded")
        elif os.path.islink(file):  # noqa: PTH114
            yield Drop(name, "link", f"file {number} is a link; links are not followed.")
        elif relative.suffix.lower() not in IMAGE_SUFFIXES:
            yield Drop(
                name, "not_an_image", f"file {number} is none of {' '.join(IMAGE_SUFFIXES)}."
            )
        elif relative.as_posix() in masks.files:
            yield Drop(name, "mask", "it marks regions of another image.")
        else:
            label = relative.parts[0] if labels and len(relative.parts) > 1 else None
            marked = _marked(path, relative, masks, regions or {})
            if isinstance(marked, tuple):
                reason, why = marked
                what = f"file {number}" if reason == "bad_image" else f"the mask of file {number}"
                # The message names the file, and where the folder lies.
                told = (
                    f"{what} cannot be used."
                    if names == "hash"
                    else why.replace(f"{path}{os.sep}", "")
                )
                yield Drop(name, reason, told)
                continue
            extra = ({"label": label} if label else {}) | marked
            yield _sample(
                name,
                file,
                called.names,
                with_ids(Meta(extra=extra), called.ids(relative)),
                question,
                number,
            )


def _marked(
    path: Path, relative: Path, masks: Masks, regions: Mapping[str, str]
) -> dict[str, str] | tuple[str, str]:
    """What the masks of an image mark, or the reason and the words of the error that stood in the
    way.
    """
    found = masks.of.get(relative.as_posix())
    if not found:
        return {}
    image = Image(path=str(path / relative))
    try:
        width, height = open_image(image).size
    except BadImage as error:
        return "bad_image", str(error)
    try:
        marks = [_mask(Image(path=str(path / other))) for other in found]
        return region_facts(united(marks, (height, width)), regions)
    except BadImage as error:
        return "bad_mask", str(error)


def _mask(image: Image) -> NDArray[np.generic]:
    """Height x width values of a mask; of a JPEG, whose borders are smeared, black and white."""
    import numpy as np

    data = image_bytes(image)
    values = decode_values(data, name=image_name(image))
    return (values >= 128).astype(np.uint8) if read_header(data).format == "JPEG" else values


def _sample(
    name: str, file: str, names: Names, meta: Meta, question: str | None, number: int
) -> Sample | Drop:
    image = Image(path=file)
    if names == "hash":
        try:
            image = Image(data=image_bytes(image))
        except BadImage:
            # The message would name the file.
            return Drop(name, "missing_image", f"file {number} cannot be read.")
    gold = None
    if question and (label := meta.extra.get("label")):
        meta, gold = replace(meta, kind="label"), (label,)
    return Sample(name, look((image,), question), (image,), gold, meta=meta)
