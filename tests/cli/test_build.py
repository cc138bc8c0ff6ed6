"""`lingshu build` on synthetic miniature downloads in the layout of their publishers."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lingshu.cli.build import BuildConfig, build, print_summary
from lingshu.core import registry
from lingshu.core.errors import InputError, UnknownNameError
from lingshu.core.files import check_manifest, read_json, read_jsonl
from lingshu.core.types import Drop, Sample, Task
from lingshu.imaging.read import encode_png, open_image
from lingshu.tasks.mmmu_med import SUBJECTS

REPORT = (
    "                FINAL REPORT\n INDICATION: made up\n\n FINDINGS:\n A circle.\n\n IMPRESSION:\n"
    " Drawn.\n"
)


def put(path: Path, content: object, value: int = 0) -> None:
    """Write a file: bytes of a picture for an image's name, else JSON or text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".png", ".jpg"):
        path.write_bytes(encode_png(np.full((8, 8), value, np.uint8)))
    else:
        path.write_text(
            content if isinstance(content, str) else json.dumps(content), encoding="utf-8"
        )


def table(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def mimic(source: Path) -> None:
    columns = ("dicom_id", "study_id", "subject_id", "split")
    images = [("d1", "5", "10000032", "test"), ("d2", "5", "10000032", "test"), ("d3", "6", "10000032", "test"),
              ("d4", "7", "11000001", "train"), ("d5", "8", "11000001", "test"), ("d6", "9", "11000001", "test")]  # fmt: skip
    table(
        source / "mimic-cxr-2.0.0-split.csv",
        [dict(zip(columns, image, strict=True)) for image in images],
    )
    for dicom, study, subject, _ in images[:4]:
        put(
            source / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}" / f"{dicom}.jpg",
            None,
            int(dicom[1]),
        )
    folder = source / "files" / "p10" / "p10000032"
    put(folder / "s5.txt", REPORT)
    put(folder / "s6.txt", "FINAL REPORT\n FINDINGS:\n\n IMPRESSION:\n")
    put(source / "files" / "p11" / "p11000001" / "s8.txt", REPORT)


def rexrank(source: Path) -> None:
    record = {
        "image_path": ["p10/a.jpg", "p10/b.jpg"],
        "section_findings": "A circle.",
        "section_impression": "",
    }
    put(
        source / "data" / "ReXRank_MIMICCXR_test.json",
        {"p10_s5": record, "p10_s6": {**record, "section_findings": ""}},
    )
    put(source / "files" / "p10" / "a.jpg", None, 1)
    put(source / "files" / "p10" / "b.jpg", None, 2)


def chexpert(source: Path) -> None:
    row = {"path_to_image": "valid/patient1/study1/view1_frontal.jpg", "deid_patient_id": "patient1", "split": "valid", "report": REPORT,
           "section_findings": "", "section_impression": ""}  # fmt: skip
    table(
        source / "df_chexpert_plus_240401.csv",
        [row, {**row, "split": "train"}, {**row, "path_to_image": "valid/none.jpg"}],
    )
    put(source / "PNG" / "PNG" / "valid" / "patient1" / "study1" / "view1_frontal.png", None)


def iu(source: Path) -> None:
    put(
        source / "test.json",
        [
            {
                "id": "open_i_1",
                "image": ["CXR1.png"],
                "findings": "A circle.",
                "impression": "Drawn.",
            }
        ],
    )
    put(source / "images" / "CXR1.png", None)


def vqa_rad(source: Path) -> None:
    row = {"qid": "1", "phrase_type": "test_freeform", "image_name": "s1.jpg", "image_organ": "HEAD", "question_type": "PRES",
           "question": "Is it?", "answer": "Yes"}  # fmt: skip
    put(
        source / "VQA_RAD Dataset Public.json",
        [row, {**row, "qid": "2"}, {**row, "qid": "3", "phrase_type": "freeform"}],
    )
    put(source / "VQA_RAD Image Folder" / "s1.jpg", None)


def slake(source: Path) -> None:
    row = {"qid": 1, "img_name": "xmlab1/source.jpg", "question": "Which organ?", "answer": "Liver", "answer_type": "OPEN", "q_lang": "en",
           "location": "Abdomen", "modality": "CT", "content_type": "Organ"}  # fmt: skip
    put(
        source / "test.json",
        [
            row,
            {**row, "qid": 2, "q_lang": "zh", "question": "哪个器官？", "answer": "肝"},
            {**row, "qid": 1},
        ],
    )
    put(source / "imgs" / "xmlab1" / "source.jpg", None)


def path_vqa(source: Path) -> None:
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cell = {"bytes": encode_png(np.zeros((8, 8), np.uint8)), "path": None}
    columns = {
        "image": pa.array([cell, cell], image),
        "question": ["What?", "Is it?"],
        "answer": ["a circle", "no"],
    }
    (source / "data").mkdir(parents=True)
    pq.write_table(pa.table(columns), source / "data" / "test-00000-of-00001.parquet")


def mmmu(source: Path) -> None:
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [
        {"bytes": encode_png(np.full((8, 8), v, np.uint8)), "path": f"{v}.png"} for v in (1, 2)
    ]
    row = {"id": "test_Pharmacy_1", "question": "Which, <image 1> or <image 2>?", "options": "['one', 'two']", "answer": "?",
           "question_type": "multiple-choice", "topic_difficulty": "Easy"}  # fmt: skip
    columns = {name: [value] for name, value in row.items()} | {
        "image_1": pa.array(cells[:1], image),
        "image_2": pa.array(cells[1:], image),
    }
    for subject in SUBJECTS[3:4]:
        (source / subject).mkdir(parents=True)
        pq.write_table(pa.table(columns), source / subject / "test-00000-of-00001.parquet")
    put(
        source / "answer_dict_test.json",
        {"test_Pharmacy_1": {"question_type": "multiple-choice", "ground_truth": "B"}},
    )


def rad_restruct(source: Path) -> None:
    single = ["Any?", ["no"], [], {"options": ["yes", "no"], "answer_type": "single_choice"}]
    several = [
        "Where?",
        ["left", "right"],
        [],
        {"options": ["left", "right", "both"], "answer_type": "multi_choice"},
    ]
    put(source / "test_qa_pairs" / "r1.json", [single, several])
    put(source / "id_to_img_mapping_frontal_reports.json", {"r1": ["i1", "i2"]})
    put(source / "imgs" / "i1.png", None, 1)
    put(source / "imgs" / "i2.png", None, 2)


def cmb(source: Path) -> None:
    row = {
        "id": 1,
        "question": "问？",
        "option": {"A": "一", "B": "二", "C": ""},
        "question_type": "单项选择题",
        "exam_type": "医师考试",
    }
    put(
        source / "CMB-Exam" / "CMB-test" / "CMB-test-choice-question-merge.json",
        [row, {**row, "id": 2}],
    )
    put(source / "CMB-test-choice-answer.json", [{"id": 1, "answer": "B"}])


AGREED = ("physionet-mimic-cxr", "stanford-aimi-chexpert-plus")


@pytest.mark.parametrize(
    ("name", "download", "samples", "images", "drops"),
    [
        ("mimic_cxr", mimic, 1, 2, {"empty_report": 1, "no_report": 1, "missing_image": 1}),
        ("mimic_cxr", rexrank, 1, 2, {"empty_report": 1}),
        ("chexpert_plus", chexpert, 1, 1, {"not_test": 1, "missing_image": 1}),
        ("iu_xray_296", iu, 1, 1, {}),
        ("vqa_rad", vqa_rad, 2, 1, {"not_test": 1}),
        ("slake", slake, 2, 1, {"duplicate_id": 1}),
        ("slake_zh", slake, 1, 1, {"other_language": 2}),
        ("path_vqa", path_vqa, 2, 1, {}),
        ("mmmu_med_test", mmmu, 1, 2, {}),
        ("rad_restruct", rad_restruct, 4, 2, {}),
        ("cmb", cmb, 1, 0, {"hidden_label": 1}),
    ],
)
def test_a_download_becomes_the_folder_that_data_reads(
    name, download, samples, images, drops, tmp_path: Path, capsys
) -> None:
    download(tmp_path / "source")
    code = build(
        name, tmp_path / "source", out=tmp_path / "data", config=BuildConfig(agreement=AGREED)
    )
    task = registry.get_attribute("tasks", name, "TASK")
    assert isinstance(task, Task)
    # The number is held against a source only where it states one; a miniature never has it.
    assert code == (
        0
        if task.provenance.expected_n is None or "expected_n" in task.provenance.unverified_fields
        else 1
    )
    assert capsys.readouterr().out.startswith(f"{samples} questions, {images} images")
    folder = tmp_path / "data" / name
    check_manifest(folder)
    card = read_json(folder / "run.json")
    assert card["counts"] == {
        "samples": samples,
        "images": images,
        **{f"dropped_{reason}": count for reason, count in sorted(drops.items())},
    }
    assert (
        card["notes"]["access"] == task.provenance.access
        and card["notes"]["agreement"] == task.provenance.agreement
    )
    read = list(task.samples(tmp_path / "data"))
    before = (
        [s for s in task.read_original(tmp_path / "source") if isinstance(s, Sample)]
        if task.read_original
        else []
    )
    assert not [s for s in read if isinstance(s, Drop)]
    built = [s for s in read if isinstance(s, Sample)]
    assert [(s.id, s.messages, s.gold, s.choices, s.meta) for s in built] == [
        (s.id, s.messages, s.gold, s.choices, s.meta) for s in before
    ]
    for sample, original in zip(built, before, strict=True):
        for ours, theirs in zip(sample.images, original.images, strict=True):
            assert open_image(ours).tobytes() == open_image(theirs).tobytes()


def test_downloaded_files_may_be_in_the_folder_of_the_task(tmp_path: Path) -> None:
    slake(tmp_path / "slake")
    task = registry.get_attribute("tasks", "slake", "TASK")
    assert (
        isinstance(task, Task)
        and len([s for s in task.samples(tmp_path) if isinstance(s, Sample)]) == 2
    )


def test_a_report_is_parsed_and_its_patient_is_the_group(tmp_path: Path) -> None:
    mimic(tmp_path / "source")
    build("mimic_cxr", tmp_path / "source", out=tmp_path, config=BuildConfig(agreement=AGREED))
    (row,) = read_jsonl(tmp_path / "mimic_cxr" / "rows.jsonl")
    assert (row["answer"], row["group"], row["access"]) == (
        "Findings: A circle. Impression: Drawn.",
        "p10000032",
        "credentialed",
    )
    assert not any("p10" in name or "d1" in name for name in row["images"])


@pytest.mark.parametrize(
    ("name", "agreement", "message"),
    [
        ("mimic_cxr", (), "--agreement physionet-mimic-cxr"),
        ("chexpert_plus", ("physionet-mimic-cxr",), "--agreement stanford-aimi-chexpert-plus"),
        ("phantom", (), "reads no published files"),
        ("slake", (), "holds none of test.json"),
        ("nothing_of_the_sort", (), "tasks has no"),
    ],
)
def test_what_cannot_be_built_is_one_clear_error(
    name: str, agreement: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    (tmp_path / "source").mkdir()
    with pytest.raises((InputError, UnknownNameError), match=message):
        build(
            name,
            tmp_path / "source",
            out=tmp_path / "data",
            config=BuildConfig(agreement=agreement),
        )
    assert not (tmp_path / "data" / name).exists()


def test_a_download_that_gives_nothing_leaves_nothing(tmp_path: Path) -> None:
    put(tmp_path / "source" / "test.json", [])
    with pytest.raises(InputError, match="has no question"):
        build("slake", tmp_path / "source", out=tmp_path / "data")
    put(tmp_path / "source" / "test.json", "{broken")
    with pytest.raises(InputError, match=r"test\.json"):
        build("slake", tmp_path / "source", out=tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_the_answers_of_a_split_must_be_in_the_same_folder(tmp_path: Path) -> None:
    mmmu(tmp_path / "source")
    (tmp_path / "source" / "answer_dict_test.json").unlink()
    with pytest.raises(InputError, match=r"answer_dict_test\.json"):
        build("mmmu_med_test", tmp_path / "source", out=tmp_path / "data")


def test_a_corrupt_image_drops_its_question_and_leaves_no_file(tmp_path: Path) -> None:
    record = {"section_findings": "A circle.", "section_impression": ""}
    studies = {
        "s1": {**record, "image_path": ["a.png", "b.png"]},
        "s2": {**record, "image_path": ["c.png"]},
    }
    put(tmp_path / "source" / "ReXRank_IUXray_test.json", studies)
    for value, name in enumerate(("a.png", "c.png")):
        put(tmp_path / "source" / name, None, value)
    (tmp_path / "source" / "b.png").write_bytes(b"this is not an image")
    assert build("iu_xray", tmp_path / "source", out=tmp_path) == 1
    card = read_json(tmp_path / "iu_xray" / "run.json")
    assert card["counts"] == {"samples": 1, "images": 1, "dropped_bad_image": 1}
    assert [path.suffix for path in (tmp_path / "iu_xray" / "images").iterdir()] == [".png"]


def test_build_names_which_known_list_the_number_is(capsys) -> None:
    task = registry.get_attribute("tasks", "mimic_cxr", "TASK")
    assert isinstance(task, Task)
    assert print_summary(task, Path("data"), Counter(samples=2347, images=1), Counter()) == 0
    assert "2347 is ReXrank's test list." in capsys.readouterr().out
