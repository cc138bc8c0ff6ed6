"""The finished dataset: parts, card, metadata and exports put together in the work folder, then
moved to OUT.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from lingshu.core import config as configuration
from lingshu.core.artifacts import DATASET_CARD, DatasetCard, dataset_digest
from lingshu.core.config import to_plain
from lingshu.core.errors import ConfigError, suggest_name
from lingshu.core.files import (
    MANIFEST,
    sha256_file,
    storage_errors,
    sync_folder,
    write_json,
    write_manifest,
    write_text,
)
from lingshu.core.run_card import RunCard, write_run_card
from lingshu.core.shards import shard_name
from lingshu.curate.card import CHART, croissant, readme
from lingshu.curate.charts import distributions_svg, top_counts
from lingshu.curate.explain import EXPLAIN_PAGE, write_page
from lingshu.curate.export import EXPORTS, export
from lingshu.curate.plan import READ_STEP, WRITE_STEP
from lingshu.curate.runner import DROPS_FILE, WORK_DIR, CurationRun, PassResult, remove_work_dir
from lingshu.curate.shard_parts import DatasetStatistics, read_part_stats

# Values of a facet that the card names; a facet may have as many values as there are rows.
MAX_FACET_VALUES = 50


def check_exports(names: Sequence[str]) -> None:
    """Refuse an unknown form of export.

    Raises:
        ConfigError: names it and the nearest.
    """
    for name in names:
        if name not in EXPORTS:
            raise ConfigError(f"there is no export {name!r}; {suggest_name(name, EXPORTS)}")


def finish(
    run: CurationRun, pass_result: PassResult, *, explain: bool = False, exports: Sequence[str] = ()
) -> DatasetCard:
    """Put the dataset together and move it to its folder; the work files are removed.

    Raises:
        StorageError: the disk refused; the same command goes on from here.
    """
    folder = run.work / "dataset"
    with storage_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "data").mkdir(parents=True)
        statistics = DatasetStatistics()
        for index, part in enumerate(pass_result.parts):
            statistics.merge(read_part_stats(part))
            _link(part, folder / shard_name(index))
        shutil.copyfile(run.work / DROPS_FILE, folder / DROPS_FILE)
    files = write_manifest(folder)
    card = _card(run, pass_result, statistics, version=dataset_digest(folder))
    created = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(folder / DATASET_CARD, asdict(card))
    write_text(folder / CHART, distributions_svg(card.distributions or {}))
    configuration.write(run.config, folder / "config.yaml")
    digests = {"configuration": sha256_file(folder / "config.yaml"), "run": pass_result.key}
    write_text(folder / "README.md", readme(card, run.config.sources, digests=digests))
    shards = {name: entry for name, entry in files.items() if name.startswith("data/")}
    write_json(folder / "croissant.json", croissant(card, shards, created=created))
    for name in exports:
        export(name, folder)
    if explain:
        write_page(folder / EXPLAIN_PAGE, card, pass_result.examples)
    write_run_card(folder, _run_card(run, pass_result, card, created))
    write_manifest(folder)
    _move(folder, run.out)
    remove_work_dir(run.work)
    return card


def _link(part: Path, target: Path) -> None:
    """The part under its name in the dataset; it stays where it is until the dataset is whole, so
    that a kill costs nothing.
    """
    try:
        os.link(part, target)
    except OSError:  # a disk without links
        shutil.copyfile(part, target)


def _card(
    run: CurationRun, pass_result: PassResult, statistics: DatasetStatistics, *, version: str
) -> DatasetCard:
    distributions = {
        name: dict(top_counts(counts, MAX_FACET_VALUES))
        for name, counts in statistics.distributions.items()
        if counts
    }
    full = {name: dict(sorted(counts.items())) for name, counts in statistics.distributions.items()}
    order = [READ_STEP, *(step_config.name for step_config in run.config.steps), WRITE_STEP]
    ops = {step_config.name: step_config.op for step_config in run.config.steps}
    return DatasetCard(
        name=run.config.name,
        rows=statistics.rows,
        images=statistics.n_images,
        licenses=full["license"],
        sources=full["source"],
        access=full["access"],
        drops=pass_result.step_counts.drops(),
        version=version,
        steps=pass_result.step_counts.card_rows(order, ops, pass_result.stats),
        distributions=distributions,
    )


def _run_card(
    run: CurationRun, pass_result: PassResult, card: DatasetCard, created: str
) -> RunCard:
    rows_read = sum(step["in"] for step in (card.steps or ())[:1])
    added = sum(step["added"] for step in card.steps or ())
    counts = {"read": rows_read, "added": added, "rows": card.rows, "images": card.images}
    dropped = {f"dropped_{reason}": count for reason, count in card.drops.items()}
    skipped_sources = [source.name for source in run.config.sources if source.path is None]
    notes: Mapping[str, object] = {"limit": run.limit, "sources_left_out": skipped_sources}
    hashes = {"run": pass_result.key, "dataset": card.version or ""}
    return RunCard(
        "curate",
        to_plain(run.config),
        run.config.seed,
        counts={**counts, **dropped},
        hashes=hashes,
        notes=notes,
        created=created,
    )


def _move(folder: Path, out: Path) -> None:
    """Move the finished dataset into `out`.

    While its card is missing there, it is no dataset: the card goes first and comes last.
    """
    with storage_errors(out):
        for name in (DATASET_CARD, MANIFEST):
            (out / name).unlink(missing_ok=True)
        for old_path in out.iterdir():
            if old_path.name != WORK_DIR:
                shutil.rmtree(
                    old_path
                ) if old_path.is_dir() and not old_path.is_symlink() else old_path.unlink()
        for name in sorted(
            (path.name for path in folder.iterdir()), key=lambda name: (name == DATASET_CARD, name)
        ):
            os.replace(folder / name, out / name)
        sync_folder(out)
