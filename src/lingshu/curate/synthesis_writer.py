"""The output folder of a synthesis: shards, rejects with replies, the review queue, the card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lingshu.core import config as configuration
from lingshu.core import files
from lingshu.core.artifacts import DATASET_CARD, DatasetCard, DatasetWriter, dataset_digest
from lingshu.core.config import to_plain
from lingshu.core.run_card import RunCard, write_run_card
from lingshu.core.types import Drop, Sample
from lingshu.curate.card import format_drops, render, stats_rows
from lingshu.curate.config import SynthesisConfig
from lingshu.curate.counts import StepCounts
from lingshu.curate.review import ReviewSummary, queue_row, review_stats
from lingshu.curate.runner import DROPS_FILE, DropLog
from lingshu.curate.worker import DroppedRow
from lingshu.imaging.headers import read_header
from lingshu.imaging.read import ShardReader, image_bytes, image_name

REVIEW = "review"


class SynthesisWriter(files.Closeable):
    """Writes the rows of a synthesis into an unfinished folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._open_files = folder, ExitStack()
        self._images = self._open_files.enter_context(ShardReader())
        with files.storage_errors(folder):
            self._rows = DatasetWriter(folder)
        self._drops = self._open_files.enter_context(DropLog(folder / DROPS_FILE))

    def close(self) -> None:
        with files.storage_errors(self._folder):
            self._rows.close()
        self._open_files.close()

    def add(self, sample: Sample) -> None:
        """Write a sample with its images."""
        with files.storage_errors(self._folder):
            encoded = [image_bytes(image, shards=self._images) for image in sample.images]
            self._rows.add(sample, encoded)

    def drop(self, drop: Drop, *, step: str, source: str, raw: Sequence[str]) -> None:
        """Write a reject with the teacher's last replies."""
        self._drops.add(DroppedRow.of(drop, source, step), raw=list(raw))

    def write_queue(self, samples: Sequence[Sample]) -> None:
        """Write the samples for reviewers with their images."""
        folder = self._folder / REVIEW
        rows = []
        with files.storage_errors(folder):
            (folder / "images").mkdir(parents=True)
            for sample_index, sample in enumerate(samples):
                names = []
                for image_index, image in enumerate(sample.images):
                    data = image_bytes(image, shards=self._images)
                    suffix = read_header(data, name=image_name(image)).format.lower()
                    names.append(f"images/{sample_index:05d}-{image_index}.{suffix}")
                    (folder / names[-1]).write_bytes(data)
                rows.append(queue_row(sample, names))
        files.write_jsonl(folder / "queue.jsonl", rows)

    def finish(
        self,
        config: SynthesisConfig,
        step_counts: StepCounts,
        dataset: Path,
        *,
        kinds: Mapping[str, Mapping[str, int]],
        review: Sequence[ReviewSummary],
        notes: Mapping[str, Any],
    ) -> DatasetCard:
        """Write card, run card and manifest; `kinds` counts samples by step, then by kind."""
        folder = self._folder
        self.close()
        files.write_manifest(folder)
        ops = {step.name: step.op for step in config.steps}
        stats: dict[str, dict[str, Any]] = {}
        for name, op in ops.items():
            stats[name] = {"prompts": notes["prompts"][name]} if name in notes["prompts"] else {}
            for summary in review:
                # A kind of which nothing is left is counted under the step of its name.
                if summary.kind in kinds.get(name, {}) or summary.kind == op:
                    stats[name] |= review_stats(summary)
        counts = {
            name: dict(sorted(counter.items())) for name, counter in self._rows.counts.items()
        }
        card = DatasetCard(
            name=config.name,
            rows=self._rows.n_rows,
            images=self._rows.n_images,
            licenses=counts["license"],
            sources=counts["source"],
            access=counts["access"],
            drops=step_counts.drops(),
            version=dataset_digest(folder),
            steps=step_counts.card_rows(list(ops), ops, stats),
        )
        files.write_json(folder / DATASET_CARD, asdict(card))
        configuration.write(config, folder / "config.yaml")
        files.write_text(folder / "README.md", _readme(card, counts, str(notes["teacher"])))
        dropped = {f"dropped_{reason}": count for reason, count in card.drops.items()}
        run = RunCard(
            "synthesize",
            to_plain(config),
            config.seed,
            counts={"rows": card.rows, "images": card.images, **dropped},
            hashes={"input": _input_digest(dataset), "dataset": card.version or ""},
            notes={**notes, "review": [_to_json(summary) for summary in review]},
        )
        write_run_card(folder, run)
        files.write_manifest(folder)
        return card


def _readme(card: DatasetCard, counts: Mapping[str, Mapping[str, int]], teacher: str) -> str:
    steps = [
        (step["name"], step["op"], step["in"], step["out"], format_drops(step))
        for step in card.steps or ()
    ]
    facets = [
        (name, value, n) for name, by_value in counts.items() for value, n in by_value.items()
    ]
    stats = stats_rows(card)
    return render(
        "synthesis.md.j2", card=card, teacher=teacher, steps=steps, stats=stats, facets=facets
    )


def _to_json(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {key: _to_json(member) for key, member in value.items()}
    return [_to_json(member) for member in value] if isinstance(value, list | tuple) else value


def _input_digest(dataset: Path) -> str:
    """The digest of the input's shards if it has a manifest, else of its card."""
    if (dataset / files.MANIFEST).is_file():
        return dataset_digest(dataset)
    return files.sha256_file(dataset / DATASET_CARD)
