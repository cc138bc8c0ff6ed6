"""Tensors written again in shards of a bounded size, from safetensors and from pickles."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch

from lingshu.core.errors import ArtifactError
from lingshu.core.files import read_json, sha256_file
from lingshu.weights.convert import PickleSource, SafetensorsSource, TensorPlan, write_tensors
from lingshu.weights.folder import open_model_folder
from lingshu.weights.safetensors_io import BackgroundThreads
from tests.support.checkpoint_files import random_tensors, read_model, write_model


def test_shards_hold_every_tensor_once_up_to_their_size(tmp_path: Path) -> None:
    tensors = random_tensors(0)
    folder = open_model_folder(write_model(tmp_path / "a", tensors, files=2), "source")
    (tmp_path / "out").mkdir()
    with BackgroundThreads() as threads:
        source = SafetensorsSource(folder, threads)
        plans = [TensorPlan.full(name, name, stored) for name, stored in source.tensors.items()]
        written = write_tensors(plans, source, tmp_path / "out", max_shard_bytes=600_000)
        source.close()
    index = read_json(tmp_path / "out" / "model.safetensors.index.json")
    assert set(index["weight_map"]) == set(tensors)
    assert len(written.files) == 2 and set(index["weight_map"].values()) == set(written.files)
    copied = read_model(tmp_path / "out")
    assert all(torch.equal(copied[name], tensors[name]) for name in tensors)
    for name, info in written.files.items():
        assert info["sha256"] == sha256_file(tmp_path / "out" / name)
    for name in folder.files:
        assert written.source_hashes[name] == sha256_file(tmp_path / "a" / name)


def test_rows_are_taken_in_their_order(tmp_path: Path) -> None:
    value = torch.arange(24.0).view(6, 4)
    folder = open_model_folder(write_model(tmp_path / "a", {"fused": value}), "source")
    (tmp_path / "out").mkdir()
    with BackgroundThreads() as threads:
        source = SafetensorsSource(folder, threads)
        stored = source.tensors["fused"]
        plans = [
            TensorPlan.rows("odd", "fused", stored, [(1, 1), (3, 1), (5, 1)]),
            TensorPlan.rows("first", "fused", stored, [(0, 2)]),
        ]
        written = write_tensors(plans, source, tmp_path / "out", dtype="float16")
        source.close()
    copied = read_model(tmp_path / "out")
    assert torch.equal(copied["odd"], value[1::2].half())
    assert torch.equal(copied["first"], value[:2].half())
    assert written.source_hashes == {
        "model.safetensors": sha256_file(tmp_path / "a" / "model.safetensors")
    }


@pytest.mark.parametrize("new_format", [True, False])
def test_pickles_of_every_torch_version_are_read(tmp_path: Path, new_format: bool) -> None:
    tensors = {"a": torch.arange(6.0).view(2, 3).t(), "n": torch.arange(3)}
    file = tmp_path / "pytorch_model.bin"
    torch.save({"state_dict": tensors}, file, _use_new_zipfile_serialization=new_format)
    source = PickleSource(tmp_path, [file.name], {file.name: sha256_file(file).upper()})
    plans = [TensorPlan.full(name, name, stored) for name, stored in source.tensors.items()]
    (tmp_path / "out").mkdir()
    write_tensors(plans, source, tmp_path / "out", dtype="bfloat16")
    copied = read_model(tmp_path / "out")
    assert torch.equal(copied["a"], tensors["a"].bfloat16()) and torch.equal(
        copied["n"], tensors["n"]
    )


def test_a_pickle_of_other_objects_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "pytorch_model.bin"
    for content in ({"epoch": 3}, {}, [torch.zeros(1)]):
        torch.save(content, file)
        with pytest.raises(ArtifactError, match="take the safetensors"):
            PickleSource(tmp_path, [file.name], {file.name: sha256_file(file)})
