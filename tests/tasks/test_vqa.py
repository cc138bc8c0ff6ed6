"""The task for one's own folder: where it looks, what it needs, and that a dialogue is asked up to
its answer.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lingshu.core.artefacts import write_dataset
from lingshu.core.errors import InputError
from lingshu.core.messages import user_turn
from lingshu.core.nouns import Drop, Message, Sample
from lingshu.core.runcard import RunCard
from lingshu.imaging.read import open_image
from lingshu.tasks.vqa import TASK


def write(folder: Path, *rows: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_without_data_it_says_what_to_pass(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--data DIR"):
        TASK.samples(None)
    with pytest.raises(InputError, match=r"rows\.jsonl"):
        TASK.samples(tmp_path)


def test_the_folder_may_be_the_tasks_or_hold_it(tmp_path: Path) -> None:
    write(tmp_path, {"id": "outer", "question": "?"})
    assert [s.id for s in TASK.samples(tmp_path)] == ["outer"]
    write(tmp_path / "vqa", {"id": "inner", "question": "?"})
    assert [s.id for s in TASK.samples(tmp_path)] == ["inner"]


def test_a_dialogue_is_asked_up_to_its_answer(tmp_path: Path) -> None:
    write(
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
    asked, dropped = TASK.samples(tmp_path)
    assert isinstance(asked, Sample) and not asked.answered and asked.gold == ("Yes",)
    assert isinstance(dropped, Drop) and dropped.reason == "no_question"


def test_a_dataset_is_asked_as_it_is(tmp_path: Path) -> None:
    asked = Sample("a", (user_turn("Is it?", 0),)).with_answer("Yes")
    bare = Sample("b", (Message("user", ("",)),))
    write_dataset(tmp_path / "data", "mine", [(asked, []), (bare, [])], RunCard("test", {}))
    found, dropped = TASK.samples(tmp_path / "data")
    assert isinstance(found, Sample) and found.gold == ("Yes",) and not found.answered
    assert isinstance(dropped, Drop) and dropped.reason == "no_question"
    with pytest.raises(InputError, match="nor a DATASET"):
        TASK.samples(tmp_path)


def test_the_twin_is_drawn_from_its_seed(tmp_path: Path) -> None:
    assert TASK.twin(3) == TASK.twin(3) != TASK.twin(4)
    for sample in TASK.twin(3):
        assert open_image(sample.images[0]).size == (32, 32)
