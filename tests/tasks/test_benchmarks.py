"""What every published benchmark states of itself, and that it reads a folder of its own without
the hub.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lingshu.cli.build import build
from lingshu.core import registry
from lingshu.core.data_policy import refusal_reason
from lingshu.core.errors import ArtifactError, InputError
from lingshu.core.files import dump_line
from lingshu.core.registry import builtin_modules
from lingshu.core.rows import row_from_sample
from lingshu.core.types import DataPolicy, Sample, Task
from lingshu.evaluate.data import SUITES

NAMES = sorted(set(builtin_modules("tasks")) - {"phantom", "vqa"})
KINDS = {"choice", "yes_no", "closed", "open", "report", "rubric"}


def load_task(name: str) -> Task:
    task = registry.get_attribute("tasks", name, "TASK")
    assert isinstance(task, Task)
    return task


def write_rows(folder: Path, samples: list[Sample]) -> None:
    """The samples as DIR/<task>/rows.jsonl with their images."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for sample in samples:
        names = [f"images/{sample.id}-{index}.png" for index in range(len(sample.images))]
        for name, image in zip(names, sample.images, strict=True):
            assert image.data
            (folder / name).write_bytes(image.data)
        lines.append(dump_line(row_from_sample(sample, names)))
    (folder / "rows.jsonl").write_text("".join(lines), encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_states_its_provenance(name: str) -> None:
    task = load_task(name)
    doc = registry.load("tasks", name).__doc__ or ""
    assert (
        task.provenance.source.startswith("https://")
        and "License:" in doc
        and "Revision:" in doc
        and "Link" in doc
    )
    assert task.provenance.source in doc
    assert task.provenance.revision is None or len(task.provenance.revision) == 40
    if "license" in task.provenance.unverified_fields:
        assert "unverified" in doc or "not stated" in doc or "none stated" in doc
    else:
        assert "(unverified)" not in doc
    assert (task.provenance.access == "open") == (task.provenance.agreement is None)
    assert task.prompt and task.read_original and task.resolve_revision
    assert {sample.meta.kind for sample in task.synthetic(0)} <= KINDS
    assert task.synthetic(0) == task.synthetic(0)


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_gives_the_samples_that_were_written_to_it(name: str, tmp_path: Path) -> None:
    task = load_task(name)
    synthetic = list(task.synthetic(0))
    write_rows(tmp_path / name, synthetic)
    samples = list(task.samples(tmp_path))
    assert [
        replace(s, images=(), meta=replace(s.meta, access="open", agreement=None))
        for s in samples
        if isinstance(s, Sample)
    ] == [replace(s, images=()) for s in synthetic]
    assert all(
        s.meta.access == task.provenance.access and s.meta.agreement == task.provenance.agreement
        for s in samples
        if isinstance(s, Sample)
    )
    assert task.resolve_revision and (task.resolve_revision(tmp_path) or "").startswith("sha256:")


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_without_the_data_explains_how_to_make_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"no folder {name}.*lingshu build {name} SOURCE"):
        load_task(name).samples(tmp_path)
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match="holds none of"):
        load_task(name).samples(tmp_path)


def test_what_is_under_an_agreement_stays_under_it_whatever_its_rows_contain(
    tmp_path: Path,
) -> None:
    task = load_task("mimic_cxr")
    write_rows(tmp_path / "mimic_cxr", list(task.synthetic(0)))  # its rows say "open"
    for sample in task.samples(tmp_path):
        assert isinstance(sample, Sample)
        assert "physionet-mimic-cxr" in (
            refusal_reason(sample, "https://example.org/v1", DataPolicy(allow_private=True)) or ""
        )
        assert (
            refusal_reason(
                sample, "https://example.org/v1", DataPolicy(frozenset({"physionet-mimic-cxr"}))
            )
            is None
        )


def test_a_private_row_of_an_open_benchmark_stays_private(tmp_path: Path) -> None:
    (tmp_path / "pubmedqa").mkdir()
    (tmp_path / "pubmedqa" / "rows.jsonl").write_text('{"question": "Is it?", "answer": "yes"}\n')
    (sample,) = load_task("pubmedqa").samples(tmp_path)
    assert isinstance(sample, Sample) and refusal_reason(
        sample, "https://example.org/v1", DataPolicy()
    )


def test_files_that_nobody_verified_are_private(tmp_path: Path) -> None:
    row = {"question": "Q?", "options": {"A": "one", "B": "two"}, "answer_idx": "A"}
    folder = tmp_path / "medqa_usmle"
    folder.mkdir()
    (folder / "phrases_no_exclude_test.jsonl").write_text(dump_line(row))
    (sample,) = load_task("medqa_usmle").samples(tmp_path)
    assert isinstance(sample, Sample) and (sample.meta.access, sample.meta.deidentified) == (
        "private",
        None,
    )
    assert refusal_reason(sample, "https://example.org/v1", DataPolicy())
    build("medqa_usmle", folder, out=tmp_path / "built")
    (sample,) = load_task("medqa_usmle").samples(tmp_path / "built")
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
    (sample,) = load_task("mimic_cxr").samples(tmp_path)
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
    with pytest.raises(ArtifactError, match=r"rows\.jsonl"):
        load_task("medqa_usmle").samples(tmp_path)


def write_exam(*files: str, folder: Path, row: dict) -> None:
    for name in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dump_line(row))


@pytest.mark.parametrize("test", ["test.jsonl", "data/medqa_mcmle_test.jsonl", "zh/test.json"])
def test_only_the_test_split_is_read(test: str, tmp_path: Path) -> None:
    row = {"question": "Q?", "options": {"A": "one", "B": "two"}, "answer_idx": "A"}
    write_exam(
        test,
        "train.jsonl",
        "data/dev.jsonl",
        "latest.jsonl",
        folder=tmp_path / "medqa_mcmle",
        row=row,
    )
    assert len(list(load_task("medqa_mcmle").samples(tmp_path))) == 1


def test_files_that_have_equal_content_are_read_once(tmp_path: Path) -> None:
    folder = tmp_path / "cmexam"
    folder.mkdir()
    for name in ("test.csv", "test_with_annotations.csv"):
        (folder / name).write_text('Question,Options,Answer\nQ?,"A one\nB two",A\n')
    assert len([s for s in load_task("cmexam").samples(tmp_path) if isinstance(s, Sample)]) == 1


def test_ambiguous_files_are_refused(tmp_path: Path) -> None:
    row = {"question": "Q?", "options": {"A": "one", "B": "two"}, "answer_idx": "A"}
    write_exam("a/test.jsonl", "b/test.jsonl", folder=tmp_path / "medqa_mcmle", row=row)
    with pytest.raises(InputError, match=r"a/test\.jsonl, b/test\.jsonl"):
        list(load_task("medqa_mcmle").samples(tmp_path))


def test_a_count_without_a_reference_names_the_list_that_it_matches() -> None:
    task = load_task("mimic_cxr")
    assert "ReXrank" in (task.provenance.check_count(task.name, 2347) or "") and "paper" in (
        task.provenance.check_count(task.name, 2195) or ""
    )
    assert task.provenance.check_count(task.name, 3) is None
    assert (
        load_task("medframeqa").provenance.check_count("medframeqa", 3) is None
    )  # its number is not verified


def test_a_wrong_number_of_samples_names_both_numbers() -> None:
    task = load_task("mmlu_med")
    task.provenance.check_count(task.name, 1871)
    with pytest.raises(
        InputError, match=r"1089 samples.*1871.*dropped: bad_choices 2.*six subjects"
    ):
        task.provenance.check_count(task.name, 1089, {"bad_choices": 2})
    load_task("cmexam").provenance.check_count("cmexam", 3)  # no number is stated
    load_task("slake_en").provenance.check_count(
        "slake_en", 3
    )  # a number that is not verified is not held against the data


def test_suites_name_tasks_and_never_pool_what_overlaps() -> None:
    assert set(SUITES) == {"paper_multimodal", "paper_text", "paper_report", "all", "smoke"}
    for names in SUITES.values():
        assert len(set(names)) == len(names) and set(names) <= set(NAMES)
        assert len([name for name in names if name.startswith("healthbench")]) <= 1
        assert len([name for name in names if name.startswith("slake")]) <= 1
    excluded = {
        "slake_en",
        "slake_zh",
        "healthbench_hard",
        "healthbench_consensus",
        "psv2026",
        "psv2026_own",
    }
    assert set(SUITES["all"]) == set(NAMES) - excluded
