"""IU X-ray, the list behind the published numbers: 296 studies with 607 images, which are ReXrank's
validation split.

Licence: CC BY-NC-ND 4.0 (unverified). Revision: the files in hand. Link:
https://openi.nlm.nih.gov/faq?download=true List: test.json with id, image, findings, impression, or
ReXRank_IUXray_valid.json. 122 references hold XXXX for removed words.
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
    "iu_xray_296",
    title="IU X-ray reports (the 296 of published numbers)",
    repo=HubRepo(
        None,
        ("test.json", "**/ReXRank_IUXray_valid.json"),
        link="https://openi.nlm.nih.gov/faq?download=true",
    ),
    license="CC-BY-NC-ND-4.0",
    unverified_fields=("license",),
    reader=_reports.reader,
    score=token_f1.score,
    synthetic=image_samples("report", n_images=2),
    expected_n=296,
    variants=((590, "ReXrank's test list, the task iu_xray"),),
    max_tokens=_reports.MAX_TOKENS,
    metrics=report.METRICS,
)
