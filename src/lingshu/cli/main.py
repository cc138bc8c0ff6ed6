"""The command line: verbs, their one-line help, options of all of them, and how errors are shown.

A verb's module is imported when the verb is called, so that `lingshu --help` costs little more than
an interpreter. Exit codes: 0 done, 1 finished with failures that the output counts, 2 wrong input,
70 a bug, 75 stopped and resumable (training), 130 stopped by the user.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter
from cyclopts.exceptions import UnknownCommandError

from lingshu import __version__
from lingshu.cli import log
from lingshu.core.errors import LingshuError, MissingExtraError, one_line, suggest_name

# Each verb with its line in `lingshu --help`, so that no module is imported to show it.
VERBS = {
    "quickstart": "Train, evaluate and explain a tiny model on synthetic images, from nothing.",
    "curate": "Curate images, reports and tables into a dataset, every dropped row with its reason.",
    "synthesize": "Generate captions, questions and reasoning for a dataset with a teacher model.",
    "build": "Turn a download of a benchmark into the folder that --data reads.",
    "overlap": "Find the items of test sets that occur in training data.",
    "train": "Train one stage or a chain of stages from a recipe or a YAML file.",
    "merge": "Merge models of one architecture, or LoRA adapters of one base.",
    "convert": "Convert a checkpoint to the plain layout, or to GGUF for llama.cpp.",
    "eval": "Evaluate a model on the questions of a task: generate, score and report.",
    "score": "Score replies in a JSONL file, without a model.",
    "report": "Write the reports of scored runs again, and compare several.",
    "ask": "Ask a model about images, DICOM studies and volumes.",
    "draft": "Draft a radiology report as Markdown, FHIR and DICOM SR, unverified.",
    "serve": "Serve a model over an OpenAI-compatible chat completions API.",
    "mcp": "Offer a model and a folder of studies as tools over the Model Context Protocol.",
    "list": "List tasks, scorers, engines, recipes and the other groups of the registry.",
    "doctor": "Check the installation and say how to fix what is wrong.",
}
# Functions that are not `lingshu.cli.VERB:VERB`.
_TARGETS = {
    "quickstart": "lingshu.cli.quickstart:quickstart",
    "eval": "lingshu.cli.eval:evaluate",
    "list": "lingshu.cli.list:list_registry",
}
EXIT_BUG = 70  # "internal software error" of sysexits.h
HELP = (
    "Curate medical images and text, train multimodal models, evaluate and serve them. Research"
    " only; not for clinical use."
)
# The extra that brings a module, for a message in place of a traceback where it is not installed.
EXTRA_BY_MODULE = {
    module: extra
    for extra, modules in {
        "torch": ("torch", "transformers", "tokenizers", "safetensors", "tensorboard"),
        "dicom": ("pydicom", "gdcm", "openjpeg", "jpeg_ls", "dicomweb_client", "nibabel"),
        "serve": ("fastapi", "uvicorn", "prometheus_client"),
        "metrics": ("radgraph", "bert_score"),
        "trackers": ("wandb", "trackio", "mlflow"),
        "hub": ("huggingface_hub",),
        "mcp": ("mcp",),
        "peft": ("peft",),
        "gguf": ("gguf",),
        "ray": ("ray",),
        "vllm": ("vllm",),
    }.items()
    for module in modules
}


def build_app() -> App:
    """The application with every verb registered by name; nothing of a verb is imported."""
    app = App(
        name="lingshu",
        help=HELP,
        version=__version__,
        # a switch is given or not; there is no --no-check next to --check
        default_parameter=Parameter(negative=()),
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
    )
    for position, (name, summary) in enumerate(VERBS.items()):
        target = _TARGETS.get(name, f"lingshu.cli.{name}:{name}")
        app.command(target, name=name, help=summary, sort_key=position)

    app.meta.end_of_options_delimiter = ""  # `--` is for the verb
    app.meta.suppress_keyboard_interrupt = False  # main turns it into its exit code

    @app.meta.default
    def run(
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        verbose: Annotated[bool, Parameter(alias="-v", group="Logging")] = False,
        log_level: Annotated[log.LogLevel | None, Parameter(group="Logging")] = None,
        log_json: Annotated[bool, Parameter(group="Logging")] = False,
    ) -> object:
        """Run a verb.

        Args:
            verbose: Log what is done to standard error; the same as --log-level info.
            log_level: Log records of this level and above to standard error.
            log_json: Log one JSON object per line.
        """
        if verbose or log_level or log_json:
            log.configure(log_level or "info", as_json=log_json)
        return app(tokens)

    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; a bug keeps its traceback."""
    try:
        with _stopped_by_sigterm():
            result = build_app().meta(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()
    except CycloptsError as error:
        return _print_error(_parse_message(error))
    except LingshuError as error:
        return _print_error(one_line(error))
    except KeyboardInterrupt:
        print("lingshu: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of the output is gone (`| head`): what Python still flushes goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        extra = _missing_extra(error)
        if extra is not None:
            return _print_error(one_line(extra))
        traceback.print_exc()
        return EXIT_BUG
    return result if isinstance(result, int) else 0


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM stops a verb as SIGINT does, so that it removes its temporary files."""
    is_default = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if is_default and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    else:
        yield


def _print_error(message: str) -> int:
    print(f"lingshu: error: {message}", file=sys.stderr)
    return 2


def _parse_message(error: CycloptsError) -> str:
    """What is wrong with the command line, on one line that ends in the remedy."""
    if isinstance(error, UnknownCommandError) and not error.command_chain:
        # The parser's own message would import every verb to list it.
        token = (error.unused_tokens or [""])[0]
        return f"there is no command or option {token!r}; {suggest_name(token, VERBS)}"
    verb = " ".join(("lingshu", *(error.command_chain or ())))
    return f"{one_line(error).rstrip('.')}; see `{verb} --help`."


def _missing_extra(error: Exception) -> MissingExtraError | None:
    """The extra to install, if the error comes from a module that only an extra brings."""
    cause: BaseException | None = error if isinstance(error, ImportError) else None
    while cause is not None:
        module = (getattr(cause, "name", None) or "").split(".")[0]
        if isinstance(cause, ModuleNotFoundError) and module in EXTRA_BY_MODULE:
            return MissingExtraError.of(module, EXTRA_BY_MODULE[module])
        cause = cause.__cause__
    return None
