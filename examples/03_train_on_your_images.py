"""Train a small model on your own questions about your own images: python
03_train_on_your_images.py FOLDER OUT [a.b=v ...]

FOLDER holds rows.jsonl (question, answer, image) and the images. The resulting checkpoint is
OUT/checkpoint.
"""

import sys

from lingshu.cli.main import main as lingshu


def main(folder: str, out: str, *overrides: str) -> int:
    return lingshu(["train", "small_vqa", f"data.train={folder}", *overrides, "--out", out])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
