"""Drawn phantoms on the way of every dataset: read, size filter, deduplication, parquet. The
quickstart's data are made so.

Expected: of 600 instruct phantoms all stay; two of one picture would be found by their pixels.
"""

from __future__ import annotations

from lingshu.curate.config import CurateConfig, Source, StepConfig


def recipe(
    *, purpose: str = "instruct", images: int = 600, first: int = 0, seed: int = 0, side: int = 56
) -> CurateConfig:
    """`images` phantoms from number `first` on, made for a purpose of sources/phantom.py: text,
    captions, instruct, ...
    """
    options = {"purpose": purpose, "images": images, "first": first, "side": side}
    return CurateConfig(
        name=f"phantom_{purpose}",
        sources=(Source("phantom", "phantom", f"phantom/{seed}", options),),
        steps=(
            StepConfig(
                "size", "image_size", {"min_side": side, "require_image": purpose != "text"}
            ),
            # Phantoms of one style look alike to any hash that forgives: only equal pictures are
            # duplicates.
            StepConfig("dedup", "image_dedup", {"radius": 0, "unit": "image_text"}),
        ),
        seed=seed,
        workers=0,
    )
