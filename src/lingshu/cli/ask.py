"""`lingshu ask`: questions to a model about pictures, DICOM files and folders, and volumes."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lingshu.core.data_policy import DataPolicy
from lingshu.core.engine_options import EngineOptions
from lingshu.core.errors import InputError
from lingshu.core.types import AsyncEngine, Message, Sample, Sampling
from lingshu.imaging.windows import FILE_WINDOW
from lingshu.inference.answer import (
    Answer,
    answer_to_json,
    build_question_sample,
    egress_warnings,
    provenance_lines,
    stream,
)
from lingshu.inference.batch import answer_file
from lingshu.inference.engines import open_async_engine, open_engine
from lingshu.inference.inputs import DEFAULT_SLICES, ModelInput, ViewOptions, load_inputs
from lingshu.inference.pacs import pull_study

# Questions of a file are asked so many at a time: their images are in memory meanwhile.
BATCH_SIZE = 8
# A model may say what a terminal would obey.
_CONTROL_CHARACTERS = {
    code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (0x09, 0x0A)
}


def ask(
    model: str,
    question: str | None = None,
    *files: Path,
    questions: Path | None = None,
    chat: bool = False,
    json_: Annotated[bool, Parameter(name="--json")] = False,
    system: str | None = None,
    window: tuple[str, ...] = (FILE_WINDOW,),
    max_slices: int = DEFAULT_SLICES,
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
    view_options = ViewOptions(window, max_slices, series or None)
    sampling = Sampling(max_tokens, temperature, seed=seed)
    options = EngineOptions(
        batch_size=BATCH_SIZE if questions else 1,
        threads=threads,
        data_policy=DataPolicy(allow_private=allow_remote),
    )
    with pull_study(dicomweb, study, auth) as pulled_files:
        # Before a model is loaded: a bad file is named at once.
        model_input = load_inputs([*files, *pulled_files], view_options)
    if questions is not None:
        return answer_file(
            lambda: open_engine(model, options),
            questions,
            model_input,
            view_options,
            sampling,
            system=system,
            batch_size=BATCH_SIZE,
        )
    sample = build_question_sample(question or "", model_input, system=system)
    print_answer = _print_json if json_ else _print_text
    with contextlib.closing(open_async_engine(model, options)) as engine:
        for line in egress_warnings(sample, engine.endpoint):
            print(f"lingshu: warning: {line}", file=sys.stderr)
        answer = print_answer(engine, sample, model_input, sampling)
        for line in _input_lines() if chat else ():
            history = (*sample.messages, Message("assistant", (answer.text,)))
            sample = build_question_sample(line, model_input, history=history)
            answer = print_answer(engine, sample, model_input, sampling)
    return 0


def _input_lines() -> Iterator[str]:
    """Lines of standard input that say something, up to its end."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _print_text(
    engine: AsyncEngine, sample: Sample, model_input: ModelInput, sampling: Sampling
) -> Answer:
    """Print an answer while it is made, and on standard error what must stand with it."""
    answer = stream(
        engine,
        sample,
        model_input,
        sampling,
        on_text=lambda text: print(text.translate(_CONTROL_CHARACTERS), end="", flush=True),
    )
    print(flush=True)
    for line in provenance_lines(answer):
        print(line, file=sys.stderr)
    return answer


def _print_json(
    engine: AsyncEngine, sample: Sample, model_input: ModelInput, sampling: Sampling
) -> Answer:
    answer = stream(engine, sample, model_input, sampling, on_text=lambda _: None)
    print(json.dumps(answer_to_json(answer), ensure_ascii=False), flush=True)
    return answer
