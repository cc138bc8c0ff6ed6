"""Answers through vLLM in this process (`vllm:MODEL`, a checkpoint folder or hub id): the fast way
on one GPU.

vLLM is installed in a separate environment (extra `vllm`). It gets the chat template, the end tokens
and the forbidden tokens that the engine of a checkpoint uses. On several GPUs `--vllm.*` options
divide the work, or its server does by itself, and the engine for addresses sends it requests:

    vllm serve MODEL --data-parallel-size 8
    lingshu eval http://127.0.0.1:8000/v1#MODEL TASK --concurrency 256 --out OUT

The seed of a reply depends on (seed, sample, generation) only. vLLM's arithmetic depends on what it
batches together, so that replies of two runs may differ where two tokens are nearly equally likely.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from lingshu.core.confidence import TokenLogProbs, with_log_probs
from lingshu.core.errors import EngineError, ImageError, MissingExtraError, one_line
from lingshu.core.files import digest
from lingshu.core.types import (
    CheckpointOptions,
    Engine,
    EngineOptions,
    Reply,
    Sample,
    Sampling,
    VllmOptions,
)
from lingshu.engines._requests import chat_messages, pending_requests, png_encoder
from lingshu.imaging.read import ShardReader

PREFIX = "vllm:"
# vLLM batches by itself; a list this long keeps it busy, and is what an interruption costs at most.
BATCH_SIZE = 256
# vLLM reserves memory for the largest prompt; published medical benchmarks show up to seven images
# at once.
MAX_IMAGES_PER_PROMPT = 8
MIN_LOGIT_BIAS = -100.0  # the lowest bias that vLLM takes


def load(model: str, options: EngineOptions) -> Engine:
    """The engine for `vllm:MODEL`.

    Raises:
        MissingExtraError: vLLM is not installed.
        ArtifactError, InputError: the model or the chat template cannot be used.
    """
    name = model.removeprefix(PREFIX)
    return load_vllm(name, options.vllm, options.checkpoint, top_log_probs=options.top_log_probs)


def load_vllm(
    name: str,
    options: VllmOptions,
    checkpoint: CheckpointOptions | None = None,
    *,
    top_log_probs: int = 0,
) -> VllmEngine:
    """vLLM on a checkpoint folder or hub id.

    Of `checkpoint`, the chat template and the repetition penalty are used.

    Raises:
        MissingExtraError: vLLM is not installed.
        ArtifactError, InputError: the model or the chat template cannot be used.
    """
    try:
        import vllm  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise MissingExtraError.of("vllm", "vllm") from error
    from lingshu.models.inference_settings import prompt_changes
    from lingshu.models.load import identify, open_processor, short_name
    from lingshu.weights.chat_template import read_named_template

    _, model_digest = identify(name)
    checkpoint = checkpoint or CheckpointOptions()
    template = checkpoint.chat_template
    processor = open_processor(
        name, template=None if template is None else read_named_template(template)
    )
    engine_args: dict[str, Any] = {
        key: value
        for key, value in asdict(options).items()
        if key != "stop_token_ids" and value != getattr(VllmOptions(), key)
    }
    llm = vllm.LLM(
        model=name,
        seed=0,
        trust_remote_code=False,
        limit_mm_per_prompt={"image": MAX_IMAGES_PER_PROMPT},
        **engine_args,
    )
    changed = prompt_changes(checkpoint, processor)
    if options.stop_token_ids:
        changed["stop_token_ids"] = sorted(options.stop_token_ids)
    return VllmEngine(
        llm,
        vllm.SamplingParams,
        short_name(name),
        digest([model_digest, changed]) if changed else model_digest,
        ReplySettings(
            processor.template.text,
            tuple(sorted({*processor.tokens.stop_ids, *options.stop_token_ids})),
            processor.tokens.never_sampled,
            checkpoint.repetition_penalty,
            top_log_probs,
        ),
        processor.notes,
    )


@dataclass(frozen=True)
class ReplySettings:
    """What each request to vLLM carries besides its messages and sampling."""

    chat_template: str
    stop_token_ids: tuple[int, ...]
    never_sampled: tuple[int, ...]
    repetition_penalty: float = 1.0
    top_log_probs: int = 0


class VllmEngine:
    """An engine over a vllm.LLM; see the module's first lines for what it guarantees."""

    endpoint: str | None = None

    def __init__(
        self,
        llm: Any,
        params: Any,
        model: str,
        digest: str,
        reply_settings: ReplySettings,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.model, self.digest, self.notes = model, digest, notes
        self._llm, self._params = llm, params
        self._reply_settings = reply_settings
        self._logit_bias = dict.fromkeys(reply_settings.never_sampled, MIN_LOGIT_BIAS)

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
            outputs = self._llm.chat(
                [turns for _, _, turns in prompts],
                params,
                use_tqdm=False,
                chat_template=self._reply_settings.chat_template,
            )
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
            stop_token_ids=list(self._reply_settings.stop_token_ids),
            # Also without a penalty: vLLM would take that of generation_config.json.
            repetition_penalty=self._reply_settings.repetition_penalty,
            logprobs=self._reply_settings.top_log_probs or None,
        )


def _reply(sample: Sample, generation: int, output: Any) -> Reply:
    completion = output.outputs[0]
    ids, finish = tuple(completion.token_ids), completion.finish_reason
    counts = len(output.prompt_token_ids), len(ids)
    reply = Reply(sample.id, completion.text, generation, finish, *counts, token_ids=ids)
    known = getattr(completion, "logprobs", None)
    tokens = [_token(token, entries) for token, entries in zip(ids, known or (), strict=False)]
    return with_log_probs(reply, tokens)


def _token(token_id: int, entries: Mapping[int, Any]) -> TokenLogProbs:
    """A token of vLLM with those at its place, by their text."""
    texts = {key: entry.decoded_token or "" for key, entry in entries.items()}
    alternatives = {texts[key]: entry.logprob for key, entry in entries.items()}
    return TokenLogProbs(texts[token_id], entries[token_id].logprob, alternatives)
