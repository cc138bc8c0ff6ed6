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

from lingshu.core.errors import BadImage, one_line
from lingshu.core.nouns import Image

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


def unnamed(error: BadImage, images: Iterable[Image]) -> str:
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
    image: Image, *, shards: ShardReader | None = None, first: int = MAX_BYTES + 1
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
        raise BadImage("an image has neither a path nor data; give one of them.")
    elif image.row is None:
        data = _file_bytes(image.path, image_name(image), first)
    else:
        data = (shards or ShardReader()).read(image)
    if not data:
        raise BadImage(f"{image_name(image)} is empty (0 bytes); copy the image again.")
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
    with decoding(name):
        import PIL.ImageOps

        with _opened(data, name) as opened:
            return _to_rgb(PIL.ImageOps.exif_transpose(opened))


def _opened(data: bytes, name: str) -> PIL.Image.Image:
    import PIL.Image

    opened = PIL.Image.open(io.BytesIO(data), formats=FORMATS)
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise BadImage(
            f"{name} has {width} x {height} pixels, more than {MAX_PIXELS // 1_000_000} megapixels;"
            " make it smaller."
        )
    opened.load()
    return opened


def decode_values(data: bytes, *, name: str) -> NDArray[Any]:
    """Height x width numbers of an encoded file that holds labels rather than a picture; errors
    call it `name`.

    Deep values come unscaled, no number as 0. What is transparent is 0. Of a palette of colours
    whose place 0 is black, or that has no black, the numbers are its places; of other colours, and
    of a palette of greys, they are the luminance.

    Raises:
        BadImage: as open_image.
    """
    with decoding(name):
        import PIL.ImageOps

        with _opened(data, name) as opened:
            return _values(PIL.ImageOps.exif_transpose(opened))


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file of height x width (grey) or height x width x 3 (RGB) pixels; quick to write rather
    than small.
    """
    import PIL.Image

    return png_bytes(PIL.Image.fromarray(pixels))


def png_bytes(picture: PIL.Image.Image) -> bytes:
    """A PNG file of an opened image, without any of the original file's metadata."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1, exif=b"", icc_profile=None)
    return buffer.getvalue()


class ShardReader:
    """Reads images of parquet shards in any order and keeps the blocks (row groups) it read last.

    It remembers because a block is decoded as a whole: rows that lie near each other cost one read.
    `cache_mb` bounds what is kept. Not for several threads at once: each holds its own.
    """

    def __init__(self, *, cache_mb: int = 256, open_files: int = 32) -> None:
        self._cache_bytes = cache_mb << 20
        self._open_files = open_files
        self._files: OrderedDict[str, _Shard] = OrderedDict()
        self._groups: OrderedDict[tuple[str, str, int], pa.ChunkedArray] = OrderedDict()
        self._held = 0

    def read(self, image: Image) -> bytes:
        """The encoded file of item `image.index` of row `image.row`.

        Raises:
            BadImage: no such shard, row or item, a damaged shard, or a null where the bytes should
                be.
        """
        name = image_name(image)
        if image.path is None or image.row is None:
            raise BadImage(f"{name} is no row of a shard; give path and row.")
        with decoding(name):
            shard = self._shard(image.path)
            if not 0 <= image.row < shard.starts[-1]:
                raise BadImage(
                    f"{name} does not exist: the shard has {shard.starts[-1]} rows; make the"
                    " dataset anew."
                )
            number = bisect_right(shard.starts, image.row) - 1
            several = len(shard.columns) > 1
            if several and not 0 <= image.index < len(shard.columns):
                raise BadImage(
                    f"{name} does not exist: the shard has {len(shard.columns)} columns of images;"
                    " make the dataset anew."
                )
            column = shard.columns[image.index if several else 0]
            cell = self._group(image.path, shard, number, column)[
                image.row - shard.starts[number]
            ].as_py()
        cells = cell if isinstance(cell, list) else [cell]
        index = 0 if several else image.index
        if not 0 <= index < len(cells):
            raise BadImage(
                f"{name} does not exist: the row has {len(cells)} images; make the dataset anew."
            )
        item = cells[index]
        data = item.get("bytes") if isinstance(item, dict) else item
        if not isinstance(data, bytes):
            raise BadImage(f"{name} holds no image bytes; make the dataset with its images inside.")
        return data

    def close(self) -> None:
        """Close every open shard and forget what was read."""
        for shard in self._files.values():
            shard.file.close()
        self._files.clear()
        self._groups.clear()
        self._held = 0

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _shard(self, path: str) -> _Shard:
        if path in self._files:
            self._files.move_to_end(path)
            return self._files[path]
        shard = self._files[path] = _open_shard(path)
        if len(self._files) > self._open_files:
            self._files.popitem(last=False)[1].file.close()
        return shard

    def _group(self, path: str, shard: _Shard, number: int, column: str) -> pa.ChunkedArray:
        key = (path, column, number)
        if key in self._groups:
            self._groups.move_to_end(key)
            return self._groups[key]
        size = shard.file.metadata.row_group(number).total_byte_size
        if size > MAX_GROUP_BYTES:
            raise BadImage(
                f"{path}: row group {number} holds {size >> 20} MB; write the shard with row groups"
                " of some 64 rows."
            )
        group = shard.file.read_row_group(number, columns=[column]).column(0)
        self._groups[key] = group
        self._held += group.nbytes
        while self._held > self._cache_bytes and len(self._groups) > 1:
            self._held -= self._groups.popitem(last=False)[1].nbytes
        return group


@dataclass(frozen=True)
class _Shard:
    file: pq.ParquetFile
    # one column of images or of lists of them, or one for each image of a row
    columns: tuple[str, ...]
    starts: tuple[int, ...]  # first row of each row group, then the number of rows


def image_columns(names: list[str]) -> tuple[str, ...]:
    """Which columns of a parquet file hold the images: `images`, else `image`, else `image_1`,
    `image_2`, ...; empty without any.
    """
    one = next((name for name in ("images", "image") if name in names), None)
    if one:
        return (one,)
    numbers = sorted(
        int(name[6:]) for name in names if name.startswith("image_") and name[6:].isdecimal()
    )
    return tuple(f"image_{number}" for number in numbers)


def _open_shard(path: str) -> _Shard:
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError as error:
        raise BadImage(f"{path} does not exist; check the path of the dataset.") from error
    columns = image_columns(file.schema_arrow.names)
    if not columns:
        raise BadImage(
            f"{path} has no column images, image or image_1; choose a dataset with images."
        )
    groups = (file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups))
    return _Shard(file, columns, tuple(accumulate(groups, initial=0)))


@contextlib.contextmanager
def decoding(name: str) -> Iterator[None]:
    """Turn whatever a decoder raises into one BadImage."""
    try:
        yield
    except BadImage:
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
        raise BadImage(
            f"{name} cannot be decoded ({reason[:200]}); replace or remove it."
        ) from error


def _unidentified(error: Exception) -> bool:
    import PIL

    return isinstance(error, PIL.UnidentifiedImageError)


def _file_bytes(path: str, name: str, first: int) -> bytes:
    try:
        # Not blocking: opening a named pipe that nobody writes to would wait for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BadImage(f"{name} cannot be opened ({reason}); check the path.") from error
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise BadImage(f"{name} is no regular file; give an image file.")
        if facts.st_size > MAX_BYTES:
            raise _too_large(name, facts.st_size)
        # No more than the file's size is asked for: memory for the whole limit would be claimed on
        # every call.
        wanted, blocks = min(first, facts.st_size), []
        while wanted > 0 and (block := os.read(handle, wanted)):
            blocks.append(block)
            wanted -= len(block)
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)
    except OSError as error:
        raise BadImage(
            f"{name} cannot be read ({error.strerror}); copy the image again."
        ) from error
    finally:
        os.close(handle)


def _too_large(name: str, size: int) -> BadImage:
    return BadImage(f"{name} has {size >> 20} MB, more than {MAX_BYTES >> 20} MB; make it smaller.")


def _to_rgb(picture: PIL.Image.Image) -> PIL.Image.Image:
    import PIL.Image

    if picture.mode.startswith(("I", "F")):
        return _deep_grey(picture).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in picture.info:
        clear = picture.convert("RGBA")
        page = PIL.Image.new("RGBA", clear.size, "white")
        return PIL.Image.alpha_composite(page, clear).convert("RGB")
    return picture.convert("RGB")


def _values(picture: PIL.Image.Image) -> NDArray[Any]:
    import numpy as np

    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture)
        return (
            np.nan_to_num(values, posinf=0.0, neginf=0.0)
            if picture.mode.startswith("F")
            else values
        )
    seen = np.asarray(picture.convert("RGB"))
    values = np.asarray(picture.convert("RGB").convert("L"))
    if picture.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in picture.info:
        values = np.where(np.asarray(picture.convert("RGBA"))[..., 3] == 0, 0, values)
    if picture.mode == "P" and (seen != seen[..., :1]).any():
        places = np.asarray(picture)
        # Some palettes hold black elsewhere than at place 0; their places say nothing.
        return places if values.all() or ((places == 0) == (values == 0)).all() else values
    return values


def _deep_grey(picture: PIL.Image.Image) -> PIL.Image.Image:
    import numpy as np
    import PIL.Image

    values = np.asarray(picture).astype(np.float64)
    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError("no pixel has a finite value")
    low, high = float(finite.min()), float(finite.max())
    if low >= 0 and picture.mode.startswith("I"):
        low, high = 0.0, float(2 ** max(8, int(high).bit_length()) - 1)
    scaled = (np.clip(values, low, high) - low) * (255.0 / ((high - low) or 1.0))
    return PIL.Image.fromarray(np.rint(np.nan_to_num(scaled)).astype(np.uint8))
