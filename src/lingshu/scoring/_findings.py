"""Our own rules for what an English chest X-ray report says is there: finding, present or not, and
on which side.

Thirteen findings by their usual words; a negation reaches to the end of its clause, "or" lists
included. It is no CheXbert and no CheXpert labeller, agrees with neither in all cases, and its
numbers must not be called by their names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

State = Literal["present", "uncertain", "absent"]
Side = Literal["left", "right", "both"]


class Finding(NamedTuple):
    """One mention."""

    name: str
    state: State
    side: Side | None


_WORDS: dict[str, str] = {
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
_FINDING = re.compile(
    "|".join(rf"(?P<f{number}>\b(?:{words})\b)" for number, words in enumerate(_WORDS.values()))
)
_NAMES = tuple(_WORDS)
_MIDLINE = ("enlarged mediastinum", "cardiomegaly")
# Normal organs stand for the findings that they exclude.
_FINE = r"(?:normal|unremarkable|within normal limits|stable and normal|top normal)"
_NORMAL: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = (
    (
        re.compile(
            rf"\b(?:heart|cardiac)(?: \w+){{0,6}} {_FINE}|\bnormal"
            rf" (?:heart|cardiac)|\bcardiomediastin\w+(?: \w+){{0,8}} {_FINE}"
        ),
        ("cardiomegaly",),
    ),
    (
        re.compile(
            rf"\b(?:cardio)?mediastin\w+(?: \w+){{0,8}} {_FINE}|\bnormal (?:cardio)?mediastin\w+"
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
# A comma ends the reach of a negation where what follows starts anew and no "or" holds the list
# together.
_ANEW = re.compile(
    r", (?:and )?(?:there"
    r" (?:is|are)|an?|the|small|tiny|mild|moderate|large|severe|stable|unchanged|persistent|left|right|bilateral)\b"
)
_OR = re.compile(r"\bn?or\b")
_NO_CHANGE = re.compile(
    r"\b(?:no|without|not)(?: (?:significant|interval|appreciable|definite|other))*"
    r" (?:change|changes|changed|increase|decrease|only)\b"
)
_NOT_BEFORE = re.compile(
    r"\b(?:no|not|without|negative for|free of|clear of|absence of|absent|denies|"
    r"excludes?|ruled? out|resolved|resolution of|nor|neither|never)\b"
)
_NOT_AFTER = re.compile(
    r"^(?: \w+){0,4} (?:(?:is|are|was|were|has|have|been|be) )*(?:not|absent|excluded|ruled"
    r" out|resolved|cleared|removed|no longer)\b"
)
_UNSURE = re.compile(
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
_SIDED = 80  # characters from a finding beyond which a side belongs to something else
_RANK: tuple[State, ...] = ("present", "uncertain", "absent")


def findings(text: str) -> list[Finding]:
    """Every mention of a finding, in order; an organ called normal is a mention of what it
    excludes.
    """
    return [
        one
        for sentence in _SENTENCE.split(" ".join(line for line in text.lower().splitlines()))
        for clause in _CLAUSE.split(" ".join(sentence.split()))
        for one in _in_clause(clause)
    ]


def labels(text: str) -> dict[str, Finding]:
    """One entry for each finding that is mentioned: present before uncertain before absent, and the
    sides of those mentions.
    """
    found: dict[str, Finding] = {}
    for one in findings(text):
        known = found.get(one.name)
        if known is None or _RANK.index(one.state) < _RANK.index(known.state):
            found[one.name] = one
        elif one.state == known.state and one.side != known.side:
            found[one.name] = one._replace(
                side="both" if one.side and known.side else one.side or known.side
            )
    return found


def _in_clause(clause: str) -> Iterator[Finding]:
    for pattern, names in _NORMAL:
        if pattern.search(clause) and "abnormal" not in clause:
            yield from (Finding(name, "absent", None) for name in names)
    # Blanks of the same length keep the places of the rest.
    read = _NO_CHANGE.sub(lambda found: " " * len(found[0]), clause)
    for match in _FINDING.finditer(read):
        name = _NAMES[int(str(match.lastgroup)[1:])]
        side = None if name in _MIDLINE else _side(read, match.start(), match.end())
        yield Finding(name, _state(read, match.start(), match.end()), side)


def _state(clause: str, start: int, end: int) -> State:
    if _NOT_EXCLUDED.search(clause):
        return "uncertain"
    before, after = clause[:start], clause[end:]
    cues = [found.end() for found in _NOT_BEFORE.finditer(before)]
    anew = _ANEW.search(clause, cues[-1], end) if cues else None
    if cues and (anew is None or _OR.search(clause, anew.start())):
        return "absent"
    # "The heart is not enlarged" holds its own negation.
    if _NOT_AFTER.match(after) or _NOT_BEFORE.search(clause, start, end):
        return "absent"
    return "uncertain" if _UNSURE.search(clause) else "present"


def _side(clause: str, start: int, end: int) -> Side | None:
    """The nearest side in the same part of the clause, before the finding rather than behind it."""
    first = max(clause.rfind(",", 0, start) + 1, start - _SIDED, 0)
    last = clause.find(",", end)
    found = [(start - match.end(), match) for match in _SIDE.finditer(clause, first, start)]
    found += [
        (_SIDED + match.start() - end, match)
        for match in _SIDE.finditer(
            clause, end, min(end + _SIDED, last if last >= 0 else len(clause))
        )
    ]
    if not found:
        return None
    nearest = min(found, key=lambda item: item[0])[1].lastgroup
    return "left" if nearest == "left" else "right" if nearest == "right" else "both"


class Shared(NamedTuple):
    """Findings that both reports have, and those of each."""

    both: int
    said: int
    gold: int


def shared(said: str, gold: str, *, sides: bool = False) -> Shared:
    """The findings that two reports call present or uncertain, counted with their sides where
    asked.
    """
    mine, theirs = (
        {
            (one.name, one.side if sides else None)
            for one in labels(text).values()
            if one.state != "absent"
        }
        for text in (said, gold)
    )
    return Shared(len(mine & theirs), len(mine), len(theirs))


def f1(counts: Sequence[Shared]) -> float | None:
    """F1 over all findings of some reports; None where none names any."""
    every = sum(one.said + one.gold for one in counts)
    return 2 * sum(one.both for one in counts) / every if every else None
