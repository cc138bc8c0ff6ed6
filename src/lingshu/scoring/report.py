"""Grades a radiology report by ROUGE-L against its reference; as a set, by BLEU, ROUGE, CIDEr,
findings and models of reports.

`score` is the F1 of the longest common subsequence of words (rouge_score 0.1.2, no stemmer), for
one reply. METRICS are the numbers of a whole set of replies. Thinking is left out; the answer tag
or box counts where there is one.

RANGE: 0.0 to 1.0, None for an empty reply.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lingshu.core.nouns import Measured, Meta, Sample, Score
from lingshu.scoring import _bleu, _findings, _rouge
from lingshu.scoring._bert_score import BERT_SCORE
from lingshu.scoring._chexbert import CHEXBERT
from lingshu.scoring._cider import cider
from lingshu.scoring._green import GREEN
from lingshu.scoring._plug_in import PlugIn, computed, other_than_x_ray, unavailable
from lingshu.scoring._radcliq import SubScores, inverse, radcliq_v1
from lingshu.scoring._radgraph import RADGRAPH
from lingshu.scoring._rate_score import RATE_SCORE
from lingshu.scoring._text import CJK, committed, golds, spoken

RANGE = (0.0, 1.0)
PLUG_INS: tuple[PlugIn, ...] = (RADGRAPH, BERT_SCORE, CHEXBERT, RATE_SCORE, GREEN)
# What each number is called here, and in the two packages that define it; the published tables used
# the second.
ROUGE = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
ROUGE_SETS = {"rouge_1_sets": "rouge-1", "rouge_2_sets": "rouge-2", "rouge_l_sets": "rouge-l"}
# Decimals stay whole, signs stand alone, a hyphen or an apostrophe inside a word joins.
_TOKEN = re.compile(rf"\d+(?:[.,]\d+)*|[{CJK}]|[^\W_{CJK}]+(?:['-][^\W_{CJK}]+)*|[^\w\s]|_")


class Pairs(NamedTuple):
    """What each reply says, None for one that failed, and the references."""

    said: list[str | None]
    gold: list[str]

    def answered(self) -> list[tuple[str, str]]:
        """The pairs whose reply did not fail."""
        return [
            (said, gold)
            for said, gold in zip(self.said, self.gold, strict=True)
            if said is not None
        ]


def tokens(text: str) -> list[str]:
    """The tokens that BLEU and CIDEr count: lower-case words, numbers and signs; each Chinese
    character is one.
    """
    return _TOKEN.findall(text.lower())


def said_in(reply: str) -> str:
    """The report in a reply."""
    text = spoken(reply)
    final = committed(text)
    return (text if final is None else final).strip()


def score(sample: Sample, reply: str) -> Score:
    """ROUGE-L of one report.

    Raises:
        InputError: the sample has no gold.
    """
    gold, said = golds(sample)[0], said_in(reply)
    return Score(_rouge.google_l(said, gold), "ok", said) if said else Score(None, "empty")


def measure(
    samples: Sequence[Sample], replies: Sequence[str | None], *, weights: Path | None = None
) -> list[Measured]:
    """Every number of a set of reports; those that need a model which `weights` does not hold say
    so.

    Raises:
        InputError: a sample has no gold.
    """
    said = [
        None if reply is None else said_in(reply) for _, reply in zip(samples, replies, strict=True)
    ]
    pairs = Pairs(said, [golds(sample)[0] for sample in samples])
    metas = [sample.meta for sample in samples]
    lexical = [
        *bleu(pairs),
        *_by_pair(pairs, _rouge.google, ROUGE),
        *_by_pair(pairs, _rouge.sets, ROUGE_SETS),
        *consensus(pairs),
    ]
    return [*lexical, *findings(pairs, metas), *models(pairs, metas, weights)]


METRICS = (measure,)


def bleu(pairs: Pairs) -> list[Measured]:
    """BLEU-1 to BLEU-4 of the corpus, by the COCO code's formula; the score of one report is its
    sentence BLEU.
    """
    counts = [_bleu.grams(tokens(said), tokens(gold)) for said, gold in pairs.answered()]
    each = [_bleu.coco(one) for one in counts]
    nothing = [None] * _bleu.ORDERS
    whole, non_empty = (
        _bleu.coco(_bleu.total(part)) if part else nothing
        for part in (counts, [one for one in counts if one.said])
    )
    return [
        _measured(f"bleu_{n + 1}", pairs, [one[n] for one in each], corpus=(whole[n], non_empty[n]))
        for n in range(_bleu.ORDERS)
    ]


def consensus(pairs: Pairs) -> list[Measured]:
    """CIDEr and CIDEr-D, 0 to 10, with document frequencies from the references of all samples,
    failed replies included.
    """
    split = {gold: tokens(gold) for gold in pairs.gold}
    answered = pairs.answered()
    every = [split[gold] for gold in pairs.gold]
    found = cider(
        [tokens(said) for said, _ in answered],
        [split[gold] for _, gold in answered],
        references=every,
    )
    note = "one reference alone always gives 0" if len(pairs.gold) == 1 else None
    return [
        _measured(name, pairs, values, note=note)
        for name, values in zip(("cider", "cider_d"), found, strict=True)
    ]


def findings(pairs: Pairs, metas: Sequence[Meta]) -> list[Measured]:
    """F1 over all findings that our own rules read from the reports, without and with their sides;
    chest X-rays in English alone.

    The score of one report is its own F1, 1 where neither it nor its reference names a finding: in
    a mean, normal chests would hide that a model finds nothing.
    """
    kinds = {"rule_findings_f1": False, "rule_findings_side_f1": True}
    strange = other_than_x_ray([meta.modality for meta in metas]) + sorted(
        {meta.language for meta in metas if meta.language} - {"en"}
    )
    if strange:
        note = (
            "unavailable: rules for English reports of chest X-rays alone, and these are also of"
            f" {', '.join(strange)}"
        )
        return [Measured(name, None, None, 0, 0, note=note) for name in kinds]
    answered, told = pairs.answered(), []
    for name, sides in kinds.items():
        counts = [_findings.shared(said, gold, sides=sides) for said, gold in answered]
        each = [1.0 if (value := _findings.f1([one])) is None else value for one in counts]
        corpus = (
            _findings.f1(counts),
            _findings.f1([one for one, (said, _) in zip(counts, answered, strict=True) if said]),
        )
        note = "no report names a finding" if corpus[0] is None else None
        told.append(_measured(name, pairs, each, corpus=corpus, note=note))
    return told


def models(pairs: Pairs, metas: Sequence[Meta], weights: Path | None) -> list[Measured]:
    """The metrics that need a model, where the weights folder has it, and RadCliQ-v1 where its
    parts are there.
    """
    answered = [(said, gold) for said, gold in pairs.answered() if said]
    texts = [said for said, _ in answered], [gold for _, gold in answered]
    known: dict[str, Sequence[float]] = {}
    told: list[Measured] = []
    for plug_in in PLUG_INS:
        found = unavailable(plug_in, weights, [meta.modality for meta in metas])
        if found is None and weights is not None:
            found = computed(plug_in, weights, *texts)
        if found is None or isinstance(found, str):
            told += [Measured(name, None, None, 0, 0, note=found) for name in plug_in.names]
            continue
        known |= found
        told += [_measured(name, pairs, _with_empty(pairs, found[name])) for name in plug_in.names]
    return [*told, _radcliq(pairs, answered, known)]


def _radcliq(
    pairs: Pairs, answered: Sequence[tuple[str, str]], known: Mapping[str, Sequence[float]]
) -> Measured:
    missing = [
        name for name in SubScores._fields if name != "bleu_2" and _SUB_SCORES[name] not in known
    ]
    if missing:
        return Measured(
            "radcliq_v1",
            None,
            None,
            0,
            0,
            note=f"unavailable: needs {', '.join(_SUB_SCORES[name] for name in missing)}",
        )
    bleu_2 = [_bleu.coco(_bleu.grams(tokens(said), tokens(gold)))[1] for said, gold in answered]
    parts = zip(*(known[_SUB_SCORES[name]] for name in SubScores._fields[:3]), bleu_2, strict=True)
    worst = radcliq_v1(SubScores(0, 0, 0, 0))
    told = _measured(
        "radcliq_v1",
        pairs,
        _with_empty(pairs, [radcliq_v1(SubScores(*one)) for one in parts], worst),
        empty=worst,
    )
    share = None if told.value is None else inverse(told.value)
    inverted = (
        "no inverse: the mean is not above 0" if share is None else f"100 / mean = {share:.1f}"
    )
    return Measured(
        told.name,
        told.value,
        told.said,
        told.n,
        told.n_said,
        told.scores,
        empty=worst,
        note=f"lower is better; {inverted}",
    )


_SUB_SCORES = {"radgraph": "radgraph_f1", "bert_score": "bert_score", "semb_score": "semb_score"}


def _by_pair(
    pairs: Pairs, values: Callable[[str, str], Mapping[str, float]], names: Mapping[str, str]
) -> list[Measured]:
    """Means over reports: `names` gives what each number is called, and its key in `values` of one
    pair.
    """
    found = [values(said, gold) for said, gold in pairs.answered()]
    return [_measured(name, pairs, [one[key] for one in found]) for name, key in names.items()]


def _with_empty(pairs: Pairs, values: Sequence[float], empty: float = 0.0) -> list[float]:
    """Values of the replies that did not fail, from those of the replies that say something."""
    left = iter(values)
    return [next(left) if said else empty for said, _ in pairs.answered()]


def _measured(
    name: str,
    pairs: Pairs,
    values: Sequence[float],
    *,
    corpus: tuple[float | None, float | None] | None = None,
    empty: float = 0.0,
    note: str | None = None,
) -> Measured:
    """One number from its value for each reply that did not fail; `corpus` where it is no mean of
    these.
    """
    left = iter(values)
    scores: list[Score] = []
    for said in pairs.said:
        value = None if said is None else next(left)
        scores.append(
            Score(None, "error") if said is None else Score(value) if said else Score(None, "empty")
        )
    told = [one.value for one in scores if one.value is not None]
    n, n_said = len(values), len(told)
    mean = (
        (sum(told) + empty * (n - n_said)) / n if n else None,
        sum(told) / n_said if n_said else None,
    )
    value, non_empty = corpus or mean
    return Measured(
        name,
        value,
        non_empty,
        n,
        n_said,
        tuple(scores),
        mean=corpus is None,
        empty=empty,
        note=note,
    )
