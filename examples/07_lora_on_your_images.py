"""Adapt a checkpoint to your own questions with LoRA: python 07_lora_on_your_images.py CHECKPOINT
FOLDER OUT [a.b=v ...]

FOLDER holds rows.jsonl (question, answer, image) and the images. OUT/adapters holds the adapter for
peft, OUT/checkpoint the full model with the adapter merged.
"""

import sys

from lingshu.cli.main import main as lingshu


def main(checkpoint: str, folder: str, out: str, *overrides: str) -> int:
    lora = [
        "stages.lora.lora={rank: 8, alpha: 16}",
        "stages.lora.batch=4",
        "stages.lora.max_tokens=1024",
        "save_every=100",
    ]
    return lingshu(
        [
            "train",
            "lora_7b",
            f"model={checkpoint}",
            f"data.train={folder}",
            *lora,
            *overrides,
            "--out",
            out,
        ]
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
