"""IU X-ray, the test list of ReXrank: 590 studies with 1,180 images, findings and impression to be
written.

Licence: CC BY-NC-ND 4.0 (unverified). Revision: the files in hand. Link:
https://openi.nlm.nih.gov/faq?download=true List: ReXRank_IUXray_test.json of
https://github.com/rajpurkarlab/ReXrank. XXXX in a report is the source's de-identification.
"""

from __future__ import annotations

from lingshu.scoring import report, token_f1
from lingshu.sources.hub import HubRepo
from lingshu.tasks import _reports
from lingshu.tasks._benchmark import benchmark
from lingshu.tasks._reports import convert_row
from lingshu.tasks._synthetic import image_samples

__all__ = ["TASK", "convert_row"]

TASK = benchmark(
    "iu_xray",
    title="IU X-ray reports (ReXrank test)",
    repo=HubRepo(
        None,
        ("ReXRank_IUXray_test.json", "**/ReXRank_IUXray_test.json"),
        link="https://openi.nlm.nih.gov/faq?download=true",
    ),
    license="CC-BY-NC-ND-4.0",
    unverified_fields=("license",),
    reader=_reports.reader,
    score=token_f1.score,
    synthetic=image_samples("report", n_images=2),
    expected_n=590,
    variants=((296, "the list that published numbers used, the task iu_xray_296"),),
    max_tokens=_reports.MAX_TOKENS,
    metrics=report.METRICS,
)
