"""Named sets of benchmarks, for `lingshu eval MODEL SUITE`: values only, no recipe of a training
run.

The three paper suites are the columns of the Lingshu paper's tables. A suite never holds two sets
that share questions:
SLAKE is asked as one task and HealthBench as the full set, while their parts are tasks of their
own. PSV2026 asks the questions of PathVQA, SLAKE and VQA-RAD once more, and is in none.
"""

from __future__ import annotations

PAPER_MULTIMODAL = (
    "mmmu_med_test",
    "vqa_rad",
    "slake",
    "path_vqa",
    "pmc_vqa",
    "omnimedvqa",
    "medxpertqa_mm",
)
PAPER_TEXT = (
    "mmlu_med",
    "pubmedqa",
    "medmcqa",
    "medqa_usmle",
    "medbullets_op4",
    "medbullets_op5",
    "medxpertqa_text",
    "supergpqa_med",
)
PAPER_REPORT = ("mimic_cxr", "chexpert_plus", "iu_xray_296")
ADDITIONAL = (
    "mmmu_med_val",
    "pmc_vqa_clean",
    "medframeqa",
    "rad_restruct",
    "medqa_mcmle",
    "cmb",
    "cmexam",
    "cmmlu_med",
    "healthbench",
    "iu_xray",
)

SUITES: dict[str, tuple[str, ...]] = {
    "paper_multimodal": PAPER_MULTIMODAL,
    "paper_text": PAPER_TEXT,
    "paper_report": PAPER_REPORT,
    "all": (*PAPER_MULTIMODAL, *PAPER_TEXT, *PAPER_REPORT, *ADDITIONAL),
    # Small, open, no judge: one benchmark of each kind of question.
    "smoke": ("vqa_rad", "slake", "mmmu_med_val", "pubmedqa", "medqa_usmle", "iu_xray"),
}
