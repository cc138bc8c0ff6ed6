"""AdamW whose step is taken or skipped on the device, with moments in float32 or bfloat16.

A step that must change nothing is known on the device only; asking for it would make the CPU wait
for the GPU in every step.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch.distributed.tensor import DTensor

MomentType = Literal["float32", "bfloat16"]
BFLOAT16_LOW_BITS = 16  # the bits of a float32 that a bfloat16 does not have


class AdamW(torch.optim.AdamW):
    """Decoupled weight decay (arXiv 1711.05101) by torch's fused kernel, on the shards of this process.

    `found_inf` (a float32 scalar on the device, 1 to skip) is set before each step. Moments in
    bfloat16 halve their memory; they are rounded stochastically, since the change of a second
    moment in one step, a thousandth of it, is below half of what bfloat16 can hold.
    """

    found_inf: torch.Tensor

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        betas: tuple[float, float],
        moments: MomentType = "float32",
    ) -> None:
        super().__init__(groups, lr=0.0, betas=betas, fused=True)
        self.moment_type: torch.dtype = getattr(torch, moments)

    def create_state(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        """The state of a parameter before its first step."""
        return {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, dtype=self.moment_type),
            "exp_avg_sq": torch.zeros_like(parameter, dtype=self.moment_type),
        }

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        assert closure is None
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            for parameter in parameters:
                if parameter not in self.state:
                    self.state[parameter] = self.create_state(parameter)
            if self.moment_type == torch.float32:
                self._update(group, parameters)
            else:
                # One at a time: its moments exist in float32 for a moment.
                for parameter in parameters:
                    self._update_rounded(group, parameter)

    def _update(self, group: dict[str, Any], parameters: Iterable[torch.Tensor]) -> None:
        by_device: dict[torch.device, list[torch.Tensor]] = {}
        for parameter in parameters:
            if _local(parameter).numel():  # a shard may be empty
                by_device.setdefault(parameter.device, []).append(parameter)
        for device, members in by_device.items():
            states = [self.state[p] for p in members]
            self._fused(
                group,
                [_local(p) for p in members],
                [_local(p.grad) for p in members],
                [_local(state["exp_avg"]) for state in states],
                [_local(state["exp_avg_sq"]) for state in states],
                [state["step"] for state in states],
                device,
            )

    def _update_rounded(self, group: dict[str, Any], parameter: torch.Tensor) -> None:
        state, values = self.state[parameter], _local(parameter)
        if not values.numel():
            return
        stored = [_local(state[name]) for name in ("exp_avg", "exp_avg_sq")]
        exact = [moment.float() for moment in stored]
        self._fused(
            group,
            [values],
            [_local(parameter.grad)],
            exact[:1],
            exact[1:],
            [state["step"]],
            parameter.device,
        )
        for moment, new in zip(stored, exact, strict=True):
            round_stochastically(new, moment)

    def _fused(
        self,
        group: dict[str, Any],
        parameters: list[torch.Tensor],
        gradients: list[torch.Tensor],
        exp_avgs: list[torch.Tensor],
        exp_avg_sqs: list[torch.Tensor],
        steps: list[torch.Tensor],
        device: torch.device,
    ) -> None:
        found_inf = self.found_inf.to(device, non_blocking=True)
        torch._foreach_add_(steps, 1)  # pyright: ignore[reportPrivateImportUsage]
        beta1, beta2 = group["betas"]
        torch._fused_adamw_(  # pyright: ignore[reportPrivateImportUsage]
            parameters,
            gradients,
            exp_avgs,
            exp_avg_sqs,
            [],
            steps,
            lr=group["lr"],
            beta1=beta1,
            beta2=beta2,
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
            grad_scale=None,
            found_inf=found_inf,
        )
        # The kernel changes nothing where `found_inf` is 1, and the count goes back.
        torch._foreach_sub_(steps, [found_inf] * len(steps))  # pyright: ignore


def round_stochastically(values: torch.Tensor, out: torch.Tensor) -> None:
    """Write float32 `values` into the bfloat16 `out`, rounded up or down with the probability that
    makes the mean exact; draws from torch's generator of the device.
    """
    bits = values.contiguous().view(torch.int32)
    noise = torch.randint_like(bits, 1 << BFLOAT16_LOW_BITS)
    rounded = (bits + noise) & ~((1 << BFLOAT16_LOW_BITS) - 1)
    out.copy_(rounded.view(torch.float32))


def _local(tensor: Any) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
