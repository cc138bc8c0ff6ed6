"""Negative log-likelihoods of held-out answers, of entity tokens and all others, by sample.

    held_out = encode_held_out([Path("validation")], loaded.processor)
    rows = likelihoods(loaded, held_out, Path("likelihood.jsonl"))

Rows are stored in a file and not computed again; with sums by sample, a reader can compute any mean
and any interval by groups.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from lingshu.core.errors import ArtifactError, InputError
from lingshu.core.files import JsonlAppender, digest, enumerate_jsonl
from lingshu.core.types import Drop, Sample
from lingshu.models.load import LoadedModel, load
from lingshu.models.processor import Processor
from lingshu.models.token_spans import EntityPolicy
from lingshu.train.data import (
    StageData,
    encode_samples,
    is_held_out,
    open_data_group,
    read_groups,
)
from lingshu.train.entity_weights import count_entities
from lingshu.train.step import LogProbsModule, collate_microbatch, on_device

MAX_TOKENS = 8192
BATCH_SIZE = 8
CACHE_MB = 512  # of scaled images
ENTITY_POLICY: EntityPolicy = "any"


@dataclass(frozen=True)
class SampleLikelihood:
    """The supervised tokens of a sample and the sum of their negative log-likelihoods in nats; the
    same of entity tokens, None in a sample without annotation.
    """

    id: str
    group: str | None
    kind: str | None
    tokens: int
    nll: float
    entity_tokens: int | None
    entity_nll: float | None


@dataclass(frozen=True)
class HeldOutSet:
    """Encoded held-out samples; `data_digest` identifies them and their encoding."""

    data: StageData
    data_digest: str


def encode_held_out(paths: Sequence[Path], processor: Processor) -> HeldOutSet:
    """Encode data groups (DATASET folders, or folders of rows) for models with this processor.

    Of a folder that holds both sides of a split only the held-out one is used: models were trained
    on the other.

    Raises:
        ArtifactError, InputError: a folder that cannot be used, or two that share an id.
        TrainingError: no sample can be used.
    """
    digests = [open_data_group(path).digest for path in paths]
    data = encode_samples(
        _not_trained_on(paths),
        processor,
        max_tokens=MAX_TOKENS,
        cache_mb=CACHE_MB,
        empty_message="no held-out sample can be used",
        policy=ENTITY_POLICY,
    )
    for name, count in Counter(sample.id for sample in data.samples).items():
        if count > 1:  # rows are identified by it
            raise InputError(
                f"the held-out data contains the id {name!r} more than once; curate the folders"
                " into one dataset."
            )
    # Token ids are included so that checkpoints of other tokenizers are never compared.
    tokens = digest([encoded.ids.tolist() for encoded in data.encodings])
    data = replace(data, entities=count_entities(data.samples, data.encodings))
    return HeldOutSet(data, digest([digests, ENTITY_POLICY, MAX_TOKENS, tokens]))


def _not_trained_on(paths: Sequence[Path]) -> Iterator[Sample | Drop]:
    """The samples of data groups; in a folder with both sides of a split, training rows are drops."""
    for path in paths:
        rows = list(read_groups([path], held_out=True))
        is_split = any(isinstance(row, Sample) and is_held_out(row) for row in rows)
        for row in rows:
            if is_split and isinstance(row, Sample) and not is_held_out(row):
                yield Drop(row.id, "trained_on", "it is on the training side of a split")
            else:
                yield row


def likelihoods(
    loaded: LoadedModel, held_out: HeldOutSet, path: Path, *, batch: int = BATCH_SIZE
) -> list[SampleLikelihood]:
    """The likelihoods of a checkpoint in the order of the samples; rows in `path` are not repeated.

    `loaded` computes on the device of its weights, in bfloat16 on a GPU.

    Raises:
        ArtifactError: the model gives a non-finite likelihood.
        StorageError: another process writes `path`, or the disk refused.
    """
    key = _row_key(loaded.digest, held_out)
    stored = _read_stored(path, key)
    device = next(loaded.model.parameters()).device
    # Similar lengths in a batch, whatever is stored already: padding changes the last bits.
    order = sorted(range(len(held_out.data)), key=lambda i: (len(held_out.data.encodings[i]), i))
    log_probs_module = LogProbsModule(loaded.model.eval(), loaded.processor.family)
    with ExitStack() as open_files:
        log: JsonlAppender | None = None
        for start in range(0, len(order), batch):
            indices = order[start : start + batch]
            if all(held_out.data.samples[i].id in stored for i in indices):
                continue
            log = log or open_files.enter_context(JsonlAppender(path))
            computed = _batch_likelihoods(
                log_probs_module, loaded.processor, held_out, indices, device
            )
            rows = [row for row in computed if row.id not in stored]
            for row in rows:
                if not math.isfinite(row.nll):
                    raise ArtifactError(
                        f"{loaded.name} gives no likelihood for {row.id!r}: the model is broken;"
                        " train or merge it again."
                    )
            log.append({"key": key, **asdict(row)} for row in rows)
            stored |= {row.id: row for row in rows}
    return [stored[sample.id] for sample in held_out.data.samples]


def cached_likelihoods(
    checkpoint: Path,
    checkpoint_digest: str,
    held_out: HeldOutSet,
    path: Path,
    *,
    batch: int = BATCH_SIZE,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int | None = None,
) -> list[SampleLikelihood]:
    """The likelihoods of a checkpoint folder with this digest, loaded only if some are missing.

    Raises:
        ArtifactError, StorageError: as `likelihoods`, or the folder cannot be used.
    """
    rows = read_complete(path, checkpoint_digest, held_out)
    if rows is not None:
        return rows
    if threads is not None:
        torch.set_num_threads(threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return likelihoods(load(str(checkpoint), device=device), held_out, path, batch=batch)


def read_complete(
    path: Path, checkpoint: str, held_out: HeldOutSet
) -> list[SampleLikelihood] | None:
    """The likelihoods of a checkpoint by its digest; None if some are not stored."""
    stored = _read_stored(path, _row_key(checkpoint, held_out))
    names = [sample.id for sample in held_out.data.samples]
    return [stored[name] for name in names] if stored.keys() >= set(names) else None


def _row_key(checkpoint: str, held_out: HeldOutSet) -> str:
    """What identifies a row besides its sample: the checkpoint's digest and the data."""
    return digest([checkpoint, held_out.data_digest])[:24]


def _read_stored(path: Path, key: str) -> dict[str, SampleLikelihood]:
    """Rows of a file under a key, by sample.

    Raises:
        InputError: the file holds something else.
    """
    stored: dict[str, SampleLikelihood] = {}
    for number, row in enumerate_jsonl(path, allow_truncated=True) if path.is_file() else ():
        if row.pop("key", None) == key:
            try:
                stored[row["id"]] = SampleLikelihood(**row)
            except (TypeError, KeyError) as error:
                raise InputError(
                    f"{path}, line {number}: not a row of likelihoods ({error}); remove the file."
                ) from error
    return stored


@torch.no_grad()
def _batch_likelihoods(
    log_probs_module: LogProbsModule,
    processor: Processor,
    held_out: HeldOutSet,
    indices: Sequence[int],
    device: torch.device,
) -> list[SampleLikelihood]:
    samples = [held_out.data.sample(i) for i in indices]
    batch = on_device(collate_microbatch(processor, samples, packing=False), device)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        log_probs_N = log_probs_module(batch)
    losses_N = -log_probs_N.double().cpu().numpy()
    ends = np.cumsum([sample.supervised for sample in samples])
    rows = []
    for index, encoded, end in zip(indices, samples, ends.tolist(), strict=True):
        losses, sample = losses_N[end - encoded.supervised : end], held_out.data.samples[index]
        entity = encoded.token_values.get("entity")
        row = SampleLikelihood(
            id=sample.id,
            group=sample.meta.group,
            kind=sample.meta.kind,
            tokens=encoded.supervised,
            nll=float(losses.sum()),
            entity_tokens=None if entity is None else int(entity.sum()),
            entity_nll=None if entity is None else float(losses[entity > 0].sum()),
        )
        rows.append(row)
    return rows
