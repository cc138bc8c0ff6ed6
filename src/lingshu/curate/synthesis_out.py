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
from lingshu.core.artefacts import DATASET_CARD, SHARD_ROWS, DatasetCard, dataset_digest
from lingshu.core.config import to_plain
from lingshu.core.files import (
    MANIFEST,
    disk,
    dump_line,
    sha256_file,
    write_json,
    write_jsonl,
    write_manifest,
    write_text,
)
from lingshu.core.nouns import Drop, Sample
from lingshu.core.runcard import RunCard, write_run_card
from lingshu.core.shards import ShardWriter, shard_name
from lingshu.curate.config import SynthesisConfig
from lingshu.curate.ledger import Ledger
from lingshu.curate.loop import DROPS
from lingshu.curate.review import Quality, queue_row, told
from lingshu.imaging.headers import read_header
from lingshu.imaging.read import ShardReader, image_bytes, image_name

REVIEW = "review"
COUNTED = ("licence", "source", "access")
_PLURAL = {"licence": "licences", "source": "sources", "access": "access"}


class Writer:
    """Writes the rows of a synthesis into an unfinished folder as they come.

    Raises:
        StorageError: the disk refused.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._shards = ShardReader()
        self._shard: ShardWriter | None = None
        self._rows = self._images = self._number = 0
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in COUNTED}
        self._dropped: IO[str] | None = None

    def __enter__(self) -> Writer:
        with disk(self.folder):
            (self.folder / "data").mkdir()
            self._dropped = (self.folder / DROPS).open("w", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def add(self, sample: Sample) -> None:
        """Write a sample with its images."""
        with disk(self.folder):
            if self._shard is None:
                self._shard = ShardWriter(self.folder / shard_name(self._number))
                self._number += 1
            encoded = [image_bytes(image, shards=self._shards) for image in sample.images]
            self._shard.add(sample, encoded)
            self._rows, self._images = self._rows + 1, self._images + len(encoded)
            for name, tally in self._counts.items():
                tally[str(getattr(sample.meta, name) or "unknown")] += 1
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
        with disk(self.folder):
            assert self._dropped is not None
            self._dropped.write(dump_line(row))

    def queue(self, samples: Sequence[Sample]) -> None:
        """Write what reviewers are to look at, with its pictures beside it."""
        pictures = self.folder / REVIEW / "images"
        rows = []
        with disk(self.folder):
            pictures.mkdir(parents=True)
            for number, sample in enumerate(samples):
                names = []
                for position, image in enumerate(sample.images):
                    data = image_bytes(image, shards=self._shards)
                    ending = read_header(data, name=image_name(image)).format.lower()
                    names.append(f"images/{number:05d}-{position}.{ending}")
                    (self.folder / REVIEW / names[-1]).write_bytes(data)
                rows.append(queue_row(sample, names))
        write_jsonl(self.folder / REVIEW / "queue.jsonl", rows)

    def finish(
        self,
        config: SynthesisConfig,
        ledger: Ledger,
        dataset: Path,
        *,
        prompts: Mapping[str, str],
        kinds: Mapping[str, Mapping[str, int]],
        review: Sequence[Quality],
        notes: Mapping[str, Any],
    ) -> DatasetCard:
        """Write the card, the run card and the manifest."""
        if self._shard is None and not self._number:
            # a dataset without rows has a shard all the same
            self._shard = ShardWriter(self.folder / shard_name(0))
        self._close()
        write_manifest(self.folder)
        found = {one.kind: one for one in review}
        facts: dict[str, dict[str, Any]] = {}
        for use in config.steps:
            # A kind of which nothing is left was reviewed all the same.
            made = kinds.get(use.name, {}).keys() | ({use.op} & found.keys())
            facts[use.name] = {**({"prompts": prompts[use.name]} if use.name in prompts else {})}
            for kind in sorted(made):
                if kind in found:
                    facts[use.name] |= told(found[kind])
        table = ledger.table(
            [use.name for use in config.steps], {use.name: use.op for use in config.steps}, facts
        )
        counts = {name: dict(sorted(tally.items())) for name, tally in self._counts.items()}
        card = DatasetCard(
            name=config.name,
            rows=self._rows,
            images=self._images,
            licences=counts["licence"],
            sources=counts["source"],
            access=counts["access"],
            drops=ledger.drops(),
            version=dataset_digest(self.folder),
            steps=table,
        )
        write_json(self.folder / DATASET_CARD, asdict(card))
        inputs = {"input": _content(dataset)}
        configuration.write(config, self.folder / "config.yaml")
        write_text(self.folder / "README.md", _readme(card, teacher=str(notes["teacher"])))
        dropped = {f"dropped_{reason}": count for reason, count in card.drops.items()}
        quality = [
            {**one._asdict(), "agreement": [pair._asdict() for pair in one.agreement]}
            for one in review
        ]
        written = {**notes, "review": [_plain(one) for one in quality]}
        run = RunCard(
            "synthesise",
            to_plain(config),
            config.seed,
            counts={"rows": card.rows, "images": card.images, **dropped},
            hashes={**inputs, "dataset": card.version or ""},
            notes=written,
        )
        write_run_card(self.folder, run)
        write_manifest(self.folder)
        return card

    def _end_shard(self) -> None:
        if self._shard is not None:
            shard, self._shard = self._shard, None
            shard.__exit__()

    def _close(self) -> None:
        with disk(self.folder):
            self._end_shard()
            if self._dropped is not None:
                self._dropped.close()
                self._dropped = None
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
    found = [
        [s["name"], what, value] for s in card.steps or () for what, value in s["told"].items()
    ]
    facets = [
        [name, value, rows]
        for name in COUNTED
        for value, rows in getattr(card, _PLURAL[name]).items()
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
        _table("Prompts and review", ("step", "what", "value"), found),
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


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _content(dataset: Path) -> str:
    """What identifies the input: the digest of its shards where it has a manifest, else of its
    card.
    """
    return (
        dataset_digest(dataset)
        if (dataset / MANIFEST).is_file()
        else sha256_file(dataset / DATASET_CARD)
    )
