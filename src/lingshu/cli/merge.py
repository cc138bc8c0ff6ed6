"""`lingshu merge`: merge models of one architecture, or LoRA adapters of one base, at one weight or
along a path.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from cyclopts import Parameter

from lingshu.core import registry
from lingshu.core.errors import ConfigError, InputError, describe_error, suggest_name
from lingshu.core.files import read_json

if TYPE_CHECKING:
    from lingshu.models.base import VisionLanguageFamily
    from lingshu.weights.base import MergeWeights
    from lingshu.weights.output import MergePlan

MultiOption = Annotated[tuple[str, ...], Parameter(consume_multiple=True)]


def merge(
    *models: Path,
    out: Path,
    weight: float | None = None,
    weights: Annotated[tuple[float, ...], Parameter(consume_multiple=True)] = (),
    method: str = "linear",
    set_: Annotated[tuple[str, ...], Parameter(name="--set", consume_multiple=True)] = (),
    base: Path | None = None,
    part: MultiOption = (),
    pattern: MultiOption = (),
    dtype: Literal["same", "first"] = "same",
    seed: int = 0,
    greedy_by: Path | None = None,
    interpolate: int | None = None,
    data: Path | None = None,
    tasks: str | None = None,
    select_by: str | None = None,
    task_data: Path | None = None,
    limit: int | None = None,
    synthetic: bool = False,
    tolerance: float | None = None,
    batch_size: int | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int | None = None,
) -> int:
    """Merge models A B [C ...] into the folder OUT, tensor by tensor; by default W·A + (1−W)·B with
    W = 0.5.

    Writes a checkpoint in the layout of A, with A's settings, tokenizer and processor, a run card
    with the hashes of all that was merged, and a manifest. Models must have the same tensors,
    configuration, tokenizer and chat template.

    Args:
        models: two or more checkpoint folders, or folders of LoRA adapters of one base.
        out: folder for the merged model; with --interpolate, for the points in OUT/points and the report.
        weight: W, the weight of A; B gets 1 − W. A weight of exactly 0 or 1 copies that end's
            bytes.
        weights: one weight per model, in their order; equal shares if not given.
        method: a name from `lingshu list merges`, or a .py file with a function method().
        set_: parameters of the method, as NAME=VALUE.
        base: the model that the others were tuned from, for task, ties and dare.
        part: another W for a part of the model, as vision=W, projector=W or language=W.
        pattern: another W for tensors by name, as GLOB=W; the last that matches counts.
        dtype: refuse models that are stored in different types (same), or store the result as A is
            stored (first).
        seed: decides what dare drops.
        greedy_by: .py file with a function score(folder), higher is better; models stay in the soup
            while it does not fall.
        path: write this many points from W = 0 to W = 1, both among them, from one reading of A and
            B.
        data: with --interpolate, a DATASET or a folder of rows with held-out answers; the report then has
            likelihoods and the barrier.
        tasks: with --interpolate, names of tasks with commas between; the report then has the accuracy at
            each point.
        choose: with --interpolate, tasks of validation data that the recommended weight is chosen by.
        task_data: folder with offline data of the tasks.
        limit: ask only the first LIMIT samples of each task.
        twin: ask each task's drawn stand-in, for trying things out.
        tolerance: barrier up to which the ends count as connected, as a share of the ends'
            likelihood.
        batch_size: samples whose likelihood is taken at once.
        device: where the likelihoods are computed.
        threads: CPU threads for likelihoods and answers.
    """
    from lingshu.weights.output import MergePlan

    plan = MergePlan(models, method, _parse_parameters(set_), base, dtype, seed)
    _check_options(plan, interpolate, weight=weight, weights=weights, greedy_by=greedy_by)
    if interpolate is None:
        if data or tasks or select_by:
            raise ConfigError(
                "--data, --tasks and --select-by measure the points of a path; give --interpolate K as well,"
                " such as --interpolate 11."
            )
        patterns = list(_patterns(plan, part, pattern))
        if greedy_by is not None:
            return _merge_greedy_soup(plan, out, greedy_by, patterns)
        return _merge_single(plan, out, _weights(plan, weight, weights, patterns))
    _check_measures(data, _split_names(tasks) + _split_names(select_by))
    points = _merge_interpolated(plan, out, interpolate, list(_patterns(plan, part, pattern)))
    if not (data or tasks or select_by):
        return 0
    from lingshu.analysis.merge_path import report_path

    likelihood_options: dict[str, Any] = {"tolerance": tolerance, "batch": batch_size}
    eval_options: dict[str, Any] = {
        "data": task_data,
        "limit": limit,
        "synthetic": synthetic or None,
    }
    return report_path(
        out, points, data=data, tasks=_split_names(tasks), select_by=_split_names(select_by), device=device, threads=threads,
        evaluation=_drop_none(eval_options), **_drop_none(likelihood_options),
    )  # fmt: skip


def _check_measures(data: Path | None, tasks: Sequence[str]) -> None:
    """At the door: before models are written, which may take an hour."""
    from lingshu.evaluate.data import find_tasks

    if data is not None and not data.is_dir():
        raise InputError(
            f"--data {data} is no folder; give a DATASET or a folder of rows with held-out answers."
        )
    if tasks:
        find_tasks(tuple(tasks))


def _drop_none(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _split_names(text: str | None) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()] if text else []


def _check_options(
    plan: MergePlan,
    interpolate: int | None,
    *,
    weight: float | None,
    weights: Sequence[float],
    greedy_by: Path | None,
) -> None:
    """Refuse options that contradict each other before a file is opened."""
    if len(plan.models) < 2:
        raise ConfigError(
            f"{len(plan.models)} models are given; name two or more folders to merge."
        )
    if weight is not None and (weights or len(plan.models) != 2):
        raise ConfigError(
            "--weight is the share of A among two models; give more models --weights W1 W2 ..., and"
            " only one of the two."
        )
    if weight is not None and not 0 <= weight <= 1:
        raise ConfigError(f"--weight is {weight}; it must lie between 0 and 1.")
    if interpolate is not None and (weight is not None or weights or greedy_by is not None):
        raise ConfigError(
            "--interpolate goes through all weights of A from 0 to 1; leave --weight, --weights and"
            " --greedy-by out."
        )
    if interpolate is not None and not 2 <= interpolate <= 101:
        raise ConfigError(
            f"--interpolate is {interpolate}; give 2 to 101 points, such as 11 for steps of 0.1."
        )
    if greedy_by is not None and (weight is not None or weights):
        raise ConfigError(
            "a greedy soup is the plain mean of the models it keeps; leave --weight and --weights"
            " out."
        )


def _parse_parameters(assignments: Sequence[str]) -> dict[str, float]:
    parameters = {}
    for text in assignments:
        name, _, value = text.partition("=")
        try:
            parameters[name] = float(value)
        except ValueError as error:
            raise ConfigError(f"--set {text}: give NAME=NUMBER, such as density=0.2.") from error
    return parameters


def _parse_weight(option: str, text: str) -> tuple[str, float]:
    name, _, value = text.rpartition("=")
    try:
        share = float(value)
    except ValueError:
        share = -1.0
    if not name or not 0 <= share <= 1:
        raise ConfigError(
            f"--{option} {text}: give NAME=W with W between 0 and 1, the share of A, such as"
            " vision=0.3."
        )
    return name, share


def _patterns(
    plan: MergePlan, parts: Sequence[str], patterns: Sequence[str]
) -> Iterator[tuple[str, tuple[float, float] | None]]:
    """Patterns of tensor names with the weights of A and B; None where a part keeps the weight of
    the whole.
    """
    if not parts and not patterns:
        return
    if len(plan.models) != 2:
        raise ConfigError("--part and --pattern give the share of A among two models.")
    if parts:
        from lingshu.models.base import family_of

        family = family_of(str(read_json(plan.models[0] / "config.json").get("model_type")))
        shares = dict(_parse_weight("part", text) for text in parts)
        unknown = next((name for name in shares if name not in family.parts), None)
        if unknown is not None:
            raise ConfigError(
                f"--part {unknown}: no such part; {suggest_name(unknown, family.parts)}"
            )
        for prefix, name in _prefixes(family):
            yield f"{prefix}*", ((shares[name], 1 - shares[name]) if name in shares else None)
    for text in patterns:
        name, share = _parse_weight("pattern", text)
        yield name, (share, 1 - share)


def _prefixes(family: VisionLanguageFamily) -> list[tuple[str, str]]:
    """Beginnings of tensor names with their part, the longer after the shorter, which they are
    exceptions to.

    Checkpoints name tensors as the model class does or without its outermost `model.`; there the
    language model's layers come right after it.
    """
    part_by_prefix = {"model.": "language"}
    for part, prefixes in family.parts.items():
        part_by_prefix |= {
            name: part for prefix in prefixes for name in (prefix, prefix.removeprefix("model."))
        }
    return sorted(part_by_prefix.items(), key=lambda item: len(item[0]))


def _weights(
    plan: MergePlan,
    weight: float | None,
    weights: Sequence[float],
    patterns: Sequence[tuple[str, tuple[float, float] | None]],
) -> MergeWeights:
    from lingshu.weights.base import MergeWeights

    n_models = len(plan.models)
    default = (
        tuple(weights)
        if weights
        else (weight, 1 - weight)
        if weight is not None
        else (1 / n_models,) * n_models
    )
    return MergeWeights(
        default,
        _present_patterns(
            plan, [(name, pattern_weights or default) for name, pattern_weights in patterns]
        ),
    )


def _present_patterns(
    plan: MergePlan, patterns: Sequence[tuple[str, tuple[float, ...]]]
) -> tuple[tuple[str, tuple[float, ...]], ...]:
    """Without the beginnings of names that this checkpoint does not use: a family has more than one
    way of naming.
    """
    from lingshu.weights.folder import open_model_folder

    names = list(open_model_folder(plan.models[0], "A").tensors) if patterns else []
    return tuple(
        (name, pattern_weights)
        for name, pattern_weights in patterns
        if not _is_plain_prefix(name) or any(tensor.startswith(name[:-1]) for tensor in names)
    )


def _is_plain_prefix(pattern: str) -> bool:
    return pattern.endswith(".*") and not any(char in pattern[:-1] for char in "*?[")


def _merge_single(plan: MergePlan, out: Path, weights: MergeWeights) -> int:
    from lingshu.weights.output import merge as write_merge

    result = write_merge(plan, out, weights)
    print(
        f"{plan.method}:"
        f" {', '.join(f'{model_weight:g} of {path.name}' for path, model_weight in zip(plan.models, weights.default, strict=True))}"
    )
    print(", ".join(f"{name} {count:,}" for name, count in result.counts.items()))
    _print_notes(result.notes)
    print(f"merged: {out}")
    return 0


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes:
        print(f"note: {note}")


def _merge_interpolated(
    plan: MergePlan,
    out: Path,
    n_points: int,
    patterns: Sequence[tuple[str, tuple[float, float] | None]],
) -> list[tuple[float, Path]]:
    from lingshu.weights.output import find_merged_path, merge_path

    if any(pattern_weights is None for _, pattern_weights in patterns):
        raise ConfigError(
            "--part with --interpolate: give every part its own weight, or none; --pattern keeps tensors"
            " at one weight."
        )
    points = [index / (n_points - 1) for index in range(n_points)]
    fixed = _present_patterns(
        plan,
        [
            (name, pattern_weights)
            for name, pattern_weights in patterns
            if pattern_weights is not None
        ],
    )
    # A report that was interrupted finds its points again, and with them what it has measured.
    merged_points = find_merged_path(plan, out, points, fixed)
    if merged_points is None:
        if any((out / name).is_dir() for name in ("likelihood", "eval", "choose")):
            raise ConfigError(
                f"{out} holds what was measured of another path; choose another --out, or"
                " remove it."
            )
        merged_points = merge_path(plan, out, points, fixed)
    print(
        f"{plan.method}: {n_points} points of weight 0 to 1 of {plan.models[0].name} in"
        f" {out / 'points'}"
    )
    return merged_points


def _merge_greedy_soup(plan: MergePlan, out: Path, file: Path, patterns: Sequence[object]) -> int:
    from dataclasses import replace

    from lingshu.weights.greedy import greedy_soup

    if patterns or plan.method not in ("linear", "soup"):
        raise ConfigError(
            "a greedy soup is the plain mean of whole models; leave --part, --pattern and --method"
            " out."
        )
    if file.suffix != ".py":
        raise ConfigError(
            f"--greedy-by {file}: give a .py file with a function score(folder); the soups of"
            " models must be scored, too."
        )
    score = cast(
        "Callable[[Path], float] | None", getattr(registry.load("merges", str(file)), "score", None)
    )
    if not callable(score):
        raise InputError(f"{file} defines no function score(folder).")

    def checked_score(folder: Path) -> float:
        try:
            return score(folder)
        except (ArithmeticError, AttributeError, LookupError, OSError, TypeError) as error:
            raise InputError(
                f"{file} could not score {folder}: {describe_error(error)}."
            ) from error

    soup = greedy_soup(replace(plan, method="soup"), out, checked_score)
    for model, value in soup.individual_scores:
        print(f"{value:.6g}  {model}")
    print(json.dumps(soup.trials, indent=2))
    print(f"kept {len(soup.selected)} of {len(plan.models)} models, score {soup.score:.6g}")
    print(f"merged: {out}")
    return 0
