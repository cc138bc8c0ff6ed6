"""From a DATASET to one of synthetic samples: each row in dialogues with a teacher model.

    with open_client(config, engine, Path("cache")) as client:
        synthesize(config, Path("images"), Path("captions"), client)

No state besides the cache is needed to resume: a dialogue is a generator that yields the same
requests when it receives the same values, and replies are cached by the client. A killed run, and a
run with new verdicts, replays them at no cost.

    OUT/data/*.parquet, dataset.json, README.md, run.json, manifest.json   the dataset
    OUT/drops.jsonl                       every rejected row: id, step, reason, the teacher's reply
    OUT/review/queue.jsonl, images/       what reviewers are to look at
"""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from lingshu.core import config as configuration
from lingshu.core import files
from lingshu.core.artifacts import (
    DATASET_CARD,
    DatasetCard,
    DatasetWriter,
    dataset_digest,
    open_dataset,
    read_dataset,
)
from lingshu.core.cached_client import Budget, CachedClient, Request
from lingshu.core.config import to_plain
from lingshu.core.data_policy import is_local
from lingshu.core.errors import ConfigError, ImageError, InputError, one_line, suggest_name
from lingshu.core.progress import NoProgress, Progress
from lingshu.core.reply_text import is_refusal, to_plain_text
from lingshu.core.run_card import RunCard, write_run_card
from lingshu.core.step_types import MapStep, TeacherDialogue, TeacherStep
from lingshu.core.teacher_prompts import ALTERNATIVE
from lingshu.core.types import DataPolicy, Drop, Engine, EngineOptions, Sample, Sampling
from lingshu.curate import review
from lingshu.curate.card import format_drops, render, stats_rows
from lingshu.curate.config import SynthesisConfig, check_step_sources
from lingshu.curate.counts import StepCounts
from lingshu.curate.plan import build_any_step, with_default_params, with_seed
from lingshu.curate.review import ReviewQueue, ReviewSummary, Verdict
from lingshu.curate.runner import DROPS_FILE, DropLog, check_not_inside
from lingshu.curate.worker import FATAL_ERRORS, DroppedRow
from lingshu.imaging.cache import ImageCache
from lingshu.imaging.headers import read_header
from lingshu.imaging.read import ShardReader, image_bytes, image_name

# Drops that another run may avoid: the teacher was not reached.
NOT_REQUESTED = ("failed", "budget", "error")
REVIEW = "review"


@dataclass(frozen=True, kw_only=True)
class SynthesisOptions:
    """How a synthesis runs."""

    cache_dir: Path | None = None
    "Folder of cached calls; OUT with `.calls` appended by default."
    verdicts: tuple[Path, ...] = ()
    "File with reviewers' verdicts on OUT/review/queue.jsonl; may be given several times."
    limit: int | None = None
    "Take the first LIMIT rows of the dataset only."
    concurrency: int = 16
    "Concurrent requests to a teacher behind an address."
    retries: int = 5
    "How often a request is repeated that the address refused or did not answer."
    timeout_s: float = 120.0
    "Seconds to wait for a reply."
    agreement: tuple[str, ...] = ()
    """A data-use agreement that covers the address; may be given several times. Credentialed rows
    are never sent."""
    allow_remote: bool = False
    "Allow private samples and images that are not de-identified to be sent to another machine."

    @property
    def engine_options(self) -> EngineOptions:
        return EngineOptions(
            concurrency=self.concurrency,
            retries=self.retries,
            timeout_s=self.timeout_s,
            data_policy=DataPolicy(frozenset(self.agreement), self.allow_remote),
        )

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"--limit is {self.limit}; it must be at least 1.")


class SynthesisResult(NamedTuple):
    """The card of the dataset, the rows that a later run may still fill, the usage of the calls,
    the results of the review, and the number of samples with verdicts that this run does not make.
    """

    card: DatasetCard
    n_not_requested: int
    usage: Mapping[str, int | float]
    review: Sequence[ReviewSummary]
    n_unmatched_verdicts: int


def resolve_synthesis(config: SynthesisConfig) -> SynthesisConfig:
    """The configuration with every parameter of its steps written out.

    Raises:
        ConfigError, UnknownNameError, InputError: there is no such step, or parameter of it.
    """
    steps = (with_seed(with_default_params(step), config.seed) for step in config.steps)
    return replace(config, steps=tuple(steps))


def open_client(
    config: SynthesisConfig, engine: Engine, folder: Path, options: EngineOptions | None = None
) -> CachedClient:
    """The teacher with its cache in `folder`; `options` are those that its engine was opened with.

    Raises:
        StorageError: another process is using the folder.
    """
    options = options or EngineOptions()
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
        data_policy=options.data_policy,
        max_attempts=config.max_attempts,
        engine_retries=options.retries if engine.endpoint else 0,
        is_refusal=lambda text: is_refusal(to_plain_text(text)),
    )


def synthesize(
    config: SynthesisConfig,
    dataset: Path,
    out: Path,
    client: CachedClient,
    options: SynthesisOptions = SynthesisOptions(),
    *,
    progress: Progress | None = None,
) -> SynthesisResult:
    """Make the synthetic samples of a dataset and write them to `out`, completely or not at all.

    With verdicts, rejected samples are dropped, and edited and preferred texts replace originals.

    Raises:
        ConfigError: a step that does not exist or fit.
        InputError: an invalid verdict, a dataset inside `out`, or reviewers rejected too large a
            share of a kind; nothing was written.
        EngineError: the teacher cannot answer at all; run again to resume.
        StorageError: the disk refused.
    """
    check_not_inside(f"the dataset {dataset}", dataset, out)
    run = _SynthesisRun(resolve_synthesis(config), client, options.verdicts)
    card = open_dataset(dataset)
    run.check_names(card)
    progress = progress or NoProgress()
    with files.atomic_folder(out) as folder, _SynthesisWriter(folder) as writer:
        progress.start(min(options.limit or card.rows, card.rows), title="synthesis")
        samples = islice(read_dataset(dataset), options.limit)
        while chunk := list(islice(samples, config.chunk_rows)):
            for row in run.process_chunk(chunk):
                run.write_outputs(row, writer)
            progress.advance(len(chunk))
        return run.finish(writer, dataset)


@dataclass
class _RowState:
    """A row in a step: the open dialogue, the last replies, and the outputs or the drop."""

    sample: Sample
    step: str
    dialogue: TeacherDialogue | None = None
    requests: Sequence[Request[Any]] = ()
    raw: list[str] = field(default_factory=list)
    outputs: Sequence[Sample] = ()
    drop: Drop | None = None

    @property
    def source(self) -> str:
        return str(self.sample.meta.source)

    def advance(self, values: Sequence[Any] | None) -> None:
        """Send the values of a round to the dialogue; None starts it."""
        dialogue = self.dialogue
        assert dialogue is not None
        with self.errors_as_drops():
            try:
                requests = next(dialogue) if values is None else dialogue.send(values)
            except StopIteration as end:
                self.dialogue = None
                self.set_outputs(end.value)
                return
            # The row's own meta decides what may be sent, whatever a step changed in the request.
            self.requests = [
                replace(request, sample=replace(request.sample, meta=self.sample.meta))
                for request in requests
            ]

    def set_outputs(self, result: object) -> None:
        if isinstance(result, Drop):
            self.drop = result
            return
        outputs = (result,) if isinstance(result, Sample) else result
        if not isinstance(outputs, Sequence) or not outputs:
            raise TypeError("the step returned neither a sample nor a drop")
        if not all(isinstance(sample, Sample) for sample in outputs):
            raise TypeError("the step returned a sequence of something else than samples")
        self.outputs = outputs

    def reject(self, reason: str, detail: str) -> None:
        if isinstance(self.dialogue, Generator):
            self.dialogue.close()
        self.dialogue, self.drop = None, Drop(self.sample.id, reason, detail)

    @contextlib.contextmanager
    def errors_as_drops(self) -> Iterator[None]:
        try:
            yield
        except FATAL_ERRORS:
            raise
        except ImageError as error:
            self.reject("bad_image", one_line(error))
        except Exception as error:
            # The message may quote the row.
            self.reject("error", type(error).__name__)


class _SynthesisRun:
    """A run and what it counts."""

    def __init__(
        self, config: SynthesisConfig, client: CachedClient, verdict_files: Sequence[Path]
    ) -> None:
        self.config, self.client = config, client
        self.steps: dict[str, TeacherStep | MapStep] = {}
        for step in config.steps:
            built = build_any_step(step)
            if not isinstance(built, TeacherStep | MapStep):
                problem = f"step {step.name!r} decides over all rows"
                raise ConfigError(f"{problem}; run it with `lingshu curate` before the synthesis.")
            self.steps[step.name] = built
        self.functions = {
            name: step.open() for name, step in self.steps.items() if isinstance(step, MapStep)
        }
        self.prompts = {
            name: step.prompts for name, step in self.steps.items() if isinstance(step, TeacherStep)
        }
        self.verdicts = review.group_by_sample(review.read_verdicts(verdict_files))
        self.n_matched = 0
        self.step_counts = StepCounts()
        self.queue = ReviewQueue(n_per_kind=config.review_rows, seed=config.seed)
        self.image_cache = ImageCache()
        self.ids: set[str] = set()
        self.kinds: dict[str, Counter[str]] = defaultdict(Counter)
        self.verdicts_by_kind: dict[str, list[Sequence[Verdict]]] = defaultdict(list)

    def check_names(self, card: DatasetCard) -> None:
        kinds = [
            built.kind if isinstance(built, TeacherStep) else step.op
            for step, built in zip(self.config.steps, self.steps.values(), strict=True)
        ]
        for kind in self.config.limits:
            if kind not in kinds:
                problem = f"limits names the kind {kind!r}, which no step makes"
                raise ConfigError(f"{problem}; {suggest_name(kind, kinds)}")
        check_step_sources(self.config.steps, card.sources)

    def process_chunk(self, samples: Sequence[Sample]) -> list[_RowState]:
        """Every row through every step; the dialogues of all rows advance together."""
        rows = [
            self._start(sample, step.name)
            for sample in samples
            for step in self.config.steps
            if not step.sources or sample.meta.source in step.sources
        ]
        while any(row.dialogue for row in rows):
            for name, step in self.steps.items():
                waiting = [row for row in rows if row.step == name and row.dialogue]
                if waiting and isinstance(step, TeacherStep):
                    self._run_round(waiting, replace(step.sampling, seed=self.config.seed))
        return rows

    def _start(self, sample: Sample, name: str) -> _RowState:
        row, step = _RowState(sample, name), self.steps[name]
        self.step_counts.add(name, row.source, "in")
        if isinstance(step, MapStep):
            with row.errors_as_drops():
                row.set_outputs(self.functions[name](sample, self.image_cache))
        elif sample.meta.access == "credentialed" and not is_local(self.client.engine.endpoint):
            # No agreement changes this: it forbids passing the rows on.
            row.reject("data_policy", "credentialed rows are never sent beyond this machine")
        else:
            row.dialogue = step.dialogue(sample, self.image_cache)
            row.advance(None)
        return row

    def _run_round(self, rows: Sequence[_RowState], sampling: Sampling) -> None:
        """One round of the open dialogues of a step."""
        requests = [request for row in rows for request in row.requests]
        results = iter(self.client.ask(requests, sampling))
        for row in rows:
            answers = list(islice(results, len(row.requests)))
            row.raw = [answer.raw_text for answer in answers if answer.raw_text is not None]
            failed = next((answer for answer in answers if answer.reject_reason), None)
            if failed is None:
                row.advance([answer.value for answer in answers])
            else:
                row.reject(failed.reject_reason or "failed", failed.detail)

    def write_outputs(self, row: _RowState, writer: _SynthesisWriter) -> None:
        """Write the samples of a row after review, or its drop."""
        if row.drop is not None:
            self._write_drop(row, row.drop, writer)
            return
        self.step_counts.add(row.step, row.source, "added", len(row.outputs) - 1)
        provenance: dict[str, str] = {}
        if row.step in self.prompts:
            provenance = {"teacher": self.client.engine.model, "prompts": self.prompts[row.step]}
        for output in row.outputs:
            if output.id in self.ids:
                remedy = "give every step its own kind, and every sample its own id"
                raise InputError(f"two samples are named {output.id!r}; {remedy}.")
            self.ids.add(output.id)
            sample = _with_extra(output, {**output.meta.extra, **provenance})
            self.queue.add(sample)
            kind = review.sample_kind(sample)
            verdicts = self.verdicts.get(sample.id, ())
            if verdicts:
                self.n_matched += 1
                self.verdicts_by_kind[kind].append(verdicts)
            reviewed = review.apply_verdicts(sample, verdicts)
            if isinstance(reviewed, Drop):
                self._write_drop(row, reviewed, writer)
                continue
            self.kinds[row.step][kind] += 1
            self.step_counts.add(row.step, row.source, "out")
            extra = reviewed.meta.extra
            writer.add(_with_extra(reviewed, {k: extra[k] for k in extra if k != ALTERNATIVE}))

    def _write_drop(self, row: _RowState, drop: Drop, writer: _SynthesisWriter) -> None:
        self.step_counts.drop(row.step, row.source, drop.reason)
        writer.drops.add(DroppedRow.of(drop, row.source, row.step), raw=row.raw)

    def finish(self, writer: _SynthesisWriter, dataset: Path) -> SynthesisResult:
        """Check the limits of the review, then write the queue, the card and the run card."""
        summaries = [
            review.summarize_reviews(kind, verdicts)
            for kind, verdicts in sorted(self.verdicts_by_kind.items())
        ]
        # Before the folder takes its name: a dataset that reviewers stopped does not exist.
        review.check_limits(summaries, limit=self.config.max_rejected, limits=self.config.limits)
        writer.write_queue(self.queue.selected())
        usage, n_unmatched = self.client.counts(), len(self.verdicts) - self.n_matched
        notes = {
            "teacher": self.client.engine.model,
            "teacher_digest": self.client.engine.digest,
            "prompts": self.prompts,
            "calls": usage,
            "unmatched_verdicts": n_unmatched,
        }
        card = writer.finish(self, dataset, summaries, notes)
        self.image_cache.close()
        n_not_requested = sum(card.drops.get(reason, 0) for reason in NOT_REQUESTED)
        return SynthesisResult(card, n_not_requested, usage, summaries, n_unmatched)


def _with_extra(sample: Sample, extra: Mapping[str, str]) -> Sample:
    return replace(sample, meta=replace(sample.meta, extra=extra))


# --- the output folder


class _SynthesisWriter(files.Closeable):
    """Writes the rows of a synthesis into an unfinished folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._open_files = folder, contextlib.ExitStack()
        self._images = self._open_files.enter_context(ShardReader())
        with files.storage_errors(folder):
            self._rows = DatasetWriter(folder)
        self.drops = self._open_files.enter_context(DropLog(folder / DROPS_FILE))

    def close(self) -> None:
        with files.storage_errors(self._folder):
            self._rows.close()
        self._open_files.close()

    def add(self, sample: Sample) -> None:
        """Write a sample with its images."""
        with files.storage_errors(self._folder):
            encoded = [image_bytes(image, shards=self._images) for image in sample.images]
            self._rows.add(sample, encoded)

    def write_queue(self, samples: Sequence[Sample]) -> None:
        """Write the samples for reviewers with their images."""
        folder = self._folder / REVIEW
        rows = []
        with files.storage_errors(folder):
            (folder / "images").mkdir(parents=True)
            for sample_index, sample in enumerate(samples):
                names = []
                for image_index, image in enumerate(sample.images):
                    data = image_bytes(image, shards=self._images)
                    suffix = read_header(data, name=image_name(image)).format.lower()
                    names.append(f"images/{sample_index:05d}-{image_index}.{suffix}")
                    (folder / names[-1]).write_bytes(data)
                rows.append(review.queue_row(sample, names))
        files.write_jsonl(folder / "queue.jsonl", rows)

    def finish(
        self,
        run: _SynthesisRun,
        dataset: Path,
        summaries: Sequence[ReviewSummary],
        notes: Mapping[str, Any],
    ) -> DatasetCard:
        """Write card, run card and manifest; `notes` are those of the run card."""
        folder, config = self._folder, run.config
        self.close()
        files.write_manifest(folder)
        ops = {step.name: step.op for step in config.steps}
        stats: dict[str, dict[str, Any]] = {}
        for name, op in ops.items():
            stats[name] = {"prompts": notes["prompts"][name]} if name in notes["prompts"] else {}
            for summary in summaries:
                # A kind of which nothing is left is counted under the step of its name.
                if summary.kind in run.kinds.get(name, {}) or summary.kind == op:
                    stats[name] |= review.review_stats(summary)
        counts = {
            name: dict(sorted(counter.items())) for name, counter in self._rows.counts.items()
        }
        card = DatasetCard(
            name=config.name,
            rows=self._rows.n_rows,
            images=self._rows.n_images,
            licenses=counts["license"],
            sources=counts["source"],
            access=counts["access"],
            drops=run.step_counts.drops(),
            version=dataset_digest(folder),
            steps=run.step_counts.card_rows(list(ops), ops, stats),
        )
        files.write_json(folder / DATASET_CARD, asdict(card))
        configuration.write(config, folder / "config.yaml")
        files.write_text(folder / "README.md", _readme(card, counts, str(notes["teacher"])))
        dropped = {f"dropped_{reason}": count for reason, count in card.drops.items()}
        run_card = RunCard(
            "synthesize",
            to_plain(config),
            config.seed,
            counts={"rows": card.rows, "images": card.images, **dropped},
            hashes={"input": _input_digest(dataset), "dataset": card.version or ""},
            notes={**notes, "review": [_to_json(summary) for summary in summaries]},
        )
        write_run_card(folder, run_card)
        files.write_manifest(folder)
        return card


def _readme(card: DatasetCard, counts: Mapping[str, Mapping[str, int]], teacher: str) -> str:
    steps = [
        (step["name"], step["op"], step["in"], step["out"], format_drops(step))
        for step in card.steps or ()
    ]
    facets = [
        (name, value, n) for name, by_value in counts.items() for value, n in by_value.items()
    ]
    stats = stats_rows(card)
    return render(
        "synthesis.md.j2", card=card, teacher=teacher, steps=steps, stats=stats, facets=facets
    )


def _to_json(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {key: _to_json(member) for key, member in value.items()}
    return [_to_json(member) for member in value] if isinstance(value, list | tuple) else value


def _input_digest(dataset: Path) -> str:
    """The digest of the input's shards if it has a manifest, else of its card."""
    if (dataset / files.MANIFEST).is_file():
        return dataset_digest(dataset)
    return files.sha256_file(dataset / DATASET_CARD)
