"""`lingshu ask`: questions to a model about images, DICOM files and folders, and volumes."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lingshu.cli.options import (
    AbstainOptions,
    Flat,
    ModelOptions,
    SamplingOptions,
    print_warnings,
)
from lingshu.core.errors import InputError
from lingshu.core.types import AsyncEngine, Message, Sample, Sampling
from lingshu.evaluate.calibration import Threshold
from lingshu.inference import answer, batch
from lingshu.inference.engines import open_async_engine, open_engine
from lingshu.inference.inputs import ModelInput, ViewOptions, load_inputs
from lingshu.inference.pacs import PacsOptions, pull_study

# Questions of a file in one batch, whose images are in memory together.
BATCH_SIZE = 8
# A terminal would obey control characters of a reply.
_CONTROL_CHARACTERS = {
    code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (0x09, 0x0A)
}


@dataclass(frozen=True, kw_only=True)
class AskConfig:
    questions: Path | None = None
    'File of questions: JSONL {"question", "id"?, "files"?}, or one per line. Prints JSON lines.'
    chat: bool = False
    "Continue the dialogue: each line of standard input is another question."
    json: bool = False
    "Print one JSON object with the answer, the model and what it saw."
    system: str | None = None
    "System message before the question."


def ask(
    model: str,
    question: str | None = None,
    *files: Path,
    config: Flat[AskConfig] = AskConfig(),
    view: Flat[ViewOptions] = ViewOptions(),
    pacs: Flat[PacsOptions] = PacsOptions(),
    sampling: Flat[SamplingOptions] = SamplingOptions(),
    abstain: Flat[AbstainOptions] = AbstainOptions(),
    model_options: Flat[ModelOptions] = ModelOptions(),
) -> int:
    """Ask a model about images, DICOM files or folders, and NIfTI volumes.

    Args:
        model: Checkpoint folder, hub id, or http(s)://host/v1#name.
        question: What to ask. With --questions, every word after the model is a file.
        files: Images, DICOM files or folders, volumes; shown to the model in this order.
    """
    if config.questions is not None and question is not None:
        files = (Path(question), *files)
        question = None
    if (question is None) == (config.questions is None) or (config.chat and config.questions):
        raise InputError(
            "give one question after the model, or a file of them with --questions (and then no"
            " --chat)."
        )
    if question is not None and not files and len(question) < 256 and Path(question).exists():
        # Without its name, which may be a patient's.
        raise InputError("the question names a file or folder; put the question before it.")
    threshold = abstain.read()
    options = model_options.engine_options(
        batch_size=BATCH_SIZE if config.questions else 1, top_log_probs=abstain.top_log_probs
    )
    with pull_study(pacs) as pulled_files:
        # Before a model is loaded, so that a bad file is reported at once.
        model_input = load_inputs([*files, *pulled_files], view)
    if config.questions is not None:
        batch_config = batch.BatchConfig(
            lambda: open_engine(model, options),
            model_input,
            view,
            sampling.sampling(),
            config.system,
            BATCH_SIZE,
            threshold,
        )
        return _answer_file(config.questions, batch_config)
    sample = answer.build_question_sample(question or "", model_input, system=config.system)
    with contextlib.closing(open_async_engine(model, options)) as engine:
        print_warnings(answer.egress_warnings(sample, engine.endpoint))
        settings = model_input, sampling.sampling(), threshold
        text = _answer(engine, sample, *settings, as_json=config.json)
        for line in _input_lines() if config.chat else ():
            history = (*sample.messages, Message("assistant", (text,)))
            sample = answer.build_question_sample(line, model_input, history=history)
            text = _answer(engine, sample, *settings, as_json=config.json)
    return 0


def _answer(
    engine: AsyncEngine,
    sample: Sample,
    model_input: ModelInput,
    sampling: Sampling,
    threshold: Threshold | None,
    *,
    as_json: bool,
) -> str:
    """Print an answer, as text while it is generated (provenance on standard error) or as JSON."""

    def print_piece(text: str) -> None:
        if not as_json:
            print(text.translate(_CONTROL_CHARACTERS), end="", flush=True)

    answered = answer.stream(
        engine, sample, model_input, sampling, on_text=print_piece, threshold=threshold
    )
    if as_json:
        print(json.dumps(answer.answer_to_json(answered), ensure_ascii=False), flush=True)
    else:
        print(flush=True)
        print(*answer.provenance_lines(answered), sep="\n", file=sys.stderr)
    return answered.text


def _answer_file(path: Path, config: batch.BatchConfig) -> int:
    n_questions = n_failed = 0
    for row in batch.answer_file(path, config, on_warnings=print_warnings):
        print(json.dumps(row, ensure_ascii=False), flush=True)
        n_questions += 1
        n_failed += "error" in row
    print(
        f"{n_questions - n_failed} of {n_questions} questions were answered, {n_failed} failed.",
        file=sys.stderr,
    )
    return 1 if n_failed else 0


def _input_lines() -> Iterator[str]:
    """Lines of standard input that are not blank, up to its end."""
    while True:
        if sys.stdin.isatty():
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()
