"""Checkpoint folders with one random fault, and what stock transformers makes of them."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lingshu.core.run_card import RunCard
from lingshu.core.types import Message
from lingshu.models.export import export
from lingshu.models.load import LoadedModel
from tests.support.tiny import make_image, tiny

INDEX = "model.safetensors.index.json"
ODD_VALUES: tuple[Any, ...] = (
    *(None, "x", "", -1, 0, 1, 3, 1.5, True, False, [], {}, [1, 2], ["x"], {"a": 1}),
    *(10**9, -(10**9), 1e300, "org/code", [[[]]], "\u0000", "../x"),
)
EXTRA_FILES = {
    "adapter_config.json": '{"peft_type": "LORA", "r": 2, "base_model_name_or_path": "x"}',
    "adapter_model.safetensors": "",
    "pytorch_model.bin": "pickle",
    "consolidated.safetensors": "x",
    "model.safetensors": "x",
    "modeling_evil.py": "raise SystemExit",
    "chat_template.json": '{"chat_template": "{{ messages }}"}',
    "manifest.json": '{"files": {}}',
    "added_tokens.json": '{"<new>": 1}',
    "vocab.json": "{}",
    "tokenizer.model": "x",
    "generation_config.json": '{"custom_generate": "org/x", "eos_token_id": "x"}',
    "model-00009-of-00009.safetensors": "x",
    "config.json/x": "",
}


def write_base(folder: Path, family: str) -> Path:
    """A checkpoint in two shards with an index, and no manifest."""
    model, processor = tiny(family)
    export(model, processor, folder, RunCard("test", {}))
    (folder / "manifest.json").unlink()
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names, weight_map = sorted(tensors), {}
    for number in (1, 2):
        part = names[: len(names) // 2] if number == 1 else names[len(names) // 2 :]
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def some_file(folder: Path, draw: random.Random, pattern: str = "*") -> Path:
    return draw.choice(sorted(path for path in folder.glob(pattern) if path.is_file()))


def remove_file(folder: Path, draw: random.Random) -> str:
    path = some_file(folder, draw)
    path.unlink()
    return f"without {path.name}"


def swap_files(folder: Path, draw: random.Random) -> str:
    first, second = some_file(folder, draw), some_file(folder, draw)
    data = first.read_bytes(), second.read_bytes()
    first.write_bytes(data[1])
    second.write_bytes(data[0])
    return f"{first.name} and {second.name} swapped"


def cut_file(folder: Path, draw: random.Random) -> str:
    path = some_file(folder, draw)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * draw.random())])
    return f"{path.name} cut to {path.stat().st_size} of {len(data)} bytes"


def change_bytes(folder: Path, draw: random.Random) -> str:
    path = some_file(folder, draw)
    data, start = bytearray(path.read_bytes()), 0
    end = draw.choice((len(data), min(len(data), 2000)))  # as often in a header as in values
    for _ in range(draw.choice((1, 3, 20))):
        data[draw.randrange(start, end)] = draw.randrange(256)
    path.write_bytes(bytes(data))
    return f"bytes of {path.name} changed"


def change_json(folder: Path, draw: random.Random) -> str:
    """One value at any depth of one of the settings takes another type, or goes."""
    path = some_file(folder, draw, "*config.json")
    settings = json.loads(path.read_text())
    value: Any = settings
    parent: Any = None
    key: Any = None
    trail: list[str] = []
    while isinstance(value, dict | list) and value and (not trail or draw.random() < 0.7):
        parent = value
        key = draw.choice(sorted(value) if isinstance(value, dict) else range(len(value)))
        trail.append(str(key))
        value = parent[key]
    if draw.random() < 0.2:
        del parent[key]
        what = "removed"
    else:
        parent[key] = draw.choice(ODD_VALUES)
        what = f"{parent[key]!r}"
    path.write_text(json.dumps(settings))
    return f"{path.name}: {'.'.join(trail)} {what}"


def add_key(folder: Path, draw: random.Random) -> str:
    path = some_file(folder, draw, "*config.json")
    settings = json.loads(path.read_text())
    keys = (
        *("auto_map", "custom_generate", "_attn_implementation", "quantization_config"),
        *("transformers_weights", "fusion_config", "is_decoder", "tie_word_embeddings"),
        *("chat_template", "use_fast", "tokenizer_class", "image_processor_type", "architectures"),
    )
    key = draw.choice(keys)
    settings[key] = draw.choice(ODD_VALUES)
    path.write_text(json.dumps(settings))
    return f"{path.name}: {key} {settings[key]!r}"


def grow_vocabulary(folder: Path, draw: random.Random) -> str:
    n_tokens = draw.choice((1, 5, 1000))
    path = folder / "tokenizer.json"
    settings = json.loads(path.read_text())
    start = max(token["id"] for token in settings["added_tokens"]) + 1
    for number in range(n_tokens):
        token = {**settings["added_tokens"][0], "id": start + number, "content": f"<new{number}>"}
        settings["added_tokens"].append(token)
    path.write_text(json.dumps(settings))
    return f"{n_tokens} tokens more"


def resize_rows(folder: Path, draw: random.Random) -> str:
    path, change = folder / "config.json", draw.choice((-200, -1, 1, 64))
    settings = json.loads(path.read_text())
    for part in (settings, settings.get("text_config", {})):
        if "vocab_size" in part:
            part["vocab_size"] += change
    path.write_text(json.dumps(settings))
    return f"vocab_size {change:+d}"


def add_file(folder: Path, draw: random.Random) -> str:
    name = draw.choice(sorted(EXTRA_FILES))
    path = folder / name
    if path.parent != folder:
        path.parent.unlink()
        path.parent.mkdir()
    path.write_text(EXTRA_FILES[name])
    return f"{name} added"


def edit_index(folder: Path, draw: random.Random) -> str:
    path = folder / INDEX
    settings = json.loads(path.read_text())
    weight_map = settings["weight_map"]
    name = draw.choice(sorted(weight_map))
    values = ("../model-00001-of-00002.safetensors", "/etc/passwd", "model.bin", 3, None, "")
    value = draw.choice((*values, "model-00001-of-00002.safetensors", "other.safetensors"))
    edits: dict[str, Callable[[], object]] = {
        "dropped": lambda: weight_map.pop(name),
        "another file": lambda: weight_map.update({name: value}),
        "an unknown tensor": lambda: weight_map.update({"unknown": weight_map[name]}),
        "one file for all": lambda: weight_map.update(dict.fromkeys(weight_map, value)),
        "no map": lambda: settings.update(weight_map=value),
    }
    what = draw.choice(sorted(edits))
    edits[what]()
    path.write_text(json.dumps(settings))
    return f"{INDEX}: {what} ({name}, {value!r})"


def edit_tensor(folder: Path, draw: random.Random) -> str:
    path = some_file(folder, draw, "*.safetensors")
    tensors = load_file(path)
    name = draw.choice(sorted(tensors))
    value = tensors[name]
    edits: dict[str, Callable[[], object]] = {
        "dropped": lambda: tensors.pop(name),
        "nan": lambda: value.view(-1)[-1:].fill_(float("nan")),
        "infinite": lambda: value.view(-1)[:1].fill_(float("-inf")),
        "shorter": lambda: tensors.update({name: value[:-1].clone()}),
        "transposed": lambda: tensors.update(
            {name: value.mT.contiguous() if value.dim() == 2 else value}
        ),
        "integers": lambda: tensors.update({name: value.to(torch.int64)}),
        "float8": lambda: tensors.update({name: value.to(torch.float8_e4m3fn)}),
        "float64": lambda: tensors.update({name: value.double()}),
        "bfloat16": lambda: tensors.update({name: value.to(torch.bfloat16)}),
        "renamed": lambda: tensors.update({f"x.{name}": tensors.pop(name)}),
        "zero": lambda: value.zero_(),
    }
    what = draw.choice(sorted(edits))
    edits[what]()
    save_file(tensors, path, {"format": "pt"})
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] = {
        key: file for key, file in index["weight_map"].items() if file != path.name
    } | dict.fromkeys(tensors, path.name)
    (folder / INDEX).write_text(json.dumps(index))
    return f"tensor {name} {what}"


MUTATIONS = (
    *(remove_file, swap_files, cut_file, change_bytes, change_json, change_json, change_json),
    *(add_key, grow_vocabulary, resize_rows, add_file, edit_index, edit_tensor, edit_tensor),
)


def mutate(base: Path, folder: Path, seed: int) -> str:
    """Copy `base` to `folder` with one fault of this seed, and say which."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder)
    draw = random.Random(seed)
    return draw.choice(MUTATIONS)(folder, draw)


def model_batch(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    """A question about an image as inputs of the model."""
    processor = loaded.processor
    tiles = processor.tiles([make_image(3)])
    encoded = processor.encode([Message("user", (0, "Is there a lesion?"))], tiles)
    batch = processor.collate([encoded], pad="right")
    batch.pop("labels")
    return batch


def stock_logits(folder: Path, loaded: LoadedModel) -> torch.Tensor:
    """What the stock class answers from the folder, its pixels by the stock image processor."""
    from transformers import AutoImageProcessor

    batch = model_batch(loaded)
    image_processor = AutoImageProcessor.from_pretrained(
        folder, backend="pil", trust_remote_code=False
    )
    pixels = image_processor(images=[make_image(3)], return_tensors="pt")["pixel_values"]
    model = type(loaded.model).from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
    )
    with torch.inference_mode():
        return model(**{**batch, "pixel_values": pixels}).logits
