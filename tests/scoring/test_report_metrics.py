"""Report metrics: equal to the reference packages, counted over what was asked, and never a crash
for want of a model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from lingshu.core.nouns import Measured, Message, Meta, Sample
from lingshu.scoring import _bleu, _rouge, report
from lingshu.scoring import _published_reports as published
from lingshu.scoring._cider import cider
from lingshu.scoring._findings import f1 as f1_of
from lingshu.scoring._findings import findings, labels, shared
from lingshu.scoring._plug_in import PlugIn, computed, unavailable
from lingshu.scoring._porter import stem
from lingshu.scoring._radcliq import MEAN, SubScores, inverse, radcliq_v1
from lingshu.scoring._radgraph import annotation_f1

PARITY = Path(__file__).parent.parent / "golden" / "parity" / "reference_metrics.jsonl"
IUXRAY = Path(__file__).parents[2].parent / "shared" / "data" / "iuxray_reports"
CLOSE = 1e-9


def cases() -> tuple[list[dict], dict]:
    rows = [json.loads(line) for line in PARITY.read_text(encoding="utf-8").splitlines()]
    return rows[:6], rows[6]


def near(found: object, right: object) -> bool:
    return found == pytest.approx(right, abs=CLOSE, rel=0)


def sample(gold: str, number: int = 0, *, modality: str | None = None) -> Sample:
    return Sample(
        f"s{number}",
        (Message("user", ("Report?",)),),
        gold=(gold,),
        meta=Meta(kind="report", modality=modality),
    )


def measured(
    pairs: Sequence[tuple[str, str | None]],
    *,
    weights: Path | None = None,
    modality: str | None = None,
) -> dict[str, Measured]:
    samples = [sample(gold, number, modality=modality) for number, (gold, _) in enumerate(pairs)]
    return {
        one.name: one
        for one in report.measure(samples, [said for _, said in pairs], weights=weights)
    }


def test_every_package_agrees_on_each_report() -> None:
    for case in cases()[0]:
        said, gold = case["hypothesis"], case["reference"]
        assert near(
            _bleu.coco(_bleu.grams(said.split(), gold.split())), case["pycocoevalcap_bleu1_4"]
        )
        assert near(
            _rouge.google(said, gold),
            {name: case["rouge_score"][name] for name in ("rouge1", "rouge2", "rougeL")},
        )
        assert near(_rouge.google_l(said, gold, stemmed=True), case["rouge_score_rougeL_stem"])
        assert near(_rouge.sets(said, gold), case["rouge_pkg"])
        assert near(
            _bleu.sacre(_bleu.grams(_bleu.tokens_13a(said), _bleu.tokens_13a(gold))),
            case["sacrebleu_sentence"],
        )
        assert near(
            published.bleu(said.split(), gold.split(), 4), case["nltk_sentence_bleu4_nosmooth"]
        )


def test_every_package_agrees_on_the_corpus() -> None:
    rows, whole = cases()
    pairs = [(row["hypothesis"], row["reference"]) for row in rows]
    counts = [_bleu.grams(said.split(), gold.split()) for said, gold in pairs]
    assert near(_bleu.coco(_bleu.total(counts)), whole["pycocoevalcap_bleu1_4"])
    other = [_bleu.grams(_bleu.tokens_13a(said), _bleu.tokens_13a(gold)) for said, gold in pairs]
    assert near(_bleu.sacre(_bleu.total(other), effective=False), whole["sacrebleu_corpus"])
    found = cider([said.split() for said, _ in pairs], [gold.split() for _, gold in pairs])
    assert near(found.cider_d, [row["pycocoevalcap_ciderD"] for row in rows])
    assert near(sum(found.cider_d) / 6, whole["pycocoevalcap_ciderD"])
    assert found.cider == pytest.approx([4.497443, 0, 10, 5.778979, 3.376348, 4.792623], abs=1e-6)


def test_the_tokens_are_those_assigned() -> None:
    assert report.tokens("No effusion, no pneumothorax.") == [
        "no",
        "effusion",
        ",",
        "no",
        "pneumothorax",
        ".",
    ]
    assert report.tokens("1.5 cm") == ["1.5", "cm"]
    assert report.tokens("The heart is normal. Lungs clear.") == [
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
    assert _rouge.sets("no no no", "no")["rouge-1"] == pytest.approx(1.0)
    assert _rouge.google("no no no", "no")["rouge1"] == 0.5
    # the package raises
    assert _rouge.sets("", "lung") == {"rouge-1": 0.0, "rouge-2": 0.0, "rouge-l": 0.0}
    assert [stem(word) for word in ("effusions", "opacities", "enlarged", "dying", "skies", "ties")] == [
        "effus", "opac", "enlarg", "die", "sky", "tie",
    ]  # fmt: skip


def cleaned(text: str) -> str:
    """Findings as the stated check values have them: no numbering, sentences without signs, each
    closed by a full stop.
    """
    for old, new in (
        ("..", "."),
        ("..", "."),
        ("1. ", ""),
        *((f"{lead} {n}. ", ". ") for lead in (".", "") for n in (2, 3, 4, 5)),
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
    stated = json.loads((IUXRAY / "check_values.json").read_text(encoding="utf-8"))
    pairs = [
        (
            " ".join(row["generated_cvt2distilgpt2"].lower().replace(".", " . ").split()),
            " ".join(cleaned(row["section_findings"]).split()[:60]),
        )
        for row in rows
    ]
    assert len(pairs) == stated["n"]
    found = _bleu.coco(
        _bleu.total([_bleu.grams(said.split(), gold.split()) for said, gold in pairs])
    )
    assert found == pytest.approx([stated[f"bleu{n}"] for n in (1, 2, 3, 4)], abs=1e-6)
    assert sum(_rouge.coco_l(said, gold) for said, gold in pairs) / len(pairs) == pytest.approx(
        stated["rouge_l"], abs=1e-6
    )


def test_an_empty_reply_counts_and_stands_beside() -> None:
    found = measured(
        [
            ("the lungs are clear .", "the lungs are clear ."),
            ("no effusion .", ""),
            ("heart size normal .", None),
        ]
    )
    rouge = found["rouge_l"]
    assert (rouge.value, rouge.n, rouge.said, rouge.n_said) == (0.5, 2, 1.0, 1)
    assert [one.status for one in rouge.scores] == ["ok", "empty", "error"]
    assert [one.value for one in rouge.scores] == [1.0, None, None]
    # Idf is from all three references, the failed reply's included.
    assert found["cider_d"].said == pytest.approx(10.0) and found["cider_d"].value == pytest.approx(
        5.0
    )
    assert not found["bleu_1"].mean and 0 < found["bleu_1"].value < found["bleu_1"].said  # type: ignore[operator]


def test_nothing_said_at_all_is_no_crash() -> None:
    found = measured([("a b c d", ""), ("e f g h", "  ")])
    assert (
        found["bleu_4"].value == 0.0
        and found["bleu_4"].said is None
        and found["rouge_l"].value == 0.0
    )
    failed = measured([("a b c d", None)])
    assert (
        failed["rouge_l"].value is None
        and failed["bleu_1"].value is None
        and failed["cider"].n == 0
    )
    assert report.measure([], []) and all(one.value is None for one in report.measure([], []))


def test_one_report_alone_has_no_cider() -> None:
    found = measured([("the lungs are clear", "the lungs are clear")])
    assert (
        found["cider"].value == 0.0 and found["cider"].note == "one reference alone always gives 0"
    )


def test_the_scorer_reads_the_answer() -> None:
    asked = sample("Findings: Clear lungs. Impression: Normal.")
    assert (
        report.score(asked, "<think>No.</think>Findings: Clear lungs. Impression: Normal.").value
        == 1.0
    )
    assert report.score(asked, "<think>Clear lungs.</think>").status == "empty"
    assert 0 < (report.score(asked, "Clear lungs.").value or 0) < 1


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


def test_radcliq_has_no_inverse_at_or_below_nought() -> None:
    assert (
        inverse(0.0) is None
        and inverse(-1.0) is None
        and inverse(1.445) == pytest.approx(69.2, abs=0.01)
    )


def test_models_that_are_not_there_say_what_to_do(tmp_path: Path) -> None:
    for weights in (None, tmp_path):
        found = measured([("clear lungs", "clear lungs")], weights=weights)
        for name in (
            "radgraph_f1",
            "bert_score",
            "semb_score",
            "chexbert_f1",
            "rate_score",
            "green",
            "radcliq_v1",
        ):
            one = found[name]
            assert (
                one.value is None and one.scores == () and str(one.note).startswith("unavailable: ")
            ), name
    assert "put radgraph/config.json (" in str(found["radgraph_f1"].note) and str(tmp_path) in str(
        found["radgraph_f1"].note
    )
    assert found["radcliq_v1"].note == "unavailable: needs radgraph_f1, bert_score, semb_score"


def test_measures_of_chest_x_rays_refuse_other_images() -> None:
    found = measured([("clear lungs", "clear lungs")], modality="CT")
    assert "chest X-ray" in str(found["green"].note) and found["rule_findings_f1"].value is None
    assert found["rouge_l"].value == 1.0


def halves(weights: Path, said: object, gold: list[str]) -> dict[str, list[float]]:
    return {"half": [0.5] * len(gold)}


def test_a_plug_in_is_run_and_its_faults_are_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model").touch()
    half = PlugIn(("half",), "json", "pip install json", {"model": "somewhere"}, halves)  # type: ignore[arg-type]
    assert unavailable(half, tmp_path, ["X-ray", None]) is None
    monkeypatch.setattr(report, "PLUG_INS", (half,))
    found = measured([("a", "a"), ("b", "")], weights=tmp_path)["half"]
    assert (found.value, found.said, found.n, found.n_said) == (0.25, 0.5, 2, 1)
    broken = PlugIn(
        ("half",), "json", "", {}, lambda weights, said, gold: {"half": [1 / len(said[0][1:])]}
    )
    assert str(computed(broken, tmp_path, ["a"], ["a"])).startswith(
        "unavailable: json failed: ZeroDivisionError"
    )
    short = PlugIn(("half",), "json", "", {}, lambda weights, said, gold: {})
    assert (
        computed(short, tmp_path, ["a"], ["a"])
        == "unavailable: json gave no value for each report: half"
    )


def test_radcliq_is_made_of_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("radgraph_f1", "bert_score", "semb_score")
    parts = PlugIn(
        names,
        "json",
        "",
        {},
        lambda weights, said, gold: dict(zip(names, ([0.5], [0.5], [0.5]), strict=True)),
    )
    monkeypatch.setattr(report, "PLUG_INS", (parts,))
    found = measured([("clear lungs", "clear lungs"), ("no effusion", "")], weights=tmp_path)[
        "radcliq_v1"
    ]
    assert found.said == pytest.approx(0.504726, abs=1e-6)
    # An empty reply is as bad as a report can be, and 0 would be a good one.
    assert found.value == pytest.approx((0.504726 + 2.450143) / 2, abs=1e-6)
    assert found.note == "lower is better; 100 / mean = 67.7"


def test_radgraph_f1_is_the_mean_of_entities_and_relations() -> None:
    def entities(*rows: tuple[str, str, list[list[str]]]) -> dict:
        return {
            "entities": {
                str(place): {"tokens": text, "label": label, "relations": found}
                for place, (text, label, found) in enumerate(rows)
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
    told = [
        f"{signs[one.state]}{one.name}{f':{one.side}' if one.side else ''}"
        for one in findings(text)
    ]
    assert " ".join(told) == found


def findings_f1(said: str, gold: str, *, sides: bool = False) -> float | None:
    return f1_of([shared(said, gold, sides=sides)])


def test_normal_chests_do_not_hide_that_nothing_is_found() -> None:
    found = measured(
        [("Normal chest.", "Normal chest.")] * 9 + [("Left effusion.", "Normal chest.")]
    )["rule_findings_f1"]
    assert (found.value, found.said, found.n, found.mean) == (0.0, 0.0, 10, False)
    assert [one.value for one in found.scores] == [1.0] * 9 + [0.0]
    # An empty reply misses what its reference names.
    missed = measured([("Left effusion.", "Left effusion."), ("Nodule.", "")])["rule_findings_f1"]
    assert (missed.value, missed.said) == (pytest.approx(2 / 3), 1.0)


def test_a_flipped_negation_or_side_costs_what_it_should() -> None:
    assert findings_f1("Pleural effusion.", "No pleural effusion.") == 0.0
    assert findings_f1("Right pleural effusion.", "Left pleural effusion.") == 1.0
    assert findings_f1("Right pleural effusion.", "Left pleural effusion.", sides=True) == 0.0
    assert findings_f1("Lungs are clear.", "No effusion.") is None
    assert labels("No effusion on the left. Right effusion.")["pleural effusion"][1:] == (
        "present",
        "right",
    )
    assert findings_f1("Effusion and nodule.", "Effusion.") == pytest.approx(2 / 3)
