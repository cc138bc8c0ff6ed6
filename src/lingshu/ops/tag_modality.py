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

from lingshu.core.errors import InputError, MissingExtraError
from lingshu.core.files import read_json
from lingshu.core.step_types import MapStep, Pixels, SampleFunction
from lingshu.core.types import Drop, Sample, with_extra
from lingshu.ops import _modality_features
from lingshu.ops._sample_fields import cached_per_image, check_choice, require

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lingshu.models.dual_encoder import DualEncoder

DEFAULT_HEAD = Path(__file__).with_name("_modality_classifier.json")
# DICOM's codes (PS3.3 C.7.3.1.1.1) by the names of the paper.
MODALITY_BY_DICOM_CODE = {
    "CR": "X-ray", "DX": "X-ray", "RF": "X-ray", "XA": "X-ray", "MG": "X-ray", "IO": "X-ray", "PX": "X-ray", "RG": "X-ray",
    "CT": "CT", "MR": "MRI", "US": "ultrasound", "IVUS": "ultrasound", "SM": "histopathology", "GM": "microscopy",
    "OP": "fundus", "OPT": "OCT", "OCT": "OCT", "ES": "endoscopy", "XC": "photograph", "DMS": "dermoscopy", "PT": "PET",
    "NM": "nuclear medicine",
}  # fmt: skip
# What pictures of a modality are called in captions.
MODALITY_PROMPTS: Mapping[str, tuple[str, ...]] = {
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
ZERO_SHOT_MIN_PROBABILITY = 0.5


class ModalityPrediction(NamedTuple):
    """The most probable modality, its probability, and how far the picture lies from what the head
    learnt (1: at the limit).
    """

    modality: str
    probability: float
    ood_distance: float


@dataclass(frozen=True)
class ModalityClassifier:
    """A linear classifier with a measure of strangeness: features are standardised, then weighed,
    and projected to be compared.

    Shapes: mean, scale (D,); weights (D, C), bias (C,); projection (D, K), centres (C, K). `min_probability`
    is the probability and 1.0 the strangeness beyond which it abstains.
    """

    modalities: tuple[str, ...]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    weights: NDArray[np.float64]
    bias: NDArray[np.float64]
    projection: NDArray[np.float64]
    centers: NDArray[np.float64]
    max_distance: float
    min_probability: float

    def predict(self, features: NDArray[np.float64]) -> ModalityPrediction:
        import numpy as np

        # Beyond six standard deviations a feature says no more than that it is strange.
        standardized = np.clip((features - self.mean) / self.scale, -6, 6)
        scores = standardized @ self.weights + self.bias
        exp_scores = np.exp(scores - scores.max())
        best_index = int(scores.argmax())
        distance = float(
            np.sqrt(((standardized @ self.projection - self.centers) ** 2).sum(axis=1)).min()
        )
        return ModalityPrediction(
            self.modalities[best_index],
            float(exp_scores[best_index] / exp_scores.sum()),
            distance / self.max_distance,
        )


def load_classifier(path: Path) -> ModalityClassifier:
    """The head of a file that bench/train_modality.py wrote.

    Raises:
        InputError: it is no such file, or belongs to other features.
    """
    import numpy as np

    content = read_json(path)
    if content.get("features") not in (_modality_features.VERSION, "given"):
        raise InputError(
            f"{path} is a head for features {content.get('features')!r}; train it anew with"
            " bench/train_modality.py."
        )
    arrays = {
        name: np.array(content[name], np.float64)
        for name in ("mean", "scale", "weights", "bias", "projection", "centers")
    }
    return ModalityClassifier(
        tuple(content["modalities"]),
        **arrays,
        max_distance=float(content["max_distance"]),
        min_probability=float(content["min_probability"]),
    )


def step(
    *, head: str | None = None, encoder: str | None = None, prompts: Mapping[str, Sequence[str]] | None = None, min_probability: float | None = None,
    overwrite: bool = False, on_uncertain: str = "keep",
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
    check_choice("tag_modality", "on_uncertain", on_uncertain, ("keep", "drop"))
    if encoder is None:
        require(
            prompts is None,
            "tag_modality: words are for an encoder; name its folder, or leave them out.",
        )
        return tagging_step(
            _modality_features.image_features,
            DEFAULT_HEAD if head is None else Path(head),
            min_probability=min_probability,
            overwrite=overwrite,
            on_uncertain=on_uncertain,
        )
    require(
        head is None or prompts is None, "tag_modality: give an encoder a head or words, not both."
    )
    prompt_texts = {
        name: tuple(texts)
        for name, texts in (MODALITY_PROMPTS if prompts is None else prompts).items()
    }
    require(
        len(prompt_texts) > 1 and all(prompt_texts.values()),
        "tag_modality: words must name at least two modalities, each with a text.",
    )
    folder = Path(encoder)

    def build_predictor() -> ModalityPredictor:
        dual_encoder = _open_dual_encoder(folder)
        if head is not None:
            classifier = load_classifier(Path(head))
            dim = dual_encoder.encode_texts(["an image"]).shape[1]
            if classifier.mean.shape != (dim,):
                raise InputError(
                    f"{head} is a head for vectors of {classifier.mean.size} numbers, {encoder} makes"
                    f" {dim}; train it on those."
                )
            return ModalityPredictor(
                lambda rgb: classifier.predict(dual_encoder.encode_image(rgb)),
                classifier.min_probability,
                "head on encoder",
            )
        return ModalityPredictor(
            _zero_shot_predictor(dual_encoder, prompt_texts), ZERO_SHOT_MIN_PROBABILITY, "zero-shot"
        )

    return _build_step(
        build_predictor,
        (encoder, *(() if head is None else (head,))),
        min_probability=min_probability,
        overwrite=overwrite,
        on_uncertain=on_uncertain,
    )


def tagging_step(
    encode: Callable[[NDArray[np.uint8]], NDArray[np.float64]],
    head: Path,
    *,
    min_probability: float | None = None,
    overwrite: bool = False,
    on_uncertain: str = "keep",
) -> MapStep:
    """The step for any encoder: `encode` makes the feature vector of height x width x 3 RGB values
    that `head` was trained on.
    """

    def build_predictor() -> ModalityPredictor:
        classifier = load_classifier(head)
        return ModalityPredictor(
            lambda rgb: classifier.predict(encode(rgb)), classifier.min_probability, "head"
        )

    return _build_step(
        build_predictor,
        (str(head),),
        min_probability=min_probability,
        overwrite=overwrite,
        on_uncertain=on_uncertain,
    )


class ModalityPredictor(NamedTuple):
    """Who guesses the modality of RGB values, the least probability it tags at, and what it is
    called in the note.
    """

    predict: Callable[[NDArray[np.uint8]], ModalityPrediction]
    min_probability: float
    name: str


def _build_step(
    build_predictor: Callable[[], ModalityPredictor],
    reads: Sequence[str],
    *,
    min_probability: float | None,
    overwrite: bool,
    on_uncertain: str,
) -> MapStep:
    require(
        min_probability is None or 0 <= min_probability <= 1,
        f"tag_modality: least is {min_probability}; it must lie between 0 and 1.",
    )

    def open_step() -> SampleFunction:
        predictor = build_predictor()
        predict_image = cached_per_image(lambda image, pixels: predictor.predict(pixels.rgb(image)))
        threshold = predictor.min_probability if min_probability is None else min_probability

        def tag(sample: Sample, pixels: Pixels) -> Sample | Drop:
            stated_modality = sample.meta.modality
            if not sample.images or (stated_modality and not overwrite):
                return _with_modality(
                    sample, MODALITY_BY_DICOM_CODE.get(stated_modality or "", stated_modality)
                )
            prediction = predict_image(sample.images[0], pixels)
            # Written so that no number (of damaged weights, say) tags nothing.
            if not (prediction.probability >= threshold and prediction.ood_distance <= 1):
                return (
                    sample
                    if on_uncertain == "keep"
                    else Drop(
                        sample.id,
                        "modality_unsure",
                        f"{prediction.modality} {prediction.probability:.2f}",
                    )
                )
            return with_extra(
                _with_modality(sample, prediction.modality),
                {"modality_by": f"{predictor.name}, {prediction.probability:.2f}"},
            )

        return tag

    return MapStep(open_step, input_files=reads)


def _open_dual_encoder(folder: Path) -> DualEncoder:
    try:
        from lingshu.models.dual_encoder import open_dual_encoder
    except ModuleNotFoundError as error:
        raise MissingExtraError.of(error.name or "torch", "torch") from error
    return open_dual_encoder(folder)


def _zero_shot_predictor(
    dual_encoder: DualEncoder, prompts: Mapping[str, Sequence[str]]
) -> Callable[[NDArray[np.uint8]], ModalityPrediction]:
    """Guesses by the nearest words; a modality with several stands where their mean does."""
    import numpy as np

    modalities = tuple(prompts)
    means = np.stack([dual_encoder.encode_texts(prompts[name]).mean(axis=0) for name in modalities])
    means /= np.linalg.norm(means, axis=1, keepdims=True)

    def predict(rgb: NDArray[np.uint8]) -> ModalityPrediction:
        scores = means @ dual_encoder.encode_image(rgb) * dual_encoder.logit_scale
        exp_scores = np.exp(scores - scores.max())
        best_index = int(scores.argmax())
        return ModalityPrediction(
            modalities[best_index], float(exp_scores[best_index] / exp_scores.sum()), 0.0
        )

    return predict


def _with_modality(sample: Sample, modality: str | None) -> Sample:
    return (
        sample
        if modality == sample.meta.modality
        else replace(sample, meta=replace(sample.meta, modality=modality))
    )
