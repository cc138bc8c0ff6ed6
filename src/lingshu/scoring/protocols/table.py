"""The three protocols: `strict`, ours; `paper`, the first published rules; `medevalkit`, what most
people run today.

A protocol changes how a reply is read and how right answers are added up, never what was asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from lingshu.core.errors import UnknownNameError, suggest_name
from lingshu.core.types import Scorer
from lingshu.scoring.protocols import medevalkit

ProtocolName = Literal["strict", "paper", "medevalkit"]
PROTOCOLS: tuple[ProtocolName, ...] = ("strict", "paper", "medevalkit")
# What the released code does to closed answers when a judge is on; it differs between its
# benchmarks.
ClosedHandling = Literal["kept", "lost", "twice"]

_COMMON_QUIRKS = (
    (
        "Choice: a reply without a readable letter is given the option of the highest difflib"
        " ratio, so refusals and empty replies can score."
    ),
    "Choice: a reply that resembles no option at all is given the first one.",
    "Choice: the blank behind a colon is kept, so 'The answer is: B' is not read as B.",
    "Choice: text is cut at its first full stop, so the options 1.0 and 1.5 look alike.",
    "Choice: the word 'boxed' without a LaTeX box turns the reply into the word 'None'.",
    (
        "Choice: brackets, asterisks, LaTeX wrappers and full-width colons around a letter are not"
        " taken off."
    ),
    (
        "Choice: the contents of several answer tags are joined; an empty or unclosed tag leaves"
        " the whole reply."
    ),
    (
        "Choice: options listed as '(A) text' are read by another reader, which draws an option at"
        " random (seed 42) where it finds none."
    ),
    (
        "No reply counts as unread: empty, refusing and ambiguous replies are right or wrong like"
        " any other."
    ),
)
_QUIRKS: dict[ProtocolName, tuple[str, ...]] = {
    "strict": (),
    "paper": (
        *_COMMON_QUIRKS,
        (
            "Yes or no: only a reply that equals the gold up to its first full stop is right; 'Yes,"
            " there is.' is wrong."
        ),
        (
            "Open questions, and all closed ones with a gold other than a lower-case yes or no,"
            " were put to a judge model; without one, equality in lower case stands in, so these"
            " scores lie below the published ones."
        ),
        "For open questions the judge saw the reply in lower case and cut at its first full stop.",
        (
            "The code behind the published cells is not public; this is the first public version of"
            " the rules, of June 2025."
        ),
    ),
    "medevalkit": (
        *_COMMON_QUIRKS,
        (
            "Yes or no: 'yes' and 'no' are looked for as substrings, exactly one must occur:"
            " 'nodule', 'normal' and 'abnormal' hold a no."
        ),
        (
            "Yes or no: golds written 'Yes' and 'No' are compared as text, so 'Yes, there is.' is"
            " wrong."
        ),
        (
            "Closed: full stops are deleted from the reply but not from the gold, so '1.2 cm' never"
            " equals '1.2 cm'."
        ),
        (
            "Closed: blanks, quotation marks and asterisks around the answer are kept, so ' yes'"
            " and '**Yes**' are wrong."
        ),
        (
            "Open: exact match keeps blanks and final full stops; with a judge on, its verdict"
            " replaces the match."
        ),
        (
            "Open: precision, recall and F1 are printed under each other's names, over sets of"
            " words, so a repeated word is free."
        ),
        (
            "Open: BLEU has no smoothing, so BLEU-2 to BLEU-4 of a correct one-word answer are"
            " about 1e-154."
        ),
        (
            "Open: a reply of which nothing is left stops the original; it is counted here as an"
            " error."
        ),
        (
            "With a judge on, open accuracy is divided by the number of questions twice, closed"
            " answers are lost in one benchmark and counted twice in another, and a judge that"
            " fails counts as a wrong answer."
        ),
        (
            "A benchmark without open or without closed questions stops the original with a"
            " division by zero; here it has no accuracy."
        ),
    ),
}


def protocol_scorer(task_score: Scorer, protocol: str) -> Scorer:
    """The scorer of a task under a protocol; `strict` is the task's own. Reports and rubrics keep
    their own under all.

    Raises:
        UnknownName: no such protocol.
    """
    if protocol == "strict":
        return task_score
    if protocol == "paper":
        return medevalkit.make_scorer(task_score, medevalkit.paper_score)
    if protocol == "medevalkit":
        return medevalkit.make_scorer(task_score, medevalkit.medevalkit_score)
    raise UnknownNameError(
        f"there is no protocol {protocol!r}; {suggest_name(protocol, PROTOCOLS)}"
    )


def quirks(protocol: str) -> tuple[str, ...]:
    """What a protocol is known to get wrong, a sentence each; none for `strict`.

    Raises:
        UnknownName: no such protocol.
    """
    for name, sentences in _QUIRKS.items():
        if name == protocol:
            return sentences
    raise UnknownNameError(
        f"there is no protocol {protocol!r}; {suggest_name(protocol, PROTOCOLS)}"
    )


class Accuracy(NamedTuple):
    """Questions, right answers, and right / total; no accuracy for no questions."""

    total: int
    right: int
    acc: float | None


class Aggregate(NamedTuple):
    """All, open and closed questions; `awaiting_judge` counts the answers that a judge failed to judge,
    left out of the rest.
    """

    all: Accuracy
    open: Accuracy
    closed: Accuracy
    awaiting_judge: int = 0


def aggregate(
    protocol: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    judged: bool = False,
    closed: ClosedHandling = "kept",
) -> Aggregate:
    """Right answers over all questions, split into open and closed, as the published tables count
    them.

    A row has `value` and `kind` ("open", else closed) as in a scores file, and, where `judged`,
    `judge`: True, False or None for a judge that failed. A reply that failed counts as asked and
    not right: so the published tables count, while a report leaves it out. `closed` is what the
    released code does to closed answers once a judge is on.

    Raises:
        UnknownName: no such protocol.
    """
    quirks(protocol)
    open_rows = [row for row in rows if row.get("kind") == "open"]
    closed_rows = [row for row in rows if row.get("kind") != "open"]
    if protocol == "medevalkit":
        return _aggregate_medevalkit(open_rows, closed_rows, judged=judged, closed=closed)
    # Under the first rules a judge replaces the rule for whatever it was shown; under ours, for
    # open answers alone.
    rows_by_judge = [
        (row, judged and (row.get("kind") == "open" or (protocol == "paper" and "judge" in row)))
        for row in rows
    ]
    row_verdicts = [
        (row, row.get("judge") if by_judge else row.get("value") == 1.0)
        for row, by_judge in rows_by_judge
    ]
    accuracies = [
        _accuracy(
            [
                is_correct
                for row, is_correct in row_verdicts
                if is_correct is not None and (kind is None or (row.get("kind") == "open") is kind)
            ]
        )
        for kind in (None, True, False)
    ]
    return Aggregate(
        *accuracies, awaiting_judge=sum(is_correct is None for _, is_correct in row_verdicts)
    )


def _accuracy(verdicts: Sequence[object]) -> Accuracy:
    n_correct = sum(bool(verdict) for verdict in verdicts)
    return Accuracy(len(verdicts), n_correct, n_correct / len(verdicts) if verdicts else None)


def _aggregate_medevalkit(
    open_rows: Sequence[Mapping[str, Any]],
    closed_rows: Sequence[Mapping[str, Any]],
    *,
    judged: bool,
    closed: ClosedHandling,
) -> Aggregate:
    n_closed_correct = sum(row.get("value") == 1.0 for row in closed_rows)
    n_open_correct = sum(
        bool(row.get("judge")) if judged else row.get("value") == 1.0 for row in open_rows
    )
    if judged and closed == "lost":
        n_closed_correct = 0
    if judged and closed == "twice":
        n_closed_correct += sum(bool(row.get("judge")) for row in closed_rows)
    n_open, n_closed, n = len(open_rows), len(closed_rows), len(open_rows) + len(closed_rows)
    # Divided twice, as released.
    open_acc = (
        n_open_correct / n_open / (n_open if judged and n_open_correct else 1) if n_open else None
    )
    return Aggregate(
        Accuracy(
            n,
            n_open_correct + n_closed_correct,
            (n_open_correct + n_closed_correct) / n if n else None,
        ),
        Accuracy(n_open, n_open_correct, open_acc),
        Accuracy(n_closed, n_closed_correct, n_closed_correct / n_closed if n_closed else None),
    )
