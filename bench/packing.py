"""Training tokens per second: packed, padded in groups of similar length, and padded at random, on
the same samples.

    python bench/packing.py [DATA]

Drawn lengths are always measured. DATA holds the folders named in MIX, each with rows.jsonl and
some with images/, and adds the lengths of real texts and images in the proportions of an
instruction stage. CPU-seconds of one thread; the ways take turns within each round. Useful tokens
are those of samples; a forward pass holds as many of them, on average, either way.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _record import record, table
from PIL import Image as PIL

from lingshu.core.files import read_jsonl
from lingshu.core.types import Message
from lingshu.models.base import Tiles
from lingshu.models.families.qwen2_5_vl import FAMILY
from lingshu.models.model_spec import PixelBudget, TinyModel
from lingshu.models.processor import IGNORE_INDEX, EncodedSample, Processor, build_processor
from lingshu.models.tiny import build_tiny, train_tokenizer
from lingshu.train.batching import best_fit
from lingshu.train.config import LearningRates, Stage
from lingshu.train.step import Trainer, build_trainer

SAMPLES, ROUNDS, BATCH = 256, 5, 16
SMALL, LARGE = 112, 512
WORDS = 8192  # vocabulary that real lengths are counted with; a released one cuts these texts alike


class MixPart(NamedTuple):
    """A kind of sample: its share of the mix, the folder its texts come from, how a row reads,
    whether it shows an image.
    """

    share: float
    folder: str
    read: Callable[[dict[str, Any]], tuple[str, str] | None]
    image: bool = True


def question_answer(
    question: str, answer: str
) -> Callable[[dict[str, Any]], tuple[str, str] | None]:
    return lambda row: (
        (str(row[question]), str(row[answer])) if row.get(question) and row.get(answer) else None
    )


def caption(field: str) -> Callable[[dict[str, Any]], tuple[str, str] | None]:
    return lambda row: ("Describe this medical image.", str(row[field])) if row.get(field) else None


def reasoning_pair(row: dict[str, Any]) -> tuple[str, str] | None:
    if row["lang"] != "en" or not row.get("thinking"):
        return None
    return row["prompt"], f"<think>{row['thinking']}</think><answer>{row['response']}</answer>"


def instruction(row: dict[str, Any]) -> tuple[str, str] | None:
    return (f"{row['instruction']}\n{row['input']}", row["output"]) if row["output"] else None


def report(row: dict[str, Any]) -> tuple[str, str] | None:
    findings = row.get("section_findings")
    return (
        (
            "Write the findings and the impression.",
            f"Findings: {findings} Impression: {row['section_impression']}",
        )
        if findings
        else None
    )


# Stage 3 of the Lingshu paper: 38% medical multimodal, 28% medical captions, 17% general
# multimodal, 14% general text, 3% medical text; inside the first by the sizes of its sources.
# General data is represented by medical instructions of similar length.
MIX = (
    MixPart(0.15, "vqa_rad", question_answer("question", "answer")),
    MixPart(0.08, "medevalkit_run_slake", reasoning_pair),
    MixPart(0.12, "pmcoa_captions", caption("report")),
    MixPart(0.03, "iuxray_reports", report),
    MixPart(0.28, "roco_captions_ccby", caption("caption")),
    MixPart(0.17, "corpus_chatdoctor5k", instruction),
    MixPart(0.14, "corpus_medical_meadow_small", instruction, image=False),
    MixPart(0.03, "corpus_huatuo_o1_demo", question_answer("Question", "Complex_CoT"), image=False),
)


def random_sequences(processor: Processor) -> list[EncodedSample]:
    """Lognormal lengths without a template: median 90 tokens, at most 1,024; six in ten with a
    112-pixel image of 16 tokens.
    """
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (SMALL, SMALL, 3), dtype=np.uint8)
    sequences = []
    for length in np.clip(rng.lognormal(np.log(90), 0.9, SAMPLES), 24, 1024).astype(int):
        tiles = processor.tiles([PIL.fromarray(noise)]) if rng.random() < 0.6 else ()
        is_image = np.zeros(length, bool)
        is_image[4 : 4 + sum(t.tokens for t in tiles)] = True
        sequences.append(
            encoded(processor, rng, is_image, ~is_image & (np.arange(length) > 20), tiles)
        )
    return sequences


def encoded(
    processor: Processor,
    rng: np.random.Generator,
    is_image: np.ndarray,
    answer: np.ndarray,
    tiles: Sequence[Tiles],
) -> EncodedSample:
    """A sample of this shape, with random text tokens, which do not affect the time."""
    ids = np.where(is_image, processor.image_token_id, rng.integers(0, 256, len(is_image)))
    positions = FAMILY.positions(is_image, tiles)
    return EncodedSample(
        ids, np.where(answer, ids, IGNORE_INDEX), is_image, positions, tuple(tiles)
    )


def corpus_sequences(root: Path, processor: Processor) -> list[EncodedSample]:
    """Samples of real texts in the shares of MIX, with images of vqa_rad."""
    rng = np.random.default_rng(0)
    pairs = {
        kind.folder: [
            p for row in read_jsonl(root / kind.folder / "rows.jsonl") if (p := kind.read(row))
        ]
        for kind in MIX
    }
    images = sorted((root / "vqa_rad" / "images").iterdir())
    tokenizer = train_tokenizer(
        FAMILY, (text for of_kind in pairs.values() for pair in of_kind for text in pair), WORDS
    )
    counting = build_processor(FAMILY, tokenizer, processor.image_processor, processor.budget)
    sequences = []
    for kind in MIX:
        for index in rng.choice(len(pairs[kind.folder]), round(kind.share * SAMPLES)):
            question, answer = pairs[kind.folder][index]
            shown = [PIL.open(images[rng.integers(len(images))])] if kind.image else []
            user_turn = Message("user", (*range(len(shown)), question))
            counted = counting.encode(
                [user_turn, Message("assistant", (answer,))], processor.tiles(shown)
            )
            sequences.append(
                encoded(
                    processor, rng, counted.is_image, counted.labels != IGNORE_INDEX, counted.tiles
                )
            )
    return sequences


Batches = Callable[[], Iterator[list[EncodedSample]]]


def batching_strategies(sequences: list[EncodedSample]) -> dict[str, tuple[bool, Batches, float]]:
    """Name -> (packing, batches of one pass, share of useful tokens in what is computed)."""
    lengths = [len(sample) for sample in sequences]
    order = np.random.default_rng(1).permutation(len(sequences)).tolist()
    by_length = sorted(range(len(sequences)), key=lambda i: lengths[i])
    capacity = max(max(lengths), -(-BATCH * sum(lengths) // len(lengths)))
    packs = best_fit(lengths, capacity)

    def padded(indices: list[int]) -> tuple[bool, Batches, float]:
        cut = [indices[start : start + BATCH] for start in range(0, len(indices), BATCH)]
        computed = sum(len(rows) * max(lengths[i] for i in rows) for rows in cut)
        return (
            False,
            lambda: ([sequences[i] for i in rows] for rows in cut),
            sum(lengths) / computed,
        )

    return {
        "padded, random order": padded(order),
        "padded, similar lengths": padded(by_length),
        f"packed to {capacity:,}": (
            True,
            lambda: ([sequences[i] for i in pack] for pack in packs),
            1.0,
        ),
    }


def one_pass(trainer: Trainer, batches: Iterator[list[EncodedSample]]) -> float:
    started = time.process_time()
    for batch in batches:
        (trainer.compute_loss_sum(batch).loss / sum(e.supervised for e in batch)).backward()
        trainer.model.zero_grad(set_to_none=True)
    return time.process_time() - started


def measure(
    name: str, model: Any, processor: Processor, sequences: list[EncodedSample]
) -> list[list[str]]:
    stage = Stage(
        "bench",
        ("x",),
        LearningRates(vision=1e-4, projector=1e-4, language=1e-4),
        batch=BATCH,
        micro_batch=BATCH,
    )
    found = batching_strategies(sequences)
    times: dict[str, list[float]] = {way: [] for way in found}
    for _ in range(ROUNDS):
        for way, (packing, batches, _) in found.items():
            trainer = build_trainer(
                model,
                processor,
                replace(stage, packing=packing),
                device=torch.device("cpu"),
                bfloat16=False,
            )
            times[way].append(one_pass(trainer, batches()))
    lengths = np.array([len(sample) for sample in sequences])
    images = sum(int(sample.is_image.sum()) for sample in sequences) / lengths.sum()
    mix_description = (
        f"{name}: {len(sequences)} samples of {np.median(lengths):.0f} tokens in the median,"
        f" {lengths.mean():.0f} on average, "
    )
    mix_description += f"{lengths.max():,} at most, {images:.0%} of them of images"
    base = times[list(found)[-1]]
    rows = []
    for way, seconds in times.items():
        ratio = statistics.median(other / mine for other, mine in zip(seconds, base, strict=True))
        rate = lengths.sum() / statistics.median(seconds)
        rows.append([mix_description, way, f"{found[way][2]:.0%}", f"{rate:,.0f}", f"{ratio:.2f}x"])
        mix_description = ""
    return rows


def main(root: Path | None) -> None:
    torch.set_num_threads(1)
    spec = TinyModel(hidden=256, layers=4, ffn=768, vocab_size=512, image_size=SMALL)
    rows = []
    for name, side, make in (
        ("synthetic lengths", SMALL, random_sequences),
        (
            "real texts, images of 112 pixels",
            SMALL,
            lambda p: corpus_sequences(root, p) if root else [],
        ),
        (
            "real texts, images of up to 512 pixels",
            LARGE,
            lambda p: corpus_sequences(root, p) if root else [],
        ),
    ):
        budget = PixelBudget(max_pixels=side * side)
        model, processor = build_tiny(spec, ["a user assistant"] * 9, budget=budget, seed=0)
        if sequences := make(processor):
            rows += measure(name, model, processor, sequences)
            print(rows[-3:], flush=True)
    summary = (
        f"Qwen2.5-VL of {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters,"
        f" forward and backward pass in float32 on one thread, {BATCH} samples in a padded pass and"
        f" as many on average in a pack; median of {ROUNDS} rounds. Real texts have the proportions"
        f" of the paper's instruction stage ({len(MIX)} sources, lengths counted by a"
        f" tokenizer of {WORDS:,} words); the gain of packing depends on how uneven the lengths"
        " are and on the share of image tokens, which vary little in number."
    )
    record(
        "packing",
        "Packing",
        summary
        + "\n\n"
        + table(
            [
                "samples",
                "way",
                "useful tokens",
                "useful tokens per CPU-second",
                "time, against packed",
            ],
            rows,
        ),
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
