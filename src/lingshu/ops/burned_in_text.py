"""Burned-in text gate: images whose file or pixels suggest text in the picture, which may name a
patient, are held back.

Two looks: what a DICOM file said of itself (`burned_in_risk`, which the DICOM readers note:
"stated" by the file, "likely" for ultrasound, secondary captures and other kinds that often hold
text), and lines of type found in the pixels without reading them (any letters, so that a laterality
mark of one letter passes). Held back means dropped with a reason; the list of drops is the
quarantine that a person can go through. What the look at the pixels finds and misses was measured
(docs/benchmarks.md): it is a gate, not a proof that there is no text.
"""

from __future__ import annotations

from collections.abc import Sequence

from lingshu.core.step_types import MapStep, Pixels, SampleFunction
from lingshu.core.types import Drop, Sample, with_extra
from lingshu.deidentify.overlay_text import TextLine, find_text_lines
from lingshu.ops._sample_fields import cached_per_image, check_choice, require

RISKS = {
    "off": frozenset[str](),
    "stated": frozenset(("stated",)),
    "likely": frozenset(("stated", "likely")),
}


def step(
    *, dicom: str = "likely", scan_pixels: bool = True, min_glyphs: int = 5, action: str = "drop"
) -> MapStep:
    """Hold back samples with text in their images.

    Args:
        dicom: what DICOM risk holds a sample back: `stated`, `likely` (either), or `off`.
        pixels: whether the pixels are searched for lines of text.
        min_glyphs: letters and digits that a line must have; fewer finds more text and more that is
            none.
        action: `drop`, or `note`, which keeps the sample and writes the reason to the note
            `burned_in_text`.

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

        def gate(sample: Sample, pixels: Pixels) -> Sample | Drop:
            risk = sample.meta.extra.get("burned_in_risk")
            lines_by_image = (
                []
                if risk in RISKS[dicom] or not scan_pixels
                else [find_lines(image, pixels) for image in sample.images]
            )
            drop = (
                Drop(sample.id, f"burned_in_{risk}")
                if risk in RISKS[dicom]
                else _text_drop(sample.id, lines_by_image)
            )
            if drop is None:
                return sample
            return (
                drop
                if action == "drop"
                else with_extra(
                    sample, {"burned_in_text": " ".join((drop.reason, drop.detail)).strip()}
                )
            )

        return gate

    return MapStep(open_step)


def _text_drop(name: str, lines_by_image: Sequence[Sequence[TextLine]]) -> Drop | None:
    for index, lines in enumerate(lines_by_image):
        if lines:
            longest = max(lines, key=lambda line: line.n_glyphs)
            return Drop(
                name,
                "text_in_image",
                f"image {index}: {len(lines)} lines, one of {longest.n_glyphs} glyphs at"
                f" {longest.box[:2]}",
            )
    return None
