"""Modality tagging: X-ray, CT, MRI, ultrasound or microscopy, told from the pixels where no source
says it.

The paper fills missing labels by a classifier on BiomedCLIP features, not described further
(section 2.3). The default here needs no weights from elsewhere: a linear head on plain image
features (colour, brightness, layout, texture, frequencies), trained by bench/train_modality.py on
about 870 images of four open sources that are named in the head's file, with its accuracy. It knows
five modalities; it abstains below a calibrated probability and on pictures unlike those it learnt
from, so histopathology, fundus, dermoscopy and photographs mostly stay untagged.

With an `encoder`, a local folder of a model with an image and a text tower (CLIP, SigLIP,
MedSigLIP), a picture gets the modality whose words lie nearest to it: zero-shot, for any modality
that has words. Its probabilities are not calibrated here; measure them on pictures of your own, or
train a head on the encoder's vectors. An encoder of another layout is brought by a plug-in step,
which calls `tagger` with a function from pixels to a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from lingshu.core.errors import InputError, MissingExtra
from lingshu.core.files import read_json
from lingshu.core.nouns import Drop, Sample
from lingshu.core.steps import MapStep, Pixels, SampleFunction
from lingshu.ops import _picture_features
from lingshu.ops._facts import one_of, remembered, require, with_notes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lingshu.models.towers import Towers

HEAD = Path(__file__).with_name("_modality_head.json")
# DICOM's codes (PS3.3 C.7.3.1.1.1) by the names of the paper.
NAMES = {
    "CR": "X-ray", "DX": "X-ray", "RF": "X-ray", "XA": "X-ray", "MG": "X-ray", "IO": "X-ray", "PX": "X-ray", "RG": "X-ray",
    "CT": "CT", "MR": "MRI", "US": "ultrasound", "IVUS": "ultrasound", "SM": "histopathology", "GM": "microscopy",
    "OP": "fundus", "OPT": "OCT", "OCT": "OCT", "ES": "endoscopy", "XC": "photograph", "DMS": "dermoscopy", "PT": "PET",
    "NM": "nuclear medicine",
}  # fmt: skip
# What pictures of a modality are called in captions.
WORDS: Mapping[str, tuple[str, ...]] = {
    "X-ray": ("a chest X-ray", "an X-ray of bones", "a radiograph"),
    "CT": ("a CT scan", "an axial computed tomography slice"),
    "MRI": ("an MRI scan", "a magnetic resonance image"),
    "ultrasound": ("an ultrasound image", "a sonogram"),
    "histopathology": ("a histopathology image", "an H&E stained tissue section"),
    "microscopy": ("a microscopy image of cells", "a blood smear under the microscope"),
    "fundus": ("a color fundus photograph of the retina",),
    "OCT": ("an optical coherence tomography image of the retina",),
    "dermoscopy": ("a dermoscopy image of a skin lesion", "a photograph of skin"),
    "endoscopy": ("an endoscopy image", "a colonoscopy image of the bowel"),
    "PET": ("a PET scan", "a positron emission tomography image"),
    "photograph": ("a photograph of everyday life", "a drawing or diagram"),
}
ZERO_SHOT_LEAST = 0.5


class Guess(NamedTuple):
    """The most probable modality, its probability, and how far the picture lies from what the head
    learnt (1: at the limit).
    """

    modality: str
    probability: float
    strangeness: float


@dataclass(frozen=True)
class Head:
    """A linear classifier with a measure of strangeness: features are standardised, then weighed,
    and projected to be compared.

    Shapes: mean, scale (D,); weights (D, C), bias (C,); projection (D, K), centres (C, K). `least`
    is the probability and 1.0 the strangeness beyond which it abstains.
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
        return Guess(
            self.modalities[best], float(powers[best] / powers.sum()), distance / self.limit
        )


def read_head(path: Path) -> Head:
    """The head of a file that bench/train_modality.py wrote.

    Raises:
        InputError: it is no such file, or belongs to other features.
    """
    import numpy as np

    value = read_json(path)
    if value.get("features") not in (_picture_features.VERSION, "given"):
        raise InputError(
            f"{path} is a head for features {value.get('features')!r}; train it anew with"
            " bench/train_modality.py."
        )
    arrays = {
        name: np.array(value[name], np.float64)
        for name in ("mean", "scale", "weights", "bias", "projection", "centres")
    }
    return Head(
        tuple(value["modalities"]),
        **arrays,
        limit=float(value["limit"]),
        least=float(value["least"]),
    )


def step(
    *, head: str | None = None, encoder: str | None = None, words: Mapping[str, Sequence[str]] | None = None, least: float | None = None,
    overwrite: bool = False, unsure: str = "keep",
) -> MapStep:  # fmt: skip
    """Write `meta.modality` where it is missing, and put DICOM's codes into words.

    Args:
        head: a head's file of one's own; None takes the built-in one. With an encoder: a head for
            its vectors.
        encoder: folder of an encoder of images and words, for zero-shot tags or for the head; needs
            the extra `torch`.
        words: what the encoder compares a picture with, by modality: `{"X-ray": ["a chest X-ray",
            "a radiograph"]}`; None takes words for twelve modalities.
        least: least probability to tag at; None takes the head's own, calibrated one, and 0.5 for
            zero-shot tags.
        overwrite: whether a modality that the source states is judged anew.
        unsure: `keep` (untagged) or `drop` samples that it abstains on.

    Only the first image counts. Drops: modality_unsure. Tagged samples carry the note
    `modality_by`.
    """
    one_of("tag_modality", "unsure", unsure, ("keep", "drop"))
    if encoder is None:
        require(
            words is None,
            "tag_modality: words are for an encoder; name its folder, or leave them out.",
        )
        return tagger(
            _picture_features.features,
            HEAD if head is None else Path(head),
            least=least,
            overwrite=overwrite,
            unsure=unsure,
        )
    require(
        head is None or words is None, "tag_modality: give an encoder a head or words, not both."
    )
    told = {name: tuple(texts) for name, texts in (WORDS if words is None else words).items()}
    require(
        len(told) > 1 and all(told.values()),
        "tag_modality: words must name at least two modalities, each with a text.",
    )
    folder = Path(encoder)

    def judge() -> Judge:
        towers = _towers(folder)
        if head is not None:
            known = read_head(Path(head))
            size = towers.words(["an image"]).shape[1]
            if known.mean.shape != (size,):
                raise InputError(
                    f"{head} is a head for vectors of {known.mean.size} numbers, {encoder} makes"
                    f" {size}; train it on those."
                )
            return Judge(lambda rgb: known.guess(towers.image(rgb)), known.least, "head on encoder")
        return Judge(_zero_shot(towers, told), ZERO_SHOT_LEAST, "zero-shot")

    return _step(
        judge,
        (encoder, *(() if head is None else (head,))),
        least=least,
        overwrite=overwrite,
        unsure=unsure,
    )


def tagger(
    encode: Callable[[NDArray[np.uint8]], NDArray[np.float64]],
    head: Path,
    *,
    least: float | None = None,
    overwrite: bool = False,
    unsure: str = "keep",
) -> MapStep:
    """The step for any encoder: `encode` makes the feature vector of height x width x 3 RGB values
    that `head` was trained on.
    """

    def judge() -> Judge:
        known = read_head(head)
        return Judge(lambda rgb: known.guess(encode(rgb)), known.least, "head")

    return _step(judge, (str(head),), least=least, overwrite=overwrite, unsure=unsure)


class Judge(NamedTuple):
    """Who guesses the modality of RGB values, the least probability it tags at, and what it is
    called in the note.
    """

    guess: Callable[[NDArray[np.uint8]], Guess]
    least: float
    name: str


def _step(
    judge: Callable[[], Judge],
    reads: Sequence[str],
    *,
    least: float | None,
    overwrite: bool,
    unsure: str,
) -> MapStep:
    require(
        least is None or 0 <= least <= 1,
        f"tag_modality: least is {least}; it must lie between 0 and 1.",
    )

    def open_() -> SampleFunction:
        known = judge()
        look = remembered(lambda image, pixels: known.guess(pixels.rgb(image)))
        bar = known.least if least is None else least

        def tag(sample: Sample, pixels: Pixels) -> Sample | Drop:
            stated = sample.meta.modality
            if not sample.images or (stated and not overwrite):
                return _named(sample, NAMES.get(stated or "", stated))
            guess = look(sample.images[0], pixels)
            # Written so that no number (of damaged weights, say) tags nothing.
            if not (guess.probability >= bar and guess.strangeness <= 1):
                return (
                    sample
                    if unsure == "keep"
                    else Drop(
                        sample.id, "modality_unsure", f"{guess.modality} {guess.probability:.2f}"
                    )
                )
            return with_notes(
                _named(sample, guess.modality),
                {"modality_by": f"{known.name}, {guess.probability:.2f}"},
            )

        return tag

    return MapStep(open_, reads=reads)


def _towers(folder: Path) -> Towers:
    try:
        from lingshu.models.towers import open_towers
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "torch", "torch") from error
    return open_towers(folder)


def _zero_shot(
    towers: Towers, words: Mapping[str, Sequence[str]]
) -> Callable[[NDArray[np.uint8]], Guess]:
    """Guesses by the nearest words; a modality with several stands where their mean does."""
    import numpy as np

    names = tuple(words)
    means = np.stack([towers.words(words[name]).mean(axis=0) for name in names])
    means /= np.linalg.norm(means, axis=1, keepdims=True)

    def guess(rgb: NDArray[np.uint8]) -> Guess:
        scores = means @ towers.image(rgb) * towers.scale
        powers = np.exp(scores - scores.max())
        best = int(scores.argmax())
        return Guess(names[best], float(powers[best] / powers.sum()), 0.0)

    return guess


def _named(sample: Sample, modality: str | None) -> Sample:
    return (
        sample
        if modality == sample.meta.modality
        else replace(sample, meta=replace(sample.meta, modality=modality))
    )
