"""Near-duplicate texts and decontamination, compared with datasketch, Data-Juicer and a bare
set of n-grams.

    python bench/text_dedup.py [DATA] [--peers FOLDER] [--install]

FOLDER/datasketch and FOLDER/data-juicer are environments of their own. All times are processor time
of one process and its children; start and imports are left out. Texts consist of 30,000 words
of falling frequency.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from itertools import accumulate
from pathlib import Path

from _record import record, table

PEERS = {"datasketch": ("datasketch",), "data-juicer": ("py-data-juicer", "aiohttp")}
TEXTS, N_DUPLICATES = 40_000, 6_000
ITEMS, N_QUERIES, PLANTED = 50_000, 20_000, 40
WORDS = [f"word{number}" for number in range(30_000)]
FREQUENCY = list(accumulate(1 / (number + 10) for number in range(30_000)))


def prose(pick: random.Random, min_words: int = 40, max_words: int = 200) -> list[str]:
    return pick.choices(WORDS, cum_weights=FREQUENCY, k=pick.randint(min_words, max_words))


def corpus() -> list[str]:
    """34,000 texts, then copies of the first 6,000 with one word in a hundred, at least one,
    replaced.
    """
    pick = random.Random(0)
    base = [prose(pick) for _ in range(TEXTS - N_DUPLICATES)]
    duplicates = []
    for words in base[:N_DUPLICATES]:
        copy = list(words)
        for _ in range(max(1, len(copy) // 100)):
            copy[pick.randrange(len(copy))] = pick.choice(WORDS)
        duplicates.append(copy)
    return [f"{' '.join(words).capitalize()}." for words in base + duplicates]


def spent() -> float:
    return sum(os.times()[:4])


def datasketch_run(texts: list[str]) -> dict:
    import datasketch  # pyright: ignore[reportMissingImports]

    start = spent()
    index = datasketch.MinHashLSH(num_perm=128, params=(16, 8))
    found = 0
    for number, text in enumerate(texts):
        words = text.lower().split()
        signature = datasketch.MinHash(num_perm=128)
        signature.update_batch([" ".join(words[i : i + 5]).encode() for i in range(len(words) - 4)])
        if number >= TEXTS - N_DUPLICATES:
            found += number - (TEXTS - N_DUPLICATES) in index.query(signature)
        index.insert(number, signature, check_duplication=False)
    return {
        "version": datasketch.__version__,
        "seconds": spent() - start,
        "recall": found / N_DUPLICATES,
    }


def data_juicer_run(texts: list[str]) -> dict:
    from importlib.metadata import version

    from data_juicer.core.data import NestedDataset  # pyright: ignore[reportMissingImports]
    from data_juicer.ops.deduplicator import (  # pyright: ignore[reportMissingImports]
        document_minhash_deduplicator as minhash,
    )

    step = minhash.DocumentMinhashDeduplicator(
        window_size=5, num_permutations=128, num_bands=16, num_rows_per_band=8, num_proc=1
    )
    start = spent()
    # Its own runner takes several times as long; this is the step alone.
    hashed = [
        step.compute_hash({"text": text, "number": number}) for number, text in enumerate(texts)
    ]
    left = set(step.process(NestedDataset.from_list(hashed))[0]["number"])
    seconds = spent() - start
    n_removed = sum(
        number not in left or TEXTS - N_DUPLICATES + number not in left
        for number in range(N_DUPLICATES)
    )
    return {
        "version": version("py-data-juicer"),
        "seconds": seconds,
        "recall": n_removed / N_DUPLICATES,
    }


def peer(python: Path, name: str, texts: list[str]) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.json"
        file.write_text(json.dumps(texts))
        command = [str(python), __file__, "--as", name, str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def near_duplicates(
    texts: list[str], folder: Path | None
) -> tuple[list[list[str]], dict[str, float]]:
    from lingshu.search.minhash import find_similar_pairs
    from lingshu.search.text_hash import hash_tokens

    times = []
    for _ in range(2):
        start = spent()
        find_similar_pairs(hash_tokens(texts))
        times.append(spent() - start)
    start = spent()
    found = find_similar_pairs(hash_tokens(texts))
    best = min(*times, spent() - start)
    listed = set(zip(found.left.tolist(), found.right.tolist(), strict=True))
    recall = (
        sum((number, TEXTS - N_DUPLICATES + number) in listed for number in range(N_DUPLICATES))
        / N_DUPLICATES
    )
    throughputs = {"lingshu": TEXTS / best}
    rows = [
        [
            "lingshu (32 bands of 8, pairs verified by true Jaccard)",
            f"{throughputs['lingshu']:,.0f}",
            f"{recall:.4f}",
            "1.0x",
        ]
    ]
    for name in PEERS:
        python = (folder or Path()) / name / "bin" / "python"
        if folder is None or not python.exists():
            print(f"{name} is not installed and passed over; give --peers FOLDER --install")
            continue
        peer_result = peer(python, name, texts)
        throughputs[name] = TEXTS / peer_result["seconds"]
        ratio = f"{throughputs['lingshu'] / throughputs[name]:.1f}x"
        rows.append(
            [
                f"{name} {peer_result['version']} (16 bands of 8)",
                f"{throughputs[name]:,.0f}",
                f"{peer_result['recall']:.4f}",
                ratio,
            ]
        )
    return rows, throughputs


def decontamination() -> tuple[list[list[str]], str]:
    """Texts a second against 50,000 items: the same windows of 8 words in a bare set, in our table,
    and the whole search.
    """
    from lingshu.search.ngrams import NgramTable, hash_ngrams
    from lingshu.search.overlap import SEARCH_BATCH, BenchmarkItem, OverlapIndex, find_overlaps
    from lingshu.search.text_hash import hash_tokens, split_words

    pick = random.Random(1)
    items = [" ".join(prose(pick, 40, 180)) for _ in range(ITEMS)]
    queries = [" ".join(prose(pick)) for _ in range(N_QUERIES)]
    hidden = {pick.randrange(N_QUERIES): pick.randrange(ITEMS) for _ in range(PLANTED)}
    for text, item in hidden.items():
        queries[text] = f"{queries[text]} {items[item]} {queries[text]}"
    start = spent()
    known = set()
    for item in items:
        ngrams = split_words(item)
        known.update(hash(tuple(ngrams[i : i + 8])) for i in range(len(ngrams) - 7))
    built = [spent() - start]
    start = spent()
    bare = set()
    for number, text in enumerate(queries):
        ngrams = split_words(text)
        if any(hash(tuple(ngrams[i : i + 8])) in known for i in range(len(ngrams) - 7)):
            bare.add(number)
    times = [spent() - start]
    del known
    start = spent()
    ngram_table = NgramTable.build(
        hash_ngrams(hash_tokens(items), 8), n_texts=ITEMS, min_frequent=10
    )
    built.append(spent() - start)
    start = spent()
    hit: set[int] = set()
    for offset in range(0, N_QUERIES, SEARCH_BATCH):
        hit |= {
            offset + row
            for row in ngram_table.find(
                hash_ngrams(hash_tokens(queries[offset : offset + SEARCH_BATCH]), 8)
            ).query.tolist()
        }
    times.append(spent() - start)
    assert hit == bare
    start = spent()
    index = OverlapIndex.build(
        [BenchmarkItem(str(number), text) for number, text in enumerate(items)]
    )
    built.append(spent() - start)
    start = spent()
    found = find_overlaps(
        [BenchmarkItem(str(number), text) for number, text in enumerate(queries)], index
    ).overlaps
    times.append(spent() - start)
    pairs = {
        (int(each.train_id), int(each.test_id)) for each in found if each.kind != "boilerplate"
    }
    missed = len(set(hidden.items()) - pairs)
    names = (
        "bare set of hashed windows of 8 words",
        "the same windows in the table of lingshu",
        "all checks of `overlap`: 8 and 13 words, exact, MinHash, frequencies",
    )
    rows = [
        [name, f"{N_QUERIES / seconds:,.0f}", f"{times[0] / seconds:.2f}x", f"{build:.1f}"]
        for name, seconds, build in zip(names, times, built, strict=True)
    ]
    return (
        rows,
        (
            f"{len(hidden) - missed} of {len(hidden)} planted items found,"
            f" {len(pairs - set(hidden.items()))} others."
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "data", nargs="?", help="not needed here; every measurement may be handed one"
    )
    parser.add_argument("--peers", type=Path, help="folder with the peers' environments")
    parser.add_argument(
        "--install",
        action="store_true",
        help="make the environments that are not there (Data-Juicer: gigabytes)",
    )
    parser.add_argument(
        "--as", dest="as_peer", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS
    )
    given = parser.parse_args()
    if given.as_peer:
        run = {"datasketch": datasketch_run, "data-juicer": data_juicer_run}[given.as_peer[0]]
        return print(json.dumps(run(json.loads(Path(given.as_peer[1]).read_text()))))
    for name, packages in PEERS.items():
        python = (given.peers or Path()) / name / "bin" / "python"
        if given.peers and given.install and not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(given.peers / name)], check=True)
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
    near, throughputs = near_duplicates(corpus(), given.peers)
    print("\n".join(" ".join(row) for row in near), flush=True)
    clean, summary = decontamination()
    print("\n".join(" ".join(row) for row in clean), summary, flush=True)
    ratios = ", ".join(
        f"**{throughputs['lingshu'] / rate:.1f} times** {name}'s"
        for name, rate in throughputs.items()
        if name != "lingshu"
    )
    body = [
        f"{TEXTS:,} texts of 40 to 200 words, {N_DUPLICATES:,} of them copies with one word in a hundred"
        " replaced; 5-word shingles."
        + (f" The throughput of lingshu is {ratios}." if ratios else ""),
        table(
            ["MinHash, from text to pairs", "texts per CPU-second", "recall", "lingshu against it"],
            near,
        ),
        f"Decontamination: {N_QUERIES:,} texts against {ITEMS:,} items of 40 to 180 words. {summary}",
        table(
            ["look-up", "texts per CPU-second", "against the bare set", "building (CPU s)"], clean
        ),
    ]
    return record("text_dedup", "Text deduplication and decontamination", "\n\n".join(body))


if __name__ == "__main__":
    main()
