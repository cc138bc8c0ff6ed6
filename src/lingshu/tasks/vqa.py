"""Questions about your own images: any folder with rows.jsonl and images, or a DATASET, scored by
what each answer is.

License, revision and link: the user's own. `--data DIR` names a folder with rows.jsonl or a DATASET
folder, or one that has a folder `vqa` of either kind. Images of a DATASET about which nothing is
asked are dropped and counted.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from lingshu.core.artifacts import DATASET_CARD
from lingshu.core.errors import InputError
from lingshu.core.messages import user_turn
from lingshu.core.rows import LETTERS, with_choices
from lingshu.core.types import Drop, Image, Meta, Provenance, Sample, Task
from lingshu.scoring import auto
from lingshu.sources import jsonl, parquet


def samples(data: Path | None) -> Iterable[Sample | Drop]:
    """The questions of the folder, each ending in a user turn.

    Raises:
        InputError: no folder given, or it is neither a DATASET nor holds rows.jsonl.
        ArtifactError: a damaged DATASET folder.
    """
    if data is None:
        raise InputError(
            "the task vqa has no data of its own; pass --data DIR, a folder with rows.jsonl and its"
            " images, or a DATASET."
        )
    files = (jsonl.ROWS_FILE, DATASET_CARD)
    candidates = (data / "vqa", data)
    folder = next((path for path in candidates if any((path / f).is_file() for f in files)), data)
    if (folder / DATASET_CARD).is_file():
        return map(_up_to_answer, parquet.read(folder))
    if folder.is_dir() and not (folder / jsonl.ROWS_FILE).is_file():
        raise InputError(
            f"{folder} holds neither {jsonl.ROWS_FILE} nor a DATASET; name the folder that does."
        )
    return map(_up_to_answer, jsonl.read(jsonl.find_rows_file(folder)))


def _up_to_answer(item: Sample | Drop) -> Sample | Drop:
    """A dialogue that ends in its answer (training data) without it; the answer becomes the gold."""
    if isinstance(item, Drop):
        return item
    if item.answered:
        gold = item.gold or (item.messages[-1].text,)
        return replace(item, messages=item.messages[:-1], gold=gold)
    if not item.question.strip():
        return Drop(item.id, "no_question", "images without a question.")
    return item


def synthetic(seed: int) -> list[Sample]:
    """Eight synthetic questions about two tiny rendered images, in the usual question forms."""
    return [sample for index in (0, 1) for sample in _synthetic_samples(seed, index)]


def _synthetic_samples(seed: int, index: int) -> Iterator[Sample]:
    import numpy as np

    from lingshu.imaging.read import encode_png

    pixels = np.random.default_rng([seed, index]).integers(0, 60, (32, 32), dtype=np.uint8)
    side = ("left", "right")[(seed + index) % 2]
    start = 4 if side == "left" else 20
    pixels[12:20, start : start + 8] = 250
    image = Image(data=encode_png(pixels))
    choices = ("right", "left", "no square")
    questions: list[tuple[str, str, str, tuple[str, ...]]] = [
        ("yes_no", "Is there a square on the left?", "yes" if side == "left" else "no", ()),
        ("choice", "On which side is the square?", LETTERS[choices.index(side)], choices),
        ("count", "How many squares are there?", "1", ()),
        ("open", "What is brighter than the background?", f"A bright square on the {side}", ()),
    ]
    for kind, question, gold, options in questions:
        turn = user_turn(with_choices(question, options), 1)
        fields = {"source": "drawn", "license": "Apache-2.0", "access": "open", "language": "en"}
        meta = Meta(**fields, kind=kind, group=f"twin-{index}")  # type: ignore[arg-type]
        yield Sample(f"twin-{index}-{kind}", (turn,), (image,), (gold,), options, meta)


TASK = Task(
    name="vqa",
    title="Questions about your own images",
    provenance=Provenance("the user's folder", "user's own", access="private"),
    samples=samples,
    score=auto.score,
    synthetic=synthetic,
    facets=("kind", "modality", "language"),
)
