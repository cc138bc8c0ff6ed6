"""Text length in tokens: captions that are too short to teach or too long to be one are dropped.

The paper drops caption samples of fewer than 10 or more than 1024 tokens (section 2.1.4) and leaves
instruction data alone, where `yes` is a right answer; hence `kinds`. Its tokenizer is not stated;
give the folder of your model's. Without one the count is an approximation: one token for every
seven letters of a word (rounded up), and one for each digit, Chinese character and mark.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from lingshu.core.step_types import MapStep, Pixels, SampleFunction
from lingshu.core.types import Drop, Sample
from lingshu.models.tokens import TOKENIZER_FILE, token_counter
from lingshu.ops._sample_fields import answer_text, check_choice, message_texts, require

_TOKEN_PATTERN = re.compile(r"[^\W\d_\u3400-\u9fff]+|\w|[^\w\s]")


def step(
    *,
    min_tokens: int = 10,
    max_tokens: int = 1024,
    kinds: Sequence[str] = ("caption",),
    tokenizer: str | None = None,
    field: str = "answer",
) -> MapStep:
    """Keep texts of at least `min_tokens` and at most `max_tokens` tokens.

    Args:
        min_tokens, max_tokens: both inclusive.
        kinds: values of `meta.kind` to check; others pass. Empty: all.
        tokenizer: a folder with tokenizer.json; None counts approximately.
        field: what is counted: `answer` (the caption) or `all` (the whole dialogue).

    Drops: too_short, too_long.
    """
    require(
        0 <= min_tokens <= max_tokens,
        f"text_length: min_tokens {min_tokens} must be between 0 and max_tokens {max_tokens}.",
    )
    check_choice("text_length", "field", field, ("answer", "all"))

    def open_step() -> SampleFunction:
        count_tokens = (
            approximate_token_count if tokenizer is None else token_counter(Path(tokenizer))
        )

        def check_length(sample: Sample, _: Pixels) -> Sample | Drop:
            if kinds and sample.meta.kind not in kinds:
                return sample
            is_answer = field == "answer"
            n = count_tokens(answer_text(sample) if is_answer else "\n".join(message_texts(sample)))
            if n < min_tokens:
                return Drop(sample.id, "too_short", f"{n} tokens, fewer than {min_tokens}")
            if n > max_tokens:
                return Drop(sample.id, "too_long", f"{n} tokens, more than {max_tokens}")
            return sample

        return check_length

    input_files = () if tokenizer is None else (str(Path(tokenizer) / TOKENIZER_FILE),)
    return MapStep(open_step, input_files)


def approximate_token_count(text: str) -> int:
    """About the number of tokens of a byte-pair tokenizer with some 150,000 entries."""
    return sum((len(piece) + 6) // 7 for piece in _TOKEN_PATTERN.findall(text))
