"""Text signatures: one normalisation, stable n-gram hashes, near-duplicates by true Jaccard
similarity.
"""

import pickle
import random

import numpy as np

from lingshu.ops._grams import GramTable
from lingshu.ops._near_text import NearIndex, near_pairs
from lingshu.ops._text_signature import grams, normalised, text_hashes, tokens


def prose(count: int, seed: int) -> list[str]:
    pick = random.Random(seed)
    return [f"w{pick.randrange(3000)}" for _ in range(count)]


def test_one_normalisation():
    assert normalised("  The LEFT-lung's  (3.5 cm)\nmass? ") == "the left lung s 3 5 cm mass"
    assert normalised("Ｔｈｅ “Left” lung—mass, µ\u00adm") == "the left lung mass μm"
    assert normalised("肺部CT显示3个结节。") == "肺 部 ct 显 示 3 个 结 节"
    assert normalised("a_b") == normalised("a b") == normalised("a_b…")
    assert normalised("?!") == normalised("") == ""


def test_hashes_are_the_same_everywhere():
    # Stored signatures are compared with ones made later, so these values may not change.
    assert tokens(["heart size"]).hashes.tolist() == [6391383648198697284, 5804050676282922434]


def test_hashes_do_not_depend_on_what_stands_beside(monkeypatch):
    texts = ["Alpha beta", "", "beta, gamma; 肺部", "  ", "alpha", "β βήτα"]
    together = tokens(texts)
    assert together.starts.tolist() == [0, 2, 2, 6, 6, 7, 9]
    alone = np.concatenate([tokens([text]).hashes for text in texts])
    assert (together.hashes == alone).all()
    assert together.hashes[0] == together.hashes[6] and together.hashes[1] == together.hashes[2]
    monkeypatch.setattr("lingshu.ops._text_signature.BLOCK_BYTES", 8)
    assert (tokens(texts).hashes == alone).all()


def test_grams_stay_inside_their_text():
    texts = ["a b c d", "c d", "", "b c d a b c d"]
    found = grams(tokens(texts), 3)
    assert found.owners.tolist() == [0, 0, 3, 3, 3, 3, 3]
    abc, bcd, *rest = found.hashes.tolist()
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
            grams(tokens([" ".join(words)]), n).hashes.tolist()
            == grams(tokens(windows), n).hashes.tolist()
        )
    assert len(grams(tokens([]), 8).hashes) == 0


def test_whole_texts():
    one, other, swapped, empty = text_hashes(
        tokens(["Heart size normal.", "heart SIZE normal", "size heart normal", "..."])
    )
    assert one == other and one != swapped and empty == 0


def test_near_duplicates_are_found_with_their_similarity():
    base = [prose(120, seed) for seed in range(40)]
    changed = [[*words[:60], "changed", *words[61:]] for words in base]
    texts = [" ".join(words) for words in base + changed] + ["short text", "short text"]
    found = near_pairs(tokens(texts))
    assert list(zip(found.left.tolist(), found.right.tolist(), strict=True)) == [
        (i, 40 + i) for i in range(40)
    ]
    # 116 shingles each, 5 of them changed.
    assert np.allclose(found.similarity, 111 / 121)
    index = pickle.loads(pickle.dumps(NearIndex.build(tokens(texts[:40]))))
    asked = index.near(tokens(texts[40:]))
    assert asked.left.tolist() == asked.right.tolist() == list(range(40)) and np.allclose(
        asked.similarity, 111 / 121
    )


def test_many_copies_are_paired_with_the_first_alone():
    text = " ".join(prose(50, 1))
    found = near_pairs(
        tokens([text, "other words entirely than those of this one", text, text.upper()])
    )
    assert list(zip(found.left.tolist(), found.right.tolist(), strict=True)) == [(0, 2), (0, 3)]
    assert (
        len(near_pairs(tokens([])).left) == 0 and len(near_pairs(tokens(["a b", "a b"])).left) == 0
    )


def test_a_gram_table_says_which_text_holds_what():
    texts = [" ".join(prose(20, seed)) for seed in range(3)]
    table = GramTable.build(grams(tokens([texts[0], texts[1], texts[0]]), 8), texts=3, frequent=2)
    assert table.windows.tolist() == [0, 13, 0] and int(table.frequent.sum()) == 13
    hits = table.find(grams(tokens([texts[2], texts[1] + " and " + texts[0]]), 8))
    shared = table.shared(hits, ignored=np.zeros(len(table.hashes), np.bool_))
    assert (shared.asked.tolist(), shared.text.tolist()) == ([1, 1, 1], [0, 1, 2])
    assert shared.total.tolist() == [13, 13, 13] and shared.telling.tolist() == [0, 13, 0]
    assert len(table.find(grams(tokens([]), 8)).entry) == 0
    nothing = GramTable.build(grams(tokens([]), 8), texts=0, frequent=10)
    assert len(nothing.find(grams(tokens(texts), 8)).entry) == 0
