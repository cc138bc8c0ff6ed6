"""The quickstart's reinforcement learning: two answer formats, rewarded, measured before and after.

It branches off the checkpoint after deep alignment, so that the instruction-tuned model stays as it
is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lingshu.core.files import read_json
from lingshu.core.types import EngineOptions, Sample, Sampling
from lingshu.quickstart.phantoms import BATCH_SIZE
from lingshu.train.config import TrainConfig
from lingshu.train.log import SUMMARY_FILE, read_log


@dataclass(frozen=True)
class RlMetrics:
    """Mean reward, and shares of replies in the format and with the right answer in it."""

    reward: float
    format: float
    accuracy: float


@dataclass(frozen=True)
class RlResult:
    """Metrics before and after, of sampled and of greedy replies."""

    before: RlMetrics
    after: RlMetrics
    greedy_before: RlMetrics
    greedy_after: RlMetrics
    questions: int
    num_generations: int
    stages: Sequence[Mapping[str, Any]]
    log: Sequence[Mapping[str, Any]]
    checkpoint: str

    @property
    def frac_with_signal(self) -> float:
        """The mean share of groups whose replies had different rewards."""
        return sum(row["frac_with_signal"] for row in self.log) / max(1, len(self.log))

    def as_json(self) -> dict[str, Any]:
        """The part `rl` of summary.json; shares and mean rewards on held-out questions."""
        return {
            "sampled": {"before": asdict(self.before), "after": asdict(self.after)},
            "greedy": {"before": asdict(self.greedy_before), "after": asdict(self.greedy_after)},
            "questions": self.questions,
            "updates": self.stages[1]["steps"],
            "frac_with_signal": self.frac_with_signal,
            "seconds": [stage["seconds"] for stage in self.stages],
            "checkpoint": self.checkpoint,
        }


def measure_rl(config: TrainConfig, out: Path, samples: Sequence[Sample]) -> RlResult:
    """Measure a finished run (mixed formats, then rewards) on held-out questions."""
    mixed_stage, rl_stage = config.stages
    start, end = out / "stages" / f"1-{mixed_stage.name}", out / "checkpoint"
    assert rl_stage.grpo is not None
    return RlResult(
        before=measure(start, config, samples, greedy=False),
        after=measure(end, config, samples, greedy=False),
        greedy_before=measure(start, config, samples, greedy=True),
        greedy_after=measure(end, config, samples, greedy=True),
        questions=len(samples),
        num_generations=rl_stage.grpo.num_generations,
        stages=read_json(out / SUMMARY_FILE)["stages"],
        log=[row for row in read_log(out) if row["stage"] == rl_stage.name],
        checkpoint=str(end),
    )


def measure(
    checkpoint: Path, config: TrainConfig, samples: Sequence[Sample], *, greedy: bool
) -> RlMetrics:
    """The mean rewards of a checkpoint's replies, by the reward function of the second stage."""
    from lingshu.engines.hf import load
    from lingshu.train.grpo import compute_reward, load_scorer
    from lingshu.train.rollout import Rollout

    grpo = config.stages[1].grpo
    assert grpo is not None
    engine = load(str(checkpoint), EngineOptions(batch_size=BATCH_SIZE, threads=config.threads))
    temperature = 0.0 if greedy else grpo.temperature
    sampling = Sampling(grpo.max_reply_tokens, temperature, seed=config.seed)
    by_id, scorer = {sample.id: sample for sample in samples}, load_scorer(grpo.reward)
    rewards = [
        compute_reward(
            grpo.reward,
            scorer,
            by_id[reply.id],
            Rollout(reply.id, 0, reply.token_ids or (), reply.text or "", reply.finish or "length"),
        )
        for replies in engine.generate(samples, sampling)
        for reply in replies
    ]
    columns = list(zip(*rewards, strict=True))[:3]
    return RlMetrics(*(sum(column) / len(rewards) for column in columns))
