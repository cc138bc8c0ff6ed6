"""Wrong answers by rule: what each rule changes in English and in Chinese, what it leaves alone,
and the step that notes them.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from lingshu.core.errors import ConfigError
from lingshu.core.messages import user_turn
from lingshu.core.types import Meta, Sample
from lingshu.ops import inject_errors
from lingshu.ops._perturbations import inject_error
from tests.support.step_runners import run_map_step

# kind, right answer, wrong answer
CASES = (
    ("laterality", "Left lung", "Right lung"),
    ("laterality", "the right kidney and the left ureter", "the left kidney and the right ureter"),
    ("laterality", "Bilateral", "Unilateral"),
    ("laterality", "左肺", "右肺"),
    ("laterality", "双侧", "单侧"),
    ("negation", "Yes", "No"),
    ("negation", "There is no pleural effusion.", "There is a pleural effusion."),
    ("negation", "There is no evidence of a fracture", "There is evidence of a fracture"),
    ("negation", "There is a mass", "There is no mass"),
    ("negation", "It is not enlarged", "It is enlarged"),
    ("negation", "CT with contrast", "CT without contrast"),
    ("negation", "是", "否"),
    ("negation", "是的", "不是"),
    ("negation", "没有", "有"),
    ("negation", "未见异常", "可见异常"),
    ("negation", "不正常", "正常"),
    ("organ", "Upper lobe", ("Lower lobe", "Middle lobe")),
    ("organ", "right lung", ("right kidney", "right breast", "right adrenal gland")),
    ("organ", "左肺", ("左肾脏", "左乳腺", "左肾上腺")),
    ("organ", "额叶", ("顶叶", "颞叶", "枕叶")),
    ("modality", "Axial", ("Coronal", "Sagittal")),
    ("modality", "T2 weighted MRI", ("T1 weighted MRI", "FLAIR weighted MRI", "DWI weighted MRI")),
    ("modality", "核磁共振", ("超声", "X光", "内镜")),
    ("number", "2", ("1", "3", "4")),
    ("number", "1.5 cm", ("3.0 cm", "4.5 cm")),
    ("number", "Two lesions", ("One lesions", "Three lesions")),
    ("number", "三个", ("二个", "四个")),
)


@pytest.mark.parametrize(("kind", "right", "wrong"), CASES)
def test_a_rule_changes_one_thing(kind: str, right: str, wrong: str | tuple[str, ...]) -> None:
    for name in ("a", "b", "c", "d"):
        error = inject_error(right, name=name, kinds=[kind])
        assert error and error.kind == kind
        assert error.text in ((wrong,) if isinstance(wrong, str) else wrong)
        assert error.original in right and error.replacement in error.text


@pytest.mark.parametrize(
    "answer",
    [
        "Cardiomegaly",
        "Yes, there is a mass",  # turned at its head alone it would say two things
        "是的，有肿块",
        "extra-axial",
        "L5",
        "3rd",
        "左右",
        "肺炎",
        "left and right",  # turned round these say the same
        "with or without",
        "0.0",
        "",
    ],
)
def test_what_no_rule_fits_stays(answer: str) -> None:
    assert inject_error(answer, name="a") is None


def test_words_of_the_question_are_not_put_into_the_answer() -> None:
    for name in "abcdefgh":
        error = inject_error(
            "CT",
            name=name,
            kinds=["modality"],
            question="Is this a CT, an MRI, an ultrasound or an X-ray?",
        )
        assert error and error.text in ("PET", "Mammography", "mammography", "endoscopy")


@pytest.mark.parametrize(
    "answer", ["in the left lung and in the right lung", "左肺和右肺", "No right or left effusion"]
)
def test_two_sides_of_one_thing_swapped_are_not_an_error(answer: str) -> None:
    assert inject_error(answer, name="a", kinds=["laterality"]) is None


def test_a_word_is_not_swapped_for_what_it_is_a_kind_of() -> None:
    error = {
        inject_error("Mammography", name=name, kinds=["modality"]) for name in map(str, range(30))
    }
    assert "X-ray" not in {match.text for match in error if match} and len(error) > 3


def test_name_and_seed_decide() -> None:
    texts = {name: inject_error("left lung", name=name) for name in map(str, range(20))}
    assert texts == {name: inject_error("left lung", name=name) for name in texts}
    assert len({error.kind for error in texts.values() if error}) == 2
    assert texts != {name: inject_error("left lung", name=name, seed=1) for name in texts}


def qa_sample(name: str, question: str, gold: str, **meta: str) -> Sample:
    return Sample(name, (user_turn(question, 0),), gold=(gold,), meta=Meta(access="open", **meta))  # type: ignore[arg-type]


def test_the_step_notes_the_error_and_drops_what_has_none() -> None:
    samples = [
        qa_sample("a", "Which side?", "left"),
        qa_sample("b", "Diagnosis?", "Cardiomegaly"),
        replace(qa_sample("c", "?", "x"), gold=None),
    ]
    error = run_map_step(inject_errors.step(), samples)
    assert error.reasons == {"b": "no_error", "c": "no_gold"}
    assert {k: v for k, v in error.kept[0].meta.extra.items() if k.startswith(("error_", "wrong_"))} == {
        "wrong_answer": "right", "error_kind": "laterality", "error_original": "left", "error_replacement": "right",
    }  # fmt: skip


def test_an_error_that_a_scorer_accepts_is_not_an_error() -> None:
    # Of the two accepted answers the rule would make the second of the first.
    ambiguous = replace(qa_sample("a", "Which side is it on?", "left"), gold=("left", "right"))
    assert run_map_step(inject_errors.step(), [ambiguous]).reasons == {"a": "no_error"}


def test_an_unknown_rule_is_named() -> None:
    with pytest.raises(ConfigError, match="kinds is 'side'; choose one of laterality"):
        inject_errors.step(kinds=["side"])
