"""mergekit's linear merge, measured in its own environment: python bench/_mergekit_side.py A B OUT float32|bfloat16

Prints seconds, CPU seconds and MB above the resident memory after imports, as JSON. Imports nothing
of lingshu. Environment V, torch first so that a configured CPU wheel is taken: V/bin/pip install
torch==2.13.0 && V/bin/pip install mergekit
"""

import json
import os
import resource
import sys
import time
from importlib import metadata
from pathlib import Path

import torch
from mergekit.config import MergeConfiguration  # pyright: ignore[reportMissingImports]
from mergekit.merge import run_merge  # pyright: ignore[reportMissingImports]
from mergekit.options import MergeOptions  # pyright: ignore[reportMissingImports]


def memory_field_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def main(first: str, second: str, out: str, arithmetic: str) -> None:
    plan = {
        "merge_method": "linear",
        "models": [
            {"model": first, "parameters": {"weight": 0.3}},
            {"model": second, "parameters": {"weight": 0.7}},
        ],
        "dtype": arithmetic,
        "out_dtype": "bfloat16",
    }
    config = MergeConfiguration.model_validate(plan)
    options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True)
    options.apply_global_options()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before, cpu_used, start = (
        memory_field_mb("VmRSS"),
        resource.getrusage(resource.RUSAGE_SELF),
        time.perf_counter(),
    )
    run_merge(config, out, options)
    for file in Path(out).iterdir():
        with file.open("rb") as input_file:
            os.fsync(input_file.fileno())
    seconds, done = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    cpu = done.ru_utime + done.ru_stime - cpu_used.ru_utime - cpu_used.ru_stime
    versions = {name: metadata.version(name) for name in ("mergekit", "torch", "transformers")}
    print(
        json.dumps(
            {
                "seconds": seconds,
                "cpu": cpu,
                "mb": memory_field_mb("VmHWM") - before,
                "threads": torch.get_num_threads(),
                **versions,
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
