"""Merging: the promises about ends, symmetry, identity and memory, what is refused, and what a kill
leaves behind.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch

from lingshu.core.errors import ArtifactError, ConfigError, InputError
from lingshu.core.files import check_manifest, sha256_file, write_manifest
from lingshu.core.run_card import read_run_card
from lingshu.weights.base import MergeWeights, weighted_sum
from lingshu.weights.output import MergePlan, find_merged_path, merge, merge_path
from tests.support.checkpoint_files import random_tensors, read_model, tensors_equal, write_model

TYPES = (torch.bfloat16, torch.float16, torch.float32)


def model_pair(folder: Path, dtype: torch.dtype = torch.bfloat16) -> tuple[Path, Path]:
    return write_model(folder / "a", random_tensors(1, dtype)), write_model(
        folder / "b", random_tensors(2, dtype)
    )


def weights_at(weight: float) -> MergeWeights:
    return MergeWeights((weight, 1 - weight))


@pytest.mark.parametrize("dtype", TYPES)
def test_the_ends_come_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    a, b = model_pair(tmp_path, dtype)
    for weight, folder in ((1.0, a), (0.0, b)):
        for method in ("linear", "slerp"):
            merge(MergePlan((a, b), method), tmp_path / "out", weights_at(weight))
            assert tensors_equal(read_model(tmp_path / "out"), read_model(folder))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("weight", [0.5, 0.3])
def test_exchanging_the_models_and_their_weights_changes_no_bit(
    tmp_path: Path, dtype: torch.dtype, weight: float
) -> None:
    a, b = model_pair(tmp_path, dtype)
    for method in ("linear", "slerp"):
        merge(MergePlan((a, b), method), tmp_path / "one", weights_at(weight))
        merge(MergePlan((b, a), method), tmp_path / "two", weights_at(1 - weight))
        assert tensors_equal(read_model(tmp_path / "one"), read_model(tmp_path / "two"))


@pytest.mark.parametrize("dtype", TYPES)
def test_a_model_merged_with_itself_stays_itself(tmp_path: Path, dtype: torch.dtype) -> None:
    a, _ = model_pair(tmp_path, dtype)
    for method in ("linear", "slerp"):
        for weight in (0.5, 0.3):
            merge(MergePlan((a, a), method), tmp_path / "out", weights_at(weight))
            assert tensors_equal(read_model(tmp_path / "out"), read_model(a))


@pytest.mark.parametrize("dtype", TYPES)
def test_streaming_gives_what_full_tensors_in_memory_give(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    a, b = model_pair(tmp_path, dtype)
    merge(MergePlan((a, b)), tmp_path / "out", weights_at(0.3))
    first, second, out = read_model(a), read_model(b), read_model(tmp_path / "out")
    for name, tensor in out.items():
        if tensor.is_floating_point():
            expected = (
                torch.lerp(second[name], first[name], 0.3)
                if dtype != torch.float32
                else 0.3 * first[name].double() + 0.7 * second[name].double()
            )
            assert torch.equal(tensor, expected.to(dtype)), name
        else:
            assert torch.equal(tensor, first[name])


def test_the_result_is_linear_in_the_weight(tmp_path: Path) -> None:
    a, b = model_pair(tmp_path, torch.float32)
    points = merge_path(MergePlan((a, b)), tmp_path / "out", [0.0, 0.25, 0.5, 0.75, 1.0])
    found = {weight: read_model(folder)["embed"] for weight, folder in points}
    torch.testing.assert_close(found[0.25] + found[0.75], 2 * found[0.5], rtol=1e-6, atol=1e-6)
    assert torch.equal(found[0.0], read_model(b)["embed"]) and torch.equal(
        found[1.0], read_model(a)["embed"]
    )
    assert [folder.name for _, folder in points] == ["0.00", "0.25", "0.50", "0.75", "1.00"]


def test_a_path_has_the_points_that_single_merges_have_and_is_found_again(tmp_path: Path) -> None:
    a, b = model_pair(tmp_path)
    points = merge_path(MergePlan((a, b)), tmp_path / "out", [0.0, 0.5, 1.0])
    merge(MergePlan((a, b)), tmp_path / "half", weights_at(0.5))
    assert tensors_equal(read_model(points[1][1]), read_model(tmp_path / "half"))
    assert find_merged_path(MergePlan((a, b)), tmp_path / "out", [0.0, 0.5, 1.0]) == points
    assert find_merged_path(MergePlan((a, b)), tmp_path / "out", [0.0, 1.0]) is None
    (a / "model.safetensors").touch()
    assert find_merged_path(MergePlan((a, b)), tmp_path / "out", [0.0, 0.5, 1.0]) is None


def test_models_may_be_stored_in_other_files(tmp_path: Path) -> None:
    a, b = (
        write_model(tmp_path / "a", random_tensors(1), files=3),
        write_model(tmp_path / "b", random_tensors(2)),
    )
    merge(MergePlan((a, b)), tmp_path / "one", weights_at(0.5))
    merge(MergePlan((b, a)), tmp_path / "two", weights_at(0.5))
    assert tensors_equal(read_model(tmp_path / "one"), read_model(tmp_path / "two"))
    assert sorted(path.name for path in (tmp_path / "one").glob("*.safetensors")) == [
        f"model-{n}.safetensors" for n in range(3)
    ]
    assert (
        json.loads((tmp_path / "one/model.safetensors.index.json").read_text())["weight_map"][
            "norm"
        ]
        == "model-0.safetensors"
    )
    # The files of `a` are not read in order when `b` rules: their hashes are right all the same.
    hashes = read_run_card(tmp_path / "two")["hashes"]
    assert hashes == {"A/model.safetensors": sha256_file(b / "model.safetensors")} | {
        f"B/model-{n}.safetensors": sha256_file(a / f"model-{n}.safetensors") for n in range(3)
    }


def test_the_result_is_a_checkpoint_with_the_first_ones_files_and_a_card(tmp_path: Path) -> None:
    a, b = model_pair(tmp_path)
    (a / "tokenizer.json").write_text('{"a": 1}')
    (a / "modeling.py").write_text("raise SystemExit")
    write_manifest(b)
    merge(MergePlan((a, b)), tmp_path / "out", weights_at(0.25))
    assert check_manifest(tmp_path / "out")
    card = read_run_card(tmp_path / "out")
    assert card["config"]["weights"] == [0.25, 0.75] and card["config"]["method"] == "linear"
    assert card["hashes"] == {
        f"{label}/model.safetensors": sha256_file(f / "model.safetensors")
        for label, f in (("A", a), ("B", b))
    }
    assert (tmp_path / "out/tokenizer.json").is_file() and not (
        tmp_path / "out/modeling.py"
    ).exists()
    assert card["notes"]["differences"] == ["no tokenizer was compared: B has no tokenizer files"]


def test_parts_get_their_own_weight(tmp_path: Path) -> None:
    a, b = model_pair(tmp_path)
    patterns = (("visual.*", (1.0, 0.0)), ("visual.merger.*", (0.0, 1.0)))
    merge(MergePlan((a, b)), tmp_path / "out", MergeWeights((0.5, 0.5), patterns))
    out = read_model(tmp_path / "out")
    assert torch.equal(out["visual.weight"], read_model(a)["visual.weight"])
    assert torch.equal(out["visual.merger.weight"], read_model(b)["visual.merger.weight"])
    with pytest.raises(ConfigError, match="no tensor matches 'vision"):
        merge(
            MergePlan((a, b)),
            tmp_path / "other",
            MergeWeights((0.5, 0.5), (("vision.*", (1.0, 0.0)),)),
        )


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_a_non_finite_value_is_named(tmp_path: Path, bad: float, weight: float) -> None:
    broken = random_tensors(2)
    broken["embed"][2999, 99] = bad
    a, b = write_model(tmp_path / "a", random_tensors(1)), write_model(tmp_path / "b", broken)
    with pytest.raises(
        ArtifactError, match=r"B .*tensor 'embed' holds (nan|inf) at element 299999"
    ):
        merge(MergePlan((a, b)), tmp_path / "out", weights_at(weight))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_result_too_large_for_its_type_is_an_error(tmp_path: Path) -> None:
    base, big = random_tensors(0, torch.float16), random_tensors(1, torch.float16)
    big["norm"].fill_(60000)
    a, b, start = (
        write_model(tmp_path / "a", big),
        write_model(tmp_path / "b", big),
        write_model(tmp_path / "base", base),
    )
    with pytest.raises(ArtifactError, match=r"norm: .* too large for F16"):
        merge(MergePlan((a, b), "task", base=start), tmp_path / "out", MergeWeights((1.0, 1.0)))
    # The mean of two large values is none: their sum alone would be.
    merge(MergePlan((a, b)), tmp_path / "out", weights_at(0.5))
    assert torch.equal(read_model(tmp_path / "out")["norm"], big["norm"])


def test_differences_are_listed(tmp_path: Path) -> None:
    a = write_model(tmp_path / "a", random_tensors(1))
    other = random_tensors(2) | {
        "norm": torch.zeros(5, dtype=torch.bfloat16),
        "more": torch.zeros(1),
    }
    del other["scale"]
    b = write_model(tmp_path / "b", other, config={"hidden_size": 8, "_name_or_path": "b"})
    with pytest.raises(InputError) as caught:
        merge(MergePlan((a, b)), tmp_path / "out", weights_at(0.5))
    for notes in (
        "config.hidden_size is 8, not 4",
        "norm has shape [5], not [4]",
        "scale is missing",
        "more is only in this model",
    ):
        assert notes in str(caught.value)
    assert "_name_or_path" not in str(caught.value)


def test_models_stored_in_other_types_are_merged_as_the_first_or_refused(tmp_path: Path) -> None:
    a = write_model(tmp_path / "a", random_tensors(1))
    narrow = write_model(tmp_path / "narrow", random_tensors(2, torch.float16))
    with pytest.raises(InputError, match=r"embed is F16, not BF16 .*--dtype first"):
        merge(MergePlan((a, narrow), dtype="same"), tmp_path / "out", weights_at(0.5))
    notes = merge(MergePlan((a, narrow)), tmp_path / "out", weights_at(0.5)).notes
    assert "B has tensors in F16 that A has in BF16" in notes[0]
    assert read_model(tmp_path / "out")["embed"].dtype == torch.bfloat16


def test_integers_must_agree(tmp_path: Path) -> None:
    a = write_model(tmp_path / "a", random_tensors(1))
    b = write_model(tmp_path / "b", random_tensors(2) | {"steps": torch.arange(6) + 1})
    with pytest.raises(InputError, match=r"steps .I64. differs"):
        merge(MergePlan((a, b)), tmp_path / "other", weights_at(0.5))


def test_a_tied_head_may_be_stored_or_left_out(tmp_path: Path) -> None:
    def tied(seed: int, *, store_head: bool) -> Path:
        table = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed))
        tensors = {"model.embed_tokens.weight": table} | (
            {"lm_head.weight": table.clone()} if store_head else {}
        )
        return write_model(tmp_path / f"{seed}", tensors, config={"tie_word_embeddings": True})

    a, b = tied(1, store_head=True), tied(2, store_head=False)
    for models, names in (((a, b), 2), ((b, a), 1)):
        merge(MergePlan(models), tmp_path / "out", weights_at(0.5))
        out = read_model(tmp_path / "out")
        assert len(out) == names and len({tuple(t.flatten().tolist()) for t in out.values()}) == 1


def test_more_than_two_models_and_invalid_weights(tmp_path: Path) -> None:
    folders = tuple(write_model(tmp_path / str(seed), random_tensors(seed)) for seed in range(3))
    merge(MergePlan(folders, "soup"), tmp_path / "out", MergeWeights((1 / 3,) * 3))
    expected = weighted_sum(
        [read_model(folder)["norm"].float() for folder in folders], (1 / 3,) * 3
    ).bfloat16()
    assert torch.equal(read_model(tmp_path / "out")["norm"], expected)
    for weights in ((0.5, 0.6, 0.0), (2.0, -1.0, 0.0), (0.5, 0.5)):
        with pytest.raises(ConfigError, match="weights"):
            merge(MergePlan(folders), tmp_path / "other", MergeWeights(weights))


@pytest.mark.not_fast
def test_a_killed_merge_leaves_no_model_and_the_older_one_intact(tmp_path: Path) -> None:
    a, b = (
        write_model(tmp_path / "a", random_tensors(1, large=4_000_000)),
        write_model(tmp_path / "b", random_tensors(2, large=4_000_000)),
    )
    old = merge(MergePlan((a, b)), tmp_path / "out", weights_at(0.25))
    before = read_model(tmp_path / "out")
    code = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "import lingshu.weights.merge as merging\nfrom lingshu.weights.base import MergeWeights\n"
        "from lingshu.weights.output import MergePlan, merge\n"
        "folder, blocks = Path(sys.argv[1]), 0\n"
        "class Dying(merging.SafetensorsWriter):\n"
        "    def add(self, buffer, view):\n"
        "        global blocks\n        blocks += 1\n"
        "        if blocks == 8: os.kill(os.getpid(), signal.SIGKILL)\n"
        "        super().add(buffer, view)\n"
        "merging.SafetensorsWriter = Dying\n"
        "merge(MergePlan((folder / 'a', folder / 'b')), folder / sys.argv[2], MergeWeights((0.5, 0.5)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), "out"], timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert (
        old.counts["tensors"] == 6
        and tensors_equal(read_model(tmp_path / "out"), before)
        and check_manifest(tmp_path / "out")
    )
    # What was begun has a hidden name, under which nobody looks for a model.
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == [
        "a",
        "b",
        "out",
    ]
    merge(MergePlan((a, b)), tmp_path / "out", weights_at(0.5))
    assert check_manifest(tmp_path / "out") and not tensors_equal(
        read_model(tmp_path / "out"), before
    )


@pytest.mark.parametrize("out_path", ["a", "."])
def test_a_result_never_overwrites_a_source(tmp_path: Path, out_path: str) -> None:
    runs = tmp_path / "runs"
    a, b = model_pair(runs)
    for folder in (a, runs):
        # as our own runs have it: an artifact that may be replaced
        (folder / "run.json").write_text("{}")
    for out in (runs / out_path, tmp_path / "link"):
        if out.name == "link":
            out.symlink_to(runs / out_path)
        with pytest.raises(ConfigError, match="which the result would replace"):
            merge(MergePlan((b, a)), out, weights_at(0.5))
        with pytest.raises(ConfigError, match="which the result would replace"):
            merge_path(MergePlan((b, a)), out, [0.0, 1.0])
    assert tensors_equal(read_model(a), random_tensors(1)) and tensors_equal(
        read_model(b), random_tensors(2)
    )
    merge(MergePlan((a, b)), a / "inside", weights_at(0.5))


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_a_source_that_differs_from_its_manifest_is_refused(tmp_path: Path, weight: float) -> None:
    a, b = (
        write_model(tmp_path / name, random_tensors(seed), files=2)
        for seed, name in enumerate("ab")
    )
    for folder in (a, b):
        write_manifest(folder)
    merge(MergePlan((a, b)), tmp_path / "whole", MergeWeights((weight, 1 - weight)))
    data = bytearray((b / "model-1.safetensors").read_bytes())
    data[-1] ^= 1
    (b / "model-1.safetensors").write_bytes(data)
    with pytest.raises(
        ArtifactError, match=r"b/model-1.safetensors does not match its sha256 in manifest.json"
    ):
        merge(MergePlan((a, b)), tmp_path / "out", MergeWeights((weight, 1 - weight)))
    assert not (tmp_path / "out").exists()


def test_weights_are_finite_numbers(tmp_path: Path) -> None:
    a, b = model_pair(tmp_path)
    for weights in ((float("nan"), 1.0), (float("inf"), 0.0)):
        with pytest.raises(ConfigError, match="must be finite numbers"):
            merge(MergePlan((a, b), "task", base=a), tmp_path / "out", MergeWeights(weights))
    with pytest.raises(ConfigError, match="scale is nan"):
        merge(
            MergePlan((a, b), "ties", {"scale": float("nan")}, base=a),
            tmp_path / "out",
            weights_at(0.5),
        )


def test_an_index_that_names_missing_tensors_is_refused(tmp_path: Path) -> None:
    a, b = (
        write_model(tmp_path / "a", random_tensors(1), files=2),
        write_model(tmp_path / "b", random_tensors(2), files=2),
    )
    for folder in (a, b):
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        index["weight_map"]["ghost"] = next(iter(index["weight_map"].values()))
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ArtifactError, match=r"lacks 1 tensors .* such as 'ghost'"):
        merge(MergePlan((a, b)), tmp_path / "out", weights_at(0.5))
