"""Chains of thought: a teacher that knows the gold reasons towards it, and replies that fail a check
are dropped.

The paper's synthesis D (section 2.2.4) has a verifier that does not see the image. In addition, the
question is asked again without the gold, and claims about what is visible are compared with the
image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from lingshu.core.cached_client import TEXT_FORMAT, Request, json_format, one_response
from lingshu.core.step_types import Pixels, TeacherDialogue, TeacherStep
from lingshu.core.teacher_prompts import build_request, derive_sample
from lingshu.core.types import Drop, Message, Sample
from lingshu.ops._consistency import cites_gold
from lingshu.ops._sample_fields import check_choice, seeded_instruction
from lingshu.ops._teacher import QAItem, ask, qa_item, step_prompts, verdict_format

KIND = "chain_of_thought"
CheckAction = Literal["off", "note", "drop"]
_VERDICT_FORMAT = verdict_format("Consistent", "Inconsistent")


@dataclass(frozen=True)
class Reasoning:
    """The teacher's first reply."""

    reasoning: str
    answer: str


@dataclass(frozen=True)
class ClaimCheck:
    """The reply to the comparison with the image."""

    unsupported: list[str]


def step(
    *,
    blind: CheckAction = "note",
    claims: CheckAction = "drop",
    answer_format: Literal["heading", "tags"] = "heading",
    prompt_file: str | None = None,
    seed: int = 0,
) -> TeacherStep:
    """Write reasoning for every sample with one question and a known answer.

    Args:
        blind: ask the question again without the gold; a wrong answer is noted (`blind: wrong`) or
            drops the sample.
        claims: list claims that the image does not support; they are noted (`claims: 2`) or drop
            the sample.
        answer_format: heading ends in `### Final Answer: X`, as the paper shows; tags is
            <think>...</think><answer>...</answer>.
        prompt_file: custom prompts with the sections of this step's own.
        seed: chooses the wording of the request for step-by-step reasoning.

    Drops: several_turns, no_gold, empty_reasoning, answer_changed, cites_gold, inconsistent,
    blind_wrong, unsupported_claims.
    """
    for name, action in (("blind", blind), ("claims", claims)):
        check_choice(KIND, name, action, ("off", "note", "drop"))
    check_choice(KIND, "answer_format", answer_format, ("heading", "tags"))
    prompts = step_prompts(KIND, prompt_file)
    reasoning_format, claims_format = json_format(Reasoning), json_format(ClaimCheck)

    def dialogue(sample: Sample, _: Pixels) -> TeacherDialogue:
        item = qa_item(sample)
        if isinstance(item, Drop):
            return item
        qa = {"question": item.question, "gold": item.gold_text}
        source = "the image" if sample.images else "the question"
        reply = yield from ask(
            sample, prompts.render("reason", source=source, **qa), reasoning_format
        )
        problem = _find_problem(item, reply)
        if problem:
            return Drop(sample.id, problem)
        # Without the image, as in the paper: it judges whether the reasoning leads to the answer.
        prompt = prompts.render("verify", reasoning=reply.reasoning, **qa)
        if not (yield from one_response(build_request(sample, prompt, _VERDICT_FORMAT))):
            return Drop(sample.id, "inconsistent", "the reasoning does not lead to the answer")
        checks: dict[str, Request[Any]] = {}
        if blind != "off":
            form = prompts.sections[item.format_section]
            text = prompts.render("blind", question=item.question, form=form)
            checks["blind"] = build_request(item.sample, text, TEXT_FORMAT, images=sample.images)
        if claims != "off" and sample.images:
            text = prompts.render("claims", reasoning=reply.reasoning)
            checks["claims"] = build_request(item.sample, text, claims_format, images=sample.images)
        replies = (yield list(checks.values())) if checks else []
        notes: dict[str, str] = {}
        for name, check_reply in zip(checks, replies, strict=True):
            if name == "claims":
                notes[name] = str(len(check_reply.unsupported))
            else:
                notes[name] = "right" if item.is_correct(check_reply) else "wrong"
        if blind == "drop" and notes.get("blind") == "wrong":
            return Drop(sample.id, "blind_wrong", "without the gold the teacher answers otherwise")
        n_claims = notes.get("claims", "0")
        if claims == "drop" and n_claims != "0":
            return Drop(
                sample.id, "unsupported_claims", f"{n_claims} claims that the image contradicts"
            )
        return _build_sample(item, reply.reasoning.strip(), answer_format, notes, seed)

    return TeacherStep(KIND, dialogue, prompts.tag)


def _find_problem(item: QAItem, reply: Reasoning) -> str | None:
    if len(reply.reasoning.split()) < 3:
        return "empty_reasoning"
    # The answer must be returned word for word; with options its letter, its text, or both.
    if not item.matches_exactly(reply.answer):
        return "answer_changed"
    # "The right answer is B" is how a conclusion is worded; that it was given is not.
    return "cites_gold" if cites_gold(reply.reasoning) else None


def _build_sample(
    item: QAItem, reasoning: str, answer_format: str, notes: dict[str, str], seed: int
) -> Sample:
    sample = item.sample
    answer = f"{reasoning}\n\n### Final Answer: {item.gold}"
    if answer_format == "tags":
        answer = f"<think>{reasoning}</think><answer>{item.gold}</answer>"
    index = next(i for i, message in enumerate(sample.messages) if message.role == "user")
    instruction = f"\n{seeded_instruction(KIND, sample, seed)}"
    question = Message("user", (*sample.messages[index].parts, instruction))
    messages = (*sample.messages[:index], question, Message("assistant", (answer,)))
    return derive_sample(sample, KIND, extra=notes, messages=messages)
