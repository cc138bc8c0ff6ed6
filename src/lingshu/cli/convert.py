"""`lingshu convert`: a checkpoint of another program in the plain layout of today's transformers, or
as GGUF files for llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from lingshu.cli.options import Flat
from lingshu.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    dtype: Literal["same", "bfloat16", "float16", "float32"] = "same"
    "Type of the written weights; same keeps each tensor as it is stored."
    allow_pickle: bool = False
    """Read pickled weights (.bin, .pt) where there are no safetensors; tensors only, no code is
    run."""
    sha256: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ()
    "The digest of each pickled file, as FILE=DIGEST; a file with another content is refused."
    gguf: bool = False
    "Write a GGUF model and its vision projector for llama.cpp instead."
    type: Literal["bf16", "f16", "f32", "q8_0"] | None = None
    "Type of the matrices in GGUF files; bf16 if not given."


def convert(source: Path, *, out: Path, config: Flat[ConvertConfig] = ConvertConfig()) -> int:
    """Convert the checkpoint folder SOURCE to the plain layout of transformers, or to GGUF files, in
    the folder OUT.

    Reads what transformers of any version wrote, and the original layout of InternVL without
    running its code. Writes weights, configuration, tokenizer, processor, a run card with the
    hashes of what was read, and a manifest.

    Args:
        source: Folder of a checkpoint.
        out: Folder for the converted checkpoint.
    """
    from lingshu.models.convert import Conversion
    from lingshu.models.convert import convert as convert_checkpoint
    from lingshu.models.gguf import export_gguf

    if config.type is not None and not config.gguf:
        raise ConfigError(f"--type {config.type} is that of GGUF files; give --gguf as well.")
    if config.gguf and config.dtype != "same":
        raise ConfigError(f"--dtype {config.dtype} is not for GGUF files; give --type instead.")
    pins = dict(_parse_pin(text) for text in config.sha256)
    conversion = Conversion(source, config.dtype, config.allow_pickle, pins)
    if config.gguf:
        exported = export_gguf(conversion, out, gguf_type=config.type or "bf16")
        _print_result(exported.counts, exported.notes)
        print(f"model: {exported.model}\nprojector: {exported.projector}")
        return 0
    converted = convert_checkpoint(conversion, out)
    print(f"layout: {converted.layout}")
    _print_result(converted.counts, converted.notes)
    print(f"converted: {out}")
    return 0


def _print_result(counts: Mapping[str, int], notes: Sequence[str]) -> None:
    print(", ".join(f"{name} {count:,}" for name, count in counts.items()))
    for note in notes:
        print(f"note: {note}")


def _parse_pin(text: str) -> tuple[str, str]:
    name, _, digest = text.rpartition("=")
    if not name:
        raise ConfigError(f"--sha256 {text}: give FILE=DIGEST, such as pytorch_model.bin=9f86d0...")
    return name, digest
