"""Decontamination: training samples that share text, image, question or study with a test set are
dropped.

Equal text, 13-word and 8-word passages, MinHash, equal and near images, a question about the same
image, and the same study or patient count (search/overlap.py defines each). Phrases that many items
share and questions too short to identify an item do not: those samples stay. The paper asks for
"strict" removal without a method (section 2.3); so near images count too, and kinds left out of
`drop` are noted instead. All texts are held in memory to decide: about 1 GB a million dialogues.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from lingshu.core import registry
from lingshu.core.errors import UnknownNameError, suggest_name
from lingshu.core.step_types import Decision, Pixels, Signature, TableStep
from lingshu.core.types import Drop, Image, Sample, Task
from lingshu.imaging.cache import ImageCache
from lingshu.ops._sample_fields import check_choice, check_range, require
from lingshu.search.benchmark_items import benchmark_items
from lingshu.search.image_hash import ImageSignature, image_signature
from lingshu.search.overlap import CONTAMINATION_KINDS, BenchmarkItem, OverlapIndex, find_overlaps
from lingshu.sources import jsonl, parquet


def step(
    *,
    against: Sequence[str],
    data: str | None = None,
    radius: int = 8,
    drop: Sequence[str] = CONTAMINATION_KINDS,
) -> TableStep:
    """Drop what overlaps with test sets.

    Args:
        against: names of tasks, DATASET folders, .jsonl files or folders with rows.jsonl.
        data: the folder of offline data for tasks, as `--data` of `lingshu eval`; None downloads.
        radius: bits of 256 in which near images may differ, 0 to 31.
        drop: kinds of overlap that drop a sample; for others the note `overlap` names the item.

    Drops: overlap_KIND.
    """
    require(
        bool(against),
        "decontaminate: against names no test set; give tasks, DATASET folders or .jsonl files.",
    )
    check_range("decontaminate", 0, 31, radius=radius)
    for kind in drop:
        check_choice("decontaminate", "drop", kind, CONTAMINATION_KINDS)
    tasks = registry.names("tasks")
    for name in against:
        if not _is_file(name) and name.replace("-", "_") not in tasks:
            problem = f"decontaminate: there is no task {name!r}"
            raise UnknownNameError(f"{problem}; {suggest_name(name, tasks)}")

    def sign(sample: Sample, pixels: Pixels) -> Signature:
        images = [image_signature(pixels.bytes(i), pixels.gray(i)) for i in sample.images]
        items = [(i.question, i.answer, i.choices, i.studies) for i in benchmark_items(sample)]
        return {
            "items": json.dumps(items, ensure_ascii=False),
            "images": b"".join(b"".join(image) for image in images),
        }

    def decide(table: pa.Table) -> Decision:
        ids, items, images = (table[name].to_pylist() for name in ("id", "items", "images"))
        train = [
            item for row in range(len(ids)) for item in _load_items(row, items[row], images[row])
        ]
        overlaps_by_row: dict[int, dict[str, str]] = {}
        stats: dict[str, int | float | str] = {}
        for name in against:
            unreadable: list[Drop] = []
            index = OverlapIndex.build(_test_items(name, data, unreadable), radius=radius)
            result = find_overlaps(train, index)
            leaks = [overlap for overlap in result.overlaps if overlap.kind != "boilerplate"]
            stats |= {
                f"items of {name}": len(set(index.ids)),
                f"items of {name} not read": len(unreadable),
                f"boilerplate of {name}": len(result.overlaps) - len(leaks) + result.n_omitted,
                f"items of {name} found": len({overlap.test_id for overlap in leaks}),
                f"pairs of {name} not compared": result.overflow.pairs,
            }
            for overlap in leaks:
                evidence = f"{name} {overlap.test_id}: {overlap.evidence}"
                overlaps = overlaps_by_row.setdefault(int(overlap.train_id), {})
                overlaps.setdefault(overlap.kind, evidence)
        drops: dict[int, Drop] = {}
        notes: dict[int, dict[str, str]] = {}
        for row, overlaps in sorted(overlaps_by_row.items()):
            found = [kind for kind in CONTAMINATION_KINDS if kind in overlaps]  # strongest first
            dropping = [kind for kind in found if kind in drop]
            if dropping:
                drops[row] = Drop(ids[row], f"overlap_{dropping[0]}", overlaps[dropping[0]])
            else:
                notes[row] = {"overlap": f"{found[0]} {overlaps[found[0]]}"}
        return Decision(drops, notes, stats)

    input_files = tuple(path for name in against for path in _input_files(name, data))
    return TableStep(sign, decide, input_files)


def _load_items(row: int, items: str, images: bytes) -> Iterator[BenchmarkItem]:
    """The items of a row; its number is their id, since two sources may use one id."""
    signatures = tuple(
        ImageSignature(images[i : i + 16], images[i + 16 : i + 32], images[i + 32 : i + 64])
        for i in range(0, len(images), 64)
    )
    for question, answer, choices, studies in json.loads(items):
        yield BenchmarkItem(str(row), question, answer, tuple(choices), signatures, tuple(studies))


def _is_file(name: str) -> bool:
    return name.endswith(".jsonl") or "/" in name or Path(name).is_dir()


def _input_files(name: str, data: str | None) -> list[str]:
    """The files that define a test set; a downloaded task is defined by its revision."""
    if not _is_file(name) and data is None:
        return []
    path = Path(name) if _is_file(name) else Path(data or "") / name
    return [str(path / jsonl.ROWS_FILE if (path / jsonl.ROWS_FILE).is_file() else path)]


def _test_items(name: str, data: str | None, unreadable: list[Drop]) -> Iterator[BenchmarkItem]:
    """The items of a test set with image signatures; unusable samples go to `unreadable`.

    Raises:
        LingshuError: there is no such test set, or one of its images cannot be read.
    """
    signatures: dict[Image, ImageSignature] = {}
    with ImageCache() as cache:
        for sample in _test_samples(name, data):
            if isinstance(sample, Drop):
                unreadable.append(sample)
                continue
            for image in sample.images:
                if image not in signatures:
                    signatures[image] = image_signature(cache.bytes(image), cache.gray(image))
            yield from benchmark_items(sample, [signatures[image] for image in sample.images])


def _test_samples(name: str, data: str | None) -> Iterable[Sample | Drop]:
    path = Path(name)
    if not _is_file(name):
        task = registry.get_attribute("tasks", name, "TASK")
        assert isinstance(task, Task)
        return task.samples(None if data is None else Path(data))
    is_dataset = path.is_dir() and not (path / jsonl.ROWS_FILE).is_file()
    return parquet.read(path) if is_dataset else jsonl.read(path)
