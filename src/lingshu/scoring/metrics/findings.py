"""Our own rules for what an English chest X-ray report says is there: finding, present or not, and
on which side.

Thirteen findings by their usual words; a negation reaches to the end of its clause, "or" lists
included. It is neither CheXbert nor the CheXpert labeler, agrees with neither in all cases, and its
numbers must not be called by their names.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, cast

from lingshu.core.types import MetricResult
from lingshu.scoring.metrics._base import Reports, unavailable

State = Literal["present", "uncertain", "absent"]
Side = Literal["left", "right", "both"]


class ReportFinding(NamedTuple):
    """One mention."""

    name: str
    state: State
    side: Side | None


_FINDING_PATTERNS: dict[str, str] = {
    "enlarged mediastinum": (
        r"mediastinal (?:widening|enlargement)|(?:widen|enlarg)\w+ (?:\w+"
        r" ){0,2}(?:cardio)?mediastin\w+"
        r"|(?:cardio)?mediastin\w+(?: \w+){0,4} (?:widened|enlarged|prominent)"
    ),
    "cardiomegaly": (
        r"cardiomegaly|(?:enlarg\w+|prominent) (?:of )?(?:the )?(?:heart|cardiac)|cardiac"
        r" enlargement"
        r"|(?:heart|cardiac)(?: \w+){0,5} (?:enlarged|increased|prominent)"
    ),
    "opacity": r"opaci\w+|infiltrates?|air ?space (?:disease|process)",
    "lesion": r"nodul\w+|mass(?:es)?|lesions?|granulomas?|granulomata",
    "edema": r"o?edema|(?:pulmonary )?vascular congestion",
    "consolidation": r"consolidat\w+",
    "pneumonia": r"pneumonias?",
    "atelectasis": r"atelecta\w+",
    "pneumothorax": r"pneumothora\w+",
    "pleural effusion": (
        r"(?<!pericardial )effusions?|pleural fluid|blunting of the \w{1,20}(?: \w{1,20})?"
        r" costophrenic"
    ),
    "other pleural change": r"pleural (?:thickening|plaques?|scarring)",
    "fracture": r"fractur\w+",
    "device": (
        r"tubes?|catheters?|picc|pacemaker|pacer|leads?|stents?"
        r"|sternotomy|clips?|port-?a-?cath|(?:central|venous) lines?|electrodes?"
    ),
}
_FINDING_GROUPS = (rf"(?P<f{i}>\b(?:{p})\b)" for i, p in enumerate(_FINDING_PATTERNS.values()))
_FINDING = re.compile("|".join(_FINDING_GROUPS))
_FINDING_NAMES = tuple(_FINDING_PATTERNS)
_MIDLINE_FINDINGS = ("enlarged mediastinum", "cardiomegaly")
# A normal organ excludes these findings.
_NORMAL_WORDS = r"(?:normal|unremarkable|within normal limits|stable and normal|top normal)"
_NORMAL_PATTERNS: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = (
    (
        re.compile(
            rf"\b(?:heart|cardiac)(?: \w+){{0,6}} {_NORMAL_WORDS}|\bnormal"
            rf" (?:heart|cardiac)|\bcardiomediastin\w+(?: \w+){{0,8}} {_NORMAL_WORDS}"
        ),
        ("cardiomegaly",),
    ),
    (
        re.compile(
            rf"\b(?:cardio)?mediastin\w+(?: \w+){{0,8}} {_NORMAL_WORDS}|\bnormal (?:cardio)?mediastin\w+"
        ),
        ("enlarged mediastinum",),
    ),
    (
        re.compile(r"\blungs?(?: \w+){0,5} clear\b(?! of)|\bclear lungs?\b"),
        ("opacity", "consolidation"),
    ),
)
_SENTENCE = re.compile(r"(?<!\d)\.|\.(?!\d)|[;:?!\n]")
_CLAUSE = re.compile(
    r",? \b(?:but|however|although|though|except(?: for)?|otherwise|aside from|apart from)\b ?"
)
# A comma ends the reach of a negation where a new statement follows and no "or" continues the list.
_NEW_STATEMENT = re.compile(
    r", (?:and )?(?:there"
    r" (?:is|are)|an?|the|small|tiny|mild|moderate|large|severe|stable|unchanged|persistent|left|right|bilateral)\b"
)
_OR = re.compile(r"\bn?or\b")
_NO_CHANGE = re.compile(
    r"\b(?:no|without|not)(?: (?:significant|interval|appreciable|definite|other))*"
    r" (?:change|changes|changed|increase|decrease|only)\b"
)
_NEGATION_BEFORE = re.compile(
    r"\b(?:no|not|without|negative for|free of|clear of|absence of|absent|denies|"
    r"excludes?|ruled? out|resolved|resolution of|nor|neither|never)\b"
)
_NEGATION_AFTER = re.compile(
    r"^(?: \w+){0,4} (?:(?:is|are|was|were|has|have|been|be) )*(?:not|absent|excluded|ruled"
    r" out|resolved|cleared|removed|no longer)\b"
)
_UNCERTAIN = re.compile(
    r"\b(?:may|might|could|possibl[ey]|probabl[ey]|questionable|suspected|suspicious for|concern\w*"
    r" for|suggest\w*|"
    r"likely|versus|vs|equivocal)\b"
)
_NOT_EXCLUDED = re.compile(
    r"\b(?:can ?not|not|difficult to) (?:be )?(?:\w+ )?(?:excluded?|ruled? out)\b"
)
_SIDE = re.compile(
    r"\b(?P<both>left and right|right and"
    r" left|bilateral\w*|both|bibasilar|bibasal|biapical|bilobar)\b|\b(?P<left>left(?:-sided)?)\b"
    r"|\b(?P<right>right(?:-sided)?)\b"
)
_MAX_SIDE_DISTANCE = 80  # characters from a finding beyond which a side belongs to something else
_STATE_ORDER: tuple[State, ...] = ("present", "uncertain", "absent")


def extract_findings(text: str) -> list[ReportFinding]:
    """Every mention of a finding, in order; a normal organ mentions what it excludes."""
    return [
        finding
        for sentence in _SENTENCE.split(" ".join(text.lower().splitlines()))
        for clause in _CLAUSE.split(" ".join(sentence.split()))
        for finding in _clause_findings(clause)
    ]


def extract_labels(text: str) -> dict[str, ReportFinding]:
    """Each finding once: present before uncertain before absent, with the sides of all such."""
    labels: dict[str, ReportFinding] = {}
    for finding in extract_findings(text):
        existing = labels.setdefault(finding.name, finding)
        if _STATE_ORDER.index(finding.state) < _STATE_ORDER.index(existing.state):
            labels[finding.name] = finding
        elif finding.state == existing.state and finding.side != existing.side:
            both = "both" if finding.side and existing.side else finding.side or existing.side
            labels[finding.name] = finding._replace(side=both)
    return labels


def _clause_findings(clause: str) -> Iterator[ReportFinding]:
    for pattern, names in _NORMAL_PATTERNS:
        if pattern.search(clause) and "abnormal" not in clause:
            yield from (ReportFinding(name, "absent", None) for name in names)
    # Spaces of the same length keep all offsets.
    masked = _NO_CHANGE.sub(lambda phrase: " " * len(phrase[0]), clause)
    for match in _FINDING.finditer(masked):
        name = _FINDING_NAMES[int(str(match.lastgroup)[1:])]
        side = None if name in _MIDLINE_FINDINGS else _find_side(masked, match.start(), match.end())
        yield ReportFinding(name, _find_state(masked, match.start(), match.end()), side)


def _find_state(clause: str, start: int, end: int) -> State:
    if _NOT_EXCLUDED.search(clause):
        return "uncertain"
    before, after = clause[:start], clause[end:]
    negation_ends = [match.end() for match in _NEGATION_BEFORE.finditer(before)]
    new_statement = _NEW_STATEMENT.search(clause, negation_ends[-1], end) if negation_ends else None
    if negation_ends and (new_statement is None or _OR.search(clause, new_statement.start())):
        return "absent"
    # "The heart is not enlarged" holds its own negation.
    if _NEGATION_AFTER.match(after) or _NEGATION_BEFORE.search(clause, start, end):
        return "absent"
    return "uncertain" if _UNCERTAIN.search(clause) else "present"


def _find_side(clause: str, start: int, end: int) -> Side | None:
    """The nearest side in the same part of the clause, before the finding rather than behind it."""
    first = max(clause.rfind(",", 0, start) + 1, start - _MAX_SIDE_DISTANCE, 0)
    comma = clause.find(",", end)
    last = comma if comma >= 0 else len(clause)
    candidates = [(start - match.end(), match) for match in _SIDE.finditer(clause, first, start)]
    candidates += [
        (_MAX_SIDE_DISTANCE + match.start() - end, match)
        for match in _SIDE.finditer(clause, end, min(end + _MAX_SIDE_DISTANCE, last))
    ]
    if not candidates:
        return None
    nearest = min(candidates, key=lambda item: item[0])[1].lastgroup
    return cast(Side, nearest)  # the groups of _SIDE are the sides


class SharedFindings(NamedTuple):
    """Findings that both reports have, and those of each."""

    n_shared: int
    n_predicted: int
    n_gold: int


def count_shared(prediction: str, gold: str, *, sides: bool = False) -> SharedFindings:
    """The findings that two reports call present or uncertain, with their sides if `sides`."""
    predicted_findings, gold_findings = (
        {
            (finding.name, finding.side if sides else None)
            for finding in extract_labels(text).values()
            if finding.state != "absent"
        }
        for text in (prediction, gold)
    )
    return SharedFindings(
        len(predicted_findings & gold_findings), len(predicted_findings), len(gold_findings)
    )


def f1(counts: Sequence[SharedFindings]) -> float | None:
    """F1 over all findings of some reports; None where none names any."""
    total = sum(count.n_predicted + count.n_gold for count in counts)
    return 2 * sum(count.n_shared for count in counts) / total if total else None


def findings_metric(reports: Reports) -> list[MetricResult]:
    """F1 over findings by our rules, without and with sides; English chest X-rays only.

    The score of one report is its own F1, 1 where neither it nor its reference names a finding: in
    a mean, normal chests would hide that a model finds nothing.
    """
    names = ("rule_findings_f1", "rule_findings_side_f1")
    languages = {meta.language for meta in reports.metas if meta.language}
    others = reports.other_modalities + sorted(languages - {"en"})
    if others:
        reason = "rules for English reports of chest X-rays alone, and these are also of"
        return unavailable(names, f"{reason} {', '.join(others)}")
    results = []
    for name, sides in zip(names, (False, True), strict=True):
        counts = [count_shared(text, gold, sides=sides) for text, gold in reports.completed]
        scores = [1.0 if (value := f1([count])) is None else value for count in counts]
        non_empty = [
            count for count, (text, _) in zip(counts, reports.completed, strict=True) if text
        ]
        corpus = f1(counts), f1(non_empty)
        note = "no report names a finding" if corpus[0] is None else None
        results.append(reports.result(name, scores, corpus=corpus, note=note))
    return results


METRIC = findings_metric
