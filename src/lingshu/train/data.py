"""Training data of one stage: samples encoded once, and batches whose order depends on the seed and the step alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lingshu.core.artefacts import dataset_digest, open_dataset, read_dataset
from lingshu.core.errors import BadImage, InputError, TrainingError, one_line
from lingshu.core.nouns import Image, Sample
from lingshu.imaging.read import ShardReader, open_image
from lingshu.models.family import Tiles
from lingshu.models.processor import Encoded, Processor

# Batches are sorted by length inside windows of this many batches: little padding, yet a fresh mixture each epoch.
WINDOW_BATCHES = 16
MAX_NAMED_DROPS = 5


class TileCache:
    """Scaled images by reference, kept up to a number of bytes; those beyond it are read again each time."""

    def __init__(self, processor: Processor, *, cache_mb: int) -> None:
        self._processor, self._room = processor, cache_mb << 20
        self._kept: dict[tuple[Image, ...], tuple[Tiles, ...]] = {}
        self._shards = ShardReader()

    def tiles(self, images: tuple[Image, ...]) -> tuple[Tiles, ...]:
        """The scaled images of one sample.

        Raises:
            BadImage: one of them cannot be opened.
        """
        if images in self._kept:
            return self._kept[images]
        tiles = self._processor.tiles([open_image(image, shards=self._shards) for image in images])
        size = sum(tile.pixels.nbytes for tile in tiles)
        if size <= self._room:
            self._room -= size
            self._kept[images] = tiles
        return tiles


@dataclass(frozen=True)
class StageData:
    """The usable samples of a stage. `texts` are encoded without pixels; `drops` counts what was left out and why."""

    texts: tuple[Encoded, ...]
    images: tuple[tuple[Image, ...], ...]
    cache: TileCache
    drops: dict[str, int]
    named_drops: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def tokens(self) -> int:
        return sum(map(len, self.texts))

    def sample(self, index: int) -> Encoded:
        """Sample `index`, complete with its scaled images."""
        text, images = self.texts[index], self.images[index]
        return replace(text, tiles=self.cache.tiles(images)) if images else text


def encode_all(samples: Iterator[Sample], processor: Processor, *, max_tokens: int, cache_mb: int) -> StageData:
    """Encode every sample once; bad ones are dropped, counted by reason and the first few named.

    Raises:
        TrainingError: no sample is left.
    """
    cache = TileCache(processor, cache_mb=cache_mb)
    texts: list[Encoded] = []
    images: list[tuple[Image, ...]] = []
    drops: Counter[str] = Counter()
    named: list[str] = []

    def drop(sample: Sample, reason: str, detail: str) -> None:
        drops[reason] += 1
        if len(named) < MAX_NAMED_DROPS:
            named.append(f"{sample.id}: {reason} ({detail})")

    for sample in samples:
        try:
            encoded = processor.encode(sample.messages, cache.tiles(sample.images) if sample.images else ())
        except BadImage as error:
            drop(sample, "bad_image", one_line(error))
            continue
        except InputError as error:
            drop(sample, "bad_messages", one_line(error))
            continue
        if not encoded.supervised:
            drop(sample, "no_answer", "no assistant turn to learn from")
        elif len(encoded) > max_tokens:
            drop(sample, "too_long", f"{len(encoded)} tokens, max_tokens is {max_tokens}")
        else:
            texts.append(replace(encoded, tiles=()))
            images.append(sample.images)
    if not texts:
        reasons = ", ".join(f"{reason} {count}" for reason, count in drops.items()) or "the data are empty"
        raise TrainingError(f"no sample is left to train on ({reasons}); first: {named[0] if named else '-'}")
    return StageData(tuple(texts), tuple(images), cache, dict(drops), tuple(named))


def read_groups(folders: Sequence[Path]) -> Iterator[Sample]:
    """The samples of several DATASET folders, one after another."""
    for folder in folders:
        open_dataset(folder)
        yield from read_dataset(folder)


def group_digests(folders: Sequence[Path]) -> dict[str, str]:
    return {str(folder): dataset_digest(folder) for folder in folders}


@dataclass(frozen=True)
class Plan:
    """Which samples each step takes, a pure function of seed, epoch and step: a run resumes by its step number alone."""

    lengths: tuple[int, ...]
    batch: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self.lengths) // self.batch)

    def steps(self, epochs: float) -> int:
        return max(1, round(epochs * self.steps_per_epoch))

    def batches(self, start: int) -> Iterator[list[int]]:
        """Sample indices of step `start` and every later one, without end."""
        epoch, offset = divmod(start, self.steps_per_epoch)
        while True:
            yield from self._epoch(epoch)[offset:]
            epoch, offset = epoch + 1, 0

    def _epoch(self, epoch: int) -> list[list[int]]:
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(len(self.lengths))
        # Fewer samples than one batch: take them all, and some twice.
        if len(order) < self.batch:
            order = np.resize(order, self.batch)
        lengths = np.asarray(self.lengths)
        batches = []
        window = WINDOW_BATCHES * self.batch
        for start in range(0, len(order), window):
            part = order[start : start + window]
            part = part[np.argsort(lengths[part], kind="stable")]
            # The remainder of an epoch is left out, a different one in each epoch.
            batches += [part[i : i + self.batch].tolist() for i in range(0, len(part) - self.batch + 1, self.batch)]
        return [batches[i] for i in rng.permutation(len(batches))]
