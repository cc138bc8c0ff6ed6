"""The curation recipes: phantoms in full, a hospital's folder on synthetic DICOM files, and the
paper's pipeline as it stands.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lingshu.core.artifacts import read_dataset
from lingshu.curate.config import Source
from lingshu.curate.plan import plan_passes, resolve, with_step_seeds
from lingshu.curate.run import CurateOptions, curate
from lingshu.recipes import curation_local, curation_paper, curation_phantom
from lingshu.sources.phantom import training_samples


@pytest.mark.parametrize("purpose", ["text", "instruct"])
def test_phantoms_come_out_as_they_were_rendered(purpose: str, tmp_path: Path) -> None:
    done = curate(curation_phantom.recipe(purpose=purpose, images=24, first=5), tmp_path / "out")
    samples = list(training_samples(0, 24, purpose, first=5))
    found = list(read_dataset(tmp_path / "out"))
    assert done.card.rows == 24 and [s.id for s in found] == [f"phantom/{s.id}" for s in samples]
    assert [s.messages for s in found] == [s.messages for s in samples]


def test_a_hospitals_folder_becomes_an_instruction_set_without_names(tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="pydicom is not installed")
    from tests.support.dicom_files import IDENTIFIERS, dicom_with_identifiers

    (tmp_path / "scans").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (96, 96), np.uint8)
    (tmp_path / "scans" / "JANE_DOE.dcm").write_bytes(dicom_with_identifiers(pixels, Modality="CT"))
    config = curation_local.recipe()
    scans = replace(config.sources[0], path=str(tmp_path / "scans"))
    done = curate(
        replace(config, sources=(scans, config.sources[1]), workers=0),
        tmp_path / "out",
        CurateOptions(explain=True),
    )
    assert done.card.rows == 1 and not done.failures
    for path in (p for p in (tmp_path / "out").rglob("*") if p.is_file()):
        data = path.read_bytes()
        assert not [
            secret
            for secret in (*IDENTIFIERS.values(), "1.2.826.99001", "JANE_DOE")
            if secret.encode() in data
        ], path.name


def test_the_papers_pipeline_is_complete_and_runs_on_available_data(tmp_path: Path) -> None:
    config = resolve(curation_paper.recipe())
    tables = [
        found.table_step.name for found in plan_passes(with_step_seeds(config)) if found.table_step
    ]
    assert tables == [
        "image_dedup",
        "image_dedup_inside",
        "caption_dedup",
        "text_dedup",
        "decontaminate",
        "mix",
    ]
    assert (
        all(source.optional and source.path is None for source in config.sources)
        and len(config.sources) > 20
    )
    prompts = (
        (
            "Which antibiotic is given first to an adult with pneumonia acquired outside of a"
            " hospital?"
        ),
        (
            "Name the nerve that is most often hurt when the shaft of the humerus breaks in its"
            " middle third."
        ),
        (
            "What does a widened mediastinum on a supine chest film after a fall from height"
            " suggest at first?"
        ),
        (
            "At which gestational week is the screening for diabetes of pregnancy usually done, and"
            " by which test?"
        ),
    )
    rows = [
        {"id": str(n), "question": text, "answer": text.split()[-2]}
        for n, text in enumerate(prompts)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "test.jsonl").write_text(json.dumps(rows[2]))
    mine = tuple(
        (
            Source(s.name, "jsonl", str(tmp_path / "rows.jsonl"), license="MIT", access="open")
            if s.name == "medqa"
            else s
        )
        for s in config.sources
    )
    steps = tuple(
        (
            replace(s, params={**s.params, "against": [str(tmp_path / "test.jsonl")]})
            if s.name == "decontaminate"
            else s
        )
        for s in config.steps
    )
    done = curate(replace(config, sources=mine, steps=steps, workers=0), tmp_path / "out")
    assert done.card.rows == 3 and list(done.card.drops.values()) == [1]
