"""From a configuration to a DATASET folder: the run, then card, metadata and exports."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from lingshu.core import config as configuration
from lingshu.core import files
from lingshu.core.artifacts import (
    DATASET_CARD,
    DatasetCard,
    dataset_digest,
    read_dataset,
    shard_name,
)
from lingshu.core.config import to_plain
from lingshu.core.errors import ConfigError, suggest_name
from lingshu.core.progress import NoProgress, Progress
from lingshu.core.pseudonyms import check_key
from lingshu.core.run_card import RunCard, write_run_card
from lingshu.curate.card import CHART, croissant, distributions_svg, readme, top_counts
from lingshu.curate.config import CurateConfig
from lingshu.curate.counts import count_failures
from lingshu.curate.executors import Backend, InlineBackend, ProcessBackend
from lingshu.curate.explain import EXPLAIN_PAGE, write_page
from lingshu.curate.export import EXPORTS, export
from lingshu.curate.plan import READ_STEP, WRITE_STEP
from lingshu.curate.residual_risk import RESIDUAL_PAGE, write_residual_risk
from lingshu.curate.runner import DROPS_FILE, WORK_DIR, CurationRun
from lingshu.curate.worker import DatasetStatistics, part_stats_path

# Values of a facet in the card; a facet may have as many values as there are rows.
MAX_FACET_VALUES = 50


@dataclass(frozen=True, kw_only=True)
class CurateOptions:
    """How a curation runs, and what it writes besides the dataset."""

    backend: Literal["local", "ray"] = "local"
    "local works in processes of this machine; ray in tasks of a Ray cluster."
    ray_address: str | None = None
    "Address of the cluster; without it, Ray is started on this machine."
    workers: int | None = None
    "Number of processes; by default one for each core. 0 works in the calling process."
    limit: int | None = None
    "Read this many rows of each source only."
    explain: bool = False
    "Also write OUT/explain.html: what each step did to some of the rows."
    residual_risk: int | None = None
    """Also write OUT/residual_risk.html with this many scrubbed texts for people to read. It shows
    patients' texts."""
    license: Literal["permissive", "any"] | None = None
    "permissive keeps rows whose license allows use, change and redistribution, also commercially."
    export: tuple[str, ...] = ()
    "Also write OUT/llava or OUT/ms-swift for other trainers; may be given several times."
    key: Path | None = None
    """File with a secret of 16 bytes or more under which patient and study ids are hashed; random
    by default."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"--limit is {self.limit}; it must be at least 1.")
        if self.residual_risk is not None and self.residual_risk < 1:
            raise ConfigError(f"--residual-risk is {self.residual_risk}; it must be at least 1.")
        for name in self.export:
            if name not in EXPORTS:
                raise ConfigError(f"{name!r} is not an export; {suggest_name(name, EXPORTS)}")


class CurationResult(NamedTuple):
    """The card, the number of failed rows, and whether the dataset existed already."""

    card: DatasetCard
    failures: int
    already_finished: bool


def curate(
    config: CurateConfig,
    out: Path,
    options: CurateOptions = CurateOptions(),
    *,
    progress: Progress | None = None,
) -> CurationResult:
    """Curate sources into the DATASET folder `out`; what an interrupted run finished is kept.

    Raises:
        ConfigError: a source without a path, an unknown step or parameter, a step that cannot be
            opened.
        InputError: a source that cannot be read; worker processes that die before their first row.
        StorageError: the disk refused, or another run is using `out`.
    """
    workers = config.workers if options.workers is None else options.workers
    config = replace(config, workers=workers, license=options.license or config.license)
    hash_key = None if options.key is None else _read_key(options.key)
    backend = _backend(options, workers)
    try:
        run = CurationRun(
            config,
            out,
            backend,
            progress=progress or NoProgress(),
            limit=options.limit,
            hash_key=hash_key,
        )
        pages = {EXPLAIN_PAGE: options.explain, RESIDUAL_PAGE: options.residual_risk is not None}
        outputs_exist = all((out / page).is_file() for page in pages if pages[page]) and all(
            (out / name).is_dir() for name in options.export
        )
        finished = run.finished_card() if outputs_exist else None
        card = finished or _finish(run, run.run(), options)
        shutil.rmtree(run.work, ignore_errors=True)
        return CurationResult(card, count_failures(card.drops), finished is not None)
    finally:
        backend.close()


def _backend(options: CurateOptions, workers: int | None) -> Backend:
    if options.backend == "ray":
        from lingshu.curate.ray import RayBackend

        return RayBackend(workers, address=options.ray_address)
    return InlineBackend() if workers == 0 else ProcessBackend(workers)


def _read_key(path: Path) -> bytes:
    try:
        return check_key(path.read_bytes())
    except OSError as error:
        problem = f"{path} cannot be read ({error.strerror})"
        raise ConfigError(f"{problem}; give --key a file with 16 random bytes or more.") from error


def _finish(run: CurationRun, parts: Sequence[Path], options: CurateOptions) -> DatasetCard:
    """Assemble the dataset and move it to OUT; after a StorageError a new run resumes here."""
    folder = run.work / "dataset"
    statistics = DatasetStatistics()
    with files.storage_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "data").mkdir(parents=True)
        for index, part in enumerate(parts):
            statistics.merge(files.read_json(part_stats_path(part)))
            _link(part, folder / shard_name(index))
        shutil.copyfile(run.work / DROPS_FILE, folder / DROPS_FILE)
    entries = files.write_manifest(folder)
    card = _card(run, statistics, version=dataset_digest(folder))
    created = datetime.now(UTC).isoformat(timespec="seconds")
    files.write_json(folder / DATASET_CARD, asdict(card))
    files.write_text(folder / CHART, distributions_svg(card.distributions or {}))
    configuration.write(run.config, folder / "config.yaml")
    digests = {"configuration": files.sha256_file(folder / "config.yaml"), "run": run.digest}
    files.write_text(folder / "README.md", readme(card, run.config.sources, digests=digests))
    shards = {name: entry for name, entry in entries.items() if name.startswith("data/")}
    files.write_json(folder / "croissant.json", croissant(card, shards, created=created))
    for name in options.export:
        export(name, folder)
    if options.explain:
        write_page(folder / EXPLAIN_PAGE, card, run.examples)
    if options.residual_risk is not None:
        n = options.residual_risk
        write_residual_risk(folder, partial(read_dataset, folder), run.config, n=n)
    write_run_card(folder, _run_card(run, card, created))
    files.write_manifest(folder)
    _move(folder, run.out)
    return card


def _link(part: Path, target: Path) -> None:
    """Add a part; the original stays until the dataset is complete, so a kill costs nothing."""
    try:
        os.link(part, target)
    except OSError:  # a disk without links
        shutil.copyfile(part, target)


def _card(run: CurationRun, statistics: DatasetStatistics, *, version: str) -> DatasetCard:
    counts_by_facet = statistics.distributions
    full = {name: dict(sorted(counts.items())) for name, counts in counts_by_facet.items()}
    order = [READ_STEP, *(step.name for step in run.config.steps), WRITE_STEP]
    ops = {step.name: step.op for step in run.config.steps}
    return DatasetCard(
        name=run.config.name,
        rows=statistics.rows,
        images=statistics.n_images,
        licenses=full["license"],
        sources=full["source"],
        access=full["access"],
        drops=run.step_counts.drops(),
        version=version,
        steps=run.step_counts.card_rows(order, ops, run.stats),
        distributions={
            name: dict(top_counts(counts, MAX_FACET_VALUES))
            for name, counts in counts_by_facet.items()
            if counts
        },
    )


def _run_card(run: CurationRun, card: DatasetCard, created: str) -> RunCard:
    steps = list(card.steps or ())
    added = sum(step["added"] for step in steps)
    counts = {"read": steps[0]["in"], "added": added, "rows": card.rows, "images": card.images}
    dropped = {f"dropped_{reason}": count for reason, count in card.drops.items()}
    left_out = [source.name for source in run.config.sources if source.path is None]
    return RunCard(
        "curate",
        to_plain(run.config),
        run.config.seed,
        counts={**counts, **dropped},
        hashes={"run": run.digest, "dataset": card.version or ""},
        notes={"limit": run.limit, "sources_left_out": left_out},
        created=created,
    )


def _move(folder: Path, out: Path) -> None:
    """Move the finished dataset into `out`.

    Without its card it is not a dataset: the old card is removed first, the new one comes last.
    """
    with files.storage_errors(out):
        for name in (DATASET_CARD, files.MANIFEST):
            (out / name).unlink(missing_ok=True)
        for old in (path for path in out.iterdir() if path.name != WORK_DIR):
            if old.is_dir() and not old.is_symlink():
                shutil.rmtree(old)
            else:
                old.unlink()
        names = sorted(path.name for path in folder.iterdir())
        for name in sorted(names, key=lambda name: name == DATASET_CARD):
            os.replace(folder / name, out / name)
        files.sync_folder(out)
