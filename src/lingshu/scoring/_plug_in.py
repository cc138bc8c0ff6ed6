"""Metrics that need a model: each loads from a folder of weights, or says what to install and what
to put where.

Nothing is downloaded. What goes wrong in foreign code is the metric's note, and costs neither the
other metrics nor the run.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lingshu.core.errors import fault

# From the weights folder, what was said and the references: values of each pair, by the name of the
# metric.
Compute = Callable[[Path, Sequence[str], Sequence[str]], Mapping[str, Sequence[float]]]

X_RAY = ("x-ray", "xray", "x ray", "chest x-ray", "cxr")


@dataclass(frozen=True)
class PlugIn:
    """A model-based metric.

    `names` are the numbers that it gives, `module` is what is imported, `install` how to get it.
    `needs` names each file or folder inside the weights folder with where it comes from and its
    licence. `chest` ones know chest X-rays alone.
    """

    names: tuple[str, ...]
    module: str
    install: str
    needs: Mapping[str, str]
    compute: Compute
    chest: bool = True


def other_than_x_ray(modalities: Sequence[str | None]) -> list[str]:
    """The modalities that are known and are no X-ray, sorted."""
    return sorted(
        {told for told in modalities if told is not None and told.casefold() not in X_RAY}
    )


def unavailable(
    plug_in: PlugIn, weights: Path | None, modalities: Sequence[str | None]
) -> str | None:
    """Why a metric cannot be computed here and what to do about it; None where it can."""
    other = other_than_x_ray(modalities)
    if plug_in.chest and other:
        return (
            "unavailable: made for reports of chest X-rays alone, and these are also of"
            f" {', '.join(other)}"
        )
    told = []
    if importlib.util.find_spec(plug_in.module) is None:
        told.append(f"run: {plug_in.install}")
    missing = [name for name in plug_in.needs if weights is None or not (weights / name).exists()]
    where = "the folder that --metric-weights names" if weights is None else str(weights)
    told += [f"put {name} ({plug_in.needs[name]}) into {where}" for name in missing]
    return f"unavailable: {'; '.join(told)}" if told else None


def computed(
    plug_in: PlugIn, weights: Path, said: Sequence[str], gold: Sequence[str]
) -> Mapping[str, Sequence[float]] | str:
    """The values of each pair by name, or why there are none."""
    try:
        found = plug_in.compute(weights, said, gold)
    except Exception as error:  # foreign code, foreign weights
        return f"unavailable: {plug_in.module} failed: {fault(error)}"
    wrong = [name for name in plug_in.names if len(found.get(name, ())) != len(said)]
    return (
        f"unavailable: {plug_in.module} gave no value for each report: {', '.join(wrong)}"
        if wrong
        else found
    )
