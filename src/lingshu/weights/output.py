"""The folder of a merged model: weights, the first model's other files, a model card, hashes.

It is written completely or not at all.
"""

from __future__ import annotations

import inspect
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
from lingshu.weights.checkpoint_files import (
    INDEX_FILE,
    SETTINGS_FILES,
    other_files,
    without_code_keys,
)
from lingshu.weights.compatibility import DtypePolicy
from lingshu.weights.merge import MergeSources, MergeTarget, StreamStats, open_sources, stream_merge

LICENSE_PREFIXES = ("LICENSE", "LICENCE", "NOTICE")
POINTS_FOLDER = "points"
DISCLAIMER = "**For research only. Not a medical device, not for clinical use.**"
Patterns = Sequence[tuple[str, tuple[float, ...]]]  # as in MergeWeights


@dataclass(frozen=True)
class MergePlan:
    """Which models are merged, and how; weights are given with each result.

    `parameters` are those of the method, such as `density` of ties. `dtype`: "first" stores the
    result as the first model is stored, "same" refuses models stored in different types. `seed` is
    for methods that use random numbers.
    """

    models: tuple[Path, ...]
    method: str = "linear"
    parameters: Mapping[str, float] = field(default_factory=dict)
    base: Path | None = None
    dtype: DtypePolicy = "first"
    seed: int = 0


class MergeResult(NamedTuple):
    """Counts of tensors and values, and what a reader should know."""

    counts: dict[str, int]
    notes: tuple[str, ...]


def open_method(name: str, parameters: Mapping[str, float]) -> MergeMethod:
    """A merge method of the registry with its parameters.

    Raises:
        UnknownNameError: no such method.
        ConfigError: an unknown parameter, or a value that the method refuses.
    """
    factory = registry.get_attribute("merges", name, "method")
    assert callable(factory)
    known_parameters = inspect.signature(factory).parameters
    for parameter in parameters:
        if parameter not in known_parameters:
            suggestion = suggest_name(parameter, known_parameters)
            raise ConfigError(f"{name} has no parameter {parameter!r}; {suggestion}")
    return cast("MergeMethod", factory(**parameters))


def merge(
    plan: MergePlan, out: Path, weights: MergeWeights, *, notes: Mapping[str, object] | None = None
) -> MergeResult:
    """Merge models into the folder `out`: a checkpoint in the layout of the first, or an adapter.

    `notes` go into the run card.

    Raises:
        ConfigError, UnknownNameError: an impossible plan or weights.
        InputError, ArtifactError: models that are not compatible, or a non-finite value.
        StorageError: the disk refused; nothing is left at `out`.
    """
    check_output_folder(plan, out)
    job = _MergeJob.open(plan)
    job.check(weights)
    with atomic_folder(out) as temporary:
        stats = job.run([MergeTarget(temporary, weights)])
        job.finish(temporary, weights, stats, stats.written_files[0], notes or {})
    return MergeResult(stats.counts, job.sources.notes)


def merge_path(
    plan: MergePlan, out: Path, points: Sequence[float], patterns: Patterns = ()
) -> list[tuple[float, Path]]:
    """Merge two models at several weights of the first in one pass, into `out`/points/WEIGHT.

    Raises:
        ConfigError: other than two models, or two points whose names would be the same; otherwise
            as `merge`.
    """
    folders = [Path(POINTS_FOLDER, f"{point:.2f}") for point in points]
    if len(plan.models) != 2:
        raise ConfigError(f"a path is between two models, not {len(plan.models)}; give two.")
    if len(set(folders)) != len(folders):
        problem = f"{len(points)} points are too many to be distinguished by two decimals"
        raise ConfigError(f"{problem}; choose at most 101.")
    check_output_folder(plan, out)
    job = _MergeJob.open(plan)
    weightings = [MergeWeights((point, 1 - point), tuple(patterns)) for point in points]
    for weights in weightings:
        job.check(weights)
    with atomic_folder(out) as temporary:
        targets = [
            MergeTarget(temporary / folder, weights)
            for folder, weights in zip(folders, weightings, strict=True)
        ]
        for target in targets:
            target.folder.mkdir(parents=True)
        stats = job.run(targets)
        for target, written_files in zip(targets, stats.written_files, strict=True):
            job.finish(target.folder, target.weights, stats, written_files, {})
        write_run_card(temporary, job.run_card(_path_config(points, patterns), stats, {}))
    return [(point, out / folder) for point, folder in zip(points, folders, strict=True)]


def find_merged_path(
    plan: MergePlan, out: Path, points: Sequence[float], patterns: Patterns = ()
) -> list[tuple[float, Path]] | None:
    """The points that the same call of `merge_path` wrote from the same files, if there are any."""
    if not (out / RUN_CARD).is_file():
        return None
    job, card = _MergeJob.open(plan), read_run_card(out)
    expected = ("merge", plan.seed, job.config(_path_config(points, patterns)))
    if (card.get("verb"), card.get("seed"), card.get("config")) != expected:
        return None
    notes = card.get("notes")
    if not isinstance(notes, dict) or notes.get("files") != job.file_stats():
        return None
    folders = [(point, out / POINTS_FOLDER / f"{point:.2f}") for point in points]
    return folders if all((folder / RUN_CARD).is_file() for _, folder in folders) else None


def check_output_folder(plan: MergePlan, out: Path) -> None:
    """Raise ConfigError for a folder that is or contains a source: the result would replace it."""
    for model in (*plan.models, *((plan.base,) if plan.base is not None else ())):
        if model.resolve().is_relative_to(out.resolve()):
            problem = f"{out} is or contains {model}, which the result would replace"
            raise ConfigError(f"{problem}; choose another --out.")


def _copy(source: Path, target: Path) -> None:
    """Copy a file; one of settings without the keys that choose code."""
    if source.name in SETTINGS_FILES:
        settings = read_json(source)
        if (cleaned := without_code_keys(settings)) != settings:
            write_json(target, cleaned)
            return
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _path_config(points: Sequence[float], patterns: Patterns) -> dict[str, object]:
    return {"points": list(points), "patterns": _patterns_to_json(patterns)}


def _patterns_to_json(patterns: Patterns) -> list[list[object]]:
    return [[pattern, list(weights)] for pattern, weights in patterns]


@dataclass(frozen=True)
class _MergeJob:
    """A plan with its opened method and models."""

    plan: MergePlan
    method: MergeMethod
    sources: MergeSources

    @classmethod
    def open(cls, plan: MergePlan) -> _MergeJob:
        method = open_method(plan.method, plan.parameters)
        return cls(
            plan, method, open_sources(plan.models, method, base=plan.base, dtype=plan.dtype)
        )

    def check(self, weights: MergeWeights) -> None:
        weights.check(self.method, len(self.sources.models), list(self.sources.first.tensors))

    def run(self, targets: Sequence[MergeTarget]) -> StreamStats:
        if self.sources.first.is_adapter:
            return merge_adapters(self.sources, targets, self.method)
        return stream_merge(self.sources, targets, self.method, seed=self.plan.seed)

    def finish(
        self,
        folder: Path,
        weights: MergeWeights,
        stats: StreamStats,
        written_files: Mapping[str, dict[str, object]],
        notes: Mapping[str, object],
    ) -> None:
        """Add the other files of the first model, the model card, the run card and the manifest."""
        first = self.sources.first
        # Never code, pickles, or what a trainer left in the folder.
        names = [name for name in other_files(first.path) if name != INDEX_FILE]
        licenses = [
            path.name
            for path in first.path.iterdir()
            if path.is_file() and path.name.upper().startswith(LICENSE_PREFIXES)
        ]
        for name in sorted((*names, *licenses)):
            _copy(first.path / name, folder / name)
        has_index = len(first.files) > 1 or (first.path / INDEX_FILE).is_file()
        if has_index and not first.is_adapter:
            weight_map = {name: location.file for name, location in first.tensors.items()}
            total_size = sum(location.size for location in first.tensors.values())
            index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
            write_json(folder / INDEX_FILE, index)
        patterns = _patterns_to_json(weights.patterns)
        config = {"weights": list(weights.default), "patterns": patterns}
        (folder / "README.md").write_text(self.model_card(weights), encoding="utf-8")
        write_run_card(folder, self.run_card(config, stats, notes))
        write_manifest(folder, written_files)

    def config(self, weight_config: Mapping[str, object]) -> dict[str, object]:
        plan, first = self.plan, self.sources.first
        return {
            "models": {folder.label: str(folder.path) for folder in self.sources.all_folders},
            "method": plan.method,
            "parameters": dict(plan.parameters),
            "dtype": plan.dtype,
            "stored_dtypes": sorted({location.dtype for location in first.tensors.values()}),
            **weight_config,
        }

    def file_stats(self) -> dict[str, list[int]]:
        """Size and modification time of each source file, to recognize it without hashing."""
        stats = {
            f"{folder.label}/{name}": (folder.path / name).stat()
            for folder in self.sources.all_folders
            for name in folder.files
        }
        return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}

    def run_card(
        self, weight_config: Mapping[str, object], stats: StreamStats, notes: Mapping[str, object]
    ) -> RunCard:
        notes = {"differences": list(self.sources.notes), "files": self.file_stats(), **notes}
        config, hashes = self.config(weight_config), stats.source_hashes
        return RunCard("merge", config, self.plan.seed, stats.counts, hashes, notes)

    def model_card(self, weights: MergeWeights) -> str:
        sources = self.sources
        rows = [
            f"| {folder.label} | {folder.path.name} | {weight:g} |"
            for folder, weight in zip(sources.models, weights.default, strict=True)
        ]
        blocks = [
            f"# A merged {'LoRA adapter' if sources.first.is_adapter else 'model'}",
            DISCLAIMER,
            f"Merged by lingshu with the method `{self.plan.method}` from",
            "\n".join(["| | model | weight |", "|---|---|---|", *rows]),
        ]
        if sources.base:
            blocks.append(f"Base: {sources.base.path.name}.")
        if weights.patterns:
            patterns = ", ".join(f"`{pattern}`" for pattern, _ in weights.patterns)
            blocks.append(f"{patterns} have other weights; see run.json.")
        hashes = "The sources and the sha256 of every file are in run.json."
        blocks.append(f"{hashes} Not evaluated when this was written.")
        return "\n\n".join(blocks) + "\n"
