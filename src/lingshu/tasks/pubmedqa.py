"""PubMedQA: 500 questions about abstracts, answered by yes, no or maybe, shown as A, B and C.

License: MIT (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/openlifescienceai/pubmedqa
"""

from lingshu.sources.hub import HubRepo
from lingshu.tasks import Row, benchmark, pick, yes_no_maybe_samples


def convert_row(raw: Row) -> Row:
    """The hub's columns id and data, or the publisher's QUESTION, CONTEXTS, final_decision."""
    if "QUESTION" in raw:
        fields = pick(raw, question="QUESTION", context="CONTEXTS", gold="final_decision")
        choices: object = ("yes", "no", "maybe")
    else:
        data = raw["data"]
        fields = pick(data, question="Question", context="Context", gold="Correct Option")
        choices = {name: text for name, text in data["Options"].items() if text}
    if not isinstance(fields["context"], str):
        fields["context"] = "\n".join(fields["context"])
    return {**fields, "id": raw.get("id") or raw.get("_key"), "choices": choices}


TASK = benchmark(
    "pubmedqa", title="PubMedQA", license="MIT", unverified=("license",),
    repo=HubRepo(
        "openlifescienceai/pubmedqa", ("data/test-*.parquet", "test_set.json"), single_table=True
    ),
    convert_row=convert_row, synthetic=yes_no_maybe_samples, expected_n=500,
    known_counts=((1000, "all labeled questions; the test split has 500"),),
    published=("textual", "PubMedQA"),
)  # fmt: skip
