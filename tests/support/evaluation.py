"""A small task, an engine that records what it is asked, and `lingshu eval` and `report` as functions."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lingshu.cli import eval as eval_command
from lingshu.cli import report as report_command
from lingshu.core.artifacts import read_scores
from lingshu.core.errors import EngineError
from lingshu.core.types import Provenance, Reply, Sample, Sampling, Task
from lingshu.evaluate import score as scoring
from lingshu.evaluate.run import EvalConfig, JudgeConfig
from lingshu.scoring import auto


def demo_task(samples: Sequence[Sample], **fields: Any) -> Task:
    """A task of these samples, each scored by what its answer is."""
    provenance = Provenance("made up", "CC0")
    return Task(
        "demo", "Demo", provenance, lambda data: samples, auto.score, lambda seed: samples, **fields
    )


@dataclass
class RecordingEngine:
    """Answers each sample by `answer`, a text or a function (None fails), or by its gold.

    `reverse` answers in another order, `stop_after` that many raises, `may_answer` holds answers
    back until it is set.
    """

    answer: str | Callable[[Sample], str | None] | None = None
    reverse: bool = False
    stop_after: int | None = None
    may_answer: threading.Event | None = None
    requested: list[Sample] = field(default_factory=list)
    started: threading.Event = field(default_factory=threading.Event)
    model: str = "recorder"
    digest: str = "d"
    endpoint: str | None = None

    @property
    def requested_ids(self) -> list[str]:
        return [sample.id for sample in self.requested]

    def generate(
        self,
        samples: Sequence[Sample],
        sampling: Sampling,
        *,
        skip: Container[tuple[str, int]] = (),
    ) -> Iterator[list[Reply]]:
        for sample in reversed(samples) if self.reverse else samples:
            if (sample.id, 0) in skip:
                continue
            if len(self.requested) == self.stop_after:
                raise EngineError("the server went away; start it again.")
            self.requested.append(sample)
            self.started.set()
            assert self.may_answer is None or self.may_answer.wait(10)
            gold = (sample.gold or ("",))[0]
            text = self.answer(sample) if callable(self.answer) else self.answer or gold
            error = "HTTP 500" if text is None else None
            yield [Reply(sample.id, text, error=error, finish="stop")]


def score(task: Task, samples: Sequence[Sample], folder: Path) -> list[dict[str, Any]]:
    """The rows of scores.jsonl."""
    scoring.score(task, samples, folder)
    return read_scores(folder / "scores.jsonl")


def evaluate(model: str, tasks: str, *, out: Path, **options: Any) -> int:
    """The exit code; options of the judge are `judge`, `judge_budget` and so on."""
    judge = {name: options.pop(name) for name in [*options] if name.startswith("judge")}
    names = {name: "model" if name == "judge" else name.removeprefix("judge_") for name in judge}
    judge_config = JudgeConfig(**{names[name]: value for name, value in judge.items()})
    config = EvalConfig(judge=judge_config, **options)
    return eval_command.evaluate(model, tasks, out=out, config=config)


def report(*runs: Path, **options: Any) -> int:
    return report_command.report(*runs, config=report_command.ReportConfig(**options))
