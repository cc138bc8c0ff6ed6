"""HealthBench: dialogues that doctors wrote criteria for; only a judge can score a reply.

Licence: MIT (unverified). Revision: resolved at download. Link:
https://huggingface.co/datasets/openai/healthbench Its three sets overlap and are never pooled: full
5,000, hard 1,000, consensus 3,671.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lingshu.core.errors import InputError
from lingshu.core.types import Criterion, Sample, Score, Task
from lingshu.scoring._reports import NEEDS_JUDGE
from lingshu.sources.hub import HubRepo
from lingshu.tasks._benchmark import benchmark
from lingshu.tasks._synthetic import rubric_samples


def convert_row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keys prompt_id, prompt (messages), rubrics (criterion, points, tags), example_tags."""
    tags = [str(tag) for tag in raw.get("example_tags") or ()]
    return {
        "id": raw["prompt_id"],
        "messages": raw["prompt"],
        "kind": "rubric",
        "group": raw["prompt_id"],
        "rubrics": json.dumps(raw["rubrics"], ensure_ascii=False),
        "theme": next(
            (tag.removeprefix("theme:") for tag in tags if tag.startswith("theme:")), None
        ),
    }


def score(sample: Sample, reply: str) -> Score:  # noqa: ARG001 - no reply can be scored without a judge
    """Refuses: the criteria need a judge.

    Raises:
        InputError: always.
    """
    raise InputError(
        f"{NEEDS_JUDGE}: sample {sample.id!r} is scored by criteria; its reply is kept and can be"
        " judged later."
    )


def criteria(sample: Sample) -> list[Criterion]:
    """The criteria of a dialogue; the name of each is its axis, such as accuracy or completeness.

    Raises:
        InputError: the sample has none, or they cannot be read.
    """
    try:
        return [_parse_criterion(raw) for raw in json.loads(sample.meta.extra["rubrics"])]
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"sample {sample.id!r} has no criteria that can be read ({type(error).__name__}); check"
            " its rubrics."
        ) from error


def _parse_criterion(raw: Mapping[str, Any]) -> Criterion:
    tags = tuple(str(tag) for tag in raw.get("tags") or ())
    axis = next((tag.removeprefix("axis:") for tag in tags if tag.startswith("axis:")), None)
    return Criterion(str(raw["criterion"]), float(raw["points"]), axis, tags)


def make_task(name: str, title: str, file: str, expected_n: int) -> Task:
    """One of the three sets."""
    task = benchmark(
        name,
        title=title,
        repo=HubRepo("openai/healthbench", (file,)),
        license="MIT",
        unverified_fields=("license",),
        convert_row=convert_row,
        score=score,
        synthetic=rubric_samples,
        expected_n=expected_n,
        facets=("theme",),
        max_tokens=2048,
    )
    return replace(task, criteria=criteria)
