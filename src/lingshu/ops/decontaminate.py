"""Decontamination: training samples that share text, image, question or study with a test set are
dropped.

Equal text, 13-word and 8-word passages, MinHash, equal and near images, a question about the same
image, and the same study or patient count (search/overlap.py says how each is judged). Phrases that
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

from lingshu.core import registry
from lingshu.core.errors import UnknownNameError, suggest_name
from lingshu.core.step_types import Decision, Pixels, Signature, TableStep
from lingshu.core.types import Drop, Sample, Task
from lingshu.imaging.cache import ImageCache
from lingshu.ops._sample_fields import require
from lingshu.sources import jsonl, parquet

if TYPE_CHECKING:
    import pyarrow as pa

    from lingshu.search.image_hash import ImageSignature as ImageSignature
    from lingshu.search.overlap import BenchmarkItem

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
        if not _is_file(name) and name.replace("-", "_") not in (
            task_names := registry.names("tasks")
        ):
            raise UnknownNameError(
                f"decontaminate: there is no task {name!r}; {suggest_name(name, task_names)}"
            )
    unknown = next((kind for kind in drop if kind not in KINDS), None)
    require(
        unknown is None, f"decontaminate: drop names {unknown!r}; choose among {', '.join(KINDS)}."
    )

    def sign(sample: Sample, pixels: Pixels) -> Signature:
        from lingshu.search.benchmark_items import benchmark_items
        from lingshu.search.image_hash import image_signature

        images = [
            image_signature(pixels.bytes(image), pixels.gray(image)) for image in sample.images
        ]
        item_fields = [
            [i.question, i.answer, list(i.choices), list(i.studies)]
            for i in benchmark_items(sample)
        ]
        return {
            "items": json.dumps(item_fields, ensure_ascii=False),
            "images": b"".join(b"".join(image) for image in images),
        }

    def decide(table: pa.Table) -> Decision:
        from lingshu.search.overlap import KINDS as BY_STRENGTH
        from lingshu.search.overlap import OverlapIndex, find_overlaps

        ids = table["id"].to_pylist()
        # Numbers in place of ids: two sources may use one id.
        train = [
            item
            for row, values in enumerate(
                zip(table["items"].to_pylist(), table["images"].to_pylist(), strict=True)
            )
            for item in _load_items(row, *values)
        ]
        overlaps_by_row: dict[int, dict[str, str]] = {}
        stats: dict[str, int | float | str] = {}
        for name in against:
            unreadable: list[Drop] = []
            index = OverlapIndex.build(_test_items(name, data, unreadable), radius=radius)
            result = find_overlaps(train, index)
            stats |= {
                f"items of {name}": len(set(index.ids)),
                f"items of {name} not read": len(unreadable),
                f"boilerplate of {name}": (
                    sum(o.kind == "boilerplate" for o in result.overlaps) + result.n_omitted
                ),
            }
            leaked_ids = {o.test_id for o in result.overlaps if o.kind != "boilerplate"}
            stats |= {
                f"items of {name} found": len(leaked_ids),
                f"pairs of {name} not compared": result.overflow.pairs,
            }
            for overlap in result.overlaps:
                if overlap.kind != "boilerplate":
                    overlaps_by_row.setdefault(int(overlap.train_id), {}).setdefault(
                        overlap.kind, f"{name} {overlap.test_id}: {overlap.evidence}"
                    )
        drops: dict[int, Drop] = {}
        notes: dict[int, dict[str, str]] = {}
        for row, kinds in sorted(overlaps_by_row.items()):
            strongest_kind = min(
                kinds, key=lambda kind: (kind not in drop, BY_STRENGTH.index(kind))
            )
            if strongest_kind in drop:
                drops[row] = Drop(ids[row], f"overlap_{strongest_kind}", kinds[strongest_kind])
            else:
                notes[row] = {"overlap": f"{strongest_kind} {kinds[strongest_kind]}"}
        return Decision(drops, notes, stats)

    return TableStep(
        sign,
        decide,
        input_files=tuple(path for name in against for path in _input_files(name, data)),
    )


def _load_items(row: int, items_json: str, images: bytes) -> Iterator[BenchmarkItem]:
    from lingshu.search.image_hash import ImageSignature as ImageSignature
    from lingshu.search.overlap import BenchmarkItem

    signatures = tuple(
        ImageSignature(images[i : i + 16], images[i + 16 : i + 32], images[i + 32 : i + 64])
        for i in range(0, len(images), 64)
    )
    for question, answer, choices, studies in json.loads(items_json):
        yield BenchmarkItem(str(row), question, answer, tuple(choices), signatures, tuple(studies))


def _is_file(name: str) -> bool:
    return name.endswith(".jsonl") or "/" in name or Path(name).is_dir()


def _input_files(name: str, data: str | None) -> list[str]:
    """The files that decide what a test set is; what a task downloads is told by its revision, not
    by files.
    """
    path = Path(name) if _is_file(name) else None if data is None else Path(data) / name
    return (
        []
        if path is None
        else [
            (
                str(jsonl.find_rows_file(path))
                if path.is_dir() and (path / jsonl.ROWS_FILE).is_file()
                else str(path)
            )
        ]
    )


def _test_items(name: str, data: str | None, unreadable: list[Drop]) -> Iterator[BenchmarkItem]:
    """The items of a test set with the signatures of their images; what cannot be compared goes to
    `unread`.

    Raises:
        LingshuError: there is no such test set, or one of its images cannot be read.
    """
    from lingshu.search.benchmark_items import benchmark_items
    from lingshu.search.image_hash import image_signature

    signatures: dict[object, ImageSignature] = {}
    with ImageCache() as image_cache:
        for sample in _test_samples(name, data):
            if isinstance(sample, Drop):
                unreadable.append(sample)
                continue
            for image in sample.images:
                if image not in signatures:
                    signatures[image] = image_signature(
                        image_cache.bytes(image), image_cache.gray(image)
                    )
            yield from benchmark_items(sample, [signatures[image] for image in sample.images])


def _test_samples(name: str, data: str | None) -> Iterator[Sample | Drop]:
    path = Path(name)
    if _is_file(name):
        yield from (
            parquet.read(path)
            if path.is_dir() and not (path / jsonl.ROWS_FILE).is_file()
            else jsonl.read(path)
        )
        return
    task = registry.get_attribute("tasks", name, "TASK")
    assert isinstance(task, Task)
    yield from task.samples(None if data is None else Path(data))
