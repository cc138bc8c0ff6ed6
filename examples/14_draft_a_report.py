"""Draft the report of a study and write it as DICOM SR, FHIR and Markdown: python
14_draft_a_report.py MODEL STUDY OUT
"""

import sys
from pathlib import Path

from lingshu.apps._answering import answer, question_sample
from lingshu.apps._drafting import PROMPTS, draft_of, export
from lingshu.apps._looking import View, look
from lingshu.apps.models import engine_for
from lingshu.core.nouns import Sampling
from lingshu.core.options import EngineOptions
from lingshu.imaging.reference import study_reference
from lingshu.imaging.seen import in_words


def main(model: str, study: str, out: str) -> None:
    looked = look([Path(study)], View(windows=("lung", "soft"), slices=4))
    sample = question_sample(PROMPTS["en"], looked)
    found = answer(engine_for(model, EngineOptions()), sample, looked, Sampling(max_tokens=64))
    draft = draft_of(found, "en")
    # The one place that names a patient: it is needed to store the SR beside the study.
    reference = study_reference(looked.files)
    Path(out).mkdir(parents=True, exist_ok=True)
    Path(out, "report.dcm").write_bytes(export(draft, "sr", reference))
    Path(out, "report.fhir.json").write_bytes(export(draft, "fhir", None))
    Path(out, "report.md").write_bytes(export(draft, "md", None))
    print("\n".join([*in_words(looked.seen), found.notice]))


if __name__ == "__main__":
    main(*sys.argv[1:])
