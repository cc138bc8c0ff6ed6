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

from lingshu.core.errors import describe_error

# From the weights folder, what was said and the references: values of each pair, by the name of the
# metric.
ComputeMetric = Callable[[Path, Sequence[str], Sequence[str]], Mapping[str, Sequence[float]]]

X_RAY_MODALITIES = ("x-ray", "xray", "x ray", "chest x-ray", "cxr")


@dataclass(frozen=True)
class ModelMetric:
    """A model-based metric.

    `names` are the numbers that it gives, `module` is what is imported, `install` how to get it.
    `needs` names each file or folder inside the weights folder with where it comes from and its
    licence. `chest` ones know chest X-rays alone.
    """

    names: tuple[str, ...]
    module: str
    install_command: str
    required_files: Mapping[str, str]
    compute: ComputeMetric
    chest_x_ray_only: bool = True


def non_x_ray_modalities(modalities: Sequence[str | None]) -> list[str]:
    """The modalities that are known and are no X-ray, sorted."""
    return sorted(
        {
            modality
            for modality in modalities
            if modality is not None and modality.casefold() not in X_RAY_MODALITIES
        }
    )


def reason_unavailable(
    model_metric: ModelMetric, weights: Path | None, modalities: Sequence[str | None]
) -> str | None:
    """Why a metric cannot be computed here and what to do about it; None where it can."""
    other_modalities = non_x_ray_modalities(modalities)
    if model_metric.chest_x_ray_only and other_modalities:
        return (
            "unavailable: made for reports of chest X-rays alone, and these are also of"
            f" {', '.join(other_modalities)}"
        )
    steps = []
    if importlib.util.find_spec(model_metric.module) is None:
        steps.append(f"run: {model_metric.install_command}")
    missing = [
        name
        for name in model_metric.required_files
        if weights is None or not (weights / name).exists()
    ]
    destination = "the folder that --metric-weights names" if weights is None else str(weights)
    steps += [
        f"put {name} ({model_metric.required_files[name]}) into {destination}" for name in missing
    ]
    return f"unavailable: {'; '.join(steps)}" if steps else None


def compute_values(
    model_metric: ModelMetric, weights: Path, predictions: Sequence[str], gold: Sequence[str]
) -> Mapping[str, Sequence[float]] | str:
    """The values of each pair by name, or why there are none."""
    try:
        values = model_metric.compute(weights, predictions, gold)
    except Exception as error:  # foreign code, foreign weights
        return f"unavailable: {model_metric.module} failed: {describe_error(error)}"
    incomplete = [
        name for name in model_metric.names if len(values.get(name, ())) != len(predictions)
    ]
    return (
        f"unavailable: {model_metric.module} gave no value for each report: {', '.join(incomplete)}"
        if incomplete
        else values
    )
