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

from lingshu.core.errors import BadImage, InputError
from lingshu.imaging.regions import boxes_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# What a sample carries of its regions, in `meta.extra`: rectangles for the step long_caption, names
# as its label.
BOXES, LABEL = "boxes", "label"
_STAR = "\0"  # stands for the replacement's own asterisks while those of file names are escaped


@dataclass(frozen=True)
class Masks:
    """The masks of each file, by relative paths with forward slashes."""

    of: Mapping[str, tuple[str, ...]]

    @cached_property
    def files(self) -> frozenset[str]:
        """Every file that is a mask."""
        return frozenset(name for names in self.of.values() for name in names)


def find_masks(names: Iterable[str], rule: Sequence[str] | None) -> Masks:
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
        return Masks({})
    if len(rule) != 2:
        raise InputError(
            "mask takes two texts: a pattern in the path of an image, and what stands there in the"
            " path of its mask."
        )
    known = sorted(names)
    found: dict[str, tuple[str, ...]] = {}
    # how much of the paths of its masks a file names, before an asterisk
    starts: dict[str, int] = {}
    for name in known:
        try:
            place, changed = re.subn(rule[0], rule[1].replace("*", _STAR), name)
        except (re.error, IndexError) as error:
            raise InputError(
                f"mask is no rule for regular expressions ({error}); mend it."
            ) from error
        others = (
            tuple(other for other in _matching(known, place) if other != name) if changed else ()
        )
        if others:
            found[name], starts[name] = others, len(place.split(_STAR)[0])
    # A mask of a mask is none: `a_mask.png` may fit the pattern as well.
    marks = {name for others in found.values() for name in others}
    found = {name: others for name, others in found.items() if name not in marks}
    if not found:
        raise InputError(
            f"no file has a mask by the rule {rule[0]!r} -> {rule[1]!r}; compare it with the names"
            " of the files."
        )
    most: dict[str, int] = {}
    for name, others in found.items():
        most |= {other: max(starts[name], most.get(other, 0)) for other in others}
    own = {
        name: tuple(other for other in others if most[other] == starts[name])
        for name, others in found.items()
    }
    return Masks({name: others for name, others in own.items() if others})


def _matching(known: Sequence[str], place: str) -> list[str]:
    start = place.split(_STAR)[0]
    pattern = re.compile(translate(_STAR.join(map(escape, place.split(_STAR))).replace(_STAR, "*")))
    digit = place != start and start[-1:].isdigit()
    found = []
    for name in known[bisect_left(known, start) :]:
        if not name.startswith(start):
            break
        if pattern.match(name) and not (digit and name[len(start) : len(start) + 1].isdigit()):
            found.append(name)
    return found


def region_facts(mask: NDArray[np.generic], names: Mapping[str, str]) -> dict[str, str]:
    """What a sample carries of a mask (height x width, 0 outside): its rectangles, and the names of
    the values that it holds.

    Each value has rectangles of its own, so that regions that touch stay apart; `names` calls a
    value, as text, by its name. Empty where the mask marks nothing.
    """
    import numpy as np

    values = [value for value in np.unique(mask).tolist() if value] if names else [None]
    marked = {
        value: found
        for value in values
        if (found := boxes_of(mask if value is None else mask == value))
    }
    boxes = sorted(
        (box for found in marked.values() for box in found), key=lambda b: (b.top, b.left)
    )
    if not boxes:
        return {}
    # A value that has no rectangle (a pen's leftovers) is not named either.
    called = [
        names[text] for value in marked if value is not None and (text := _text(value)) in names
    ]
    return {BOXES: json.dumps(boxes)} | (
        {LABEL: ", ".join(dict.fromkeys(called))} if called else {}
    )


def _text(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def united(masks: Sequence[NDArray[np.generic]], shape: tuple[int, ...]) -> NDArray[np.generic]:
    """Several masks of one shape as one: of two that mark a place, the later counts.

    Raises:
        BadImage: a mask has another shape than what it marks.
    """
    import numpy as np

    for mask in masks:
        if mask.shape != shape:
            raise BadImage(
                f"a mask has the size {' x '.join(map(str, mask.shape))}, what it marks"
                f" {' x '.join(map(str, shape))}."
            )
    whole = masks[0]
    for mask in masks[1:]:
        whole = np.where(mask != 0, mask, whole)
    return whole
