"""Which engine answers for a model's name: echo, rules, an address, a batch service, vLLM, a file
of one's own, or a checkpoint.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import cast

from lingshu.core import registry
from lingshu.core.engine_options import EngineOptions
from lingshu.core.errors import MissingExtraError
from lingshu.core.types import AsyncEngine, Engine
from lingshu.engines._adapter import BlockingEngineAdapter

_TORCH_MODULES = ("torch", "transformers", "tokenizers", "safetensors")


def open_engine(model: str, options: EngineOptions) -> Engine:
    """Open the engine that `model` names.

    "echo", "echo:TEXT", "scripted" and "scripted:RULES.jsonl" need no model; http(s)://host/v1#name
    is an OpenAI-compatible server, and "batch:" before it asks that server's batch service; "vllm:"
    before a checkpoint folder or hub id answers through vLLM in this process; a path ending in .py
    is a module with a function `load(model, options)`; all else is a checkpoint folder or a hub id.

    Raises:
        MissingExtra: the model needs torch, which is not installed.
        InputError, ArtefactError, EngineError: what the engine says is wrong with the name.
    """
    with _require_torch():
        load = cast(
            "Callable[[str, EngineOptions], Engine]",
            registry.get_attribute("engines", engine_name(model), "load"),
        )
        return load(model, options)


def open_async_engine(model: str, options: EngineOptions) -> AsyncEngine:
    """The engine that `model` names, to be asked by many at once; one that only takes whole lists
    is asked question by question.

    Raises:
        MissingExtra, InputError, ArtefactError, EngineError: as engine_for.
    """
    with _require_torch():
        module = registry.load("engines", engine_name(model))
        if hasattr(module, "live"):
            return cast("AsyncEngine", module.live(model, options))
    return BlockingEngineAdapter(open_engine(model, options), max_concurrency=options.concurrency)


@contextlib.contextmanager
def _require_torch() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in _TORCH_MODULES:
            raise MissingExtraError.of(error.name or "torch", "torch") from error
        raise


def engine_name(model: str) -> str:
    """The name on the engines' shelf that a model's name leads to."""
    if model == "echo" or model.startswith("echo:"):
        return "echo"
    if model.startswith(("http://", "https://")):
        return "openai"
    if model.startswith("vllm:"):
        return "vllm"
    if model.startswith("batch:"):
        return "batch"
    if model == "scripted" or model.startswith("scripted:"):
        return "scripted"
    return model if model.endswith(".py") else "hf"
