"""How likely a checkpoint finds held-out answers: negative log-likelihoods of entity tokens and all
others, sample by sample.

    held = held_out([Path("validation")], loaded.processor)
    rows = likelihoods(loaded, held, Path("likelihood.jsonl"))

Rows are kept in a file and not computed again; sums by sample leave any mean, and any interval by
groups, to the reader.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.nn import functional

from lingshu.core.errors import ArtifactError, InputError
from lingshu.core.files import JsonlAppender, digest, enumerate_jsonl
from lingshu.core.types import Drop, Sample
from lingshu.models.load import LoadedModel, load
from lingshu.models.processor import IGNORE_INDEX, EncodedSample, Processor
from lingshu.models.token_spans import EntityPolicy
from lingshu.train.data import (
    StageData,
    TileCache,
    encode_samples,
    is_held_out,
    open_data_group,
    read_groups,
)
from lingshu.train.entity_weights import EntityCounts, count_entities
from lingshu.train.step import LogitsModule

MAX_TOKENS = 8192
BATCH_SIZE = 8


@dataclass(frozen=True)
class SampleLikelihood:
    """The supervised tokens of a sample and the sum of their negative log-likelihoods in nats; of
    which entities' tokens.

    The latter are None in a sample that was never marked, and 0 in one without a term.
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
    """Encoded held-out samples; `known` identifies them and the way they were encoded."""

    samples: tuple[Sample, ...]
    data: StageData
    data_digest: str
    drops: Mapping[str, int] = field(default_factory=dict)

    @property
    def entities(self) -> EntityCounts | None:
        return self.data.entities


def encode_held_out(
    paths: Sequence[Path],
    processor: Processor,
    *,
    policy: EntityPolicy = "any",
    max_tokens: int = MAX_TOKENS,
    cache_mb: int = 512,
) -> HeldOutSet:
    """Encode data groups (DATASET folders, or folders of rows) for models with this processor.

    Of a folder that holds both sides of a split only the held-out one is taken: models have learnt
    from the other.

    Raises:
        ArtefactError, InputError: a folder that cannot be used, or two that have an id in common.
        TrainingError: no sample can be.
    """
    digests = [open_data_group(path).digest for path in paths]

    def reject(encoded: EncodedSample) -> tuple[str, str] | None:
        if not encoded.supervised:
            return "no_answer", "no assistant turn whose likelihood could be told"
        return (
            ("too_long", f"{len(encoded)} tokens, max_tokens is {max_tokens}")
            if len(encoded) > max_tokens
            else None
        )

    cache = TileCache(processor, cache_mb=cache_mb)
    encodable = encode_samples(
        _not_trained_on(paths),
        processor,
        cache,
        reject,
        empty_message="no held-out sample can be used",
        policy=policy,
    )
    duplicate_id = next(
        (name for name, n in Counter(sample.id for sample in encodable.samples).items() if n > 1),
        None,
    )
    if duplicate_id is not None:  # rows are known by it
        raise InputError(
            f"the held-out data hold the id {duplicate_id!r} more than once; curate the folders into one"
            " dataset."
        )
    data = replace(encodable, entities=count_entities(encodable.samples, encodable.encodings))
    # Also of the tokens, so that checkpoints of other tokenizers are never compared.
    tokens = digest([encoded.ids.tolist() for encoded in encodable.encodings])
    return HeldOutSet(
        encodable.samples, data, digest([digests, policy, max_tokens, tokens]), encodable.drops
    )


def _not_trained_on(paths: Sequence[Path]) -> Iterator[Sample | Drop]:
    """The samples of data groups; where a folder has rows on both sides of a split, those to be
    learnt from are drops.
    """
    for path in paths:
        items = list(read_groups([path], held_out=True))
        split = any(isinstance(item, Sample) and is_held_out(item) for item in items)
        for item in items:
            trained_on = split and isinstance(item, Sample) and not is_held_out(item)
            yield (
                Drop(item.id, "trained_on", "its row is on the side that training takes")
                if trained_on
                else item
            )


def likelihoods(
    loaded: LoadedModel, heldout: HeldOutSet, path: Path, *, batch: int = BATCH_SIZE
) -> list[SampleLikelihood]:
    """The likelihoods of a checkpoint, in the order of the samples; rows that `path` holds already
    are not computed again.

    `loaded` computes where its weights are, in bfloat16 on a GPU.

    Raises:
        ArtefactError: the model gives a likelihood that is no number.
        StorageError: another process writes `path`, or the disk refused.
    """
    key = row_key(loaded.digest, heldout)
    stored_rows = read_stored(path, key)
    device = next(loaded.model.parameters()).device
    # Neighbours in length, in batches that do not depend on what is known: padding changes the last
    # bits.
    order = sorted(range(len(heldout.data)), key=lambda i: (len(heldout.data.encodings[i]), i))
    logits_module = LogitsModule(loaded.model.eval())
    with ExitStack() as open_files:
        log: JsonlAppender | None = None
        for start in range(0, len(order), batch):
            indices = order[start : start + batch]
            if all(heldout.samples[i].id in stored_rows for i in indices):
                continue
            log = log or open_files.enter_context(JsonlAppender(path))
            rows = [
                row
                for row in _batch_likelihoods(
                    logits_module, loaded.processor, heldout, indices, device
                )
                if row.id not in stored_rows
            ]
            non_finite_id = next((row.id for row in rows if not math.isfinite(row.nll)), None)
            if non_finite_id is not None:
                raise ArtifactError(
                    f"{loaded.name} gives no likelihood for {non_finite_id!r}: the model is broken; train"
                    " or merge it anew."
                )
            log.append({"key": key, **asdict(row)} for row in rows)
            stored_rows |= {row.id: row for row in rows}
    return [stored_rows[sample.id] for sample in heldout.samples]


def cached_likelihoods(
    checkpoint: Path,
    checkpoint_digest: str,
    heldout: HeldOutSet,
    path: Path,
    *,
    batch: int = BATCH_SIZE,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int | None = None,
) -> list[SampleLikelihood]:
    """The likelihoods of a checkpoint folder with the digest `known`; it is loaded only if some are
    not stored yet.

    Raises:
        ArtefactError, StorageError: as `likelihoods`, or the folder cannot be used.
    """
    rows = read_complete(path, checkpoint_digest, heldout)
    if rows is not None:
        return rows
    if threads is not None:
        torch.set_num_threads(threads)
    target_device = device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    return likelihoods(load(str(checkpoint), device=target_device), heldout, path, batch=batch)


def row_key(checkpoint: str, heldout: HeldOutSet) -> str:
    """What identifies a row besides its sample: the checkpoint's digest and the data."""
    return digest([checkpoint, heldout.data_digest])[:24]


def read_complete(
    path: Path, checkpoint: str, heldout: HeldOutSet
) -> list[SampleLikelihood] | None:
    """The likelihoods of a checkpoint by its digest where all are stored, so that it need not be
    loaded; else None.
    """
    stored_rows = read_stored(path, row_key(checkpoint, heldout))
    return (
        [stored_rows[sample.id] for sample in heldout.samples]
        if all(sample.id in stored_rows for sample in heldout.samples)
        else None
    )


def read_stored(path: Path, key: str) -> dict[str, SampleLikelihood]:
    """Rows of a file under a key, by sample.

    Raises:
        InputError: the file holds something else.
    """
    if not path.is_file():
        return {}
    rows: dict[str, SampleLikelihood] = {}
    for line_number, row in enumerate_jsonl(path, allow_truncated=True):
        if row.get("key") != key:
            continue
        try:
            rows[row["id"]] = SampleLikelihood(
                **{name: value for name, value in row.items() if name != "key"}
            )
        except (TypeError, KeyError) as error:
            raise InputError(
                f"{path}, line {line_number}: no row of likelihoods ({error}); remove the file."
            ) from error
    return rows


@torch.no_grad()
def _batch_likelihoods(
    logits_module: LogitsModule,
    processor: Processor,
    heldout: HeldOutSet,
    indices: Sequence[int],
    device: torch.device,
) -> list[SampleLikelihood]:
    samples = [heldout.data.sample(i) for i in indices]
    inputs = {
        name: tensor.to(device) for name, tensor in processor.collate(samples, pad="right").items()
    }
    target_BL = functional.pad(inputs.pop("labels")[:, 1:], (0, 1), value=IGNORE_INDEX)
    supervised_BL = target_BL != IGNORE_INDEX
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        logits_NV = logits_module(inputs, supervised_BL, None)
    losses_N = (
        functional.cross_entropy(logits_NV.float(), target_BL[supervised_BL], reduction="none")
        .double()
        .cpu()
        .numpy()
    )
    ends = np.cumsum([sample.supervised for sample in samples])
    rows = []
    for index, encoded, end in zip(indices, samples, ends.tolist(), strict=True):
        sample_losses, sample = losses_N[end - encoded.supervised : end], heldout.samples[index]
        entity = encoded.token_values.get("entity")
        rows.append(
            SampleLikelihood(
                sample.id,
                sample.meta.group,
                sample.meta.kind,
                encoded.supervised,
                float(sample_losses.sum()),
                None if entity is None else int(entity.sum()),
                None if entity is None else float(sample_losses[entity > 0].sum()),
            )
        )
    return rows
