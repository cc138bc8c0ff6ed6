"""Training data of one stage: samples encoded once, scaled images cached, bad samples counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from lingshu.core.artifacts import (
    DATASET_CARD,
    DatasetCard,
    dataset_digest,
    open_dataset,
    read_dataset,
)
from lingshu.core.entities import spans_of
from lingshu.core.errors import ImageError, InputError, TrainingError, one_line
from lingshu.core.files import sha256_file
from lingshu.core.types import Drop, Image, Sample
from lingshu.imaging.read import ShardReader, open_image
from lingshu.models.base import Tiles
from lingshu.models.processor import EncodedSample, Processor
from lingshu.models.token_spans import EntityPolicy
from lingshu.sources import jsonl
from lingshu.train.config import Objective
from lingshu.train.entity_weights import EntityCounts, count_entities, with_token_weights

MAX_DROP_EXAMPLES = 5
DEFAULT_OBJECTIVE = Objective()


class TileCache:
    """Scaled images, kept up to a number of bytes; those beyond it are read again each time."""

    def __init__(self, processor: Processor, *, cache_mb: int) -> None:
        self._processor, self._free_bytes = processor, cache_mb << 20
        self._tiles: dict[tuple[Image, ...], tuple[Tiles, ...]] = {}
        self._shards = ShardReader()

    def tiles(self, images: tuple[Image, ...]) -> tuple[Tiles, ...]:
        """The scaled images of one sample; raises ImageError if one cannot be opened."""
        if images in self._tiles:
            return self._tiles[images]
        tiles = self._processor.tiles([open_image(image, shards=self._shards) for image in images])
        size = sum(tile.pixels.nbytes for tile in tiles)
        if size <= self._free_bytes:
            self._free_bytes -= size
            self._tiles[images] = tiles
        return tiles


@dataclass(frozen=True)
class StageData:
    """The usable samples of a stage, their `encodings` without pixels, and what was dropped."""

    samples: tuple[Sample, ...]
    encodings: tuple[EncodedSample, ...]
    cache: TileCache
    drops: Mapping[str, int]
    drop_examples: tuple[str, ...]
    entities: EntityCounts | None = None

    def __len__(self) -> int:
        return len(self.encodings)

    @property
    def n_tokens(self) -> int:
        return sum(map(len, self.encodings))

    def sample(self, index: int) -> EncodedSample:
        """Sample `index`, complete with its scaled images."""
        encoding, images = self.encodings[index], self.samples[index].images
        return replace(encoding, tiles=self.cache.tiles(images)) if images else encoding

    def select(self, mask: Sequence[bool], reason: str) -> StageData:
        """The samples that `mask` keeps, the others as drops; TrainingError if none is kept."""
        indices = [index for index, is_kept in enumerate(mask) if is_kept]
        if not indices:
            raise TrainingError(
                f"no question is left to learn from: all {len(self)} fall under {reason}; widen its"
                " limits."
            )
        return replace(
            self,
            samples=tuple(self.samples[index] for index in indices),
            encodings=tuple(self.encodings[index] for index in indices),
            drops=dict(Counter(self.drops) + Counter({reason: len(self) - len(indices)})),
        )


def encode_samples(
    samples: Iterable[Sample | Drop],
    processor: Processor,
    *,
    max_tokens: int,
    cache_mb: int,
    empty_message: str,
    supervised: bool = True,
    policy: EntityPolicy | None = None,
) -> StageData:
    """Encode every sample once; those that are damaged, too long, or without an answer where
    `supervised`, are dropped.

    With `policy`, samples that carry entities get the token value "entity"; entities that do not
    fit their text drop the sample, whatever weight they have, so that runs of different weights
    learn from the same samples.

    Raises:
        TrainingError: no sample is left; the message begins with `empty_message`.
    """
    cache = TileCache(processor, cache_mb=cache_mb)
    kept: list[Sample] = []
    encodings: list[EncodedSample] = []
    drops: Counter[str] = Counter()
    examples: list[str] = []
    for item in samples:
        encoded = item if isinstance(item, Drop) else _encode_sample(item, processor, cache, policy)
        if isinstance(encoded, EncodedSample) and supervised and not encoded.supervised:
            encoded = Drop(item.id, "no_answer", "no assistant turn to learn from")
        elif isinstance(encoded, EncodedSample) and len(encoded) > max_tokens:
            limit = f"max_tokens is {max_tokens}"
            if not supervised:
                limit = f"{max_tokens} are left next to the reply"
            encoded = Drop(item.id, "too_long", f"{len(encoded)} tokens, {limit}")
        if isinstance(encoded, Drop):
            drops[encoded.reason] += 1
            if len(examples) < MAX_DROP_EXAMPLES:
                examples.append(f"{encoded.id}: {encoded.reason} ({encoded.detail})")
        elif isinstance(item, Sample):
            kept.append(item)
            encodings.append(replace(encoded, tiles=()))
    if not kept:
        reasons = ", ".join(f"{reason} {n}" for reason, n in drops.items()) or "the data is empty"
        raise TrainingError(f"{empty_message} ({reasons}); first: {next(iter(examples), '-')}")
    return StageData(tuple(kept), tuple(encodings), cache, dict(drops), tuple(examples))


def _encode_sample(
    sample: Sample, processor: Processor, cache: TileCache, policy: EntityPolicy | None
) -> EncodedSample | Drop:
    try:
        entities = spans_of(sample) if policy else None
    except InputError as error:
        return Drop(sample.id, "bad_entities", one_line(error))
    try:
        tiles = cache.tiles(sample.images) if sample.images else ()
        return processor.encode(sample.messages, tiles, entities=entities, policy=policy or "any")
    except ImageError as error:
        return Drop(sample.id, "bad_image", one_line(error))
    except InputError as error:
        return Drop(sample.id, "bad_messages", one_line(error))


def encode_training_samples(
    samples: Iterable[Sample | Drop],
    processor: Processor,
    *,
    max_tokens: int,
    cache_mb: int,
    objective: Objective = DEFAULT_OBJECTIVE,
    seed: int = 0,
) -> StageData:
    """Encode the samples of a stage; where any carries entities, all get the token value "weight".

    Raises:
        TrainingError: no sample is left, or entities have a weight and no sample carries any.
    """
    data = encode_samples(
        samples,
        processor,
        max_tokens=max_tokens,
        cache_mb=cache_mb,
        empty_message="no sample is left to train on",
        policy=objective.policy,
    )
    return replace(
        data,
        # Only the images are needed from here on; text and row values would fill memory.
        samples=tuple(Sample(sample.id, (), sample.images) for sample in data.samples),
        encodings=with_token_weights(data.samples, data.encodings, processor, objective, seed=seed),
        entities=count_entities(data.samples, data.encodings),
    )


def read_group_card(path: Path) -> DatasetCard:
    """The card of a DATASET folder, or of a folder (or file) of JSONL rows with their images.

    Raises:
        ArtifactError, InputError: it is neither, or it is damaged.
    """
    if is_dataset(path):
        return open_dataset(path)
    if path.is_dir() and not (path / jsonl.ROWS_FILE).is_file():
        raise InputError(
            f"{path} holds neither {jsonl.ROWS_FILE} nor a DATASET, which `lingshu curate` makes of"
            " your files; check the folder."
        )
    jsonl.find_rows_file(path)
    samples = [sample for sample in jsonl.read(path) if isinstance(sample, Sample)]
    return DatasetCard(
        path.name,
        len(samples),
        len({image for sample in samples for image in sample.images}),
        Counter(sample.meta.license or "unknown" for sample in samples),
        Counter(sample.meta.source or "unknown" for sample in samples),
        Counter(sample.meta.access for sample in samples),
    )


def is_dataset(path: Path) -> bool:
    return (path / DATASET_CARD).is_file()


def split_of(sample: Sample) -> str:
    """The split that marked the row of the sample, in lower case; "train" if none did."""
    return sample.meta.extra.get("split", "train").strip().casefold()


def is_held_out(sample: Sample) -> bool:
    """Whether a split marked the row of the sample for anything but training."""
    return not split_of(sample).startswith("train")


def read_groups(paths: Sequence[Path], *, held_out: bool = False) -> Iterator[Sample | Drop]:
    """The samples of several data groups in order; a question with a gold answer is closed by it.

    Rows that a split marked for anything but training (`extra["split"]`, by split_by_group) become
    drops unless `held_out`: no model learns from patients that it is evaluated on.
    """
    for path in paths:
        for item in read_dataset(path) if is_dataset(path) else jsonl.read(path):
            if not held_out and isinstance(item, Sample) and is_held_out(item):
                yield Drop(item.id, "held_out", f"its row is marked {item.meta.extra['split']}")
            elif isinstance(item, Sample) and not item.answered and item.gold:
                yield item.with_answer(item.gold[0])
            else:
                yield item


class DataGroup(NamedTuple):
    """A checked data group: its folder or file, its card, and the digest of its content."""

    path: Path
    card: DatasetCard
    digest: str


def open_data_group(path: Path) -> DataGroup:
    """Check and hash a data group; raises ArtifactError or InputError if it is damaged."""
    card = read_group_card(path)
    if is_dataset(path):
        return DataGroup(path, card, dataset_digest(path))
    return DataGroup(path, card, sha256_file(jsonl.find_rows_file(path)))
