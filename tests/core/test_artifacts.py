"""The artifacts: their columns, keys and types are pinned by tests/golden/artifacts.json, and each
comes back as written.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lingshu.core.artifacts import (
    ReplyStore,
    dataset_digest,
    dataset_schema,
    open_dataset,
    read_dataset,
    read_scores,
    reply_key,
    row_to_sample,
    sample_to_row,
    score_row,
    write_dataset,
    write_scores,
)
from lingshu.core.errors import ArtifactError, StorageError
from lingshu.core.files import write_manifest
from lingshu.core.messages import sample_from_json, sample_to_json, user_turn
from lingshu.core.run_card import RunCard
from lingshu.core.types import Image, Message, Meta, Reply, Sample, Sampling, Score
from lingshu.evaluate.score import ReplyIndex

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "golden" / "artifacts.json").read_text(encoding="utf-8")
)
CARD = RunCard("test", {"a": 1})
SAMPLE = Sample(
    "s1",
    (
        Message("system", ("Be brief.",)),
        Message("user", (0, "Compare ", 1, "?")),
        Message("assistant", ("肺炎",)),
    ),
    (Image(data=b"first"), Image(data=b"second")),
    ("A", "B"),
    ("CT", "MRI"),
    Meta(
        "src",
        "CC0",
        "credentialed",
        "physionet",
        True,
        "X-ray",
        "zh",
        "choice",
        "p1",
        {"split": "train"},
    ),
)
BARE = Sample("s2", (user_turn("?", 0),))


def kinds(row: dict) -> dict[str, str]:
    return {key: type(value).__name__ for key, value in row.items()}


def test_the_columns_of_a_dataset_are_pinned() -> None:
    assert [[field.name, str(field.type)] for field in dataset_schema()] == GOLDEN["dataset"][
        "columns"
    ]
    assert (
        json.loads((dataset_schema().metadata or {})[b"huggingface"])["info"]["features"]
        == GOLDEN["dataset"]["features"]
    )


def test_a_row_of_a_dataset_is_pinned() -> None:
    row = sample_to_row(SAMPLE, [b"first", b"second"])
    row["images"] = [{**image, "bytes": image["bytes"].decode()} for image in row["images"]]
    assert row == GOLDEN["dataset"]["example"]


def test_the_files_and_the_card_of_a_dataset_are_pinned(tmp_path: Path) -> None:
    write_dataset(
        tmp_path / "d",
        "d",
        [(SAMPLE, [b"first", b"second"]), (BARE, [])],
        CARD,
        drops={"missing_image": 3},
    )
    assert (
        sorted(
            str(p.relative_to(tmp_path / "d")) for p in (tmp_path / "d").rglob("*") if p.is_file()
        )
        == GOLDEN["dataset"]["files"]
    )
    assert asdict(open_dataset(tmp_path / "d")) == GOLDEN["dataset"]["card"]
    assert (
        pq.ParquetFile(tmp_path / "d/data/part-00000.parquet").schema_arrow.names
        == dataset_schema().names
    )
    readme = (tmp_path / "d/README.md").read_text()
    assert "| missing_image | 3 |" in readme and "not for clinical use" in readme


def test_the_keys_of_the_other_artifacts_are_pinned(tmp_path: Path) -> None:
    with ReplyStore(tmp_path) as store:
        store.add(
            [
                ("k1", Reply("s1", "Yes.", 0, "stop", 7, 3)),
                ("k2", Reply("s2", None, 1, error="no image")),
            ]
        )
    rows = [json.loads(line) for line in (tmp_path / "replies.jsonl").read_text().splitlines()]
    assert rows == GOLDEN["replies"]
    assert [
        score_row("s1", Score(1.0, "ok", "yes", None), {"kind": "lesion", "id": "x"}),
        score_row("s2", Score(None, "empty"), {}),
    ] == GOLDEN["scores"]
    assert kinds(asdict(CARD)) == GOLDEN["run_card"]


def test_a_reply_key_is_pinned_and_every_part_of_it_counts() -> None:
    base = (BARE, ["h1"], "r1", "m", "d", Sampling(), 0)
    assert reply_key(*base) == GOLDEN["reply_key"]
    alternatives = (SAMPLE, ["h2"], None, "n", "e", Sampling(seed=1), 1)
    changed = [reply_key(*base[:i], alternatives[i], *base[i + 1 :]) for i in range(len(base))]  # type: ignore[arg-type]
    assert len({reply_key(*base), *changed}) == len(base) + 1
    # How many copies are asked for says nothing about what one of them is.
    assert reply_key(BARE, ["h1"], "r1", "m", "d", Sampling(num_generations=5), 0) == reply_key(
        *base
    )


def test_samples_come_back_from_a_dataset_and_refer_to_their_rows(tmp_path: Path) -> None:
    write_dataset(tmp_path / "d", "d", [(SAMPLE, [b"first", b"second"]), (BARE, [])], CARD)
    first, second = read_dataset(tmp_path / "d")
    shard = str(tmp_path / "d/data/part-00000.parquet")
    assert first.images == (Image(shard, 0, 0), Image(shard, 0, 1))
    assert (first.messages, first.gold, first.choices, first.meta) == (
        SAMPLE.messages,
        SAMPLE.gold,
        SAMPLE.choices,
        SAMPLE.meta,
    )
    assert second == BARE


def test_nothing_known_stays_nothing(tmp_path: Path) -> None:
    row = sample_to_row(BARE, [])
    assert row["gold"] is None and row["deidentified"] is None and row["modality"] is None
    assert row_to_sample(row, tmp_path, 0) == BARE


def test_several_shards_are_read_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lingshu.core.artifacts.SHARD_ROWS", 2)
    write_dataset(
        tmp_path / "d", "d", ((Sample(str(i), (user_turn("?", 0),)), []) for i in range(5)), CARD
    )
    assert [sample.id for sample in read_dataset(tmp_path / "d")] == list("01234")
    assert len(list((tmp_path / "d/data").iterdir())) == 3


def test_a_dataset_is_identified_by_its_content(tmp_path: Path) -> None:
    for name, sample in (("a", SAMPLE), ("b", SAMPLE), ("c", BARE)):
        write_dataset(tmp_path / name, name, [(sample, [b"x"] * len(sample.images))], CARD)
    assert (
        dataset_digest(tmp_path / "a")
        == dataset_digest(tmp_path / "b")
        != dataset_digest(tmp_path / "c")
    )


def test_a_folder_that_is_not_a_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not a DATASET folder"):
        open_dataset(tmp_path)
    write_dataset(tmp_path / "d", "d", [], CARD)
    (tmp_path / "d/dataset.json").write_text('{"surprise": 1}')
    write_manifest(tmp_path / "d")
    with pytest.raises(ArtifactError, match="is not a dataset card"):
        open_dataset(tmp_path / "d")


@pytest.mark.skipif(
    importlib.util.find_spec("datasets") is None, reason="the package datasets is not installed"
)
def test_the_package_datasets_loads_a_dataset_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    import numpy as np
    from datasets import load_dataset  # type: ignore[import-not-found]

    from lingshu.imaging.read import encode_png

    pixels = np.full((2, 3, 3), 7, np.uint8)
    write_dataset(tmp_path / "d", "d", [(SAMPLE, [encode_png(pixels)] * 2)], CARD)
    row = load_dataset(str(tmp_path / "d"), split="train", cache_dir=str(tmp_path / "cache"))[0]
    assert np.array_equal(np.asarray(row["images"][1]), pixels) and row["id"] == "s1"


def stored_row(reply: Reply) -> dict[str, object]:
    """A reply's row, which leaves out its tokens."""
    return {
        name: value
        for name, value in asdict(reply).items()
        if name not in ("token_ids", "failed_attempts")
    }


def merged_replies(folder: Path, keys: set[str]) -> dict[str, Reply]:
    with ReplyIndex(folder, keys) as replies:
        return {key: reply for key in keys if (reply := replies.get(key)) is not None}


def test_the_first_answer_of_a_key_counts_and_a_torn_row_is_skipped(tmp_path: Path) -> None:
    with ReplyStore(tmp_path) as store:
        store.add([("k", Reply("s", None, error="busy"))])
        assert merged_replies(tmp_path, {"k", "other"}) == {"k": Reply("s", None, error="busy")}
        store.add([("k", Reply("s", "yes")), ("k", Reply("s", None, error="busy"))])
        store.add([("k", Reply("s", "no"))])
    with (tmp_path / "replies.jsonl").open("a") as file:
        file.write('{"key": "torn')
    assert merged_replies(tmp_path, {"k", "torn"}) == {"k": Reply("s", "yes")}


def test_the_files_of_several_processes_are_read_as_one(tmp_path: Path) -> None:
    for rank in (0, 1):
        with ReplyStore(tmp_path, rank=rank, world_size=2) as store:
            store.add([(f"k{rank}", Reply(f"s{rank}", "yes")), ("both", Reply("b", str(rank)))])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "replies.0-of-2.jsonl",
        "replies.1-of-2.jsonl",
    ]
    assert {key: reply.text for key, reply in merged_replies(tmp_path, {"k0", "k1", "both"}).items()} == {
        "k0": "yes", "k1": "yes", "both": "0",
    }  # fmt: skip


def test_two_writers_of_one_file_or_of_two_ways_to_share_are_refused(tmp_path: Path) -> None:
    with ReplyStore(tmp_path):
        with pytest.raises(StorageError, match="is being written by another process"):
            ReplyStore(tmp_path)
        with pytest.raises(StorageError, match=r"replies\.jsonl is being written by another run"):
            ReplyStore(tmp_path, rank=0, world_size=2)
    with (
        ReplyStore(tmp_path, rank=0, world_size=2),
        ReplyStore(tmp_path, rank=1, world_size=2),
        pytest.raises(StorageError, match="another run"),
    ):
        ReplyStore(tmp_path)
    ReplyStore(tmp_path).close()


def test_another_file_is_not_a_store_of_replies(tmp_path: Path) -> None:
    for row in ({"id": "a"}, {"key": "k", "id": "a", "text": "x", "surprise": 1}):
        (tmp_path / "replies.jsonl").write_text(json.dumps(row) + "\n")
        with pytest.raises(ArtifactError, match=r"replies\.jsonl, line 1"):
            merged_replies(tmp_path, set())


def test_scores_come_back_and_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.jsonl"
    with pytest.raises(ArtifactError, match="does not exist; run"):
        read_scores(path)
    assert write_scores(path, GOLDEN["scores"]) == 2
    assert read_scores(path) == GOLDEN["scores"]
    path.write_text('{"id": 1}\n')
    with pytest.raises(ArtifactError, match="line 1: not a row of scores"):
        read_scores(path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"value": "abc"},
        {"value": True},
        {"status": "fine"},
        {"status": []},
        {"group": ["p"]},
        {"id": {}},
        {"note": 1},
    ],
)
def test_a_damaged_row_of_scores_is_named_with_its_line(tmp_path: Path, wrong: dict) -> None:
    full = {"id": "a", "value": 1.0, "status": "ok"}
    write_scores(tmp_path / "scores.jsonl", [full, {**full, **wrong}])
    with pytest.raises(
        ArtifactError,
        match=rf"scores\.jsonl, line 2: {next(iter(wrong))} cannot be .*; score the run again",
    ):
        read_scores(tmp_path / "scores.jsonl")


@pytest.mark.parametrize(
    "wrong",
    [{"text": 3}, {"key": ["k"]}, {"generation_index": None}, {"error": {}}, {"reply_tokens": "x"}],
)
def test_a_damaged_row_of_replies_is_named_with_its_line(tmp_path: Path, wrong: dict) -> None:
    rows = [
        {"key": "k", **stored_row(Reply("s", "yes"))},
        {"key": "l", **stored_row(Reply("t", "yes")), **wrong},
    ]
    (tmp_path / "replies.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    with pytest.raises(
        ArtifactError,
        match=rf"replies\.jsonl, line 2: {next(iter(wrong))} cannot be .*; remove the line",
    ):
        ReplyIndex(tmp_path, {"k"})


def test_an_index_finds_replies_behind_blank_lines_and_of_any_letters(tmp_path: Path) -> None:
    texts = {"a": "ja, größer", "b": "是", "c": "x\u2028y"}
    lines = [
        json.dumps({"key": key, **stored_row(Reply(key, text))}, ensure_ascii=False)
        for key, text in texts.items()
    ]
    (tmp_path / "replies.jsonl").write_text("\n" + "\n\n".join(lines) + "\n", encoding="utf-8")
    assert {key: reply.text for key, reply in merged_replies(tmp_path, set(texts)).items()} == texts
    with ReplyIndex(tmp_path, {"a"}) as replies:
        assert replies.get("b") is None and replies.get(None) is None


def test_a_sample_survives_json() -> None:
    for sample in (SAMPLE, BARE, Sample("s3", (), (Image("a.png"), Image("b.parquet", 3, 1)))):
        assert sample_from_json(json.loads(json.dumps(sample_to_json(sample)))) == sample


def test_the_keys_of_a_report_are_pinned() -> None:
    from lingshu.evaluate.report.build import assemble, task_report
    from lingshu.evaluate.store import ScoredTask

    task = ScoredTask("t", {"facets": ["kind"]}, {"strict": GOLDEN["scores"]})
    report = assemble("m", [task_report(task)]).as_json()
    assert report == GOLDEN["report"]
