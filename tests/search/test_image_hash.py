"""Image signatures and who is kept: copies found, series kept apart, the order of preference."""

import numpy as np
import pytest

from lingshu.imaging.read import decode, encode_png
from lingshu.search import image_hash
from lingshu.search.clusters import alternative_captions, protected_groups, representatives
from lingshu.search.hamming import pairs_within
from lingshu.search.image_hash import (
    _low_frequencies,
    image_signature,
    perceptual_hash,
    pixel_digest,
    signature_from_image,
)


def random_image(seed: int, size: int = 200) -> np.ndarray:
    import cv2

    noise = np.random.default_rng(seed).integers(0, 256, (12, 12), dtype=np.uint8)
    return cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC)


def hamming_distance(left: np.ndarray, right: np.ndarray) -> int:
    return int(np.bitwise_count(left ^ right).sum())


@pytest.mark.parametrize(("bits", "size"), [(64, 8), (256, 32)])
def test_a_hash_survives_resizing_and_compression_and_separates_images(bits, size):
    import cv2

    original = random_image(0)
    original_hash = perceptual_hash(original, bits=bits)
    assert original_hash.shape == (size,) and original_hash.dtype == np.uint8
    jpeg = np.asarray(
        cv2.imdecode(
            cv2.imencode(".jpg", original, [cv2.IMWRITE_JPEG_QUALITY, 80])[1], cv2.IMREAD_GRAYSCALE
        ),
        np.uint8,
    )
    half = np.asarray(cv2.resize(original, (100, 100), interpolation=cv2.INTER_AREA), np.uint8)
    assert hamming_distance(original_hash, perceptual_hash(jpeg, bits=bits)) <= bits // 32
    assert hamming_distance(original_hash, perceptual_hash(half, bits=bits)) <= bits // 32
    assert hamming_distance(original_hash, perceptual_hash(random_image(1), bits=bits)) > bits // 5


@pytest.mark.parametrize("shape", [(200, 200), (321, 187), (64, 512), (40, 90), (20, 31)])
@pytest.mark.parametrize("low", [8, 16])
def test_coefficients_are_those_of_the_means_of_areas(shape, low):
    import cv2

    gray = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    size = 4 * low
    if min(shape) >= 2 * size:
        # Every pixel cut into `size` x `size` equal ones: borders of areas then fall between them.
        fine = np.kron(gray.astype(float), np.ones((size, 1)))
        means = (
            np.kron(fine.reshape(size, -1, shape[1]).mean(axis=1), np.ones((1, size)))
            .reshape(size, size, -1)
            .mean(axis=2)
        )
    else:
        means = cv2.resize(gray, (size, size), interpolation=cv2.INTER_AREA)
    expected = cv2.dct(means.astype(np.float64))[:low, :low]
    assert np.allclose(_low_frequencies(gray, low), expected, atol=1e-6)


def test_an_image_too_large_for_integers_has_the_same_hash(monkeypatch):
    original_hash = perceptual_hash(random_image(0))
    monkeypatch.setattr(image_hash, "_INT32_PIXELS", 100)
    assert (perceptual_hash(random_image(0)) == original_hash).all()


def test_flat_images_have_one_hash():
    flat = [np.full((50, 70), value, np.uint8) for value in (0, 17, 128, 255)]
    assert len({perceptual_hash(left).tobytes() for left in flat[1:]}) == 1


def test_signatures_distinguish_files_and_pixels():
    left = image_signature(b"file", random_image(0))
    right = image_signature(b"another", random_image(0))
    assert left.file != right.file and left.pixels == right.pixels and left.phash == right.phash
    changed = random_image(0)
    changed[3, 3] ^= 1
    assert pixel_digest(changed) != left.pixels
    assert pixel_digest(np.zeros((4, 9), np.uint8)) != pixel_digest(np.zeros((6, 6), np.uint8))
    data = encode_png(random_image(0))
    assert signature_from_image(data, decode(data, name="x")) == image_signature(
        data, random_image(0)
    )


def similar_hash(count: int) -> np.ndarray:
    """`count` hashes that differ in one bit from the first."""
    hashes = np.zeros((count, 32), np.uint8)
    for row in range(1, count):
        hashes[row, row] = 1
    return hashes


def test_slices_of_one_series_are_not_merged():
    pairs = pairs_within(similar_hash(3), 8)
    assert protected_groups(pairs, [None] * 3, [b"a", b"b", b"c"]).group.tolist() == [0, 0, 0]
    assert protected_groups(pairs, ["s", "s", "s"], [b"a", b"b", b"c"]).group.tolist() == [0, 1, 2]
    assert protected_groups(pairs, ["s", "s", "s"], [b"a", b"a", b"c"]).group.tolist() == [0, 0, 2]


def test_a_third_image_does_not_merge_two_slices():
    # Row 1 is as near to both slices of the series; it joins one of them, and the other stays.
    result = protected_groups(
        pairs_within(similar_hash(3), 8), ["s", None, "s"], [b"a", b"b", b"c"]
    )
    assert result.group.tolist() == [0, 0, 2] and result.n_protected > 0


def test_copies_of_other_series_do_not_merge_slices():
    hashes = np.zeros((4, 32), np.uint8)
    result = protected_groups(
        pairs_within(hashes, 8), ["s", "t", "t", None], [b"a", b"b", b"c", b"d"]
    )
    assert result.group.tolist() == [0, 0, 2, 0]


def test_which_copy_is_kept():
    group = np.array([0, 0, 0, 3, 3, 5, 5, 7, 7])
    kept = representatives(
        group,
        area=[10, 40, 20, 9, 9, 9, 9, 9, 9],
        captions=["", "", "", "short", "longer words", "same", "same", "x", "x"],
        rank=[0, 0, 0, 0, 0, 2, 1, 1, 1],
        ids=["a", "b", "c", "d", "e", "f", "g", "z", "y"],
    )
    assert kept.tolist() == [1, 1, 1, 4, 4, 6, 6, 8, 8]


def test_captions_of_dropped_copies_are_kept_once():
    kept = np.array([0, 0, 0, 0, 4])
    captions = [
        "A chest film.",
        "a chest film",
        "Effusion on the left.",
        "effusion on the left",
        "alone",
    ]
    assert alternative_captions(kept, captions) == {0: ("Effusion on the left.",)}
