"""What a training run would take: parameters, steps, operations, memory on each GPU, and data.

A product of a token with n weights is 2n operations forward, 2n for the gradient of its input and
2n for that of the weights: 6n where everything is trained. Frozen weights lack the last, and those
before the first trained part lack both. Norms, embeddings, the loss and the optimizer are left out;
together they are a percent or less.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from lingshu.core.errors import ConfigError, UnknownNameError, suggest_name
from lingshu.core.types import Drop, Sample
from lingshu.models.base import VisionTowerSpec, family_of
from lingshu.models.inference_settings import stored_weights
from lingshu.models.load import open_processor
from lingshu.models.model_spec import PARTS, Part, PixelBudget, TinyModel
from lingshu.models.processor import EncodedSample, Processor, build_processor
from lingshu.models.specs import ModelShapes, load_shapes
from lingshu.models.tiny import train_tokenizer
from lingshu.train.batching import PackedPlan
from lingshu.train.config import Sharding, Stage, TrainConfig
from lingshu.train.data import encode_training_samples, read_group_card, read_groups
from lingshu.train.entity_weights import EntityCounts
from lingshu.train.objectives import MAX_LOGITS

# Bytes per parameter: master weight, gradient and two Adam moments in float32; a frozen one has its
# weight only.
TRAINED_BYTES = 4 + 4 + 8
# 4-bit NormalFloat has a float32 scale for each block of 64.
FROZEN_BYTES = {"float32": 4.0, "bfloat16": 2.0, "int4": 0.5 + 4 / 64}
GPUS_PER_NODE = 8
# A block in use is gathered in bfloat16; its gradient is computed in bfloat16 and summed over GPUs
# in float32.
GATHERED_BYTES, GRADIENT_BYTES = 2, 2 + 4
# The stored input of each recomputed block (the residual stream is float32 under autocast), and
# what a block at work holds: some 34 bfloat16 states as wide as its input, most of them of the
# gated feed-forward.
CHECKPOINTED_BYTES, WORKING_BYTES = 4, 34 * 2
LOGIT_BYTES = 4 * 3  # float32 logits, their softmax and its gradient
USABLE_FRACTION = 0.9  # the rest is for the driver, communication buffers and fragmentation
PACKING_EFFICIENCY = 0.99  # of a sequence, where samples are much shorter than it
REPORTED_GPU_COUNTS = (1, 8, 32)
POWERS_OF_TWO = tuple(2**power for power in range(13))
MEASURED_ROWS = 256  # enough for a mean within a few percent, read in seconds
SUPERVISED_FRACTION = 0.5  # of the assumed text of a sample


class Gpu(NamedTuple):
    """`peak_flops` of dense bfloat16 products; `memory_bytes` as the data sheet counts GB, 10^9."""

    name: str
    peak_flops: float
    memory_bytes: float

    def has_capacity(self, size: float) -> bool:
        return size <= USABLE_FRACTION * self.memory_bytes


# Dense bfloat16 TFLOP/s with float32 sums (half of what a data sheet prints "with sparsity") and
# GB: data sheets, and for RTX cards the appendices of NVIDIA's Ampere, Ada and Blackwell papers.
# H100 is the SXM card.
_CARDS = """
A10 125 24, A100-40GB 312 40, A100-80GB 312 80, A40 149.7 48, A6000 154.8 48, B200 2250 180,
H100 989.4 80, H100-NVL 835.5 94, H100-PCIe 756 80, H20 148 96, H200 989.4 141, L4 121 24,
L40S 362 48, RTX3090 71 24, RTX4090 165.2 24, RTX5090 209.5 32, RTX6000-Ada 364.2 48
"""
GPUS = {
    name: Gpu(name, float(teraflops) * 1e12, float(gigabytes) * 1e9)
    for name, teraflops, gigabytes in (card.split() for card in _CARDS.split(","))
}


def find_gpu(name: str) -> Gpu:
    """The card of that name, ignoring case, spaces and dashes; raises UnknownNameError."""
    by_key = {re.sub(r"[^a-z0-9]", "", card.lower()): gpu for card, gpu in GPUS.items()}
    gpu = by_key.get(re.sub(r"[^a-z0-9]", "", name.lower()))
    if gpu is None:
        raise UnknownNameError(f"the GPU {name!r} is unknown; {suggest_name(name.upper(), GPUS)}")
    return gpu


class MeanLengths(NamedTuple):
    """Mean tokens of a sample: text, image (as the language model sees it), supervised; and
    squares.

    `squared_patches` is the mean square of the patches of a tile, summed over those of a sample.
    """

    text: float
    image: float
    supervised: float
    squared_length: float
    squared_patches: float

    @property
    def tokens(self) -> float:
        return self.text + self.image


class Flops(NamedTuple):
    """Operations forward and backward, and those of recomputing activations in between."""

    forward: float
    backward: float
    recomputed: float

    @property
    def model(self) -> float:
        """What the model needs; model FLOPs utilization counts only these."""
        return self.forward + self.backward

    @property
    def executed(self) -> float:
        return self.model + self.recomputed


class MemoryEstimate(NamedTuple):
    """Bytes on one GPU: sharded states, blocks gathered for use, activations and logits."""

    states: int
    gathered: int
    activations: int

    @property
    def total(self) -> int:
        return self.states + self.gathered + self.activations


@dataclass(frozen=True)
class AssumedLengths:
    """What a plan assumes where nothing was measured.

    200 tokens of text are a question and a short answer; 384 image tokens are 550 x 550 pixels (if
    the pixel budget allows it). `mfu` is the share of the GPUs' peak that the model's operations
    reach.
    """

    text_tokens: float = 200
    image_tokens: float | None = None
    mfu: float = 0.4

    def __post_init__(self) -> None:
        if self.text_tokens <= 0 or (self.image_tokens or 0) < 0:
            raise ConfigError(
                f"a sample of {self.text_tokens:g} text and {self.image_tokens or 0:g} image tokens"
                " cannot be planned with; give more than 0 text and at least 0 image tokens."
            )
        if not 0 < self.mfu <= 1:
            raise ConfigError(f"the MFU is {self.mfu:g}; give one between 0 and 1, such as 0.4.")

    def mean(self, budget: PixelBudget, tower: VisionTowerSpec) -> MeanLengths:
        """A sample with one image, as long as all the others."""
        image = self.image_tokens
        if image is None and tower.tile_tokens is not None:
            # An image cut into several tiles has a thumbnail as well.
            image = tower.tile_tokens * (1 if budget.max_tiles == 1 else budget.max_tiles + 1)
        elif image is None:
            image = max(384, budget.min_pixels / tower.pixels_per_token)
            image = min(image, budget.max_pixels / tower.pixels_per_token)
        tiles = image / tower.tile_tokens if tower.tile_tokens else 1.0
        patches = image * tower.patches_per_token
        return MeanLengths(
            self.text_tokens,
            image,
            SUPERVISED_FRACTION * self.text_tokens,
            squared_length=(self.text_tokens + image) ** 2,
            squared_patches=patches**2 / tiles if tiles else 0.0,
        )


@dataclass(frozen=True)
class DataGroupEstimate:
    """A data group: `rows` found, None without a folder; `expected`, None if the recipe is silent.

    `mean` is measured on the first `measured_rows`, or assumed if there are none; `lengths` are
    None unless all rows were measured; `dropped` and `entities` count what was measured.
    """

    name: str
    folder: str | None
    rows: int | None
    expected: int | None
    mean: MeanLengths
    measured_rows: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    lengths: tuple[int, ...] | None = None
    entities: EntityCounts | None = None

    @property
    def n_usable(self) -> int | None:
        """Rows to train on, None if unknown."""
        if self.rows is None or not self.measured_rows:
            return self.expected if self.rows is None else self.rows
        return round(self.rows * (1 - sum(self.dropped.values()) / self.measured_rows))


class CommunicationEstimate(NamedTuple):
    """Bytes of an update that each GPU takes part in: weights gathered and gradients scattered among
    the GPUs of a copy, and gradients summed over copies.
    """

    gathered: int
    scattered: int
    summed: int


class GpuEstimate(NamedTuple):
    """A stage on GPUs of one kind: `busy_gpus` get work, `min_gpus` would hold it."""

    gpu: Gpu
    gpus: int
    busy_gpus: int
    bytes: int
    min_gpus: int | None
    hours: float | None
    hours_per_thousand: float

    @property
    def fits(self) -> bool:
        return self.gpu.has_capacity(self.bytes)


@dataclass(frozen=True)
class StageEstimate:
    """What one stage takes; None is what depends on data that is not there yet."""

    config: TrainConfig
    stage_index: int
    shapes: ModelShapes
    groups: Sequence[DataGroupEstimate]
    mfu: float
    gpu: Gpu | None
    gpus: int

    @property
    def stage(self) -> Stage:
        return self.config.stages[self.stage_index]

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def trained(self) -> Mapping[Part, int]:
        return trained_parameters(self.stage, self.shapes)

    @cached_property
    def mean(self) -> MeanLengths:
        """The mean sample of the groups, by their rows; groups of unknown size count equally."""
        counts = [group.n_usable for group in self.groups]
        weights = [float(n or 0) for n in counts]
        if None in counts or not any(counts):
            weights = [1.0] * len(counts)
        total = sum(weights)
        columns = zip(*(group.mean for group in self.groups), strict=True)
        return MeanLengths(
            *(
                sum(w * v for w, v in zip(weights, column, strict=True)) / total
                for column in columns
            )
        )

    @property
    def rows(self) -> int | None:
        counts = [group.n_usable for group in self.groups]
        return None if None in counts else sum(count or 0 for count in counts)

    @property
    def num_generations(self) -> int:
        """Replies per question; in reinforcement learning a sample is a reply."""
        return self.stage.grpo.num_generations if self.stage.grpo else 1

    @property
    def samples_per_sequence(self) -> float:
        if not self.stage.packing:
            return 1.0
        return max(1.0, PACKING_EFFICIENCY * self.stage.max_tokens / self.mean.tokens)

    @cached_property
    def steps(self) -> int | None:
        stage, rows, lengths = self.stage, self.rows, [group.lengths for group in self.groups]
        if stage.steps is not None:
            return stage.steps
        if stage.packing and None not in lengths:
            all_lengths = tuple(length for part in lengths for length in part or ())
            seed = self.config.seed * 1000 + self.stage_index
            plan = PackedPlan(all_lengths, stage.max_tokens, stage.batch, seed)
            return plan.steps(stage.epochs)
        return None if rows is None else self._epoch_steps(rows / self.samples_per_sequence)

    @property
    def unpacked_steps(self) -> int | None:
        """What a stage that packs would take without packing."""
        if self.rows is None or self.stage.steps or not self.stage.packing:
            return None
        return self._epoch_steps(self.rows)

    def _epoch_steps(self, sequences: float) -> int:
        return max(1, round(self.stage.epochs * max(1, int(sequences) // self.stage.batch)))

    @property
    def steps_source(self) -> str:
        if self.stage.steps is not None:
            return "from the recipe"
        if self.rows is None:
            return "unknown until the data is given"
        is_found = all(group.rows is not None for group in self.groups)
        return "from the data found" if is_found else "from the rows expected"

    @property
    def max_tokens_per_step(self) -> int:
        return self.stage.batch * self.stage.max_tokens * self.num_generations

    @property
    def samples(self) -> float | None:
        """Samples of the whole stage."""
        if self.steps is None:
            return None
        return self.steps * self.stage.batch * self.samples_per_sequence * self.num_generations

    @property
    def tokens(self) -> float | None:
        return None if self.samples is None else self.samples * self.mean.tokens

    @property
    def tokens_per_epoch(self) -> float | None:
        return None if self.rows is None else self.rows * self.num_generations * self.mean.tokens

    @property
    def flops_per_sample(self) -> Flops:
        recompute = self.config.sharding.activation_checkpointing
        return estimate_flops(self.stage, self.shapes, self.mean, recompute=recompute)

    @property
    def flops(self) -> Flops | None:
        if self.samples is None:
            return None
        return Flops(*(operations * self.samples for operations in self.flops_per_sample))

    def bytes_on(self, gpus: int) -> int:
        """Bytes on each GPU with states sharded over so many."""
        sharding = self.config.sharding
        return estimate_memory(
            self.stage, self.shapes, gpus, sharding=sharding, base=self.base
        ).total

    @property
    def base(self) -> str:
        """The type in which weights that are not trained are held."""
        model, lora = self.config.model, self.stage.lora
        if lora is None:
            return "float32"
        # A stage after the first starts from float32; released models are stored in bfloat16.
        stored = "F32"
        if self.stage_index == 0 and isinstance(model, str):
            stored = stored_weights(Path(model)).dtype if Path(model).is_dir() else "BF16"
        return lora.base_type(stored=stored, bfloat16=self.config.precision != "float32")

    def shards(self, gpus: int) -> int:
        return self.config.sharding.processes_per_copy(gpus, GPUS_PER_NODE)

    def communication(self, gpus: int, memory_bytes: float) -> CommunicationEstimate:
        """What each of some GPUs sends and receives in an update."""
        stage, sharding = self.stage, self.config.sharding
        return estimate_communication(
            stage,
            self.shapes,
            gpus,
            shards=self.shards(gpus),
            micro_batches=max(1, stage.batch // (stage.micro_batch * gpus)),
            reduces_once=sharding.reduces_once(sum(self.trained.values()), memory_bytes),
        )

    @property
    def bytes_per_gpu(self) -> dict[int, int]:
        return {gpus: self.bytes_on(gpus) for gpus in REPORTED_GPU_COUNTS}

    @cached_property
    def gpu_estimate(self) -> GpuEstimate | None:
        gpu, gpus = self.gpu, self.gpus
        if gpu is None:
            return None
        busy_gpus = min(gpus, self.stage.batch * self.num_generations // self.stage.micro_batch)
        hours = self.flops_per_sample.model / (busy_gpus * gpu.peak_flops * self.mfu) / 3600
        return GpuEstimate(
            gpu,
            gpus,
            busy_gpus,
            self.bytes_on(self.shards(gpus)) + self._unreduced_bytes(gpu, gpus),
            next((n for n in POWERS_OF_TWO if gpu.has_capacity(self.bytes_on(n))), None),
            None if self.samples is None else hours * self.samples,
            1000 * hours,
        )

    def _unreduced_bytes(self, gpu: Gpu, gpus: int) -> int:
        """Whole float32 gradients that wait for the end of an update of several micro-batches."""
        trained, stage = sum(self.trained.values()), self.stage
        waits = gpus > 1 and stage.batch > stage.micro_batch * gpus
        once = self.config.sharding.reduces_once(trained, gpu.memory_bytes)
        return 4 * trained if waits and once else 0

    @property
    def unmarked(self) -> list[str]:
        """Data groups without a marked entity in a stage that weighs entities."""
        if self.stage.objective.entity_weight == 1:
            return []
        return [g.name for g in self.groups if g.measured_rows and g.entities is None]


class RunEstimate(NamedTuple):
    shapes: ModelShapes
    stages: tuple[StageEstimate, ...]
    groups: tuple[DataGroupEstimate, ...]
    assumed: AssumedLengths


def estimate_run(
    config: TrainConfig,
    assumed: AssumedLengths | None = None,
    *,
    gpu: Gpu | None = None,
    gpus: int = 1,
) -> RunEstimate:
    """Plan a run from its configuration; data folders that are given are checked and measured.

    Raises:
        ArtifactError, InputError: a model whose sizes are unknown, or a folder that cannot be used.
        TrainingError: a folder without a usable sample.
    """
    assumed, shapes = assumed or AssumedLengths(), load_shapes(config.model)
    groups = _estimate_groups(config, assumed.mean(config.pixels, shapes.tower), shapes.tower)
    stages = tuple(
        StageEstimate(
            config, index, shapes, [groups[name] for name in stage.data], assumed.mfu, gpu, gpus
        )
        for index, stage in enumerate(config.stages)
    )
    return RunEstimate(shapes, stages, tuple(groups.values()), assumed)


def _estimate_groups(
    config: TrainConfig, default: MeanLengths, tower: VisionTowerSpec
) -> dict[str, DataGroupEstimate]:
    """The data groups; if the model's tokenizer is here, their first rows are measured."""
    rows = {n: read_group_card(Path(f)).rows for n, f in config.data.items() if f is not None}
    first_items = {
        name: list(islice(read_groups([Path(config.data[name] or "")]), MEASURED_ROWS))
        for name in rows
    }
    processor = _local_processor(config, [i for items in first_items.values() for i in items])
    groups = {}
    for name, folder in config.data.items():
        group = DataGroupEstimate(name, folder, rows.get(name), config.expected.get(name), default)
        limits = [stage.max_tokens for stage in config.stages if name in stage.data]
        if folder is not None and processor is not None and limits:
            items = first_items[name]
            data = encode_training_samples(
                items, processor, max_tokens=max(limits), cache_mb=config.cache_mb
            )
            samples = [data.sample(i) for i in range(len(data))]
            group = replace(
                group,
                mean=mean_lengths(samples, tower.patches_per_token),
                measured_rows=len(items),
                dropped=data.drops,
                lengths=tuple(map(len, samples)) if len(items) == group.rows else None,
                entities=data.entities,
            )
        groups[name] = group
    return groups


def _local_processor(config: TrainConfig, items: Sequence[Sample | Drop]) -> Processor | None:
    """The processor that training would use, None where it would have to be downloaded."""
    model = config.model
    if isinstance(model, TinyModel):
        family = family_of(model.family)
        tokenizer = train_tokenizer(family, tokenizer_texts(items), model.vocab_size)
        image_processor = family.image_processor(config.pixels, model.image_size)
        return build_processor(family, tokenizer, image_processor, config.pixels)
    folder = Path(model)
    if not folder.is_dir():
        return None
    return open_processor(folder).with_budget(config.pixels)


def mean_lengths(samples: Sequence[EncodedSample], patches_per_token: int) -> MeanLengths:
    """The mean sample of some encoded ones."""
    n_samples = len(samples)
    n_image = sum(int(sample.is_image.sum()) for sample in samples)
    n_tokens = sum(map(len, samples))
    # A tile attends to itself, whether or not it is one of several of an image.
    tiles = [
        (len(t.pixels), t.tokens * patches_per_token / len(t.pixels))
        for sample in samples
        for t in sample.tiles
    ]
    return MeanLengths(
        text=(n_tokens - n_image) / n_samples,
        image=n_image / n_samples,
        supervised=sum(sample.supervised for sample in samples) / n_samples,
        squared_length=sum(len(sample) ** 2 for sample in samples) / n_samples,
        squared_patches=sum(count * patches**2 for count, patches in tiles) / n_samples,
    )


def tokenizer_texts(items: Iterable[Sample | Drop]) -> list[str]:
    """The training text of a tokenizer: dialogues, their roles, the template's own turn."""
    texts = []
    for item in items:
        if isinstance(item, Sample):
            texts += [message.text for message in item.messages]
            texts += sorted({message.role for message in item.messages})
            texts.append("system\nYou are a helpful assistant.")
    return texts


def trained_parameters(stage: Stage, shapes: ModelShapes) -> dict[Part, int]:
    """Parameters by part that a stage trains (0 = frozen); of an adapted part only the adapter."""
    trained: dict[Part, int] = {
        part: shapes.parameters[part] if getattr(stage.learning_rates, part) is not None else 0
        for part in PARTS
    }
    if stage.lora:
        trained |= {part: stage.lora.rank * shapes.linear_dims[part] for part in stage.lora.parts}
    return trained


def estimate_flops(
    stage: Stage, shapes: ModelShapes, mean: MeanLengths, *, recompute: bool
) -> Flops:
    """Operations of one mean sample; with `recompute`, blocks repeat their forward pass.

    The output head sees supervised tokens only; causal attention is its lower triangle. In
    reinforcement learning a sample is a reply with its question; the reference adds a forward pass,
    and so does the start of a round of several updates. Sampling is not counted.
    """
    tower = shapes.tower
    patches = mean.image * tower.patches_per_token
    n_uses = {"vision": patches, "projector": mean.image, "language": mean.tokens}
    tower_attention = (
        tower.full_attention_blocks * mean.squared_patches
        + tower.window_attention_blocks * tower.window_patches * patches
    )
    attention = {
        "vision": 4 * tower.width * tower_attention,
        "projector": 0.0,
        "language": 2 * shapes.layers * shapes.attention * mean.squared_length,
    }
    forward = backward = recomputed = 0.0
    needs_backward = weights_trained = False
    # in the order in which a sample passes them: gradients flow from the first trained part on
    for part in PARTS:
        rank = stage.lora.rank if stage.lora and part in stage.lora.parts else 0
        adapter = 2 * rank * shapes.linear_dims[part] * n_uses[part]
        has_rate = getattr(stage.learning_rates, part) is not None
        needs_backward, weights_trained = needs_backward or has_rate, has_rate and not rank
        linear = 2 * shapes.matmul_parameters[part] * n_uses[part]
        part_forward = linear + attention[part] + adapter
        forward += part_forward
        if needs_backward:
            backward += linear * (1 + weights_trained) + 2 * attention[part] + 2 * adapter
            # the projector is outside the blocks
            recomputed += part_forward if recompute and part != "projector" else 0.0
    lm_head = 2 * shapes.lm_head_parameters * mean.supervised
    forward, backward = forward + lm_head, backward + lm_head * (1 + weights_trained)
    if stage.grpo:
        forward *= 1 + bool(stage.grpo.kl) + (stage.grpo.rollout_batch_size > stage.batch)
    return Flops(forward, backward, recomputed)


def estimate_memory(
    stage: Stage, shapes: ModelShapes, gpus: int, *, sharding: Sharding, base: str = "float32"
) -> MemoryEstimate:
    """An upper bound for full sequences, with states sharded over some GPUs; a token costs either in
    the tower or a row of logits, of which a part exists at a time. `base` is the type of frozen
    weights; in 4 bits are the linear layers of the language model, the others then in bfloat16.
    """
    recompute, tower = sharding.activation_checkpointing, shapes.tower
    by_part = trained_parameters(stage, shapes)
    trained = sum(by_part.values())
    adapted = stage.lora.parts if stage.lora else ()
    frozen = shapes.total - sum(by_part[part] for part in PARTS if part not in adapted)
    quantized = shapes.matmul_parameters["language"] if base == "int4" else 0
    others = FROZEN_BYTES["bfloat16" if base == "int4" else base] * (frozen - quantized)
    trained_bytes = TRAINED_BYTES - (4 if sharding.moments == "bfloat16" else 0)
    held = trained * trained_bytes + round(quantized * FROZEN_BYTES["int4"] + others)
    states = held // gpus
    tokens = stage.micro_batch * stage.max_tokens
    logits = min(tokens * shapes.vocab_size, MAX_LOGITS)
    stored_bytes = CHECKPOINTED_BYTES if recompute else WORKING_BYTES
    tower_width = tokens * tower.patches_per_token * tower.width
    n_tower_blocks = tower.full_attention_blocks + tower.window_attention_blocks
    stored_tower = tower_width * stored_bytes * n_tower_blocks
    stored_tower = 0 if stage.learning_rates.vision is None else stored_tower
    language = tokens * shapes.hidden * (stored_bytes * shapes.layers + WORKING_BYTES)
    activations = max(
        stored_tower + tower_width * WORKING_BYTES,
        language + max(stored_tower, logits * LOGIT_BYTES),
    )
    # Two blocks at a time, one in use and one on its way, and the gradient of one. What is outside
    # the blocks stays gathered; its own gradient is summed at the very end, when no activation is
    # left.
    block_bytes = (2 * GATHERED_BYTES + GRADIENT_BYTES) * max(shapes.blocks)
    final_gradient = 0 if stage.lora else GRADIENT_BYTES * shapes.outside_blocks
    # In a single process, without shards, autocast holds a bfloat16 copy of every trained weight
    # until the loss, and the graph one of every weight where no block is recomputed.
    copied = trained if recompute or base != "float32" else trained + frozen
    autocast = GATHERED_BYTES * copied if gpus == 1 else 0
    return MemoryEstimate(
        0 if sharding.cpu_offload else states,
        max(autocast, GATHERED_BYTES * shapes.outside_blocks + block_bytes),
        max(activations, final_gradient - block_bytes),
    )


def estimate_communication(
    stage: Stage,
    shapes: ModelShapes,
    gpus: int,
    *,
    shards: int,
    micro_batches: int,
    reduces_once: bool,
) -> CommunicationEstimate:
    """The bytes of an update where every part takes part in each micro-batch: blocks are gathered in
    bfloat16 forward and backward, what is outside them once; float32 gradients are scattered in each
    micro-batch or once, and summed over copies of the model once. None for a single GPU.
    """
    if gpus == 1:
        return CommunicationEstimate(0, 0, 0)
    gathered = GATHERED_BYTES * micro_batches * (shapes.total + sum(shapes.blocks))
    gradients = 4 * sum(trained_parameters(stage, shapes).values())
    scattered = gradients * (1 if reduces_once else micro_batches)
    return CommunicationEstimate(gathered, scattered, gradients // shards if shards < gpus else 0)
