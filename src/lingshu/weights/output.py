"""The folder of a merged model: weights, the files of the first model beside them, a card, hashes;
whole or not at all.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, cast

from lingshu.core import registry
from lingshu.core.errors import ConfigError, suggest_name
from lingshu.core.files import atomic_folder, read_json, storage_errors, write_json, write_manifest
from lingshu.core.run_card import RUN_CARD, RunCard, read_run_card, write_run_card
from lingshu.weights.adapters import merge_adapters
from lingshu.weights.base import MergeMethod, MergeWeights
from lingshu.weights.compatibility import DtypePolicy
from lingshu.weights.folder import INDEX_FILE
from lingshu.weights.merge import MergeSources, MergeTarget, StreamStats, open_sources, stream_merge

# What goes along with the weights: settings, tokenizer, processor, chat template, licence texts.
# Never code or pickles.
COPIED_SUFFIXES = {".json", ".txt", ".jinja", ".model", ".tiktoken"}
EXCLUDED_FILES = {"run.json", "manifest.json", INDEX_FILE}
POINTS_FOLDER = "points"
DISCLAIMER = "**For research only. Not a medical device, not for clinical use.**"


@dataclass(frozen=True)
class MergePlan:
    """Which models are merged, and how; weights are given with each result.

    `parameters` are those of the method, such as `density` of ties. `dtype`: "same" refuses models
    stored in different types, "first" stores the result as the first model is stored. `seed` counts
    where a method draws at random.
    """

    models: tuple[Path, ...]
    method: str = "linear"
    parameters: Mapping[str, float] = field(default_factory=dict)
    base: Path | None = None
    dtype: DtypePolicy = "same"
    seed: int = 0


class MergeResult(NamedTuple):
    """What came of a merge: counts of tensors and values, and what a reader should know."""

    counts: dict[str, int]
    notes: tuple[str, ...]


def open_method(name: str, parameters: Mapping[str, float]) -> MergeMethod:
    """A method of the shelf `merges`, opened with its parameters.

    Raises:
        UnknownName: no such method. ConfigError: a parameter that it does not have, or a value that
            it refuses.
    """
    import inspect

    factory = registry.get_attribute("merges", name, "method")
    assert callable(factory)
    known_parameters = inspect.signature(factory).parameters
    for parameter in parameters:
        if parameter not in known_parameters:
            raise ConfigError(
                f"{name} has no parameter {parameter!r}; {suggest_name(parameter, known_parameters)}"
            )
    return cast("MergeMethod", factory(**parameters))


def merge(
    plan: MergePlan, out: Path, weights: MergeWeights, *, notes: Mapping[str, object] | None = None
) -> MergeResult:
    """Merge models into the folder `out`: a checkpoint as the first model is one, or an adapter if
    they are adapters.

    `notes` go into the run card.

    Raises:
        ConfigError, UnknownName: the plan or the weights cannot be.
        InputError, ArtefactError: models that differ in what must be equal, or a value that is no
            number.
        StorageError: the disk refused; nothing is left at `out`.
    """
    check_output_folder(plan, out)
    method, sources = _open_plan(plan)
    _check_weights(method, sources, weights)
    with atomic_folder(out) as temporary:
        stats = _run_merge(sources, [MergeTarget(temporary, weights)], method, plan)
        _finish_folder(temporary, plan, sources, weights, stats, stats.written_files[0], notes)
    return MergeResult(stats.counts, sources.notes)


def merge_path(
    plan: MergePlan,
    out: Path,
    points: Sequence[float],
    patterns: Sequence[tuple[str, tuple[float, ...]]] = (),
) -> list[tuple[float, Path]]:
    """Merge two models at several weights of the first, from one reading of both: `out`/points/0.00
    to `out`/points/1.00.

    Raises:
        ConfigError: other than two models, or two points whose names would be the same; otherwise
            as `merge`.
    """
    names = [f"{point:.2f}" for point in points]
    if len(plan.models) != 2:
        raise ConfigError(
            f"a path leads from one model to one other, not between {len(plan.models)}."
        )
    if len(set(names)) != len(names):
        raise ConfigError(
            f"{len(points)} points are too many to be told apart by two decimals; choose at most"
            " 101."
        )
    check_output_folder(plan, out)
    method, sources = _open_plan(plan)
    weightings = [MergeWeights((point, 1 - point), tuple(patterns)) for point in points]
    for weights in weightings:
        _check_weights(method, sources, weights)
    with atomic_folder(out) as temporary:
        targets = [
            MergeTarget(temporary / POINTS_FOLDER / name, weights)
            for name, weights in zip(names, weightings, strict=True)
        ]
        for target in targets:
            target.folder.mkdir(parents=True)
        stats = _run_merge(sources, targets, method, plan)
        for target, written_files in zip(targets, stats.written_files, strict=True):
            _finish_folder(target.folder, plan, sources, target.weights, stats, written_files, None)
        card = _build_run_card(
            plan,
            sources,
            {"points": list(points), "patterns": _patterns_to_json(patterns)},
            stats,
            None,
        )
        write_run_card(temporary, card)
    return [(point, out / POINTS_FOLDER / name) for point, name in zip(points, names, strict=True)]


def find_merged_path(
    plan: MergePlan,
    out: Path,
    points: Sequence[float],
    patterns: Sequence[tuple[str, tuple[float, ...]]] = (),
) -> list[tuple[float, Path]] | None:
    """The points of a path that the same call of `merge_path` wrote from the same files; None where
    there are none.
    """
    if not (out / RUN_CARD).is_file():
        return None
    _, sources = _open_plan(plan)
    card = read_run_card(out)
    config = _config(
        plan, sources, {"points": list(points), "patterns": _patterns_to_json(patterns)}
    )
    if card.get("verb") != "merge" or card.get("seed") != plan.seed or card.get("config") != config:
        return None
    notes = card.get("notes")
    if not isinstance(notes, dict) or notes.get("files") != _file_stats(sources):
        return None
    points_found = [(point, out / POINTS_FOLDER / f"{point:.2f}") for point in points]
    return (
        points_found if all((folder / RUN_CARD).is_file() for _, folder in points_found) else None
    )


def check_output_folder(plan: MergePlan, out: Path) -> None:
    """Refuse a folder for the result that is or holds a source: what lies there is removed when the
    result takes its place.

    Raises:
        ConfigError: so it is.
    """
    for model in (*plan.models, *((plan.base,) if plan.base is not None else ())):
        if model.resolve().is_relative_to(out.resolve()):
            raise ConfigError(
                f"{out} is or holds {model}, which the result would replace; choose another --out."
            )


def _open_plan(plan: MergePlan) -> tuple[MergeMethod, MergeSources]:
    method = open_method(plan.method, plan.parameters)
    return method, open_sources(plan.models, method, base=plan.base, dtype=plan.dtype)


def _check_weights(method: MergeMethod, sources: MergeSources, weights: MergeWeights) -> None:
    # At the door: before a temporary folder is made.
    weights.check(method, len(sources.models), list(sources.first.tensors))


def _run_merge(
    sources: MergeSources, targets: Sequence[MergeTarget], method: MergeMethod, plan: MergePlan
) -> StreamStats:
    return (
        merge_adapters(sources, targets, method)
        if sources.first.is_adapter
        else stream_merge(sources, targets, method, seed=plan.seed)
    )


def _finish_folder(
    folder: Path,
    plan: MergePlan,
    sources: MergeSources,
    weights: MergeWeights,
    stats: StreamStats,
    written_files: Mapping[str, dict[str, object]],
    notes: Mapping[str, object] | None,
) -> None:
    """What stands beside the weights."""
    first = sources.first
    with storage_errors(folder):
        for file in sorted(first.path.iterdir()):
            should_copy = file.suffix in COPIED_SUFFIXES or file.stem.upper().startswith(
                ("LICENSE", "LICENCE", "NOTICE")
            )
            if (
                file.is_file()
                and should_copy
                and file.name not in EXCLUDED_FILES
                and not (folder / file.name).exists()
            ):
                shutil.copyfile(file, folder / file.name)
    if (first.path / INDEX_FILE).is_file() and not first.is_adapter:
        index = read_json(first.path / INDEX_FILE)
        write_json(
            folder / INDEX_FILE,
            {
                **index,
                "weight_map": {name: location.file for name, location in first.tensors.items()},
            },
        )
    weight_config = {
        "weights": list(weights.default),
        "patterns": _patterns_to_json(weights.patterns),
    }
    (folder / "README.md").write_text(_readme(plan, sources, weights), encoding="utf-8")
    write_run_card(folder, _build_run_card(plan, sources, weight_config, stats, notes))
    write_manifest(folder, dict(written_files))


def _patterns_to_json(patterns: Sequence[tuple[str, tuple[float, ...]]]) -> list[list[object]]:
    return [[pattern, list(weights)] for pattern, weights in patterns]


def _config(
    plan: MergePlan, sources: MergeSources, weight_config: Mapping[str, object]
) -> dict[str, object]:
    return {
        "models": {folder.label: str(folder.path) for folder in sources.all_folders},
        "method": plan.method,
        "parameters": dict(plan.parameters),
        "dtype": plan.dtype,
        "stored_dtypes": sorted({location.dtype for location in sources.first.tensors.values()}),
        **weight_config,
    }


def _file_stats(sources: MergeSources) -> dict[str, list[int]]:
    """Size and time of change of each source file: what tells, without hashing it again, that it is
    still the same.
    """
    file_stats = {
        f"{folder.label}/{name}": (folder.path / name).stat()
        for folder in sources.all_folders
        for name in folder.files
    }
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in file_stats.items()}


def _build_run_card(
    plan: MergePlan,
    sources: MergeSources,
    weight_config: Mapping[str, object],
    stats: StreamStats,
    notes: Mapping[str, object] | None,
) -> RunCard:
    card_notes = {
        "differences": list(sources.notes),
        "files": _file_stats(sources),
        **(notes or {}),
    }
    return RunCard(
        "merge",
        _config(plan, sources, weight_config),
        plan.seed,
        stats.counts,
        stats.source_hashes,
        card_notes,
    )


def _readme(plan: MergePlan, sources: MergeSources, weights: MergeWeights) -> str:
    kind = "LoRA adapter" if sources.first.is_adapter else "model"
    weight_rows = "\n".join(
        f"| {folder.label} | {folder.path.name} | {weight:g} |"
        for folder, weight in zip(sources.models, weights.default, strict=True)
    )
    base = f"\nBase: {sources.base.path.name}.\n" if sources.base else ""
    patterns_note = (
        f"\nOther weights hold for {', '.join(f'`{pattern}`' for pattern, _ in weights.patterns)};"
        " see run.json.\n"
        if weights.patterns
        else ""
    )
    return (
        f"# A merged {kind}\n\n{DISCLAIMER}\n\nMerged by lingshu with the method `{plan.method}`"
        f" from\n\n| | model | weight |\n|---|---|---|\n{weight_rows}\n{base}{patterns_note}\nWhat was merged,"
        " with the sha256 of every file, is in run.json. Not evaluated when this was written.\n"
    )
