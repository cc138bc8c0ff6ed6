"""The five artefacts, their files and keys, and the one place that reads and writes each.

DATASET     folder: data/*.parquet + dataset.json + README.md + run.json + manifest.json
CHECKPOINT  folder: the hub layout of its model family + run.json + manifest.json
REPLIES     replies.jsonl, or replies.<rank>-of-<world>.jsonl for each of several processes: append-only, one row per reply
SCORES      scores.jsonl, one row per sample in the order of the task
REPORT      folder: report.json + report.md + report.html

docs/artefacts.md describes every key with an example; a golden test pins both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from lingshu.core.errors import ArtifactError, StorageError
from lingshu.core.files import (
    JsonlAppender,
    atomic_folder,
    check_manifest,
    digest,
    enumerate_jsonl,
    is_locked,
    read_json,
    write_json,
    write_jsonl,
    write_manifest,
)
from lingshu.core.messages import message_to_json
from lingshu.core.run_card import RunCard, write_run_card
from lingshu.core.shards import ShardWriter, dataset_schema, row_to_sample, shard_name
from lingshu.core.types import STATUSES, Reply, Sample, Sampling, Score

DATASET_CARD = "dataset.json"
REPLIES, SCORES = "replies.jsonl", "scores.jsonl"
REPORT_JSON, REPORT_MD, REPORT_HTML = "report.json", "report.md", "report.html"
SHARD_ROWS = 4096


# --- DATASET
# -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DatasetCard:
    """What a dataset holds: its name, rows, licences and sources with their counts, and every drop
    by reason.

    A curated one also says what each step did (docs/artefacts.md: step), the distributions of its
    rows by facet, and its `version`, the digest of its shards' hashes. None: the dataset was not
    made by `lingshu curate`.
    """

    name: str
    rows: int
    images: int
    licenses: Mapping[str, int]
    sources: Mapping[str, int]
    access: Mapping[str, int]
    drops: Mapping[str, int] = field(default_factory=dict)
    version: str | None = None
    steps: Sequence[Mapping[str, Any]] | None = None
    distributions: Mapping[str, Mapping[str, int]] | None = None


def write_dataset(
    folder: Path,
    name: str,
    rows: Iterable[tuple[Sample, Sequence[bytes]]],
    card: RunCard,
    *,
    drops: Mapping[str, int] | None = None,
) -> DatasetCard:
    """Write samples with their encoded images as a DATASET folder, whole or not at all.

    Raises:
        StorageError: the disk refused the write; nothing is left behind.
    """
    counts: dict[str, dict[str, int]] = {"license": {}, "source": {}, "access": {}}
    total = images = shard = 0
    with atomic_folder(folder) as temporary:
        (temporary / "data").mkdir()
        remaining, has_more = iter(rows), True
        while has_more:
            with ShardWriter(temporary / shard_name(shard)) as writer:
                for sample, encoded in islice(remaining, SHARD_ROWS):
                    writer.add(sample, encoded)
                    total, images = total + 1, images + len(encoded)
                    for key, tally in counts.items():
                        value = str(getattr(sample.meta, key) or "unknown")
                        tally[value] = tally.get(value, 0) + 1
            first = next(remaining, None)
            has_more = first is not None
            remaining, shard = (
                (remaining if first is None else chain((first,), remaining)),
                shard + 1,
            )
        result = DatasetCard(
            name,
            total,
            images,
            counts["license"],
            counts["source"],
            counts["access"],
            dict(drops or {}),
        )
        write_json(temporary / DATASET_CARD, asdict(result))
        (temporary / "README.md").write_text(_dataset_readme(result), encoding="utf-8")
        write_run_card(temporary, card)
        write_manifest(temporary)
    return result


def _dataset_readme(card: DatasetCard) -> str:
    def table(title: str, counts: Mapping[str, int]) -> str:
        return f"\n| {title} | rows |\n|---|---|\n" + "".join(
            f"| {k} | {v} |\n" for k, v in counts.items()
        )

    head = "---\nconfigs:\n- config_name: default\n  data_files: data/*.parquet\n---\n"
    body = (
        f"# {card.name}\n\n{card.rows} rows, {card.images} images. Research only; not for clinical"
        " use.\n"
    )
    tables = {
        "license": card.licenses,
        "source": card.sources,
        "access": card.access,
        "dropped because": card.drops,
    }
    return head + body + "".join(table(title, counts) for title, counts in tables.items() if counts)


def open_dataset(folder: Path) -> DatasetCard:
    """Check a DATASET folder against its manifest and return its card.

    Raises:
        ArtefactError: it is no dataset, or it is damaged.
    """
    if not (folder / DATASET_CARD).is_file():
        raise ArtifactError(
            f"{folder} is no DATASET folder ({DATASET_CARD} is missing); make one with `lingshu"
            " curate`, or check the path."
        )
    check_manifest(folder)
    try:
        return DatasetCard(**read_json(folder / DATASET_CARD))
    except TypeError as error:
        raise ArtifactError(
            f"{folder / DATASET_CARD} is no card of a dataset ({error}); make the dataset anew."
        ) from error


def dataset_digest(folder: Path) -> str:
    """What identifies a dataset's content: the digest of its shards' hashes."""
    files = read_json(folder / "manifest.json")["files"]
    return digest(
        {name: info["sha256"] for name, info in files.items() if name.startswith("data/")}
    )


def read_dataset(folder: Path) -> Iterator[Sample]:
    """The samples of a DATASET folder in order; image bytes stay on the disk."""
    import pyarrow.parquet as pq

    columns = [name for name in dataset_schema().names if name != "images"]
    for shard in sorted((folder / "data").glob("*.parquet")):
        row_index = 0
        for batch in pq.ParquetFile(shard).iter_batches(columns=columns):
            for row in batch.to_pylist():
                yield row_to_sample(row, shard, row_index)
                row_index += 1


# --- CHECKPOINT
# --------------------------------------------------------------------------------------------------


def check_checkpoint(folder: Path) -> str:
    """Check a CHECKPOINT folder and return the digest that identifies its content.

    Raises:
        ArtefactError: it is no model folder, or a file is missing, truncated or changed.
    """
    if not folder.is_dir():
        raise ArtifactError(
            f"{folder} is no folder; give a checkpoint folder, a hub id, or http(s)://host/v1#name."
        )
    if not (folder / "config.json").is_file():
        raise ArtifactError(
            f"{folder} is no model folder (config.json is missing); give the folder that `lingshu"
            " train` names as its checkpoint."
        )
    files = check_manifest(folder)
    if files is not None:
        return digest({name: info["sha256"] for name, info in files.items() if name != "run.json"})
    # A folder that others made: sizes and the small files stand for it, hashing gigabytes on each
    # start would not pay.
    fingerprint = {
        p.name: p.stat().st_size if p.stat().st_size > 1 << 20 else p.read_bytes().hex()
        for p in sorted(folder.iterdir())
        if p.is_file()
    }
    return digest(fingerprint)


# --- REPLIES
# -----------------------------------------------------------------------------------------------------


def reply_key(
    sample: Sample,
    image_hashes: Sequence[str],
    revision: str | None,
    model: str,
    model_digest: str,
    sampling: Sampling,
    generation_index: int,
) -> str:
    """sha256 of all that decides a reply: data revision, sample, dialogue, images, model and
    decoding.
    """
    decoding = {
        name: getattr(sampling, name)
        for name in Sampling.__dataclass_fields__
        if name != "num_generations"
    }
    dialogue = [message_to_json(m) for m in sample.messages]
    return digest(
        [
            revision,
            sample.id,
            dialogue,
            list(image_hashes),
            model,
            model_digest,
            decoding,
            generation_index,
        ]
    )


_OPTIONAL_STR, _OPTIONAL_INT = (str, type(None)), (int, type(None))
_REPLY_TYPES: Mapping[str, tuple[type, ...]] = {
    "key": (str,),
    "id": (str,),
    "text": _OPTIONAL_STR,
    "generation_index": (int,),
    "finish": _OPTIONAL_STR,
    "prompt_tokens": _OPTIONAL_INT,
    "reply_tokens": _OPTIONAL_INT,
    "error": _OPTIONAL_STR,
}
_REPLY_FIELDS = tuple(name for name in _REPLY_TYPES if name != "key")
_RANKED_FILE = re.compile(r"replies\.(\d+)-of-(\d+)\.jsonl")


def replies_file(folder: Path, rank: int = 0, world_size: int = 1) -> Path:
    """The file that process `rank` of `world` writes its replies to."""
    return folder / (REPLIES if world_size == 1 else f"replies.{rank}-of-{world_size}.jsonl")


def reply_files(folder: Path) -> list[Path]:
    """Every file of replies in `folder`, whichever process of whichever run wrote it; the order
    decides whose answer counts.
    """
    ranked = sorted(
        (int(m[2]), int(m[1]), path)
        for path in folder.glob("replies.*-of-*.jsonl")
        if (m := _RANKED_FILE.fullmatch(path.name))
    )
    single = folder / REPLIES
    return [*([single] if single.is_file() else []), *(path for _, _, path in ranked)]


def read_replies(folder: Path) -> Iterator[tuple[str, Reply]]:
    """Every stored reply with its key, file by file; a row that is being written at this moment is
    passed over.

    Raises:
        ArtefactError: a row that is none of replies.
    """
    return (
        (key, reply) for path in reply_files(folder) for _, key, reply in enumerate_replies(path)
    )


def enumerate_replies(path: Path) -> Iterator[tuple[int, str, Reply]]:
    """The replies of one file with the numbers of their lines, from 1."""
    for line_number, row in enumerate_jsonl(path, allow_truncated=True):
        if not row.keys() >= {"key", "id", "text"} or not row.keys() <= {"key", *_REPLY_FIELDS}:
            raise ArtifactError(
                f"{path}, line {line_number}: no row of replies; give the folder of an evaluation, or"
                " choose another --out."
            )
        for name, value in row.items():
            if not isinstance(value, _REPLY_TYPES[name]):
                raise ArtifactError(
                    f"{path}, line {line_number}: {name} cannot be {value!r:.40}; remove the line, and"
                    " its question is asked again."
                )
        yield line_number, row.pop("key"), Reply(**row)


class ReplyStore:
    """What one process appends its replies to. The file is locked while it is open.

    A reply that failed (`error`) is kept as a record, but does not count as an answer: the next run
    asks again.

    Raises:
        StorageError: another process writes this file, or a run of another number of processes is
            at work in `folder`.
    """

    def __init__(self, folder: Path, *, rank: int = 0, world_size: int = 1) -> None:
        path = replies_file(folder, rank, world_size)
        self._log = JsonlAppender(path)
        # First the own lock, then a look at the others': of two that start at once, at least one
        # sees the other.
        own_paths = {replies_file(folder, other, world_size) for other in range(world_size)}
        for other in reply_files(folder):
            if other not in own_paths and is_locked(other):
                self._log.close()
                raise StorageError(
                    f"{other} is being written by another run; wait for it to end, or choose"
                    " another --out."
                )

    def add(self, replies: Iterable[tuple[str, Reply]]) -> None:
        """Append replies under their keys, in one write that is on the disk when this returns."""
        self._log.append(
            {"key": key, **{name: getattr(reply, name) for name in _REPLY_FIELDS}}
            for key, reply in replies
        )

    def close(self) -> None:
        self._log.close()

    def __enter__(self) -> ReplyStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# --- SCORES
# ------------------------------------------------------------------------------------------------------


def score_row(
    sample_id: str, score: Score, passthrough_fields: Mapping[str, Any]
) -> dict[str, Any]:
    """One SCORES row; `carried` are the keys that come along from the question, such as groupings."""
    return {
        "id": sample_id,
        **asdict(score),
        **{
            k: v
            for k, v in passthrough_fields.items()
            if k not in ("id", "value", "status", "prediction", "note")
        },
    }


def write_scores(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    return write_jsonl(path, rows)


def read_scores(path: Path) -> list[dict[str, Any]]:
    """The rows of a SCORES file; raises as `iterate_scores` does."""
    return list(iterate_scores(path))


def iterate_scores(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a SCORES file, one at a time.

    Raises:
        ArtefactError: the file is missing or is no scores file.
    """
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist; run `lingshu eval` or `lingshu score` first.")
    for line_number, row in enumerate_jsonl(path, allow_truncated=True):
        if not {"id", "value", "status"} <= row.keys():
            raise ArtifactError(
                f"{path}, line {line_number}: no scores row (id, value and status are needed); score the"
                " run again."
            )
        for name, is_valid in _SCORE_CHECKS.items():
            if not is_valid(row.get(name)):
                raise ArtifactError(
                    f"{path}, line {line_number}: {name} cannot be {row[name]!r:.40}; score the run"
                    " again."
                )
        yield row


def _is_value(value: object) -> bool:
    # Scores are shares, and those of rubrics a few times as much; sums of what is far larger would
    # leave the range of numbers.
    return value is None or (
        isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6
    )


# What decides the numbers of a report.
_SCORE_CHECKS: Mapping[str, Callable[[object], bool]] = {
    "id": lambda value: isinstance(value, str | int),
    "value": _is_value,
    "status": lambda value: value in STATUSES,
    "note": lambda value: isinstance(value, str | None),
    "group": lambda value: isinstance(value, str | int | None),
    "protocol": lambda value: isinstance(value, str | None),
}
