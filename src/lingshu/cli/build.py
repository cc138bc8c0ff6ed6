"""`lingshu build`: a download of a benchmark, turned into the folder that `--data` reads, with
checksums and counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lingshu.core import registry
from lingshu.core.errors import ImageError, InputError
from lingshu.core.files import atomic_folder, dump_line, sha256_bytes, sha256_file, write_manifest
from lingshu.core.rows import row_from_sample
from lingshu.core.run_card import RunCard, write_run_card
from lingshu.core.types import Drop, Image, Sample, Task

if TYPE_CHECKING:
    from lingshu.imaging.read import ShardReader

ROWS, IMAGES = "rows.jsonl", "images"
_MAGIC = (
    (b"\x89PNG", ".png"), (b"\xff\xd8\xff", ".jpg"), (b"GIF8", ".gif"), (b"RIFF", ".webp"), (b"BM", ".bmp"),
    (b"II*\x00", ".tif"), (b"MM\x00*", ".tif"),
)  # fmt: skip


def build(task: str, source: Path, /, *, out: Path, agreement: tuple[str, ...] = ()) -> int:
    """Turn a benchmark's own files into OUT/TASK/rows.jsonl and images/, for `lingshu eval --data
    OUT`.

    Every row that gives no question is counted by its reason. The exit code is 1 where the number
    of questions is not the one that the benchmark's source states; the folder is written all the
    same.

    Args:
        task: name of a task, or a path to a .py file.
        source: folder with the files as their publisher gives them out, archives unpacked.
        out: folder for the data of all benchmarks; OUT/TASK is written anew.
        agreement: the data-use agreement you hold, named where the data are under one; may be given
            several times.
    """
    benchmark = registry.get_attribute("tasks", task, "TASK")
    if not isinstance(benchmark, Task) or benchmark.read_original is None:
        raise InputError(
            f"the task {task} reads no published files; it needs no build: give your folder to"
            " `lingshu eval --data`."
        )
    if benchmark.provenance.agreement and benchmark.provenance.agreement not in agreement:
        raise InputError(
            f"{benchmark.name} is under an agreement ({benchmark.provenance.license}); pass --agreement"
            f" {benchmark.provenance.agreement} if you have signed it."
        )
    if not source.is_dir():
        raise InputError(f"{source} is no folder; give the folder of the download.")
    target = out / benchmark.name
    with atomic_folder(target) as folder:
        counts, drops = _write_rows(benchmark.read_original(source), folder)
        if not counts["samples"]:
            reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(drops.items()))
            raise InputError(
                f"{source} gives no question for {benchmark.name}{f' (dropped: {reasons})' if reasons else ''};"
                " check the folder."
            )
        notes = {
            "title": benchmark.title,
            "source": benchmark.provenance.source,
            "license": benchmark.provenance.license,
            "access": benchmark.provenance.access,
        }
        config = {"task": task, "source": str(source), "agreement": list(agreement)}
        write_run_card(
            folder,
            RunCard(
                "build",
                config,
                counts={
                    **counts,
                    **{f"dropped_{reason}": count for reason, count in sorted(drops.items())},
                },
                hashes={ROWS: sha256_file(folder / ROWS)},
                notes={
                    **notes,
                    "agreement": benchmark.provenance.agreement,
                    "expected": benchmark.provenance.expected_n,
                },
            ),
        )
        write_manifest(folder)
    return _print_summary(benchmark, target, counts, drops)


def _write_rows(items: Iterable[Sample | Drop], folder: Path) -> tuple[Counter[str], Counter[str]]:
    """Write the rows and each image once, under the digest of its content; counts of what was
    written, and of drops.
    """
    from lingshu.imaging.read import ShardReader

    counts, drops = Counter[str](samples=0, images=0), Counter[str]()
    valid_digests: set[str] = set()
    (folder / IMAGES).mkdir()
    with (folder / ROWS).open("w", encoding="utf-8") as rows, ShardReader() as shards:
        for item in items:
            if isinstance(item, Drop):
                drops[item.reason] += 1
                continue
            try:
                # All of a question's images are read before one is written: a dropped question
                # leaves no file.
                encoded = [_read_valid_image(image, shards, valid_digests) for image in item.images]
            except ImageError:
                drops["bad_image"] += 1
                continue
            names = [_store_image(data, folder, counts) for data in encoded]
            rows.write(dump_line(row_from_sample(item, names)))
            counts["samples"] += 1
    return counts, drops


def _read_valid_image(image: Image, shards: ShardReader, valid_digests: set[str]) -> bytes:
    """The encoded file of an image that decodes; each content is decoded once.

    Raises:
        BadImage: it is missing or cannot be decoded.
    """
    from lingshu.imaging.read import decode, image_bytes, image_name

    data = image_bytes(image, shards=shards)
    name = sha256_bytes(data)
    if name not in valid_digests:
        decode(data, name=image_name(image))
        valid_digests.add(name)
    return data


def _store_image(data: bytes, folder: Path, counts: Counter[str]) -> str:
    suffix = next((suffix for magic, suffix in _MAGIC if data.startswith(magic)), ".img")
    # The content names the file: an image under many questions lies there once, and no name of a
    # patient's folder stays.
    name = f"{IMAGES}/{sha256_bytes(data)[:24]}{suffix}"
    if not (folder / name).exists():
        (folder / name).write_bytes(data)
        counts["images"] += 1
    return name


def _print_summary(task: Task, target: Path, counts: Counter[str], drops: Counter[str]) -> int:
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
