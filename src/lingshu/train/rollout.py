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

from lingshu.core.errors import ConfigError, EngineError, one_line
from lingshu.core.nouns import Engine, Reply, Sample, Sampling
from lingshu.core.options import EngineOptions
from lingshu.engines import openai, vllm
from lingshu.engines.hf import HfEngine
from lingshu.models.load import Loaded
from lingshu.models.processor import Encoded
from lingshu.train.config import Sampler
from lingshu.train.step import Trainer
from lingshu.train.whole import Copy
from lingshu.train.world import World

# the folder under OUT that vLLM or a server reads the weights of each round from
WEIGHTS = "rollout"
RELOAD_TIMEOUT_S = 600.0  # reading tens of gigabytes
NEVER = -100  # the lowest bias that an OpenAI-compatible server takes

# Writes the learner's weights as a checkpoint into a folder.
Save = Callable[[Path], None]


class Rollout(NamedTuple):
    """A reply drawn for learning.

    `token_ids` end in the end token where `finish` is "stop"; "length" was cut.
    """

    id: str
    copy: int
    token_ids: tuple[int, ...]
    text: str
    finish: str


class Rollouts(Protocol):
    """Whoever draws replies."""

    def refresh(self, save: Save) -> None:
        """Take up the learner's weights, which `save` writes for whoever does not share them.

        Raises:
            EngineError: the weights could not be given on.
        """
        ...

    def draw(self, samples: Sequence[Sample], sampling: Sampling) -> list[Rollout]:
        """The replies to every sample, in any order; those that failed are missing.

        Raises:
            EngineError: nobody answers at all.
        """
        ...


def rollouts_of(
    sampler: Sampler,
    trainer: Trainer,
    loaded: Loaded,
    encode: Callable[[Sample], Encoded],
    out: Path,
) -> Rollouts:
    """Who draws the replies of a stage; `encode` makes a question's inputs for the model in this
    process.

    Raises:
        ConfigError: vLLM is to run in one process of several. InputError: an address that cannot be
            used.
    """
    if sampler.engine == "hf":
        copied = Copy(trainer) if trainer.world.sharded else None
        drawing = loaded if copied is None else replace(loaded, model=copied.model)
        return Embedded(drawing, encode, sampler.batch, trainer.bfloat16, copied)
    tokenizer, never = loaded.processor.tokenizer, loaded.processor.never_sampled
    if sampler.engine == "vllm":
        if trainer.world.sharded:
            raise ConfigError(
                "sampler.engine is vllm, which starts processes of its own and cannot run under"
                " torchrun; give a server."
            )
        return InProcess(out / WEIGHTS, tokenizer, sampler.memory)
    engine = openai.load(sampler.engine, EngineOptions(concurrency=sampler.concurrency))
    assert isinstance(engine, openai.OpenAI)
    # vLLM's server gives tokens with `return_token_ids`; one that does not know the key leaves them
    # out.
    extra: dict[str, object] = {
        "return_token_ids": True,
        "logit_bias": {str(token): NEVER for token in never},
    }
    return Served(
        replace(engine, extra=extra), sampler.reload, out / WEIGHTS, tokenizer, trainer.world
    )


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode, without a copy of the weights; afterwards the mode it was in."""
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)


@dataclass(frozen=True)
class Embedded:
    """The trained model itself, each prompt computed once for its copies; a draw depends on (seed,
    sample, copy) alone.

    Where the model is sharded, a whole copy of it in each process: drawing gathers a block for
    every token otherwise.
    """

    loaded: Loaded
    encode: Callable[[Sample], Encoded]
    batch: int
    bfloat16: bool
    copied: Copy | None = None

    def refresh(self, save: Save) -> None:
        del save  # the weights are the learner's own
        if self.copied is not None:
            self.copied.fill()

    def draw(self, samples: Sequence[Sample], sampling: Sampling) -> list[Rollout]:
        engine = HfEngine(self.loaded, batch_size=self.batch, encode=self.encode)
        device = self.loaded.model.device.type
        with (
            evaluating(self.loaded.model),
            torch.autocast(device, torch.bfloat16, enabled=self.bfloat16),
        ):
            return list(_rollouts(engine, samples, sampling, self.loaded.processor.tokenizer))


class InProcess:
    """vLLM in this process; opened on the first weights that it is given."""

    def __init__(self, folder: Path, tokenizer: Any, memory: float) -> None:
        self._folder, self._tokenizer, self._memory = folder, tokenizer, memory
        self._engine: vllm.Vllm | None = None

    def refresh(self, save: Save) -> None:
        save(self._folder)
        if self._engine is None:
            self._engine = vllm.start(str(self._folder), memory=self._memory)
        else:
            self._engine.reload(self._folder)

    def draw(self, samples: Sequence[Sample], sampling: Sampling) -> list[Rollout]:
        assert self._engine is not None, "refresh comes first"
        return list(_rollouts(self._engine, samples, sampling, self._tokenizer))


@dataclass(frozen=True)
class Served:
    """A server that speaks the OpenAI wire format and reads weights from `folder` when it is told
    to.
    """

    engine: openai.OpenAI
    reload: tuple[str, ...]
    folder: Path
    tokenizer: Any
    world: World

    def refresh(self, save: Save) -> None:
        save(self.folder)
        self.world.lead(self._tell)

    def _tell(self) -> None:
        for address in self.reload:
            # What vLLM's /collective_rpc takes; its /reset_prefix_cache, and a server of one's own,
            # read what they need.
            post(
                address,
                {
                    "method": "reload_weights",
                    "kwargs": {"weights_path": str(self.folder.resolve())},
                },
            )

    def draw(self, samples: Sequence[Sample], sampling: Sampling) -> list[Rollout]:
        return list(_rollouts(self.engine, samples, sampling, self.tokenizer))


def _rollouts(
    engine: Engine, samples: Sequence[Sample], sampling: Sampling, tokenizer: Any
) -> Iterator[Rollout]:
    for replies in engine.generate(samples, sampling):
        for reply in replies:
            if reply.text is not None:
                ids = token_ids(reply, tokenizer)
                if ids:
                    yield Rollout(reply.id, reply.copy, ids, reply.text, reply.finish or "length")


def token_ids(reply: Reply, tokenizer: Any) -> tuple[int, ...]:
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


def post(address: str, body: Mapping[str, object]) -> None:
    """Send JSON to an address of the configuration and wait until it is done.

    Raises:
        EngineError: no answer, or another than 200 to 299.
    """
    request = urllib.request.Request(
        address, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    # Neither proxies of the environment nor redirects: requests go where the configuration says.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
    try:
        with opener.open(request, timeout=RELOAD_TIMEOUT_S) as response:
            response.read()
    except (OSError, HTTPException) as error:
        raise EngineError(
            f"{address} did not take the new weights ({one_line(error)}); see"
            " docs/reinforcement.md."
        ) from error
