"""Reasoned answers: a teacher that knows the gold reasons towards it, and what does not hold is
dropped.

The paper's synthesis D (section 2.2.4) has a verifier without the image. Beyond it: the question is
asked again without the gold, and the statements about what is visible are compared with the image.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from lingshu.core.response_format import (
    TEXT_FORMAT,
    InvalidResponse,
    Request,
    ResponseFormat,
    json_format,
    one_response,
)
from lingshu.core.step_types import Pixels, TeacherDialogue, TeacherStep
from lingshu.core.teacher_prompts import (
    PromptSet,
    build_request,
    derive_sample,
    load_prompts,
    seeded_choice,
)
from lingshu.core.types import Drop, Message, Sample
from lingshu.ops._qa_items import QAItem, qa_item
from lingshu.ops._sample_fields import check_choice

KIND = "chain_of_thought"
CheckAction = Literal["off", "note", "drop"]
STEPWISE_INSTRUCTIONS = (
    "Think it through step by step before you answer.",
    "Reason step by step, then give your answer.",
    "Work towards the answer one step at a time.",
    "Explain your reasoning step by step and finish with the answer.",
)
# "The right answer is B" is how a conclusion speaks; that it was given is not.
_GIVEN_ANSWER_MENTION = re.compile(
    r"\b(?:given|provided|stated|supplied|reference|gold) answer\b|\banswer (?:is|was)"
    r" (?:given|provided|stated|supplied)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Reasoning:
    """What the teacher replies first."""

    reasoning: str
    answer: str


@dataclass(frozen=True)
class ClaimCheck:
    """What the comparison with the image replies."""

    unsupported: list[str]


def step(
    *,
    blind: CheckAction = "note",
    claims: CheckAction = "drop",
    answer_format: Literal["heading", "tags"] = "heading",
    prompt_file: str | None = None,
    seed: int = 0,
) -> TeacherStep:
    """Write reasoning for every sample with one question and a known answer, with images or
    without.

    Args:
        blind: ask the question again without the gold; a wrong answer is noted (`blind: wrong`) or
            drops the sample.
        claims: list what the image does not bear out; such claims are noted (`claims: 2`) or drop
            the sample.
        shape: heading ends in `### Final Answer: X`, as the paper shows; tags is
            <think>...</think><answer>...</answer>.
        prompt_file: other prompts, with the sections of this step's own.
        seed: chooses how a step-by-step answer is asked for.

    Drops: several_turns, no_gold, empty_reasoning, answer_changed, cites_gold, inconsistent,
    blind_wrong, unsupported_claims.
    """
    for name, value in (("blind", blind), ("claims", claims)):
        check_choice(KIND, name, value, ("off", "note", "drop"))
    check_choice(KIND, "answer_format", answer_format, ("heading", "tags"))
    prompts = load_prompts(KIND, prompt_file)
    reasoning_format, claims_format, verdict_format = (
        json_format(Reasoning),
        json_format(ClaimCheck),
        ResponseFormat(_parse_verdict, "first word Consistent or Inconsistent"),
    )

    def dialogue(sample: Sample, _: Pixels) -> TeacherDialogue:
        item = qa_item(sample)
        if isinstance(item, str):
            return Drop(sample.id, item)
        source = "the image" if sample.images else "the question"
        prompt = prompts.render(
            "reason", question=item.question, gold=item.gold_text, source=source
        )
        reply = yield from one_response(
            build_request(sample, prompt, reasoning_format, images=sample.images)
        )
        problem = _find_problem(item, reply)
        if problem:
            return Drop(sample.id, problem)
        # Without the image, as in the paper: it judges whether the reasoning leads to the answer,
        # not what is seen.
        verify_prompt = prompts.render(
            "verify", question=item.question, reasoning=reply.reasoning, gold=item.gold_text
        )
        if not (yield from one_response(build_request(sample, verify_prompt, verdict_format))):
            return Drop(
                sample.id,
                "inconsistent",
                "the verifier finds that the reasoning does not lead to the answer",
            )
        requests = _check_requests(
            prompts,
            item,
            reply.reasoning,
            blind=blind != "off",
            claims=claims != "off" and bool(sample.images),
            response_format=claims_format,
        )
        replies = (yield list(requests.values())) if requests else []
        notes = _check_notes(item, dict(zip(requests, replies, strict=True)))
        if blind == "drop" and notes.get("blind") == "wrong":
            return Drop(sample.id, "blind_wrong", "without the gold the teacher answers otherwise")
        if claims == "drop" and notes.get("claims", "0") != "0":
            return Drop(
                sample.id,
                "unsupported_claims",
                f"{notes['claims']} statements that the image does not bear out",
            )
        return _build_sample(sample, item, reply.reasoning.strip(), answer_format, notes, seed)

    return TeacherStep(KIND, dialogue, prompts.tag)


def _parse_verdict(text: str) -> bool:
    match = re.match(r"\W*(consistent|inconsistent)\b", text, re.IGNORECASE)
    if match is None:
        raise InvalidResponse("no_verdict", "the first word is neither Consistent nor Inconsistent")
    return match[1].casefold() == "consistent"


def _find_problem(item: QAItem, reply: Reasoning) -> str | None:
    if len(reply.reasoning.split()) < 3:
        return "empty_reasoning"
    # The answer shall come back word for word; with options its letter, its text, or both.
    if not item.matches_exactly(reply.answer):
        return "answer_changed"
    return "cites_gold" if _GIVEN_ANSWER_MENTION.search(reply.reasoning) else None


def _check_requests(
    prompts: PromptSet,
    item: QAItem,
    reasoning: str,
    *,
    blind: bool,
    claims: bool,
    response_format: ResponseFormat[ClaimCheck],
) -> dict[str, Request]:
    sample = item.sample
    requests: dict[str, Request] = {}
    if blind:
        text = prompts.render(
            "blind", question=item.question, form=prompts.sections[item.format_section]
        )
        requests["blind"] = build_request(sample, text, TEXT_FORMAT, images=sample.images)
    if claims:
        requests["claims"] = build_request(
            sample,
            prompts.render("claims", reasoning=reasoning),
            response_format,
            images=sample.images,
        )
    return requests


def _check_notes(item: QAItem, replies: dict) -> dict[str, str]:
    notes: dict[str, str] = {}
    if "blind" in replies:
        notes["blind"] = "right" if item.is_correct(replies["blind"]) else "wrong"
    if "claims" in replies:
        notes["claims"] = str(len(replies["claims"].unsupported))
    return notes


def _build_sample(
    sample: Sample,
    item: QAItem,
    reasoning: str,
    answer_format: str,
    notes: dict[str, str],
    seed: int,
) -> Sample:
    if answer_format == "tags":
        answer = f"<think>{reasoning}</think><answer>{item.gold}</answer>"
    else:
        answer = f"{reasoning}\n\n### Final Answer: {item.gold}"
    index = next(i for i, message in enumerate(sample.messages) if message.role == "user")
    question = sample.messages[index]
    instruction = Message(
        "user", (*question.parts, f"\n{seeded_choice(STEPWISE_INSTRUCTIONS, sample.id, seed)}")
    )
    messages = (*sample.messages[:index], instruction, Message("assistant", (answer,)))
    return derive_sample(sample, KIND, extra=notes, messages=messages, gold=item.sample.gold)
