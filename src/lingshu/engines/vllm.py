"""Answers through vLLM in this process (`vllm:MODEL`, a checkpoint folder or hub id): the fast way
on one GPU.

vLLM is installed in an environment of its own (extra `vllm`). Over several GPUs its server shares
the work by itself, and the engine for addresses asks it:

    vllm serve MODEL --data-parallel-size 8
    lingshu eval http://127.0.0.1:8000/v1#MODEL TASK --concurrency 256 --out OUT

A draw's seed depends on (seed, sample, copy) alone. vLLM's arithmetic depends on what it batches
together, so that replies of two runs may differ where two tokens are nearly equally likely.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from lingshu.core.engine_options import EngineOptions
from lingshu.core.errors import EngineError, ImageError, MissingExtraError, one_line
from lingshu.core.types import Engine, Image, Reply, Sample, Sampling
from lingshu.engines._chat import messages
from lingshu.imaging.read import ShardReader, decode, image_bytes, image_name, png_bytes

PREFIX = "vllm:"
# vLLM batches by itself; a list this long keeps it busy, and is what a kill costs at most.
BATCH_SIZE = 256
# vLLM sets memory aside for the largest prompt; published medical benchmarks show up to seven
# images at once.
MAX_IMAGES_PER_PROMPT = 8
MIN_LOGIT_BIAS = -100.0  # the lowest bias that vLLM takes


def load(model: str, options: EngineOptions) -> Engine:  # noqa: ARG001 - vLLM batches and places by itself
    """The engine for `vllm:MODEL`.

    Raises:
        MissingExtra: vLLM is not installed.
        ArtefactError: the model cannot be used.
    """
    return load_vllm(model.removeprefix(PREFIX))


def load_vllm(name: str, *, gpu_memory_utilization: float | None = None) -> VllmEngine:
    """vLLM on a checkpoint folder or hub id, with at most the share `memory` of the GPU's memory
    (None: vLLM's own default).

    Raises:
        MissingExtra: vLLM is not installed.
        ArtefactError: the model cannot be used.
    """
    try:
        import vllm  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("vllm", "vllm") from error
    from lingshu.models.load import identify

    family, model_digest = identify(name)
    engine_args: dict[str, Any] = {"limit_mm_per_prompt": {"image": MAX_IMAGES_PER_PROMPT}}
    if gpu_memory_utilization is not None:
        engine_args["gpu_memory_utilization"] = gpu_memory_utilization
    llm = vllm.LLM(model=name, seed=0, trust_remote_code=False, **engine_args)
    vocab = llm.get_tokenizer().get_vocab()
    never_sampled = sorted(vocab[token] for token in family.never_sampled if token in vocab)
    return VllmEngine(
        llm,
        vllm.SamplingParams,
        Path(name).name if Path(name).is_dir() else name,
        model_digest,
        never_sampled,
    )


class VllmEngine:
    """An engine over a vllm.LLM; see the module's first lines for what it promises."""

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
        """Replies `AT_A_TIME` at a time, in the order of the samples; one that cannot be asked gets
        an error reply.
        """
        requests = (
            (sample, copy)
            for sample in samples
            for copy in range(sampling.num_generations)
            if (sample.id, copy) not in skip
        )
        with ShardReader() as shards:

            def encode_image(image: Image) -> bytes:
                return png_bytes(decode(image_bytes(image, shards=shards), name=image_name(image)))

            while batch := list(islice(requests, BATCH_SIZE)):
                prompts: list[tuple[Sample, int, list[dict[str, Any]]]] = []
                replies: list[Reply] = []
                for sample, copy in batch:
                    try:
                        prompts.append((sample, copy, messages(sample, encode_image=encode_image)))
                    except ImageError as error:
                        replies.append(Reply(sample.id, None, copy, error=one_line(error)))
                yield [*replies, *self._generate_replies(prompts, sampling)]

    def reload(self, folder: Path) -> None:
        """Go on with the weights of another checkpoint of the same model; nothing cached of the old
        ones is used again.

        Raises:
            EngineError: vLLM kept its old prefixes.
        """
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        self._llm.reset_mm_cache()
        # The workers forgot what they encoded; the scheduler that counts on it has to forget it,
        # too.
        self._llm.llm_engine.engine_core.reset_encoder_cache()
        if not self._llm.reset_prefix_cache():
            raise EngineError(
                "vLLM did not let go of prefixes computed with the old weights; start it with"
                " enable_prefix_caching=False."
            )

    def _generate_replies(
        self, prompts: Sequence[tuple[Sample, int, list[dict[str, Any]]]], sampling: Sampling
    ) -> list[Reply]:
        if not prompts:
            return []
        params = [self._sampling(sampling, sample.id, copy) for sample, copy, _ in prompts]
        try:
            outputs = self._llm.chat([turns for _, _, turns in prompts], params, use_tqdm=False)
        except ValueError as error:
            # One prompt that vLLM refuses (too long, too many images) fails its whole list: find
            # it, answer the others.
            if len(prompts) == 1:
                return [Reply(prompts[0][0].id, None, prompts[0][1], error=one_line(error)[:200])]
            return [
                reply for prompt in prompts for reply in self._generate_replies([prompt], sampling)
            ]
        return [
            _reply(sample, copy, output)
            for (sample, copy, _), output in zip(prompts, outputs, strict=True)
        ]

    def _sampling(self, sampling: Sampling, sample_id: str, copy: int) -> Any:
        seed_digest = hashlib.sha256(f"{sampling.seed}|{copy}|{sample_id}".encode()).digest()
        return self._params(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=int.from_bytes(seed_digest[:4], "big"),
            logit_bias=self._logit_bias,
        )


def _reply(sample: Sample, copy: int, output: Any) -> Reply:
    completion = output.outputs[0]
    token_ids = tuple(completion.token_ids)
    return Reply(
        sample.id,
        completion.text,
        copy,
        completion.finish_reason,
        len(output.prompt_token_ids),
        len(token_ids),
        token_ids=token_ids,
    )
