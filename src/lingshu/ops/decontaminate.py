"""Decontamination: training samples that share text, image, question or study with a test set are
dropped.

Equal text, 13-word and 8-word passages, MinHash, equal and near images, a question about the same
image, and the same study or patient count (ops/_overlap.py says how each is judged). Phrases that
many items share and questions too short to tell an item do not: those samples stay. The paper asks
for "strict" removal without a method (section 2.3); so near images count too, and `drop` can leave
kinds out, which are then noted. All texts are held while it decides: about 1 GB for each million
dialogues.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lingshu.core import shelves
from lingshu.core.errors import UnknownName, nearest
from lingshu.core.nouns import Drop, Sample, Task
from lingshu.core.steps import Decision, Pixels, Signature, TableStep
from lingshu.imaging.pictures import Pictures
from lingshu.ops._facts import require
from lingshu.sources import jsonl, parquet

if TYPE_CHECKING:
    import pyarrow as pa

    from lingshu.ops._image_signature import Signature as ImageSignature
    from lingshu.ops._overlap import Item

KINDS = (
    "exact_text",
    "ngram13",
    "ngram8",
    "minhash",
    "image_exact",
    "image_near",
    "image_question",
    "study",
)


def step(
    *, against: Sequence[str], data: str | None = None, radius: int = 8, drop: Sequence[str] = KINDS
) -> TableStep:
    """Drop what overlaps with test sets.

    Args:
        against: names of tasks, DATASET folders, .jsonl files or folders with rows.jsonl.
        data: the folder of offline data for tasks, as `--data` of `lingshu eval`; None downloads.
        radius: bits of 256 in which near images may differ, 0 to 31.
        drop: the kinds of overlap that drop a sample; of other kinds the note `overlap` names the
            test item.

    Drops: overlap_KIND.

    Raises:
        UnknownName: a task that does not exist.
    """
    require(
        bool(against),
        "decontaminate: against names no test set; give tasks, DATASET folders or .jsonl files.",
    )
    require(0 <= radius <= 31, f"decontaminate: radius is {radius}; it must be 0 to 31 bits.")
    for name in against:
        if not _is_file(name) and name.replace("-", "_") not in (known := shelves.names("tasks")):
            raise UnknownName(f"decontaminate: there is no task {name!r}; {nearest(name, known)}")
    unknown = next((kind for kind in drop if kind not in KINDS), None)
    require(
        unknown is None, f"decontaminate: drop names {unknown!r}; choose among {', '.join(KINDS)}."
    )

    def sign(sample: Sample, pixels: Pixels) -> Signature:
        from lingshu.ops._image_signature import signature
        from lingshu.ops._items import items

        images = [signature(pixels.bytes(image), pixels.gray(image)) for image in sample.images]
        found = [[i.question, i.answer, list(i.choices), list(i.studies)] for i in items(sample)]
        return {
            "items": json.dumps(found, ensure_ascii=False),
            "images": b"".join(b"".join(image) for image in images),
        }

    def decide(table: pa.Table) -> Decision:
        from lingshu.ops._overlap import KINDS as BY_STRENGTH
        from lingshu.ops._overlap import Index, overlaps

        ids = table["id"].to_pylist()
        # Numbers in place of ids: two sources may use one id.
        train = [
            item
            for row, values in enumerate(
                zip(table["items"].to_pylist(), table["images"].to_pylist(), strict=True)
            )
            for item in _items(row, *values)
        ]
        found: dict[int, dict[str, str]] = {}
        told: dict[str, int | float | str] = {}
        for name in against:
            unread: list[Drop] = []
            index = Index.build(_test_items(name, data, unread), radius=radius)
            each = overlaps(train, index)
            told |= {
                f"items of {name}": len(set(index.ids)),
                f"items of {name} not read": len(unread),
                f"boilerplate of {name}": (
                    sum(o.kind == "boilerplate" for o in each.overlaps) + each.unlisted
                ),
            }
            hit = {o.test_id for o in each.overlaps if o.kind != "boilerplate"}
            told |= {
                f"items of {name} found": len(hit),
                f"pairs of {name} not compared": each.over.pairs,
            }
            for overlap in each.overlaps:
                if overlap.kind != "boilerplate":
                    found.setdefault(int(overlap.train_id), {}).setdefault(
                        overlap.kind, f"{name} {overlap.test_id}: {overlap.evidence}"
                    )
        drops: dict[int, Drop] = {}
        notes: dict[int, dict[str, str]] = {}
        for row, kinds in sorted(found.items()):
            strongest = min(kinds, key=lambda kind: (kind not in drop, BY_STRENGTH.index(kind)))
            if strongest in drop:
                drops[row] = Drop(ids[row], f"overlap_{strongest}", kinds[strongest])
            else:
                notes[row] = {"overlap": f"{strongest} {kinds[strongest]}"}
        return Decision(drops, notes, told)

    return TableStep(
        sign, decide, reads=tuple(path for name in against for path in _reads(name, data))
    )


def _items(row: int, packed: str, images: bytes) -> Iterator[Item]:
    from lingshu.ops._image_signature import Signature as ImageSignature
    from lingshu.ops._overlap import Item

    shown = tuple(
        ImageSignature(images[i : i + 16], images[i + 16 : i + 32], images[i + 32 : i + 64])
        for i in range(0, len(images), 64)
    )
    for question, answer, choices, studies in json.loads(packed):
        yield Item(str(row), question, answer, tuple(choices), shown, tuple(studies))


def _is_file(name: str) -> bool:
    return name.endswith(".jsonl") or "/" in name or Path(name).is_dir()


def _reads(name: str, data: str | None) -> list[str]:
    """The files that decide what a test set is; what a task downloads is told by its revision, not
    by files.
    """
    path = Path(name) if _is_file(name) else None if data is None else Path(data) / name
    return (
        []
        if path is None
        else [
            (
                str(jsonl.rows_file(path))
                if path.is_dir() and (path / jsonl.ROWS).is_file()
                else str(path)
            )
        ]
    )


def _test_items(name: str, data: str | None, unread: list[Drop]) -> Iterator[Item]:
    """The items of a test set with the signatures of their images; what cannot be compared goes to
    `unread`.

    Raises:
        LingshuError: there is no such test set, or one of its images cannot be read.
    """
    from lingshu.ops._image_signature import signature
    from lingshu.ops._items import items

    seen: dict[object, ImageSignature] = {}
    with Pictures() as pictures:
        for sample in _test_samples(name, data):
            if isinstance(sample, Drop):
                unread.append(sample)
                continue
            for image in sample.images:
                if image not in seen:
                    seen[image] = signature(pictures.bytes(image), pictures.gray(image))
            yield from items(sample, [seen[image] for image in sample.images])


def _test_samples(name: str, data: str | None) -> Iterator[Sample | Drop]:
    path = Path(name)
    if _is_file(name):
        yield from (
            parquet.read(path)
            if path.is_dir() and not (path / jsonl.ROWS).is_file()
            else jsonl.read(path)
        )
        return
    task = shelves.part("tasks", name, "TASK")
    assert isinstance(task, Task)
    yield from task.samples(None if data is None else Path(data))
