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

from lingshu.core.artifacts import DatasetCard, open_dataset, read_dataset
from lingshu.core.cached_client import Budget, CachedClient, CallResult
from lingshu.core.data_policy import DataPolicy, is_local
from lingshu.core.errors import ConfigError, ImageError, InputError, one_line, suggest_name
from lingshu.core.files import atomic_folder
from lingshu.core.progress import NoProgress, Progress
from lingshu.core.reply_text import is_refusal, to_plain_text
from lingshu.core.response_format import Request
from lingshu.core.step_types import MapStep, TeacherDialogue, TeacherStep
from lingshu.core.teacher_prompts import ALTERNATIVE
from lingshu.core.types import Drop, Engine, Sample
from lingshu.curate.config import StepConfig, SynthesisConfig
from lingshu.curate.counts import StepCounts
from lingshu.curate.plan import SEED_PARAM, build_any_step, with_default_params
from lingshu.curate.review import (
    ReviewQueue,
    ReviewSummary,
    Verdict,
    apply_verdicts,
    check_limits,
    group_by_sample,
    read_verdicts,
    sample_kind,
    summarize_reviews,
)
from lingshu.curate.runner import check_not_inside
from lingshu.curate.synthesis_writer import SynthesisWriter
from lingshu.curate.worker import FATAL_ERRORS
from lingshu.imaging.cache import ImageCache
from lingshu.imaging.read import ShardReader, image_bytes

# Rejects that another run may not have: the teacher could not be asked.
NOT_REQUESTED = ("failed", "budget", "error")


class SynthesisResult(NamedTuple):
    """The card of the dataset, the rows that a later run may still fill, what the calls took, what
    reviewers found, and how many samples they judged that this run does not make.
    """

    card: DatasetCard
    n_not_requested: int
    usage: Mapping[str, int | float]
    review: Sequence[ReviewSummary]
    n_unmatched_verdicts: int


@dataclass
class _RowState:
    """A row in the hands of a step: the talk while it goes on, what was said last, and what came of
    it.
    """

    sample: Sample
    name: str
    dialogue: TeacherDialogue | None = None
    requests: Sequence[Request[Any]] = ()
    raw: list[str] = field(default_factory=list)
    outputs: Sequence[Sample] = ()
    drop: Drop | None = None


class _BoundStep(NamedTuple):
    step_config: StepConfig
    step: TeacherStep | MapStep


def resolve_synthesis(config: SynthesisConfig) -> SynthesisConfig:
    """The configuration with every parameter of its steps written out.

    Raises:
        ConfigError, UnknownName, InputError: a step that does not exist, or a parameter that it
        does not have.
    """
    steps = [with_default_params(step_config) for step_config in config.steps]
    seeded = (
        replace(step_config, params={**step_config.params, SEED_PARAM: config.seed})
        if step_config.params.get(SEED_PARAM, 0) is None
        else step_config
        for step_config in steps
    )
    return replace(config, steps=tuple(seeded))


def open_client(
    config: SynthesisConfig,
    engine: Engine,
    folder: Path,
    *,
    release: DataPolicy | None = None,
    engine_retries: int = 0,
) -> CachedClient:
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
    return CachedClient(
        engine,
        folder,
        images=lambda image: image_bytes(image, shards=shards),
        budget=budget,
        data_policy=release,
        max_attempts=config.max_attempts,
        engine_retries=engine_retries,
        is_refusal=lambda text: is_refusal(to_plain_text(text)),
    )


def synthesize(
    config: SynthesisConfig,
    dataset: Path,
    out: Path,
    client: CachedClient,
    *,
    verdicts: Sequence[Path] = (),
    limit: int | None = None,
    progress: Progress | None = None,
) -> SynthesisResult:
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
    check_not_inside(f"the dataset {dataset}", dataset, out)
    config = resolve_synthesis(config)
    steps = [_BoundStep(step_config, _build_step(step_config)) for step_config in config.steps]
    card = open_dataset(dataset)
    _check_names(config, steps, card)
    verdicts_by_sample = group_by_sample(read_verdicts(verdicts))
    run = _SynthesisRun(config, steps, client, verdicts_by_sample)
    progress = progress or NoProgress()
    with atomic_folder(out) as folder, SynthesisWriter(folder) as writer:
        progress.start(card.rows if limit is None else min(limit, card.rows), title="synthesis")
        for chunk in _chunks(islice(read_dataset(dataset), limit), config.chunk_rows):
            for state in run.process_chunk(chunk):
                run.write_outputs(state, writer)
            progress.advance(len(chunk))
        reviews = run.review_summaries()
        # Before anything takes its name: what reviewers stopped is not there.
        check_limits(reviews, limit=config.max_rejected, limits=config.limits)
        return run.close(writer, dataset, reviews)


def _build_step(step_config: StepConfig) -> TeacherStep | MapStep:
    step = build_any_step(step_config)
    if not isinstance(step, TeacherStep | MapStep):
        raise ConfigError(
            f"step {step_config.name!r} decides over all rows; let it run with `lingshu curate` before the"
            " synthesis."
        )
    return step


def _check_names(config: SynthesisConfig, steps: Sequence[_BoundStep], card: DatasetCard) -> None:
    kinds = [s.step.kind if isinstance(s.step, TeacherStep) else s.step_config.op for s in steps]
    for kind in config.limits:
        if kind not in kinds:
            raise ConfigError(
                f"limits names the kind {kind!r}, which no step makes; {suggest_name(kind, kinds)}"
            )
    for step_config in config.steps:
        for name in step_config.sources:
            if name not in card.sources:
                raise ConfigError(
                    f"step {step_config.name!r} is limited to source {name!r};"
                    f" {suggest_name(name, card.sources)}"
                )


def _chunks(samples: Iterator[Sample], size: int) -> Iterator[list[Sample]]:
    while chunk := list(islice(samples, size)):
        yield chunk


class _SynthesisRun:
    """What a run counts while its rows go by."""

    def __init__(
        self,
        config: SynthesisConfig,
        steps: Sequence[_BoundStep],
        client: CachedClient,
        verdicts_by_sample: Mapping[str, list[Verdict]],
    ) -> None:
        self.config, self.steps, self.client, self.verdicts_by_sample = (
            config,
            steps,
            client,
            verdicts_by_sample,
        )
        self.step_counts = StepCounts()
        self.queue = ReviewQueue(n_per_kind=config.review_rows, seed=config.seed)
        self.image_cache = ImageCache()
        self.ids: set[str] = set()
        self.kinds: dict[str, Counter[str]] = defaultdict(Counter)
        self.verdicts_by_kind: dict[str, list[Sequence[Verdict]]] = defaultdict(list)
        self.n_matched = 0
        self.functions = {
            s.step_config.name: s.step.open() for s in steps if isinstance(s.step, MapStep)
        }

    def process_chunk(self, samples: Sequence[Sample]) -> list[_RowState]:
        """Every row through every step, the talks of all side by side."""
        states: list[_RowState] = []
        waiting: dict[str, list[_RowState]] = {step.step_config.name: [] for step in self.steps}
        for sample in samples:
            for step_config, step in self.steps:
                if step_config.sources and sample.meta.source not in step_config.sources:
                    continue
                self.step_counts.record_in(step_config.name, str(sample.meta.source))
                state = self._start(sample, step_config, step)
                states.append(state)
                if state.dialogue is not None:
                    waiting[step_config.name].append(state)
        samplings = {
            s.step_config.name: s.step.sampling
            for s in self.steps
            if isinstance(s.step, TeacherStep)
        }
        while any(waiting.values()):
            for name, active in waiting.items():
                if active:
                    waiting[name] = self._run_round(
                        active, replace(samplings[name], seed=self.config.seed)
                    )
        return states

    def _start(
        self, sample: Sample, step_config: StepConfig, step: TeacherStep | MapStep
    ) -> _RowState:
        state = _RowState(sample, step_config.name)
        if isinstance(step, MapStep):
            _capture_errors(
                state,
                lambda: _set_outputs(
                    state, self.functions[step_config.name](sample, self.image_cache)
                ),
            )
        elif sample.meta.access == "credentialed" and not is_local(self.client.engine.endpoint):
            # No agreement changes this: who signed it promised to keep the rows to themselves.
            state.drop = Drop(
                sample.id,
                "data_policy",
                "credentialed rows go to no teacher with an address beyond this machine",
            )
        else:
            state.dialogue = step.dialogue(sample, self.image_cache)
            _advance(state, None)
        return state

    def _run_round(self, states: Sequence[_RowState], sampling: Any) -> list[_RowState]:
        """One round of every talk; returns those that go on."""
        results = iter(
            self.client.ask([request for state in states for request in state.requests], sampling)
        )
        for state in states:
            row_results = list(islice(results, len(state.requests)))
            state.raw = [result.raw_text for result in row_results if result.raw_text is not None]
            failed = next((result for result in row_results if result.reject_reason), None)
            if failed is None:
                _advance(state, [result.value for result in row_results])
            else:
                _fail(state, failed)
        return [state for state in states if state.dialogue is not None]

    def write_outputs(self, state: _RowState, writer: SynthesisWriter) -> None:
        """Write what came of a turn, as its reviewers leave it."""
        source = str(state.sample.meta.source)
        if state.drop is not None:
            self._drop(state, state.drop, source, writer)
            return
        self.step_counts.record_added(state.name, source, len(state.outputs) - 1)
        step = next(step for step_config, step in self.steps if step_config.name == state.name)
        provenance = (
            {"teacher": self.client.engine.model, "prompts": step.prompts}
            if isinstance(step, TeacherStep)
            else {}
        )
        for output in state.outputs:
            sample = replace(
                output, meta=replace(output.meta, extra={**output.meta.extra, **provenance})
            )
            if sample.id in self.ids:
                raise InputError(
                    f"two samples are named {sample.id!r}; give every step a kind of its own, and"
                    " every sample an own id."
                )
            self.ids.add(sample.id)
            self.queue.add(sample)
            kind = sample_kind(sample)
            verdicts = self.verdicts_by_sample.get(sample.id, ())
            if verdicts:
                self.n_matched += 1
                self.verdicts_by_kind[kind].append(verdicts)
            reviewed = apply_verdicts(sample, verdicts) if verdicts else sample
            if isinstance(reviewed, Drop):
                self._drop(state, reviewed, source, writer)
                continue
            self.kinds[state.name][kind] += 1
            self.step_counts.record_out(state.name, source)
            extra = {key: value for key, value in reviewed.meta.extra.items() if key != ALTERNATIVE}
            writer.add(replace(reviewed, meta=replace(reviewed.meta, extra=extra)))

    def _drop(self, state: _RowState, drop: Drop, source: str, writer: SynthesisWriter) -> None:
        self.step_counts.record_drop(state.name, source, drop.reason)
        writer.drop(drop, step=state.name, source=source, raw=state.raw)

    def review_summaries(self) -> list[ReviewSummary]:
        return [
            summarize_reviews(kind, verdicts)
            for kind, verdicts in sorted(self.verdicts_by_kind.items())
        ]

    def close(
        self, writer: SynthesisWriter, dataset: Path, reviews: Sequence[ReviewSummary]
    ) -> SynthesisResult:
        """Write the queue, the card and all that describes the dataset."""
        writer.write_queue(self.queue.selected())
        usage = self.client.counts()
        prompts = {
            s.step_config.name: s.step.prompts
            for s in self.steps
            if isinstance(s.step, TeacherStep)
        }
        teacher = {"teacher": self.client.engine.model, "teacher_digest": self.client.engine.digest}
        n_unmatched_verdicts = len(self.verdicts_by_sample) - self.n_matched
        notes = {
            **teacher,
            "prompts": prompts,
            "calls": usage,
            "unmatched_verdicts": n_unmatched_verdicts,
        }
        card = writer.finish(
            self.config,
            self.step_counts,
            dataset,
            prompts=prompts,
            kinds=self.kinds,
            review=reviews,
            notes=notes,
        )
        self.image_cache.close()
        return SynthesisResult(
            card,
            sum(card.drops.get(reason, 0) for reason in NOT_REQUESTED),
            usage,
            reviews,
            n_unmatched_verdicts,
        )


# --- one step of a talk
# ----------------------------------------------------------------------------------------------


def _advance(state: _RowState, values: Sequence[Any] | None) -> None:
    dialogue = state.dialogue
    assert dialogue is not None

    def next_round() -> None:
        try:
            requests = next(dialogue) if values is None else dialogue.send(values)
        except StopIteration as end:
            state.dialogue = None
            _set_outputs(state, end.value)
            return
        # What may be sent is decided by what the row is, whatever a step made of it.
        state.requests = [
            replace(request, sample=replace(request.sample, meta=state.sample.meta))
            for request in requests
        ]

    _capture_errors(state, next_round)


def _set_outputs(state: _RowState, result: object) -> None:
    if isinstance(result, Drop):
        state.drop = result
        return
    outputs = (
        (result,)
        if isinstance(result, Sample)
        else tuple(result)
        if isinstance(result, Sequence)
        else ()
    )
    if not outputs or not all(isinstance(sample, Sample) for sample in outputs):
        raise TypeError("the step returned no sample and no drop")
    state.outputs = outputs


def _capture_errors(state: _RowState, func: Any) -> None:
    try:
        func()
    except FATAL_ERRORS:
        raise
    except ImageError as error:
        state.dialogue, state.drop = None, Drop(state.sample.id, "bad_image", one_line(error))
    except Exception as error:
        # Its words may quote the row.
        state.dialogue, state.drop = None, Drop(state.sample.id, "error", type(error).__name__)


def _fail(state: _RowState, failed: CallResult[Any]) -> None:
    if isinstance(state.dialogue, Generator):
        state.dialogue.close()
    state.dialogue, state.drop = (
        None,
        Drop(state.sample.id, failed.reject_reason or "failed", failed.detail),
    )
