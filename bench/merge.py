"""Merging two models of 2 GB: compared with a plain copy of one, and with mergekit's linear method;
memory; K points from one reading.

    python bench/merge.py FOLDER [MERGEKIT_PYTHON] [--gb 2]

FOLDER takes the two models and the results, 7 GB in all; all is removed again. Each measurement is
a process of its own that says its time after imports; the sides take turns, the files stay in the
page cache. mergekit is run by the interpreter MERGEKIT_PYTHON of an environment that has it
(bench/_mergekit_side.py).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from _record import record, table
from safetensors.torch import save_file

from lingshu.weights.base import MergeWeights
from lingshu.weights.folder import open_model_folder
from lingshu.weights.merge import MergeTarget, open_sources, stream_merge
from lingshu.weights.output import open_method

ROUNDS = 5
HIDDEN, FFN, KV, WORDS = 1536, 8960, 256, 65536
LAYER = {
    "self_attn.q_proj.weight": (HIDDEN, HIDDEN), "self_attn.q_proj.bias": (HIDDEN,), "self_attn.k_proj.weight": (KV, HIDDEN),
    "self_attn.k_proj.bias": (KV,), "self_attn.v_proj.weight": (KV, HIDDEN), "self_attn.v_proj.bias": (KV,),
    "self_attn.o_proj.weight": (HIDDEN, HIDDEN), "mlp.gate_proj.weight": (FFN, HIDDEN), "mlp.up_proj.weight": (FFN, HIDDEN),
    "mlp.down_proj.weight": (HIDDEN, FFN), "input_layernorm.weight": (HIDDEN,), "post_attention_layernorm.weight": (HIDDEN,),
}  # fmt: skip
OTHER_METHODS = ("linear*2", "slerp", "task", "dare", "ties")


def make(folder: Path, seed: int, gb: float) -> None:
    """A bf16 model with the tensors of a Qwen2 language model, in files of about 1 GB with an
    index.
    """
    folder.mkdir(parents=True)
    layers = max(
        1,
        round(
            (gb * 1e9 / 2 - WORDS * HIDDEN)
            / sum(torch.Size(shape).numel() for shape in LAYER.values())
        ),
    )
    names = {"model.embed_tokens.weight": (WORDS, HIDDEN), "model.norm.weight": (HIDDEN,)}
    names |= {
        f"model.layers.{layer}.{name}": shape
        for layer in range(layers)
        for name, shape in LAYER.items()
    }
    torch.manual_seed(seed)
    shards: list[dict[str, torch.Tensor]] = [{}]
    for name, shape in names.items():
        if sum(tensor.nbytes for tensor in shards[-1].values()) > 1e9:
            shards.append({})
        shards[-1][name] = torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02)
    files = [
        f"model-{number + 1:05}-of-{len(shards):05}.safetensors" for number in range(len(shards))
    ]
    for file, tensors in zip(files, shards, strict=True):
        save_file(tensors, folder / file, metadata={"format": "pt"})
        with (folder / file).open("rb") as input_file:
            os.fsync(input_file.fileno())
    paths = {name: file for file, tensors in zip(files, shards, strict=True) for name in tensors}
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": paths})
    )
    settings = {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_size": HIDDEN, "intermediate_size": FFN, "vocab_size": WORDS,
        "num_hidden_layers": layers, "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(settings))


def memory_field_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def side(way: str, root: Path) -> None:
    """One measurement, printed as JSON: a copy, or a merge called METHOD, METHOD+hashes or
    METHOD*POINTS.
    """
    first, second, base, out = (root / name for name in ("a", "b", "base", "out"))
    out.mkdir()
    name, _, n_models = way.removesuffix("+hashes").partition("*")
    method = None if way == "copy" else open_method(name, {})
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before, cpu_used, start = (
        memory_field_mb("VmRSS"),
        resource.getrusage(resource.RUSAGE_SELF),
        time.perf_counter(),
    )
    if method is None:
        for file in open_model_folder(first, "A").files:
            shutil.copyfile(first / file, out / file)
            with (out / file).open("rb") as input_file:
                os.fsync(input_file.fileno())
    else:
        sources = open_sources([first, second], method, base=base if method.needs_base else None)
        targets = []
        for point in range(int(n_models or 1)):
            weight = 0.3 + 0.05 * point
            targets.append(MergeTarget(out / str(point), MergeWeights((weight, 1 - weight))))
            targets[-1].folder.mkdir()
        stream_merge(sources, targets, method, compute_hashes=way.endswith("+hashes"))
    seconds, done = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    cpu = done.ru_utime + done.ru_stime - cpu_used.ru_utime - cpu_used.ru_stime
    print(json.dumps({"seconds": seconds, "cpu": cpu, "mb": memory_field_mb("VmHWM") - before}))


def measure(way: str, root: Path, peer: str | None) -> dict[str, float]:
    if way.startswith("mergekit"):
        assert peer is not None
        here = Path(__file__).parent / "_mergekit_side.py"
        command = [
            peer,
            str(here),
            str(root / "a"),
            str(root / "b"),
            str(root / "out"),
            way.partition(", ")[2],
        ]
    else:
        command = [sys.executable, __file__, str(root), "--side", way]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
        if done.returncode:
            raise RuntimeError(f"{way}: {done.stderr[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])
    finally:
        shutil.rmtree(root / "out", ignore_errors=True)


def warm(root: Path) -> None:
    for name in ("a", "b", "base"):
        for file in (root / name).iterdir():
            with file.open("rb") as input_file:
                while input_file.read(1 << 24):
                    pass


def main(root: Path, peer: str | None, gb: float) -> None:
    root = root / "bench_merge"
    shutil.rmtree(root, ignore_errors=True)
    try:
        for seed, name in enumerate(("a", "b")):
            make(root / name, seed, gb)
        # The base's values do not matter to the time; its place on the disk is the first model's.
        (root / "base").symlink_to(root / "a", target_is_directory=True)
        batching_strategies = [
            "copy",
            "linear",
            "linear+hashes",
            *(["mergekit, bfloat16"] if peer else []),
        ]
        found: dict[str, list[dict[str, float]]] = {way: [] for way in batching_strategies}
        warm(root)
        for number in range(ROUNDS):
            # Drawn, not turned round: what ran before leaves memory and disk in a state that the
            # next one feels.
            for way in random.Random(number).sample(batching_strategies, len(batching_strategies)):
                # every side finds memory and disk as a copy leaves them
                measure("copy", root, None)
                found[way].append(measure(way, root, peer))
                print(way, found[way][-1], flush=True)
        other_results = {name: [measure(name, root, peer)] for name in OTHER_METHODS}
        print(other_results)
        write(found, other_results, gb)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def write(
    found: dict[str, list[dict[str, float]]],
    other_results: dict[str, list[dict[str, float]]],
    gb: float,
) -> None:
    def middle(way: str, key: str) -> float:
        return statistics.median(run[key] for run in {**found, **other_results}[way])

    names = {
        "copy": "plain copy of one model", "linear": "**linear merge**", "linear+hashes": "linear merge, sources and result hashed",
        "linear*2": "two points of a path from one read",
    }  # fmt: skip
    rows = [
        [
            names.get(way, way),
            f"{middle(way, 'seconds'):.2f}",
            f"{middle(way, 'seconds') / middle('copy', 'seconds'):.2f}x",
            f"{middle(way, 'cpu'):.2f}",
            f"{middle(way, 'cpu') / middle('copy', 'cpu'):.2f}x",
            f"{max(run['mb'] for run in runs):.0f}",
        ]
        for way, runs in {**found, **other_results}.items()
    ]
    summary = (
        f"Two bf16 models of {gb:g} GB, files in the page cache, every output synced; start-up and"
        f" hashing not counted unless stated; median of {ROUNDS} rounds, the sides in random"
        " order and each"
        " after an uncounted copy (last five rows: one run). Memory is the peak above the resident"
        " size after imports."
    )
    peer = next((runs[0] for way, runs in found.items() if way.startswith("mergekit")), None)
    if peer is not None:
        slower = middle("mergekit, bfloat16", "seconds") / middle("linear", "seconds")
        summary += (
            f" mergekit {peer['mergekit']} with torch {peer['torch']} and transformers"
            f" {peer['transformers']}, without tokenizer and card and in its default bf16"
            f" arithmetic, takes {slower:.1f} times as long as the linear merge, which computes in"
            " float32."
        )
    record(
        "merge",
        "Merging",
        summary
        + "\n\n"
        + table(["", "s", "relative to a copy", "CPU s", "relative to a copy", "memory, MB"], rows),
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("root", type=Path)
    parser.add_argument("peer", nargs="?")
    parser.add_argument("--gb", type=float, default=2.0)
    parser.add_argument("--side")
    given = parser.parse_args()
    if given.side:
        side(given.side, given.root)
    else:
        main(given.root, given.peer, given.gb)
