"""The folder of a merged model: weights, the files of the first model beside them, a card, hashes;
whole or not at all.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, cast

from lingshu.core import shelves
from lingshu.core.errors import ConfigError, nearest
from lingshu.core.files import atomic_folder, disk, read_json, write_json, write_manifest
from lingshu.core.runcard import RUN_CARD, RunCard, read_run_card, write_run_card
from lingshu.weights.adapters import merge_adapters
from lingshu.weights.agree import DtypePolicy
from lingshu.weights.folder import INDEX
from lingshu.weights.merge import Sources, Streamed, Target, open_sources, stream
from lingshu.weights.method import Method, Weighting

# What goes along with the weights: settings, tokenizer, processor, chat template, licence texts.
# Never code or pickles.
BESIDE = {".json", ".txt", ".jinja", ".model", ".tiktoken"}
NOT_TAKEN = {"run.json", "manifest.json", INDEX}
POINTS = "points"
DISCLAIMER = "**For research only. Not a medical device, not for clinical use.**"


@dataclass(frozen=True)
class Merge:
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


class Merged(NamedTuple):
    """What came of a merge: counts of tensors and values, and what a reader should know."""

    counts: dict[str, int]
    notes: tuple[str, ...]


def open_method(name: str, parameters: Mapping[str, float]) -> Method:
    """A method of the shelf `merges`, opened with its parameters.

    Raises:
        UnknownName: no such method. ConfigError: a parameter that it does not have, or a value that
            it refuses.
    """
    import inspect

    make = shelves.part("merges", name, "method")
    assert callable(make)
    known = inspect.signature(make).parameters
    for parameter in parameters:
        if parameter not in known:
            raise ConfigError(f"{name} has no parameter {parameter!r}; {nearest(parameter, known)}")
    return cast("Method", make(**parameters))


def merge(
    plan: Merge, out: Path, weights: Weighting, *, notes: Mapping[str, object] | None = None
) -> Merged:
    """Merge models into the folder `out`: a checkpoint as the first model is one, or an adapter if
    they are adapters.

    `notes` go into the run card.

    Raises:
        ConfigError, UnknownName: the plan or the weights cannot be.
        InputError, ArtefactError: models that differ in what must be equal, or a value that is no
            number.
        StorageError: the disk refused; nothing is left at `out`.
    """
    check_place(plan, out)
    method, sources = _opened(plan)
    _check_weights(method, sources, weights)
    with atomic_folder(out) as temporary:
        streamed = _streamed(sources, [Target(temporary, weights)], method, plan)
        _finish(temporary, plan, sources, weights, streamed, streamed.written[0], notes)
    return Merged(streamed.counts, sources.notes)


def merge_path(
    plan: Merge,
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
    check_place(plan, out)
    method, sources = _opened(plan)
    weightings = [Weighting((point, 1 - point), tuple(patterns)) for point in points]
    for weights in weightings:
        _check_weights(method, sources, weights)
    with atomic_folder(out) as temporary:
        targets = [
            Target(temporary / POINTS / name, weights)
            for name, weights in zip(names, weightings, strict=True)
        ]
        for target in targets:
            target.folder.mkdir(parents=True)
        streamed = _streamed(sources, targets, method, plan)
        for target, written in zip(targets, streamed.written, strict=True):
            _finish(target.folder, plan, sources, target.weights, streamed, written, None)
        card = _card(
            plan, sources, {"points": list(points), "patterns": _plain(patterns)}, streamed, None
        )
        write_run_card(temporary, card)
    return [(point, out / POINTS / name) for point, name in zip(points, names, strict=True)]


def merged_path(
    plan: Merge,
    out: Path,
    points: Sequence[float],
    patterns: Sequence[tuple[str, tuple[float, ...]]] = (),
) -> list[tuple[float, Path]] | None:
    """The points of a path that the same call of `merge_path` wrote from the same files; None where
    there are none.
    """
    if not (out / RUN_CARD).is_file():
        return None
    _, sources = _opened(plan)
    card = read_run_card(out)
    config = _config(plan, sources, {"points": list(points), "patterns": _plain(patterns)})
    if card.get("verb") != "merge" or card.get("seed") != plan.seed or card.get("config") != config:
        return None
    notes = card.get("notes")
    if not isinstance(notes, dict) or notes.get("files") != _files(sources):
        return None
    found = [(point, out / POINTS / f"{point:.2f}") for point in points]
    return found if all((folder / RUN_CARD).is_file() for _, folder in found) else None


def check_place(plan: Merge, out: Path) -> None:
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


def _opened(plan: Merge) -> tuple[Method, Sources]:
    method = open_method(plan.method, plan.parameters)
    return method, open_sources(plan.models, method, base=plan.base, dtype=plan.dtype)


def _check_weights(method: Method, sources: Sources, weights: Weighting) -> None:
    # At the door: before a temporary folder is made.
    weights.check(method, len(sources.models), list(sources.first.tensors))


def _streamed(sources: Sources, targets: Sequence[Target], method: Method, plan: Merge) -> Streamed:
    return (
        merge_adapters(sources, targets, method)
        if sources.first.adapter
        else stream(sources, targets, method, seed=plan.seed)
    )


def _finish(
    folder: Path,
    plan: Merge,
    sources: Sources,
    weights: Weighting,
    streamed: Streamed,
    written: Mapping[str, dict[str, object]],
    notes: Mapping[str, object] | None,
) -> None:
    """What stands beside the weights."""
    first = sources.first
    with disk(folder):
        for file in sorted(first.path.iterdir()):
            wanted = file.suffix in BESIDE or file.stem.upper().startswith(
                ("LICENSE", "LICENCE", "NOTICE")
            )
            if (
                file.is_file()
                and wanted
                and file.name not in NOT_TAKEN
                and not (folder / file.name).exists()
            ):
                shutil.copyfile(file, folder / file.name)
    if (first.path / INDEX).is_file() and not first.adapter:
        index = read_json(first.path / INDEX)
        write_json(
            folder / INDEX,
            {**index, "weight_map": {name: place.file for name, place in first.tensors.items()}},
        )
    told = {"weights": list(weights.default), "patterns": _plain(weights.patterns)}
    (folder / "README.md").write_text(_readme(plan, sources, weights), encoding="utf-8")
    write_run_card(folder, _card(plan, sources, told, streamed, notes))
    write_manifest(folder, dict(written))


def _plain(patterns: Sequence[tuple[str, tuple[float, ...]]]) -> list[list[object]]:
    return [[pattern, list(weights)] for pattern, weights in patterns]


def _config(plan: Merge, sources: Sources, told: Mapping[str, object]) -> dict[str, object]:
    return {
        "models": {folder.label: str(folder.path) for folder in sources.all},
        "method": plan.method,
        "parameters": dict(plan.parameters),
        "dtype": plan.dtype,
        "stored": sorted({place.dtype for place in sources.first.tensors.values()}),
        **told,
    }


def _files(sources: Sources) -> dict[str, list[int]]:
    """Size and time of change of each source file: what tells, without hashing it again, that it is
    still the same.
    """
    stats = {
        f"{folder.label}/{name}": (folder.path / name).stat()
        for folder in sources.all
        for name in folder.files
    }
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def _card(
    plan: Merge,
    sources: Sources,
    told: Mapping[str, object],
    streamed: Streamed,
    notes: Mapping[str, object] | None,
) -> RunCard:
    said = {"differences": list(sources.notes), "files": _files(sources), **(notes or {})}
    return RunCard(
        "merge", _config(plan, sources, told), plan.seed, streamed.counts, streamed.sources, said
    )


def _readme(plan: Merge, sources: Sources, weights: Weighting) -> str:
    kind = "LoRA adapter" if sources.first.adapter else "model"
    shares = "\n".join(
        f"| {folder.label} | {folder.path.name} | {weight:g} |"
        for folder, weight in zip(sources.models, weights.default, strict=True)
    )
    base = f"\nBase: {sources.base.path.name}.\n" if sources.base else ""
    others = (
        f"\nOther weights hold for {', '.join(f'`{pattern}`' for pattern, _ in weights.patterns)};"
        " see run.json.\n"
        if weights.patterns
        else ""
    )
    return (
        f"# A merged {kind}\n\n{DISCLAIMER}\n\nMerged by lingshu with the method `{plan.method}`"
        f" from\n\n| | model | weight |\n|---|---|---|\n{shares}\n{base}{others}\nWhat was merged,"
        " with the sha256 of every file, is in run.json. Not evaluated when this was written.\n"
    )
