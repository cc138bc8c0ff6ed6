"""The five artifacts, their files and keys, and the only code that reads and writes them.

DATASET     folder: data/*.parquet + dataset.json + README.md + run.json + manifest.json
CHECKPOINT  folder: the hub layout of its model family + run.json + manifest.json
REPLIES     replies.jsonl, or replies.<rank>-of-<world_size>.jsonl a process: one row per reply
SCORES      scores.jsonl, one row per sample in the order of the task
REPORT      folder: report.json + report.md + report.html

docs/artifacts.md describes every key with an example; a golden test pins both.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from lingshu.core.errors import ArtifactError, StorageError
from lingshu.core.files import (
    Closeable,
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
from lingshu.core.messages import message_from_json, message_to_json
from lingshu.core.run_card import RunCard, write_run_card
from lingshu.core.types import (
    STATUSES,
    AnswerToken,
    Image,
    Meta,
    Reply,
    Sample,
    Sampling,
    Score,
    TextLogProb,
)

if TYPE_CHECKING:
    import pyarrow as pa

DATASET_CARD = "dataset.json"
REPLIES, SCORES = "replies.jsonl", "scores.jsonl"
REPORT_JSON, REPORT_MD, REPORT_HTML = "report.json", "report.md", "report.html"
SHARD_ROWS = 4096


# --- DATASET

# Small row groups: reading one image must not decode a complete shard.
ROW_GROUP_ROWS = 64
ROW_GROUP_BYTES = 16 << 20
TEXT_COLUMNS = ("source", "license", "access", "agreement", "modality", "language", "kind", "group")


def dataset_schema() -> pa.Schema:
    """The columns of a shard; the metadata makes `datasets` decode the image column."""
    import pyarrow as pa

    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = ("id", "messages", "gold", "choices", "extra", *TEXT_COLUMNS)
    features = {
        **{name: {"dtype": "string", "_type": "Value"} for name in texts},
        "images": {"feature": {"_type": "Image"}, "_type": "List"},
        "image_count": {"dtype": "int32", "_type": "Value"},
        "deidentified": {"dtype": "bool", "_type": "Value"},
    }
    columns = [
        pa.field("id", pa.string(), nullable=False),
        pa.field("messages", pa.string(), nullable=False),
        pa.field("images", pa.list_(image)),
        pa.field("image_count", pa.int32()),
        pa.field("gold", pa.string()),
        pa.field("choices", pa.string()),
        *(pa.field(name, pa.string()) for name in TEXT_COLUMNS),
        pa.field("deidentified", pa.bool_()),
        pa.field("extra", pa.string()),
    ]
    return pa.schema(
        columns, metadata={"huggingface": json.dumps({"info": {"features": features}})}
    )


def sample_to_row(sample: Sample, images: Sequence[bytes]) -> dict[str, Any]:
    """One shard row; `images` are the encoded files of the sample's images, in their order."""
    meta = sample.meta
    return {
        "id": sample.id,
        "messages": json.dumps([message_to_json(m) for m in sample.messages], ensure_ascii=False),
        "images": [{"bytes": data, "path": None} for data in images],
        "image_count": len(images),
        "gold": None if sample.gold is None else json.dumps(sample.gold, ensure_ascii=False),
        "choices": json.dumps(sample.choices, ensure_ascii=False),
        **{name: getattr(meta, name) for name in TEXT_COLUMNS},
        "deidentified": meta.deidentified,
        "extra": json.dumps(dict(meta.extra), ensure_ascii=False),
    }


def row_to_sample(row: Mapping[str, Any], shard: Path, row_index: int) -> Sample:
    """The sample of row `row_index` of a shard; its images are references into the shard."""
    texts = {name: row[name] for name in TEXT_COLUMNS if row[name] is not None}
    return Sample(
        id=row["id"],
        messages=tuple(message_from_json(m) for m in json.loads(row["messages"])),
        images=tuple(
            Image(path=str(shard), row=row_index, index=i) for i in range(row["image_count"])
        ),
        gold=None if row["gold"] is None else tuple(json.loads(row["gold"])),
        choices=tuple(json.loads(row["choices"])),
        meta=Meta(**texts, deidentified=row["deidentified"], extra=json.loads(row["extra"])),
    )


class ShardWriter(Closeable):
    """Writes one shard row by row with one row group in memory; equal rows give equal bytes.

    Images are neither compressed nor deduplicated: encoded files gain nothing from it.
    """

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        texts = [name for name in dataset_schema().names if name != "images"]
        compression = {name: "snappy" for name in texts} | {
            "images.list.element.bytes": "none",
            "images.list.element.path": "snappy",
        }
        self._writer = pq.ParquetWriter(
            path,
            dataset_schema(),
            use_dictionary=texts,  # pyright: ignore[reportArgumentType]
            compression=compression,  # type: ignore[arg-type]
        )
        self._buffer: list[dict[str, Any]] = []
        self._buffered_bytes = 0

    def add(self, sample: Sample, images: Sequence[bytes]) -> None:
        """Add a sample with the encoded files of its images."""
        self._buffer.append(sample_to_row(sample, images))
        self._buffered_bytes += sum(map(len, images))
        if len(self._buffer) == ROW_GROUP_ROWS or self._buffered_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._buffer:
            schema = dataset_schema()
            images = _image_column(schema, [row.pop("images") for row in self._buffer])
            table = pa.Table.from_pylist(self._buffer, schema).set_column(*images)
            # the table has its own copy, and the writer makes another
            self._buffer, self._buffered_bytes = [], 0
            self._writer.write_table(table)
            del table
            release_freed_memory()

    def close(self) -> None:
        try:
            self._flush()
        finally:
            self._writer.close()


def _image_column(
    schema: pa.Schema, rows: Sequence[Sequence[Mapping[str, Any]]]
) -> tuple[int, pa.Field, pa.Array]:
    """Index, field and values of the image column, without Arrow's costly conversion of lists."""
    import numpy as np
    import pyarrow as pa

    column_index = schema.get_field_index("images")
    field = schema.field(column_index)
    files = [image["bytes"] for images in rows for image in images]
    offsets = np.cumsum([0, *map(len, files)], dtype=np.int32)
    encoded = pa.Array.from_buffers(
        pa.binary(), len(files), [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(files))]
    )
    items = pa.StructArray.from_arrays(
        [encoded, pa.nulls(len(files), pa.string())], fields=list(field.type.value_type)
    )
    counts = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    return column_index, field, pa.ListArray.from_arrays(pa.array(counts), items, type=field.type)


def shard_name(index: int) -> str:
    """The path of a shard in a DATASET folder."""
    return f"data/part-{index:05d}.parquet"


@dataclass(frozen=True)
class DatasetCard:
    """Rows, licenses and sources of a dataset with their counts, and every drop by reason.

    Only a dataset of `lingshu curate` has `version` (the digest of its shards' hashes), what each
    step did (docs/artifacts.md: step), and the distributions of its rows by facet.
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


class DatasetWriter(Closeable):
    """Writes the shards of a DATASET folder row by row, and counts what its card states."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.n_rows = self.n_images = 0
        self.counts = {facet: Counter[str]() for facet in ("license", "source", "access")}
        (folder / "data").mkdir()
        self._open_shard()  # a dataset without rows has one as well

    def _open_shard(self) -> None:
        self._shard = ShardWriter(self._folder / shard_name(self.n_rows // SHARD_ROWS))

    def add(self, sample: Sample, images: Sequence[bytes]) -> None:
        """Add a sample with the encoded files of its images."""
        if self.n_rows and self.n_rows % SHARD_ROWS == 0:
            self._shard.close()
            self._open_shard()
        self._shard.add(sample, images)
        self.n_rows, self.n_images = self.n_rows + 1, self.n_images + len(images)
        for facet, counter in self.counts.items():
            counter[str(getattr(sample.meta, facet) or "unknown")] += 1

    def close(self) -> None:
        self._shard.close()


def write_dataset(
    folder: Path,
    name: str,
    rows: Iterable[tuple[Sample, Sequence[bytes]]],
    card: RunCard,
    *,
    drops: Mapping[str, int] | None = None,
) -> DatasetCard:
    """Write samples with their encoded images as a DATASET folder, completely or not at all.

    Raises:
        StorageError: the disk refused the write; nothing is left behind.
    """
    with atomic_folder(folder) as temporary:
        with DatasetWriter(temporary) as writer:
            for sample, encoded in rows:
                writer.add(sample, encoded)
        licenses, sources, access = map(dict, writer.counts.values())
        n_rows, n_images = writer.n_rows, writer.n_images
        result = DatasetCard(name, n_rows, n_images, licenses, sources, access, dict(drops or {}))
        write_json(temporary / DATASET_CARD, asdict(result))
        (temporary / "README.md").write_text(_dataset_readme(result), encoding="utf-8")
        write_run_card(temporary, card)
        write_manifest(temporary)
    return result


def _dataset_readme(card: DatasetCard) -> str:
    tables = {
        "license": card.licenses,
        "source": card.sources,
        "access": card.access,
        "dropped because": card.drops,
    }
    lines = ["---", "configs:", "- config_name: default", "  data_files: data/*.parquet", "---"]
    summary = f"{card.rows} rows, {card.images} images. Research only; not for clinical use."
    lines += [f"# {card.name}", "", summary]
    for title, counts in tables.items():
        if counts:
            lines += ["", f"| {title} | rows |", "|---|---|"]
            lines += [f"| {name} | {count} |" for name, count in counts.items()]
    return "\n".join(lines) + "\n"


def open_dataset(folder: Path) -> DatasetCard:
    """Check a DATASET folder against its manifest and return its card.

    Raises:
        ArtifactError: it is not a dataset, or it is damaged.
    """
    if not (folder / DATASET_CARD).is_file():
        problem = f"{folder} is not a DATASET folder ({DATASET_CARD} is missing)"
        raise ArtifactError(f"{problem}; make one with `lingshu curate`, or check the path.")
    check_manifest(folder)
    try:
        return DatasetCard(**read_json(folder / DATASET_CARD))
    except TypeError as error:
        problem = f"{folder / DATASET_CARD} is not a dataset card ({error})"
        raise ArtifactError(f"{problem}; make the dataset again.") from error


def dataset_digest(folder: Path) -> str:
    """The digest of a dataset's shards' hashes, which identifies its content."""
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


# --- REPLIES


def reply_key(
    sample: Sample,
    image_hashes: Sequence[str],
    revision: str | None,
    model: str,
    model_digest: str,
    sampling: Sampling,
    generation_index: int,
) -> str:
    """sha256 of everything that decides a reply."""
    dialogue = [message_to_json(message) for message in sample.messages]
    identity = [revision, sample.id, dialogue, list(image_hashes), model, model_digest]
    return digest([*identity, sampling.decoding(), generation_index])


# Tokens and lost attempts are not stored; these are where they hold something.
_OPTIONAL_REPLY_FIELDS = ("scaled_images", "answer_tokens", "log_prob")
_REPLY_FIELDS = tuple(
    field.name for field in fields(Reply) if field.compare or field.name in _OPTIONAL_REPLY_FIELDS
)
_REPLY_TYPES = {"key": str} | {name: get_type_hints(Reply)[name] for name in _REPLY_FIELDS}
_REPLY_TYPES |= dict.fromkeys(_OPTIONAL_REPLY_FIELDS, list) | {"log_prob": list | None}
_RANKED_FILE = re.compile(r"replies\.(\d+)-of-(\d+)\.jsonl")


def replies_file(folder: Path, rank: int = 0, world_size: int = 1) -> Path:
    """The file that process `rank` of `world_size` writes its replies to."""
    return folder / (REPLIES if world_size == 1 else f"replies.{rank}-of-{world_size}.jsonl")


def reply_files(folder: Path) -> list[Path]:
    """Every file of replies in `folder`; of equal keys the reply of the first file counts."""
    ranked = sorted(
        (int(m[2]), int(m[1]), path)
        for path in folder.glob("replies.*-of-*.jsonl")
        if (m := _RANKED_FILE.fullmatch(path.name))
    )
    single = folder / REPLIES
    return [*([single] if single.is_file() else []), *(path for _, _, path in ranked)]


def read_replies(folder: Path) -> Iterator[tuple[str, Reply]]:
    """Every stored reply with its key, file by file, without a truncated last row.

    Raises:
        ArtifactError: a row that is not a reply.
    """
    for path in reply_files(folder):
        yield from ((key, reply) for _, key, reply in enumerate_replies(path))


def enumerate_replies(path: Path) -> Iterator[tuple[int, str, Reply]]:
    """The replies of one file with the numbers of their lines, from 1."""
    for line_number, row in enumerate_jsonl(path, allow_truncated=True):
        if not row.keys() >= {"key", "id", "text"} or not row.keys() <= _REPLY_TYPES.keys():
            remedy = "give the folder of an evaluation, or choose another --out"
            raise ArtifactError(f"{path}, line {line_number}: not a row of replies; {remedy}.")
        for name, value in row.items():
            if not isinstance(value, _REPLY_TYPES[name]):
                problem = f"{path}, line {line_number}: {name} cannot be {value!r:.40}"
                raise ArtifactError(f"{problem}; remove the line to generate the reply again.")
        try:
            reply = reply_from_row(row)
        except (TypeError, ValueError, AttributeError) as error:
            problem = f"{path}, line {line_number}: the probabilities cannot be read ({error})"
            raise ArtifactError(
                f"{problem}; remove the line to generate the reply again."
            ) from None
        yield line_number, row["key"], reply


def reply_from_row(row: Mapping[str, Any]) -> Reply:
    """The reply of one row of a file of replies."""
    values: dict[str, Any] = {name: value for name, value in row.items() if name != "key"}
    values["scaled_images"] = tuple(map(str, row.get("scaled_images", ())))
    values["answer_tokens"] = tuple(
        AnswerToken(int(start), str(word), {str(w): float(p) for w, p in probabilities.items()})
        for start, word, probabilities in row.get("answer_tokens", ())
    )
    if row.get("log_prob") is not None:
        total, n_tokens = row["log_prob"]
        values["log_prob"] = TextLogProb(float(total), int(n_tokens))
    return Reply(**values)


def _reply_row(key: str, reply: Reply) -> dict[str, Any]:
    row = {"key": key, **{name: getattr(reply, name) for name in _REPLY_FIELDS}}
    for name in _OPTIONAL_REPLY_FIELDS:
        if row[name] in ((), None):
            del row[name]
    return row


class ReplyStore(Closeable):
    """The file that one process appends its replies to, locked while it is open.

    A reply that failed (`error`) is recorded, but the next run generates it again.

    Raises:
        StorageError: another process writes this file, or a run with another number of processes
            writes in `folder`.
    """

    def __init__(self, folder: Path, *, rank: int = 0, world_size: int = 1) -> None:
        path = replies_file(folder, rank, world_size)
        self._log = JsonlAppender(path)
        # Lock first, then check: of two that start together, at least one sees the other.
        own_paths = {replies_file(folder, other, world_size) for other in range(world_size)}
        for other in reply_files(folder):
            if other not in own_paths and is_locked(other):
                self._log.close()
                problem = f"{other} is being written by another run"
                raise StorageError(f"{problem}; wait for it to end, or choose another --out.")

    def add(self, replies: Iterable[tuple[str, Reply]]) -> None:
        """Append replies under their keys, in one write that is on the disk when this returns."""
        self._log.append(_reply_row(key, reply) for key, reply in replies)

    def close(self) -> None:
        self._log.close()


# --- SCORES


SCORE_COLUMNS = ("value", "status", "prediction", "note")


def score_row(
    sample_id: str, score: Score, passthrough_fields: Mapping[str, Any]
) -> dict[str, Any]:
    """One SCORES row; `passthrough_fields` are copied from the question, such as groupings."""
    row = {"id": sample_id} | {name: getattr(score, name) for name in SCORE_COLUMNS}
    return row | {key: value for key, value in passthrough_fields.items() if key not in row}


def write_scores(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    return write_jsonl(path, rows)


def read_scores(path: Path) -> list[dict[str, Any]]:
    """The rows of a SCORES file; raises as `iterate_scores` does."""
    return list(iterate_scores(path))


def iterate_scores(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a SCORES file, one at a time.

    Raises:
        ArtifactError: the file is missing or is not a scores file.
    """
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist; run `lingshu eval` or `lingshu score` first.")
    for line_number, row in enumerate_jsonl(path, allow_truncated=False):
        if not {"id", "value", "status"} <= row.keys():
            problem = "not a row of scores (id, value and status are needed)"
            raise ArtifactError(f"{path}, line {line_number}: {problem}; score the run again.")
        for name, is_valid in _SCORE_CHECKS.items():
            if not is_valid(row.get(name)):
                problem = f"{path}, line {line_number}: {name} cannot be {row[name]!r:.40}"
                raise ArtifactError(f"{problem}; score the run again.")
        yield row


def _is_value(value: object) -> bool:
    # Scores are fractions, and those of rubrics a few times as much; sums of far larger values
    # would overflow.
    is_score = isinstance(value, int | float) and abs(value) < 1e6
    return value is None or (is_score and not isinstance(value, bool))


_SCORE_CHECKS: Mapping[str, Callable[[object], bool]] = {
    "id": lambda value: isinstance(value, str | int),
    "value": _is_value,
    "status": lambda value: value in STATUSES,
    "note": lambda value: isinstance(value, str | None),
    "group": lambda value: isinstance(value, str | int | None),
    "protocol": lambda value: isinstance(value, str | None),
}


# --- freed memory of the C library, which is kept for the next block or returned to the system

# Of malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def retain_freed_memory(size: int) -> None:
    """Keep up to `size` bytes of freed memory for smaller blocks, with glibc only.

    glibc returns large blocks at once, and the system has to clear the next one again.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            c = ctypes.CDLL(None)
            c.mallopt(M_MMAP_THRESHOLD, size)
            c.mallopt(M_TRIM_THRESHOLD, size)


def release_freed_memory() -> None:
    """Return freed memory of this process and of Arrow's pool to the system."""
    if "pyarrow" in sys.modules:
        import pyarrow as pa

        pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
