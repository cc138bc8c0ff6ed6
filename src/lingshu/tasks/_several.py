"""Grades exam questions that may have several right options: the set of letters must be right as a
whole.

The letters behind the last explicit answer count, else all that stand in the reply; denied letters,
letters beyond the options, the article "A" and the pronoun "I" do not.

RANGE: 1.0 right, 0.0 wrong, None where nothing could be read.
"""

from __future__ import annotations

import re

from lingshu.core.nouns import Sample, Score
from lingshu.core.rows import LETTERS
from lingshu.scoring import auto, choice, exact
from lingshu.scoring._text import committed, plain, spoken

_LETTERS = re.compile(
    r"(?<![A-Za-z])[A-Z]{1,8}(?![A-Za-z'])(?!(?<=\b[AI])\s+(?!and\b|or\b|is\b|are\b|as\b|because\b|since\b)[a-z])"
)
# "A", "AC", "A, C", "A and C": bounded, and with one way to read each joint, for replies that
# repeat one letter without end.
_JOINT = r"(?:,(?: (?:and |or )?)?| ?[/&和或与及] ?| (?:and |or )?)?"
_GROUP = rf"[A-Z](?![a-z])(?:{_JOINT}[A-Z](?![a-z])){{0,12}}"
_DENIED = re.compile(
    rf"(?:\b(?:not|except|excluding|without|rather than|instead"
    rf" of|eliminate|exclude|reject)\s|不是|不选|不包括|排除|而非|除了?)"
    rf"\s{{0,2}}(?:options?\s|选项)?{_GROUP}(?![A-Za-z])"
    rf"|(?<![A-Za-z]){_GROUP}\s?(?::|-)?\s?(?:选项|项)?\s?(?:均|都|皆|是|为)?(?:不正确|不对|错|incorrect\b|wrong\b|false\b"
    r"|(?:is|are)\s(?:both\s|all\s|also\s)?(?:not|wrong|incorrect|false|excluded|unlikely)\b|(?:is|are)n't\b)"
)
_CUE = re.compile(r"\b(?:answers|options|choices)\b\s{0,2}(?:are|is|:)\s{0,2}", re.I)
_REASON = re.compile(r"\b(?:because|since|as)\b|因为|由于|理由", re.I)
_SENTENCE = re.compile(r"[.;\n]")
_LETTER = re.compile(r"[(\[]?[A-Z](?![A-Za-z])")
_LISTED = re.compile(r"^\s*([A-Z])\s?[.):,:、．]", re.M)


def score(sample: Sample, reply: str) -> Score:
    """As `auto`, and by the set of letters where all right options are asked for.

    Raises:
        InputError: the sample has no gold.
    """
    if not sample.meta.extra.get("several"):
        return auto.score(sample, reply)
    found = exact.score(sample, reply)
    if found.value != 0.0 or not sample.gold:
        return found
    letters = letters_of(reply, among=_asked(sample.question))
    if not letters:
        return Score(None, "unparsed", found.read)
    return Score(float(letters == sample.gold[0]), "ok", letters)


def _asked(question: str) -> str:
    """The letters of the options that a question lists, in a row from A; all letters where it lists
    none.
    """
    listed = set(_LISTED.findall(question))
    count = next(
        (place for place, letter in enumerate(LETTERS) if letter not in listed), len(LETTERS)
    )
    return LETTERS[:count] if count else LETTERS


def letters_of(reply: str, *, among: str = LETTERS) -> str:
    """The option letters of `among` that a reply chooses, sorted: a first run such as "ABD", else
    all that stand alone.
    """
    text = spoken(reply)
    final = committed(text)
    text = plain(text if final is None else final)
    masked = choice.undenied(_DENIED.sub(lambda match: " " * len(match[0]), text))
    starts = sorted(
        (*choice.cues(masked), *(cue.end() for cue in _CUE.finditer(masked))), reverse=True
    )
    for start in (*starts[:64], 0):
        told = _REASON.split(masked[start:], maxsplit=1)[0]
        said = (_declared(told.lstrip(), among) if start else "") or _named(told, among)
        if said:
            return said
    return _named(masked, among)


def _declared(text: str, among: str) -> str:
    """The letters right behind a cue where what follows only explains them, as in "A, B.

    C is rare"; else none.
    """
    several = _named(_SENTENCE.split(text, maxsplit=1)[0], among)
    if len(several) > 1:
        return several
    line, _, rest = text.partition("\n")
    one = _named(line, among)
    # A line that begins with another letter may go on with the list.
    return one if len(one) == 1 and rest.strip() and not _LETTER.match(rest.lstrip()) else ""


def _named(text: str, among: str) -> str:
    runs = [run for run in _LETTERS.findall(text) if set(run) <= set(among)]
    joined = next((run for run in runs if len(run) > 1), "".join(runs))
    return "".join(sorted(set(joined)))
