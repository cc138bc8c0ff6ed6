"""Trains the head of the step tag_modality: linear on plain image features, from folders of images
whose modality is known.

    python bench/train_modality.py DATA

DATA holds bccd_blood_smear, busi_ultrasound, pneumoniamnist_cxr and vqa_rad. Modalities of VQA-RAD
follow from the organ (chest: X-ray, abdomen: CT, head: MRI) but for the eight head CTs named here.
Groups are split 60 : 20 : 20 by a hash of their names into training, calibration and held-out
images. Licenses of the sources: MIT, CC0, CC BY 4.0, CC0 (as far as known); the file holds numbers
fitted to features, and no image.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lingshu.core.types import Image
from lingshu.imaging.cache import ImageCache
from lingshu.ops.tag_modality import (
    DEFAULT_HEAD,
    FEATURES_VERSION,
    ModalityClassifier,
    image_features,
)

MODALITIES = ("X-ray", "CT", "MRI", "ultrasound", "microscopy")
HEAD_CT = {"16520", "23631", "34922", "39757", "48714", "54795", "57520", "58261"}
UNCLEAR = {"57317"}
ORGANS = {"CHEST": "X-ray", "ABD": "CT", "HEAD": "MRI"}
SOURCES = {
    "bccd_blood_smear": "BCCD_Dataset (MIT)", "busi_ultrasound": "BUSI (CC0 or free for research)",
    "pneumoniamnist_cxr": "PneumoniaMNIST (CC BY 4.0)", "vqa_rad": "images of VQA-RAD (CC0), without its questions",
}  # fmt: skip
N_AUGMENTATIONS = 6
COMPONENTS = 24
SEED = 0


class LabeledImage(NamedTuple):
    path: Path
    modality: str
    group: str


def labeled(data: Path) -> Iterator[LabeledImage]:
    fixed = {
        "bccd_blood_smear": "microscopy",
        "busi_ultrasound": "ultrasound",
        "pneumoniamnist_cxr": "X-ray",
    }
    for name in SOURCES:
        seen: set[str] = set()
        for line in (
            (data / name / "rows.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")
        ):
            row = json.loads(line)
            number = Path(row["image"]).stem.removeprefix("synpic")
            if row["image"] in seen or number in UNCLEAR:
                continue
            seen.add(row["image"])
            modality = fixed.get(name) or (
                "CT" if number in HEAD_CT else ORGANS[row["image_organ"]]
            )
            yield LabeledImage(data / name / row["image"], modality, row["_group"])


def part(group: str) -> str:
    """train, calibrate or test, by the name of the group."""
    fraction = int(hashlib.sha256(group.encode()).hexdigest()[:8], 16) / 2**32
    return "train" if fraction < 0.6 else "calibrate" if fraction < 0.8 else "test"


def augment(rgb: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A crop of other size, contrast and compression: what a source does to all its images must not
    tell the modality.
    """
    height, width = rgb.shape[:2]
    share = rng.uniform(0.7, 1.0)
    h, w = max(8, int(height * share)), max(8, int(width * share))
    top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    cut = rgb[top : top + h, left : left + w]
    side = int(rng.choice([28, 64, 128, 256]))
    cut = cv2.resize(cut, (side, max(8, side * h // w)), interpolation=cv2.INTER_AREA)
    cut = (np.clip(cut / 255.0, 0, 1) ** rng.uniform(0.75, 1.35) * 255).astype(np.uint8)
    _, coded = cv2.imencode(
        ".jpg",
        cv2.cvtColor(cut, cv2.COLOR_RGB2BGR),
        [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 96))],
    )
    return np.asarray(
        cv2.cvtColor(cv2.imdecode(coded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB),  # pyright: ignore[reportArgumentType,reportCallIssue]
        np.uint8,
    )


def fit(
    x: NDArray[np.float64], y: NDArray[np.int64], decay: float = 3e-3
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Multinomial logistic regression by gradient descent, classes weighed alike."""
    weights, bias = np.zeros((x.shape[1], len(MODALITIES))), np.zeros(len(MODALITIES))
    share = 1 / (len(MODALITIES) * np.bincount(y, minlength=len(MODALITIES)))[y]
    truth = np.eye(len(MODALITIES))[y]
    for turn in range(1500):
        scores = x @ weights + bias
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        error = (powers / powers.sum(axis=1, keepdims=True) - truth) * share[:, None]
        rate = 0.3 * (1 - turn / 1500)
        weights -= rate * (x.T @ error + decay * weights)
        bias -= rate * error.sum(axis=0)
    return weights, bias


def train(data: Path) -> tuple[ModalityClassifier, dict[str, object]]:
    rng = np.random.default_rng(SEED)
    rows: dict[str, list[tuple[NDArray[np.float64], int]]] = {
        "train": [],
        "calibrate": [],
        "test": [],
    }
    plain: list[tuple[NDArray[np.float64], int]] = []
    with ImageCache() as image_cache:
        for item in labeled(data):
            rgb, y, where = (
                image_cache.rgb(Image(path=str(item.path))),
                MODALITIES.index(item.modality),
                part(item.group),
            )
            vector = image_features(rgb)
            rows[where].append((vector, y))
            if where == "train":
                plain.append((vector, y))
                rows[where] += [
                    (image_features(augment(rgb, rng)), y) for _ in range(N_AUGMENTATIONS)
                ]
    x, y = stacked(rows["train"])
    mean, scale = x.mean(axis=0), np.maximum(x.std(axis=0), 0.02)
    z = np.clip((x - mean) / scale, -6, 6)
    weights, bias = fit(z, y)
    center = np.stack([z[y == c].mean(axis=0) for c in range(len(MODALITIES))])
    spread = z - center[y]
    values, vectors = np.linalg.eigh(np.cov(spread.T))
    strongest = np.argsort(-values)[:COMPONENTS]
    projection = vectors[:, strongest] / np.sqrt(values[strongest] + 0.05)
    head = ModalityClassifier(
        MODALITIES,
        mean,
        scale,
        weights,
        bias,
        projection,
        center @ projection,
        max_distance=1.0,
        min_probability=0.0,
    )
    guesses = [(head.predict(v), c) for v, c in rows["calibrate"]]
    limit = float(np.quantile([g.ood_distance for g, _ in guesses], 0.98))
    min_probability = calibrated([(g.probability, g.modality == MODALITIES[c]) for g, c in guesses])
    head = ModalityClassifier(
        MODALITIES,
        mean,
        scale,
        weights,
        bias,
        projection,
        center @ projection,
        max_distance=limit,
        min_probability=min_probability,
    )
    held = [(head.predict(v), MODALITIES[c]) for v, c in rows["test"]]
    summary: dict[str, object] = {
        "images": {where: len(found) for where, found in rows.items()} | {"train": len(plain)}
    }
    for name in MODALITIES:
        mine = [g for g, truth in held if truth == name]
        confident = [g for g in mine if g.probability >= min_probability and g.ood_distance <= 1]
        summary[name] = {
            "n": len(mine),
            "right": sum(g.modality == name for g in mine),
            "tagged": len(confident),
            "tagged_right": sum(g.modality == name for g in confident),
        }
    return head, summary


def calibrated(found: list[tuple[float, bool]], precision: float = 0.99) -> float:
    """The least probability from which on at least `precision` of the calibration images are right.

    0.8 or more: calibration images come from the sources that were used for training, and others are
    harder.
    """
    for bar in np.arange(0.8, 1.0, 0.01):
        confident = [right for probability, right in found if probability >= bar]
        if confident and sum(confident) >= precision * len(confident):
            return round(float(bar), 2)
    return 0.99


def stacked(
    rows: list[tuple[NDArray[np.float64], int]],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    return np.stack([x for x, _ in rows]), np.array([y for _, y in rows])


def write(head: ModalityClassifier, summary: dict[str, object], path: Path) -> None:
    def short(values: NDArray[np.float64]) -> object:
        return np.vectorize(lambda v: float(f"{v:.4g}"))(values).tolist()

    value = {
        "subject": "linear head of lingshu.ops.tag_modality, written by bench/train_modality.py",
        "sources": list(SOURCES.values()), "held_out": summary, "features": FEATURES_VERSION, "modalities": list(head.modalities),
        "max_distance": round(head.max_distance, 4), "min_probability": head.min_probability,
        **{name: short(getattr(head, name)) for name in ("mean", "scale", "weights", "bias", "projection", "centers")},
    }  # fmt: skip
    path.write_text(
        json.dumps(value, separators=(",", ":")).replace('],"', '],\n"') + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    trained, counts = train(Path(sys.argv[1]))
    write(trained, counts, DEFAULT_HEAD)
    print(json.dumps(counts, indent=2))
