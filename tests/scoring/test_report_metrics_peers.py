"""The reference packages compared with ours, on real generated reports; docs/report-metrics.md
explains how to install them.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lingshu.scoring.metrics import bleu
from lingshu.scoring.metrics import rouge as rouge_module
from lingshu.scoring.metrics.cider import cider
from lingshu.scoring.metrics.rouge import stem

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
TOLERANCE = 1e-9


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    if not IUXRAY.is_file():
        pytest.skip("needs the reports in ../shared/data")
    rows = [json.loads(line) for line in IUXRAY.read_text(encoding="utf-8").splitlines()]
    generated = [
        (row["generated_cvt2distilgpt2"], row["section_findings"])
        for row in rows
        if row["generated_cvt2distilgpt2"]
    ]
    # Generated reports are alike; references against each other add words and lengths that they
    # lack.
    texts = [row["section_findings"] for row in rows if row["section_findings"]]
    return [
        (prediction.lower(), gold.lower())
        for prediction, gold in (*generated, *zip(texts, texts[7:], strict=False))
        if gold
    ]


def split(text: str) -> str:
    return " ".join(text.replace(".", " . ").split())


@pytest.mark.parametrize("stemmed", [False, True])
def test_rouge_score(pairs: list[tuple[str, str]], stemmed: bool) -> None:
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stemmed)
    for prediction, gold in pairs:
        expected = {name: score.fmeasure for name, score in scorer.score(gold, prediction).items()}
        assert rouge_module.google_rouge(prediction, gold, use_stemmer=stemmed) == pytest.approx(
            expected, abs=TOLERANCE
        )


def test_rouge(pairs: list[tuple[str, str]]) -> None:
    for prediction, gold in pairs[::3]:
        expected = {
            name: score["f"]
            for name, score in rouge.Rouge().get_scores(prediction, gold)[0].items()
        }
        assert rouge_module.set_rouge(prediction, gold) == pytest.approx(expected, abs=TOLERANCE)


def test_pycocoevalcap(pairs: list[tuple[str, str]]) -> None:
    predictions, gold = ([split(text) for text in side] for side in zip(*pairs, strict=True))
    answers, references = (
        {index: [text] for index, text in enumerate(side)} for side in (predictions, gold)
    )
    tokens = [
        (prediction_tokens.split(), gold_tokens.split())
        for prediction_tokens, gold_tokens in zip(predictions, gold, strict=True)
    ]
    counts = [bleu.count_ngrams(*pair) for pair in tokens]
    corpus_scores, pair_scores = (
        pycoco["bleu"].Bleu(4).compute_score(references, answers, verbose=0)
    )
    assert bleu.coco_bleu(bleu.sum_counts(counts)) == pytest.approx(corpus_scores, abs=TOLERANCE)
    for index, prediction_tokens in enumerate(counts):
        assert bleu.coco_bleu(prediction_tokens) == pytest.approx(
            [scores[index] for scores in pair_scores], abs=TOLERANCE
        )
    mean, values = pycoco["cider"].Cider().compute_score(references, answers)
    cider_scores = cider(
        [prediction_tokens for prediction_tokens, _ in tokens],
        [gold_tokens for _, gold_tokens in tokens],
    ).cider_d
    assert cider_scores == pytest.approx(list(values), abs=TOLERANCE) and sum(cider_scores) / len(
        cider_scores
    ) == pytest.approx(mean, abs=TOLERANCE)
    for prediction_tokens, gold_tokens in zip(predictions, gold, strict=True):
        assert rouge_module.coco_rouge_l(prediction_tokens, gold_tokens) == pytest.approx(
            pycoco["rouge"].Rouge().calc_score([prediction_tokens], [gold_tokens]), abs=TOLERANCE
        )


def test_sacrebleu(pairs: list[tuple[str, str]]) -> None:
    edge_cases = [
        ("-3.5mm nodule, 1,000 x 2.0; a-b &amp; c", "a 3.5mm nodule,,5 &quot;x&quot; (10-20)"),
        ("", "heart"),
        ("one two", "one two"),
    ]
    all_pairs = [*pairs, *edge_cases]
    counts = [
        bleu.count_ngrams(bleu.tokenize_13a(prediction), bleu.tokenize_13a(gold))
        for prediction, gold in all_pairs
    ]
    for (prediction, gold), count in zip(all_pairs, counts, strict=True):
        assert bleu.sacre_bleu(count) == pytest.approx(
            sacrebleu.sentence_bleu(prediction, [gold]).score, abs=TOLERANCE
        )
    expected = sacrebleu.corpus_bleu(
        [prediction for prediction, _ in all_pairs], [[gold for _, gold in all_pairs]]
    ).score
    assert bleu.sacre_bleu(bleu.sum_counts(counts), effective=False) == pytest.approx(
        expected, abs=TOLERANCE
    )


def test_the_stemmer(pairs: list[tuple[str, str]]) -> None:
    nltk_stemmer = porter.PorterStemmer()
    edge_cases = (
        "skies dying ties proceed relational conditional valenci digitizer radicalli apologi"
        " hopping falling filing agreed feed controll"
    )
    words = {word for pair in pairs for text in pair for word in rouge_module.tokenize(text)} | set(
        edge_cases.split()
    )
    assert {word: stem(word) for word in words} == {word: nltk_stemmer.stem(word) for word in words}
