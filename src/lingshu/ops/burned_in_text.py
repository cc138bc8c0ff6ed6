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

from lingshu.core.nouns import Drop, Sample
from lingshu.core.steps import MapStep, Pixels, SampleFunction
from lingshu.ops._facts import one_of, remembered, require, with_notes
from lingshu.ops._overlay_text import Line, lines

RISKS = {
    "off": frozenset[str](),
    "stated": frozenset(("stated",)),
    "likely": frozenset(("stated", "likely")),
}


def step(
    *, dicom: str = "likely", pixels: bool = True, min_glyphs: int = 5, action: str = "drop"
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
    one_of("burned_in_text", "dicom", dicom, tuple(RISKS))
    one_of("burned_in_text", "action", action, ("drop", "note"))
    require(
        min_glyphs >= 3,
        f"burned_in_text: min_glyphs is {min_glyphs}; below 3 everything looks like text.",
    )

    def open_() -> SampleFunction:
        look = remembered(
            lambda image, pictures: lines(pictures.gray(image), min_glyphs=min_glyphs)
        )

        def gate(sample: Sample, pictures: Pixels) -> Sample | Drop:
            risk = sample.meta.extra.get("burned_in_risk")
            seen = (
                []
                if risk in RISKS[dicom] or not pixels
                else [look(image, pictures) for image in sample.images]
            )
            found = (
                Drop(sample.id, f"burned_in_{risk}")
                if risk in RISKS[dicom]
                else _text(sample.id, seen)
            )
            if found is None:
                return sample
            return (
                found
                if action == "drop"
                else with_notes(
                    sample, {"burned_in_text": " ".join((found.reason, found.detail)).strip()}
                )
            )

        return gate

    return MapStep(open_)


def _text(name: str, seen: Sequence[Sequence[Line]]) -> Drop | None:
    for number, found in enumerate(seen):
        if found:
            most = max(found, key=lambda line: line.glyphs)
            return Drop(
                name,
                "text_in_image",
                f"image {number}: {len(found)} lines, one of {most.glyphs} glyphs at"
                f" {most.box[:2]}",
            )
    return None
