"""From the columns of each publisher to questions, on synthetic rows with the published columns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lingshu.core import registry
from lingshu.core.errors import InputError
from lingshu.core.rows import row_from_sample, sample_from_row
from lingshu.core.types import Criterion, Drop, Provenance, Sample, Task
from lingshu.sources.hub import DownloadedRepo, HubRepo, RawRow
from lingshu.tasks import BenchmarkSource, cmb, mmmu_med, pmc_vqa, slake
from lingshu.tasks._benchmark import build_sample
from lingshu.tasks.healthbench import criteria

MMMU = {
    "id": "validation_Pharmacy_3",
    "question": "Which?<image 1>",
    "topic_difficulty": "Easy",
    "question_type": "multiple-choice",
}
SLAKE = {
    "qid": 7,
    "img_name": "x1/source.jpg",
    "question": "Q?",
    "q_lang": "en",
    "location": "Lung",
    "modality": "CT",
    "content_type": "Position",
}
OMNI = {
    "question_id": "o1",
    "question_type": "Disease",
    "question": "Q?",
    "gt_answer": "CT",
    "image_path": "I/a.png",
    "modality_type": "CT",
}
PMC = {
    "": "0",
    "Figure_path": "F.jpg",
    "Question": " Q?",
    "Choice A": " A:one",
    "Choice B": " B:two ",
    "Choice C": "C: three",
    "Choice D": "D:four",
    "Answer": "C",
}
EXAM = {
    "question": "Q? ",
    "options": {"A": "one", "B": "two", "C": None},
    "answer": "two",
    "answer_idx": "B",
}
STUDY = {
    "_key": "s1",
    "image_path": ["a/0.png"],
    "section_findings": "Clear.",
    "section_impression": "nan",
}
CHEXPERT = {
    "path_to_image": "valid/p1/v.jpg",
    "section_findings": "",
    "section_impression": "Normal",
    "split": "valid",
    "deid_patient_id": "p1",
    "report": "",
}
RAD = {
    "_value": [
        "Which?",
        ["a", "c"],
        [],
        {"options": ["a", "b", "c"], "answer_type": "multi_choice"},
    ],
    "image": "i1",
    "report": "r1",
    "number": 4,
}


# What reads the rows of a variant, where its file has several converters.
CONVERTERS = {
    "slake_en": partial(slake.convert_row, languages=("en",)),
    "slake_zh": partial(slake.convert_row, languages=("zh",)),
    "pmc_vqa_clean": pmc_vqa.convert_clean_row,
}


def sample_of(task: str, raw: Mapping[str, Any], **extra: Any) -> tuple[Sample | Drop, Task]:
    """What a task makes of a row, its images all there."""

    class AnyRepo(DownloadedRepo):
        def find(self, name: str) -> Path | None:
            return Path("/images") / name

    convert_row = CONVERTERS.get(task) or registry.load("tasks", task).convert_row
    language = None if task == "slake" else "en"
    source = BenchmarkSource(
        task, HubRepo(None, ()), Provenance("s", "l"), language, files=AnyRepo([])
    )
    row = RawRow({**raw, **extra}, (), "anatomy/test.csv", 0)
    task_object = registry.get_attribute("tasks", task, "TASK")
    assert isinstance(task_object, Task)
    return build_sample(source, convert_row, row, 0), task_object


@pytest.mark.parametrize(
    ("task", "raw", "expected"),
    [
        ("vqa_rad", {"question": "Is it?", "answer": "yes"}, {"kind": "yes_no", "gold": ("yes",)}),
        (
            "vqa_rad",
            {"question": "Where?", "answer": "Left lung"},
            {"kind": "open", "gold": ("Left lung",)},
        ),
        (
            "vqa_rad",
            {
                "qid": "3",
                "phrase_type": "test_para",
                "image_name": "s.jpg",
                "image_organ": "HEAD",
                "question_type": "PRES",
                "question": "Is it?",
                "answer": "No",
            },
            {
                "id": "vqa_rad-3",
                "kind": "yes_no",
                "organ": "HEAD",
                "task": "PRES",
                "group": "s.jpg",
                "image": "/images/s.jpg",
            },
        ),
        ("path_vqa", {"question": "Is it?", "answer": "no"}, {"kind": "yes_no"}),
        (
            "slake",
            {**SLAKE, "answer": "Yes", "answer_type": "CLOSED"},
            {"id": "slake-7", "kind": "yes_no", "group": "x1", "organ": "Lung", "language": "en"},
        ),
        (
            "slake",
            {**SLAKE, "answer": "Left", "answer_type": "CLOSED"},
            {"kind": "closed", "gold": ("Left",)},
        ),
        (
            "slake",
            {**SLAKE, "answer": "肺", "answer_type": "OPEN", "q_lang": "zh"},
            {"kind": "open", "language": "zh"},
        ),
        ("slake_zh", {**SLAKE, "answer": "Left", "answer_type": "OPEN"}, "other_language"),
        (
            "pmc_vqa",
            PMC,
            {"choices": ("one", "two", "three", "four"), "gold": ("C",), "question": "Q?"},
        ),
        ("pmc_vqa_clean", {**PMC, "Answer": "three", "Answer_label": "C"}, {"gold": ("C",)}),
        (
            "omnimedvqa",
            {**OMNI, "option_A": "CT", "option_B": "CT"},
            {"gold": ("A",), "modality": "CT", "task": "Disease"},
        ),
        (
            "omnimedvqa",
            {**OMNI, "option_A": "MR", "option_B": "US", "option_C": None},
            "answer_not_in_choices",
        ),
        (
            "omnimedvqa",
            {
                **OMNI,
                "gt_answer": "B",
                "option_A": "A",
                "option_B": "C",
                "option_C": "B",
                "option_D": "D",
            },
            {"gold": ("C",)},
        ),
        (
            "omnimedvqa",
            {**OMNI, "gt_answer": None, "option_A": "MR", "option_B": "US"},
            "empty_answer",
        ),
        (
            "pmc_vqa_clean",
            {**PMC, "Choice A": "B", "Choice B": "A", "Answer": "A"},
            {"gold": ("B",)},
        ),
        ("pmc_vqa", {**PMC, "Choice A": "B", "Choice B": "A", "Answer": "A"}, {"gold": ("A",)}),
        ("pmc_vqa", {**PMC, "Choice D": None, "Answer": None}, "bad_choices"),
        ("pmc_vqa", {**PMC, "Answer": None}, "empty_answer"),
        ("slake", {**SLAKE, "answer": None, "answer_type": "OPEN"}, "empty_answer"),
        ("vqa_rad", {"question": "Where?", "answer": None}, "empty_answer"),
        ("medqa_usmle", {**EXAM, "question": None}, "no_question"),
        (
            "pubmedqa",
            {"_key": "1", "QUESTION": None, "CONTEXTS": ["c"], "final_decision": "no"},
            "no_question",
        ),
        (
            "rad_restruct",
            {
                **RAD,
                "_value": [
                    "Any?",
                    [],
                    [],
                    {"options": ["yes", "no"], "answer_type": "single_choice"},
                ],
            },
            "empty_answer",
        ),
        (
            "rad_restruct",
            {
                **RAD,
                "_value": [
                    "Any?",
                    ["B"],
                    [],
                    {"options": ["B", "A"], "answer_type": "single_choice"},
                ],
            },
            {"gold": ("A",)},
        ),
        ("iu_xray", {**STUDY, "_key": None}, "no_id"),
        (
            "mmmu_med_val",
            {**MMMU, "options": "['one', \"it's two\"]", "answer": "B"},
            {"choices": ("one", "it's two"), "gold": ("B",), "subject": "Pharmacy"},
        ),
        (
            "mmmu_med_val",
            {**MMMU, "options": "[]", "question_type": "open", "answer": "['aspirin', 'ASA']"},
            {"kind": "open", "gold": ("aspirin", "ASA")},
        ),
        (
            "mmmu_med_val",
            {**MMMU, "options": "[]", "question_type": "open", "answer": "12.5"},
            {"kind": "open", "gold": ("12.5",)},
        ),
        ("mmmu_med_val", {**MMMU, "options": "['a', 'b']", "answer": "?"}, "hidden_label"),
        ("mmmu_med_val", {**MMMU, "options": "[__import__('os')]", "answer": "A"}, "bad_choices"),
        (
            "medxpertqa_mm",
            {
                "id": "MM-1",
                "question": "Q?\nAnswer Choices: (A) one (B) two",
                "options": {"A": "one", "B": "two"},
                "label": "B",
                "images": ["a.jpeg"],
                "medical_task": "T",
                "body_system": "S",
                "question_type": "R",
            },
            {"question": "Q?", "gold": ("B",), "task": "T", "image": "/images/a.jpeg"},
        ),
        (
            "medframeqa",
            {
                "question_id": "m1",
                "question": "Q?",
                "options": ["one", "two"],
                "correct_answer": "A",
                "modality": "MRI",
                "organ": "brain",
            },
            {"gold": ("A",), "modality": "MRI", "group": "m1"},
        ),
        (
            "mmlu_med",
            {"question": "Q?", "choices": ["a", "b", "c", "d"], "answer": 1},
            {"gold": ("B",), "subject": "anatomy"},
        ),
        ("mmlu_med", {"question": "Q?", "choices": ["a", "b"], "answer": -1}, "hidden_label"),
        (
            "medmcqa",
            {
                "id": "x",
                "question": "Q?",
                "opa": "a",
                "opb": "b",
                "opc": "c",
                "opd": "d",
                "cop": 2,
                "subject_name": "S",
            },
            {"gold": ("C",), "subject": "S"},
        ),
        (
            "medmcqa",
            {
                "id": "x",
                "question": "Q?",
                "opa": "a",
                "opb": "b",
                "opc": "c",
                "opd": "d",
                "cop": -1,
            },
            "hidden_label",
        ),
        (
            "pubmedqa",
            {
                "id": "1",
                "data": {
                    "Question": "Q?",
                    "Context": ["c1", "c2"],
                    "Options": {"A": "yes", "B": "no", "C": "maybe"},
                    "Correct Option": "C",
                },
            },
            {"gold": ("C",), "context": "c1\nc2"},
        ),
        (
            "pubmedqa",
            {"_key": "1", "QUESTION": "Q?", "CONTEXTS": ["c"], "final_decision": "no"},
            {"id": "1", "gold": ("B",)},
        ),
        ("medqa_usmle", EXAM, {"gold": ("B",), "choices": ("one", "two"), "question": "Q?"}),
        ("medbullets_op4", EXAM, {"gold": ("B",)}),
        (
            "medbullets_op5",
            {
                "question": "Q?",
                "opa": "a",
                "opb": "b",
                "opc": "c",
                "opd": "d",
                "ope": "nan",
                "answer_idx": "D",
            },
            {"gold": ("D",), "choices": ("a", "b", "c", "d")},
        ),
        ("medqa_mcmle", {**EXAM, "answer": "", "answer_idx": ""}, "hidden_label"),
        (
            "supergpqa_med",
            {
                "uuid": "u",
                "question": "Q?",
                "options": ["a", "b"],
                "answer_letter": "A",
                "discipline": "Medicine",
                "field": "F",
                "difficulty": "hard",
            },
            {"gold": ("A",), "field": "F"},
        ),
        (
            "supergpqa_med",
            {
                "uuid": "u",
                "question": "Q?",
                "options": ["a", "b"],
                "answer_letter": "A",
                "discipline": "Law",
                "field": "F",
                "difficulty": "hard",
            },
            "other_discipline",
        ),
        (
            "cmexam",
            {
                "Question": "Q?",
                "Options": [{"key": "A", "value": "a"}, {"key": "B", "value": "b"}],
                "Answer": "B",
            },
            {"gold": ("B",), "kind": "choice"},
        ),
        (
            "cmexam",
            {"Question": "Q?", "Options": "A 一\nB 二\nC 三", "Answer": "AC"},
            {"gold": ("AC", "A, C"), "kind": "closed", "multi_choice": "yes", "choices": ()},
        ),
        (
            "cmmlu_med",
            {"Question": "Q?", "A": "a", "B": "b", "C": "c", "D": "d", "Answer": "D"},
            {"gold": ("D",)},
        ),
        (
            "rad_restruct",
            RAD,
            {
                "id": "i1-4",
                "gold": ("AC", "A, C"),
                "multi_choice": "yes",
                "group": "r1",
                "image": "/images/i1.png",
            },
        ),
        (
            "rad_restruct",
            {
                **RAD,
                "_value": [
                    "Any?",
                    ["no"],
                    [],
                    {"options": ["yes", "no"], "answer_type": "single_choice"},
                ],
            },
            {"kind": "yes_no", "gold": ("no",)},
        ),
        (
            "iu_xray",
            STUDY,
            {
                "kind": "report",
                "gold": ("Findings: Clear. Impression: None.",),
                "findings": "Clear.",
            },
        ),
        (
            "iu_xray_296",
            {"id": "open_i_1", "image": ["a.png"], "findings": "", "impression": " "},
            "empty_report",
        ),
        (
            "chexpert_plus",
            CHEXPERT,
            {"gold": ("Findings: None. Impression: Normal.",), "group": "p1"},
        ),
        ("chexpert_plus", {**CHEXPERT, "split": "train"}, "not_test"),
        (
            "mimic_cxr",
            {
                "subject_id": "10000032",
                "study_id": "5",
                "dicom_ids": ["d"],
                "report": " FINDINGS:\n Clear.",
            },
            {"group": "p10000032", "image": "/images/p10/p10000032/s5/d.jpg"},
        ),
        (
            "healthbench",
            {
                "prompt_id": "h",
                "prompt": [{"role": "user", "content": "Hi"}],
                "rubrics": [{"points": 1}],
                "example_tags": ["theme:t"],
            },
            {"kind": "rubric", "gold": None, "theme": "t", "rubrics": '[{"points": 1}]'},
        ),
    ],
)
def test_a_published_row_becomes_a_question(
    task: str, raw: dict[str, Any], expected: dict[str, Any] | str
) -> None:
    item, task_object = sample_of(task, raw)
    if isinstance(expected, str):
        assert isinstance(item, Drop) and item.reason == expected
        return
    assert isinstance(item, Sample), item
    assert item.meta.access == "open" and item.meta.license == "l"
    for name, value in expected.items():
        if name == "question":
            assert item.question.startswith(value)
        elif name == "image":
            assert item.images[0].path == value
        else:
            assert (
                getattr(item, name) if name in ("id", "gold", "choices") else item.meta.facet(name)
            ) == value, name
    if item.gold:
        assert task_object.score(item, item.gold[0]).value == 1.0
    assert task_object.prompt and task_object.prompt(item, "direct").question


def test_answers_of_a_split_may_be_in_a_file_next_to_it() -> None:
    answers = {MMMU["id"]: {"ground_truth": "B", "question_type": "multiple-choice"}}
    assert (
        mmmu_med.convert_test_row(answers, {**MMMU, "options": "['a', 'b']", "answer": "?"})["gold"]
        == "B"
    )
    question = {
        "id": 1,
        "question": "Q?",
        "option": {"A": "a", "B": "b", "C": ""},
        "question_type": "多项选择题",
        "exam_type": "E",
    }
    assert {**cmb.convert_row({"1": "AB"}, question), "choices": 0} == {
        "id": "cmb-1", "question": "Q?", "choices": 0, "gold": "AB", "multi_choice": True, "task": "多项选择题", "subject": "E",
    }  # fmt: skip


def test_letters_beyond_the_options_are_no_answer() -> None:
    found, _ = sample_of("cmexam", {"Question": "Q?", "Options": "A 一\nB 二", "Answer": "AD"})
    assert isinstance(found, Drop) and found.reason == "answer_not_in_choices"


def test_a_dialogue_comes_back_from_its_row() -> None:
    prompt = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Bye?"},
    ]
    found, _ = sample_of("healthbench", {"prompt_id": "h", "prompt": prompt, "rubrics": []})
    assert isinstance(found, Sample) and sample_from_row(row_from_sample(found), 1) == found


def test_the_criteria_of_a_dialogue_are_read() -> None:
    rubrics = [
        {"criterion": "Says so", "points": -3, "tags": ["level:example", "axis:accuracy"]},
        {"criterion": "Asks", "points": 2.5},
    ]
    prompt = [{"role": "user", "content": "Hi"}]
    found, _ = sample_of("healthbench", {"prompt_id": "h", "prompt": prompt, "rubrics": rubrics})
    assert isinstance(found, Sample)
    assert criteria(found) == [
        Criterion("Says so", -3.0, "accuracy", ("level:example", "axis:accuracy")),
        Criterion("Asks", 2.5),
    ]
    with pytest.raises(InputError, match="no criteria that can be read"):
        criteria(replace(found, meta=replace(found.meta, extra={})))


def test_a_changed_column_is_named() -> None:
    with pytest.raises(InputError, match=r"medqa_usmle.*'question'"):
        sample_of(
            "medqa_usmle", {"prompt": "Q?", "options": {"A": "a", "B": "b"}, "answer_idx": "A"}
        )


@pytest.mark.parametrize(
    ("task", "raw"),
    [
        ("pmc_vqa", {**PMC, "Question": None}),
        (
            "rad_restruct",
            {
                **RAD,
                "_value": [
                    "Which?",
                    ["z"],
                    [],
                    {"options": ["a", "b"], "answer_type": "multi_choice"},
                ],
            },
        ),
        ("medxpertqa_mm", {"id": "x", "question": 3, "options": {}, "label": "A"}),
    ],
)
def test_a_value_of_another_format_drops_its_row(task: str, raw: dict[str, Any]) -> None:
    found, _ = sample_of(task, raw)
    assert isinstance(found, Drop) and found.reason == "bad_row"


def test_an_answer_file_with_a_null_has_no_answer_there(tmp_path: Path) -> None:
    question = {
        "id": 1,
        "question": "Q?",
        "option": {"A": "a", "B": "b"},
        "question_type": "单项选择题",
    }
    folder = tmp_path / "cmb"
    folder.mkdir()
    (folder / "CMB-test-choice-question-merge.json").write_text(
        json.dumps([question, {**question, "id": 2}])
    )
    (folder / "CMB-test-choice-answer.json").write_text(
        json.dumps([{"id": 1, "answer": None}, {"id": 2, "answer": "B"}])
    )
    first, second = registry.load("tasks", "cmb").TASK.samples(tmp_path)
    assert isinstance(first, Drop) and first.reason == "hidden_label"
    assert isinstance(second, Sample) and second.gold == ("B",)
