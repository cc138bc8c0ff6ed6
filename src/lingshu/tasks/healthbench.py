"""HealthBench: dialogues that doctors wrote criteria for; only a judge can score a reply.

License: MIT (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/openai/healthbench

Its three sets share dialogues and are never pooled. Replies are kept; scoring them needs a judge.
"""

import json
from typing import Any

from lingshu.core.errors import InputError
from lingshu.core.types import Criterion, Sample, Task
from lingshu.scoring import rubric
from lingshu.sources.hub import HubRepo
from lingshu.tasks import Row, benchmark, pick, rubric_samples

VARIANTS = {
    "healthbench": "HealthBench, the full set: 5,000 dialogues with 48,562 criteria.",
    "healthbench_consensus": "HealthBench Consensus: 3,671 of its dialogues with criteria that"
    " several doctors agreed on.",
    "healthbench_hard": "HealthBench Hard: 1,000 of its dialogues that models answer worst.",
}


def convert_row(raw: Row) -> Row:
    """`prompt` has messages, `rubrics` criteria with points and tags."""
    return {
        **pick(raw, id="prompt_id", group="prompt_id", messages="prompt"),
        "kind": "rubric",
        "rubrics": json.dumps(raw["rubrics"], ensure_ascii=False),
        "theme": _tag_value(raw.get("example_tags"), "theme:"),
    }


def _tag_value(tags: Any, prefix: str) -> str | None:
    values = (str(tag).removeprefix(prefix) for tag in tags or () if str(tag).startswith(prefix))
    return next(values, None)


def criteria(sample: Sample) -> list[Criterion]:
    """The criteria of a dialogue; the name of each is its axis, such as accuracy or completeness.

    Raises:
        InputError: the sample has none, or they cannot be read.
    """
    try:
        return [
            Criterion(
                str(raw["criterion"]),
                float(raw["points"]),
                _tag_value(raw.get("tags"), "axis:"),
                tuple(map(str, raw.get("tags") or ())),
            )
            for raw in json.loads(sample.meta.extra["rubrics"])
        ]
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"sample {sample.id!r} has no criteria that can be read ({type(error).__name__}); check"
            " its rubrics."
        ) from error


def _variant(name: str, title: str, file: str, expected_n: int) -> Task:
    return benchmark(
        name, title=title, license="MIT", unverified=("license",),
        repo=HubRepo("openai/healthbench", (file,)), convert_row=convert_row, score=rubric.score,
        synthetic=rubric_samples, expected_n=expected_n, facets=("theme",), max_tokens=2048,
        criteria=criteria,
    )  # fmt: skip


_SETS = (
    ("healthbench", "HealthBench", "2025-05-07-06-14-12_oss_eval.jsonl", 5000),
    ("healthbench_consensus", "HealthBench Consensus", "consensus_2025-05-09-20-00-46.jsonl", 3671),
    ("healthbench_hard", "HealthBench Hard", "hard_2025-05-08-21-00-10.jsonl", 1000),
)
TASKS = {row[0]: _variant(*row) for row in _SETS}
