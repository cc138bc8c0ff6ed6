"""Modality tagging: X-ray, CT, MRI, ultrasound or microscopy, predicted from the pixels where no
source states it.

The paper fills missing labels by a classifier on BiomedCLIP features, not described further
(section 2.3). The default here needs no external weights: a linear head on plain image features
(color, brightness, layout, texture, frequencies), trained by bench/train_modality.py on about 870
images of four open sources that are named in the head's file, with its accuracy. It knows five
modalities; it abstains below a calibrated probability and on images unlike its training data, so
histopathology, fundus, dermoscopy and photographs mostly stay untagged.

With an `encoder`, a local folder of a model with an image and a text tower (CLIP, SigLIP,
MedSigLIP), an image gets the modality whose text is nearest to it: zero-shot, for any modality that
has a text. These probabilities are not calibrated; measure them on your own images, or train a head
on the encoder's vectors. For an encoder of another layout write a plug-in step that calls
`tagging_step` with a function from pixels to a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lingshu.core.errors import InputError, MissingExtraError
from lingshu.core.files import read_json
from lingshu.core.step_types import MapStep, Pixels, SampleFunction
from lingshu.core.types import Drop, Sample, with_extra
from lingshu.ops._sample_fields import cached_per_image, check_choice, check_range, require

if TYPE_CHECKING:
    from lingshu.models.dual_encoder import DualEncoder

Vector = NDArray[np.float64]
Gray = NDArray[np.float32]
DEFAULT_HEAD = Path(__file__).with_name("_modality_classifier.json")
ZERO_SHOT_MIN_PROBABILITY = 0.5
SIDE, THUMBNAIL = 128, 6
# Heads are trained on one version of the features; a change to them needs a new number and head.
FEATURES_VERSION = 1


class ModalityPrediction(NamedTuple):
    """The likeliest modality, its probability, and the distance from training data (limit 1)."""

    modality: str
    probability: float
    ood_distance: float


class ModalityPredictor(NamedTuple):
    """Predicts the modality of RGB values; `name` is written to the note."""

    predict: Callable[[NDArray[np.uint8]], ModalityPrediction]
    min_probability: float
    name: str


@dataclass(frozen=True)
class ModalityClassifier:
    """A linear classifier on standardized features, with a distance in a projection of them.

    Shapes: mean, scale (D,); weights (D, C), bias (C,); projection (D, K), centers (C, K). It
    abstains below `min_probability` and beyond `max_distance`.
    """

    modalities: tuple[str, ...]
    mean: Vector
    scale: Vector
    weights: Vector
    bias: Vector
    projection: Vector
    centers: Vector
    max_distance: float
    min_probability: float

    def predict(self, features: Vector) -> ModalityPrediction:
        # Beyond six standard deviations a feature only says that the image is unusual.
        standardized = np.clip((features - self.mean) / self.scale, -6, 6)
        offsets = standardized @ self.projection - self.centers
        distance = float(np.sqrt((offsets**2).sum(axis=1)).min())
        scores = standardized @ self.weights + self.bias
        return _predict_from_scores(self.modalities, scores, distance / self.max_distance)


def _predict_from_scores(
    modalities: Sequence[str], scores: Vector, ood_distance: float
) -> ModalityPrediction:
    exp_scores = np.exp(scores - scores.max())
    best = int(scores.argmax())
    probability = float(exp_scores[best] / exp_scores.sum())
    return ModalityPrediction(modalities[best], probability, ood_distance)


def load_classifier(path: Path) -> ModalityClassifier:
    """The head in a file that bench/train_modality.py wrote.

    Raises:
        InputError: it is for other features.
    """
    content = read_json(path)
    if content.get("features") not in (FEATURES_VERSION, "given"):
        problem = f"{path} is a head for features {content.get('features')!r}"
        raise InputError(f"{problem}; train it again with bench/train_modality.py.")
    names = ("mean", "scale", "weights", "bias", "projection", "centers")
    return ModalityClassifier(
        tuple(content["modalities"]),
        **{name: np.array(content[name], np.float64) for name in names},
        max_distance=float(content["max_distance"]),
        min_probability=float(content["min_probability"]),
    )


@cache
def _modality_names() -> dict[str, Any]:
    """`dicom_codes` (PS3.3 C.7.3.1.1.1) by the paper's names, and `prompts` as in captions."""
    return read_json(Path(__file__).with_name("_modality_names.json"))


def step(
    *,
    head: str | None = None,
    encoder: str | None = None,
    prompts: Mapping[str, Sequence[str]] | None = None,
    min_probability: float | None = None,
    overwrite: bool = False,
    on_uncertain: str = "keep",
) -> MapStep:
    """Write `meta.modality` where it is missing, and translate DICOM's codes.

    Args:
        head: file of a custom head; None takes the built-in one. With an encoder: a head for its
            vectors.
        encoder: folder of an image and text encoder, for zero-shot tags or for the head; needs the
            extra `torch`.
        prompts: texts that the encoder compares an image with, by modality: `{"X-ray": ["a chest
            X-ray", "a radiograph"]}`; None takes texts for twelve modalities.
        min_probability: least probability of a tag; None takes the head's own, calibrated one, and
            0.5 for zero-shot tags.
        overwrite: whether a modality that the source states is predicted again.
        on_uncertain: `keep` (untagged) or `drop` samples that it abstains on.

    Only the first image counts. Drops: modality_unsure. Tagged samples have a note `modality_by`.
    """
    options: dict[str, Any] = {
        "min_probability": min_probability,
        "overwrite": overwrite,
        "on_uncertain": on_uncertain,
    }
    if encoder is None:
        require(
            prompts is None,
            "tag_modality: prompts are for an encoder; name its folder, or leave them out.",
        )
        head_path = DEFAULT_HEAD if head is None else Path(head)
        return tagging_step(image_features, head_path, **options)
    require(
        head is None or prompts is None,
        "tag_modality: give an encoder a head or prompts, not both.",
    )
    texts = _modality_names()["prompts"] if prompts is None else prompts
    require(
        len(texts) > 1 and all(texts.values()),
        "tag_modality: prompts must name at least two modalities, each with a text.",
    )

    def build_predictor() -> ModalityPredictor:
        dual_encoder = _open_dual_encoder(Path(encoder))
        if head is None:
            predict = _zero_shot_predictor(dual_encoder, texts)
            return ModalityPredictor(predict, ZERO_SHOT_MIN_PROBABILITY, "zero-shot")
        classifier = load_classifier(Path(head))
        dim = dual_encoder.encode_texts(["an image"]).shape[1]
        if classifier.mean.shape != (dim,):
            raise InputError(
                f"{head} is a head for vectors of {classifier.mean.size} numbers, but {encoder}"
                f" gives {dim}; train it on those."
            )
        return _head_predictor(classifier, dual_encoder.encode_image, "head on encoder")

    input_files = (encoder,) if head is None else (encoder, head)
    return _build_step(build_predictor, input_files, **options)


def tagging_step(
    encode: Callable[[NDArray[np.uint8]], Vector], head: Path, **options: Any
) -> MapStep:
    """The step for any encoder, with the options of `step` after `prompts`.

    `encode` computes the vector of height x width x 3 RGB values that `head` was trained on.
    """
    return _build_step(
        lambda: _head_predictor(load_classifier(head), encode, "head"), (str(head),), **options
    )


def _build_step(
    build_predictor: Callable[[], ModalityPredictor],
    input_files: Sequence[str],
    *,
    min_probability: float | None = None,
    overwrite: bool = False,
    on_uncertain: str = "keep",
) -> MapStep:
    check_choice("tag_modality", "on_uncertain", on_uncertain, ("keep", "drop"))
    check_range("tag_modality", 0, 1, min_probability=min_probability)

    def open_step() -> SampleFunction:
        predictor = build_predictor()
        predict = cached_per_image(lambda image, pixels: predictor.predict(pixels.rgb(image)))
        threshold = predictor.min_probability if min_probability is None else min_probability

        def tag(sample: Sample, pixels: Pixels) -> Sample | Drop:
            stated = sample.meta.modality
            if not sample.images or (stated and not overwrite):
                codes = _modality_names()["dicom_codes"]
                return _with_modality(sample, codes.get(stated or "", stated))
            modality, probability, ood_distance = predict(sample.images[0], pixels)
            # Written so that NaN (from damaged weights, for example) tags nothing.
            if probability >= threshold and ood_distance <= 1:
                note = {"modality_by": f"{predictor.name}, {probability:.2f}"}
                return with_extra(_with_modality(sample, modality), note)
            if on_uncertain == "keep":
                return sample
            return Drop(sample.id, "modality_unsure", f"{modality} {probability:.2f}")

        return tag

    return MapStep(open_step, input_files=input_files)


def _with_modality(sample: Sample, modality: str | None) -> Sample:
    if modality == sample.meta.modality:
        return sample
    return replace(sample, meta=replace(sample.meta, modality=modality))


def _head_predictor(
    classifier: ModalityClassifier, encode: Callable[[NDArray[np.uint8]], Vector], name: str
) -> ModalityPredictor:
    return ModalityPredictor(
        lambda rgb: classifier.predict(encode(rgb)), classifier.min_probability, name
    )


def _open_dual_encoder(folder: Path) -> DualEncoder:
    try:
        from lingshu.models.dual_encoder import open_dual_encoder
    except ModuleNotFoundError as error:
        raise MissingExtraError.of(error.name or "torch", "torch") from error
    return open_dual_encoder(folder)


def _zero_shot_predictor(
    dual_encoder: DualEncoder, prompts: Mapping[str, Sequence[str]]
) -> Callable[[NDArray[np.uint8]], ModalityPrediction]:
    """Predicts by the nearest text; a modality with several texts is represented by their mean."""
    modalities = tuple(prompts)
    means = np.stack([dual_encoder.encode_texts(prompts[name]).mean(axis=0) for name in modalities])
    means /= np.linalg.norm(means, axis=1, keepdims=True)

    def predict(rgb: NDArray[np.uint8]) -> ModalityPrediction:
        scores = means @ dual_encoder.encode_image(rgb) * dual_encoder.logit_scale
        return _predict_from_scores(modalities, scores, 0.0)

    return predict


def image_features(rgb: NDArray[np.uint8]) -> Vector:
    """The feature vector of height x width x 3 RGB values, of one length for all images."""
    resized = cv2.resize(rgb, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    gray = resized @ np.array([0.299, 0.587, 0.114], np.float32)
    parts = [_color(resized), _brightness(gray), _layout(gray), _texture(gray), _frequencies(gray)]
    return np.concatenate([part.astype(np.float32) for part in parts]).astype(np.float64)


def _color(rgb: NDArray[np.float32]) -> NDArray[Any]:
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    spread = rgb.max(axis=2) - rgb.min(axis=2)
    pairs = [red - green, blue - green, red - blue]
    spreads = [spread.mean(), spread.std(), (spread > 24).mean(), (spread > 64).mean()]
    values = [*spreads, *(p.mean() for p in pairs), *(p.std() for p in pairs)]
    return np.array(values, np.float32) / np.float32(32)


def _brightness(gray: Gray) -> NDArray[Any]:
    counts = np.histogram(gray, bins=16, range=(0, 256))[0] / gray.size
    levels = np.percentile(gray, [1, 5, 25, 50, 75, 95, 99]) / 64
    return np.concatenate([np.sqrt(counts), levels, [gray.mean() / 64, gray.std() / 64]])


def _layout(gray: Gray) -> NDArray[Any]:
    """Where the image is bright: a thumbnail, corners and border against the middle, symmetry."""
    resized = cv2.resize(gray, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    quarter, border = SIDE // 4, SIDE // 16
    first, last = slice(quarter), slice(-quarter, None)
    corners = [gray[rows, columns] for rows in (first, last) for columns in (first, last)]
    rims = [gray[:border], gray[-border:], gray[:, :border], gray[:, -border:]]
    edge = np.concatenate([rim.ravel() for rim in rims])
    middle = gray[quarter:-quarter, quarter:-quarter]
    deviation = float(gray.std()) or 1.0
    centered = gray - gray.mean()
    left_right = (centered * (gray[:, ::-1] - gray.mean())).mean() / deviation**2
    top_bottom = (centered * (gray[::-1] - gray.mean())).mean() / deviation**2
    values = [corner.mean() / 64 for corner in corners]
    values += [(corner < 16).mean() for corner in corners]
    values += [edge.mean() / 64, edge.std() / 64, (edge < 16).mean()]
    values += [(middle.mean() - edge.mean()) / 64, middle.std() / 64, (middle < 16).mean()]
    return np.concatenate([resized.ravel() / 64, np.array([*values, left_right, top_bottom])])


def _texture(gray: Gray) -> NDArray[Any]:
    """Edges by direction, sharpness at three scales, and local variation."""
    gradient_x, gradient_y = cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1)
    magnitude = np.hypot(gradient_x, gradient_y)
    angle = np.arctan2(gradient_y, gradient_x) % np.pi
    histogram = np.histogram(angle, bins=8, range=(0, np.pi), weights=magnitude)[0]
    directions = histogram / (float(magnitude.sum()) or 1.0)
    sharpness, scaled = [], gray
    for _ in range(3):
        sharpness.append(np.log1p(cv2.Laplacian(scaled, cv2.CV_32F).std()))
        scaled = cv2.pyrDown(scaled)
    mean, mean_square = cv2.blur(gray, (7, 7)), cv2.blur(gray * gray, (7, 7))
    local_std = np.sqrt(np.maximum(mean_square - mean * mean, 0))
    variation = np.histogram(np.log1p(local_std), bins=8, range=(0, 5))[0] / gray.size
    speckle = np.log1p(local_std.mean()) - np.log1p(mean.mean())
    edges = [np.log1p(magnitude.mean()), np.log1p(magnitude.std())]
    values = np.array([*edges, *sharpness, (local_std < 1).mean(), speckle])
    return np.concatenate([directions * 4, np.sqrt(variation), values])


def _frequencies(gray: Gray) -> NDArray[Any]:
    """Energy of the cosine transform by distance from its origin, and its tilt to either axis."""
    energy = np.log1p(np.abs(cv2.dct(gray / 255.0)))
    row, column = np.mgrid[:SIDE, :SIDE]
    ring = np.minimum((np.log2(np.hypot(row, column) + 1)).astype(int), 7).ravel()
    rings = np.bincount(ring, weights=energy.ravel(), minlength=8) / np.bincount(ring, minlength=8)
    asymmetry = energy[:4, 8:].mean() - energy[8:, :4].mean()
    return np.concatenate([np.log(rings + 1e-4), [asymmetry * 10]])
