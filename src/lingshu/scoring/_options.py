"""The options of a choice: their letters, their texts, and where a text speaks of them."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import NamedTuple

from lingshu.core.errors import InputError
from lingshu.core.reply_text import normalize_words, to_plain_text
from lingshu.scoring._quantities import normalize_quantities

_OPTION_LABEL = re.compile(r"^\s*[(\[]?([A-Za-z])(?:[)\]]?\s*[.:,)\]]|[)\]]|\s)\s*(?=\S)")
_NEGATED_BEFORE = re.compile(
    r" (?:not|no|without|never|nor|neither|isn't|wasn't|aren't|doesn't|cannot|exclude[sd]?|excluding|eliminate[sd]?|rules?"
    r" out|ruled out"
    r"|(?:not|\w+n't) (?:think|believe|suspect|say)(?: that)?"
    r"(?: it's| (?:it|this|that|there|the answer|the diagnosis) (?:is|would be|could be|shows))?"
    r"|rather than|instead of|unlike|against|>|不 是|不 支 持|不 考 虑|没 有|未 见|无|非|排 除|而 非)"
    r"(?: (?:a|an|the|any|be|evidence|sign|signs|features?|of|for|likely|consistent|with|suggestive|indicative|suggest|show|see|seen"
    r"|typical|compatible|due|to|caused|by|definite|obvious))* $"
)
_NEGATED_AFTER = re.compile(
    r"^ (?:(?:is|are|was|were|seems?|can be|could be|would be) (?:also |very |less |highly |most )*"
    r"(?:not|unlikely|likely|wrong|incorrect|excluded|ruled out|absent|eliminated|implausible)"
    r"|isn't|wasn't|不 正 确|错 误|可 排 除|被 排 除)(?: (\w+))?"
)


_SHORT_JOINT = re.compile(r" (?:or|and|to|或|和) ")
_LIST_JOINT = re.compile(r" (?:(?:or|nor|and|或|和|、) )?(?:(?:an?|the) )?$")


class Option(NamedTuple):
    """An option: its letter, its text without it, that normalized, and that after its letter."""

    letter: str
    text: str
    normalized: str
    labeled: tuple[str, ...]


class OptionTraits(NamedTuple):
    """Whether yes and no are among the options, whether any text is a single character, and whether
    any has a number.
    """

    has_yes_and_no: bool
    has_single_character: bool
    has_number: bool


@lru_cache(maxsize=4096)
def parse_options(choices: tuple[str, ...]) -> tuple[Option, ...]:
    """Options with their letters.

    Letters are taken off only where all choices carry theirs in order: "C. difficile" stays.
    """
    texts = [to_plain_text(choice) for choice in choices]
    labels = [_OPTION_LABEL.match(text) for text in texts]
    letters = [chr(ord("A") + index) for index in range(len(texts))]
    found_letters = [label[1].upper() if label else None for label in labels]
    if len(texts) > 1 and found_letters == letters:
        texts = [text[label.end() :] for text, label in zip(texts, labels, strict=True) if label]
    return tuple(map(_make_option, letters, texts))


def _make_option(letter: str, text: str) -> Option:
    normalized = normalize_words(normalize_quantities(text))
    separators = (" ", " | ") if normalized.strip() else ()
    labeled = (f" {letter.lower()}{separator}{normalized[1:]}" for separator in separators)
    return Option(letter, text, normalized, tuple(labeled))


@lru_cache(maxsize=4096)
def _sort_by_length(options: tuple[Option, ...]) -> tuple[Option, ...]:
    return tuple(sorted(options, key=lambda option: -len(option.normalized)))


@lru_cache(maxsize=4096)
def option_traits(options: tuple[Option, ...]) -> OptionTraits:
    """What the texts of all options are like."""
    normalized = {option.normalized for option in options}
    return OptionTraits(
        {" yes ", " no "} <= normalized,
        any(len(text) == 3 for text in normalized),
        any(any(map(str.isdigit, text)) for text in normalized),
    )


@lru_cache(maxsize=4096)
def gold_letters(golds: tuple[str, ...], choices: tuple[str, ...]) -> frozenset[str]:
    """The letters of accepted answers: each a letter, an option's text, or both ("B. Cyst").

    Raises:
        InputError: a gold that is no option.
    """
    options = parse_options(choices)
    letters = set()
    for gold in golds:
        gold_text = to_plain_text(gold).strip()
        stripped = gold_text.strip("()[]. ").upper()
        normalized, labeled = (
            normalize_words(normalize_quantities(text)) for text in (gold_text, gold_text[1:])
        )
        matches = [
            option.letter
            for option in options
            if option.normalized == normalized
            or (option.letter, option.normalized) == (stripped[:1], labeled)
        ]
        if len(stripped) == 1 and any(option.letter == stripped for option in options):
            letters.add(stripped)
        elif matches:
            # Two options of one text: the first is the one that the source means.
            letters.add(matches[0])
        else:
            raise InputError(
                f"the gold {gold!r} is none of the {len(options)} options; give its letter or the"
                " text of the option."
            )
    return frozenset(letters)


def leading_options(normalized: str, options: Sequence[Option]) -> list[Option]:
    """The longest options whose text opens a normalized reply; single letters do not count."""
    matches = [
        option
        for option in options
        if (len(option.normalized) > 3 or option.normalized[1:2].isdigit())
        and normalized.startswith(option.normalized)
    ]
    longest = max((len(option.normalized) for option in matches), default=0)
    return [option for option in matches if len(option.normalized) == longest]


def named_options(normalized: str, options: tuple[Option, ...]) -> list[Option]:
    """The options whose texts occur in a normalized reply and are not denied there.

    A text inside a longer option's text is not named by it; two options of the same text are both
    named.
    """
    claimed_spans: list[tuple[int, int]] = []
    by_letter: dict[str, Option] = {}
    spans: list[tuple[int, int, Option]] = []
    for option in _sort_by_length(options):
        text = option.normalized
        if text not in normalized or _resembles_letter(text, len(options)):
            continue
        free_spans = [
            (a, b)
            for a, b in _find_spans(normalized, text)
            if not any(a >= c and b <= d and (b - a) < (d - c) for c, d in claimed_spans)
        ]
        claimed_spans += free_spans
        spans += [(a, b, option) for a, b in free_spans]
    denied_ends: set[int] = set()
    for start, end, option in sorted(spans, key=lambda span: span[:2]):
        # A denial reaches over a list: "rather than X or Y".
        joint = _LIST_JOINT.search(normalized[: start + 1])
        continues = joint is not None and joint.start() + 1 in denied_ends
        if continues or is_negated(normalized, start, end):
            if continues or _NEGATED_BEFORE.search(normalized[max(0, start - 80) : start + 1]):
                denied_ends.add(end)
        else:
            by_letter[option.letter] = option
            for joined in _joined_options(normalized[end - 1 :], option, options):
                by_letter[joined.letter] = joined
    return [by_letter[letter] for letter in sorted(by_letter)]


def _joined_options(tail: str, named: Option, options: tuple[Option, ...]) -> Iterator[Option]:
    """The options named behind one by what they do not share with it: "stage II or III"."""
    joint = _SHORT_JOINT.match(tail)
    if joint is None:
        return
    for option in options:
        words, own = named.normalized.split(), option.normalized.split()
        pairs = zip(words, own, strict=False)
        n_shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        rest = f" {' '.join(own[n_shared:])} "
        if n_shared and len(rest) > 2 and tail.startswith(rest, joint.end() - 1):
            yield option


def is_affirmed(normalized: str, text: str) -> bool:
    """Whether a text occurs in a normalized reply somewhere where it is not denied."""
    return text in normalized and any(
        not is_negated(normalized, a, b) for a, b in _find_spans(normalized, text)
    )


def _resembles_letter(text: str, n_options: int) -> bool:
    """A text that is empty, or reads like an option's letter or a one-letter word."""
    return len(text) < 3 or (
        len(text) == 3 and (text[1] in "ai" or 0 <= ord(text[1]) - ord("a") < n_options)
    )


def _find_spans(normalized: str, text: str) -> list[tuple[int, int]]:
    spans, start = [], normalized.find(text)
    # A text named a thousand times is named no better than one named a few times.
    while start >= 0 and len(spans) < 64:
        spans.append((start, start + len(text)))
        start = normalized.find(text, start + len(text) - 1)
    return spans


def is_negated(normalized: str, start: int, end: int) -> bool:
    """Whether the text from `start` to `end` (both spaces) of a normalized form is denied."""
    if _NEGATED_BEFORE.search(normalized[max(0, start - 80) : start + 1]):
        return True
    negation = _NEGATED_AFTER.match(normalized[end - 1 : end + 60])
    return negation is not None and not (" likely" in negation[0] and " less " not in negation[0])


def options_containing(normalized: str, options: Sequence[Option]) -> list[Option]:
    """The options that hold every word of a short reply, such as "T2" for "T2-weighted MRI"."""
    reply_words = set(normalized.split())
    content_words = reply_words - _STOP_WORDS - _NEGATIONS - {"|"}
    if not content_words or len(content_words) > 8:
        return []
    # "Not benign" does not match "Benign lesion", nor "a fracture" "No fracture".
    found = [
        option
        for option in options
        if content_words <= (option_words := set(option.normalized.split()))
        and reply_words & _NEGATIONS == option_words & _NEGATIONS
    ]
    # "Vitamin A" is in "Vitamin A deficiency" as it stands.
    literal = [option for option in found if normalized in option.normalized]
    return literal if len(found) > 1 and literal else found


_NEGATIONS = frozenset(("no", "not", "none"))
_STOP_WORDS = frozenset(
    [
        "a",
        "an",
        "the",
        "of",
        "in",
        "on",
        "at",
        "to",
        "is",
        "are",
        "it",
        "this",
        "that",
        "and",
        "or",
        "with",
        "shown",
        "seen",
        "present",
        "visible",
        "here",
        "image",
        "there",
        "的",
        "是",
    ]
)
