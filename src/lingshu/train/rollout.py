"""Who draws the replies of a round: the trained model itself, vLLM in this process, or a server
that is given the weights.
"""

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

from lingshu.core.engine_options import EngineOptions
from lingshu.core.errors import ConfigError, EngineError, one_line
from lingshu.core.types import Engine, Reply, Sample, Sampling
from lingshu.engines import openai, vllm
from lingshu.engines.hf import HfEngine
from lingshu.models.load import LoadedModel
from lingshu.models.processor import EncodedSample
from lingshu.train.config import Sampler
from lingshu.train.distributed import DistributedContext
from lingshu.train.step import Trainer
from lingshu.train.weight_sync import FullModelCopy

# the folder under OUT that vLLM or a server reads the weights of each round from
WEIGHTS_FOLDER = "rollout"
RELOAD_TIMEOUT_S = 600.0  # reading tens of gigabytes
MIN_LOGIT_BIAS = -100  # the lowest bias that an OpenAI-compatible server takes

# Writes the learner's weights as a checkpoint into a folder.
SaveWeights = Callable[[Path], None]


class Rollout(NamedTuple):
    """A reply drawn for learning.

    `token_ids` end in the end token where `finish` is "stop"; "length" was cut.
    """

    id: str
    copy: int
    token_ids: tuple[int, ...]
    text: str
    finish: str


class RolloutEngine(Protocol):
    """Whoever draws replies."""

    def refresh(self, save: SaveWeights) -> None:
        """Take up the learner's weights, which `save` writes for whoever does not share them.

        Raises:
            EngineError: the weights could not be given on.
        """
        ...

    def generate(self, samples: Sequence[Sample], sampling: Sampling) -> list[Rollout]:
        """The replies to every sample, in any order; those that failed are missing.

        Raises:
            EngineError: nobody answers at all.
        """
        ...


def open_rollout_engine(
    sampler: Sampler,
    trainer: Trainer,
    loaded: LoadedModel,
    encode: Callable[[Sample], EncodedSample],
    out: Path,
) -> RolloutEngine:
    """Who draws the replies of a stage; `encode` makes a question's inputs for the model in this
    process.

    Raises:
        ConfigError: vLLM is to run in one process of several. InputError: an address that cannot be
            used.
    """
    if sampler.engine == "hf":
        full_copy = FullModelCopy(trainer) if trainer.dist_context.is_distributed else None
        rollout_model = loaded if full_copy is None else replace(loaded, model=full_copy.model)
        return LocalRollouts(rollout_model, encode, sampler.batch, trainer.bfloat16, full_copy)
    tokenizer, never_sampled = loaded.processor.tokenizer, loaded.processor.never_sampled
    if sampler.engine == "vllm":
        if trainer.dist_context.is_distributed:
            raise ConfigError(
                "sampler.engine is vllm, which starts processes of its own and cannot run under"
                " torchrun; give a server."
            )
        return VllmRollouts(out / WEIGHTS_FOLDER, tokenizer, sampler.gpu_memory_utilization)
    engine = openai.load(sampler.engine, EngineOptions(concurrency=sampler.concurrency))
    assert isinstance(engine, openai.OpenAIEngine)
    # vLLM's server gives tokens with `return_token_ids`; one that does not know the key leaves them
    # out.
    extra_body: dict[str, object] = {
        "return_token_ids": True,
        "logit_bias": {str(token): MIN_LOGIT_BIAS for token in never_sampled},
    }
    return RemoteRollouts(
        replace(engine, extra=extra_body),
        sampler.reload,
        out / WEIGHTS_FOLDER,
        tokenizer,
        trainer.dist_context,
    )


@contextmanager
def eval_mode(model: Any) -> Iterator[None]:
    """Evaluation mode, without a copy of the weights; afterwards the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@dataclass(frozen=True)
class LocalRollouts:
    """The trained model itself, each prompt computed once for its copies; a draw depends on (seed,
    sample, copy) alone.

    Where the model is sharded, a whole copy of it in each process: drawing gathers a block for
    every token otherwise.
    """

    loaded: LoadedModel
    encode: Callable[[Sample], EncodedSample]
    batch: int
    bfloat16: bool
    full_copy: FullModelCopy | None = None

    def refresh(self, save: SaveWeights) -> None:
        del save  # the weights are the learner's own
        if self.full_copy is not None:
            self.full_copy.update()

    def generate(self, samples: Sequence[Sample], sampling: Sampling) -> list[Rollout]:
        engine = HfEngine(self.loaded, batch_size=self.batch, encode=self.encode)
        device = self.loaded.model.device.type
        with (
            eval_mode(self.loaded.model),
            torch.autocast(device, torch.bfloat16, enabled=self.bfloat16),
        ):
            return list(_rollouts(engine, samples, sampling, self.loaded.processor.tokenizer))


class VllmRollouts:
    """vLLM in this process; opened on the first weights that it is given."""

    def __init__(self, folder: Path, tokenizer: Any, gpu_memory_utilization: float) -> None:
        self._folder, self._tokenizer, self._gpu_memory_utilization = (
            folder,
            tokenizer,
            gpu_memory_utilization,
        )
        self._engine: vllm.VllmEngine | None = None

    def refresh(self, save: SaveWeights) -> None:
        save(self._folder)
        if self._engine is None:
            self._engine = vllm.load_vllm(
                str(self._folder), gpu_memory_utilization=self._gpu_memory_utilization
            )
        else:
            self._engine.reload(self._folder)

    def generate(self, samples: Sequence[Sample], sampling: Sampling) -> list[Rollout]:
        assert self._engine is not None, "refresh comes first"
        return list(_rollouts(self._engine, samples, sampling, self._tokenizer))


@dataclass(frozen=True)
class RemoteRollouts:
    """A server that speaks the OpenAI wire format and reads weights from `folder` when it is told
    to.
    """

    engine: openai.OpenAIEngine
    reload: tuple[str, ...]
    folder: Path
    tokenizer: Any
    dist_context: DistributedContext

    def refresh(self, save: SaveWeights) -> None:
        save(self.folder)
        self.dist_context.run_on_main(self._notify_servers)

    def _notify_servers(self) -> None:
        for url in self.reload:
            # What vLLM's /collective_rpc takes; its /reset_prefix_cache, and a server of one's own,
            # read what they need.
            post_json(
                url,
                {
                    "method": "reload_weights",
                    "kwargs": {"weights_path": str(self.folder.resolve())},
                },
            )

    def generate(self, samples: Sequence[Sample], sampling: Sampling) -> list[Rollout]:
        return list(_rollouts(self.engine, samples, sampling, self.tokenizer))


def _rollouts(
    engine: Engine, samples: Sequence[Sample], sampling: Sampling, tokenizer: Any
) -> Iterator[Rollout]:
    for replies in engine.generate(samples, sampling):
        for reply in replies:
            if reply.text is not None:
                ids = reply_token_ids(reply, tokenizer)
                if ids:
                    yield Rollout(
                        reply.id, reply.generation_index, ids, reply.text, reply.finish or "length"
                    )


def reply_token_ids(reply: Reply, tokenizer: Any) -> tuple[int, ...]:
    """The tokens of a reply, with the end token of one that ended by itself."""
    end = tokenizer.eos_token_id
    # A server that tells no tokens leaves the text alone. Cut anew it may fall into other tokens
    # than were drawn: the ratio of such a reply is then that of another way to say the same, which
    # the clipping bounds.
    ids = (
        reply.token_ids
        if reply.token_ids is not None
        else tuple(tokenizer(reply.text, add_special_tokens=False)["input_ids"])
    )
    # A checkpoint may name further end tokens besides its tokenizer's.
    return (
        (*ids, end)
        if reply.finish == "stop" and (not ids or ids[-1] not in tokenizer.all_special_ids)
        else ids
    )


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def post_json(url: str, body: Mapping[str, object]) -> None:
    """Send JSON to an address of the configuration and wait until it is done.

    Raises:
        EngineError: no answer, or another than 200 to 299.
    """
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    # Neither proxies of the environment nor redirects: requests go where the configuration says.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
    try:
        with opener.open(request, timeout=RELOAD_TIMEOUT_S) as response:
            response.read()
    except (OSError, HTTPException) as error:
        raise EngineError(
            f"{url} did not take the new weights ({one_line(error)}); see docs/reinforcement.md."
        ) from error
