"""Report metrics compared with the packages that define them: ROUGE, BLEU and CIDEr of the same reports,
in one process.

    python bench/report_metrics.py [IUXRAY_ROWS.jsonl]

Run it where rouge-score, rouge, pycocoevalcap and sacrebleu are installed next to this package
(docs/report-metrics.md). Synthetic reports of some 60 words, and with a file the generated reports in
it. Times are seconds of processor time, the fastest of three passes taken in turn.
"""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from _record import record, table

from lingshu.scoring.metrics import bleu
from lingshu.scoring.metrics import rouge as rouge_module
from lingshu.scoring.metrics.cider import cider

PACKAGES = ("rouge-score", "rouge", "pycocoevalcap", "sacrebleu")
PASSES = 3
COUNT = 1000
COMMON = (
    "the", "heart", "size", "is", "normal", "lungs", "are", "clear", "no", "pleural", "effusion", "pneumothorax", "consolidation", "mild",
    "cardiomegaly", "small", "left", "right", "basilar", "atelectasis",
)  # fmt: skip
WORDS = (*COMMON, *(f"w{number}" for number in range(600)))
Side = Sequence[str]
Values = list[float]


def synthetic_reports(count: int) -> tuple[list[str], list[str]]:
    """Reports and references whose words fall off in frequency as words do; three in ten are
    replaced.
    """
    pick = random.Random(0)
    weights = [1 / (index + 1) for index in range(len(WORDS))]
    gold = [
        " ".join(
            " ".join(pick.choices(WORDS, weights, k=pick.randint(6, 14))) + " ."
            for _ in range(pick.randint(4, 8))
        )
        for _ in range(count)
    ]
    return [
        " ".join(word if pick.random() < 0.7 else pick.choice(WORDS) for word in text.split())
        for text in gold
    ], gold


def read_generated(file: Path) -> tuple[list[str], list[str]]:
    """The generated reports of a file and their findings, full stops detached."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    pairs = [(row["generated_cvt2distilgpt2"], row["section_findings"]) for row in rows]
    predictions, gold = (
        [" ".join(text.lower().replace(".", " . ").split()) for text in side]
        for side in zip(*filter(all, pairs), strict=True)
    )
    return predictions, gold


def lingshu_run(predictions: Side, gold: Side) -> dict[str, Callable[[], Values]]:
    return {
        "ROUGE-L": lambda: [
            rouge_module.google_rouge_l(one, other)
            for one, other in zip(predictions, gold, strict=True)
        ],
        "ROUGE-1, -2 and -L": lambda: [
            rouge_module.google_rouge(one, other)["rouge2"]
            for one, other in zip(predictions, gold, strict=True)
        ],
        "ROUGE of sets": lambda: [
            rouge_module.set_rouge(one, other)["rouge-l"]
            for one, other in zip(predictions, gold, strict=True)
        ],
        "BLEU-1 to -4": lambda: bleu.coco_bleu(
            bleu.sum_counts(
                [
                    bleu.count_ngrams(one.split(), other.split())
                    for one, other in zip(predictions, gold, strict=True)
                ]
            )
        ),
        "BLEU of sacrebleu": lambda: [
            bleu.sacre_bleu(bleu.count_ngrams(bleu.tokenize_13a(one), bleu.tokenize_13a(other)))
            for one, other in zip(predictions, gold, strict=True)
        ],
        "CIDEr-D": lambda: (
            cider([one.split() for one in predictions], [one.split() for one in gold]).cider_d
        ),
    }


def peer_run(predictions: Side, gold: Side) -> dict[str, tuple[str, Callable[[], Values]]]:
    import rouge  # pyright: ignore[reportMissingImports]
    import sacrebleu  # pyright: ignore[reportMissingImports]
    from pycocoevalcap.bleu.bleu import Bleu  # pyright: ignore[reportMissingImports]
    from pycocoevalcap.cider.cider import Cider  # pyright: ignore[reportMissingImports]
    from rouge_score.rouge_scorer import RougeScorer  # pyright: ignore[reportMissingImports]

    answers, references = (
        {index: [text] for index, text in enumerate(side)} for side in (predictions, gold)
    )
    longest, every, sets = (
        RougeScorer(["rougeL"]),
        RougeScorer(["rouge1", "rouge2", "rougeL"]),
        rouge.Rouge(),
    )
    return {
        "ROUGE-L": (
            "rouge-score",
            lambda: [
                longest.score(b, a)["rougeL"].fmeasure
                for a, b in zip(predictions, gold, strict=True)
            ],
        ),
        "ROUGE-1, -2 and -L": (
            "rouge-score",
            lambda: [
                every.score(b, a)["rouge2"].fmeasure for a, b in zip(predictions, gold, strict=True)
            ],
        ),
        "ROUGE of sets": (
            "rouge",
            lambda: [
                sets.get_scores(a, b)[0]["rouge-l"]["f"]
                for a, b in zip(predictions, gold, strict=True)
            ],
        ),
        "BLEU-1 to -4": (
            "pycocoevalcap",
            lambda: Bleu(4).compute_score(references, answers, verbose=0)[0],
        ),
        "BLEU of sacrebleu": (
            "sacrebleu",
            lambda: [
                sacrebleu.sentence_bleu(a, [b]).score
                for a, b in zip(predictions, gold, strict=True)
            ],
        ),
        "CIDEr-D": ("pycocoevalcap", lambda: list(Cider().compute_score(references, answers)[1])),
    }


def time_call(run: Callable[[], Values]) -> tuple[float, Values]:
    start = time.process_time()
    found = run()
    return time.process_time() - start, found


def rows_of(name: str, predictions: Side, gold: Side) -> list[list[str]]:
    mine, peers, rows = lingshu_run(predictions, gold), peer_run(predictions, gold), []
    for metric, (package, peer) in peers.items():
        passes = [(time_call(mine[metric]), time_call(peer)) for _ in range(PASSES)]
        (_, values), (_, right) = passes[0]
        own_seconds, other = ([one[side][0] for one in passes] for side in (0, 1))
        max_difference = max(abs(a - b) for a, b in zip(values, right, strict=True))
        assert max_difference < 1e-9, f"{metric}: {max_difference}"
        us_per_item, peer_us_per_item = (
            1e6 * min(one) / len(predictions) for one in (own_seconds, other)
        )
        rows.append(
            [
                name,
                metric,
                package,
                f"{us_per_item:.0f}",
                f"{peer_us_per_item:.0f}",
                f"**{peer_us_per_item / us_per_item:.1f}**",
                f"{max_difference:.0e}",
            ]
        )
        print(*rows[-1])
    return rows


def main() -> None:
    rows = rows_of(f"{COUNT} synthetic", *synthetic_reports(COUNT))
    if len(sys.argv) > 1:
        predictions, gold = read_generated(Path(sys.argv[1]))
        rows += rows_of(f"{len(predictions)} generated (IU X-ray)", predictions, gold)
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    summary = (
        f"Compared with {versions}, in one process on the same texts; microseconds of CPU time per"
        " report. The last column is the largest difference between two values."
    )
    header = [
        "reports",
        "metric",
        "package",
        "ours (µs)",
        "theirs (µs)",
        "times faster",
        "difference",
    ]
    record("report-metrics", "Report metrics", summary + "\n\n" + table(header, rows))


if __name__ == "__main__":
    main()
