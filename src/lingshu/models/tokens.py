"""Counting tokens with a tokenizer alone: no model, no torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lingshu.core.errors import InputError, MissingExtraError, one_line

TOKENIZER_FILE = "tokenizer.json"


def token_counter(folder: Path) -> Callable[[str], int]:
    """A function that counts the tokens of a text, without begin and end marks, by the folder's
    tokenizer.json.

    Raises:
        InputError: no such file, or it is damaged.
        MissingExtraError: the package tokenizers is not installed.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtraError.of("tokenizers", "torch") from error
    file = folder / TOKENIZER_FILE
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:
        # The package raises plain Exception for a missing and for a damaged file alike.
        raise InputError(
            f"{file} cannot be read ({one_line(error)[:200]}); give the folder of a model with its"
            " tokenizer."
        ) from error
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
