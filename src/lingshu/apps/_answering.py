"""A question about images to a model, and its answer with all that must go with one: model, hash,
notice, and what was seen.

Everything that answers people goes through here. Whether a question may leave this machine is the
engine's to ask (core/release.py); `concerns` says beforehand what a person should know of the
images that would leave.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from lingshu.apps._looking import Looked
from lingshu.core.errors import EngineError, InputError, LingshuError
from lingshu.core.messages import user_turn
from lingshu.core.nouns import Drop, Engine, Live, Message, Meta, Reply, Sample, Sampling
from lingshu.core.release import is_local
from lingshu.imaging.seen import Seen, in_words, seen_to_json

NOTICE = "Research only; not for clinical use."


class Model(Protocol):
    """What an answer says of who gave it; every engine has it."""

    @property
    def model(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def endpoint(self) -> str | None: ...


@dataclass(frozen=True)
class Answer:
    """What a model said, and what must be shown with it; `finish` is "length" for an answer that
    was cut.
    """

    text: str
    model: str
    digest: str
    seen: tuple[Seen, ...] = ()
    notes: tuple[str, ...] = ()
    finish: str | None = None
    prompt_tokens: int | None = None
    reply_tokens: int | None = None
    notice: str = NOTICE


def question_sample(
    question: str,
    looked: Looked,
    *,
    system: str | None = None,
    before: Sequence[Message] = (),
    sample_id: str = "question",
) -> Sample:
    """A private sample that shows every image and asks `question`; `before` are earlier turns, the
    first of which showed them.

    Raises:
        InputError: an empty question.
    """
    if not question.strip():
        raise InputError("the question is empty; write it in quotes after the model.")
    first = (Message("system", (system,)),) if system and not before else ()
    turn = Message("user", (question,)) if before else user_turn(question, len(looked.images))
    modalities = {seen.modality for seen in looked.seen}
    modality = modalities.pop() if len(modalities) == 1 else None
    extra = {"burned_in_risk": looked.risk} if looked.risk else {}
    meta = Meta(access="private", deidentified=False, modality=modality, extra=extra)
    return Sample(sample_id, (*first, *before, turn), looked.images, meta=meta)


def answer(engine: Engine, sample: Sample, looked: Looked, sampling: Sampling) -> Answer:
    """Ask one question.

    Raises:
        EngineError: no answer came. ReleaseError: the images may not go to the engine's address.
    """
    [answered] = answers(engine, [(sample, looked)], sampling)
    if isinstance(answered, LingshuError):
        raise answered
    return answered


def answers(
    engine: Engine, asked: Sequence[tuple[Sample, Looked]], sampling: Sampling
) -> list[Answer | EngineError]:
    """The answers to questions with different ids, in their order; one that was not answered is an
    error in its place.

    Raises:
        EngineError, ReleaseError: the whole engine failed, or refuses.
    """
    replies = {
        reply.id: reply
        for batch in engine.generate([sample for sample, _ in asked], sampling)
        for reply in batch
    }
    return [answer_of(engine, replies.get(sample.id), looked) for sample, looked in asked]


def answer_of(engine: Model, reply: Reply | None, looked: Looked) -> Answer | EngineError:
    """An engine's reply as an answer, or why there is none."""
    if reply is None or reply.text is None:
        return EngineError(
            f"{engine.model} gave no answer: {reply.error if reply else 'no reply came'}."
        )
    counts = reply.finish, reply.prompt_tokens, reply.reply_tokens
    return Answer(reply.text, engine.model, engine.digest, looked.seen, looked.notes, *counts)


def stream(
    live: Live, sample: Sample, looked: Looked, sampling: Sampling, *, said: Callable[[str], None]
) -> Answer:
    """Ask one question and hand over the pieces of the answer to `said`, in this thread, as they
    are made.

    Raises:
        EngineError: no answer came. InputError: the question itself cannot be answered, such as one
            that is too long.
    """
    heard: queue.SimpleQueue[str | Reply | LingshuError] = queue.SimpleQueue()
    asked = live.submit(sample, replace(sampling, copies=1), heard.put)
    try:
        while isinstance(piece := heard.get(), str):
            said(piece)
    except BaseException:
        asked.cancel()
        raise
    found = piece if isinstance(piece, LingshuError) else answer_of(live, piece, looked)
    if isinstance(found, LingshuError):
        raise found
    return found


def answer_json(found: Answer) -> dict[str, Any]:
    """An answer as plain JSON."""
    return {
        "answer": found.text,
        "model": found.model,
        "model_digest": found.digest,
        "finish": found.finish,
        "prompt_tokens": found.prompt_tokens,
        "reply_tokens": found.reply_tokens,
        "seen": [seen_to_json(seen) for seen in found.seen],
        "notes": list(found.notes),
        "notice": found.notice,
    }


def provenance(found: Answer) -> list[str]:
    """The lines that stand below an answer on a terminal or a page."""
    cut = " The answer was cut at max_tokens." if found.finish == "length" else ""
    empty = "" if found.text.strip() else " The answer is empty."
    return [
        *in_words(found.seen),
        *found.notes,
        f"[{found.model} {found.digest[:12]}] {found.notice}{cut}{empty}",
    ]


def concerns(sample: Sample, endpoint: str | None) -> list[str]:
    """What a person should know before the images of `sample` go to another machine; nothing for a
    model on this one.

    Text in the pixels may name a patient. Both what a DICOM file says of itself and the pixels are
    looked at (ops/burned_in_text.py); no warning is no proof that there is none.
    """
    if is_local(endpoint) or not sample.images:
        return []
    from lingshu.imaging.pictures import Pictures
    from lingshu.ops import burned_in_text

    with Pictures() as opened:
        found = burned_in_text.step().open()(sample, opened)
    if not isinstance(found, Drop):
        return []
    why = _WHY.get(found.reason, found.reason)
    return [
        "the images may hold text, which may name a patient"
        f" ({why}{f': {found.detail}' if found.detail else ''}); they leave this machine."
    ]


_WHY: Mapping[str, str] = {
    "burned_in_stated": "a DICOM file says so",
    "burned_in_likely": "its kind of image often does",
    "text_in_image": "lines of type were found",
}
