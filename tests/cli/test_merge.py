"""`lingshu merge` as a person calls it: what it writes and says, and what it refuses on one line."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch

from lingshu.cli.main import main
from lingshu.core.files import check_manifest
from lingshu.core.run_card import RunCard
from lingshu.models.export import export
from lingshu.models.load import load
from lingshu.sources import phantom
from tests.support.checkpoint_files import read_model, tensors_equal
from tests.support.tiny import FAMILIES, tiny, write_phantoms


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Two checkpoints of each family."""
    folder, checkpoints = tmp_path_factory.mktemp("models"), {}
    for family in FAMILIES:
        model, processor = tiny(family)
        kept = {name: value.clone() for name, value in model.state_dict().items()}
        export(model, processor, folder / family / "a", RunCard("test", {}))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.5)
        export(model, processor, folder / family / "b", RunCard("test", {}))
        model.load_state_dict(kept)
        checkpoints[family] = (folder / family / "a", folder / family / "b")
    return checkpoints


def run(*arguments: object) -> int:
    return main(["merge", *map(str, arguments)])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_merge_is_a_checkpoint_that_loads(
    models: dict[str, tuple[Path, Path]], family: str, tmp_path: Path
) -> None:
    a, b = models[family]
    assert run(a, b, "--weight", 0.25, "--out", tmp_path / "out") == 0
    assert check_manifest(tmp_path / "out")
    merged_state, first_state = (
        load(str(tmp_path / "out")).model.state_dict(),
        load(str(a)).model.state_dict(),
    )
    for name, tensor in first_state.items():
        torch.testing.assert_close(
            merged_state[name], tensor + 0.375 if tensor.is_floating_point() else tensor
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_are_those_of_the_family(
    models: dict[str, tuple[Path, Path]], family: str, tmp_path: Path
) -> None:
    a, b = models[family]
    shares = {"vision": 1.0, "projector": 0.0, "language": 0.5}
    assert (
        run(
            a,
            b,
            *(x for name, w in shares.items() for x in ("--part", f"{name}={w}")),
            "--out",
            tmp_path / "out",
        )
        == 0
    )
    loaded, one = load(str(tmp_path / "out")), load(str(a)).model
    for name, parameter in loaded.model.named_parameters():
        moved = 0.5 * (1 - shares[loaded.processor.family.part_of(name)])
        torch.testing.assert_close(parameter, one.get_parameter(name) + moved)


def test_a_path_writes_its_points_and_finds_them_again(
    models: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    a, b = models["internvl"]
    assert run(a, b, "--interpolate", 3, "--out", tmp_path / "out") == 0
    (tmp_path / "out" / "measured").touch()
    assert run(a, b, "--interpolate", 3, "--out", tmp_path / "out") == 0
    assert (tmp_path / "out/measured").is_file()
    assert tensors_equal(read_model(tmp_path / "out/points/0.00"), read_model(b)) and tensors_equal(
        read_model(tmp_path / "out/points/1.00"), read_model(a)
    )
    assert run(a, b, "--interpolate", 2, "--out", tmp_path / "out") == 0
    assert not (tmp_path / "out/measured").exists() and not (tmp_path / "out/points/0.50").exists()


def test_a_measured_path_is_not_replaced(
    models: dict[str, tuple[Path, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = models["internvl"]
    assert run(a, b, "--interpolate", 2, "--out", tmp_path / "out") == 0
    (tmp_path / "out/eval").mkdir()
    assert run(a, b, "--interpolate", 3, "--out", tmp_path / "out") == 2
    assert "holds measurements of another path" in capsys.readouterr().err
    assert (
        run(a, b, "--interpolate", 2, "--out", tmp_path / "out") == 0
        and (tmp_path / "out/eval").is_dir()
    )


def test_a_path_is_measured_by_likelihood_alone(
    models: dict[str, tuple[Path, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = models["qwen2_5_vl"]
    data = write_phantoms(tmp_path / "data", phantom.training_samples(5, 2, "instruct"))
    out = tmp_path / "out"
    assert run(a, b, "--interpolate", 2, "--data", data, "--threads", 1, "--out", out) == 0
    printed = capsys.readouterr().out
    assert "weight 0, " in printed and "weight 1, " in printed
    assert (out / "path.html").is_file()


def test_models_of_two_families_are_refused(
    models: dict[str, tuple[Path, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(models["internvl"][0], models["qwen2_5_vl"][0], "--out", tmp_path / "out") == 2
    stderr = capsys.readouterr().err
    assert "its model type is 'qwen2_5_vl'" in stderr and stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["A"], "name two or more folders"),
        (["A", "A", "--weight", "1.5"], "it must be between 0 and 1"),
        (["A", "A", "--weights", "nan", "1"], "must be finite numbers"),
        (["A", "A", "A", "--weight", "0.5"], "--weights W1 W2"),
        (["A", "A", "--method", "linaer"], "did you mean 'linear'?"),
        (["A", "A", "--method", "ties"], "with --base"),
        (["A", "A", "--base", "A"], "leave --base out"),
        (["A", "A", "--set", "density=0.2"], "linear has no parameter 'density'"),
        (["A", "A", "--set", "density"], "give NAME=NUMBER"),
        (["A", "A", "--part", "visoin=0.2"], "did you mean 'vision'?"),
        (["A", "A", "--pattern", "*.weight"], "give NAME=W"),
        (["A", "A", "--pattern", "none*=0.5"], "no tensor matches 'none*'"),
        (["A", "A", "--interpolate", "1"], "give 2 to 101 points"),
        (["A", "A", "--interpolate", "3", "--weight", "0.5"], "leave --weight"),
        (["A", "A", "--interpolate", "3", "--data", "nowhere"], "--data nowhere is not a folder"),
        (["A", "A", "--interpolate", "3", "--tasks", "phantmo"], "did you mean 'phantom'"),
        (["A", "A", "--interpolate", "3", "--tasks", "phantom", "--limit", "0"], "--limit 0"),
        (["A", "A", "--tasks", "phantom"], "give --interpolate K"),
        (["A", "A", "--greedy-by", "scores.json"], "give a .py file"),
        (["A", "nowhere"], "nowhere is not a folder"),
    ],
)
def test_an_impossible_request_is_one_line(
    models: dict[str, tuple[Path, Path]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    first = models["qwen2_5_vl"][0]
    assert (
        run(*(first if each == "A" else each for each in arguments), "--out", tmp_path / "out") == 2
    )
    stderr = capsys.readouterr().err
    assert message in stderr and stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
