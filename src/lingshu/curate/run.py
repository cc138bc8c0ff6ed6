"""The whole way from a configuration to a DATASET folder, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from lingshu.core.artifacts import DatasetCard
from lingshu.core.progress import NoProgress, Progress
from lingshu.curate.config import CurateConfig
from lingshu.curate.counts import FAILURES
from lingshu.curate.dataset import check_exports, finish
from lingshu.curate.executors import Backend, InlineBackend, ProcessBackend
from lingshu.curate.explain import EXPLAIN_PAGE
from lingshu.curate.runner import CurationRun, remove_work_dir

BackendName = Literal["local", "ray"]


class CurationResult(NamedTuple):
    """The card of the dataset, how many rows failed (a step or a process broke at them), and
    whether it was there already.
    """

    card: DatasetCard
    failures: int
    already_finished: bool


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
) -> CurationResult:
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
    executor = _backend(backend, config.workers, ray_address)
    try:
        run = CurationRun(
            config, out, executor, progress=progress or NoProgress(), limit=limit, key=key
        )
        outputs_exist = (not explain or (out / EXPLAIN_PAGE).is_file()) and all(
            (out / name).is_dir() for name in exports
        )
        card = run.finished_card() if outputs_exist else None
        if card is not None:
            remove_work_dir(run.work)
            return CurationResult(card, sum(card.drops.get(reason, 0) for reason in FAILURES), True)
        pass_result = run.run()
        return CurationResult(
            finish(run, pass_result, explain=explain, exports=exports),
            pass_result.step_counts.failures,
            False,
        )
    finally:
        executor.close()


def _backend(name: BackendName, workers: int | None, address: str | None) -> Backend:
    if name == "ray":
        from lingshu.curate.ray import RayBackend

        return RayBackend(workers, address=address)
    return InlineBackend() if workers == 0 else ProcessBackend(workers)
