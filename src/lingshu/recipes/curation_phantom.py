"""Synthetic phantoms, curated like any dataset: read, size filter, deduplication, parquet; the data
of the quickstart.

Expected: all of 600 instruct phantoms stay; two of one image would be found by their pixels.
"""

from lingshu.curate.config import CurateConfig, Source, StepConfig


def recipe(
    *, purpose: str = "instruct", images: int = 600, first: int = 0, seed: int = 0, side: int = 56
) -> CurateConfig:
    """`images` phantoms from number `first` on, for a purpose of sources/phantom.py."""
    options = {"purpose": purpose, "images": images, "first": first, "side": side}
    size = {"min_side": side, "require_image": purpose != "text"}
    return CurateConfig(
        name=f"phantom_{purpose}",
        sources=(Source("phantom", "phantom", f"phantom/{seed}", options),),
        steps=(
            StepConfig("size", "image_size", size),
            # Phantoms of one style look alike to any tolerant hash: only equal images count.
            StepConfig("dedup", "image_dedup", {"radius": 0, "unit": "image_text"}),
        ),
        seed=seed,
        workers=0,
    )
