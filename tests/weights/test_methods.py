"""The merge methods, each by what its paper says, on numbers one can check in the head."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch

from lingshu.core.errors import ConfigError
from lingshu.core.registry import names
from lingshu.weights.base import MergeWeights
from lingshu.weights.greedy import greedy_soup
from lingshu.weights.output import MergePlan, merge, open_method
from tests.support.checkpoint_files import random_tensors, read_model, tensors_equal, write_model


def run_method(
    folder: Path,
    tensors: list[list[float]],
    method: str,
    weights: tuple[float, ...],
    base: list[float] | None = None,
    **set_: float,
) -> list[float]:
    """One float32 tensor in each model, merged."""
    paths = [
        write_model(folder / f"{i}", {"w": torch.tensor(numbers)})
        for i, numbers in enumerate(tensors)
    ]
    start = write_model(folder / "base", {"w": torch.tensor(base)}) if base else None
    merge(MergePlan(tuple(paths), method, set_, start), folder / "out", MergeWeights(weights))
    return read_model(folder / "out")["w"].tolist()


def test_slerp_goes_along_the_arc(tmp_path: Path) -> None:
    half = math.sqrt(0.5)
    assert run_method(tmp_path, [[1.0, 0.0], [0.0, 1.0]], "slerp", (0.5, 0.5)) == pytest.approx(
        [half, half]
    )


def test_slerp_of_parallel_and_of_empty_vectors_is_their_mean(tmp_path: Path) -> None:
    assert run_method(tmp_path / "a", [[1.0, 2.0], [2.0, 4.0]], "slerp", (0.5, 0.5)) == [1.5, 3.0]
    assert run_method(tmp_path / "b", [[0.0, 0.0], [2.0, 4.0]], "slerp", (0.5, 0.5)) == [1.0, 2.0]


def test_task_arithmetic_adds_and_subtracts(tmp_path: Path) -> None:
    assert run_method(tmp_path, [[2.0, 1.0], [1.0, 5.0]], "task", (1.0, -0.5), [1.0, 1.0]) == [
        2.0,
        -1.0,
    ]


def test_ties_trims_elects_and_averages_those_that_agree(tmp_path: Path) -> None:
    # Deltas; the smaller half of each goes. Element 0: both agree; 1: the larger of two signs wins;
    # 2 and 3: trimmed.
    deltas = [[4.0, 3.0, 0.1, 0.2], [2.0, -5.0, 0.1, -0.1]]
    base = [1.0, 1.0, 1.0, 1.0]
    models = [[b + d for b, d in zip(base, delta, strict=True)] for delta in deltas]
    assert run_method(tmp_path, models, "ties", (0.5, 0.5), base, density=0.5) == pytest.approx(
        [4.0, -4.0, 1.0, 1.0]
    )


def test_ties_finds_the_exact_rank_in_a_tensor_of_several_blocks(tmp_path: Path) -> None:
    delta = torch.randn(3, 200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    base, model = torch.zeros_like(delta), delta
    a, start = (
        write_model(tmp_path / "a", {"w": model}),
        write_model(tmp_path / "base", {"w": base}),
    )
    merge(
        MergePlan((a, a), "ties", {"density": 0.1}, start),
        tmp_path / "out",
        MergeWeights((0.5, 0.5)),
    )
    expected = torch.where(delta.abs() >= delta.abs().flatten().topk(60_000).values[-1], delta, 0)
    assert torch.equal(read_model(tmp_path / "out")["w"], expected)


def test_dare_drops_the_stated_fraction_and_keeps_the_mean(tmp_path: Path) -> None:
    ones, zeros = {"w": torch.ones(600_000)}, {"w": torch.zeros(600_000)}
    a, start = write_model(tmp_path / "a", ones), write_model(tmp_path / "base", zeros)
    plans = [MergePlan((a, a), "dare", {"drop": 0.75}, start, seed=seed) for seed in (0, 0, 1)]
    for number, plan in enumerate(plans):
        merge(plan, tmp_path / f"out{number}", MergeWeights((1.0, 0.0)))
    found = [read_model(tmp_path / f"out{number}")["w"] for number in range(3)]
    assert set(found[0].tolist()) == {0.0, 4.0} and float(found[0].mean()) == pytest.approx(
        1.0, abs=0.02
    )
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_what_dare_drops_does_not_depend_on_the_other_tensors(tmp_path: Path) -> None:
    one = {"w": torch.ones(1000)}
    more = {"a": torch.ones(5000), **one}
    found = []
    for name, tensors in (("one", one), ("more", more)):
        a = write_model(tmp_path / name / "a", tensors)
        start = write_model(
            tmp_path / name / "base", {n: torch.zeros_like(t) for n, t in tensors.items()}
        )
        merge(
            MergePlan((a, a), "dare", {}, start), tmp_path / name / "out", MergeWeights((0.5, 0.5))
        )
        found.append(read_model(tmp_path / name / "out")["w"])
    assert torch.equal(*found)


def test_a_base_is_required_only_where_it_is_needed(tmp_path: Path) -> None:
    a = write_model(tmp_path / "a", random_tensors(1))
    for name in names("merges"):
        method = open_method(name, {})
        with pytest.raises(ConfigError, match="base"):
            merge(
                MergePlan((a, a), name, base=None if method.needs_base else a),
                tmp_path / "out",
                MergeWeights((0.5, 0.5)),
            )
        merge(
            MergePlan((a, a), name, base=a if method.needs_base else None),
            tmp_path / "out",
            MergeWeights((0.5, 0.5)),
        )
        # What adds nothing to its base leaves it as it is, whatever the method.
        assert tensors_equal(read_model(tmp_path / "out"), read_model(a)), name


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("ties", {"density": 0.0}), ("dare", {"drop": 1.0}), ("ties", {"densty": 0.1})],
)
def test_a_wrong_parameter_is_refused(name: str, wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"den|drop"):
        open_method(name, wrong)


def test_the_greedy_soup_keeps_what_does_not_hurt(tmp_path: Path) -> None:
    models = tuple(
        write_model(tmp_path / str(i), {"w": torch.tensor([value])})
        for i, value in enumerate((3.0, 1.0, 20.0))
    )

    def score_near_two(folder: Path) -> float:
        return -abs(float(read_model(folder)["w"][0]) - 2)

    soup = greedy_soup(MergePlan(models, "soup"), tmp_path / "out", score_near_two)
    assert (
        soup.selected == models[:2]
        and soup.score == 0.0
        and read_model(tmp_path / "out")["w"].tolist() == [2.0]
    )
    assert [trial["selected"] for trial in soup.trials] == [True, False]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "out"]
