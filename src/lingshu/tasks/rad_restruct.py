"""Rad-ReStruct: structured reporting as 18,186 questions about 374 frontal chest X-rays of 360
reports.

License: none stated for the tables; images are IU X-ray's (Open-i). Revision: the files in hand.
Link: https://github.com/ChantalMP/Rad-ReStruct

16,821 of the 17,641 questions have one answer, 814 several, 6 a fixed one; a report with two images
is asked for each.
"""

from collections.abc import Iterator, Mapping, Sequence

from lingshu.core.files import read_json
from lingshu.core.rows import RowError
from lingshu.core.types import Drop, Sample
from lingshu.scoring import multi_choice, yes_no
from lingshu.sources.hub import HubRepo, RawRow
from lingshu.tasks import (
    BenchmarkSource,
    Row,
    benchmark,
    concatenate,
    image_samples,
    letter_for_text,
    read_samples,
)

IMAGE_MAP_FILE = "id_to_img_mapping_frontal_reports.json"


def convert_row(raw: Row) -> Row:
    """One [question, answers, history, info] with `report`, `image` and `number` added."""
    question, answers, _, info = raw["_value"]
    fields = {
        "id": f"{raw['image']}-{raw['number']}",
        "question": question,
        "images": [f"{raw['image']}.png"],
        "group": raw["report"],
        "task": info["answer_type"],
    }
    if not answers:
        raise RowError("empty_answer: the question has no answer.")
    if info["answer_type"] == "single_choice" and all(yes_no.as_polarity(a) for a in answers):
        return {**fields, "gold": answers, "kind": "yes_no"}
    if len(info["options"]) < 2:
        return {**fields, "gold": answers, "kind": "closed"}
    if info["answer_type"] == "single_choice":
        letter = letter_for_text(answers[0], info["options"])
        return {**fields, "choices": info["options"], "gold": letter}
    letters = "".join(chr(65 + info["options"].index(answer)) for answer in answers)
    return {**fields, "choices": info["options"], "gold": letters, "multi_choice": True}


def reader(source: BenchmarkSource) -> Iterator[Sample | Drop]:
    """Every question of every report, for each of its images."""
    images = read_json(source.auxiliary_file(IMAGE_MAP_FILE))
    yield from read_samples(source, convert_row, _questions(source, images))


def _questions(source: BenchmarkSource, images: Mapping[str, Sequence[str]]) -> Iterator[RawRow]:
    for raw in source.rows():
        report = raw.file.rsplit("/", 1)[-1].removesuffix(".json")
        for image in images.get(report, ()):
            names = {"report": report, "image": image, "number": raw.row_index}
            yield raw._replace(values={**raw.values, **names})


TASK = benchmark(
    "rad_restruct", title="Rad-ReStruct", reader=reader, score=multi_choice.score,
    license="none stated; images CC-BY-NC-ND-4.0 (Open-i)", unverified=("license",),
    repo=HubRepo(None, ("test_qa_pairs/*.json",), link="https://github.com/ChantalMP/Rad-ReStruct"),
    synthetic=concatenate(
        image_samples("yes_no", "closed", task="single_choice"),
        image_samples("multi_choice", task="multi_choice"),
    ),
    expected_n=18186, facets=("kind", "task"),
    known_counts=((17641, "the number of questions, each asked once for any number of images"),),
)  # fmt: skip
