"""What several tests share: a checkpoint of a few steps, and a folder that holds what the
documentation talks about.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lingshu.cli.main import main

REPLIES = (
    {
        "id": "q1",
        "question": "Is there a lesion?",
        "gold": "yes",
        "reply": "Yes, there is one.",
        "kind": "lesion",
    },
    {
        "id": "q2",
        "question": "Is there a lesion?",
        "gold": "no",
        "reply": "I see no nodule.",
        "kind": "lesion",
    },
    {"id": "q3", "question": "Is the lesion large?", "gold": "yes", "reply": "No.", "kind": "size"},
    {"id": "q4", "question": "Is there an effusion?", "gold": "no", "reply": "", "kind": "lesion"},
)


HERE = Path(__file__).parent
# Folders whose tests need no model, server or second process worth waiting for.
FAST_FOLDERS = {
    "core", "deidentify", "imaging", "inference", "ops", "recipes", "scoring", "search", "sources", "tasks", "weights",
}  # fmt: skip


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip the other folders of the fast lane unread, because many of them import torch."""
    is_other = collection_path.parent == HERE and collection_path.name not in FAST_FOLDERS
    is_fast_lane = config.option.markexpr.startswith("fast")
    return True if is_fast_lane and is_other and collection_path.is_dir() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the fast lane."""
    for item in items:
        if item.path.parent.name in FAST_FOLDERS and not item.get_closest_marker("not_fast"):
            item.add_marker(pytest.mark.fast)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint after two steps of every stage of the quickstart recipe."""
    pytest.importorskip("torch", reason="torch is not installed")
    from lingshu.recipes.quickstart import recipe

    path = tmp_path_factory.mktemp("trained")
    config = recipe()
    data = [f"data.{group}={write_phantom_dataset(path / group, group)}" for group in config.data]
    steps = [f"stages.{stage.name}.steps=2" for stage in config.stages]
    assert main(["train", "quickstart", *data, *steps, "--out", str(path / "run")]) == 0
    return path / "run" / "checkpoint"


def write_phantom_dataset(folder: Path, purpose: str) -> Path:
    """A DATASET of sixty phantoms for one data group of the quickstart recipe."""
    from lingshu.core.artifacts import write_dataset
    from lingshu.core.run_card import RunCard
    from lingshu.imaging.read import image_bytes
    from lingshu.sources import phantom

    samples = phantom.training_samples(0, 60, purpose)
    write_dataset(
        folder,
        purpose,
        ((s, [image_bytes(i) for i in s.images]) for s in samples),
        RunCard("test", {}),
    )
    return folder


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An own folder, made the current one, with image.png, replies.jsonl, and twelve questions
    about pictures in my_images/.
    """
    mine = tmp_path / "my_images"
    (mine / "images").mkdir(parents=True)
    rows = []
    for number in range(12):
        name = f"images/{number:02d}.png"
        draw(mine / name, bright=number % 2 == 0)
        rows.append(
            {
                "id": f"row{number}",
                "image": name,
                "question": "Is there a bright spot?",
                "answer": "yes" if number % 2 == 0 else "no",
            }
        )
    draw(tmp_path / "image.png", bright=True)
    write_lines(mine / "rows.jsonl", rows)
    write_lines(tmp_path / "replies.jsonl", REPLIES)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def draw(path: Path, *, bright: bool) -> None:
    """A dark 64x64 picture, with a bright square in it or without."""
    from PIL import Image

    image = Image.new("RGB", (64, 64), (20, 20, 20))
    if bright:
        image.paste((230, 230, 230), (20, 20, 40, 40))
    image.save(path)


def write_lines(path: Path, rows: object) -> None:
    assert isinstance(rows, list | tuple)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
