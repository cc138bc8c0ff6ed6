"""Hash search: every pair within the radius, grouping at radius 0, capped buckets counted, groups
and lookups.
"""

import pickle

import numpy as np
import pytest

from lingshu.ops._buckets import Over, groups
from lingshu.ops._hamming import Lookup, bands, first_equal, pairs_within


def planted(rows: int, size: int, most: int, seed: int = 0) -> np.ndarray:
    """Random hashes, the second half copies of the first with 0 to `most` bits turned."""
    pick = np.random.default_rng(seed)
    one = pick.integers(0, 256, (rows, size), dtype=np.uint8)
    bits = np.unpackbits(one, axis=1)
    for row in range(rows):
        turned = pick.choice(size * 8, pick.integers(0, most + 1), replace=False)
        bits[row, turned] ^= 1
    return np.concatenate([one, np.packbits(bits, axis=1)])


def brute(hashes: np.ndarray, radius: int) -> set[tuple[int, int]]:
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(axis=2, dtype=int)
    return {(int(a), int(b)) for a, b in np.argwhere(apart <= radius) if a < b}


@pytest.mark.parametrize(
    ("size", "radius", "most"), [(32, 8, 12), (32, 3, 5), (8, 3, 5), (8, 1, 2)]
)
def test_all_pairs_within_the_radius_are_found(size, radius, most):
    hashes = planted(300, size, most)
    found = pairs_within(hashes, radius)
    assert found.exact and found.over == Over()
    wanted = brute(hashes, radius)
    listed = set(zip(found.left.tolist(), found.right.tolist(), strict=True))
    # Copies of one hash are paired with the first row alone: the pairs are a part of all, the
    # groups are the same.
    assert listed <= wanted
    left, right = np.array(sorted(wanted)).T
    assert (groups(found.left, found.right, rows=600) == groups(left, right, rows=600)).all()
    assert (
        found.distance == np.bitwise_count(hashes[found.left] ^ hashes[found.right]).sum(axis=1)
    ).all()


def test_radius_0_is_grouping_by_equal_hash():
    hashes = np.random.default_rng(0).integers(0, 4, (3000, 8), dtype=np.uint8) * np.uint8(85)
    hashes[:, :6] = 0
    first = first_equal(hashes)
    _, index, inverse = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
    assert (first == index[inverse.ravel()]).all()
    found = pairs_within(hashes, 0)
    assert (groups(found.left, found.right, rows=3000) == first).all()
    assert len(found.left) == 3000 - len(index) and not found.distance.any()


def test_different_hashes_that_the_sort_takes_for_one_are_told_apart(monkeypatch):
    from lingshu.ops import _hamming

    monkeypatch.setattr(_hamming, "_folded", lambda words: np.zeros(len(words), np.uint64))
    hashes = np.array([[1], [2], [1], [3], [2], [2]], np.uint8).repeat(8, axis=1)
    assert first_equal(hashes).tolist() == [0, 1, 0, 3, 1, 1]


def test_what_a_cap_leaves_out_is_counted():
    # Twenty hashes that share all bands but one: 190 pairs, of which a cap of 5 compares 20 * 5 -
    # 15 = 85 a bucket.
    hashes = np.zeros((20, 32), np.uint8)
    hashes[:, 7] = np.arange(20)
    found = pairs_within(hashes, 8, cap=5)
    assert found.over == Over(8, 8 * (190 - 85))
    assert pairs_within(hashes, 8).over == Over()


def test_a_radius_that_bands_cannot_promise_says_so():
    assert bands(256, 8)[1] and bands(256, 15)[1] and bands(64, 3)[1]
    assert not bands(256, 31)[1] and not bands(64, 4)[1]
    spans, _ = bands(256, 8)
    assert sum(width for _, width in spans) == 256


def test_a_lookup_finds_what_the_pairs_find():
    hashes = planted(200, 32, 12, seed=1)
    lookup = pickle.loads(pickle.dumps(Lookup.build(hashes[:200], 8)))
    found = lookup.within(hashes[200:])
    apart = np.bitwise_count(hashes[200:, None] ^ hashes[None, :200]).sum(axis=2, dtype=int)
    assert list(zip(found.left.tolist(), found.right.tolist(), strict=True)) == [
        (int(a), int(b)) for a, b in np.argwhere(apart <= 8)
    ]
    assert len(lookup.within(hashes[:0]).left) == 0


@pytest.mark.parametrize("rows", [0, 1])
def test_few_rows_have_no_pairs(rows):
    assert len(pairs_within(np.zeros((rows, 32), np.uint8), 8).left) == 0


def test_groups_follow_chains():
    left, right = np.array([5, 1, 7, 2]), np.array([6, 5, 8, 1])
    assert groups(left, right, rows=9).tolist() == [0, 1, 1, 3, 4, 1, 1, 7, 7]
