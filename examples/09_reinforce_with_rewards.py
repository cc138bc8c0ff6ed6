"""Reinforce a checkpoint with verifiable rewards (GRPO): python 09_reinforce_with_rewards.py
CHECKPOINT FOLDER OUT [a.b=v ...]

FOLDER holds rows.jsonl (question, answer, image) and the images; replies are compared with the
answers. The result is OUT/checkpoint. The model learns only from questions that it sometimes answers
correctly in <think>, <answer> blocks and sometimes not: check `frac_with_signal` first.
"""

import sys
from pathlib import Path

from lingshu.cli.main import main as lingshu
from lingshu.train.log import read_log


def main(checkpoint: str, folder: str, out: str, *overrides: str) -> int:
    small = [
        "stages.rl.batch=4",
        "stages.rl.micro_batch=8",
        "stages.rl.grpo.rollout_batch_size=8",
        "stages.rl.grpo.num_generations=8",
    ]
    row_counts = ["stages.rl.max_tokens=1024", "stages.rl.grpo.max_reply_tokens=256", "log_every=1"]
    code = lingshu(
        [
            "train",
            "lingshu_rl",
            f"model={checkpoint}",
            f"data.rl={folder}",
            *small,
            *row_counts,
            *overrides,
            "--out",
            out,
        ]
    )
    for row in read_log(Path(out)) if code < 2 else ():
        metrics_text = ", ".join(
            f"{name} {row[name]:.2f}"
            for name in ("reward", "format", "accuracy", "frac_with_signal", "truncated")
        )
        print(f"update {row['step']}: {metrics_text}")
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
