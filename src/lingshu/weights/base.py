"""What a merge method is: a function on equal blocks of tensors, and an optional first pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import isfinite

import torch
from torch import Tensor

from lingshu.core.errors import ConfigError

# Elements that are read, merged and written at once. Random numbers and sums are taken block by
# block, so that the result depends on the size of a tensor and not on the memory.
BLOCK_SIZE = 1 << 17
TORCH_DTYPES = {
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
}
# Arithmetic is one step wider than storage, so that a model merged with itself stays itself.
COMPUTE_DTYPES = {
    name: torch.float32 if dtype.itemsize == 2 else torch.float64
    for name, dtype in TORCH_DTYPES.items()
}


@dataclass(frozen=True)
class TensorBlock:
    """The same elements of one tensor in every model, flat, from element `start` on.

    They are float32 for a tensor stored in 16 bits, else float64. `weights` belong to `models` in
    their order, `prepared` is what the method's `prepare` returned for the tensor. A method must
    not change the tensors; they are overwritten when the next block is read.
    """

    name: str
    start: int
    models: tuple[Tensor, ...]
    base: Tensor | None
    weights: tuple[float, ...]
    seed: int = 0
    prepared: object = None

    def deltas(self) -> list[Tensor]:
        """What each model added to the base."""
        if self.base is None:
            raise ConfigError("this method merges what models added to a base; name the base.")
        return [model - self.base for model in self.models]


BlockIterator = Callable[[], Iterator[TensorBlock]]


@dataclass(frozen=True)
class MergeMethod:
    """A merge method.

    `merge` computes the merged elements of a block. `prepare` sees all blocks of a tensor
    beforehand, as often as it iterates, and returns what `merge` finds as `prepared`; it does not
    know the weights. `needs_base`: the method needs the model that the others were fine-tuned from.
    `convex_weights`: the weights are between 0 and 1 and sum to 1. `copy_endpoints`: a model with
    weight 1 while the others have 0 is the result, so its bytes are copied. `supports_lora`: the
    result is the base plus the weighted sum of deltas, which LoRA adapters can represent without
    their base. `merge_pair`: `merge` of two models' elements as stored in 16 bits, (first, second,
    weights, out), for methods that torch computes in one pass.
    """

    merge: Callable[[TensorBlock], Tensor]
    prepare: Callable[[BlockIterator], object] | None = None
    needs_base: bool = False
    max_models: int | None = None
    convex_weights: bool = True
    copy_endpoints: bool = True
    supports_lora: bool = False
    merge_pair: Callable[[Tensor, Tensor, Sequence[float], Tensor], None] | None = None


@dataclass(frozen=True)
class MergeWeights:
    """The weight of each model, and other weights for tensors whose name matches a pattern.

    The last matching pattern counts. Patterns are those of a shell: `*`, `?` and `[...]`; a `*`
    also matches dots.
    """

    default: tuple[float, ...]
    patterns: tuple[tuple[str, tuple[float, ...]], ...] = ()

    def for_tensor(self, tensor: str) -> tuple[float, ...]:
        weights = self.default
        for pattern, pattern_weights in self.patterns:
            if fnmatchcase(tensor, pattern):
                weights = pattern_weights
        # To twelve decimals 1 − (1 − W) is W, so that exchanging two models changes no bit.
        return tuple(round(weight, 12) for weight in weights)

    def check(self, method: MergeMethod, n_models: int, tensors: Sequence[str]) -> None:
        """Refuse weights that the method cannot use.

        Raises:
            ConfigError: too few or too many of them, convex weights that do not sum to 1, a pattern
                that no tensor matches.
        """
        for weights in (self.default, *(weights for _, weights in self.patterns)):
            if len(weights) != n_models:
                problem = f"{len(weights)} weights {weights} for {n_models} models"
                raise ConfigError(f"{problem}; give one for each.")
            if not all(map(isfinite, weights)):
                raise ConfigError(f"the weights {weights} must be finite numbers.")
            if method.convex_weights and (abs(sum(weights) - 1) > 1e-9 or min(weights) < 0):
                rule = "must be between 0 and 1 and sum to 1 for this method"
                raise ConfigError(f"the weights {weights} {rule}.")
        for pattern, _ in self.patterns:
            if not any(fnmatchcase(name, pattern) for name in tensors):
                examples = ", ".join(map(repr, list(tensors)[:3]))
                raise ConfigError(f"no tensor matches {pattern!r}; the names are like {examples}.")


def weighted_sum(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The sum of weights times tensors.

    Products are rounded before they are added: a fused step would make the sum depend on the order
    of two models.
    """
    total = torch.mul(tensors[0], weights[0])
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        total.add_(torch.mul(tensor, weight))
    return total


def weighted_mean(block: TensorBlock) -> Tensor:
    """The weighted mean of the models."""
    return weighted_sum(block.models, block.weights)


def weighted_mean_pair(
    first: Tensor, second: Tensor, weights: Sequence[float], out: Tensor
) -> None:
    """The weighted mean of two 16-bit tensors in float32 registers, rounded once into `out`.

    The lighter one is mixed into the heavier one, and equal weights are added: the same operation
    in either order of the two.
    """
    if weights[0] == weights[1]:
        torch.add(first, second, out=out)
        out.mul_(0.5)
    elif weights[0] > weights[1]:
        torch.lerp(first, second, weights[1], out=out)
    else:
        torch.lerp(second, first, weights[0], out=out)


def endpoint_model(weights: Sequence[float]) -> int | None:
    """The model with weight 1 where every other has exactly 0, else None."""
    nonzero = [index for index, weight in enumerate(weights) if weight != 0]
    return nonzero[0] if len(nonzero) == 1 and weights[nonzero[0]] == 1 else None


@contextmanager
def single_thread() -> Iterator[None]:
    """Arithmetic on one thread: the disk is the bottleneck, sums do not depend on the cores, and
    blocks of BLOCK_SIZE are too small to share (a conversion took nine times as long with two).
    """
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)
