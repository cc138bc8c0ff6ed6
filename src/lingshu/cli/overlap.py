"""`lingshu overlap`: which items of test sets stand in training data, by text, image and study."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from lingshu.core import registry
from lingshu.core.artifacts import DATASET_CARD, dataset_digest
from lingshu.core.errors import ImageError, InputError
from lingshu.core.files import atomic_file, dump_line, enumerate_jsonl, sha256_file, write_json
from lingshu.core.rows import sample_from_row
from lingshu.core.run_card import RunCard
from lingshu.core.types import Drop, Image, Sample, Task

if TYPE_CHECKING:
    from lingshu.search.image_hash import ImageSignature
    from lingshu.search.overlap import BenchmarkItem, OverlapIndex, SearchResult

ROWS = "rows.jsonl"
# Keys that decide nothing here; a row whose answer cannot be read is compared all the same.
_IGNORED_KEYS = ("answer", "gold", "image", "images", "text", "access", "deidentified")


@dataclass
class ReadCounts:
    """Training data or test sets as they are read: what could not be used is counted by its reason."""

    n_read: Counter[str] = field(default_factory=Counter)
    n_failed: Counter[str] = field(default_factory=Counter)


class Collection:
    """One DATASET folder, JSONL file or task, readable again and again."""

    def __init__(self, name: str, data: Path | None) -> None:
        self.name = name
        self.path = Path(name)
        self.data = data
        if self.path.is_dir() and not (self.path / DATASET_CARD).is_file():
            self.path = self.path / ROWS
            if not self.path.is_file():
                raise InputError(
                    f"{name} is neither a DATASET folder nor a folder with {ROWS}; check the path."
                )
        self.task: Task | None = None
        if not self.path.exists() or self.path.suffix == ".py":
            if self.path.suffix == ".jsonl" or (
                len(self.path.parts) > 1 and self.path.suffix != ".py"
            ):
                raise InputError(
                    f"{name} does not exist; give a DATASET folder, a .jsonl file or the name of a"
                    " task."
                )
            candidate = registry.get_attribute("tasks", name, "TASK")
            if not isinstance(candidate, Task):
                raise InputError(f"TASK in {name} is no Task; see docs/add-a-benchmark.md.")
            self.task = candidate

    def is_same_as(self, other: Collection) -> bool:
        return (
            self.name == other.name
            if self.task or other.task
            else self.path.resolve() == other.path.resolve()
        )

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
            return (
                self.task.resolve_revision(self.data)
                if self.task.resolve_revision
                else self.task.provenance.revision
            )
        return dataset_digest(self.path) if self.path.is_dir() else sha256_file(self.path)


def overlap(
    *train: str,
    against: Annotated[tuple[str, ...], Parameter(consume_multiple=True)],
    out: Path,
    data: Path | None = None,
    radius: int = 8,
) -> int:
    """Find the items of test sets that stand in training data: by text, image, image with question,
    study or patient.

    Writes one row {train_id, test_id, kind, evidence, train, test} for each pair and way of
    overlapping, and prints a summary. Kind boilerplate is what many items share or what is too
    short to tell an item; it is not counted as contamination. The exit code is 1 where rows or
    images could not be read.

    Args:
        train: DATASET folders, .jsonl files with id, question or text, choices?, images?, study?,
            or names of tasks.
        against: the test sets, given in the same ways.
        out: JSONL file for the rows; a run card is written beside it.
        data: folder with offline data for tasks, as for `lingshu eval`.
        radius: bits of 256 in which the perceptual hashes of near images may differ, 0 to 31.
    """
    if not train or not against:
        raise InputError("name the training data, and the test sets after --against.")
    if not 0 <= radius <= 31:
        raise InputError(f"--radius {radius} is out of range; give 0 to 31 bits.")
    trains, tests = (
        [Collection(name, data) for name in train],
        [Collection(name, data) for name in against],
    )
    summary = compare(trains, tests, out, radius=radius)
    output = {"file": str(out), **summary}
    write_json(
        out.with_name(f"{out.name}.run.json"),
        asdict(
            RunCard(
                "overlap",
                {
                    "train": list(train),
                    "against": list(against),
                    "data": None if data is None else str(data),
                    "radius": radius,
                },
                counts={f"pairs_{kind}": count for kind, count in summary["pairs"].items()},
                hashes={
                    collection.name: value
                    for collection in (*trains, *tests)
                    if (value := collection.digest()) is not None
                }
                | {out.name: sha256_file(out)},
                notes={name: value for name, value in summary.items() if name != "pairs"},
            )
        ),
    )
    print(json.dumps(output, indent=2, ensure_ascii=False))
    return 1 if summary["failed"] else 0


def compare(
    trains: Sequence[Collection], tests: Sequence[Collection], out: Path, *, radius: int
) -> dict[str, Any]:
    """Write the overlaps of every training set with every test set, and return the summary."""
    from lingshu.imaging.read import ShardReader
    from lingshu.search.buckets import Overflow
    from lingshu.search.overlap import KINDS, OverlapIndex, batches, count_contamination

    counts = ReadCounts()
    signature_cache: dict[bytes, ImageSignature] = {}
    with (
        ShardReader() as shards,
        atomic_file(out) as temporary,
        temporary.open("w", encoding="utf-8") as file,
    ):
        image_signatures = ImageSignatures(shards, signature_cache, counts)
        indexes = [
            OverlapIndex.build(_items(test, "test", counts, image_signatures), radius=radius)
            for test in tests
        ]
        pairs, n_omitted, overflow = Counter[str](dict.fromkeys(KINDS, 0)), 0, Overflow()
        kinds_by_test_id: list[dict[str, set[str]]] = [{} for _ in tests]
        leaking_train_ids: set[tuple[str, str]] = set()
        for train in trains:
            train_indexes = _with_training_frequencies(train, indexes)
            written: set[tuple[int, str, str, str]] = set()
            for batch in batches(_items(train, "train", counts, image_signatures)):
                for test_index, (test, index) in enumerate(zip(tests, train_indexes, strict=True)):
                    result = _exclude_self_matches(index.find_all(batch), train.is_same_as(test))
                    n_omitted, overflow = n_omitted + result.n_omitted, overflow + result.overflow
                    for each in result.overlaps:
                        key = (test_index, each.train_id, each.test_id, each.kind)
                        if key in written:  # several turns of one dialogue
                            continue
                        written.add(key)
                        pairs[each.kind] += 1
                        row = {
                            "train_id": each.train_id,
                            "test_id": each.test_id,
                            "kind": each.kind,
                            "evidence": each.evidence,
                        }
                        file.write(dump_line({**row, "train": train.name, "test": test.name}))
                    for test_id, kinds in count_contamination(result.overlaps).items():
                        kinds_by_test_id[test_index].setdefault(test_id, set()).update(kinds)
                    leaking_train_ids |= {
                        (train.name, each.train_id)
                        for each in result.overlaps
                        if each.kind != "boilerplate"
                    }
        for role, each in [
            *(("train", each) for each in trains),
            *(("test", each) for each in tests),
        ]:
            if not counts.n_read[f"{role} {each.name}"]:
                raise InputError(
                    f"{each.name} holds no item that can be read, so nothing was compared with it;"
                    " check the file."
                )
    return {
        "train": {each.name: counts.n_read[f"train {each.name}"] for each in trains},
        "test": {
            each.name: {
                "items": (items := len(set(index.ids))),
                "contaminated": len(result),
                "share": round(len(result) / items, 4) if items else None,
                "by_kind": dict(
                    sorted(Counter(kind for kinds in result.values() for kind in kinds).items())
                ),
            }
            for each, index, result in zip(tests, indexes, kinds_by_test_id, strict=True)
        },
        "pairs": {kind: count for kind, count in pairs.items() if count},
        "train_items_to_leave_out": len(leaking_train_ids),
        "boilerplate_pairs_not_listed": n_omitted,
        "pairs_not_compared": overflow.pairs,
        "failed": dict(sorted(counts.n_failed.items())),
    }


def _with_training_frequencies(
    train: Collection, indexes: Sequence[OverlapIndex]
) -> list[OverlapIndex]:
    """The indexes, told which n-grams are common in a training set; its texts are read once for
    that, its images are not.
    """
    from lingshu.search.overlap import COUNT_BATCH, batches

    frequencies = [index.frequencies([]) for index in indexes]
    for batch in batches(_items(train, "train", ReadCounts(), None), COUNT_BATCH):
        frequencies = [
            count + index.frequencies(batch)
            for count, index in zip(frequencies, indexes, strict=True)
        ]
    return [
        index.with_frequent_ngrams(count) for count, index in zip(frequencies, indexes, strict=True)
    ]


def _exclude_self_matches(result: SearchResult, is_same: bool) -> SearchResult:
    """A set compared with itself: an item is no leak of itself."""
    return (
        result._replace(
            overlaps=[match for match in result.overlaps if match.train_id != match.test_id]
        )
        if is_same
        else result
    )


@dataclass
class ImageSignatures:
    """Signatures of images; each content is decoded once, however many questions are asked about
    it.
    """

    shards: Any
    signature_cache: dict[bytes, ImageSignature]
    counts: ReadCounts

    def signature(self, image: Image) -> ImageSignature | None:
        from lingshu.imaging.read import decode, image_bytes, image_name
        from lingshu.search.image_hash import file_digest, signature_from_image

        try:
            data = image_bytes(image, shards=self.shards)
            key = file_digest(data)
            if key not in self.signature_cache:
                self.signature_cache[key] = signature_from_image(
                    data, decode(data, name=image_name(image))
                )
        except ImageError:
            self.counts.n_failed["unreadable images"] += 1
            return None
        return self.signature_cache[key]


def _items(
    collection: Collection, role: str, counts: ReadCounts, image_signatures: ImageSignatures | None
) -> Iterator[BenchmarkItem]:
    from lingshu.search.benchmark_items import benchmark_items

    for sample in collection.samples():
        if isinstance(sample, Drop):
            counts.n_failed[f"{role} {sample.reason}"] += 1
            continue
        counts.n_read[f"{role} {collection.name}"] += 1
        signatures: Iterable[ImageSignature | None] = (
            map(image_signatures.signature, sample.images) if image_signatures else ()
        )
        yield from benchmark_items(
            sample, [signature for signature in signatures if signature is not None]
        )


def _read_jsonl(path: Path) -> Iterator[Sample | Drop]:
    root = path.parent.resolve()
    for line_number, row in enumerate_jsonl(path, allow_truncated=False):
        names = row["images"] if row.get("images") is not None else row.get("image")
        names = [] if names is None else names if isinstance(names, list) else [names]
        position = f"{path}, line {line_number}"
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
                " mend it."
            ) from error
        if outside:
            raise InputError(
                f"{position}: {outside[0]!r} lies outside the folder of the file; copy the image"
                " into it."
            )
        question = row.get("question") if row.get("question") is not None else row.get("text")
        plain = {key: value for key, value in row.items() if key not in _IGNORED_KEYS}
        # An item may be an image alone: a question that says nothing is compared with nothing.
        question_text = (
            question
            if isinstance(question, str) and question.strip()
            else "-"
            if images or row.get("study")
            else None
        )
        sample = sample_from_row({**plain, "question": question_text}, line_number, images)
        answer = row.get("answer")
        if (
            isinstance(sample, Sample)
            and isinstance(answer, str)
            and answer.strip()
            and not sample.choices
        ):
            sample = sample.with_answer(answer)
        yield sample
