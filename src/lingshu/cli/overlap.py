"""`lingshu overlap`: find the items of test sets that are in training data, by text, image and study."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from lingshu.cli.options import Flat, locks_output
from lingshu.core import registry
from lingshu.core.artifacts import DATASET_CARD, dataset_digest
from lingshu.core.config import to_plain
from lingshu.core.errors import ImageError, InputError
from lingshu.core.files import atomic_file, dump_line, enumerate_jsonl, sha256_file, write_json
from lingshu.core.rows import sample_from_row
from lingshu.core.run_card import RunCard
from lingshu.core.types import Drop, Image, Sample, Task

if TYPE_CHECKING:
    from lingshu.imaging.read import ShardReader
    from lingshu.search.image_hash import ImageSignature
    from lingshu.search.overlap import BenchmarkItem, OverlapIndex

ROWS = "rows.jsonl"
# Keys that do not matter here; a row with an unreadable answer is compared all the same.
_IGNORED_KEYS = ("answer", "gold", "image", "images", "text", "access", "deidentified")


@dataclass(frozen=True, kw_only=True)
class OverlapConfig:
    data: Path | None = None
    "Folder with offline data for tasks, as for `lingshu eval`."
    radius: int = 8
    "Bits of 256 in which the perceptual hashes of near images may differ, 0 to 31."


@locks_output
def overlap(
    *train: str,
    against: Annotated[tuple[str, ...], Parameter(consume_multiple=True)],
    out: Path,
    config: Flat[OverlapConfig] = OverlapConfig(),
) -> int:
    """Find the items of test sets that are in training data: by text, image, image with question,
    study or patient.

    Writes one row {train_id, test_id, kind, evidence, train, test} for each pair and kind of
    overlap, and prints a summary. Kind boilerplate is text that many items share or that is too
    short to identify an item; it is not counted as contamination. The exit code is 1 if rows or
    images could not be read.

    Args:
        train: DATASET folders, .jsonl files with id, question or text, choices?, images?, study?,
            or names of tasks.
        against: The test sets, given in the same ways.
        out: JSONL file for the rows; a run card is written next to it.
    """
    if not train or not against:
        raise InputError("name the training data, and the test sets after --against.")
    if not 0 <= config.radius <= 31:
        raise InputError(f"--radius {config.radius} is out of range; give 0 to 31 bits.")
    trains = [Collection(name, config.data) for name in train]
    tests = [Collection(name, config.data) for name in against]
    summary = _compare(trains, tests, out, radius=config.radius)
    digests = {each.name: digest for each in (*trains, *tests) if (digest := each.digest())}
    card = RunCard(
        "overlap",
        to_plain({"train": train, "against": against, **asdict(config)}),
        counts={f"pairs_{kind}": count for kind, count in summary["pairs"].items()},
        hashes={**digests, out.name: sha256_file(out)},
        notes={name: value for name, value in summary.items() if name != "pairs"},
    )
    write_json(out.with_name(f"{out.name}.run.json"), asdict(card))
    print(json.dumps({"file": str(out), **summary}, indent=2, ensure_ascii=False))
    return 1 if summary["failed"] else 0


class Collection:
    """One DATASET folder, JSONL file or task, which can be read repeatedly."""

    def __init__(self, name: str, data: Path | None) -> None:
        self.name, self.path, self.data = name, Path(name), data
        self.task: Task | None = None
        if self.path.is_dir() and not (self.path / DATASET_CARD).is_file():
            self.path = self.path / ROWS
            if not self.path.is_file():
                raise InputError(
                    f"{name} is neither a DATASET folder nor a folder with {ROWS}; check the path."
                )
        is_module = self.path.suffix == ".py"
        if self.path.exists() and not is_module:
            return
        if self.path.suffix == ".jsonl" or (len(self.path.parts) > 1 and not is_module):
            raise InputError(
                f"{name} does not exist; give a DATASET folder, a .jsonl file or the name of a task."
            )
        task = registry.get_attribute("tasks", name, "TASK")
        if not isinstance(task, Task):
            raise InputError(f"TASK in {name} is not a Task; see docs/add-a-benchmark.md.")
        self.task = task

    def is_same_as(self, other: Collection) -> bool:
        if self.task or other.task:
            return self.name == other.name
        return self.path.resolve() == other.path.resolve()

    def samples(self) -> Iterator[Sample | Drop]:
        """Its samples in order.

        Raises:
            LingshuError: it cannot be read at all.
        """
        if self.task is not None:
            yield from self.task.samples(self.data)
        elif self.path.is_dir() or self.path.suffix == ".parquet":
            from lingshu.sources import parquet

            yield from parquet.read(self.path)
        else:
            yield from _read_jsonl(self.path)

    def digest(self) -> str | None:
        if self.task is not None:
            resolve = self.task.resolve_revision
            return resolve(self.data) if resolve else self.task.provenance.revision
        return dataset_digest(self.path) if self.path.is_dir() else sha256_file(self.path)


@dataclass
class ItemReader:
    """Reads collections as items to compare; counts what was read, and failures by reason.

    The content of each image is decoded once, however many questions refer to it.
    """

    shards: ShardReader
    n_read: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    signatures: dict[bytes, ImageSignature] = field(default_factory=dict)

    def items(self, collection: Collection, role: str) -> Iterator[BenchmarkItem]:
        from lingshu.search.benchmark_items import benchmark_items

        for sample in collection.samples():
            if isinstance(sample, Drop):
                self.failed[f"{role} {sample.reason}"] += 1
                continue
            self.n_read[f"{role} {collection.name}"] += 1
            signatures = map(self._signature, sample.images)
            yield from benchmark_items(sample, [found for found in signatures if found is not None])

    def _signature(self, image: Image) -> ImageSignature | None:
        from lingshu.imaging.read import decode, image_bytes, image_name
        from lingshu.search.image_hash import file_digest, signature_from_image

        try:
            data = image_bytes(image, shards=self.shards)
            key = file_digest(data)
            if key not in self.signatures:
                pixels = decode(data, name=image_name(image))
                self.signatures[key] = signature_from_image(data, pixels)
        except ImageError:
            self.failed["unreadable images"] += 1
            return None
        return self.signatures[key]


def _compare(
    trains: Sequence[Collection], tests: Sequence[Collection], out: Path, *, radius: int
) -> dict[str, Any]:
    """Write the overlaps of every training set with every test set, and return the summary."""
    from lingshu.imaging.read import ShardReader
    from lingshu.search.buckets import Overflow
    from lingshu.search.overlap import KINDS, OverlapIndex, batches

    with (
        ShardReader() as shards,
        atomic_file(out) as temporary,
        temporary.open("w", encoding="utf-8") as file,
    ):
        reader = ItemReader(shards)
        indexes = [OverlapIndex.build(reader.items(test, "test"), radius=radius) for test in tests]
        pairs, n_omitted, overflow = Counter[str](dict.fromkeys(KINDS, 0)), 0, Overflow()
        kinds_by_test_id = [defaultdict[str, set[str]](set) for _ in tests]
        leaking_train_ids: set[tuple[str, str]] = set()
        for train in trains:
            train_indexes = _with_training_frequencies(train, indexes)
            written: set[tuple[int, str, str, str]] = set()
            for batch in batches(reader.items(train, "train")):
                for test_index, (test, index) in enumerate(zip(tests, train_indexes, strict=True)):
                    found = index.find_all(batch)
                    n_omitted, overflow = n_omitted + found.n_omitted, overflow + found.overflow
                    is_same = train.is_same_as(test)
                    for match in found.overlaps:
                        if is_same and match.train_id == match.test_id:
                            continue  # an item does not leak into itself
                        key = (test_index, match.train_id, match.test_id, match.kind)
                        if key not in written:  # several turns of one dialogue
                            written.add(key)
                            pairs[match.kind] += 1
                            names = {"train": train.name, "test": test.name}
                            file.write(dump_line({**asdict(match), **names}))
                        if match.kind != "boilerplate":
                            leaking_train_ids.add((train.name, match.train_id))
                            kinds_by_test_id[test_index][match.test_id].add(match.kind)
        for role, collections in (("train", trains), ("test", tests)):
            for each in collections:
                if not reader.n_read[f"{role} {each.name}"]:
                    raise InputError(
                        f"{each.name} holds no item that can be read, so nothing was compared with"
                        " it; check the file."
                    )
    return {
        "train": {each.name: reader.n_read[f"train {each.name}"] for each in trains},
        "test": {
            test.name: _contamination(len(set(index.ids)), kinds)
            for test, index, kinds in zip(tests, indexes, kinds_by_test_id, strict=True)
        },
        "pairs": {kind: count for kind, count in pairs.items() if count},
        "train_items_to_leave_out": len(leaking_train_ids),
        "boilerplate_pairs_not_listed": n_omitted,
        "pairs_not_compared": overflow.pairs,
        "failed": dict(sorted(reader.failed.items())),
    }


def _contamination(n_items: int, kinds_by_id: Mapping[str, set[str]]) -> dict[str, Any]:
    by_kind = Counter(kind for kinds in kinds_by_id.values() for kind in kinds)
    return {
        "items": n_items,
        "contaminated": len(kinds_by_id),
        "share": round(len(kinds_by_id) / n_items, 4) if n_items else None,
        "by_kind": dict(sorted(by_kind.items())),
    }


def _with_training_frequencies(
    train: Collection, indexes: Sequence[OverlapIndex]
) -> list[OverlapIndex]:
    """The indexes with the n-grams common in a training set, whose texts are read for this."""
    from lingshu.search.benchmark_items import benchmark_items
    from lingshu.search.overlap import COUNT_BATCH, batches

    samples = (sample for sample in train.samples() if isinstance(sample, Sample))
    items = (item for sample in samples for item in benchmark_items(sample))
    counts = [index.frequencies([]) for index in indexes]
    for batch in batches(items, COUNT_BATCH):
        counts = [
            count + index.frequencies(batch) for count, index in zip(counts, indexes, strict=True)
        ]
    return [index.with_frequent_ngrams(count) for count, index in zip(counts, indexes, strict=True)]


def _read_jsonl(path: Path) -> Iterator[Sample | Drop]:
    root = path.parent.resolve()
    for line_number, row in enumerate_jsonl(path, allow_truncated=False):
        position = f"{path}, line {line_number}"
        names = row["images"] if row.get("images") is not None else row.get("image")
        names = [] if names is None else names if isinstance(names, list) else [names]
        if not all(isinstance(name, str) and name for name in names):
            raise InputError(
                f"{position}: image or images must name files relative to the folder of the file."
            )
        images = [Image(path=str(root / name)) for name in names]
        try:
            outside = [name for name in names if not (root / name).resolve().is_relative_to(root)]
        except (OSError, ValueError) as error:
            raise InputError(
                f"{position}: an image has a name that no file can have ({type(error).__name__});"
                " fix it."
            ) from error
        if outside:
            raise InputError(
                f"{position}: {outside[0]!r} is outside the folder of the file; copy the image into"
                " it."
            )
        question = row.get("question") if row.get("question") is not None else row.get("text")
        if not isinstance(question, str) or not question.strip():
            # An item may be an image or a study alone: an empty question matches nothing.
            question = "-" if images or row.get("study") else None
        plain = {key: value for key, value in row.items() if key not in _IGNORED_KEYS}
        sample = sample_from_row({**plain, "question": question}, line_number, images)
        yield _with_answer(sample, row.get("answer")) if isinstance(sample, Sample) else sample


def _with_answer(sample: Sample, answer: object) -> Sample:
    if sample.choices or not isinstance(answer, str) or not answer.strip():
        return sample
    return sample.with_answer(answer)
