"""What a killed run resumes from: weights, optimiser moments, position and random state, of all
processes together.

The copy to the CPU is taken at once, a thread writes it while training goes on. The folder appears
by one rename, the older one goes only after that. A state can be gone on from by any number of
processes.
"""

from __future__ import annotations

import shutil
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from lingshu.core.errors import ArtifactError, LingshuError, TrainingError, one_line
from lingshu.core.files import check_manifest, read_json
from lingshu.train.checkpoint_storage import StateReader, StateWriter
from lingshu.train.distributed import DistributedContext

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class TrainingPosition:
    """Where a run stands: stage by its position in the chain, optimiser steps done in it, log bytes
    written by then.

    `first` and `recent` are the losses of the first and the last steps, `pending` those since the
    last row of the log, and `skipped` counts the steps that gave no number.
    """

    stage: int
    step: int
    log_bytes: int
    seconds: float
    first_losses: tuple[float, ...] = ()
    recent_losses: tuple[float, ...] = ()
    pending_losses: tuple[float, ...] = ()
    skipped: int = 0


class CheckpointWriter:
    """Writes states behind the training's back, one at a time; a context that waits for the last
    one.
    """

    def __init__(self, folder: Path, dist_context: DistributedContext) -> None:
        self.folder, self.dist_context = folder, dist_context
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="state")
        self._pending_write: Future[None] | None = None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    @property
    def failed(self) -> bool:
        """Whether a state could not be written; `wait` says why."""
        return (
            self._pending_write is not None
            and self._pending_write.done()
            and self._pending_write.exception() is not None
        )

    def save(
        self, position: TrainingPosition, model: Any, optimizer: torch.optim.Optimizer
    ) -> None:
        """Copy the state after a step, and begin to write it; the one before has been written by
        then.

        Raises:
            StorageError: the disk refused the one before.
        """
        self.wait()
        stager = DefaultStager(StagingOptions(False, False, False, False))
        staged = stager.stage(
            {**_state_tensors(model, optimizer), **_rng_state(self.dist_context.rank)}
        )
        self._pending_write = self._pool.submit(self._write, position, staged)

    def wait(self) -> None:
        """Return once the last state stands.

        Raises:
            StorageError: the disk refused it; the state before it is untouched.
        """
        writing, self._pending_write = self._pending_write, None
        if writing is not None:
            writing.result()

    def _write(self, position: TrainingPosition, state: Any) -> None:
        folder = self.folder / f"{position.stage:02d}-{position.step:08d}"
        writer = StateWriter(
            folder,
            self.dist_context.rank,
            asdict(position),
            on_finished=lambda: self._remove_older(folder),
        )
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*single process")
                save(
                    state,
                    storage_writer=writer,
                    process_group=self.dist_context.checkpoint_group,
                    no_dist=not self.dist_context.is_distributed,
                )
        except CheckpointException as error:
            if self.dist_context.is_main:
                shutil.rmtree(writer.temporary, ignore_errors=True)
            raise _cause(error) from error

    def _remove_older(self, folder: Path) -> None:
        for old_state in [*list_states(self.folder), *self.folder.glob(".*.tmp")]:
            if old_state.name != folder.name:
                shutil.rmtree(old_state)


def list_states(folder: Path) -> list[Path]:
    """Complete states, oldest first; half-written ones keep a hidden name and are not among them."""
    return (
        sorted(path for path in folder.glob("[0-9]*-[0-9]*") if path.is_dir())
        if folder.is_dir()
        else []
    )


def find_latest_state(folder: Path) -> tuple[Path, TrainingPosition] | None:
    """The newest state, checked against its manifest.

    Raises:
        ArtefactError: it is damaged.
    """
    folders = list_states(folder)
    if not folders:
        return None
    check_manifest(folders[-1])
    return folders[-1], TrainingPosition(**read_json(folders[-1] / "position.json"))


def load_state(
    folder: Path, model: Any, optimizer: torch.optim.Optimizer, dist_context: DistributedContext
) -> None:
    """Put a state's weights, moments and random state back: bit for bit, in as many processes as
    wrote it.

    Raises:
        ArtefactError: the state is of another model.
    """
    reader = StateReader(folder)
    # A part that no sample has reached yet has no moments.
    with_moments = {
        name: p
        for name, p in _trained_parameters(model, optimizer).items()
        if f"step/{name}" in reader.tensors
    }
    for parameter in with_moments.values():
        step = torch.zeros((), dtype=torch.float32, device=parameter.device)
        optimizer.state[parameter] = {
            "step": step,
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    target_state = _state_tensors(model, optimizer)
    rng_tensors = {
        name: tensor
        for name, tensor in _rng_state(dist_context.rank).items()
        if name in reader.tensors
    }
    mismatched = {name for name in reader.tensors if not name.startswith("random/")} ^ set(
        target_state
    )
    if mismatched:
        raise ArtifactError(
            f"{folder} is of another model ({min(mismatched)}); train anew without --resume."
        )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*single process")
            load(
                {**target_state, **rng_tensors},
                storage_reader=reader,
                process_group=dist_context.control_group,
                no_dist=not dist_context.is_distributed,
            )
    except CheckpointException as error:
        raise ArtifactError(
            f"{folder} is of another model or damaged ({one_line(_cause(error))}); train anew"
            " without --resume."
        ) from error
    for name, tensor in rng_tensors.items():
        (torch.cuda.set_rng_state if name.endswith("/cuda") else torch.set_rng_state)(tensor)


def _cause(error: CheckpointException) -> Exception:
    """What went wrong in one of the processes: an error of ours if there is one, so that it is told
    like any other.
    """
    causes = [cause for cause, _ in error.failures.values()]
    for cause in causes:
        if isinstance(cause, LingshuError):
            return cause
    return (
        causes[0]
        if isinstance(causes[0], Exception)
        else TrainingError(f"the state could not be written: {one_line(causes[0])}")
    )


def _state_tensors(model: Any, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The tensors of a state by name, as they stand: a weight that two modules share once, then
    what the optimiser knows.
    """
    state = {f"weight/{name}": parameter.detach() for name, parameter in model.named_parameters()}
    weights = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    state |= {
        f"weight/{name}": tensor
        for name, tensor in model.state_dict().items()
        if name not in weights
    }
    for name, parameter in _trained_parameters(model, optimizer).items():
        if parameter in optimizer.state:
            state |= {f"{key}/{name}": optimizer.state[parameter][key] for key in MOMENTS}
    return state


def _trained_parameters(
    model: Any, optimizer: torch.optim.Optimizer
) -> dict[str, torch.nn.Parameter]:
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return {name: p for name, p in model.named_parameters() if id(p) in trained}


def _rng_state(rank: int) -> dict[str, torch.Tensor]:
    state = {f"random/{rank}/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state[f"random/{rank}/cuda"] = torch.cuda.get_rng_state()
    return state
