"""Training data of one stage: samples encoded once, images kept scaled as far as memory allows, bad
ones counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
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
from lingshu.sources.jsonl import find_rows_file
from lingshu.train.config import Objective
from lingshu.train.entity_weights import EntityCounts, count_entities, with_token_weights

MAX_DROP_EXAMPLES = 5
DEFAULT_OBJECTIVE = Objective()


class TileCache:
    """Scaled images by reference, kept up to a number of bytes; those beyond it are read again each
    time.
    """

    def __init__(self, processor: Processor, *, cache_mb: int) -> None:
        self._processor, self._free_bytes = processor, cache_mb << 20
        self._tiles: dict[tuple[Image, ...], tuple[Tiles, ...]] = {}
        self._shards = ShardReader()

    def tiles(self, images: tuple[Image, ...]) -> tuple[Tiles, ...]:
        """The scaled images of one sample.

        Raises:
            BadImage: one of them cannot be opened.
        """
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
    """The usable samples of a stage. `texts` are encoded without pixels; `drops` counts what was
    left out and why.

    `entities` counts what is marked in them, None where no sample was marked.
    """

    encodings: tuple[EncodedSample, ...]
    images: tuple[tuple[Image, ...], ...]
    cache: TileCache
    drops: dict[str, int]
    drop_examples: tuple[str, ...] = field(default=())
    entities: EntityCounts | None = None

    def __len__(self) -> int:
        return len(self.encodings)

    @property
    def tokens(self) -> int:
        return sum(map(len, self.encodings))

    def sample(self, index: int) -> EncodedSample:
        """Sample `index`, complete with its scaled images."""
        encoding, images = self.encodings[index], self.images[index]
        return replace(encoding, tiles=self.cache.tiles(images)) if images else encoding


class EncodableSamples(NamedTuple):
    """Samples that can be encoded, with their encodings without pixels; drops by reason, the first
    few of them named.
    """

    samples: tuple[Sample, ...]
    encodings: tuple[EncodedSample, ...]
    drops: dict[str, int]
    drop_examples: tuple[str, ...]


def encode_samples(
    samples: Iterable[Sample | Drop],
    processor: Processor,
    cache: TileCache,
    reject: Callable[[EncodedSample], tuple[str, str] | None],
    *,
    empty_message: str,
    policy: EntityPolicy | None = None,
) -> EncodableSamples:
    """Encode every sample once; bad ones, and those that `refuse` gives a reason and detail for,
    are dropped and counted.

    With `policy`, samples that carry entities get the fact "entity" by it; entities that do not fit
    their text drop the sample, whatever weight they have, so that runs of different weights learn
    from the same samples.

    Raises:
        TrainingError: no sample is left; it begins with `none`.
    """
    kept_samples: list[Sample] = []
    encodings: list[EncodedSample] = []
    drops: Counter[str] = Counter()
    drop_notes: list[str] = []

    def drop(name: str, reason: str, detail: str) -> None:
        drops[reason] += 1
        if len(drop_notes) < MAX_DROP_EXAMPLES:
            drop_notes.append(f"{name}: {reason} ({detail})")

    for sample in samples:
        if isinstance(sample, Drop):
            drop(sample.id, sample.reason, sample.detail)
            continue
        try:
            entities = spans_of(sample) if policy else None
        except InputError as error:
            drop(sample.id, "bad_entities", one_line(error))
            continue
        try:
            tiles = cache.tiles(sample.images) if sample.images else ()
            encoded = processor.encode(
                sample.messages, tiles, entities=entities, policy=policy or "any"
            )
        except ImageError as error:
            drop(sample.id, "bad_image", one_line(error))
            continue
        except InputError as error:
            drop(sample.id, "bad_messages", one_line(error))
            continue
        rejection = reject(encoded)
        if rejection:
            drop(sample.id, *rejection)
        else:
            kept_samples.append(sample)
            encodings.append(replace(encoded, tiles=()))
    if not kept_samples:
        reasons = (
            ", ".join(f"{reason} {count}" for reason, count in drops.items())
            or "the data are empty"
        )
        raise TrainingError(
            f"{empty_message} ({reasons}); first: {drop_notes[0] if drop_notes else '-'}"
        )
    return EncodableSamples(tuple(kept_samples), tuple(encodings), dict(drops), tuple(drop_notes))


def encode_training_samples(
    samples: Iterable[Sample | Drop],
    processor: Processor,
    *,
    max_tokens: int,
    cache_mb: int,
    objective: Objective = DEFAULT_OBJECTIVE,
    seed: int = 0,
) -> StageData:
    """Encode every sample once; bad ones are dropped, counted by reason and the first few named.

    Where any sample carries entities, every one gets the fact "weight", of which `seed` draws
    random ones.

    Raises:
        TrainingError: no sample is left, or the objective weighs entities and no sample carries
            any.
    """

    def reject(encoded: EncodedSample) -> tuple[str, str] | None:
        if not encoded.supervised:
            return "no_answer", "no assistant turn to learn from"
        return (
            ("too_long", f"{len(encoded)} tokens, max_tokens is {max_tokens}")
            if len(encoded) > max_tokens
            else None
        )

    cache = TileCache(processor, cache_mb=cache_mb)
    encodable = encode_samples(
        samples,
        processor,
        cache,
        reject,
        empty_message="no sample is left to train on",
        policy=objective.policy,
    )
    entities = count_entities(encodable.samples, encodable.encodings)
    encodings = with_token_weights(
        encodable.samples, encodable.encodings, processor, objective, seed=seed
    )
    return StageData(
        encodings,
        tuple(sample.images for sample in encodable.samples),
        cache,
        encodable.drops,
        encodable.drop_examples,
        entities,
    )


def read_group_card(path: Path) -> DatasetCard:
    """The card of a data group: of a DATASET folder, or of a folder (or file) of JSONL rows with
    images beside it.

    Raises:
        ArtefactError, InputError: it is neither, or it is damaged.
    """
    if is_dataset(path):
        return open_dataset(path)
    if path.is_dir() and not (path / jsonl.ROWS_FILE).is_file():
        raise InputError(
            f"{path} holds neither {jsonl.ROWS_FILE} nor a DATASET, which `lingshu curate` makes of what"
            " one has; check the folder."
        )
    find_rows_file(path)
    samples = [sample for sample in jsonl.read(path) if isinstance(sample, Sample)]
    licenses = Counter(sample.meta.license or "unknown" for sample in samples)
    sources = Counter(sample.meta.source or "unknown" for sample in samples)
    access = Counter(sample.meta.access for sample in samples)
    return DatasetCard(
        path.name,
        len(samples),
        len({i for s in samples for i in s.images}),
        licenses,
        sources,
        access,
    )


def is_dataset(path: Path) -> bool:
    return (path / DATASET_CARD).is_file()


def is_held_out(sample: Sample) -> bool:
    """Whether a split marked the sample's row for anything but training."""
    return not sample.meta.extra.get("split", "train").casefold().startswith("train")


def read_groups(paths: Sequence[Path], *, held_out: bool = False) -> Iterator[Sample | Drop]:
    """The samples of several data groups, one after another; a question with a gold answer is
    closed by it.

    Rows that a split marked for anything but training (`extra["split"]`, as split_by_group notes
    it) become drops, unless `held_out` rows are wanted: nobody learns from the patients that it is
    measured on because both lie in one folder.
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
    """A data group that was checked when the run began: its folder or file, its card, and the
    digest of its content.
    """

    path: Path
    card: DatasetCard
    digest: str


def open_data_group(path: Path) -> DataGroup:
    """Check a data group once; hashing it again for every stage would read all of it again.

    Raises:
        ArtefactError, InputError: it is no data group, or it is damaged.
    """
    card = read_group_card(path)
    return DataGroup(
        path, card, dataset_digest(path) if is_dataset(path) else sha256_file(find_rows_file(path))
    )
