"""GGUF files of a phantom-trained model: do they answer in llama.cpp as the checkpoint does here?

    python bench/gguf_answers.py --llama-cpp ENVIRONMENT/bin/python [--checkpoint FOLDER]

ENVIRONMENT has llama-cpp-python; without --checkpoint, the quickstart's model is trained first. Asks
both sides the same 200 questions about held-out phantoms, in every type, and counts equal greedy
answers. The images have the size that the model was trained with, so neither side scales them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from _record import record, table

from lingshu.core.messages import message_to_json
from lingshu.core.types import EngineOptions, Sample, Sampling
from lingshu.engines import hf
from lingshu.imaging.read import open_image
from lingshu.models.convert import Conversion
from lingshu.models.gguf import GgufType, export_gguf
from lingshu.models.load import LoadedModel, load
from lingshu.quickstart.phantoms import curate_data, held_out, task_samples
from lingshu.recipes import quickstart
from lingshu.train.loop import train

N_QUESTIONS, MAX_TOKENS = 200, 32
MARKER = "<__media__>"  # mtmd_default_marker() of llama.cpp
IMAGE_TEXT = "<|vision_start|><|image_pad|><|vision_end|>"  # which llama.cpp adds by itself


def trained_checkpoint(folder: Path) -> Path:
    data = curate_data(folder / "data", quickstart.SIZES, 0)
    paths = {name: str(path) for name, path in data.items()}
    return train(replace(quickstart.recipe(), seed=0, data=paths), folder / "train")


def questions() -> list[Sample]:
    """Every question of the first held-out phantoms, up to 200."""
    return task_samples(held_out(N_QUESTIONS))[:N_QUESTIONS]


def write_rows(loaded: LoadedModel, samples: list[Sample], folder: Path) -> Path:
    rows = []
    for index, sample in enumerate(samples):
        (image,) = sample.images
        open_image(image).save(folder / f"{index}.png")
        prompt = loaded.processor.render([message_to_json(m) for m in sample.messages], prompt=True)
        assert prompt.count(IMAGE_TEXT) == 1, prompt
        row = {"prompt": prompt.replace(IMAGE_TEXT, MARKER), "image": str(folder / f"{index}.png")}
        rows.append(json.dumps(row))
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder / "rows.jsonl"


def our_answers(checkpoint: Path, samples: list[Sample]) -> tuple[list[dict[str, Any]], int]:
    """Replies of the engine, first logits of the stock class, and the tokens of an image."""
    engine = hf.load(str(checkpoint), EngineOptions(threads=1))
    replies = {
        reply.id: reply
        for batch in engine.generate(samples, Sampling(MAX_TOKENS))
        for reply in batch
    }
    loaded, answers, image_tokens = load(str(checkpoint)), [], set()
    for sample in samples:
        tiles = loaded.processor.tiles([open_image(image) for image in sample.images])
        image_tokens.add(tiles[0].tokens)
        encoded = loaded.processor.encode(sample.messages, tiles)
        batch = loaded.processor.collate([encoded], pad="left")
        del batch["labels"]
        with torch.inference_mode():
            logits = loaded.model(**batch).logits[0, -1]
        answers.append({"text": replies[sample.id].text, "logits": logits.tolist()})
    (n_tokens,) = image_tokens
    return answers, n_tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--llama-cpp", required=True, help="Python of the other environment")
    parser.add_argument("--checkpoint", type=Path, help="a checkpoint trained on phantoms")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        checkpoint = arguments.checkpoint or trained_checkpoint(folder)
        samples = questions()
        rows_file = write_rows(load(str(checkpoint)), samples, folder)
        ours, image_tokens = our_answers(checkpoint, samples)
        rows = []
        for gguf_type in get_args(GgufType):
            export = export_gguf(Conversion(checkpoint), folder / gguf_type, gguf_type=gguf_type)
            side = Path(__file__).with_name("_llama_cpp_side.py")
            files = [str(export.model), str(export.projector), str(rows_file), str(image_tokens)]
            done = subprocess.run(
                [arguments.llama_cpp, str(side), *files], capture_output=True, text=True
            )
            if done.returncode:
                sys.exit(f"{side.name} ended with {done.returncode}: {done.stderr[-2000:]}")
            theirs = [json.loads(line) for line in done.stdout.splitlines()]
            rows.append([gguf_type, *compare(ours, theirs), size(export.model, export.projector)])
        names = ["type", "equal greedy answers", "largest difference of a first logit", "MB"]
        body = table(names, rows)
        record("gguf", "GGUF files in llama.cpp against the checkpoint", body)
        print(body)


def compare(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> tuple[str, str]:
    assert len(ours) == len(theirs)
    equal = sum(a["text"] == b["text"] for a, b in zip(ours, theirs, strict=True))
    left, right = (np.array([row["logits"] for row in rows]) for rows in (ours, theirs))
    share = f"{equal} of {len(ours)} ({100 * equal / len(ours):.1f} %)"
    difference = np.abs(left - right).max() / np.abs(left).max()
    return share, f"{difference:.1e} of the largest logit"


def size(*files: Path) -> str:
    return f"{sum(file.stat().st_size for file in files) / 1e6:.1f}"


if __name__ == "__main__":
    main()
