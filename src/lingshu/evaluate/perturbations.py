"""The questions of the controls: with black images, reordered options, or a paraphrased
instruction. Each returns a sample with the id of the original, or the reason why there is none.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from importlib import resources

from lingshu.core.errors import ImageError
from lingshu.core.prompts import REPORT, instructions
from lingshu.core.rows import LETTERS, with_choices
from lingshu.core.types import Image, Message, Sample
from lingshu.imaging.headers import ImageFileHeader
from lingshu.imaging.read import MAX_PIXELS, encode_png

NO_IMAGE = "no image"
NO_OPTIONS = "no options"
LINKED_OPTIONS = "an option refers to the others"
OTHER_OPTION_FORMAT = "the options are not listed by their letters, or twice"
NOT_ONE_GOLD = "several right options, or none"
NO_PARAPHRASE = "an instruction without a paraphrase here"
N_PARAPHRASES = 3
NONE_OF_THE_OTHERS = {"en": "None of the other answers", "zh": "其他选项都不对"}
_MAX_ATTEMPTS = 1000  # until enough orders differ; an item of three options has five others
# "Both A and B", "A, C", "All of the above": in another order they would mean something else.
_LINKED_OPTION = re.compile(
    r"^\W*[A-H]\W*(?:(?:,|and|or|&|\+|和|与|、)\W*[A-H](?![A-Za-z])\W*)+$"
    r"|\b(?i:both|either|neither|options?|choices|answers)\s*\(?[A-H]\)?(?![A-Za-z-])"
    r"|(?i:\b(?:all|none|any|both|neither|two|one)\s+of\s+(?:the\s+)?(?:above|others?|these|those|preceding)\b|\ball\s+(?:the\s+)?above\b)"
    r"|(?:以上|上述)(?:都|均|全|皆|各|所有|选项|答案|[两三四五]项)|[都均]不(?:是|对|正确)$"
)


@cache
def paraphrases() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Three neutral paraphrases of each instruction, by its text, that request the same form of
    answer; and by language those of a bare question.
    """
    path = resources.files("lingshu.evaluate").joinpath("paraphrases.json")
    table = json.loads(path.read_text(encoding="utf-8"))
    by_instruction = {
        text: table["instructions"][kind][language][style]
        for (kind, language, style), text in instructions().items()
    }
    report = table["instructions"]["report"]["en"]["direct"]
    return by_instruction | {REPORT: report}, table["bare_question"]


def with_black_images(sample: Sample, header: Callable[[Image], ImageFileHeader]) -> Sample | str:
    """The sample with a black image of the same width and height for each of its own.

    An image that cannot be read stays: its sample fails here as it does in the run.
    """
    if not sample.images:
        return NO_IMAGE
    return replace(sample, images=tuple(_black_image(image, header) for image in sample.images))


def _black_image(image: Image, header: Callable[[Image], ImageFileHeader]) -> Image:
    try:
        original = header(image)
    except ImageError:
        return image
    if original.width * original.height > MAX_PIXELS:
        return image
    return Image(data=_black_png(original.width, original.height))


@lru_cache(maxsize=64)
def _black_png(width: int, height: int) -> bytes:
    import numpy as np

    return encode_png(np.zeros((height, width), dtype=np.uint8))


def option_orders(name: str, n_options: int, n_orders: int, *, seed: int) -> list[tuple[int, ...]]:
    """Up to `n_orders` other orders of an item's options; the same for a name and a seed."""
    original_order = tuple(range(n_options))
    n_possible = math.factorial(min(n_options, 20)) - 1
    distinct_orders: dict[tuple[int, ...], None] = {}
    for attempt in range(_MAX_ATTEMPTS):
        if len(distinct_orders) >= min(n_orders, n_possible):
            break
        # Sorting by hashes makes all orders equally likely, on every version of every library.
        prefix = f"{seed}/{name}/{attempt}/"
        digests = [hashlib.sha256(f"{prefix}{index}".encode()).digest() for index in original_order]
        order = tuple(sorted(original_order, key=digests.__getitem__))
        if order != original_order:
            distinct_orders[order] = None
    return list(distinct_orders)


def shuffle_options(
    sample: Sample, order: Sequence[int], apply_prompt: Callable[[Sample], Sample]
) -> Sample | str:
    """The sample, as its task yields it, with option order[i] as the i-th; the gold follows.

    The prompt must then list the options in the new order and nowhere in the old one.
    """
    if len(sample.choices) < 2:
        return NO_OPTIONS
    if any(_LINKED_OPTION.search(choice) for choice in sample.choices):
        return LINKED_OPTIONS
    choices = tuple(sample.choices[index] for index in order)
    letters = {LETTERS[old]: LETTERS[new] for new, old in enumerate(order)}
    gold = sample.gold and tuple(letters.get(letter, letter) for letter in sample.gold)
    return _replace_options(sample, choices, gold, apply_prompt)


def without_right_option(sample: Sample, apply_prompt: Callable[[Sample], Sample]) -> Sample | str:
    """The sample, as its task yields it, without its right option: "None of the other answers" is
    among the others instead, and right.

    Its position depends on the id alone, so that it says nothing of the answer.
    """
    n_options = len(sample.choices)
    if n_options < 2:
        return NO_OPTIONS
    if any(_LINKED_OPTION.search(choice) for choice in sample.choices):
        return LINKED_OPTIONS
    gold = sample.gold or ()
    if len(gold) != 1 or gold[0] not in [*LETTERS[:n_options]]:
        return NOT_ONE_GOLD
    others = [text for i, text in enumerate(sample.choices) if i != LETTERS.index(gold[0])]
    id_hash = hashlib.sha256(f"none/{sample.id}".encode()).digest()
    position = int.from_bytes(id_hash[:4], "big") % n_options
    is_chinese = bool(re.search("[\u4e00-\u9fff]", "".join(sample.choices) or sample.question))
    others.insert(position, NONE_OF_THE_OTHERS["zh" if is_chinese else "en"])
    return _replace_options(sample, tuple(others), (LETTERS[position],), apply_prompt)


def _replace_options(
    sample: Sample,
    choices: tuple[str, ...],
    gold: tuple[str, ...] | None,
    apply_prompt: Callable[[Sample], Sample],
) -> Sample | str:
    old_options, new_options = (
        with_choices("", options).strip("\n") for options in (sample.choices, choices)
    )
    turn = sample.messages[-1]
    parts = tuple(
        part.replace(old_options, new_options) if isinstance(part, str) else part
        for part in turn.parts
    )
    messages = (*sample.messages[:-1], Message(turn.role, parts))
    prompted = apply_prompt(replace(sample, choices=choices, gold=gold, messages=messages))
    question = prompted.question
    # A question that lists its options in another format still has them in the old order.
    lists_new, lists_old = (
        with_choices(question, options) == question for options in (choices, sample.choices)
    )
    return prompted if lists_new and not lists_old else OTHER_OPTION_FORMAT


def paraphrase(sample: Sample, variant_index: int, *, is_bare: bool) -> Sample | str:
    """The sample with paraphrase `variant_index`: of its instruction, or around it if `is_bare`."""
    turn = sample.messages[-1]
    text_indices = [index for index, part in enumerate(turn.parts) if isinstance(part, str)]
    if not text_indices or sample.meta.kind == "rubric":
        return NO_PARAPHRASE
    last_text = turn.parts[text_indices[-1]]
    assert isinstance(last_text, str)
    instructions, bare_questions = paraphrases()
    if is_bare:
        templates = bare_questions.get(sample.meta.language or "en")
        if templates is None:
            return NO_PARAPHRASE
        paraphrased = templates[variant_index].format(last_text)
    else:
        instruction = next((text for text in instructions if last_text.endswith(text)), None)
        if instruction is None:
            return NO_PARAPHRASE
        paraphrased = last_text.removesuffix(instruction) + instructions[instruction][variant_index]
    parts = tuple(
        paraphrased if index == text_indices[-1] else part for index, part in enumerate(turn.parts)
    )
    return replace(sample, messages=(*sample.messages[:-1], Message(turn.role, parts)))
