"""`lingshu ask`: one question to a model about images."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lingshu.apps.models import engine_for
from lingshu.core.errors import EngineError, InputError
from lingshu.core.messages import user_turn
from lingshu.core.nouns import Image, Meta, Sample, Sampling
from lingshu.core.options import EngineOptions
from lingshu.core.release import Release
from lingshu.imaging.read import open_image

NOTICE = "Research only; not for clinical use."


def ask(
    model: str,
    question: str,
    *files: Path,
    json_: Annotated[bool, Parameter(name="--json")] = False,
    max_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
    threads: int | None = None,
    allow_remote: bool = False,
) -> int:
    """Ask a model one question about images.

    Parameters
    ----------
    model
        A checkpoint folder, a hub id, or http(s)://host/v1#name.
    question
        What to ask.
    files
        Image files, shown to the model in this order.
    json_
        Print one JSON object with answer, model and token counts.
    max_tokens
        The longest answer, in tokens.
    temperature
        0 gives the likeliest answer, the same each time.
    seed
        Decides the draw at a temperature above 0.
    threads
        CPU threads for a model in this process.
    allow_remote
        Let the images go to an endpoint on another machine.
    """
    sample = question_sample(question, files)
    options = EngineOptions(batch_size=1, threads=threads, release=Release(private=allow_remote))
    engine = engine_for(model, options)
    replies = [reply for batch in engine.generate([sample], Sampling(max_tokens, temperature, seed=seed)) for reply in batch]
    if not replies or replies[0].text is None:
        raise EngineError(f"{model} gave no answer: {replies[0].error if replies else 'no reply came'}.")
    reply = replies[0]
    if json_:
        fields = {"answer": reply.text, "model": engine.model, "model_digest": engine.digest, "finish": reply.finish}
        print(json.dumps({**fields, "reply_tokens": reply.reply_tokens, "notice": NOTICE}, ensure_ascii=False))
    else:
        print(reply.text)
        cut = " The answer was cut at --max-tokens." if reply.finish == "length" else ""
        print(f"[{engine.model} {engine.digest[:12]}] {NOTICE}{cut}", file=sys.stderr)
    return 0


def question_sample(question: str, files: Sequence[Path]) -> Sample:
    """A question about image files, each opened once so that a bad one is named before a model is loaded.

    Raises:
        InputError: an empty question. BadImage: a file that is no usable image.
    """
    if not question.strip():
        raise InputError("the question is empty; write it in quotes after the model.")
    images = tuple(Image(path=str(file)) for file in files)
    for image in images:
        open_image(image)
    return Sample("question", (user_turn(question, len(images)),), images, meta=Meta(access="private"))
