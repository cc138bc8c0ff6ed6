"""Text signatures: one normalization, stable n-gram hashes, near-duplicates by true Jaccard
similarity.
"""

import pickle
import random

import numpy as np

from lingshu.search.minhash import MinHashIndex, find_similar_pairs
from lingshu.search.ngrams import NgramTable, hash_ngrams
from lingshu.search.text_hash import hash_tokens, normalize_text, text_hashes


def prose(n_words: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [f"w{rng.randrange(3000)}" for _ in range(n_words)]


def test_one_normalization():
    assert normalize_text("  The LEFT-lung's  (3.5 cm)\nmass? ") == "the left lung s 3 5 cm mass"
    assert normalize_text("Ｔｈｅ “Left” lung—mass, µ\u00adm") == "the left lung mass μm"
    assert normalize_text("肺部CT显示3个结节。") == "肺 部 ct 显 示 3 个 结 节"
    assert normalize_text("a_b") == normalize_text("a b") == normalize_text("a_b…")
    assert normalize_text("?!") == normalize_text("") == ""


def test_hashes_are_the_same_everywhere():
    # Stored signatures are compared with ones made later, so these values may not change.
    assert hash_tokens(["heart size"]).hashes.tolist() == [6391383648198697284, 5804050676282922434]


def test_hashes_do_not_depend_on_the_other_texts(monkeypatch):
    texts = ["Alpha beta", "", "beta, gamma; 肺部", "  ", "alpha", "β βήτα"]
    batch = hash_tokens(texts)
    assert batch.offsets.tolist() == [0, 2, 2, 6, 6, 7, 9]
    separate = np.concatenate([hash_tokens([text]).hashes for text in texts])
    assert (batch.hashes == separate).all()
    assert batch.hashes[0] == batch.hashes[6] and batch.hashes[1] == batch.hashes[2]
    monkeypatch.setattr("lingshu.search.text_hash.BLOCK_BYTES", 8)
    assert (hash_tokens(texts).hashes == separate).all()


def test_grams_stay_inside_their_text():
    texts = ["a b c d", "c d", "", "b c d a b c d"]
    result = hash_ngrams(hash_tokens(texts), 3)
    assert result.text_ids.tolist() == [0, 0, 3, 3, 3, 3, 3]
    abc, bcd, *rest = result.hashes.tolist()
    assert (
        rest[0] == bcd
        and rest[3] == abc
        and rest[4] == bcd
        and len({abc, bcd, rest[1], rest[2]}) == 4
    )
    for n in (1, 5, 8, 13):
        words = prose(60, 0)
        windows = [" ".join(words[i : i + n]) for i in range(60 - n + 1)]
        assert (
            hash_ngrams(hash_tokens([" ".join(words)]), n).hashes.tolist()
            == hash_ngrams(hash_tokens(windows), n).hashes.tolist()
        )
    assert len(hash_ngrams(hash_tokens([]), 8).hashes) == 0


def test_complete_texts():
    first, second, swapped, empty = text_hashes(
        hash_tokens(["Heart size normal.", "heart SIZE normal", "size heart normal", "..."])
    )
    assert first == second and first != swapped and empty == 0


def test_near_duplicates_are_found_with_their_similarity():
    base = [prose(120, seed) for seed in range(40)]
    changed = [[*words[:60], "changed", *words[61:]] for words in base]
    texts = [" ".join(words) for words in base + changed] + ["short text", "short text"]
    result = find_similar_pairs(hash_tokens(texts))
    assert list(zip(result.left.tolist(), result.right.tolist(), strict=True)) == [
        (i, 40 + i) for i in range(40)
    ]
    # 116 shingles each, 5 of them changed.
    assert np.allclose(result.similarity, 111 / 121)
    index = pickle.loads(pickle.dumps(MinHashIndex.build(hash_tokens(texts[:40]))))
    query = index.search(hash_tokens(texts[40:]))
    assert query.left.tolist() == query.right.tolist() == list(range(40)) and np.allclose(
        query.similarity, 111 / 121
    )


def test_many_copies_are_paired_with_the_first_alone():
    text = " ".join(prose(50, 1))
    result = find_similar_pairs(
        hash_tokens([text, "other words entirely than those of this one", text, text.upper()])
    )
    assert list(zip(result.left.tolist(), result.right.tolist(), strict=True)) == [(0, 2), (0, 3)]
    assert (
        len(find_similar_pairs(hash_tokens([])).left) == 0
        and len(find_similar_pairs(hash_tokens(["a b", "a b"])).left) == 0
    )


def test_a_gram_table_names_which_text_holds_what():
    texts = [" ".join(prose(20, seed)) for seed in range(3)]
    table = NgramTable.build(
        hash_ngrams(hash_tokens([texts[0], texts[1], texts[0]]), 8), n_texts=3, min_frequent=2
    )
    assert table.n_windows.tolist() == [0, 13, 0] and int(table.frequent.sum()) == 13
    hits = table.find(hash_ngrams(hash_tokens([texts[2], texts[1] + " and " + texts[0]]), 8))
    shared = table.shared(hits, ignored=np.zeros(len(table.hashes), np.bool_))
    assert (shared.query.tolist(), shared.text.tolist()) == ([1, 1, 1], [0, 1, 2])
    assert shared.total.tolist() == [13, 13, 13] and shared.distinctive.tolist() == [0, 13, 0]
    assert len(table.find(hash_ngrams(hash_tokens([]), 8)).entry) == 0
    empty = NgramTable.build(hash_ngrams(hash_tokens([]), 8), n_texts=0, min_frequent=10)
    assert len(empty.find(hash_ngrams(hash_tokens(texts), 8)).entry) == 0
