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
from lingshu.core.reply_text import require_golds
from lingshu.core.types import Sample, Score, Scorer
from lingshu.scoring.protocols import reports as reports

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
_NO_JUDGE_NOTE = "no judge here: equality stands in for it"


def extract_tag(text: str | None, tag: str, *, hard: bool = True) -> str:
    """The contents of all `<tag>` pairs joined by a blank; with none, or an empty one, the whole
    text (or "" if not hard).
    """
    if not text:
        return ""
    # Split, not matched lazily: a reply of a thousand opening tags costs no more than any other.
    pieces = text.split(f"<{tag}>")[1:]
    contents = [
        piece.split(f"</{tag}>")[0].strip() for piece in _join_unclosed(pieces, f"</{tag}>")
    ]
    content = " ".join(contents).strip()
    return content or (text if hard else "")


def _join_unclosed(pieces: Sequence[str], closing_tag: str) -> list[str]:
    """The pieces that end, each with the unended ones before it."""
    closed, buffer = [], ""
    for piece in pieces:
        buffer += piece
        if closing_tag in piece:
            closed.append(buffer)
            buffer = ""
    return closed


def extract_boxed(text: str) -> str:
    r"""What stands in the last `\boxed{}`; the word "None" where there is none or it is not closed."""
    start = text.rfind("\\boxed{")
    depth = 1
    for index in range(start + 7, len(text)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if not depth:
            return text[start + 7 : index].strip()
    return "None"


def parse_answer(reply: str | None) -> str:
    """What the toolkit takes for the answer: box, else tag, in lower case, behind each answer
    phrase in turn.

    Raises:
        ValueError: there is no reply.
    """
    if reply is None:
        raise ValueError("a reply of None has no lower case")
    text = reply.lower()
    if "boxed" in text:
        text = extract_boxed(text)
    elif "<answer>" in text:
        text = extract_tag(text, "answer")
    return _after_phrases(text)


def _after_phrases(text: str) -> str:
    for phrase in _PHRASES:
        text = text.split(phrase)[-1]
    return text


def closest_index(texts: Sequence[str], prediction: str) -> int:
    """The index of the text with the highest difflib ratio; 0 where all are 0, and for no texts at
    all.
    """
    best, max_ratio = 0, 0.0
    for index, text in enumerate(texts):
        ratio = SequenceMatcher(None, text, prediction).ratio()
        if ratio > max_ratio:
            best, max_ratio = index, ratio
    return best


def is_choice_correct(
    choices: Sequence[str], gold: str, reply: str | None, *, paper: bool = False
) -> bool:
    """Whether the reply counts as right; `choices` as they were shown, usually with their letters.

    Raises:
        ValueError: there is no reply.
    """
    if reply is None:
        raise ValueError("a reply of None has no lower case")
    text = reply.lower()
    letters = [chr(ord("a") + index) for index in range(len(choices))]
    is_tagged = paper and ("boxed" in text or "<answer>" in text)
    text = parse_answer(text if is_tagged else _paragraph_letter(text, letters) or text)
    return _matches_gold(
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


def _matches_gold(texts: Sequence[str], letters: Sequence[str], gold: str, prediction: str) -> bool:
    # The blank behind the colon stays, so that ": b" equals no letter.
    first_part = prediction.split(".")[0].split(":")[-1]
    if first_part == gold:
        return True
    if first_part in letters:
        return texts[letters.index(first_part)] == gold
    if first_part in texts:
        return gold in letters and first_part == texts[letters.index(gold)]
    index = closest_index(texts, prediction)
    return gold in (letters[index], texts[index])


def is_judgment_correct(gold: str, reply: str | None) -> bool:
    """Yes or no by substring: exactly one of the two must occur, also inside words."""
    prediction = parse_answer(reply).lower()
    yes, no = "yes" in prediction, "no" in prediction
    return yes != no and gold == ("yes" if yes else "no")


def is_closed_correct(gold: str, reply: str | None) -> bool:
    """Equality in lower case, full stops deleted from the reply alone, blanks kept."""
    return gold.lower() == parse_answer(reply).lower().replace("\n", "").replace(".", "")


def open_metrics(gold: str, reply: str | None) -> dict[str, float | bool]:
    """Exact match, BLEU, ROUGE and token F1 under the toolkit's names; F1, precision and recall
    stand under each other's.

    Raises:
        ValueError: nothing is left of the reply, where the ROUGE package refuses.
    """
    gold, prediction = gold.lower(), parse_answer(reply).replace("\n", "")
    rouge = reports.rouge(prediction, gold)
    f1 = reports.set_f1(prediction, gold)
    f1, precision, recall = f1 if isinstance(f1, tuple) else (0.0, 0.0, 0.0)
    return {
        "em": prediction == gold,
        **{
            f"bleu{n}": reports.bleu(reports.tokenize(prediction), reports.tokenize(gold), n)
            for n in (1, 2, 3, 4)
        },
        "rouge1": rouge["rouge-1"],
        "rouge2": rouge["rouge-2"],
        "rougel": rouge["rouge-l"],
        "precision": f1,
        "recall": precision,
        "f1": recall,
    }


def is_judged_correct(text: str | None) -> bool:
    """A judge's reply, 0 meaning right; anything else, silence included, means wrong."""
    return extract_tag(text, "judge") == "0"


# The reader of questions that list their options as "(A) text".


def choose_by_letter(reply: str | None, letters: Sequence[str], texts: Mapping[str, str]) -> str:
    """The option that a reply names by a bracketed or a free-standing letter, else by its text,
    else one drawn at random.
    """
    text = reply or ""
    if "boxed" in text:
        text = extract_boxed(text)
    elif "<answer>" in text:
        text = extract_tag(text, "answer")
    for character in ",.!?;:'":
        text = text.strip(character)
    text = f" {text} "
    for template in ("({})", " {} "):
        positions = {letter: text.rfind(template.format(letter)) for letter in letters}
        if max(positions.values()) >= 0:
            return _last_letter(positions)
    if len(text.split()) > 5:
        positions = {letter: text.lower().rfind(texts[letter].lower()) for letter in letters}
        if max(positions.values()) >= 0:
            return _last_letter(positions)
    # The toolkit draws from one stream seeded with 42; here each sample draws its first number.
    return random.Random(42).choice(list(letters))


def _last_letter(positions: Mapping[str, int]) -> str:
    return max(positions, key=lambda letter: positions[letter])


def normalize_number_or_text(text: str) -> list[float | str]:
    """A number to two places, also nan and inf; else the text in lower case, a single letter with a
    blank at either side.
    """
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def extract_numbers_and_text(reply: str) -> list[float | str]:
    """The key phrases of a free answer and the numbers in them."""
    lines = re.split(r"\.\s(?=[A-Z])|\n", reply.strip().strip(".").lower())
    cues = ["could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result "]
    keys = []
    for index, line in enumerate(lines):
        tails = [
            line.split(cue)[-1].strip()
            for cue in (*cues, *(["="] if index == len(lines) - 1 else []))
            if cue in line
        ]
        if tails and (shortest := min(tails, key=len)) not in (":", ",", ".", "!", "?", ";", "'"):
            keys.append(shortest)
    keys = keys or [reply.strip().strip(".").lower()]
    numbers = [
        number
        for key in keys
        for number in re.findall(r"-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?|-?\.\d+", key)
    ]
    return list(
        dict.fromkeys(
            value for phrase in (*keys, *numbers) for value in normalize_number_or_text(phrase)
        )
    )


def is_free_answer_correct(gold: str, predictions: Sequence[float | str]) -> bool:
    """Whether a gold text lies inside a text that was said, or a gold number equals one."""
    gold_values = normalize_number_or_text(gold)
    return any(
        (
            any(
                isinstance(gold_value, str) and gold_value in prediction
                for gold_value in gold_values
            )
            if isinstance(prediction, str)
            else prediction in gold_values
        )
        for prediction in predictions
    )


# The two protocols as scorers.


def _rendered_options(sample: Sample) -> tuple[list[str], bool]:
    """The options as the question shows them, "A. text" where it does not, and whether as "(A)
    text".
    """
    letters = [chr(ord("A") + index) for index in range(len(sample.choices))]
    for template in ("({}) {}", "{}. {}", "{}.{}", "{}: {}"):
        lines = [
            template.format(letter, text)
            for letter, text in zip(letters, sample.choices, strict=True)
        ]
        if all(text in sample.question for text in lines):
            return lines, template.startswith("(")
    return [
        f"{letter}. {text}" for letter, text in zip(letters, sample.choices, strict=True)
    ], False


def _verdict_score(is_correct: bool, reply: str) -> Score:
    return Score(1.0 if is_correct else 0.0, "ok", reply.strip()[:80])


def _choice_score(sample: Sample, gold: str, reply: str, *, paper: bool) -> Score:
    options, is_bracketed = _rendered_options(sample)
    if is_bracketed:
        letters = [chr(ord("A") + index) for index in range(len(options))]
        return _verdict_score(
            choose_by_letter(reply, letters, dict(zip(letters, sample.choices, strict=True)))
            == gold.upper(),
            reply,
        )
    return _verdict_score(is_choice_correct(options, gold, reply, paper=paper), reply)


def medevalkit_score(sample: Sample, reply: str) -> Score:
    """The verdict of the toolkit that is in use; `error` where it stops with an exception."""
    gold = require_golds(sample)[0]
    try:
        if sample.choices:
            return _choice_score(sample, gold, reply, paper=False)
        # Golds written "Yes" and "No" are compared as closed answers: the test is for the
        # lower-case words.
        if gold in ("yes", "no"):
            return _verdict_score(is_judgment_correct(gold, reply), reply)
        if sample.meta.kind in ("closed", "yes_no"):
            return _verdict_score(is_closed_correct(gold, reply), reply)
        return _verdict_score(bool(open_metrics(gold, reply)["em"]), reply)
    except ValueError as error:
        return Score(None, "error", note=f"the published code stops here: {error}")


def paper_score(sample: Sample, reply: str) -> Score:
    """The verdict of the first public rules; where they ask a judge, equality stands in and the
    note says so.
    """
    gold = require_golds(sample)[0]
    if sample.choices:
        return _choice_score(sample, gold, reply, paper=True)
    text = extract_tag(reply, "answer")
    box = extract_boxed(text)
    text = text if box == "None" else box
    if sample.meta.kind == "closed":
        return Score(
            1.0 if text.strip().casefold() == gold.casefold() else 0.0,
            "ok",
            text.strip()[:80],
            _NO_JUDGE_NOTE,
        )
    text = text.lower().strip().split(".")[0]
    is_correct = text == gold.lower().strip()
    return Score(
        1.0 if is_correct else 0.0,
        "ok",
        text[:80],
        None if gold.lower() in ("yes", "no") else _NO_JUDGE_NOTE,
    )


def make_scorer(task_score: Scorer, published: Scorer) -> Scorer:
    """A published scorer for the kinds of question it knows; reports and rubrics keep the score of
    their task.
    """

    def score(sample: Sample, reply: str) -> Score:
        if sample.meta.kind in ("report", "rubric"):
            return task_score(sample, reply)
        if not require_golds(sample)[0].strip():
            raise InputError(
                f"sample {sample.id!r} has an empty gold; only answered samples can be scored."
            )
        return published(sample, reply)

    return score
