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
from lingshu.core.nouns import Drop, Sample
from lingshu.core.rows import BadRow
from lingshu.scoring import yes_no
from lingshu.sources import hub
from lingshu.sources.hub import Repo
from lingshu.tasks import _several
from lingshu.tasks._shared import About, benchmark, beside, letter_of, made, once
from lingshu.tasks._twins import joined, pictures

IMAGES = "id_to_img_mapping_frontal_reports.json"


def row(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """One [question, answers, history, {"options", "answer_type"}] of a report, with `report`,
    `image` and `number` beside it.
    """
    question, answers, _, info = raw["_value"]
    found = {
        "id": f"{raw['image']}-{raw['number']}",
        "question": question,
        "images": [f"{raw['image']}.png"],
        "group": raw["report"],
        "task": info["answer_type"],
    }
    if not answers:
        raise BadRow("empty_answer", "the question has no answer.")
    if info["answer_type"] == "single_choice" and all(yes_no.as_verdict(a) for a in answers):
        return {**found, "gold": answers, "kind": "yes_no"}
    if len(info["options"]) < 2:
        return {**found, "gold": answers, "kind": "closed"}
    if info["answer_type"] == "single_choice":
        return {**found, "choices": info["options"], "gold": letter_of(answers[0], info["options"])}
    letters = "".join(chr(65 + info["options"].index(answer)) for answer in answers)
    return {**found, "choices": info["options"], "gold": letters, "several": True}


def reader(about: About, repo: Repo, place: hub.Place) -> Iterator[Sample | Drop]:
    """Every question of every report, for each of its images."""
    images = read_json(beside(about, repo, place, IMAGES))
    seen: set[str] = set()
    for number, raw in enumerate(hub.rows(repo, place)):
        report = raw.file.rsplit("/", 1)[-1].removesuffix(".json")
        for image in images.get(report, ()):
            values = {
                **raw.values,
                "report": report,
                "image": image,
                "number": raw.number,
                "_file": raw.file,
            }
            yield once(seen, made(about, row, values, number, (), place))


TASK = benchmark(
    "rad_restruct",
    title="Rad-ReStruct",
    repo=Repo(None, ("test_qa_pairs/*.json",), link="https://github.com/ChantalMP/Rad-ReStruct"),
    licence="none stated; images CC-BY-NC-ND-4.0 (Open-i)",
    unverified=("licence",),
    reader=reader,
    score=_several.score,
    twin=joined(
        pictures("yes_no", "closed", task="single_choice"), pictures("several", task="multi_choice")
    ),
    n=18186,
    variants=((17641, "the number of questions, each asked once whatever the number of images"),),
    by=("kind", "task"),
)
