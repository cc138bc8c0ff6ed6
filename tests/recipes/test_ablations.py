"""The ablations: the table's eight removals as overrides, and every one of them run in small on
phantoms.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pytest

from lingshu.cli.main import main
from lingshu.core.config import override
from lingshu.core.errors import ConfigError
from lingshu.recipes.ablations import EXPECTED, INSTRUCT, PHANTOM_GROUPS, VARIANTS, recipe
from lingshu.sources.phantom import question_samples, training_samples
from lingshu.train.estimate import estimate_run
from tests.support.tiny import SMALL, write_phantoms

ROWS = 8
# Every stage one or two steps long, on the smallest model.
SHORT = (
    *(f"stages.{name}.steps=1" for name in ("base", "shallow", "deep")),
    *(f"stages.{name}.batch=4" for name in ("base", "shallow", "deep", "instruct")),
    *(f"stages.{name}.micro_batch=4" for name in ("base", "shallow", "deep", "instruct")),
    "stages.instruct.steps=2",
    *(f"model.{key}={value}" for key, value in SMALL.items()),
    "tensorboard=false",
)


@pytest.fixture(scope="module")
def data_overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """`data.GROUP=FOLDER` of every group, each with a few phantoms."""
    path = tmp_path_factory.mktemp("groups")
    found = []
    for group, what in PHANTOM_GROUPS.items():
        samples = (
            training_samples(0, ROWS, what)
            if isinstance(what, str)
            else islice(question_samples(0, "train", ROWS, kinds=what), ROWS)
        )
        found.append(f"data.{group}={write_phantoms(path / group, list(samples))}")
    return found


def test_the_variants_are_the_removals_of_the_table() -> None:
    removed = {
        name: set(INSTRUCT) - set(override(recipe(), changes).stages[-1].data)
        for name, changes in VARIANTS.items()
    }
    assert removed == {
        "nothing": set(),
        "medical_multimodal": {"medical", "synthetic"},
        "synthetic_multimodal": {"synthetic"},
        "medical_text": {"medical_cot", "medical_text"},
        "medical_cot": {"medical_cot"},
        "general_multimodal": {"general"},
        "captions": {"captions"},
        "general_text": {"general_text"},
        "alignment": set(),
    }
    stages = {
        name: [stage.name for stage in override(recipe(), changes).stages]
        for name, changes in VARIANTS.items()
    }
    assert stages.pop("alignment") == ["base", "instruct"]
    assert all(names == ["base", "shallow", "deep", "instruct"] for names in stages.values())


def test_rows_are_a_thousandth_of_the_paper_s_amounts() -> None:
    def rows(*groups: str) -> int:
        return sum(INSTRUCT[group] for group in groups)

    assert (rows("medical", "synthetic"), rows("medical_text", "medical_cot"), rows(*INSTRUCT)) == (
        2700,
        173,
        7073,
    )
    assert PHANTOM_GROUPS.keys() == EXPECTED.keys() == recipe().data.keys()
    assert estimate_run(recipe()).stages[-1].steps == 2 * (7073 // 16)


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_variant_runs_from_the_command_line(
    variant: str, data_overrides: list[str], tmp_path: Path
) -> None:
    # A stage that is taken out cannot be changed too.
    n_removed = {change.split("=")[0] for change in VARIANTS[variant] if change.endswith("=null")}
    short = [
        change for change in SHORT if not any(change.startswith(path + ".") for path in n_removed)
    ]
    assert (
        main(
            [
                "train",
                "ablations",
                *data_overrides,
                *short,
                *VARIANTS[variant],
                "--out",
                str(tmp_path / "run"),
            ]
        )
        == 0
    )
    stages = json.loads((tmp_path / "run" / "summary.json").read_text())["stages"]
    kept = override(recipe(), VARIANTS[variant])
    assert [stage["name"] for stage in stages] == [stage.name for stage in kept.stages]
    assert stages[-1]["samples"] == ROWS * len(kept.stages[-1].data)


def test_only_an_item_with_a_name_is_taken_out_by_null() -> None:
    assert [stage.name for stage in override(recipe(), ["stages.0=null"]).stages] == [
        "shallow",
        "deep",
        "instruct",
    ]
    for change in ("stages.deep.betas.0=null", "stages.deep.data.0=null"):
        with pytest.raises(ConfigError):
            override(recipe(), [change])
