"""How sure a model is of the answer that was read from its reply.

In this order, the first that is known: the probability of the token that is the answer, for a letter
or a yes or no; the share of sampled replies with the same answer; the number that the reply states;
and the probability of the reply's own wording: of a short one as it is, of a longer one the geometric
mean of its tokens, which does not fall with length.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from lingshu.core.reply_text import strip_reasoning
from lingshu.core.types import AnswerToken, Reply, Score, TextLogProb

Method = Literal["answer token", "agreement", "stated", "wording", "mean token"]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
POLAR_WORDS = (
    *("yes", "no", "true", "false", "present", "absent", "positive", "negative"),
    *("是", "否", "有", "无", "对", "错"),
)
ANSWER_WORDS = frozenset((*LETTERS.lower(), *POLAR_WORDS))
MIN_PROBABILITY = 0.0005  # of another word that is kept
DIGITS = 4  # of the probabilities that are kept
MAX_WORDING_TOKENS = 16  # of a reply that is an answer without sentences around it
# At either end of a reply: an answer opens or ends it, and each token costs several readings.
MAX_TOKENS_READ = 8
_EDGE = re.compile(r"[\W_]+")
_STATED = re.compile(
    r"(?:\b(?:confidence|certainty|probability)(?:[ _](?:level|score))?|置信度|信心|把握)"
    r"[\"'*_]*\s*(?:[:：=]|is|of|为|是)?[\"'*_\s]*(?:about\s+|approximately\s+|~\s*|约)?"
    r"(?P<value>\d+(?:\.\d+)?|\.\d+)\s*(?P<unit>%|％|percent\b|/\s*(?P<of>\d+)|out of (?P<out>\d+))?"
    r"|(?P<before>\d+(?:\.\d+)?)\s*(?:%|％|percent)\s*(?:confiden(?!ce\s+(?:interval|limit|bound|region|level))|certain|sure\b|置信|把握|确定)",
    re.IGNORECASE,
)


class Confidence(NamedTuple):
    """A probability from 0 to 1, and how it is known."""

    value: float
    method: Method


class TokenLogProbs(NamedTuple):
    """A token's text with its natural log-probability, and those of the likeliest at its place."""

    text: str
    log_prob: float
    alternatives: Mapping[str, float]


def answer_word(token: str) -> str | None:
    """The letter, yes, no or the like that a token is, without the marks around it; else None."""
    word = _EDGE.sub("", token)
    return word if word.lower() in ANSWER_WORDS else None


def answer_token(start: int, word: str, alternatives: Iterable[tuple[str, float]]) -> AnswerToken:
    """The answer token of `word`; `alternatives` are pairs of a word and a probability."""
    totals: dict[str, float] = {}
    for other, probability in alternatives:
        totals[other] = totals.get(other, 0.0) + probability
    kept = sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    return AnswerToken(
        start,
        word,
        {
            other: round(min(1.0, probability), DIGITS)
            for other, probability in kept
            if other == word or probability >= MIN_PROBABILITY
        },
    )


def with_log_probs(reply: Reply, tokens: Sequence[TokenLogProbs]) -> Reply:
    """The reply with what its tokens' probabilities say; as it is where they are not of its text.

    Tokens before the text, such as reasoning that a server moved to another field, are left out.
    """
    joined = "".join(token.text for token in tokens)
    text_start = joined.rfind(reply.text) if reply.text else -1
    if reply.text is None or text_start < 0:
        return reply
    answers: list[AnswerToken] = []
    log_probs: list[float] = []
    position = -text_start
    for token in tokens:
        start, position = position, position + len(token.text)
        if start < 0 or position > len(reply.text):
            continue
        log_probs.append(token.log_prob)
        if word := answer_word(token.text):
            others = {**token.alternatives, token.text: token.log_prob}
            words = ((answer_word(other), math.exp(value)) for other, value in others.items())
            known = ((other, value) for other, value in words if other)
            answers.append(answer_token(start + token.text.index(word), word, known))
    return replace(reply, answer_tokens=tuple(answers), log_prob=text_log_prob(log_probs))


def text_log_prob(log_probs: Sequence[float]) -> TextLogProb | None:
    """The log-probability as it is kept; None without a token, or where one is impossible."""
    if not log_probs or not all(map(math.isfinite, log_probs)):
        return None
    return TextLogProb(round(math.fsum(log_probs), DIGITS), len(log_probs))


def read_confidence(
    reply: Reply, score: Score, read: Callable[[str], Score], *, agreement: float | None = None
) -> Confidence | None:
    """The confidence in the answer that `score` read from a reply; None where nothing was read, or
    nothing is known.

    `read` is the scorer that gave `score`, for other texts: an answer token is one whose change
    changes what is read. `agreement` is the share of sampled replies with the same answer.
    """
    if reply.text is None or score.status != "ok" or score.prediction is None:
        return None
    if (probability := _answer_probability(reply, score.prediction, read)) is not None:
        return Confidence(probability, "answer token")
    if agreement is not None:
        return Confidence(agreement, "agreement")
    if (stated := stated_confidence(reply.text)) is not None:
        return Confidence(stated, "stated")
    if reply.log_prob is None:
        return None
    total, n_tokens = reply.log_prob
    is_short = n_tokens <= MAX_WORDING_TOKENS
    value = math.exp(min(0.0, total if is_short else total / n_tokens))
    return Confidence(round(value, DIGITS), "wording" if is_short else "mean token")


def _answer_probability(reply: Reply, answer: str, read: Callable[[str], Score]) -> float | None:
    """The probability of a one-token answer where the reply first commits to it for good."""
    is_letter = len(answer) == 1
    if not is_letter and answer.lower() not in POLAR_WORDS:
        return None
    text = reply.text or ""
    probability = None
    tokens = [token for token in reply.answer_tokens if _is_separate_word(text, token)]
    if len(tokens) > 2 * MAX_TOKENS_READ:
        tokens = tokens[:MAX_TOKENS_READ] + tokens[-MAX_TOKENS_READ:]
    for token in reversed(tokens):

        def answer_with(word: str, start: int = token.start) -> str | None:
            result = read(text[:start] + word)
            return result.prediction if result.status == "ok" and result.is_final else None

        here = answer_with(token.word)
        if here is None or not _is_decisive(token.word, here, answer_with):
            continue
        if here != answer:
            break
        probability = math.fsum(
            value for word, value in token.probabilities.items() if answer_with(word) == answer
        )
    return None if probability is None else round(min(1.0, probability), DIGITS)


def _is_decisive(word: str, here: str, answer_with: Callable[[str], str | None]) -> bool:
    foils = "AB" if len(word) == 1 and word.isascii() else ("yes", "no")
    return any(answer_with(foil) not in (None, here) for foil in foils)


def _is_separate_word(text: str, token: AnswerToken) -> bool:
    """Whether a token is not a part of a longer word; Chinese words follow each other directly."""
    end = token.start + len(token.word)
    before, after = text[: token.start][-1:], text[end : end + 1]
    if token.word.isascii():
        return not any(char.isascii() and char.isalnum() for char in (before, after))
    return not before.isalnum()


def stated_confidence(text: str) -> float | None:
    """The confidence that a reply states last, as "85%", "0.85", "8/10" or "80% sure"; None for none,
    and for a bare 1 or a number of unknown scale.
    """
    value = None
    for match in _STATED.finditer(strip_reasoning(text)):
        value = _stated_value(match)
    return value


def _stated_value(match: re.Match[str]) -> float | None:
    if match["before"]:
        value = float(match["before"]) / 100
    elif scale := match["of"] or match["out"]:
        value = float(match["value"]) / int(scale) if int(scale) else math.inf
    elif match["unit"]:
        value = float(match["value"]) / 100
    else:
        value = float(match["value"])
        if value >= 1:
            # "1" may be of 1, 5, 10 or 100, and "8" of 10 or 100.
            value = value / 100 if value > 10 else math.inf
    return value if 0 <= value <= 1 else None
