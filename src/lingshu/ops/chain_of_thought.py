"""Reasoned answers: a teacher that knows the gold reasons towards it, and what does not hold is
dropped.

The paper's synthesis D (section 2.2.4) has a verifier without the image. Beyond it: the question is
asked again without the gold, and the statements about what is visible are compared with the image.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from lingshu.core.forms import TEXT, Form, Request, Unusable, json_form, one
from lingshu.core.nouns import Drop, Message, Sample
from lingshu.core.steps import Pixels, Talk, TeacherStep
from lingshu.ops._exam import Item, item_of
from lingshu.ops._facts import one_of
from lingshu.ops._teaching import Prompts, choose, prompts, request, synthetic

KIND = "chain_of_thought"
Check = Literal["off", "note", "drop"]
STEPWISE = (
    "Think it through step by step before you answer.",
    "Reason step by step, then give your answer.",
    "Work towards the answer one step at a time.",
    "Explain your reasoning step by step and finish with the answer.",
)
# "The right answer is B" is how a conclusion speaks; that it was given is not.
_CITES = re.compile(
    r"\b(?:given|provided|stated|supplied|reference|gold) answer\b|\banswer (?:is|was)"
    r" (?:given|provided|stated|supplied)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Reasoned:
    """What the teacher replies first."""

    reasoning: str
    answer: str


@dataclass(frozen=True)
class Claims:
    """What the comparison with the image replies."""

    unsupported: list[str]


def step(
    *,
    blind: Check = "note",
    claims: Check = "drop",
    shape: Literal["heading", "tags"] = "heading",
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
        one_of(KIND, name, value, ("off", "note", "drop"))
    one_of(KIND, "shape", shape, ("heading", "tags"))
    told = prompts(KIND, prompt_file)
    reasoned, listed, verdict = (
        json_form(Reasoned),
        json_form(Claims),
        Form(_consistent, "first word Consistent or Inconsistent"),
    )

    def talk(sample: Sample, _: Pixels) -> Talk:
        item = item_of(sample)
        if isinstance(item, str):
            return Drop(sample.id, item)
        source = "the image" if sample.images else "the question"
        ask = told.fill("reason", question=item.question, gold=item.full, source=source)
        found = yield from one(request(sample, ask, reasoned, images=sample.images))
        fault = _fault(item, found)
        if fault:
            return Drop(sample.id, fault)
        # Without the image, as in the paper: it judges whether the reasoning leads to the answer,
        # not what is seen.
        check = told.fill(
            "verify", question=item.question, reasoning=found.reasoning, gold=item.full
        )
        if not (yield from one(request(sample, check, verdict))):
            return Drop(
                sample.id,
                "inconsistent",
                "the verifier finds that the reasoning does not lead to the answer",
            )
        asked = _checks(
            told,
            item,
            found.reasoning,
            blind=blind != "off",
            claims=claims != "off" and bool(sample.images),
            form=listed,
        )
        values = (yield list(asked.values())) if asked else []
        notes = _notes(item, dict(zip(asked, values, strict=True)))
        if blind == "drop" and notes.get("blind") == "wrong":
            return Drop(sample.id, "blind_wrong", "without the gold the teacher answers otherwise")
        if claims == "drop" and notes.get("claims", "0") != "0":
            return Drop(
                sample.id,
                "unsupported_claims",
                f"{notes['claims']} statements that the image does not bear out",
            )
        return _made(sample, item, found.reasoning.strip(), shape, notes, seed)

    return TeacherStep(KIND, talk, told.tag)


def _consistent(text: str) -> bool:
    word = re.match(r"\W*(consistent|inconsistent)\b", text, re.IGNORECASE)
    if word is None:
        raise Unusable("no_verdict", "the first word is neither Consistent nor Inconsistent")
    return word[1].casefold() == "consistent"


def _fault(item: Item, found: Reasoned) -> str | None:
    if len(found.reasoning.split()) < 3:
        return "empty_reasoning"
    # The answer shall come back word for word; with options its letter, its text, or both.
    if not item.exactly(found.answer):
        return "answer_changed"
    return "cites_gold" if _CITES.search(found.reasoning) else None


def _checks(
    told: Prompts, item: Item, reasoning: str, *, blind: bool, claims: bool, form: Form[Claims]
) -> dict[str, Request]:
    sample = item.sample
    asked: dict[str, Request] = {}
    if blind:
        text = told.fill("blind", question=item.question, form=told.parts[item.form])
        asked["blind"] = request(sample, text, TEXT, images=sample.images)
    if claims:
        asked["claims"] = request(
            sample, told.fill("claims", reasoning=reasoning), form, images=sample.images
        )
    return asked


def _notes(item: Item, said: dict) -> dict[str, str]:
    notes: dict[str, str] = {}
    if "blind" in said:
        notes["blind"] = "right" if item.right(said["blind"]) else "wrong"
    if "claims" in said:
        notes["claims"] = str(len(said["claims"].unsupported))
    return notes


def _made(
    sample: Sample, item: Item, reasoning: str, shape: str, notes: dict[str, str], seed: int
) -> Sample:
    if shape == "tags":
        answer = f"<think>{reasoning}</think><answer>{item.gold}</answer>"
    else:
        answer = f"{reasoning}\n\n### Final Answer: {item.gold}"
    place = next(i for i, message in enumerate(sample.messages) if message.role == "user")
    user = sample.messages[place]
    asked = Message("user", (*user.parts, f"\n{choose(STEPWISE, sample.id, seed)}"))
    messages = (*sample.messages[:place], asked, Message("assistant", (answer,)))
    return synthetic(sample, KIND, notes=notes, messages=messages, gold=item.sample.gold)
