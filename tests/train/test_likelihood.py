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

from lingshu.core.entities import Terms, mark, with_spans
from lingshu.core.errors import ArtefactError, InputError, TrainingError
from lingshu.models.load import Loaded
from lingshu.sources import phantom
from lingshu.train.likelihood import HeldOut, complete, held_out, likelihoods
from tests.tiny import tiny, write_phantoms


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> HeldOut:
    """Ten dialogues, the last one never marked."""
    terms = Terms(["left", "right", "small", "large", "lesion"])
    samples = list(phantom.training(5, 10, "instruct"))
    marked = [with_spans(sample, mark(sample, terms)) for sample in samples[:-1]]
    folder = write_phantoms(tmp_path_factory.mktemp("held") / "data", [*marked, samples[-1]])
    return held_out([folder], tiny("qwen2_5_vl")[1])


def loaded() -> Loaded:
    model, processor = tiny("qwen2_5_vl")
    return Loaded(model, processor, "tiny", "digest")


def test_sums_are_those_of_the_model_s_own_loss(held: HeldOut, tmp_path: Path) -> None:
    rows = likelihoods(loaded(), held, tmp_path / "rows.jsonl", batch=4)
    assert [row.id for row in rows] == [sample.id for sample in held.samples]
    model, processor = tiny("qwen2_5_vl")
    for i in (0, 7):
        encoded = held.data.sample(i)
        with torch.no_grad():
            mean = float(model(**processor.collate([encoded], pad="right")).loss)
        assert (
            rows[i].nll / rows[i].tokens == pytest.approx(mean, rel=1e-5)
            and rows[i].tokens == encoded.supervised
        )
        entity = encoded.facts["entity"]
        assert (
            rows[i].entity_tokens == entity.sum() and 0 <= (rows[i].entity_nll or 0) <= rows[i].nll
        )
    assert (
        rows[-1].entity_tokens is None
        and rows[-1].entity_nll is None
        and rows[0].group == held.samples[0].meta.group
    )
    assert held.entities is not None and held.entities.unmarked == 1 and not held.drops


def test_what_is_stored_is_not_computed_again_and_an_interruption_changes_no_bit(
    held: HeldOut, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    rows = likelihoods(loaded(), held, path, batch=4)
    assert (
        complete(path, "digest", held) == rows
        and complete(path, "another checkpoint", held) is None
    )
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:5]) + lines[5][:9])  # a kill in the middle of the second batch
    assert complete(path, "digest", held) is None
    assert likelihoods(loaded(), held, path, batch=4) == rows
    assert sorted(path.read_bytes().splitlines()) == sorted(line.strip() for line in lines)
    before = path.read_bytes()
    likelihoods(replace(loaded(), model=tiny("qwen2_5_vl")[0]), held, path, batch=4)
    assert path.read_bytes() == before


def test_a_model_that_gives_no_number_is_named(held: HeldOut, tmp_path: Path) -> None:
    broken = copy.deepcopy(tiny("qwen2_5_vl")[0])
    with torch.no_grad():
        broken.lm_head.weight[3] = torch.nan
    with pytest.raises(ArtefactError, match="tiny gives no likelihood for 'phantom"):
        likelihoods(replace(loaded(), model=broken), held, tmp_path / "rows.jsonl")


def test_ids_that_two_folders_share_are_refused(tmp_path: Path) -> None:
    samples = list(phantom.training(5, 2, "instruct"))
    folders = [write_phantoms(tmp_path / name, samples) for name in ("one", "two")]
    with pytest.raises(InputError, match="more than once"):
        held_out(folders, tiny("qwen2_5_vl")[1])


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
    held = held_out([tmp_path / "both"], processor)
    assert [sample.id for sample in held.samples] == ["test"] and held.drops == {"learnt_from": 1}
    # Whoever gives a folder that says train throughout means it.
    assert [sample.id for sample in held_out([tmp_path / "one"], processor).samples] == ["train"]


def test_data_without_answers_are_refused(tmp_path: Path) -> None:
    questions = [replace(sample, gold=None) for sample in phantom.questions(0, "validation", 1)]
    folder = write_phantoms(tmp_path / "data", questions)
    with pytest.raises(TrainingError, match="no_answer"):
        held_out([folder], tiny("qwen2_5_vl")[1])
