"""Answers through vLLM in this process (`vllm:MODEL`, a checkpoint folder or hub id): the fast way
on one GPU.

vLLM is installed in a separate environment (extra `vllm`). On several GPUs its server divides the
work by itself, and the engine for addresses sends it requests:

    vllm serve MODEL --data-parallel-size 8
    lingshu eval http://127.0.0.1:8000/v1#MODEL TASK --concurrency 256 --out OUT

The seed of a reply depends on (seed, sample, generation) only. vLLM's arithmetic depends on what it
batches together, so that replies of two runs may differ where two tokens are nearly equally likely.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from lingshu.core.errors import EngineError, ImageError, MissingExtraError, one_line
from lingshu.core.types import Engine, EngineOptions, Reply, Sample, Sampling
from lingshu.engines._requests import chat_messages, pending_requests, png_encoder
from lingshu.imaging.read import ShardReader

PREFIX = "vllm:"
# vLLM batches by itself; a list this long keeps it busy, and is what an interruption costs at most.
BATCH_SIZE = 256
# vLLM reserves memory for the largest prompt; published medical benchmarks show up to seven images
# at once.
MAX_IMAGES_PER_PROMPT = 8
MIN_LOGIT_BIAS = -100.0  # the lowest bias that vLLM takes


def load(model: str, options: EngineOptions) -> Engine:  # noqa: ARG001
    """The engine for `vllm:MODEL`.

    Raises:
        MissingExtraError: vLLM is not installed.
        ArtifactError: the model cannot be used.
    """
    return load_vllm(model.removeprefix(PREFIX))


def load_vllm(name: str, *, gpu_memory_utilization: float | None = None) -> VllmEngine:
    """vLLM on a checkpoint folder or hub id, with at most this share of the GPU's memory (None:
    vLLM's own default).

    Raises:
        MissingExtraError: vLLM is not installed.
        ArtifactError: the model cannot be used.
    """
    try:
        import vllm  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("vllm", "vllm") from error
    from lingshu.models.load import identify, short_name

    family, model_digest = identify(name)
    engine_args: dict[str, Any] = {"limit_mm_per_prompt": {"image": MAX_IMAGES_PER_PROMPT}}
    if gpu_memory_utilization is not None:
        engine_args["gpu_memory_utilization"] = gpu_memory_utilization
    llm = vllm.LLM(model=name, seed=0, trust_remote_code=False, **engine_args)
    vocab = llm.get_tokenizer().get_vocab()
    never_sampled = sorted(vocab[token] for token in family.never_sampled if token in vocab)
    return VllmEngine(llm, vllm.SamplingParams, short_name(name), model_digest, never_sampled)


class VllmEngine:
    """An engine over a vllm.LLM; see the module's first lines for what it guarantees."""

    endpoint: str | None = None

    def __init__(
        self, llm: Any, params: Any, model: str, digest: str, never_sampled: Sequence[int]
    ) -> None:
        self.model, self.digest = model, digest
        self._llm, self._params = llm, params
        self._logit_bias = dict.fromkeys(never_sampled, MIN_LOGIT_BIAS)

    def generate(
        self,
        samples: Sequence[Sample],
        sampling: Sampling,
        *,
        skip: Container[tuple[str, int]] = (),
    ) -> Iterator[list[Reply]]:
        """Replies `BATCH_SIZE` at a time; an unreadable image gives an error reply."""
        requests = pending_requests(samples, sampling, skip)
        with ShardReader() as shards:
            encode_image = png_encoder(shards)
            while batch := list(islice(requests, BATCH_SIZE)):
                prompts: list[tuple[Sample, int, list[dict[str, Any]]]] = []
                replies: list[Reply] = []
                for sample, generation in batch:
                    try:
                        prompts.append((sample, generation, chat_messages(sample, encode_image)))
                    except ImageError as error:
                        replies.append(Reply(sample.id, None, generation, error=one_line(error)))
                yield [*replies, *self._generate_replies(prompts, sampling)]

    def reload(self, folder: Path) -> None:
        """Continue with the weights of another checkpoint of the same model; nothing cached of the
        old ones is used again.

        Raises:
            EngineError: vLLM kept its old prefixes.
        """
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        self._llm.reset_mm_cache()
        # The workers dropped what they encoded; the scheduler that relies on it has to drop it too.
        self._llm.llm_engine.engine_core.reset_encoder_cache()
        if not self._llm.reset_prefix_cache():
            raise EngineError(
                "vLLM did not release prefixes computed with the old weights; start it with"
                " enable_prefix_caching=False."
            )

    def _generate_replies(
        self, prompts: Sequence[tuple[Sample, int, list[dict[str, Any]]]], sampling: Sampling
    ) -> list[Reply]:
        if not prompts:
            return []
        params = [
            self._sampling(sampling, sample.id, generation) for sample, generation, _ in prompts
        ]
        try:
            outputs = self._llm.chat([turns for _, _, turns in prompts], params, use_tqdm=False)
        except ValueError as error:
            # One prompt that vLLM refuses (too long, too many images) fails its whole list: answer
            # each by itself.
            if len(prompts) == 1:
                return [Reply(prompts[0][0].id, None, prompts[0][1], error=one_line(error)[:200])]
            single = (self._generate_replies([prompt], sampling) for prompt in prompts)
            return [reply for replies in single for reply in replies]
        pairs = zip(prompts, outputs, strict=True)
        return [_reply(sample, generation, output) for (sample, generation, _), output in pairs]

    def _sampling(self, sampling: Sampling, sample_id: str, generation: int) -> Any:
        seed_digest = hashlib.sha256(f"{sampling.seed}|{generation}|{sample_id}".encode()).digest()
        return self._params(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=int.from_bytes(seed_digest[:4], "big"),
            logit_bias=self._logit_bias,
        )


def _reply(sample: Sample, generation: int, output: Any) -> Reply:
    completion = output.outputs[0]
    ids, finish = tuple(completion.token_ids), completion.finish_reason
    counts = len(output.prompt_token_ids), len(ids)
    return Reply(sample.id, completion.text, generation, finish, *counts, token_ids=ids)
