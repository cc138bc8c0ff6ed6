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
from lingshu.core.errors import InputError, suggest_name
from lingshu.core.files import enumerate_jsonl
from lingshu.core.quotas import stable_hash
from lingshu.core.rows import LETTERS
from lingshu.core.stats import Interval, wilson
from lingshu.core.teacher_prompts import ALTERNATIVE, SYNTHETIC
from lingshu.core.types import Drop, Message, Sample

VerdictKind = Literal["accept", "edit", "reject", "prefer"]
PreferredText = Literal["first", "second"]
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
    verdict: VerdictKind
    text: str | None = None
    reason: str | None = None
    prefer: PreferredText | None = None

    @property
    def category(self) -> str:
        if self.verdict == "prefer":
            return "accept" if self.prefer == "first" else "edit"
        return self.verdict


class ReviewerAgreement(NamedTuple):
    """How far two reviewers agree on the samples that both saw; None where a measure is not
    defined.
    """

    reviewers: tuple[str, str]
    n: int
    observed_agreement: float
    kappa: float | None
    ac1: float


class ReviewSummary(NamedTuple):
    """What the review of a kind came to, by sample: one is rejected if anyone rejects it, wrong if
    anyone edits or rejects it.
    """

    kind: str
    reviewed: int
    verdicts: Mapping[str, int]
    rejected: Interval
    edited_or_rejected: Interval
    reasons: Mapping[str, int]
    agreement: Sequence[ReviewerAgreement]


# --- the queue
# -----------------------------------------------------------------------------------------------------


class ReviewQueue:
    """The samples of every kind that are shown to reviewers: `rows` of each, drawn by id and seed,
    whatever their order.
    """

    def __init__(self, *, n_per_kind: int, seed: int) -> None:
        self._n_per_kind, self._seed = n_per_kind, seed
        self._candidates: dict[str, list[tuple[int, Sample]]] = defaultdict(list)

    def add(self, sample: Sample) -> None:
        candidates = self._candidates[sample_kind(sample)]
        candidates.append((stable_hash(sample.id, self._seed), sample))
        # Cut now and then: what is offered must not all lie in memory.
        if len(candidates) >= 2 * self._n_per_kind + 64:
            self._trim(candidates)

    def _trim(self, candidates: list[tuple[int, Sample]]) -> None:
        candidates.sort(key=lambda pair: (pair[0], pair[1].id))
        del candidates[self._n_per_kind :]

    def selected(self) -> list[Sample]:
        """The samples to be reviewed, kind by kind."""
        for candidates in self._candidates.values():
            self._trim(candidates)
        return [sample for kind in sorted(self._candidates) for _, sample in self._candidates[kind]]


def queue_row(sample: Sample, images: Sequence[str]) -> dict[str, Any]:
    """What a reviewer sees of a sample; `images` are the names of its pictures beside the queue."""
    metadata = {
        "source": sample.meta.source,
        "modality": sample.meta.modality,
        "prompts": sample.meta.extra.get("prompts"),
    }
    texts = {
        "question": sample.question,
        "first": last_assistant_text(sample),
        "second": sample.meta.extra.get(ALTERNATIVE),
    }
    return {
        "id": sample.id,
        "kind": sample_kind(sample),
        **texts,
        "images": list(images),
        **metadata,
    }


def sample_kind(sample: Sample) -> str:
    return sample.meta.extra.get(SYNTHETIC, sample.meta.kind or "unknown")


def last_assistant_text(sample: Sample) -> str:
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
    verdicts: dict[tuple[str, str], Verdict] = {}
    for path in paths:
        for line_number, row in enumerate_jsonl(path, allow_truncated=False):
            try:
                verdict = _parse_verdict(row)
            except ValueError as error:
                raise InputError(f"{path}, line {line_number}: {error}") from None
            # Taken out first: the order is that of the lines that count.
            verdicts.pop((verdict.id, verdict.reviewer), None)
            verdicts[verdict.id, verdict.reviewer] = verdict
    return list(verdicts.values())


def _parse_verdict(row: Mapping[str, Any]) -> Verdict:
    unknown = next((key for key in row if key not in Verdict.__dataclass_fields__), None)
    if unknown is not None:
        raise ValueError(
            f"unknown key {unknown!r}; {suggest_name(unknown, Verdict.__dataclass_fields__)}"
        )
    if any(value is not None and not isinstance(value, str) for value in row.values()):
        raise ValueError("every value of a verdict is a text.")
    values = {key: value for key, value in row.items() if value is not None and value.strip()}
    kind = values.get("verdict")
    if not values.get("id") or not values.get("reviewer") or kind not in get_args(VerdictKind):
        raise ValueError(
            f"a verdict has id, reviewer and verdict, one of {', '.join(get_args(VerdictKind))}."
        )
    required_key = {"edit": "text", "reject": "reason", "prefer": "prefer"}.get(str(kind))
    if required_key and required_key not in values:
        raise ValueError(f"the verdict {kind!r} needs {required_key!r}.")
    if kind == "prefer" and values["prefer"] not in get_args(PreferredText):
        raise ValueError(f"prefer is {values['prefer']!r}; write first or second.")
    return Verdict(**values)


def group_by_sample(verdicts: Iterable[Verdict]) -> dict[str, list[Verdict]]:
    """The verdicts of each sample by its id, in their order."""
    grouped: dict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        grouped[verdict.id].append(verdict)
    return dict(grouped)


def apply_verdicts(sample: Sample, verdicts: Sequence[Verdict]) -> Sample | Drop:
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
    if sample.choices and last_assistant_text(sample).strip() in LETTERS:
        if text not in LETTERS[: len(sample.choices)]:
            raise InputError(
                f"verdict on {sample.id!r} edits a choice to {text[:40]!r}; write one of its"
                " letters, or reject it."
            )
        gold = (text,)
    elif gold == (last_assistant_text(sample),):
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


def summarize_reviews(kind: str, samples: Sequence[Sequence[Verdict]]) -> ReviewSummary:
    """What the reviewers found; `samples` holds the verdicts on each reviewed sample of the kind."""
    categories = [[verdict.category for verdict in verdicts] for verdicts in samples]
    rejected = sum("reject" in sample_categories for sample_categories in categories)
    edited_or_rejected = sum(
        any(first != "accept" for first in sample_categories) for sample_categories in categories
    )
    counts = Counter(verdict.verdict for verdicts in samples for verdict in verdicts)
    reasons = Counter(
        v.reason for verdicts in samples for v in verdicts if v.verdict == "reject" and v.reason
    )
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for verdicts in samples:
        for first, second in combinations(sorted(verdicts, key=lambda v: v.reviewer), 2):
            pairs[first.reviewer, second.reviewer].append((first.category, second.category))
    agreement = [
        reviewer_agreement(reviewers, category_pairs)
        for reviewers, category_pairs in sorted(pairs.items())
    ]
    n = len(samples)
    return ReviewSummary(
        kind,
        n,
        dict(sorted(counts.items())),
        wilson(rejected, n),
        wilson(edited_or_rejected, n),
        dict(sorted(reasons.items())),
        agreement,
    )


def reviewer_agreement(
    reviewers: tuple[str, str], pairs: Sequence[tuple[str, str]]
) -> ReviewerAgreement:
    """Cohen's kappa and Gwet's AC1 of two reviewers over the categories accept, edit and reject."""
    n, observed_agreement, kappa, ac1 = agreement(pairs, CATEGORIES)
    assert observed_agreement is not None and ac1 is not None, (
        "two reviewers are named only for samples that both saw"
    )
    return ReviewerAgreement(reviewers, n, observed_agreement, kappa, ac1)


def check_limits(
    summaries: Iterable[ReviewSummary], *, limit: float, limits: Mapping[str, float] | None = None
) -> None:
    """Stop where too large a share of a kind was rejected.

    Raises:
        InputError: names the kind, the share, its limit and the reason most often given.
    """
    for summary in summaries:
        threshold = (limits or {}).get(summary.kind, limit)
        share = summary.rejected.value
        if share is not None and share > threshold:
            top_reason = max(
                summary.reasons,
                key=lambda reason: (summary.reasons[reason], reason),
                default="no reason given",
            )
            counts = (
                f"{round(share * summary.reviewed)} of {summary.reviewed} samples ({share:.0%})"
            )
            raise InputError(
                f"{summary.kind}: reviewers rejected {counts}, more than its limit of {threshold:.0%}; most"
                f" often: {top_reason}. Mend the prompts or leave the kind out; nothing was written."
            )


def review_stats(summary: ReviewSummary) -> dict[str, int | float | str]:
    """A quality as plain values for a dataset card."""
    stats: dict[str, int | float | str] = {
        "reviewed": summary.reviewed,
        **{f"verdict {k}": v for k, v in summary.verdicts.items()},
    }
    for name, share in (
        ("rejected", summary.rejected),
        ("edited or rejected", summary.edited_or_rejected),
    ):
        if share.value is not None and share.low is not None and share.high is not None:
            stats[name] = f"{share.value:.1%} (95% interval {share.low:.1%} to {share.high:.1%})"
    for pair in summary.agreement:
        kappa = "not defined" if pair.kappa is None else f"{pair.kappa:.2f}"
        names = " and ".join(pair.reviewers)
        stats[f"agreement of {names}"] = (
            f"{pair.observed_agreement:.1%} of {pair.n}, Cohen's kappa {kappa}, Gwet's AC1 {pair.ac1:.2f}"
        )
    return stats
