"""The image cache: the pixels that imaging/read.py gives, gray and RGB, decoded once, with damaged files
refused.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from lingshu.core.errors import ImageError
from lingshu.core.types import Image
from lingshu.imaging import cache as cache_module
from lingshu.imaging.cache import ImageCache
from lingshu.imaging.read import open_image
from tests.imaging.test_read import header_only_png

SMOOTH = np.add.outer(np.arange(40), np.arange(64)).astype(np.uint8)
RGB_PIXELS = np.dstack([SMOOTH, SMOOTH[::-1], 255 - SMOOTH])


def encode(pixels: np.ndarray, kind: str = "PNG", **options: object) -> Image:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, kind, **options)
    return Image(data=buffer.getvalue())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_pixels_are_those_of_open_image_in_every_orientation(kind: str, orientation: int) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    image = encode(RGB_PIXELS, kind, exif=exif)
    expected = np.asarray(open_image(image)).astype(int)
    cache = ImageCache()
    header = cache.header(image)
    assert cache.rgb(image).shape == expected.shape == (header.height, header.width, 3)
    assert np.abs(cache.rgb(image) - expected).max() <= (0 if kind == "PNG" else 3)
    luminance = np.rint(expected @ (0.299, 0.587, 0.114))
    assert np.abs(cache.gray(image) - luminance).max() <= (1 if kind == "PNG" else 3)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "1", "CMYK", "I;16"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF"])
def test_every_mode_is_decoded_as_by_open_image(mode: str, kind: str) -> None:
    pil_image = (
        PIL.Image.fromarray(SMOOTH.astype(np.uint16) * 16)
        if mode == "I;16"
        else PIL.Image.fromarray(RGB_PIXELS).convert(mode)
    )
    buffer = io.BytesIO()
    try:
        pil_image.save(buffer, kind)
    except (OSError, ValueError):
        pytest.skip(f"{kind} holds no {mode}")
    image = Image(data=buffer.getvalue())
    cache = ImageCache()
    assert np.abs(cache.rgb(image).astype(int) - np.asarray(open_image(image))).max() <= (
        3 if kind == "JPEG" else 0
    )
    assert cache.gray(image).shape == (40, 64)


def test_gray_of_16_bits_is_scaled_and_transparency_is_white() -> None:
    cache = ImageCache()
    assert cache.gray(encode(np.array([[0, 2048, 4095]], np.uint16))).tolist() == [[0, 128, 255]]
    assert cache.gray(encode(np.zeros((1, 2, 4), np.uint8))).tolist() == [[255, 255]]


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_truncated_files_are_refused_like_pillow_does(kind: str) -> None:
    file = encode(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8), kind).data or b""
    for fraction in (0.3, 0.5, 0.7, 0.9, 0.99):
        truncated = Image(data=file[: int(len(file) * fraction)])
        for open_function in (ImageCache().gray, ImageCache().rgb, open_image):
            with pytest.raises(ImageError):
                open_function(truncated)


def test_damaged_pixels_of_a_png_are_refused(capfd: pytest.CaptureFixture[str]) -> None:
    file = encode(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).data or b""
    for offset in range(60, len(file) - 20, 997):
        damaged = Image(data=file[:offset] + bytes([file[offset] ^ 1]) + file[offset + 1 :])
        with pytest.raises(ImageError):
            ImageCache().gray(damaged)


@pytest.mark.parametrize(("width", "height"), [(9000, 9000), (65535, 65535), (2_000_000_000, 1)])
def test_too_many_pixels_are_refused_from_the_header(width: int, height: int) -> None:
    image = Image(data=header_only_png(width, height))
    cache = ImageCache()
    header = cache.header(image)
    assert (header.width, header.height) == (width, height)
    with pytest.raises(ImageError, match="50 megapixels"):
        cache.gray(image)


def test_the_answer_does_not_depend_on_earlier_questions() -> None:
    for image in (encode(RGB_PIXELS), encode(RGB_PIXELS, "JPEG"), encode(SMOOTH, "JPEG")):
        cache_a, cache_b = ImageCache(), ImageCache()
        gray = cache_a.gray(image)
        cache_b.rgb(image)
        assert np.array_equal(gray, cache_b.gray(image))


def test_an_image_is_read_and_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image(path=str(tmp_path / "a.png"))
    (tmp_path / "a.png").write_bytes(encode(SMOOTH).data or b"")
    calls = []
    real = cache_module._decode_opencv

    def count_calls(*arguments, **options):
        calls.append(1)
        return real(*arguments, **options)

    monkeypatch.setattr(cache_module, "_decode_opencv", count_calls)
    cache = ImageCache()
    first = cache.gray(image)
    (tmp_path / "a.png").unlink()
    assert cache.gray(image) is first and len(calls) == 1 and cache.bytes(image)


def test_pixels_cannot_be_changed_for_others() -> None:
    image = encode(SMOOTH)
    cache = ImageCache()
    for pixels in (cache.gray(image), cache.rgb(image)):
        with pytest.raises(ValueError):
            pixels[0, 0] = 1


def test_only_the_last_images_are_held() -> None:
    cache = ImageCache(max_images=2)
    images = [encode(SMOOTH + shift) for shift in range(4)]
    for image in images:
        cache.gray(image)
    assert list(cache._entries) == [image.data for image in images[2:]]
    small = ImageCache(cache_mb=0)
    for image in images:
        small.gray(image)
    assert list(small._entries) == [images[3].data]


def test_only_the_head_of_a_file_is_read_for_its_header(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes((encode(SMOOTH).data or b"") + bytes(1 << 20))
    cache = ImageCache()
    image = Image(path=str(path))
    assert cache.header(image).width == 64 and cache._entries[image.path].data is None
    assert len(cache.bytes(image)) > 1 << 20


XMP = (
    b'<x:xmpmeta><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/"'
    b' tiff:Orientation="6"/></x:xmpmeta>'
)


def late_exif(png: bytes, orientation: int) -> bytes:
    """A PNG whose Exif block follows its pixels, as some programs write it."""
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    body = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    return (
        png[:-12]
        + struct.pack(">I", len(body) - 4)
        + body
        + struct.pack(">I", zlib.crc32(body))
        + png[-12:]
    )


def test_an_orientation_outside_the_head_turns_the_pixels_too() -> None:
    with_orientation = PIL.Image.Exif()
    with_orientation[0x0112] = 1
    images = [
        encode(RGB_PIXELS, "JPEG", xmp=XMP, quality=95),
        encode(RGB_PIXELS, "JPEG", xmp=XMP, exif=with_orientation, quality=95),
    ]
    png = encode(RGB_PIXELS).data
    assert png
    images.append(Image(data=late_exif(png, 6)))
    for image, width in zip(images, (40, 64, 40), strict=True):
        expected = np.asarray(open_image(image)).astype(int)
        cache = ImageCache()
        assert cache.rgb(image).shape == expected.shape and expected.shape[1] == width
        assert cache.gray(image).shape == expected.shape[:2]
        assert np.abs(cache.rgb(image) - expected).max() <= 3
        assert image is images[2] or cache.header(image).width == width
