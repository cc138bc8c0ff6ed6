"""Likelihoods of held-out answers: equal to the model's own loss, split by entities, kept and not
computed again.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lingshu.analysis.likelihood import HeldOutSet, encode_held_out, likelihoods, read_complete
from lingshu.core.entities import EntityMatcher, find_spans, with_spans
from lingshu.core.errors import ArtifactError, InputError, TrainingError
from lingshu.models.load import LoadedModel
from lingshu.sources import phantom
from tests.support.tiny import tiny, write_phantoms


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> HeldOutSet:
    """Ten dialogues, the last one never marked."""
    terms = EntityMatcher(["left", "right", "small", "large", "lesion"])
    samples = list(phantom.training_samples(5, 10, "instruct"))
    marked = [with_spans(sample, find_spans(sample, terms)) for sample in samples[:-1]]
    folder = write_phantoms(tmp_path_factory.mktemp("held") / "data", [*marked, samples[-1]])
    return encode_held_out([folder], tiny("qwen2_5_vl")[1])


def loaded() -> LoadedModel:
    model, processor = tiny("qwen2_5_vl")
    return LoadedModel(model, processor, "tiny", "digest")


def test_sums_are_those_of_the_model_s_own_loss(held_out: HeldOutSet, tmp_path: Path) -> None:
    rows = likelihoods(loaded(), held_out, tmp_path / "rows.jsonl", batch=4)
    assert [row.id for row in rows] == [sample.id for sample in held_out.data.samples]
    model, processor = tiny("qwen2_5_vl")
    for i in (0, 7):
        encoded = held_out.data.sample(i)
        with torch.no_grad():
            mean = float(model(**processor.collate([encoded], pad="right")).loss)
        assert (
            rows[i].nll / rows[i].tokens == pytest.approx(mean, rel=1e-5)
            and rows[i].tokens == encoded.supervised
        )
        entity = encoded.token_values["entity"]
        assert (
            rows[i].entity_tokens == entity.sum() and 0 <= (rows[i].entity_nll or 0) <= rows[i].nll
        )
    assert (
        rows[-1].entity_tokens is None
        and rows[-1].entity_nll is None
        and rows[0].group == held_out.data.samples[0].meta.group
    )
    assert (
        held_out.data.entities is not None
        and held_out.data.entities.unmarked == 1
        and not held_out.data.drops
    )


def test_what_is_stored_is_not_computed_again_and_an_interruption_changes_no_bit(
    held_out: HeldOutSet, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    rows = likelihoods(loaded(), held_out, path, batch=4)
    assert (
        read_complete(path, "digest", held_out) == rows
        and read_complete(path, "another checkpoint", held_out) is None
    )
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]) + lines[5][:9])  # a kill in the middle of the second batch
    assert read_complete(path, "digest", held_out) is None
    assert likelihoods(loaded(), held_out, path, batch=4) == rows
    assert sorted(path.read_bytes().splitlines()) == sorted(line.strip() for line in lines)
    before = path.read_bytes()
    likelihoods(replace(loaded(), model=tiny("qwen2_5_vl")[0]), held_out, path, batch=4)
    assert path.read_bytes() == before


def test_a_model_with_a_non_finite_likelihood_is_named(
    held_out: HeldOutSet, tmp_path: Path
) -> None:
    broken = copy.deepcopy(tiny("qwen2_5_vl")[0])
    with torch.no_grad():
        broken.lm_head.weight[3] = torch.nan
    with pytest.raises(ArtifactError, match="tiny gives no likelihood for 'phantom"):
        likelihoods(replace(loaded(), model=broken), held_out, tmp_path / "rows.jsonl")


def test_ids_that_two_folders_share_are_refused(tmp_path: Path) -> None:
    samples = list(phantom.training_samples(5, 2, "instruct"))
    folders = [write_phantoms(tmp_path / name, samples) for name in ("one", "two")]
    with pytest.raises(InputError, match="more than once"):
        encode_held_out(folders, tiny("qwen2_5_vl")[1])


def test_of_a_folder_with_both_sides_of_a_split_only_the_held_out_one_is_measured(
    tmp_path: Path,
) -> None:
    rows = [
        {"id": side, "question": "Is there a lesion?", "answer": "yes", "split": side}
        for side in ("train", "test")
    ]
    for name, chosen in (("both", rows), ("one", rows[:1])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rows.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in chosen)
        )
    processor = tiny("qwen2_5_vl")[1]
    held_out = encode_held_out([tmp_path / "both"], processor)
    assert [sample.id for sample in held_out.data.samples] == ["test"] and held_out.data.drops == {
        "trained_on": 1
    }
    # Whoever gives a folder that says train throughout means it.
    assert [
        sample.id for sample in encode_held_out([tmp_path / "one"], processor).data.samples
    ] == ["train"]


def test_data_without_answers_are_refused(tmp_path: Path) -> None:
    questions = [
        replace(sample, gold=None) for sample in phantom.question_samples(0, "validation", 1)
    ]
    folder = write_phantoms(tmp_path / "data", questions)
    with pytest.raises(TrainingError, match="no_answer"):
        encode_held_out([folder], tiny("qwen2_5_vl")[1])
