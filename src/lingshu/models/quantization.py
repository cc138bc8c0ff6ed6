"""Weights in 8 and 4 bits: the language model of a 16-bit checkpoint is quantized by bitsandbytes while
it is read, one tensor at a time.

The vision tower, the projector, the embedding and the output head stay in 16 bits: they are a small
part of the bytes, and small findings in images depend on them.
"""

from __future__ import annotations

import importlib
import logging
import sys
from typing import Any, Literal

import torch

from lingshu.core.errors import MissingExtraError
from lingshu.models.base import VisionLanguageFamily

Quantization = Literal["int8", "int4"]


def require_bitsandbytes() -> None:
    """Import bitsandbytes before anything large is read.

    Raises:
        MissingExtraError: it or accelerate is not installed.
    """
    try:
        importlib.import_module("accelerate")

        # On some CPUs bitsandbytes would fetch compiled code from the hub when it is imported and
        # the package `kernels` is installed; its own is used.
        installed, sys.modules["kernels"] = sys.modules.get("kernels"), None  # type: ignore[assignment]
        bitsandbytes_log = logging.getLogger("bitsandbytes")
        level = bitsandbytes_log.level
        # It warns that this code was not found, and in every layer of a type conversion.
        bitsandbytes_log.setLevel(logging.ERROR)
        try:
            importlib.import_module("bitsandbytes")
        except ModuleNotFoundError:
            bitsandbytes_log.setLevel(level)
            raise
        finally:
            del sys.modules["kernels"]
            if installed is not None:
                sys.modules["kernels"] = installed
    except ModuleNotFoundError as error:
        raise MissingExtraError.of(error.name or "bitsandbytes", "quantization") from error


def loading_arguments(
    quantization: Quantization | None, family: VisionLanguageFamily, *, device: str
) -> dict[str, Any]:
    """What `from_pretrained` needs in addition for weights in 8 or 4 bits, on `device` from the start.

    int8 is LLM.int8 (arXiv 2208.07339): rows of weights and activations in 8 bits, activations above
    6 apart in 16 bits. int4 is 4-bit NormalFloat in blocks of 64 (QLoRA, arXiv 2305.14314, section
    3), computed with in bfloat16.

    Raises:
        MissingExtraError: the library is not installed.
    """
    if quantization is None:
        return {}
    require_bitsandbytes()
    from transformers import BitsAndBytesConfig

    kept = [
        prefix.removesuffix(".")
        for part in ("vision", "projector")
        for prefix in family.parts[part]
    ]
    settings: dict[str, Any] = {"llm_int8_skip_modules": [*kept, "lm_head"]}
    if quantization == "int8":
        settings["load_in_8bit"] = True
    else:
        settings |= {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_compute_dtype": torch.bfloat16,
        }
    return {"quantization_config": BitsAndBytesConfig(**settings), "device_map": {"": device}}


def allow_gradients(model: Any) -> None:
    """Let gradients pass through 4-bit layers on a CPU, in place, where bitsandbytes repacks weights for
    answers without gradients and keeps them so.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    # Reading its state is what unpacks a layer.
    model.state_dict()
