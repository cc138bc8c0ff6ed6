"""MedQA: choices of the licensing exams of the United States (USMLE) and of China (MCMLE).

License: MIT (unverified) for USMLE; for MCMLE not stated. Revision: resolved at download. Links:
https://huggingface.co/datasets/GBaker/MedQA-USMLE-4-options and
https://huggingface.co/datasets/shuyuej/MedQA-MCMLE-Benchmark

Of MCMLE only files of a test split are read; their names and their number of rows are not verified
(MedQA itself states 3,426 for mainland China), and the options are shown with their letters.
"""

from lingshu.sources.hub import HubRepo
from lingshu.tasks import benchmark, convert_exam_row, text_choice_samples

VARIANTS = {
    "medqa_mcmle": "MedQA-MCMLE: choices of the Chinese licensing exam; the options are shown with"
    " their letters.",
    "medqa_usmle": "MedQA-USMLE: 1,273 choices of four in the style of the United States licensing"
    " exam.",
}
convert_row = convert_exam_row
MCMLE_FILES = tuple(
    f"**/{name}.{suffix}"
    for suffix in ("jsonl", "json", "parquet")
    for name in ("test*", "*[-_]test*", "test/*")
)
TASKS = {
    "medqa_mcmle": benchmark(
        "medqa_mcmle", title="MedQA (MCMLE)", license="not stated", unverified=("license", "files"),
        repo=HubRepo("shuyuej/MedQA-MCMLE-Benchmark", MCMLE_FILES, single_table=True),
        convert_row=convert_row, synthetic=text_choice_samples(4, language="zh"), language="zh",
    ),
    "medqa_usmle": benchmark(
        "medqa_usmle", title="MedQA (USMLE, four options)", license="MIT", unverified=("license",),
        repo=HubRepo("GBaker/MedQA-USMLE-4-options", ("phrases_no_exclude_test.jsonl",)),
        convert_row=convert_row, synthetic=text_choice_samples(4), expected_n=1273,
        published=("textual", "MedQA-USMLE"),
    ),
}  # fmt: skip
