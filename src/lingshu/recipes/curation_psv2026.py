"""PathVQA, SLAKE and VQA-RAD as one dataset, split so that no image or patient is on both sides: the
input of the PSV2026 builder.

Give the folders that you have, sources.slake.path=FOLDER, with rows.jsonl as `lingshu build` writes
it. Run it twice: as it is for the training side, with steps.split.params.keep=validation for the
test side. The upstream splits share images (VQA-RAD nearly all), and the published set keeps those
splits; here images decide. Expected: a fifth of the images on the test side.
"""

from lingshu.curate.config import CurateConfig, Source, StepConfig


def _source(name: str, license: str, modality: str | None = None) -> Source:
    return Source(
        name, "jsonl", license=license, access="open", deidentified=True, modality=modality,
        optional=True,
    )  # fmt: skip


def recipe() -> CurateConfig:
    """The training side; equal questions about one image are asked once."""
    return CurateConfig(
        name="psv2026_sources",
        sources=(
            _source("path_vqa", "MIT", modality="histopathology"),
            _source("slake", "CC-BY-4.0"),
            _source("vqa_rad", "CC0-1.0"),
        ),
        steps=(
            StepConfig("size", "image_size", {"min_side": 56, "require_image": True}),
            StepConfig("dedup", "image_dedup", {"radius": 0, "unit": "image_text"}),
            # 9,264 of 40,546 published items are test items.
            StepConfig("split", "split_by_group", {"validation": 0.23, "keep": "train"}),
        ),
    )
