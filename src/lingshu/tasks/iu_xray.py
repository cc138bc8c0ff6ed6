"""IU X-ray, the test list of ReXrank: 590 studies with 1,180 images, findings and impression to be
written.

Licence: CC BY-NC-ND 4.0 (unverified). Revision: the files in hand. Link:
https://openi.nlm.nih.gov/faq?download=true List: ReXRank_IUXray_test.json of
https://github.com/rajpurkarlab/ReXrank. XXXX in a report is the source's de-identification.
"""

from __future__ import annotations

from lingshu.scoring import report, token_f1
from lingshu.sources.hub import Repo
from lingshu.tasks import _reports
from lingshu.tasks._reports import row
from lingshu.tasks._shared import benchmark
from lingshu.tasks._twins import pictures

__all__ = ["TASK", "row"]

TASK = benchmark(
    "iu_xray",
    title="IU X-ray reports (ReXrank test)",
    repo=Repo(
        None,
        ("ReXRank_IUXray_test.json", "**/ReXRank_IUXray_test.json"),
        link="https://openi.nlm.nih.gov/faq?download=true",
    ),
    licence="CC-BY-NC-ND-4.0",
    unverified=("licence",),
    reader=_reports.reader,
    score=token_f1.score,
    twin=pictures("report", images=2),
    n=590,
    variants=((296, "the list that published numbers used, the task iu_xray_296"),),
    max_tokens=_reports.MAX_TOKENS,
    metrics=report.METRICS,
)
