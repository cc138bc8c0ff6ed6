"""The engine over a model in this process: same words as stock generation, no image token, no
neighbour's influence.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from lingshu.core.messages import user_turn
from lingshu.core.types import Image, Message, Reply, Sample, Sampling
from lingshu.engines.hf import HfEngine, decode, sample_tokens
from lingshu.imaging.read import png_bytes
from lingshu.models.load import LoadedModel
from tests.support.tiny import FAMILIES, make_image, tiny


def engine(family: str, *, batch_size: int = 3) -> HfEngine:
    model, processor = tiny(family)
    return HfEngine(LoadedModel(model, processor, "tiny", "digest"), batch_size=batch_size)


def question(index: int, text: str = "Is there a lesion?") -> Sample:
    image = Image(data=png_bytes(make_image(index, 56 + 30 * (index % 3), 56)))
    return Sample(f"q{index}", (user_turn(text + " left" * (index % 2), 1),), (image,))


def replies(
    engine: HfEngine, samples: Sequence[Sample], sampling: Sampling
) -> dict[tuple[str, int], Reply]:
    return {
        (reply.id, reply.generation_index): reply
        for batch in engine.generate(samples, sampling)
        for reply in batch
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_replies_equal_stock_generation(family: str) -> None:
    model, processor = tiny(family)
    samples = [question(index) for index in range(4)]
    results = replies(engine(family), samples, Sampling(max_tokens=8))
    for sample in samples:
        images = [make_image(int(sample.id[1:]), 56 + 30 * (int(sample.id[1:]) % 3), 56)]
        batch = processor.collate(
            [processor.encode(sample.messages, processor.tiles(images))], pad="left"
        )
        inputs = {k: v for k, v in batch.items() if k not in ("labels", "position_ids")}
        out = model.generate(
            **inputs, max_new_tokens=8, do_sample=False, suppress_tokens=processor.never_sampled
        )
        new = out[0, inputs["input_ids"].shape[1] :].tolist()
        assert list(results[sample.id, 0].token_ids or ()) == new
        assert results[sample.id, 0].reply_tokens == len(new)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_repetition_penalty_is_that_of_stock_generation(family: str) -> None:
    model, processor = tiny(family)
    loaded = LoadedModel(model, processor, "tiny", "digest", {"repetition_penalty": 4.0})
    samples = [question(index) for index in range(3)]
    results = replies(HfEngine(loaded, batch_size=3), samples, Sampling(max_tokens=8))
    for index, sample in enumerate(samples):
        tiles = processor.tiles([make_image(index, 56 + 30 * (index % 3), 56)])
        batch = processor.collate([processor.encode(sample.messages, tiles)], pad="left")
        inputs = {k: v for k, v in batch.items() if k not in ("labels", "position_ids")}
        out = model.generate(
            **inputs,
            max_new_tokens=8,
            do_sample=False,
            suppress_tokens=processor.never_sampled,
            repetition_penalty=4.0,
        )
        new = out[0, inputs["input_ids"].shape[1] :].tolist()
        assert list(results[sample.id, 0].token_ids or ()) == new
    plain = replies(engine(family), samples, Sampling(max_tokens=8))
    assert any(plain[key].token_ids != results[key].token_ids for key in plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_reply_ends_at_every_end_token_that_the_checkpoint_names(family: str) -> None:
    model, processor = tiny(family)
    sampling = Sampling(max_tokens=6)
    first = next(iter(replies(engine(family), [question(0)], sampling)["q0", 0].token_ids or ()))
    model = copy.deepcopy(model)
    # As released checkpoints have it: the end of a turn and the end of a text.
    model.generation_config.eos_token_id = [processor.tokenizer.eos_token_id, first]
    reply = replies(
        HfEngine(LoadedModel(model, processor, "tiny", "digest")), [question(0)], sampling
    )["q0", 0]
    assert (reply.text, reply.finish, reply.token_ids) == ("", "stop", (first,))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_image_token_among_10000_sampled(family: str) -> None:
    model, processor = tiny(family)
    loaded = LoadedModel(model, processor, "tiny", "digest")
    prompt = processor.encode([Message("user", ("Is there a lesion?",))], ())
    n_rows = 250
    rngs = [np.random.default_rng(row) for row in range(n_rows)]
    tokens = decode(loaded, [prompt], [0] * n_rows, Sampling(max_tokens=48, temperature=2.0), rngs)
    sampled = np.concatenate([np.array(row) for row in tokens])
    assert len(sampled) >= 10_000
    assert not np.isin(sampled, processor.never_sampled).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_prefill_equals_separate_generation(family: str) -> None:
    same = [Sample(f"{name}", question(0).messages, question(0).images) for name in "abc"]
    sampling = Sampling(max_tokens=6, temperature=1.0, num_generations=2)
    batched = replies(engine(family, batch_size=3), same, sampling)
    separate = replies(engine(family, batch_size=1), same, sampling)
    assert {key: reply.text for key, reply in batched.items()} == {
        key: reply.text for key, reply in separate.items()
    }
    assert len({reply.text for reply in batched.values()}) > 1  # generations are sampled apart


def test_a_draw_depends_on_seed_sample_and_copy_only() -> None:
    samples = [question(index) for index in range(5)]
    sampling = Sampling(max_tokens=6, temperature=1.0, num_generations=2, seed=1)
    all_at_once = replies(engine("internvl", batch_size=8), samples, sampling)
    single = replies(engine("internvl", batch_size=8), samples[3:4], sampling)
    assert all(all_at_once[key].text == reply.text for key, reply in single.items())
    other = replies(
        engine("internvl", batch_size=8),
        samples[3:4],
        Sampling(max_tokens=6, temperature=1.0, num_generations=2, seed=2),
    )
    assert {r.text for r in other.values()} != {r.text for r in single.values()}


def test_skipped_replies_are_not_given_again_and_leave_the_others_as_they_were() -> None:
    samples = [question(index) for index in range(5)]
    all_replies = replies(engine("qwen2_5_vl"), samples, Sampling(max_tokens=4))
    remaining = [
        r
        for batch in engine("qwen2_5_vl").generate(
            samples, Sampling(max_tokens=4), skip={("q1", 0), ("q4", 0)}
        )
        for r in batch
    ]
    assert sorted(reply.id for reply in remaining) == ["q0", "q2", "q3"]
    assert all(reply == all_replies[reply.id, 0] for reply in remaining)


def test_an_unreadable_image_is_an_error_reply_and_the_others_are_answered() -> None:
    bad = Sample("bad", (user_turn("?", 1),), (Image(data=b"no image"),))
    answered = Sample("done", (Message("user", ("?",)), Message("assistant", ("yes",))))
    results = replies(engine("qwen2_5_vl"), [question(0), bad, answered], Sampling(max_tokens=2))
    assert results["bad", 0].text is None and "image" in (results["bad", 0].error or "")
    assert (
        results["done", 0].error
        == "the dialogue ends in an answer, so there is nothing to be answered"
    )
    assert results["q0", 0].text is not None


@pytest.mark.parametrize("family", FAMILIES)
def test_log_likelihoods_are_sums_over_the_answer(family: str) -> None:
    model, processor = tiny(family)
    sample = Sample("text", (Message("user", ("Is there a lesion?",)),))
    results = engine(family).log_likelihoods([sample], ["yes", "no"])[0]
    for answer, value in zip(("yes", "no"), results, strict=True):
        encoded = processor.encode(sample.with_answer(answer).messages, ())
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(encoded.ids)[None]).logits[0].log_softmax(-1)
        positions = np.flatnonzero(encoded.labels != -100)
        expected = sum(float(logits[p - 1, encoded.ids[p]]) for p in positions)
        assert value == pytest.approx(expected, abs=1e-4)


def test_the_nucleus_leaves_out_the_tail() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]])).repeat(200, 1)
    sampled = sample_tokens(
        logits, Sampling(temperature=1.0, top_p=0.6), [np.random.default_rng(i) for i in range(200)]
    )
    assert set(sampled.tolist()) == {0, 1}
    assert abs(float((sampled == 0).mean()) - 0.625) < 0.1
