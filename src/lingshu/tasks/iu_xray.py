"""IU X-ray: chest X-rays with findings and impression to be written, by two lists of studies.

License: CC BY-NC-ND 4.0 (unverified). Revision: the files in hand. Link:
https://openi.nlm.nih.gov/faq?download=true

Lists: ReXRank_IUXray_test.json of https://github.com/rajpurkarlab/ReXrank; for the 296 studies
test.json with id, image, findings, impression, or ReXRank_IUXray_valid.json. XXXX in a report is
the source's de-identification; 122 of the 296 references have it.
"""

from lingshu.sources.hub import HubRepo
from lingshu.tasks._reports import convert_row, report_benchmark

__all__ = ["TASKS", "VARIANTS", "convert_row"]
VARIANTS = {
    "iu_xray": "IU X-ray, the test list of ReXrank: 590 studies with 1,180 images, findings and"
    " impression to be written.",
    "iu_xray_296": "IU X-ray, the list behind the published numbers: 296 studies with 607 images,"
    " which are ReXrank's validation split.",
}
LINK = "https://openi.nlm.nih.gov/faq?download=true"
TASKS = {
    "iu_xray": report_benchmark(
        "iu_xray", title="IU X-ray reports (ReXrank test)", license="CC-BY-NC-ND-4.0",
        repo=HubRepo(None, ("ReXRank_IUXray_test.json", "**/ReXRank_IUXray_test.json"), link=LINK),
        unverified=("license",), expected_n=590,
        known_counts=((296, "the list that published numbers used, the task iu_xray_296"),),
    ),
    "iu_xray_296": report_benchmark(
        "iu_xray_296", title="IU X-ray reports (the 296 of published numbers)",
        license="CC-BY-NC-ND-4.0", unverified=("license",), expected_n=296,
        repo=HubRepo(None, ("test.json", "**/ReXRank_IUXray_valid.json"), link=LINK),
        known_counts=((590, "ReXrank's test list, the task iu_xray"),),
    ),
}  # fmt: skip
