"""Memory and speed of answering from a checkpoint of a released size: random weights in the published
layout, one image question, every dtype in a process of its own.

    python bench/large_checkpoint.py [--shape 0.5B|1.5B|7B] [--dtypes bfloat16,int8,int4]
        [--tokens 32] [--out FOLDER] [--gguf FILE] [--record]

The folder is written once (16.6 GB for 7B) and removed at the end unless --out names one. Peak
memory is that of the whole process. --gguf also measures llama.cpp on that file, through
llama-cpp-python, with as many threads.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _record import record, table
from PIL import Image as PIL

SHARD_BYTES = 4_000_000_000
# Sizes of Qwen2.5 0.5B and 1.5B with a vision tower of Qwen2.5-VL that fits them.
SMALLER: dict[str, dict[str, int]] = {
    "0.5B": {
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
    },
    "1.5B": {
        "hidden_size": 1536,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "intermediate_size": 8960,
    },
}


def model_config(shape: str) -> dict[str, Any]:
    """The configuration of the released 7B, or with the sizes of a smaller language model."""
    from lingshu.models.specs import RELEASED_FILE

    released = json.loads(RELEASED_FILE.read_text("utf-8"))["architectures"]["qwen2.5-vl-7b"]
    config = released["config"]
    if shape != "7B":
        text = config["text_config"]
        text |= SMALLER[shape]
        # Shares of half a head, as 16 : 24 : 24 of the 7B.
        eighth = text["hidden_size"] // text["num_attention_heads"] // 16
        text["rope_parameters"]["mrope_section"] = [2 * eighth, 3 * eighth, 3 * eighth]
        config["vision_config"] |= {"out_hidden_size": SMALLER[shape]["hidden_size"], "depth": 8}
    return config


def random_tensors(shapes: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Values of a trained model's size: drawing billions of them would take longer than the runs."""
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(1 << 24, generator=generator).mul_(0.02).to(torch.bfloat16)
    for index, (name, shape) in enumerate(shapes.items()):
        n = int(np.prod(shape))
        if len(shape) == 1 and "norm" in name:
            yield name, torch.ones(shape, dtype=torch.bfloat16)
            continue
        rolled = block.roll(7919 * index)
        yield name, rolled.repeat(-(-n // len(block)))[:n].view(shape)


def write_checkpoint(folder: Path, shape: str) -> None:
    """A folder in the layout of Qwen2.5-VL-7B-Instruct: bfloat16 shards with an index, its names."""
    from safetensors.torch import save_file

    from lingshu.models.base import family_of
    from lingshu.models.model_spec import PixelBudget
    from lingshu.models.tiny import train_tokenizer

    family = family_of("qwen2_5_vl")
    tokenizer = train_tokenizer(family, ["Is there a lesion in this image? yes no"] * 9, 512)
    config = family.stock_class.config_class(
        **model_config(shape), **family.token_ids(tokenizer.convert_tokens_to_ids)
    )
    config.architectures, config.dtype = [family.model_class], torch.bfloat16
    with torch.device("meta"):
        meta = family.stock_class._from_config(config)
    shapes = {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): tuple(
            value.shape
        )
        for name, value in meta.state_dict().items()
    }
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    budget = PixelBudget(max_pixels=12_845_056)
    family.image_processor(budget, 28).save_pretrained(folder)
    meta.generation_config.save_pretrained(folder)
    shards: list[dict[str, torch.Tensor]] = [{}]
    sizes = [2 * int(np.prod(shape)) for shape in shapes.values()]
    n_shards, filled = 1, 0
    for size in sizes:
        if filled and filled + size > SHARD_BYTES:
            n_shards, filled = n_shards + 1, 0
        filled += size
    index: dict[str, str] = {}

    def write() -> None:
        number = len(set(index.values())) + 1
        name = f"model-{number:05}-of-{n_shards:05}.safetensors"
        index.update(dict.fromkeys(shards[0], name))
        save_file(shards[0], folder / name, metadata={"format": "pt"})
        shards[0] = {}

    filled = 0
    for name, tensor in random_tensors(shapes):
        size = 2 * tensor.numel()
        if filled and filled + size > SHARD_BYTES:
            write()
            filled = 0
        shards[0][name] = tensor
        filled += size
    write()
    content = {"metadata": {"total_size": sum(sizes)}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def peak_bytes() -> int:
    [line] = [x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x]
    return 1024 * int(line.split()[1])


def measure(folder: str, dtype: str, tokens: int, threads: int) -> dict[str, float]:
    """In this process: load, answer one question about a film, generate `tokens` tokens."""
    from lingshu.core.messages import user_turn
    from lingshu.core.types import CheckpointOptions, EngineOptions, Image, Sample, Sampling
    from lingshu.engines import hf
    from lingshu.imaging.read import png_bytes

    start = time.perf_counter()
    options = CheckpointOptions(dtype=dtype, max_pixels=448 * 448)  # type: ignore[arg-type]
    engine = hf.load(folder, EngineOptions(batch_size=1, threads=threads, checkpoint=options))
    loaded, load_peak = time.perf_counter(), peak_bytes()
    film = Image(data=png_bytes(PIL.new("L", (900, 900), 90)))
    sample = Sample("film", (user_turn("Is there a lesion?", 1),), (film,))

    def answer(max_tokens: int) -> tuple[float, int]:
        begin = time.perf_counter()
        [[reply]] = engine.generate([sample], Sampling(max_tokens))
        assert reply.reply_tokens is not None, reply.error
        return time.perf_counter() - begin, reply.reply_tokens

    first, _ = answer(1)
    prefill, _ = answer(1)
    whole, n_tokens = answer(tokens)
    return {
        "load_s": loaded - start,
        "load_peak_gb": load_peak / 1e9,
        "peak_gb": peak_bytes() / 1e9,
        "first_s": first,
        "prefill_s": prefill,
        "tokens_per_s": (n_tokens - 1) / max(whole - prefill, 1e-9),
        "tokens": n_tokens,
    }


def measure_llama_cpp(path: str, tokens: int, threads: int) -> dict[str, float]:
    """In this process: the same for a text prompt in llama.cpp, which has no end token here."""
    start = time.perf_counter()
    llama_cpp = importlib.import_module("llama_cpp")
    model = llama_cpp.Llama(
        path, n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False
    )
    loaded = time.perf_counter()
    prompt = [5] * 300
    begin = time.perf_counter()
    stream = model.generate(prompt, temp=0.0)
    next(stream)
    prefill = time.perf_counter() - begin
    begin = time.perf_counter()
    for _ in range(tokens - 1):
        next(stream)
    speed = (tokens - 1) / (time.perf_counter() - begin)
    return {
        "load_s": loaded - start,
        "peak_gb": peak_bytes() / 1e9,
        "prefill_s": prefill,
        "tokens_per_s": speed,
        "tokens": tokens,
    }


def run_child(*arguments: object) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(result.stderr)
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        kind, path, dtype, tokens, threads = sys.argv[2:]
        if kind == "llama.cpp":
            print(json.dumps(measure_llama_cpp(path, int(tokens), int(threads))))
        else:
            print(json.dumps(measure(path, dtype, int(tokens), int(threads))))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=[*SMALLER, "7B"], default="0.5B")
    parser.add_argument("--dtypes", default="bfloat16,int8,int4")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--gguf")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.out or Path(temporary) / "model"
        if not (folder / "config.json").exists():
            start = time.perf_counter()
            write_checkpoint(folder, options.shape)
            print(f"written in {time.perf_counter() - start:.0f} s")
        stored = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e9
        rows = []
        for dtype in options.dtypes.split(","):
            rows.append(
                (dtype, run_child("lingshu", folder, dtype, options.tokens, options.threads))
            )
            print(*rows[-1], flush=True)
        if options.gguf:
            llama = run_child("llama.cpp", options.gguf, "", options.tokens, options.threads)
            rows.append((f"llama.cpp {Path(options.gguf).name}", llama))
            print(*rows[-1], flush=True)
    header = ["weights", "load, s", "peak, GB", "prefill, s", "tokens/s"]
    body = [
        [
            name,
            *(f"{result[key]:.2f}" for key in ("load_s", "peak_gb", "prefill_s", "tokens_per_s")),
        ]
        for name, result in rows
    ]
    text = f"{options.shape} shape, {stored:.1f} GB on the disk, {options.threads} thread.\n\n"
    text += table(header, body)
    print(text)
    if options.record:
        name = f"large_checkpoint_{options.shape}"
        record(name, f"Answering from a checkpoint of {options.shape}", text)


if __name__ == "__main__":
    main()
