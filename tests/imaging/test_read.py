"""Opening images: what comes out, and that everything that goes wrong is an ImageError that names the
thing.
"""

from __future__ import annotations

import io
import os
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lingshu.core.errors import ImageError
from lingshu.core.types import Image
from lingshu.imaging.read import (
    FORMATS,
    MAX_BYTES,
    ShardReader,
    encode_png,
    image_bytes,
    image_name,
    open_image,
    png_bytes,
)

RED = np.full((4, 6, 3), (255, 0, 0), np.uint8)


def encode(image: PIL.Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header_only_png(width: int, height: int) -> bytes:
    """A PNG whose header promises more pixels than the file holds."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


def test_a_rendered_image_is_read_back_pixel_for_pixel() -> None:
    assert np.array_equal(np.asarray(open_image(Image(data=encode_png(RED)))), RED)


@pytest.mark.parametrize("kind", FORMATS)
def test_every_allowed_format_opens_as_rgb(kind: str) -> None:
    image = open_image(Image(data=encode(PIL.Image.fromarray(RED), kind)))
    assert image.mode == "RGB" and image.size == (6, 4)


def test_other_formats_are_refused() -> None:
    with pytest.raises(ImageError, match="not a PNG, JPEG"):
        open_image(Image(data=encode(PIL.Image.fromarray(RED), "PPM")))


def test_exif_orientation_is_applied() -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    assert open_image(Image(data=encode(PIL.Image.fromarray(RED), "JPEG", exif=exif))).size == (
        4,
        6,
    )


def test_transparency_is_shown_on_white() -> None:
    transparent = open_image(Image(data=encode(PIL.Image.new("RGBA", (2, 2), (0, 0, 0, 0)))))
    palette = PIL.Image.new("P", (2, 2), 0)
    assert transparent.getpixel((0, 0)) == (255, 255, 255)
    assert open_image(Image(data=encode(palette, transparency=0))).getpixel((0, 0)) == (
        255,
        255,
        255,
    )


def test_gray_of_16_bits_uses_the_bits_that_its_values_need() -> None:
    def open_pixels(*values: int) -> list[int]:
        pixels = np.array([values], np.uint16)
        return np.asarray(open_image(Image(data=encode(PIL.Image.fromarray(pixels)))))[
            0, :, 0
        ].tolist()

    assert open_pixels(0, 32768, 65535) == [0, 128, 255]
    assert open_pixels(0, 2048, 4095) == [0, 128, 255]  # 12-bit data in a 16-bit file
    assert open_pixels(0, 7, 200) == [0, 7, 200]  # 8-bit data stay as they are
    assert open_pixels(0, 0, 0) == [0, 0, 0]


def test_fractional_gray_is_stretched_and_nan_is_black() -> None:
    pixels = np.array([[-1.0, 0.0, 1.0, np.nan]], np.float32)
    assert np.asarray(open_image(Image(data=encode(PIL.Image.fromarray(pixels), "TIFF"))))[
        0, :, 0
    ].tolist() == [0, 128, 255, 0]


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [PIL.Image.new("RGB", (2, 2), color) for color in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_image(Image(data=data)).getpixel((0, 0)) == (255, 0, 0)


def test_re_encoding_leaves_the_metadata_behind() -> None:
    exif = PIL.Image.Exif()
    exif[0x010E] = "NAME OF A PERSON"
    data = encode(PIL.Image.fromarray(RED), "JPEG", exif=exif, comment=b"NAME OF A PERSON")
    assert b"NAME" in data
    assert b"NAME" not in png_bytes(open_image(Image(data=data)))


def test_a_file_that_is_not_an_image_is_named(tmp_path: Path) -> None:
    empty, text, truncated = tmp_path / "empty.png", tmp_path / "text.png", tmp_path / "cut.png"
    empty.touch()
    text.write_text("not an image")
    complete = encode_png(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    truncated.write_bytes(complete[: len(complete) // 2])
    for path in (
        empty,
        text,
        truncated,
        tmp_path / "missing.png",
        tmp_path,
        tmp_path / "nul\0.png",
    ):
        with pytest.raises(ImageError) as caught:
            open_image(Image(path=str(path)))
        assert path.name.replace("\0", "?") in str(caught.value)
        assert "; " in str(caught.value) and "\n" not in str(caught.value)


def test_a_named_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="not a regular file"):
        open_image(Image(path=str(tmp_path / "pipe.png")))


@pytest.mark.parametrize(
    ("width", "height"), [(12000, 12000), (65535, 65535), (2_000_000_000, 1), (8000, 7000)]
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels_are_refused_from_the_header(width: int, height: int) -> None:
    with pytest.raises(ImageError):
        open_image(Image(data=header_only_png(width, height)))


def test_too_many_bytes_are_refused_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ImageError, match="more than 64 MB"):
        image_bytes(Image(path=str(path)))
    with pytest.raises(ImageError, match="more than 64 MB"):
        image_bytes(Image(data=bytes(MAX_BYTES + 1)))


def test_a_text_chunk_that_unpacks_to_gigabytes_is_refused() -> None:
    complete = encode_png(RED)
    bomb = chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(8 << 20), 9))
    with pytest.raises(ImageError):
        open_image(Image(data=complete[:33] + bomb + complete[33:]))


def mutate(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 2, 8, 32))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return (
        bytes(changed[: rng.randrange(1, len(changed) + 1)])
        if rng.random() < 0.3
        else bytes(changed)
    )


def fuzz(rounds: int) -> None:
    rng = random.Random(0)
    noise = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))
    seeds = [encode(noise, kind) for kind in FORMATS] + [
        encode(noise, "TIFF", compression="tiff_lzw"),
        encode(noise.convert("P"), "PNG"),
    ]
    for number in range(rounds):
        try:
            open_image(Image(data=mutate(seeds[number % len(seeds)], rng)))
        except ImageError:
            continue


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_raise_nothing_but_bad_image() -> None:
    fuzz(800)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_many_damaged_files_raise_nothing_but_bad_image() -> None:
    fuzz(20_000)


def write_shard(path: Path, column: str, cells: list, kind: pa.DataType, rows: int = 2) -> None:
    pq.write_table(pa.table({column: pa.array(cells, kind)}), path, row_group_size=rows)


STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def test_rows_of_a_shard_are_read_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_shard(
        path,
        "images",
        [[{"bytes": b"%d.%d" % (i, j), "path": None} for j in range(2)] for i in range(7)],
        pa.list_(STRUCT),
    )
    with ShardReader(cache_mb=0) as shards:
        for row in (6, 0, 3, 3, 5, 1):
            assert image_bytes(Image(str(path), row, 1), shards=shards) == b"%d.1" % row
    assert image_bytes(Image(str(path), 4)) == b"4.0"


@pytest.mark.parametrize(
    ("column", "cell", "kind"),
    [
        ("image", {"bytes": b"x", "path": None}, STRUCT),
        ("image", b"x", pa.binary()),
        ("images", [b"x"], pa.list_(pa.binary())),
    ],
)
def test_other_shapes_of_the_image_column_are_read(
    tmp_path: Path, column: str, cell: object, kind: pa.DataType
) -> None:
    write_shard(tmp_path / "a.parquet", column, [cell], kind)
    assert image_bytes(Image(str(tmp_path / "a.parquet"), 0)) == b"x"


def test_what_is_missing_in_a_shard_is_named(tmp_path: Path) -> None:
    path, truncated, other = (
        tmp_path / "a.parquet",
        tmp_path / "torn.parquet",
        tmp_path / "other.parquet",
    )
    write_shard(path, "images", [[{"bytes": None, "path": "x.png"}]], pa.list_(STRUCT))
    write_shard(other, "text", ["x"], pa.string())
    truncated.write_bytes(path.read_bytes()[:-20])
    for image in (
        Image(str(path), 0),
        Image(str(path), 0, 1),
        Image(str(path), 1),
        Image(str(path), -1),
        Image(str(truncated), 0),
        Image(str(other), 0),
    ):
        with pytest.raises(ImageError, match=Path(image.path or "").name):
            image_bytes(image)
    with pytest.raises(ImageError, match="does not exist"):
        image_bytes(Image(str(tmp_path / "no.parquet"), 0))


def test_a_damaged_image_in_a_shard_names_its_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_shard(path, "images", [[{"bytes": b"junk", "path": None}]], pa.list_(STRUCT))
    with pytest.raises(ImageError, match="row 0, image 0"):
        open_image(Image(str(path), 0))


def test_a_shard_reader_keeps_no_more_files_open_than_allowed(tmp_path: Path) -> None:
    for number in range(5):
        write_shard(tmp_path / f"{number}.parquet", "image", [b"%d" % number], pa.binary())
    with ShardReader(max_open_files=2) as shards:
        for number in (0, 1, 2, 3, 4, 0):
            assert (
                image_bytes(Image(str(tmp_path / f"{number}.parquet"), 0), shards=shards)
                == b"%d" % number
            )


def test_an_image_in_memory_has_a_name() -> None:
    assert image_name(Image(data=b"x")) == "image in memory"
    with pytest.raises(ImageError, match="neither a path nor data"):
        image_bytes(Image())
