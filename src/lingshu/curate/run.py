"""The whole way from a configuration to a DATASET folder, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from lingshu.core.artefacts import DatasetCard
from lingshu.curate.config import CurateConfig
from lingshu.curate.dataset import check_exports, finish
from lingshu.curate.explain import EXPLAIN
from lingshu.curate.ledger import FAILURES
from lingshu.curate.local import Backend, Inline, Processes
from lingshu.curate.loop import Progress, Run, discard
from lingshu.curate.progress import Silent

BackendName = Literal["local", "ray"]


class Curated(NamedTuple):
    """The card of the dataset, how many rows failed (a step or a process broke at them), and
    whether it was there already.
    """

    card: DatasetCard
    failures: int
    finished_before: bool


def curate(
    config: CurateConfig,
    out: Path,
    *,
    backend: BackendName = "local",
    ray_address: str | None = None,
    limit: int | None = None,
    explain: bool = False,
    exports: Sequence[str] = (),
    key: bytes | None = None,
    progress: Progress | None = None,
) -> Curated:
    """Curate sources into the DATASET folder `out`. What an interrupted run has done there is not
    done again.

    `config.workers` 0 works in this process, which suits small data; None takes a process for every
    core. `limit` reads that many rows of each source. `key` is the secret that readers hash patient
    and study ids under; without one it is random and thrown away.

    Raises:
        ConfigError: a source without a path, an unknown step or parameter, a step that cannot be
            opened.
        InputError: a source that cannot be read; worker processes that die before their first row.
        StorageError: the disk refused, or another run is at work in `out`.
    """
    check_exports(exports)
    workers = _backend(backend, config.workers, ray_address)
    try:
        run = Run(config, out, workers, progress=progress or Silent(), limit=limit, key=key)
        there = (not explain or (out / EXPLAIN).is_file()) and all(
            (out / name).is_dir() for name in exports
        )
        card = run.finished() if there else None
        if card is not None:
            discard(run.work)
            return Curated(card, sum(card.drops.get(reason, 0) for reason in FAILURES), True)
        passed = run.go()
        return Curated(
            finish(run, passed, explain=explain, exports=exports), passed.ledger.failures, False
        )
    finally:
        workers.close()


def _backend(name: BackendName, workers: int | None, address: str | None) -> Backend:
    if name == "ray":
        from lingshu.curate.ray import Ray

        return Ray(workers, address=address)
    return Inline() if workers == 0 else Processes(workers)
