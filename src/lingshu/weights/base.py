"""What a merge method is: one function on equal blocks of tensors, and what it may ask of the whole
tensor first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import isfinite

import torch
from torch import Tensor

from lingshu.core.errors import ConfigError

# Elements that are read, merged and written at once. Random draws and sums go block by block, so
# that the size of a tensor, and not of the memory, decides a result.
BLOCK_SIZE = 1 << 17


@dataclass(frozen=True)
class TensorBlock:
    """The same elements of one tensor in every model, flat, from element `start` on; a method
    leaves them as they are.

    They are float32 where the tensor is stored in 16 bits and float64 where it is stored in float32
    or float64: one step wider, so that a model merged with itself stays itself. `weights` belong to
    `models` in their order, `facts` is what the method's `survey` said of the whole tensor. The
    tensors are overwritten when the next block is read.
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

    `merge` makes the merged elements of a block. `survey` sees all blocks of a tensor beforehand,
    as often as it asks, and returns what `merge` finds as `facts`; it does not know the weights.
    `base`: the method needs the model that the others were tuned from. `most` is the largest number
    of models. `share`: the weights are shares, they add up to 1. `ends`: a model that has weight 1
    while the others have 0 is the result, so its bytes are copied. `factors`: the result is the
    base plus the weighted sum of deltas, which LoRA adapters can say without their base. `pair`:
    `merge` of two models' elements as they are stored in 16 bits, (first, second, weights, out),
    for methods that torch has in one pass.
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
    """The weight of each model, and other ones for tensors whose name matches a pattern; the last
    that matches counts.

    Patterns are those of a shell: `*`, `?` and `[...]`; a `*` also stands for dots.
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
        """Refuse weights that the method cannot work with.

        Raises:
            ConfigError: too few or too many of them, shares that do not add up to 1, a pattern that
                no tensor matches.
        """
        for weights in (self.default, *(pattern_weights for _, pattern_weights in self.patterns)):
            if len(weights) != n_models:
                raise ConfigError(
                    f"{len(weights)} weights {weights} for {n_models} models; give one for each."
                )
            if not all(map(isfinite, weights)):
                raise ConfigError(f"the weights {weights} must be finite numbers.")
            if method.convex_weights and (abs(sum(weights) - 1) > 1e-9 or min(weights) < 0):
                raise ConfigError(
                    f"the weights {weights} must lie between 0 and 1 and add up to 1 for this"
                    " method."
                )
        for pattern, _ in self.patterns:
            if not any(fnmatchcase(name, pattern) for name in tensors):
                raise ConfigError(
                    f"no tensor matches {pattern!r}; the names are like"
                    f" {', '.join(map(repr, list(tensors)[:3]))}."
                )


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
    """The weighted mean of two tensors in 16 bits, by float32 arithmetic in the registers, rounded
    once into `out`.

    The lighter one is mixed into the heavier one, and at equal weights they are added: the same
    operation whichever of the two comes first.
    """
    if weights[0] == weights[1]:
        torch.add(first, second, out=out)
        out.mul_(0.5)
    elif weights[0] > weights[1]:
        torch.lerp(first, second, weights[1], out=out)
    else:
        torch.lerp(second, first, weights[0], out=out)


def endpoint_model(weights: Sequence[float]) -> int | None:
    """The model that has all the weight: 1, and every other exactly 0; None where several have
    some.
    """
    nonzero = [index for index, weight in enumerate(weights) if weight != 0]
    return nonzero[0] if len(nonzero) == 1 and weights[nonzero[0]] == 1 else None
