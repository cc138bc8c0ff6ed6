"""Grades exam questions that may have several right options: the set of letters must be right as a
whole.

The letters after the last explicit answer count, else all letters in the reply; denied letters,
letters beyond the options, the article "A" and the pronoun "I" do not.

RANGE: 1.0 right, 0.0 wrong, None where nothing could be read.
"""

import re
from itertools import takewhile

from lingshu.core.reply_text import read_final_turn, to_plain_text
from lingshu.core.rows import LETTERS
from lingshu.core.types import Sample, Score
from lingshu.scoring import auto, choice, exact
from lingshu.scoring._claims import set_aside
from lingshu.scoring._gated_pattern import fold_case

_LETTER_RUN = re.compile(
    r"(?<![A-Za-z])[A-Z]{1,8}(?![A-Za-z'])(?!(?<=\b[AI])\s+(?!and\b|or\b|is\b|are\b|as\b|because\b|since\b)[a-z])"
)
# "A", "AC", "A, C", "A and C": bounded, and with one way to read each joint, for replies that
# repeat one letter without end.
_SEPARATOR = r"(?:,(?: (?:and |or )?)?| ?[/&和或与及] ?| (?:and |or )?)?"
_LETTER_GROUP = rf"[A-Z](?![a-z])(?:{_SEPARATOR}[A-Z](?![a-z])){{0,12}}"
_DENIED = re.compile(
    rf"(?:\b(?:not|except|excluding|without|rather than|instead"
    rf" of|eliminate|exclude|reject)\s|不是|不选|不包括|排除|而非|除了?)"
    rf"\s{{0,2}}(?:options?\s|选项)?{_LETTER_GROUP}(?![A-Za-z])"
    rf"|(?<![A-Za-z]){_LETTER_GROUP}\s?(?::|-)?\s?(?:选项|项)?\s?(?:均|都|皆|是|为)?(?:不正确|不对|错|incorrect\b|wrong\b|false\b"
    r"|(?:is|are)\s(?:both\s|all\s|also\s)?(?:not|wrong|incorrect|false|excluded|unlikely)\b|(?:is|are)n't\b)"
)
_CUE = re.compile(r"\b(?:answers|options|choices)\b\s{0,2}(?:are|is|:)\s{0,2}", re.I)
_EXPLANATION = re.compile(r"\b(?:because|since|as)\b|因为|由于|理由", re.I)
_SENTENCE = re.compile(r"[.;\n]")
_LETTER = re.compile(r"[(\[]?[A-Z](?![A-Za-z])")
_LISTED_OPTION = re.compile(r"^\s*([A-Z])\s?[.):,:、．]", re.M)


def score(sample: Sample, reply: str) -> Score:
    """As `auto`, and by the set of letters where the question asks for all right options.

    Raises:
        InputError: the sample has no gold.
    """
    if not sample.meta.extra.get("multi_choice"):
        return auto.score(sample, reply)
    result = exact.score(sample, reply)
    if result.value != 0.0 or not sample.gold:
        return result
    letters = parse_letters(reply, allowed=_listed_letters(sample.question))
    if not letters:
        return Score(None, "unparsed", result.prediction)
    return Score(float(letters == sample.gold[0]), "ok", letters)


def _listed_letters(question: str) -> str:
    """The letters of the options that a question lists, from A on; all letters where it lists none."""
    letters = set(_LISTED_OPTION.findall(question))
    listed = "".join(takewhile(letters.__contains__, LETTERS))
    return listed or LETTERS


def parse_letters(reply: str, *, allowed: str = LETTERS) -> str:
    """The letters of `allowed` that a reply chooses, sorted: a first run such as "ABD", else
    all single ones.
    """
    text = to_plain_text(read_final_turn(reply).content)
    text = set_aside(text, fold_case(text))
    lowercase = fold_case(text)
    masked = _DENIED.sub(lambda match: " " * len(match[0]), text)
    masked = choice.without_denied(masked, lowercase)
    starts = choice.find_cues(masked, lowercase) + [cue.end() for cue in _CUE.finditer(masked)]
    for start in (*sorted(starts, reverse=True)[:64], 0):
        segment = _EXPLANATION.split(masked[start:], maxsplit=1)[0]
        letters = _letters_after_cue(segment.lstrip(), allowed) if start else ""
        letters = letters or _find_letters(segment, allowed)
        if letters:
            return letters
    return _find_letters(masked, allowed)


def _letters_after_cue(text: str, allowed: str) -> str:
    """The letters directly after a cue where the rest only explains them, as in "A, B. C is rare"."""
    letters = _find_letters(_SENTENCE.split(text, maxsplit=1)[0], allowed)
    if len(letters) > 1:
        return letters
    line, _, rest = text.partition("\n")
    line_letters = _find_letters(line, allowed)
    # A line that begins with another letter may continue the list.
    continues = not rest.strip() or _LETTER.match(rest.lstrip())
    return line_letters if len(line_letters) == 1 and not continues else ""


def _find_letters(text: str, allowed: str) -> str:
    runs = [run for run in _LETTER_RUN.findall(text) if set(run) <= set(allowed)]
    letters = next((run for run in runs if len(run) > 1), "".join(runs))
    return "".join(sorted(set(letters)))
