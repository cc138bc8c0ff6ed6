"""The reference packages themselves beside ours, on real generated reports; docs/report-metrics.md
says how to install them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lingshu.scoring import _bleu, _rouge
from lingshu.scoring._cider import cider
from lingshu.scoring._porter import stem

pytestmark = pytest.mark.peers
rouge_scorer = pytest.importorskip(
    "rouge_score.rouge_scorer", reason="the reference packages are not installed"
)
pycoco = {
    name: pytest.importorskip(f"pycocoevalcap.{name}.{name}") for name in ("bleu", "cider", "rouge")
}
rouge = pytest.importorskip("rouge")
sacrebleu = pytest.importorskip("sacrebleu")
porter = pytest.importorskip("nltk.stem.porter")
IUXRAY = Path(__file__).parents[2].parent / "shared" / "data" / "iuxray_reports" / "rows.jsonl"
CLOSE = 1e-9


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    if not IUXRAY.is_file():
        pytest.skip("needs the reports in ../shared/data")
    rows = [json.loads(line) for line in IUXRAY.read_text(encoding="utf-8").splitlines()]
    found = [
        (row["generated_cvt2distilgpt2"], row["section_findings"])
        for row in rows
        if row["generated_cvt2distilgpt2"]
    ]
    # Generated reports are alike; references against each other add words and lengths that they
    # lack.
    texts = [row["section_findings"] for row in rows if row["section_findings"]]
    return [
        (said.lower(), gold.lower())
        for said, gold in (*found, *zip(texts, texts[7:], strict=False))
        if gold
    ]


def split(text: str) -> str:
    return " ".join(text.replace(".", " . ").split())


@pytest.mark.parametrize("stemmed", [False, True])
def test_rouge_score(pairs: list[tuple[str, str]], stemmed: bool) -> None:
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stemmed)
    for said, gold in pairs:
        right = {name: score.fmeasure for name, score in scorer.score(gold, said).items()}
        assert _rouge.google(said, gold, stemmed=stemmed) == pytest.approx(right, abs=CLOSE)


def test_rouge(pairs: list[tuple[str, str]]) -> None:
    for said, gold in pairs[::3]:
        right = {
            name: score["f"] for name, score in rouge.Rouge().get_scores(said, gold)[0].items()
        }
        assert _rouge.sets(said, gold) == pytest.approx(right, abs=CLOSE)


def test_pycocoevalcap(pairs: list[tuple[str, str]]) -> None:
    said, gold = ([split(text) for text in side] for side in zip(*pairs, strict=True))
    answers, references = (
        {place: [text] for place, text in enumerate(side)} for side in (said, gold)
    )
    tokens = [(one.split(), other.split()) for one, other in zip(said, gold, strict=True)]
    counts = [_bleu.grams(*pair) for pair in tokens]
    whole, each = pycoco["bleu"].Bleu(4).compute_score(references, answers, verbose=0)
    assert _bleu.coco(_bleu.total(counts)) == pytest.approx(whole, abs=CLOSE)
    for place, one in enumerate(counts):
        assert _bleu.coco(one) == pytest.approx([order[place] for order in each], abs=CLOSE)
    mean, values = pycoco["cider"].Cider().compute_score(references, answers)
    found = cider([one for one, _ in tokens], [other for _, other in tokens]).cider_d
    assert found == pytest.approx(list(values), abs=CLOSE) and sum(found) / len(
        found
    ) == pytest.approx(mean, abs=CLOSE)
    for one, other in zip(said, gold, strict=True):
        assert _rouge.coco_l(one, other) == pytest.approx(
            pycoco["rouge"].Rouge().calc_score([one], [other]), abs=CLOSE
        )


def test_sacrebleu(pairs: list[tuple[str, str]]) -> None:
    odd = [
        ("-3.5mm nodule, 1,000 x 2.0; a-b &amp; c", "a 3.5mm nodule,,5 &quot;x&quot; (10-20)"),
        ("", "heart"),
        ("one two", "one two"),
    ]
    every = [*pairs, *odd]
    counts = [_bleu.grams(_bleu.tokens_13a(said), _bleu.tokens_13a(gold)) for said, gold in every]
    for (said, gold), one in zip(every, counts, strict=True):
        assert _bleu.sacre(one) == pytest.approx(
            sacrebleu.sentence_bleu(said, [gold]).score, abs=CLOSE
        )
    right = sacrebleu.corpus_bleu([said for said, _ in every], [[gold for _, gold in every]]).score
    assert _bleu.sacre(_bleu.total(counts), effective=False) == pytest.approx(right, abs=CLOSE)


def test_the_stemmer(pairs: list[tuple[str, str]]) -> None:
    theirs = porter.PorterStemmer()
    odd = (
        "skies dying ties proceed relational conditional valenci digitizer radicalli apologi"
        " hopping falling filing agreed feed controll"
    )
    words = {word for pair in pairs for text in pair for word in _rouge.words(text)} | set(
        odd.split()
    )
    assert {word: stem(word) for word in words} == {word: theirs.stem(word) for word in words}
