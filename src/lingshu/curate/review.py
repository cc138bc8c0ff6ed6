"""Review of synthetic samples by people: the queue, what verdicts do, and each kind's quality.

    OUT/review/queue.jsonl   {"id", "kind", "question", "first", "second", "images", ...}
    verdicts.jsonl           {"id", "reviewer", "verdict": accept | edit | reject | prefer,
                              "text", "reason", "prefer"}

The queue is a seeded sample of every kind. One rejection drops a sample, even if others accepted
it. Without one the last edit in the file counts, then the last preference. Of one reviewer's
verdicts on a sample the last line counts.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from lingshu.core.errors import InputError, suggest_name
from lingshu.core.files import enumerate_jsonl
from lingshu.core.quotas import stable_hash
from lingshu.core.rows import LETTERS
from lingshu.core.stats import Interval, agreement, wilson
from lingshu.core.teacher_prompts import ALTERNATIVE, SYNTHETIC
from lingshu.core.types import Drop, Message, Sample

VerdictKind = Literal["accept", "edit", "reject", "prefer"]
PreferredText = Literal["first", "second"]
# Agreement is measured on these: a preference for the first text accepts it, one for the second
# edits it.
CATEGORIES = ("accept", "edit", "reject")


@dataclass(frozen=True)
class Verdict:
    """One reviewer's verdict on one sample."""

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
    """Agreement of two reviewers on samples that both saw; None where it is undefined."""

    reviewers: tuple[str, str]
    n: int
    observed_agreement: float
    kappa: float | None
    ac1: float


class ReviewSummary(NamedTuple):
    """The review of a kind; a sample counts as rejected if anyone rejected it."""

    kind: str
    reviewed: int
    verdicts: Mapping[str, int]
    rejected: Interval
    edited_or_rejected: Interval
    reasons: Mapping[str, int]
    agreement: Sequence[ReviewerAgreement]


# --- the queue


class ReviewQueue:
    """Selects `n_per_kind` samples of every kind by id and seed, whatever their order."""

    def __init__(self, *, n_per_kind: int, seed: int) -> None:
        self._n_per_kind, self._seed = n_per_kind, seed
        self._candidates: dict[str, list[tuple[int, Sample]]] = defaultdict(list)

    def add(self, sample: Sample) -> None:
        candidates = self._candidates[sample_kind(sample)]
        candidates.append((stable_hash(sample.id, self._seed), sample))
        # Not all candidates may stay in memory.
        if len(candidates) >= 2 * self._n_per_kind + 64:
            self._trim(candidates)

    def _trim(self, candidates: list[tuple[int, Sample]]) -> None:
        candidates.sort(key=lambda pair: (pair[0], pair[1].id))
        del candidates[self._n_per_kind :]

    def selected(self) -> list[Sample]:
        """The samples to review, kind by kind."""
        for candidates in self._candidates.values():
            self._trim(candidates)
        return [sample for kind in sorted(self._candidates) for _, sample in self._candidates[kind]]


def queue_row(sample: Sample, images: Sequence[str]) -> dict[str, Any]:
    """What a reviewer sees of a sample; `images` are file names relative to the queue."""
    return {
        "id": sample.id,
        "kind": sample_kind(sample),
        "question": sample.question,
        "first": last_assistant_text(sample),
        "second": sample.meta.extra.get(ALTERNATIVE),
        "images": list(images),
        "source": sample.meta.source,
        "modality": sample.meta.modality,
        "prompts": sample.meta.extra.get("prompts"),
    }


def sample_kind(sample: Sample) -> str:
    return sample.meta.extra.get(SYNTHETIC, sample.meta.kind or "unknown")


def last_assistant_text(sample: Sample) -> str:
    """The text under review."""
    texts = [message.text for message in sample.messages if message.role == "assistant"]
    return texts[-1] if texts else ""


# --- verdicts


def read_verdicts(paths: Sequence[Path]) -> list[Verdict]:
    """The verdicts of all files; of one reviewer's on one sample the last.

    Raises:
        InputError: a line that is not a verdict: names the file, the line and the fault.
    """
    verdicts: dict[tuple[str, str], Verdict] = {}
    for path in paths:
        for line_number, row in enumerate_jsonl(path, allow_truncated=False):
            try:
                verdict = _parse_verdict(row)
            except ValueError as error:
                raise InputError(f"{path}, line {line_number}: {error}") from None
            # Removed first: the order is that of the lines that count.
            verdicts.pop((verdict.id, verdict.reviewer), None)
            verdicts[verdict.id, verdict.reviewer] = verdict
    return list(verdicts.values())


def _parse_verdict(row: Mapping[str, Any]) -> Verdict:
    unknown = next((key for key in row if key not in Verdict.__dataclass_fields__), None)
    if unknown is not None:
        problem = f"unknown key {unknown!r}"
        raise ValueError(f"{problem}; {suggest_name(unknown, Verdict.__dataclass_fields__)}")
    if any(value is not None and not isinstance(value, str) for value in row.values()):
        raise ValueError("every value of a verdict must be a string.")
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
    """The sample after review.

    Raises:
        InputError: an edit of a choice to none of its letters, a preference without a second text.
    """
    last = {verdict.verdict: verdict for verdict in verdicts}
    rejection = next((verdict for verdict in verdicts if verdict.verdict == "reject"), None)
    if rejection:
        return Drop(sample.id, "rejected_in_review", rejection.reason or "")
    if "edit" in last:
        return _with_text(sample, (last["edit"].text or "").strip())
    if "prefer" not in last or last["prefer"].prefer == "first":
        return sample
    second = sample.meta.extra.get(ALTERNATIVE)
    if second is None:
        problem = f"verdict on {sample.id!r} prefers a second text, which it does not have"
        raise InputError(f"{problem}; accept, edit or reject it.")
    return _with_text(sample, second)


def _with_text(sample: Sample, text: str) -> Sample:
    gold, old = sample.gold, last_assistant_text(sample)
    if sample.choices and old.strip() in LETTERS:
        if text not in LETTERS[: len(sample.choices)]:
            problem = f"verdict on {sample.id!r} edits a choice to {text[:40]!r}"
            raise InputError(f"{problem}; write one of its letters, or reject it.")
        gold = (text,)
    elif gold == (old,):
        gold = (text,)
    messages = list(sample.messages)
    last = max(i for i, message in enumerate(messages) if message.role == "assistant")
    messages[last] = Message("assistant", (text,))
    return replace(sample, messages=tuple(messages), gold=gold)


# --- the quality of each kind


def summarize_reviews(kind: str, samples: Sequence[Sequence[Verdict]]) -> ReviewSummary:
    """The results of a review; `samples` holds the verdicts on each reviewed sample of the kind."""
    n = len(samples)
    rejected = sum(any(v.category == "reject" for v in verdicts) for verdicts in samples)
    changed = sum(any(v.category != "accept" for v in verdicts) for verdicts in samples)
    flat = [verdict for verdicts in samples for verdict in verdicts]
    reasons = Counter(v.reason for v in flat if v.verdict == "reject" and v.reason)
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for verdicts in samples:
        for first, second in combinations(sorted(verdicts, key=lambda v: v.reviewer), 2):
            pairs[first.reviewer, second.reviewer].append((first.category, second.category))
    return ReviewSummary(
        kind,
        n,
        verdicts=dict(sorted(Counter(v.verdict for v in flat).items())),
        rejected=wilson(rejected, n),
        edited_or_rejected=wilson(changed, n),
        reasons=dict(sorted(reasons.items())),
        agreement=[reviewer_agreement(names, pairs[names]) for names in sorted(pairs)],
    )


def reviewer_agreement(
    reviewers: tuple[str, str], pairs: Sequence[tuple[str, str]]
) -> ReviewerAgreement:
    """Cohen's kappa and Gwet's AC1 of two reviewers over the categories accept, edit and reject."""
    n, observed, kappa, ac1 = agreement(pairs, CATEGORIES)
    assert observed is not None and ac1 is not None, "both reviewers saw at least one sample"
    return ReviewerAgreement(reviewers, n, observed, kappa, ac1)


def check_limits(
    summaries: Iterable[ReviewSummary], *, limit: float, limits: Mapping[str, float] | None = None
) -> None:
    """Stop where reviewers rejected too large a share of a kind.

    Raises:
        InputError: names the kind, the share, its limit and the most frequent reason.
    """
    for summary in summaries:
        threshold = (limits or {}).get(summary.kind, limit)
        share, reasons, n = summary.rejected.value, summary.reasons, summary.reviewed
        if share is not None and share > threshold:
            reason = max(reasons, key=lambda name: (reasons[name], name), default="none given")
            raise InputError(
                f"{summary.kind}: reviewers rejected {round(share * n)} of {n} samples"
                f" ({share:.0%}), more than its limit of {threshold:.0%}; most frequent reason:"
                f" {reason}. Fix the prompts or leave the kind out; nothing was written."
            )


def review_stats(summary: ReviewSummary) -> dict[str, int | float | str]:
    """A summary as plain values for a dataset card."""
    stats: dict[str, int | float | str] = {"reviewed": summary.reviewed}
    stats |= {f"verdict {kind}": count for kind, count in summary.verdicts.items()}
    shares = {"rejected": summary.rejected, "edited or rejected": summary.edited_or_rejected}
    for name, (value, low, high, _) in shares.items():
        if value is not None and low is not None and high is not None:
            stats[name] = f"{value:.1%} (95% interval {low:.1%} to {high:.1%})"
    for pair in summary.agreement:
        kappa = "not defined" if pair.kappa is None else f"{pair.kappa:.2f}"
        stats[f"agreement of {' and '.join(pair.reviewers)}"] = (
            f"{pair.observed_agreement:.1%} of {pair.n}, Cohen's kappa {kappa}, Gwet's AC1"
            f" {pair.ac1:.2f}"
        )
    return stats
