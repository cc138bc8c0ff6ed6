"""Rad-ReStruct: structured reporting as 18,186 questions about 374 frontal chest X-rays of 360
reports.

Licence: none stated for the tables; images are IU X-ray's (Open-i). Revision: the files in hand.
Link: https://github.com/ChantalMP/Rad-ReStruct 16,821 of the 17,641 questions have one answer, 814
several, 6 a fixed one; a report with two images is asked for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lingshu.core.files import read_json
from lingshu.core.rows import RowError
from lingshu.core.types import Drop, Sample
from lingshu.scoring import multi_choice, yes_no
from lingshu.sources import hub
from lingshu.sources.hub import HubRepo
from lingshu.tasks._benchmark import (
    SampleDefaults,
    auxiliary_file,
    benchmark,
    build_sample,
    letter_for_text,
    unique,
)
from lingshu.tasks._synthetic import concatenate, image_samples

IMAGE_MAP_FILE = "id_to_img_mapping_frontal_reports.json"


def convert_row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """One [question, answers, history, {"options", "answer_type"}] of a report, with `report`,
    `image` and `number` beside it.
    """
    question, answers, _, info = raw["_value"]
    fields = {
        "id": f"{raw['image']}-{raw['number']}",
        "question": question,
        "images": [f"{raw['image']}.png"],
        "group": raw["report"],
        "task": info["answer_type"],
    }
    if not answers:
        raise RowError("empty_answer", "the question has no answer.")
    if info["answer_type"] == "single_choice" and all(yes_no.as_polarity(a) for a in answers):
        return {**fields, "gold": answers, "kind": "yes_no"}
    if len(info["options"]) < 2:
        return {**fields, "gold": answers, "kind": "closed"}
    if info["answer_type"] == "single_choice":
        return {
            **fields,
            "choices": info["options"],
            "gold": letter_for_text(answers[0], info["options"]),
        }
    letters = "".join(chr(65 + info["options"].index(answer)) for answer in answers)
    return {**fields, "choices": info["options"], "gold": letters, "multi_choice": True}


def reader(
    defaults: SampleDefaults, repo: HubRepo, local_repo: hub.DownloadedRepo
) -> Iterator[Sample | Drop]:
    """Every question of every report, for each of its images."""
    images = read_json(auxiliary_file(defaults, repo, local_repo, IMAGE_MAP_FILE))
    seen_ids: set[str] = set()
    for index, raw in enumerate(hub.rows(repo, local_repo)):
        report = raw.file.rsplit("/", 1)[-1].removesuffix(".json")
        for image in images.get(report, ()):
            values = {
                **raw.values,
                "report": report,
                "image": image,
                "number": raw.row_index,
                "_file": raw.file,
            }
            yield unique(
                seen_ids, build_sample(defaults, convert_row, values, index, (), local_repo)
            )


TASK = benchmark(
    "rad_restruct",
    title="Rad-ReStruct",
    repo=HubRepo(None, ("test_qa_pairs/*.json",), link="https://github.com/ChantalMP/Rad-ReStruct"),
    license="none stated; images CC-BY-NC-ND-4.0 (Open-i)",
    unverified_fields=("license",),
    reader=reader,
    score=multi_choice.score,
    synthetic=concatenate(
        image_samples("yes_no", "closed", task="single_choice"),
        image_samples("multi_choice", task="multi_choice"),
    ),
    expected_n=18186,
    variants=((17641, "the number of questions, each asked once whatever the number of images"),),
    facets=("kind", "task"),
)
