"""Errors that a user can fix; any other exception is a bug.

None derives from a built-in error such as ValueError or OSError: a handler for those never hides
one of these. Each takes one message that names the thing, its value and the remedy, in one line.
The command line prints it and exits with 2.
"""

from __future__ import annotations

import contextlib
import difflib
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path


class LingshuError(Exception):
    """Root of everything a user can fix."""


class ConfigError(LingshuError):
    """A recipe, an option or an override is wrong."""


class InputError(LingshuError):
    """A given file or row cannot be used."""


class ImageError(InputError):
    """An image that cannot be opened within the limits."""


class ArtifactError(LingshuError):
    """A dataset, checkpoint or run folder is missing, truncated or of another kind."""


class StorageError(LingshuError):
    """The disk refused a write."""


class DataPolicyError(LingshuError):
    """A sample may not leave this machine."""


class EngineError(LingshuError):
    """A model or endpoint cannot answer at all."""


class TrainingError(LingshuError):
    """Training cannot continue."""


class UnknownNameError(LingshuError):
    """A name that is not in the registry or another table."""


class MissingExtraError(LingshuError):
    """An optional dependency is not installed."""

    @classmethod
    def of(cls, module: str, extra: str) -> MissingExtraError:
        """The error for a `module` that `pip install 'lingshu[extra]'` brings."""
        return cls(f"{module} is not installed; run: pip install 'lingshu[{extra}]'")


def one_line(error: BaseException) -> str:
    """An error's message on one line, for a note in an artifact or on a terminal."""
    return " ".join(str(error).split()) or type(error).__name__


def describe_error(error: BaseException) -> str:
    """Type, message, file and line of an error in code that is not ours, on one line."""
    frames = traceback.extract_tb(error.__traceback__)
    location = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {one_line(error)[:200]}{location}"


def parse_names(text: str, known: Sequence[str], *, what: str, option: str) -> tuple[str, ...]:
    """The names of a comma-separated list in the order of `known`; `what` each names.

    Raises:
        InputError: an unknown name, or an empty list.
    """
    names = [part.strip() for part in text.split(",") if part.strip()]
    for name in names:
        if name not in known:
            raise InputError(f"there is no {what} {name!r}; {suggest_name(name, known)}")
    if not names:
        raise InputError(f"{option} names nothing; choose among {', '.join(known)}.")
    return tuple(name for name in known if name in names)


@contextlib.contextmanager
def library_errors(what: str, remedy: str) -> Iterator[None]:
    """Turn whatever a library raises about files that others made into one ArtifactError."""
    try:
        yield
    except LingshuError:
        raise
    except BaseException as error:
        # A panic of a Rust library (tokenizers, safetensors) is not an Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        problem = f"{type(error).__name__}: {one_line(error)[:200]}"
        raise ArtifactError(f"{what} ({problem}); {remedy}.") from error


def suggest_name(name: str, candidates: Iterable[str]) -> str:
    """The end of a message about an unknown name: "did you mean 'x'?", else all candidates."""
    options = sorted(candidates)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return "choose one of: " + ", ".join(options) if options else "nothing is available."
