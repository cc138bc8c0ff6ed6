"""A hospital's own folder: DICOM files and a table of reports become an instruction set without
names, numbers and dates.

Give `sources.scans.path=FOLDER`, and `sources.scans.options.reports=TABLE` where there are reports,
and `...questions=TABLE` where there are questions. What comes out stays private: rules cannot prove
that nothing was missed, and a person has to look before a dataset leaves the house.
docs/your-hospital.md goes the whole way.
"""

from __future__ import annotations

from lingshu.core.prompts import REPORT
from lingshu.curate.config import CurateConfig, Source, StepConfig


def recipe() -> CurateConfig:
    """Hold back burned-in text, scrub words, drop copies, and hold out every twentieth patient.

    Held out means noted as such: run it twice, with steps.split.params.keep=train and =validation,
    for two datasets. Reports are asked for in the words that `lingshu draft` asks in. Ids are
    hashes under the key of `--key FILE`; without one they cannot be linked to those of another run.
    Every image is written anew, so that nothing but its pixels is left of its file.
    """
    return CurateConfig(
        name="local",
        sources=(
            Source(
                "scans",
                "dicom_folder",
                options={"question": REPORT},
                access="private",
                deidentified=False,
                license="own",
            ),
            Source(
                "pictures",
                "folders",
                options={"names": "hash"},
                access="private",
                deidentified=False,
                license="own",
                optional=True,
            ),
        ),
        steps=(
            StepConfig("size", "image_size", {"min_side": 64, "require_image": True}),
            # A quarantine, not a proof: what is held back is listed in drops.jsonl for a person to
            # go through.
            StepConfig("burned_in", "burned_in_text", {"dicom": "likely"}),
            StepConfig("scrub", "scrub_identifiers"),
            StepConfig("modality", "tag_modality"),
            StepConfig("language", "language"),
            StepConfig(
                "length",
                "text_length",
                {"kinds": ["report", "caption"], "min_tokens": 5, "max_tokens": 2048},
            ),
            StepConfig("dedup", "image_dedup", {"unit": "image_text"}),
            StepConfig("split", "split_by_group", {"validation": 0.05}),
        ),
        image_format="png",
    )
