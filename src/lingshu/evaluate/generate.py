"""Step 1 of an evaluation: ask an engine a task's questions and keep every reply.

    OUT/<task>/replies.jsonl   one row per reply, append-only, matched by key and never by position
    OUT/<task>/asked.jsonl     one row per sample in the order of the task: {"id", "key"}

The key says everything that decides a reply (core/artefacts.py). A run that was killed at any moment goes on where it
stopped: what is in the store is not asked again. With asked.jsonl, scoring needs neither the model nor the images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from lingshu.core.artefacts import REPLIES, ReplyStore, reply_key
from lingshu.core.errors import BadImage, EngineError, InputError, one_line
from lingshu.core.files import sha256_bytes, write_jsonl
from lingshu.core.nouns import Engine, Image, Reply, Sample, Sampling, Task
from lingshu.core.release import Release, check_release
from lingshu.evaluate.progress import Progress, Silent

ASKED = "asked.jsonl"


class Generated(NamedTuple):
    """What happened: samples in all, those answered before this run, asked in it, and without an answer after it."""

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
) -> Generated:
    """Ask what is not answered yet and store each list of replies as it comes.

    `images` gives the encoded file of an image. A sample with an unreadable image is not asked; it and every reply
    that failed are kept as errors, and asked again by the next run.

    Raises:
        ReleaseError: a sample may not go to the engine's address; nothing was sent.
        InputError: two samples share an id, or `sampling` asks for several copies.
        EngineError: the engine cannot answer at all, or answered what it was not asked.
        StorageError: the disk refused a write.
    """
    if sampling.copies != 1:
        raise InputError(f"an evaluation asks each sample once, not {sampling.copies} times; set copies to 1.")
    check_release(samples, engine.endpoint, release or Release())
    progress = progress or Silent()
    keys, unreadable = _keys(task, samples, engine, sampling, images)
    write_jsonl(folder / ASKED, ({"id": sample.id, "key": keys[sample.id]} for sample in samples))
    with ReplyStore(folder / REPLIES) as store:
        done = {(name, 0) for name, key in keys.items() if store.answered(key)}
        progress.start(len(samples), len(done))
        _record_unreadable(store, keys, unreadable, progress)
        askable = [sample for sample in samples if sample.id not in unreadable]
        waiting = {sample.id for sample in askable if (sample.id, 0) not in done}
        asked = len(waiting)
        if waiting:
            for replies in engine.generate(askable, sampling, skip=done):
                _take(store, keys, waiting, replies, progress)
        if waiting:
            missing = [Reply(name, None, error="the engine gave no reply") for name in keys if name in waiting]
            store.add((keys[reply.id], reply) for reply in missing)
            progress.advance(len(missing), len(missing))
        errors = sum(not store.answered(key) for key in keys.values())
    return Generated(len(samples), len(done), asked, errors)


def _keys(
    task: Task, samples: Sequence[Sample], engine: Engine, sampling: Sampling, images: Callable[[Image], bytes]
) -> tuple[dict[str, str], dict[str, str]]:
    """The key of each sample by its id, and why the images of some cannot be read."""
    keys: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    known: dict[Image, str] = {}
    for sample in samples:
        if sample.id in keys:
            raise InputError(f"{task.name} has two samples with the id {sample.id!r}; ids must differ, or replies would be mixed up.")
        hashes = []
        for image in sample.images:
            try:
                # Several questions often share an image; one that lies in memory is quicker hashed than looked up.
                found = known.get(image) if image.data is None else None
                found = found or sha256_bytes(images(image))
                if image.data is None:
                    known[image] = found
            except BadImage as error:
                unreadable.setdefault(sample.id, one_line(error))
                found = "unreadable"
            hashes.append(found)
        keys[sample.id] = reply_key(sample, hashes, task.revision, engine.model, engine.digest, sampling, 0)
    return keys, unreadable


def _record_unreadable(store: ReplyStore, keys: dict[str, str], unreadable: dict[str, str], progress: Progress) -> None:
    rows = [(keys[name], Reply(name, None, error=why)) for name, why in unreadable.items()]
    store.add(row for row in rows if store.reply(row[0]) is None)
    if rows:
        progress.advance(len(rows), len(rows))


def _take(store: ReplyStore, keys: dict[str, str], waiting: set[str], replies: Sequence[Reply], progress: Progress) -> None:
    for reply in replies:
        if reply.copy or reply.id not in waiting:
            raise EngineError(f"the engine answered {reply.id!r} (copy {reply.copy}), which it was not asked or had answered.")
        waiting.discard(reply.id)
    store.add((keys[reply.id], reply) for reply in replies)
    progress.advance(len(replies), sum(reply.error is not None for reply in replies))
