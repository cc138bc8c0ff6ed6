"""Volumes (NIfTI and what else nibabel opens) as 8-bit slices along z, turned to the patient's axes
by the affine.

Slices are shown as radiologists look at them: from the feet, the patient's right on the left, the
front on top.
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
# Without a window a volume is shown from its 0.5th to its 99.5th percentile: single bright voxels
# of MR would darken the rest.
PERCENTILES = (0.5, 99.5)
_MAX_SAMPLE_VOXELS = 1 << 20


@dataclass(frozen=True, slots=True)
class Slice:
    """One slice in one window: height x width grey or height x width x 3 RGB.

    `z` counts from the feet, `time` from 0.
    """

    pixels: NDArray[np.uint8]
    z: int
    time: int
    voi_window: Window

    @property
    def window(self) -> str:
        return str(self.voi_window)


class Volume:
    """An open volume; `open_volume` makes one.

    `shape` is (right-left, front-back, z) in canonical order, `times` the number of volumes in a
    4-D file, and `spacing` the size of a voxel in mm along the axes of `shape`.
    """

    def __init__(self, image: Any, name: str) -> None:
        from nibabel.orientations import io_orientation

        self._image, self._name = image, name
        shape = tuple(int(n) for n in image.shape)
        if len(shape) not in (2, 3, 4, 5) or any(n < 1 for n in shape):
            raise ImageError(
                f"{name} has a shape of {len(shape)} axes, {shape}; give a volume of 3 or 4."
            )
        # MINC puts time first, everything else last.
        self._time_axis_first = len(shape) > 3 and type(image).__name__.startswith("Minc")
        full_shape = (
            (*shape[-3:], *shape[:-3])
            if self._time_axis_first
            else (*shape, 1, 1)[: max(3, len(shape))]
        )
        self._time_shape = full_shape[3:]
        self.n_times = math.prod(self._time_shape)
        voxels, itemsize = math.prod(full_shape[:3]), int(image.get_data_dtype().itemsize)
        if voxels > MAX_VOXELS or voxels * itemsize > MAX_VOLUME_BYTES:
            raise ImageError(
                f"{name} has {voxels} voxels a volume, more than can be held; resample it."
            )
        self._orientation = io_orientation(image.affine)
        axes = (
            [int(axis) for axis in self._orientation[:, 0]]
            if not _is_undefined(self._orientation)
            else None
        )
        if axes is None:
            raise ImageError(
                f"{name} has an affine that does not say where its axes point; mend its header."
            )
        zooms = [
            float(z)
            for z in (
                image.header.get_zooms()[-3:]
                if self._time_axis_first
                else image.header.get_zooms()[:3]
            )
        ] + [1.0] * 3
        # axes[i] is the patient's axis that the file's axis i runs along.
        order = [axes.index(axis) for axis in range(3)]
        self.shape = (full_shape[order[0]], full_shape[order[1]], full_shape[order[2]])
        self.spacing = (zooms[order[0]], zooms[order[1]], zooms[order[2]])
        self._stored_shape = full_shape[:3]
        if self.shape[0] * self.shape[1] > MAX_PIXELS:
            raise ImageError(
                f"{name} has slices of more than {MAX_PIXELS // 1_000_000} megapixels; resample it."
            )

    def corners(self) -> NDArray[np.float64]:
        """Where the centres of the first voxel in canonical order, and of the last along each axis,
        lie: 4 x 3 numbers in mm.
        """
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
        """Slices along z, each in every window. `windows` holds presets for CT in HU and
        "CENTER,WIDTH"; without it, and for "file", the percentiles of the volume are shown.

        Raises:
            BadImage: the voxels cannot be read, or there is no such slice or time.
            InputError: a window that no preset is called.
        """
        requested = parse_windows(windows or ())
        for time in times:
            if not 0 <= time < self.n_times:
                raise ImageError(
                    f"{self._name} has no time {time}: it has {self.n_times}, counted from 0."
                )
            voxels = self.voxels(time)
            all_windows = [
                *(
                    [self._percentile_window(voxels)]
                    if not requested or FILE_WINDOW in (windows or ())
                    else []
                ),
                *requested,
            ]
            for z in range(self.shape[2]) if slices is None else slices:
                if not 0 <= z < self.shape[2]:
                    raise ImageError(
                        f"{self._name} has no slice {z}: it has {self.shape[2]}, counted from 0."
                    )
                yield from (
                    Slice(pixels, z, time, window)
                    for pixels, window in _render_plane(voxels[:, :, z], all_windows)
                )

    def voxels(self, time: int = 0) -> NDArray[Any]:
        """The values of one volume, scaled as the header says, in canonical order: x to the right,
        y to the front, z to the head.

        Complex values come as magnitudes. Colour voxels keep their fields R, G, B.

        Raises:
            BadImage: the voxels cannot be read.
        """
        import numpy as np
        from nibabel.orientations import apply_orientation

        with _wrap_read_errors(self._name):
            index = (
                tuple(int(i) for i in np.unravel_index(time, self._time_shape, order="F"))
                if self._time_shape
                else ()
            )
            spatial_slices = (slice(None),) * min(3, len(self._image.shape))
            array = np.asarray(
                self._image.dataobj[
                    (*index, *spatial_slices)
                    if self._time_axis_first
                    else (*spatial_slices, *index)
                ]
            )
            if array.dtype.kind == "c":
                array = np.abs(array)
            return apply_orientation(array.reshape((*array.shape, 1)[:3]), self._orientation)

    def _percentile_window(self, voxels: NDArray[Any]) -> Window:
        import numpy as np

        if voxels.dtype.names:
            return Window("color")
        # Every n-th voxel, with n prime to the axes' usual lengths, stands for the volume.
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
    """A canonical x-y plane as pictures: rows run from the front to the back, columns from right to
    left.
    """
    import numpy as np

    image = to_display_orientation(plane)
    if image.dtype.names:
        rgb = np.stack([image[name] for name in image.dtype.names[:3]], axis=-1)
        return [(np.ascontiguousarray(rgb.astype(np.uint8)), Window("color"))]
    return [(to_gray(image, window_function(window)), window) for window in windows]


def to_display_orientation(voxels: NDArray[Any]) -> NDArray[Any]:
    """Canonical voxels (x, y or x, y, z) as they are shown: height x width, or slices x height x
    width.
    """
    return voxels[::-1, ::-1].T


def _is_undefined(orientation: NDArray[Any]) -> bool:
    import numpy as np

    return orientation.shape != (3, 2) or not bool(np.isfinite(orientation.astype(float)).all())


@contextlib.contextmanager
def open_volume(path: Path, *, name: str) -> Iterator[Volume]:
    """Open a volume file (.nii, .nii.gz, .mgz, .mnc, .hdr/.img, .PAR/.REC, .HEAD/.BRIK). Errors
    call it `name`.

    Raises:
        BadImage: missing, damaged, no volume (surfaces, streamlines), too large, or without a
            usable affine.
        MissingExtra: nibabel is not installed.
    """
    try:
        import nibabel
    except ImportError as error:
        raise MissingExtraError.of("nibabel", "dicom") from error
    with _wrap_read_errors(name):
        if not path.is_file():
            raise ImageError(f"{name} is no regular file; check the path.")
        image = nibabel.load(path)
        if not hasattr(image, "dataobj") or not hasattr(image, "affine"):
            raise ImageError(f"{name} holds no voxels (a surface or streamlines); leave it out.")
        volume = Volume(image, name)
    yield volume


@contextlib.contextmanager
def _wrap_read_errors(name: str) -> Iterator[None]:
    """Turn whatever nibabel raises into one BadImage; its own messages quote paths and headers."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(
            f"{name} cannot be read as a volume ({type(error).__name__}); copy it and its data file"
            " again."
        ) from None
