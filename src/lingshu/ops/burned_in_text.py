"""Burned-in text gate: images whose file or pixels suggest text in the image, which may name a
patient, are held back.

Two checks: the DICOM header (`burned_in_risk`, noted by the DICOM readers: "stated" by the file,
"likely" for ultrasound, secondary captures and other kinds that often hold text), and lines of type
detected in the pixels without reading them (any letters, so that a laterality mark of one letter
passes). Held back means dropped with a reason; the list of drops is the quarantine that a person
can review. What the pixel check finds and misses was measured (docs/benchmarks.md): it is a gate,
not a proof that there is no text.
"""

from __future__ import annotations

from lingshu.core.step_types import MapStep, Pixels, SampleFunction
from lingshu.core.types import Drop, Sample, with_extra
from lingshu.deidentify.overlay_text import find_text_lines
from lingshu.ops._sample_fields import cached_per_image, check_choice, require

RISKS = {"off": (), "stated": ("stated",), "likely": ("stated", "likely")}


def step(
    *, dicom: str = "likely", scan_pixels: bool = True, min_glyphs: int = 5, action: str = "drop"
) -> MapStep:
    """Hold back samples with text in their images.

    Args:
        dicom: the DICOM risk that holds a sample back: `stated`, `likely` (either), or `off`.
        scan_pixels: whether the pixels are searched for lines of text.
        min_glyphs: letters and digits that a line must have; with fewer, more text and more false
            alarms are found.
        action: `drop`, or `note`: keep the sample, with the reason as its note `burned_in_text`.

    Drops: burned_in_stated, burned_in_likely, text_in_image.
    """
    check_choice("burned_in_text", "dicom", dicom, tuple(RISKS))
    check_choice("burned_in_text", "action", action, ("drop", "note"))
    require(
        min_glyphs >= 3,
        f"burned_in_text: min_glyphs is {min_glyphs}; below 3 everything looks like text.",
    )

    def open_step() -> SampleFunction:
        find_lines = cached_per_image(
            lambda image, pixels: find_text_lines(pixels.gray(image), min_glyphs=min_glyphs)
        )

        def find_text(sample: Sample, pixels: Pixels) -> Drop | None:
            risk = sample.meta.extra.get("burned_in_risk")
            if risk in RISKS[dicom]:
                return Drop(sample.id, f"burned_in_{risk}")
            # All images are decoded before one is reported: an unreadable one is its own drop.
            found = [find_lines(image, pixels) for image in sample.images if scan_pixels]
            for index, lines in enumerate(found):
                if lines:
                    longest = max(lines, key=lambda line: line.n_glyphs)
                    detail = f"{len(lines)} lines, one of {longest.n_glyphs} glyphs"
                    detail = f"image {index}: {detail} at {longest.box[:2]}"
                    return Drop(sample.id, "text_in_image", detail)
            return None

        def gate(sample: Sample, pixels: Pixels) -> Sample | Drop:
            drop = find_text(sample, pixels)
            if drop is None or action == "drop":
                return drop or sample
            note = f"{drop.reason} {drop.detail}".strip()
            return with_extra(sample, {"burned_in_text": note})

        return gate

    return MapStep(open_step)
