"""A question about images to a model, and its answer with model, digest and image provenance.

Every answer to a user is built here. Whether a question may leave this machine is checked by the
engine (core/data_policy.py); `egress_warnings` says what is risky about images that would leave.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
    engine_notes,
)
from lingshu.imaging.provenance import ImageProvenance, format_provenance, provenance_to_json
from lingshu.inference.inputs import ModelInput

NOTICE = "Research only; not for clinical use."


@dataclass(frozen=True)
class Answer:
    """A model's answer and what must be shown with it; `finish` is "length" if it was truncated."""

    text: str
    model: str
    digest: str
    image_provenance: tuple[ImageProvenance, ...] = ()
    notes: tuple[str, ...] = ()
    finish: str | None = None
    prompt_tokens: int | None = None
    reply_tokens: int | None = None
    notice: str = NOTICE


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


def answer(engine: Engine, sample: Sample, model_input: ModelInput, sampling: Sampling) -> Answer:
    """The answer to one question.

    Raises:
        EngineError: there is no answer.
        DataPolicyError: the images may not go to the engine's address.
    """
    [result] = answer_batch(engine, [(sample, model_input)], sampling)
    if isinstance(result, LingshuError):
        raise result
    return result


def answer_batch(
    engine: Engine, requests: Sequence[tuple[Sample, ModelInput]], sampling: Sampling
) -> list[Answer | EngineError]:
    """The answers to questions with different ids, or their errors, in order.

    Raises:
        EngineError, DataPolicyError: the engine failed, or may not be sent the images.
    """
    replies = {
        reply.id: reply
        for batch in engine.generate([sample for sample, _ in requests], sampling)
        for reply in batch
    }
    return [
        build_answer(engine, replies.get(sample.id), model_input)
        for sample, model_input in requests
    ]


def build_answer(
    engine: ModelIdentity, reply: Reply | None, model_input: ModelInput
) -> Answer | EngineError:
    """An engine's reply as an answer, or its error."""
    if reply is None or reply.text is None:
        reason = reply.error if reply else "the engine returned no reply"
        return EngineError(f"{engine.model} gave no answer: {reason}.")
    return Answer(
        reply.text,
        engine.model,
        engine.digest,
        model_input.image_provenance,
        (*model_input.notes, *reply.scaled_images, *engine_notes(engine)),
        finish=reply.finish,
        prompt_tokens=reply.prompt_tokens,
        reply_tokens=reply.reply_tokens,
    )


def stream(
    engine: AsyncEngine,
    sample: Sample,
    model_input: ModelInput,
    sampling: Sampling,
    *,
    on_text: Callable[[str], None],
) -> Answer:
    """The answer to one question, whose pieces go to `on_text` in this thread as they are generated.

    Raises:
        EngineError: there is no answer.
        InputError: the question itself cannot be answered, such as one that is too long.
    """
    events: queue.SimpleQueue[str | Reply | LingshuError] = queue.SimpleQueue()
    handle = engine.submit(sample, replace(sampling, num_generations=1), events.put)
    try:
        while isinstance(event := events.get(), str):
            on_text(event)
    except BaseException:
        handle.cancel()
        raise
    result = event if isinstance(event, LingshuError) else build_answer(engine, event, model_input)
    if isinstance(result, LingshuError):
        raise result
    return result


def answer_to_json(answer: Answer) -> dict[str, Any]:
    """An answer as plain JSON."""
    return {
        "answer": answer.text,
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
