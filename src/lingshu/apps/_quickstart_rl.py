"""The quickstart's reinforcement learning: a shorter model with two styles of answers, rewarded,
and measured before and after.

It branches off the checkpoint after deep alignment, so that the instruction-tuned model stays as it
is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lingshu.core.files import read_json
from lingshu.core.nouns import Sample, Sampling
from lingshu.core.options import EngineOptions
from lingshu.evaluate import page
from lingshu.evaluate.page import Series
from lingshu.evaluate.report import percent
from lingshu.train.config import TrainConfig
from lingshu.train.log import SUMMARY, read_log

BATCH = 64


@dataclass(frozen=True)
class Measured:
    """Means over held-out questions: the reward, and the shares of replies in shape and with the
    right answer in it.
    """

    reward: float
    format: float
    accuracy: float


@dataclass(frozen=True)
class Reinforced:
    """What reinforcement learning came to: held-out replies drawn at the temperature of the rounds,
    and greedy ones.
    """

    before: Measured
    after: Measured
    greedy_before: Measured
    greedy_after: Measured
    questions: int
    copies: int
    stages: Sequence[Mapping[str, Any]]
    log: Sequence[Mapping[str, Any]]
    checkpoint: str

    @property
    def useful(self) -> float:
        """The mean share of groups whose replies were not all worth the same."""
        return sum(row["useful"] for row in self.log) / max(1, len(self.log))


def reinforced(config: TrainConfig, out: Path, samples: Sequence[Sample]) -> Reinforced:
    """Measure a finished run of a mixed-format stage and a stage with rewards on held-out
    questions.
    """
    mixed, rl = config.stages
    start, end = out / "stages" / f"1-{mixed.name}", out / "checkpoint"
    log = [row for row in read_log(out) if row["stage"] == rl.name]
    assert rl.grpo is not None
    return Reinforced(
        before=measure(start, config, samples, greedy=False),
        after=measure(end, config, samples, greedy=False),
        greedy_before=measure(start, config, samples, greedy=True),
        greedy_after=measure(end, config, samples, greedy=True),
        questions=len(samples),
        copies=rl.grpo.copies,
        stages=read_json(out / SUMMARY)["stages"],
        log=log,
        checkpoint=str(end),
    )


def measure(
    checkpoint: Path, config: TrainConfig, samples: Sequence[Sample], *, greedy: bool
) -> Measured:
    """What the replies of a checkpoint are worth, by the reward that the stage learns from."""
    from lingshu.engines.hf import load
    from lingshu.train.reward import judge, scorer_of

    grpo = config.stages[1].grpo
    assert grpo is not None
    engine = load(str(checkpoint), EngineOptions(batch_size=BATCH, threads=config.threads))
    sampling = Sampling(
        grpo.max_reply_tokens, 0.0 if greedy else grpo.temperature, seed=config.seed
    )
    by_id, scorer = {sample.id: sample for sample in samples}, scorer_of(grpo.reward)
    judged = [
        judge(
            grpo.reward,
            scorer,
            by_id[reply.id],
            reply.text or "",
            reply.token_ids or (),
            cut=reply.finish != "stop",
        )
        for replies in engine.generate(samples, sampling)
        for reply in replies
    ]
    reward, form, accuracy = (
        sum(column) / len(judged) for column in list(zip(*judged, strict=True))[:3]
    )
    return Measured(reward, form, accuracy)


def as_json(result: Reinforced) -> dict[str, Any]:
    """The part `rl` of summary.json; shares and mean rewards on held-out questions, `sampled` at
    the rounds' temperature.
    """

    def plain(measured: Measured) -> dict[str, float]:
        return {"reward": measured.reward, "format": measured.format, "accuracy": measured.accuracy}

    return {
        "sampled": {"before": plain(result.before), "after": plain(result.after)},
        "greedy": {"before": plain(result.greedy_before), "after": plain(result.greedy_after)},
        "questions": result.questions,
        "updates": result.stages[1]["steps"],
        "useful_groups": result.useful,
        "seconds": [stage["seconds"] for stage in result.stages],
        "checkpoint": result.checkpoint,
    }


def section(result: Reinforced) -> str:
    """The page's account of it, which says what rose and what did not."""
    rows = []
    for name, before, after in (
        ("drawn", result.before, result.after),
        ("greedy", result.greedy_before, result.greedy_after),
    ):
        given = [
            share.accuracy / share.format if share.format else None for share in (before, after)
        ]
        rows += [
            [f"{name} replies: mean reward", f"{before.reward:.2f}", f"{after.reward:.2f}"],
            [f"{name} replies: in shape (%)", percent(before.format), percent(after.format)],
            [
                f"{name} replies: right answer in shape (%)",
                percent(before.accuracy),
                percent(after.accuracy),
            ],
            [f"{name} replies: right among those in shape (%)", *map(percent, given)],
        ]
    told = (
        "A second, shorter model was taught to answer half of the questions bare and half as"
        " <think>what it sees</think><answer>the answer</answer>. Then it was rewarded: 0.5 for a"
        " reply of exactly that shape, 1.0 more for the right answer in it, nothing for any other"
        f" reply. Each of {result.stages[1]['steps']} updates compared {result.copies} drawn"
        " replies to each of its questions with one another (GRPO). No right answer was shown to"
        " it in this part."
    )
    honest = (
        "What rises is above all the shape, and with it whatever answers were right already:"
        " compare what is right among the replies in shape. Greedy answers need not get better,"
        f" and how much is gained differs between seeds. In {percent(result.useful)}% of the groups"
        " the replies were not all worth the same; the others teach nothing. Measured on"
        f" {result.questions} questions about held-out phantoms; the model of the other sections is"
        " not this one."
    )
    curves = [
        Series(name, [(float(row["step"]), float(row[key])) for row in result.log])
        for name, key in (
            ("reward", "reward"),
            ("replies in shape", "format"),
            ("right answers in shape", "accuracy"),
        )
    ]
    return page.section(
        "Reinforcement learning",
        page.paragraph(told),
        page.table(["held-out phantoms", "before", "after"], rows),
        page.paragraph(honest),
        page.subtitle("Drawn replies of each update's questions"),
        page.line_plot(curves, x_label="update", y_label="mean"),
    )
