"""The configuration of a training run: its model, its data groups and its chain of stages.

Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from lingshu.core.errors import ConfigError, suggest_name
from lingshu.models.model_spec import PARTS, Part, PixelBudget, TinyModel

# Of a GPU's memory, for whole gradients that wait for the end of an update.
UNREDUCED_FRACTION = 0.25


def _check_range(name: str, value: float, *, below: float = math.inf) -> None:
    if not 0 <= value < below:
        bound = "" if below == math.inf else f" and below {below:g}"
        raise ConfigError(f"{name} is {value:g}; it must be a number of at least 0{bound}.")


def _check_counts(prefix: str, config: object, *names: str) -> None:
    for name in names:
        if (count := getattr(config, name)) is not None and count < 1:
            raise ConfigError(f"{prefix}{name} is {count}; it must be at least 1.")


@dataclass(frozen=True)
class LearningRates:
    """Peak learning rate of each part; None freezes the part: its weights keep every bit."""

    vision: float | None = None
    projector: float | None = None
    language: float | None = None

    def __post_init__(self) -> None:
        for part in PARTS:
            if (rate := getattr(self, part)) is not None:
                _check_range(f"learning_rates.{part}", rate)
        if self.vision is None and self.projector is None and self.language is None:
            raise ConfigError(
                "every part of the stage is frozen; give vision, projector or language a learning"
                " rate."
            )


@dataclass(frozen=True)
class Lora:
    """Train low-rank adapters of the linear layers of `parts` instead of the weights.

    `base` is the type in which weights that are not trained are held, adapted ones included: auto
    is bfloat16 where steps are computed in it and the checkpoint is stored in it, so that no bit is
    lost, else float32. int4 holds the linear layers of the language model in 4 bits (QLoRA, arXiv
    2305.14314) and merges the adapters into the weights as they are stored; it needs bitsandbytes
    and a single process.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    parts: tuple[Part, ...] = ("language",)
    base: Literal["auto", "float32", "bfloat16", "int4"] = "auto"

    def __post_init__(self) -> None:
        _check_range("lora.dropout", self.dropout, below=1)
        if self.rank < 1 or not self.parts:
            raise ConfigError(
                f"lora with rank {self.rank} on parts {self.parts} trains nothing; give a rank of 1"
                " or more and a part."
            )

    def base_type(self, *, stored: str, bfloat16: bool) -> Literal["float32", "bfloat16", "int4"]:
        """What `base` is for a checkpoint `stored` as safetensors says ("BF16") and steps in
        `bfloat16` or float32.
        """
        if self.base != "auto":
            return self.base
        return "bfloat16" if bfloat16 and stored == "BF16" else "float32"


@dataclass(frozen=True)
class Objective:
    """The loss of a supervised stage.

    `loss` is cross-entropy, or "dft", which scales the loss of each token by the probability that
    the model gives it (Dynamic Fine-Tuning, arXiv 2508.05629). A token may carry a weight; the sum
    over the whole batch is divided by the number of supervised tokens ("tokens") or by the sum of
    their weights ("weights"), so that heavier tokens do not raise the effective learning rate.
    Tokens of the medical entities that samples carry weigh `entity_weight`, all others 1
    (docs/moft.md). A token belongs to an entity if any of its characters does, or most of them
    (`policy`). With `entities` "random", as many other tokens of each sample get that weight
    instead: a control, in which it does not matter what is an entity.
    """

    loss: Literal["cross_entropy", "dft"] = "cross_entropy"
    normalizer: Literal["tokens", "weights"] = "tokens"
    entity_weight: float = 1.0
    policy: Literal["any", "majority"] = "any"
    entities: Literal["marked", "random"] = "marked"

    def __post_init__(self) -> None:
        if not 0 < self.entity_weight < math.inf:
            raise ConfigError(
                f"objective.entity_weight is {self.entity_weight:g}; give a number above 0, such as"
                " 2.5."
            )


@dataclass(frozen=True)
class Reward:
    """The reward of a reply: `format` if it is one <think>...</think> and one
    <answer>...</answer> and nothing else, plus `accuracy` times the score of that answer by
    `scorer` (`lingshu list scoring`).

    A reply of another format gets 0, and so does one that was truncated or that repeats itself:
    more than `max_repetition` of its 4-grams of tokens occurred in it before. With `format` 0 no
    format is required and the whole reply is scored. `shuffle` permutes the rewards of a round at
    random: a control, in which nothing can be learned.
    """

    scorer: str = "auto"
    format: float = 0.5
    accuracy: float = 1.0
    max_repetition: float = 0.5
    shuffle: bool = False


@dataclass(frozen=True)
class Sampler:
    """What generates the replies of a round, with the weights of its start.

    `engine` is "hf" (the trained model itself, `batch` questions at a time, each prompt prefilled
    once for all its generations), "vllm" (in this process, with the share
    `gpu_memory_utilization` of the GPU's memory), or a server `http(s)://host/v1#name` with
    `concurrency` requests in flight. vLLM and a server read the weights from OUT/rollout, written
    again each round; a server is notified by a POST to each address in `reload`
    (docs/reinforcement.md).
    """

    engine: str = "hf"
    batch: int = 16
    gpu_memory_utilization: float = 0.4
    concurrency: int = 64
    reload: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        remote = self.engine.startswith(("http://", "https://"))
        if self.engine not in ("hf", "vllm") and not remote:
            raise ConfigError(
                f"sampler.engine is {self.engine!r}; write hf, vllm or http(s)://host/v1#name."
            )
        if remote != bool(self.reload):
            raise ConfigError(
                "sampler.reload names the addresses that give a server its weights: one or more"
                " with a server, else none."
            )
        _check_counts("sampler.", self, "batch", "concurrency")
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ConfigError(
                f"sampler.gpu_memory_utilization is {self.gpu_memory_utilization:g}; give a share"
                " of the memory above 0 and at most 1."
            )


@dataclass(frozen=True)
class Grpo:
    """Reinforcement learning with verifiable rewards: group relative policy optimization (arXiv
    2402.03300).

    A round samples `num_generations` replies to each of `rollout_batch_size` questions with the
    weights of its start, then takes one update per `batch` questions of the stage. Advantages are
    rewards standardized inside the group of a question; the ratio to the start of the round is
    clipped to 1 - `clip_low` .. 1 + `clip_high`; `kl` weighs the k3 estimate of the divergence from
    the start of the stage (0: not computed). `instruction` is appended to every question.
    `pass_rate` keeps only the questions of which the start of the stage answers a share strictly
    between the two values correctly, as stated by their rows (`pass_rate`) or measured on
    `num_generations` replies; (0, 1) drops what it always or never answers.
    """

    num_generations: int = 16
    rollout_batch_size: int = 512
    temperature: float = 1.0
    max_reply_tokens: int = 2048
    kl: float = 1e-3
    clip_low: float = 0.2
    clip_high: float = 0.3
    instruction: str = ""
    pass_rate: tuple[float, float] | None = None
    reward: Reward = field(default_factory=Reward)
    sampler: Sampler = field(default_factory=Sampler)

    def __post_init__(self) -> None:
        if self.num_generations < 2:
            raise ConfigError(
                f"grpo.num_generations is {self.num_generations}; a group needs at least 2 replies"
                " to be compared."
            )
        for name in ("kl", "clip_low", "clip_high"):
            _check_range(f"grpo.{name}", getattr(self, name))
        if not 0 < self.temperature < math.inf:
            raise ConfigError(
                f"grpo.temperature is {self.temperature}; greedy replies are all alike, so give it"
                " more than 0."
            )
        _check_counts("grpo.", self, "rollout_batch_size", "max_reply_tokens")
        if self.pass_rate and not -1 <= self.pass_rate[0] < self.pass_rate[1] <= 2:
            raise ConfigError(
                f"grpo.pass_rate is {self.pass_rate}; give two bounds, lower first, such as [0, 1]."
            )


@dataclass(frozen=True)
class Stage:
    """One training run over some data groups.

    `batch` counts sequences per optimizer step, `micro_batch` sequences per forward pass; the loss
    is a mean over all supervised tokens of the batch however it is split. `steps` overrides
    `epochs`. The learning rate rises linearly over `warmup_steps`, then falls along a cosine to
    `min_lr_ratio` times its peak. Samples longer than `max_tokens` are dropped and counted.
    `packing` fills sequences with several samples, and `batch` then counts those. With `lora`, the
    linear layers of its parts keep their weights and get adapters; other parts are trained or
    frozen by `learning_rates`. With `grpo` the stage learns from rewards: `batch` counts the
    questions of an update, a sequence is a question with as many of its replies as `max_tokens`
    holds, and a question that leaves less than `grpo.max_reply_tokens` for a reply is dropped.
    """

    name: str
    data: tuple[str, ...]
    learning_rates: LearningRates
    epochs: float = 1.0
    steps: int | None = None
    batch: int = 256
    micro_batch: int = 1
    warmup_steps: int = 100
    min_lr_ratio: float = 0.0
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float = 1.0
    max_tokens: int = 8192
    packing: bool = False
    lora: Lora | None = None
    objective: Objective = field(default_factory=Objective)
    grpo: Grpo | None = None

    def __post_init__(self) -> None:
        label = f"stage {self.name!r}"
        _check_counts(f"{label}: ", self, "batch", "micro_batch", "steps")
        if self.grpo and (self.grpo.rollout_batch_size % self.batch or self.packing):
            raise ConfigError(
                f"{label}: grpo.rollout_batch_size {self.grpo.rollout_batch_size} must be a"
                f" multiple of batch {self.batch}, and packing must be off."
            )
        if self.grpo and self.grpo.max_reply_tokens >= self.max_tokens:
            raise ConfigError(
                f"{label}: grpo.max_reply_tokens {self.grpo.max_reply_tokens} leaves no room for a"
                f" question in max_tokens {self.max_tokens}."
            )
        for part in self.lora.parts if self.lora else ():
            if getattr(self.learning_rates, part) is None:
                raise ConfigError(
                    f"{label}: lora is put on {part}, which has no learning rate; give"
                    f" learning_rates.{part}."
                )
        if self.lora and self.lora.base == "int4" and self.grpo:
            raise ConfigError(
                f"{label}: grpo samples from the trained weights, which lora.base=int4 does not hold"
                " whole; choose lora.base=bfloat16."
            )
        if not self.data:
            raise ConfigError(f"{label} names no data group.")
        if self.batch % self.micro_batch and not self.grpo:
            raise ConfigError(
                f"{label}: batch {self.batch} is not a multiple of micro_batch {self.micro_batch}."
            )
        if self.steps is None and not 0 < self.epochs < math.inf:
            raise ConfigError(f"{label}: epochs is {self.epochs}; it must be positive.")
        for name in ("warmup_steps", "min_lr_ratio", "weight_decay"):
            _check_range(f"{label}: {name}", getattr(self, name))
        for beta in self.betas:
            _check_range(f"{label}: betas", beta, below=1)
        if not self.clip_norm > 0:
            raise ConfigError(
                f"{label}: clip_norm is {self.clip_norm:g}; it must be above 0 (.inf: no clipping)."
            )


@dataclass(frozen=True)
class Sharding:
    """How a model that is large for its GPUs is fitted into them, and what they send each other.

    `activation_checkpointing` recomputes the activations of each block in the backward pass: about
    a third more time, far less memory, the same numbers. `cpu_offload` keeps weights, gradients and
    moments in CPU memory between their uses; it is slow, and needs GPUs under torchrun.
    `shard_size` is the number of processes that share one copy of the model: those of a node where
    it is not given, so that weights are gathered inside nodes and only gradients cross them.
    `reduce` says when gradients are summed over processes: after each micro-batch, or once in an
    update ("update"), for which whole float32 gradients stay on each GPU; auto does that where they
    take at most a quarter of its memory. `moments` in bfloat16 halve those of AdamW, rounded
    stochastically. `compile` compiles each block (torch.compile).
    """

    activation_checkpointing: bool = False
    cpu_offload: bool = False
    shard_size: int | None = None
    reduce: Literal["auto", "update", "micro_batch"] = "auto"
    moments: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False

    def __post_init__(self) -> None:
        _check_counts("sharding.", self, "shard_size")

    def processes_per_copy(self, processes: int, processes_per_node: int) -> int:
        """How many processes share one copy of the model, of which each holds a part."""
        if self.shard_size is not None:
            return min(self.shard_size, processes)
        is_even = processes_per_node > 1 and processes % processes_per_node == 0
        return processes_per_node if is_even else processes

    def reduces_once(self, trained_parameters: int, memory_bytes: float | None) -> bool:
        """Whether gradients are summed over processes once in an update; `memory_bytes` is that of a
        GPU, None on a CPU.
        """
        if self.reduce != "auto":
            return self.reduce == "update"
        size = 4 * trained_parameters
        return memory_bytes is None or size <= UNREDUCED_FRACTION * memory_bytes


@dataclass(frozen=True)
class Validation:
    """Held-out rows that are measured while a stage trains, which does not change what it learns;
    without `groups` there are none.

    Of a group in `groups` that a stage trains on, the rows marked with the split validation count;
    of any other, all rows but those marked test. Every `every` optimizer steps and at the end of a
    stage the log gets the loss of each group, plain cross-entropy per supervised token whatever the
    stage's objective, and with `accuracy` the mean score by `scorer` of greedy replies of at most
    `max_reply_tokens` to the last question of each row, `batch` at a time. `max_samples` bounds the
    rows of a group.
    """

    groups: tuple[str, ...] = ()
    every: int = 500
    max_samples: int = 512
    accuracy: bool = True
    scorer: str = "auto"
    max_reply_tokens: int = 64
    batch: int = 16

    def __post_init__(self) -> None:
        _check_counts("validation.", self, "every", "max_samples", "max_reply_tokens", "batch")


@dataclass(frozen=True)
class Checkpoints:
    """Checkpoints inside a stage, taken every `every` optimizer steps; None takes none.

    The newest `last` of them are kept and the `best` with the best `metric`: "loss" or "accuracy",
    a mean over the validation groups, or that of one group as in "vqa/loss". With `use_best` the
    stage results in its best checkpoint instead of its last step.
    """

    every: int | None = None
    last: int = 1
    best: int = 1
    metric: str = "loss"
    use_best: bool = False

    def __post_init__(self) -> None:
        _check_counts("checkpoints.", self, "every")
        for name in ("last", "best"):
            _check_range(f"checkpoints.{name}", getattr(self, name))
        if self.metric.rpartition("/")[2] not in ("loss", "accuracy"):
            raise ConfigError(
                f"checkpoints.metric is {self.metric!r}; write loss, accuracy, or one of them of a"
                " validation group, such as vqa/loss."
            )
        if self.use_best and not self.best:
            raise ConfigError("checkpoints.use_best needs a checkpoints.best of at least 1.")


@dataclass(frozen=True)
class TrainConfig:
    """A complete training run.

    `model` is a checkpoint folder, a hub id, or a tiny model to build. `data` maps each group to a
    DATASET folder or a folder with rows.jsonl and images, None until it is given with
    `data.GROUP=FOLDER`. `expected` is the number of samples a group should have, from which
    `--check` plans while the data is not there. `save_every` counts steps between states that an
    interrupted run resumes from; a stage stops when more than `max_skipped_steps` of its steps gave
    a non-finite loss or gradient (they are skipped and counted); `cache_mb` bounds the scaled
    images kept in memory; `report_to` names experiment trackers that also get the log (`lingshu list
    trackers`).
    `export_dtype` is the type that the final checkpoint is stored in: that of the checkpoint it
    started from (auto; float32 for a tiny model built by the run), or another.
    """

    name: str
    model: str | TinyModel
    stages: tuple[Stage, ...]
    data: Mapping[str, str | None]
    pixels: PixelBudget = field(default_factory=PixelBudget)
    expected: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int | None = None
    save_every: int = 200
    max_skipped_steps: int = 5
    log_every: int = 10
    cache_mb: int = 512
    tensorboard: bool = True
    report_to: tuple[str, ...] = ()
    sharding: Sharding = field(default_factory=Sharding)
    validation: Validation = field(default_factory=Validation)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    export_dtype: Literal["auto", "float32", "bfloat16"] = "auto"

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise ConfigError(
                f"stages are named {names}; at least one is needed and every name must differ."
            )
        for stage in self.stages:
            for group in stage.data:
                if group not in self.data:
                    raise ConfigError(
                        f"stage {stage.name!r} asks for data group {group!r};"
                        f" {suggest_name(group, self.data)}"
                    )
        _check_counts("", self, "save_every", "log_every")
        self._check_validation()

    def _check_validation(self) -> None:
        validation, checkpoints = self.validation, self.checkpoints
        for group in validation.groups:
            if group not in self.data:
                raise ConfigError(
                    f"validation asks for data group {group!r}; {suggest_name(group, self.data)}"
                )
        if checkpoints.every is None or not checkpoints.best:
            return
        if not validation.groups or checkpoints.every % validation.every:
            raise ConfigError(
                "the best checkpoints are found by validation: set validation.groups and a"
                " validation.every that divides checkpoints.every, or checkpoints.best=0."
            )
        group, _, name = checkpoints.metric.rpartition("/")
        if group and group not in validation.groups:
            raise ConfigError(
                f"checkpoints.metric is {checkpoints.metric!r};"
                f" {suggest_name(group, validation.groups)}"
            )
        if name == "accuracy" and not validation.accuracy:
            raise ConfigError(
                f"checkpoints.metric is {checkpoints.metric!r}, which is not measured; set"
                " validation.accuracy=true."
            )


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What a plan assumes (`lingshu train --check`); see estimate.AssumedLengths for defaults."""

    gpu: str | None = None
    "With --check: hours on this card and whether it fits there, such as H100 or A100-80GB."
    gpus: int | None = None
    "With --gpu: the number of cards."
    mfu: float | None = None
    "With --check: share of the GPUs' peak that the model's own operations reach; default 0.4."
    text_tokens: float | None = None
    "With --check: mean text tokens of a sample, for data that is not there to be measured."
    image_tokens: float | None = None
    "With --check: mean image tokens of a sample, for data that is not there to be measured."
