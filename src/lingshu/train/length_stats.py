"""How long samples are: measured on the first rows of a data group, or assumed where that would
take a download.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lingshu.core.errors import ConfigError
from lingshu.core.types import Message, Sample
from lingshu.models.base import VisionTowerSpec, family_of
from lingshu.models.load import check_model_folder
from lingshu.models.model_spec import PixelBudget, TinyModel
from lingshu.models.processor import EncodedSample, Processor, load_processor
from lingshu.models.tiny import train_tokenizer
from lingshu.train.config import TrainConfig
from lingshu.train.cost import MeanLengths
from lingshu.train.data import encode_training_samples, read_groups
from lingshu.train.entity_weights import EntityCounts

MEASURED_ROWS = 256  # enough for a mean within a few percent, read in seconds
PIXELS_PER_TOKEN = 28 * 28  # of both families
# Of the text of a sample, the share that is an answer.
SUPERVISED_FRACTION = 0.5


@dataclass(frozen=True)
class AssumedLengths:
    """What a plan takes for granted where nothing was measured.

    200 tokens of text are a question and an answer of a few sentences; 384 image tokens a figure of
    some 550 x 550 pixels (as far as the pixel budget lets it). `mfu`, model FLOPs utilisation, is
    the share of the GPUs' peak that the model's own operations reach.
    """

    text_tokens: float = 200
    image_tokens: float | None = None
    mfu: float = 0.4

    def __post_init__(self) -> None:
        if self.text_tokens <= 0 or (self.image_tokens is not None and self.image_tokens < 0):
            raise ConfigError(
                f"a sample of {self.text_tokens:g} text and {self.image_tokens or 0:g} image tokens"
                " cannot be planned with."
            )
        if not 0 < self.mfu <= 1:
            raise ConfigError(
                f"an MFU of {self.mfu:g} is no share of the peak; give one between 0 and 1, such as"
                " 0.4."
            )

    def mean(self, budget: PixelBudget, tower: VisionTowerSpec) -> MeanLengths:
        """A sample with one image, as long as all the others."""
        image = self.image_tokens
        if image is None and tower.tile_tokens is not None:
            # Cut into several tiles, an image has a thumbnail besides.
            image = tower.tile_tokens * (1 if budget.max_tiles == 1 else budget.max_tiles + 1)
        elif image is None:
            image = min(
                max(384, budget.min_pixels / PIXELS_PER_TOKEN), budget.max_pixels / PIXELS_PER_TOKEN
            )
        tiles = image / tower.tile_tokens if tower.tile_tokens else 1.0
        patches = image * tower.patches_per_token
        squared_patches = patches**2 / tiles if tiles else 0.0
        return MeanLengths(
            self.text_tokens,
            image,
            SUPERVISED_FRACTION * self.text_tokens,
            (self.text_tokens + image) ** 2,
            squared_patches,
        )


@dataclass(frozen=True)
class LengthStats:
    """The mean of the first `rows` rows of a data group, the length of each that can be used, how
    many cannot, and what is marked.
    """

    mean: MeanLengths
    rows: int
    lengths: tuple[int, ...]
    drops: Mapping[str, int]
    entities: EntityCounts | None = None


def measure_lengths(
    config: TrainConfig, folders: Mapping[str, Path], tower: VisionTowerSpec
) -> dict[str, LengthStats]:
    """The lengths of each data group's first samples; none where the model's tokenizer is not at
    hand.

    Raises:
        TrainingError: no sample of a group can be used.
        InputError, ArtefactError: a group that cannot be read.
    """
    first_items = {
        name: list(islice(read_groups([folder]), MEASURED_ROWS)) for name, folder in folders.items()
    }
    samples = [item for items in first_items.values() for item in items if isinstance(item, Sample)]
    processor = _processor(config, samples)
    stats: dict[str, LengthStats] = {}
    if processor is None:
        return stats
    for name, items in first_items.items():
        max_tokens = max(
            (stage.max_tokens for stage in config.stages if name in stage.data), default=0
        )
        if not max_tokens:
            continue
        data = encode_training_samples(
            items, processor, max_tokens=max_tokens, cache_mb=config.cache_mb
        )
        encoded = [data.sample(i) for i in range(len(data))]
        lengths = tuple(len(sample) for sample in encoded)
        stats[name] = LengthStats(
            mean_lengths(encoded, tower.patches_per_token),
            len(items),
            lengths,
            data.drops,
            data.entities,
        )
    return stats


def mean_lengths(samples: Sequence[EncodedSample], patches_per_token: int) -> MeanLengths:
    """The mean sample of some encoded ones."""
    n_samples = len(samples)
    images = sum(int(sample.is_image.sum()) for sample in samples)
    tokens = sum(map(len, samples))
    # A tile attends to itself, whether or not it is one of several of an image.
    tiles = [
        (len(t.pixels), t.tokens * patches_per_token / len(t.pixels))
        for sample in samples
        for t in sample.tiles
    ]
    return MeanLengths(
        text=(tokens - images) / n_samples,
        image=images / n_samples,
        supervised=sum(sample.supervised for sample in samples) / n_samples,
        squared_length=sum(len(sample) ** 2 for sample in samples) / n_samples,
        squared_patches=sum(count * patches**2 for count, patches in tiles) / n_samples,
    )


def tokenizer_texts(messages: Sequence[Message]) -> list[str]:
    """What a tokenizer of one's own learns from a dialogue: its texts, and the words of the
    template's own turns.
    """
    roles = {message.role for message in messages}
    return (
        [message.text for message in messages]
        + sorted(roles)
        + ["system\nYou are a helpful assistant."]
    )


def _processor(config: TrainConfig, samples: Sequence[Sample]) -> Processor | None:
    """The processor that training would use, as far as nothing has to be fetched for it."""
    if isinstance(config.model, TinyModel):
        family = family_of(config.model.family)
        corpus = [text for sample in samples for text in tokenizer_texts(sample.messages)]
        tokenizer: Any = train_tokenizer(family, corpus, config.model.vocab_size)
        return Processor(
            family,
            tokenizer,
            family.image_processor(config.pixels, config.model.image_size),
            config.pixels,
        )
    folder = Path(config.model)
    if not folder.is_dir():
        return None
    family, _ = check_model_folder(folder)
    saved = load_processor(folder, family)
    return Processor(
        family,
        saved.tokenizer,
        family.with_budget(saved.image_processor, config.pixels),
        config.pixels,
    )
