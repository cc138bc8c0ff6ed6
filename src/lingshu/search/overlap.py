"""What of a test set stands in training data: which item, by what kind of overlap, and on what
evidence.

Text that many items share (exam phrases, instructions, templates of reports) and questions too
short to tell an item come out as `boilerplate`: reported, and not counted as contamination.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from lingshu.search.buckets import Overflow
from lingshu.search.hamming import HammingIndex
from lingshu.search.image_hash import ImageSignature
from lingshu.search.minhash import MinHashIndex
from lingshu.search.ngrams import NgramHits, NgramTable, SharedNgrams
from lingshu.search.text_hash import (
    TokenHashes,
    hash_ngrams,
    hash_tokens,
    normalize_text,
    text_hashes,
)

OverlapKind = Literal[
    "exact_text",
    "ngram13",
    "ngram8",
    "minhash",
    "image_exact",
    "image_near",
    "image_question",
    "study",
    "boilerplate",
]
KINDS: tuple[OverlapKind, ...] = get_args(OverlapKind)  # strongest first
CONTAMINATION_KINDS = KINDS[:-1]
RADIUS = 8  # bits of 256; see _image_signature
# "Which of the following is true" is no item: below this many characters of normalised text,
# choices must agree as well.
SHORT_CHARACTERS = 60
# Items that share a run of eight 13-word windows share a passage; fewer is what exam phrases reach.
MIN_PASSAGE_WINDOWS = 8
# ... unless they are half of the test item's text, or 70% of its 8-word windows.
MIN_COVERAGE_13, MIN_COVERAGE_8 = 0.5, 0.7
# What this many items of one set share says nothing about one of them; in large sets, one item in a
# thousand.
MIN_FREQUENT_ITEMS, MIN_FREQUENT_FRACTION = 10, 0.001
# Boilerplate pairs that are listed for one training item; the others are counted.
MAX_BOILERPLATE_PAIRS = 64
# Of the test items that share one frequent text, such as "What is shown?", this many are listed.
MAX_SAME_TEXT_PAIRS = 2
# Items at a time: in a search, and where n-grams are only counted.
SEARCH_BATCH, COUNT_BATCH = 512, 8192


@dataclass(frozen=True, slots=True)
class BenchmarkItem:
    """One training or test item.

    `answer` is what else it says (a reply, a report), left out where it is a mere letter.
    """

    id: str
    question: str = ""
    answer: str = ""
    choices: tuple[str, ...] = ()
    images: tuple[ImageSignature, ...] = ()
    # study, patient and series: whatever must not stand on both sides
    studies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Overlap:
    """A training item and a test item that have something in common."""

    train_id: str
    test_id: str
    kind: OverlapKind
    evidence: str


class SearchResult(NamedTuple):
    """Overlaps of one batch; at least `unlisted` boilerplate pairs were counted only, `over` is
    what capped searches left out.
    """

    overlaps: list[Overlap]
    n_omitted: int
    overflow: Overflow


class NgramFrequencies(NamedTuple):
    """In how many training items each 13-gram of an index occurs; those of several workers add up."""

    n_items: int
    counts: NDArray[np.int64]

    def __add__(self, other: object) -> NgramFrequencies:
        if not isinstance(other, NgramFrequencies):
            return NotImplemented
        return NgramFrequencies(self.n_items + other.n_items, self.counts + other.counts)


class _NormalizedText(NamedTuple):
    """What is compared of an item's words."""

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
    """A test set, ready to be asked about training items. It pickles, so workers can share one."""

    ids: tuple[str, ...]
    texts: tuple[_NormalizedText, ...]
    # hash of a text -> the text and the items that have it
    items_by_text: Mapping[int, tuple[str, tuple[int, ...]]]
    ngrams8: NgramTable
    ngrams13: NgramTable
    minhash_index: MinHashIndex
    images: _TestImages | None
    items_by_study: Mapping[str, tuple[int, ...]]
    image_files: tuple[frozenset[bytes], ...]
    min_frequent: int
    common: NDArray[np.bool_]  # 13-grams that many training items hold; none until `noting`

    @classmethod
    def build(cls, items: Iterable[BenchmarkItem], *, radius: int = RADIUS) -> OverlapIndex:
        """The index of a test set; images whose 256-bit hashes differ in at most `radius` bits are
        near.
        """
        item_list = list(items)
        texts = tuple(map(_normalize_item, item_list))
        items_by_study: dict[str, list[int]] = {}
        for index, item in enumerate(item_list):
            for study in dict.fromkeys(item.studies):
                items_by_study.setdefault(study, []).append(index)
        tokens = hash_tokens([text.full_text for text in texts])
        min_frequent = frequent_threshold(len(item_list))
        ngrams8, ngrams13 = (
            NgramTable.build(
                hash_ngrams(tokens, n), n_texts=len(item_list), min_frequent=min_frequent
            )
            for n in (8, 13)
        )
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
        """How many of some training items hold each 13-gram of the test set; thousands at a time
        are quickest.
        """
        hits = self.ngrams13.find(hash_ngrams(hash_tokens(list(map(_item_text, items))), 13))
        return NgramFrequencies(
            len(items), np.bincount(hits.entry, minlength=len(self.ngrams13.hashes))
        )

    def with_frequent_ngrams(self, frequencies: NgramFrequencies) -> OverlapIndex:
        """The index that knows which 13-grams are common in the training data.

        They no longer add up to a shared passage. They still count where they cover a test item: an
        item that leaked a thousand times is leaked.
        """
        return replace(self, common=frequencies.counts >= frequent_threshold(frequencies.n_items))

    def find(self, item: BenchmarkItem) -> list[Overlap]:
        """The overlaps of one training item with the test set; one row for each pair and way of
        overlapping.
        """
        return self.find_all([item]).overlaps

    def find_all(self, items: Sequence[BenchmarkItem]) -> SearchResult:
        """The overlaps of several training items, in their order; some hundreds at a time are
        quickest.
        """
        image_overlaps = self._find_image_overlaps(items)
        text_overlaps = self._find_text_overlaps(items)
        # Only items that have something in common with the test set are looked at word by word.
        texts = {
            query: _normalize_item(items[query])
            for query in {
                *(a for a, _ in text_overlaps.pairs),
                *(a for a, rows in enumerate(image_overlaps.pairs) if rows),
            }
        }
        matches: list[list[tuple[int, OverlapKind, str]]] = [[] for _ in items]
        shared_images = {
            (query, row) for query, pairs in enumerate(image_overlaps.pairs) for row in pairs
        }
        for (query, row), text in text_overlaps.pairs.items():
            kind, evidence = self._classify_text_pair(
                texts[query],
                row,
                text,
                both_have_images=bool(items[query].images and self.image_files[row]),
            )
            if kind != "boilerplate" or (query, row) not in shared_images:
                matches[query].append((row, kind, evidence))
        for query, pairs in enumerate(image_overlaps.pairs):
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
        n_omitted = text_overlaps.n_omitted
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
        return SearchResult(overlaps, n_omitted, image_overlaps.overflow + text_overlaps.overflow)

    def _find_text_overlaps(self, items: Sequence[BenchmarkItem]) -> _TextOverlaps:
        """Everything that the words of training and test items have in common, by pair."""
        tokens = hash_tokens(list(map(_item_text, items)))
        pairs: dict[tuple[int, int], _SharedText] = {}
        hits = self.ngrams8.find(hash_ngrams(tokens, 8))
        # Whoever shares thirteen words shares eight of them.
        rows = np.unique(hits.query)
        hits13 = self.ngrams13.find(hash_ngrams(_select_tokens(tokens, rows), 13))
        shared = self.ngrams13.shared(
            NgramHits(rows[hits13.query], hits13.entry), ignored=self.common
        )
        is_reportable = _is_reportable(shared)
        n_omitted = len(is_reportable) - int(is_reportable.sum()) + self.ngrams13.n_omitted(hits13)
        for query, row, *counts in zip(
            *(column[is_reportable].tolist() for column in shared), strict=True
        ):
            pairs[query, row] = _SharedText(thirteen=(counts[0], counts[1], counts[2]))
        is_distinctive = ~self.ngrams8.frequent[hits.entry]
        shared = self.ngrams8.shared(
            NgramHits(hits.query[is_distinctive], hits.entry[is_distinctive]),
            ignored=np.zeros_like(self.ngrams8.frequent),
        )
        is_covered = shared.distinctive >= MIN_COVERAGE_8 * self.ngrams8.n_windows[shared.text]
        for query, row, count in zip(
            *(column[is_covered].tolist() for column in shared[:3]), strict=True
        ):
            pairs[query, row] = pairs.get((query, row), _SharedText())._replace(eight=count)
        similar = self.minhash_index.search(tokens)
        for query, row, similarity in zip(
            similar.left.tolist(), similar.right.tolist(), similar.similarity.tolist(), strict=True
        ):
            pairs[query, row] = pairs.get((query, row), _SharedText())._replace(
                similarity=similarity
            )
        # The whole text, where it is equal too, says more than the question.
        for hashes_of_texts in (
            text_hashes(hash_tokens([item.question if item.answer else "" for item in items])),
            text_hashes(tokens),
        ):
            for query, text_hash in enumerate(hashes_of_texts.tolist()):
                text, rows = self.items_by_text.get(text_hash, ("", ()))
                listed_rows = rows[:MAX_SAME_TEXT_PAIRS] if len(rows) >= self.min_frequent else rows
                n_omitted += len(rows) - len(listed_rows)
                for row in listed_rows:
                    pairs[query, row] = pairs.get((query, row), _SharedText())._replace(
                        equal=text, sharing=len(rows)
                    )
        return _TextOverlaps(pairs, n_omitted, similar.overflow)

    def _classify_text_pair(
        self, text: _NormalizedText, row: int, shared: _SharedText, *, both_have_images: bool
    ) -> tuple[OverlapKind, str]:
        """The strongest kind that the words of a pair prove, with what proves it."""
        test = self.texts[row]
        short = min(len(text.full_text), len(test.full_text)) < SHORT_CHARACTERS
        # Choices such as yes and no agree everywhere: where both items are about pictures, words
        # this short prove nothing.
        same_choices = not both_have_images and _have_same_choices(text.choices, test.choices)
        is_specific = same_choices or not short
        is_frequent = shared.sharing >= self.min_frequent
        if (
            shared.equal is not None
            and not is_frequent
            and (same_choices or len(shared.equal) >= SHORT_CHARACTERS)
        ):
            return "exact_text", _truncate(shared.equal)
        total13, distinctive13, rare13 = shared.thirteen
        coverage13 = distinctive13 / max(1, int(self.ngrams13.n_windows[row]))
        if is_specific and (rare13 >= MIN_PASSAGE_WINDOWS or coverage13 >= MIN_COVERAGE_13):
            return (
                "ngram13",
                f"{total13} shared 13-word windows, {coverage13:.0%} of the test item's",
            )
        coverage8 = shared.eight / max(1, int(self.ngrams8.n_windows[row]))
        only_frequent = (is_frequent and shared.equal == test.full_text) or (
            not self.ngrams8.n_windows[row] and test.full_text.count(" ") >= 7
        )
        if shared.similarity is not None and is_specific and not only_frequent:
            return "minhash", f"Jaccard similarity {shared.similarity:.2f} of 5-word shingles"
        if is_specific and coverage8 >= MIN_COVERAGE_8:
            return (
                "ngram8",
                f"{shared.eight} shared 8-word windows, {coverage8:.0%} of the test item's",
            )
        if shared.equal is not None:
            description = (
                f"the words of {shared.sharing} test items"
                if is_frequent
                else "a short question alone"
            )
            return "boilerplate", f"{description}: {_truncate(shared.equal)}"
        if total13:
            return (
                "boilerplate",
                (
                    f"{total13} shared 13-word windows, {total13 - distinctive13} of them frequent in"
                    " the test set"
                ),
            )
        if shared.similarity is not None:
            return (
                "boilerplate",
                f"Jaccard similarity {shared.similarity:.2f} of a text that is short or frequent",
            )
        return "boilerplate", f"{shared.eight} shared 8-word windows of a short text"

    def _find_image_overlaps(self, items: Sequence[BenchmarkItem]) -> _ImageOverlaps:
        pairs: list[dict[int, tuple[OverlapKind, str]]] = [{} for _ in items]
        train_images = [(query, image) for query, item in enumerate(items) for image in item.images]
        if self.images is None or not train_images:
            return _ImageOverlaps(pairs, Overflow())
        hashes = np.frombuffer(
            b"".join(image.phash for _, image in train_images), np.uint8
        ).reshape(len(train_images), -1)
        similar = self.images.lookup.search(hashes)
        for left, right, distance in zip(
            similar.left.tolist(), similar.right.tolist(), similar.distance.tolist(), strict=True
        ):
            query, train_image = train_images[left]
            test_image = self.images.signatures[right]
            kind, evidence = _classify_image_pair(train_image, test_image, distance)
            for row in self.images.items[right]:
                if pairs[query].get(row, ("image_near", ""))[0] != "image_exact":
                    pairs[query][row] = (kind, evidence)
        return _ImageOverlaps(pairs, similar.overflow)


class _SharedText(NamedTuple):
    """What the texts of a pair share. 13-grams: all, those not frequent in the test set, and of
    these those rare in training; 8-grams: those not frequent in the test set, where they cover
    enough of the test item.
    """

    equal: str | None = None
    sharing: int = 0  # test items that have the equal text
    thirteen: tuple[int, int, int] = (0, 0, 0)
    eight: int = 0
    similarity: float | None = None


class _TextOverlaps(NamedTuple):
    pairs: dict[tuple[int, int], _SharedText]
    n_omitted: int
    overflow: Overflow


class _ImageOverlaps(NamedTuple):
    pairs: list[dict[int, tuple[OverlapKind, str]]]
    overflow: Overflow


def frequent_threshold(n_items: int) -> int:
    """How many of `items` items must share a text for it to be boilerplate."""
    return max(MIN_FREQUENT_ITEMS, math.ceil(MIN_FREQUENT_FRACTION * n_items))


def find_overlaps(train: Iterable[BenchmarkItem], index: OverlapIndex) -> SearchResult:
    """Every overlap of a training set that fits into memory with a test set."""
    item_list = list(train)
    frequencies = index.frequencies([])
    for batch in batches(item_list, COUNT_BATCH):
        frequencies += index.frequencies(batch)
    index = index.with_frequent_ngrams(frequencies)
    results = [index.find_all(batch) for batch in batches(item_list)]
    return SearchResult(
        [overlap for result in results for overlap in result.overlaps],
        sum(p.n_omitted for p in results),
        sum((p.overflow for p in results), Overflow()),
    )


def batches(
    items: Iterable[BenchmarkItem], size: int = SEARCH_BATCH
) -> Iterable[list[BenchmarkItem]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def count_contamination(overlaps: Iterable[Overlap]) -> dict[str, Counter[str]]:
    """Test id -> how many training items overlap with it in each way; boilerplate does not count."""
    counts: dict[str, Counter[str]] = {}
    for overlap in overlaps:
        if overlap.kind != "boilerplate":
            counts.setdefault(overlap.test_id, Counter())[overlap.kind] += 1
    return counts


def _item_text(item: BenchmarkItem) -> str:
    return f"{item.question}\n{item.answer}" if item.answer else item.question


def _index_texts(texts: Sequence[_NormalizedText]) -> dict[int, tuple[str, tuple[int, ...]]]:
    """Hash of a question or a whole text -> the text, and the items that have it."""
    items_by_hash: dict[int, dict[int, None]] = {}
    text_by_hash: dict[int, str] = {}
    for versions in ([text.question for text in texts], [text.full_text for text in texts]):
        for index, (normalized, text_hash) in enumerate(
            zip(versions, text_hashes(hash_tokens(versions)).tolist(), strict=True)
        ):
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
    """Pairs that share more than frequent n-grams, and of the others the first few of each asked
    text.
    """
    is_boilerplate = shared.distinctive == 0
    rank = np.cumsum(is_boilerplate)
    first = np.flatnonzero(np.diff(shared.query, prepend=-1))
    offset = np.repeat(rank[first] - is_boilerplate[first], np.diff(first, append=len(rank)))
    return ~is_boilerplate | (rank - offset <= MAX_BOILERPLATE_PAIRS)


def _select_tokens(tokens: TokenHashes, rows: NDArray[np.int64]) -> TokenHashes:
    """The tokens of some of the texts."""
    counts = tokens.offsets[rows + 1] - tokens.offsets[rows]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return TokenHashes(
        tokens.hashes[
            np.arange(int(starts[-1])) + np.repeat(tokens.offsets[rows] - starts[:-1], counts)
        ],
        starts,
    )


def _have_same_choices(train_choices: frozenset[str], test_choices: frozenset[str]) -> bool:
    """True where two items offer the same choices; one may offer more, as a harder variant of a
    question does.
    """
    return bool(train_choices and test_choices) and len(train_choices & test_choices) >= 0.5 * min(
        len(train_choices), len(test_choices)
    )


def _index_images(items: Sequence[BenchmarkItem], radius: int) -> _TestImages | None:
    items_by_image: dict[ImageSignature, list[int]] = {}
    for index, item in enumerate(items):
        for image in dict.fromkeys(item.images):
            items_by_image.setdefault(image, []).append(index)
    if not items_by_image:
        return None
    hashes = np.frombuffer(b"".join(image.phash for image in items_by_image), np.uint8).reshape(
        len(items_by_image), -1
    )
    return _TestImages(
        list(items_by_image), list(items_by_image.values()), HammingIndex.build(hashes, radius)
    )


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
