"""The curation run: shards of the sources, passes over them, decisions between, and the parts.

OUT/work/input/     shards as they were read
OUT/work/pass-N/    shards after pass N, named by their keys
OUT/work/parts/     parts of the dataset
OUT/work/dataset/   the finished dataset, before it moves to OUT

A key is the digest of code, parameters and input: what has a file under its key is not done again.
"""

from __future__ import annotations

import contextlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lingshu.core import artifacts, files
from lingshu.core.config import to_plain
from lingshu.core.errors import InputError, StorageError
from lingshu.core.progress import Progress
from lingshu.core.pseudonyms import new_key
from lingshu.core.step_types import Decision, TableStep
from lingshu.curate import plan, worker
from lingshu.curate.config import CurateConfig, Source, StepConfig
from lingshu.curate.counts import StepCounts
from lingshu.curate.executors import Backend
from lingshu.curate.input_shards import read_shards
from lingshu.curate.spill import read_metadata, read_rows, read_signatures
from lingshu.curate.worker import MAX_EXAMPLES, DroppedRow, Example, Job, RowRange, Shard

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

WORK_DIR, DROPS_FILE = "work", "drops.jsonl"
MAX_WORKER_CRASHES = 3  # at one row, before the row is dropped


class CurationRun:
    """One run in one folder. Only one process at a time may work there.

    Raises:
        StorageError: the folder holds something else, or another process is using it.
        InputError: a source is inside the folder.
    """

    def __init__(
        self,
        config: CurateConfig,
        out: Path,
        backend: Backend,
        *,
        progress: Progress,
        limit: int | None = None,
        hash_key: bytes | None = None,
    ) -> None:
        check_output_folder(out)
        self.config, self.limit = plan.resolve(config), limit
        self.out, self.work = out, out / WORK_DIR
        self._backend, self._progress, self._hash_key = backend, progress, hash_key
        for source in self.config.sources:
            check_not_inside(f"source {source.name!r}", source.path, out)
        seeded = plan.with_step_seeds(self.config)
        if hash_key is None:
            plan.check_split(seeded)
        self._passes = plan.plan_passes(seeded)
        self._sources = tuple(source.name for source in self.config.sources)
        self._digests = plan.step_digests(seeded.steps)
        code_digest = plan.CodeDigests().digest(worker)
        self._runner_digest = files.digest([code_digest, plan.library_versions()])
        self._input_keys: list[str] = []
        self.step_counts = StepCounts()
        self.stats: dict[str, Mapping[str, Any]] = {}
        self.examples: list[Example] = []

    def run(self) -> list[Path]:
        """Do every pass that is not done yet, write the parts of the dataset and return them."""
        with self._lock_work_dir():
            return self._write_parts(self._run_passes())

    def compute_signatures(self) -> int:
        """Do the passes without writing a dataset; returns how many rows are left."""
        with self._lock_work_dir():
            return sum(shard.n_left for shard in self._run_passes())

    @contextlib.contextmanager
    def _lock_work_dir(self) -> Iterator[None]:
        with files.storage_errors(self.work):
            # Rows as they were read are stored here until the run ends.
            self.work.mkdir(parents=True, exist_ok=True, mode=0o700)
        with files.JsonlAppender(self.work / "lock"), DropLog(self.work / DROPS_FILE) as drops:
            self._log_drop = drops.add
            yield

    def finished_card(self) -> artifacts.DatasetCard | None:
        """The card of the dataset in OUT if this very run made it."""
        if (
            not (self.out / artifacts.DATASET_CARD).is_file()
            or not (self.out / files.MANIFEST).is_file()
        ):
            return None
        finished = files.read_json(self.out / "run.json").get("hashes", {}).get("run")
        keys = [shard.key for shard in self._read(StepCounts(), lambda _: None)]
        return artifacts.open_dataset(self.out) if finished == self._digest(keys) else None

    @property
    def digest(self) -> str:
        """What identifies the finished run."""
        return self._digest(self._input_keys)

    def _digest(self, inputs: Sequence[str]) -> str:
        config = {k: v for k, v in to_plain(self.config).items() if k != "workers"}
        steps = list(self._digests.values())
        return files.digest([config, self.limit, inputs, steps, self._runner_digest])

    def _load_hash_key(self) -> bytes:
        """The key of ids; a random one is stored with the work files and removed with them."""
        if self._hash_key is None:
            path = self.work / "key"
            if not path.is_file():
                with files.storage_errors(path), files.atomic_file(path) as temporary:
                    temporary.write_bytes(new_key())
                    temporary.chmod(0o600)
            self._hash_key = path.read_bytes()
        return self._hash_key

    def _read(self, counts: StepCounts, on_drop: Callable[[DroppedRow], None]) -> Iterator[Shard]:
        folder, key = self.work / "input", self._load_hash_key()
        return read_shards(self.config, folder, counts, on_drop, hash_key=key, limit=self.limit)

    def _inputs(self) -> Iterator[Shard]:
        for shard in self._read(self.step_counts, self._log_drop):
            self._input_keys.append(shard.key)
            yield shard

    # --- passes

    def _run_passes(self) -> list[Shard]:
        """The shards after the last pass."""
        shards: Iterable[Shard] = self._inputs()
        rows = None
        for index, steps in enumerate(self._passes):
            self._progress.start(rows, title=f"pass {index + 1} of {len(self._passes)}")
            shards = self._run_pass(self.work / f"pass-{index + 1}", steps, shards)
            rows = sum(shard.n_left for shard in shards)
        return list(shards)

    def _run_pass(self, folder: Path, steps: plan.Pass, shards: Iterable[Shard]) -> list[Shard]:
        outputs = []
        for job in self._run_jobs(self._pass_job(folder, steps, shard) for shard in shards):
            metadata = read_metadata(Path(job.output))
            self._collect(metadata)
            for values in metadata["examples"]:
                self._add_example(Example(*values))
            outputs.append(Shard(Path(job.output), metadata["rows"], job.key))
        if steps.table_step is not None:
            outputs = self._decide(steps.table_step, outputs)
            # of the table of all signatures, before the workers write
            artifacts.release_freed_memory()
        return outputs

    def _decide(self, step: StepConfig, shards: Sequence[Shard]) -> list[Shard]:
        """Let a table step decide over the signatures of all shards.

        Raises:
            InputError: it dropped or noted a row that its table does not have.
        """
        built = plan.build_step(step)
        assert isinstance(built, TableStep)
        table, locations, sources = _load_signatures(step, shards, self.config.sources)
        decision = built.decide(table) if table.num_rows else Decision({})
        for row in (*decision.drops, *decision.notes):
            if not 0 <= row < table.num_rows:
                problem = f"step {step.name!r} decided on row {row} of {table.num_rows}"
                raise InputError(f"{problem}; rows are counted from 0.")
        for source, count in Counter(sources).items():
            self.step_counts.add(step.name, source, "out", count)
        dropped_rows: list[set[int]] = [set() for _ in shards]
        notes: list[dict[int, Mapping[str, str]]] = [{} for _ in shards]
        n_drops = Counter[str]()
        for row, drop in sorted(decision.drops.items()):
            shard, row_index = locations[row].tolist()
            dropped_rows[shard].add(row_index)
            self.step_counts.add(step.name, sources[row], "out", -1)
            drop = replace(drop, id=table["id"][row].as_py())
            self._drop(DroppedRow.of(drop, sources[row], step.name))
            n_drops[drop.reason] += 1
            if n_drops[drop.reason] <= MAX_EXAMPLES:
                before = read_rows(shards[shard].path)[row_index].text
                outcome = f"dropped: {drop.reason}"
                self.examples.append(Example(step.name, outcome, before, (), drop.detail))
        for row, row_notes in decision.notes.items():
            if row not in decision.drops:
                shard, row_index = locations[row].tolist()
                notes[shard][row_index] = dict(row_notes)
        self.stats[step.name] = dict(decision.stats)
        return [
            replace(shard, dropped_rows=frozenset(rows), notes=row_notes)
            for shard, rows, row_notes in zip(shards, dropped_rows, notes, strict=True)
        ]

    def _drop(self, dropped: DroppedRow) -> None:
        self.step_counts.drop(dropped.step, dropped.source, dropped.reason)
        self._log_drop(dropped)

    def _pass_job(self, folder: Path, steps: plan.Pass, shard: Shard) -> Job:
        digests = [self._digests[step.name] for step in steps.steps]
        decision = [sorted(shard.dropped_rows), _sorted_notes(shard.notes)]
        key = files.digest([self._runner_digest, self._sources, digests, shard.key, decision])
        output = str(folder / f"{key[:40]}.arrow")
        return Job(key, output, (shard.row_range(0, shard.rows),), self._sources, steps)

    def _collect(self, metadata: Mapping[str, Any]) -> None:
        self.step_counts.merge(metadata["counts"])
        for values in metadata["drops"]:
            self._log_drop(DroppedRow(*values))

    def _add_example(self, example: Example) -> None:
        outcome = (example.step, example.outcome)
        n_same = sum((other.step, other.outcome) == outcome for other in self.examples)
        if n_same < MAX_EXAMPLES:
            self.examples.append(example)

    def _run_jobs(self, jobs: Iterator[Job]) -> list[Job]:
        """Do every job that has no output yet, and return all of them in order.

        A job whose process died is queued again.
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
                    with files.storage_errors(Path(job.output)):
                        Path(job.output).parent.mkdir(parents=True, exist_ok=True)
                    return job
                self._progress.advance(job.rows, resumed=True)
            return None

        for job, error, crash_reason in self._backend.run(next_job):
            if error:
                raise error.to_exception()
            if not crash_reason:
                self._progress.advance(job.rows)
                continue
            position = worker.read_marker(job.marker_path)
            job.marker_path.unlink(missing_ok=True)
            crashes[job.output, position] += 1
            n_crashes = crashes[job.output, position]
            retries.append(_after_crash(job, position, n_crashes, crash_reason))
        return all_jobs

    # --- the parts of the dataset

    def _write_parts(self, shards: list[Shard]) -> list[Path]:
        shards = self._drop_duplicate_ids(shards)
        self._progress.start(sum(shard.n_left for shard in shards), title="writing")
        parts = [Path(job.output) for job in self._run_jobs(self._part_jobs(shards))]
        for part in parts:
            self._collect(files.read_json(worker.part_stats_path(part)))
        limits = {step.name: step.sources for step in self.config.steps}
        order = [plan.READ_STEP, *limits, plan.WRITE_STEP]
        self.step_counts.check_balance(order, limits, self._sources)
        return parts

    def _drop_duplicate_ids(self, shards: list[Shard]) -> list[Shard]:
        """Of several rows with the same id the first stays."""
        unique = []
        for shard, duplicates in zip(shards, _find_duplicate_ids(shards), strict=True):
            for sample_id, source_index in duplicates.values():
                source = self._sources[source_index]
                drop = DroppedRow(
                    sample_id, source, plan.WRITE_STEP, "duplicate_id", "an earlier row has this id"
                )
                self.step_counts.add(plan.WRITE_STEP, source, "in")
                self._drop(drop)
            unique.append(replace(shard, dropped_rows=shard.dropped_rows | duplicates.keys()))
        artifacts.release_freed_memory()
        return unique

    def _part_jobs(self, shards: Sequence[Shard]) -> Iterator[Job]:
        """Parts of equal size whatever the shards were: their bytes depend on the rows alone."""
        row_ranges: list[tuple[RowRange, str]] = []
        n_rows = n_parts = 0
        for shard in shards:
            start = 0
            for row in range(shard.rows):
                n_rows += row not in shard.dropped_rows
                if n_rows == artifacts.SHARD_ROWS:
                    row_ranges.append((shard.row_range(start, row + 1), shard.key))
                    yield self._part_job(row_ranges)
                    row_ranges, n_rows, start, n_parts = [], 0, row + 1, n_parts + 1
            if start < shard.rows:
                row_ranges.append((shard.row_range(start, shard.rows), shard.key))
        if n_rows or not n_parts:
            yield self._part_job(row_ranges)

    def _part_job(self, row_ranges: Sequence[tuple[RowRange, str]]) -> Job:
        inputs = [
            [key, part.start, part.stop, sorted(part.dropped_rows), _sorted_notes(part.notes)]
            for part, key in row_ranges
        ]
        image_format = self.config.image_format
        key = files.digest([self._runner_digest, self._sources, image_format, inputs])
        output = str(self.work / "parts" / f"{key[:40]}.parquet")
        ranges = tuple(part for part, _ in row_ranges)
        return Job(key, output, ranges, self._sources, image_format=image_format)


def _sorted_notes(notes: Mapping[int, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    return {str(row): dict(notes) for row, notes in sorted(notes.items())}


def _is_done(job: Job) -> bool:
    path = Path(job.output)
    return path.is_file() and (job.steps is not None or worker.part_stats_path(path).is_file())


def _after_crash(
    job: Job, position: tuple[int, int] | None, n_crashes: int, crash_reason: str
) -> Job:
    """The job to retry; without the row at which its workers died too often."""
    if n_crashes < MAX_WORKER_CRASHES:
        return job
    if position is None or position[0] in job.crashed_rows:
        when = "before its first row" if position is None else "at a row that was left out already"
        problem = f"the process that works on {Path(job.output).name} died {n_crashes} times {when}"
        raise InputError(f"{problem} ({crash_reason}); look at its messages above.")
    row, step = position
    return replace(job, crashed_rows={**job.crashed_rows, row: step})


class DropLog(files.Closeable):
    """Every dropped row of a run, one line each; rewritten by each run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with files.storage_errors(path):
            self._file = path.open("w", encoding="utf-8")

    def add(self, drop: DroppedRow, **details: object) -> None:
        with files.storage_errors(self._path):
            self._file.write(files.dump_line({**drop._asdict(), **details}))

    def close(self) -> None:
        with files.storage_errors(self._path):
            self._file.close()


def check_output_folder(out: Path) -> None:
    """Refuse a folder that an earlier run did not write, because it is replaced as a whole.

    Raises:
        StorageError: it is one.
    """
    known_files = (WORK_DIR, artifacts.DATASET_CARD, files.MANIFEST, "run.json")
    if not out.exists():
        return
    if not out.is_dir() or (
        any(out.iterdir()) and not any((out / name).exists() for name in known_files)
    ):
        problem = f"{out} exists and is not a dataset of an earlier run"
        raise StorageError(f"{problem}; choose another --out, or move it away.")


def check_not_inside(label: str, path: str | Path | None, out: Path) -> None:
    """Refuse an input inside the output, which is replaced as a whole.

    Raises:
        InputError: names both.
    """
    if path is None or not Path(path).exists():
        return
    if Path(path).resolve().is_relative_to(out.resolve()):
        problem = f"{label} is inside {out}, which a finished run replaces as a whole"
        raise InputError(f"{problem}; choose another --out.")


# --- decisions over all shards


def _load_signatures(
    step: StepConfig, shards: Sequence[Shard], sources: Sequence[Source]
) -> tuple[pa.Table, NDArray[np.int64], list[str]]:
    """The rows with a signature: table, locations (rows x 2: shard, row), names of the sources."""
    import numpy as np
    import pyarrow as pa

    empty = {"id": pa.array([], pa.string()), "source_index": pa.array([], pa.int32())}
    tables = [pa.table(empty)]
    locations = [np.zeros((0, 2), np.int64)]
    for shard_index, shard in enumerate(shards):
        signatures = read_signatures(shard.path)
        has_signature = signatures["has_signature"]
        rows = np.flatnonzero(has_signature.to_numpy())
        locations.append(np.stack([np.full(len(rows), shard_index), rows], axis=1))
        tables.append(signatures.filter(has_signature).drop_columns(["has_signature"]))
    table = pa.concat_tables(tables, promote_options="permissive")
    row_sources = [sources[index] for index in table["source_index"].to_pylist()]
    names = [source.name for source in row_sources]
    ranks = pa.array([source.rank for source in row_sources], pa.int64())
    added = {"source": pa.array(names, pa.string()), "rank": ranks}
    for position, (name, column) in enumerate(added.items(), 1):
        if name in table.column_names:
            raise InputError(
                f"the signature of step {step.name!r} has the column {name!r}, which the runner adds"
                " itself; rename it."
            )
        table = table.add_column(position, name, column)
    return table.drop_columns(["source_index"]), np.concatenate(locations), names


def _find_duplicate_ids(shards: Sequence[Shard]) -> Iterator[dict[int, tuple[str, int]]]:
    """For each shard the rows whose id an earlier row has: row -> (id, index of the source)."""
    import numpy as np
    import pyarrow as pa

    tables = [_remaining_ids(shard.path, shard.dropped_rows) for shard in shards]
    chunks = [chunk for table in tables for chunk in table["id"].chunks]
    counts = pa.chunked_array(chunks, pa.string()).value_counts()
    repeated = pa.array(np.flatnonzero(counts.field("counts").to_numpy() > 1))
    duplicate_ids = set(counts.field("values").take(repeated).to_pylist())
    seen: set[str] = set()
    for table in tables:
        duplicates: dict[int, tuple[str, int]] = {}
        if duplicate_ids:
            columns = (table[name].to_pylist() for name in ("id", "row", "source_index"))
            for sample_id, row, source_index in zip(*columns, strict=True):
                if sample_id in seen:
                    duplicates[row] = (sample_id, source_index)
                elif sample_id in duplicate_ids:
                    seen.add(sample_id)
        yield duplicates


def _remaining_ids(path: Path, dropped_rows: Set[int]) -> pa.Table:
    import pyarrow as pa

    with pa.OSFile(str(path)) as source:
        table = pa.ipc.open_file(source).read_all().select(["id", "source_index"])
    rows = range(table.num_rows)
    table = table.replace_schema_metadata(None).append_column("row", pa.array(rows, pa.int64()))
    if not dropped_rows:
        return table
    return table.filter(pa.array([row not in dropped_rows for row in rows], pa.bool_()))
