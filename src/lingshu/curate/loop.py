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
from typing import Any, NamedTuple, Protocol

from lingshu.core.artefacts import DATASET_CARD, SHARD_ROWS, DatasetCard, open_dataset
from lingshu.core.config import to_plain
from lingshu.core.errors import InputError, StorageError
from lingshu.core.files import (
    MANIFEST,
    JsonlAppender,
    atomic_file,
    digest,
    disk,
    dump_line,
    read_json,
)
from lingshu.core.memory import give_back
from lingshu.curate import parts as parts_module
from lingshu.curate import work as work_module
from lingshu.curate.config import CurateConfig
from lingshu.curate.decide import Decided, decided, repeated_ids
from lingshu.curate.ledger import Ledger
from lingshu.curate.local import Backend
from lingshu.curate.parts import facts_file
from lingshu.curate.plan import (
    READ,
    WRITE,
    Code,
    Pass,
    check_halves,
    library_versions,
    passes,
    resolve,
    settle,
    step_digests,
)
from lingshu.curate.reading import read_shards
from lingshu.curate.rows import read_facts
from lingshu.curate.work import Job, Lost, Piece, read_journal, told
from lingshu.imaging.pseudonyms import new_key

WORK, DROPS = "work", "drops.jsonl"
DEATHS = 3  # at one row, before the row is dropped


class Progress(Protocol):
    """What a run tells of itself: the name of a pass and its rows as far as they are known, then
    rows done.
    """

    def start(self, title: str, total: int | None) -> None: ...

    def advance(self, rows: int, *, done_before: bool) -> None: ...


class Shard(NamedTuple):
    """A shard between passes, with what the last decision said of its rows."""

    path: Path
    rows: int
    key: str
    decided: Decided


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


class Passed(NamedTuple):
    """What all passes came to: the parts of the dataset in order, the counts, what steps told, and
    examples.
    """

    parts: list[Path]
    ledger: Ledger
    told: Mapping[str, Mapping[str, Any]]
    examples: list[Example]
    key: str


class Run:
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
        check_folder(out)
        self.config, self.out, self.backend, self.progress, self.limit = (
            resolve(config),
            out,
            backend,
            progress,
            limit,
        )
        self.work = out / WORK
        for source in self.config.sources:
            check_apart(f"source {source.name!r}", source.path, out)
        settled = settle(self.config)
        if key is None:
            check_halves(settled)
        self.passes = passes(settled)
        self.sources = tuple(source.name for source in self.config.sources)
        self.digests = step_digests(settled.steps)
        code = Code()
        self.runner = digest(
            [code.digest(work_module), code.digest(parts_module), library_versions()]
        )
        self.ledger = Ledger()
        self._secret = key
        self.told: dict[str, Mapping[str, Any]] = {}
        self.examples: list[Example] = []

    def go(self) -> Passed:
        """Do every pass that is not done yet, and write the parts."""
        with self._at_work():
            shards, keys = self._passes()
            return self._write(shards, keys)

    def signatures(self) -> int:
        """Do the passes without writing a dataset; returns how many rows are left."""
        with self._at_work():
            return sum(shard.rows - len(shard.decided.out) for shard in self._passes()[0])

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        with disk(self.work):
            # rows as they were read lie here until the run ends
            self.work.mkdir(parents=True, exist_ok=True, mode=0o700)
        with JsonlAppender(self.work / "lock"), DropList(self.work / DROPS) as drops:
            self._drops = drops
            yield

    def _passes(self) -> tuple[list[Shard], list[str]]:
        """The shards behind the last pass, and the keys of those that were read."""
        shards, keys, rows = self._read(), [], None
        for number, steps in enumerate(self.passes):
            self.progress.start(f"pass {number + 1} of {len(self.passes)}", rows)
            done = self._pass(number, steps, shards, keys)
            shards = iter(done)
            rows = sum(shard.rows - len(shard.decided.out) for shard in done)
        return list(shards), keys

    def finished(self) -> DatasetCard | None:
        """The card of the dataset in OUT, where it was made by this very run: same configuration,
        code and input.
        """
        if not (self.out / DATASET_CARD).is_file() or not (self.out / MANIFEST).is_file():
            return None
        made = read_json(self.out / "run.json").get("hashes", {}).get("run")
        ledger, keys = Ledger(), []
        for shard in read_shards(
            self.config,
            self.work / "input",
            ledger,
            lambda _: None,
            key=self._hash_key(),
            limit=self.limit,
        ):
            keys.append(shard.key)
        return open_dataset(self.out) if made == self._key(keys) else None

    def _hash_key(self) -> bytes:
        """The key of ids: the given one, or a random one that lies with the work and goes when the
        run ends.
        """
        if self._secret is None:
            path = self.work / "key"
            if not path.is_file():
                with disk(path), atomic_file(path) as temporary:
                    temporary.write_bytes(new_key())
                    temporary.chmod(0o600)
            self._secret = path.read_bytes()
        return self._secret

    def _key(self, inputs: Sequence[str]) -> str:
        plain = {k: v for k, v in to_plain(self.config).items() if k != "workers"}
        return digest([plain, self.limit, list(inputs), list(self.digests.values()), self.runner])

    def _read(self) -> Iterator[Shard]:
        for shard in read_shards(
            self.config,
            self.work / "input",
            self.ledger,
            self._lose,
            key=self._hash_key(),
            limit=self.limit,
        ):
            yield Shard(shard.path, shard.rows, shard.key, Decided())

    # --- passes
    # ------------------------------------------------------------------------------------------------------

    def _pass(
        self, number: int, steps: Pass, shards: Iterator[Shard], keys: list[str]
    ) -> list[Shard]:
        folder = self.work / f"pass-{number + 1}"

        def job(shard: Shard) -> Job:
            if number == 0:
                keys.append(shard.key)
            piece = Piece(
                str(shard.path), 0, shard.rows, frozenset(shard.decided.out), shard.decided.notes
            )
            key = digest(
                [
                    self.runner,
                    self.sources,
                    [self.digests[use.name] for use in steps.steps],
                    shard.key,
                    _decision(shard.decided),
                ]
            )
            return Job(key, str(folder / f"{key[:40]}.arrow"), (piece,), self.sources, steps)

        jobs = self._do(job(shard) for shard in shards)
        lengths = []
        for done in jobs:
            facts = read_facts(Path(done.output))
            self.ledger.merge(facts["ledger"])
            for lost in told(facts):
                self._lose(lost)
            self._remember(facts["shown"])
            lengths.append(facts["rows"])
        shards_behind = [
            Shard(Path(j.output), n, j.key, Decided()) for j, n in zip(jobs, lengths, strict=True)
        ]
        if steps.table is None:
            return shards_behind
        ranks = {source.name: source.rank for source in self.config.sources}
        result = decided(steps.table, [shard.path for shard in shards_behind], self.sources, ranks)
        give_back()  # of the table of all signatures, while the workers write
        self.ledger.merge(result.ledger.plain())
        self.told[steps.table.name] = result.told
        for lost in result.lost:
            self._lose(lost)
        self.examples += [
            Example(steps.table.name, f"dropped: {e.reason}", e.text, (), e.detail)
            for e in result.examples
        ]
        return [
            shard._replace(decided=one)
            for shard, one in zip(shards_behind, result.shards, strict=True)
        ]

    def _remember(self, shown: Sequence[Mapping[str, Any]]) -> None:
        for entry in shown:
            if (
                sum(
                    e.step == entry["step"] and e.outcome == entry["outcome"] for e in self.examples
                )
                < work_module.SHOWN
            ):
                self.examples.append(
                    Example(entry["step"], entry["outcome"], entry["before"], tuple(entry["after"]))
                )

    def _do(self, jobs: Iterator[Job]) -> list[Job]:
        """Do every job that has no output yet, and return all of them in order.

        A job whose process died is given out again.
        """
        ordered: list[Job] = []
        again: deque[Job] = deque()
        deaths = Counter[tuple[str, tuple[int, int] | None]]()

        def take() -> Job | None:
            if again:
                return again.popleft()
            for job in jobs:
                ordered.append(job)
                if not _is_done(job):
                    with disk(Path(job.output)):
                        Path(job.output).parent.mkdir(parents=True, exist_ok=True)
                    return job
                self.progress.advance(job.rows, done_before=True)
            return None

        for outcome in self.backend.run(take):
            if outcome.fault:
                raise outcome.fault.error()
            if not outcome.died:
                self.progress.advance(outcome.job.rows, done_before=False)
                continue
            place = read_journal(outcome.job.journal)
            outcome.job.journal.unlink(missing_ok=True)
            deaths[outcome.job.output, place] += 1
            again.append(
                self._once_more(outcome.job, place, deaths[outcome.job.output, place], outcome.died)
            )
        return ordered

    def _once_more(self, job: Job, place: tuple[int, int] | None, deaths: int, how: str) -> Job:
        if deaths < DEATHS:
            return job
        if place is None or place[0] in job.dead:
            where = "before its first row" if place is None else "at a row that it was to leave out"
            raise InputError(
                f"the process that works on {Path(job.output).name} died {deaths} times {where}"
                f" ({how}); look at its messages above."
            )
        row, step = place
        return replace(job, dead={**job.dead, row: step})

    # --- the parts of the dataset
    # --------------------------------------------------------------------------------------

    def _write(self, shards: list[Shard], keys: list[str]) -> Passed:
        if not self.passes:
            keys += [shard.key for shard in shards]
        shards = self._without_repeats(shards)
        self.progress.start("writing", sum(shard.rows - len(shard.decided.out) for shard in shards))
        jobs = self._do(self._parts(shards))
        for job in jobs:
            facts = parts_module.part_facts(Path(job.output))
            self.ledger.merge(facts["ledger"])
            for lost in told(facts):
                self._lose(lost)
        limits = {use.name: use.sources for use in self.config.steps}
        self.ledger.check([READ, *limits, WRITE], limits, self.sources)
        return Passed(
            [Path(job.output) for job in jobs],
            self.ledger,
            self.told,
            self.examples,
            self._key(keys),
        )

    def _without_repeats(self, shards: list[Shard]) -> list[Shard]:
        """An id stands for one row: of several with the same id the first stays."""
        found = []
        for shard, repeats in zip(
            shards, repeated_ids([(s.path, s.decided.out) for s in shards]), strict=True
        ):
            for name, origin in repeats.values():
                source = self.sources[origin]
                self.ledger.enter(WRITE, source)
                self.ledger.drop(WRITE, source, "duplicate_id")
                self._lose(Lost(WRITE, source, name, "duplicate_id", "an earlier row has this id"))
            found.append(
                shard._replace(
                    decided=Decided(shard.decided.out | repeats.keys(), shard.decided.notes)
                )
            )
        give_back()
        return found

    def _parts(self, shards: Sequence[Shard]) -> Iterator[Job]:
        """Parts of equally many rows, whatever the shards were: their bytes depend on the rows
        alone.
        """
        pieces: list[tuple[Piece, str]] = []
        held = made = 0
        for shard in shards:
            start = 0
            for row in range(shard.rows):
                held += row not in shard.decided.out
                if held == SHARD_ROWS:
                    pieces.append((_piece(shard, start, row + 1), shard.key))
                    yield self._part(pieces)
                    pieces, held, start, made = [], 0, row + 1, made + 1
            if start < shard.rows:
                pieces.append((_piece(shard, start, shard.rows), shard.key))
        if held or not made:
            yield self._part(pieces)

    def _part(self, pieces: Sequence[tuple[Piece, str]]) -> Job:
        parts = [
            [
                key,
                p.start,
                p.stop,
                sorted(p.out),
                {str(k): dict(v) for k, v in sorted(p.notes.items())},
            ]
            for p, key in pieces
        ]
        key = digest([self.runner, self.sources, self.config.image_format, parts])
        output = str(self.work / "parts" / f"{key[:40]}.parquet")
        return Job(
            key,
            output,
            tuple(p for p, _ in pieces),
            self.sources,
            image_format=self.config.image_format,
        )

    def _lose(self, lost: Lost) -> None:
        self._drops.add(lost)


class DropList:
    """Every dropped row of a run, one line each; written anew by each run.

    Raises:
        StorageError: the disk refused.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with disk(path):
            self._file = path.open("w", encoding="utf-8")

    def add(self, lost: Lost) -> None:
        row = {
            "id": lost.id,
            "source": lost.source,
            "step": lost.step,
            "reason": lost.reason,
            "detail": lost.detail,
        }
        with disk(self._path):
            self._file.write(dump_line(row))

    def __enter__(self) -> DropList:
        return self

    def __exit__(self, *_: object) -> None:
        with disk(self._path):
            self._file.close()


def check_folder(out: Path) -> None:
    """Refuse a folder that no run of ours wrote: it is replaced as a whole.

    Raises:
        StorageError: it is one.
    """
    ours = (WORK, DATASET_CARD, MANIFEST, "run.json")
    if out.exists() and not (
        out.is_dir() and (not any(out.iterdir()) or any((out / name).exists() for name in ours))
    ):
        raise StorageError(
            f"{out} exists and is no dataset of an earlier run; choose another --out, or move it"
            " away."
        )


def check_apart(what: str, path: str | Path | None, out: Path) -> None:
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
            f"{what} lies in {out}, which a finished run replaces as a whole; choose another --out."
        )


def _is_done(job: Job) -> bool:
    path = Path(job.output)
    return path.is_file() and (job.steps is not None or facts_file(path).is_file())


def _decision(found: Decided) -> list[object]:
    return [
        sorted(found.out),
        {str(row): dict(notes) for row, notes in sorted(found.notes.items())},
    ]


def _piece(shard: Shard, start: int, stop: int) -> Piece:
    out = frozenset(row for row in shard.decided.out if start <= row < stop)
    notes = {row: notes for row, notes in shard.decided.notes.items() if start <= row < stop}
    return Piece(str(shard.path), start, stop, out, notes)


def discard(work: Path) -> None:
    """Remove the files of a finished run."""
    shutil.rmtree(work, ignore_errors=True)
