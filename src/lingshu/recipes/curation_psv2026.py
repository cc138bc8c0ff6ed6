"""PathVQA, SLAKE and VQA-RAD as one dataset, cut so that no image or patient is on both sides: what
the PSV2026 builder begins from.

Give the folders that you hold, sources.slake.path=FOLDER, with rows.jsonl as `lingshu build` writes
it. Run it twice: as it is for the training side, with steps.split.params.keep=validation for the
test side. The upstream splits share images (VQA-RAD nearly all), and the published set keeps those
splits; here images decide. Expected: a fifth of the images on the test side.
"""

from __future__ import annotations

from lingshu.curate.config import CurateConfig, Source, StepConfig


def recipe() -> CurateConfig:
    """The training side; equal questions about one image are asked once."""
    return CurateConfig(
        name="psv2026_sources",
        sources=(
            Source(
                "path_vqa",
                "jsonl",
                license="MIT",
                access="open",
                deidentified=True,
                modality="histopathology",
                optional=True,
            ),
            Source(
                "slake",
                "jsonl",
                license="CC-BY-4.0",
                access="open",
                deidentified=True,
                optional=True,
            ),
            Source(
                "vqa_rad",
                "jsonl",
                license="CC0-1.0",
                access="open",
                deidentified=True,
                optional=True,
            ),
        ),
        steps=(
            StepConfig("size", "image_size", {"min_side": 56, "require_image": True}),
            StepConfig("dedup", "image_dedup", {"radius": 0, "unit": "image_text"}),
            # 9,264 of 40,546 published items are test items.
            StepConfig("split", "split_by_group", {"validation": 0.23, "keep": "train"}),
        ),
    )
