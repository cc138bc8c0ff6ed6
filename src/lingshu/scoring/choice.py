"""Grades a multiple-choice reply by the option it chooses, by letter or by text.

Evidence in this order: the last answer tag or box; a bare letter or an option's text as the whole
reply; the last explicit answer ("the answer is B", "B is correct", a letter that opens or closes
the reply); a refusal; one lettered option in the text; one option's text in it (the longest where
one holds another); a short reply that fits inside one option only. Denied letters and texts do not
count, a letter beyond the options is unparsed, two answers are `multiple`.

RANGE: 1.0 right, 0.0 wrong, None where no single option could be read.
"""

import re
from collections.abc import Iterable, Sequence
from re import _parser  # type: ignore[attr-defined] - the parse tree of a pattern
from typing import Any, NamedTuple

from lingshu.core.errors import InputError
from lingshu.core.reply_text import (
    contains_any,
    final_answer,
    is_empty,
    is_refusal,
    make_score,
    normalize_words,
    require_golds,
    strip_reasoning,
    to_plain_text,
)
from lingshu.core.types import Sample, Score, Status
from lingshu.scoring import yes_no
from lingshu.scoring._options import (
    Option,
    gold_letters,
    is_affirmed,
    leading_options,
    named_options,
    option_traits,
    options_containing,
    parse_options,
)

RANGE = (0.0, 1.0)
_MAX_CUES = 256
_LONG_REPLY_CHARS, _TAIL_CHARS = 1_200, 600  # characters

# One letter that is no part of a word: not the B of "B-cell" or "B2", not the t of "isn't".
_LETTER = (
    r"(?P<open>[(\[{<\"']*)\s?(?<![A-Za-z0-9'])(?<![A-Za-z0-9]-)(?P<letter>[A-Za-z])"
    r"(?![A-Za-z0-9]|['-][A-Za-z0-9])\s?(?P<close>[)\]}>\"']*)"
)
_NOUN = r"(?:(?:option|choice|letter|answer|选项)\s*:?\s*)?"
_BARE = re.compile(rf"^{_NOUN}{_LETTER}[\s.:,;!]*$", re.I)
_LEADING = re.compile(
    rf"^{_NOUN}{_LETTER}(?P<next>\s*[.:,;)\-\n]|\s+(?:because|since|as|is|for|due|given)\b)", re.I
)
_TRAILING = re.compile(rf"(?:^|[:;\n]\s*|[.!?]\s+){_NOUN}{_LETTER}[\s.!]*$")
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
    r"|\b(?:cho(?:ose|se|osing)|select|selected|pick|picked|go with|going with|opt"
    r" for|favou?r|conclude(?: that)?)\s+"
    r"|(?:答案|正确选项|正解|最佳选项)\]?(?:应该|应)?(?:就是|是|为|选|:)*\s*"
    r"|(?:应该选|应选|故选|因此选|所以选|本题选|选择|选)(?!项):?\s*"
    r")(?:the\s+)?" + _NOUN,
    re.I,
)
_LETTER_PATTERN = re.compile(_LETTER)
# After these a letter counts only in upper case and where its clause ends: "so A."
_WEAK = re.compile(
    rf"\b(?:[Ii]t is|[Ii]t's|[Tt]his is|must be|[Ss]o|[Tt]herefore|[Tt]hus|[Hh]ence"
    rf"|think|guess|believe)\s*[:,]?\s*{_NOUN}{_LETTER}(?=\s*(?:[.,;!?]|$))"
)
_VERDICT = re.compile(
    rf"{_LETTER}\s*(?:(?:is|seems|looks|appears|would be|must"
    r" be)\s+(?:clearly\s+)?(?:the\s+)?(?:most\s+)?(?:single\s+)?"
    r"(?:correct|right|best|true|likely|answer|appropriate|accurate)\b|fits?\b|matches\b|(?:选项|项)?\s*(?:是)?(?:正确|对的))",
    re.I,
)
_DENIED = re.compile(
    rf"(?:\b(?:not|(?:[Dd]o|does|did|would|ca)n't|cannot)\s+(?:think|believe|suspect|say|choose|pick|select|go"
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
_OPTION_VERDICT = re.compile(
    r"(?<![A-Za-z0-9'-])(?:[Oo]ption\s+|选项\s?)?[(\[]?(?P<letter>[A-Za-z])(?:选项|项)?(?:[)\]]?\s?[:.)\-=,]|[)\]])\s*"
    r"(?:(?P<no>(?:incorrect|wrong|false|unlikely|excluded|ruled"
    r" out|impossible|implausible)\b|错|不正确|不对|否|不是"
    r"|(?<!, )not\b(?!\s+(?:the\s+|any\s+)?others?\b)|not\s+(?:correct|right|true|likely)\b"
    r"|no\b(?=\s*(?:[.,;!)]|$|\n|[(\[]?[A-Za-z][)\]:.]))|[✗✘❌✖×])"
    r"|(?P<yes>[✓✔✅√]|(?:correct|right|true|yes|正确|对|是)(?=\s*(?:[.,;!)]|$|\n|[(\[]?[A-Za-z][)\]:.]))))",
    re.I,
)
_VERDICT_WORD = re.compile(
    r" (?:incorrect|wrong|false|unlikely|not|no|none|yes|true|correct|right|错|不|否|无|是|对|正) "
)
_NEXT_LETTER = re.compile(
    rf"\s*(?:,\s*(?:and|or)\b|,|/|&|\band\b|\bor\b|和|或|与|及)\s*(?:(?:maybe|perhaps|possibly|probably)\s+)?{_NOUN}{_LETTER}",
    re.I,
)
# "A; B" and "(A)(B)": letters and nothing else.
_LETTERS_ONLY = re.compile(r"^[\s(]*[A-Z](?:[\s,;/&()]+[A-Z])+[\s().]*$")
_LABELED = re.compile(
    rf"(?:\b(?:[Oo]ption|[Cc]hoice|选项)\s*{_LETTER})|(?<!\w)[(\[](?P<bracketed>[A-Z])[)\]]"
)
_LISTED_LETTER = re.compile(rf"^(?:both\s+|either\s+)?{_LETTER}")
_BEFORE_TEXT = re.compile(r"^\W*(?:an?\s|the\s)?")
_CLAUSE_END = re.compile(r"\s*(?:[.,;:!?)]|$)")
_NEXT_WORD = re.compile(r"\s+[a-z0-9]")
_LABEL_END = re.compile(r"[.:)]")
_CONNECTIVE = re.compile(
    r"\s+(?:because|since|as|is|and|or|for|due|given|which|with|was|based)\b", re.I
)


def _required_substrings(pattern: re.Pattern[str]) -> tuple[str, ...]:
    """Substrings in lower case of which every match of a pattern contains at least one.

    A search for them in `fold_case(text)` spares most replies the slow pattern. They are derived
    from the pattern, so that skipping it never changes what is found.
    """
    # The empty text occurs in every reply.
    found = _required(_parser.parse(pattern.pattern, pattern.flags)) or {""}
    shortest = (s for s in found if not any(other in s for other in found if other != s))
    return tuple(sorted(shortest, key=lambda s: (not s.isascii(), len(s), s)))


_END: tuple[Any, Any] = (None, None)


def _required(items: Iterable[tuple[Any, Any]]) -> frozenset[str]:
    """The most selective such set for a parsed sequence: that of any one of its items will do."""
    candidates: list[frozenset[str]] = []
    literal = ""
    for operator, argument in (*items, _END):
        if operator is _parser.IN and all(kind is _parser.LITERAL for kind, _ in argument):
            letters = frozenset(chr(code).casefold() for _, code in argument)
        else:
            letters = frozenset((chr(argument).casefold(),) if operator is _parser.LITERAL else ())
        if len(letters) == 1:
            literal += min(letters)
            continue
        candidates += [frozenset((literal,)), letters]
        literal = ""
        if operator is _parser.SUBPATTERN:
            candidates.append(_required(argument[-1]))
        elif operator is _parser.BRANCH:
            branches = [_required(branch) for branch in argument[1]]
            candidates.append(frozenset().union(*branches) if all(branches) else frozenset())
        elif operator in (_parser.MAX_REPEAT, _parser.MIN_REPEAT) and argument[0] > 0:
            candidates.append(_required(argument[2]))
    usable = [candidate for candidate in candidates if candidate and "" not in candidate]
    return max(usable, key=_selectivity, default=frozenset())


def _selectivity(substrings: frozenset[str]) -> tuple[int, int]:
    lengths = (len(s) if s.isalnum() or len(s) > 1 or not s.isascii() else 0 for s in substrings)
    return min(lengths), -len(substrings)


def fold_case(text: str) -> str:
    """A text in lower case, as the substrings below are written."""
    # To a pattern that ignores case the dotless letter is an i; to casefold it is not.
    return text.casefold().replace("ı", "i")


_CUE_SUBSTRINGS = _required_substrings(_CUE)
_WEAK_SUBSTRINGS = _required_substrings(_WEAK)
_VERDICT_SUBSTRINGS = _required_substrings(_VERDICT)
_DENIED_SUBSTRINGS = _required_substrings(_DENIED)
_OPTION_VERDICT_SUBSTRINGS = _required_substrings(_OPTION_VERDICT)


class ParsedChoice(NamedTuple):
    """The letters a reply chooses: one if the status is ok, the tied ones if it is multiple."""

    letters: tuple[str, ...]
    status: Status
    evidence: str | None = None


_UNPARSED = ParsedChoice((), "unparsed")


class ParsedReply(NamedTuple):
    """A reply without denied letters, that by `normalize_words`, and all of it by `fold_case`.

    `verdict` is what a list of verdicts ("A: no; B: yes") affirms, `verdict_start` where its last
    affirmation begins.
    """

    text: str
    normalized: str
    lowercase: str
    verdict: ParsedChoice | None = None
    verdict_start: int = -1


def parse_choice(reply: str, choices: Sequence[str]) -> ParsedChoice:
    """The option that a reply chooses."""
    options = parse_options(tuple(choices))
    text = strip_reasoning(reply)
    answer = final_answer(text)
    if answer is None and len(text) > _LONG_REPLY_CHARS:
        tail_choice = _parse_tail(text, options)
        if tail_choice:
            return tail_choice
    text = to_plain_text(text if answer is None else answer)
    if is_empty(text):
        return ParsedChoice((), "empty")
    bare_match = _BARE.match(text)
    if bare_match and _is_option_letter(bare_match["letter"], options):
        return ParsedChoice((bare_match["letter"].upper(),), "ok", "letter")
    normalized = normalize_words(text)
    full_text_match = _match_full_text(normalized, options)
    if full_text_match or bare_match:
        return full_text_match or _UNPARSED
    if _LETTERS_ONLY.match(text) and not option_traits(options)[1]:
        listed = {letter for letter in text if _is_option_letter(letter, options)}
        if len(listed) > 1:
            return _choice_of(listed, "")
    parsed = _parse_reply(text, normalized, options)
    return _leading_choice(parsed, options, _explicit_choice(parsed, options)) or (
        _refusal_or_option(normalized, options)
        if is_refusal(text)
        else _mentioned_option(text, normalized, parsed, options)
    )


def _parse_reply(text: str, normalized: str, options: tuple[Option, ...]) -> ParsedReply:
    lowercase = fold_case(text)
    masked, verdict, verdict_start = without_denied(text, lowercase), None, -1
    if contains_any(lowercase, _OPTION_VERDICT_SUBSTRINGS):
        masked, affirmed, verdict_start = _apply_option_verdicts(masked, options)
        verdict = _choice_of(affirmed, "verdict") if affirmed else None
    if masked != text:
        normalized = normalize_words(masked)
    return ParsedReply(masked, normalized, lowercase, verdict, verdict_start)


def _choice_of(letters: Iterable[str], evidence: str) -> ParsedChoice:
    unique = tuple(sorted(set(letters)))
    if len(unique) == 1:
        return ParsedChoice(unique, "ok", evidence)
    return ParsedChoice(unique, "multiple") if unique else _UNPARSED


def without_denied(text: str, lowercase: str) -> str:
    """A plain text (and its `fold_case`) with denied letters blanked out, at the same length."""
    if not contains_any(lowercase, _DENIED_SUBSTRINGS):
        return text
    return _DENIED.sub(lambda match: " " * len(match[0]), text)


def find_cues(text: str, lowercase: str) -> list[int]:
    """Where the answers begin that a plain text (and its `fold_case`) declares as its answer."""
    if not contains_any(lowercase, _CUE_SUBSTRINGS):
        return []
    return [cue.end() for cue in _CUE.finditer(text)]


def _apply_option_verdicts(
    text: str, options: tuple[Option, ...]
) -> tuple[str, tuple[str, ...], int]:
    """The text without letters marked as wrong, the ones marked right, and the last one's place."""
    verdicts: list[re.Match[str]] = []
    for verdict in _OPTION_VERDICT.finditer(text):
        # A verdict begins a clause, or follows another: the A of "The answer is A. Not seen are
        # ..." has none.
        before = text[max(0, verdict.start() - 4) : verdict.start()].rstrip(" ")
        starts_clause = (
            not before
            or before[-1] in ".;,!?\n"
            or (verdicts and verdicts[-1].end() >= verdict.start() - 1)
        )
        if starts_clause and _is_option_letter(verdict["letter"], options):
            verdicts.append(verdict)
    # In "A. No." an option that is, or begins with, such a word is named and not judged.
    if not verdicts or any(_VERDICT_WORD.match(option.normalized) for option in options):
        return text, (), -1
    affirmed = [verdict for verdict in verdicts if verdict["yes"]]
    denied_positions = {verdict.start("letter") for verdict in verdicts if verdict["no"]}
    if denied_positions:
        characters = list(text)
        for position in denied_positions:
            characters[position] = " "
        text = "".join(characters)
    if len(verdicts) < 2 or not affirmed:
        return text, (), -1
    letters = tuple(verdict["letter"].upper() for verdict in affirmed)
    return text, letters, affirmed[-1].start("letter")


def _parse_tail(text: str, options: tuple[Option, ...]) -> ParsedChoice | None:
    """What the end of a long reply declares: the last explicit answer counts, so it is enough."""
    start = text.find("\n", len(text) - _TAIL_CHARS)
    if start < 0:
        start = text.find(". ", len(text) - _TAIL_CHARS)
    # Options that are letters, or as long as replies, need the whole reply.
    if (
        start < 0
        or option_traits(options)[1]
        or any(len(option.text) > _LONG_REPLY_CHARS for option in options)
    ):
        return None
    tail = to_plain_text(text[start:])
    return _explicit_choice(_parse_reply(tail, normalize_words(tail), options), options)


def _match_full_text(normalized: str, options: Sequence[Option]) -> ParsedChoice | None:
    """A reply that is exactly an option's text, with or without its letter, and nothing else."""
    matches = [
        option for option in options if option.normalized == normalized and normalized.strip()
    ]
    return _single_choice(matches, "text") if matches else None


def _explicit_choice(parsed: ParsedReply, options: tuple[Option, ...]) -> ParsedChoice | None:
    """The last answer that the text declares as its answer."""
    text = parsed.text
    if option_traits(options)[1]:
        # Options that are letters themselves: in "B. C" the C is the text of B, not a second
        # answer.
        letters = _labeled_letters(parsed.normalized, options)
        if len(letters) == 1:
            return ParsedChoice((*letters,), "ok", "letter and text")
    candidates: list[tuple[int, ParsedChoice]] = (
        [(parsed.verdict_start, parsed.verdict)] if parsed.verdict else []
    )
    # The last one counts, so the walk goes backwards; its bound is for replies that repeat one
    # phrase without end.
    for cue in find_cues(text, parsed.lowercase)[: -_MAX_CUES - 1 : -1]:
        choice = _choice_after_cue(text, cue, options)
        if choice:
            candidates.append((cue, choice))
            break
    for pattern, markers in ((_WEAK, _WEAK_SUBSTRINGS), (_VERDICT, _VERDICT_SUBSTRINGS)):
        if contains_any(parsed.lowercase, markers):
            candidates += [
                (match.start("letter"), _parse_letter_group(text, match, options))
                for match in pattern.finditer(text)
                if match["letter"].isupper() and not (pattern is _VERDICT and _is_word(text, match))
            ]
    trailing = _TRAILING.search(text[-60:])
    if trailing and trailing["letter"].isupper():
        last = [option for option in options if option.letter == trailing["letter"]]
        candidates.append((len(text), _single_choice(last, "last letter")))
    return max(candidates, key=lambda item: item[0])[1] if candidates else None


def _leading_choice(
    parsed: ParsedReply, options: tuple[Option, ...], explicit: ParsedChoice | None
) -> ParsedChoice | None:
    """The later answer, else the letter that opens the reply."""
    leading_match = None if explicit else _LEADING.match(parsed.text)
    if leading_match and _is_opening_answer(parsed, leading_match, options):
        return _parse_letter_group(parsed.text, leading_match, options)
    return explicit


def _choice_after_cue(text: str, position: int, options: Sequence[Option]) -> ParsedChoice | None:
    """What follows an answer cue: an option's text, or a letter (or several)."""
    tail = _BEFORE_TEXT.sub("", text[position : position + 400].split("\n")[0])
    texts = leading_options(normalize_words(tail), options)
    if texts:
        return _single_choice(texts, "answer phrase")
    letter = _LETTER_PATTERN.match(text, position)
    if letter is None or _is_word(text, letter):
        return None
    is_closed = letter["open"] or letter["close"] or _CLAUSE_END.match(text, letter.end())
    if letter["letter"].isupper() or is_closed:
        return _parse_letter_group(text, letter, options)
    return None


def _is_word(text: str, letter: re.Match[str]) -> bool:
    """True for the article "A" and the pronoun "I" in front of another word."""
    if letter["letter"].upper() not in "AI" or letter["open"] or letter["close"]:
        return False
    end = letter.end("letter")
    return _NEXT_WORD.match(text, end) is not None and not _CONNECTIVE.match(text, end)


def _is_opening_answer(
    parsed: ParsedReply, leading_match: re.Match[str], options: Sequence[Option]
) -> bool:
    """Whether an opening letter is the answer, not a word, an option's text or a list's head."""
    if (
        not leading_match["letter"].isupper()
        and not _LABEL_END.match(leading_match["next"].strip())
        and not leading_match["open"]
    ):
        return False
    if leading_options(parsed.normalized, options):
        return False
    opening_options = [
        option for option in options if option.letter == leading_match["letter"].upper()
    ]
    labeled_letters = _labeled_letters(parsed.normalized, options)
    # "A. Pneumonia is incorrect. B. ..." opens with an option and denies it.
    is_denied = (
        any(
            labeled in parsed.normalized for option in opening_options for labeled in option.labeled
        )
        and opening_options[0].letter not in labeled_letters
    )
    return len(labeled_letters) < 2 and not is_denied


def _labeled_letters(normalized: str, options: Sequence[Option]) -> set[str]:
    """The letters that are in front of their own option's text.

    In "Hepatitis A, Hepatitis B" as one option, A is not a letter in front of the option "Hepatitis B".
    """
    return {
        option.letter
        for option in options
        if any(is_affirmed(normalized, labeled) for labeled in option.labeled)
        and not any(
            labeled in other.normalized and other.normalized in normalized
            for other in options
            for labeled in option.labeled
        )
    }


def _parse_letter_group(
    text: str, first_match: re.Match[str], options: Sequence[Option]
) -> ParsedChoice:
    """A letter with those that are joined to it: "A or C"."""
    letters, position = {first_match["letter"].upper()}, first_match.end("close")
    while (
        (next_match := _NEXT_LETTER.match(text, position))
        and next_match["letter"].isupper()
        and not _is_word(text, next_match)
    ):
        letters.add(next_match["letter"])
        position = next_match.end("close")
    if len(letters) > 1:
        return _choice_of(letters, "")
    return _single_choice(
        [option for option in options if option.letter in letters], "answer phrase"
    )


def _refusal_or_option(normalized: str, options: tuple[Option, ...]) -> ParsedChoice:
    """A refusal, unless what it says is one of the options ("Cannot be determined")."""
    named = [option for option in named_options(normalized, options) if is_refusal(option.text)]
    return _single_choice(named, "text") if named else ParsedChoice((), "refused")


def _mentioned_option(
    text: str, normalized: str, parsed: ParsedReply, options: tuple[Option, ...]
) -> ParsedChoice:
    """The one option that the text mentions; `normalized` has the denied letters too."""
    masked = parsed.text
    if option_traits(options)[0]:
        verdict = yes_no.parse_polarity(text).polarity
        if verdict:
            return _single_choice(
                [option for option in options if option.normalized.strip() == verdict], "yes or no"
            )
    letters = {match["letter"] or match["bracketed"] for match in _LABELED.finditer(masked)}
    letters = {letter for letter in letters if letter.isupper()}
    letters |= _labeled_letters(parsed.normalized, options)
    if letters:
        labeled_options = [option for option in options if option.letter in letters]
        return _single_choice(labeled_options, "lettered option")
    listed_match = _LISTED_LETTER.match(masked)
    if (
        listed_match
        and _NEXT_LETTER.match(masked, listed_match.end())
        and not _is_word(masked, listed_match)
    ):
        return _parse_letter_group(masked, listed_match, options)
    named_matches = named_options(normalized, options)
    return _single_choice(named_matches or options_containing(normalized, options), "text")


def _single_choice(matches: Sequence[Option], evidence: str) -> ParsedChoice:
    return _choice_of((option.letter for option in matches), evidence)


def _is_option_letter(letter: str, options: Sequence[Option]) -> bool:
    return any(option.letter == letter.upper() for option in options)


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
        accepted_letters = gold_letters(require_golds(sample), sample.choices)
    except InputError as error:
        raise InputError(f"sample {sample.id!r}: {error}") from error
    letters, status, evidence = parse_choice(reply, sample.choices)
    if status != "ok":
        return Score(None, status, note=" or ".join(letters) or None)
    return make_score(
        is_correct=letters[0] in accepted_letters, prediction=letters[0], note=evidence
    )
