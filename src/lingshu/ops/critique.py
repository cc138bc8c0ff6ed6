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
from lingshu.core.reply_text import CJK
from lingshu.core.response_format import ResponseFormat, json_format, one_response
from lingshu.core.step_types import Pixels, TeacherDialogue, TeacherStep
from lingshu.core.teacher_prompts import (
    PromptSet,
    build_request,
    derive_sample,
    load_prompts,
    normalize_answer,
    qa_messages,
)
from lingshu.core.types import Drop, Sample
from lingshu.ops import _consistency, _question_labels
from lingshu.ops._consistency import CHECK_MODES, CheckMode, check_consistency, cites_gold
from lingshu.ops._perturbations import KINDS, inject_error_into_sample
from lingshu.ops._qa_items import qa_item
from lingshu.ops._question_labels import label_question, with_labels
from lingshu.ops._sample_fields import answer_text, check_choice

KIND = "critique"
NOT_WRONG = "Error: the answer under review is not wrong."
_CHINESE = re.compile(f"[{CJK}]")


@dataclass(frozen=True)
class Critique:
    """What the teacher replies."""

    error: str
    evidence: str
    corrected: str


class ScoredReply(NamedTuple):
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
    check: CheckMode = "always",
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

    Drops: several_turns, no_gold, no_reply_in_run (the run has no reply), other_question (it has one to
    another question under this id), unread_reply (nobody knows whether it is wrong), correct_reply,
    no_error (no rule fits), not_wrong (the teacher finds), empty_text, unchanged, cites_gold,
    contradicts_gold, gold_missing.
    """
    check_choice(KIND, "check", check, CHECK_MODES)
    for kind in kinds:
        check_choice(KIND, "kinds", kind, KINDS)
    replies = None if scores is None else _read_replies(Path(scores))
    prompts, label_prompts, consistency_prompts = (
        load_prompts(KIND, prompt_file),
        load_prompts(_question_labels.PROMPT_NAME),
        load_prompts(_consistency.PROMPT_NAME),
    )
    response_format = _allow_not_wrong(json_format(Critique))

    def dialogue(sample: Sample, _: Pixels) -> TeacherDialogue:
        item = qa_item(sample)
        if isinstance(item, str):
            return Drop(sample.id, item)
        result = _wrong_answer(sample, item.question, replies, kinds, seed)
        if isinstance(result, Drop):
            return result
        wrong_answer, error_kind = result
        gold = answer_text(sample).strip()
        prompt = prompts.render(
            "judge", question=item.question, gold=gold, flawed=wrong_answer, not_wrong=NOT_WRONG
        )
        critique = yield from one_response(
            build_request(sample, prompt, response_format, images=sample.images)
        )
        problem = "not_wrong" if critique is None else _find_problem(critique, wrong_answer)
        if critique is None or problem:
            return Drop(sample.id, problem or "")
        drop = yield from check_consistency(
            consistency_prompts,
            sample,
            question=item.question,
            gold=gold,
            text=critique.corrected.strip(),
            check=check,
        )
        if drop:
            return drop
        question_text, critique_text = _render_texts(prompts, item.question, wrong_answer, critique)
        notes = yield from label_question(
            label_prompts, sample, question=item.question, answer=critique_text
        )
        extra = {
            "error_kind": error_kind,
            "wrong_answer": wrong_answer,
            "original_question": item.question,
            "original_answer": gold,
        }
        messages = qa_messages(question_text, critique_text, len(sample.images))
        derived = derive_sample(
            sample,
            KIND,
            extra=extra,
            messages=messages,
            gold=(critique.corrected.strip(),),
            choices=(),
        )
        return with_labels(derived, notes, kind="open")

    scores_tag = (
        "" if scores is None else f", scores {sha256_file(_scores_file(Path(scores)))[:12]}"
    )
    return TeacherStep(
        KIND, dialogue, f"{prompts.tag}, {label_prompts.tag}, {consistency_prompts.tag}{scores_tag}"
    )


# --- flawed answers
# ---------------------------------------------------------------------------------------------------


def _scores_file(path: Path) -> Path:
    return path / "scores.jsonl" if path.is_dir() else path


def _read_replies(path: Path) -> Mapping[str, ScoredReply]:
    """The replies of a run by sample; of several the first.

    Raises:
        InputError: no scores, or rows without question, reply and value.
    """
    replies: dict[str, ScoredReply] = {}
    for row_number, row in enumerate(read_jsonl(_scores_file(path)), 1):
        name, question, reply = (row.get(key) for key in ("id", "question", "reply"))
        if (
            not isinstance(name, str)
            or not isinstance(question, str)
            or "value" not in row
            or "reply" not in row
        ):
            raise InputError(
                f"{_scores_file(path)}, row {row_number}: id, question, reply and value are needed; give the"
                " scores.jsonl of `lingshu eval`."
            )
        if isinstance(reply, str):
            replies.setdefault(name, ScoredReply(question, reply.strip(), row["value"]))
    return replies


def _wrong_answer(
    sample: Sample,
    question: str,
    replies: Mapping[str, ScoredReply] | None,
    kinds: Sequence[str],
    seed: int,
) -> tuple[str, str] | Drop:
    """A wrong answer and what kind it is of, `reply` or the name of a rule."""
    if replies is not None:
        # A curated dataset puts the source before the id that a row has in its own folder.
        scored = replies.get(sample.id) or replies.get(sample.id.partition("/")[2])
        if scored is None:
            return Drop(sample.id, "no_reply_in_run", "the run has no reply to it")
        if normalize_answer(scored.question) != normalize_answer(question):
            return Drop(sample.id, "other_question", "the run has another question under this id")
        # What could not be read is not known to be wrong, and parts of a point are not all wrong.
        if scored.value is None or not scored.reply:
            return Drop(sample.id, "unread_reply", "the scorer could not read the reply")
        return (
            (scored.reply, "reply")
            if scored.value == 0.0
            else Drop(sample.id, "correct_reply", f"score {scored.value:g}")
        )
    noted_answer = sample.meta.extra.get("wrong_answer")
    if noted_answer:
        return noted_answer, sample.meta.extra.get("error_kind", "noted")
    error = inject_error_into_sample(sample, kinds=kinds, seed=seed)
    return error if isinstance(error, Drop) else (error.text, error.kind)


# --- what the teacher says
# --------------------------------------------------------------------------------------------


def _allow_not_wrong(response_format: ResponseFormat[Critique]) -> ResponseFormat[Critique | None]:
    def parse(text: str) -> Critique | None:
        return (
            None
            if normalize_answer(text).startswith(normalize_answer(NOT_WRONG))
            else response_format.parse(text)
        )

    return ResponseFormat(parse, response_format.schema)


def _find_problem(critique: Critique, wrong_answer: str) -> str | None:
    texts = [text.strip() for text in (critique.error, critique.evidence, critique.corrected)]
    if not all(texts):
        return "empty_text"
    if normalize_answer(critique.corrected) == normalize_answer(wrong_answer):
        return "unchanged"
    return "cites_gold" if any(map(cites_gold, texts)) else None


def _render_texts(
    prompts: PromptSet, question: str, wrong_answer: str, critique: Critique
) -> tuple[str, str]:
    """The user's turn and the reply, in the language of the question."""
    language = "zh" if _CHINESE.search(question) else "en"
    question_text = prompts.render(f"turn: {language}", question=question, flawed=wrong_answer)
    parts = {
        "error": critique.error.strip(),
        "evidence": critique.evidence.strip(),
        "corrected": critique.corrected.strip(),
    }
    return question_text, prompts.render(f"reply: {language}", **parts)
