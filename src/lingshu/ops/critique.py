"""Critiques: a teacher says what is wrong with a flawed answer, what in the image shows it, and
what the right answer is.

The critique samples of PSV2026. Flawed answers are a model's own, read from a run of `lingshu eval`
(replies that the scorer found wrong), those that `induce_errors` noted, or, without either, made by
the same rules. The published form of these samples is not known: question, flawed answer and the
request to judge it in, error, evidence and corrected answer out is this project's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lingshu.core.errors import InputError
from lingshu.core.files import read_jsonl, sha256_file
from lingshu.core.forms import Form, json_form, one
from lingshu.core.nouns import Drop, Sample
from lingshu.core.steps import Pixels, Talk, TeacherStep
from lingshu.ops import _agreement, _question_labels
from lingshu.ops._agreement import CHECKS, Check, agreed, cites_gold
from lingshu.ops._exam import item_of
from lingshu.ops._facts import answer, one_of
from lingshu.ops._flaws import KINDS, flaw_of
from lingshu.ops._question_labels import labelled, with_labels
from lingshu.ops._teaching import Prompts, dialogue, fold, prompts, request, synthetic
from lingshu.scoring._text import CJK

KIND = "critique"
NOT_WRONG = "Error: the answer under review is not wrong."
_CHINESE = re.compile(f"[{CJK}]")


@dataclass(frozen=True)
class Critique:
    """What the teacher replies."""

    error: str
    evidence: str
    corrected: str


class Scored(NamedTuple):
    """A model's reply, its score, None where nothing could be read, and the question that it was
    given to.
    """

    question: str
    reply: str
    value: float | None


def step(
    *,
    scores: str | None = None,
    kinds: Sequence[str] = KINDS,
    check: Check = "always",
    prompt_file: str | None = None,
    seed: int = 0,
) -> TeacherStep:
    """Write a critique of a wrong answer to every sample with one question and a known answer.

    Args:
        scores: scores.jsonl of a run on these questions, or the folder OUT/TASK that holds it; its
            wrong replies are the flawed answers. None: what `induce_errors` noted, else an answer
            made by rule.
        kinds: the rules, as in `induce_errors`.
        check: how the corrected answer is held against the gold, as in `refine_qa`.
        prompt_file: other prompts, with the sections of this step's own.
        seed: which of the rules that fit is taken.

    Drops: several_turns, no_gold, not_asked (the run has no reply), other_question (it has one to
    another question under this id), unread_reply (nobody knows whether it is wrong), right_reply,
    no_error (no rule fits), not_wrong (the teacher finds), empty_text, unchanged, cites_gold,
    contradicts_gold, gold_missing.
    """
    one_of(KIND, "check", check, CHECKS)
    for kind in kinds:
        one_of(KIND, "kinds", kind, KINDS)
    replies = None if scores is None else _replies(Path(scores))
    told, labels, second = (
        prompts(KIND, prompt_file),
        prompts(_question_labels.PROMPTS),
        prompts(_agreement.PROMPTS),
    )
    form = _or_not_wrong(json_form(Critique))

    def talk(sample: Sample, _: Pixels) -> Talk:
        item = item_of(sample)
        if isinstance(item, str):
            return Drop(sample.id, item)
        flawed = _flawed(sample, item.question, replies, kinds, seed)
        if isinstance(flawed, Drop):
            return flawed
        wrong, flaw = flawed
        gold = answer(sample).strip()
        ask = told.fill(
            "judge", question=item.question, gold=gold, flawed=wrong, not_wrong=NOT_WRONG
        )
        found = yield from one(request(sample, ask, form, images=sample.images))
        fault = "not_wrong" if found is None else _fault(found, wrong)
        if found is None or fault:
            return Drop(sample.id, fault or "")
        lost = yield from agreed(
            second,
            sample,
            question=item.question,
            gold=gold,
            text=found.corrected.strip(),
            check=check,
        )
        if lost:
            return lost
        turn, reply = _texts(told, item.question, wrong, found)
        notes = yield from labelled(labels, sample, question=item.question, answer=reply)
        written = {
            "flaw": flaw,
            "flawed": wrong,
            "original_question": item.question,
            "original_answer": gold,
        }
        messages = dialogue(turn, reply, len(sample.images))
        made = synthetic(
            sample,
            KIND,
            notes=written,
            messages=messages,
            gold=(found.corrected.strip(),),
            choices=(),
        )
        return with_labels(made, notes, kind="open")

    read = "" if scores is None else f", scores {sha256_file(_file(Path(scores)))[:12]}"
    return TeacherStep(KIND, talk, f"{told.tag}, {labels.tag}, {second.tag}{read}")


# --- flawed answers
# ---------------------------------------------------------------------------------------------------


def _file(path: Path) -> Path:
    return path / "scores.jsonl" if path.is_dir() else path


def _replies(path: Path) -> Mapping[str, Scored]:
    """The replies of a run by sample; of several the first.

    Raises:
        InputError: no scores, or rows without question, reply and value.
    """
    found: dict[str, Scored] = {}
    for number, row in enumerate(read_jsonl(_file(path)), 1):
        name, question, reply = (row.get(key) for key in ("id", "question", "reply"))
        if (
            not isinstance(name, str)
            or not isinstance(question, str)
            or "value" not in row
            or "reply" not in row
        ):
            raise InputError(
                f"{_file(path)}, row {number}: id, question, reply and value are needed; give the"
                " scores.jsonl of `lingshu eval`."
            )
        if isinstance(reply, str):
            found.setdefault(name, Scored(question, reply.strip(), row["value"]))
    return found


def _flawed(
    sample: Sample,
    question: str,
    replies: Mapping[str, Scored] | None,
    kinds: Sequence[str],
    seed: int,
) -> tuple[str, str] | Drop:
    """A wrong answer and what kind it is of, `reply` or the name of a rule."""
    if replies is not None:
        # A curated dataset puts the source before the id that a row has in its own folder.
        said = replies.get(sample.id) or replies.get(sample.id.partition("/")[2])
        if said is None:
            return Drop(sample.id, "not_asked", "the run has no reply to it")
        if fold(said.question) != fold(question):
            return Drop(sample.id, "other_question", "the run has another question under this id")
        # What could not be read is not known to be wrong, and parts of a point are not all wrong.
        if said.value is None or not said.reply:
            return Drop(sample.id, "unread_reply", "the scorer could not read the reply")
        return (
            (said.reply, "reply")
            if said.value == 0.0
            else Drop(sample.id, "right_reply", f"score {said.value:g}")
        )
    noted = sample.meta.extra.get("flawed")
    if noted:
        return noted, sample.meta.extra.get("flaw", "noted")
    flaw = flaw_of(sample, kinds=kinds, seed=seed)
    return flaw if isinstance(flaw, Drop) else (flaw.text, flaw.kind)


# --- what the teacher says
# --------------------------------------------------------------------------------------------


def _or_not_wrong(form: Form[Critique]) -> Form[Critique | None]:
    def read(text: str) -> Critique | None:
        return None if fold(text).startswith(fold(NOT_WRONG)) else form.read(text)

    return Form(read, form.schema)


def _fault(found: Critique, flawed: str) -> str | None:
    parts = [part.strip() for part in (found.error, found.evidence, found.corrected)]
    if not all(parts):
        return "empty_text"
    if fold(found.corrected) == fold(flawed):
        return "unchanged"
    return "cites_gold" if any(map(cites_gold, parts)) else None


def _texts(told: Prompts, question: str, flawed: str, found: Critique) -> tuple[str, str]:
    """The user's turn and the reply, in the language of the question."""
    language = "zh" if _CHINESE.search(question) else "en"
    turn = told.fill(f"turn: {language}", question=question, flawed=flawed)
    parts = {
        "error": found.error.strip(),
        "evidence": found.evidence.strip(),
        "corrected": found.corrected.strip(),
    }
    return turn, told.fill(f"reply: {language}", **parts)
