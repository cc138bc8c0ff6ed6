"""What every published benchmark states of itself, and that it reads a folder of its own without
the hub.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lingshu.apps.build import build
from lingshu.core import shelves
from lingshu.core.errors import ArtefactError, InputError
from lingshu.core.files import dump_line
from lingshu.core.nouns import Sample, Task
from lingshu.core.release import Release, refusal
from lingshu.core.rows import row_from_sample
from lingshu.core.shelves import built_in
from lingshu.recipes._suites import SUITES

NAMES = sorted(set(built_in("tasks")) - {"phantom", "vqa"})
KINDS = {"choice", "yes_no", "closed", "open", "report", "rubric"}


def task(name: str) -> Task:
    found = shelves.part("tasks", name, "TASK")
    assert isinstance(found, Task)
    return found


def write(folder: Path, samples: list[Sample]) -> None:
    """The samples as DIR/<task>/rows.jsonl with their images."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for sample in samples:
        names = [f"images/{sample.id}-{number}.png" for number in range(len(sample.images))]
        for name, image in zip(names, sample.images, strict=True):
            assert image.data
            (folder / name).write_bytes(image.data)
        lines.append(dump_line(row_from_sample(sample, names)))
    (folder / "rows.jsonl").write_text("".join(lines), encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_states_its_facts(name: str) -> None:
    found = task(name)
    doc = shelves.load("tasks", name).__doc__ or ""
    assert (
        found.source.startswith("https://")
        and "Licence:" in doc
        and "Revision:" in doc
        and "Link:" in doc
    )
    assert found.source in doc
    assert found.revision is None or len(found.revision) == 40
    if "licence" in found.unverified:
        assert "unverified" in doc or "not stated" in doc or "none stated" in doc
    else:
        assert "(unverified)" not in doc
    assert (found.access == "open") == (found.agreement is None)
    assert found.prompt and found.original and found.resolve
    assert {sample.meta.kind for sample in found.twin(0)} <= KINDS
    assert found.twin(0) == found.twin(0)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_gives_the_samples_that_were_written_to_it(name: str, tmp_path: Path) -> None:
    found = task(name)
    twin = list(found.twin(0))
    write(tmp_path / name, twin)
    read = list(found.samples(tmp_path))
    assert [
        replace(s, images=(), meta=replace(s.meta, access="open", agreement=None))
        for s in read
        if isinstance(s, Sample)
    ] == [replace(s, images=()) for s in twin]
    assert all(
        s.meta.access == found.access and s.meta.agreement == found.agreement
        for s in read
        if isinstance(s, Sample)
    )
    assert found.resolve and (found.resolve(tmp_path) or "").startswith("sha256:")


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_without_the_data_says_how_to_make_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"no folder {name}.*lingshu build {name} SOURCE"):
        task(name).samples(tmp_path)
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="holds none of"):
        task(name).samples(tmp_path)


def test_what_is_under_an_agreement_stays_under_it_whatever_its_rows_say(tmp_path: Path) -> None:
    found = task("mimic_cxr")
    write(tmp_path / "mimic_cxr", list(found.twin(0)))  # its rows say "open"
    for sample in found.samples(tmp_path):
        assert isinstance(sample, Sample)
        assert "physionet-mimic-cxr" in (
            refusal(sample, "https://example.org/v1", Release(private=True)) or ""
        )
        assert (
            refusal(sample, "https://example.org/v1", Release(frozenset({"physionet-mimic-cxr"})))
            is None
        )


def test_a_private_row_of_an_open_benchmark_stays_private(tmp_path: Path) -> None:
    (tmp_path / "pubmedqa").mkdir()
    (tmp_path / "pubmedqa" / "rows.jsonl").write_text('{"question": "Is it?", "answer": "yes"}\n')
    (sample,) = task("pubmedqa").samples(tmp_path)
    assert isinstance(sample, Sample) and refusal(sample, "https://example.org/v1", Release())


def test_files_that_nobody_verified_are_private(tmp_path: Path) -> None:
    row = {"question": "Q?", "options": {"A": "one", "B": "two"}, "answer_idx": "A"}
    folder = tmp_path / "medqa_usmle"
    folder.mkdir()
    (folder / "phrases_no_exclude_test.jsonl").write_text(dump_line(row))
    (sample,) = task("medqa_usmle").samples(tmp_path)
    assert isinstance(sample, Sample) and (sample.meta.access, sample.meta.deidentified) == (
        "private",
        None,
    )
    assert refusal(sample, "https://example.org/v1", Release())
    build("medqa_usmle", folder, out=tmp_path / "built")
    (sample,) = task("medqa_usmle").samples(tmp_path / "built")
    assert isinstance(sample, Sample) and (sample.meta.access, sample.meta.deidentified) == (
        "open",
        True,
    )


def test_files_under_an_agreement_stay_under_it(tmp_path: Path) -> None:
    study = {"image_path": ["a.png"], "section_findings": "Clear.", "section_impression": ""}
    folder = tmp_path / "mimic_cxr"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"x")
    (folder / "ReXRank_MIMICCXR_test.json").write_text(json.dumps({"s1": study}))
    (sample,) = task("mimic_cxr").samples(tmp_path)
    assert isinstance(sample, Sample) and (sample.meta.access, sample.meta.agreement) == (
        "credentialed",
        "physionet-mimic-cxr",
    )


@pytest.mark.parametrize("change", ["edit", "remove", "unlisted"])
def test_a_built_folder_that_was_changed_is_refused(change: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    row = {"question": "Q?", "options": {"A": "one", "B": "two"}, "answer_idx": "A"}
    (source / "phrases_no_exclude_test.jsonl").write_text(dump_line(row))
    build("medqa_usmle", source, out=tmp_path)
    rows, manifest = (
        tmp_path / "medqa_usmle" / "rows.jsonl",
        tmp_path / "medqa_usmle" / "manifest.json",
    )
    if change == "edit":
        rows.write_text(rows.read_text().replace('"A"', '"B"'))
    elif change == "remove":
        rows.unlink()
    else:
        manifest.write_text('{"files": {}}')
    with pytest.raises(ArtefactError, match=r"rows\.jsonl"):
        task("medqa_usmle").samples(tmp_path)


def exam(*files: str, folder: Path, row: dict) -> None:
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dump_line(row))


@pytest.mark.parametrize("test", ["test.jsonl", "data/medqa_mcmle_test.jsonl", "zh/test.json"])
def test_only_the_test_split_is_read(test: str, tmp_path: Path) -> None:
    row = {"question": "Q?", "options": {"A": "one", "B": "two"}, "answer_idx": "A"}
    exam(
        test,
        "train.jsonl",
        "data/dev.jsonl",
        "latest.jsonl",
        folder=tmp_path / "medqa_mcmle",
        row=row,
    )
    assert len(list(task("medqa_mcmle").samples(tmp_path))) == 1


def test_files_that_say_the_same_are_read_once(tmp_path: Path) -> None:
    folder = tmp_path / "cmexam"
    folder.mkdir()
    for name in ("test.csv", "test_with_annotations.csv"):
        (folder / name).write_text('Question,Options,Answer\nQ?,"A one\nB two",A\n')
    assert len([s for s in task("cmexam").samples(tmp_path) if isinstance(s, Sample)]) == 1


def test_several_files_of_which_one_is_meant_are_refused(tmp_path: Path) -> None:
    row = {"question": "Q?", "options": {"A": "one", "B": "two"}, "answer_idx": "A"}
    exam("a/test.jsonl", "b/test.jsonl", folder=tmp_path / "medqa_mcmle", row=row)
    with pytest.raises(InputError, match=r"a/test\.jsonl, b/test\.jsonl"):
        list(task("medqa_mcmle").samples(tmp_path))


def test_a_number_without_a_stated_one_says_which_list_it_is() -> None:
    found = task("mimic_cxr")
    assert "ReXrank" in (found.check_count(2347) or "") and "paper" in (
        found.check_count(2195) or ""
    )
    assert found.check_count(3) is None
    assert task("medframeqa").check_count(3) is None  # its number is not verified


def test_a_wrong_number_of_samples_names_both_numbers() -> None:
    found = task("mmlu_med")
    found.check_count(1871)
    with pytest.raises(
        InputError, match=r"1089 samples.*1871.*dropped: bad_choices 2.*six subjects"
    ):
        found.check_count(1089, {"bad_choices": 2})
    task("cmexam").check_count(3)  # no number is stated
    task("slake_en").check_count(3)  # a number that is not verified is not held against the data


def test_suites_name_tasks_and_never_pool_what_overlaps() -> None:
    assert set(SUITES) == {"paper_multimodal", "paper_text", "paper_report", "all", "smoke"}
    for members in SUITES.values():
        assert len(set(members)) == len(members) and set(members) <= set(NAMES)
        assert len([m for m in members if m.startswith("healthbench")]) <= 1
        assert len([m for m in members if m.startswith("slake")]) <= 1
    parts = {
        "slake_en",
        "slake_zh",
        "healthbench_hard",
        "healthbench_consensus",
        "psv2026",
        "psv2026_own",
    }
    assert set(SUITES["all"]) == set(NAMES) - parts
