"""Which files are masks of which others, and what they mark: boxes and names of regions."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from functools import cached_property
from glob import escape
from typing import TYPE_CHECKING

from lingshu.core.errors import ImageError, InputError
from lingshu.imaging.boxes import mask_to_boxes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Keys of `meta.extra`: boxes for the step long_caption, names of regions as the label.
BOXES, LABEL = "boxes", "label"
_WILDCARD = "\0"  # replaces the rule's own asterisks while those of file names are escaped


@dataclass(frozen=True)
class MaskIndex:
    """The masks of each file, by relative paths with forward slashes."""

    by_image: Mapping[str, tuple[str, ...]]

    @cached_property
    def mask_files(self) -> frozenset[str]:
        """Every file that is a mask."""
        return frozenset(name for names in self.by_image.values() for name in names)


def find_masks(names: Iterable[str], rule: Sequence[str] | None) -> MaskIndex:
    """Pair files with their masks: `rule` is a regular expression and its replacement in the path.

    The replacement may hold groups (`\\1`) and asterisks: by `["\\.png$", "_mask*.png"]` a file may
    have several masks. An asterisk does not continue a number (`case1*.png` is not `case10.png`),
    and a mask that several files reach belongs to those that name more of its path.

    Raises:
        InputError: an invalid rule, or one that finds no mask at all.
    """
    if rule is None:
        return MaskIndex({})
    if len(rule) != 2:
        rule_form = "a pattern in the path of an image, and its replacement in the path of a mask"
        raise InputError(f"mask takes two texts: {rule_form}.")
    sorted_names = sorted(names)
    masks_by_image: dict[str, tuple[str, ...]] = {}
    # Characters of the paths of its masks that a file determines, before an asterisk.
    prefix_lengths: dict[str, int] = {}
    for name in sorted_names:
        try:
            template, n_replaced = re.subn(rule[0], rule[1].replace("*", _WILDCARD), name)
        except (re.error, IndexError) as error:
            message = f"mask is not a valid regular expression ({error}); fix it."
            raise InputError(message) from error
        matches = _match_wildcard(sorted_names, template) if n_replaced else []
        masks = tuple(mask for mask in matches if mask != name)
        if masks:
            masks_by_image[name], prefix_lengths[name] = masks, len(template.split(_WILDCARD)[0])
    # A mask has no masks: `a_mask.png` may fit the pattern as well.
    mask_names = {name for masks in masks_by_image.values() for name in masks}
    for name in mask_names & masks_by_image.keys():
        del masks_by_image[name]
    if not masks_by_image:
        problem = f"no file has a mask by the rule {rule[0]!r} -> {rule[1]!r}"
        raise InputError(f"{problem}; compare it with the names of the files.")
    longest_prefix: dict[str, int] = {}
    for name, masks in masks_by_image.items():
        for mask in masks:
            longest_prefix[mask] = max(prefix_lengths[name], longest_prefix.get(mask, 0))
    assigned = {
        name: tuple(mask for mask in masks if longest_prefix[mask] == prefix_lengths[name])
        for name, masks in masks_by_image.items()
    }
    return MaskIndex({name: masks for name, masks in assigned.items() if masks})


def _match_wildcard(sorted_names: Sequence[str], template: str) -> list[str]:
    parts = template.split(_WILDCARD)
    prefix = parts[0]
    pattern = re.compile(translate("*".join(map(escape, parts))))
    ends_in_digit = len(parts) > 1 and prefix[-1:].isdigit()
    matches = []
    for name in sorted_names[bisect_left(sorted_names, prefix) :]:
        if not name.startswith(prefix):
            break
        continues_number = ends_in_digit and name[len(prefix) : len(prefix) + 1].isdigit()
        if pattern.match(name) and not continues_number:
            matches.append(name)
    return matches


def region_metadata(mask: NDArray[np.generic], names: Mapping[str, str]) -> dict[str, str]:
    """The boxes of a mask (height x width, 0 outside), and the names of its values; or nothing.

    Each value has its own boxes: regions that touch stay apart. `names` maps values as text.
    """
    import numpy as np

    values = [value for value in np.unique(mask).tolist() if value] if names else [None]
    boxes_by_value = {
        value: boxes
        for value in values
        if (boxes := mask_to_boxes(mask if value is None else mask == value))
    }
    all_boxes = [box for boxes in boxes_by_value.values() for box in boxes]
    if not all_boxes:
        return {}
    # A value without a box (a pen's leftovers) is not named either.
    found = [_format_value(value) for value in boxes_by_value if value is not None]
    labels = dict.fromkeys(names[text] for text in found if text in names)
    metadata = {BOXES: json.dumps(sorted(all_boxes, key=lambda box: (box.top, box.left)))}
    return metadata | ({LABEL: ", ".join(labels)} if labels else {})


def _format_value(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def union_of_masks(
    masks: Sequence[NDArray[np.generic]], shape: tuple[int, ...]
) -> NDArray[np.generic]:
    """Several masks of one shape as one; where two of them mark a pixel, the later counts.

    Raises:
        ImageError: a mask has another shape than what it marks.
    """
    import numpy as np

    for mask in masks:
        if mask.shape != shape:
            size, expected = (" x ".join(map(str, dims)) for dims in (mask.shape, shape))
            raise ImageError(f"a mask has the size {size}, what it marks {expected}.")
    union = masks[0]
    for mask in masks[1:]:
        union = np.where(mask != 0, mask, union)
    return union
