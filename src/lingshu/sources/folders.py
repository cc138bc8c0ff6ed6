"""Folders of images: one sample per file, labelled by the folder it lies in or not at all.

Licence, revision and link: the user's own; a recipe states them, and until then every sample counts as private.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

from lingshu.core.errors import BadImage
from lingshu.core.nouns import Drop, Image, Meta, Sample
from lingshu.imaging.pseudonyms import check_key
from lingshu.imaging.read import image_bytes
from lingshu.imaging.walk import IMAGE_SUFFIXES, files_below
from lingshu.sources._ids import Names, Naming, look, naming, with_ids


def read(
    path: Path, *, labels: bool = True, question: str | None = None, exclude: Sequence[str] = (), patient: str | None = None,
    names: Names = "keep", key: bytes | None = None,
) -> Iterator[Sample | Drop]:  # fmt: skip
    """The images below a folder in order of their paths; images are found, not opened.

    With `labels` the first folder on the way to a file is its label, in `extra`; with a `question` it is also the right
    answer. Files that match a pattern of `exclude` are left out ("*_mask.png"). `patient` is a regular expression whose
    first group finds the patient in a path. With `names="hash"` neither path nor name is carried: ids are hashes under
    `key`, and samples hold their images. Drops: not_an_image, excluded, link, missing_image.

    Raises:
        InputError: no folder, or an option that is none.
    """
    called = naming(names, check_key(key), patient)
    for number, relative in enumerate(files_below(path), 1):
        name, file = called.id(relative), os.path.join(path, relative)  # noqa: PTH118 - a text, which is what an Image holds
        if any(fnmatch(relative.name, pattern) for pattern in exclude):
            yield Drop(name, "excluded")
        elif os.path.islink(file):  # noqa: PTH114
            yield Drop(name, "link", f"file {number} is a link; links are not followed.")
        elif relative.suffix.lower() not in IMAGE_SUFFIXES:
            yield Drop(name, "not_an_image", f"file {number} is none of {' '.join(IMAGE_SUFFIXES)}.")
        else:
            label = relative.parts[0] if labels and len(relative.parts) > 1 else None
            yield _sample(file, relative, called, label, question, number)


def _sample(file: str, relative: Path, called: Naming, label: str | None, question: str | None, number: int) -> Sample | Drop:
    name, image = called.id(relative), Image(path=file)
    if called.names == "hash":
        try:
            image = Image(data=image_bytes(image))
        except BadImage:
            # The message would name the file.
            return Drop(name, "missing_image", f"file {number} cannot be read.")
    meta = Meta(kind="label" if label and question else None, extra={"label": label} if label else {})
    gold = (label,) if label and question else None
    return Sample(name, look((image,), question), (image,), gold, meta=with_ids(meta, called.ids(relative)))
