"""What steps with a teacher share: items, prompts, reply formats, checks and labels of answers.

Question types and labels are those of the published PSV2026 data set
(https://huggingface.co/datasets/ASD9987/PSV2026, CC BY 4.0).
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from lingshu.core.cached_client import (
    InvalidResponse,
    Request,
    ResponseFormat,
    json_format,
    one_response,
)
from lingshu.core.entities import EntityMatcher
from lingshu.core.rows import LETTERS
from lingshu.core.teacher_prompts import (
    PromptSet,
    build_request,
    derive_sample,
    load_prompts,
    normalize_answer,
    qa_messages,
)
from lingshu.core.types import Drop, Sample
from lingshu.ops._consistency import find_contradiction, supports_gold
from lingshu.ops._sample_fields import answer_text, check_choice
from lingshu.scoring import auto, choice, exact

T = TypeVar("T")
# A part of a dialogue with the teacher that returns a T.
Dialogue = Generator[Sequence[Request[Any]], Sequence[Any], T]
CheckMode = Literal["rule", "open", "always"]
QuestionType = Literal[
    "Visual Perception",
    "Factual Verification",
    "Comparative Analysis",
    "Mechanistic Reasoning",
    "Diagnostic Inference",
    "Clinical Management",
]
QUESTION_TYPES: tuple[str, ...] = get_args(QuestionType)


@dataclass(frozen=True)
class QuestionLabels:
    """The teacher's reply."""

    question_type: QuestionType
    modality: str
    main_topic: str
    med_terms: list[str]


@dataclass(frozen=True)
class QAItem:
    """A question with its options below it, and its known answer: `gold` is what scorers compare
    with (a letter where there are options), `answer` the same in words.
    """

    sample: Sample
    question: str
    gold: str
    answer: str

    @property
    def gold_text(self) -> str:
        choices = self.sample.choices
        return f"{self.gold}. {choices[LETTERS.index(self.gold)]}" if choices else self.answer

    @property
    def originals(self) -> dict[str, str]:
        """The notes of a sample that is made from this item."""
        return {"original_question": self.question, "original_answer": self.answer}

    @property
    def format_section(self) -> str:
        return "form: choice" if self.sample.choices else "form: open"

    def matches_exactly(self, reply: str) -> bool:
        """Whether a bare answer equals the gold after normalization."""
        return (choice if self.sample.choices else exact).score(self.sample, reply).value == 1.0

    def is_correct(self, reply: str) -> bool:
        """Whether a free-form reply gives the gold."""
        return auto.score(self.sample, reply).value == 1.0


def qa_item(sample: Sample) -> QAItem | Drop:
    """The item of a sample with one question and a known answer."""
    if sum(message.role == "user" for message in sample.messages) != 1:
        return Drop(sample.id, "several_turns")
    answer, question = answer_text(sample).strip(), sample.question.strip()
    gold = sample.gold[0] if sample.choices and sample.gold else answer
    is_letter = gold in LETTERS[: len(sample.choices)]
    if not answer or not question or (sample.choices and not is_letter):
        return Drop(sample.id, "no_gold")
    return QAItem(replace(sample, gold=sample.gold or (gold,)), question, gold, answer)


def step_prompts(name: str, prompt_file: str | None = None) -> PromptSet:
    """The prompts of a step, or those of a file with the same sections."""
    return load_prompts(Path(__file__).parent / "_prompts" / f"{name}.md", prompt_file)


def ask(sample: Sample, prompt: str, response_format: ResponseFormat[T]) -> Dialogue[T]:
    """Send one prompt with the images of the sample."""
    return one_response(build_request(sample, prompt, response_format, images=sample.images))


def verdict_format(accepted: str, rejected: str) -> ResponseFormat[bool]:
    """A reply whose first word is one of two: True for the first of them."""

    def parse(text: str) -> bool:
        match = re.match(rf"\W*({accepted}|{rejected})\b", text, re.IGNORECASE)
        if match is None:
            detail = f"the first word is neither {accepted} nor {rejected}"
            raise InvalidResponse("no_verdict", detail)
        return match[1].casefold() == accepted.casefold()

    return ResponseFormat(parse, f"first word {accepted} or {rejected}")


def json_or_sentence(kind: type[T], sentence: str) -> ResponseFormat[T | None]:
    """A JSON object, or the agreed sentence that states that there is none: then None."""
    json_reply = json_format(kind)

    def parse(text: str) -> T | None:
        is_refusal = normalize_answer(text).startswith(normalize_answer(sentence))
        return None if is_refusal else json_reply.parse(text)

    return ResponseFormat(parse, json_reply.schema)


_AGREEMENT_FORMAT = verdict_format("Agrees", "Contradicts")


@cache
def _label_format() -> ResponseFormat[QuestionLabels]:
    return json_format(QuestionLabels)  # not on import: it loads pydantic


@dataclass(frozen=True)
class QAWriter:
    """A step that has questions and answers written: its prompts, and how the answers are checked.

    `check` is "rule" (no second call; answers that no rule supports are rejected), "open" (a second
    call where no rule decides) or "always" (a second call for every answer that no rule rejects).
    """

    kind: str
    check: CheckMode
    prompts: PromptSet
    label_prompts: PromptSet
    agreement_prompts: PromptSet

    @classmethod
    def load(cls, kind: str, check: CheckMode, prompt_file: str | None) -> QAWriter:
        check_choice(kind, "check", check, get_args(CheckMode))
        others = (step_prompts("question_type"), step_prompts("agreement"))
        return cls(kind, check, step_prompts(kind, prompt_file), *others)

    @property
    def tag(self) -> str:
        prompt_sets = (self.prompts, self.label_prompts, self.agreement_prompts)
        return ", ".join(prompts.tag for prompts in prompt_sets)

    def write(
        self,
        item: QAItem,
        question: str,
        answer: str,
        *,
        turns: tuple[str, str] | None = None,
        kind: str,
        extra: dict[str, str],
    ) -> Dialogue[Sample | Drop]:
        """Check an answer against the gold and label it: the new sample, or why there is none.

        `turns` are the user's and the assistant's text, where they are not question and answer.
        """
        sample = item.sample
        drop = yield from self._check(sample, question=question, gold=item.answer, answer=answer)
        if drop:
            return drop
        user_text, reply_text = turns or (question, answer)
        labels = yield from label_question(
            self.label_prompts, sample, question=question, answer=reply_text
        )
        derived = derive_sample(
            sample,
            self.kind,
            extra=extra,
            messages=qa_messages(user_text, reply_text, len(sample.images)),
            gold=(answer,),
            choices=(),
        )
        return with_labels(derived, labels, kind=kind)

    def _check(
        self, sample: Sample, *, question: str, gold: str, answer: str
    ) -> Dialogue[Drop | None]:
        problem = find_contradiction(gold, answer, question=question)
        if problem:
            return Drop(sample.id, "contradicts_gold", f"by rule: {problem}")
        is_supported = supports_gold(gold, answer)
        if self.check == "rule" and not is_supported:
            return Drop(sample.id, "gold_missing", "no rule finds the gold in the answer")
        if self.check == "rule" or (self.check == "open" and is_supported):
            return None
        prompt = self.agreement_prompts.render("agree", question=question, gold=gold, answer=answer)
        if (yield from one_response(build_request(sample, prompt, _AGREEMENT_FORMAT))):
            return None
        return Drop(
            sample.id, "contradicts_gold", "the second call finds that it does not state the gold"
        )


def label_question(
    prompts: PromptSet, sample: Sample, *, question: str, answer: str
) -> Dialogue[dict[str, str]]:
    """The known labels of a question and its answer; a modality that the source states is kept.

    Terms that do not occur verbatim in the answer are left out: `med_terms_dropped` counts them.
    """
    types = "\n".join(f"- {prompts.sections[f'type: {name}']}" for name in QUESTION_TYPES)
    prompt = prompts.render("ask", question=question, answer=answer, types=types)
    reply = yield from ask(sample, prompt, _label_format())
    terms, n_dropped = verbatim_terms(reply.med_terms, answer)
    labels = {
        "question_type": reply.question_type,
        "main_topic": reply.main_topic.strip(),
        "modality": sample.meta.modality or reply.modality.strip(),
        "med_terms": json.dumps(terms, ensure_ascii=False),
        "med_terms_dropped": str(n_dropped) if n_dropped else "",
    }
    return {name: value for name, value in labels.items() if value}


def with_labels(sample: Sample, labels: Mapping[str, str], *, kind: str | None = None) -> Sample:
    """The sample with its labels, and with another `kind` if one is given."""
    extra = {name: value for name, value in labels.items() if name != "modality"}
    meta = replace(
        sample.meta,
        kind=kind or sample.meta.kind,
        modality=labels.get("modality"),
        extra={**sample.meta.extra, **extra},
    )
    return replace(sample, meta=meta)


def verbatim_terms(terms: Sequence[str], text: str) -> tuple[list[str], int]:
    """The different terms that occur in a text as whole words, and how many do not."""
    unique_terms = list(dict.fromkeys(term.strip() for term in terms if term.strip()))
    found_terms = [term for term in unique_terms if EntityMatcher([term]).find(text)]
    return found_terms, len(unique_terms) - len(found_terms)
