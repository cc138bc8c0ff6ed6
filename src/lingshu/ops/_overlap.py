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
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lingshu.ops._buckets import Over
from lingshu.ops._grams import GramTable, Hits, Shared
from lingshu.ops._hamming import Lookup
from lingshu.ops._image_signature import Signature
from lingshu.ops._near_text import NearIndex
from lingshu.ops._text_signature import Tokens, grams, normalised, text_hashes, tokens

Kind = Literal[
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
KINDS: tuple[Kind, ...] = (
    "exact_text", "ngram13", "ngram8", "minhash", "image_exact", "image_near", "image_question", "study", "boilerplate",
)  # fmt: skip
RADIUS = 8  # bits of 256; see _image_signature
# "Which of the following is true" is no item: below this many characters of normalised text,
# choices must agree as well.
SHORT_CHARACTERS = 60
# Items that share a run of eight 13-word windows share a passage; fewer is what exam phrases reach.
PASSAGE_WINDOWS = 8
# ... unless they are half of the test item's text, or 70% of its 8-word windows.
COVERED_13, COVERED_8 = 0.5, 0.7
# What this many items of one set share says nothing about one of them; in large sets, one item in a
# thousand.
FREQUENT_ITEMS, FREQUENT_SHARE = 10, 0.001
# Boilerplate pairs that are listed for one training item; the others are counted.
LISTED = 64
# Of the test items that share one frequent text, such as "What is shown?", this many are listed.
SAME_TEXT_LISTED = 2
# Items at a time: in a search, and where n-grams are only counted.
BATCH, COUNTED = 512, 8192


@dataclass(frozen=True, slots=True)
class Item:
    """One training or test item.

    `answer` is what else it says (a reply, a report), left out where it is a mere letter.
    """

    id: str
    question: str = ""
    answer: str = ""
    choices: tuple[str, ...] = ()
    images: tuple[Signature, ...] = ()
    # study, patient and series: whatever must not stand on both sides
    studies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Overlap:
    """A training item and a test item that have something in common."""

    train_id: str
    test_id: str
    kind: Kind
    evidence: str


class Found(NamedTuple):
    """Overlaps of one batch; at least `unlisted` boilerplate pairs were counted only, `over` is
    what capped searches left out.
    """

    overlaps: list[Overlap]
    unlisted: int
    over: Over


class Frequencies(NamedTuple):
    """In how many training items each 13-gram of an index occurs; those of several workers add up."""

    items: int
    counts: NDArray[np.int64]

    def __add__(self, other: object) -> Frequencies:
        if not isinstance(other, Frequencies):
            return NotImplemented
        return Frequencies(self.items + other.items, self.counts + other.counts)


class _Text(NamedTuple):
    """What is compared of an item's words."""

    question: str
    whole: str
    choices: frozenset[str]


class _Images(NamedTuple):
    """The different images of the test items, and the items that show each."""

    signatures: list[Signature]
    items: list[list[int]]
    lookup: Lookup


@dataclass(frozen=True)
class Index:
    """A test set, ready to be asked about training items. It pickles, so workers can share one."""

    ids: tuple[str, ...]
    texts: tuple[_Text, ...]
    # hash of a text -> the text and the items that have it
    by_text: Mapping[int, tuple[str, tuple[int, ...]]]
    eight: GramTable
    thirteen: GramTable
    near: NearIndex
    images: _Images | None
    by_study: Mapping[str, tuple[int, ...]]
    shown: tuple[frozenset[bytes], ...]
    frequent: int
    common: NDArray[np.bool_]  # 13-grams that many training items hold; none until `noting`

    @classmethod
    def build(cls, items: Iterable[Item], *, radius: int = RADIUS) -> Index:
        """The index of a test set; images whose 256-bit hashes differ in at most `radius` bits are
        near.
        """
        every = list(items)
        texts = tuple(map(_text, every))
        by_study: dict[str, list[int]] = {}
        for number, item in enumerate(every):
            for study in dict.fromkeys(item.studies):
                by_study.setdefault(study, []).append(number)
        found = tokens([text.whole for text in texts])
        limit = frequent(len(every))
        eight, thirteen = (
            GramTable.build(grams(found, n), texts=len(every), frequent=limit) for n in (8, 13)
        )
        return cls(
            ids=tuple(item.id for item in every),
            texts=texts,
            by_text=_by_text(texts),
            eight=eight,
            thirteen=thirteen,
            near=NearIndex.build(found),
            images=_images(every, radius),
            by_study={study: tuple(rows) for study, rows in by_study.items()},
            shown=tuple(frozenset(image.file for image in item.images) for item in every),
            frequent=limit,
            common=np.zeros(len(thirteen.hashes), np.bool_),
        )

    def frequencies(self, items: Sequence[Item]) -> Frequencies:
        """How many of some training items hold each 13-gram of the test set; thousands at a time
        are quickest.
        """
        hits = self.thirteen.find(grams(tokens(list(map(_words, items))), 13))
        return Frequencies(len(items), np.bincount(hits.entry, minlength=len(self.thirteen.hashes)))

    def noting(self, seen: Frequencies) -> Index:
        """The index that knows which 13-grams are common in the training data.

        They no longer add up to a shared passage. They still count where they cover a test item: an
        item that leaked a thousand times is leaked.
        """
        return replace(self, common=seen.counts >= frequent(seen.items))

    def find(self, item: Item) -> list[Overlap]:
        """The overlaps of one training item with the test set; one row for each pair and way of
        overlapping.
        """
        return self.find_all([item]).overlaps

    def find_all(self, items: Sequence[Item]) -> Found:
        """The overlaps of several training items, in their order; some hundreds at a time are
        quickest.
        """
        same = self._same_images(items)
        evidence = self._near_text(items)
        # Only items that have something in common with the test set are looked at word by word.
        texts = {
            asked: _text(items[asked])
            for asked in {
                *(a for a, _ in evidence.pairs),
                *(a for a, rows in enumerate(same.pairs) if rows),
            }
        }
        listed: list[list[tuple[int, Kind, str]]] = [[] for _ in items]
        shared_images = {(asked, row) for asked, pairs in enumerate(same.pairs) for row in pairs}
        for (asked, row), text in evidence.pairs.items():
            kind, why = self._judge(
                texts[asked], row, text, both_shown=bool(items[asked].images and self.shown[row])
            )
            if kind != "boilerplate" or (asked, row) not in shared_images:
                listed[asked].append((row, kind, why))
        for asked, pairs in enumerate(same.pairs):
            for row, (kind, why) in pairs.items():
                listed[asked].append((row, kind, why))
                question = texts[asked].question
                if question and question == self.texts[row].question:
                    listed[asked].append((row, "image_question", _quoted(question)))
        for asked, item in enumerate(items):
            for study in dict.fromkeys(item.studies):
                listed[asked].extend((row, "study", study) for row in self.by_study.get(study, ()))
        overlaps: list[Overlap] = []
        unlisted = evidence.unlisted
        for item, rows in zip(items, listed, strict=True):
            kept = sorted(
                dict.fromkeys(rows),
                key=lambda each: (each[1] == "boilerplate", each[0], KINDS.index(each[1])),
            )
            boilerplate = sum(kind == "boilerplate" for _, kind, _ in kept)
            unlisted += max(0, boilerplate - LISTED)
            kept = kept[: len(kept) - max(0, boilerplate - LISTED)]
            overlaps += [Overlap(item.id, self.ids[row], kind, why) for row, kind, why in kept]
        return Found(overlaps, unlisted, same.over + evidence.over)

    def _near_text(self, items: Sequence[Item]) -> _TextPairs:
        """Everything that the words of training and test items have in common, by pair."""
        found = tokens(list(map(_words, items)))
        pairs: dict[tuple[int, int], _Common] = {}
        hits = self.eight.find(grams(found, 8))
        # Whoever shares thirteen words shares eight of them.
        rows = np.unique(hits.asked)
        longer = self.thirteen.find(grams(_part(found, rows), 13))
        shared = self.thirteen.shared(Hits(rows[longer.asked], longer.entry), ignored=self.common)
        worth = _worth_listing(shared)
        unlisted = len(worth) - int(worth.sum()) + self.thirteen.unlisted(longer)
        for asked, row, *counts in zip(*(column[worth].tolist() for column in shared), strict=True):
            pairs[asked, row] = _Common(thirteen=(counts[0], counts[1], counts[2]))
        own = ~self.eight.frequent[hits.entry]
        shared = self.eight.shared(
            Hits(hits.asked[own], hits.entry[own]), ignored=np.zeros_like(self.eight.frequent)
        )
        much = shared.telling >= COVERED_8 * self.eight.windows[shared.text]
        for asked, row, count in zip(
            *(column[much].tolist() for column in shared[:3]), strict=True
        ):
            pairs[asked, row] = pairs.get((asked, row), _Common())._replace(eight=count)
        near = self.near.near(found)
        for asked, row, similarity in zip(
            near.left.tolist(), near.right.tolist(), near.similarity.tolist(), strict=True
        ):
            pairs[asked, row] = pairs.get((asked, row), _Common())._replace(similarity=similarity)
        # The whole text, where it is equal too, says more than the question.
        for forms in (
            text_hashes(tokens([item.question if item.answer else "" for item in items])),
            text_hashes(found),
        ):
            for asked, form in enumerate(forms.tolist()):
                text, rows = self.by_text.get(form, ("", ()))
                listed = rows[:SAME_TEXT_LISTED] if len(rows) >= self.frequent else rows
                unlisted += len(rows) - len(listed)
                for row in listed:
                    pairs[asked, row] = pairs.get((asked, row), _Common())._replace(
                        equal=text, sharing=len(rows)
                    )
        return _TextPairs(pairs, unlisted, near.over)

    def _judge(
        self, text: _Text, row: int, shared: _Common, *, both_shown: bool
    ) -> tuple[Kind, str]:
        """The strongest kind that the words of a pair prove, with what proves it."""
        test = self.texts[row]
        short = min(len(text.whole), len(test.whole)) < SHORT_CHARACTERS
        # Choices such as yes and no agree everywhere: where both items are about pictures, words
        # this short prove nothing.
        agreed = not both_shown and _agree(text.choices, test.choices)
        told = agreed or not short
        often = shared.sharing >= self.frequent
        if (
            shared.equal is not None
            and not often
            and (agreed or len(shared.equal) >= SHORT_CHARACTERS)
        ):
            return "exact_text", _quoted(shared.equal)
        total13, telling13, rare13 = shared.thirteen
        part13 = telling13 / max(1, int(self.thirteen.windows[row]))
        if told and (rare13 >= PASSAGE_WINDOWS or part13 >= COVERED_13):
            return "ngram13", f"{total13} shared 13-word windows, {part13:.0%} of the test item's"
        part8 = shared.eight / max(1, int(self.eight.windows[row]))
        only_frequent = (often and shared.equal == test.whole) or (
            not self.eight.windows[row] and test.whole.count(" ") >= 7
        )
        if shared.similarity is not None and told and not only_frequent:
            return "minhash", f"Jaccard similarity {shared.similarity:.2f} of 5-word shingles"
        if told and part8 >= COVERED_8:
            return "ngram8", f"{shared.eight} shared 8-word windows, {part8:.0%} of the test item's"
        if shared.equal is not None:
            what = (
                f"the words of {shared.sharing} test items" if often else "a short question alone"
            )
            return "boilerplate", f"{what}: {_quoted(shared.equal)}"
        if total13:
            return (
                "boilerplate",
                (
                    f"{total13} shared 13-word windows, {total13 - telling13} of them frequent in"
                    " the test set"
                ),
            )
        if shared.similarity is not None:
            return (
                "boilerplate",
                f"Jaccard similarity {shared.similarity:.2f} of a text that is short or frequent",
            )
        return "boilerplate", f"{shared.eight} shared 8-word windows of a short text"

    def _same_images(self, items: Sequence[Item]) -> _ImagePairs:
        pairs: list[dict[int, tuple[Kind, str]]] = [{} for _ in items]
        asked = [(number, image) for number, item in enumerate(items) for image in item.images]
        if self.images is None or not asked:
            return _ImagePairs(pairs, Over())
        hashes = np.frombuffer(b"".join(image.phash for _, image in asked), np.uint8).reshape(
            len(asked), -1
        )
        near = self.images.lookup.within(hashes)
        for left, right, distance in zip(
            near.left.tolist(), near.right.tolist(), near.distance.tolist(), strict=True
        ):
            number, ours = asked[left]
            theirs = self.images.signatures[right]
            kind, why = _image_kind(ours, theirs, distance)
            for row in self.images.items[right]:
                if pairs[number].get(row, ("image_near", ""))[0] != "image_exact":
                    pairs[number][row] = (kind, why)
        return _ImagePairs(pairs, near.over)


class _Common(NamedTuple):
    """What the texts of a pair share. 13-grams: all, those not frequent in the test set, and of
    these those rare in training; 8-grams: those not frequent in the test set, where they cover
    enough of the test item.
    """

    equal: str | None = None
    sharing: int = 0  # test items that have the equal text
    thirteen: tuple[int, int, int] = (0, 0, 0)
    eight: int = 0
    similarity: float | None = None


class _TextPairs(NamedTuple):
    pairs: dict[tuple[int, int], _Common]
    unlisted: int
    over: Over


class _ImagePairs(NamedTuple):
    pairs: list[dict[int, tuple[Kind, str]]]
    over: Over


def frequent(items: int) -> int:
    """How many of `items` items must share a text for it to be boilerplate."""
    return max(FREQUENT_ITEMS, math.ceil(FREQUENT_SHARE * items))


def overlaps(train: Iterable[Item], index: Index) -> Found:
    """Every overlap of a training set that fits into memory with a test set."""
    every = list(train)
    seen = index.frequencies([])
    for batch in batches(every, COUNTED):
        seen += index.frequencies(batch)
    index = index.noting(seen)
    parts = [index.find_all(batch) for batch in batches(every)]
    return Found(
        [each for part in parts for each in part.overlaps],
        sum(p.unlisted for p in parts),
        sum((p.over for p in parts), Over()),
    )


def batches(items: Iterable[Item], size: int = BATCH) -> Iterable[list[Item]]:
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch


def contaminated(found: Iterable[Overlap]) -> dict[str, Counter[str]]:
    """Test id -> how many training items overlap with it in each way; boilerplate does not count."""
    told: dict[str, Counter[str]] = {}
    for each in found:
        if each.kind != "boilerplate":
            told.setdefault(each.test_id, Counter())[each.kind] += 1
    return told


def _words(item: Item) -> str:
    return f"{item.question}\n{item.answer}" if item.answer else item.question


def _by_text(texts: Sequence[_Text]) -> dict[int, tuple[str, tuple[int, ...]]]:
    """Hash of a question or a whole text -> the text, and the items that have it."""
    rows: dict[int, dict[int, None]] = {}
    told: dict[int, str] = {}
    for forms in ([text.question for text in texts], [text.whole for text in texts]):
        for number, (form, value) in enumerate(
            zip(forms, text_hashes(tokens(forms)).tolist(), strict=True)
        ):
            if form:
                told[value] = form
                rows.setdefault(value, {})[number] = None
    return {value: (told[value], tuple(numbers)) for value, numbers in rows.items()}


def _text(item: Item) -> _Text:
    whole = normalised(_words(item))
    question = normalised(item.question) if item.answer else whole
    return _Text(question, whole, frozenset(map(normalised, item.choices)) - {""})


def _worth_listing(shared: Shared) -> NDArray[np.bool_]:
    """Pairs that share more than frequent n-grams, and of the others the first few of each asked
    text.
    """
    alone = shared.telling == 0
    rank = np.cumsum(alone)
    first = np.flatnonzero(np.diff(shared.asked, prepend=-1))
    before = np.repeat(rank[first] - alone[first], np.diff(first, append=len(rank)))
    return ~alone | (rank - before <= LISTED)


def _part(found: Tokens, rows: NDArray[np.int64]) -> Tokens:
    """The tokens of some of the texts."""
    counts = found.starts[rows + 1] - found.starts[rows]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Tokens(
        found.hashes[
            np.arange(int(starts[-1])) + np.repeat(found.starts[rows] - starts[:-1], counts)
        ],
        starts,
    )


def _agree(ours: frozenset[str], theirs: frozenset[str]) -> bool:
    """True where two items offer the same choices; one may offer more, as a harder variant of a
    question does.
    """
    return bool(ours and theirs) and len(ours & theirs) >= 0.5 * min(len(ours), len(theirs))


def _images(items: Sequence[Item], radius: int) -> _Images | None:
    shown: dict[Signature, list[int]] = {}
    for number, item in enumerate(items):
        for image in dict.fromkeys(item.images):
            shown.setdefault(image, []).append(number)
    if not shown:
        return None
    hashes = np.frombuffer(b"".join(image.phash for image in shown), np.uint8).reshape(
        len(shown), -1
    )
    return _Images(list(shown), list(shown.values()), Lookup.build(hashes, radius))


def _image_kind(ours: Signature, theirs: Signature, distance: int) -> tuple[Kind, str]:
    if ours.file == theirs.file:
        return "image_exact", "the same file"
    if ours.pixels == theirs.pixels:
        return "image_exact", "the same pixels"
    return "image_near", f"perceptual hash distance {distance} of {8 * len(ours.phash)} bits"


def _quoted(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:119]}…"
