"""Step 1 of an evaluation: ask an engine a task's questions and keep every reply.

    OUT/<task>/replies.jsonl   one row per reply, append-only, matched by key and never by position
    OUT/<task>/asked.jsonl     one row per sample in the order of the task: {"id", "key"}, and where it has any "images",
                               the sha256 of each
    OUT/<task>/thumbnails.jsonl   small pictures for the report, where they are wanted (evaluate/_thumbnails.py)

The key says everything that decides a reply (core/artefacts.py). A run that was killed at any
moment goes on where it stopped: what is in the store is not asked again. With asked.jsonl, scoring
needs neither the model nor the images.

Several processes share a task as `rank` of `world`: each asks every world-th sample and writes a
file of its own, and all files of the folder are read as one, so that a run may be continued by
another number of processes.

Memory: fifty bytes a sample (evaluate/_ledger.py), and of a reply nothing once it is stored;
`samples` may lie on the disk (evaluate/spool.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import NamedTuple, overload

from lingshu.core.artefacts import ReplyStore, read_replies, reply_key
from lingshu.core.errors import BadImage, EngineError, InputError, LingshuError, fault, one_line
from lingshu.core.files import read_jsonl, sha256_bytes, write_jsonl
from lingshu.core.nouns import Engine, Image, Reply, Sample, Sampling, Task
from lingshu.core.release import Release, check_release
from lingshu.evaluate._ledger import Ledger
from lingshu.evaluate._thumbnails import THUMBNAILS, Thumbnails
from lingshu.evaluate.progress import Progress, Silent

ASKED = "asked.jsonl"


class Generated(NamedTuple):
    """What happened to the samples of this process: in all, answered before, asked now, and without
    an answer after it.
    """

    samples: int
    before: int
    asked: int
    errors: int


def generate(
    task: Task,
    samples: Sequence[Sample],
    engine: Engine,
    folder: Path,
    *,
    sampling: Sampling,
    images: Callable[[Image], bytes],
    release: Release | None = None,
    progress: Progress | None = None,
    rank: int = 0,
    world: int = 1,
    thumbnails: bool = False,
) -> Generated:
    """Ask what is not answered yet and store each list of replies as it comes.

    `samples` are all of the task in every process. `images` gives the encoded file of an image. A
    sample with an unreadable image is not asked; it and every reply that failed are kept as errors,
    and asked again by the next run. `thumbnails` keeps a small picture of each image for the
    report; without it those of an earlier run are removed.

    Raises:
        ReleaseError: a sample may not go to the engine's address; nothing was sent.
        InputError: two samples share an id, or `sampling` asks for several copies.
        EngineError: the engine cannot answer at all, or answered what it was not asked.
        StorageError: the disk refused a write, or another run is at work in `folder`.
    """
    if sampling.copies != 1:
        raise InputError(
            f"an evaluation asks each sample once, not {sampling.copies} times; set copies to 1."
        )
    if not 0 <= rank < world:
        raise InputError(f"rank {rank} of {world} processes cannot be; ranks count from 0.")
    check_release(samples, engine.endpoint, release or Release())
    progress = progress or Silent()
    share = _Share(samples, rank, world)
    with ReplyStore(folder, rank=rank, world=world) as store:
        # Every process reads the images of all samples, so that one of them is enough to keep the
        # pictures.
        with _pictures(folder, wanted=thumbnails) if rank == 0 else nullcontext() as pictures:
            ledger, unreadable = _ask(task, samples, engine, folder, sampling, images, pictures)
        for place in range(len(samples) if world > 1 else 0):
            if place % world != rank:
                ledger.settle(samples[place].id)
        told = _forget_answered(folder, ledger, unreadable)
        before = len(share) - ledger.waiting
        progress.start(len(share), before)
        bad = [name for name in unreadable if name in ledger]
        store.add(
            (ledger.key(name), Reply(name, None, error=unreadable[name]))
            for name in bad
            if name not in told
        )
        for name in bad:
            ledger.settle(name)
        progress.advance(len(bad), len(bad))
        asked, errors = ledger.waiting, len(bad)
        if asked:
            askable = (
                share
                if not unreadable
                else [sample for sample in share if sample.id not in unreadable]
            )
            for replies in _answers(engine, askable, sampling, _Skipped(ledger)):
                errors += _take(store, ledger, replies, progress)
        silent = [sample.id for sample in share if sample.id in ledger] if ledger.waiting else []
        if silent:
            store.add(
                (ledger.key(name), Reply(name, None, error="the engine gave no reply"))
                for name in silent
            )
            progress.advance(len(silent), len(silent))
    return Generated(len(share), before, asked, errors + len(silent))


def _answers(
    engine: Engine, samples: Sequence[Sample], sampling: Sampling, skip: _Skipped
) -> Iterator[list[Reply]]:
    """The engine's replies; what it raises besides errors of ours ends the run in one line, with
    the replies so far kept.
    """
    try:
        yield from engine.generate(samples, sampling, skip=skip)
    except (LingshuError, ImportError):
        raise
    except Exception as error:
        raise EngineError(
            f"{engine.model} failed: {fault(error)}; replies so far are kept, run the same command"
            " again to go on."
        ) from error


def missing(folder: Path) -> int:
    """How many samples of the last run in `folder` no process has a row of yet: 0 when all that
    share it are done.
    """
    open_keys = {row["key"] for row in read_jsonl(folder / ASKED)}
    open_keys.difference_update(key for key, _ in read_replies(folder))
    return len(open_keys)


class _Share(Sequence[Sample]):
    """Every world-th sample, from `rank`; holds no samples itself."""

    def __init__(self, samples: Sequence[Sample], rank: int, world: int) -> None:
        self._samples, self._places = samples, range(rank, len(samples), world)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, place: int) -> Sample: ...
    @overload
    def __getitem__(self, place: slice) -> list[Sample]: ...
    def __getitem__(self, place: int | slice) -> Sample | list[Sample]:
        if isinstance(place, slice):
            return [self._samples[i] for i in self._places[place]]
        return self._samples[self._places[place]]

    def __iter__(self) -> Iterator[Sample]:
        return (self._samples[i] for i in self._places)


class _Skipped:
    """The (id, copy) pairs that need no asking: all that nobody waits for."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __contains__(self, asked: object) -> bool:
        return isinstance(asked, tuple) and asked[0] not in self._ledger


def _pictures(folder: Path, *, wanted: bool) -> AbstractContextManager[Thumbnails | None]:
    if wanted:
        return Thumbnails(folder)
    (folder / THUMBNAILS).unlink(missing_ok=True)
    return nullcontext()


def _ask(
    task: Task,
    samples: Sequence[Sample],
    engine: Engine,
    folder: Path,
    sampling: Sampling,
    images: Callable[[Image], bytes],
    pictures: Thumbnails | None,
) -> tuple[Ledger, dict[str, str]]:
    """Write asked.jsonl; give the ledger of all samples, and why the images of some cannot be read."""
    ledger = Ledger()
    unreadable: dict[str, str] = {}
    known: dict[Image, str] = {}

    def looked_at(data: bytes) -> str:
        digest = sha256_bytes(data)
        if pictures:
            pictures.add(digest, data)
        return digest

    def hashed(sample: Sample, image: Image) -> str:
        try:
            # Several questions often share an image; one that lies in memory is quicker hashed than
            # looked up.
            if image.data is not None:
                return looked_at(images(image))
            if image not in known:
                known[image] = looked_at(images(image))
            return known[image]
        except BadImage as error:
            unreadable.setdefault(sample.id, one_line(error))
            return "unreadable"

    def rows() -> Iterator[dict[str, str | list[str]]]:
        for sample in samples:
            hashes = [hashed(sample, image) for image in sample.images]
            key = reply_key(sample, hashes, task.revision, engine.model, engine.digest, sampling, 0)
            ledger.add(sample.id, key)
            yield {"id": sample.id, "key": key} | ({"images": hashes} if hashes else {})
        twice = ledger.seal()
        if twice is not None:
            name = samples[twice].id
            raise InputError(
                f"{task.name} has two samples with the id {name!r}; ids must differ, or replies"
                " would be mixed up."
            )

    write_jsonl(folder / ASKED, rows())
    return ledger, unreadable


def _forget_answered(folder: Path, ledger: Ledger, unreadable: Mapping[str, str]) -> set[str]:
    """Settle what is answered; the ids among `unreadable` that are on record as failed already."""
    told: set[str] = set()
    for key, reply in read_replies(folder):
        # An id is part of its key, so that a reply to another question, model or decoding is told
        # apart here.
        if reply.id in ledger and ledger.key(reply.id) == key:
            if reply.error is None:
                ledger.settle(reply.id)
            elif reply.id in unreadable:
                told.add(reply.id)
    return told


def _take(store: ReplyStore, ledger: Ledger, replies: Sequence[Reply], progress: Progress) -> int:
    """Store replies and return how many of them failed."""
    names = {reply.id for reply in replies}
    for reply in replies:
        if reply.copy or reply.id not in ledger or len(names) < len(replies):
            raise EngineError(
                f"the engine answered {reply.id!r} (copy {reply.copy}), which it was not asked or"
                " had answered."
            )
    store.add((ledger.key(reply.id), reply) for reply in replies)
    for name in names:
        ledger.settle(name)
    failed = sum(reply.error is not None for reply in replies)
    progress.advance(len(replies), failed)
    return failed
