"""Critiques: a teacher explains what is wrong with a flawed answer, what in the image shows it, and
what the right answer is.

The critique samples of PSV2026. Flawed answers are a model's own, read from a run of `lingshu eval`
(replies that the scorer found wrong), those noted by `inject_errors`, or, without either, made by
the same rules. The published format of these samples is not known; this project's is: question,
flawed answer and the request to judge it in; error, evidence and corrected answer out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lingshu.core.errors import InputError
from lingshu.core.files import read_jsonl, sha256_file
from lingshu.core.step_types import Pixels, TeacherDialogue, TeacherStep
from lingshu.core.teacher_prompts import PromptSet, normalize_answer
from lingshu.core.types import Drop, Sample
from lingshu.ops._consistency import cites_gold, is_chinese
from lingshu.ops._perturbations import KINDS, inject_error_into_item
from lingshu.ops._sample_fields import check_choice
from lingshu.ops._teacher import CheckMode, QAItem, QAWriter, ask, json_or_sentence, qa_item

KIND = "critique"
NOT_WRONG = "Error: the answer under review is not wrong."


@dataclass(frozen=True)
class Critique:
    """The teacher's reply."""

    error: str
    evidence: str
    corrected: str


class ScoredReply(NamedTuple):
    """A model's reply, the question it answers, and its score; None: the scorer found no answer."""

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
            wrong replies are the flawed answers. None: what `inject_errors` noted, else an answer
            made by rule.
        kinds: the rules, as in `inject_errors`.
        check: how the corrected answer is compared with the gold, as in `refine_qa`.
        prompt_file: custom prompts with the sections of this step's own.
        seed: chooses among the rules that apply.

    Drops: several_turns, no_gold, no_reply_in_run (the run has no reply), other_question (it has
    another question under this id), unread_reply (unknown whether it is wrong), correct_reply,
    no_error (no rule applies), not_wrong (according to the teacher), empty_text, unchanged,
    cites_gold, contradicts_gold, gold_missing.
    """
    for kind in kinds:
        check_choice(KIND, "kinds", kind, KINDS)
    writer = QAWriter.load(KIND, check, prompt_file)
    response_format = json_or_sentence(Critique, NOT_WRONG)
    replies, tag = None, writer.tag
    if scores is not None:
        path = Path(scores) / "scores.jsonl" if Path(scores).is_dir() else Path(scores)
        replies, tag = _read_replies(path), f"{tag}, scores {sha256_file(path)[:12]}"

    def dialogue(sample: Sample, _: Pixels) -> TeacherDialogue:
        item = qa_item(sample)
        if isinstance(item, Drop):
            return item
        wrong = _wrong_answer(item, replies, kinds, seed)
        if isinstance(wrong, Drop):
            return wrong
        wrong_answer, error_kind = wrong
        prompt = writer.prompts.render(
            "judge",
            question=item.question,
            gold=item.answer,
            flawed=wrong_answer,
            not_wrong=NOT_WRONG,
        )
        critique = yield from ask(sample, prompt, response_format)
        if critique is None:
            return Drop(sample.id, "not_wrong")
        problem = _find_problem(critique, wrong_answer)
        if problem:
            return Drop(sample.id, problem)
        extra = {"error_kind": error_kind, "wrong_answer": wrong_answer, **item.originals}
        turns = _render_turns(writer.prompts, item.question, wrong_answer, critique)
        answer = critique.corrected.strip()
        return (
            yield from writer.write(
                item, item.question, answer, turns=turns, kind="open", extra=extra
            )
        )

    return TeacherStep(KIND, dialogue, tag)


def _read_replies(path: Path) -> Mapping[str, ScoredReply]:
    """The first reply of a run to each sample."""
    replies: dict[str, ScoredReply] = {}
    for row_number, row in enumerate(read_jsonl(path), 1):
        name, question, reply = (row.get(key) for key in ("id", "question", "reply"))
        is_text = isinstance(name, str) and isinstance(question, str)
        if not is_text or not {"value", "reply"} <= row.keys():
            problem = f"{path}, row {row_number}: id, question, reply and value are needed"
            raise InputError(f"{problem}; give the scores.jsonl of `lingshu eval`.")
        if isinstance(reply, str):
            scored = ScoredReply(str(question), reply.strip(), row["value"])
            replies.setdefault(str(name), scored)
    return replies


def _wrong_answer(
    item: QAItem, replies: Mapping[str, ScoredReply] | None, kinds: Sequence[str], seed: int
) -> tuple[str, str] | Drop:
    """A wrong answer and its kind, `reply` or the name of a rule."""
    name, extra = item.sample.id, item.sample.meta.extra
    if replies is None:
        if extra.get("wrong_answer"):
            return extra["wrong_answer"], extra.get("error_kind", "noted")
        error = inject_error_into_item(item, kinds=kinds, seed=seed)
        return error if isinstance(error, Drop) else (error.text, error.kind)
    # A curated dataset prefixes the id that a row has in its own folder with the source.
    scored = replies.get(name) or replies.get(name.partition("/")[2])
    if scored is None:
        return Drop(name, "no_reply_in_run", "the run has no reply to it")
    if normalize_answer(scored.question) != normalize_answer(item.question):
        return Drop(name, "other_question", "the run has another question under this id")
    # A partial score does not make the whole reply wrong.
    if scored.value is None or not scored.reply:
        return Drop(name, "unread_reply", "the scorer could not read the reply")
    if scored.value != 0.0:
        return Drop(name, "correct_reply", f"score {scored.value:g}")
    return scored.reply, "reply"


def _find_problem(critique: Critique, wrong_answer: str) -> str | None:
    texts = [text.strip() for text in (critique.error, critique.evidence, critique.corrected)]
    if not all(texts):
        return "empty_text"
    if normalize_answer(critique.corrected) == normalize_answer(wrong_answer):
        return "unchanged"
    return "cites_gold" if any(map(cites_gold, texts)) else None


def _render_turns(
    prompts: PromptSet, question: str, wrong_answer: str, critique: Critique
) -> tuple[str, str]:
    """The user's turn and the reply, in the language of the question."""
    language = "zh" if is_chinese(question) else "en"
    reply = prompts.render(
        f"reply: {language}",
        error=critique.error.strip(),
        evidence=critique.evidence.strip(),
        corrected=critique.corrected.strip(),
    )
    return prompts.render(f"turn: {language}", question=question, flawed=wrong_answer), reply
