"""From characters of an answer to its tokens: which tokens of a rendered answer belong to marked
entities.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lingshu.core.entities import Span
from lingshu.core.errors import ArtefactError

# A token is one of an entity where any of its characters is, or where most are; blanks do not
# count.
Policy = Literal["any", "majority"]


class Spelt(NamedTuple):
    """An answer as it is tokenised: its text, the characters that each token stands for, and which
    tokens are words.
    """

    text: str
    offsets: Sequence[tuple[int, int]]
    is_word: NDArray[np.bool_]


def placed(said: str, defused: str, rendered: str, spans: Sequence[Span]) -> NDArray[np.bool_]:
    """Which characters of a rendered answer belong to the entities of the text `said`, blanks
    apart.

    `defused` is that text with control tokens broken by blanks; the template may have cut blanks at
    its ends.

    Raises:
        ArtefactError: the template writes an answer in other words.
    """
    inside = np.zeros(len(rendered), bool)
    shown = defused.strip()
    at = rendered.find(shown)
    if at < 0:
        raise ArtefactError(
            "the chat template rewrites answers, so entities in them cannot be found; use another"
            " checkpoint."
        )
    first = at - (len(defused) - len(defused.lstrip()))
    where = _places(said, defused)
    for span in spans:
        for place in range(span.start, span.end):
            if not said[place].isspace() and 0 <= first + where[place] < len(rendered):
                inside[first + where[place]] = True
    return inside


def _places(said: str, defused: str) -> list[int]:
    """Where each character of a text stands once blanks were put into it."""
    if said == defused:
        return list(range(len(said)))
    places, at = [], 0
    for character in said:
        while defused[at] != character:
            at += 1
        places.append(at)
        at += 1
    return places


def entity_tokens(answer: Spelt, inside: NDArray[np.bool_], policy: Policy) -> NDArray[np.bool_]:
    """Which tokens of an answer belong to entities: never a special token, and every piece of a
    character that is split.
    """
    blank = np.fromiter((character.isspace() for character in answer.text), bool, len(answer.text))
    marked = np.fromiter(accumulate(inside, initial=0), np.int64)
    solid = np.fromiter(accumulate(~blank, initial=0), np.int64)
    starts, ends = np.asarray(answer.offsets, np.int64).reshape(-1, 2).T
    hits, characters = marked[ends] - marked[starts], solid[ends] - solid[starts]
    found = hits > 0 if policy == "any" else 2 * hits > characters
    return found & answer.is_word
