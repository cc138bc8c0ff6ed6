"""Reinforcement learning: rewards, advantages, rounds and their counts, and that a resumed run ends
in the same bits.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lingshu.core.config import write
from lingshu.core.errors import ConfigError, EngineError, TrainingError, UnknownNameError
from lingshu.core.messages import user_turn
from lingshu.core.types import Drop, EngineOptions, Image, Message, Meta, Sample, Sampling
from lingshu.engines import hf
from lingshu.imaging.read import png_bytes
from lingshu.models.load import LoadedModel
from lingshu.models.model_spec import PixelBudget, TinyModel
from lingshu.models.processor import EncodedSample
from lingshu.models.tiny import build_tiny
from lingshu.sources import phantom
from lingshu.train.config import Grpo, LearningRates, Lora, Reward, Sampler, Stage, TrainConfig
from lingshu.train.grpo import (
    GrpoBatches,
    RewardResult,
    advantages,
    append_replies,
    as_question,
    compute_reward,
    encode_questions,
    load_scorer,
    log_probabilities,
    pack_replies,
    read_questions,
    repetition,
    split_updates,
    with_instruction,
)
from lingshu.train.log import read_log
from lingshu.train.loop import train
from lingshu.train.progress import StepProgress
from lingshu.train.rollout import (
    LocalRollouts,
    Rollout,
    SaveWeights,
    open_rollout_engine,
    reply_token_ids,
)
from lingshu.train.step import Trainer, build_trainer
from lingshu.train.weight_sync import save_weights
from tests.support.tiny import (
    CORPUS,
    FAMILIES,
    SMALL,
    make_image,
    small_config,
    tiny,
    write_phantoms,
)

ROOT = Path(__file__).parents[2]
SHORT = Grpo(max_reply_tokens=32)
RIGHT, WRONG, NO_FORMAT = (
    "<think>a</think><answer>yes</answer>",
    "<think>a</think><answer>no</answer>",
    "yes",
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two are slower for models this small, and far slower next to other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def question(number: int, gold: str = "yes") -> Sample:
    image = Image(data=png_bytes(make_image(number)))
    return Sample(f"q{number}", (user_turn("Is there a lesion?", 1),), (image,), (gold,))


def trainer_of(
    grpo: Grpo, *, family: str = "qwen2_5_vl", batch: int = 2, lora: Lora | None = None
) -> Trainer:
    """A trainer over a model of its own, which a test may change."""
    spec = TinyModel(family=family, vocab_size=320, **SMALL)
    model, processor = build_tiny(
        spec, CORPUS, budget=PixelBudget(min_pixels=56 * 56, max_pixels=56 * 56), seed=0
    )
    learning_rates = (
        LearningRates(language=1e-2)
        if lora
        else LearningRates(vision=1e-2, projector=1e-2, language=1e-2)
    )
    stage = Stage(
        "rl",
        ("rl",),
        learning_rates,
        batch=batch,
        micro_batch=2,
        warmup_steps=0,
        max_tokens=512,
        lora=lora,
        grpo=grpo,
    )
    if lora:
        from lingshu.train.lora import inject_adapters

        inject_adapters(model, processor.family, lora, seed=0)
    return build_trainer(model, processor, stage, device=torch.device("cpu"), bfloat16=False)


def loaded_of(trainer: Trainer) -> LoadedModel:
    return LoadedModel(trainer.model, trainer.processor, "tiny", "digest")


class ScriptedRollouts:
    """Draws what a test says: `replies(question's place, copy)`, None for a reply that failed."""

    def __init__(
        self, trainer: Trainer, replies: Callable[[int, int], str | None], finish: str = "stop"
    ) -> None:
        self.tokenizer, self.replies, self.finish, self.rounds = (
            trainer.processor.tokenizer,
            replies,
            finish,
            0,
        )

    def refresh(self, save: SaveWeights) -> None:
        self.rounds += 1

    def generate(self, samples: Sequence[Sample], sampling: Sampling) -> list[Rollout]:
        sampled = []
        for sample in reversed(samples):  # any order will do
            for copy in range(sampling.num_generations):
                text = self.replies(int(sample.id), copy)
                if text is not None:
                    ids = (
                        *self.tokenizer(text, add_special_tokens=False)["input_ids"],
                        self.tokenizer.eos_token_id,
                    )
                    sampled.append(Rollout(sample.id, copy, ids, text, self.finish))
        return sampled


def batches_of(
    trainer: Trainer,
    replies: Callable[[int, int], str | None],
    *,
    questions: int = 4,
    finish: str = "stop",
) -> GrpoBatches:
    assert trainer.stage.grpo
    encoded = encode_questions(
        [question(n) for n in range(questions)],
        trainer.processor,
        instruction="",
        max_prompt_tokens=64,
        cache_mb=1,
    )
    rollouts = ScriptedRollouts(trainer, replies, finish)
    return GrpoBatches(
        encoded,
        trainer,
        rollouts,
        load_scorer(trainer.stage.grpo.reward),
        seed=0,
        save=lambda folder: None,
    )


# --- rewards
# ---------------------------------------------------------------------------------------------------------


def reward_of(
    config: Reward, text: str, token_ids: Sequence[int], *, finish: str = "stop"
) -> RewardResult:
    reply = Rollout("q0", 0, tuple(token_ids), text, finish)
    return compute_reward(config, load_scorer(config), question(0), reply)


@pytest.mark.parametrize(
    ("reply", "reward"),
    [
        ("<think>a lesion</think><answer>yes</answer>", 1.5),
        (" <think>a\nb</think>\n<answer> Yes. </answer>\n", 1.5),
        ("<think></think><answer>no</answer>", 0.5),
        ("<think>yes</think><answer>perhaps</answer>", 0.5),
        ("yes", 0.0),
        ("<think>a</think><answer>no</answer><answer>yes</answer>", 0.0),
        ("<think>a</think><answer>yes</answer><answer>no</answer>", 0.0),
        ("<think>a <answer>yes</answer></think><answer>no</answer>", 0.0),
        ("<think>a <answer>yes</answer></think>", 0.0),
        ("<think><think>a</think></think><answer>yes</answer>", 0.0),
        ("<think>a</think><answer><answer>yes</answer></answer>", 0.0),
        ("<think>a</think><answer>no <ANSWER>yes</ANSWER></answer>", 0.0),
        ("<think>a</think><answer>no </ answer><answer x>yes</answer>", 0.0),
        ("<answer>yes</answer><think>a</think>", 0.0),
        ("<think>a</think><answer></answer>", 0.0),
        ("<think>a</think><answer>  </answer>", 0.0),
        ("<think>a</think> so <answer>yes</answer>", 0.0),
        ("<think>a</think><answer>yes</answer> thanks", 0.0),
        ("<think>a</think><answer>yes", 0.0),
        ("", 0.0),
    ],
)
def test_a_reward_is_right_on_hostile_replies(reply: str, reward: float) -> None:
    config = Reward()
    assert reward_of(config, reply, range(9)).reward == reward


def test_a_cut_or_repeating_reply_gets_no_reward_and_is_counted() -> None:
    config = Reward()
    cut = reward_of(config, RIGHT, range(9), finish="length")
    assert (cut.reward, cut.format, cut.truncated, cut.repetitive) == (0.0, 0.0, True, False)
    repeated = reward_of(config, RIGHT, [1, 2] * 9)
    assert (repeated.reward, repeated.truncated, repeated.repetitive) == (0.0, False, True)
    assert repetition([1, 2, 3]) == 0.0
    assert repetition(range(20)) == 0.0
    assert repetition([7] * 7) == pytest.approx(3 / 4)  # four runs of four, one of them distinct


def test_any_scorer_rewards_and_without_a_format_the_full_reply_is_scored(tmp_path: Path) -> None:
    own = tmp_path / "longer.py"
    own.write_text(
        "from lingshu.core.types import Score\ndef score(sample, reply):\n    return"
        " Score(len(reply) / 10)\n"
    )
    config = Reward(scorer=str(own), format=0.0, accuracy=2.0)
    assert reward_of(config, "12345", range(9)).reward == 1.0
    with pytest.raises(UnknownNameError, match="did you mean 'exact'"):
        load_scorer(Reward(scorer="exakt"))


# --- advantages and accounting
# ---------------------------------------------------------------------------------------


def test_advantages_by_hand() -> None:
    # Mean 0.5, deviation of a sample sqrt(1/3) = 0.57735.
    assert advantages(np.array([[1.0, 0.0, 1.0, 0.0]]))[0].tolist() == pytest.approx(
        [0.86588, -0.86588, 0.86588, -0.86588], abs=1e-5
    )
    assert advantages(np.array([[1.5, 1.5], [0.0, 0.0]])).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    both = advantages(np.array([[0.0, 3.0], [0.0, 0.3]]))
    assert both[0].tolist() == pytest.approx([-0.70707, 0.70707], abs=1e-4)
    assert both.dtype == np.float32


def test_groups_of_one_outcome_are_counted_and_left_out() -> None:
    # Places 0 and 2 vary; 1 is all right, 3 all wrong.
    outcomes = {
        0: (RIGHT, NO_FORMAT, NO_FORMAT),
        1: (RIGHT,) * 3,
        2: (WRONG, RIGHT, WRONG),
        3: (NO_FORMAT,) * 3,
    }
    source = batches_of(
        trainer_of(Grpo(num_generations=3, rollout_batch_size=4, max_reply_tokens=32)),
        lambda position, copy: outcomes[position][copy],
    )
    updates = source.run_round(0)
    assert [[len(sequence[0].branches) for sequence in update] for update in updates] == [[3], [3]]
    metrics = source.metrics
    assert metrics["frac_with_signal"] == 0.5 and metrics["failed"] == 0
    # 1.5 for each of five right replies, 0.5 for two that are in shape only.
    assert metrics["reward"] == pytest.approx((5 * 1.5 + 2 * 0.5) / 12)
    assert metrics["accuracy"] == pytest.approx(5 / 12) and metrics["format"] == pytest.approx(
        7 / 12
    )
    advantage_values = sorted(
        float(value)
        for update in updates
        for sequence in update
        for value in set(sequence[0].token_values["advantage"])
    )
    assert advantage_values == pytest.approx([-0.577, -0.577, 1.154, 1.154], abs=2e-3)
    for update in updates:
        for (sample,) in update:
            assert {
                name: len(values) for name, values in sample.token_values.items()
            } == dict.fromkeys(("advantage", "old", "reference"), sample.supervised)


def test_a_round_in_which_nothing_varies_still_gives_its_updates() -> None:
    trainer = trainer_of(Grpo(num_generations=2, rollout_batch_size=4, max_reply_tokens=32))
    source = batches_of(trainer, lambda position, copy: RIGHT)
    updates = source.run_round(0)
    assert [len(update) for update in updates] == [1, 1] and source.metrics["frac_with_signal"] == 0
    assert not any(
        sequence[0].token_values["advantage"].any() for update in updates for sequence in update
    )
    result = trainer.step(updates[0], 0, 2)
    assert result.loss == pytest.approx(0, abs=1e-9) and result.norm == pytest.approx(0, abs=1e-6)


def test_a_group_that_misses_a_reply_is_left_out_and_counted() -> None:
    source = batches_of(
        trainer_of(Grpo(num_generations=2, rollout_batch_size=4, max_reply_tokens=32)),
        lambda position, copy: None if (position, copy) == (1, 1) else (RIGHT, WRONG)[copy],
    )
    assert (
        sum(len(sequence[0].branches) for update in source.run_round(0) for sequence in update) == 6
    )
    assert source.metrics["failed"] == 0.25 and source.metrics["frac_with_signal"] == 0.75
    with pytest.raises(EngineError, match="none of the 4 questions"):
        batches_of(
            trainer_of(Grpo(num_generations=2, rollout_batch_size=4, max_reply_tokens=32)),
            lambda position, copy: None,
        ).run_round(0)


def test_a_reply_with_a_token_for_pixels_never_reaches_the_learner() -> None:
    trainer = trainer_of(Grpo(num_generations=2, rollout_batch_size=4, max_reply_tokens=32))
    source = batches_of(
        trainer, lambda position, copy: "<|image_pad|>" if position == 2 else (RIGHT, WRONG)[copy]
    )
    updates = source.run_round(0)
    assert source.metrics["failed"] == 0.25
    assert all(
        sequence[0].is_image.sum() == sum(t.tokens for t in sequence[0].tiles)
        for update in updates
        for sequence in update
    )


def test_cut_replies_get_no_reward() -> None:
    source = batches_of(
        trainer_of(Grpo(num_generations=2, rollout_batch_size=4, max_reply_tokens=32)),
        lambda p, c: (RIGHT, WRONG)[c],
        finish="length",
    )
    source.run_round(0)
    assert (
        source.metrics["truncated"],
        source.metrics["reward"],
        source.metrics["frac_with_signal"],
    ) == (
        1.0,
        0.0,
        0.0,
    )


def test_shuffled_rewards_are_the_same_rewards_of_other_replies() -> None:
    grpo = Grpo(num_generations=4, rollout_batch_size=4, max_reply_tokens=32, kl=0.0)
    sources = [
        batches_of(trainer_of(g), lambda p, c: RIGHT if c == 0 else NO_FORMAT)
        for g in (grpo, replace(grpo, reward=Reward(shuffle=True)))
    ]
    plain, shuffled = (
        [s[0] for update in source.run_round(0) for s in update] for source in sources
    )
    assert sources[0].metrics["reward"] == sources[1].metrics["reward"] == pytest.approx(0.375)

    def first_is_best(sample: EncodedSample) -> bool:
        return bool(
            np.argmax(sample.token_values["advantage"]) == 0
            and sample.token_values["advantage"][-1] < 0
        )

    assert all(map(first_is_best, plain)) and not all(map(first_is_best, shuffled))


def test_questions_come_in_an_order_of_seed_and_round() -> None:
    source = batches_of(
        trainer_of(Grpo(num_generations=2, rollout_batch_size=4, max_reply_tokens=32)),
        lambda p, c: NO_FORMAT,
        questions=9,
    )
    rounds = [source.question_order(number) for number in range(4)]
    assert rounds == [source.question_order(number) for number in range(4)]
    assert source.rounds_per_epoch == 2 and source.updates_per_round == 2 and source.total == 4
    assert len(set(rounds[0] + rounds[1])) == 8 and rounds[:2] != rounds[2:]
    assert [source.is_resumable_at(done) for done in range(5)] == [True, False, True, False, True]
    few = batches_of(
        trainer_of(Grpo(num_generations=2, rollout_batch_size=4, max_reply_tokens=32)),
        lambda p, c: NO_FORMAT,
        questions=3,
    )
    assert sorted(set(few.question_order(0))) == [0, 1, 2] and len(few.question_order(0)) == 4


def test_replies_are_spread_over_updates_each_by_length() -> None:
    parts = split_updates(["four", "2_", "lengthier", "1", "seven7"], 2)  # type: ignore[arg-type] - anything that has a length
    assert parts == [["2_", "four"], ["1", "seven7", "lengthier"]]


# --- questions
# -------------------------------------------------------------------------------------------------------


def test_a_question_is_the_dialogue_up_to_its_last_answer() -> None:
    dialogue = Sample(
        "a", (*question(0).messages, Message("assistant", ("yes",))), question(0).images
    )
    question_sample = as_question(dialogue)
    assert (
        isinstance(question_sample, Sample)
        and question_sample.gold == ("yes",)
        and question_sample.messages == dialogue.messages[:1]
    )
    assert isinstance(as_question(replace(question(0), gold=None)), Drop)
    assert with_instruction(question(0), " Think first.").messages[-1].parts == (
        0,
        "Is there a lesion?",
        " Think first.",
    )


def test_questions_of_held_out_splits_are_not_trained_on(tmp_path: Path) -> None:
    rows = [
        {"id": side, "question": "Is there a lesion?", "answer": "yes", "split": side}
        for side in ("train", "validation", "test")
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = list(read_questions([tmp_path]))
    assert [
        (item.id, item.messages[-1].role, item.gold) for item in found if isinstance(item, Sample)
    ] == [("train", "user", ("yes",))]
    assert [(item.id, item.reason) for item in found if isinstance(item, Drop)] == [
        ("validation", "held_out"),
        ("test", "held_out"),
    ]


def test_bad_questions_are_dropped_and_counted() -> None:
    processor = tiny("qwen2_5_vl")[1]
    long = Sample("long", (user_turn("x " * 200, 0),), gold=("yes",))
    broken = Sample("broken", question(0).messages, (Image(data=b"no image"),), ("yes",))
    items = [question(0), Drop("row-3", "no_gold"), long, broken]
    found = encode_questions(items, processor, instruction="", max_prompt_tokens=64, cache_mb=1)
    assert len(found) == 1 and found.drops == {"no_gold": 1, "too_long": 1, "bad_image": 1}
    assert "64 are left next to the reply" in found.drop_examples[1]
    assert found.sample(0).tiles and not found.encodings[0].tiles
    with pytest.raises(TrainingError, match=r"no question is left to learn from \(no_gold 1\)"):
        encode_questions([items[1]], processor, instruction="", max_prompt_tokens=64, cache_mb=1)


def test_questions_that_are_always_or_never_answered_right_are_left_out() -> None:
    trainer = trainer_of(Grpo(num_generations=2, rollout_batch_size=4, max_reply_tokens=32))
    source = batches_of(
        trainer, lambda position, copy: RIGHT if position > copy else WRONG, questions=6
    )
    stated = replace(source.data.samples[5], meta=Meta(extra={"pass_rate": "0.4"}))
    source.data = replace(source.data, samples=(*source.data.samples[:5], stated))
    # Asked four and then one at a time: place 0 is never right, place 1 once, the others always.
    pass_rates = source.pass_rates()
    assert pass_rates == [0.0, 0.5, 1.0, 1.0, 0.0, 0.4]
    kept = source.data.select([0.0 < rate < 1.0 for rate in pass_rates], "pass_rate")
    assert [sample.id for sample in kept.samples] == ["q1", "q5"] and kept.drops == {"pass_rate": 4}
    with pytest.raises(TrainingError, match="no question is left"):
        source.data.select([False] * 6, "pass_rate")
    wrong = replace(stated, meta=Meta(extra={"pass_rate": "often"}))
    source.data = replace(source.data, samples=(*source.data.samples[:5], wrong))
    with pytest.raises(ConfigError, match="'often'"):
        source.pass_rates()


# --- what the learner sees
# -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sampled_reply_is_trained_on_like_a_written_answer(family: str) -> None:
    processor = tiny(family)[1]
    sample = question(1)
    tiles = processor.tiles([make_image(1)])
    expected = processor.encode(sample.with_answer("yes, left").messages, tiles)
    ids = processor.tokenizer("yes, left", add_special_tokens=False)["input_ids"]
    built = append_replies(
        processor.encode(sample.messages, tiles),
        [([*ids, processor.tokenizer.convert_tokens_to_ids(processor.tokens.end_of_turn)], 0.5)],
    )
    assert (
        built.ids.tolist() == expected.ids.tolist()
        and built.labels.tolist() == expected.labels.tolist()
    )
    assert built.is_image.tolist() == expected.is_image.tolist()
    if processor.family.has_mrope:
        assert (
            built.positions is not None
            and expected.positions is not None
            and (built.positions == expected.positions).all()
        )
    assert built.token_values["advantage"].tolist() == [0.5] * built.supervised


@pytest.mark.parametrize("family", FAMILIES)
def test_replies_that_share_a_prompt_are_trained_on_as_if_separate(family: str) -> None:
    trainer = trainer_of(replace(SHORT, kl=0.0), family=family)
    processor = trainer.processor
    rng = np.random.default_rng(0)
    separate: list[EncodedSample] = []
    shared: list[EncodedSample] = []
    for number, lengths in enumerate(((3, 1, 5), (2,), (4, 4))):
        prompt = processor.encode(question(number).messages, processor.tiles([make_image(number)]))
        replies = [
            (rng.integers(5, 250, length).tolist(), float(rng.normal())) for length in lengths
        ]
        separate += [append_replies(prompt, [reply]) for reply in replies]
        shared += pack_replies(prompt, replies, max_tokens=96)
    assert [sample.branches for sample in shared] == [(4, 2, 6), (), (5, 5)]
    results = []
    for batch in (separate, shared):
        trainer.model.zero_grad()
        log_probs = trainer.log_probs(batch)
        loss = trainer.compute_loss_sum(batch).loss
        loss.backward()
        gradients = {
            name: p.grad.clone()
            for name, p in trainer.model.named_parameters()
            if p.grad is not None
        }
        results.append((log_probs.detach(), loss.detach(), gradients))
    trainer.model.zero_grad()
    (log_probs, loss, gradients), (others, their_loss, their_gradients) = results
    assert float((log_probs - others).abs().max()) < 1e-5
    assert float(loss) == pytest.approx(float(their_loss), rel=1e-5)
    assert all(
        torch.allclose(
            gradients[name], their_gradients[name], atol=1e-5 * max(1, float(gradient.abs().max()))
        )
        for name, gradient in gradients.items()
    )


def test_replies_that_do_not_fit_in_one_pack_are_split() -> None:
    processor = tiny("qwen2_5_vl")[1]
    prompt = processor.encode(question(0).messages, processor.tiles([make_image(0)]))
    room = len(prompt) + 12
    rows = pack_replies(prompt, [([7] * length, 1.0) for length in (5, 5, 9, 3)], max_tokens=room)
    assert [row.branches for row in rows] == [(6, 6), (), ()]
    assert all(len(row) <= room for row in rows) and sum(row.supervised for row in rows) == 22


@pytest.mark.parametrize("lora", [None, Lora(rank=2, alpha=4)])
def test_old_and_reference_are_of_the_rounds_and_the_stages_start(lora: Lora | None) -> None:
    if lora:
        pytest.importorskip("peft", reason="peft is not installed")
    trainer = trainer_of(
        Grpo(num_generations=2, rollout_batch_size=4, max_reply_tokens=32, kl=0.5), lora=lora
    )
    source = batches_of(trainer, lambda position, copy: (RIGHT, WRONG)[copy])
    first = source.run_round(0)
    assert all(
        (s[0].token_values["old"] == s[0].token_values["reference"]).all()
        for update in first
        for s in update
    )
    start = [s[0].token_values["reference"] for s in first[0]]
    result = trainer.step(first[0], 0, 4)
    assert result.metrics["kl"] == pytest.approx(0, abs=1e-9) and result.metrics["clipped"] == 0
    trainer.step(first[1], 1, 4)
    moved = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    again = source.with_log_probabilities([[s[0] for s in first[0]]])[0]
    assert all(
        np.array_equal(one.token_values["reference"], known)
        for one, known in zip(again, start, strict=True)
    )
    assert not any(
        np.array_equal(one.token_values["old"], known)
        for one, known in zip(again, start, strict=True)
    )
    assert all(
        torch.equal(moved[name], value) for name, value in trainer.model.state_dict().items()
    )


def test_a_round_of_one_update_needs_no_old_values_and_no_penalty_no_reference() -> None:
    trainer = trainer_of(Grpo(num_generations=2, rollout_batch_size=2, max_reply_tokens=32, kl=0.0))
    source = batches_of(trainer, lambda position, copy: (RIGHT, WRONG)[copy])
    (update,) = source.run_round(0)
    assert source.reference is None and {name for s in update for name in s[0].token_values} == {
        "advantage"
    }
    explicit = [[one] for one in log_probabilities(trainer, [s[0] for s in update], "old")]
    gradients = []
    for batch in (update, explicit):
        trainer.model.zero_grad()
        trainer.compute_loss_sum([s[0] for s in batch]).loss.backward()
        gradients.append(trainer.model.lm_head.weight.grad.clone())
    trainer.model.zero_grad()
    assert torch.allclose(*gradients, atol=1e-6)


# --- rollout engines
# -------------------------------------------------------------------------------------------------------


def test_rollouts_of_the_model_itself_are_its_engines_replies() -> None:
    trainer = trainer_of(SHORT)
    samples = [question(n) for n in range(3)]
    sampling = Sampling(max_tokens=6, temperature=1.0, num_generations=3, seed=4)

    def encode(sample: Sample) -> object:
        return trainer.processor.encode(
            sample.messages, trainer.processor.tiles([make_image(int(sample.id[1:]))])
        )

    generated = LocalRollouts(loaded_of(trainer), encode, 2, bfloat16=False).generate(  # pyright: ignore[reportArgumentType]
        samples, sampling
    )
    assert trainer.model.training  # the mode it was in
    trainer.model.eval()
    replies = {
        (r.id, r.generation_index): r
        for part in hf.HfEngine(loaded_of(trainer), batch_size=3).generate(samples, sampling)
        for r in part
    }
    assert len(generated) == len(replies) == 9
    for one in generated:
        reply = replies[one.id, one.generation_index]
        assert (one.token_ids, one.text, one.finish) == (reply.token_ids, reply.text, reply.finish)
        assert len(one.token_ids) == reply.reply_tokens


def test_no_token_for_pixels_among_10000_sampled() -> None:
    trainer = trainer_of(SHORT)
    prompt = Sample("q", (Message("user", ("Is there a lesion?",)),))
    rollouts = LocalRollouts(
        loaded_of(trainer), lambda s: trainer.processor.encode(s.messages, ()), 1, bfloat16=False
    )
    generated = rollouts.generate(
        [prompt], Sampling(max_tokens=48, temperature=2.0, num_generations=250)
    )
    tokens = [token for one in generated for token in one.token_ids]
    assert len(tokens) >= 10_000 and not set(tokens) & set(trainer.processor.never_sampled)


@pytest.mark.parametrize("lora", [None, Lora(rank=2, alpha=4)])
def test_an_engine_with_the_saved_weights_samples_what_the_learner_samples(
    tmp_path: Path, lora: Lora | None
) -> None:
    if lora:
        pytest.importorskip("peft", reason="peft is not installed")
    trainer = trainer_of(
        Grpo(num_generations=2, rollout_batch_size=2, max_reply_tokens=32, kl=0.0), lora=lora
    )
    source = batches_of(trainer, lambda position, copy: (RIGHT, WRONG)[copy])
    sampling = Sampling(max_tokens=8)
    digests = []
    for number in range(2):
        save_weights(trainer, tmp_path / "rollout")
        # Written separately, or a server's packed head would not change when it reloads the
        # embedding.
        assert "lm_head.weight" in load_file(tmp_path / "rollout" / "model.safetensors")
        assert (
            trainer.model.config.tie_word_embeddings
            and trainer.model.lm_head.weight is trainer.model.get_input_embeddings().weight
        )
        engine = hf.load(str(tmp_path / "rollout"), EngineOptions())
        theirs = [
            reply.token_ids for part in engine.generate([question(0)], sampling) for reply in part
        ]
        ours = open_rollout_engine(
            Sampler(), trainer, loaded_of(trainer), lambda s: source.data.sample(0), tmp_path
        )
        assert [one.token_ids for one in ours.generate([question(0)], sampling)] == theirs
        digests.append(engine.digest)
        for update in range(3):
            trainer.step(source.run_round(number)[0], update, 100)
    assert digests[0] != digests[1]


class FakeServer(BaseHTTPRequestHandler):
    """Reads weights on request, answers every question, and records what it was sent."""

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.seen.append((self.path, body))  # type: ignore[attr-defined]
        if self.path == "/broken":
            self.send_response(500)
            self.end_headers()
            return
        choice = {"message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
        if server.tokens:  # type: ignore[attr-defined]
            choice["token_ids"] = server.tokens  # type: ignore[attr-defined]
        answer = json.dumps(
            {"choices": [choice]} if self.path.endswith("completions") else {}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    running = ThreadingHTTPServer(("127.0.0.1", 0), FakeServer)
    running.seen, running.tokens = [], None  # type: ignore[attr-defined]
    thread = threading.Thread(
        target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    )
    thread.start()
    yield running
    running.shutdown()
    running.server_close()


def test_a_server_gets_the_weights_and_returns_tokens(
    server: ThreadingHTTPServer, tmp_path: Path
) -> None:
    trainer = trainer_of(SHORT)
    url = f"http://127.0.0.1:{server.server_address[1]}"
    sampler = Sampler(
        engine=f"{url}/v1#policy",
        reload=(f"{url}/collective_rpc", f"{url}/reset_prefix_cache"),
    )
    rollouts = open_rollout_engine(
        sampler,
        trainer,
        loaded_of(trainer),
        lambda s: trainer.processor.encode(s.messages, ()),
        tmp_path,
    )
    rollouts.refresh(lambda folder: save_weights(trainer, folder))
    reload_request = {
        "method": "reload_weights",
        "kwargs": {"weights_path": str(tmp_path / "rollout")},
    }
    assert server.seen == [  # pyright: ignore[reportAttributeAccessIssue]
        ("/collective_rpc", reload_request),
        ("/reset_prefix_cache", reload_request),
    ]
    assert (tmp_path / "rollout" / "model.safetensors").is_file()
    server.tokens = [5, 6, 7]  # type: ignore[attr-defined]
    generated = rollouts.generate(
        [question(0)], Sampling(max_tokens=4, temperature=1.0, num_generations=2)
    )
    end = trainer.processor.tokenizer.eos_token_id
    assert sorted(generated) == [
        Rollout("q0", copy, (5, 6, 7, end), "yes", "stop") for copy in (0, 1)
    ]
    body = server.seen[-1][1]  # type: ignore[attr-defined]
    assert body["return_token_ids"] is True and body["temperature"] == 1.0
    assert body["logit_bias"] == {str(token): -100 for token in trainer.processor.never_sampled}
    # A server that returns no tokens: its text is tokenized again.
    server.tokens = None  # type: ignore[attr-defined]
    expected = (*trainer.processor.tokenizer("yes")["input_ids"], end)
    assert [one.token_ids for one in rollouts.generate([question(0)], Sampling(max_tokens=4))] == [
        expected
    ]


def test_a_server_that_does_not_take_the_weights_stops_the_run(
    server: ThreadingHTTPServer, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{server.server_address[1]}"
    sampler = Sampler(engine=f"{url}/v1#policy", reload=(f"{url}/broken",))
    trainer = trainer_of(SHORT)
    rollouts = open_rollout_engine(sampler, trainer, loaded_of(trainer), lambda s: s, tmp_path)  # type: ignore[arg-type,return-value]
    with pytest.raises(EngineError, match="/broken did not take the new weights"):
        rollouts.refresh(lambda folder: None)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_end_token_is_put_behind_a_reply_that_ended(family: str) -> None:
    processor = tiny(family)[1]
    tokenizer = processor.tokenizer
    end = tokenizer.convert_tokens_to_ids(processor.tokens.end_of_turn)
    reply = SimpleNamespace(text="yes", finish="stop", token_ids=(5, end))
    assert reply_token_ids(reply, processor) == (5, end)  # type: ignore[arg-type]
    assert reply_token_ids(
        SimpleNamespace(text="yes", finish="stop", token_ids=(5,)),  # pyright: ignore[reportArgumentType]
        processor,
    ) == (
        5,
        end,
    )
    other = tokenizer.pad_token_id  # an end token as well where the checkpoint says so
    assert reply_token_ids(
        SimpleNamespace(text="yes", finish="stop", token_ids=(5, other)),  # pyright: ignore[reportArgumentType]
        processor,
    ) == (
        5,
        other,
    )
    assert reply_token_ids(
        SimpleNamespace(text="yes", finish="length", token_ids=(5,)),  # pyright: ignore[reportArgumentType]
        processor,
    ) == (5,)


# --- the full stage
# -------------------------------------------------------------------------------------------------


def rl_config(folder: Path, **changes: object) -> TrainConfig:
    """A short mixed-format stage, then three rounds of two updates; the reward is a reply's length,
    so that groups vary.
    """
    config = small_config(folder)
    (folder / "length.py").write_text(
        "from lingshu.core.types import Score\ndef score(sample, reply):\n    return"
        " Score(len(reply) / 20)\n"
    )
    rl = write_phantoms(folder / "rl", list(phantom.training_samples(0, 12, "rl", first=48)))
    reward = Reward(scorer=str(folder / "length.py"), format=0.0, max_repetition=1.0)
    grpo = replace(
        Grpo(num_generations=4, rollout_batch_size=4, max_reply_tokens=12, kl=0.01, reward=reward),
        **changes,
    )
    learning_rates = LearningRates(vision=1e-3, projector=1e-3, language=1e-3)
    stage = Stage(
        "rl",
        ("rl",),
        learning_rates,
        steps=6,
        batch=2,
        micro_batch=1,
        warmup_steps=1,
        max_tokens=96,
        grpo=grpo,
    )
    warm = replace(
        config.stages[1],
        packing=False,
        steps=20,
        learning_rates=LearningRates(vision=3e-3, projector=3e-3, language=3e-3),
    )
    return replace(
        config,
        stages=(warm, stage),
        data={"instruct": config.data["instruct"], "rl": str(rl)},
        save_every=1,
        log_every=1,
    )


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_an_interrupted_stage_ends_in_the_same_bits(
    trained_run: tuple[TrainConfig, Path], tmp_path: Path, stop: int
) -> None:
    config, out = trained_run

    class Interrupted(Exception):
        pass

    def interrupt(now: StepProgress) -> None:
        if (now.stage, now.step) == ("rl", stop):
            raise Interrupted

    with pytest.raises(Interrupted):
        train(config, tmp_path / "run", progress=interrupt)
    train(config, tmp_path / "run", resume=True)
    pair = [
        load_file(folder / "checkpoint" / "model.safetensors") for folder in (tmp_path / "run", out)
    ]
    assert all(torch.equal(pair[0][name], pair[1][name]) for name in pair[1])
    rows = [
        [
            {k: v for k, v in row.items() if k not in ("tokens_per_s", "data_wait")}
            for row in read_log(folder)
        ]
        for folder in (tmp_path / "run", out)
    ]
    assert rows[0] == rows[1]


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, Path]:
    folder = tmp_path_factory.mktemp("rl")
    config = rl_config(folder)
    train(config, folder / "run")
    return config, folder / "run"


def test_the_log_of_a_stage_has_the_results_of_its_rounds(
    trained_run: tuple[TrainConfig, Path],
) -> None:
    rows = [row for row in read_log(trained_run[1]) if row["stage"] == "rl"]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    names = {
        "reward",
        "accuracy",
        "format",
        "frac_with_signal",
        "reply_tokens",
        "truncated",
        "repetitive",
        "failed",
        "kl",
        "clipped",
    }
    assert all(names <= row.keys() for row in rows)
    assert any(row["frac_with_signal"] > 0 for row in rows) and rows[0]["kl"] == pytest.approx(
        0, abs=1e-9
    )
    before, after = (
        load_file(trained_run[1] / folder / "model.safetensors")
        for folder in ("stages/1-instruct", "checkpoint")
    )
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_measured_pass_rates_are_kept_for_a_resumed_run(tmp_path: Path) -> None:
    config = rl_config(tmp_path, pass_rate=(-1.0, 0.3))
    train(config, tmp_path / "run")
    measured = json.loads((tmp_path / "run" / "pass_rates" / "rl.json").read_text())
    assert len(measured["ids"]) == len(measured["pass_rates"]) == 12
    kept = sum(rate < 0.3 for rate in measured["pass_rates"])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())["stages"][1]
    assert summary["samples"] == kept and summary["dropped"] == (
        {"pass_rate": 12 - kept} if kept < 12 else {}
    )


def test_contradictory_configurations_are_refused() -> None:
    stage = Stage("rl", ("rl",), LearningRates(language=1e-3), batch=4)
    for grpo, why in (
        (Grpo(rollout_batch_size=6), "multiple of batch 4"),
        (Grpo(rollout_batch_size=8, max_reply_tokens=8192), "no room for a question"),
    ):
        with pytest.raises(ConfigError, match=why):
            replace(stage, grpo=grpo)
    with pytest.raises(ConfigError, match="multiple of batch 4, and packing must be off"):
        replace(stage, grpo=Grpo(rollout_batch_size=8), packing=True)
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: Grpo(num_generations=1), "at least 2 replies"),
        (lambda: Grpo(temperature=0.0), "more than 0"),
        (lambda: Grpo(pass_rate=(0.9, 0.1)), "pass_rate"),
        (lambda: Sampler(engine="vlm"), "write hf, vllm or http"),
        (lambda: Sampler(engine="http://127.0.0.1:1/v1#m"), "reload names the addresses"),
        (lambda: Sampler(reload=("http://127.0.0.1:1/x",)), "reload names the addresses"),
    ]
    for make, why in refused:
        with pytest.raises(ConfigError, match=why):
            make()


def test_two_processes_sample_and_learn_the_same_as_one(
    trained_run: tuple[TrainConfig, Path], tmp_path: Path
) -> None:
    config, out = trained_run
    write(replace(config, threads=1), tmp_path / "config.yaml")
    command = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "lingshu",
        "train",
    ]
    done = subprocess.run(
        [sys.executable, *command, str(tmp_path / "config.yaml"), "--out", str(tmp_path / "two")],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, two = (
        [row for row in read_log(folder) if row["stage"] == "rl"]
        for folder in (out, tmp_path / "two")
    )
    for name in ("reward", "frac_with_signal", "reply_tokens"):
        assert [row[name] for row in two[:2]] == pytest.approx([row[name] for row in one[:2]])
    assert [row["loss"] for row in two] == pytest.approx([row["loss"] for row in one], abs=2e-4)
    assert (tmp_path / "two" / "checkpoint" / "model.safetensors").is_file()
