"""`lingshu curate`: recipes, files, overrides, exit codes and what a person reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lingshu.cli.main import main
from lingshu.core.artifacts import open_dataset

RECIPE = """
name: mine
sources:
- {name: mine, reader: jsonl, license: CC0-1.0, access: open, path: my_images}
steps:
- {name: size, op: image_size}
workers: 0
"""


@pytest.fixture
def recipe(workplace: Path) -> Path:
    (workplace / "mine.yaml").write_text(RECIPE)
    return workplace


def test_a_file_becomes_a_dataset_and_the_resolved_one_does_again(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["curate", "mine.yaml", "--out", "data"]) == 0
    output = capsys.readouterr().out
    assert (
        "size: 12 -> 12\n" in output
        and "12 rows, 12 images, version " in output
        and "dataset: data\n" in output
    )
    assert main(["curate", "data/config.yaml", "--out", "again"]) == 0
    assert open_dataset(Path("again")).version == open_dataset(Path("data")).version
    assert main(["curate", "mine.yaml", "--out", "data"]) == 0
    assert "holds this dataset already" in capsys.readouterr().out


def test_parameters_that_a_file_does_not_name_can_be_overridden(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            [
                "curate",
                "mine.yaml",
                "steps.size.params.max_aspect=1.0",
                "steps.size.params.min_side=999",
                "--limit",
                "5",
                "--out",
                "data",
            ]
        )
        == 1
    )
    output = capsys.readouterr().out
    assert "size: 5 -> 0 (dropped: image_too_small 5)" in output and "no row is left" in output
    assert main(["curate", "mine.yaml", "steps.size.params.max_sides=20", "--out", "other"]) == 2
    assert "did you mean 'max_side'" in capsys.readouterr().err


def test_the_seed_of_the_run_reaches_steps_that_name_none(recipe: Path) -> None:
    balance_step = "{name: some, op: balance, params: {by: [source], cap: 4}}"
    Path("drawn.yaml").write_text(RECIPE.replace("{name: size, op: image_size}", balance_step))
    versions = set()
    for out, overrides in (
        ("a", []),
        ("b", ["seed=5"]),
        ("c", ["steps.some.params.seed=5"]),
        ("d", ["seed=5", "steps.some.params.seed=0"]),
    ):
        assert main(["curate", "drawn.yaml", *overrides, "--out", out]) == 0
        versions.add((open_dataset(Path(out)).version, out))
    by_version = sorted(
        "".join(sorted(o for v, o in versions if v == version))
        for version in {v for v, _ in versions}
    )
    assert by_version == ["ad", "bc"]


def test_rows_at_which_a_step_fails_make_the_exit_code_one(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (
        "from lingshu.core.step_types import MapStep\n\ndef step():\n    return MapStep(lambda: lambda"
        " sample, pixels: 1 / 0)\n"
    )
    Path("broken.py").write_text(lines)
    Path("broken.yaml").write_text(
        RECIPE.replace("{name: size, op: image_size}", "{name: bad, op: broken.py}")
    )
    assert main(["curate", "broken.yaml", "--out", "data"]) == 1
    assert "bad: 12 -> 0 (dropped: error 12)" in capsys.readouterr().out
    first = json.loads(Path("data/drops.jsonl").read_text().splitlines()[0])
    assert "ZeroDivisionError" in first["detail"] and "broken.py, line 4" in first["detail"]


def test_the_page_and_the_exports_are_named(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(
            [
                "curate",
                "mine.yaml",
                "--out",
                "data",
                "--explain",
                "--export",
                "ms-swift",
                "--license",
                "permissive",
            ]
        )
        == 0
    )
    output = capsys.readouterr().out
    assert "ms-swift: rows 12, images 2" in output and "page: data/explain.html" in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mine.yaml", "--limit", "0"], "--limit is 0"),
        (["mine.yaml", "--export", "lava"], "did you mean 'llava'"),
        (["mine.yaml", "--key", "missing.key"], "missing.key cannot be read"),
        (["mine.yaml", "sources.mine.path=nowhere"], "nowhere"),
        (["quickstart"], "is not a recipe of a curation"),
        (["curation_local"], "source 'scans' has no path; give sources.scans.path=FOLDER"),
        (
            ["curation_local", "sources.scans.path=my_images", "steps.split.params.keep=train"],
            "give both runs the same --key FILE",
        ),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_two(
    recipe: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["curate", *arguments, "--out", "data"]) == 2
    output = capsys.readouterr().err
    assert message in output and len(output.strip().splitlines()) == 1


def test_ids_under_a_key_are_the_same_in_every_run(recipe: Path) -> None:
    Path("key").write_bytes(b"k" * 16)
    Path("folders.yaml").write_text(
        RECIPE.replace("jsonl", "folders").replace(
            "path: my_images", "path: my_images, options: {names: hash}"
        )
    )
    ids = []
    for out, more in (("a", ["--key", "key"]), ("b", ["--key", "key"]), ("c", [])):
        assert main(["curate", "folders.yaml", "--out", out, *more]) == 0
        ids.append(open_dataset(Path(out)).version)
        assert not any(
            b"kkkkkkkk" in path.read_bytes() for path in Path(out).rglob("*") if path.is_file()
        )
    assert ids[0] == ids[1] != ids[2]
    assert main(["curate", "folders.yaml", "--out", "d", "sources.mine.options.key=x"]) == 2
