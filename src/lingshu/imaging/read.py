"""The one bounded way to open an image: from a file, from a row of a parquet shard, or from bytes
in memory.

Sizes are checked from the header before anything is decoded, only the listed formats are ever
tried, and whatever a decoder raises becomes one BadImage that names the file or the row and what to
do.
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
from typing import TYPE_CHECKING, Any

from lingshu.core.errors import ImageError, one_line
from lingshu.core.types import Image

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    import pyarrow as pa
    import pyarrow.parquet as pq
    from numpy.typing import NDArray

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
MAX_BYTES = 64 << 20
MAX_PIXELS = 50_000_000
# The largest block of images that is read at once; beyond it one image would cost more memory than
# a whole run has.
MAX_GROUP_BYTES = 1 << 30


def image_name(image: Image) -> str:
    """How errors call an image: its file, its row of a shard, or "image in memory"."""
    if image.data is not None:
        return "image in memory"
    # A file name may hold a line break or worse; an error is one line.
    path = str(image.path)
    path = path if path.isprintable() else "".join(c if c.isprintable() else "?" for c in path)
    return path if image.row is None else f"{path}, row {image.row}, image {image.index}"


def error_without_paths(error: ImageError, images: Iterable[Image]) -> str:
    """An error's words on one line, without the paths of the images that they may name."""
    text = str(error)
    for image in images:
        if image.path:
            # Before blanks are drawn together: a path may hold several of them.
            text = text.replace(image_name(Image(path=image.path)), "its image").replace(
                image.path, "its image"
            )
    return " ".join(text.split())


def image_bytes(
    image: Image, *, shards: ShardReader | None = None, max_bytes: int = MAX_BYTES + 1
) -> bytes:
    """The encoded file of an image, at most 64 MB; not decoded.

    Whoever reads many rows of shards passes one ShardReader, which keeps the blocks it read. Of an
    image in a file of its own, no more than the `first` bytes are read.

    Raises:
        BadImage: it is missing, empty, too large, or no regular file.
    """
    if image.data is not None:
        data = image.data
    elif image.path is None:
        raise ImageError("an image has neither a path nor data; give one of them.")
    elif image.row is None:
        data = _file_bytes(image.path, image_name(image), max_bytes)
    else:
        data = (shards or ShardReader()).read(image)
    if not data:
        raise ImageError(f"{image_name(image)} is empty (0 bytes); copy the image again.")
    if len(data) > MAX_BYTES:
        raise _too_large(image_name(image), len(data))
    return data


def open_image(image: Image, *, shards: ShardReader | None = None) -> PIL.Image.Image:
    """An image as RGB pixels: turned as its EXIF says, transparency on white, deep grey scaled to 8
    bits.

    Grey of more than 8 bits is divided by the smallest power of two that holds its largest value,
    so that 12-bit data in a 16-bit file keep their contrast; negative and fractional values are
    stretched from their least to their greatest. Of an animation or a multi-page file the first
    frame is taken.

    Raises:
        BadImage: missing, empty, truncated, damaged, of another format, over 64 MB or over 50
            megapixels.
    """
    return decode(image_bytes(image, shards=shards), name=image_name(image))


def decode(data: bytes, *, name: str) -> PIL.Image.Image:
    """RGB pixels of an encoded file, as open_image gives them; errors call it `name`.

    Raises:
        BadImage: as open_image.
    """
    with wrap_decode_errors(name):
        import PIL.ImageOps

        with _open_checked(data, name) as image:
            return _to_rgb(PIL.ImageOps.exif_transpose(image))


def _open_checked(data: bytes, name: str) -> PIL.Image.Image:
    import PIL.Image

    image = PIL.Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} has {width} x {height} pixels, more than {MAX_PIXELS // 1_000_000} megapixels;"
            " make it smaller."
        )
    image.load()
    return image


def decode_mask(data: bytes, *, name: str) -> NDArray[Any]:
    """Height x width numbers of an encoded file that holds labels rather than a picture; errors
    call it `name`.

    Deep values come unscaled, no number as 0. What is transparent is 0. Of a palette of colours
    whose place 0 is black, or that has no black, the numbers are its places; of other colours, and
    of a palette of greys, they are the luminance.

    Raises:
        BadImage: as open_image.
    """
    with wrap_decode_errors(name):
        import PIL.ImageOps

        with _open_checked(data, name) as image:
            return _mask_values(PIL.ImageOps.exif_transpose(image))


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file of height x width (grey) or height x width x 3 (RGB) pixels; quick to write rather
    than small.
    """
    import PIL.Image

    return png_bytes(PIL.Image.fromarray(pixels))


def png_bytes(image: PIL.Image.Image) -> bytes:
    """A PNG file of an opened image, without any of the original file's metadata."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1, exif=b"", icc_profile=None)
    return buffer.getvalue()


class ShardReader:
    """Reads images of parquet shards in any order and keeps the blocks (row groups) it read last.

    It remembers because a block is decoded as a whole: rows that lie near each other cost one read.
    `cache_mb` bounds what is kept. Not for several threads at once: each holds its own.
    """

    def __init__(self, *, cache_mb: int = 256, max_open_files: int = 32) -> None:
        self._max_cache_bytes = cache_mb << 20
        self._max_open_files = max_open_files
        self._files: OrderedDict[str, _OpenShard] = OrderedDict()
        self._groups: OrderedDict[tuple[str, str, int], pa.ChunkedArray] = OrderedDict()
        self._cached_bytes = 0

    def read(self, image: Image) -> bytes:
        """The encoded file of item `image.index` of row `image.row`.

        Raises:
            BadImage: no such shard, row or item, a damaged shard, or a null where the bytes should
                be.
        """
        name = image_name(image)
        if image.path is None or image.row is None:
            raise ImageError(f"{name} is no row of a shard; give path and row.")
        with wrap_decode_errors(name):
            shard = self._shard(image.path)
            if not 0 <= image.row < shard.row_starts[-1]:
                raise ImageError(
                    f"{name} does not exist: the shard has {shard.row_starts[-1]} rows; make the"
                    " dataset anew."
                )
            group_index = bisect_right(shard.row_starts, image.row) - 1
            is_multi_column = len(shard.columns) > 1
            if is_multi_column and not 0 <= image.index < len(shard.columns):
                raise ImageError(
                    f"{name} does not exist: the shard has {len(shard.columns)} columns of images;"
                    " make the dataset anew."
                )
            column = shard.columns[image.index if is_multi_column else 0]
            cell = self._group(image.path, shard, group_index, column)[
                image.row - shard.row_starts[group_index]
            ].as_py()
        cells = cell if isinstance(cell, list) else [cell]
        index = 0 if is_multi_column else image.index
        if not 0 <= index < len(cells):
            raise ImageError(
                f"{name} does not exist: the row has {len(cells)} images; make the dataset anew."
            )
        item = cells[index]
        data = item.get("bytes") if isinstance(item, dict) else item
        if not isinstance(data, bytes):
            raise ImageError(
                f"{name} holds no image bytes; make the dataset with its images inside."
            )
        return data

    def close(self) -> None:
        """Close every open shard and forget what was read."""
        for shard in self._files.values():
            shard.file.close()
        self._files.clear()
        self._groups.clear()
        self._cached_bytes = 0

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _shard(self, path: str) -> _OpenShard:
        if path in self._files:
            self._files.move_to_end(path)
            return self._files[path]
        shard = self._files[path] = _open_shard(path)
        if len(self._files) > self._max_open_files:
            self._files.popitem(last=False)[1].file.close()
        return shard

    def _group(
        self, path: str, shard: _OpenShard, group_index: int, column: str
    ) -> pa.ChunkedArray:
        key = (path, column, group_index)
        if key in self._groups:
            self._groups.move_to_end(key)
            return self._groups[key]
        size = shard.file.metadata.row_group(group_index).total_byte_size
        if size > MAX_GROUP_BYTES:
            raise ImageError(
                f"{path}: row group {group_index} holds {size >> 20} MB; write the shard with row groups"
                " of some 64 rows."
            )
        group = shard.file.read_row_group(group_index, columns=[column]).column(0)
        self._groups[key] = group
        self._cached_bytes += group.nbytes
        while self._cached_bytes > self._max_cache_bytes and len(self._groups) > 1:
            self._cached_bytes -= self._groups.popitem(last=False)[1].nbytes
        return group


@dataclass(frozen=True)
class _OpenShard:
    file: pq.ParquetFile
    # one column of images or of lists of them, or one for each image of a row
    columns: tuple[str, ...]
    row_starts: tuple[int, ...]  # first row of each row group, then the number of rows


def image_columns(names: list[str]) -> tuple[str, ...]:
    """Which columns of a parquet file hold the images: `images`, else `image`, else `image_1`,
    `image_2`, ...; empty without any.
    """
    column = next((name for name in ("images", "image") if name in names), None)
    if column:
        return (column,)
    indices = sorted(
        int(name[6:]) for name in names if name.startswith("image_") and name[6:].isdecimal()
    )
    return tuple(f"image_{index}" for index in indices)


def _open_shard(path: str) -> _OpenShard:
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError as error:
        raise ImageError(f"{path} does not exist; check the path of the dataset.") from error
    columns = image_columns(file.schema_arrow.names)
    if not columns:
        raise ImageError(
            f"{path} has no column images, image or image_1; choose a dataset with images."
        )
    groups = (file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups))
    return _OpenShard(file, columns, tuple(accumulate(groups, initial=0)))


@contextlib.contextmanager
def wrap_decode_errors(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into one BadImage."""
    try:
        yield
    except ImageError:
        raise
    except ImportError:
        raise
    except Exception as error:
        # Decoders raise OSError, ValueError, SyntaxError, struct.error, zlib.error, IndexError,
        # MemoryError and more on damaged files, and every release adds some; to a caller all of
        # them mean the same.
        reason = (
            "it is no PNG, JPEG, WebP, BMP, TIFF or GIF"
            if _unidentified(error)
            else f"{type(error).__name__}: {one_line(error)}"
        )
        raise ImageError(
            f"{name} cannot be decoded ({reason[:200]}); replace or remove it."
        ) from error


def _unidentified(error: Exception) -> bool:
    import PIL

    return isinstance(error, PIL.UnidentifiedImageError)


def _file_bytes(path: str, name: str, max_bytes: int) -> bytes:
    try:
        # Not blocking: opening a named pipe that nobody writes to would wait for ever.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ImageError(f"{name} cannot be opened ({reason}); check the path.") from error
    try:
        file_stat = os.fstat(fd)
        if not stat.S_ISREG(file_stat.st_mode):
            raise ImageError(f"{name} is no regular file; give an image file.")
        if file_stat.st_size > MAX_BYTES:
            raise _too_large(name, file_stat.st_size)
        # No more than the file's size is asked for: memory for the whole limit would be claimed on
        # every call.
        remaining, blocks = min(max_bytes, file_stat.st_size), []
        while remaining > 0 and (block := os.read(fd, remaining)):
            blocks.append(block)
            remaining -= len(block)
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)
    except OSError as error:
        raise ImageError(
            f"{name} cannot be read ({error.strerror}); copy the image again."
        ) from error
    finally:
        os.close(fd)


def _too_large(name: str, size: int) -> ImageError:
    return ImageError(
        f"{name} has {size >> 20} MB, more than {MAX_BYTES >> 20} MB; make it smaller."
    )


def _to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    import PIL.Image

    if image.mode.startswith(("I", "F")):
        return _scale_to_uint8(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        background = PIL.Image.new("RGBA", rgba.size, "white")
        return PIL.Image.alpha_composite(background, rgba).convert("RGB")
    return image.convert("RGB")


def _mask_values(image: PIL.Image.Image) -> NDArray[Any]:
    import numpy as np

    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        return (
            np.nan_to_num(values, posinf=0.0, neginf=0.0) if image.mode.startswith("F") else values
        )
    rgb = np.asarray(image.convert("RGB"))
    values = np.asarray(image.convert("RGB").convert("L"))
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        values = np.where(np.asarray(image.convert("RGBA"))[..., 3] == 0, 0, values)
    if image.mode == "P" and (rgb != rgb[..., :1]).any():
        indices = np.asarray(image)
        # Some palettes hold black elsewhere than at place 0; their places say nothing.
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
