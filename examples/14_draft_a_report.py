"""Draft the report of a study and write it as DICOM SR, FHIR and Markdown: python
14_draft_a_report.py MODEL STUDY OUT
"""

import sys
from pathlib import Path

from lingshu.core.types import EngineOptions, Sampling
from lingshu.imaging.dicom.references import read_study_reference
from lingshu.imaging.provenance import format_provenance
from lingshu.inference.answer import answer, build_question_sample
from lingshu.inference.draft_report import PROMPTS, build_draft, export_draft
from lingshu.inference.engines import open_engine
from lingshu.inference.inputs import ViewOptions, load_inputs


def main(model: str, study: str, out: str) -> None:
    inputs = load_inputs([Path(study)], ViewOptions(window=("lung", "soft"), max_slices=4))
    sample = build_question_sample(PROMPTS["en"], inputs)
    result = answer(open_engine(model, EngineOptions()), sample, inputs, Sampling(max_tokens=64))
    draft = build_draft(result, "en")
    # The only place that names a patient; needed to store the SR with the study.
    reference = read_study_reference(inputs.dicom_files)
    Path(out).mkdir(parents=True, exist_ok=True)
    Path(out, "report.dcm").write_bytes(export_draft(draft, "sr", reference))
    Path(out, "report.fhir.json").write_bytes(export_draft(draft, "fhir", None))
    Path(out, "report.md").write_bytes(export_draft(draft, "md", None))
    print("\n".join([*format_provenance(inputs.image_provenance), result.notice]))


if __name__ == "__main__":
    main(*sys.argv[1:])
