"""Checkpoints inside a stage: taken every so many steps, the newest and the best of them kept.

OUT/checkpoints/<n>-<stage>/step-<step>/           a checkpoint in hub layout, adapters merged
OUT/checkpoints/<n>-<stage>/adapter-step-<step>/   its adapter, of a LoRA stage
OUT/checkpoints/<n>-<stage>/kept.json              what is kept: step, value of the metric, path
"""

from __future__ import annotations

import copy
import math
import shutil
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lingshu.core.files import write_json
from lingshu.core.run_card import RunCard
from lingshu.models.export import export
from lingshu.train.checkpoint import TrainingPosition
from lingshu.train.config import Checkpoints
from lingshu.train.distributed import full_state_dict
from lingshu.train.lora import save_adapter
from lingshu.train.step import Trainer
from lingshu.train.weight_sync import unsharded_model

KEPT_FILE = "kept.json"
Row = Mapping[str, Any]  # "step", and "value" of the metric or None


def metric_value(metric: str, values: Mapping[str, float]) -> float | None:
    """A metric of one group, or the mean of it over all groups; None if it was not measured."""
    group, _, name = metric.rpartition("/")
    found = [
        v for key, v in values.items() if key == metric or (not group and key.endswith(f"/{name}"))
    ]
    return sum(found) / len(found) if found else None


def best_rows(rows: Sequence[Row], n_best: int, *, metric: str) -> list[Row]:
    """The rows with the lowest loss or highest accuracy, the earlier one where two are equal."""
    sign = -1 if metric.endswith("accuracy") else 1
    ranked = [row for row in rows if row["value"] is not None and math.isfinite(row["value"])]
    return sorted(ranked, key=lambda row: (sign * row["value"], row["step"]))[:n_best]


class CheckpointKeeper:
    """Takes the checkpoints of a stage by the rule of `config`; every process takes part.

    `position.kept` holds the rows of what is kept, so that a resumed run continues with them.
    `write` writes the current model to a folder. A checkpoint that a saved state still lists is
    removed only after two later states: a resumed run may need it.
    """

    def __init__(
        self,
        config: Checkpoints,
        folder: Path,
        position: TrainingPosition,
        trainer: Trainer,
        write: Callable[[Path, int], None],
    ) -> None:
        self.config, self.folder, self.position = config, folder, position
        self.write, self.dist_context = write, trainer.dist_context
        self._in_states: deque[list[int]] = deque(maxlen=2)
        self._in_states.append([row["step"] for row in position.kept])
        position.kept = self.dist_context.run_on_main(self._prune)

    def is_due(self, step: int, total: int) -> bool:
        assert self.config.every is not None  # else there is no keeper
        return step % self.config.every == 0 and step < total

    def take(self, step: int, values: Mapping[str, float]) -> None:
        """Write a checkpoint, then remove those that the rule no longer keeps."""
        self.write(self.path(step), step)
        rows = [*self.position.kept, self._row(step, values)]
        newest = rows[len(rows) - self.config.last :]
        best = self._best(rows)
        self.position.kept = [row for row in rows if row in newest or row in best]
        self.dist_context.run_on_main(self._prune)

    def state_saved(self) -> None:
        """A state with the current position is being written."""
        self._in_states.append([row["step"] for row in self.position.kept])

    def finish(self, total: int, values: Mapping[str, float]) -> Path | None:
        """Apply the rule to the whole stage; the checkpoint that it results in, None for its end.

        The last step is the stage's own result; it is written here only if that is another one.
        """
        rows = [*self.position.kept, self._row(total, values)]
        best = self._best(rows)
        result = best[0] if self.config.use_best and best and best[0]["step"] != total else None
        kept = [row for row in best if row["step"] != total]
        if result is not None and self.config.last:
            self.write(self.path(total), total)
            kept.append(rows[-1])
        self.position.kept = kept
        self._in_states.clear()
        self.dist_context.run_on_main(self._prune)
        return self.path(result["step"]) if result is not None else None

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _row(self, step: int, values: Mapping[str, float]) -> Row:
        return {"step": step, "value": metric_value(self.config.metric, values)}

    def _best(self, rows: Sequence[Row]) -> list[Row]:
        return best_rows(rows, self.config.best, metric=self.config.metric)

    def _prune(self) -> list[Row]:
        """Remove what is neither kept nor listed by a state; the kept rows that exist."""
        rows = [row for row in self.position.kept if self.path(row["step"]).is_dir()]
        steps = {row["step"] for row in rows}.union(*self._in_states)
        names = {self.path(step).name for step in steps}
        for path in [*self.folder.glob("*step-*"), *self.folder.glob(".*")]:
            if path.name.removeprefix("adapter-") not in names:
                shutil.rmtree(path)
        if self.folder.is_dir():
            listed = [{**row, "path": self.path(row["step"]).name} for row in rows]
            kept = {"metric": self.config.metric, "checkpoints": listed}
            write_json(self.folder / KEPT_FILE, kept)
        return rows


def checkpoint_step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def adapter_folder(checkpoint: Path) -> Path:
    return checkpoint.with_name(f"adapter-{checkpoint.name}")


def write_checkpoint(
    trainer: Trainer,
    folder: Path,
    card: RunCard,
    *,
    adapter: Any,
    base: str,
    merge: Callable[[Any], Any],
) -> None:
    """Export the model in training with every bit of its weights; that of a LoRA stage as `merge`
    returns it from a copy, next to its `adapter` of `base`.
    """
    weights = full_state_dict(trainer.model) if trainer.dist_context.is_distributed else None

    def export_on_main() -> None:
        model = trainer.model
        if weights is not None:
            model = unsharded_model(trainer, weights)
        elif adapter is not None:
            model = copy.deepcopy(model)
        if adapter is not None:
            save_adapter(model, adapter, base, adapter_folder(folder))
            model = merge(model)
        export(model, trainer.processor, folder, card)

    trainer.dist_context.run_on_main(export_on_main)
