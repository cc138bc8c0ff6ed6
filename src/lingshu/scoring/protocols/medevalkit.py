"""The two published rule sets from recorded behavior: today's public toolkit, the paper's first.

Everything here is deliberately as wrong as the original; known_issues.json names its faults. The
cases were recorded from outside at commit 9b12e3b; tests/golden/parity has them. A `ValueError` is
raised where the original stops with an exception.
"""

import random
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

from lingshu.core.reply_text import require_golds
from lingshu.core.types import Sample, Score

_NO_JUDGE_NOTE = "no judge here: equality is used instead"
# In this order, each splitting what the one before it left.
_PHRASES = (
    "**answer**:", "**answer**", "*answer*:", "**answer:**", "answer is", "answer:", "答案:",
    "final answer", "final answer is",
)  # fmt: skip


def extract_tag(text: str | None, tag: str, *, hard: bool = True) -> str:
    """The contents of all `<tag>` pairs; with none or an empty one the text ("" if not hard)."""
    if not text:
        return ""
    # Split, not matched lazily: a reply of a thousand opening tags costs no more than any other.
    pieces = text.split(f"<{tag}>")[1:]
    closing_tag = f"</{tag}>"
    contents = [p.split(closing_tag)[0].strip() for p in _join_unclosed(pieces, closing_tag)]
    content = " ".join(contents).strip()
    return content or (text if hard else "")


def _join_unclosed(pieces: Sequence[str], closing_tag: str) -> list[str]:
    """The pieces that hold the closing tag, each with the pieces before it that do not."""
    closed, buffer = [], ""
    for piece in pieces:
        buffer += piece
        if closing_tag in piece:
            closed.append(buffer)
            buffer = ""
    return closed


def extract_boxed(text: str) -> str:
    r"""The content of the last `\boxed{}`; the word "None" if there is none or it is not closed."""
    start = text.rfind("\\boxed{")
    depth = 1
    for index in range(start + 7, len(text)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if not depth:
            return text[start + 7 : index].strip()
    return "None"


def parse_answer(reply: str | None) -> str:
    """What the toolkit takes for the answer: box, else tag, then behind each answer phrase.

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
    for phrase in _PHRASES:
        text = text.split(phrase)[-1]
    return text


def closest_index(texts: Sequence[str], prediction: str) -> int:
    """The index of the text with the highest difflib ratio; 0 where all are 0, or no text."""
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
    letters = _letters("a", choices)
    is_tagged = paper and ("boxed" in text or "<answer>" in text)
    text = parse_answer(text if is_tagged else _paragraph_letter(text, letters) or text)
    return _matches_gold(
        [choice.lower() for choice in choices],
        letters,
        gold.strip().lower(),
        text.strip().lower().replace("\n", ""),
    )


def _letters(first: str, choices: Sequence[str]) -> list[str]:
    return [chr(ord(first) + index) for index in range(len(choices))]


def _paragraph_letter(text: str, letters: Sequence[str]) -> str | None:
    paragraphs = text.split("\n\n")
    for paragraph in (paragraphs[0], paragraphs[-1].split(".")[0]):
        if paragraph in letters:
            return paragraph
    return None


def _matches_gold(texts: Sequence[str], letters: Sequence[str], gold: str, prediction: str) -> bool:
    # The space after the colon is kept, so that ": b" equals no letter.
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
    """Equality in lower case, full stops deleted from the reply alone, spaces kept."""
    return gold.lower() == parse_answer(reply).lower().replace("\n", "").replace(".", "")


def is_open_correct(gold: str, reply: str | None) -> bool:
    """Equality in lower case, line ends deleted from the reply alone.

    Raises:
        ValueError: nothing is left of the reply or the gold, where the original's ROUGE refuses.
    """
    prediction, gold = parse_answer(reply).replace("\n", ""), gold.lower()
    for side, text in (("Hypothesis", prediction), ("Reference", gold)):
        if not text.strip("."):
            raise ValueError(f"{side} is empty.")
    return prediction == gold


# The reader of questions that list their options as "(A) text".


def choose_by_letter(reply: str | None, letters: Sequence[str], texts: Mapping[str, str]) -> str:
    """The option named by a bracketed or free letter, else by its text, else one at random."""
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


def _rendered_options(sample: Sample) -> tuple[list[str], bool]:
    """The options as the question shows them, else as "A. text"; and whether as "(A) text"."""
    options = list(zip(_letters("A", sample.choices), sample.choices, strict=True))
    for template in ("({}) {}", "{}. {}", "{}.{}", "{}: {}"):
        lines = [template.format(*option) for option in options]
        if all(line in sample.question for line in lines):
            return lines, template.startswith("(")
    return ["{}. {}".format(*option) for option in options], False


def _verdict_score(is_correct: bool, reply: str) -> Score:
    return Score(float(is_correct), "ok", reply.strip()[:80])


def score_choice(sample: Sample, gold: str, reply: str, *, paper: bool) -> Score:
    """The verdict on a choice, by the reader that the question's layout asks for."""
    options, is_bracketed = _rendered_options(sample)
    if not is_bracketed:
        return _verdict_score(is_choice_correct(options, gold, reply, paper=paper), reply)
    texts = dict(zip(_letters("A", sample.choices), sample.choices, strict=True))
    return _verdict_score(choose_by_letter(reply, list(texts), texts) == gold.upper(), reply)


def score(sample: Sample, reply: str) -> Score:
    """The verdict of the toolkit that is in use; `error` where it stops with an exception."""
    gold = require_golds(sample)[0]
    try:
        if sample.choices:
            return score_choice(sample, gold, reply, paper=False)
        # Golds written "Yes" and "No" are compared as closed answers: the test is for the
        # lower-case words.
        if gold in ("yes", "no"):
            return _verdict_score(is_judgment_correct(gold, reply), reply)
        if sample.meta.kind in ("closed", "yes_no"):
            return _verdict_score(is_closed_correct(gold, reply), reply)
        return _verdict_score(is_open_correct(gold, reply), reply)
    except ValueError as error:
        return Score(None, "error", note=f"the published code stops here: {error}")


def paper_score(sample: Sample, reply: str) -> Score:
    """The verdict of the first public rules (June 2025); where they ask a judge, equality in lower
    case is used instead, and the note says so.
    """
    gold = require_golds(sample)[0]
    if sample.choices:
        return score_choice(sample, gold, reply, paper=True)
    text = extract_tag(reply, "answer")
    box = extract_boxed(text)
    text = text if box == "None" else box
    if sample.meta.kind == "closed":
        is_correct = text.strip().casefold() == gold.casefold()
        return Score(float(is_correct), "ok", text.strip()[:80], _NO_JUDGE_NOTE)
    text = text.lower().strip().split(".")[0]
    is_correct = text == gold.lower().strip()
    note = None if gold.lower() in ("yes", "no") else _NO_JUDGE_NOTE
    return Score(float(is_correct), "ok", text[:80], note)
