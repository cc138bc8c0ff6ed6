"""Hash search: every pair within the radius, grouping at radius 0, capped buckets counted, groups
and lookups.
"""

import pickle

import numpy as np
import pytest

from lingshu.search.buckets import Overflow, connected_components
from lingshu.search.hamming import HammingIndex, band_spans, first_occurrence, pairs_within


def near_duplicate_hashes(rows: int, size: int, max_flipped: int, seed: int = 0) -> np.ndarray:
    """Random hashes, the second half copies of the first with 0 to `max_flipped` bits turned."""
    rng = np.random.default_rng(seed)
    originals = rng.integers(0, 256, (rows, size), dtype=np.uint8)
    bits = np.unpackbits(originals, axis=1)
    for row in range(rows):
        flipped = rng.choice(size * 8, rng.integers(0, max_flipped + 1), replace=False)
        bits[row, flipped] ^= 1
    return np.concatenate([originals, np.packbits(bits, axis=1)])


def brute_force_pairs(hashes: np.ndarray, radius: int) -> set[tuple[int, int]]:
    distances = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(axis=2, dtype=int)
    return {(int(a), int(b)) for a, b in np.argwhere(distances <= radius) if a < b}


@pytest.mark.parametrize(
    ("size", "radius", "max_flipped"),
    [(32, 8, 12), (32, 3, 5), (32, 2, 4), (32, 1, 3), (8, 3, 5), (8, 1, 2)],
)
def test_all_pairs_within_the_radius_are_found(size, radius, max_flipped):
    hashes = near_duplicate_hashes(300, size, max_flipped)
    result = pairs_within(hashes, radius)
    assert result.exact and result.overflow == Overflow()
    expected = brute_force_pairs(hashes, radius)
    pairs = set(zip(result.left.tolist(), result.right.tolist(), strict=True))
    # Copies of one hash are paired with the first row alone: the pairs are a part of all, the
    # groups are the same.
    assert pairs <= expected
    left, right = np.array(sorted(expected)).T
    assert (
        connected_components(result.left, result.right, n_rows=600)
        == connected_components(left, right, n_rows=600)
    ).all()
    assert (
        result.distance == np.bitwise_count(hashes[result.left] ^ hashes[result.right]).sum(axis=1)
    ).all()


def test_radius_0_is_grouping_by_equal_hash():
    hashes = np.random.default_rng(0).integers(0, 4, (3000, 8), dtype=np.uint8) * np.uint8(85)
    hashes[:, :6] = 0
    first = first_occurrence(hashes)
    _, index, inverse = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    assert (first == index[inverse.ravel()]).all()
    result = pairs_within(hashes, 0)
    assert (connected_components(result.left, result.right, n_rows=3000) == first).all()
    assert len(result.left) == 3000 - len(index) and not result.distance.any()


def test_different_hashes_that_the_sort_takes_for_one_are_distinguished(monkeypatch):
    from lingshu.search import hamming

    monkeypatch.setattr(hamming, "_mix_words", lambda words: np.zeros(len(words), np.uint64))
    hashes = np.array([[1], [2], [1], [3], [2], [2]], np.uint8).repeat(8, axis=1)
    assert first_occurrence(hashes).tolist() == [0, 1, 0, 3, 1, 1]


def test_what_a_cap_leaves_out_is_counted():
    # Twenty hashes that share all bands but one: 190 pairs, of which a cap of 5 compares 20 * 5 -
    # 15 = 85 a bucket.
    hashes = np.zeros((20, 32), np.uint8)
    hashes[:, 7] = np.arange(20)
    result = pairs_within(hashes, 8, cap=5)
    assert result.overflow == Overflow(8, 8 * (190 - 85))
    assert pairs_within(hashes, 8).overflow == Overflow()


def test_a_radius_that_bands_cannot_guarantee_is_reported():
    assert band_spans(256, 8)[1] and band_spans(256, 15)[1] and band_spans(64, 3)[1]
    assert band_spans(256, 0)[1] and band_spans(64, 0)[1]
    assert not band_spans(256, 31)[1] and not band_spans(64, 4)[1]
    spans, _ = band_spans(256, 8)
    assert sum(width for _, width in spans) == 256


@pytest.mark.parametrize("radius", [0, 1, 8])
def test_a_lookup_finds_what_the_pairs_find(radius):
    hashes = near_duplicate_hashes(200, 32, 12, seed=1)
    lookup = pickle.loads(pickle.dumps(HammingIndex.build(hashes[:200], radius)))
    result = lookup.search(hashes[200:])
    distances = np.bitwise_count(hashes[200:, None] ^ hashes[None, :200]).sum(axis=2, dtype=int)
    assert list(zip(result.left.tolist(), result.right.tolist(), strict=True)) == [
        (int(a), int(b)) for a, b in np.argwhere(distances <= radius)
    ]
    assert len(lookup.search(hashes[:0]).left) == 0


@pytest.mark.parametrize("rows", [0, 1])
def test_few_rows_have_no_pairs(rows):
    assert len(pairs_within(np.zeros((rows, 32), np.uint8), 8).left) == 0


def test_groups_follow_chains():
    left, right = np.array([5, 1, 7, 2]), np.array([6, 5, 8, 1])
    assert connected_components(left, right, n_rows=9).tolist() == [0, 1, 1, 3, 4, 1, 1, 7, 7]
