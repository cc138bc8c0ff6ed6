"""Numbers that tell kinds of medical pictures apart: colour, brightness, layout, texture and
frequencies, without any training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIDE = 128
THUMBNAIL = 6
# Feature vectors belong to heads that were trained on them; a change here needs a new number and a
# new head.
VERSION = 1


def image_features(rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The feature vector of height x width x 3 RGB values; its length depends on nothing."""
    import cv2
    import numpy as np

    resized = cv2.resize(rgb, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    gray = resized @ np.array([0.299, 0.587, 0.114], np.float32)
    parts = [_color(resized), _brightness(gray), _layout(gray), _texture(gray), _frequencies(gray)]
    return np.concatenate(parts).astype(np.float64)


def _color(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    import numpy as np

    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    spread = rgb.max(axis=2) - rgb.min(axis=2)
    pairs = [red - green, blue - green, red - blue]
    values = [
        spread.mean(),
        spread.std(),
        (spread > 24).mean(),
        (spread > 64).mean(),
        *(p.mean() for p in pairs),
        *(p.std() for p in pairs),
    ]
    return np.array(values, np.float32) / np.float32(32)


def _brightness(gray: NDArray[np.float32]) -> NDArray[np.float32]:
    import numpy as np

    counts = np.histogram(gray, bins=16, range=(0, 256))[0] / gray.size
    levels = np.percentile(gray, [1, 5, 25, 50, 75, 95, 99]) / 64
    return np.concatenate([np.sqrt(counts), levels, [gray.mean() / 64, gray.std() / 64]]).astype(
        np.float32
    )


def _layout(gray: NDArray[np.float32]) -> NDArray[np.float32]:
    """Where it is bright: a coarse thumbnail, corners and rim against the middle, and how alike the
    halves are.
    """
    import cv2
    import numpy as np

    resized = cv2.resize(gray, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    quarter, border = SIDE // 4, SIDE // 16
    corners = [
        gray[:quarter, :quarter],
        gray[:quarter, -quarter:],
        gray[-quarter:, :quarter],
        gray[-quarter:, -quarter:],
    ]
    edge = np.concatenate(
        [
            gray[:border].ravel(),
            gray[-border:].ravel(),
            gray[:, :border].ravel(),
            gray[:, -border:].ravel(),
        ]
    )
    middle = gray[quarter:-quarter, quarter:-quarter]
    deviation = float(gray.std()) or 1.0
    left_right = ((gray - gray.mean()) * (gray[:, ::-1] - gray.mean())).mean() / deviation**2
    top_bottom = ((gray - gray.mean()) * (gray[::-1] - gray.mean())).mean() / deviation**2
    values = [
        *(c.mean() / 64 for c in corners),
        *((c < 16).mean() for c in corners),
        edge.mean() / 64,
        edge.std() / 64,
        (edge < 16).mean(),
    ]
    values += [
        (middle.mean() - edge.mean()) / 64,
        middle.std() / 64,
        (middle < 16).mean(),
        left_right,
        top_bottom,
    ]
    return np.concatenate([resized.ravel() / 64, np.array(values)]).astype(np.float32)


def _texture(gray: NDArray[np.float32]) -> NDArray[np.float32]:
    """Edges by direction, sharpness at three scales, and how much neighbourhoods vary."""
    import cv2
    import numpy as np

    gradient_x, gradient_y = cv2.Sobel(gray, cv2.CV_32F, 1, 0), cv2.Sobel(gray, cv2.CV_32F, 0, 1)
    magnitude = np.hypot(gradient_x, gradient_y)
    angle = np.arctan2(gradient_y, gradient_x) % np.pi
    directions = np.histogram(angle, bins=8, range=(0, np.pi), weights=magnitude)[0] / (
        float(magnitude.sum()) or 1.0
    )
    sharpness, scaled = [], gray
    for _ in range(3):
        sharpness.append(np.log1p(cv2.Laplacian(scaled, cv2.CV_32F).std()))
        scaled = cv2.pyrDown(scaled)
    mean, mean_square = cv2.blur(gray, (7, 7)), cv2.blur(gray * gray, (7, 7))
    local_std = np.sqrt(np.maximum(mean_square - mean * mean, 0))
    variation = np.histogram(np.log1p(local_std), bins=8, range=(0, 5))[0] / gray.size
    speckle = np.log1p(local_std.mean()) - np.log1p(mean.mean())
    values = [
        np.log1p(magnitude.mean()),
        np.log1p(magnitude.std()),
        *sharpness,
        (local_std < 1).mean(),
        speckle,
    ]
    return np.concatenate([directions * 4, np.sqrt(variation), np.array(values)]).astype(np.float32)


def _frequencies(gray: NDArray[np.float32]) -> NDArray[np.float32]:
    """Energy of the cosine transform by distance from its origin, and how far it leans to either
    axis.
    """
    import cv2
    import numpy as np

    energy = np.log1p(np.abs(cv2.dct(gray / 255.0)))
    row, column = np.mgrid[:SIDE, :SIDE]
    ring = np.minimum((np.log2(np.hypot(row, column) + 1)).astype(int), 7)
    rings = np.bincount(ring.ravel(), weights=energy.ravel(), minlength=8) / np.bincount(
        ring.ravel(), minlength=8
    )
    asymmetry = energy[:4, 8:].mean() - energy[8:, :4].mean()
    return np.concatenate([np.log(rings + 1e-4), [asymmetry * 10]]).astype(np.float32)
