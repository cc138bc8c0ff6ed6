"""Grades a multiple-choice reply by the option it chooses, by letter or by text.

Evidence in this order: the last answer tag or box; a bare letter or an option's text as the whole
reply; the last explicit answer ("the answer is B", "B is correct", a letter that opens or closes
the reply); a refusal; one lettered option in the text; one option's text in it (the longest where
one holds another); a short reply that fits inside one option only. Denied letters and texts do not
count, a letter beyond the options is unparsed, two answers are `multiple`.

RANGE: 1.0 right, 0.0 wrong, None where no single option could be read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from lingshu.core.errors import InputError
from lingshu.core.nouns import Sample, Score, Status
from lingshu.scoring import yes_no
from lingshu.scoring._options import (
    Option,
    affirmed,
    gold_letters,
    named_options,
    opening_option,
    option_within,
    options,
    traits,
)
from lingshu.scoring._text import (
    blank,
    committed,
    golds,
    graded,
    holds,
    plain,
    refuses,
    spoken,
    words,
)

RANGE = (0.0, 1.0)
_MOST_CUES = 256
_LONG, _TAIL = 1_200, 600  # characters

# One letter that is no part of a word: not the B of "B-cell" or "B2", not the t of "isn't".
_L = (
    r"(?P<open>[(\[{<\"']*)\s?(?<![A-Za-z0-9'])(?<![A-Za-z0-9]-)(?P<letter>[A-Za-z])"
    r"(?![A-Za-z0-9]|['-][A-Za-z0-9])\s?(?P<close>[)\]}>\"']*)"
)
_NOUN = r"(?:(?:option|choice|letter|answer|选项)\s*:?\s*)?"
_BARE = re.compile(rf"^{_NOUN}{_L}[\s.:,;!]*$", re.I)
_LEADING = re.compile(
    rf"^{_NOUN}{_L}(?P<next>\s*[.:,;)\-\n]|\s+(?:because|since|as|is|for|due|given)\b)", re.I
)
_TRAILING = re.compile(rf"(?:^|[:;\n]\s*|[.!?]\s+){_NOUN}{_L}[\s.!]*$")
_HEDGES = (
    r"(?:(?:is|are|was|were|would be|should be|must be|will be|might be|could be|may"
    r" be|remains|:|=|-+>?)\s*)"
)
_ADVERB = (
    r"(?:(?:clearly|therefore|thus|most"
    r" likely|probably|definitely|likely|indeed|actually|still)\s+)?"
)
_CUE = re.compile(
    r"(?:"
    # "Answer D", "The final answer to this question is: D"
    rf"\b(?:answer|ans)\b\s*(?:\((?:final|letter)\)\s*)?(?:\s(?:to|for|of)\s[^.:\n]{{1,60}}?\s(?=is|was|:))?\s*{_HEDGES}*{_ADVERB}"
    # "Selected option: D", "The best choice is D"
    rf"|\b(?:choice|option|selection|diagnosis|conclusion)\b\s*{_HEDGES}+{_ADVERB}"
    # "I would go with option D"
    r"|\b(?:choose|chose|choosing|select|selected|pick|picked|go with|going with|opt"
    r" for|favou?r|conclude(?: that)?)\s+"
    r"|(?:答案|正确选项|正解|最佳选项)\]?(?:应该|应)?(?:就是|是|为|选|:)*\s*"
    r"|(?:应该选|应选|故选|因此选|所以选|本题选|选择|选)(?!项):?\s*"
    r")(?:the\s+)?" + _NOUN,
    re.I,
)
_LETTER_HERE = re.compile(_L)
# After these a letter counts only in upper case and where its clause ends: "so A."
_WEAK = re.compile(
    rf"\b(?:[Ii]t is|[Ii]t's|[Tt]his is|must be|[Ss]o|[Tt]herefore|[Tt]hus|[Hh]ence"
    rf"|think|guess|believe)\s*[:,]?\s*{_NOUN}{_L}(?=\s*(?:[.,;!?]|$))"
)
_VERDICT = re.compile(
    rf"{_L}\s*(?:(?:is|seems|looks|appears|would be|must"
    r" be)\s+(?:clearly\s+)?(?:the\s+)?(?:most\s+)?(?:single\s+)?"
    r"(?:correct|right|best|true|likely|answer|appropriate|accurate)\b|fits?\b|matches\b|(?:选项|项)?\s*(?:是)?(?:正确|对的))",
    re.I,
)
_DENIED = re.compile(
    rf"(?:\b(?:not|[Dd]on't|doesn't|didn't|wouldn't|can't|cannot)\s+(?:think|believe|suspect|say|choose|pick|select|go"
    rf" with|favou?r)"
    r"(?:\s+that)?(?:\s+(?:it's|(?:it|this|that|(?:the\s+)?(?:\w+\s+)?(?:answer|choice|option|diagnosis))"
    r"\s+(?:is|would be|could be|should be)))?(?:\s+the)?"
    rf"|\b(?:not|never|isn't|exclud(?:e|es|ed|ing)|eliminat(?:e|es|ed|ing)|rul(?:e|es|ed|ing)"
    rf" out|rather than|instead of|reject(?:ed)?)"
    rf"|不是|不选|排除|而非)\s*(?:be\s+)?{_NOUN}(?<![A-Za-z0-9])[(\[]?[B-HJ-Zb-hj-zAI](?![A-Za-z0-9]|['-][A-Za-z0-9])[)\]]?"
    rf"|(?<![A-Za-z0-9'-])[(\[]?[A-Z][)\]]?\s*(?:(?:is|are|was|can be|could"
    rf" be|seems|looks)\s+(?:clearly\s+|also\s+|therefore\s+|less\s+)?"
    r"(?:not\b|(?:(?:the|an?)\s+)?(?:wrong|incorrect)|false|excluded|eliminated|ruled"
    r" out|unlikely|likely to be wrong"
    r"|impossible|implausible)"
    r"|isn't|(?:选项|项)?\s*(?:不正确|不对|错误|是错))",
)
# One of a list of verdicts: "A: incorrect", "(B) - yes". A plain "no" counts where its clause ends:
# not in "A. No other fits".
_MARKED = re.compile(
    r"(?<![A-Za-z0-9'-])(?:[Oo]ption\s+|选项\s?)?[(\[]?(?P<letter>[A-Za-z])(?:选项|项)?(?:[)\]]?\s?[:.)\-=,]|[)\]])\s*"
    r"(?:(?P<no>(?:incorrect|wrong|false|unlikely|excluded|ruled"
    r" out|impossible|implausible)\b|错|不正确|不对|否|不是"
    r"|(?<!, )not\b(?!\s+(?:the\s+|any\s+)?others?\b)|not\s+(?:correct|right|true|likely)\b"
    r"|no\b(?=\s*(?:[.,;!)]|$|\n|[(\[]?[A-Za-z][)\]:.]))|[✗✘❌✖×])"
    r"|(?P<yes>[✓✔✅√]|(?:correct|right|true|yes|正确|对|是)(?=\s*(?:[.,;!)]|$|\n|[(\[]?[A-Za-z][)\]:.]))))",
    re.I,
)
_MARK_SIGNS = (
    "incorrect",
    "wrong",
    "false",
    "unlikely",
    "exclud",
    "ruled out",
    "imp",
    "not",
    "no",
    "correct",
    "错",
    "不",
    "否",
    *"✗✘❌✖×",
)
_MARKS = re.compile(
    r" (?:incorrect|wrong|false|unlikely|not|no|none|yes|true|correct|right|错|不|否|无|是|对|正) "
)
_MORE = re.compile(
    rf"\s*(?:,\s*(?:and|or)\b|,|/|&|\band\b|\bor\b|和|或|与|及)\s*(?:(?:maybe|perhaps|possibly|probably)\s+)?{_NOUN}{_L}",
    re.I,
)
# "A; B" and "(A)(B)": letters and nothing else.
_LETTERS_ALONE = re.compile(r"^[\s(]*[A-Z](?:[\s,;/&()]+[A-Z])+[\s().]*$")
_LABELLED = re.compile(
    rf"(?:\b(?:[Oo]ption|[Cc]hoice|选项)\s*{_L})|(?<!\w)[(\[](?P<bracketed>[A-Z])[)\]]"
)
_LISTED = re.compile(rf"^(?:both\s+|either\s+)?{_L}")
_BEFORE_TEXT = re.compile(r"^\W*(?:an?\s|the\s)?")
_CLAUSE_END = re.compile(r"\s*(?:[.,;:!?)]|$)")
_NEXT_WORD = re.compile(r"\s+[a-z0-9]")
_LABEL_END = re.compile(r"[.:)]")
_CONNECTS = re.compile(
    r"\s+(?:because|since|as|is|and|or|for|due|given|which|with|was|based)\b", re.I
)


# Whatever a pattern above finds holds one of its signs (in lower case, but for _DENIED): no sign,
# no search.
_CUE_SIGNS = (
    "ans",
    "cho",
    "opti",
    "selec",
    "diagnos",
    "conclu",
    "pick",
    "go with",
    "going with",
    "opt for",
    "favo",
    "答案",
    "正解",
    "选",
)
_WEAK_SIGNS = (
    "it is",
    "it's",
    "this is",
    "must be",
    "so",
    "therefore",
    "thus",
    "hence",
    "think",
    "guess",
    "believe",
)
_VERDICT_SIGNS = (
    "correct",
    "right",
    "best",
    "true",
    "likely",
    "answer",
    "appropriate",
    "accurate",
    "fit",
    "match",
    "正确",
    "对的",
)
_DENIED_SIGNS = ("not", "n't", "never", "exclu", "eliminat", "rul", "rather than", "instead of", "reject", "wrong", "incorrect", "false",
                 "unlikely", "impossible", "implausible", "不", "排除", "而非", "错")  # fmt: skip


class Reading(NamedTuple):
    """The letters a reply chooses: one where the status is ok, the tied ones where it is multiple."""

    letters: tuple[str, ...]
    status: Status
    by: str | None = None


_UNREAD = Reading((), "unparsed")


class Said(NamedTuple):
    """A reply made ready: its text with denied letters blanked out, the `words` of that, and the
    whole in lower case.

    `marks` is what a list of verdicts ("A: no; B: yes") affirms, `marked_at` where its last verdict
    begins.
    """

    text: str
    form: str
    lower: str
    marks: Reading | None = None
    marked_at: int = -1


def read(reply: str, choices: Sequence[str]) -> Reading:
    """The option that a reply chooses."""
    known = options(tuple(choices))
    text = spoken(reply)
    final = committed(text)
    if final is None and len(text) > _LONG:
        last = _at_the_end(text, known)
        if last:
            return last
    text = plain(text if final is None else final)
    if blank(text):
        return Reading((), "empty")
    bare = _BARE.match(text)
    if bare and _in(bare["letter"], known):
        return Reading((bare["letter"].upper(),), "ok", "letter")
    form = words(text)
    whole = _whole(form, known)
    if whole or bare:
        return whole or _UNREAD
    alone = (
        {letter for letter in text if _in(letter, known)}
        if _LETTERS_ALONE.match(text) and not traits(known)[1]
        else set()
    )
    if len(alone) > 1:
        return Reading(tuple(sorted(alone)), "multiple")
    said = _made_ready(text, form, known)
    return _leading(said, known, _explicit(said, known)) or (
        _refusal(form, known) if refuses(text) else _mentioned(text, form, said, known)
    )


def _made_ready(text: str, form: str, known: tuple[Option, ...]) -> Said:
    lower = text.casefold()
    masked = undenied(text)
    if not holds(lower, _MARK_SIGNS):
        return Said(masked, form if masked is text else words(masked), lower)
    masked, yes, place = _marked(masked, known)
    marks = (
        None
        if not yes
        else Reading(yes, "ok", "verdict")
        if len(yes) == 1
        else Reading(yes, "multiple")
    )
    return Said(masked, form if masked == text else words(masked), lower, marks, place)


def undenied(text: str) -> str:
    """A `plain` text with the letters that it denies blanked out; every other character keeps its
    place.
    """
    return (
        _DENIED.sub(lambda match: " " * len(match[0]), text) if holds(text, _DENIED_SIGNS) else text
    )


def cues(text: str) -> list[int]:
    """Where the answers begin that a `plain` text declares as its answer, in their order."""
    return [cue.end() for cue in _CUE.finditer(text)] if holds(text.casefold(), _CUE_SIGNS) else []


def _marked(text: str, known: tuple[Option, ...]) -> tuple[str, tuple[str, ...], int]:
    """The text without the letters marked as wrong, the letters marked as right beside others, and
    the place of the last of those.
    """
    marks: list[re.Match[str]] = []
    for mark in _MARKED.finditer(text):
        # A verdict begins a clause, or follows another: the A of "The answer is A. Not seen are
        # ..." has none.
        before = text[max(0, mark.start() - 4) : mark.start()].rstrip(" ")
        begins = (
            not before or before[-1] in ".;,!?\n" or (marks and marks[-1].end() >= mark.start() - 1)
        )
        if begins and _in(mark["letter"], known):
            marks.append(mark)
    # In "A. No." an option that is, or begins with, such a word is named and not judged.
    if not marks or any(_MARKS.match(option.form) for option in known):
        return text, (), -1
    right = [mark for mark in marks if mark["yes"]]
    denied = {mark.start("letter") for mark in marks if mark["no"]}
    if denied:
        signs = list(text)
        for place in denied:
            signs[place] = " "
        text = "".join(signs)
    if len(marks) < 2 or not right:
        return text, (), -1
    return (
        text,
        tuple(sorted({mark["letter"].upper() for mark in right})),
        right[-1].start("letter"),
    )


def _at_the_end(text: str, known: tuple[Option, ...]) -> Reading | None:
    """What the last lines of a long reply declare; the last explicit answer counts, so no more has
    to be read.
    """
    start = text.find("\n", len(text) - _TAIL)
    if start < 0:
        start = text.find(". ", len(text) - _TAIL)
    # Options that are letters, or as long as replies, need the whole reply.
    if start < 0 or traits(known)[1] or any(len(option.text) > _LONG for option in known):
        return None
    tail = plain(text[start:])
    return _explicit(_made_ready(tail, words(tail), known), known)


def _whole(form: str, known: Sequence[Option]) -> Reading | None:
    """A reply that is exactly an option's text, with or without its letter, and nothing else."""
    same = [option for option in known if option.form == form and form.strip()]
    return _one(same, "text") if same else None


def _explicit(said: Said, known: tuple[Option, ...]) -> Reading | None:
    """The last answer that the text declares as its answer."""
    text = said.text
    if traits(known)[1]:
        # Options that are letters themselves: in "B. C" the C is the text of B, not a second
        # answer.
        own = _labelled_texts(said.form, known)
        if len(own) == 1:
            return Reading((*own,), "ok", "letter and text")
    found: list[tuple[int, Reading]] = [(said.marked_at, said.marks)] if said.marks else []
    # The last one counts, so the walk goes backwards; its bound is for replies that repeat one
    # phrase without end.
    for cue in cues(text)[: -_MOST_CUES - 1 : -1]:
        declared = _declared(text, cue, known)
        if declared:
            found.append((cue, declared))
            break
    for pattern, signs in ((_WEAK, _WEAK_SIGNS), (_VERDICT, _VERDICT_SIGNS)):
        if holds(said.lower, signs):
            found += [
                (match.start("letter"), _group(text, match, known))
                for match in pattern.finditer(text)
                if match["letter"].isupper() and not (pattern is _VERDICT and _is_word(text, match))
            ]
    trailing = _TRAILING.search(text[-60:])
    if trailing and trailing["letter"].isupper():
        found.append(
            (
                len(text),
                (
                    Reading((trailing["letter"],), "ok", "last letter")
                    if _in(trailing["letter"], known)
                    else _UNREAD
                ),
            )
        )
    return max(found, key=lambda item: item[0])[1] if found else None


def _leading(said: Said, known: tuple[Option, ...], later: Reading | None) -> Reading | None:
    """The later answer, else the letter that opens the reply."""
    leading = None if later else _LEADING.match(said.text)
    return _group(said.text, leading, known) if leading and _opens(said, leading, known) else later


def _declared(text: str, place: int, known: Sequence[Option]) -> Reading | None:
    """What stands right behind an answer cue: an option's text, or a letter (or several)."""
    tail = _BEFORE_TEXT.sub("", text[place : place + 400].split("\n")[0])
    texts = opening_option(words(tail), known)
    if texts:
        return _one(texts, "answer phrase")
    letter = _LETTER_HERE.match(text, place)
    if letter is None or _is_word(text, letter):
        return None
    closed = letter["open"] or letter["close"] or _CLAUSE_END.match(text, letter.end())
    return _group(text, letter, known) if letter["letter"].isupper() or closed else None


def _is_word(text: str, letter: re.Match[str]) -> bool:
    """True for the article "A" and the pronoun "I" in front of another word."""
    if letter["letter"].upper() not in "AI" or letter["open"] or letter["close"]:
        return False
    end = letter.end("letter")
    return _NEXT_WORD.match(text, end) is not None and not _CONNECTS.match(text, end)


def _opens(said: Said, leading: re.Match[str], known: Sequence[Option]) -> bool:
    """Whether a letter at the start of the reply is its answer, not a word, an option's text or the
    head of a list.
    """
    if (
        not leading["letter"].isupper()
        and not _LABEL_END.match(leading["next"].strip())
        and not leading["open"]
    ):
        return False
    if opening_option(said.form, known):
        return False
    own = [option for option in known if option.letter == leading["letter"].upper()]
    affirmed_texts = _labelled_texts(said.form, known)
    # "A. Pneumonia is incorrect. B. ..." opens with an option and denies it.
    judged = (
        any(told in said.form for option in own for told in option.lettered)
        and own[0].letter not in affirmed_texts
    )
    return len(affirmed_texts) < 2 and not judged


def _labelled_texts(form: str, known: Sequence[Option]) -> set[str]:
    """The letters that stand in front of their own option's text."""
    found = {
        option.letter for option in known if any(affirmed(form, told) for told in option.lettered)
    }
    # In "Hepatitis A, Hepatitis B" as one option, A is no letter in front of the option "Hepatitis
    # B".
    return {
        letter
        for letter in found
        if not any(_inside(option, form, known) for option in known if option.letter == letter)
    }


def _inside(option: Option, form: str, known: Sequence[Option]) -> bool:
    """Whether an option behind its letter is part of the text of another option that the reply
    holds.
    """
    return any(
        told in other.form and other.form in form for other in known for told in option.lettered
    )


def _group(text: str, first: re.Match[str], known: Sequence[Option]) -> Reading:
    """A letter with those that are joined to it: "A or C"."""
    letters, place = {first["letter"].upper()}, first.end("close")
    while (
        (more := _MORE.match(text, place)) and more["letter"].isupper() and not _is_word(text, more)
    ):
        letters.add(more["letter"])
        place = more.end("close")
    return (
        _one([option for option in known if option.letter in letters], "answer phrase")
        if len(letters) == 1
        else Reading(tuple(sorted(letters)), "multiple")
    )


def _refusal(form: str, known: tuple[Option, ...]) -> Reading:
    """A refusal, unless what it says is one of the options ("Cannot be determined")."""
    own = [option for option in named_options(form, known) if refuses(option.text)]
    return _one(own, "text") if own else Reading((), "refused")


def _mentioned(text: str, form: str, said: Said, known: tuple[Option, ...]) -> Reading:
    """The one option that the text speaks of; `form` holds the denied letters too."""
    masked = said.text
    if traits(known)[0]:
        verdict = yes_no.read(text).verdict
        if verdict:
            return _one([option for option in known if option.form.strip() == verdict], "yes or no")
    lettered = {match["letter"] or match["bracketed"] for match in _LABELLED.finditer(masked)}
    lettered = {letter for letter in lettered if letter.isupper()} | _labelled_texts(
        said.form, known
    )
    if lettered:
        inside = [option for option in known if option.letter in lettered]
        return _one(inside, "lettered option")
    listed = _LISTED.match(masked)
    if listed and _MORE.match(masked, listed.end()) and not _is_word(masked, listed):
        return _group(masked, listed, known)
    named = named_options(form, known)
    return _one(named or option_within(form, known), "text")


def _one(found: Sequence[Option], by: str) -> Reading:
    if not found:
        return _UNREAD
    letters = tuple(sorted({option.letter for option in found}))
    return Reading(letters, "ok", by) if len(letters) == 1 else Reading(letters, "multiple")


def _in(letter: str, known: Sequence[Option]) -> bool:
    return any(option.letter == letter.upper() for option in known)


def score(sample: Sample, reply: str) -> Score:
    """Whether the reply chooses an accepted option.

    Raises:
        InputError: the sample has no choices, no gold, or a gold that is no option.
    """
    if not sample.choices:
        raise InputError(
            f"sample {sample.id!r} has no choices; use the scorer yes_no, exact or auto."
        )
    try:
        accepted = gold_letters(golds(sample), sample.choices)
    except InputError as error:
        raise InputError(f"sample {sample.id!r}: {error}") from error
    letters, status, by = read(reply, sample.choices)
    if status != "ok":
        return Score(None, status, note=" or ".join(letters) or None)
    return graded(right=letters[0] in accepted, read=letters[0], note=by)
