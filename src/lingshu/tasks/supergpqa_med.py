"""SuperGPQA, discipline Medicine: 2,755 graduate-level choices of up to ten.

License: ODC-BY (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/m-a-p/SuperGPQA
"""

from lingshu.core.rows import RowError
from lingshu.sources.hub import HubRepo
from lingshu.tasks import Row, benchmark, pick, text_choice_samples


def convert_row(raw: Row) -> Row:
    """The options are texts; rows of other disciplines are dropped."""
    if raw["discipline"] != "Medicine":
        raise RowError(f"other_discipline: the row belongs to {raw['discipline']!r}.")
    columns = {"id": "uuid", "choices": "options", "gold": "answer_letter"}
    return pick(raw, question="question", field="field", difficulty="difficulty", **columns)


TASK = benchmark(
    "supergpqa_med", title="SuperGPQA, medicine", license="ODC-BY-1.0", unverified=("license",),
    repo=HubRepo("m-a-p/SuperGPQA", ("SuperGPQA-all.jsonl",)), convert_row=convert_row,
    synthetic=text_choice_samples(10, field="made up", difficulty="middle"),
    expected_n=2755, facets=("field", "difficulty"), published=("textual", "SuperGPQA-Med"),
)  # fmt: skip
