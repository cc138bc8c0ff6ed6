"""Errors that a person can mend; everything else is a bug of ours.

LingshuError
├── ConfigError      ValueError   a recipe, an option or an override is wrong
├── InputError       ValueError   a file or row that was handed in cannot be used
│   └── BadImage                  an image that cannot be opened within the limits
├── ArtefactError    ValueError   a dataset, checkpoint or run folder is missing, torn or of another kind
├── StorageError     ValueError   the disk refused a write
├── ReleaseError     ValueError   a sample may not leave this machine
├── EngineError      ValueError   a model or endpoint cannot answer at all
├── TrainingError    ValueError   training cannot go on: a loss that is no number, no sample left
├── UnknownName      LookupError  a name that no shelf holds
└── MissingExtra     LookupError  a part that was not installed

Each message names the thing, its value and the remedy, in one line. The command line prints it and
exits with 2.
"""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterable
from pathlib import Path


class LingshuError(Exception):
    """Root of everything a person can mend."""


class ConfigError(LingshuError, ValueError):
    """A recipe, an option or an override is wrong."""


class InputError(LingshuError, ValueError):
    """A file or a row that was handed in cannot be used."""


class ImageError(InputError):
    """An image that cannot be opened within the limits."""


class ArtifactError(LingshuError, ValueError):
    """A dataset, checkpoint or run folder is missing, torn or of another kind."""


class StorageError(LingshuError, ValueError):
    """The disk refused a write."""


class DataPolicyError(LingshuError, ValueError):
    """A sample may not leave this machine."""


class EngineError(LingshuError, ValueError):
    """A model or endpoint cannot answer at all."""


class TrainingError(LingshuError, ValueError):
    """Training cannot go on."""


class UnknownNameError(LingshuError, LookupError):
    """A name that no shelf holds."""


class MissingExtraError(LingshuError, LookupError):
    """A part that was not installed."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f"{module} is not installed; run: pip install 'lingshu[{extra}]'")


def one_line(error: BaseException) -> str:
    """An error's message on one line, for a note in an artefact or on a terminal."""
    return " ".join(str(error).split()) or type(error).__name__


def describe_error(error: BaseException) -> str:
    """What went wrong in code that is not ours, and where: type, message, file and line, on one
    line.
    """
    frames = traceback.extract_tb(error.__traceback__)
    location = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {one_line(error)[:200]}{location}"


def suggest_name(name: str, candidates: Iterable[str]) -> str:
    """` did you mean 'x'?` for the closest known name, else the whole list, ready to append to a
    message.
    """
    options = sorted(candidates)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return "choose one of: " + ", ".join(options) if options else "there is none to choose from."
