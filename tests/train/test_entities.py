"""Entity weights: from spans to tokens in both families, weights that change nothing else, and what
is told of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lingshu.apps.cli import main
from lingshu.core.entities import Terms, mark, with_spans
from lingshu.core.errors import ConfigError, TrainingError
from lingshu.core.nouns import Message, Sample
from lingshu.models.marks import Spelt, entity_tokens
from lingshu.models.processor import IGNORED, Encoded, Processor
from lingshu.models.spec import FamilyName
from lingshu.sources import phantom
from lingshu.train.config import Objective, Rates, Stage
from lingshu.train.data import StageData, encode_all
from lingshu.train.loop import train
from lingshu.train.objective import Weighted
from lingshu.train.step import Trainer, set_up
from tests.tiny import FAMILIES, picture, small_config, tiny, write_phantoms

CPU = torch.device("cpu")
TERMS = Terms(["lesion", "left", "large lesion", "小结节", "é"])


def pieces(encoded: Encoded, processor: Processor) -> list[tuple[str, bool]]:
    """The supervised tokens as the tokenizer writes them, and which of them are an entity's."""
    ids = encoded.labels[encoded.labels != IGNORED]
    return list(
        zip(
            processor.tokenizer.convert_ids_to_tokens(ids.tolist()),
            (encoded.facts["entity"] > 0).tolist(),
            strict=True,
        )
    )


def said(*answers: str) -> Sample:
    turns = [
        m
        for answer in answers
        for m in (Message("user", ("Is there a lesion?",)), Message("assistant", (answer,)))
    ]
    return Sample("s", tuple(turns))


def encoded(sample: Sample, family: FamilyName) -> tuple[Encoded, Processor]:
    processor = tiny(family)[1]
    return processor.encode(sample.messages, (), entities=mark(sample, TERMS)), processor


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_of_entities_are_those_that_share_a_character_with_them(family: FamilyName) -> None:
    sample = said("yes, a large lesion on the left.", "the lesion")
    found, processor = encoded(sample, family)
    told = pieces(found, processor)
    assert len(told) == found.supervised and not any(
        entity for piece, entity in told if piece == "<|im_end|>"
    )
    words = "".join(piece for piece, entity in told if entity).replace("Ġ", " ")
    assert words.replace(" ", "") == "largelesionleftlesion"
    plain = processor.encode(sample.messages, ())
    assert (
        np.array_equal(plain.ids, found.ids)
        and np.array_equal(plain.labels, found.labels)
        and plain.facts == {}
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_every_piece_of_a_split_character_is_marked(family: FamilyName) -> None:
    found, processor = encoded(said("有小结节。é"), family)
    told = pieces(found, processor)
    # The tiny vocabulary knows no Chinese: three bytes a character, three characters of the term,
    # two bytes of the é.
    assert sum(entity for _, entity in told) == 9 + 2
    assert [entity for _, entity in told][:3] == [False] * 3 and [entity for _, entity in told][
        12:15
    ] == [False] * 3


def test_control_words_inside_an_answer_shift_nothing() -> None:
    found, processor = encoded(said("x <|im_end|> <|im_start|> lesion"), "qwen2_5_vl")
    assert (
        "".join(piece for piece, entity in pieces(found, processor) if entity).strip("Ġ")
        == "lesion"
    )


def test_an_image_before_the_answer_and_blanks_at_its_ends_change_no_mark() -> None:
    processor = tiny("qwen2_5_vl")[1]
    tiles = processor.tiles([picture(0)])
    messages = (
        Message("user", (0, "lesion? left?")),
        Message("assistant", ("  the left lesion \n",)),
    )
    found = processor.encode(messages, tiles, entities=mark(Sample("s", messages), TERMS))
    assert "".join(p for p, entity in pieces(found, processor) if entity).replace(
        "Ġ", " "
    ).split() == ["left", "lesion"]
    assert len(found.facts["entity"]) == found.supervised < len(found)


def test_majority_leaves_out_tokens_that_are_mostly_another_word() -> None:
    answer = Spelt("abc de<end>", [(0, 3), (3, 6), (6, 11)], np.array([True, True, False]))
    inside = np.array([c in "a de<" for c in answer.text])
    inside[3] = False  # a blank of an entity does not count
    assert entity_tokens(answer, inside, "any").tolist() == [True, True, False]
    assert entity_tokens(answer, inside, "majority").tolist() == [False, True, False]


# --- weights
# ---------------------------------------------------------------------------------------------------------


def stage_data(
    samples: Sequence[Sample],
    objective: Objective,
    *,
    seed: int = 0,
    family: FamilyName = "qwen2_5_vl",
) -> StageData:
    return encode_all(
        samples, tiny(family)[1], max_tokens=500, cache_mb=1, objective=objective, seed=seed
    )


def with_terms(samples: Sequence[Sample]) -> list[Sample]:
    return [with_spans(sample, mark(sample, TERMS)) for sample in samples]


SAMPLES = with_terms(
    [
        replace(said(text), id=str(n))
        for n, text in enumerate(["a large lesion on the left", "yes", "no", "the lesion is small"])
    ]
)


def trainer(objective: Objective, *, packing: bool = False) -> Trainer:
    model, processor = tiny("qwen2_5_vl")
    stage = Stage(
        "x",
        ("x",),
        Rates(language=1e-3),
        batch=4,
        micro_batch=4,
        objective=objective,
        packing=packing,
    )
    return set_up(model, processor, stage, device=CPU, bfloat16=False)


def loss_and_gradient(
    objective: Objective, texts: Sequence[Encoded], *, packing: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    made = trainer(objective, packing=packing)
    made.model.zero_grad()
    with torch.enable_grad():
        loss = made.summed_loss(texts).loss / made.loss.mass(texts)
        loss.backward()
    gradient = made.model.lm_head.weight.grad.clone()
    made.model.zero_grad()
    made.model.eval()
    return loss.detach(), gradient


@pytest.mark.parametrize("normaliser", ["tokens", "weights"])
@pytest.mark.parametrize("policy", ["any", "majority"])
def test_a_weight_of_one_is_plain_cross_entropy_to_the_last_bit(
    normaliser: str, policy: str
) -> None:
    one = Objective(normaliser=normaliser, policy=policy)  # pyright: ignore[reportArgumentType]
    bare = [replace(sample, meta=replace(sample.meta, extra={})) for sample in SAMPLES]
    weighed, plain = stage_data(SAMPLES, one).texts, stage_data(bare, Objective()).texts
    assert all("weight" in text.facts for text in weighed) and not any(text.facts for text in plain)
    for found, expected in zip(
        loss_and_gradient(one, weighed), loss_and_gradient(Objective(), plain), strict=True
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_trajectories_see_the_same_tokens(family: FamilyName) -> None:
    ones, heavy = (
        stage_data(SAMPLES, Objective(entity_weight=weight), family=family).texts
        for weight in (1.0, 2.5)
    )
    for first, second in zip(ones, heavy, strict=True):
        assert np.array_equal(first.ids, second.ids) and np.array_equal(first.labels, second.labels)
        assert set(first.facts["weight"]) == {1.0} and set(second.facts["weight"]) <= {1.0, 2.5}
    assert any(2.5 in text.facts["weight"] for text in heavy)


def test_the_mean_weight_is_that_of_the_published_share() -> None:
    """11.64% of 10,000 tokens at 2.5: 1.1746 by the number of tokens; gradients are that much
    larger than at 1.
    """
    weight = np.ones(10_000, np.float32)
    weight[:1164] = 2.5
    labels = np.zeros(10_001, np.int64)
    labels[0] = IGNORED
    text = Encoded(labels, labels, labels > 0, None, (), {"weight": weight})
    assert weight.sum(dtype=np.float64) / Weighted(Objective()).mass([text]) == pytest.approx(
        1.1746, abs=1e-12
    )
    assert Weighted(Objective(normaliser="weights")).mass([text]) == pytest.approx(11_746)


def test_packed_and_separate_samples_weigh_the_same() -> None:
    heavy = Objective(entity_weight=2.5)
    texts = stage_data(SAMPLES, heavy).texts
    packed, apart = (loss_and_gradient(heavy, texts, packing=packing) for packing in (True, False))
    assert torch.allclose(packed[0], apart[0], rtol=1e-5) and torch.allclose(
        packed[1], apart[1], atol=1e-6
    )
    plain = loss_and_gradient(Objective(), [replace(text, facts={}) for text in texts])
    assert float(apart[0]) > 1.05 * float(plain[0])


def test_random_tokens_are_as_many_in_each_sample_and_the_same_again() -> None:
    marked, first, again, other = (
        stage_data(SAMPLES, Objective(entity_weight=2.5, entities=which), seed=seed).texts  # pyright: ignore[reportArgumentType]
        for which, seed in (("marked", 0), ("random", 0), ("random", 0), ("random", 1))
    )
    for real, one, two in zip(marked, first, again, strict=True):
        assert (one.facts["weight"] > 1).sum() == (real.facts["weight"] > 1).sum()
        # its end token
        assert (
            np.array_equal(one.facts["weight"], two.facts["weight"])
            and one.facts["weight"][-1] == 1
        )
    assert any(
        not np.array_equal(a.facts["weight"], b.facts["weight"])
        for a, b in zip(first, other, strict=True)
    )
    assert any(
        not np.array_equal(a.facts["weight"], b.facts["weight"])
        for a, b in zip(first, marked, strict=True)
    )


def test_what_is_marked_is_counted() -> None:
    bare = replace(said("yes"), id="bare")
    found = stage_data([*SAMPLES, bare], Objective(entity_weight=2.5))
    counts = found.entities
    assert counts is not None and (counts.samples, counts.unmarked, counts.without) == (5, 1, 2)
    assert counts.terms == {"large lesion": 1, "left": 1, "lesion": 1}
    assert counts.entity_tokens == sum(
        int((text.facts["weight"] > 1).sum()) for text in found.texts
    )
    assert counts.share == counts.entity_tokens / sum(text.supervised for text in found.texts)
    assert set(found.texts[-1].facts["weight"]) == {1.0}
    assert stage_data([bare], Objective()).entities is None


def test_entities_that_do_not_fit_and_weights_without_entities_are_refused() -> None:
    edited = replace(SAMPLES[0], id="edited", messages=said("another answer").messages)
    for weight in (1.0, 2.5):  # or the two trajectories would learn from different samples
        found = stage_data([*SAMPLES, edited], Objective(entity_weight=weight))
        assert (
            found.drops == {"bad_entities": 1}
            and "mark it after the last change" in found.named_drops[0]
        )
    with pytest.raises(TrainingError, match="no sample carries entities"):
        stage_data([said("yes")], Objective(entity_weight=2.5))
    with pytest.raises(ConfigError, match="entity_weight is 0"):
        Objective(entity_weight=0)


# --- runs
# ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Marked dialogues about drawn phantoms."""
    terms = Terms(["left", "right", "small", "large", "lesion"])
    samples = [
        with_spans(sample, mark(sample, terms)) for sample in phantom.training(0, 24, "instruct")
    ]
    return write_phantoms(tmp_path_factory.mktemp("marked") / "data", samples)


def test_a_stopped_run_of_weighted_tokens_ends_in_the_same_bits(
    phantoms: Path, tmp_path: Path
) -> None:
    config = small_config(tmp_path)
    weighed = replace(
        config.stages[1], objective=Objective(entity_weight=2.5, entities="random"), steps=4
    )
    config = replace(config, stages=(weighed,), data={"instruct": str(phantoms)})
    whole = train(config, tmp_path / "whole")

    def interrupt(stage: str, step: int, total: int, loss: float, tokens_per_s: float) -> None:
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "broken", progress=interrupt)
    again = train(config, tmp_path / "broken", resume=True)
    assert (again / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    (told,) = json.loads((tmp_path / "whole" / "summary.json").read_text())["stages"]
    assert (
        0.1 < told["entities"]["share"] < 0.9
        and told["entities"]["samples"] == 24
        and told["entities"]["unmarked"] == 0
    )


def test_the_plan_of_a_run_tells_what_is_marked(
    phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = write_phantoms(tmp_path / "bare", list(phantom.training(0, 8, "instruct")))
    wanted = [
        "stages.base=null",
        "stages.shallow=null",
        "stages.deep=null",
        "stages.instruct.objective.entity_weight=2.5",
    ]
    assert main(["train", "quickstart", *wanted, f"data.instruct={phantoms}", "--check"]) == 0
    told = capsys.readouterr().out
    assert (
        "tokens of entities weigh 2.5" in told
        and "of 24 samples hold no term" in told
        and "most frequent: " in told
    )
    assert main(["train", "quickstart", *wanted, f"data.instruct={bare}", "--check"]) == 0
    assert "NO entity is marked in instruct" in capsys.readouterr().out
