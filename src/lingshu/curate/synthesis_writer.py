"""The folder that a synthesis leaves: shards, rejects with what the teacher said, the review queue,
and the card.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from lingshu.core import config as configuration
from lingshu.core.artifacts import DATASET_CARD, SHARD_ROWS, DatasetCard, dataset_digest
from lingshu.core.config import to_plain
from lingshu.core.files import (
    MANIFEST,
    dump_line,
    sha256_file,
    storage_errors,
    write_json,
    write_jsonl,
    write_manifest,
    write_text,
)
from lingshu.core.run_card import RunCard, write_run_card
from lingshu.core.shards import ShardWriter, shard_name
from lingshu.core.types import Drop, Sample
from lingshu.curate.config import SynthesisConfig
from lingshu.curate.counts import StepCounts
from lingshu.curate.review import ReviewSummary, queue_row, review_stats
from lingshu.curate.runner import DROPS_FILE
from lingshu.imaging.headers import read_header
from lingshu.imaging.read import ShardReader, image_bytes, image_name

REVIEW = "review"
COUNTED_FACETS = ("license", "source", "access")
_CARD_FIELDS = {"license": "licenses", "source": "sources", "access": "access"}


class SynthesisWriter:
    """Writes the rows of a synthesis into an unfinished folder as they come.

    Raises:
        StorageError: the disk refused.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shards = ShardReader()
        self._shard: ShardWriter | None = None
        self._rows = self._images = self._shard_index = 0
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in COUNTED_FACETS}
        self._drops_file: IO[str] | None = None

    def __enter__(self) -> SynthesisWriter:
        with storage_errors(self.folder):
            (self.folder / "data").mkdir()
            self._drops_file = (self.folder / DROPS_FILE).open("w", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def add(self, sample: Sample) -> None:
        """Write a sample with its images."""
        with storage_errors(self.folder):
            if self._shard is None:
                self._shard = ShardWriter(self.folder / shard_name(self._shard_index))
                self._shard_index += 1
            encoded = [image_bytes(image, shards=self._shards) for image in sample.images]
            self._shard.add(sample, encoded)
            self._rows, self._images = self._rows + 1, self._images + len(encoded)
            for name, counter in self._counts.items():
                counter[str(getattr(sample.meta, name) or "unknown")] += 1
            if self._rows % SHARD_ROWS == 0:
                self._end_shard()

    def drop(self, drop: Drop, *, step: str, source: str, raw: Sequence[str]) -> None:
        """Write a reject; `raw` is what the teacher said last."""
        row = {
            "id": drop.id,
            "source": source,
            "step": step,
            "reason": drop.reason,
            "detail": drop.detail,
            "raw": list(raw),
        }
        with storage_errors(self.folder):
            assert self._drops_file is not None
            self._drops_file.write(dump_line(row))

    def write_queue(self, samples: Sequence[Sample]) -> None:
        """Write what reviewers are to look at, with its pictures beside it."""
        image_dir = self.folder / REVIEW / "images"
        rows = []
        with storage_errors(self.folder):
            image_dir.mkdir(parents=True)
            for sample_index, sample in enumerate(samples):
                names = []
                for image_index, image in enumerate(sample.images):
                    data = image_bytes(image, shards=self._shards)
                    suffix = read_header(data, name=image_name(image)).format.lower()
                    names.append(f"images/{sample_index:05d}-{image_index}.{suffix}")
                    (self.folder / REVIEW / names[-1]).write_bytes(data)
                rows.append(queue_row(sample, names))
        write_jsonl(self.folder / REVIEW / "queue.jsonl", rows)

    def finish(
        self,
        config: SynthesisConfig,
        step_counts: StepCounts,
        dataset: Path,
        *,
        prompts: Mapping[str, str],
        kinds: Mapping[str, Mapping[str, int]],
        review: Sequence[ReviewSummary],
        notes: Mapping[str, Any],
    ) -> DatasetCard:
        """Write the card, the run card and the manifest."""
        if self._shard is None and not self._shard_index:
            # a dataset without rows has a shard all the same
            self._shard = ShardWriter(self.folder / shard_name(0))
        self._close()
        write_manifest(self.folder)
        reviews_by_kind = {summary.kind: summary for summary in review}
        stats: dict[str, dict[str, Any]] = {}
        for step_config in config.steps:
            # A kind of which nothing is left was reviewed all the same.
            step_kinds = kinds.get(step_config.name, {}).keys() | (
                {step_config.op} & reviews_by_kind.keys()
            )
            stats[step_config.name] = {
                **({"prompts": prompts[step_config.name]} if step_config.name in prompts else {})
            }
            for kind in sorted(step_kinds):
                if kind in reviews_by_kind:
                    stats[step_config.name] |= review_stats(reviews_by_kind[kind])
        table = step_counts.card_rows(
            [step_config.name for step_config in config.steps],
            {step_config.name: step_config.op for step_config in config.steps},
            stats,
        )
        counts = {name: dict(sorted(counter.items())) for name, counter in self._counts.items()}
        card = DatasetCard(
            name=config.name,
            rows=self._rows,
            images=self._images,
            licenses=counts["license"],
            sources=counts["source"],
            access=counts["access"],
            drops=step_counts.drops(),
            version=dataset_digest(self.folder),
            steps=table,
        )
        write_json(self.folder / DATASET_CARD, asdict(card))
        inputs = {"input": _input_digest(dataset)}
        configuration.write(config, self.folder / "config.yaml")
        write_text(self.folder / "README.md", _readme(card, teacher=str(notes["teacher"])))
        dropped = {f"dropped_{reason}": count for reason, count in card.drops.items()}
        review_dicts = [
            {**summary._asdict(), "agreement": [pair._asdict() for pair in summary.agreement]}
            for summary in review
        ]
        run_notes = {**notes, "review": [_to_jsonable(summary) for summary in review_dicts]}
        run = RunCard(
            "synthesize",
            to_plain(config),
            config.seed,
            counts={"rows": card.rows, "images": card.images, **dropped},
            hashes={**inputs, "dataset": card.version or ""},
            notes=run_notes,
        )
        write_run_card(self.folder, run)
        write_manifest(self.folder)
        return card

    def _end_shard(self) -> None:
        if self._shard is not None:
            shard, self._shard = self._shard, None
            shard.__exit__()

    def _close(self) -> None:
        with storage_errors(self.folder):
            self._end_shard()
            if self._drops_file is not None:
                self._drops_file.close()
                self._drops_file = None
        self._shards.close()


def _readme(card: DatasetCard, *, teacher: str) -> str:
    """The card for people: what each step made and dropped, and what reviewers found."""
    head = "---\nconfigs:\n- config_name: default\n  data_files: data/*.parquet\n---\n"
    steps = [
        [
            s["name"],
            s["op"],
            s["in"],
            s["out"],
            ", ".join(f"{k} {v:,}" for k, v in s["drops"].items()),
        ]
        for s in card.steps or ()
    ]
    stat_rows = [
        [s["name"], key, value] for s in card.steps or () for key, value in s["stats"].items()
    ]
    facets = [
        [name, value, rows]
        for name in COUNTED_FACETS
        for value, rows in getattr(card, _CARD_FIELDS[name]).items()
    ]
    parts = [
        (
            f"# {_cell(card.name)}\n\n{card.rows:,} synthetic rows, {card.images:,} images."
            " Research only; not for clinical use.\n"
        ),
        (
            f"Version `{card.version}` (digest of the shards). Made by `lingshu synthesise` with"
            f" the teacher {_cell(teacher)}; `config.yaml` is the run's configuration,"
            " `drops.jsonl` lists every dropped row with what the teacher said,"
            " `review/queue.jsonl` is for reviewers.\n"
        ),
        _table("What each step did", ("step", "op", "in", "out", "dropped because"), steps),
        _table("Prompts and review", ("step", "what", "value"), stat_rows),
        _table("What the rows come from", ("facet", "value", "rows"), facets),
    ]
    return head + "\n".join(parts)


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [
        "| " + " | ".join(_cell(str(value)) for value in row) + " |" for row in (header, *rows)
    ]
    return "\n".join([f"## {title}\n", lines[0], "|" + "---|" * len(header), *lines[1:]]) + "\n"


def _cell(text: str) -> str:
    """Text of the data in a cell: it must neither end the cell nor mark anything up."""
    return " ".join(
        text.replace("\\", "\\\\")
        .replace("|", "\\|")
        .replace("<", "&lt;")
        .replace("`", "\\`")
        .split()
    )


def _to_jsonable(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return _to_jsonable(value._asdict())
    if isinstance(value, Mapping):
        return {key: _to_jsonable(item) for key, item in value.items()}
    return [_to_jsonable(item) for item in value] if isinstance(value, list | tuple) else value


def _input_digest(dataset: Path) -> str:
    """What identifies the input: the digest of its shards where it has a manifest, else of its
    card.
    """
    return (
        dataset_digest(dataset)
        if (dataset / MANIFEST).is_file()
        else sha256_file(dataset / DATASET_CARD)
    )
