"""The quickstart for seeds 0, 1 and 2, each as a separate process: accuracy by kind of question,
time and memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from _record import record, table

from lingshu.evaluate.summary import percent
from lingshu.sources.phantom import KINDS, MAIN_KINDS

SEEDS = (0, 1, 2)


def run(seed: int, folder: Path) -> dict:
    out = folder / str(seed)
    subprocess.run(
        [sys.executable, "-m", "lingshu", "quickstart", "--out", str(out), "--seed", str(seed)],
        check=True,
    )
    return json.loads((out / "summary.json").read_text(encoding="utf-8"))


def _pair(result: dict, name: str, form: str) -> str:
    """A number of the part with rewards before and after it, of held-out replies drawn at the
    temperature of the rounds.
    """
    return " -> ".join(
        form.format(result["rl"]["sampled"][when][name]) for when in ("before", "after")
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        results = [run(seed, Path(folder)) for seed in SEEDS]
    rows = []
    for kind in KINDS:
        cells = [r["accuracy"]["by_question"][kind] for r in results]
        shown = [
            f"{percent(c['value'])} ({percent(c['low'])} to {percent(c['high'])})" for c in cells
        ]
        rows.append([kind + ("" if kind in MAIN_KINDS else " (harder)"), *shown])
    overall = [r["accuracy"]["overall"] for r in results]
    rows.insert(
        0,
        [
            "**overall on the first four**",
            *(
                f"**{percent(o['value'])}** ({percent(o['low'])} to {percent(o['high'])})"
                for o in overall
            ),
        ],
    )
    rows += [
        ["untrained, first four", *(percent(r["untrained_accuracy"]) for r in results)],
        ["majority answer, first four", *(percent(r["majority_accuracy"]) for r in results)],
        [
            "rewarded model: reward of sampled replies",
            *(_pair(r, "reward", "{:.2f}") for r in results),
        ],
        [
            "rewarded model: replies in the right format",
            *(_pair(r, "format", "{:.0%}") for r in results),
        ],
        [
            "rewarded model: right answers in the right format",
            *(_pair(r, "accuracy", "{:.0%}") for r in results),
        ],
        ["seconds, from data to report", *(f"{r['wall_s']:.0f}" for r in results)],
        ["peak memory (MB)", *(f"{r['peak_rss_mb']:.0f}" for r in results)],
    ]
    stages = "; ".join(
        f"seed {r['seed']}: "
        + ", ".join(
            f"{s['name']} {s['first_loss']:.2f} to {s['last_loss']:.2f}" for s in r["stages"]
        )
        for r in results
    )
    summary = (
        "Accuracy in percent on held-out phantoms (95% interval), one process for each seed. Loss"
        " by stage, first to last: " + stages + "."
    )
    record(
        "quickstart",
        "Quickstart, three seeds",
        summary + "\n\n" + table(["", *(f"seed {seed}" for seed in SEEDS)], rows),
    )


if __name__ == "__main__":
    main()
