"""`lingshu ask`: questions to a model about pictures, DICOM files and folders, and volumes."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lingshu.apps._answering import (
    Answer,
    answer_json,
    concerns,
    provenance,
    question_sample,
    stream,
)
from lingshu.apps._looking import SLICES, Looked, View, look
from lingshu.apps._pacs import pulled
from lingshu.apps._questions import ask_file
from lingshu.apps.models import engine_for, live_for
from lingshu.core.errors import InputError
from lingshu.core.nouns import Live, Message, Sample, Sampling
from lingshu.core.options import EngineOptions
from lingshu.core.release import Release
from lingshu.imaging.windows import OWN

# Questions of a file are asked so many at a time: their images are in memory meanwhile.
BATCH = 8
# A model may say what a terminal would obey.
_CONTROL = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (0x09, 0x0A)}


def ask(
    model: str,
    question: str | None = None,
    *files: Path,
    questions: Path | None = None,
    chat: bool = False,
    json_: Annotated[bool, Parameter(name="--json")] = False,
    system: str | None = None,
    window: tuple[str, ...] = (OWN,),
    slices: int = SLICES,
    series: tuple[int, ...] = (),
    dicomweb: str | None = None,
    study: str | None = None,
    auth: Path | None = None,
    max_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
    threads: int | None = None,
    allow_remote: bool = False,
) -> int:
    """Ask a model about images: pictures, DICOM files or folders, NIfTI volumes.

    Parameters
    ----------
    model
        A checkpoint folder, a hub id, or http(s)://host/v1#name.
    question
        What to ask. With --questions there is none, and every word after the model is a file.
    files
        Pictures, DICOM files or folders, volumes; shown to the model in this order.
    questions
        A file of questions: JSONL {"question", "id"?, "files"?}, or one question a line. Prints one
        JSON object a question.
    chat
        Go on asking: each further line of standard input is a question in the same dialogue.
    json_
        Print one JSON object with the answer, the model and what it saw.
    system
        A system turn before the question.
    window
        A window of CT (lung, soft, bone, brain, liver, abdomen, mediastinum), CENTER,WIDTH, or
        file. May be given several times.
    slices
        The most slices or frames of each series or volume, taken evenly.
    series
        The series of a folder to show, by number. May be given several times.
    dicomweb
        Address of a DICOMweb server to pull --study from.
    study
        The StudyInstanceUID to pull.
    auth
        A file with user:password or a bearer token for --dicomweb, in place of DICOMWEB_AUTH.
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
    if questions is not None and question is not None:
        files = (Path(question), *files)
        question = None
    if (question is None) == (questions is None) or (chat and questions is not None):
        raise InputError(
            "give one question after the model, or a file of them with --questions (and then no"
            " --chat)."
        )
    if question is not None and not files and len(question) < 256 and Path(question).exists():
        # Without its name: it may be a patient's.
        raise InputError(
            "the question is the name of a file or folder; put the question before it."
        )
    view = View(window, slices, series or None)
    sampling = Sampling(max_tokens, temperature, seed=seed)
    options = EngineOptions(
        batch_size=BATCH if questions else 1, threads=threads, release=Release(private=allow_remote)
    )
    with pulled(dicomweb, study, auth) as pulled_files:
        # Before a model is loaded: a bad file is named at once.
        looked = look([*files, *pulled_files], view)
    if questions is not None:
        return ask_file(
            lambda: engine_for(model, options),
            questions,
            looked,
            view,
            sampling,
            system=system,
            batch=BATCH,
        )
    asking = question_sample(question or "", looked, system=system)
    show = _in_json if json_ else _in_words
    with contextlib.closing(live_for(model, options)) as live:
        for line in concerns(asking, live.endpoint):
            print(f"lingshu: warning: {line}", file=sys.stderr)
        found = show(live, asking, looked, sampling)
        for line in _lines() if chat else ():
            before = (*asking.messages, Message("assistant", (found.text,)))
            asking = question_sample(line, looked, before=before)
            found = show(live, asking, looked, sampling)
    return 0


def _lines() -> Iterator[str]:
    """Lines of standard input that say something, up to its end."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _in_words(live: Live, asking: Sample, looked: Looked, sampling: Sampling) -> Answer:
    """Print an answer while it is made, and on standard error what must stand with it."""
    found = stream(
        live,
        asking,
        looked,
        sampling,
        said=lambda text: print(text.translate(_CONTROL), end="", flush=True),
    )
    print(flush=True)
    for line in provenance(found):
        print(line, file=sys.stderr)
    return found


def _in_json(live: Live, asking: Sample, looked: Looked, sampling: Sampling) -> Answer:
    found = stream(live, asking, looked, sampling, said=lambda _: None)
    print(json.dumps(answer_json(found), ensure_ascii=False), flush=True)
    return found
