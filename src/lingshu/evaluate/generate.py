"""Step 1 of an evaluation: generate replies to a task's samples and keep every one.

    OUT/<task>/replies.jsonl      one row per reply, append-only, matched by key, never by position
    OUT/<task>/requests.jsonl     one row per sample in the order of the task: {"id", "key"}, and
                                  "images", the sha256 of each, where there are some
    OUT/<task>/thumbnails.jsonl   small images for the report, if requested (evaluate/thumbnails.py)

The key covers everything that decides a reply (core/artifacts.py). A run that was killed at any
moment resumes where it stopped: replies in the store are not generated again. With requests.jsonl,
scoring needs neither the model nor the images.

Several processes share a task as `rank` of `world_size`: each takes every world_size-th sample and
writes its own file, and all files of the folder are read as one, so a run may be resumed by another
number of processes.

Memory: fifty bytes a sample, and nothing of a reply once it is stored; `samples` may be on the disk
(evaluate/spool.py).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

from lingshu.core.artifacts import ReplyStore, read_replies, reply_key
from lingshu.core.data_policy import check_data_policy
from lingshu.core.errors import (
    EngineError,
    ImageError,
    InputError,
    LingshuError,
    describe_error,
    one_line,
)
from lingshu.core.files import enumerate_jsonl, sha256_bytes, write_jsonl
from lingshu.core.progress import NoProgress, Progress
from lingshu.core.types import DataPolicy, Engine, Image, Reply, Sample, Sampling, Task
from lingshu.evaluate.spool import LazySamples
from lingshu.evaluate.thumbnails import THUMBNAILS, Thumbnails

REQUESTS = "requests.jsonl"
KEY_BYTES = 32


class GenerationResult(NamedTuple):
    """Counts of this process's samples: all, answered before, requested, without an answer; and of
    the images scaled down in all its replies.
    """

    n_samples: int
    n_answered_before: int
    n_requested: int
    n_errors: int
    n_scaled_images: int = 0

    def counts(self, prefix: str = "") -> dict[str, int]:
        """The counts by name, as a run card has them."""
        names = ("samples", "answered_before", "requested", "errors", "scaled_images")
        return {prefix + name: count for name, count in zip(names, self, strict=True)}


def generate(
    task: Task,
    samples: Sequence[Sample],
    engine: Engine,
    folder: Path,
    *,
    sampling: Sampling,
    images: Callable[[Image], bytes],
    data_policy: DataPolicy | None = None,
    progress: Progress | None = None,
    rank: int = 0,
    world_size: int = 1,
    thumbnails: bool = False,
) -> GenerationResult:
    """Generate what is missing and store each list of replies as it arrives.

    `samples` are all of the task in every process. `images` gives the encoded file of an image. A
    sample with an unreadable image is not sent; it and every reply that failed are kept as errors,
    and repeated by the next run. `thumbnails` keeps a small version of each image for the report;
    without it those of an earlier run are removed.

    Raises:
        DataPolicyError: a sample may not go to the engine's address; nothing was sent.
        InputError: two samples share an id, or `sampling` requests several generations.
        EngineError: the engine cannot answer at all, or answered something else.
        StorageError: the disk refused a write, or another run uses `folder`.
    """
    if sampling.num_generations != 1:
        raise InputError(
            f"an evaluation generates one reply to each sample, not {sampling.num_generations}; set"
            " num_generations to 1."
        )
    if not 0 <= rank < world_size:
        raise InputError(f"rank {rank} of {world_size} processes cannot be; ranks count from 0.")
    check_data_policy(samples, engine.endpoint, data_policy or DataPolicy())
    progress = progress or NoProgress()
    indices, shard = range(rank, len(samples), world_size), samples
    if world_size > 1:
        shard = LazySamples(len(indices), lambda index: samples[indices[index]])
    with ReplyStore(folder, rank=rank, world_size=world_size) as store:
        if not thumbnails and rank == 0:
            (folder / THUMBNAILS).unlink(missing_ok=True)
        # Every process reads the images of all samples, so one of them keeps the thumbnails.
        is_keeper = thumbnails and rank == 0
        with Thumbnails(folder) if is_keeper else nullcontext() as thumbnail_store:
            pending, unreadable = _write_requests(
                task, samples, engine, folder, sampling, images, thumbnail_store
            )
        for index in range(len(samples) if world_size > 1 else 0):
            if index % world_size != rank:
                pending.mark_done(samples[index].id)
        recorded_failures, n_scaled = _drop_answered(folder, pending, unreadable)
        n_answered_before = len(shard) - pending.n_pending
        progress.start(len(shard), n_answered_before)

        def fail(errors: Mapping[str, str], recorded: set[str]) -> None:
            store.add(
                (pending.key(name), Reply(name, None, error=error))
                for name, error in errors.items()
                if name not in recorded
            )
            for name in errors:
                pending.mark_done(name)
            progress.advance(len(errors), len(errors))

        failures = {name: error for name, error in unreadable.items() if name in pending}
        fail(failures, recorded_failures)
        n_requested, n_errors = pending.n_pending, len(failures)
        if n_requested:
            readable = [s for s in shard if s.id not in unreadable] if unreadable else shard
            for replies in _generate_replies(engine, readable, sampling, pending):
                n_errors += _store_replies(store, pending, replies, progress)
                n_scaled += sum(len(reply.scaled_images) for reply in replies)
        if pending.n_pending:
            unanswered = [sample.id for sample in shard if sample.id in pending]
            fail(dict.fromkeys(unanswered, "the engine gave no reply"), set())
            n_errors += len(unanswered)
    return GenerationResult(len(shard), n_answered_before, n_requested, n_errors, n_scaled)


def _generate_replies(
    engine: Engine, samples: Sequence[Sample], sampling: Sampling, pending: PendingSamples
) -> Iterator[list[Reply]]:
    """The engine's replies; a foreign error ends the run in one line, which says how to resume."""
    try:
        yield from engine.generate(samples, sampling, skip=_AlreadyAnswered(pending))
    except (LingshuError, ImportError):
        raise
    except Exception as error:
        raise EngineError(
            f"{engine.model} failed: {describe_error(error)}; replies so far are kept, run the same"
            " command again to resume."
        ) from error


def count_pending(folder: Path) -> int:
    """How many samples of the last run in `folder` have no row by any of its processes yet."""
    requests = enumerate_jsonl(folder / REQUESTS, allow_truncated=False)
    pending_keys = {row["key"] for _, row in requests}
    pending_keys.difference_update(key for key, _ in read_replies(folder))
    return len(pending_keys)


class _AlreadyAnswered:
    """The (id, generation) pairs that are not needed: all that are not pending."""

    def __init__(self, pending: PendingSamples) -> None:
        self._pending = pending

    def __contains__(self, request: object) -> bool:
        return isinstance(request, tuple) and request[0] not in self._pending


def _write_requests(
    task: Task,
    samples: Sequence[Sample],
    engine: Engine,
    folder: Path,
    sampling: Sampling,
    images: Callable[[Image], bytes],
    thumbnail_store: Thumbnails | None,
) -> tuple[PendingSamples, dict[str, str]]:
    """Write requests.jsonl; all samples as pending, and why the images of some cannot be read."""
    pending = PendingSamples()
    unreadable: dict[str, str] = {}
    digests: dict[Image, str] = {}

    def hash_and_store(data: bytes) -> str:
        digest = sha256_bytes(data)
        if thumbnail_store:
            thumbnail_store.add(digest, data)
        return digest

    def hash_image(sample: Sample, image: Image) -> str:
        try:
            # Several questions often share an image; one in memory is faster hashed than looked up.
            if image.data is not None:
                return hash_and_store(images(image))
            if image not in digests:
                digests[image] = hash_and_store(images(image))
            return digests[image]
        except ImageError as error:
            unreadable.setdefault(sample.id, one_line(error))
            return "unreadable"

    def rows() -> Iterator[dict[str, str | list[str]]]:
        for sample in samples:
            hashes = [hash_image(sample, image) for image in sample.images]
            key = reply_key(
                sample, hashes, task.provenance.revision, engine.model, engine.digest, sampling, 0
            )
            pending.add(sample.id, key)
            yield {"id": sample.id, "key": key} | ({"images": hashes} if hashes else {})
        duplicate = pending.freeze()
        if duplicate is not None:
            name = samples[duplicate].id
            raise InputError(
                f"{task.name} has two samples with the id {name!r}; ids must differ, or replies"
                " would be mixed up."
            )

    write_jsonl(folder / REQUESTS, rows())
    return pending, unreadable


def _drop_answered(
    folder: Path, pending: PendingSamples, unreadable: Mapping[str, str]
) -> tuple[set[str], int]:
    """Mark answered samples as done; the ids among `unreadable` that are stored as failed already,
    and the number of images that were scaled down for the answers.
    """
    recorded_failures: set[str] = set()
    n_scaled = 0
    for key, reply in read_replies(folder):
        # The key differs for a reply to another question, model or decoding.
        if reply.id in pending and pending.key(reply.id) == key:
            if reply.error is None:
                pending.mark_done(reply.id)
                n_scaled += len(reply.scaled_images)
            elif reply.id in unreadable:
                recorded_failures.add(reply.id)
    return recorded_failures, n_scaled


def _store_replies(
    store: ReplyStore, pending: PendingSamples, replies: Sequence[Reply], progress: Progress
) -> int:
    """Store replies and return how many of them failed."""
    names = {reply.id for reply in replies}
    for reply in replies:
        if reply.generation_index or reply.id not in pending or len(names) < len(replies):
            raise EngineError(
                f"the engine answered {reply.id!r} (generation {reply.generation_index}), which was"
                " not requested or was answered before."
            )
    store.add((pending.key(reply.id), reply) for reply in replies)
    for name in names:
        pending.mark_done(name)
    failed = sum(reply.error is not None for reply in replies)
    progress.advance(len(replies), failed)
    return failed


class PendingSamples:
    """Keys by sample id: `add` all, `freeze`, then read; each is pending until `mark_done`.

    Ids are held as 64-bit hashes: among a million samples two collide by chance once in thirty
    million runs, and would be reported as a duplicate id.
    """

    def __init__(self) -> None:
        self._hashes = array("q")
        self._keys = bytearray()
        self._order = array("q")
        self._pending = bytearray()
        self.n_pending = 0

    def add(self, name: str, key: str) -> None:
        """Add a sample with its key, a sha256 in hexadecimal digits."""
        self._hashes.append(hash(name))
        self._keys += bytes.fromhex(key)

    def freeze(self) -> int | None:
        """Sort for reading; the position of a sample with a duplicate id, None where all differ."""
        unsorted_hashes, n = self._hashes, len(self._hashes)
        self._order = array("q", sorted(range(n), key=unsorted_hashes.__getitem__))
        self._hashes = array("q", (unsorted_hashes[index] for index in self._order))
        self._pending, self.n_pending = bytearray(b"\1" * n), n
        equal = (i for i in range(1, n) if self._hashes[i] == self._hashes[i - 1])
        duplicate = next(equal, None)
        return None if duplicate is None else self._order[duplicate]

    def __contains__(self, name: str) -> bool:
        index = self._find_index(name)
        return index is not None and bool(self._pending[index])

    def key(self, name: str) -> str:
        index = self._find_index(name)
        if index is None:
            raise KeyError(name)
        return self._keys[KEY_BYTES * index : KEY_BYTES * (index + 1)].hex()

    def mark_done(self, name: str) -> None:
        index = self._find_index(name)
        if index is not None and self._pending[index]:
            self._pending[index] = 0
            self.n_pending -= 1

    def _find_index(self, name: str) -> int | None:
        target = hash(name)
        position = bisect_left(self._hashes, target)
        if position < len(self._hashes) and self._hashes[position] == target:
            return self._order[position]
        return None
