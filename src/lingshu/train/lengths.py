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
from lingshu.core.nouns import Message, Sample
from lingshu.models.family import Tower, family_of
from lingshu.models.load import check_folder
from lingshu.models.processor import Encoded, Processor, load_processor
from lingshu.models.spec import PixelBudget, TinyModel
from lingshu.models.tiny import train_tokenizer
from lingshu.train.config import TrainConfig
from lingshu.train.cost import Mean
from lingshu.train.data import encode_all, read_groups
from lingshu.train.entities import EntityCounts

MEASURED_ROWS = 256  # enough for a mean within a few percent, read in seconds
PIXELS_PER_TOKEN = 28 * 28  # of both families
# Of the text of a sample, the share that is an answer.
SUPERVISED_SHARE = 0.5


@dataclass(frozen=True)
class Assumed:
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

    def mean(self, budget: PixelBudget, tower: Tower) -> Mean:
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
        squares = patches**2 / tiles if tiles else 0.0
        return Mean(
            self.text_tokens,
            image,
            SUPERVISED_SHARE * self.text_tokens,
            (self.text_tokens + image) ** 2,
            squares,
        )


@dataclass(frozen=True)
class Measured:
    """The mean of the first `rows` rows of a data group, the length of each that can be used, how
    many cannot, and what is marked.
    """

    mean: Mean
    rows: int
    lengths: tuple[int, ...]
    drops: Mapping[str, int]
    entities: EntityCounts | None = None


def measure(config: TrainConfig, folders: Mapping[str, Path], tower: Tower) -> dict[str, Measured]:
    """The lengths of each data group's first samples; none where the model's tokenizer is not at
    hand.

    Raises:
        TrainingError: no sample of a group can be used.
        InputError, ArtefactError: a group that cannot be read.
    """
    firsts = {
        name: list(islice(read_groups([folder]), MEASURED_ROWS)) for name, folder in folders.items()
    }
    samples = [item for items in firsts.values() for item in items if isinstance(item, Sample)]
    processor = _processor(config, samples)
    found: dict[str, Measured] = {}
    if processor is None:
        return found
    for name, items in firsts.items():
        longest = max(
            (stage.max_tokens for stage in config.stages if name in stage.data), default=0
        )
        if not longest:
            continue
        data = encode_all(items, processor, max_tokens=longest, cache_mb=config.cache_mb)
        kept = [data.sample(i) for i in range(len(data))]
        lengths = tuple(len(sample) for sample in kept)
        found[name] = Measured(
            mean_of(kept, tower.patches_per_token), len(items), lengths, data.drops, data.entities
        )
    return found


def mean_of(samples: Sequence[Encoded], patches_per_token: int) -> Mean:
    """The mean sample of some encoded ones."""
    number = len(samples)
    images = sum(int(sample.is_image.sum()) for sample in samples)
    tokens = sum(map(len, samples))
    # A tile attends to itself, whether or not it is one of several of an image.
    tiles = [
        (len(t.pixels), t.tokens * patches_per_token / len(t.pixels))
        for sample in samples
        for t in sample.tiles
    ]
    return Mean(
        text=(tokens - images) / number,
        image=images / number,
        supervised=sum(sample.supervised for sample in samples) / number,
        squares=sum(len(sample) ** 2 for sample in samples) / number,
        patch_squares=sum(count * patches**2 for count, patches in tiles) / number,
    )


def words_of(messages: Sequence[Message]) -> list[str]:
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
        corpus = [text for sample in samples for text in words_of(sample.messages)]
        tokenizer: Any = train_tokenizer(family, corpus, config.model.vocabulary)
        return Processor(
            family,
            tokenizer,
            family.image_processor(config.pixels, config.model.side),
            config.pixels,
        )
    folder = Path(config.model)
    if not folder.is_dir():
        return None
    family, _ = check_folder(folder)
    known = load_processor(folder, family)
    return Processor(
        family,
        known.tokenizer,
        family.with_budget(known.image_processor, config.pixels),
        config.pixels,
    )
