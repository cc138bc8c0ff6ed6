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


def _check_range(name: str, value: float, *, below: float = math.inf) -> None:
    if not 0 <= value < below:
        bound = "" if below == math.inf else f" and below {below:g}"
        raise ConfigError(f"{name} is {value:g}; it must be a number of at least 0{bound}.")


@dataclass(frozen=True)
class LearningRates:
    """Peak learning rate of each part; None freezes the part, so that its weights stay as they are
    to the last bit.
    """

    vision: float | None = None
    projector: float | None = None
    language: float | None = None

    def __post_init__(self) -> None:
        for part in PARTS:
            if (rate := getattr(self, part)) is not None:
                _check_range(f"rates.{part}", rate)
        if self.vision is None and self.projector is None and self.language is None:
            raise ConfigError(
                "every part of the stage is frozen; give vision, projector or language a learning"
                " rate."
            )


@dataclass(frozen=True)
class Lora:
    """Train low-rank adapters beside the linear layers of `parts` instead of the weights
    themselves.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    parts: tuple[Part, ...] = ("language",)

    def __post_init__(self) -> None:
        _check_range("lora.dropout", self.dropout, below=1)
        if self.rank < 1 or not self.parts:
            raise ConfigError(
                f"lora with rank {self.rank} on parts {self.parts} trains nothing; give a rank of 1"
                " or more and a part."
            )


@dataclass(frozen=True)
class Objective:
    """What is made small in a supervised stage.

    `loss` is cross-entropy, or "dft", which scales each token's by the probability the model gives
    it (Dynamic Fine-Tuning, arXiv 2508.05629). A token may carry a weight; the sum over the whole
    batch is divided by its number of supervised tokens ("tokens") or by their weights ("weights"),
    under which heavier tokens do not raise the rate. Tokens of the medical entities that samples
    carry weigh `entity_weight`, all others 1 (docs/moft.md). A token is one of an entity by any of
    its characters, or by most of them (`policy`). With `entities` "random" as many other tokens of
    each sample take that weight instead: a control, under which it does not matter what is an
    entity.
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
    """A reply's reward: `format` where it is one <think>...</think> and one <answer>...</answer>
    and nothing else, plus `accuracy` times the score of that answer by the scorer of that name on
    the scoring shelf.

    Out of shape a reply gets neither, nor does one that was cut at its length, or that repeats
    itself: more than `max_repetition` of its runs of four tokens occurred in it before. With
    `format` 0 no shape is asked for and the whole reply is scored. `shuffle` deals the rewards out
    at random among the replies of a round: a control, under which nothing can be learnt.
    """

    scorer: str = "auto"
    format: float = 0.5
    accuracy: float = 1.0
    max_repetition: float = 0.5
    shuffle: bool = False


@dataclass(frozen=True)
class Sampler:
    """Who draws the replies of a round, with the weights of its start.

    `engine` is "hf" (the trained model itself, `batch` questions at a time, each prompt computed
    once for all its copies), "vllm" (in this process, with the share `gpu_memory_utilization` of the GPU's memory),
    or a server `http(s)://host/v1#name`, asked `concurrency` questions at a time. vLLM and a server
    read the weights from OUT/rollout, written anew each round; a server is told so by a POST to
    each address in `reload` (docs/reinforcement.md).
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
        for field_name in ("batch", "concurrency"):
            if getattr(self, field_name) < 1:
                raise ConfigError(
                    f"sampler.{field_name} is {getattr(self, field_name)}; it must be at least 1."
                )
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ConfigError(
                f"sampler.memory is {self.gpu_memory_utilization:g}; give vLLM a share of the memory above 0 and at"
                " most 1."
            )


@dataclass(frozen=True)
class Grpo:
    """Reinforcement learning with verifiable rewards: group relative policy optimisation (arXiv
    2402.03300).

    A round asks `rollout_batch_size` questions `num_generations` times each with the weights of its start, then
    takes one update for each `batch` questions of the stage. Advantages are rewards standardised
    inside a question's group; the ratio to the round's start is clipped to 1 - `clip_low` .. 1 +
    `clip_high`; `kl` weighs the k3 estimate of the divergence from the stage's start (0: none is
    computed). `instruction` is put behind every question. With `pass_rate`, only those questions
    are kept of which the stage's start answers a share strictly between the two values right, as
    their rows say (`pass_rate`) or as `num_generations` replies show; (0, 1) leaves out what it always or
    never knows.
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
                f"grpo.copies is {self.num_generations}; a group needs at least 2 replies to be compared."
            )
        for name in ("kl", "clip_low", "clip_high"):
            _check_range(f"grpo.{name}", getattr(self, name))
        if not 0 < self.temperature < math.inf:
            raise ConfigError(
                f"grpo.temperature is {self.temperature}; greedy replies are all alike, so give it"
                " more than 0."
            )
        if self.rollout_batch_size < 1:
            raise ConfigError(
                f"grpo.round_prompts is {self.rollout_batch_size}; it must be at least 1."
            )
        if self.max_reply_tokens < 1:
            raise ConfigError(
                f"grpo.max_reply_tokens is {self.max_reply_tokens}; it must be at least 1."
            )
        if self.pass_rate and not -1 <= self.pass_rate[0] < self.pass_rate[1] <= 2:
            raise ConfigError(
                f"grpo.pass_rate is {self.pass_rate}; give two shares between which it has to lie,"
                " such as [0, 1]."
            )


@dataclass(frozen=True)
class Stage:
    """One training run over some data groups.

    `batch` counts sequences per optimiser step, `micro_batch` sequences per forward pass; the loss
    is a mean over all supervised tokens of the whole batch however it is cut. `steps` wins over
    `epochs`. The rate rises linearly over `warmup_steps`, then falls along a cosine to `min_lr_ratio`
    times its peak. Longer samples than `max_tokens` are dropped and counted. `packing` fills
    sequences with several samples, and `batch` then counts those. With `lora`, the linear layers of
    its parts keep their weights and get adapters; parts outside it are trained or frozen as `learning_rates`
    says. With `grpo` the stage learns from rewards: `batch` counts the questions of an update. A
    sequence is then a question with as many of its replies as `max_tokens` take, and a question
    that leaves less than `grpo.max_reply_tokens` to a reply is dropped.
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
        if self.batch < 1:
            raise ConfigError(f"stage {self.name!r}: batch is {self.batch}; it must be at least 1.")
        if self.grpo and (self.grpo.rollout_batch_size % self.batch or self.packing):
            raise ConfigError(
                f"stage {self.name!r}: grpo.round_prompts {self.grpo.rollout_batch_size} must be a"
                f" multiple of batch {self.batch}, and packing must be off."
            )
        if self.grpo and self.grpo.max_reply_tokens >= self.max_tokens:
            raise ConfigError(
                f"stage {self.name!r}: grpo.max_reply_tokens {self.grpo.max_reply_tokens} leaves no"
                f" room for a question in max_tokens {self.max_tokens}."
            )
        for part in self.lora.parts if self.lora else ():
            if getattr(self.learning_rates, part) is None:
                raise ConfigError(
                    f"stage {self.name!r}: lora is put on {part}, which has no learning rate; give"
                    f" rates.{part}."
                )
        if not self.data:
            raise ConfigError(f"stage {self.name!r} names no data group.")
        if self.micro_batch < 1 or (self.batch % self.micro_batch and not self.grpo):
            raise ConfigError(
                f"stage {self.name!r}: batch {self.batch} is no multiple of micro_batch"
                f" {self.micro_batch}."
            )
        if self.steps is None and not 0 < self.epochs < math.inf:
            raise ConfigError(f"stage {self.name!r}: epochs is {self.epochs}; it must be positive.")
        for field_name in ("warmup_steps", "min_lr_ratio", "weight_decay"):
            _check_range(f"stage {self.name!r}: {field_name}", getattr(self, field_name))
        for beta in self.betas:
            _check_range(f"stage {self.name!r}: betas", beta, below=1)
        if not self.clip_norm > 0:
            raise ConfigError(
                f"stage {self.name!r}: clip_norm is {self.clip_norm:g}; it must be above 0, and"
                " .inf clips nothing."
            )
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"stage {self.name!r}: steps is {self.steps}; it must be at least 1.")


@dataclass(frozen=True)
class Sharding:
    """How a model that is large for its GPUs is fitted into them.

    `activation_checkpointing` computes each block's activations anew in the backward pass instead
    of keeping them: about a third more time, far less memory, the same numbers. `cpu_offload` keeps
    weights, gradients and moments in the memory of the CPU between their uses; it is slow, and
    needs GPUs under torchrun.
    """

    activation_checkpointing: bool = False
    cpu_offload: bool = False


@dataclass(frozen=True)
class TrainConfig:
    """A complete training run.

    `model` is a checkpoint folder, a hub id, or a tiny model to build. `data` maps each group to a
    DATASET folder or a folder with rows.jsonl and images, None until one is given with
    `data.GROUP=FOLDER`. `expected` is the number of samples a group should have, which `--check`
    plans with where the data are not there. `save_every` counts steps between states that a killed
    run resumes from; a stage stops when more than `max_skipped_steps` of its steps gave a loss or
    gradient that is no number (they are skipped and counted); `cache_mb` bounds the scaled images
    kept in memory.
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
    sharding: Sharding = field(default_factory=Sharding)

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
        for field_name in ("save_every", "log_every"):
            if getattr(self, field_name) < 1:
                raise ConfigError(
                    f"{field_name} is {getattr(self, field_name)}; it must be at least 1."
                )
