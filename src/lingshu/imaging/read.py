"""Open an image within limits: from a file, a row of a parquet shard, or bytes in memory.

Sizes are checked in the header before anything is decoded, only the formats below are tried, and
whatever a decoder raises becomes one ImageError that names the file or row and the remedy.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lingshu.core.errors import ImageError, one_line
from lingshu.core.files import Closeable
from lingshu.core.types import Image

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    import pyarrow as pa
    import pyarrow.parquet as pq
    from numpy.typing import NDArray

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
UNKNOWN_FORMAT = "is not a PNG, JPEG, WebP, BMP, TIFF or GIF"
MAX_BYTES = 64 << 20
MAX_PIXELS = 50_000_000
MAX_GROUP_BYTES = 1 << 30  # the largest row group that is read at once


def image_name(image: Image) -> str:
    """What errors call an image: its file, its row of a shard, or "image in memory"."""
    if image.data is not None:
        return "image in memory"
    # A file name may hold a line break or worse; an error is one line.
    path = str(image.path)
    path = path if path.isprintable() else "".join(c if c.isprintable() else "?" for c in path)
    return path if image.row is None else f"{path}, row {image.row}, image {image.index}"


def error_without_paths(error: ImageError, images: Iterable[Image]) -> str:
    """The message of an error on one line, without the paths of the images that it may name."""
    text = str(error)
    for image in images:
        if image.path:
            # Before white space is collapsed: a path may hold several blanks in a row.
            for name in (image_name(Image(path=image.path)), image.path):
                text = text.replace(name, "its image")
    return " ".join(text.split())


def image_bytes(
    image: Image, *, shards: ShardReader | None = None, max_bytes: int = MAX_BYTES + 1
) -> bytes:
    """The encoded file of an image, at most 64 MB; not decoded.

    To read many rows of shards pass one ShardReader, which keeps the row groups that it read. At most
    the first `max_bytes` bytes of a file are read.

    Raises:
        ImageError: it is missing, empty, too large, or not a regular file.
    """
    name = image_name(image)
    if image.data is not None:
        data = image.data
    elif image.path is None:
        raise ImageError("an image has neither a path nor data; give one of them.")
    elif image.row is None:
        data = _file_bytes(image.path, name, max_bytes)
    else:
        data = (shards or ShardReader()).read(image)
    if not data:
        raise ImageError(f"{name} is empty (0 bytes); copy the image again.")
    if len(data) > MAX_BYTES:
        raise _too_large(name, len(data), MAX_BYTES)
    return data


def open_image(image: Image, *, shards: ShardReader | None = None) -> PIL.Image.Image:
    """An image as RGB pixels: Exif orientation applied, transparency on white, scaled to 8 bits.

    Gray of more than 8 bits is divided by the smallest power of two that holds its largest value,
    so that 12-bit data in a 16-bit file keep their contrast; negative and fractional values are
    stretched from minimum to maximum. Of an animation or a multi-page file the first frame is read.

    Raises:
        ImageError: missing, empty, truncated, damaged, of another format, or too large.
    """
    return decode(image_bytes(image, shards=shards), name=image_name(image))


def decode(data: bytes, *, name: str) -> PIL.Image.Image:
    """RGB pixels of an encoded file, as `open_image` gives them; errors call it `name`."""
    with wrap_decode_errors(name):
        import PIL.ImageOps

        with _open_checked(data, name) as image:
            return _to_rgb(PIL.ImageOps.exif_transpose(image))


def decode_mask(data: bytes, *, name: str) -> NDArray[Any]:
    """Height x width values of an encoded file that holds labels; errors call it `name`.

    Values of more than 8 bits are not scaled; NaN and transparent pixels are 0. An image with a
    color palette whose index 0 is black, or that has no black, gives its indices; other colors, and
    a palette of grays, give their luminance.
    """
    with wrap_decode_errors(name):
        import PIL.ImageOps

        with _open_checked(data, name) as image:
            return _mask_values(PIL.ImageOps.exif_transpose(image))


def _open_checked(data: bytes, name: str) -> PIL.Image.Image:
    import PIL.Image

    image = PIL.Image.open(io.BytesIO(data), formats=FORMATS)
    check_pixels(name, *image.size)
    image.load()
    return image


def check_pixels(name: str, width: int, height: int) -> None:
    """Raise ImageError for an image of more than 50 megapixels."""
    if width * height > MAX_PIXELS:
        limit = f"more than {MAX_PIXELS // 1_000_000} megapixels"
        raise ImageError(f"{name} has {width} x {height} pixels, {limit}; make it smaller.")


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """A lightly compressed PNG of height x width (gray) or height x width x 3 (RGB) pixels."""
    import PIL.Image

    return png_bytes(PIL.Image.fromarray(pixels))


def png_bytes(image: PIL.Image.Image) -> bytes:
    """A PNG file of an opened image, without any of the original file's metadata."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1, exif=b"", icc_profile=None)
    return buffer.getvalue()


class ShardReader(Closeable):
    """Reads images of parquet shards in any order and keeps the row groups that it read last.

    `cache_mb` bounds what is kept. Not thread-safe: use one reader per thread.
    """

    def __init__(self, *, cache_mb: int = 256, max_open_files: int = 32) -> None:
        self._max_cache_bytes, self._max_open_files = cache_mb << 20, max_open_files
        self._files: OrderedDict[str, _OpenShard] = OrderedDict()
        self._groups: OrderedDict[tuple[str, str, int], pa.ChunkedArray] = OrderedDict()
        self._cached_bytes = 0

    def read(self, image: Image) -> bytes:
        """The encoded file of image `image.index` in row `image.row`.

        Raises:
            ImageError: no such shard, row or image, a damaged shard, or null instead of bytes.
        """
        name = image_name(image)
        if image.path is None or image.row is None:
            raise ImageError(f"{name} is not a row of a shard; give path and row.")
        with wrap_decode_errors(name):
            shard = self._shard(image.path)
            n_rows, n_columns = shard.row_starts[-1], len(shard.columns)
            if not 0 <= image.row < n_rows:
                raise _out_of_range(name, f"the shard has {n_rows} rows")
            column_index, index = (image.index, 0) if n_columns > 1 else (0, image.index)
            if not 0 <= column_index < n_columns:
                raise _out_of_range(name, f"the shard has {n_columns} columns of images")
            group_index = bisect_right(shard.row_starts, image.row) - 1
            group = self._group(image.path, shard, group_index, shard.columns[column_index])
            cell = group[image.row - shard.row_starts[group_index]].as_py()
        cells = cell if isinstance(cell, list) else [cell]
        if not 0 <= index < len(cells):
            raise _out_of_range(name, f"the row has {len(cells)} images")
        data = cells[index].get("bytes") if isinstance(cells[index], dict) else cells[index]
        if not isinstance(data, bytes):
            raise ImageError(f"{name} holds no image bytes; rebuild the dataset with its images.")
        return data

    def close(self) -> None:
        """Close every open shard and drop what was read."""
        for shard in self._files.values():
            shard.file.close()
        self._files.clear()
        self._groups.clear()
        self._cached_bytes = 0

    def _shard(self, path: str) -> _OpenShard:
        if path in self._files:
            self._files.move_to_end(path)
            return self._files[path]
        shard = self._files[path] = _open_shard(path)
        if len(self._files) > self._max_open_files:
            self._files.popitem(last=False)[1].file.close()
        return shard

    def _group(self, path: str, shard: _OpenShard, index: int, column: str) -> pa.ChunkedArray:
        key = (path, column, index)
        if key in self._groups:
            self._groups.move_to_end(key)
            return self._groups[key]
        size = shard.file.metadata.row_group(index).total_byte_size
        if size > MAX_GROUP_BYTES:
            remedy = "write the shard with row groups of about 64 rows"
            raise ImageError(f"{path}: row group {index} holds {size >> 20} MB; {remedy}.")
        group = shard.file.read_row_group(index, columns=[column]).column(0)
        self._groups[key] = group
        self._cached_bytes += group.nbytes
        while self._cached_bytes > self._max_cache_bytes and len(self._groups) > 1:
            self._cached_bytes -= self._groups.popitem(last=False)[1].nbytes
        return group


def _out_of_range(name: str, actual: str) -> ImageError:
    return ImageError(f"{name} does not exist: {actual}; rebuild the dataset.")


@dataclass(frozen=True)
class _OpenShard:
    file: pq.ParquetFile
    # one column of images or of lists of images, or one column for each image of a row
    columns: tuple[str, ...]
    row_starts: tuple[int, ...]  # first row of each row group, then the number of rows


def image_columns(names: list[str]) -> tuple[str, ...]:
    """The columns of a shard that hold images: `images`, else `image`, else `image_1`, ..."""
    column = next((name for name in ("images", "image") if name in names), None)
    if column:
        return (column,)
    numbered = [name for name in names if name.startswith("image_") and name[6:].isdecimal()]
    return tuple(f"image_{index}" for index in sorted(int(name[6:]) for name in numbered))


def _open_shard(path: str) -> _OpenShard:
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError as error:
        raise ImageError(f"{path} does not exist; check the path of the dataset.") from error
    columns = image_columns(file.schema_arrow.names)
    if not columns:
        remedy = "choose a dataset with images"
        raise ImageError(f"{path} has no column images, image or image_1; {remedy}.")
    groups = (file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups))
    return _OpenShard(file, columns, tuple(accumulate(groups, initial=0)))


@contextlib.contextmanager
def wrap_decode_errors(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into one ImageError."""
    try:
        yield
    except (ImageError, ImportError):
        raise
    except Exception as error:
        # Decoders raise OSError, SyntaxError, struct.error, zlib.error, MemoryError and more on
        # damaged files, and new releases add some; to a caller they all mean the same.
        import PIL

        reason = f"{type(error).__name__}: {one_line(error)}"
        if isinstance(error, PIL.UnidentifiedImageError):
            reason = f"it {UNKNOWN_FORMAT}"
        message = f"{name} cannot be decoded ({reason[:200]}); replace or remove it."
        raise ImageError(message) from error


def open_regular_file(path: str | Path, name: str, *, max_bytes: int) -> tuple[int, int]:
    """The descriptor and size of a regular file; errors call it `name` and never hold its path.

    Raises:
        ImageError: it is missing, a folder, a pipe or the like, or larger than `max_bytes`.
    """
    try:
        # Non-blocking: opening a named pipe that nobody writes to would wait forever.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        # Not chained: the system's error and its text hold the path.
        reason = error.strerror if isinstance(error, OSError) else "invalid file name"
        raise ImageError(f"{name} cannot be opened ({reason}); check the file.") from None
    info = os.fstat(fd)
    if stat.S_ISREG(info.st_mode) and info.st_size <= max_bytes:
        return fd, info.st_size
    os.close(fd)
    if stat.S_ISREG(info.st_mode):
        raise _too_large(name, info.st_size, max_bytes)
    raise ImageError(f"{name} is not a regular file; give a file or remove it.")


def _too_large(name: str, size: int, limit: int) -> ImageError:
    return ImageError(f"{name} has {size >> 20} MB, more than {limit >> 20} MB; make it smaller.")


def _file_bytes(path: str, name: str, max_bytes: int) -> bytes:
    fd, size = open_regular_file(path, name, max_bytes=MAX_BYTES)
    try:
        # Bounded by the size of the file: a read of the full limit would allocate it on every call.
        remaining, blocks = min(max_bytes, size), []
        while remaining > 0 and (block := os.read(fd, remaining)):
            blocks.append(block)
            remaining -= len(block)
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)
    except OSError as error:
        message = f"{name} cannot be read ({error.strerror}); copy the image again."
        raise ImageError(message) from error
    finally:
        os.close(fd)


def _is_transparent(image: PIL.Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    import PIL.Image

    if image.mode.startswith(("I", "F")):
        return _scale_to_uint8(image).convert("RGB")
    if _is_transparent(image):
        rgba = image.convert("RGBA")
        background = PIL.Image.new("RGBA", rgba.size, "white")
        return PIL.Image.alpha_composite(background, rgba).convert("RGB")
    return image.convert("RGB")


def _mask_values(image: PIL.Image.Image) -> NDArray[Any]:
    import numpy as np

    if image.mode.startswith("F"):
        return np.nan_to_num(np.asarray(image), posinf=0.0, neginf=0.0)
    if image.mode.startswith("I"):
        return np.asarray(image)
    rgb = image.convert("RGB")
    values, channels = np.asarray(rgb.convert("L")), np.asarray(rgb)
    if _is_transparent(image):
        values = np.where(np.asarray(image.convert("RGBA"))[..., 3] == 0, 0, values)
    if image.mode == "P" and (channels != channels[..., :1]).any():
        indices = np.asarray(image)
        # Indices are labels only if black is at index 0 of the palette, or missing.
        return indices if values.all() or ((indices == 0) == (values == 0)).all() else values
    return values


def _scale_to_uint8(image: PIL.Image.Image) -> PIL.Image.Image:
    import numpy as np
    import PIL.Image

    values = np.asarray(image).astype(np.float64)
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError("no pixel has a finite value")
    low, high = float(finite.min()), float(finite.max())
    if low >= 0 and image.mode.startswith("I"):
        low, high = 0.0, float(2 ** max(8, int(high).bit_length()) - 1)
    scaled = (np.clip(values, low, high) - low) * (255.0 / ((high - low) or 1.0))
    return PIL.Image.fromarray(np.rint(np.nan_to_num(scaled)).astype(np.uint8))
