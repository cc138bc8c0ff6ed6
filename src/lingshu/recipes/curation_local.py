"""A hospital's own folder: DICOM files and reports become an instruction set without identifiers.

Give `sources.scans.path=FOLDER`, and `sources.scans.options.reports=TABLE` where there are reports,
and `...questions=TABLE` where there are questions. The result stays private: rules cannot prove
that nothing was missed, and a person has to review a dataset before it leaves the hospital.
docs/your-hospital.md is the full guide.
"""

from dataclasses import replace

from lingshu.core.prompts import REPORT
from lingshu.curate.config import CurateConfig, Source, StepConfig


def recipe() -> CurateConfig:
    """Hold back burned-in text, scrub texts, drop copies, and hold out every twentieth patient.

    Held out means noted as such: run it twice, with steps.split.params.keep=train and =validation,
    for two datasets. Reports are requested with the prompt of `lingshu draft`. Ids are hashes under
    the key of `--key FILE`; without one they cannot be linked to those of another run. Every image
    is encoded again, so that nothing but its pixels remains of its file.
    """
    scans = Source(
        "scans", "dicom_folder", options={"question": REPORT}, license="own", access="private",
        deidentified=False,
    )  # fmt: skip
    image_files = replace(
        scans, name="pictures", reader="folders", options={"names": "hash"}, optional=True
    )
    length = {"kinds": ["report", "caption"], "min_tokens": 3, "max_tokens": 2048}
    return CurateConfig(
        name="local",
        sources=(scans, image_files),
        steps=(
            StepConfig("size", "image_size", {"min_side": 64, "require_image": True}),
            # A quarantine, not a proof: a person can review what is held back in drops.jsonl.
            StepConfig("burned_in", "burned_in_text", {"dicom": "likely"}),
            StepConfig("scrub", "scrub_identifiers"),
            StepConfig("modality", "tag_modality"),
            StepConfig("language", "language"),
            StepConfig("length", "text_length", length),
            StepConfig("dedup", "image_dedup", {"unit": "image_text"}),
            StepConfig("split", "split_by_group", {"validation": 0.05}),
        ),
        image_format="png",
    )
