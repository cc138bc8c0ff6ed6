"""The command line: names of verbs, their one-line help, and what errors look like to a person.

A verb's module is imported when the verb is called, so that `lingshu --help` costs an interpreter
and little more. Exit codes: 0 done, 1 finished with failures that the output counts, 2 wrong input,
70 a bug of ours, 75 stopped and resumable (training), 130 stopped by the user.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter
from cyclopts.exceptions import UnknownCommandError

from lingshu import __version__
from lingshu.core.errors import LingshuError, MissingExtraError, one_line, suggest_name

# Verb, where its function is, and its line in `lingshu --help`; given here so that no module is
# imported to show it.
VERBS = (
    (
        "quickstart",
        "lingshu.quickstart.run:quickstart",
        "Train, evaluate and explain a tiny model on drawn images, from nothing.",
    ),
    (
        "curate",
        "lingshu.cli.curate:curate",
        "Curate images, reports and tables into a dataset, every dropped row with its reason.",
    ),
    (
        "synthesize",
        "lingshu.cli.synthesize:synthesize",
        "Make captions, questions and reasoning of a dataset with a teacher.",
    ),
    (
        "build",
        "lingshu.cli.build:build",
        "Turn a download of a benchmark into the folder that --data reads.",
    ),
    (
        "overlap",
        "lingshu.cli.overlap:overlap",
        "Find the items of test sets that stand in training data.",
    ),
    (
        "train",
        "lingshu.cli.train:train",
        "Train one stage or a chain of stages from a recipe or a YAML file.",
    ),
    (
        "merge",
        "lingshu.cli.merge:merge",
        "Merge models of one architecture, or LoRA adapters of one base.",
    ),
    (
        "eval",
        "lingshu.cli.eval:evaluate",
        "Ask a model the questions of a task, score its replies and report.",
    ),
    ("score", "lingshu.cli.score:score", "Score replies in a JSONL file, without a model."),
    (
        "report",
        "lingshu.cli.report:report",
        "Write the reports of scored runs anew, and set several side by side.",
    ),
    ("ask", "lingshu.cli.ask:ask", "Ask a model about pictures, DICOM studies and volumes."),
    (
        "draft",
        "lingshu.cli.draft:draft",
        "Draft a radiology report as Markdown, FHIR and DICOM SR, unverified.",
    ),
    (
        "serve",
        "lingshu.cli.serve:serve",
        "Serve a model to many at once, behind the chat completions interface.",
    ),
    (
        "mcp",
        "lingshu.cli.mcp:mcp",
        "Offer a model and a folder of studies as tools over the Model Context Protocol.",
    ),
    (
        "list",
        "lingshu.cli.list:list_registry",
        "List what is on a shelf, such as tasks or scoring.",
    ),
    (
        "doctor",
        "lingshu.cli.doctor:doctor",
        "Check the installation and say how to mend what is wrong.",
    ),
)
EXIT_BUG = 70  # "internal software error" of sysexits.h
HELP = (
    "From medical images and text to a trained multimodal model and scores to trust. Research only;"
    " not for clinical use."
)
# The extra that brings a module, for a message in place of a traceback where it was not installed.
EXTRA_BY_MODULE = {
    **dict.fromkeys(("torch", "transformers", "tokenizers", "safetensors", "tensorboard"), "torch"),
    **dict.fromkeys(
        ("pydicom", "gdcm", "openjpeg", "jpeg_ls", "dicomweb_client", "nibabel"), "dicom"
    ),
    **dict.fromkeys(("fastapi", "uvicorn"), "serve"),
    **dict.fromkeys(("radgraph", "bert_score"), "metrics"),
    **dict.fromkeys(("wandb", "trackio", "mlflow"), "trackers"),
    "huggingface_hub": "hub",
    "peft": "peft",
    "ray": "ray",
    "vllm": "vllm",
}


def build_app() -> App:
    """The application with every verb registered by name; nothing of a verb is imported."""
    app = App(
        name="lingshu",
        help=HELP,
        version=__version__,
        # a switch is there or not; no --no-check beside --check
        default_parameter=Parameter(negative=()),
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,  # main turns it into its exit code
    )
    for position, (name, target, summary) in enumerate(VERBS):
        app.command(target, name=name, help=summary, sort_key=position)
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors of ours keep their traceback."""
    try:
        result = build_app()(sys.argv[1:] if argv is None else list(argv))
        sys.stdout.flush()
    except CycloptsError as error:
        return _print_error(_parse_message(error))
    except LingshuError as error:
        return _print_error(one_line(error))
    except ImportError as error:
        extra = _missing_extra(error)
        if extra is None:
            traceback.print_exc()
            return EXIT_BUG
        return _print_error(one_line(extra))
    except KeyboardInterrupt:
        print("lingshu: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output went away (`| head`); what Python still wants to flush goes
        # nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception:
        # A bug of ours: the traceback stays, and the exit code is one that means nothing else.
        traceback.print_exc()
        return EXIT_BUG
    return result if isinstance(result, int) else 0


def _print_error(message: str) -> int:
    print(f"lingshu: error: {message}", file=sys.stderr)
    return 2


def _parse_message(error: CycloptsError) -> str:
    """What was wrong with the command line, on one line that ends in the remedy."""
    if isinstance(error, UnknownCommandError) and not error.command_chain:
        # The parser's own message would import every verb to list it.
        token = (error.unused_tokens or [""])[0]
        return (
            f"there is no command or option {token!r};"
            f" {suggest_name(token, [name for name, _, _ in VERBS])}"
        )
    message = one_line(error).rstrip(".")
    verb = " ".join(("lingshu", *(error.command_chain or ())))
    return f"{message}; see `{verb} --help`."


def _missing_extra(error: ImportError) -> MissingExtraError | None:
    """The extra to install, where the error comes from a module that only an extra brings."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ModuleNotFoundError) and cause.name:
            module = cause.name.split(".")[0]
            if module in EXTRA_BY_MODULE:
                return MissingExtraError.of(module, EXTRA_BY_MODULE[module])
        cause = cause.__cause__
    return None
