"""What generates the replies of a round: the trained model itself, vLLM here, or a server."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from lingshu.core.errors import ConfigError, EngineError, one_line
from lingshu.core.types import Engine, EngineOptions, Reply, Sample, Sampling, VllmOptions
from lingshu.engines import openai, vllm
from lingshu.engines.batch import direct_opener
from lingshu.engines.hf import HfEngine
from lingshu.models.load import LoadedModel
from lingshu.models.processor import EncodedSample, Processor
from lingshu.train.config import Sampler
from lingshu.train.distributed import DistributedContext
from lingshu.train.step import Trainer
from lingshu.train.weight_sync import FullModelCopy

WEIGHTS_FOLDER = "rollout"  # under OUT; vLLM or a server reads the weights of each round from it
RELOAD_TIMEOUT_S = 600.0  # reading tens of gigabytes
MIN_LOGIT_BIAS = -100  # the lowest bias that an OpenAI-compatible server takes

# Writes the learner's weights as a checkpoint into a folder.
SaveWeights = Callable[[Path], None]


class Rollout(NamedTuple):
    """A reply sampled for learning; `token_ids` end in the end token where `finish` is "stop"."""

    id: str
    generation_index: int
    token_ids: tuple[int, ...]
    text: str
    finish: str


class RolloutEngine(Protocol):
    def refresh(self, save: SaveWeights) -> None:
        """Take over the learner's weights, which `save` writes; EngineError if that fails."""
        ...

    def generate(self, samples: Sequence[Sample], sampling: Sampling) -> list[Rollout]:
        """The replies to every sample, in any order; failed ones are missing."""
        ...


def open_rollout_engine(
    sampler: Sampler,
    trainer: Trainer,
    loaded: LoadedModel,
    encode: Callable[[Sample], EncodedSample],
    out: Path,
) -> RolloutEngine:
    """The rollout engine of a stage; `encode` makes the inputs of a question for a model in here.

    Raises:
        ConfigError: vLLM in one process of several. InputError: an address that cannot be used.
    """
    dist_context, folder = trainer.dist_context, out / WEIGHTS_FOLDER
    if sampler.engine == "hf":
        full_copy = FullModelCopy(trainer) if dist_context.is_distributed else None
        model = loaded if full_copy is None else replace(loaded, model=full_copy.model)
        return LocalRollouts(model, encode, sampler.batch, trainer.bfloat16, full_copy)
    processor = loaded.processor
    if sampler.engine == "vllm":
        if dist_context.is_distributed:
            raise ConfigError(
                "sampler.engine is vllm, which starts its own processes and cannot run under"
                " torchrun; give a server."
            )
        return VllmRollouts(folder, processor, sampler.gpu_memory_utilization)
    engine = openai.load(sampler.engine, EngineOptions(concurrency=sampler.concurrency))
    assert isinstance(engine, openai.OpenAIEngine)
    # vLLM's server returns tokens with `return_token_ids`; other servers ignore the key.
    extra_body: dict[str, object] = {
        "return_token_ids": True,
        "logit_bias": dict.fromkeys(map(str, loaded.processor.never_sampled), MIN_LOGIT_BIAS),
    }
    engine = replace(engine, extra_body=extra_body)
    return RemoteRollouts(engine, sampler.reload, folder, processor, dist_context)


@contextmanager
def eval_mode(model: Any) -> Iterator[None]:
    """Evaluation mode for a while, without a copy of the weights."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@dataclass(frozen=True)
class LocalRollouts:
    """The trained model itself; a reply depends on (seed, sample, generation) only.

    A sharded model has a full copy in each process, or every token would gather every block.
    """

    loaded: LoadedModel
    encode: Callable[[Sample], EncodedSample]
    batch: int
    bfloat16: bool
    full_copy: FullModelCopy | None = None

    def refresh(self, save: SaveWeights) -> None:  # noqa: ARG002 - the weights are the learner's
        if self.full_copy is not None:
            self.full_copy.update()

    def generate(self, samples: Sequence[Sample], sampling: Sampling) -> list[Rollout]:
        model = self.loaded.model
        engine = HfEngine(self.loaded, batch_size=self.batch, encode=self.encode)
        autocast = torch.autocast(model.device.type, torch.bfloat16, enabled=self.bfloat16)
        with eval_mode(model), autocast:
            return _rollouts(engine, samples, sampling, self.loaded.processor)


@dataclass
class VllmRollouts:
    """vLLM in this process; opened on the first weights that it is given."""

    folder: Path
    processor: Processor
    gpu_memory_utilization: float
    engine: vllm.VllmEngine | None = None

    def refresh(self, save: SaveWeights) -> None:
        save(self.folder)
        if self.engine is None:
            self.engine = vllm.load_vllm(
                str(self.folder),
                VllmOptions(gpu_memory_utilization=self.gpu_memory_utilization),
            )
        else:
            self.engine.reload(self.folder)

    def generate(self, samples: Sequence[Sample], sampling: Sampling) -> list[Rollout]:
        assert self.engine is not None, "refresh comes first"
        return _rollouts(self.engine, samples, sampling, self.processor)


@dataclass(frozen=True)
class RemoteRollouts:
    """An OpenAI-compatible server that reads weights from `folder` when it is notified."""

    engine: openai.OpenAIEngine
    reload: tuple[str, ...]
    folder: Path
    processor: Processor
    dist_context: DistributedContext

    def refresh(self, save: SaveWeights) -> None:
        save(self.folder)
        self.dist_context.run_on_main(self._notify_servers)

    def _notify_servers(self) -> None:
        # What vLLM's /collective_rpc takes; its /reset_prefix_cache and custom servers read what
        # they need.
        kwargs = {"weights_path": str(self.folder.resolve())}
        for url in self.reload:
            post_json(url, {"method": "reload_weights", "kwargs": kwargs})

    def generate(self, samples: Sequence[Sample], sampling: Sampling) -> list[Rollout]:
        return _rollouts(self.engine, samples, sampling, self.processor)


def _rollouts(
    engine: Engine, samples: Sequence[Sample], sampling: Sampling, processor: Processor
) -> list[Rollout]:
    rollouts = []
    for replies in engine.generate(samples, sampling):
        for reply in replies:
            if reply.text is not None and (ids := reply_token_ids(reply, processor)):
                finish = reply.finish or "length"
                rollouts.append(Rollout(reply.id, reply.generation_index, ids, reply.text, finish))
    return rollouts


def reply_token_ids(reply: Reply, processor: Processor) -> tuple[int, ...]:
    """The tokens of a reply, with the end token of one that ended by itself."""
    ids, tokenizer = reply.token_ids, processor.tokenizer
    if ids is None:
        # A server that returns no tokens leaves only the text. Tokenized again it may become other
        # tokens than were sampled: the ratio of such a reply is then that of another encoding of
        # the same text, which the clipping bounds.
        ids = tuple(tokenizer(reply.text, add_special_tokens=False)["input_ids"])
    # A checkpoint may name further end tokens besides its tokenizer's.
    end_ids = processor.tokens.stop_ids.union(tokenizer.all_special_ids)
    if reply.finish == "stop" and (not ids or ids[-1] not in end_ids):
        return (*ids, tokenizer.convert_tokens_to_ids(processor.tokens.end_of_turn))
    return ids


def post_json(url: str, body: Mapping[str, object]) -> None:
    """Send JSON and wait for the response; raises EngineError unless its status is 200 to 299."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
    try:
        with direct_opener().open(request, timeout=RELOAD_TIMEOUT_S) as response:
            response.read()
    except (OSError, HTTPException) as error:
        raise EngineError(
            f"{url} did not take the new weights ({one_line(error)}); see docs/reinforcement.md."
        ) from error
