"""A curation from end to end: what comes out, that every row is accounted for, and that nothing
depends on how it was cut.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lingshu.core.artifacts import open_dataset, read_dataset
from lingshu.core.errors import (
    ArtifactError,
    ConfigError,
    InputError,
    StorageError,
    UnknownNameError,
)
from lingshu.core.files import read_json
from lingshu.curate.config import CurateConfig, Source, StepConfig
from lingshu.curate.plan import step_digests
from lingshu.curate.run import CurateOptions, curate
from lingshu.imaging.read import open_image
from tests.support.curate_config import step_config

Make = Callable[..., CurateConfig]


def shards(out: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((out / "data").iterdir())]


def drops(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "drops.jsonl").read_text().splitlines()]


def test_rows_come_out_with_their_images_and_what_the_source_knows(
    config: Make, tmp_path: Path
) -> None:
    result = curate(config(step_config("size", "image_size")), tmp_path / "out")
    assert (
        result.card == open_dataset(tmp_path / "out")
        and result.card.rows == 10
        and not result.failures
    )
    first = next(read_dataset(tmp_path / "out"))
    assert (
        first.id == "mine/r000"
        and first.meta.license == "CC0-1.0"
        and first.meta.source == "mine"
        and first.gold == ("yes",)
    )
    assert open_image(first.images[0]).size == (64, 64)
    assert not (tmp_path / "out" / "work").exists()


def test_a_run_without_steps_is_a_copy(config: Make, tmp_path: Path) -> None:
    assert curate(config(), tmp_path / "out").card.rows == 10


def test_every_row_is_counted_at_every_step(config: Make, tmp_path: Path) -> None:
    steps = (
        step_config("raises", kind="raise", at="r003"),
        step_config("splits", kind="split", at="r005"),
        step_config("empties", kind="nothing", at="r009"),
        step_config("caps", "balance", by=["source"], cap=7),
        step_config("small", "image_size", min_side=8),
    )
    result = curate(config(*steps), tmp_path / "out")
    table = {
        s["name"]: (s["in"], s["added"], s["out"], s["drops"]) for s in result.card.steps or ()
    }
    assert table == {
        "read": (10, 0, 10, {}),
        "raises": (10, 0, 9, {"error": 1}),
        "splits": (9, 2, 11, {}),
        "empties": (11, 0, 10, {"error": 1}),
        "caps": (10, 0, 7, {"over_quota": 3}),
        "small": (7, 0, 7, {}),
        "write": (7, 0, 7, {}),
    }
    assert result.failures == 2 and result.card.drops == {"error": 2, "over_quota": 3}
    first = drops(tmp_path / "out")[0]
    assert (first["id"], first["step"], first["reason"]) == (
        "mine/r003",
        "raises",
        "error",
    ) and "curate_steps.py, line" in first["detail"]


def test_errors_contain_no_text_of_restricted_rows(
    config: Make, rows: Callable[..., Path], tmp_path: Path
) -> None:
    path = rows(4, name="private", access="private")
    curate(config(step_config("raises", kind="raise", at="r003"), path=path), tmp_path / "out")
    (row,) = drops(tmp_path / "out")
    assert "withheld" in row["detail"] and "Is it 3" not in row["detail"]


def test_an_id_identifies_one_row(config: Make, tmp_path: Path) -> None:
    result = curate(config(step_config("twice", kind="same_id", at="r002")), tmp_path / "out")
    assert result.card.rows == 10 and result.card.drops == {"duplicate_id": 1}
    assert len({sample.id for sample in read_dataset(tmp_path / "out")}) == 10


def test_rows_of_two_sources_with_the_same_ids_both_stay(
    rows: Callable[..., Path], tmp_path: Path
) -> None:
    sources = (
        Source("a", "jsonl", str(rows(3, name="a"))),
        Source("b", "jsonl", str(rows(3, name="b", license="MIT")), license="CC0-1.0"),
    )
    result = curate(
        CurateConfig(
            "two",
            sources,
            (step_config("raises", kind="raise", sources=("b",), at="r001"),),
            workers=0,
        ),
        tmp_path / "out",
    )
    assert [sample.id for sample in read_dataset(tmp_path / "out")] == [
        "a/r000",
        "a/r001",
        "a/r002",
        "b/r000",
        "b/r002",
    ]
    assert result.card.licenses == {"MIT": 2, "unknown": 3}
    steps = {s["name"]: s["sources"] for s in result.card.steps or ()}
    assert list(steps["raises"]) == ["b"] and steps["write"]["a"]["out"] == 3


def test_a_damaged_image_is_a_drop_even_if_no_step_reads_it(
    config: Make, rows: Callable[..., Path], tmp_path: Path
) -> None:
    path = rows(3)
    (path / "1.png").write_bytes((path / "1.png").read_bytes()[:-20])
    (path / "2.png").write_bytes(b"DICM no image")
    for name, steps in (("plain", ()), ("cut", (step_config("crop", kind="crop"),))):
        result = curate(config(*steps, path=path), tmp_path / name)
        assert (
            result.card.drops == {"bad_image": 2} and result.card.rows == 1 and not result.failures
        )
        assert all(str(path) not in row["detail"] for row in drops(tmp_path / name))


def test_images_that_a_step_makes_come_out(config: Make, tmp_path: Path) -> None:
    curate(
        config(
            step_config("crop", kind="crop"),
            step_config("caps", "balance", by=["source"], cap=5),
            step_config("again", kind="note"),
        ),
        tmp_path / "out",
    )
    found = list(read_dataset(tmp_path / "out"))
    assert len(found) == 5 and {open_image(sample.images[0]).size for sample in found} == {(8, 8)}


def test_many_images_without_a_path_are_kept_in_order(tmp_path: Path) -> None:
    from lingshu.sources.phantom import training_samples

    source = Source(
        "drawn", "phantom", "phantom/0", {"purpose": "captions", "images": 150, "side": 28}
    )
    curate(
        CurateConfig("drawn", (source,), (step_config("crop", kind="keep"),), workers=0),
        tmp_path / "out",
    )
    expected_images = [
        open_image(sample.images[0]).tobytes()
        for sample in training_samples(0, 150, "captions", side=28)
    ]
    assert [
        open_image(sample.images[0]).tobytes() for sample in read_dataset(tmp_path / "out")
    ] == expected_images


def test_the_seed_of_the_run_reaches_the_steps(config: Make, tmp_path: Path) -> None:
    curate(config(step_config("note", kind="note"), seed=7), tmp_path / "out")
    assert next(read_dataset(tmp_path / "out")).meta.extra["seed"] == "7"


def test_the_bytes_do_not_depend_on_workers_or_shards(
    config: Make, rows: Callable[..., Path], tmp_path: Path
) -> None:
    path = rows(10)
    steps = (
        step_config("crop", kind="crop", at="4"),
        step_config("caps", "balance", by=["source"], cap=8),
        step_config("note", kind="note"),
    )
    expected_shards = None
    for name, workers, size in (("a", 0, 4), ("b", 2, 3), ("c", 0, 100)):
        curate(config(*steps, path=path, workers=workers, shard_rows=size), tmp_path / name)
        expected_shards = expected_shards or shards(tmp_path / name)
        assert shards(tmp_path / name) == expected_shards
    assert open_dataset(tmp_path / "a").version == open_dataset(tmp_path / "b").version


def test_a_limit_reads_so_many_rows_of_each_source(config: Make, tmp_path: Path) -> None:
    assert curate(config(), tmp_path / "out", CurateOptions(limit=3)).card.rows == 3


def test_a_finished_dataset_is_not_made_again_unless_something_changed(
    config: Make, rows: Callable[..., Path], tmp_path: Path
) -> None:
    path, out = rows(5), tmp_path / "out"
    first = config(step_config("note", kind="note"), path=path)
    assert not curate(first, out).already_finished
    assert curate(first, out).already_finished and not (out / "work").exists()
    assert curate(replace(first, workers=2), out).already_finished
    assert not curate(replace(first, seed=1), out).already_finished
    (path / "0.png").write_bytes((path / "1.png").read_bytes())
    result = curate(replace(first, seed=1), out)
    assert not result.already_finished
    assert (
        open_image(next(read_dataset(out)).images[0]).tobytes()
        == open_image(list(read_dataset(out))[1].images[0]).tobytes()
    )


def test_rows_under_a_non_permissive_license_can_be_left_out(
    rows: Callable[..., Path], tmp_path: Path
) -> None:
    sources = tuple(
        Source(n, "jsonl", str(rows(2, name=n)), license=x)
        for n, x in (("a", "CC-BY-4.0"), ("b", "CC BY-NC 4.0"), ("c", None))
    )
    result = curate(
        CurateConfig("l", sources, (), workers=0, license="permissive"), tmp_path / "out"
    )
    assert result.card.licenses == {"CC-BY-4.0": 2} and result.card.drops == {"license": 4}


def test_a_source_without_a_path_is_named_or_left_out(config: Make, tmp_path: Path) -> None:
    ready = config()
    missing = Source("other", "jsonl")
    with pytest.raises(
        ConfigError, match=r"source 'other' has no path; give sources\.other\.path=FOLDER"
    ):
        curate(replace(ready, sources=(*ready.sources, missing)), tmp_path / "out")
    result = curate(
        replace(ready, sources=(*ready.sources, replace(missing, optional=True))), tmp_path / "out"
    )
    assert result.card.rows == 10 and read_json(tmp_path / "out" / "run.json")["notes"][
        "sources_left_out"
    ] == ["other"]
    assert "left out (no path)" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(ConfigError, match="no source has a path"):
        curate(replace(ready, sources=(replace(missing, optional=True),)), tmp_path / "none")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            step_config("x", "image_size", min_sides=3),
            r"unknown key steps\.x\.params\.min_sides; did you mean 'min_side'",
        ),
        (
            step_config("x", "image_size", min_side="large"),
            r"steps\.x\.params\.min_side: .*'large'",
        ),
        (step_config("x", "image_size", formats=["PNH"]), "did you mean 'PNG'"),
        (step_config("read", "image_size"), "a step is named 'read'"),
        (step_config("x", "image_sise"), "did you mean 'image_size'"),
    ],
)
def test_a_wrong_step_is_named_before_anything_is_read(
    config: Make, tmp_path: Path, step: object, message: str
) -> None:
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        curate(config(step), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_a_dataset_is_left_alone(config: Make, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.docx").write_text("years of work")
    with pytest.raises(StorageError, match="is not a dataset of an earlier run"):
        curate(config(), tmp_path / "out")


def test_pixels_can_be_re_encoded(config: Make, rows: Callable[..., Path], tmp_path: Path) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    path, info = rows(1), PngInfo()
    info.add_text("Comment", "JANE DOE")
    Image.open(path / "0.png").save(path / "0.png", pnginfo=info)
    for keep, held in (("keep", True), ("png", False)):
        curate(config(path=path, image_format=keep), tmp_path / keep)
        assert (b"JANE DOE" in shards(tmp_path / keep)[0]) is held


def test_an_incomplete_dataset_is_refused(config: Make, tmp_path: Path) -> None:
    out = tmp_path / "out"
    curate(config(), out)
    part = next((out / "data").iterdir())
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="truncated or changed"):
        open_dataset(out)


def test_a_dataset_is_not_replaced_by_one_derived_from_it(config: Make, tmp_path: Path) -> None:
    curate(config(), tmp_path / "first")
    source = Source("again", "parquet", str(tmp_path / "first"))
    cut = CurateConfig("cut", (source,), (StepConfig("few", "balance", {"cap": 2}),), workers=0)
    with pytest.raises(InputError, match="source 'again' is inside"):
        curate(cut, tmp_path / "first")
    assert open_dataset(tmp_path / "first").rows == 10
    assert curate(cut, tmp_path / "second").card.rows == 2


def test_the_digest_of_a_step_covers_the_data_file_that_it_reads(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("one")
    (tmp_path / "own.py").write_text(
        "from pathlib import Path\nfrom lingshu.core.step_types import MapStep\n"
        'WORDS = Path(__file__).with_name("words.txt")\n'
        "def step() -> MapStep:\n    return MapStep(lambda: lambda sample, _: sample)\n"
    )
    step = StepConfig("own", str(tmp_path / "own.py"))
    before = step_digests([step])
    assert step_digests([step]) == before
    (tmp_path / "words.txt").write_text("two")
    assert step_digests([step]) != before
