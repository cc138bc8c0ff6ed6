"""`lingshu convert`: a checkpoint of another program in the plain layout of today's transformers."""

from __future__ import annotations

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


def convert(source: Path, *, out: Path, config: Flat[ConvertConfig] = ConvertConfig()) -> int:
    """Convert the checkpoint folder SOURCE to the plain layout of transformers, in the folder OUT.

    Reads what transformers of any version wrote, and the original layout of InternVL without
    running its code. Writes weights, configuration, tokenizer, processor, a run card with the
    hashes of what was read, and a manifest.

    Args:
        source: Folder of a checkpoint.
        out: Folder for the converted checkpoint.
    """
    from lingshu.models.convert import Conversion
    from lingshu.models.convert import convert as convert_checkpoint

    pins = dict(_parse_pin(text) for text in config.sha256)
    conversion = Conversion(source, config.dtype, config.allow_pickle, pins)
    converted = convert_checkpoint(conversion, out)
    print(f"layout: {converted.layout}")
    print(", ".join(f"{name} {count:,}" for name, count in converted.counts.items()))
    for note in converted.notes:
        print(f"note: {note}")
    print(f"converted: {out}")
    return 0


def _parse_pin(text: str) -> tuple[str, str]:
    name, _, digest = text.rpartition("=")
    if not name:
        raise ConfigError(f"--sha256 {text}: give FILE=DIGEST, such as pytorch_model.bin=9f86d0...")
    return name, digest
