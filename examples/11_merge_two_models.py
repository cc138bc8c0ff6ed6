"""Merge two fine-tuned versions of a model and measure the path between them: python
11_merge_two_models.py A B OUT TASK [OPTION ...]

OUT/points holds the models at weights 0, 0.5 and 1 of A, OUT/path.html the accuracy on TASK along
the path. Choose the weight on validation data (--select-by), or report the middle.
"""

import sys

from lingshu.cli.main import main as lingshu


def main(first: str, second: str, out: str, task: str, *options: str) -> int:
    return lingshu(
        ["merge", first, second, "--interpolate", "3", "--tasks", task, "--out", out, *options]
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
