"""Evaluate any model on your own questions: python 02_evaluate_your_model.py MODEL FOLDER OUT

FOLDER holds rows.jsonl (question, answer, image) and the images; MODEL is a checkpoint,
http://host/v1#name, or echo.
"""

import sys
from pathlib import Path

from lingshu.cli.main import main as lingshu
from lingshu.core.artifacts import SCORES, read_scores


def main(model: str, folder: str, out: str) -> int:
    code = lingshu(["eval", model, "vqa", "--data", folder, "--out", out])
    for file in sorted(Path(out).rglob(SCORES)):
        rows = read_scores(file)
        right = sum(row["value"] or 0 for row in rows)
        print(
            f"{right:g} of {len(rows)} right; not read: {sum(row['value'] is None for row in rows)}"
        )
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
