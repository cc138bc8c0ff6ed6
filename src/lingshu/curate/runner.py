"""The curation run: sources to shards, passes over them, decisions between the passes, and the
parts of the dataset.

OUT/work/input/     shards as they were read           OUT/work/pass-N/   shards behind pass N, known by their keys
OUT/work/parts/     parts of the dataset               OUT/work/dataset/  the finished dataset, before it moves to OUT
A key is the digest of code, parameters and input: what has a file under its key is not done again.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from lingshu.core.artifacts import DATASET_CARD, SHARD_ROWS, DatasetCard, open_dataset
from lingshu.core.config import to_plain
from lingshu.core.errors import InputError, StorageError
from lingshu.core.files import (
    MANIFEST,
    JsonlAppender,
    atomic_file,
    digest,
    dump_line,
    read_json,
    storage_errors,
)
from lingshu.core.memory import release_freed_memory
from lingshu.core.progress import Progress
from lingshu.core.pseudonyms import new_key
from lingshu.curate import shard_parts as parts_module
from lingshu.curate import worker as work_module
from lingshu.curate.config import CurateConfig
from lingshu.curate.counts import StepCounts
from lingshu.curate.decisions import ShardDecision, decide_shards, find_duplicate_ids
from lingshu.curate.executors import Backend
from lingshu.curate.input_shards import read_shards
from lingshu.curate.plan import (
    READ_STEP,
    WRITE_STEP,
    CodeDigests,
    Pass,
    check_split,
    library_versions,
    plan_passes,
    resolve,
    step_digests,
    with_step_seeds,
)
from lingshu.curate.shard_parts import part_stats_path
from lingshu.curate.spill import read_metadata
from lingshu.curate.worker import DroppedRow, Job, RowRange, parse_drops, read_marker

WORK_DIR, DROPS_FILE = "work", "drops.jsonl"
MAX_WORKER_CRASHES = 3  # at one row, before the row is dropped


class Shard(NamedTuple):
    """A shard between passes, with what the last decision said of its rows."""

    path: Path
    rows: int
    key: str
    decision: ShardDecision


@dataclass(frozen=True)
class Example:
    """What a step did to a row, for the page that explains the run; `before` and `after` are
    samples as JSON.
    """

    step: str
    outcome: str
    before: str
    after: tuple[str, ...]
    detail: str = ""


class PassResult(NamedTuple):
    """What all passes came to: the parts of the dataset in order, the counts, what steps told, and
    examples.
    """

    parts: list[Path]
    step_counts: StepCounts
    stats: Mapping[str, Mapping[str, Any]]
    examples: list[Example]
    key: str


class CurationRun:
    """One run in one folder. Only one process at a time may be at work there.

    Raises:
        StorageError: the folder holds something else, or another process is at work in it.
        InputError: a source lies in the folder.
    """

    def __init__(
        self,
        config: CurateConfig,
        out: Path,
        backend: Backend,
        *,
        progress: Progress,
        limit: int | None = None,
        key: bytes | None = None,
    ) -> None:
        check_output_folder(out)
        self.config, self.out, self.backend, self.progress, self.limit = (
            resolve(config),
            out,
            backend,
            progress,
            limit,
        )
        self.work = out / WORK_DIR
        for source in self.config.sources:
            check_not_inside(f"source {source.name!r}", source.path, out)
        seeded_config = with_step_seeds(self.config)
        if key is None:
            check_split(seeded_config)
        self.passes = plan_passes(seeded_config)
        self.sources = tuple(source.name for source in self.config.sources)
        self.digests = step_digests(seeded_config.steps)
        code_digests = CodeDigests()
        self.runner_digest = digest(
            [
                code_digests.digest(work_module),
                code_digests.digest(parts_module),
                library_versions(),
            ]
        )
        self.step_counts = StepCounts()
        self._secret = key
        self.stats: dict[str, Mapping[str, Any]] = {}
        self.examples: list[Example] = []

    def run(self) -> PassResult:
        """Do every pass that is not done yet, and write the parts."""
        with self._lock_work_dir():
            shards, keys = self._run_passes()
            return self._write_parts(shards, keys)

    def compute_signatures(self) -> int:
        """Do the passes without writing a dataset; returns how many rows are left."""
        with self._lock_work_dir():
            return sum(
                shard.rows - len(shard.decision.dropped_rows) for shard in self._run_passes()[0]
            )

    @contextlib.contextmanager
    def _lock_work_dir(self) -> Iterator[None]:
        with storage_errors(self.work):
            # rows as they were read lie here until the run ends
            self.work.mkdir(parents=True, exist_ok=True, mode=0o700)
        with JsonlAppender(self.work / "lock"), DropLog(self.work / DROPS_FILE) as drops:
            self._drops = drops
            yield

    def _run_passes(self) -> tuple[list[Shard], list[str]]:
        """The shards behind the last pass, and the keys of those that were read."""
        shards, keys, rows = self._read_inputs(), [], None
        for pass_index, steps in enumerate(self.passes):
            self.progress.start(rows, title=f"pass {pass_index + 1} of {len(self.passes)}")
            output_shards = self._run_pass(pass_index, steps, shards, keys)
            shards = iter(output_shards)
            rows = sum(shard.rows - len(shard.decision.dropped_rows) for shard in output_shards)
        return list(shards), keys

    def finished_card(self) -> DatasetCard | None:
        """The card of the dataset in OUT, where it was made by this very run: same configuration,
        code and input.
        """
        if not (self.out / DATASET_CARD).is_file() or not (self.out / MANIFEST).is_file():
            return None
        finished_key = read_json(self.out / "run.json").get("hashes", {}).get("run")
        step_counts, keys = StepCounts(), []
        for shard in read_shards(
            self.config,
            self.work / "input",
            step_counts,
            lambda _: None,
            key=self._hash_key(),
            limit=self.limit,
        ):
            keys.append(shard.key)
        return open_dataset(self.out) if finished_key == self._run_key(keys) else None

    def _hash_key(self) -> bytes:
        """The key of ids: the given one, or a random one that lies with the work and goes when the
        run ends.
        """
        if self._secret is None:
            path = self.work / "key"
            if not path.is_file():
                with storage_errors(path), atomic_file(path) as temporary:
                    temporary.write_bytes(new_key())
                    temporary.chmod(0o600)
            self._secret = path.read_bytes()
        return self._secret

    def _run_key(self, inputs: Sequence[str]) -> str:
        config_dict = {k: v for k, v in to_plain(self.config).items() if k != "workers"}
        return digest(
            [config_dict, self.limit, list(inputs), list(self.digests.values()), self.runner_digest]
        )

    def _read_inputs(self) -> Iterator[Shard]:
        for shard in read_shards(
            self.config,
            self.work / "input",
            self.step_counts,
            self._record_drop,
            key=self._hash_key(),
            limit=self.limit,
        ):
            yield Shard(shard.path, shard.rows, shard.key, ShardDecision())

    # --- passes
    # ------------------------------------------------------------------------------------------------------

    def _run_pass(
        self, pass_index: int, steps: Pass, shards: Iterator[Shard], keys: list[str]
    ) -> list[Shard]:
        folder = self.work / f"pass-{pass_index + 1}"

        def job(shard: Shard) -> Job:
            if pass_index == 0:
                keys.append(shard.key)
            row_range = RowRange(
                str(shard.path),
                0,
                shard.rows,
                frozenset(shard.decision.dropped_rows),
                shard.decision.notes,
            )
            key = digest(
                [
                    self.runner_digest,
                    self.sources,
                    [self.digests[step_config.name] for step_config in steps.steps],
                    shard.key,
                    _decision_to_json(shard.decision),
                ]
            )
            return Job(key, str(folder / f"{key[:40]}.arrow"), (row_range,), self.sources, steps)

        jobs = self._run_jobs(job(shard) for shard in shards)
        row_counts = []
        for finished_job in jobs:
            metadata = read_metadata(Path(finished_job.output))
            self.step_counts.merge(metadata["counts"])
            for dropped in parse_drops(metadata):
                self._record_drop(dropped)
            self._add_examples(metadata["examples"])
            row_counts.append(metadata["rows"])
        output_shards = [
            Shard(Path(j.output), n, j.key, ShardDecision())
            for j, n in zip(jobs, row_counts, strict=True)
        ]
        if steps.table_step is None:
            return output_shards
        ranks = {source.name: source.rank for source in self.config.sources}
        result = decide_shards(
            steps.table_step, [shard.path for shard in output_shards], self.sources, ranks
        )
        release_freed_memory()  # of the table of all signatures, while the workers write
        self.step_counts.merge(result.counts.as_dict())
        self.stats[steps.table_step.name] = result.stats
        for dropped in result.drops:
            self._record_drop(dropped)
        self.examples += [
            Example(steps.table_step.name, f"dropped: {e.reason}", e.text, (), e.detail)
            for e in result.examples
        ]
        return [
            shard._replace(decision=decision)
            for shard, decision in zip(output_shards, result.shards, strict=True)
        ]

    def _add_examples(self, examples: Sequence[Mapping[str, Any]]) -> None:
        for entry in examples:
            if (
                sum(
                    e.step == entry["step"] and e.outcome == entry["outcome"] for e in self.examples
                )
                < work_module.MAX_EXAMPLES
            ):
                self.examples.append(
                    Example(entry["step"], entry["outcome"], entry["before"], tuple(entry["after"]))
                )

    def _run_jobs(self, jobs: Iterator[Job]) -> list[Job]:
        """Do every job that has no output yet, and return all of them in order.

        A job whose process died is given out again.
        """
        all_jobs: list[Job] = []
        retries: deque[Job] = deque()
        crashes = Counter[tuple[str, tuple[int, int] | None]]()

        def next_job() -> Job | None:
            if retries:
                return retries.popleft()
            for job in jobs:
                all_jobs.append(job)
                if not _is_done(job):
                    with storage_errors(Path(job.output)):
                        Path(job.output).parent.mkdir(parents=True, exist_ok=True)
                    return job
                self.progress.advance(job.rows, resumed=True)
            return None

        for result in self.backend.run(next_job):
            if result.error:
                raise result.error.to_exception()
            if not result.crash_reason:
                self.progress.advance(result.job.rows)
                continue
            position = read_marker(result.job.marker_path)
            result.job.marker_path.unlink(missing_ok=True)
            crashes[result.job.output, position] += 1
            retries.append(
                self._retry_single_row(
                    result.job, position, crashes[result.job.output, position], result.crash_reason
                )
            )
        return all_jobs

    def _retry_single_row(
        self, job: Job, position: tuple[int, int] | None, crashes: int, crash_reason: str
    ) -> Job:
        if crashes < MAX_WORKER_CRASHES:
            return job
        if position is None or position[0] in job.crashed_rows:
            location = (
                "before its first row" if position is None else "at a row that it was to leave out"
            )
            raise InputError(
                f"the process that works on {Path(job.output).name} died {crashes} times {location}"
                f" ({crash_reason}); look at its messages above."
            )
        row, step = position
        return replace(job, crashed_rows={**job.crashed_rows, row: step})

    # --- the parts of the dataset
    # --------------------------------------------------------------------------------------

    def _write_parts(self, shards: list[Shard], keys: list[str]) -> PassResult:
        if not self.passes:
            keys += [shard.key for shard in shards]
        shards = self._drop_duplicate_ids(shards)
        n_rows = sum(shard.rows - len(shard.decision.dropped_rows) for shard in shards)
        self.progress.start(n_rows, title="writing")
        jobs = self._run_jobs(self._part_jobs(shards))
        for job in jobs:
            metadata = parts_module.read_part_stats(Path(job.output))
            self.step_counts.merge(metadata["counts"])
            for dropped in parse_drops(metadata):
                self._record_drop(dropped)
        limits = {step_config.name: step_config.sources for step_config in self.config.steps}
        self.step_counts.check_balance([READ_STEP, *limits, WRITE_STEP], limits, self.sources)
        return PassResult(
            [Path(job.output) for job in jobs],
            self.step_counts,
            self.stats,
            self.examples,
            self._run_key(keys),
        )

    def _drop_duplicate_ids(self, shards: list[Shard]) -> list[Shard]:
        """An id stands for one row: of several with the same id the first stays."""
        deduplicated = []
        for shard, duplicates in zip(
            shards,
            find_duplicate_ids([(s.path, s.decision.dropped_rows) for s in shards]),
            strict=True,
        ):
            for sample_id, source_index in duplicates.values():
                source = self.sources[source_index]
                self.step_counts.record_in(WRITE_STEP, source)
                self.step_counts.record_drop(WRITE_STEP, source, "duplicate_id")
                self._record_drop(
                    DroppedRow(
                        WRITE_STEP, source, sample_id, "duplicate_id", "an earlier row has this id"
                    )
                )
            deduplicated.append(
                shard._replace(
                    decision=ShardDecision(
                        shard.decision.dropped_rows | duplicates.keys(), shard.decision.notes
                    )
                )
            )
        release_freed_memory()
        return deduplicated

    def _part_jobs(self, shards: Sequence[Shard]) -> Iterator[Job]:
        """Parts of equally many rows, whatever the shards were: their bytes depend on the rows
        alone.
        """
        row_ranges: list[tuple[RowRange, str]] = []
        n_rows = n_parts = 0
        for shard in shards:
            start = 0
            for row in range(shard.rows):
                n_rows += row not in shard.decision.dropped_rows
                if n_rows == SHARD_ROWS:
                    row_ranges.append((_row_range(shard, start, row + 1), shard.key))
                    yield self._part_job(row_ranges)
                    row_ranges, n_rows, start, n_parts = [], 0, row + 1, n_parts + 1
            if start < shard.rows:
                row_ranges.append((_row_range(shard, start, shard.rows), shard.key))
        if n_rows or not n_parts:
            yield self._part_job(row_ranges)

    def _part_job(self, row_ranges: Sequence[tuple[RowRange, str]]) -> Job:
        part_inputs = [
            [
                key,
                p.start,
                p.stop,
                sorted(p.dropped_rows),
                {str(k): dict(v) for k, v in sorted(p.notes.items())},
            ]
            for p, key in row_ranges
        ]
        key = digest([self.runner_digest, self.sources, self.config.image_format, part_inputs])
        output = str(self.work / "parts" / f"{key[:40]}.parquet")
        return Job(
            key,
            output,
            tuple(p for p, _ in row_ranges),
            self.sources,
            image_format=self.config.image_format,
        )

    def _record_drop(self, dropped: DroppedRow) -> None:
        self._drops.add(dropped)


class DropLog:
    """Every dropped row of a run, one line each; written anew by each run.

    Raises:
        StorageError: the disk refused.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with storage_errors(path):
            self._file = path.open("w", encoding="utf-8")

    def add(self, dropped: DroppedRow) -> None:
        row = {
            "id": dropped.id,
            "source": dropped.source,
            "step": dropped.step,
            "reason": dropped.reason,
            "detail": dropped.detail,
        }
        with storage_errors(self._path):
            self._file.write(dump_line(row))

    def __enter__(self) -> DropLog:
        return self

    def __exit__(self, *_: object) -> None:
        with storage_errors(self._path):
            self._file.close()


def check_output_folder(out: Path) -> None:
    """Refuse a folder that no run of ours wrote: it is replaced as a whole.

    Raises:
        StorageError: it is one.
    """
    known_files = (WORK_DIR, DATASET_CARD, MANIFEST, "run.json")
    if out.exists() and not (
        out.is_dir()
        and (not any(out.iterdir()) or any((out / name).exists() for name in known_files))
    ):
        raise StorageError(
            f"{out} exists and is no dataset of an earlier run; choose another --out, or move it"
            " away."
        )


def check_not_inside(label: str, path: str | Path | None, out: Path) -> None:
    """Refuse an input that lies in the output, which is replaced as a whole.

    Raises:
        InputError: names both.
    """
    if (
        path is not None
        and Path(path).exists()
        and Path(path).resolve().is_relative_to(out.resolve())
    ):
        raise InputError(
            f"{label} lies in {out}, which a finished run replaces as a whole; choose another --out."
        )


def _is_done(job: Job) -> bool:
    path = Path(job.output)
    return path.is_file() and (job.steps is not None or part_stats_path(path).is_file())


def _decision_to_json(decision: ShardDecision) -> list[object]:
    return [
        sorted(decision.dropped_rows),
        {str(row): dict(notes) for row, notes in sorted(decision.notes.items())},
    ]


def _row_range(shard: Shard, start: int, stop: int) -> RowRange:
    dropped_rows = frozenset(row for row in shard.decision.dropped_rows if start <= row < stop)
    notes = {row: notes for row, notes in shard.decision.notes.items() if start <= row < stop}
    return RowRange(str(shard.path), start, stop, dropped_rows, notes)


def remove_work_dir(work: Path) -> None:
    """Remove the files of a finished run."""
    shutil.rmtree(work, ignore_errors=True)
