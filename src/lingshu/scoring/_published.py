"""The two published ways of grading, rebuilt from recorded behaviour: `paper` (June 2025) and
`medevalkit` (February 2026).

Everything here is deliberately as wrong as what it stands for; `_protocols` names the quirks. The
strings compared are those of a public toolkit at commit 9b12e3b, observed from outside;
tests/golden/parity holds the observations. A `ValueError` stands where the original stops with an
exception.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

from lingshu.core.errors import InputError
from lingshu.core.nouns import Sample, Score, Scorer
from lingshu.scoring import _published_reports as reports
from lingshu.scoring._text import golds

# In this order, each splitting what the one before it left.
_PHRASES = (
    "**answer**:",
    "**answer**",
    "*answer*:",
    "**answer:**",
    "answer is",
    "answer:",
    "答案:",
    "final answer",
    "final answer is",
)
_JUDGED = "no judge here: equality stands in for it"


def tag_content(text: str | None, tag: str, *, hard: bool = True) -> str:
    """The contents of all `<tag>` pairs joined by a blank; with none, or an empty one, the whole
    text (or "" if not hard).
    """
    if not text:
        return ""
    # Split, not matched lazily: a reply of a thousand opening tags costs no more than any other.
    pieces = text.split(f"<{tag}>")[1:]
    found = [piece.split(f"</{tag}>")[0].strip() for piece in _joined(pieces, f"</{tag}>")]
    content = " ".join(found).strip()
    return content or (text if hard else "")


def _joined(pieces: Sequence[str], end: str) -> list[str]:
    """The pieces that end, each with the unended ones before it."""
    found, waiting = [], ""
    for piece in pieces:
        waiting += piece
        if end in piece:
            found.append(waiting)
            waiting = ""
    return found


def boxed(text: str) -> str:
    r"""What stands in the last `\boxed{}`; the word "None" where there is none or it is not closed."""
    start = text.rfind("\\boxed{")
    depth = 1
    for place in range(start + 7, len(text)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[start + 7 : place].strip()
    return "None"


def parsed(reply: str | None) -> str:
    """What the toolkit takes for the answer: box, else tag, in lower case, behind each answer
    phrase in turn.

    Raises:
        ValueError: there is no reply.
    """
    if reply is None:
        raise ValueError("a reply of None has no lower case")
    text = reply.lower()
    if "boxed" in text:
        text = boxed(text)
    elif "<answer>" in text:
        text = tag_content(text, "answer")
    return _behind_phrases(text)


def _behind_phrases(text: str) -> str:
    for phrase in _PHRASES:
        text = text.split(phrase)[-1]
    return text


def most_similar(texts: Sequence[str], said: str) -> int:
    """The index of the text with the highest difflib ratio; 0 where all are 0, and for no texts at
    all.
    """
    best, most = 0, 0.0
    for index, text in enumerate(texts):
        ratio = SequenceMatcher(None, text, said).ratio()
        if ratio > most:
            best, most = index, ratio
    return best


def choice_is_right(
    choices: Sequence[str], gold: str, reply: str | None, *, paper: bool = False
) -> bool:
    """Whether the reply counts as right; `choices` as they were shown, usually with their letters.

    Raises:
        ValueError: there is no reply.
    """
    if reply is None:
        raise ValueError("a reply of None has no lower case")
    text = reply.lower()
    letters = [chr(ord("a") + place) for place in range(len(choices))]
    tagged = paper and ("boxed" in text or "<answer>" in text)
    text = parsed(text if tagged else _paragraph_letter(text, letters) or text)
    return _compared(
        [choice.lower() for choice in choices],
        letters,
        gold.strip().lower(),
        text.strip().lower().replace("\n", ""),
    )


def _paragraph_letter(text: str, letters: Sequence[str]) -> str | None:
    paragraphs = text.split("\n\n")
    for paragraph in (paragraphs[0], paragraphs[-1].split(".")[0]):
        if paragraph in letters:
            return paragraph
    return None


def _compared(texts: Sequence[str], letters: Sequence[str], gold: str, said: str) -> bool:
    # The blank behind the colon stays, so that ": b" equals no letter.
    short = said.split(".")[0].split(":")[-1]
    if short == gold:
        return True
    if short in letters:
        return texts[letters.index(short)] == gold
    if short in texts:
        return gold in letters and short == texts[letters.index(gold)]
    found = most_similar(texts, said)
    return gold in (letters[found], texts[found])


def judgement_is_right(gold: str, reply: str | None) -> bool:
    """Yes or no by substring: exactly one of the two must occur, also inside words."""
    said = parsed(reply).lower()
    yes, no = "yes" in said, "no" in said
    return yes != no and gold == ("yes" if yes else "no")


def closed_is_right(gold: str, reply: str | None) -> bool:
    """Equality in lower case, full stops deleted from the reply alone, blanks kept."""
    return gold.lower() == parsed(reply).lower().replace("\n", "").replace(".", "")


def open_measures(gold: str, reply: str | None) -> dict[str, float | bool]:
    """Exact match, BLEU, ROUGE and token F1 under the toolkit's names; F1, precision and recall
    stand under each other's.

    Raises:
        ValueError: nothing is left of the reply, where the ROUGE package refuses.
    """
    gold, said = gold.lower(), parsed(reply).replace("\n", "")
    rouge = reports.rouge(said, gold)
    f1 = reports.set_f1(said, gold)
    f1, precision, recall = f1 if isinstance(f1, tuple) else (0.0, 0.0, 0.0)
    return {
        "em": said == gold,
        **{
            f"bleu{n}": reports.bleu(reports.tokens(said), reports.tokens(gold), n)
            for n in (1, 2, 3, 4)
        },
        "rouge1": rouge["rouge-1"],
        "rouge2": rouge["rouge-2"],
        "rougel": rouge["rouge-l"],
        "precision": f1,
        "recall": precision,
        "f1": recall,
    }


def judge_says_right(text: str | None) -> bool:
    """A judge's reply, 0 meaning right; anything else, silence included, means wrong."""
    return tag_content(text, "judge") == "0"


# The reader of questions that list their options as "(A) text".


def lettered_choice(reply: str | None, letters: Sequence[str], texts: Mapping[str, str]) -> str:
    """The option that a reply names by a bracketed or a free-standing letter, else by its text,
    else one drawn at random.
    """
    text = reply or ""
    if "boxed" in text:
        text = boxed(text)
    elif "<answer>" in text:
        text = tag_content(text, "answer")
    for sign in ",.!?;:'":
        text = text.strip(sign)
    text = f" {text} "
    for mark in ("({})", " {} "):
        places = {letter: text.rfind(mark.format(letter)) for letter in letters}
        if max(places.values()) >= 0:
            return _last(places)
    if len(text.split()) > 5:
        places = {letter: text.lower().rfind(texts[letter].lower()) for letter in letters}
        if max(places.values()) >= 0:
            return _last(places)
    # The toolkit draws from one stream seeded with 42; here each sample draws its first number.
    return random.Random(42).choice(list(letters))


def _last(places: Mapping[str, int]) -> str:
    return max(places, key=lambda letter: places[letter])


def number_or_text(text: str) -> list[float | str]:
    """A number to two places, also nan and inf; else the text in lower case, a single letter with a
    blank at either side.
    """
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def number_or_text_of(reply: str) -> list[float | str]:
    """The key phrases of a free answer and the numbers in them."""
    lines = re.split(r"\.\s(?=[A-Z])|\n", reply.strip().strip(".").lower())
    marks = ["could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result "]
    keys = []
    for place, line in enumerate(lines):
        tails = [
            line.split(mark)[-1].strip()
            for mark in (*marks, *(["="] if place == len(lines) - 1 else []))
            if mark in line
        ]
        if tails and (shortest := min(tails, key=len)) not in (":", ",", ".", "!", "?", ";", "'"):
            keys.append(shortest)
    keys = keys or [reply.strip().strip(".").lower()]
    numbers = [
        number
        for key in keys
        for number in re.findall(r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?|-?\.\d+", key)
    ]
    return list(dict.fromkeys(form for said in (*keys, *numbers) for form in number_or_text(said)))


def free_answer_is_right(gold: str, said: Sequence[float | str]) -> bool:
    """Whether a gold text lies inside a text that was said, or a gold number equals one."""
    forms = number_or_text(gold)
    return any(
        (
            any(isinstance(form, str) and form in part for form in forms)
            if isinstance(part, str)
            else part in forms
        )
        for part in said
    )


# The two protocols as scorers.


def _shown(sample: Sample) -> tuple[list[str], bool]:
    """The options as the question shows them, "A. text" where it does not, and whether as "(A)
    text".
    """
    letters = [chr(ord("A") + place) for place in range(len(sample.choices))]
    for form in ("({}) {}", "{}. {}", "{}.{}", "{}: {}"):
        told = [
            form.format(letter, text) for letter, text in zip(letters, sample.choices, strict=True)
        ]
        if all(text in sample.question for text in told):
            return told, form.startswith("(")
    return [
        f"{letter}. {text}" for letter, text in zip(letters, sample.choices, strict=True)
    ], False


def _verdict(right: bool, reply: str) -> Score:
    return Score(1.0 if right else 0.0, "ok", reply.strip()[:80])


def _choice(sample: Sample, gold: str, reply: str, *, paper: bool) -> Score:
    shown, bracketed = _shown(sample)
    if bracketed:
        letters = [chr(ord("A") + place) for place in range(len(shown))]
        return _verdict(
            lettered_choice(reply, letters, dict(zip(letters, sample.choices, strict=True)))
            == gold.upper(),
            reply,
        )
    return _verdict(choice_is_right(shown, gold, reply, paper=paper), reply)


def medevalkit(sample: Sample, reply: str) -> Score:
    """The verdict of the toolkit that is in use; `error` where it stops with an exception."""
    gold = golds(sample)[0]
    try:
        if sample.choices:
            return _choice(sample, gold, reply, paper=False)
        # Golds written "Yes" and "No" are compared as closed answers: the test is for the
        # lower-case words.
        if gold in ("yes", "no"):
            return _verdict(judgement_is_right(gold, reply), reply)
        if sample.meta.kind in ("closed", "yes_no"):
            return _verdict(closed_is_right(gold, reply), reply)
        return _verdict(bool(open_measures(gold, reply)["em"]), reply)
    except ValueError as error:
        return Score(None, "error", note=f"the published code stops here: {error}")


def paper(sample: Sample, reply: str) -> Score:
    """The verdict of the first public rules; where they ask a judge, equality stands in and the
    note says so.
    """
    gold = golds(sample)[0]
    if sample.choices:
        return _choice(sample, gold, reply, paper=True)
    text = tag_content(reply, "answer")
    inside = boxed(text)
    text = text if inside == "None" else inside
    if sample.meta.kind == "closed":
        return Score(
            1.0 if text.strip().casefold() == gold.casefold() else 0.0,
            "ok",
            text.strip()[:80],
            _JUDGED,
        )
    text = text.lower().strip().split(".")[0]
    right = text == gold.lower().strip()
    return Score(
        1.0 if right else 0.0, "ok", text[:80], None if gold.lower() in ("yes", "no") else _JUDGED
    )


def scorer(task_score: Scorer, published: Scorer) -> Scorer:
    """A published scorer for the kinds of question it knows; reports and rubrics keep the score of
    their task.
    """

    def score(sample: Sample, reply: str) -> Score:
        if sample.meta.kind in ("report", "rubric"):
            return task_score(sample, reply)
        if not golds(sample)[0].strip():
            raise InputError(
                f"sample {sample.id!r} has an empty gold; only answered samples can be scored."
            )
        return published(sample, reply)

    return score
