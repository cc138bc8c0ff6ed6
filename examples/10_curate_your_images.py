"""Make a dataset from a folder of images: python 10_curate_your_images.py FOLDER OUT [a.b=v ...]

FOLDER holds images in folders named by their class. Each becomes a question about its class;
duplicates, small images and unreadable images are dropped with a reason. OUT is a DATASET;
OUT/explain.html shows what each step did.
"""

import sys
from pathlib import Path

from lingshu.core import config as configuration
from lingshu.curate.config import CurateConfig, Source, StepConfig
from lingshu.curate.plan import resolve
from lingshu.curate.run import CurateOptions, curate

RECIPE = CurateConfig(
    name="my_images",
    sources=(
        Source(
            "mine",
            "folders",
            options={"question": "What does the image show?"},
            license="own",
            access="private",
        ),
    ),
    steps=(
        StepConfig("size", "image_size", {"min_side": 56}),
        StepConfig("dedup", "image_dedup"),
        StepConfig("balance", "balance", {"by": ["label"], "ratio": 3.0}),
    ),
    workers=1,
)


def main(folder: str, out: str, *overrides: str) -> int:
    config = configuration.override(resolve(RECIPE), [f"sources.mine.path={folder}", *overrides])
    result = curate(config, Path(out), CurateOptions(explain=True))
    drops = ", ".join(f"{reason} {count}" for reason, count in result.card.drops.items())
    print(f"{result.card.rows} rows kept; dropped: {drops or 'none'}")
    return 1 if result.failures else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
