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
from typing import NamedTuple

from lingshu.core.errors import InputError
from lingshu.core.reply_text import (
    FinalTurn,
    is_empty,
    is_refusal,
    make_score,
    normalize_words,
    read_turns,
    require_golds,
    to_plain_text,
)
from lingshu.core.types import Sample, Score, Status
from lingshu.scoring import yes_no
from lingshu.scoring._claims import Claim, claims, denied_letters, set_aside
from lingshu.scoring._gated_pattern import GatedPattern, fold_case
from lingshu.scoring._options import (
    Option,
    gold_letters,
    is_affirmed,
    is_negated,
    leading_options,
    named_options,
    option_traits,
    options_containing,
    parse_options,
)
from lingshu.scoring._quantities import normalize_quantities

RANGE = (0.0, 1.0)
_MAX_CUES = 256
_LONG_REPLY_CHARS, _TAIL_CHARS = 1_200, 600  # characters
_SENTENCE_CHARS = 2_000  # as far back as an option is looked for before its verdict

# One letter that is no part of a word: not the B of "B-cell" or "B2", not the t of "isn't".
_LETTER = (
    r"(?P<open>[(\[{<\"']*)\s?(?<![A-Za-z0-9'])(?<![A-Za-z0-9]-)(?P<letter>[A-Za-z])"
    r"(?![A-Za-z0-9]|['-][A-Za-z0-9])\s?(?P<close>[)\]}>\"']*)"
)
_NOUN = r"(?:(?:option|choice|\[?letter\]?|answer(?!\s+(?:is|was|would|should)\b)|选项)\s*:?\s*)?"
_BARE = re.compile(rf"^{_NOUN}{_LETTER}[\s.:,;!]*$", re.I)
# A letter with its option's text, or alone behind "the answer is": nothing else is to be read.
_DECLARED = re.compile(
    rf"^(?:(?:the|my|final|correct|best|right)\s+)*(?:(?:answer|ans|option|choice|答案|选项)\s*(?:is|是|为|:|=)*\s*)?"
    rf"{_NOUN}{_LETTER}(?P<rest>.{{0,400}})$",
    re.I | re.S,
)
_LEADING = re.compile(
    rf"^{_NOUN}{_LETTER}(?P<next>\s*[.:,;)\-\n]|\s+(?:because|since|as|for|due|given)\b|\s*\((?:confidence|probability|certainty)\b)",
    re.I,
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
_CUE = GatedPattern(
    r"(?:"
    # "Answer D", "The final answer to this question is: D"
    rf"\b(?:answer|ans)\b\s*(?:\((?:final|letter)\)\s*)?(?:\s(?:to|for|of)\s[^.:\n]{{1,60}}?\s(?=is|was|:))?\s*{_HEDGES}*{_ADVERB}"
    # "Selected option: D", "The best choice is D"
    rf"|\b(?:choice|option|selection|diagnosis|conclusion|finding)\b\s*(?:(?:to|for|of|in|here|given|shown)\b[^.:\n]{{0,60}}?\s(?=is|was|:))?{_HEDGES}+{_ADVERB}"
    # "I would go with option D"
    r"|\b(?:cho(?:ose|se|osing)|select|selected|pick|picked|go(?:ing)? (?:with|for)|opt"
    r" for|favou?r|conclude(?: that)?|settle on|lean(?:ing)?(?: towards?)?)\s+"
    # "The right one is D", "My vote is D"
    rf"|\b(?:(?:right|correct|best)\s+(?:one|letter|fit|match|pick)|vote|bet)\b\s*{_HEDGES}+{_ADVERB}"
    # "I change my answer from A to D", "First choice: D", "1st: D"
    rf"|\b(?:chang(?:e|ed|ing)|switch(?:ed|ing)?|revis(?:e|ed|ing)|updat(?:e|ed|ing)|correct(?:ed|ing)?)\s+(?:it|this|that|(?:my|the)\s+(?:answer|choice|mind|selection))\s+(?:from\s+\S{{1,4}}\s+)?to\s+"
    r"|\b(?:1st|(?:first|top)\s+(?:choice|pick|place))\s*(?:[:=]|is\b)?\s*"
    r"|\b(?:a|the|in)\s+total\s*(?:[:=]|of\b|is\b)\s*|\btotal(?:s|ing)\s+"
    r"|\bmost\s+(?:likely|probable)\s*(?:[:=]|is\b|(?=[(\[]?(?-i:[A-Z])\b))\s*"
    r"|(?:更|最)符合\s*|改(?:为|成|选)\s*|(?<=[,;])\s*是\s*(?=[A-Z])"
    r"|\b(?:answer|ans)\b\s*(?:=|:)[^.\n]{0,40}=\s*"
    r"|(?:答案|正确选项|正解|最佳选项)\]?(?:应该|应)?(?:就是|是|为|选|は|:)*\s*"
    r"|(?:应该选|应选择?|故选择?|因此选择?|所以选择?|本题选|选择|选)(?!项)(?:的?是)?:?\s*"
    r"|(?:首先考虑|我?认为(?:是|应该?是|选)?|更?倾向于?|应该?是|应[为选]|而是|最可能的?(?:诊断)?是|诊断为|更可能是)\s*"
    # Spanish, French, German, Portuguese, Italian, Dutch, Polish, Turkish, Vietnamese, Russian,
    # Japanese, Korean: "La respuesta correcta es D"
    r"|\b(?:respuesta|réponse|reponse|antwort|resposta|risposta|antwoord|odpowiedź|odpowiedzią|cevap|đáp\s+án|ответ|svar(?:et)?)"
    r"(?:\s+(?:correct[ae]?|correta|corretta|final[e]?|exacte|bonne|правильный|poprawna|doğru|đúng|juste|là|est|es|ist|lautet|is|jest|é|è|är|er|—))*\s*[:=]?\s*"
    r"(?:(?:la|el|le|die|der|das)\s+|[ao]\s+(?=\w{2})|l'\s*)?"
    r"(?:(?:opción|opcion|letra|lettre|option|buchstabe|alternativa|opção|opzione|lettera|вариант)\s*)?"
    r"|(?:正解|正答|答え|解答|정답|답)\s*(?:は|은|는|이|:)?\s*"
    r")(?:the\s+)?" + _NOUN,
    re.I,
)
_LETTER_PATTERN = re.compile(_LETTER)
# After these a letter counts only in upper case and where its clause ends: "so A."
_WEAK = GatedPattern(
    rf"\b(?:[Ii]t is|[Ii]t's|[Tt]his is|must be|[Ss]o|[Tt]herefore|[Tt]hus|[Hh]ence"
    rf"|think|guess|believe|(?:i|I)'d say|would say|can only be|(?:got|has) to be|[Ii]t (?:should|would|will) be|[Aa]ctually|[Pp]robably|[Pp]resumably|[Ll]ikely|[Mm](?:akes?|ade) (?:it|this)|[Dd]efinitely|[Cc]learly|[Cc]ertainly|[Oo]bviously|[Ss]urely|[Ww]ithout (?:a )?doubt|(?:[Bb]y|[Tt]hrough) (?:the )?(?:process of )?(?:elimination|exclusion)|(?:i|I) meant?)\s*[:,]?\s*{_NOUN}{_LETTER}(?=\s*(?:[.,;!?]|$))"
)
_VERDICT = GatedPattern(
    rf"{_LETTER}\s*(?:(?:is|seems|looks|appears|would be|must"
    r" be|remains)\s+(?:clearly\s+|therefore\s+|thus\s+)?(?:the\s+)?(?:(?:most|more)\s+)?(?:single\s+)?"
    r"(?:correct|right|best|true|likely|answer|appropriate|accurate|plausible|probable|fitting|suitable|reasonable"
    r"|(?<=more\s)consistent|(?<=most\s)consistent|better)\b"
    r"|(?:best\s+)?(?:fits?|matches)\b|best\s+(?:explains?|describes?|accounts)\b|it\s+is(?=\s*(?:[.,;!]|$))|(?:is|would\s+be)\s+my\s+(?:final\s+|best\s+|top\s+)?(?:answer|choice|pick|guess|vote|bet|selection)\b"
    r"|(?:选项|项)?\s*(?:是)?(?:正确|对的|最符合|最合适|最恰当|最可能|最佳|的?可能性(?:最|更|较)?[大高]|更佳|更合适|更恰当|更符合|符合题意))",
    re.I,
)
_DENIED = GatedPattern(
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
_OPTION_VERDICT = GatedPattern(
    # "✅ B" and "[x] B": the mark comes first.
    r"(?:(?P<no_mark>[✗✘❌✖×☐])|(?P<yes_mark>[✓✔✅√☑]))\s*(?:[Oo]ption\s+|选项\s?)?[(\[]?(?P<marked>[A-Z])(?![A-Za-z0-9])[)\]]?"
    r"|(?<![A-Za-z0-9'-])(?:[Oo]ption\s+|选项\s?)?[(\[]?(?P<letter>[A-Za-z])(?:选项|项)?(?:[)\]]?\s?[:.)\-=,?]+|\s*\||[)\]]|[\s|]+(?=[✗✘❌✖×✓✔✅√])|\s*(?:→|[-=]>)|\s\((?=(?:yes|no|true|false|in?correct|right|wrong)\)))\s*"
    r"(?:(?P<no>(?:incorrect|wrong|false|absent|(?:very |highly |most )?unlikely|(?:less|least) likely|excluded|ruled"
    r" out|impossible|implausible)\b|错|不正确|不对|否|不是"
    r"|(?<!, )not\b(?!\s+(?:the\s+|any\s+)?others?\b)|not\s+(?:correct|right|true|likely)\b"
    r"|no\b(?=\s*(?:[.,;!)|]|$|\n|[(\[]?[A-Za-z][)\]:.]))|[✗✘❌✖×])"
    r"|(?P<yes>[✓✔✅√]|(?:correct|right|true|yes|present|most likely|likely|plausible|best fit|正确|对|是)(?=\s*(?:[.,;!)|]|$|\n|\d{1,2}[.)]|[(\[]?[A-Za-z][)\]:.]))))",
    re.I,
)
# What follows an option's text in such a list, and its letter in front of it.
_VERDICT_OF_TEXT = re.compile(
    r"(?:\s*[-–—:=]+\s*|\s+(?=[✗✘❌✖×✓✔✅√]))(?=(?:[✗✘❌✖×✓✔✅√]|in?correct|wrong|right|true|false|yes|no|present|absent|(?:(?:most|less|least)\s+|un)?likely|excluded|ruled\s+out)\s*(?:[.,;!]|$|\n))",
    re.I,
)
_OWN_LABEL = re.compile(r"(?:^|\n)\W{0,4}[A-Z][^\w\n]{1,3}\Z")
_MARK_BEFORE = re.compile(r"(?:^|\n)[\s*•|-]*[✗✘❌✖×☐✓✔✅√☑]\s?$")
_LINE_END = re.compile(r"[\s.,;|]*?(?:\n|$)")
_LINE_START = re.compile(r"(?:^|\n)[\s*•|-]{0,4}(?:\d[.)]\s?)?\Z")
# What a list says of the option that it named last.
_THIS_IS_RIGHT = GatedPattern(
    r"\b(?:this|that|which|it)\s+(?:is|would be|must be)\s+(?:therefore\s+|thus\s+|clearly\s+)?(?:the\s+)?"
    r"(?:most\s+likely|best|correct|right)\b(?!\s+(?:if|when|only|in\s+cases?))",
    re.I,
)
_LABEL = re.compile(r"(?<![A-Za-z0-9'-])[(\[]?(?P<letter>[A-Z])[)\]]?(?=\s*[.:)\]-])")
# "X is the most likely diagnosis", "X best fits": in normalized words, where X is an option's text.
_TEXT_VERDICT = re.compile(
    r" (?:is|seems|appears|remains|would be|looks|as) (?:also |clearly |therefore |thus |by far |overall |then |indeed |still )*(?:the )?"
    r"(?:single )?(?:most (?:likely|consistent|probable|plausible|appropriate|fitting|suitable)|best|correct|right|answer|favou?red|preferred|likeliest|likely diagnosis)(?= )"
    r"| best (?:fits|explains|matches|describes)(?= )| (?:fits|matches|explains) (?:this |the |these )?(?:\w+ )?best(?= )| (?:可能性)?最 (?:大|高|可 能|符 合|合 适)(?= )"
)
# "The picture favours X", "a diagnosis of X": an option follows.
_CONCLUSION = GatedPattern(
    r"\b(?:favou?rs?|favou?ring|supports?|supporting|points?\s+(?:to|towards?)|pointing\s+to|consistent\s+with|suggestive\s+of|indicative\s+of"
    r"|diagnostic\s+of|suggests?|suggesting|compatible\s+with|classic\s+for|typical\s+of|characteristic\s+of|pathognomonic\s+for|in\s+keeping\s+with|represents?|diagnosis\s+of|diagnosed?\s+(?:as|with))\s+"
    r"(?:(?:an?|the|most|likely|strongly|diagnosis|of)\s+)*" + _NOUN,
    re.I,
)
_BUT = re.compile(
    r"\b(?:but|however|that said|nevertheless|nonetheless|still|yet)\b|但是?|不过|然而", re.I
)
# A letter of another script that looks like one of an option.
_LOOKALIKES = str.maketrans("АВСЕНΑΒΕΗ", "ABCEHABEH")
_LOOKALIKE = re.compile(r"(?<![^\W\d_])[АВСЕНΑΒΕΗ](?![^\W\d_])")
# "<B>", as a placeholder filled in; "<b>...</b>" is markup.
_BRACKETED = re.compile(r"<([A-Z])>(?!.*</)", re.S)
_ARROW = re.compile(r"(?:=>|->|→|⇒)\s*(?P<letter>[A-Z])\W*$")
_CHECKBOX = re.compile(r"^\s*(?:[-*•]\s*)?\[(?P<mark>[ xX✓✔])\]\s*", re.M)
_REPEATED = re.compile(r"^\W*(?P<letter>[A-Za-z])(?:[\s,.]+(?P=letter)\b)+\W*$")
_NONE_OF = re.compile(
    r" none (?:of (?:the (?:above|options?|choices|answers?|listed|given|provided|others?)|these|them|those|it))(?= )| none (?=\||$)"
    r"| neither (?:of (?:these|them|the (?:two|above|options))|one|is|are|was|were)(?= )"
)
_ALL_OF = re.compile(
    r" all (?:of (?:the (?:above|options?|choices|answers?)|these|them|those)|the above)(?= )"
)
_BOTH = re.compile(r" both (?! of)")
# Evidence that names an option without declaring it the answer.
_MENTIONS = frozenset(("lettered option", "text", "yes or no", "elimination", "conclusion"))
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


class ParsedChoice(NamedTuple):
    """The letters a reply chooses: one if the status is ok, the tied ones if it is multiple."""

    letters: tuple[str, ...]
    status: Status
    evidence: str | None = None


_UNPARSED = ParsedChoice((), "unparsed")


class ParsedReply(NamedTuple):
    """A reply without denied letters, that by `normalize_words`, and all of it by `fold_case`.

    `verdict` is what a list of verdicts ("A: no; B: yes") affirms, `verdict_start` where its last
    affirmation begins; `denied` are the letters that lists rule out, `claims` what comparisons and eliminations leave.
    """

    text: str
    normalized: str
    lowercase: str
    verdict: ParsedChoice | None = None
    verdict_start: int = -1
    denied: frozenset[str] = frozenset()
    claims: tuple[Claim, ...] = ()


def parse_choice(reply: str, choices: Sequence[str]) -> ParsedChoice:
    """The option that a reply chooses."""
    options = parse_options(tuple(choices))
    parsed = ParsedChoice((), "empty")
    for turn in read_turns(reply):
        parsed = _parse_turn(turn, options)
        if parsed.status not in ("empty", "unparsed"):
            break
    return parsed


def _parse_turn(turn: FinalTurn, options: tuple[Option, ...]) -> ParsedChoice:
    text = _to_text(turn.content, options)
    if is_empty(text):
        return ParsedChoice((), turn.blank_status)
    if turn.answer is None and len(turn.text) > _LONG_REPLY_CHARS:
        return _parse_tail(turn.text, options) or _parse_text(text, options)
    parsed = _parse_text(text, options)
    if turn.answer is None or turn.is_structured or parsed.status != "unparsed":
        return parsed
    # A box that holds no option is text: "\boxed{CL = Dose / AUC}. Answer: B".
    return _declared_choice(_to_text(turn.text, options), options) or parsed


def _to_text(text: str, options: tuple[Option, ...]) -> str:
    """Plain text with the letters of options in ASCII, checkboxes as marks, and quantities written as
    in the options.
    """
    if "<" in text:
        text = _BRACKETED.sub(r"\1", text)
    if "[" in text:
        text = _CHECKBOX.sub(lambda box: "☐ " if box["mark"] == " " else "☑ ", text)
    text = to_plain_text(text)
    if not text.isascii():
        text = _LOOKALIKE.sub(lambda match: match[0].translate(_LOOKALIKES), text)
    return normalize_quantities(text) if option_traits(options).has_number else text


def _declared_choice(text: str, options: tuple[Option, ...]) -> ParsedChoice | None:
    """What a part of a reply declares as its answer, whatever else it mentions."""
    remaining = set_aside(text, fold_case(text))
    parsed = _parse_reply(remaining, normalize_words(remaining), fold_case(remaining), options)
    return _explicit_choice(parsed, options)


def _parse_text(text: str, options: tuple[Option, ...]) -> ParsedChoice:
    bare_match = _BARE.match(text)
    if bare_match and _is_option_letter(bare_match["letter"], options):
        return ParsedChoice((bare_match["letter"].upper(),), "ok", "letter")
    normalized = normalize_words(text)
    full_text_match = _match_full_text(normalized, options)
    if full_text_match or bare_match:
        return full_text_match or _UNPARSED
    declared = _DECLARED.match(text)
    if declared and not option_traits(options).has_single_character:
        letter, rest = declared["letter"].upper(), normalize_words(declared["rest"])
        is_alone = not rest.strip(" |")
        if any(o.letter == letter and (is_alone or o.normalized == rest) for o in options):
            return ParsedChoice((letter,), "ok", "answer phrase")
    if _LETTERS_ONLY.match(text) and not option_traits(options).has_single_character:
        listed = {letter for letter in text if letter.isupper()}
        if len(listed) > 1 or _is_option_letter(min(listed), options):
            return _choice_of(listed, "letter")
    if "\n" in text and (listed := _without_option_texts(text, options)) != text:
        return _parse_text(listed, options)
    lowercase = fold_case(text)
    remaining = set_aside(text, lowercase)
    if remaining != text:
        return _UNPARSED if is_empty(remaining) else _parse_text(remaining.strip(), options)
    parsed = _parse_reply(text, normalized, lowercase, options)
    return (
        _leading_choice(parsed, options, _explicit_choice(parsed, options))
        or _concluded_option(parsed, options)
        or _refusal_or_option(text, normalized, options)
        or _mentioned_option(text, normalized, parsed, options)
    )


def _without_option_texts(text: str, options: tuple[Option, ...]) -> str:
    """A list of verdicts with letters alone: "A. Cyst - no" and "Cyst: no" are "A: no", and
    "✓ Cyst" is "✓ A".
    """
    for option in options:
        start = text.find(option.text) if len(option.text) > 1 else -1
        if start < 0:
            continue
        before, end = text[max(0, start - 8) : start], start + len(option.text)
        if verdict := _VERDICT_OF_TEXT.match(text, end):
            if _OWN_LABEL.search(before):
                text = text[:start] + text[verdict.end() :]
            elif _LINE_START.search(before):
                text = f"{text[:start]}{option.letter}: {text[verdict.end() :]}"
        elif _MARK_BEFORE.search(before) and _LINE_END.match(text, end):
            text = f"{text[:start]}{option.letter}{text[end:]}"
    return text


def _parse_reply(
    text: str, normalized: str, lowercase: str, options: tuple[Option, ...]
) -> ParsedReply:
    claimed = tuple(claims(text, lowercase, {option.letter: option.text for option in options}))
    masked, denied = denied_letters(text, lowercase)
    masked, verdict, verdict_start = without_denied(masked, lowercase), None, -1
    if _OPTION_VERDICT.may_match(lowercase):
        masked, affirmed, verdict_start = _apply_option_verdicts(masked, options)
        verdict = _choice_of(affirmed, "verdict") if affirmed else None
    if masked != text:
        normalized = normalize_words(masked)
    return ParsedReply(masked, normalized, lowercase, verdict, verdict_start, denied, claimed)


def _choice_of(letters: Iterable[str], evidence: str) -> ParsedChoice:
    unique = tuple(sorted(set(letters)))
    if len(unique) == 1:
        return ParsedChoice(unique, "ok", evidence)
    return ParsedChoice(unique, "multiple") if unique else _UNPARSED


def without_denied(text: str, lowercase: str) -> str:
    """A plain text (and its `fold_case`) with the letters that it denies blanked out; every other
    character keeps its place.
    """
    return _DENIED.sub(lambda match: " " * len(match[0]), text, lowercase)


def find_cues(text: str, lowercase: str) -> list[int]:
    """Where the answers begin that a plain text (and its `fold_case`) declares as its answer."""
    return [cue.end() for cue in _CUE.finditer(text, lowercase)]


def _apply_option_verdicts(
    text: str, options: tuple[Option, ...]
) -> tuple[str, tuple[str, ...], int]:
    """The text without letters marked as wrong, the ones marked right, and the last one's place."""
    verdicts: list[re.Match[str]] = []
    for verdict in _OPTION_VERDICT.pattern.finditer(text):
        # A verdict begins a clause, or follows another: the A of "The answer is A. Not seen are
        # ..." has none.
        before = text[max(0, verdict.start() - 4) : verdict.start()].rstrip(" ")
        starts_clause = (
            not before
            or before[-1] in ".;,!?\n-•|)"
            or text[verdict.start()] == "("
            or (verdicts and verdicts[-1].end() >= verdict.start() - 1)
        )
        if starts_clause and _is_option_letter(_judged_letter(verdict), options):
            verdicts.append(verdict)
    # In "A. No." an option that is, or begins with, such a word is named and not judged.
    if not verdicts or any(_VERDICT_WORD.match(option.normalized) for option in options):
        return text, (), -1
    affirmed = [verdict for verdict in verdicts if verdict["yes"] or verdict["yes_mark"]]
    denied_positions = {
        verdict.start("letter" if verdict["letter"] else "marked")
        for verdict in verdicts
        if verdict["no"] or verdict["no_mark"]
    }
    if denied_positions:
        characters = list(text)
        for position in denied_positions:
            characters[position] = " "
        text = "".join(characters)
    if (len(verdicts) < 2 and not (affirmed and affirmed[0]["yes_mark"])) or not affirmed:
        return text, (), -1
    letters = tuple(_judged_letter(verdict) for verdict in affirmed)
    return text, letters, affirmed[-1].start()


def _judged_letter(verdict: re.Match[str]) -> str:
    return (verdict["letter"] or verdict["marked"]).upper()


def _parse_tail(text: str, options: tuple[Option, ...]) -> ParsedChoice | None:
    """What the end of a long reply declares: the last explicit answer counts, so it is enough."""
    start = text.find("\n", len(text) - _TAIL_CHARS)
    if start < 0:
        start = text.find(". ", len(text) - _TAIL_CHARS)
    # Options that are letters, or as long as replies, need the whole reply.
    if (
        start < 0
        or option_traits(options).has_single_character
        or any(len(option.text) > _LONG_REPLY_CHARS for option in options)
    ):
        return None
    return _declared_choice(_to_text(text[start:], options), options)


def _match_full_text(normalized: str, options: Sequence[Option]) -> ParsedChoice | None:
    """A reply that is exactly an option's text, with or without its letter, and nothing else."""
    matches = [
        option for option in options if option.normalized == normalized and normalized.strip()
    ]
    return _single_choice(matches, "text") if matches else None


def _explicit_choice(parsed: ParsedReply, options: tuple[Option, ...]) -> ParsedChoice | None:
    """The last answer that the text declares as its answer."""
    text = parsed.text
    if option_traits(options).has_single_character:
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
    for pattern in (_WEAK, _VERDICT):
        found = [
            match
            for match in pattern.finditer(text, parsed.lowercase)
            if _may_be_letter(match["letter"], options)
            and not (pattern is _VERDICT and _is_word(text, match))
        ]
        candidates += [
            (match.start("letter"), _parse_letter_group(text, match, options)) for match in found
        ]
        affirmed = {match["letter"].upper() for match in found}
        if pattern is _VERDICT and len(affirmed) > 1:
            # "A is correct. B is correct."
            candidates.append((found[-1].end(), _choice_of(affirmed, "verdict")))
    candidates += [(c.position, _choice_of(c.letters, "claim")) for c in parsed.claims]
    for right in _THIS_IS_RIGHT.finditer(text, parsed.lowercase):
        line = text[text.rfind("\n", 0, right.start()) + 1 : right.start()]
        labels = [m for m in _LABEL.finditer(line) if _is_option_letter(m["letter"], options)]
        if len({label["letter"] for label in labels}) == 1:
            candidates.append((right.start(), _choice_of([labels[0]["letter"]], "verdict")))
    if arrow := _ARROW.search(text[-40:]):
        candidates.append((len(text), _choice_of([arrow["letter"]], "last letter")))
    trailing = _TRAILING.search(text[-60:])
    if trailing and trailing["letter"].isupper():
        last = [option for option in options if option.letter == trailing["letter"]]
        candidates.append((len(text), _single_choice(last, "last letter")))
    return max(candidates, key=lambda item: item[0])[1] if candidates else None


def _may_be_letter(letter: str, options: Sequence[Option]) -> bool:
    """Whether a single letter in front of a verdict names an option: a small "a" or "i" is a word."""
    return letter.isupper() or (letter not in "ai" and _is_option_letter(letter, options))


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
        and not (leading_match["next"].strip() == "," and leading_match["letter"] not in "ai")
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


def _concluded_option(parsed: ParsedReply, options: tuple[Option, ...]) -> ParsedChoice | None:
    """The one option whose text a conclusion names: "X is the most likely", "consistent with X"."""
    named: set[str] = set()
    normalized = parsed.normalized
    for verdict in _TEXT_VERDICT.finditer(normalized):
        sentence = normalized[max(0, verdict.start() - _SENTENCE_CHARS) : verdict.start() + 1]
        sentence = sentence[sentence.rfind(" | ") + 1 :]
        ending = [o for o in options if len(o.normalized) > 3 and sentence.endswith(o.normalized)]
        ending = [o for o in ending if is_affirmed(sentence, o.normalized)]
        named.update(o.letter for o in sorted(ending, key=lambda o: -len(o.normalized))[:1])
    for conclusion in _CONCLUSION.finditer(parsed.text, parsed.lowercase):
        words = normalize_words(_BEFORE_TEXT.sub("", parsed.text[conclusion.end() :][:400]))
        clause = normalize_words(parsed.text[max(0, conclusion.start() - 80) : conclusion.start()])
        if is_negated(f"{clause.rstrip()} x ", len(clause.rstrip()), len(clause.rstrip()) + 3):
            continue
        named.update(option.letter for option in leading_options(words, options))
        letter = _LETTER_PATTERN.match(parsed.text, conclusion.end())
        if letter and letter["letter"].isupper() and _CLAUSE_END.match(parsed.text, letter.end()):
            named.update({letter["letter"]} & {option.letter for option in options})
    return _choice_of(named, "conclusion") if len(named) == 1 else None


def _refusal_or_option(
    text: str, normalized: str, options: tuple[Option, ...]
) -> ParsedChoice | None:
    """A refusal, unless what it says is one of the options ("Cannot be determined") or an answer
    follows ("..., but pleural effusion").
    """
    if not is_refusal(text):
        return None
    named = [option for option in named_options(normalized, options) if is_refusal(option.text)]
    if named:
        return _single_choice(named, "text")
    refusal, *rest = _BUT.split(text, maxsplit=1)
    if rest and is_refusal(refusal) and not is_refusal(rest[0]):
        words = normalize_words(rest[0])
        named = named_options(words, options)
        if len(named) == 1:
            return _single_choice(named, "text")
    return ParsedChoice((), "refused")


def _summary_option(normalized: str, options: tuple[Option, ...]) -> Option | None:
    """The option that stands for none, all or both of the others, where the text says so."""
    for mention, title in ((_NONE_OF, " none"), (_ALL_OF, " all of"), (_ALL_OF, " all the above")):
        titled = [option for option in options if option.normalized.startswith(title)]
        if len(titled) == 1 and mention.search(normalized):
            return titled[0]
    both = [option for option in options if option.normalized.startswith(" both ")]
    return both[0] if len(both) == 1 and _BOTH.search(normalized) else None


def _mentioned_option(
    text: str, normalized: str, parsed: ParsedReply, options: tuple[Option, ...]
) -> ParsedChoice:
    """The one option that the text mentions; `normalized` has the denied letters too."""
    masked = parsed.text
    if option_traits(options).has_yes_and_no:
        verdict = yes_no.parse_polarity(text).polarity
        if verdict:
            return _single_choice(
                [option for option in options if option.normalized.strip() == verdict], "yes or no"
            )
    if summary := _summary_option(normalized, options):
        return _single_choice([summary], "text")
    left = {option.letter for option in options} - parsed.denied
    if len(left) == 1 and len(options) > 2:
        return _choice_of(left, "elimination")
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
        is_correct=letters[0] in accepted_letters,
        prediction=letters[0],
        note=evidence,
        is_final=evidence not in _MENTIONS,
    )
