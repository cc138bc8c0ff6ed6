"""Configuration: typed both ways, and each mistake is told in the words of its author."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from lingshu.core.config import check_value, from_plain, override, read_plain, to_plain, write
from lingshu.core.errors import ConfigError, InputError


@dataclass(frozen=True)
class Stage:
    name: str
    steps: int = 10
    rate: float = 1e-3
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    seed: int = 0
    device: str | None = None
    order: Literal["random", "length"] = "length"
    stages: tuple[Stage, ...] = (Stage("shallow"), Stage("deep"))
    data: dict[str, str] = field(default_factory=lambda: {"captions": "a"})

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError("seed must not be negative")


def test_a_configuration_survives_its_file(tmp_path: Path) -> None:
    config = Recipe(seed=3, stages=(Stage("一", rate=2e-5, parts=("vision", "language")),))
    write(config, tmp_path / "a.yaml")
    assert from_plain(Recipe, read_plain(tmp_path / "a.yaml")) == config
    assert from_plain(Recipe, to_plain(config)) == config


def test_overrides_reach_every_level_and_leave_the_original_alone() -> None:
    config = Recipe()
    changed = override(
        config,
        [
            "seed=7",
            "device=cuda:0",
            "stages.deep.steps=5",
            "stages.0.rate=1e-4",
            "stages.deep.parts=[vision]",
            "data.captions=b",
        ],
    )
    assert (changed.seed, changed.device, changed.data) == (7, "cuda:0", {"captions": "b"})
    assert changed.stages == (
        Stage("shallow", rate=1e-4),
        Stage("deep", steps=5, parts=("vision",)),
    )
    assert config == Recipe()
    assert override(changed, ["device=null"]).device is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("seed", "not an override; write key=value"),
        ("sed=1", "did you mean 'seed'"),
        ("stages.deap.steps=1", "did you mean 'deep'"),
        ("stages.deep.step=1", "did you mean 'steps'"),
        ("stages.9.steps=1", "unknown key '9'"),
        ("seed.deeper=1", "below a plain value"),
        ("seed=ten", "seed: expected an integer, got 'ten'; write it as `seed: 10`"),
        ("seed=1.5", "seed: "),
        ("seed=null", "seed: "),
        ("stages.deep.steps=many", r"stages\.1\.steps: "),
        ("stages.deep.parts=vision", r"stages\.1\.parts: "),
        ("order=backwards", "order: expected one of 'random', 'length', got 'backwards'"),
        ("seed=-1", "seed must not be negative|must not be negative"),
        ("seed=[", "not valid YAML"),
    ],
)
def test_a_wrong_override_explains_what_is_wrong(change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(Recipe(), [change])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"stages": {"name": "a"}},
            "stages: expected a list, got a mapping; write it as `stages: [{name: ...}]`.",
        ),
        (
            {"data": ["a"]},
            "data: expected a mapping, got a list; write it as `data: {key: name}`.",
        ),
        (
            {"stages": ["deep"]},
            "stages.0: expected a mapping with the keys name, steps, rate, parts, got 'deep'; write"
            " it as `- {name: ...}`.",
        ),
        ({"device": 3}, "device: expected a text or null, got 3; write it as `device: name`."),
        (
            {"stages": [{"steps": 1}]},
            "stages.0.name is missing; expected a text, such as `name: name`.",
        ),
        (
            {"stages": [{"name": "a", "rate": []}]},
            "stages.0.rate: expected a number, got a list; write it as `rate: 0.5`.",
        ),
        ({"sed": 1}, "unknown key 'sed'; did you mean 'seed'?"),
    ],
)
def test_a_wrong_file_shows_what_is_expected_with_a_line_that_works(
    value: dict, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        from_plain(Recipe, value)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (tuple[int, int], [1, 2, 3], "k: Tuple should have at most 2 items"),
        (Annotated[int, Field(ge=1)], 0, "k: Input should be greater than or equal to 1 (got 0)."),
        (datetime.date, "today", "k: Input should be a valid date"),
    ],
)
def test_a_value_of_the_right_type_is_explained_by_its_rule(
    kind: Any, value: object, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_value(kind, value, "k")
    assert str(caught.value).startswith(message)


def test_a_nested_key_is_named_by_its_full_path() -> None:
    one = Recipe(stages=(Recipe().stages[0],))
    with pytest.raises(ConfigError, match=rf"did you mean 'stages\.{one.stages[0].name}\.steps'"):
        override(one, ["steps=1"])


def test_unknown_keys_of_a_file_name_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'stages\.0\.stepps'; did you mean 'steps'"):
        from_plain(Recipe, {"stages": [{"name": "a", "stepps": 1}]})
    with pytest.raises(ConfigError, match=r"stages\.0\.name is missing"):
        from_plain(Recipe, {"stages": [{"steps": 1}]})


def test_a_file_that_holds_no_configuration_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    with pytest.raises(ConfigError, match=r"a\.yaml cannot be read"):
        read_plain(path)
    for content in (b"- 1\n", b"a: [\n", b"\xff\xfe\x00", b""):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"a\.yaml"):
            read_plain(path)


@dataclass(frozen=True)
class Checked:
    rate: float = 1.0

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise InputError(f"rate is {self.rate}; it must not be negative.")


@dataclass(frozen=True)
class Nested:
    parts: tuple[Checked, ...] = ()
    named: dict[str, Checked] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"parts": [{"rate": 1}, {"rate": -1}]}, "parts.1: "),
        ({"named": {"a": {"rate": -1}}}, "named.a: "),
    ],
)
def test_a_check_of_a_part_is_reported_with_its_path(value: dict, path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_plain(Nested, value)
    assert str(caught.value) == f"{path}rate is -1.0; it must not be negative."
