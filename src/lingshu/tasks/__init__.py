"""One data set per module, with one task for each of its variants.

Exported here is what the module of a benchmark needs; docs/add-a-benchmark.md shows how.
"""

from lingshu.tasks._benchmark import (
    BenchmarkSource,
    Reader,
    Row,
    RowConverter,
    benchmark,
    convert_exam_row,
    letter_at,
    letter_for_text,
    non_empty_options,
    pick,
    read_samples,
)  # fmt: skip
from lingshu.tasks._synthetic import (
    SYNTHETIC_SOURCE,
    concatenate,
    image_samples,
    rubric_samples,
    text_choice_samples,
    yes_no_maybe_samples,
)  # fmt: skip

__all__ = [
    "BenchmarkSource", "Reader", "Row", "RowConverter", "SYNTHETIC_SOURCE", "benchmark", "concatenate", "convert_exam_row",
    "image_samples", "letter_at", "letter_for_text", "non_empty_options", "pick", "read_samples", "rubric_samples",
    "text_choice_samples", "yes_no_maybe_samples",
]  # fmt: skip
