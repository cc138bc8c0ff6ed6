"""`lingshu build`: a download of a benchmark, turned into the folder that `--data` reads, with
checksums and counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lingshu.core import shelves
from lingshu.core.errors import BadImage, InputError
from lingshu.core.files import atomic_folder, dump_line, sha256_bytes, sha256_file, write_manifest
from lingshu.core.nouns import Drop, Image, Sample, Task
from lingshu.core.rows import row_from_sample
from lingshu.core.runcard import RunCard, write_run_card

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
    found = shelves.part("tasks", task, "TASK")
    if not isinstance(found, Task) or found.original is None:
        raise InputError(
            f"the task {task} reads no published files; it needs no build: give your folder to"
            " `lingshu eval --data`."
        )
    if found.agreement and found.agreement not in agreement:
        raise InputError(
            f"{found.name} is under an agreement ({found.licence}); pass --agreement"
            f" {found.agreement} if you have signed it."
        )
    if not source.is_dir():
        raise InputError(f"{source} is no folder; give the folder of the download.")
    target = out / found.name
    with atomic_folder(target) as folder:
        counts, drops = _write(found.original(source), folder)
        if not counts["samples"]:
            why = ", ".join(f"{reason} {count}" for reason, count in sorted(drops.items()))
            raise InputError(
                f"{source} gives no question for {found.name}{f' (dropped: {why})' if why else ''};"
                " check the folder."
            )
        notes = {
            "title": found.title,
            "source": found.source,
            "licence": found.licence,
            "access": found.access,
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
                notes={**notes, "agreement": found.agreement, "expected": found.n},
            ),
        )
        write_manifest(folder)
    return _tell(found, target, counts, drops)


def _write(items: Iterable[Sample | Drop], folder: Path) -> tuple[Counter[str], Counter[str]]:
    """Write the rows and each image once, under the digest of its content; counts of what was
    written, and of drops.
    """
    from lingshu.imaging.read import ShardReader

    counts, drops = Counter[str](samples=0, images=0), Counter[str]()
    sound: set[str] = set()
    (folder / IMAGES).mkdir()
    with (folder / ROWS).open("w", encoding="utf-8") as rows, ShardReader() as shards:
        for item in items:
            if isinstance(item, Drop):
                drops[item.reason] += 1
                continue
            try:
                # All of a question's images are read before one is written: a dropped question
                # leaves no file.
                encoded = [_checked(image, shards, sound) for image in item.images]
            except BadImage:
                drops["bad_image"] += 1
                continue
            names = [_place(data, folder, counts) for data in encoded]
            rows.write(dump_line(row_from_sample(item, names)))
            counts["samples"] += 1
    return counts, drops


def _checked(image: Image, shards: ShardReader, sound: set[str]) -> bytes:
    """The encoded file of an image that decodes; each content is decoded once.

    Raises:
        BadImage: it is missing or cannot be decoded.
    """
    from lingshu.imaging.read import decode, image_bytes, image_name

    data = image_bytes(image, shards=shards)
    name = sha256_bytes(data)
    if name not in sound:
        decode(data, name=image_name(image))
        sound.add(name)
    return data


def _place(data: bytes, folder: Path, counts: Counter[str]) -> str:
    suffix = next((suffix for magic, suffix in _MAGIC if data.startswith(magic)), ".img")
    # The content names the file: an image under many questions lies there once, and no name of a
    # patient's folder stays.
    name = f"{IMAGES}/{sha256_bytes(data)[:24]}{suffix}"
    if not (folder / name).exists():
        (folder / name).write_bytes(data)
        counts["images"] += 1
    return name


def _tell(task: Task, target: Path, counts: Counter[str], drops: Counter[str]) -> int:
    print(f"{counts['samples']} questions, {counts['images']} images: {target}")
    for reason, count in sorted(drops.items()):
        print(f"dropped {count}: {reason}")
    try:
        known = task.check_count(counts["samples"], drops)
    except InputError as error:
        print(f"WARNING: {error}")
        return 1
    if known:
        print(known)
    return 0
