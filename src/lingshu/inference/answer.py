"""A question about images to a model, and its answer with model, digest and image provenance.

Every answer to a user is built here. Whether a question may leave this machine is checked by the
engine (core/data_policy.py); `egress_warnings` says what is risky about images that would leave.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lingshu.core.confidence import Confidence, answer_word, read_confidence
from lingshu.core.data_policy import is_local
from lingshu.core.errors import EngineError, InputError, LingshuError
from lingshu.core.messages import user_turn
from lingshu.core.types import (
    AsyncEngine,
    Drop,
    Engine,
    Message,
    Meta,
    ModelIdentity,
    Reply,
    Sample,
    Sampling,
    Score,
    engine_notes,
)
from lingshu.evaluate.calibration import Threshold
from lingshu.imaging.provenance import ImageProvenance, format_provenance, provenance_to_json
from lingshu.inference.inputs import ModelInput
from lingshu.scoring import choice, yes_no
from lingshu.search.benchmark_items import split_choices

NOTICE = "Research only; not for clinical use."


@dataclass(frozen=True)
class Answer:
    """A model's answer and what must be shown with it; `finish` is "length" if it was truncated.

    `confidence` is known under a threshold alone. Where the model `abstained`, `text` says so and why
    in place of the answer.
    """

    text: str
    model: str
    digest: str
    image_provenance: tuple[ImageProvenance, ...] = ()
    notes: tuple[str, ...] = ()
    finish: str | None = None
    prompt_tokens: int | None = None
    reply_tokens: int | None = None
    notice: str = NOTICE
    confidence: float | None = None
    abstained: bool = False


def build_question_sample(
    question: str,
    model_input: ModelInput,
    *,
    system: str | None = None,
    history: Sequence[Message] = (),
    sample_id: str = "question",
) -> Sample:
    """A private sample with the images and question; the first turn of `history` has the images.

    Raises:
        InputError: an empty question.
    """
    if not question.strip():
        raise InputError("the question is empty; write it in quotes after the model.")
    system_messages = (Message("system", (system,)),) if system and not history else ()
    user_message = (
        Message("user", (question,)) if history else user_turn(question, len(model_input.images))
    )
    modalities = {image.modality for image in model_input.image_provenance}
    modality = modalities.pop() if len(modalities) == 1 else None
    extra = {"burned_in_risk": model_input.burned_in_risk} if model_input.burned_in_risk else {}
    meta = Meta(access="private", deidentified=False, modality=modality, extra=extra)
    return Sample(
        sample_id, (*system_messages, *history, user_message), model_input.images, meta=meta
    )


def answer(
    engine: Engine,
    sample: Sample,
    model_input: ModelInput,
    sampling: Sampling,
    *,
    threshold: Threshold | None = None,
) -> Answer:
    """The answer to one question.

    Raises:
        EngineError: there is no answer.
        DataPolicyError: the images may not go to the engine's address.
    """
    [result] = answer_batch(engine, [(sample, model_input)], sampling, threshold=threshold)
    if isinstance(result, LingshuError):
        raise result
    return result


def answer_batch(
    engine: Engine,
    requests: Sequence[tuple[Sample, ModelInput]],
    sampling: Sampling,
    *,
    threshold: Threshold | None = None,
) -> list[Answer | EngineError]:
    """The answers to questions with different ids, or their errors, in order.

    Raises:
        EngineError, DataPolicyError: the engine failed, or may not be sent the images.
        InputError: the threshold is of another model.
    """
    if threshold is not None:
        threshold.check_model(engine)
    replies = {
        reply.id: reply
        for batch in engine.generate([sample for sample, _ in requests], sampling)
        for reply in batch
    }
    return [
        build_answer(engine, replies.get(sample.id), model_input, sample, threshold)
        for sample, model_input in requests
    ]


def build_answer(
    engine: ModelIdentity,
    reply: Reply | None,
    model_input: ModelInput,
    sample: Sample | None = None,
    threshold: Threshold | None = None,
) -> Answer | EngineError:
    """An engine's reply to `sample` as an answer, or its error; below `threshold` it abstains."""
    if reply is None or reply.text is None:
        reason = reply.error if reply else "the engine returned no reply"
        return EngineError(f"{engine.model} gave no answer: {reason}.")
    result = Answer(
        reply.text,
        engine.model,
        engine.digest,
        model_input.image_provenance,
        (*model_input.notes, *reply.scaled_images, *engine_notes(engine)),
        finish=reply.finish,
        prompt_tokens=reply.prompt_tokens,
        reply_tokens=reply.reply_tokens,
    )
    if threshold is None or sample is None:
        return result
    confidence = question_confidence(sample, reply)
    if confidence is None or confidence.method not in threshold.methods:
        reason = "its confidence is not known in the way in which the threshold was set"
    elif confidence.value < threshold.threshold:
        reason = f"its confidence {confidence.value:.3g} is below {threshold.text}"
    else:
        return replace(result, confidence=confidence.value)
    value = None if confidence is None else confidence.value
    return replace(result, text=f"The model abstains: {reason}.", confidence=value, abstained=True)


def question_confidence(sample: Sample, reply: Reply) -> Confidence | None:
    """The confidence of a reply to a question without a gold: as of a choice where the question lists
    options by letters, else of a yes or no that opens the reply, else of its wording.
    """
    _, choices = split_choices(sample.question, sample.choices)
    with_gold = replace(sample, choices=choices, gold=("A",) if choices else ("yes",))

    def read(text: str) -> Score:
        if choices:
            return choice.score(with_gold, text)
        opens_polar = answer_word((text.split() or [""])[0]) is not None
        score = yes_no.score(with_gold, text) if opens_polar else Score(None, "unparsed")
        return score if score.status == "ok" else Score(None, "ok", text.strip() or None)

    score = Score(None) if reply.text is None else read(reply.text)
    if reply.finish == "length" and not score.is_final:
        return None
    return read_confidence(reply, score, read)


def stream(
    engine: AsyncEngine,
    sample: Sample,
    model_input: ModelInput,
    sampling: Sampling,
    *,
    on_text: Callable[[str], None],
    threshold: Threshold | None = None,
) -> Answer:
    """The answer to one question, whose pieces go to `on_text` in this thread as they are generated;
    with a threshold all of it at the end, once it is known that the model does not abstain.

    Raises:
        EngineError: there is no answer.
        InputError: the question itself cannot be answered, such as one that is too long; or the
            threshold is of another model.
    """
    if threshold is not None:
        threshold.check_model(engine)
    events: queue.SimpleQueue[str | Reply | LingshuError] = queue.SimpleQueue()
    handle = engine.submit(sample, replace(sampling, num_generations=1), events.put)
    try:
        while isinstance(event := events.get(), str):
            if threshold is None:
                on_text(event)
    except BaseException:
        handle.cancel()
        raise
    if isinstance(event, LingshuError):
        raise event
    result = build_answer(engine, event, model_input, sample, threshold)
    if isinstance(result, LingshuError):
        raise result
    if threshold is not None:
        on_text(result.text)
    return result


def answer_to_json(answer: Answer) -> dict[str, Any]:
    """An answer as plain JSON; `answer` is null where the model abstained."""
    known: dict[str, Any] = {} if answer.confidence is None else {"confidence": answer.confidence}
    if answer.abstained:
        known["abstained"] = answer.text
    return {
        "answer": None if answer.abstained else answer.text,
        **known,
        "model": answer.model,
        "model_digest": answer.digest,
        "finish": answer.finish,
        "prompt_tokens": answer.prompt_tokens,
        "reply_tokens": answer.reply_tokens,
        "image_provenance": [provenance_to_json(image) for image in answer.image_provenance],
        "notes": list(answer.notes),
        "notice": answer.notice,
    }


def provenance_lines(answer: Answer) -> list[str]:
    """The lines below an answer on a terminal or a page."""
    truncation_note = " The answer ends at max_tokens." if answer.finish == "length" else ""
    empty_note = "" if answer.text.strip() else " The answer is empty."
    return [
        *format_provenance(answer.image_provenance),
        *answer.notes,
        f"[{answer.model} {answer.digest[:12]}] {answer.notice}{truncation_note}{empty_note}",
    ]


def egress_warnings(sample: Sample, endpoint: str | None) -> list[str]:
    """Warnings before the images of `sample` go to another machine; none for a model on this one.

    Text in the pixels may name a patient: the attributes of DICOM files and the pixels are checked
    (ops/burned_in_text.py). The absence of a warning is not a proof.
    """
    if is_local(endpoint) or not sample.images:
        return []
    from lingshu.imaging.cache import ImageCache
    from lingshu.ops import burned_in_text

    with ImageCache() as image_cache:
        result = burned_in_text.step().open()(sample, image_cache)
    if not isinstance(result, Drop):
        return []
    reason = _RISK_REASONS.get(result.reason, result.reason)
    if result.detail:
        reason += f": {result.detail}"
    return [
        f"the images may hold text, which may name a patient ({reason}); they leave this machine."
    ]


_RISK_REASONS: Mapping[str, str] = {
    "burned_in_stated": "a DICOM file says so",
    "burned_in_likely": "its kind of image often does",
    "text_in_image": "lines of type were found",
}
