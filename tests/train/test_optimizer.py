"""AdamW on the device: torch's own numbers, steps that change nothing, moments in bfloat16."""

from __future__ import annotations

import pytest
import torch

from lingshu.train.optimizer import AdamW, round_stochastically


def some_parameters() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(5)
    shapes = ((3, 4), (4,))
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def take_step(optimizer: torch.optim.Optimizer, step: int, *, found_inf: float = 0.0) -> None:
    generator = torch.Generator().manual_seed(step)
    for group in optimizer.param_groups:
        group["lr"] = 0.1
        for parameter in group["params"]:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    if isinstance(optimizer, AdamW):
        optimizer.found_inf = torch.tensor(found_inf)
    optimizer.step()


def test_the_numbers_are_those_of_torch_to_the_last_bit() -> None:
    ours, theirs = some_parameters(), some_parameters()
    mine = AdamW([{"params": ours, "weight_decay": 0.1}], betas=(0.9, 0.999))
    stock = torch.optim.AdamW(theirs, lr=0.0, betas=(0.9, 0.999), weight_decay=0.1, fused=True)
    for step in range(4):
        take_step(mine, step)
        take_step(stock, step)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("moments", ["float32", "bfloat16"])
def test_a_step_with_a_gradient_that_is_not_finite_changes_nothing(moments: str) -> None:
    parameters = some_parameters()
    optimizer = AdamW([{"params": parameters}], betas=(0.9, 0.999), moments=moments)  # pyright: ignore[reportArgumentType]
    take_step(optimizer, 0)
    before = [p.detach().clone() for p in parameters]
    moment = optimizer.state[parameters[0]]["exp_avg"].clone()
    take_step(optimizer, 1, found_inf=1.0)
    assert all(torch.equal(p, old) for p, old in zip(parameters, before, strict=True))
    assert torch.equal(optimizer.state[parameters[0]]["exp_avg"], moment)
    assert float(optimizer.state[parameters[0]]["step"]) == 1


def test_bfloat16_moments_take_half_and_stay_close_to_float32_ones() -> None:
    exact, rounded = some_parameters(), some_parameters()
    optimizers = [
        AdamW([{"params": exact}], betas=(0.9, 0.999)),
        AdamW([{"params": rounded}], betas=(0.9, 0.999), moments="bfloat16"),
    ]
    torch.manual_seed(0)
    for step in range(50):
        for optimizer in optimizers:
            take_step(optimizer, step)
    assert optimizers[1].state[rounded[0]]["exp_avg_sq"].dtype == torch.bfloat16
    assert all(torch.allclose(a, b, atol=0.05) for a, b in zip(exact, rounded, strict=True))


def test_stochastic_rounding_keeps_the_mean_where_the_nearest_value_would_not() -> None:
    torch.manual_seed(0)
    # bfloat16 has 1 and 1.0078125 here: the nearest is 1 for every one of them.
    values, out = torch.full((20_000,), 1.002), torch.empty(20_000, dtype=torch.bfloat16)
    round_stochastically(values, out)
    assert set(out.tolist()) == {1.0, 1.0078125}
    assert float(out.float().mean()) == pytest.approx(1.002, abs=2e-4)
