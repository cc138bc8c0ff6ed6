"""Review of synthetic samples by people: which ones are queued, what verdicts do to them, and how
good each kind is.

    OUT/review/queue.jsonl   {"id", "kind", "question", "first", "second", "images", ...}: a seeded sample of every kind
    verdicts.jsonl           {"id", "reviewer", "verdict": accept | edit | reject | prefer, "text", "reason", "prefer"}

One rejection drops a sample, whoever else accepted it. Without one the last edit in the file
counts, then the last preference. Of one reviewer's verdicts on a sample the last line counts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from lingshu.core.agreement import agreement
from lingshu.core.errors import InputError, nearest
from lingshu.core.files import numbered_jsonl
from lingshu.core.nouns import Drop, Message, Sample
from lingshu.core.rows import LETTERS
from lingshu.core.shares import Interval, wilson
from lingshu.ops._quota import place
from lingshu.ops._teaching import ALTERNATIVE, SYNTHETIC

Word = Literal["accept", "edit", "reject", "prefer"]
Choice = Literal["first", "second"]
# What agreement is measured on: a preference for the first text accepts it, one for the second
# changes it.
CATEGORIES = ("accept", "edit", "reject")


@dataclass(frozen=True)
class Verdict:
    """What one reviewer says of one sample: `text` of an edit, `reason` of a rejection, `prefer` of
    a preference.
    """

    id: str
    reviewer: str
    verdict: Word
    text: str | None = None
    reason: str | None = None
    prefer: Choice | None = None

    @property
    def category(self) -> str:
        if self.verdict == "prefer":
            return "accept" if self.prefer == "first" else "edit"
        return self.verdict


class Agreement(NamedTuple):
    """How far two reviewers agree on the samples that both saw; None where a measure is not
    defined.
    """

    reviewers: tuple[str, str]
    n: int
    agree: float
    kappa: float | None
    ac1: float


class Quality(NamedTuple):
    """What the review of a kind came to, by sample: one is rejected if anyone rejects it, wrong if
    anyone edits or rejects it.
    """

    kind: str
    reviewed: int
    verdicts: Mapping[str, int]
    rejected: Interval
    wrong: Interval
    reasons: Mapping[str, int]
    agreement: Sequence[Agreement]


# --- the queue
# -----------------------------------------------------------------------------------------------------


class Queue:
    """The samples of every kind that are shown to reviewers: `rows` of each, drawn by id and seed,
    whatever their order.
    """

    def __init__(self, *, rows: int, seed: int) -> None:
        self._rows, self._seed = rows, seed
        self._kept: dict[str, list[tuple[int, Sample]]] = defaultdict(list)

    def offer(self, sample: Sample) -> None:
        kept = self._kept[kind_of(sample)]
        kept.append((place(sample.id, self._seed), sample))
        # Cut now and then: what is offered must not all lie in memory.
        if len(kept) >= 2 * self._rows + 64:
            self._cut(kept)

    def _cut(self, kept: list[tuple[int, Sample]]) -> None:
        kept.sort(key=lambda pair: (pair[0], pair[1].id))
        del kept[self._rows :]

    def drawn(self) -> list[Sample]:
        """The samples to be reviewed, kind by kind."""
        for kept in self._kept.values():
            self._cut(kept)
        return [sample for kind in sorted(self._kept) for _, sample in self._kept[kind]]


def queue_row(sample: Sample, images: Sequence[str]) -> dict[str, Any]:
    """What a reviewer sees of a sample; `images` are the names of its pictures beside the queue."""
    facts = {
        "source": sample.meta.source,
        "modality": sample.meta.modality,
        "prompts": sample.meta.extra.get("prompts"),
    }
    texts = {
        "question": sample.question,
        "first": said(sample),
        "second": sample.meta.extra.get(ALTERNATIVE),
    }
    return {"id": sample.id, "kind": kind_of(sample), **texts, "images": list(images), **facts}


def kind_of(sample: Sample) -> str:
    return sample.meta.extra.get(SYNTHETIC, sample.meta.kind or "unknown")


def said(sample: Sample) -> str:
    """The text under review: the last assistant turn."""
    return next(
        (message.text for message in reversed(sample.messages) if message.role == "assistant"), ""
    )


# --- verdicts
# ------------------------------------------------------------------------------------------------------


def read_verdicts(paths: Sequence[Path]) -> list[Verdict]:
    """The verdicts of all files; of one reviewer's on one sample the last.

    Raises:
        InputError: a line that is no verdict: names the file, the line and what it lacks.
    """
    found: dict[tuple[str, str], Verdict] = {}
    for path in paths:
        for number, row in numbered_jsonl(path, torn_ok=False):
            try:
                verdict = _verdict(row)
            except ValueError as error:
                raise InputError(f"{path}, line {number}: {error}") from None
            # Taken out first: the order is that of the lines that count.
            found.pop((verdict.id, verdict.reviewer), None)
            found[verdict.id, verdict.reviewer] = verdict
    return list(found.values())


def _verdict(row: Mapping[str, Any]) -> Verdict:
    unknown = next((key for key in row if key not in Verdict.__dataclass_fields__), None)
    if unknown is not None:
        raise ValueError(
            f"unknown key {unknown!r}; {nearest(unknown, Verdict.__dataclass_fields__)}"
        )
    if any(value is not None and not isinstance(value, str) for value in row.values()):
        raise ValueError("every value of a verdict is a text.")
    given = {key: value for key, value in row.items() if value is not None and value.strip()}
    word = given.get("verdict")
    if not given.get("id") or not given.get("reviewer") or word not in get_args(Word):
        raise ValueError(
            f"a verdict has id, reviewer and verdict, one of {', '.join(get_args(Word))}."
        )
    needed = {"edit": "text", "reject": "reason", "prefer": "prefer"}.get(str(word))
    if needed and needed not in given:
        raise ValueError(f"the verdict {word!r} needs {needed!r}.")
    if word == "prefer" and given["prefer"] not in get_args(Choice):
        raise ValueError(f"prefer is {given['prefer']!r}; write first or second.")
    return Verdict(**given)


def by_sample(verdicts: Iterable[Verdict]) -> dict[str, list[Verdict]]:
    """The verdicts of each sample by its id, in their order."""
    found: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        found[verdict.id].append(verdict)
    return dict(found)


def applied(sample: Sample, verdicts: Sequence[Verdict]) -> Sample | Drop:
    """The sample as its reviewers leave it.

    Raises:
        InputError: an edit that is no letter of a choice, or a preference where there is no second
            text.
    """
    rejection = next((verdict for verdict in verdicts if verdict.verdict == "reject"), None)
    if rejection:
        return Drop(sample.id, "rejected_in_review", rejection.reason or "")
    edit = next((verdict for verdict in reversed(verdicts) if verdict.verdict == "edit"), None)
    if edit:
        return _with_text(sample, (edit.text or "").strip())
    preference = next(
        (verdict for verdict in reversed(verdicts) if verdict.verdict == "prefer"), None
    )
    if preference is None or preference.prefer == "first":
        return sample
    second = sample.meta.extra.get(ALTERNATIVE)
    if second is None:
        raise InputError(
            f"verdict on {sample.id!r} prefers a second text, which it does not have; accept, edit"
            " or reject it."
        )
    return _with_text(sample, second)


def _with_text(sample: Sample, text: str) -> Sample:
    gold = sample.gold
    if sample.choices and said(sample).strip() in LETTERS:
        if text not in LETTERS[: len(sample.choices)]:
            raise InputError(
                f"verdict on {sample.id!r} edits a choice to {text[:40]!r}; write one of its"
                " letters, or reject it."
            )
        gold = (text,)
    elif gold == (said(sample),):
        gold = (text,)
    last = max(i for i, message in enumerate(sample.messages) if message.role == "assistant")
    messages = (
        *sample.messages[:last],
        Message("assistant", (text,)),
        *sample.messages[last + 1 :],
    )
    return replace(sample, messages=messages, gold=gold)


# --- how good each kind is
# -------------------------------------------------------------------------------------------


def quality(kind: str, samples: Sequence[Sequence[Verdict]]) -> Quality:
    """What the reviewers found; `samples` holds the verdicts on each reviewed sample of the kind."""
    categories = [[verdict.category for verdict in verdicts] for verdicts in samples]
    rejected = sum("reject" in found for found in categories)
    wrong = sum(any(one != "accept" for one in found) for found in categories)
    counts = Counter(verdict.verdict for verdicts in samples for verdict in verdicts)
    reasons = Counter(
        v.reason for verdicts in samples for v in verdicts if v.verdict == "reject" and v.reason
    )
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for verdicts in samples:
        for one, other in combinations(sorted(verdicts, key=lambda v: v.reviewer), 2):
            pairs[one.reviewer, other.reviewer].append((one.category, other.category))
    agreement = [agreed(reviewers, seen) for reviewers, seen in sorted(pairs.items())]
    n = len(samples)
    return Quality(
        kind,
        n,
        dict(sorted(counts.items())),
        wilson(rejected, n),
        wilson(wrong, n),
        dict(sorted(reasons.items())),
        agreement,
    )


def agreed(reviewers: tuple[str, str], pairs: Sequence[tuple[str, str]]) -> Agreement:
    """Cohen's kappa and Gwet's AC1 of two reviewers over the categories accept, edit and reject."""
    n, agree, kappa, ac1 = agreement(pairs, CATEGORIES)
    assert agree is not None and ac1 is not None, (
        "two reviewers are named only for samples that both saw"
    )
    return Agreement(reviewers, n, agree, kappa, ac1)


def check_limits(
    found: Iterable[Quality], *, limit: float, limits: Mapping[str, float] | None = None
) -> None:
    """Stop where too large a share of a kind was rejected.

    Raises:
        InputError: names the kind, the share, its limit and the reason most often given.
    """
    for one in found:
        bound = (limits or {}).get(one.kind, limit)
        share = one.rejected.value
        if share is not None and share > bound:
            often = max(
                one.reasons,
                key=lambda reason: (one.reasons[reason], reason),
                default="no reason given",
            )
            counts = f"{round(share * one.reviewed)} of {one.reviewed} samples ({share:.0%})"
            raise InputError(
                f"{one.kind}: reviewers rejected {counts}, more than its limit of {bound:.0%}; most"
                f" often: {often}. Mend the prompts or leave the kind out; nothing was written."
            )


def told(found: Quality) -> dict[str, int | float | str]:
    """A quality as plain values for a dataset card."""
    facts: dict[str, int | float | str] = {
        "reviewed": found.reviewed,
        **{f"verdict {k}": v for k, v in found.verdicts.items()},
    }
    for name, share in (("rejected", found.rejected), ("edited or rejected", found.wrong)):
        if share.value is not None and share.low is not None and share.high is not None:
            facts[name] = f"{share.value:.1%} (95% interval {share.low:.1%} to {share.high:.1%})"
    for pair in found.agreement:
        kappa = "not defined" if pair.kappa is None else f"{pair.kappa:.2f}"
        names = " and ".join(pair.reviewers)
        facts[f"agreement of {names}"] = (
            f"{pair.agree:.1%} of {pair.n}, Cohen's kappa {kappa}, Gwet's AC1 {pair.ac1:.2f}"
        )
    return facts
