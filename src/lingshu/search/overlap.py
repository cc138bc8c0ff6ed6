"""Overlap of training data with a test set: which item, by what kind of overlap, on what evidence.

Text that many items share (exam phrases, instructions, templates of reports) and questions too
short to identify an item are `boilerplate`: reported, but not counted as contamination.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from lingshu.search.buckets import Overflow, expand_ranges
from lingshu.search.hamming import HammingIndex
from lingshu.search.image_hash import ImageSignature
from lingshu.search.minhash import MinHashIndex
from lingshu.search.ngrams import NgramHits, NgramTable, SharedNgrams, hash_ngrams
from lingshu.search.text_hash import TokenHashes, hash_tokens, normalize_text, text_hashes

OverlapKind = Literal[
    "exact_text", "ngram13", "ngram8", "minhash", "image_exact", "image_near", "image_question", "study", "boilerplate",
]  # fmt: skip
KINDS: tuple[OverlapKind, ...] = get_args(OverlapKind)  # strongest first
CONTAMINATION_KINDS = KINDS[:-1]
RADIUS = 8  # bits of 256, as in the step image_dedup
# "Which of the following is true" identifies no item: below this many characters of normalized
# text, choices must agree as well.
SHORT_CHARACTERS = 60
# Items that share a run of eight 13-word windows share a passage; fewer is what exam phrases reach.
MIN_PASSAGE_WINDOWS = 8
# ... unless they are half of the test item's text, or 70% of its 8-word windows.
MIN_COVERAGE_13, MIN_COVERAGE_8 = 0.5, 0.7
# What this many items of one set share does not identify one of them; in large sets 1 in 1,000.
MIN_FREQUENT_ITEMS, MIN_FREQUENT_FRACTION = 10, 0.001
# Boilerplate pairs that are listed for one training item; the rest is counted.
MAX_BOILERPLATE_PAIRS = 64
# Of the test items that share one frequent text, such as "What is shown?", this many are listed.
MAX_SAME_TEXT_PAIRS = 2
# Items at a time: in a search, and where n-grams are only counted.
SEARCH_BATCH, COUNT_BATCH = 512, 8192


@dataclass(frozen=True, slots=True)
class BenchmarkItem:
    """One training or test item.

    `answer` is its other text (a reply, a report), unless it is a letter.
    """

    id: str
    question: str = ""
    answer: str = ""
    choices: tuple[str, ...] = ()
    images: tuple[ImageSignature, ...] = ()
    studies: tuple[str, ...] = ()  # study, patient, series: what must not occur on both sides


@dataclass(frozen=True, slots=True)
class Overlap:
    """A training item and a test item that have something in common."""

    train_id: str
    test_id: str
    kind: OverlapKind
    evidence: str


class SearchResult(NamedTuple):
    """Overlaps of one batch; at least `n_omitted` boilerplate pairs are only counted."""

    overlaps: list[Overlap]
    n_omitted: int
    overflow: Overflow


class NgramFrequencies(NamedTuple):
    """In how many training items each 13-gram of an index occurs; counts can be added."""

    n_items: int
    counts: NDArray[np.int64]

    def __add__(self, other: object) -> NgramFrequencies:
        if not isinstance(other, NgramFrequencies):
            return NotImplemented
        return NgramFrequencies(self.n_items + other.n_items, self.counts + other.counts)


class _NormalizedText(NamedTuple):
    """The compared text of an item."""

    question: str
    full_text: str
    choices: frozenset[str]


class _TestImages(NamedTuple):
    """The different images of the test items, and the items that show each."""

    signatures: list[ImageSignature]
    items: list[list[int]]
    lookup: HammingIndex


@dataclass(frozen=True)
class OverlapIndex:
    """A test set, prepared for the search. It can be pickled for workers."""

    ids: tuple[str, ...]
    texts: tuple[_NormalizedText, ...]
    # hash of a question or a whole text -> the text and the items that have it
    items_by_text: Mapping[int, tuple[str, tuple[int, ...]]]
    ngrams8: NgramTable
    ngrams13: NgramTable
    minhash_index: MinHashIndex
    images: _TestImages | None
    items_by_study: Mapping[str, tuple[int, ...]]
    image_files: tuple[frozenset[bytes], ...]
    min_frequent: int
    common: NDArray[np.bool_]  # 13-grams of many training items; none before with_frequent_ngrams

    @classmethod
    def build(cls, items: Iterable[BenchmarkItem], *, radius: int = RADIUS) -> OverlapIndex:
        """The index of a test set; near images differ in at most `radius` bits of 256."""
        item_list = list(items)
        texts = tuple(map(_normalize_item, item_list))
        items_by_study: dict[str, list[int]] = {}
        for index, item in enumerate(item_list):
            for study in dict.fromkeys(item.studies):
                items_by_study.setdefault(study, []).append(index)
        tokens = hash_tokens([text.full_text for text in texts])
        min_frequent = frequent_threshold(len(item_list))
        limits = {"n_texts": len(item_list), "min_frequent": min_frequent}
        ngrams8, ngrams13 = (NgramTable.build(hash_ngrams(tokens, n), **limits) for n in (8, 13))
        return cls(
            ids=tuple(item.id for item in item_list),
            texts=texts,
            items_by_text=_index_texts(texts),
            ngrams8=ngrams8,
            ngrams13=ngrams13,
            minhash_index=MinHashIndex.build(tokens),
            images=_index_images(item_list, radius),
            items_by_study={study: tuple(rows) for study, rows in items_by_study.items()},
            image_files=tuple(frozenset(image.file for image in item.images) for item in item_list),
            min_frequent=min_frequent,
            common=np.zeros(len(ngrams13.hashes), np.bool_),
        )

    def frequencies(self, items: Sequence[BenchmarkItem]) -> NgramFrequencies:
        """How many of some training items hold each 13-gram; thousands at a time are fastest."""
        hits = self.ngrams13.find(hash_ngrams(hash_tokens(list(map(_item_text, items))), 13))
        counts = np.bincount(hits.entry, minlength=len(self.ngrams13.hashes))
        return NgramFrequencies(len(items), counts)

    def with_frequent_ngrams(self, frequencies: NgramFrequencies) -> OverlapIndex:
        """The index with the 13-grams that are common in the training data.

        They no longer count towards a shared passage, but still where they cover a test item: an
        item that leaked a thousand times is leaked.
        """
        return replace(self, common=frequencies.counts >= frequent_threshold(frequencies.n_items))

    def find(self, item: BenchmarkItem) -> list[Overlap]:
        """The overlaps of one training item with the test set, one for each pair and kind."""
        return self.find_all([item]).overlaps

    def find_all(self, items: Sequence[BenchmarkItem]) -> SearchResult:
        """The overlaps of training items, in their order; hundreds at a time are fastest."""
        image_pairs, overflow = self._find_image_overlaps(items)
        text_pairs, n_omitted, text_overflow = self._find_text_overlaps(items)
        # Only items that overlap with the test set are normalized.
        queries = {query for query, _ in text_pairs}
        queries |= {query for query, rows in enumerate(image_pairs) if rows}
        texts = {query: _normalize_item(items[query]) for query in queries}
        matches: list[list[tuple[int, OverlapKind, str]]] = [[] for _ in items]
        for (query, row), shared in text_pairs.items():
            have_images = bool(items[query].images and self.image_files[row])
            text = texts[query]
            kind, evidence = self._classify_text_pair(text, row, shared, have_images=have_images)
            if kind != "boilerplate" or row not in image_pairs[query]:
                matches[query].append((row, kind, evidence))
        for query, pairs in enumerate(image_pairs):
            for row, (kind, evidence) in pairs.items():
                matches[query].append((row, kind, evidence))
                question = texts[query].question
                if question and question == self.texts[row].question:
                    matches[query].append((row, "image_question", _truncate(question)))
        for query, item in enumerate(items):
            for study in dict.fromkeys(item.studies):
                matches[query].extend(
                    (row, "study", study) for row in self.items_by_study.get(study, ())
                )
        overlaps: list[Overlap] = []
        for item, rows in zip(items, matches, strict=True):
            selected = sorted(
                dict.fromkeys(rows),
                key=lambda match: (match[1] == "boilerplate", match[0], KINDS.index(match[1])),
            )
            boilerplate = sum(kind == "boilerplate" for _, kind, _ in selected)
            n_omitted += max(0, boilerplate - MAX_BOILERPLATE_PAIRS)
            selected = selected[: len(selected) - max(0, boilerplate - MAX_BOILERPLATE_PAIRS)]
            overlaps += [
                Overlap(item.id, self.ids[row], kind, evidence) for row, kind, evidence in selected
            ]
        return SearchResult(overlaps, n_omitted, overflow + text_overflow)

    def _find_text_overlaps(
        self, items: Sequence[BenchmarkItem]
    ) -> tuple[dict[tuple[int, int], _SharedText], int, Overflow]:
        """What texts of training and test items share, by pair; the pairs left out; the overflow."""
        tokens = hash_tokens(list(map(_item_text, items)))
        pairs: defaultdict[tuple[int, int], _SharedText] = defaultdict(_SharedText)
        hits = self.ngrams8.find(hash_ngrams(tokens, 8))
        # Items that share thirteen words share eight of them.
        rows = np.unique(hits.query)
        hits13 = self.ngrams13.find(hash_ngrams(_select_tokens(tokens, rows), 13))
        shared = self.ngrams13.shared(
            NgramHits(rows[hits13.query], hits13.entry), ignored=self.common
        )
        is_reportable = _is_reportable(shared)
        n_omitted = len(is_reportable) - int(is_reportable.sum()) + self.ngrams13.n_omitted(hits13)
        for query, row, *thirteen in _iter_rows(column[is_reportable] for column in shared):
            pairs[query, row] = _SharedText(thirteen=tuple(thirteen))
        is_distinctive = ~self.ngrams8.frequent[hits.entry]
        shared = self.ngrams8.shared(
            NgramHits(hits.query[is_distinctive], hits.entry[is_distinctive]),
            ignored=np.zeros_like(self.ngrams8.frequent),
        )
        is_covered = shared.distinctive >= MIN_COVERAGE_8 * self.ngrams8.n_windows[shared.text]
        for query, row, count in _iter_rows(column[is_covered] for column in shared[:3]):
            pairs[query, row] = pairs[query, row]._replace(eight=count)
        similar = self.minhash_index.search(tokens)
        for query, row, similarity in _iter_rows(similar[:3]):
            pairs[query, row] = pairs[query, row]._replace(similarity=similarity)
        # The whole text last: where it is equal too, it is better evidence than the question.
        questions = hash_tokens([item.question if item.answer else "" for item in items])
        for hashed in (questions, tokens):
            for query, text_hash in enumerate(text_hashes(hashed).tolist()):
                text, rows = self.items_by_text.get(text_hash, ("", ()))
                listed_rows = rows[:MAX_SAME_TEXT_PAIRS] if len(rows) >= self.min_frequent else rows
                n_omitted += len(rows) - len(listed_rows)
                for row in listed_rows:
                    shared_text = pairs[query, row]._replace(equal=text, sharing=len(rows))
                    pairs[query, row] = shared_text
        return pairs, n_omitted, similar.overflow

    def _classify_text_pair(
        self, text: _NormalizedText, row: int, shared: _SharedText, *, have_images: bool
    ) -> tuple[OverlapKind, str]:
        """The strongest kind that the text of a pair proves, with the evidence."""
        test = self.texts[row]
        short = min(len(text.full_text), len(test.full_text)) < SHORT_CHARACTERS
        # Choices such as yes and no agree everywhere: where both items are about images, texts this
        # short prove nothing.
        same_choices = not have_images and _have_same_choices(text.choices, test.choices)
        is_specific = same_choices or not short
        is_frequent = shared.sharing >= self.min_frequent
        equal, similarity = shared.equal, shared.similarity
        if (
            equal is not None
            and not is_frequent
            and (same_choices or len(equal) >= SHORT_CHARACTERS)
        ):
            return "exact_text", _truncate(equal)
        total13, distinctive13, rare13 = shared.thirteen
        coverage13 = distinctive13 / max(1, int(self.ngrams13.n_windows[row]))
        windows13 = f"{total13} shared 13-word windows"
        if is_specific and (rare13 >= MIN_PASSAGE_WINDOWS or coverage13 >= MIN_COVERAGE_13):
            return "ngram13", f"{windows13}, {coverage13:.0%} of the test item's"
        coverage8 = shared.eight / max(1, int(self.ngrams8.n_windows[row]))
        windows8 = f"{shared.eight} shared 8-word windows"
        only_frequent = (is_frequent and equal == test.full_text) or (
            not self.ngrams8.n_windows[row] and test.full_text.count(" ") >= 7
        )
        if similarity is not None and is_specific and not only_frequent:
            return "minhash", f"Jaccard similarity {similarity:.2f} of 5-word shingles"
        if is_specific and coverage8 >= MIN_COVERAGE_8:
            return "ngram8", f"{windows8}, {coverage8:.0%} of the test item's"
        evidence = f"{windows8} of a short text"
        if equal is not None:
            shared_by = f"the text of {shared.sharing} test items"
            scope = shared_by if is_frequent else "a short question"
            evidence = f"{scope}: {_truncate(equal)}"
        elif total13:
            n_frequent = total13 - distinctive13
            evidence = f"{windows13}, {n_frequent} of them frequent in the test set"
        elif similarity is not None:
            evidence = f"Jaccard similarity {similarity:.2f} of a text that is short or frequent"
        return "boilerplate", evidence

    def _find_image_overlaps(
        self, items: Sequence[BenchmarkItem]
    ) -> tuple[list[dict[int, tuple[OverlapKind, str]]], Overflow]:
        """For each training item the test items with an equal or near image."""
        pairs: list[dict[int, tuple[OverlapKind, str]]] = [{} for _ in items]
        train_images = [(query, image) for query, item in enumerate(items) for image in item.images]
        if self.images is None or not train_images:
            return pairs, Overflow()
        similar = self.images.lookup.search(_stack_hashes(image for _, image in train_images))
        for left, right, distance in _iter_rows(similar[:3]):
            query, train_image = train_images[left]
            test_image = self.images.signatures[right]
            kind, evidence = _classify_image_pair(train_image, test_image, distance)
            for row in self.images.items[right]:
                if pairs[query].get(row, ("image_near", ""))[0] != "image_exact":
                    pairs[query][row] = (kind, evidence)
        return pairs, similar.overflow


class _SharedText(NamedTuple):
    """What the texts of a pair share: 13-grams (all, those not frequent in the test set, and of
    these those rare in training), and 8-grams that cover enough of the test item.
    """

    equal: str | None = None
    sharing: int = 0  # test items that have the equal text
    thirteen: tuple[int, int, int] = (0, 0, 0)
    eight: int = 0
    similarity: float | None = None


def frequent_threshold(n_items: int) -> int:
    """How many items must share a text for it to be boilerplate."""
    return max(MIN_FREQUENT_ITEMS, math.ceil(MIN_FREQUENT_FRACTION * n_items))


def find_overlaps(train: Iterable[BenchmarkItem], index: OverlapIndex) -> SearchResult:
    """All overlaps of a training set in memory with a test set."""
    item_list = list(train)
    frequencies = index.frequencies([])
    for batch in batches(item_list, COUNT_BATCH):
        frequencies += index.frequencies(batch)
    index = index.with_frequent_ngrams(frequencies)
    results = [index.find_all(batch) for batch in batches(item_list)]
    overlaps = [overlap for result in results for overlap in result.overlaps]
    overflow = sum((result.overflow for result in results), Overflow())
    return SearchResult(overlaps, sum(result.n_omitted for result in results), overflow)


def batches(
    items: Iterable[BenchmarkItem], size: int = SEARCH_BATCH
) -> Iterable[list[BenchmarkItem]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _iter_rows(columns: Iterable[NDArray[Any]]) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.tolist() for column in columns), strict=True)


def _item_text(item: BenchmarkItem) -> str:
    return f"{item.question}\n{item.answer}" if item.answer else item.question


def _index_texts(texts: Sequence[_NormalizedText]) -> dict[int, tuple[str, tuple[int, ...]]]:
    items_by_hash: dict[int, dict[int, None]] = {}
    text_by_hash: dict[int, str] = {}
    for versions in ([text.question for text in texts], [text.full_text for text in texts]):
        hashes = text_hashes(hash_tokens(versions)).tolist()
        for index, (normalized, text_hash) in enumerate(zip(versions, hashes, strict=True)):
            if normalized:
                text_by_hash[text_hash] = normalized
                items_by_hash.setdefault(text_hash, {})[index] = None
    return {
        text_hash: (text_by_hash[text_hash], tuple(indices))
        for text_hash, indices in items_by_hash.items()
    }


def _normalize_item(item: BenchmarkItem) -> _NormalizedText:
    full_text = normalize_text(_item_text(item))
    question = normalize_text(item.question) if item.answer else full_text
    return _NormalizedText(question, full_text, frozenset(map(normalize_text, item.choices)) - {""})


def _is_reportable(shared: SharedNgrams) -> NDArray[np.bool_]:
    """Pairs that share more than frequent n-grams, and the first few others of each query."""
    is_boilerplate = shared.distinctive == 0
    rank = np.cumsum(is_boilerplate)
    first = np.flatnonzero(np.diff(shared.query, prepend=-1))
    offset = np.repeat(rank[first] - is_boilerplate[first], np.diff(first, append=len(rank)))
    return ~is_boilerplate | (rank - offset <= MAX_BOILERPLATE_PAIRS)


def _select_tokens(tokens: TokenHashes, rows: NDArray[np.int64]) -> TokenHashes:
    """The tokens of some of the texts."""
    counts = tokens.offsets[rows + 1] - tokens.offsets[rows]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return TokenHashes(tokens.hashes[expand_ranges(tokens.offsets[rows], counts)], starts)


def _have_same_choices(train_choices: frozenset[str], test_choices: frozenset[str]) -> bool:
    """Whether two items offer the same choices; one may have more, as a harder variant has."""
    n_fewer = min(len(train_choices), len(test_choices))
    return n_fewer > 0 and len(train_choices & test_choices) >= 0.5 * n_fewer


def _index_images(items: Sequence[BenchmarkItem], radius: int) -> _TestImages | None:
    items_by_image: dict[ImageSignature, list[int]] = {}
    for index, item in enumerate(items):
        for image in dict.fromkeys(item.images):
            items_by_image.setdefault(image, []).append(index)
    if not items_by_image:
        return None
    lookup = HammingIndex.build(_stack_hashes(items_by_image), radius)
    return _TestImages(list(items_by_image), list(items_by_image.values()), lookup)


def _stack_hashes(images: Iterable[ImageSignature]) -> NDArray[np.uint8]:
    hashes = [image.phash for image in images]
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(len(hashes), -1)


def _classify_image_pair(
    train_image: ImageSignature, test_image: ImageSignature, distance: int
) -> tuple[OverlapKind, str]:
    if train_image.file == test_image.file:
        return "image_exact", "the same file"
    if train_image.pixels == test_image.pixels:
        return "image_exact", "the same pixels"
    return "image_near", f"perceptual hash distance {distance} of {8 * len(train_image.phash)} bits"


def _truncate(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:119]}…"
