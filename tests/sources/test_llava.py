"""Dialogues with `<image>` in their text, from long arrays and from lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lingshu.core.errors import InputError
from lingshu.core.types import Sample
from lingshu.sources import llava
from tests.support.source_files import KEY, PNG, drop_reasons, only_samples


def write_file(folder: Path, rows: object, name: str = "d.json") -> Path:
    (folder / "a.png").write_bytes(PNG)
    (folder / "b.png").write_bytes(PNG)
    path = folder / name
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows, indent=1))
    return path


def conversation(*texts: str, **others: object) -> dict[str, object]:
    return {
        "conversations": [
            {"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)
        ],
        **others,
    }


def test_images_appear_where_the_text_puts_them(tmp_path: Path) -> None:
    rows = [
        conversation("<image>\nWhat is it?", "A knee.", id="1", image="a.png"),
        conversation(
            "Compare <image> with <image>.",
            "Same.",
            "Sure?",
            "Yes.",
            id="2",
            image=["a.png", "b.png"],
        ),
        conversation("What?", "Nothing.", id="3", image="a.png"),
        conversation("Only text", "Fine.", id="4"),
    ]
    one, two, three, four = only_samples(llava.read(write_file(tmp_path, rows)))
    assert (
        one.messages[0].parts == (0, "What is it?")
        and one.answered
        and one.messages[1].text == "A knee."
    )
    assert (
        two.messages[0].parts == ("Compare ", 0, " with ", 1, ".")
        and [m.role for m in two.messages] == ["user", "assistant"] * 2
    )
    assert three.messages[0].parts == (0, "What?") and four.images == ()


def test_messages_with_roles_and_a_system_text_are_read_too(tmp_path: Path) -> None:
    row = {
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": "<image>Why?"},
            {"role": "assistant", "content": "So."},
        ],
        "images": ["a.png"],
    }
    (sample,) = only_samples(llava.read(write_file(tmp_path, json.dumps(row) + "\n", "d.jsonl")))
    assert [m.role for m in sample.messages] == ["system", "user", "assistant"] and sample.messages[
        1
    ].parts == (0, "Why?")


def test_ids_are_hashed_and_other_keys_kept(tmp_path: Path) -> None:
    rows = [conversation("Q", "A", pmid="ZZ123", domain="xray")]
    (sample,) = only_samples(
        llava.read(write_file(tmp_path, rows), ids={"article": "pmid"}, key=KEY)
    )
    assert (
        sample.meta.group
        and sample.meta.group.startswith("article-")
        and sample.meta.extra["domain"] == "xray"
        and "ZZ123" not in repr(sample)
    )


def test_bad_rows_are_drops(tmp_path: Path) -> None:
    rows = [
        "text", {"conversations": []}, {"conversations": [{"from": "robot", "value": "x"}]}, conversation("<image><image>", "x", image="a.png"),
        conversation("<image>", "x", image="../a.png"), conversation("<image>", "x", image=7), conversation("Q", "A", id="1"), conversation("Q", "A", id="1"),
    ]  # fmt: skip
    found = list(llava.read(write_file(tmp_path, rows)))
    assert drop_reasons(found) == [
        "bad_json",
        "bad_messages",
        "bad_messages",
        "image_count",
        "image_outside_folder",
        "bad_image",
        "duplicate_id",
    ]


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
def test_an_array_is_read_piece_by_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(llava, "_CHUNK", chunk)
    values = [
        {"a": 'x] , [\\"ü' * 9, "b": [1, [2, {}]]},
        12345,
        -1.5e10,
        "s",
        None,
        [],
        {"c": True},
    ]
    assert list(llava.iter_json_items(write_file(tmp_path, values))) == values


def test_a_cut_array_gives_what_is_complete_and_one_error(tmp_path: Path) -> None:
    text = json.dumps([conversation("Q", "A", id=str(i)) for i in range(3)])
    found = list(llava.read(write_file(tmp_path, text[:-30])))
    assert [f.id for f in found if isinstance(f, Sample)] == ["0", "1"] and drop_reasons(found) == [
        "bad_json"
    ]
    deep = list(llava.read(write_file(tmp_path, "[" + "[" * 200_000)))
    assert drop_reasons(deep) == ["bad_json"]
    lines = (
        json.dumps(conversation("Q", "A"))
        + "\n{broken\n"
        + json.dumps(conversation("Q", "A"))
        + "\n"
    )
    assert drop_reasons(llava.read(write_file(tmp_path, lines, "d.jsonl"))) == ["bad_json"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        list(llava.read(tmp_path / "x.json"))
