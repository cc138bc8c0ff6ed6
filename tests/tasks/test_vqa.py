"""The task for one's own folder: where it looks, what it needs, and that a dialogue is asked up to
its answer.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lingshu.core.artifacts import write_dataset
from lingshu.core.errors import InputError
from lingshu.core.messages import user_turn
from lingshu.core.run_card import RunCard
from lingshu.core.types import Drop, Message, Sample
from lingshu.imaging.read import open_image
from lingshu.tasks.vqa import TASK


def write_rows(folder: Path, *rows: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_without_data_the_error_names_the_option_to_pass(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--data DIR"):
        TASK.samples(None)
    with pytest.raises(InputError, match=r"rows\.jsonl"):
        TASK.samples(tmp_path)


def test_the_folder_may_be_the_tasks_or_hold_it(tmp_path: Path) -> None:
    write_rows(tmp_path, {"id": "outer", "question": "?"})
    assert [s.id for s in TASK.samples(tmp_path)] == ["outer"]
    write_rows(tmp_path / "vqa", {"id": "inner", "question": "?"})
    assert [s.id for s in TASK.samples(tmp_path)] == ["inner"]


def test_a_dialogue_is_cut_before_its_answer(tmp_path: Path) -> None:
    write_rows(
        tmp_path,
        {
            "id": "a",
            "messages": [
                {"role": "user", "content": "Is it?"},
                {"role": "assistant", "content": "Yes"},
            ],
        },
        {"id": "b"},
    )
    sample, dropped = TASK.samples(tmp_path)
    assert isinstance(sample, Sample) and not sample.answered and sample.gold == ("Yes",)
    assert isinstance(dropped, Drop) and dropped.reason == "no_question"


def test_a_dataset_is_evaluated_as_it_is(tmp_path: Path) -> None:
    answered_sample = Sample("a", (user_turn("Is it?", 0),)).with_answer("Yes")
    without_question = Sample("b", (Message("user", ("",)),))
    write_dataset(
        tmp_path / "data",
        "mine",
        [(answered_sample, []), (without_question, [])],
        RunCard("test", {}),
    )
    sample, dropped = TASK.samples(tmp_path / "data")
    assert isinstance(sample, Sample) and sample.gold == ("Yes",) and not sample.answered
    assert isinstance(dropped, Drop) and dropped.reason == "no_question"
    with pytest.raises(InputError, match="nor a DATASET"):
        TASK.samples(tmp_path)


def test_synthetic_samples_depend_on_the_seed(tmp_path: Path) -> None:
    assert TASK.synthetic(3) == TASK.synthetic(3) != TASK.synthetic(4)
    for sample in TASK.synthetic(3):
        assert open_image(sample.images[0]).size == (32, 32)
