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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.nn import functional

from lingshu.core.errors import ArtefactError, InputError
from lingshu.core.files import JsonlAppender, digest, numbered_jsonl
from lingshu.core.nouns import Drop, Sample
from lingshu.models.load import Loaded, load
from lingshu.models.marks import Policy
from lingshu.models.processor import IGNORED, Encoded, Processor
from lingshu.train.data import (
    StageData,
    TileCache,
    encode_usable,
    is_held_out,
    open_group,
    read_groups,
)
from lingshu.train.entities import EntityCounts, count
from lingshu.train.step import Scorer

MAX_TOKENS = 8192
BATCH = 8


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
class HeldOut:
    """Encoded held-out samples; `known` identifies them and the way they were encoded."""

    samples: tuple[Sample, ...]
    data: StageData
    known: str
    drops: Mapping[str, int] = field(default_factory=dict)

    @property
    def entities(self) -> EntityCounts | None:
        return self.data.entities


def held_out(
    paths: Sequence[Path],
    processor: Processor,
    *,
    policy: Policy = "any",
    max_tokens: int = MAX_TOKENS,
    cache_mb: int = 512,
) -> HeldOut:
    """Encode data groups (DATASET folders, or folders of rows) for models with this processor.

    Of a folder that holds both sides of a split only the held-out one is taken: models have learnt
    from the other.

    Raises:
        ArtefactError, InputError: a folder that cannot be used, or two that have an id in common.
        TrainingError: no sample can be.
    """
    digests = [open_group(path).digest for path in paths]

    def refuse(encoded: Encoded) -> tuple[str, str] | None:
        if not encoded.supervised:
            return "no_answer", "no assistant turn whose likelihood could be told"
        return (
            ("too_long", f"{len(encoded)} tokens, max_tokens is {max_tokens}")
            if len(encoded) > max_tokens
            else None
        )

    cache = TileCache(processor, cache_mb=cache_mb)
    found = encode_usable(
        _unlearnt(paths),
        processor,
        cache,
        refuse,
        none="no held-out sample can be used",
        policy=policy,
    )
    twice = next(
        (name for name, n in Counter(sample.id for sample in found.samples).items() if n > 1), None
    )
    if twice is not None:  # rows are known by it
        raise InputError(
            f"the held-out data hold the id {twice!r} more than once; curate the folders into one"
            " dataset."
        )
    data = StageData(
        found.texts,
        tuple(sample.images for sample in found.samples),
        cache,
        found.drops,
        found.named_drops,
        count(found.samples, found.texts),
    )
    # Also of the tokens, so that checkpoints of other tokenizers are never compared.
    tokens = digest([encoded.ids.tolist() for encoded in found.texts])
    return HeldOut(found.samples, data, digest([digests, policy, max_tokens, tokens]), found.drops)


def _unlearnt(paths: Sequence[Path]) -> Iterator[Sample | Drop]:
    """The samples of data groups; where a folder has rows on both sides of a split, those to be
    learnt from are drops.
    """
    for path in paths:
        items = list(read_groups([path], held_out=True))
        split = any(isinstance(item, Sample) and is_held_out(item) for item in items)
        for item in items:
            learnt = split and isinstance(item, Sample) and not is_held_out(item)
            yield (
                Drop(item.id, "learnt_from", "its row is on the side that training takes")
                if learnt
                else item
            )


def likelihoods(
    loaded: Loaded, held: HeldOut, path: Path, *, batch: int = BATCH
) -> list[SampleLikelihood]:
    """The likelihoods of a checkpoint, in the order of the samples; rows that `path` holds already
    are not computed again.

    `loaded` computes where its weights are, in bfloat16 on a GPU.

    Raises:
        ArtefactError: the model gives a likelihood that is no number.
        StorageError: another process writes `path`, or the disk refused.
    """
    key = row_key(loaded.digest, held)
    known = stored(path, key)
    device = next(loaded.model.parameters()).device
    # Neighbours in length, in batches that do not depend on what is known: padding changes the last
    # bits.
    order = sorted(range(len(held.data)), key=lambda i: (len(held.data.texts[i]), i))
    scorer = Scorer(loaded.model.eval())
    with ExitStack() as open_files:
        log: JsonlAppender | None = None
        for start in range(0, len(order), batch):
            places = order[start : start + batch]
            if all(held.samples[i].id in known for i in places):
                continue
            log = log or open_files.enter_context(JsonlAppender(path))
            rows = [
                row
                for row in _batch(scorer, loaded.processor, held, places, device)
                if row.id not in known
            ]
            broken = next((row.id for row in rows if not math.isfinite(row.nll)), None)
            if broken is not None:
                raise ArtefactError(
                    f"{loaded.name} gives no likelihood for {broken!r}: the model is broken; train"
                    " or merge it anew."
                )
            log.append({"key": key, **asdict(row)} for row in rows)
            known |= {row.id: row for row in rows}
    return [known[sample.id] for sample in held.samples]


def measured(
    checkpoint: Path,
    known: str,
    held: HeldOut,
    path: Path,
    *,
    batch: int = BATCH,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int | None = None,
) -> list[SampleLikelihood]:
    """The likelihoods of a checkpoint folder with the digest `known`; it is loaded only if some are
    not stored yet.

    Raises:
        ArtefactError, StorageError: as `likelihoods`, or the folder cannot be used.
    """
    rows = complete(path, known, held)
    if rows is not None:
        return rows
    if threads is not None:
        torch.set_num_threads(threads)
    place = device if device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    return likelihoods(load(str(checkpoint), device=place), held, path, batch=batch)


def row_key(checkpoint: str, held: HeldOut) -> str:
    """What identifies a row besides its sample: the checkpoint's digest and the data."""
    return digest([checkpoint, held.known])[:24]


def complete(path: Path, checkpoint: str, held: HeldOut) -> list[SampleLikelihood] | None:
    """The likelihoods of a checkpoint by its digest where all are stored, so that it need not be
    loaded; else None.
    """
    known = stored(path, row_key(checkpoint, held))
    return (
        [known[sample.id] for sample in held.samples]
        if all(sample.id in known for sample in held.samples)
        else None
    )


def stored(path: Path, key: str) -> dict[str, SampleLikelihood]:
    """Rows of a file under a key, by sample.

    Raises:
        InputError: the file holds something else.
    """
    if not path.is_file():
        return {}
    found: dict[str, SampleLikelihood] = {}
    for number, row in numbered_jsonl(path, torn_ok=True):
        if row.get("key") != key:
            continue
        try:
            found[row["id"]] = SampleLikelihood(
                **{name: value for name, value in row.items() if name != "key"}
            )
        except (TypeError, KeyError) as error:
            raise InputError(
                f"{path}, line {number}: no row of likelihoods ({error}); remove the file."
            ) from error
    return found


@torch.no_grad()
def _batch(
    scorer: Scorer, processor: Processor, held: HeldOut, places: Sequence[int], device: torch.device
) -> list[SampleLikelihood]:
    samples = [held.data.sample(i) for i in places]
    inputs = {
        name: tensor.to(device) for name, tensor in processor.collate(samples, pad="right").items()
    }
    target_BL = functional.pad(inputs.pop("labels")[:, 1:], (0, 1), value=IGNORED)
    chosen_BL = target_BL != IGNORED
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        logits_NV = scorer(inputs, chosen_BL, None)
    losses_N = (
        functional.cross_entropy(logits_NV.float(), target_BL[chosen_BL], reduction="none")
        .double()
        .cpu()
        .numpy()
    )
    ends = np.cumsum([sample.supervised for sample in samples])
    rows = []
    for place, encoded, end in zip(places, samples, ends.tolist(), strict=True):
        own, sample = losses_N[end - encoded.supervised : end], held.samples[place]
        entity = encoded.facts.get("entity")
        rows.append(
            SampleLikelihood(
                sample.id,
                sample.meta.group,
                sample.meta.kind,
                encoded.supervised,
                float(own.sum()),
                None if entity is None else int(entity.sum()),
                None if entity is None else float(own[entity > 0].sum()),
            )
        )
    return rows
