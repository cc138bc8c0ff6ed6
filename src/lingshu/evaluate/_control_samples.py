"""The questions of the controls: with black images, with their options in other orders, in other
words.

Each gives a sample back with the id of the one it was made from, or the reason why there is none.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

from lingshu.core.errors import BadImage
from lingshu.core.nouns import Image, Message, Sample
from lingshu.core.rows import LETTERS, with_choices
from lingshu.evaluate._control_wordings import FRAMES, WORDINGS
from lingshu.imaging.headers import Header
from lingshu.imaging.read import MAX_PIXELS, encode_png
from lingshu.tasks._prompts import INSTRUCTIONS, REPORT

NO_IMAGE = "no image"
NO_OPTIONS = "no options"
LINKED_OPTIONS = "an option speaks of the others"
OTHER_FORM = "the options are not listed by their letters, or twice"
NO_PARAPHRASE = "asked in words that have no paraphrase here"
_TRIES = 1000  # draws until enough orders differ; an item of three options has five others
# "Both A and B", "A, C", "All of the above": in another order they would say something else.
_LINKED = re.compile(
    r"^\W*[A-H]\W*(?:(?:,|and|or|&|\+|和|与|、)\W*[A-H](?![A-Za-z])\W*)+$"
    r"|\b(?i:both|either|neither|options?|choices|answers)\s*\(?[A-H]\)?(?![A-Za-z-])"
    r"|(?i:\b(?:all|none|any|both|neither|two|one)\s+of\s+(?:the\s+)?(?:above|others?|these|those|preceding)\b|\ball\s+(?:the\s+)?above\b)"
    r"|(?:以上|上述)(?:都|均|全|皆|各|所有|选项|答案|[两三四五]项)|[都均]不(?:是|对|正确)$"
)


def blind(sample: Sample, header: Callable[[Image], Header]) -> Sample | str:
    """The sample with a black image of the same width and height for each of its own.

    An image that cannot be read stays: its sample fails here as it does in the run.
    """
    return (
        replace(sample, images=tuple(_black(image, header) for image in sample.images))
        if sample.images
        else NO_IMAGE
    )


def _black(image: Image, header: Callable[[Image], Header]) -> Image:
    try:
        found = header(image)
    except BadImage:
        return image
    return image if found.pixels > MAX_PIXELS else Image(data=_black_png(found.width, found.height))


@lru_cache(maxsize=64)
def _black_png(width: int, height: int) -> bytes:
    import numpy as np

    return encode_png(np.zeros((height, width), dtype=np.uint8))


def orders(name: str, options: int, wanted: int, *, seed: int) -> list[tuple[int, ...]]:
    """Up to `wanted` different orders of an item's options besides its own; the same for a name and
    a seed on every machine.
    """
    as_given = tuple(range(options))
    possible = math.factorial(min(options, 20)) - 1
    found: dict[tuple[int, ...], None] = {}
    for draw in range(_TRIES):
        if len(found) >= min(wanted, possible):
            break
        # Sorting by hashes draws every order alike, and no library's generator has to stay as it
        # is.
        order = tuple(
            sorted(
                as_given,
                key=lambda place: hashlib.sha256(f"{seed}/{name}/{draw}/{place}".encode()).digest(),
            )
        )
        if order != as_given:
            found[order] = None
    return list(found)


def shuffled(sample: Sample, order: Sequence[int], ask: Callable[[Sample], Sample]) -> Sample | str:
    """The sample, given as its task yields it, with the option at order[i] as the i-th one, worded
    by `ask`; the gold follows.

    What is asked must then list the options in the new order and nowhere in the old one.
    """
    if len(sample.choices) < 2:
        return NO_OPTIONS
    if any(_LINKED.search(choice) for choice in sample.choices):
        return LINKED_OPTIONS
    choices = tuple(sample.choices[place] for place in order)
    letters = {LETTERS[old]: LETTERS[new] for new, old in enumerate(order)}
    old_list, new_list = (
        with_choices("", listed).strip("\n") for listed in (sample.choices, choices)
    )
    turn = sample.messages[-1]
    parts = tuple(
        part.replace(old_list, new_list) if isinstance(part, str) else part for part in turn.parts
    )
    moved = replace(
        sample,
        choices=choices,
        gold=(
            None
            if sample.gold is None
            else tuple(letters.get(letter, letter) for letter in sample.gold)
        ),
        messages=(*sample.messages[:-1], Message(turn.role, parts)),
    )
    asked = ask(moved)
    # A question that lists its options in words of its own still has them in the old order,
    # whatever is listed below it.
    return (
        asked
        if _lists(asked.question, choices) and not _lists(asked.question, sample.choices)
        else OTHER_FORM
    )


def _lists(text: str, choices: Sequence[str]) -> bool:
    return with_choices(text, choices) == text


def reworded(sample: Sample, number: int, *, framed: bool) -> Sample | str:
    """The sample in wording `number`, from 0: another instruction for its own or, `framed`, a line
    around a bare question.
    """
    turn = sample.messages[-1]
    texts = [place for place, part in enumerate(turn.parts) if isinstance(part, str)]
    if not texts or sample.meta.kind == "rubric":
        return NO_PARAPHRASE
    last = turn.parts[texts[-1]]
    assert isinstance(last, str)
    if framed:
        frames = FRAMES.get(sample.meta.language or "en")
        said = None if frames is None else frames[number].format(last)
    else:
        known = next((text for text in _OTHERS if last.endswith(text)), None)
        said = None if known is None else last.removesuffix(known) + _OTHERS[known][number]
    if said is None:
        return NO_PARAPHRASE
    parts = tuple(said if place == texts[-1] else part for place, part in enumerate(turn.parts))
    return replace(sample, messages=(*sample.messages[:-1], Message(turn.role, parts)))


_OTHERS = {text: WORDINGS[key] for key, text in INSTRUCTIONS.items()} | {
    REPORT: WORDINGS["report", "en", "direct"]
}
