"""A part of the dataset: the rows that are left, with their encoded images, as one parquet shard,
and its statistics.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lingshu.core.errors import ImageError
from lingshu.core.files import atomic_file, sha256_file, storage_errors, write_json
from lingshu.core.shards import ShardWriter
from lingshu.core.types import Image, Sample
from lingshu.curate.counts import StepCounts
from lingshu.curate.plan import WRITE_STEP
from lingshu.imaging.read import encode_png, error_without_paths

if TYPE_CHECKING:
    from lingshu.curate.worker import Job, ProgressMarker
    from lingshu.imaging.cache import ImageCache

FACETS = ("modality", "kind", "language", "source", "license", "access")
# Upper bounds of the bars of a distribution.
SIDE_BOUNDS = (64, 128, 256, 512, 1024, 2048, 4096)
WORD_BOUNDS = (4, 16, 64, 256, 1024, 4096)


def part_stats_path(part: Path) -> Path:
    """What is known of a part, beside it; it is written last, so a part that has it is whole."""
    return part.with_suffix(".json")


def write_part(job: Job, image_cache: ImageCache, marker: ProgressMarker) -> None:
    """Write the rows of `job` as a shard of a DATASET. Every image in it was decoded once in this
    run.

    Raises:
        StorageError: the disk refused.
    """
    from lingshu.curate.worker import DroppedRow, iter_rows

    path = Path(job.output)
    counts, statistics = StepCounts(), DatasetStatistics()
    dropped: list[DroppedRow] = []
    with atomic_file(path) as temporary, storage_errors(path), ShardWriter(temporary) as writer:
        for row_index, row, sample in iter_rows(job):
            marker.update(row_index, 0)
            source = job.sources[row.source_index]
            counts.record_in(WRITE_STEP, source)
            reason = "worker_died" if row_index in job.crashed_rows else None
            detail, encoded = "", []
            if reason is None:
                try:
                    encoded = [
                        _encode_image(
                            image, image_cache, is_valid=row.is_valid, png=job.image_format == "png"
                        )
                        for image in sample.images
                    ]
                except ImageError as error:
                    reason, detail = "bad_image", error_without_paths(error, sample.images)
            if reason is None and not _has_valid_image_refs(sample):
                reason, detail = (
                    "bad_messages",
                    "a turn shows an image that the sample does not have",
                )
            if reason:
                counts.record_drop(WRITE_STEP, source, reason)
                dropped.append(DroppedRow(WRITE_STEP, source, sample.id, reason, detail))
                continue
            counts.record_out(WRITE_STEP, source)
            writer.add(sample, encoded)
            statistics.add(sample, image_cache, len(encoded))
    stats = {
        "counts": counts.as_dict(),
        "drops": dropped,
        **statistics.as_dict(),
        "sha256": sha256_file(path),
    }
    write_json(part_stats_path(path), stats)


def _encode_image(image: Image, image_cache: ImageCache, *, is_valid: bool, png: bool) -> bytes:
    if png:
        return encode_png(image_cache.rgb(image))
    data = image_cache.bytes(image)
    # A file of another kind (DICOM, say) must not enter a dataset as it lies there: its header is
    # refused.
    image_cache.header(image)
    if not is_valid:
        image_cache.gray(image)
    return data


def _has_valid_image_refs(sample: Sample) -> bool:
    return all(
        0 <= p < len(sample.images)
        for message in sample.messages
        for p in message.parts
        if isinstance(p, int)
    )


class DatasetStatistics:
    """Rows, images and distributions of a part; those of several are added up."""

    def __init__(self) -> None:
        self.rows = self.n_images = 0
        self.distributions: dict[str, Counter[str]] = {
            name: Counter() for name in (*FACETS, "image side", "words", "turns", "images of a row")
        }

    def add(self, sample: Sample, image_cache: ImageCache, n_images: int) -> None:
        self.rows += 1
        self.n_images += n_images
        for name in FACETS:
            self.distributions[name][sample.meta.facet(name) or "unknown"] += 1
        for image in sample.images:
            header = image_cache.header(image)
            self.distributions["image side"][
                _bucket(max(header.width, header.height), SIDE_BOUNDS)
            ] += 1
        words = sum(_count_words(message.text) for message in sample.messages)
        self.distributions["words"][_bucket(words, WORD_BOUNDS)] += 1
        self.distributions["turns"][
            str(sum(message.role == "assistant" for message in sample.messages))
        ] += 1
        self.distributions["images of a row"][str(n_images)] += 1

    def merge(self, values: dict[str, Any]) -> None:
        self.rows += values["rows"]
        self.n_images += values["images"]
        for name, counts in values["distributions"].items():
            self.distributions[name].update(counts)

    def as_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "images": self.n_images,
            "distributions": {k: dict(v) for k, v in self.distributions.items()},
        }


def _count_words(text: str) -> int:
    """Words, where a character of a script without blanks counts as one."""
    return (
        len(text.split()) + sum("一" <= c <= "鿿" for c in text)
        if not text.isascii()
        else len(text.split())
    )


def _bucket(value: int, bounds: tuple[int, ...]) -> str:
    low = 0
    for bound in bounds:
        if value <= bound:
            return f"{low + 1}-{bound}" if low else f"up to {bound}"
        low = bound
    return f"over {low}"


def read_part_stats(part: Path) -> dict[str, Any]:
    return json.loads(part_stats_path(part).read_text(encoding="utf-8"))
