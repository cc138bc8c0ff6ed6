"""Grades a free answer by whether it gives an accepted answer, in equal words or inside a sentence;
no judge is asked.

Case, articles, plural, hyphens, number words, units and the order of a list make no difference.
"The lesion is in the left lung" and "chest X-ray" give "left lung" and "X-ray"; "left and right
lung", "lung cancer", "noncontrast" and "the lung is not visible" do not give "left lung", "cancer
of the lung", "contrast" and "lung". A synonym is not the answer, and less than the answer is not
either: accuracy here is a lower bound of what a judge finds.

RANGE: 1.0 right, 0.0 wrong, None for an empty or refusing reply.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from lingshu.core.reply_text import (
    CJK,
    is_empty,
    is_refusal,
    make_score,
    require_golds,
    to_plain_text,
)
from lingshu.core.types import Sample, Score
from lingshu.scoring._options import is_negated
from lingshu.scoring._quantities import normalize_quantities
from lingshu.scoring.exact import extract_answers, normalized_forms

RANGE = (0.0, 1.0)
_SENTENCE = re.compile(r"(?<!\d)\.(?:\s|$)|[!?;\n]")
_TOKEN = re.compile(rf"\d+(?:\.\d+)?|[{CJK}]|[^\W\d_{CJK}]+(?:'[a-z]+)?\d*|[,+<>≥≤%±/&]|-(?=\d)")
_ABOUT = re.compile(r"^\W*(?:about\s+|approximately\s+|around\s+|roughly\s+|~\s*|约\s*)", re.I)
_ARTICLES = {"a", "an", "the"}
_HEDGE = re.compile(
    r"\b(?:but|however|although|though|or|either|whether|might|may|could|unclear|instead|rather|not|n't|cannot)\b|n't\b|但|或|可能|不"
)
# "left lung (not the right)" is not a hedge.
_NOT_THE_OTHER = re.compile(
    r"[(,]\s*not\s+(?:in\s+)?(?:the\s+)?\w+(?:\s+(?:side|lung|one))?\s*(?:\)|(?=[.;]|$))"
)
_ZH_PREFIX = re.compile(
    r"^(?:这(?:张|幅|个)?(?:图像|图片|影像)?(?:中|里)?(?:的\w{1,8}?)?(?:是|为|位于)|图(?:像|片)?中?的?\w{0,8}?(?:是|为|位于)|是|在|位于)"
)
_ZH_SUFFIX = re.compile(r"(?:部位?|侧|加权(?:成?像)?|扫描|图像|成像|检查)$")


class Vocabulary(NamedTuple):
    """The words of open_words.json as `_tokenize` writes them: "denies" is "deny".

    Where the gold has one member of a
    row of `opposites` and the reply another, the reply is wrong, whatever else it says.
    `continuation_words` end the name of a thing, or follow one without naming another.
    """

    opposites: Mapping[str, tuple[int, int]]
    continuation_words: frozenset[str]
    generic_nouns: frozenset[str]
    clause_openers: frozenset[str]
    intro_words: frozenset[str]
    negations: frozenset[str]
    negation_phrases: frozenset[str]


@cache
def _vocabulary() -> Vocabulary:
    data = json.loads(Path(__file__).with_name("open_words.json").read_text(encoding="utf-8"))
    opposites = {
        word: (group, position)
        for group, members in enumerate(data["opposites"])
        for position, names in enumerate(members)
        for word in names.split("|")
    }
    words = {name: frozenset(data[name].split()) for name in Vocabulary._fields[1:-1]}
    phrases = frozenset(data["negation_phrases"])
    return Vocabulary(opposites, negation_phrases=phrases, **words)


def score(sample: Sample, reply: str) -> Score:
    """Whether the reply gives an accepted answer.

    Raises:
        InputError: the sample has no gold.
    """
    golds = [to_plain_text(gold) for gold in require_golds(sample)]
    answers = extract_answers(reply)
    if is_empty(answers[0]):
        return Score(None, "empty")
    for answer in answers:
        if any(answers_match(answer, gold) for gold in golds):
            return make_score(is_correct=True, prediction=answer)
    if is_refusal(answers[0]):
        return Score(None, "refused")
    claimed = _NOT_THE_OTHER.sub("", answers[0][:2000])
    first_sentence = _SENTENCE.split(claimed, maxsplit=1)[0][:600]
    is_correct = not _HEDGE.search(claimed.casefold()) and any(
        contains_answer(first_sentence, gold, sample.question) for gold in golds
    )
    return make_score(is_correct=is_correct, prediction=answers[0])


def answers_match(answer: str, gold: str) -> bool:
    """Whether two plain texts are one answer: equal in form, one quantity, one list, or one the
    plural of the other.
    """
    return any(
        normalized == normalized_gold or (items and items == gold_items)
        for (normalized, items), (normalized_gold, gold_items) in (
            (normalized_forms(answer), normalized_forms(gold)),
            (_quantity_forms(answer), _quantity_forms(gold)),
        )
    )


def _quantity_forms(text: str) -> tuple[str, tuple[str, ...]]:
    return normalized_forms(_ABOUT.sub("", normalize_quantities(text)))


def contains_answer(sentence: str, gold: str, question: str) -> bool:
    """Whether a plain sentence contains the whole gold, as its answer, and nothing that contradicts
    it.
    """
    gold, sentence = normalize_quantities(gold), normalize_quantities(sentence)
    gold_tokens, tokens = _tokenize(gold), _tokenize(sentence)
    if (
        not gold_tokens
        or "," in gold_tokens
        or len(gold_tokens) > len(tokens)
        or (len(gold) < 2 and gold.casefold() in "ai")
    ):
        return False
    if re.search(f"[{CJK}]", gold):
        stem = _ZH_SUFFIX.sub("", _ZH_PREFIX.sub("", sentence.strip(" .")))
        return _tokenize(stem) == gold_tokens
    if _contradicts(gold_tokens, tokens) or (
        gold_tokens[0][0].isdigit()
        and re.search(rf"(?:(?:^|[\s(:=])-|[<>≥≤]\s*){re.escape(gold_tokens[0])}(?!\d)", sentence)
    ):
        return False
    question_tokens = set(_tokenize(question))
    n_gold = len(gold_tokens)
    return any(
        tokens[start : start + n_gold] == gold_tokens
        and _is_free_standing(tokens, start, start + n_gold, question_tokens)
        for start in range(len(tokens) - n_gold + 1)
    )


def _tokenize(text: str) -> list[str]:
    normalized = text.casefold()
    if not re.search(r"-\d", text):
        normalized = normalized.replace("xray", "x-ray").replace("-", " ")
    return [_singularize(token) for token in _TOKEN.findall(normalized) if token not in _ARTICLES]


def _singularize(word: str) -> str:
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    return word[:-3] + "y" if word.endswith("ies") else word[:-1]


def _contradicts(gold_tokens: Sequence[str], tokens: Sequence[str]) -> bool:
    """Another number than the gold's, or another member of a row of opposites."""
    if any(token[0].isdigit() for token in gold_tokens):
        return any(token[0].isdigit() and token not in gold_tokens for token in tokens)
    opposites = _vocabulary().opposites
    tokens = _without_denied(tokens)
    gold_members = {opposites[token] for token in gold_tokens if token in opposites}
    groups = {group for group, _ in gold_members}
    members = (opposites[token] for token in tokens if token in opposites)
    return any(member[0] in groups and member not in gold_members for member in members)


def _without_denied(tokens: Sequence[str]) -> list[str]:
    """The words without one that is denied: "left lung (not the right)" says nothing of the right."""
    return [
        token
        for index, token in enumerate(tokens)
        if index == 0 or tokens[index - 1] not in ("not", "than")
    ]


def _is_free_standing(
    tokens: Sequence[str], start: int, end: int, question_tokens: set[str]
) -> bool:
    """Whether words start..end name something alone: no list, no other name, not denied."""
    words = _vocabulary()
    joined_tokens = f" {' '.join(tokens)} "
    offset = len(" ".join(tokens[:start])) + (1 if start else 0)
    if is_negated(joined_tokens, offset, offset + len(" ".join(tokens[start:end])) + 2):
        return False
    before = tokens[max(0, start - 2) : start]
    if before and (before[-1] in words.negations or " ".join(before) in words.negation_phrases):
        return False
    next_token = tokens[end] if end < len(tokens) else None
    if next_token in (",", "and", "&", "/"):
        following = tokens[end + 1] if end + 1 < len(tokens) else ""
        # "left lung, lower lobe" says where in it.
        is_detail = following in words.clause_openers or (
            following in words.opposites and following not in tokens[start:end]
        )
        if next_token != "," or not is_detail:
            return False
    elif next_token is not None and not (
        next_token in words.continuation_words
        or next_token in question_tokens
        or next_token in tokens[start:end]
    ):
        return False
    of_what = before[0] if len(before) == 2 and before[1] == "of" else None
    if of_what and of_what not in words.generic_nouns and of_what not in question_tokens:
        return False
    # A comma or "and" in front of the answer joins things, unless it closes "In this image, ...".
    opens_with_intro = tokens[0] in words.intro_words
    return not any(
        token in ("and", "&", "/") or (token == "," and not opens_with_intro)
        for token, _ in pairwise(tokens[: start + 1])
    )
