"""Procedurally drawn phantoms: twelve modality styles with a verifiable lesion, from a seed alone.

Licence: Apache-2.0 (drawn by this package, no patient behind any pixel). Revision: the code itself;
link: none. A phantom imitates the look of a modality, never an organ in a medical sense. Each one
is drawn from (seed, split, index) and nothing else, so any single image can be drawn again alone,
and the splits of a seed never share a random stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Split = Literal["train", "validation", "test"]

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
LESION_COUNTS = (0, 1, 2, 3)
# Half the phantoms carry exactly one lesion, since only those have a side and a size to ask for.
LESION_COUNT_PROBS = (0.36, 0.46, 0.10, 0.08)
RADIUS = {"small": 0.15, "large": 0.31}  # share of half the image side
# Every phantom is lit from the left: real images tell their sides apart (a marker, the heart, the
# disc), and without any such sign a left and a right lesion would be the same picture mirrored.
LIGHT_FALLOFF = 0.3
BRIGHT = (0.98, 0.95, 0.55)
DARK = (0.08, 0.06, 0.05)


@dataclass(frozen=True)
class Lesion:
    """One disc; `x` and `y` run from -1 (left, top) to 1 (right, bottom), `radius` in the same
    unit.
    """

    x: float
    y: float
    radius: float

    @property
    def side(self) -> str:
        return "right" if self.x > 0 else "left"


@dataclass(frozen=True)
class Phantom:
    """A drawn image (height x width x 3, uint8) and what is true of it."""

    pixels: NDArray[np.uint8]
    modality: str
    lesions: tuple[Lesion, ...]
    size: str  # of every lesion in the image: "small" or "large"

    @property
    def side(self) -> str | None:
        """The image side of the only lesion; None without one or with several."""
        return self.lesions[0].side if len(self.lesions) == 1 else None


class Canvas:
    """Coordinates and the random stream that a style draws with; every plane is side x side, values
    0-1.
    """

    def __init__(self, rng: np.random.Generator, side: int) -> None:
        self.rng, self.side = rng, side
        axis = np.linspace(-1, 1, side, dtype=np.float32)
        self.x, self.y = np.meshgrid(axis, axis)
        dx, dy = rng.normal(0, 0.05, 2)
        a, b = rng.uniform(0.75, 0.9, 2)
        self.radius = np.sqrt(((self.x - dx) / a) ** 2 + ((self.y - dy) / b) ** 2)

    def gray(self, plane: NDArray[np.floating]) -> Plane:
        return np.repeat(plane[..., None], 3, axis=2).astype(np.float32)

    def flat(self, red: float, green: float, blue: float) -> Plane:
        return np.full((self.side, self.side, 3), (red, green, blue), np.float32)

    def discs(self, n: int, radius: float) -> NDArray[np.bool_]:
        """A mask of `number` discs at random places."""
        mask = np.zeros((self.side, self.side), bool)
        for cx, cy in self.rng.uniform(-1, 1, (n, 2)):
            mask |= (self.x - cx) ** 2 + (self.y - cy) ** 2 < radius**2
        return mask


def xray(c: Canvas) -> Plane:
    lungs = ((np.abs(c.x) - 0.42) / 0.3) ** 2 + (c.y / 0.7) ** 2 < 1
    ribs = 0.1 * (np.sin(c.y * 16 + 2 * np.abs(c.x)) > 0.6)
    return c.gray(np.where(lungs, 0.28, 0.75 - 0.2 * c.y) + ribs)


def ct(c: Canvas) -> Plane:
    body = np.where(c.radius < 0.85, 0.45, 0.0)
    return c.gray(np.where((c.radius >= 0.85) & (c.radius < 1), 0.95, body))


def mri(c: Canvas) -> Plane:
    folds = 0.35 + 0.2 * np.sin(c.radius * 14 + 3 * np.arctan2(c.y, c.x))
    return c.gray(np.where(c.radius < 1, folds, 0.0))


def ultrasound(c: Canvas) -> Plane:
    fan = np.abs(np.arctan2(c.x, c.y + 1.4)) < 0.75
    return c.gray(np.where(fan, 0.4, 0.0) * c.rng.gamma(2.0, 0.5, c.x.shape))


def microscopy(c: Canvas) -> Plane:
    image = c.flat(0.88, 0.9, 0.72)
    image[c.discs(16, 0.11)] = (0.75, 0.42, 0.45)
    return image


def histopathology(c: Canvas) -> Plane:
    image = c.flat(0.93, 0.75, 0.85)
    image[c.discs(14, 0.08)] = (0.45, 0.2, 0.6)
    return image


def dermoscopy(c: Canvas) -> Plane:
    image = c.flat(0.87, 0.66, 0.55)
    hairs = np.abs(np.sin(5 * c.x + 9 * c.y + c.rng.uniform(0, 6))) < 0.06
    image[hairs] = (0.4, 0.28, 0.22)
    return image


def fundus(c: Canvas) -> Plane:
    image = np.where(
        (c.radius < 1)[..., None], np.array([0.75, 0.35, 0.12], np.float32), np.float32(0)
    )
    image[(np.abs(c.y - 0.3 * np.sin(3 * c.x)) < 0.05) & (c.radius < 1)] *= 0.55
    return image.astype(np.float32)


def oct_scan(c: Canvas) -> Plane:
    surface = c.y - 0.12 * np.cos(2 * c.x + c.rng.uniform(-0.5, 0.5))
    layers = np.where(np.abs(surface) < 0.55, 0.4 + 0.3 * np.sin(surface * 22), 0.04)
    return c.gray(layers * c.rng.gamma(8.0, 0.125, c.x.shape))


def endoscopy(c: Canvas) -> Plane:
    image = np.stack([0.85 - 0.45 * c.radius, 0.45 - 0.35 * c.radius, 0.4 - 0.3 * c.radius], axis=2)
    image *= (0.9 + 0.1 * np.sin(c.radius * 18))[..., None]
    image[c.radius > 1.1] = 0.0
    return image.astype(np.float32)


def pet(c: Canvas) -> Plane:
    glow = np.exp(-2.2 * c.radius**2)
    return np.stack([0.25 * glow, 0.05 * glow, 0.2 + 0.65 * glow], axis=2).astype(np.float32)


def photograph(c: Canvas) -> Plane:
    skin = (np.abs(c.x - 0.1 * np.sin(2 * c.y)) < 0.78)[..., None]
    return np.where(skin, np.array([0.9, 0.7, 0.58]), np.array([0.15, 0.5, 0.45])).astype(
        np.float32
    )


# modality name -> (how to draw it, colour of a lesion in it)
STYLES: dict[str, tuple[Callable[[Canvas], Plane], tuple[float, float, float]]] = {
    "x-ray": (xray, BRIGHT),
    "ct": (ct, BRIGHT),
    "mri": (mri, BRIGHT),
    "ultrasound": (ultrasound, BRIGHT),
    "microscopy": (microscopy, DARK),
    "histopathology": (histopathology, DARK),
    "dermoscopy": (dermoscopy, DARK),
    "fundus": (fundus, BRIGHT),
    "oct": (oct_scan, BRIGHT),
    "endoscopy": (endoscopy, BRIGHT),
    "pet": (pet, BRIGHT),
    "photograph": (photograph, DARK),
}
MODALITIES = tuple(STYLES)


def sample_lesions(rng: np.random.Generator, n_lesions: int, size: str) -> tuple[Lesion, ...]:
    """Lesions clear of the middle line and of each other: their side and their number stay beyond
    doubt.
    """
    positions = [
        (sign * column, row) for sign in (-1, 1) for column in (0.45,) for row in (-0.42, 0.42)
    ]
    selected = rng.permutation(len(positions))[:n_lesions]
    lesions = []
    for index in selected:
        x, y = positions[index]
        jitter = rng.uniform(-0.08, 0.08, 2)
        # Two large discs one above the other would touch, so several lesions are drawn a little
        # smaller.
        radius = RADIUS[size] * rng.uniform(0.92, 1.08) * (1.0 if n_lesions == 1 else 0.9)
        lesions.append(Lesion(float(x + jitter[0]), float(y + jitter[1]), float(radius)))
    return tuple(lesions)


def draw_phantom(seed: int, split: Split, index: int, *, side: int = 56) -> Phantom:
    """Draw phantom number `index` of a split; `side` is the image side in pixels.

    The modality runs through the twelve styles in turn, so every stretch of twelve is balanced.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    modality = MODALITIES[index % len(MODALITIES)]
    n_lesions = int(rng.choice(LESION_COUNTS, p=LESION_COUNT_PROBS))
    size = ("small", "large")[int(rng.integers(2))]
    canvas = Canvas(rng, side)
    style, color = STYLES[modality]
    image = style(canvas)
    lesions = sample_lesions(rng, n_lesions, size)
    for lesion in lesions:
        image[(canvas.x - lesion.x) ** 2 + (canvas.y - lesion.y) ** 2 < lesion.radius**2] = color
    image *= (1 - LIGHT_FALLOFF * (canvas.x + 1) / 2)[..., None]
    image = image + rng.normal(0, 0.03, image.shape)
    return Phantom((np.clip(image, 0, 1) * 255).astype(np.uint8), modality, lesions, size)
