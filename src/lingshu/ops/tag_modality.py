"""Modality tagging: X-ray, CT, MRI, ultrasound or microscopy, told from the pixels where no source says it.

The paper fills missing labels by a classifier on BiomedCLIP features, not described further (section 2.3). The default
here needs no weights from elsewhere: a linear head on plain image features (colour, brightness, layout, texture,
frequencies), trained by bench/train_modality.py on about 870 images of four open sources that are named in the head's
file, with its accuracy. It knows five modalities; it abstains below a calibrated probability and on pictures unlike
those it learnt from, so histopathology, fundus, dermoscopy and photographs mostly stay untagged.

An encoder such as BiomedCLIP is given, not built here (steps are free of torch): a plug-in step calls `tagger` with a
function from pixels to a feature vector and a head that bench/train_modality.py fitted on such vectors, or with the
embedded names of the modalities as the head's weights, which is zero-shot classification.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lingshu.core.errors import InputError
from lingshu.core.files import read_json
from lingshu.core.nouns import Drop, Sample
from lingshu.core.steps import MapStep, Pixels, SampleFunction
from lingshu.ops import _picture_features
from lingshu.ops._facts import one_of, remembered, require, with_notes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HEAD = Path(__file__).with_name("_modality_head.json")
# DICOM's codes (PS3.3 C.7.3.1.1.1) by the names of the paper.
NAMES = {
    "CR": "X-ray", "DX": "X-ray", "RF": "X-ray", "XA": "X-ray", "MG": "X-ray", "IO": "X-ray", "PX": "X-ray", "RG": "X-ray",
    "CT": "CT", "MR": "MRI", "US": "ultrasound", "IVUS": "ultrasound", "SM": "histopathology", "GM": "microscopy",
    "OP": "fundus", "OPT": "OCT", "OCT": "OCT", "ES": "endoscopy", "XC": "photograph", "DMS": "dermoscopy", "PT": "PET",
    "NM": "nuclear medicine",
}  # fmt: skip


class Guess(NamedTuple):
    """The most probable modality, its probability, and how far the picture lies from what the head learnt (1: at the limit)."""

    modality: str
    probability: float
    strangeness: float


@dataclass(frozen=True)
class Head:
    """A linear classifier with a measure of strangeness: features are standardised, then weighed, and projected to be compared.

    Shapes: mean, scale (D,); weights (D, C), bias (C,); projection (D, K), centres (C, K). `least` is the probability and
    1.0 the strangeness beyond which it abstains.
    """

    modalities: tuple[str, ...]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    projection: NDArray[np.float64]
    centres: NDArray[np.float64]
    limit: float
    least: float

    def guess(self, features: NDArray[np.float64]) -> Guess:
        import numpy as np

        # Beyond six standard deviations a feature says no more than that it is strange.
        plain = np.clip((features - self.mean) / self.scale, -6, 6)
        scores = plain @ self.weights + self.bias
        powers = np.exp(scores - scores.max())
        best = int(scores.argmax())
        distance = float(np.sqrt(((plain @ self.projection - self.centres) ** 2).sum(axis=1)).min())
        return Guess(self.modalities[best], float(powers[best] / powers.sum()), distance / self.limit)


def read_head(path: Path) -> Head:
    """The head of a file that bench/train_modality.py wrote.

    Raises:
        InputError: it is no such file, or belongs to other features.
    """
    import numpy as np

    value = read_json(path)
    if value.get("features") not in (_picture_features.VERSION, "given"):
        raise InputError(f"{path} is a head for features {value.get('features')!r}; train it anew with bench/train_modality.py.")
    arrays = {name: np.array(value[name], np.float64) for name in ("mean", "scale", "weights", "bias", "projection", "centres")}
    return Head(tuple(value["modalities"]), **arrays, limit=float(value["limit"]), least=float(value["least"]))


def step(*, head: str | None = None, least: float | None = None, overwrite: bool = False, unsure: str = "keep") -> MapStep:
    """Write `meta.modality` where it is missing, and put DICOM's codes into words.

    Args:
        head: a head's file of one's own; None takes the built-in one.
        least: least probability to tag at; None takes the head's own, calibrated one.
        overwrite: whether a modality that the source states is judged anew.
        unsure: `keep` (untagged) or `drop` samples that the head abstains on.

    Only the first image counts. Drops: modality_unsure. Tagged samples carry the note `modality_by`.
    """
    one_of("tag_modality", "unsure", unsure, ("keep", "drop"))
    path = HEAD if head is None else Path(head)
    return tagger(_picture_features.features, path, least=least, overwrite=overwrite, unsure=unsure)


def tagger(
    encode: Callable[[NDArray[np.uint8]], NDArray[np.float64]],
    head: Path,
    *,
    least: float | None = None,
    overwrite: bool = False,
    unsure: str = "keep",
) -> MapStep:
    """The step for any encoder: `encode` makes the feature vector of height x width x 3 RGB values that `head` was trained on."""
    require(least is None or 0 <= least <= 1, f"tag_modality: least is {least}; it must lie between 0 and 1.")

    def open_() -> SampleFunction:
        known = read_head(head)
        look = remembered(lambda image, pixels: known.guess(encode(pixels.rgb(image))))
        bar = known.least if least is None else least

        def tag(sample: Sample, pixels: Pixels) -> Sample | Drop:
            stated = sample.meta.modality
            if not sample.images or (stated and not overwrite):
                return _named(sample, NAMES.get(stated or "", stated))
            guess = look(sample.images[0], pixels)
            if guess.probability < bar or guess.strangeness > 1:
                return sample if unsure == "keep" else Drop(sample.id, "modality_unsure", f"{guess.modality} {guess.probability:.2f}")
            return with_notes(_named(sample, guess.modality), {"modality_by": f"head, {guess.probability:.2f}"})

        return tag

    return MapStep(open_, reads=(str(head),))


def _named(sample: Sample, modality: str | None) -> Sample:
    return sample if modality == sample.meta.modality else replace(sample, meta=replace(sample.meta, modality=modality))
