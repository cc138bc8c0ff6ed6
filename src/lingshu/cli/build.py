"""`lingshu build`: turn the download of a benchmark into the folder that `--data` reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lingshu.cli.options import Flat
from lingshu.core import registry
from lingshu.core.errors import ImageError, InputError
from lingshu.core.files import atomic_folder, dump_line, sha256_bytes, sha256_file, write_manifest
from lingshu.core.rows import row_from_sample
from lingshu.core.run_card import RunCard, write_run_card
from lingshu.core.types import Drop, Image, Sample, Task

if TYPE_CHECKING:
    from lingshu.imaging.read import ShardReader

ROWS, IMAGES = "rows.jsonl", "images"
_SUFFIX_BY_MAGIC = {
    b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg", b"GIF8": ".gif", b"RIFF": ".webp", b"BM": ".bmp",
    b"II*\x00": ".tif", b"MM\x00*": ".tif",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    agreement: tuple[str, ...] = ()
    """The data-use agreement you have signed, if the data is under one; may be given several
    times."""


def build(
    task: str, source: Path, /, *, out: Path, config: Flat[BuildConfig] = BuildConfig()
) -> int:
    """Turn a benchmark's own files into OUT/TASK/rows.jsonl and images/, for `lingshu eval --data
    OUT`.

    Every row without a question is counted by its reason. The exit code is 1 if the number of
    questions is not the one that the benchmark's source states; the folder is written nevertheless.

    Args:
        task: Name of a task, or a path to a .py file.
        source: Folder with the files as published, archives unpacked.
        out: Folder for the data of all benchmarks; OUT/TASK is replaced.
    """
    benchmark = registry.get_attribute("tasks", task, "TASK")
    if not isinstance(benchmark, Task) or benchmark.read_original is None:
        raise InputError(
            f"the task {task} reads no published files; it needs no build: give your folder to"
            " `lingshu eval --data`."
        )
    provenance = benchmark.provenance
    if provenance.agreement and provenance.agreement not in config.agreement:
        raise InputError(
            f"{benchmark.name} is under an agreement ({provenance.license}); pass --agreement"
            f" {provenance.agreement} if you have signed it."
        )
    if not source.is_dir():
        raise InputError(f"{source} is not a folder; give the folder of the download.")
    target = out / benchmark.name
    with atomic_folder(target) as folder:
        counts, drops = _write_rows(benchmark.read_original(source), folder)
        if not counts["samples"]:
            reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(drops.items()))
            raise InputError(
                f"{source} has no question for {benchmark.name}"
                f"{f' (dropped: {reasons})' if reasons else ''}; check the folder."
            )
        dropped = {f"dropped_{reason}": count for reason, count in sorted(drops.items())}
        card = RunCard(
            "build",
            {"task": task, "source": str(source), "agreement": list(config.agreement)},
            counts={**counts, **dropped},
            hashes={ROWS: sha256_file(folder / ROWS)},
            notes={
                "title": benchmark.title,
                "source": provenance.source,
                "license": provenance.license,
                "access": provenance.access,
                "agreement": provenance.agreement,
                "expected": provenance.expected_n,
            },
        )
        write_run_card(folder, card)
        write_manifest(folder)
    return print_summary(benchmark, target, counts, drops)


def _write_rows(rows: Iterable[Sample | Drop], folder: Path) -> tuple[Counter[str], Counter[str]]:
    """Write the rows, and each image once; returns counts of what was written and of drops."""
    from lingshu.imaging.read import ShardReader

    counts, drops = Counter[str](samples=0, images=0), Counter[str]()
    valid_digests: set[str] = set()
    (folder / IMAGES).mkdir()
    with (folder / ROWS).open("w", encoding="utf-8") as file, ShardReader() as shards:
        for row in rows:
            if isinstance(row, Drop):
                drops[row.reason] += 1
                continue
            try:
                # All images of a question are read before one is written: a dropped question
                # leaves no file.
                encoded = [_read_valid_image(image, shards, valid_digests) for image in row.images]
            except ImageError:
                drops["bad_image"] += 1
                continue
            names = [_store_image(data, folder, counts) for data in encoded]
            file.write(dump_line(row_from_sample(row, names)))
            counts["samples"] += 1
    return counts, drops


def _read_valid_image(image: Image, shards: ShardReader, valid_digests: set[str]) -> bytes:
    """The encoded file of an image that can be decoded; each content is decoded once.

    Raises:
        ImageError: it is missing or cannot be decoded.
    """
    from lingshu.imaging.read import decode, image_bytes, image_name

    data = image_bytes(image, shards=shards)
    key = sha256_bytes(data)
    if key not in valid_digests:
        decode(data, name=image_name(image))
        valid_digests.add(key)
    return data


def _store_image(data: bytes, folder: Path, counts: Counter[str]) -> str:
    suffixes = (suffix for magic, suffix in _SUFFIX_BY_MAGIC.items() if data.startswith(magic))
    # Named by its content: an image of many questions is stored once, and no name of a patient's
    # folder remains.
    name = f"{IMAGES}/{sha256_bytes(data)[:24]}{next(suffixes, '.img')}"
    if not (folder / name).exists():
        (folder / name).write_bytes(data)
        counts["images"] += 1
    return name


def print_summary(task: Task, target: Path, counts: Counter[str], drops: Counter[str]) -> int:
    print(f"{counts['samples']} questions, {counts['images']} images: {target}")
    for reason, count in sorted(drops.items()):
        print(f"dropped {count}: {reason}")
    try:
        count_message = task.provenance.check_count(task.name, counts["samples"], drops)
    except InputError as error:
        print(f"WARNING: {error}")
        return 1
    if count_message:
        print(count_message)
    return 0
