"""Is one model better than another on the same questions? python 06_compare_two_runs.py OURS THEIRS

OURS and THEIRS are folders that `lingshu eval --out` wrote for the same tasks. Prints for each
task the difference with its interval, the p value, and the smallest difference that this number of
questions can detect.
"""

import sys
from pathlib import Path

from lingshu.evaluate.compare import compare
from lingshu.evaluate.store import read_run


def main(ours: str, theirs: str) -> int:
    for task in compare(read_run(Path(ours)), read_run(Path(theirs))).tasks:
        value, low, high = (
            None if end is None else round(100 * end, 1) for end in task.difference[:3]
        )
        p = "no test" if task.test is None else f"p = {task.test.p_value:.3f} ({task.test.name})"
        smallest = "none" if task.min_detectable is None else f"{100 * task.min_detectable:.1f}"
        print(
            f"{task.name}: {value} points ({low} to {high}) on {task.n_pairs} questions, {p};"
            f" smallest to be seen: {smallest}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
