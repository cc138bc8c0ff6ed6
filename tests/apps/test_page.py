"""The page's addresses: what is served without a key, what is told of studies, and what drafts,
reports and verdicts become.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import PIL.Image
import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed")
pydicom = pytest.importorskip("pydicom", reason="pydicom is not installed")

from lingshu.apps import _page_app  # noqa: E402
from lingshu.apps._page_app import Folders, Page  # noqa: E402
from lingshu.curate.review import read_verdicts  # noqa: E402
from lingshu.imaging._fhir_check import problems  # noqa: E402
from tests.apps._page_data import EVIL_NAME, SCANS, folders, speaking  # noqa: E402
from tests.apps._serving import Answer, Client, serving  # noqa: E402
from tests.imaging._dicoms import SECRETS  # noqa: E402

KEY = "a-key-of-sixteen-characters"
# The bare number of the MRN may stand in a hash by chance.
TELLING = tuple(secret for secret in SECRETS if secret != "4711")
REPLY = "Findings: Both lungs are clear. Impression: No finding."


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return folders(tmp_path)


@pytest.fixture
def client(page: Page) -> Iterator[Client]:
    with serving(speaking(REPLY), page=page) as asked:
        yield asked


def get(client: Client, path: str, **asked: object) -> Answer:
    return client.send("GET", f"/page/api/{path}?{urlencode(asked)}")


def post(client: Client, path: str, **body: object) -> Answer:
    return client.send(
        "POST", f"/page/api/{path}", json.dumps(body).encode(), Content_Type="application/json"
    )


def studies(client: Client) -> list[dict[str, Any]]:
    return get(client, "studies").json["studies"]


# --- files and the door
# -------------------------------------------------------------------------------------------


def test_the_page_and_its_files_run_nothing_but_themselves(client: Client) -> None:
    home = client.send("GET", "/")
    assert home.status == 200 and home.headers["content-type"].startswith("text/html")
    policy = home.headers["content-security-policy"]
    assert (
        "unsafe" not in policy
        and "default-src 'none'" in policy
        and "frame-ancestors 'none'" in policy
    )
    for name in re.findall(r'(?:src|href)="(/[^"]+)"', home.body.decode()):
        assert client.send("GET", name).headers["x-content-type-options"] == "nosniff"
    for file in _page_app.FILES.iterdir():
        text = file.read_text()
        assert text.count("\n") < 400
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|Function\(|https?://|localStorage|cookie",
            text,
        )
        assert not re.search(r"<[^>]+\s(?:on\w+|style)=|<script(?![^>]+src=)", text), file.name


def test_only_what_says_nothing_is_served_without_the_key(page: Page) -> None:
    with serving(speaking(REPLY), page=page, keys=(KEY,)) as client:
        assert [
            client.send("GET", path).status for path in ("/", "/page/app.js", "/page/page.css")
        ] == [200] * 3
        for path in ("about", "studies", "runs", "review", "slice?study=x"):
            assert client.send("GET", f"/page/api/{path}").status == 401
        about = client.send("GET", "/page/api/about", Authorization=f"Bearer {KEY}").json
        assert about["views"] == {"studies": True, "runs": True, "review": True} and about["notice"]
        body = json.dumps({"run": EVIL_NAME}).encode()
        url = client.send(
            "POST",
            "/page/api/runs/open",
            body,
            Content_Type="application/json",
            Authorization=f"Bearer {KEY}",
        ).json["url"]
        assert client.send("GET", url).status == 200  # a browser sends no key when it opens a page


def test_other_web_pages_are_refused(client: Client) -> None:
    body = json.dumps({"queue": "captions/review", "reviewer": "r"}).encode()
    json_from = {"Content_Type": "application/json", "Origin": "http://elsewhere.example"}
    assert client.send("POST", "/page/api/review/undo", body, **json_from).status == 403
    assert client.send("GET", "/page/api/studies", Sec_Fetch_Site="cross-site").status == 403
    assert (
        client.send("POST", "/page/api/review/undo", body, Content_Type="text/plain").status == 415
    )
    assert client.send("GET", "/", Host="evil.example").status == 421


def test_bad_bodies_are_refused_and_not_repeated(client: Client) -> None:
    for body in (
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        json.dumps({"run": "a", "ZZextra": 1}).encode(),
        json.dumps({"run": 7}).encode(),
    ):
        got = client.send("POST", "/page/api/runs/open", body, Content_Type="application/json")
        assert got.status == 400 and b"ZZextra" not in got.body


def test_the_page_is_no_part_of_the_described_interface(client: Client) -> None:
    assert not [
        path
        for path in client.send("GET", "/openapi.json").json["paths"]
        if path.startswith("/page") or path == "/"
    ]
    with serving(speaking(REPLY)) as bare:
        assert bare.send("GET", "/").status == 404


def test_a_page_without_folders_says_which_option_gives_them() -> None:
    with serving(speaking(REPLY), page=Page(Folders())) as client:
        for path, option in (("studies", "--root"), ("runs", "--runs"), ("review", "--review")):
            assert option in get(client, path).error["message"]


# --- studies
# ------------------------------------------------------------------------------------------------------


def test_studies_are_listed_in_order_and_without_identities(client: Client) -> None:
    answer = get(client, "studies")
    found = answer.json["studies"]
    ct = [one for one in found if one["modality"] == "CT"]
    assert [(one["rank"], one["of"], one["files"]) for one in ct] == [(1, 2, SCANS), (2, 2, SCANS)]
    assert len({one["patient"] for one in found}) == 2
    told = [answer.body, get(client, "study", study=ct[0]["id"]).body]
    told += [
        json.dumps(get(client, "slice", study=one["id"], series=1, place=1).headers).encode()
        for one in found
    ]
    assert not [
        secret for secret in (*TELLING, "img src") for text in told if secret.encode() in text
    ]


def test_a_slice_is_drawn_in_the_window_that_was_asked_for(client: Client) -> None:
    [study] = [one["id"] for one in studies(client) if one["rank"] == 2 and one["modality"] == "CT"]
    assert get(client, "study", study=study).json["series"][0]["images"] == SCANS
    middle = {}
    for window in ("file", "lung", "55,10", "0,4000"):
        got = get(client, "slice", study=study, series=1, place=4, window=window)
        middle[window] = PIL.Image.open(io.BytesIO(got.body)).convert("L").getpixel((32, 32))
        seen = json.loads(got.headers["x-lingshu-seen"])
        assert (seen["place"], seen["of"], seen["spacing"]) == (4, SCANS, [2.0, 1.0])
    assert seen["center"] == 0 and seen["width"] == 4000
    assert (
        middle["lung"] > middle["file"]
        and 120 < middle["55,10"] < 160
        and 120 < middle["0,4000"] < 145
    )


@pytest.mark.parametrize(
    "wrong",
    [{"series": 2}, {"series": 0}, {"series": "-1"}, {"place": 99}, {"place": 0}, {"place": "٣"}, {"window": "nonsense"}, {"window": "1,0"},
     {"study": "../../etc"}, {"study": ""}, {"series": "9" * 30}],
)  # fmt: skip
def test_what_is_not_there_is_refused(client: Client, wrong: dict[str, object]) -> None:
    asked = {"study": studies(client)[0]["id"], "series": 1, "place": 1, "window": "file", **wrong}
    got = get(client, "slice", **asked)
    assert got.status == 400 and got.error["message"]


# --- drafts
# -------------------------------------------------------------------------------------------------------


def drafted(client: Client, *images: dict[str, object], language: str = "en") -> dict[str, Any]:
    got = post(client, "drafts", images=list(images), language=language)
    assert got.status == 200, got.body
    return got.json


def of_study(client: Client) -> dict[str, object]:
    return {
        "study": next(one["id"] for one in studies(client) if one["modality"] == "CT"),
        "place": 2,
        "window": "lung",
    }


def exported(
    client: Client, made: dict[str, Any], form: str, *, patient: bool = False, **changed: str
) -> Answer:
    texts = {"findings": made["findings"], "impression": made["impression"], **changed}
    return post(client, "drafts/export", id=made["id"], form=form, patient=patient, **texts)


def test_a_draft_says_what_was_seen_and_names_nobody(client: Client) -> None:
    got = drafted(client, of_study(client), of_study(client))
    assert (got["findings"], got["impression"]) == ("Both lungs are clear.", "No finding.")
    assert got["status"] == "preliminary" and not got["verified"] and got["named"]
    assert [(one["item"], one["place"], one["window"]) for one in got["seen"]] == [
        (1, 2, "lung"),
        (2, 2, "lung"),
    ]
    assert not [secret for secret in TELLING if secret in json.dumps(got)]


def test_an_export_says_whether_a_person_changed_the_words(client: Client) -> None:
    made = drafted(client, of_study(client))
    plain = exported(client, made, "md").body.decode()
    assert (
        "Draft written by a machine; preliminary, not verified by a person." in plain
        and "Edited" not in plain
    )
    edited = exported(client, made, "md", impression="Pneumonia.").body.decode()
    assert (
        "Edited by a person; preliminary, not verified." in edited
        and "Pneumonia." in edited
        and "Research only" in edited
    )
    assert made["model_digest"][:16] in edited


def test_fhir_names_the_patient_only_where_asked_and_an_sr_always(client: Client) -> None:
    made = drafted(client, of_study(client))
    for patient in (False, True):
        fhir = exported(client, made, "fhir", patient=patient, findings="Clear. Edited.")
        assert not problems(fhir.json) and fhir.json["status"] == "preliminary"
        assert (b"ZZMRN-4711" in fhir.body) == patient and b"Edited by a person" in fhir.body
    sr = exported(client, made, "sr", findings="Clear. Edited.")
    assert sr.headers["content-disposition"] == 'attachment; filename="report.dcm"'
    data = pydicom.dcmread(io.BytesIO(sr.body))
    assert (data.PatientID, data.VerificationFlag, data.PreliminaryFlag) == (
        "ZZMRN-4711",
        "UNVERIFIED",
        "PRELIMINARY",
    )
    assert (
        b"Edited by a person; preliminary, not verified." in sr.body
        and data.CompletionFlagDescription.endswith("edited by a person")
    )


def test_a_draft_of_pictures_has_no_sr(client: Client) -> None:
    import base64

    from lingshu.imaging.read import png_bytes
    from tests.tiny import picture

    uri = "data:image/png;base64," + base64.b64encode(png_bytes(picture(1))).decode()
    made = drafted(client, {"data": uri}, of_study(client), language="zh")
    assert not made["named"] and made["language"] == "zh"
    assert "names its patient" in exported(client, made, "sr").error["message"]
    assert exported(client, made, "md", findings="", impression="").status == 400
    assert "no longer held" in exported(client, {**made, "id": "x"}, "md").error["message"]
    assert post(client, "drafts", images=[], language="en").status == 400
    assert "neither" in post(client, "drafts", images=[{}]).error["message"]
    assert post(client, "drafts", images=[{"data": "file:///etc/passwd"}]).status == 400


# --- reports
# ------------------------------------------------------------------------------------------------------


def test_a_report_is_shown_in_a_frame_that_reaches_nothing(client: Client, tmp_path: Path) -> None:
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "root")
    [run] = get(client, "runs").json["runs"]
    assert run["run"] == EVIL_NAME and run["tasks"] == [
        {"name": "t", "value": 0.5, "low": 0.4, "high": 0.6, "n": 90}
    ]
    url = post(client, "runs/open", run=run["run"]).json["url"]
    report = client.send("GET", url)
    assert b"Scores." in report.body
    policy = report.headers["content-security-policy"]
    assert (
        policy.startswith("sandbox allow-scripts; default-src 'none'")
        and "connect" not in policy
        and "same-origin" not in policy
    )
    assert client.send("GET", "/page/report/guessed").status == 404
    (tmp_path / "report.html").write_text("outside")
    for name in ("..", "../runs/..", "/etc", str(tmp_path), "", "nowhere", "a\0b"):
        assert post(client, "runs/open", run=name).status == 400


def test_one_odd_folder_does_not_hide_the_others(client: Client, tmp_path: Path) -> None:
    # Of another encoding than this system's, and with numbers that JSON does not know.
    odd = tmp_path / "runs" / os.fsdecode(b"\xb1\xa8\xb8\xe6")
    odd.mkdir()
    (odd / "report.html").write_text("A report")
    linked = tmp_path / "runs" / "linked"
    linked.mkdir()
    (linked / "report.html").write_text("A report")
    (tmp_path / "outside.json").write_text('{"model": "ZZQUX", "tasks": []}')
    (linked / "report.json").symlink_to(tmp_path / "outside.json")
    (odd / "report.json").write_text(
        '{"model": "\\ud800", "tasks": [{"name": "t", "summary": {"accuracy": {"value": NaN}}}]}'
    )
    found = {one["run"]: one for one in get(client, "runs").json["runs"]}
    assert (
        EVIL_NAME in found
        and found["????"]["model"] == "?"
        and found["????"]["tasks"][0]["value"] is None
    )
    assert found["linked"]["model"] is None


# --- review
# -------------------------------------------------------------------------------------------------------

QUEUE = "captions/review"


def judge(client: Client, name: str, reviewer: str = "reader one", **verdict: str) -> Answer:
    return post(client, "review/verdicts", queue=QUEUE, reviewer=reviewer, id=name, **verdict)


def test_verdicts_are_written_as_curation_reads_them(client: Client, tmp_path: Path) -> None:
    [found] = get(client, "review").json["queues"]
    assert (found["queue"], found["name"], found["rows"]) == (QUEUE, "captions", 4)
    assert judge(client, "s0", verdict="accept").status == 200
    judge(client, "s0", verdict="edit", text=" Better. ")
    judge(client, "s1", verdict="reject", reason="wrong side or place")
    got = judge(client, "s2", verdict="prefer", side="a").json
    assert got["mine"]["s2"]["side"] == "a" and got["reviewers"] == {"reader one": 3}
    file = tmp_path / "review" / got["file"]
    assert file.parent.name == "captions.verdicts" and len(file.read_text().splitlines()) == 4
    one, two, three = read_verdicts([file])
    assert (one.id, one.verdict, one.text) == ("s0", "edit", "Better.") and (
        two.verdict,
        two.reason,
    ) == ("reject", "wrong side or place")
    shown = get(client, "review/queue", queue=QUEUE, reviewer="reader one").json["rows"][2]["texts"]
    assert (three.prefer == "first") == shown[0].startswith("text 2")


def test_neither_side_tells_which_text_came_first(client: Client) -> None:
    places = set()
    for reviewer in map(str, range(12)):
        rows = get(client, "review/queue", queue=QUEUE, reviewer=reviewer).json["rows"]
        assert not {"first", "second", "source"} & rows[2].keys()
        again = get(client, "review/queue", queue=QUEUE, reviewer=reviewer).json["rows"]
        assert again == rows
        places.add(rows[2]["texts"][0].startswith("text"))
    assert places == {True, False}


def test_undoing_takes_the_last_verdict_back_and_no_one_elses(
    client: Client, tmp_path: Path
) -> None:
    judge(client, "s0", verdict="accept")
    judge(client, "s0", verdict="reject", reason="no")
    judge(client, "s0", reviewer="读片者 乙", verdict="accept")
    body = {"queue": QUEUE, "reviewer": "reader one"}
    got = post(client, "review/undo", **body).json
    assert got["undone"] == "s0" and got["mine"]["s0"]["verdict"] == "accept"
    assert post(client, "review/undo", **body).json["mine"] == {}
    assert "nothing to undo" in post(client, "review/undo", **body).error["message"]
    assert get(client, "review/queue", queue=QUEUE, reviewer="读片者 乙").json["reviewers"] == {
        "读片者 乙": 1
    }


def test_agreement_is_told_of_what_two_reviewers_both_judged(client: Client) -> None:
    for name, verdict in (("s0", "accept"), ("s1", "accept")):
        judge(client, name, verdict=verdict)
        judge(client, name, reviewer="two", verdict=verdict)
    judge(client, "s1", reviewer="two", verdict="reject", reason="no")
    [pair] = get(client, "review/queue", queue=QUEUE, reviewer="two").json["agreement"]
    assert (pair["reviewers"], pair["n"], pair["agree"]) == (["reader one", "two"], 2, 0.5)


@pytest.mark.parametrize(
    ("name", "verdict", "says"),
    [
        ("s0", {"verdict": "edit", "text": "  "}, "needs its text"),
        ("s0", {"verdict": "reject"}, "needs its reason"),
        ("s0", {"verdict": "prefer", "side": "a"}, "between two texts"),
        ("s2", {"verdict": "accept"}, "two texts"),
        ("none", {"verdict": "accept"}, "no such sample"),
    ],
)
def test_a_verdict_that_says_too_little_is_refused(
    client: Client, tmp_path: Path, name: str, verdict: dict[str, str], says: str
) -> None:
    assert says in judge(client, name, **verdict).error["message"]
    assert not (tmp_path / "review" / "captions.verdicts").exists()


def test_reviewers_and_images_stay_within_the_folder(client: Client, tmp_path: Path) -> None:
    for name in ("", " ", "a\nb\x07", "x" * 81):
        assert get(client, "review/queue", queue=QUEUE, reviewer=name).status == 400
    judge(client, "s0", reviewer="../../x", verdict="accept")
    assert next((tmp_path / "review" / "captions.verdicts").iterdir()).name.startswith("x-")
    assert (
        get(client, "review/image", queue=QUEUE, id="s1", image=0).headers["content-type"]
        == "image/png"
    )
    for wrong in ({"image": 1}, {"id": "s9"}, {"queue": ".."}, {"queue": "/etc"}, {"image": "-1"}):
        assert (
            get(client, "review/image", **{"queue": QUEUE, "id": "s1", "image": 0, **wrong}).status
            == 400
        )
    queue = tmp_path / "review" / QUEUE / "queue.jsonl"
    (tmp_path / "secret.png").write_bytes(b"x")
    queue.write_text(
        json.dumps(
            {
                "id": "s",
                "kind": "k",
                "question": "q",
                "first": "f",
                "images": ["../../../secret.png"],
            }
        )
        + "\n"
    )
    assert get(client, "review/image", queue=QUEUE, id="s", image=0).status == 400
    # One that cannot be read does not hide the others; who opens it is told why.
    queue.write_text("{")
    queue.parent.with_name("other").mkdir()
    queue.parent.with_name("other").joinpath("queue.jsonl").write_text("")
    assert [(one["queue"], one["rows"]) for one in get(client, "review").json["queues"]] == [
        ("captions/other", 0),
        (QUEUE, 0),
    ]
    assert "line 1" in get(client, "review/queue", queue=QUEUE, reviewer="x").error["message"]
