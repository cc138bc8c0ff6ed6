"""Volumes (NIfTI and what else nibabel opens) as 8-bit slices along z, oriented by the affine.

Slices are shown in radiological orientation: from the feet, the right on the left, front on top.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lingshu.core.errors import ImageError, MissingExtraError
from lingshu.imaging.read import MAX_PIXELS
from lingshu.imaging.windows import (
    FILE_WINDOW,
    Window,
    full_range,
    parse_windows,
    to_gray,
    window_function,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# One volume of one time is held at once: 512 x 512 x 1024 of 16 bits are 512 MB.
MAX_VOXELS = 512 * 512 * 1024
MAX_VOLUME_BYTES = 1 << 30
# The default window: single bright voxels of MR would darken the rest of the full range.
PERCENTILES = (0.5, 99.5)
_MAX_SAMPLE_VOXELS = 1 << 20


@dataclass(frozen=True, slots=True)
class Slice:
    """One slice in one window: height x width gray or height x width x 3 RGB.

    `z` counts from the feet, `time` from 0.
    """

    pixels: NDArray[np.uint8]
    z: int
    time: int
    window: Window


class Volume:
    """An open volume; see `open_volume`.

    `shape` is (right-left, front-back, z) in canonical order, `n_times` the number of volumes in a
    4-D file, and `spacing` the size of a voxel in mm along the axes of `shape`.
    """

    def __init__(self, image: Any, name: str) -> None:
        import numpy as np
        from nibabel.orientations import io_orientation

        self._image, self._name = image, name
        shape = tuple(int(n) for n in image.shape)
        if len(shape) not in (2, 3, 4, 5) or any(n < 1 for n in shape):
            raise ImageError(f"{name} has {len(shape)} axes, {shape}; give a volume of 3 or 4.")
        # MINC puts time first, everything else last.
        self._time_first = len(shape) > 3 and type(image).__name__.startswith("Minc")
        full_shape = (*shape, 1, 1)[: max(3, len(shape))]
        zooms = [float(zoom) for zoom in image.header.get_zooms()]
        if self._time_first:
            full_shape, zooms = (*shape[-3:], *shape[:-3]), zooms[-3:]
        self._stored_shape, self._time_shape = full_shape[:3], full_shape[3:]
        self.n_times = math.prod(self._time_shape)
        voxels, itemsize = math.prod(self._stored_shape), int(image.get_data_dtype().itemsize)
        if voxels > MAX_VOXELS or voxels * itemsize > MAX_VOLUME_BYTES:
            problem = f"{name} has {voxels} voxels a volume, which is too many"
            raise ImageError(f"{problem}; resample it.")
        self._orientation = io_orientation(image.affine)
        if self._orientation.shape != (3, 2) or not np.isfinite(self._orientation).all():
            problem = "has an affine that does not state where its axes point"
            raise ImageError(f"{name} {problem}; fix its header.")
        # axes[i] is the patient's axis that the file's axis i runs along.
        axes = [int(axis) for axis in self._orientation[:, 0]]
        x, y, z = (axes.index(axis) for axis in range(3))
        zooms = (zooms[:3] + [1.0] * 3)[:3]
        self.shape = (full_shape[x], full_shape[y], full_shape[z])
        self.spacing = (zooms[x], zooms[y], zooms[z])
        if self.shape[0] * self.shape[1] > MAX_PIXELS:
            limit = f"more than {MAX_PIXELS // 1_000_000} megapixels"
            raise ImageError(f"{name} has slices of {limit}; resample it.")

    def corners(self) -> NDArray[np.float64]:
        """Centers of the first voxel and of the last along each axis: 4 x 3 numbers in mm."""
        import numpy as np
        from nibabel.orientations import inv_ornt_aff

        affine = self._image.affine @ inv_ornt_aff(self._orientation, self._stored_shape)
        corner_indices = np.vstack([np.zeros(3), np.diag(np.array(self.shape) - 1.0)])
        return corner_indices @ affine[:3, :3].T + affine[:3, 3]

    def render(
        self,
        *,
        slices: Sequence[int] | None = None,
        times: Sequence[int] = (0,),
        windows: Sequence[str] | None = None,
    ) -> Iterator[Slice]:
        """Slices along z, each in every window.

        `windows` holds presets for CT in HU and "CENTER,WIDTH"; without it, and for "file", the
        percentiles of the volume are shown.

        Raises:
            ImageError: the voxels cannot be read, or there is no such slice or time.
            InputError: an unknown window.
        """
        requested = parse_windows(windows or ())
        use_percentiles = not requested or FILE_WINDOW in (windows or ())
        for time in times:
            self._check_index("time", time, self.n_times)
            voxels = self.voxels(time)
            default = [self._percentile_window(voxels)] if use_percentiles else []
            for z in range(self.shape[2]) if slices is None else slices:
                self._check_index("slice", z, self.shape[2])
                for pixels, window in _render_plane(voxels[:, :, z], [*default, *requested]):
                    yield Slice(pixels, z, time, window)

    def _check_index(self, noun: str, index: int, total: int) -> None:
        if not 0 <= index < total:
            raise ImageError(f"{self._name} has no {noun} {index}: it has {total}, counted from 0.")

    def voxels(self, time: int = 0) -> NDArray[Any]:
        """The scaled values of one volume in canonical order: x to the right, y front, z head.

        Complex values become magnitudes. Color voxels keep their fields R, G, B.

        Raises:
            ImageError: the voxels cannot be read.
        """
        import numpy as np
        from nibabel.orientations import apply_orientation

        with _wrap_read_errors(self._name):
            index: tuple[int, ...] = ()
            if self._time_shape:
                index = tuple(map(int, np.unravel_index(time, self._time_shape, order="F")))
            space = (slice(None),) * min(3, len(self._image.shape))
            key = (*index, *space) if self._time_first else (*space, *index)
            array = np.asarray(self._image.dataobj[key])
            if array.dtype.kind == "c":
                array = np.abs(array)
            return apply_orientation(array.reshape((*array.shape, 1)[:3]), self._orientation)

    def _percentile_window(self, voxels: NDArray[Any]) -> Window:
        import numpy as np

        if voxels.dtype.names:
            return Window("color")
        # A sample of every n-th voxel, with an odd n to avoid the usual lengths of axes.
        step = max(1, voxels.size // _MAX_SAMPLE_VOXELS) | 1
        sample = voxels.reshape(-1)[::step].astype(np.float64)
        sample = sample[np.isfinite(sample)]
        if not sample.size:
            return full_range(0.0, 0.0)
        low, high = (float(n) for n in np.percentile(sample, PERCENTILES))
        if low == high:
            low, high = float(sample.min()), float(sample.max())
        window = full_range(low, high)
        return Window("percentile", window.center, window.width, "range")


def _render_plane(
    plane: NDArray[Any], windows: Sequence[Window]
) -> list[tuple[NDArray[np.uint8], Window]]:
    import numpy as np

    image = to_display_orientation(plane)
    if image.dtype.names:
        rgb = np.stack([image[name] for name in image.dtype.names[:3]], axis=-1)
        return [(np.ascontiguousarray(rgb.astype(np.uint8)), Window("color"))]
    return [(to_gray(image, window_function(window)), window) for window in windows]


def to_display_orientation(voxels: NDArray[Any]) -> NDArray[Any]:
    """Canonical voxels (x, y or x, y, z) as height x width, or slices x height x width.

    Rows run from the front to the back, columns from right to left.
    """
    return voxels[::-1, ::-1].T


@contextlib.contextmanager
def open_volume(path: Path, *, name: str) -> Iterator[Volume]:
    """Open a volume (.nii, .nii.gz, .mgz, .mnc, .hdr/.img, .PAR/.REC, .HEAD/.BRIK).

    Errors call it `name`.

    Raises:
        ImageError: missing, damaged, not a volume (surfaces, streamlines), too large, or without a
            usable affine.
        MissingExtraError: nibabel is not installed.
    """
    try:
        import nibabel
    except ImportError as error:
        raise MissingExtraError.of("nibabel", "dicom") from error
    with _wrap_read_errors(name):
        if not path.is_file():
            raise ImageError(f"{name} is not a regular file; check the path.")
        image = nibabel.load(path)
        if not hasattr(image, "dataobj") or not hasattr(image, "affine"):
            raise ImageError(f"{name} holds no voxels (a surface or streamlines); leave it out.")
        volume = Volume(image, name)
    yield volume


@contextlib.contextmanager
def _wrap_read_errors(name: str) -> Iterator[None]:
    """Turn whatever nibabel raises into one ImageError; its messages quote paths and headers."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ImageError:
        raise
    except Exception as error:
        problem = f"cannot be read as a volume ({type(error).__name__})"
        raise ImageError(f"{name} {problem}; copy it and its data file again.") from None
