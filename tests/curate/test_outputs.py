"""What a dataset says of itself: card, README, chart, Croissant, exports, and the page that
explains the run.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lingshu.core.artifacts import dataset_digest, open_dataset
from lingshu.core.files import check_manifest, read_json
from lingshu.curate.card import top_counts
from lingshu.curate.config import CurateConfig
from lingshu.curate.counts import StepCounts
from lingshu.curate.run import CurateOptions, curate
from tests.support.curate_config import configure, step_config, write_rows

Make = Callable[..., CurateConfig]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with everything that can be asked for."""
    steps = (
        step_config("crop", kind="crop", at="r001"),
        step_config("note", kind="note", at="r002"),
        step_config("splits", kind="split", at="r003"),
        step_config("raises", kind="raise", at="r004"),
        step_config("caps", "balance", by=["source"], cap=9),
    )
    folder = tmp_path_factory.mktemp("outputs")
    curate(
        configure(write_rows(folder / "rows", 10), *steps, seed=3),
        folder / "out",
        CurateOptions(explain=True, export=("llava", "ms-swift")),
    )
    return folder / "out"


def test_the_version_is_the_digest_of_the_shards(out: Path) -> None:
    assert (
        open_dataset(out).version
        == dataset_digest(out)
        == read_json(out / "run.json")["hashes"]["dataset"]
    )


def test_everything_is_in_the_manifest(out: Path) -> None:
    listed = set(check_manifest(out) or ())
    there = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} - {
        "manifest.json"
    }
    assert listed == there
    assert {
        "data/part-00000.parquet",
        "config.yaml",
        "drops.jsonl",
        "croissant.json",
        "distributions.svg",
        "explain.html",
    } < there


def test_the_card_for_people_names_sources_licenses_and_drops(out: Path) -> None:
    text = (out / "README.md").read_text()
    assert (
        "| mine | jsonl | CC0-1.0 | by row | 10 | 9 |" in text and "| CC0-1.0 | yes | 9 |" in text
    )
    assert (
        "| caps | balance | 11 | 0 | 9 | over_quota 2 |" in text
        and "| raises |" in text
        and "error 1" in text
    )
    assert "not for clinical use" in text and "(distributions.svg)" in text


def test_text_of_the_data_marks_nothing_up_in_the_card(
    config: Make, rows: Callable[..., Path], tmp_path: Path
) -> None:
    path = rows(1, license="MIT | <script>`")
    curate(config(path=path), tmp_path / "out", CurateOptions(explain=True))
    assert "MIT \\| &lt;script>\\`" in (tmp_path / "out" / "README.md").read_text()
    assert (
        "<script>"
        not in (tmp_path / "out" / "explain.html").read_text()
        + (tmp_path / "out" / "distributions.svg").read_text()
    )


def test_the_chart_is_an_image_by_itself(out: Path) -> None:
    root = ElementTree.fromstring((out / "distributions.svg").read_text())
    words = " ".join(element.text or "" for element in root.iter())
    assert (
        root.tag.endswith("svg")
        and "image side" in words
        and "9 (100.0%)" in words
        and "http" not in words
    )


def test_a_chart_shows_the_largest_and_sums_the_rest() -> None:
    assert top_counts({f"v{n:02d}": n for n in range(1, 16)}, 3) == [
        ("v15", 15),
        ("v14", 14),
        ("v13", 13),
        ("other (12)", 78),
    ]
    assert top_counts({"over 64": 1, "up to 4": 2, "5-16": 3}) == [
        ("up to 4", 2),
        ("5-16", 3),
        ("over 64", 1),
    ]


def test_croissant_lists_every_shard_with_its_digest(out: Path) -> None:
    found = read_json(out / "croissant.json")
    files = check_manifest(out) or {}
    assert found["conformsTo"] == "http://mlcommons.org/croissant/1.1" and found["license"] == [
        "CC0-1.0"
    ]
    assert found["distribution"][0]["sha256"] == files["data/part-00000.parquet"]["sha256"]
    assert {field["name"] for field in found["recordSet"][0]["field"]} >= {
        "id",
        "messages",
        "license",
    }


@pytest.mark.skipif(
    importlib.util.find_spec("mlcroissant") is None,
    reason="the package mlcroissant is not installed",
)
def test_croissant_is_read_by_its_own_library(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlcroissant  # type: ignore[import-not-found]

    monkeypatch.chdir(out)
    rows = list(mlcroissant.Dataset(jsonld="croissant.json").records("rows"))
    assert len(rows) == 9 and rows[0]["rows/id"] == b"mine/r000"


def test_exports_hold_the_same_rows_with_images_as_files(out: Path) -> None:
    swift = json.loads((out / "ms-swift" / "rows.json").read_text())
    assert (
        len(swift) == 9
        and swift[0]["messages"][0]["content"] == "<image>\nIs it 0?"
        and swift[0]["solution"] == "yes"
    )
    assert all((out / "ms-swift" / name).is_file() for row in swift for name in row["images"])
    # Nothing is answered here, and LLaVA's form holds answers only.
    assert read_json(out / "llava" / "export.json") == {"rows": 0, "images": 0, "unanswered": 9}


def test_a_row_whose_text_looks_like_an_image_is_left_out_of_exports(
    config: Make, rows: Callable[..., Path], tmp_path: Path
) -> None:
    messages = [
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "see <image>"},
    ]
    path = rows(2, messages=messages)
    lines = (path / "rows.jsonl").read_text().splitlines()
    (path / "rows.jsonl").write_text("\n".join([lines[0].replace("see <image>", "yes"), lines[1]]))
    curate(config(path=path), tmp_path / "out", CurateOptions(export=("llava",)))
    (row,) = json.loads((tmp_path / "out" / "llava" / "rows.json").read_text())
    assert row["conversations"] == [
        {"from": "human", "value": "<image>\nTwo?"},
        {"from": "gpt", "value": "yes"},
    ]
    assert (
        isinstance(row["image"], str)
        and read_json(tmp_path / "out" / "llava" / "export.json")["contains_image_token"] == 1
    )


def test_the_page_shows_what_each_step_did(out: Path) -> None:
    page = (out / "explain.html").read_text()
    assert (
        page.count('<b class="changed">') == 2
        and '<b class="split">' in page
        and "dropped: over_quota" in page
    )
    assert "<ins>seed: 3</ins>" in page and page.count("data:image/jpeg;base64,") > 10
    assert 'src="http' not in page and "<script" not in page


def test_the_page_shows_no_text_and_no_pixel_of_restricted_rows(
    config: Make, rows: Callable[..., Path], tmp_path: Path
) -> None:
    path = rows(4, access="private", question="Is JANE DOE here?")
    curate(
        config(step_config("note", kind="note"), path=path),
        tmp_path / "out",
        CurateOptions(explain=True),
    )
    page = (tmp_path / "out" / "explain.html").read_text()
    assert "JANE" not in page and "data:image" not in page and "withheld" in page


def test_counts_with_a_missing_row_do_not_pass() -> None:
    counts = StepCounts()
    counts.add("a", "s", "in", 3)
    counts.add("a", "s", "out", 2)
    with pytest.raises(AssertionError):
        counts.check_balance(["a"], {}, ["s"])
    counts.drop("a", "s", "why")
    counts.check_balance(["a"], {}, ["s"])
    counts.add("b", "s", "in")
    counts.add("b", "s", "out")
    with pytest.raises(AssertionError):
        counts.check_balance(["a", "b"], {}, ["s"])
    counts.check_balance(["a", "b"], {"b": ["other"]}, ["s"])
