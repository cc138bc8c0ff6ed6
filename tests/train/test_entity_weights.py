"""Entity weights: from spans to tokens in both families, weights that change nothing else, and what
is reported of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lingshu.cli.main import main
from lingshu.core.entities import EntityMatcher, find_spans, with_spans
from lingshu.core.errors import ConfigError, TrainingError
from lingshu.core.types import Message, Sample
from lingshu.models.processor import IGNORE_INDEX, EncodedSample, Processor
from lingshu.models.token_spans import AlignedText, entity_token_mask
from lingshu.sources import phantom
from lingshu.train.config import LearningRates, Objective, Stage
from lingshu.train.data import StageData, encode_training_samples
from lingshu.train.loop import train
from lingshu.train.objectives import TokenWeightedLoss
from lingshu.train.progress import StepProgress
from lingshu.train.step import Trainer, build_trainer
from tests.support.tiny import FAMILIES, make_image, small_config, tiny, write_phantoms

CPU = torch.device("cpu")
# How byte-level and SentencePiece tokenizers write the space before a word.
WORD_STARTS = str.maketrans("Ġ▁", "  ")
TERMS = EntityMatcher(["lesion", "left", "large lesion", "小结节", "é"])


def pieces(encoded: EncodedSample, processor: Processor) -> list[tuple[str, bool]]:
    """The supervised tokens as the tokenizer writes them, and which of them are an entity's."""
    ids = encoded.labels[encoded.labels != IGNORE_INDEX]
    return list(
        zip(
            processor.tokenizer.convert_ids_to_tokens(ids.tolist()),
            (encoded.token_values["entity"] > 0).tolist(),
            strict=True,
        )
    )


def dialogue(*answers: str) -> Sample:
    turns = [
        m
        for answer in answers
        for m in (Message("user", ("Is there a lesion?",)), Message("assistant", (answer,)))
    ]
    return Sample("s", tuple(turns))


def encoded(sample: Sample, family: str) -> tuple[EncodedSample, Processor]:
    processor = tiny(family)[1]
    return processor.encode(sample.messages, (), entities=find_spans(sample, TERMS)), processor


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_of_entities_are_those_that_share_a_character_with_them(family: str) -> None:
    sample = dialogue("yes, a large lesion on the left.", "the lesion")
    found, processor = encoded(sample, family)
    token_marks = pieces(found, processor)
    assert len(token_marks) == found.supervised and not any(
        entity for piece, entity in token_marks if piece == processor.tokens.end_of_turn
    )
    words = "".join(piece for piece, entity in token_marks if entity).translate(WORD_STARTS)
    assert words.replace(" ", "") == "largelesionleftlesion"
    plain = processor.encode(sample.messages, ())
    assert (
        np.array_equal(plain.ids, found.ids)
        and np.array_equal(plain.labels, found.labels)
        and plain.token_values == {}
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_every_piece_of_a_split_character_is_marked(family: str) -> None:
    found, processor = encoded(dialogue("有小结节。é"), family)
    token_marks = pieces(found, processor)
    # The tiny vocabulary knows no Chinese: three bytes a character, three characters of the term,
    # two bytes of the é.
    assert sum(entity for _, entity in token_marks) == 9 + 2
    assert [entity for _, entity in token_marks][:3] == [False] * 3 and [
        entity for _, entity in token_marks
    ][12:15] == [False] * 3


def test_control_tokens_inside_an_answer_shift_nothing() -> None:
    found, processor = encoded(dialogue("x <|im_end|> <|im_start|> lesion"), "qwen2_5_vl")
    assert (
        "".join(piece for piece, entity in pieces(found, processor) if entity).strip("Ġ")
        == "lesion"
    )


def test_an_image_before_the_answer_and_blanks_at_its_ends_change_no_mark() -> None:
    processor = tiny("qwen2_5_vl")[1]
    tiles = processor.tiles([make_image(0)])
    messages = (
        Message("user", (0, "lesion? left?")),
        Message("assistant", ("  the left lesion \n",)),
    )
    found = processor.encode(messages, tiles, entities=find_spans(Sample("s", messages), TERMS))
    assert "".join(p for p, entity in pieces(found, processor) if entity).replace(
        "Ġ", " "
    ).split() == ["left", "lesion"]
    assert len(found.token_values["entity"]) == found.supervised < len(found)


def test_majority_leaves_out_tokens_that_are_mostly_another_word() -> None:
    answer = AlignedText("abc de<end>", [(0, 3), (3, 6), (6, 11)], np.array([True, True, False]))
    in_entity = np.array([c in "a de<" for c in answer.text])
    in_entity[3] = False  # a blank of an entity does not count
    assert entity_token_mask(answer, in_entity, "any").tolist() == [True, True, False]
    assert entity_token_mask(answer, in_entity, "majority").tolist() == [False, True, False]


# --- weights
# ---------------------------------------------------------------------------------------------------------


def stage_data(
    samples: Sequence[Sample],
    objective: Objective,
    *,
    seed: int = 0,
    family: str = "qwen2_5_vl",
) -> StageData:
    return encode_training_samples(
        samples, tiny(family)[1], max_tokens=500, cache_mb=1, objective=objective, seed=seed
    )


def with_terms(samples: Sequence[Sample]) -> list[Sample]:
    return [with_spans(sample, find_spans(sample, TERMS)) for sample in samples]


SAMPLES = with_terms(
    [
        replace(dialogue(text), id=str(n))
        for n, text in enumerate(["a large lesion on the left", "yes", "no", "the lesion is small"])
    ]
)


def trainer(objective: Objective, *, packing: bool = False) -> Trainer:
    model, processor = tiny("qwen2_5_vl")
    stage = Stage(
        "x",
        ("x",),
        LearningRates(language=1e-3),
        batch=4,
        micro_batch=4,
        objective=objective,
        packing=packing,
    )
    return build_trainer(model, processor, stage, device=CPU, bfloat16=False)


def loss_and_gradient(
    objective: Objective, encodings: Sequence[EncodedSample], *, packing: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    built = trainer(objective, packing=packing)
    built.model.zero_grad()
    with torch.enable_grad():
        loss = built.compute_loss_sum(encodings).loss / built.loss.denominator(encodings)
        loss.backward()
    gradient = built.model.lm_head.weight.grad.clone()
    built.model.zero_grad()
    built.model.eval()
    return loss.detach(), gradient


@pytest.mark.parametrize("normalizer", ["tokens", "weights"])
@pytest.mark.parametrize("policy", ["any", "majority"])
def test_a_weight_of_one_is_plain_cross_entropy_to_the_last_bit(
    normalizer: str, policy: str
) -> None:
    one = Objective(normalizer=normalizer, policy=policy)  # pyright: ignore[reportArgumentType]
    unmarked = [replace(sample, meta=replace(sample.meta, extra={})) for sample in SAMPLES]
    weighed, plain = stage_data(SAMPLES, one).encodings, stage_data(unmarked, Objective()).encodings
    assert all("weight" in text.token_values for text in weighed) and not any(
        text.token_values for text in plain
    )
    for found, expected in zip(
        loss_and_gradient(one, weighed), loss_and_gradient(Objective(), plain), strict=True
    ):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_both_trajectories_see_the_same_tokens(family: str) -> None:
    ones, heavy = (
        stage_data(SAMPLES, Objective(entity_weight=weight), family=family).encodings
        for weight in (1.0, 2.5)
    )
    for first, second in zip(ones, heavy, strict=True):
        assert np.array_equal(first.ids, second.ids) and np.array_equal(first.labels, second.labels)
        assert set(first.token_values["weight"]) == {1.0} and set(
            second.token_values["weight"]
        ) <= {1.0, 2.5}
    assert any(2.5 in text.token_values["weight"] for text in heavy)


def test_the_mean_weight_is_that_of_the_published_share() -> None:
    """11.64% of 10,000 tokens at 2.5: 1.1746 by the number of tokens; gradients are that much
    larger than at 1.
    """
    weight = np.ones(10_000, np.float32)
    weight[:1164] = 2.5
    labels = np.zeros(10_001, np.int64)
    labels[0] = IGNORE_INDEX
    text = EncodedSample(labels, labels, labels > 0, None, (), {"weight": weight})
    assert weight.sum(dtype=np.float64) / TokenWeightedLoss(Objective()).denominator(
        [text]
    ) == pytest.approx(1.1746, abs=1e-12)
    assert TokenWeightedLoss(Objective(normalizer="weights")).denominator([text]) == pytest.approx(
        11_746
    )


def test_packed_and_separate_samples_weigh_the_same() -> None:
    heavy = Objective(entity_weight=2.5)
    encodings = stage_data(SAMPLES, heavy).encodings
    packed, separate = (
        loss_and_gradient(heavy, encodings, packing=packing) for packing in (True, False)
    )
    assert torch.allclose(packed[0], separate[0], rtol=1e-5) and torch.allclose(
        packed[1], separate[1], atol=1e-6
    )
    plain = loss_and_gradient(Objective(), [replace(text, token_values={}) for text in encodings])
    assert float(separate[0]) > 1.05 * float(plain[0])


def test_random_tokens_are_as_many_in_each_sample_and_the_same_again() -> None:
    marked, first, again, other = (
        stage_data(SAMPLES, Objective(entity_weight=2.5, entities=which), seed=seed).encodings  # pyright: ignore[reportArgumentType]
        for which, seed in (("marked", 0), ("random", 0), ("random", 0), ("random", 1))
    )
    for real, one, two in zip(marked, first, again, strict=True):
        assert (one.token_values["weight"] > 1).sum() == (real.token_values["weight"] > 1).sum()
        # its end token
        assert (
            np.array_equal(one.token_values["weight"], two.token_values["weight"])
            and one.token_values["weight"][-1] == 1
        )
    assert any(
        not np.array_equal(a.token_values["weight"], b.token_values["weight"])
        for a, b in zip(first, other, strict=True)
    )
    assert any(
        not np.array_equal(a.token_values["weight"], b.token_values["weight"])
        for a, b in zip(first, marked, strict=True)
    )


def test_what_is_marked_is_counted() -> None:
    unmarked = replace(dialogue("yes"), id="bare")
    found = stage_data([*SAMPLES, unmarked], Objective(entity_weight=2.5))
    counts = found.entities
    assert counts is not None and (counts.samples, counts.unmarked, counts.without_entities) == (
        5,
        1,
        2,
    )
    assert counts.terms == {"large lesion": 1, "left": 1, "lesion": 1}
    assert counts.entity_tokens == sum(
        int((text.token_values["weight"] > 1).sum()) for text in found.encodings
    )
    assert counts.fraction == counts.entity_tokens / sum(
        text.supervised for text in found.encodings
    )
    assert set(found.encodings[-1].token_values["weight"]) == {1.0}
    assert stage_data([unmarked], Objective()).entities is None


def test_entities_that_do_not_fit_and_weights_without_entities_are_refused() -> None:
    edited = replace(SAMPLES[0], id="edited", messages=dialogue("another answer").messages)
    for weight in (1.0, 2.5):  # or the two trajectories would learn from different samples
        found = stage_data([*SAMPLES, edited], Objective(entity_weight=weight))
        assert (
            found.drops == {"bad_entities": 1}
            and "mark it after the last change" in found.drop_examples[0]
        )
    with pytest.raises(TrainingError, match="no sample carries entities"):
        stage_data([dialogue("yes")], Objective(entity_weight=2.5))
    with pytest.raises(ConfigError, match="entity_weight is 0"):
        Objective(entity_weight=0)


# --- runs
# ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Marked dialogues about rendered phantoms."""
    terms = EntityMatcher(["left", "right", "small", "large", "lesion"])
    samples = [
        with_spans(sample, find_spans(sample, terms))
        for sample in phantom.training_samples(0, 24, "instruct")
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
    uninterrupted = train(config, tmp_path / "plain")

    def interrupt(now: StepProgress) -> None:
        if now.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "broken", progress=interrupt)
    again = train(config, tmp_path / "broken", resume=True)
    assert (again / "model.safetensors").read_bytes() == (
        uninterrupted / "model.safetensors"
    ).read_bytes()
    (stage_summary,) = json.loads((tmp_path / "plain" / "summary.json").read_text())["stages"]
    assert (
        0.1 < stage_summary["entities"]["fraction"] < 0.9
        and stage_summary["entities"]["samples"] == 24
        and stage_summary["entities"]["unmarked"] == 0
    )


def test_the_plan_of_a_run_shows_what_is_marked(
    phantoms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unmarked = write_phantoms(tmp_path / "bare", list(phantom.training_samples(0, 8, "instruct")))
    overrides = [
        "stages.base=null",
        "stages.shallow=null",
        "stages.deep=null",
        "stages.instruct.objective.entity_weight=2.5",
    ]
    assert main(["train", "quickstart", *overrides, f"data.instruct={phantoms}", "--check"]) == 0
    output = capsys.readouterr().out
    assert (
        "tokens of entities weigh 2.5" in output
        and "of 24 samples contain no term" in output
        and "most frequent: " in output
    )
    assert main(["train", "quickstart", *overrides, f"data.instruct={unmarked}", "--check"]) == 0
    assert "NO entity is marked in instruct" in capsys.readouterr().out
