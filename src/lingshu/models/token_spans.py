"""Which tokens of a rendered answer belong to marked entities, from its characters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lingshu.core.entities import Span
from lingshu.core.errors import ArtifactError

# A token belongs to an entity if any of its characters does, or most of them; spaces do not count.
EntityPolicy = Literal["any", "majority"]


class AlignedText(NamedTuple):
    """A tokenized answer: text, character range of each token, which tokens are not special."""

    text: str
    offsets: Sequence[tuple[int, int]]
    is_word: NDArray[np.bool_]


def entity_character_mask(
    text: str, escaped: str, rendered: str, spans: Sequence[Span]
) -> NDArray[np.bool_]:
    """Which characters of a rendered answer belong to the entities of `text`, spaces excepted.

    `escaped` is that text with control tokens broken by spaces; the template may have removed
    spaces at its ends.

    Raises:
        ArtifactError: the template rewrites the answer.
    """
    in_entity = np.zeros(len(rendered), bool)
    stripped = escaped.strip()
    start = rendered.find(stripped)
    if start < 0:
        raise ArtifactError(
            "the chat template rewrites answers, so entities in them cannot be found; use another"
            " checkpoint."
        )
    offset = start - (len(escaped) - len(escaped.lstrip()))
    char_positions = _align_characters(text, escaped)
    for span in spans:
        for index in range(span.start, span.end):
            if not text[index].isspace() and 0 <= offset + char_positions[index] < len(rendered):
                in_entity[offset + char_positions[index]] = True
    return in_entity


def _align_characters(text: str, escaped: str) -> list[int]:
    """The position of each character of a text after spaces were inserted into it."""
    if text == escaped:
        return list(range(len(text)))
    positions, cursor = [], 0
    for character in text:
        while escaped[cursor] != character:
            cursor += 1
        positions.append(cursor)
        cursor += 1
    return positions


def entity_token_mask(
    answer: AlignedText, in_entity: NDArray[np.bool_], policy: EntityPolicy
) -> NDArray[np.bool_]:
    """Which tokens belong to entities: no special one, every piece of a split character."""
    is_space = np.array([character.isspace() for character in answer.text], bool)
    entity_cumsum = np.fromiter(accumulate(in_entity, initial=0), np.int64)
    text_cumsum = np.fromiter(accumulate(~is_space, initial=0), np.int64)
    starts, ends = np.asarray(answer.offsets, np.int64).reshape(-1, 2).T
    entity_chars = entity_cumsum[ends] - entity_cumsum[starts]
    n_chars = text_cumsum[ends] - text_cumsum[starts]
    is_entity = entity_chars > 0 if policy == "any" else 2 * entity_chars > n_chars
    return is_entity & answer.is_word
