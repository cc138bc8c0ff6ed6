"""Which files mark the regions of which others, and what they mark: rectangles and the names of
regions, as samples carry them.
"""

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

# What a sample carries of its regions, in `meta.extra`: rectangles for the step long_caption, names
# as its label.
BOXES, LABEL = "boxes", "label"
_WILDCARD = "\0"  # stands for the replacement's own asterisks while those of file names are escaped


@dataclass(frozen=True)
class MaskIndex:
    """The masks of each file, by relative paths with forward slashes."""

    by_image: Mapping[str, tuple[str, ...]]

    @cached_property
    def mask_files(self) -> frozenset[str]:
        """Every file that is a mask."""
        return frozenset(name for names in self.by_image.values() for name in names)


def find_masks(names: Iterable[str], rule: Sequence[str] | None) -> MaskIndex:
    """Pair files with their masks: `rule` is a regular expression and what stands for its match in
    the path of a mask.

    The replacement may hold groups (`\\1`) and asterisks: of `["\\.png$", "_mask*.png"]` a file may
    have several masks. An asterisk does not go on with a number (`case1*.png` is not `case10.png`),
    and of several files whose asterisks reach one mask it belongs to those that name more of its
    path.

    Raises:
        InputError: the rule is none, or finds no mask at all.
    """
    if rule is None:
        return MaskIndex({})
    if len(rule) != 2:
        raise InputError(
            "mask takes two texts: a pattern in the path of an image, and what stands there in the"
            " path of its mask."
        )
    sorted_names = sorted(names)
    masks_by_image: dict[str, tuple[str, ...]] = {}
    # how much of the paths of its masks a file names, before an asterisk
    prefix_lengths: dict[str, int] = {}
    for name in sorted_names:
        try:
            template, n_replaced = re.subn(rule[0], rule[1].replace("*", _WILDCARD), name)
        except (re.error, IndexError) as error:
            raise InputError(
                f"mask is no rule for regular expressions ({error}); mend it."
            ) from error
        masks = (
            tuple(mask for mask in _match_wildcard(sorted_names, template) if mask != name)
            if n_replaced
            else ()
        )
        if masks:
            masks_by_image[name], prefix_lengths[name] = masks, len(template.split(_WILDCARD)[0])
    # A mask of a mask is none: `a_mask.png` may fit the pattern as well.
    mask_names = {name for masks in masks_by_image.values() for name in masks}
    masks_by_image = {
        name: masks for name, masks in masks_by_image.items() if name not in mask_names
    }
    if not masks_by_image:
        raise InputError(
            f"no file has a mask by the rule {rule[0]!r} -> {rule[1]!r}; compare it with the names"
            " of the files."
        )
    longest_prefix: dict[str, int] = {}
    for name, masks in masks_by_image.items():
        longest_prefix |= {
            mask: max(prefix_lengths[name], longest_prefix.get(mask, 0)) for mask in masks
        }
    assigned = {
        name: tuple(mask for mask in masks if longest_prefix[mask] == prefix_lengths[name])
        for name, masks in masks_by_image.items()
    }
    return MaskIndex({name: masks for name, masks in assigned.items() if masks})


def _match_wildcard(sorted_names: Sequence[str], template: str) -> list[str]:
    prefix = template.split(_WILDCARD)[0]
    pattern = re.compile(
        translate(_WILDCARD.join(map(escape, template.split(_WILDCARD))).replace(_WILDCARD, "*"))
    )
    ends_in_digit = template != prefix and prefix[-1:].isdigit()
    matches = []
    for name in sorted_names[bisect_left(sorted_names, prefix) :]:
        if not name.startswith(prefix):
            break
        if pattern.match(name) and not (
            ends_in_digit and name[len(prefix) : len(prefix) + 1].isdigit()
        ):
            matches.append(name)
    return matches


def region_metadata(mask: NDArray[np.generic], names: Mapping[str, str]) -> dict[str, str]:
    """What a sample carries of a mask (height x width, 0 outside): its rectangles, and the names of
    the values that it holds.

    Each value has rectangles of its own, so that regions that touch stay apart; `names` calls a
    value, as text, by its name. Empty where the mask marks nothing.
    """
    import numpy as np

    values = [value for value in np.unique(mask).tolist() if value] if names else [None]
    boxes_by_value = {
        value: value_boxes
        for value in values
        if (value_boxes := mask_to_boxes(mask if value is None else mask == value))
    }
    boxes = sorted(
        (box for value_boxes in boxes_by_value.values() for box in value_boxes),
        key=lambda b: (b.top, b.left),
    )
    if not boxes:
        return {}
    # A value that has no rectangle (a pen's leftovers) is not named either.
    labels = [
        names[text]
        for value in boxes_by_value
        if value is not None and (text := _format_value(value)) in names
    ]
    return {BOXES: json.dumps(boxes)} | (
        {LABEL: ", ".join(dict.fromkeys(labels))} if labels else {}
    )


def _format_value(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def union_of_masks(
    masks: Sequence[NDArray[np.generic]], shape: tuple[int, ...]
) -> NDArray[np.generic]:
    """Several masks of one shape as one: of two that mark a place, the later counts.

    Raises:
        BadImage: a mask has another shape than what it marks.
    """
    import numpy as np

    for mask in masks:
        if mask.shape != shape:
            raise ImageError(
                f"a mask has the size {' x '.join(map(str, mask.shape))}, what it marks"
                f" {' x '.join(map(str, shape))}."
            )
    union = masks[0]
    for mask in masks[1:]:
        union = np.where(mask != 0, mask, union)
    return union
