"""From a DATASET to a DATASET of synthetic samples: each row is talked over with a teacher, step by
step, round by round.

    with open_calls(config, engine, Path("calls")) as calls:
        synthesise(config, Path("images"), Path("captions"), calls)

One loop is enough, and it keeps nothing of its own: a talk is a generator that says the same
whenever it hears the same, and what it hears lies in the folder of calls. A killed run, and a run
with new verdicts, replays them at no cost.

    OUT/data/*.parquet, dataset.json, README.md, run.json, manifest.json   the dataset
    OUT/drops.jsonl                       every rejected row: id, step, reason, and what the teacher said
    OUT/review/queue.jsonl, images/       what reviewers are to look at
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from lingshu.core.artefacts import DatasetCard, open_dataset, read_dataset
from lingshu.core.calls import Budget, Calls, Outcome
from lingshu.core.errors import BadImage, ConfigError, InputError, nearest, one_line
from lingshu.core.files import atomic_folder
from lingshu.core.forms import Request
from lingshu.core.nouns import Drop, Engine, Sample
from lingshu.core.release import Release, is_local
from lingshu.core.steps import MapStep, Talk, TeacherStep
from lingshu.curate.config import StepUse, SynthesisConfig
from lingshu.curate.ledger import Ledger
from lingshu.curate.loop import Progress, check_apart
from lingshu.curate.plan import SEED, filled, make
from lingshu.curate.progress import Silent
from lingshu.curate.review import (
    Quality,
    Queue,
    Verdict,
    applied,
    by_sample,
    check_limits,
    kind_of,
    quality,
    read_verdicts,
)
from lingshu.curate.synthesis_out import Writer
from lingshu.curate.work import FATAL
from lingshu.imaging.pictures import Pictures
from lingshu.imaging.read import ShardReader, image_bytes
from lingshu.ops._teaching import ALTERNATIVE
from lingshu.scoring._text import plain, refuses

# Rejects that another run may not have: the teacher could not be asked.
UNASKED = ("failed", "budget", "error")


class Synthesised(NamedTuple):
    """The card of the dataset, the rows that a later run may still fill, what the calls took, what
    reviewers found, and how many samples they judged that this run does not make.
    """

    card: DatasetCard
    unasked: int
    calls: Mapping[str, int | float]
    review: Sequence[Quality]
    unmatched: int


@dataclass
class _Turn:
    """A row in the hands of a step: the talk while it goes on, what was said last, and what came of
    it.
    """

    sample: Sample
    name: str
    talk: Talk | None = None
    asked: Sequence[Request[Any]] = ()
    raw: list[str] = field(default_factory=list)
    made: Sequence[Sample] = ()
    drop: Drop | None = None


class _Step(NamedTuple):
    use: StepUse
    step: TeacherStep | MapStep


def resolve_synthesis(config: SynthesisConfig) -> SynthesisConfig:
    """The configuration with every parameter of its steps written out.

    Raises:
        ConfigError, UnknownName, InputError: a step that does not exist, or a parameter that it
        does not have.
    """
    steps = [filled(use) for use in config.steps]
    seeded = (
        replace(u, params={**u.params, SEED: config.seed}) if u.params.get(SEED, 0) is None else u
        for u in steps
    )
    return replace(config, steps=tuple(seeded))


def open_calls(
    config: SynthesisConfig,
    engine: Engine,
    folder: Path,
    *,
    release: Release | None = None,
    repeats: int = 0,
) -> Calls:
    """The teacher with its memory in `folder`, bounded as the configuration says; `repeats` as the
    engine was opened with.

    Raises:
        StorageError: another process is at work in the folder.
    """
    budget = Budget(
        config.token_budget,
        config.cost_budget,
        config.prompt_price,
        config.reply_price,
        config.image_tokens,
    )
    shards = ShardReader()
    return Calls(
        engine,
        folder,
        images=lambda image: image_bytes(image, shards=shards),
        budget=budget,
        release=release,
        tries=config.tries,
        repeats=repeats,
        refuses=lambda text: refuses(plain(text)),
    )


def synthesise(
    config: SynthesisConfig,
    dataset: Path,
    out: Path,
    calls: Calls,
    *,
    verdicts: Sequence[Path] = (),
    limit: int | None = None,
    progress: Progress | None = None,
) -> Synthesised:
    """Make the synthetic samples of a dataset and write them to `out`, whole or not at all.

    `verdicts` are files that reviewers wrote: rejected samples are dropped, edited and preferred
    texts replace what was there. `limit` takes that many rows of the dataset only.

    Raises:
        ConfigError: a step that does not exist or fit.
        InputError: a verdict that is none, the dataset lies in `out`, or reviewers rejected too
            large a share of a kind; nothing was written.
        EngineError: the teacher cannot answer at all; run again to go on.
        StorageError: the disk refused.
    """
    check_apart(f"the dataset {dataset}", dataset, out)
    config = resolve_synthesis(config)
    steps = [_Step(use, _made(use)) for use in config.steps]
    card = open_dataset(dataset)
    _check_names(config, steps, card)
    ruled = by_sample(read_verdicts(verdicts))
    run = _Run(config, steps, calls, ruled)
    progress = progress or Silent()
    with atomic_folder(out) as folder, Writer(folder) as writer:
        progress.start("synthesis", card.rows if limit is None else min(limit, card.rows))
        for chunk in _chunks(islice(read_dataset(dataset), limit), config.chunk_rows):
            for turn in run.chunk(chunk):
                run.settle(turn, writer)
            progress.advance(len(chunk), done_before=False)
        found = run.qualities()
        # Before anything takes its name: what reviewers stopped is not there.
        check_limits(found, limit=config.max_rejected, limits=config.limits)
        return run.close(writer, dataset, found)


def _made(use: StepUse) -> TeacherStep | MapStep:
    step = make(use)
    if not isinstance(step, TeacherStep | MapStep):
        raise ConfigError(
            f"step {use.name!r} decides over all rows; let it run with `lingshu curate` before the"
            " synthesis."
        )
    return step


def _check_names(config: SynthesisConfig, steps: Sequence[_Step], card: DatasetCard) -> None:
    kinds = [s.step.kind if isinstance(s.step, TeacherStep) else s.use.op for s in steps]
    for kind in config.limits:
        if kind not in kinds:
            raise ConfigError(
                f"limits names the kind {kind!r}, which no step makes; {nearest(kind, kinds)}"
            )
    for use in config.steps:
        for name in use.sources:
            if name not in card.sources:
                raise ConfigError(
                    f"step {use.name!r} is limited to source {name!r};"
                    f" {nearest(name, card.sources)}"
                )


def _chunks(samples: Iterator[Sample], size: int) -> Iterator[list[Sample]]:
    while chunk := list(islice(samples, size)):
        yield chunk


class _Run:
    """What a run counts while its rows go by."""

    def __init__(
        self,
        config: SynthesisConfig,
        steps: Sequence[_Step],
        calls: Calls,
        ruled: Mapping[str, list[Verdict]],
    ) -> None:
        self.config, self.steps, self.calls, self.ruled = config, steps, calls, ruled
        self.ledger = Ledger()
        self.queue = Queue(rows=config.review_rows, seed=config.seed)
        self.pictures = Pictures()
        self.ids: set[str] = set()
        self.kinds: dict[str, Counter[str]] = defaultdict(Counter)
        self.reviewed: dict[str, list[Sequence[Verdict]]] = defaultdict(list)
        self.matched = 0
        self.functions = {s.use.name: s.step.open() for s in steps if isinstance(s.step, MapStep)}

    def chunk(self, samples: Sequence[Sample]) -> list[_Turn]:
        """Every row through every step, the talks of all side by side."""
        turns: list[_Turn] = []
        waiting: dict[str, list[_Turn]] = {step.use.name: [] for step in self.steps}
        for sample in samples:
            for use, step in self.steps:
                if use.sources and sample.meta.source not in use.sources:
                    continue
                self.ledger.enter(use.name, str(sample.meta.source))
                turn = self._begin(sample, use, step)
                turns.append(turn)
                if turn.talk is not None:
                    waiting[use.name].append(turn)
        samplings = {
            s.use.name: s.step.sampling for s in self.steps if isinstance(s.step, TeacherStep)
        }
        while any(waiting.values()):
            for name, left in waiting.items():
                if left:
                    waiting[name] = self._round(
                        left, replace(samplings[name], seed=self.config.seed)
                    )
        return turns

    def _begin(self, sample: Sample, use: StepUse, step: TeacherStep | MapStep) -> _Turn:
        turn = _Turn(sample, use.name)
        if isinstance(step, MapStep):
            _guarded(turn, lambda: _finish(turn, self.functions[use.name](sample, self.pictures)))
        elif sample.meta.access == "credentialed" and not is_local(self.calls.engine.endpoint):
            # No agreement changes this: who signed it promised to keep the rows to themselves.
            turn.drop = Drop(
                sample.id,
                "release",
                "credentialed rows go to no teacher with an address beyond this machine",
            )
        else:
            turn.talk = step.talk(sample, self.pictures)
            _advance(turn, None)
        return turn

    def _round(self, turns: Sequence[_Turn], sampling: Any) -> list[_Turn]:
        """One round of every talk; returns those that go on."""
        outcomes = iter(
            self.calls.ask([request for turn in turns for request in turn.asked], sampling)
        )
        for turn in turns:
            heard = list(islice(outcomes, len(turn.asked)))
            turn.raw = [outcome.raw for outcome in heard if outcome.raw is not None]
            lost = next((outcome for outcome in heard if outcome.reject), None)
            if lost is None:
                _advance(turn, [outcome.value for outcome in heard])
            else:
                _lose(turn, lost)
        return [turn for turn in turns if turn.talk is not None]

    def settle(self, turn: _Turn, writer: Writer) -> None:
        """Write what came of a turn, as its reviewers leave it."""
        source = str(turn.sample.meta.source)
        if turn.drop is not None:
            self._drop(turn, turn.drop, source, writer)
            return
        self.ledger.add(turn.name, source, len(turn.made) - 1)
        step = next(step for use, step in self.steps if use.name == turn.name)
        marks = (
            {"teacher": self.calls.engine.model, "prompts": step.prompts}
            if isinstance(step, TeacherStep)
            else {}
        )
        for made in turn.made:
            sample = replace(made, meta=replace(made.meta, extra={**made.meta.extra, **marks}))
            if sample.id in self.ids:
                raise InputError(
                    f"two samples are named {sample.id!r}; give every step a kind of its own, and"
                    " every sample an own id."
                )
            self.ids.add(sample.id)
            self.queue.offer(sample)
            kind = kind_of(sample)
            verdicts = self.ruled.get(sample.id, ())
            if verdicts:
                self.matched += 1
                self.reviewed[kind].append(verdicts)
            found = applied(sample, verdicts) if verdicts else sample
            if isinstance(found, Drop):
                self._drop(turn, found, source, writer)
                continue
            self.kinds[turn.name][kind] += 1
            self.ledger.leave(turn.name, source)
            extra = {key: value for key, value in found.meta.extra.items() if key != ALTERNATIVE}
            writer.add(replace(found, meta=replace(found.meta, extra=extra)))

    def _drop(self, turn: _Turn, drop: Drop, source: str, writer: Writer) -> None:
        self.ledger.drop(turn.name, source, drop.reason)
        writer.drop(drop, step=turn.name, source=source, raw=turn.raw)

    def qualities(self) -> list[Quality]:
        return [quality(kind, verdicts) for kind, verdicts in sorted(self.reviewed.items())]

    def close(self, writer: Writer, dataset: Path, found: Sequence[Quality]) -> Synthesised:
        """Write the queue, the card and all that describes the dataset."""
        writer.queue(self.queue.drawn())
        calls = self.calls.ledger()
        prompts = {
            s.use.name: s.step.prompts for s in self.steps if isinstance(s.step, TeacherStep)
        }
        teacher = {"teacher": self.calls.engine.model, "teacher_digest": self.calls.engine.digest}
        unmatched = len(self.ruled) - self.matched
        notes = {**teacher, "prompts": prompts, "calls": calls, "judged_elsewhere": unmatched}
        card = writer.finish(
            self.config,
            self.ledger,
            dataset,
            prompts=prompts,
            kinds=self.kinds,
            review=found,
            notes=notes,
        )
        self.pictures.close()
        return Synthesised(
            card, sum(card.drops.get(reason, 0) for reason in UNASKED), calls, found, unmatched
        )


# --- one step of a talk
# ----------------------------------------------------------------------------------------------


def _advance(turn: _Turn, values: Sequence[Any] | None) -> None:
    talk = turn.talk
    assert talk is not None

    def go_on() -> None:
        try:
            asked = next(talk) if values is None else talk.send(values)
        except StopIteration as end:
            turn.talk = None
            _finish(turn, end.value)
            return
        # What may be sent is decided by what the row is, whatever a step made of it.
        turn.asked = [
            replace(request, sample=replace(request.sample, meta=turn.sample.meta))
            for request in asked
        ]

    _guarded(turn, go_on)


def _finish(turn: _Turn, result: object) -> None:
    if isinstance(result, Drop):
        turn.drop = result
        return
    made = (
        (result,)
        if isinstance(result, Sample)
        else tuple(result)
        if isinstance(result, Sequence)
        else ()
    )
    if not made or not all(isinstance(sample, Sample) for sample in made):
        raise TypeError("the step returned no sample and no drop")
    turn.made = made


def _guarded(turn: _Turn, act: Any) -> None:
    try:
        act()
    except FATAL:
        raise
    except BadImage as error:
        turn.talk, turn.drop = None, Drop(turn.sample.id, "bad_image", one_line(error))
    except Exception as error:
        # Its words may quote the row.
        turn.talk, turn.drop = None, Drop(turn.sample.id, "error", type(error).__name__)


def _lose(turn: _Turn, lost: Outcome[Any]) -> None:
    if isinstance(turn.talk, Generator):
        turn.talk.close()
    turn.talk, turn.drop = None, Drop(turn.sample.id, lost.reject or "failed", lost.detail)
