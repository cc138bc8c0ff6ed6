"""PubMedQA: 500 questions about abstracts, answered by yes, no or maybe, which stand as A, B and C.

License: MIT (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/openlifescienceai/pubmedqa
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lingshu.sources.hub import HubRepo
from lingshu.tasks._benchmark import benchmark
from lingshu.tasks._synthetic import yes_no_maybe_samples

ANSWERS = ("yes", "no", "maybe")


def convert_row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The columns id and data {Question, Options, Context, Correct Option}, or the publisher's keys
    QUESTION, CONTEXTS, final_decision.
    """
    if "QUESTION" in raw:
        return {
            "id": raw.get("id") or raw.get("_key"),
            "question": raw["QUESTION"],
            "context": "\n".join(raw["CONTEXTS"]),
            "choices": ANSWERS,
            "gold": raw["final_decision"],
        }
    data = raw["data"]
    context = data["Context"]
    return {
        "id": raw.get("id"),
        "question": data["Question"],
        "context": context if isinstance(context, str) else "\n".join(context),
        "choices": {name: text for name, text in data["Options"].items() if text},
        "gold": data["Correct Option"],
    }


TASK = benchmark(
    "pubmedqa",
    title="PubMedQA",
    repo=HubRepo(
        "openlifescienceai/pubmedqa", ("data/test-*.parquet", "test_set.json"), single_table=True
    ),
    license="MIT",
    unverified=("license",),
    convert_row=convert_row,
    synthetic=yes_no_maybe_samples,
    expected_n=500,
    known_counts=((1000, "all labelled questions; the test split has 500"),),
    published=("textual", "PubMedQA"),
)
