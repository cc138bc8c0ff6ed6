"""`lingshu merge`: merge models of one architecture, or LoRA adapters of one base, at one weight or
along a path.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

from cyclopts import Parameter

from lingshu.cli.options import Flat
from lingshu.core import registry
from lingshu.core.errors import ConfigError, InputError, describe_error, suggest_name
from lingshu.core.files import read_json

if TYPE_CHECKING:
    from lingshu.analysis.merge_path import PathReport
    from lingshu.evaluate.run import EvalConfig
    from lingshu.weights.base import MergeWeights
    from lingshu.weights.output import MergePlan

Several = Parameter(consume_multiple=True)
# Patterns of tensor names with the weights of A and B; None keeps the weight of the whole.
Patterns = list[tuple[str, tuple[float, float] | None]]


@dataclass(frozen=True, kw_only=True)
class MergeConfig:
    weight: float | None = None
    "W, the weight of A; B gets 1 − W. A weight of exactly 0 or 1 copies that end's bytes."
    weights: Annotated[tuple[float, ...], Several] = ()
    "One weight per model, in their order; equal shares if not given."
    method: str = "linear"
    "A name from `lingshu list merges`, or a .py file with a function method()."
    set_: Annotated[tuple[str, ...], Parameter(name="--set", consume_multiple=True)] = ()
    "Parameters of the method, as NAME=VALUE."
    base: Path | None = None
    "The model that the others were fine-tuned from, for task, ties and dare."
    part: Annotated[tuple[str, ...], Several] = ()
    "Another W for a part of the model, as vision=W, projector=W or language=W."
    pattern: Annotated[tuple[str, ...], Several] = ()
    "Another W for tensors by name, as GLOB=W; the last match counts."
    dtype: Literal["first", "same"] = "first"
    "Store the result as A is stored (first), or refuse models stored in different types (same)."
    seed: int = 0
    "Decides what dare drops."
    greedy_by: Path | None = None
    """.py file with a function score(folder), higher is better; a model stays in the soup if the
    score does not fall."""
    interpolate: int | None = None
    "Write this many points from W = 0 to W = 1, both included, reading A and B once."


@dataclass(frozen=True, kw_only=True)
class PathConfig:
    """Measurements along a path; all need --interpolate."""

    data: Path | None = None
    """A DATASET or a folder of rows with held-out answers: the report has likelihoods and the
    barrier."""
    tasks: str | None = None
    "Names of tasks with commas between: the report has the accuracy at each point."
    select_by: str | None = None
    "Tasks of validation data by which the recommended weight is chosen."
    task_data: Path | None = None
    "Folder with offline data of the tasks."
    limit: int | None = None
    "Evaluate only the first LIMIT samples of each task."
    synthetic: bool = False
    "Evaluate on each task's synthetic stand-in, for trying things out."
    tolerance: float = 0.02
    "Barrier up to which the ends count as connected, as a share of the ends' likelihood."
    batch_size: int = 8
    "Samples whose likelihood is computed at once."
    device: Literal["auto", "cpu", "cuda"] = "auto"
    "Where the likelihoods are computed."
    threads: int | None = None
    "CPU threads for likelihoods and answers."


def merge(
    *models: Path,
    out: Path,
    config: Flat[MergeConfig] = MergeConfig(),
    path: Flat[PathConfig] = PathConfig(),
) -> int:
    """Merge models A B [C ...] into the folder OUT, tensor by tensor; by default W·A + (1−W)·B with
    W = 0.5.

    Writes a checkpoint in the layout of A, with A's settings, tokenizer and processor, a run card
    with the hashes of everything that was merged, and a manifest. Models must have the same
    tensors, configuration, tokenizer and chat template.

    Args:
        models: Two or more checkpoint folders, or folders of LoRA adapters of one base.
        out: Folder for the merged model; with --interpolate, for the points in OUT/points and the
            report.
    """
    from lingshu.weights.output import MergePlan

    parameters = dict(_parse_parameter(text) for text in config.set_)
    plan = MergePlan(models, config.method, parameters, config.base, config.dtype, config.seed)
    _check_options(config, len(models))
    is_measured = bool(path.data or path.tasks or path.select_by)
    if is_measured:
        _check_measures(path, config)
    patterns = list(_patterns(config, models))
    if config.greedy_by is not None:
        return _merge_greedy_soup(plan, out, config.greedy_by, patterns)
    if config.interpolate is None:
        return _merge_single(plan, out, _weights(config, models, patterns))
    points = _merge_interpolated(plan, out, config.interpolate, patterns)
    return _report_path(path, out, points) if is_measured else 0


def _check_options(config: MergeConfig, n_models: int) -> None:
    """Refuse options that contradict each other before a file is opened."""
    weight, weights, points = config.weight, config.weights, config.interpolate
    if n_models < 2:
        raise ConfigError(f"{n_models} models are given; name two or more folders to merge.")
    if weight is not None and (weights or n_models != 2):
        raise ConfigError(
            "--weight is the share of A of two models; for more models use --weights W1 W2 ..., and"
            " only one of the two options."
        )
    if weight is not None and not 0 <= weight <= 1:
        raise ConfigError(f"--weight is {weight}; it must be between 0 and 1.")
    has_weights = weight is not None or bool(weights)
    if points is not None and (has_weights or config.greedy_by is not None):
        raise ConfigError(
            "--interpolate uses all weights of A from 0 to 1; leave --weight, --weights and"
            " --greedy-by out."
        )
    if points is not None and not 2 <= points <= 101:
        raise ConfigError(
            f"--interpolate is {points}; give 2 to 101 points, such as 11 for steps of 0.1."
        )
    if config.greedy_by is not None and has_weights:
        raise ConfigError(
            "a greedy soup is the plain mean of the models it keeps; leave --weight and --weights"
            " out."
        )


def _check_measures(path: PathConfig, config: MergeConfig) -> None:
    """Check before models are written, which may take an hour."""
    from lingshu.evaluate.data import find_tasks

    if config.interpolate is None:
        raise ConfigError(
            "--data, --tasks and --select-by measure the points of a path; give --interpolate K as"
            " well, such as --interpolate 11."
        )
    if path.data is not None and not path.data.is_dir():
        raise InputError(
            f"--data {path.data} is not a folder; give a DATASET or a folder of rows with held-out"
            " answers."
        )
    _eval_config(path).check()
    if names := (*_split_names(path.tasks), *_split_names(path.select_by)):
        find_tasks(names)


def _eval_config(path: PathConfig) -> EvalConfig:
    from lingshu.evaluate.run import EvalConfig

    return EvalConfig(
        data=path.task_data, limit=path.limit, synthetic=path.synthetic, threads=path.threads
    )


def _split_names(text: str | None) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()] if text else []


def _parse_parameter(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError as error:
        raise ConfigError(f"--set {text}: give NAME=NUMBER, such as density=0.2.") from error


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
    config: MergeConfig, models: Sequence[Path]
) -> Iterator[tuple[str, tuple[float, float] | None]]:
    if (config.part or config.pattern) and len(models) != 2:
        raise ConfigError("--part and --pattern give the share of A of two models.")
    if config.part:
        from lingshu.models.base import family_of

        parts = family_of(str(read_json(models[0] / "config.json").get("model_type"))).parts
        shares = dict(_parse_weight("part", text) for text in config.part)
        for name in shares:
            if name not in parts:
                raise ConfigError(f"--part {name}: no such part; {suggest_name(name, parts)}")
        # Checkpoints name tensors as the model class does or without its outermost `model.`; there
        # the language model's layers come right after it. A longer prefix is an exception to a
        # shorter one and comes later.
        part_by_prefix = {"model.": "language"}
        for part, prefixes in parts.items():
            for prefix in prefixes:
                part_by_prefix |= {prefix: part, prefix.removeprefix("model."): part}
        for prefix, name in sorted(part_by_prefix.items(), key=lambda pair: len(pair[0])):
            yield f"{prefix}*", ((shares[name], 1 - shares[name]) if name in shares else None)
    for text in config.pattern:
        name, share = _parse_weight("pattern", text)
        yield name, (share, 1 - share)


def _weights(config: MergeConfig, models: Sequence[Path], patterns: Patterns) -> MergeWeights:
    from lingshu.weights.base import MergeWeights

    default = config.weights or (1 / len(models),) * len(models)
    if config.weight is not None:
        default = (config.weight, 1 - config.weight)
    overrides = [(name, weights or default) for name, weights in patterns]
    return MergeWeights(default, _present_patterns(models[0], overrides))


def _present_patterns(
    model: Path, patterns: Sequence[tuple[str, tuple[float, ...]]]
) -> tuple[tuple[str, tuple[float, ...]], ...]:
    """Without prefixes that this checkpoint does not use: a family has more than one naming scheme."""
    from lingshu.weights.folder import open_model_folder

    names = list(open_model_folder(model, "A").tensors) if patterns else []
    return tuple(
        (pattern, weights)
        for pattern, weights in patterns
        if not _is_plain_prefix(pattern) or any(name.startswith(pattern[:-1]) for name in names)
    )


def _is_plain_prefix(pattern: str) -> bool:
    return pattern.endswith(".*") and not any(char in pattern[:-1] for char in "*?[")


def _merge_single(plan: MergePlan, out: Path, weights: MergeWeights) -> int:
    from lingshu.weights import output

    merged = output.merge(plan, out, weights)
    shares = zip(plan.models, weights.default, strict=True)
    print(f"{plan.method}: {', '.join(f'{share:g} of {path.name}' for path, share in shares)}")
    print(", ".join(f"{name} {count:,}" for name, count in merged.counts.items()))
    for note in merged.notes:
        print(f"note: {note}")
    print(f"merged: {out}")
    return 0


def _merge_interpolated(
    plan: MergePlan, out: Path, n_points: int, patterns: Patterns
) -> list[tuple[float, Path]]:
    from lingshu.weights.output import find_merged_path, merge_path

    fixed = [(name, weights) for name, weights in patterns if weights is not None]
    if len(fixed) < len(patterns):
        raise ConfigError(
            "--part with --interpolate: give every part its own weight, or none; --pattern keeps"
            " tensors at one weight."
        )
    weights = [index / (n_points - 1) for index in range(n_points)]
    present = _present_patterns(plan.models[0], fixed)
    # An interrupted report finds its points again, and with them its measurements.
    points = find_merged_path(plan, out, weights, present)
    if points is None:
        if any((out / name).is_dir() for name in ("likelihood", "eval", "choose")):
            raise ConfigError(
                f"{out} holds measurements of another path; choose another --out, or remove it."
            )
        points = merge_path(plan, out, weights, present)
    first = plan.models[0].name
    print(f"{plan.method}: {n_points} points of weight 0 to 1 of {first} in {out / 'points'}")
    return points


def _report_path(path: PathConfig, out: Path, points: Sequence[tuple[float, Path]]) -> int:
    from lingshu.analysis.merge_path import report_path
    from lingshu.inference.engines import open_engine

    report = report_path(
        out,
        points,
        open_engine,
        _eval_config(path),
        data=path.data,
        tasks=_split_names(path.tasks),
        select_by=_split_names(path.select_by),
        tolerance=path.tolerance,
        batch_size=path.batch_size,
        device=path.device,
    )
    _print_report(report)
    print(f"report: {out / 'path.html'}")
    return int(report.failed)


def _print_report(report: PathReport) -> None:
    for point in report.points:
        nll = "" if point.nll is None else f", {point.nll.all:.4f} nats a token"
        accuracy = "" if point.accuracy is None else f", {100 * point.accuracy:.1f}% right"
        print(f"weight {point.weight:g}{nll}{accuracy}")
    barrier = report.barrier
    if barrier is not None and not barrier.value.value:
        print("no barrier: no average is less likely than the straight line between the two models")
    elif barrier is not None:
        value, low, high, _ = barrier.value
        interval = "" if low is None or high is None else f" ({low:.4f} to {high:.4f})"
        verdict = "within" if barrier.is_connected else "above"
        print(
            f"barrier {value:.4f}{interval} nats a token at weight {barrier.weight:g}, {verdict}"
            f" the tolerance of {barrier.tolerance:.4f}"
        )
    if report.recommended is not None:
        print(f"recommended weight: {report.recommended:g}, by {report.criterion}")
    for notice in report.notices:
        print(f"note: {notice}")


def _merge_greedy_soup(plan: MergePlan, out: Path, file: Path, patterns: Patterns) -> int:
    from lingshu.weights.greedy import greedy_soup

    if patterns or plan.method not in ("linear", "soup"):
        raise ConfigError(
            "a greedy soup is the plain mean of whole models; leave --part, --pattern and --method"
            " out."
        )
    if file.suffix != ".py":
        raise ConfigError(
            f"--greedy-by {file}: give a .py file with a function score(folder); soups of models"
            " must be scored, too."
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
