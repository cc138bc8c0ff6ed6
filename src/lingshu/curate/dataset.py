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
from lingshu.core.artefacts import DATASET_CARD, DatasetCard, dataset_digest
from lingshu.core.config import to_plain
from lingshu.core.errors import ConfigError, nearest
from lingshu.core.files import (
    MANIFEST,
    disk,
    sha256_file,
    sync_folder,
    write_json,
    write_manifest,
    write_text,
)
from lingshu.core.runcard import RunCard, write_run_card
from lingshu.core.shards import shard_name
from lingshu.curate.card import CHART, croissant, readme
from lingshu.curate.charts import most, picture
from lingshu.curate.explain import EXPLAIN, write_page
from lingshu.curate.export import EXPORTS, export
from lingshu.curate.loop import DROPS, WORK, Passed, Run, discard
from lingshu.curate.parts import Statistics, part_facts
from lingshu.curate.plan import READ, WRITE

# Values of a facet that the card names; a facet may have as many values as there are rows.
VALUES = 50


def check_exports(names: Sequence[str]) -> None:
    """Refuse an unknown form of export.

    Raises:
        ConfigError: names it and the nearest.
    """
    for name in names:
        if name not in EXPORTS:
            raise ConfigError(f"there is no export {name!r}; {nearest(name, EXPORTS)}")


def finish(
    run: Run, passed: Passed, *, explain: bool = False, exports: Sequence[str] = ()
) -> DatasetCard:
    """Put the dataset together and move it to its folder; the work files are removed.

    Raises:
        StorageError: the disk refused; the same command goes on from here.
    """
    folder = run.work / "dataset"
    with disk(folder):
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "data").mkdir(parents=True)
        statistics = Statistics()
        for number, part in enumerate(passed.parts):
            statistics.merge(part_facts(part))
            _link(part, folder / shard_name(number))
        shutil.copyfile(run.work / DROPS, folder / DROPS)
    files = write_manifest(folder)
    card = _card(run, passed, statistics, version=dataset_digest(folder))
    created = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(folder / DATASET_CARD, asdict(card))
    write_text(folder / CHART, picture(card.distributions or {}))
    configuration.write(run.config, folder / "config.yaml")
    digests = {"configuration": sha256_file(folder / "config.yaml"), "run": passed.key}
    write_text(folder / "README.md", readme(card, run.config.sources, digests=digests))
    shards = {name: facts for name, facts in files.items() if name.startswith("data/")}
    write_json(folder / "croissant.json", croissant(card, shards, created=created))
    for name in exports:
        export(name, folder)
    if explain:
        write_page(folder / EXPLAIN, card, passed.examples)
    write_run_card(folder, _run_card(run, passed, card, created))
    write_manifest(folder)
    _move(folder, run.out)
    discard(run.work)
    return card


def _link(part: Path, target: Path) -> None:
    """The part under its name in the dataset; it stays where it is until the dataset is whole, so
    that a kill costs nothing.
    """
    try:
        os.link(part, target)
    except OSError:  # a disk without links
        shutil.copyfile(part, target)


def _card(run: Run, passed: Passed, statistics: Statistics, *, version: str) -> DatasetCard:
    distributions = {
        name: dict(most(counts, VALUES))
        for name, counts in statistics.distributions.items()
        if counts
    }
    full = {name: dict(sorted(counts.items())) for name, counts in statistics.distributions.items()}
    order = [READ, *(use.name for use in run.config.steps), WRITE]
    ops = {use.name: use.op for use in run.config.steps}
    return DatasetCard(
        name=run.config.name,
        rows=statistics.rows,
        images=statistics.images,
        licences=full["licence"],
        sources=full["source"],
        access=full["access"],
        drops=passed.ledger.drops(),
        version=version,
        steps=passed.ledger.table(order, ops, passed.told),
        distributions=distributions,
    )


def _run_card(run: Run, passed: Passed, card: DatasetCard, created: str) -> RunCard:
    read = sum(step["in"] for step in (card.steps or ())[:1])
    added = sum(step["added"] for step in card.steps or ())
    counts = {"read": read, "added": added, "rows": card.rows, "images": card.images}
    dropped = {f"dropped_{reason}": count for reason, count in card.drops.items()}
    left_out = [source.name for source in run.config.sources if source.path is None]
    notes: Mapping[str, object] = {"limit": run.limit, "sources_left_out": left_out}
    hashes = {"run": passed.key, "dataset": card.version or ""}
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
    with disk(out):
        for name in (DATASET_CARD, MANIFEST):
            (out / name).unlink(missing_ok=True)
        for old in out.iterdir():
            if old.name != WORK:
                shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
        for name in sorted(
            (path.name for path in folder.iterdir()), key=lambda name: (name == DATASET_CARD, name)
        ):
            os.replace(folder / name, out / name)
        sync_folder(out)
