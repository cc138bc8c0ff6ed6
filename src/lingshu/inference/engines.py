"""The engine that a model's name opens: echo, rules, an address, a batch service, vLLM, a .py file, or
a checkpoint.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from typing import cast

from lingshu.core import registry
from lingshu.core.errors import (
    ConfigError,
    EngineError,
    LingshuError,
    MissingExtraError,
    describe_error,
)
from lingshu.core.types import (
    AsyncEngine,
    CheckpointOptions,
    Engine,
    EngineOptions,
    EventCallback,
    Reply,
    Sample,
    Sampling,
    VllmOptions,
    engine_notes,
    engine_settings,
)
from lingshu.imaging.read import ShardReader, open_image

_TORCH_MODULES = ("torch", "transformers", "tokenizers", "safetensors")


def open_engine(model: str, options: EngineOptions) -> Engine:
    """Open the engine that `model` names.

    "echo", "echo:TEXT", "scripted" and "scripted:RULES.jsonl" need no model; http(s)://host/v1#name
    is an OpenAI-compatible server, and "batch:" before it uses that server's batch service; "vllm:"
    before a checkpoint folder or hub id runs it through vLLM in this process; a path ending in .py
    is a module with a function `load(model, options)`; all else is a checkpoint folder or a hub id.

    Raises:
        MissingExtraError: the model needs torch, which is not installed.
        ConfigError, InputError, ArtifactError, EngineError: the engine cannot be opened.
    """
    check_options(model, options)
    with _require_torch():
        load = cast(
            "Callable[[str, EngineOptions], Engine]",
            registry.get_attribute("engines", engine_name(model), "load"),
        )
        return load(model, options)


def open_async_engine(model: str, options: EngineOptions) -> AsyncEngine:
    """Open the engine of a name for concurrent requests; one that takes lists answers one by one.

    Raises:
        MissingExtraError, InputError, ArtifactError, EngineError: as open_engine.
    """
    check_options(model, options)
    with _require_torch():
        module = registry.load("engines", engine_name(model))
        if hasattr(module, "live"):
            return cast("AsyncEngine", module.live(model, options))
    return BlockingEngineAdapter(open_engine(model, options), max_concurrency=options.concurrency)


def check_options(model: str, options: EngineOptions) -> None:
    """Refuse options that the engine of a model has no use for.

    Raises:
        ConfigError: such an option, which would have no effect.
    """
    name = engine_name(model)
    if name.endswith(".py"):
        return
    used = {"hf": {"*"}, "vllm": {"chat_template", "repetition_penalty"}}.get(name, set())
    for option in fields(CheckpointOptions):
        if getattr(options.checkpoint, option.name) != option.default and not used & {
            "*",
            option.name,
        }:
            raise ConfigError(
                f"--{option.name.replace('_', '-')} is for a checkpoint that is opened in this"
                f" process, not for {model}; leave it out."
            )
    if name != "vllm" and options.vllm != VllmOptions():
        raise ConfigError(f"--vllm options are for vllm:MODEL, not for {model}; leave them out.")


@contextlib.contextmanager
def _require_torch() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in _TORCH_MODULES:
            raise MissingExtraError.of(error.name or "torch", "torch") from error
        raise


def engine_name(model: str) -> str:
    """The name of the engine in the registry."""
    prefix, colon, _ = model.partition(":")
    if prefix in ("echo", "scripted") or (colon and prefix in ("vllm", "batch")):
        return prefix
    if model.startswith(("http://", "https://")):
        return "openai"
    return model if model.endswith(".py") else "hf"


class BlockingRequest:
    """A request to a blocking engine; the handle that cancels it."""

    def __init__(self, on_event: EventCallback) -> None:
        self._on_event, self._lock, self.done = on_event, threading.Lock(), False

    def cancel(self) -> None:
        with self._lock:
            self.done = True

    def finish(self, *events: str | Reply | LingshuError) -> None:
        with self._lock:
            if not self.done:
                self.done = True
                for event in events:
                    self._on_event(event)


class BlockingEngineAdapter:
    """Lets any engine take concurrent requests: one sample each, its reply sent in one piece.

    Engines behind an address get requests concurrently, others one after another. A cancelled
    request is dropped here; an address that is answering it may continue to its end.
    """

    streams = False

    def __init__(self, engine: Engine, *, max_concurrency: int = 1) -> None:
        self.engine, self.model = engine, engine.model
        self.digest, self.endpoint = engine.digest, engine.endpoint
        self.notes, self.settings = engine_notes(engine), engine_settings(engine)
        self._pool = ThreadPoolExecutor(max_concurrency if engine.endpoint else 1, "lingshu-ask")
        self._lock = threading.Lock()
        self._pending: set[BlockingRequest] = set()
        self.running = 0

    @property
    def waiting(self) -> int:
        with self._lock:
            return max(0, sum(not request.done for request in self._pending) - self.running)

    def submit(
        self,
        sample: Sample,
        sampling: Sampling,
        on_event: EventCallback,
        *,
        stop: Sequence[str] = (),
    ) -> BlockingRequest:
        request, sampling = BlockingRequest(on_event), replace(sampling, num_generations=1)
        with self._lock:
            self._pending.add(request)
        try:
            self._pool.submit(self._answer, request, sample, sampling, tuple(stop))
        except RuntimeError as error:
            raise EngineError("the engine is closed; open it again.") from error
        return request

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            pending = list(self._pending)
        for request in pending:
            request.finish(EngineError("the engine was closed; ask again later."))

    def _answer(
        self, request: BlockingRequest, sample: Sample, sampling: Sampling, stop: Sequence[str]
    ) -> None:
        try:
            if request.done:
                return
            with self._lock:
                self.running += 1
            try:
                reply = self._reply(sample, sampling)
            finally:
                with self._lock:
                    self.running -= 1
            if reply.text is None:
                request.finish(EngineError(reply.error or "there is no reply."))
                return
            ends = [end for text in stop if text and (end := reply.text.find(text)) >= 0]
            text = reply.text[: min(ends)] if ends else reply.text
            finish = "stop" if ends else reply.finish or "stop"
            request.finish(text, replace(reply, text=text, finish=finish))
        except LingshuError as error:
            request.finish(error)
        except Exception as error:
            request.finish(EngineError(f"the engine failed: {describe_error(error)}"))
        finally:
            with self._lock:
                self._pending.discard(request)

    def _reply(self, sample: Sample, sampling: Sampling) -> Reply:
        with ShardReader() as shards:
            # An engine reports a bad image in its reply, which would look like its own failure.
            for image in sample.images:
                open_image(image, shards=shards)
        for replies in self.engine.generate([sample], sampling):
            for reply in replies:
                return reply
        raise EngineError(f"{self.model} gave no reply.")
