"""Report metrics: equal to the reference packages, counted over what was asked, and never a crash
for want of a model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from lingshu.core.types import Message, Meta, MetricResult, Sample
from lingshu.scoring import report
from lingshu.scoring.metrics import bleu, radcliq
from lingshu.scoring.metrics import rouge as rouge_module
from lingshu.scoring.metrics._base import ModelMetric, tokenize
from lingshu.scoring.metrics.cider import cider
from lingshu.scoring.metrics.findings import count_shared, extract_findings, extract_labels
from lingshu.scoring.metrics.findings import f1 as f1_of
from lingshu.scoring.metrics.radcliq import MEAN, SubScores, inverse, radcliq_v1
from lingshu.scoring.metrics.radgraph import annotation_f1
from lingshu.scoring.metrics.rouge import stem
from tests.support import published_toolkit as published

PARITY = Path(__file__).parent.parent / "golden" / "parity" / "reference_metrics.jsonl"
IUXRAY = Path(__file__).parents[2].parent / "shared" / "data" / "iuxray_reports"
TOLERANCE = 1e-9


def cases() -> tuple[list[dict], dict]:
    rows = [json.loads(line) for line in PARITY.read_text(encoding="utf-8").splitlines()]
    return rows[:6], rows[6]


def is_close(actual: object, expected: object) -> bool:
    return actual == pytest.approx(expected, abs=TOLERANCE, rel=0)


def sample(gold: str, index: int = 0, *, modality: str | None = None) -> Sample:
    return Sample(
        f"s{index}",
        (Message("user", ("Report?",)),),
        gold=(gold,),
        meta=Meta(kind="report", modality=modality),
    )


def compute_metrics(
    pairs: Sequence[tuple[str, str | None]],
    *,
    weights: Path | None = None,
    modality: str | None = None,
) -> dict[str, MetricResult]:
    samples = [sample(gold, index, modality=modality) for index, (gold, _) in enumerate(pairs)]
    return {
        result.name: result
        for result in report.compute_metrics(
            samples, [prediction for _, prediction in pairs], weights=weights
        )
    }


def test_every_package_agrees_on_each_report() -> None:
    for case in cases()[0]:
        prediction, gold = case["hypothesis"], case["reference"]
        assert is_close(
            bleu.coco_bleu(bleu.count_ngrams(prediction.split(), gold.split())),
            case["pycocoevalcap_bleu1_4"],
        )
        assert is_close(
            rouge_module.google_rouge(prediction, gold),
            {name: case["rouge_score"][name] for name in ("rouge1", "rouge2", "rougeL")},
        )
        assert is_close(
            rouge_module.google_rouge_l(prediction, gold, use_stemmer=True),
            case["rouge_score_rougeL_stem"],
        )
        assert is_close(rouge_module.set_rouge(prediction, gold), case["rouge_pkg"])
        assert is_close(
            bleu.sacre_bleu(
                bleu.count_ngrams(bleu.tokenize_13a(prediction), bleu.tokenize_13a(gold))
            ),
            case["sacrebleu_sentence"],
        )
        assert is_close(
            published.bleu(prediction.split(), gold.split(), 4),
            case["nltk_sentence_bleu4_nosmooth"],
        )


def test_every_package_agrees_on_the_corpus() -> None:
    rows, corpus = cases()
    pairs = [(row["hypothesis"], row["reference"]) for row in rows]
    counts = [bleu.count_ngrams(prediction.split(), gold.split()) for prediction, gold in pairs]
    assert is_close(bleu.coco_bleu(bleu.sum_counts(counts)), corpus["pycocoevalcap_bleu1_4"])
    counts_13a = [
        bleu.count_ngrams(bleu.tokenize_13a(prediction), bleu.tokenize_13a(gold))
        for prediction, gold in pairs
    ]
    assert is_close(
        bleu.sacre_bleu(bleu.sum_counts(counts_13a), effective=False), corpus["sacrebleu_corpus"]
    )
    scores = cider(
        [prediction.split() for prediction, _ in pairs], [gold.split() for _, gold in pairs]
    )
    assert is_close(scores.cider_d, [row["pycocoevalcap_ciderD"] for row in rows])
    assert is_close(sum(scores.cider_d) / 6, corpus["pycocoevalcap_ciderD"])
    assert scores.cider == pytest.approx([4.497443, 0, 10, 5.778979, 3.376348, 4.792623], abs=1e-6)


def test_the_tokens_are_those_assigned() -> None:
    assert tokenize("No effusion, no pneumothorax.") == [
        "no",
        "effusion",
        ",",
        "no",
        "pneumothorax",
        ".",
    ]
    assert tokenize("1.5 cm") == ["1.5", "cm"]
    assert tokenize("The heart is normal. Lungs clear.") == [
        "the",
        "heart",
        "is",
        "normal",
        ".",
        "lungs",
        "clear",
        ".",
    ]


def test_definitions_differ_where_they_are_known_to() -> None:
    assert rouge_module.set_rouge("no no no", "no")["rouge-1"] == pytest.approx(1.0)
    assert rouge_module.google_rouge("no no no", "no")["rouge1"] == 0.5
    # the package raises
    assert rouge_module.set_rouge("", "lung") == {"rouge-1": 0.0, "rouge-2": 0.0, "rouge-l": 0.0}
    assert [stem(word) for word in ("effusions", "opacities", "enlarged", "dying", "skies", "ties")] == [
        "effus", "opac", "enlarg", "die", "sky", "tie",
    ]  # fmt: skip


def clean(text: str) -> str:
    """Findings as the stated check values have them: no numbering, sentences without signs, each
    closed by a full stop.
    """
    for old, new in (
        ("..", "."),
        ("..", "."),
        ("1. ", ""),
        *((f"{prefix} {n}. ", ". ") for prefix in (".", "") for n in (2, 3, 4, 5)),
    ):
        text = text.replace(old, new)
    return (
        " . ".join(
            re.sub(r"[.,?;*!%^&_+()\[\]{}:<=>@\"'/\\]", "", part)
            for part in text.strip().lower().split(". ")
        )
        + " ."
    )


@pytest.mark.skipif(not IUXRAY.is_dir(), reason="needs the reports in ../shared/data")
def test_real_generated_reports_have_their_stated_values() -> None:
    rows = [
        json.loads(line)
        for line in (IUXRAY / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    rows = [row for row in rows if row["list"] == "test" and row["generated_cvt2distilgpt2"]]
    expected = json.loads((IUXRAY / "check_values.json").read_text(encoding="utf-8"))
    pairs = [
        (
            " ".join(row["generated_cvt2distilgpt2"].lower().replace(".", " . ").split()),
            " ".join(clean(row["section_findings"]).split()[:60]),
        )
        for row in rows
    ]
    assert len(pairs) == expected["n"]
    scores = bleu.coco_bleu(
        bleu.sum_counts(
            [bleu.count_ngrams(prediction.split(), gold.split()) for prediction, gold in pairs]
        )
    )
    assert scores == pytest.approx([expected[f"bleu{n}"] for n in (1, 2, 3, 4)], abs=1e-6)
    assert sum(rouge_module.coco_rouge_l(prediction, gold) for prediction, gold in pairs) / len(
        pairs
    ) == pytest.approx(expected["rouge_l"], abs=1e-6)


def test_an_empty_reply_counts_and_is_reported() -> None:
    results = compute_metrics(
        [
            ("the lungs are clear .", "the lungs are clear ."),
            ("no effusion .", ""),
            ("heart size normal .", None),
        ]
    )
    rouge = results["rouge_l"]
    assert (rouge.value, rouge.n, rouge.non_empty_value, rouge.n_non_empty) == (0.5, 2, 1.0, 1)
    assert [score.status for score in rouge.scores] == ["ok", "empty", "error"]
    assert [score.value for score in rouge.scores] == [1.0, None, None]
    # Idf is from all three references, the failed reply's included.
    assert results["cider_d"].non_empty_value == pytest.approx(10.0) and results[
        "cider_d"
    ].value == pytest.approx(5.0)
    assert (
        not results["bleu_1"].is_mean
        and 0 < results["bleu_1"].value < results["bleu_1"].non_empty_value  # pyright: ignore[reportOperatorIssue]
    )


def test_an_empty_text_does_not_crash() -> None:
    results = compute_metrics([("a b c d", ""), ("e f g h", "  ")])
    assert (
        results["bleu_4"].value == 0.0
        and results["bleu_4"].non_empty_value is None
        and results["rouge_l"].value == 0.0
    )
    failed = compute_metrics([("a b c d", None)])
    assert (
        failed["rouge_l"].value is None
        and failed["bleu_1"].value is None
        and failed["cider"].n == 0
    )
    assert report.compute_metrics([], []) and all(
        result.value is None for result in report.compute_metrics([], [])
    )


def test_one_report_alone_has_no_cider() -> None:
    results = compute_metrics([("the lungs are clear", "the lungs are clear")])
    assert (
        results["cider"].value == 0.0
        and results["cider"].note == "one reference alone always gives 0"
    )


def test_the_scorer_reads_the_answer() -> None:
    report_sample = sample("Findings: Clear lungs. Impression: Normal.")
    assert (
        report.score(
            report_sample, "<think>No.</think>Findings: Clear lungs. Impression: Normal."
        ).value
        == 1.0
    )
    assert report.score(report_sample, "<think>Clear lungs.</think>").status == "empty"
    assert 0 < (report.score(report_sample, "Clear lungs.").value or 0) < 1


@pytest.mark.parametrize(
    ("scores", "value"),
    [
        ((0, 0, 0, 0), 2.450143),
        (MEAN, 0.0),
        ((0.5,) * 4, 0.504726),
        ((0.2, 0.3, 0.4, 0.1), 1.307938),
        ((0.3, 0.4, 0.6, 0.2), 0.819377),
        ((1, 1, 1, 1), -1.440690),
    ],
)
def test_radcliq_has_its_known_values(scores: tuple[float, ...], value: float) -> None:
    assert radcliq_v1(SubScores(*scores)) == pytest.approx(value, abs=1e-6)


def test_radcliq_has_no_inverse_at_or_below_zero() -> None:
    assert (
        inverse(0.0) is None
        and inverse(-1.0) is None
        and inverse(1.445) == pytest.approx(69.2, abs=0.01)
    )


def test_a_missing_model_is_an_error_that_explains_what_to_do(tmp_path: Path) -> None:
    for weights in (None, tmp_path):
        results = compute_metrics([("clear lungs", "clear lungs")], weights=weights)
        for name in (
            "radgraph_f1",
            "bert_score",
            "semb_score",
            "chexbert_f1",
            "rate_score",
            "green",
            "radcliq_v1",
        ):
            result = results[name]
            assert (
                result.value is None
                and result.scores == ()
                and str(result.note).startswith("unavailable: ")
            ), name
    assert "put radgraph/config.json (" in str(results["radgraph_f1"].note) and str(
        tmp_path
    ) in str(results["radgraph_f1"].note)
    assert results["radcliq_v1"].note == "unavailable: needs radgraph_f1, bert_score, semb_score"


def test_measures_of_chest_x_rays_refuse_other_images() -> None:
    results = compute_metrics([("clear lungs", "clear lungs")], modality="CT")
    assert "chest X-ray" in str(results["green"].note) and results["rule_findings_f1"].value is None
    assert results["rouge_l"].value == 1.0


def half_scores(weights: Path, predictions: object, gold: list[str]) -> dict[str, list[float]]:
    return {"half": [0.5] * len(gold)}


def test_a_plug_in_is_run_and_its_faults_are_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").touch()
    half_metric = ModelMetric(
        ("half",),
        "json",
        "pip install json",
        {"model": "somewhere"},
        half_scores,  # pyright: ignore[reportArgumentType]
    )
    monkeypatch.setattr(report, "REPORT_METRICS", (half_metric,))
    result = compute_metrics([("a", "a"), ("b", "")], weights=tmp_path)["half"]
    assert (result.value, result.non_empty_value, result.n, result.n_non_empty) == (0.25, 0.5, 2, 1)
    broken_metric = ModelMetric(
        ("half",),
        "json",
        "",
        {},
        lambda weights, predictions, gold: {"half": [1 / len(predictions[0][1:])]},
    )
    monkeypatch.setattr(report, "REPORT_METRICS", (broken_metric,))
    note = compute_metrics([("a", "a")], weights=tmp_path)["half"].note
    assert str(note).startswith("unavailable: json failed: ZeroDivisionError")
    short_metric = ModelMetric(("half",), "json", "", {}, lambda weights, predictions, gold: {})
    monkeypatch.setattr(report, "REPORT_METRICS", (short_metric,))
    assert (
        compute_metrics([("a", "a")], weights=tmp_path)["half"].note
        == "unavailable: json gave no value for each report: half"
    )


def test_radcliq_is_made_of_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("radgraph_f1", "bert_score", "semb_score")
    metric = ModelMetric(
        names,
        "json",
        "",
        {},
        lambda weights, predictions, gold: dict(zip(names, ([0.5], [0.5], [0.5]), strict=True)),
    )
    monkeypatch.setattr(report, "REPORT_METRICS", (metric, radcliq.METRIC))
    result = compute_metrics(
        [("clear lungs", "clear lungs"), ("no effusion", "")], weights=tmp_path
    )["radcliq_v1"]
    assert result.non_empty_value == pytest.approx(0.504726, abs=1e-6)
    # An empty reply is as bad as a report can be, and 0 would be a good one.
    assert result.value == pytest.approx((0.504726 + 2.450143) / 2, abs=1e-6)
    assert result.note == "lower is better; 100 / mean = 67.7"


def test_radgraph_f1_is_the_mean_of_entities_and_relations() -> None:
    def entities(*rows: tuple[str, str, list[list[str]]]) -> dict:
        return {
            "entities": {
                str(index): {"tokens": text, "label": label, "relations": relations}
                for index, (text, label, relations) in enumerate(rows)
            }
        }

    gold = entities(("lungs", "ANAT-DP", []), ("clear", "OBS-DP", [["located_at", "0"]]))
    assert annotation_f1(gold, gold) == 1.0
    assert (
        annotation_f1(
            entities(("lungs", "ANAT-DP", []), ("clear", "OBS-DA", [["located_at", "0"]])), gold
        )
        == 0.25
    )
    assert annotation_f1(entities(), gold) == 0.0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "No pleural effusion, pneumothorax, or focal consolidation.",
            "-pleural effusion -pneumothorax -consolidation",
        ),
        ("No pneumothorax, small left pleural effusion.", "-pneumothorax +pleural effusion:left"),
        (
            "Lungs without focal consolidation, large pleural effusion or pneumothorax.",
            "-consolidation -pleural effusion -pneumothorax",
        ),
        ("The lungs are clear of airspace disease or effusion.", "-opacity -pleural effusion"),
        ("Heart size is normal. The lungs are clear.", "-cardiomegaly -opacity -consolidation"),
        ("The heart is enlarged.", "+cardiomegaly"),
        ("The heart is not enlarged.", "-cardiomegaly"),
        ("No change in the right pleural effusion.", "+pleural effusion:right"),
        ("Cannot exclude a left lower lobe pneumonia.", "?pneumonia:left"),
        ("Right pneumothorax has resolved.", "-pneumothorax:right"),
        (
            "Mild left atelectasis, right pleural effusion.",
            "+atelectasis:left +pleural effusion:right",
        ),
        (
            "Stable cardiomegaly with small bilateral pleural effusions.",
            "+cardiomegaly +pleural effusion:both",
        ),
        ("Effusions on the left and right.", "+pleural effusion:both"),
        ("No acute disease but a 4.2 cm mass in the left lung.", "+lesion:left"),
        ("Pericardial effusion.", ""),
        ("Pleural effusion is not seen.", "-pleural effusion"),
    ],
)
def test_findings_know_negation_and_side(text: str, found: str) -> None:
    signs = {"present": "+", "absent": "-", "uncertain": "?"}
    formatted = [
        f"{signs[finding.state]}{finding.name}{f':{finding.side}' if finding.side else ''}"
        for finding in extract_findings(text)
    ]
    assert " ".join(formatted) == found


def findings_f1(prediction: str, gold: str, *, sides: bool = False) -> float | None:
    return f1_of([count_shared(prediction, gold, sides=sides)])


def test_normal_chests_do_not_hide_that_nothing_is_found() -> None:
    result = compute_metrics(
        [("Normal chest.", "Normal chest.")] * 9 + [("Left effusion.", "Normal chest.")]
    )["rule_findings_f1"]
    assert (result.value, result.non_empty_value, result.n, result.is_mean) == (0.0, 0.0, 10, False)
    assert [score.value for score in result.scores] == [1.0] * 9 + [0.0]
    # An empty reply misses what its reference names.
    missed_result = compute_metrics([("Left effusion.", "Left effusion."), ("Nodule.", "")])[
        "rule_findings_f1"
    ]
    assert (missed_result.value, missed_result.non_empty_value) == (pytest.approx(2 / 3), 1.0)


def test_a_flipped_negation_or_side_lowers_the_score() -> None:
    assert findings_f1("Pleural effusion.", "No pleural effusion.") == 0.0
    assert findings_f1("Right pleural effusion.", "Left pleural effusion.") == 1.0
    assert findings_f1("Right pleural effusion.", "Left pleural effusion.", sides=True) == 0.0
    assert findings_f1("Lungs are clear.", "No effusion.") is None
    assert extract_labels("No effusion on the left. Right effusion.")["pleural effusion"][1:] == (
        "present",
        "right",
    )
    assert findings_f1("Effusion and nodule.", "Effusion.") == pytest.approx(2 / 3)
