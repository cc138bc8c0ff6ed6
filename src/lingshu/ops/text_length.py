"""Text length in tokens: captions that are too short to teach or too long to be one are dropped.

The paper drops caption samples of fewer than 10 or more than 1024 tokens (section 2.1.4) and leaves
instruction data alone, where `yes` is a right answer; hence `kinds`. Its tokenizer is not stated;
give the folder of your model's. Without one the count is an approximation: a word counts one token
for every seven letters begun, a digit, a Chinese character and a mark one each.
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
        min_tokens, max_tokens: both still kept.
        kinds: values of `meta.kind` that are looked at; others pass. Empty: all.
        tokenizer: a folder with tokenizer.json; None counts approximately.
        of: what is counted: `answer` (the caption) or `all` (the whole dialogue).

    Drops: too_short, too_long.
    """
    require(
        0 <= min_tokens <= max_tokens,
        f"text_length: min_tokens {min_tokens} must be at least 0 and at most max_tokens"
        f" {max_tokens}.",
    )
    check_choice("text_length", "field", field, ("answer", "all"))

    def open_step() -> SampleFunction:
        count_tokens = (
            approximate_token_count if tokenizer is None else token_counter(Path(tokenizer))
        )

        def check_length(sample: Sample, _: Pixels) -> Sample | Drop:
            if kinds and sample.meta.kind not in kinds:
                return sample
            n_tokens = count_tokens(
                answer_text(sample) if field == "answer" else "\n".join(message_texts(sample))
            )
            if n_tokens < min_tokens:
                return Drop(sample.id, "too_short", f"{n_tokens} tokens, fewer than {min_tokens}")
            return (
                sample
                if n_tokens <= max_tokens
                else Drop(sample.id, "too_long", f"{n_tokens} tokens, more than {max_tokens}")
            )

        return check_length

    return MapStep(
        open_step, input_files=() if tokenizer is None else (str(Path(tokenizer) / TOKENIZER_FILE),)
    )


def approximate_token_count(text: str) -> int:
    """About how many tokens a byte-pair tokenizer of some 150,000 entries makes of a text."""
    return sum((len(piece) + 6) // 7 for piece in _TOKEN_PATTERN.findall(text))
