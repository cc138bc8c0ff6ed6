"""GRPO in one readable file: python grpo_in_one_file.py [--warm 500 --updates 40 --seed 0]   (about two minutes of one core)

The same algorithm as lingshu.train.grpo without its accounting, resuming and engines. A tiny
Qwen2.5-VL sees synthetic phantoms. First it is trained to answer half of the questions as
<think>what it sees</think><answer>x</answer> and half bare. Then it learns from rewards only: 0.5
for that format, 1.0 more for the right answer in it.

Shapes: P questions (prompts) of an update, G replies of each, R = P x G replies, L tokens of a
prompt, T of a reply, V words.
"""

from __future__ import annotations

import argparse
import re
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from lingshu.core.types import Sample
from lingshu.imaging.read import open_image
from lingshu.models.model_spec import PixelBudget, TinyModel
from lingshu.models.processor import IGNORE_INDEX, EncodedSample, Processor
from lingshu.models.tiny import build_tiny
from lingshu.sources import phantom

P, G, T = 8, 8, 32  # questions of an update, replies of a question, longest reply
LEARNING_RATE, CLIP_LOW, CLIP_HIGH, KL = 3e-4, 0.2, 0.3, 1e-3
FORMAT = re.compile(r"<think>(?:(?!<).)*</think><answer>([^<]+)</answer>")


class Question(NamedTuple):
    prompt: EncodedSample
    gold: str


def prepare(processor: Processor, sample: Sample) -> EncodedSample:
    return processor.encode(
        sample.messages, processor.tiles([open_image(image) for image in sample.images])
    )


def inputs_of(
    processor: Processor, batch: list[EncodedSample], pad: str
) -> dict[str, torch.Tensor]:
    return processor.collate(batch, pad=pad)  # type: ignore[arg-type]


# --- a start with two answer formats


def train_supervised(
    model: Any,
    processor: Processor,
    data: list[EncodedSample],
    *,
    updates: int,
    rng: np.random.Generator,
) -> None:
    """Plain cross-entropy on the written answers."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98))
    for update in range(updates):
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1, (update + 1) / 20)
        batch = [data[i] for i in rng.integers(0, len(data), 16)]
        loss = model(**inputs_of(processor, batch, "right")).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if update % 20 == 0:
            print(f"written answers, update {update}: loss {float(loss.detach()):.2f}", flush=True)


# --- a round


@torch.no_grad()
def sample_replies(
    model: Any, processor: Processor, prompts: list[EncodedSample]
) -> list[list[int]]:
    """G replies to each prompt.

    A prompt is computed once; its keys and values are then shared by its replies.
    """
    inputs = inputs_of(processor, prompts, "left")
    del inputs["labels"]
    out = model.model(**inputs, use_cache=True)
    cache, mask_RL = out.past_key_values, inputs["attention_mask"].repeat_interleave(G, 0)
    cache.batch_repeat_interleave(G)
    logits_RV = model.lm_head(out.last_hidden_state[:, -1]).repeat_interleave(G, 0)
    position_R = (inputs["position_ids"].amax((0, 2)) + 1).repeat_interleave(G, 0)
    end, replies = processor.tokenizer.eos_token_id, [[] for _ in range(len(prompts) * G)]
    for step in range(T):
        # a sampled image token would stand for pixels that are not there
        logits_RV[:, processor.never_sampled] = -1e9
        token_R = torch.multinomial(logits_RV.float().softmax(-1), 1).squeeze(1)
        for reply, token in zip(replies, token_R.tolist(), strict=True):
            if not reply or reply[-1] != end:
                reply.append(token)
        if all(reply[-1] == end for reply in replies):
            break
        mask_RL = torch.nn.functional.pad(mask_RL, (0, 1), value=1)
        hidden = model.model.language_model(
            inputs_embeds=model.get_input_embeddings()(token_R[:, None]),
            attention_mask=mask_RL,
            position_ids=(position_R + step).view(1, -1, 1).expand(3, -1, 1),
            past_key_values=cache,
        ).last_hidden_state
        logits_RV = model.lm_head(hidden[:, -1])
    return replies


def reward(processor: Processor, reply: list[int], gold: str) -> float:
    """Strict: a reply that was cut, or of another shape, gets nothing, however right a word in it
    may be.
    """
    if reply[-1] != processor.tokenizer.eos_token_id:
        return 0.0
    match = FORMAT.fullmatch(processor.tokenizer.decode(reply[:-1]))
    return 0.0 if match is None else 0.5 + (match[1].strip() == gold)


def advantages(reward_PG: torch.Tensor) -> torch.Tensor:
    """How much better than its group a reply is; all zero where all are worth the same, so that
    such a group teaches nothing.
    """
    return (reward_PG - reward_PG.mean(1, keepdim=True)) / (reward_PG.std(1, keepdim=True) + 1e-4)


def log_probs(model: Any, processor: Processor, sequences: list[EncodedSample]) -> torch.Tensor:
    """Of each reply token, one after another over all replies."""
    inputs = inputs_of(processor, sequences, "right")
    labels_RL = inputs.pop("labels")
    logits_RLV = model(**inputs).logits[:, :-1].float()
    mask_RL = labels_RL[:, 1:] != IGNORE_INDEX
    return -cross_entropy(logits_RLV[mask_RL], labels_RL[:, 1:][mask_RL], reduction="none")


def with_reply(prompt: EncodedSample, reply: list[int]) -> EncodedSample:
    reply_positions = prompt.positions.max() + 1 + np.arange(len(reply))  # type: ignore[union-attr]
    return EncodedSample(
        ids=np.concatenate([prompt.ids, reply]),
        labels=np.concatenate([np.full(len(prompt), IGNORE_INDEX), reply]),
        is_image=np.concatenate([prompt.is_image, np.zeros(len(reply), bool)]),
        positions=np.concatenate(
            [prompt.positions, np.broadcast_to(reply_positions, (3, len(reply)))],  # pyright: ignore[reportArgumentType]
            1,
        ),  # type: ignore[list-item]
        tiles=prompt.tiles,
    )


def reinforce(
    model: Any,
    processor: Processor,
    questions: list[Question],
    *,
    updates: int,
    rng: np.random.Generator,
) -> list[float]:
    """One round an update: ask, reward, compare inside the group, step.

    Returns the mean reward of each round.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0
    )
    # the reference of the penalty
    reference_state = {name: value.clone() for name, value in model.state_dict().items()}
    mean_rewards = []
    for update in range(updates):
        batch = [questions[i] for i in rng.integers(0, len(questions), P)]
        replies = sample_replies(model, processor, [question.prompt for question in batch])
        reward_PG = torch.tensor(
            [reward(processor, reply, batch[i // G].gold) for i, reply in enumerate(replies)]
        ).view(P, G)
        with_signal = [i for i in range(P * G) if reward_PG[i // G].std() > 0]
        mean_rewards.append(float(reward_PG.mean()))
        print(
            f"rewards, update {update}: {mean_rewards[-1]:.2f}, useful groups {len(with_signal) // G} of {P}",
            flush=True,
        )
        if not with_signal:
            continue
        sequences = [with_reply(batch[i // G].prompt, replies[i]) for i in with_signal]
        advantage_N = torch.cat(
            [advantages(reward_PG).flatten()[i].expand(len(replies[i])) for i in with_signal]
        )
        with torch.no_grad():
            policy_state = {name: value.clone() for name, value in model.state_dict().items()}
            model.load_state_dict(reference_state)
            reference_N = log_probs(model, processor, sequences)
            model.load_state_dict(policy_state)
        log_probs_N = log_probs(model, processor, sequences)
        # With one update a round the replies are the learner's own, so the ratio is 1 and only its
        # gradient matters.
        ratio_N = (log_probs_N - log_probs_N.detach()).exp()
        surrogate_N = torch.minimum(
            ratio_N * advantage_N, ratio_N.clamp(1 - CLIP_LOW, 1 + CLIP_HIGH) * advantage_N
        )
        log_ratio_N = reference_N - log_probs_N
        (KL * (log_ratio_N.exp() - log_ratio_N - 1) - surrogate_N).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return mean_rewards


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, value in {
        "words": 150,
        "warm": 500,
        "updates": 40,
        "seed": 0,
        "images": 1200,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    text, captions, mixed = (
        list(phantom.training_samples(args.seed, args.images, purpose))
        for purpose in ("text", "captions", "mixed")
    )
    corpus = [
        message.text for sample in (*text, *captions, *mixed) for message in sample.messages
    ] + ["system user assistant"]
    budget = PixelBudget(56 * 56, 56 * 56)
    model, processor = build_tiny(TinyModel(), corpus, budget=budget, seed=args.seed)
    model.train()
    train_supervised(
        model,
        processor,
        [prepare(processor, sample) for sample in text],
        updates=args.words,
        rng=rng,
    )
    image_data = [prepare(processor, sample) for sample in (*captions, *mixed)]
    train_supervised(model, processor, image_data, updates=args.warm, rng=rng)
    rl_samples = phantom.training_samples(args.seed, args.images // 2, "rl", first=args.images)
    questions = [
        Question(prepare(processor, sample), (sample.gold or ("",))[0]) for sample in rl_samples
    ]
    mean_rewards = reinforce(model, processor, questions, updates=args.updates, rng=rng)
    first, last = mean_rewards[:5], mean_rewards[-5:]
    print(f"reward {sum(first) / len(first):.2f} -> {sum(last) / len(last):.2f}")


if __name__ == "__main__":
    main()
