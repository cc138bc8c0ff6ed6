"""What training takes: floating-point operations of a sample, and memory on each GPU.

A product of a token with n weights is 2n operations forward, 2n for the gradient of its input and
2n for that of the weights: 6n where everything is trained. What is frozen lacks the last, and what
lies before the first trained part lacks both. Norms, embeddings, the loss and the optimiser are
left out; together they are a percent or less.
"""

from __future__ import annotations

from dataclasses import dataclass

from lingshu.models.model_spec import PARTS, Part
from lingshu.models.specs import ModelShapes
from lingshu.train.config import Sharding, Stage

# Bytes a parameter: master weight, gradient and two Adam moments in float32; a frozen one keeps its
# weight only.
TRAINED_BYTES, FROZEN_BYTES = 4 + 4 + 8, 4
# A piece in use is gathered in bfloat16; its gradient is made in bfloat16 and summed over GPUs in
# float32.
GATHERED_BYTES, GRADIENT_BYTES = 2, 2 + 4
# The input that is kept of each recomputed block (the residual stream is float32 under autocast),
# and what is kept of one that is not, or is at work: some 34 bfloat16 states as wide as its input,
# most of them the gated feed-forward's.
CHECKPOINTED_BYTES, WORKING_BYTES = 4, 34 * 2
LOGIT_BYTES = 4 * 3  # float32 logits, their softmax and its gradient


@dataclass(frozen=True)
class MeanLengths:
    """A mean sample in tokens: text, image (as the language model sees it) and supervised ones.

    Attention grows with squares: `squares` is the mean of the squared length, `patch_squares` that
    of the squared patches of an image (or tile), summed over those of a sample.
    """

    text: float
    image: float
    supervised: float
    squared_length: float
    squared_patches: float

    @property
    def tokens(self) -> float:
        return self.text + self.image


@dataclass(frozen=True)
class Flops:
    """Operations forward and backward, and those of recomputing activations in between."""

    forward: float
    backward: float
    recomputed: float

    @property
    def model(self) -> float:
        """What the model needs; a model FLOPs utilisation counts these alone."""
        return self.forward + self.backward

    @property
    def executed(self) -> float:
        return self.model + self.recomputed

    def scale(self, factor: float) -> Flops:
        return Flops(self.forward * factor, self.backward * factor, self.recomputed * factor)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one GPU: sharded weights, gradients and moments; pieces gathered for use;
    activations and logits.
    """

    states: int
    gathered: int
    activations: int

    @property
    def total(self) -> int:
        return self.states + self.gathered + self.activations


def trained_parameters(stage: Stage, shapes: ModelShapes) -> dict[Part, int]:
    """Parameters by part that a stage trains (0 = frozen); beside an adapter those of the adapter
    alone.
    """
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
    """Operations of one mean sample in a stage; with `recompute` the blocks' activations are made
    anew going backward.

    The output head sees supervised tokens only; causal attention is counted as the lower triangle
    it computes. In reinforcement learning a sample is a reply with its question; the frozen
    reference adds a forward pass, and so does the start of a round of several updates. Drawing the
    replies is not counted.
    """
    tower = shapes.tower
    patches = mean.image * tower.patches_per_token
    # How often a part's weights are used, and the operations of its attention.
    n_uses: dict[Part, float] = {
        "vision": patches,
        "projector": mean.image,
        "language": mean.tokens,
    }
    attention: dict[Part, float] = {
        "vision": 4
        * tower.width
        * (
            tower.full_attention_blocks * mean.squared_patches
            + tower.window_attention_blocks * tower.window_patches * patches
        ),
        "projector": 0.0,
        "language": 2 * shapes.layers * shapes.attention * mean.squared_length,
    }
    forward = backward = recomputed = 0.0
    needs_backward = weights_trained = False
    # in the order in which a sample passes them: gradients flow from the first trained part on
    for part in PARTS:
        has_adapter = stage.lora is not None and part in stage.lora.parts
        adapter = (
            2
            * (stage.lora.rank if stage.lora and has_adapter else 0)
            * shapes.linear_dims[part]
            * n_uses[part]
        )
        has_rate = getattr(stage.learning_rates, part) is not None
        needs_backward, weights_trained = needs_backward or has_rate, has_rate and not has_adapter
        linear = 2 * shapes.matmul_parameters[part] * n_uses[part]
        part_forward = linear + attention[part] + adapter
        forward += part_forward
        if needs_backward:
            backward += linear * (1 + weights_trained) + 2 * attention[part] + 2 * adapter
            # it lies outside of the blocks
            recomputed += part_forward if recompute and part != "projector" else 0.0
    lm_head = 2 * shapes.lm_head_parameters * mean.supervised
    forward, backward = forward + lm_head, backward + lm_head * (1 + weights_trained)
    if stage.grpo:
        forward *= 1 + bool(stage.grpo.kl) + (stage.grpo.rollout_batch_size > stage.batch)
    return Flops(forward, backward, recomputed)


def estimate_memory(
    stage: Stage, shapes: ModelShapes, gpus: int, *, sharding: Sharding
) -> MemoryEstimate:
    """An upper estimate for full sequences, states sharded over all GPUs block by block.

    A token is either of an image, which costs in the tower, or of text, which costs a row of logits
    at most.
    """
    by_part = trained_parameters(stage, shapes)
    trained = sum(by_part.values())
    frozen = shapes.total - sum(
        by_part[part] for part in PARTS if part not in (stage.lora.parts if stage.lora else ())
    )
    states = (
        0 if sharding.cpu_offload else (trained * TRAINED_BYTES + frozen * FROZEN_BYTES) // gpus
    )
    tokens = stage.micro_batch * stage.max_tokens
    patches, n_tower_blocks = (
        tokens * shapes.tower.patches_per_token,
        shapes.tower.full_attention_blocks + shapes.tower.window_attention_blocks,
    )
    bytes_per_activation = (
        CHECKPOINTED_BYTES if sharding.activation_checkpointing else WORKING_BYTES
    )
    stored_tower_bytes = (
        patches * shapes.tower.width * bytes_per_activation * n_tower_blocks
        if stage.learning_rates.vision is not None
        else 0
    )
    tower_bytes = stored_tower_bytes + patches * shapes.tower.width * WORKING_BYTES
    language_bytes = tokens * shapes.hidden * (bytes_per_activation * shapes.layers + WORKING_BYTES)
    activations = max(
        tower_bytes,
        language_bytes + max(stored_tower_bytes, tokens * shapes.vocab_size * LOGIT_BYTES),
    )
    # Two blocks at a time, one in use and one on its way, and the gradient of one. What is outside
    # of the blocks stays gathered all along; its own gradient is summed at the very end, when no
    # activation is left.
    largest_block = max(shapes.blocks)
    block_bytes = 2 * GATHERED_BYTES * largest_block + GRADIENT_BYTES * largest_block
    final_gradient_bytes = 0 if stage.lora else GRADIENT_BYTES * shapes.outside_blocks
    # In a process of its own, without shards, autocast holds a bfloat16 copy of every trained
    # weight until the loss, and the graph one of every weight where no block is recomputed.
    autocast_bytes = (
        GATHERED_BYTES * (trained if sharding.activation_checkpointing else trained + frozen)
        if gpus == 1
        else 0
    )
    return MemoryEstimate(
        states,
        max(autocast_bytes, GATHERED_BYTES * shapes.outside_blocks + block_bytes),
        max(activations, final_gradient_bytes - block_bytes),
    )
