"""A part of the dataset: the rows that are left, with their encoded images, as one parquet shard,
and its statistics.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lingshu.core.errors import BadImage
from lingshu.core.files import atomic_file, disk, sha256_file, write_json
from lingshu.core.nouns import Image, Sample
from lingshu.core.shards import ShardWriter
from lingshu.curate.ledger import Ledger
from lingshu.curate.plan import WRITE
from lingshu.imaging.read import encode_png, unnamed

if TYPE_CHECKING:
    from lingshu.curate.work import Job, Journal
    from lingshu.imaging.pictures import Pictures

FACETS = ("modality", "kind", "language", "source", "licence", "access")
# Upper bounds of the bars of a distribution.
SIDES = (64, 128, 256, 512, 1024, 2048, 4096)
WORDS = (4, 16, 64, 256, 1024, 4096)


def facts_file(part: Path) -> Path:
    """What is known of a part, beside it; it is written last, so a part that has it is whole."""
    return part.with_suffix(".json")


def write_part(job: Job, pictures: Pictures, journal: Journal) -> None:
    """Write the rows of `job` as a shard of a DATASET. Every image in it was decoded once in this
    run.

    Raises:
        StorageError: the disk refused.
    """
    from lingshu.curate.work import Lost, rows_of

    path = Path(job.output)
    ledger, statistics = Ledger(), Statistics()
    lost: list[Lost] = []
    with atomic_file(path) as temporary, disk(path), ShardWriter(temporary) as writer:
        for number, row, sample in rows_of(job):
            journal.at(number, 0)
            source = job.sources[row.origin]
            ledger.enter(WRITE, source)
            reason = "worker_died" if number in job.dead else None
            detail, encoded = "", []
            if reason is None:
                try:
                    encoded = [
                        _encoded(image, pictures, sound=row.sound, png=job.image_format == "png")
                        for image in sample.images
                    ]
                except BadImage as error:
                    reason, detail = "bad_image", unnamed(error, sample.images)
            if reason is None and not _shows_its_images(sample):
                reason, detail = (
                    "bad_messages",
                    "a turn shows an image that the sample does not have",
                )
            if reason:
                ledger.drop(WRITE, source, reason)
                lost.append(Lost(WRITE, source, sample.id, reason, detail))
                continue
            ledger.leave(WRITE, source)
            writer.add(sample, encoded)
            statistics.count(sample, pictures, len(encoded))
    facts = {
        "ledger": ledger.plain(),
        "lost": lost,
        **statistics.plain(),
        "sha256": sha256_file(path),
    }
    write_json(facts_file(path), facts)


def _encoded(image: Image, pictures: Pictures, *, sound: bool, png: bool) -> bytes:
    if png:
        return encode_png(pictures.rgb(image))
    data = pictures.bytes(image)
    # A file of another kind (DICOM, say) must not enter a dataset as it lies there: its header is
    # refused.
    pictures.header(image)
    if not sound:
        pictures.gray(image)
    return data


def _shows_its_images(sample: Sample) -> bool:
    return all(
        0 <= p < len(sample.images)
        for message in sample.messages
        for p in message.parts
        if isinstance(p, int)
    )


class Statistics:
    """Rows, images and distributions of a part; those of several are added up."""

    def __init__(self) -> None:
        self.rows = self.images = 0
        self.distributions: dict[str, Counter[str]] = {
            name: Counter() for name in (*FACETS, "image side", "words", "turns", "images of a row")
        }

    def count(self, sample: Sample, pictures: Pictures, images: int) -> None:
        self.rows += 1
        self.images += images
        for name in FACETS:
            self.distributions[name][sample.meta.facet(name) or "unknown"] += 1
        for image in sample.images:
            header = pictures.header(image)
            self.distributions["image side"][_bar(max(header.width, header.height), SIDES)] += 1
        words = sum(_words(message.text) for message in sample.messages)
        self.distributions["words"][_bar(words, WORDS)] += 1
        self.distributions["turns"][
            str(sum(message.role == "assistant" for message in sample.messages))
        ] += 1
        self.distributions["images of a row"][str(images)] += 1

    def merge(self, plain: dict[str, Any]) -> None:
        self.rows += plain["rows"]
        self.images += plain["images"]
        for name, counts in plain["distributions"].items():
            self.distributions[name].update(counts)

    def plain(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "images": self.images,
            "distributions": {k: dict(v) for k, v in self.distributions.items()},
        }


def _words(text: str) -> int:
    """Words, where a character of a script without blanks counts as one."""
    return (
        len(text.split()) + sum("一" <= c <= "鿿" for c in text)
        if not text.isascii()
        else len(text.split())
    )


def _bar(value: int, bounds: tuple[int, ...]) -> str:
    low = 0
    for bound in bounds:
        if value <= bound:
            return f"{low + 1}-{bound}" if low else f"up to {bound}"
        low = bound
    return f"over {low}"


def part_facts(part: Path) -> dict[str, Any]:
    return json.loads(facts_file(part).read_text(encoding="utf-8"))
