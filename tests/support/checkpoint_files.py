"""Small model folders of the merge tests: a few tensors, in as many files as a test wants."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

CONFIG = {"architectures": ["Tiny"], "model_type": "tiny", "hidden_size": 4}


def random_tensors(
    seed: int, dtype: torch.dtype = torch.bfloat16, *, large: int = 300_000
) -> dict[str, Tensor]:
    """Tensors of several shapes, one of them of more than one block, and one of integers."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "embed": (large // 100, 100),
        "visual.merger.weight": (5, 7),
        "visual.weight": (3, 3),
        "norm": (4,),
        "scale": (),
    }
    return {
        **{
            name: torch.randn(shape, generator=generator).to(dtype)
            for name, shape in shapes.items()
        },
        "steps": torch.arange(6),
    }


def write_model(
    folder: Path, tensors: dict[str, Tensor], *, files: int = 1, config: dict | None = None
) -> Path:
    """A model folder; with several files, the tensors are spread over them, with an index."""
    folder.mkdir(parents=True)
    names = (
        [f"model-{position}.safetensors" for position in range(files)]
        if files > 1
        else ["model.safetensors"]
    )
    weight_map = {name: names[position % files] for position, name in enumerate(tensors)}
    for file in names:
        save_file(
            {name: tensor for name, tensor in tensors.items() if weight_map[name] == file},
            folder / file,
        )
    if files > 1:
        index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(CONFIG | (config or {})))
    return folder


def read_model(folder: Path) -> dict[str, Tensor]:
    return {
        name: tensor
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def tensors_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Bit for bit, with names, types and shapes."""
    return first.keys() == second.keys() and all(
        first[n].dtype == second[n].dtype
        and first[n].shape == second[n].shape
        and torch.equal(first[n], second[n])
        for n in first
    )
