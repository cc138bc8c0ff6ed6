"""The page's addresses: files without a key, studies without identities, drafts, reports, verdicts."""

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

from lingshu.curate.review import read_verdicts  # noqa: E402
from lingshu.ui import app  # noqa: E402
from lingshu.ui.app import UiFolders, WebUI  # noqa: E402
from tests.support.dicom_files import SECRETS  # noqa: E402
from tests.support.fhir_check import validate_report  # noqa: E402
from tests.support.serving import Answer, Client, serving  # noqa: E402
from tests.support.ui_data import EVIL_NAME, N_SLICES, fixed_reply_engine, web_ui  # noqa: E402

KEY = "a-key-of-sixteen-characters"
# The bare number of the MRN may occur in a hash by chance.
IDENTIFYING_SECRETS = tuple(secret for secret in SECRETS if secret != "4711")
REPLY = "Findings: Both lungs are clear. Impression: No finding."


@pytest.fixture
def page(tmp_path: Path) -> WebUI:
    return web_ui(tmp_path)


@pytest.fixture
def client(page: WebUI) -> Iterator[Client]:
    with serving(fixed_reply_engine(REPLY), ui=page) as server_client:
        yield server_client


def get(client: Client, path: str, **params: object) -> Answer:
    return client.send("GET", f"/page/api/{path}?{urlencode(params)}")


def post(client: Client, path: str, **body: object) -> Answer:
    return client.send(
        "POST", f"/page/api/{path}", json.dumps(body).encode(), Content_Type="application/json"
    )


def studies(client: Client) -> list[dict[str, Any]]:
    return get(client, "studies").json["studies"]


# --- files and security


def test_the_page_runs_only_its_own_scripts(client: Client) -> None:
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
    for file in app.STATIC_FOLDER.iterdir():
        text = file.read_text()
        assert text.count("\n") < 400
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|Function\(|https?://|localStorage|cookie",
            text,
        )
        assert not re.search(r"<[^>]+\s(?:on\w+|style)=|<script(?![^>]+src=)", text), file.name


def test_only_files_without_data_are_served_without_the_key(page: WebUI) -> None:
    with serving(fixed_reply_engine(REPLY), ui=page, keys=(KEY,)) as client:
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
        response = client.send("POST", "/page/api/runs/open", body, Content_Type="application/json")
        assert response.status == 400 and b"ZZextra" not in response.body


def test_the_page_is_not_part_of_the_openapi_schema(client: Client) -> None:
    assert not [
        path
        for path in client.send("GET", "/openapi.json").json["paths"]
        if path.startswith("/page") or path == "/"
    ]
    with serving(fixed_reply_engine(REPLY)) as bare:
        assert bare.send("GET", "/").status == 404


def test_a_page_without_folders_names_the_missing_option() -> None:
    with serving(fixed_reply_engine(REPLY), ui=WebUI(UiFolders())) as client:
        for path, option in (("studies", "--root"), ("runs", "--runs"), ("review", "--review")):
            assert option in get(client, path).error["message"]


# --- studies


def test_studies_are_listed_in_order_and_without_identities(client: Client) -> None:
    answer = get(client, "studies")
    entries = answer.json["studies"]
    ct = [entry for entry in entries if entry["modality"] == "CT"]
    assert [(entry["rank"], entry["total"], entry["files"]) for entry in ct] == [
        (1, 2, N_SLICES),
        (2, 2, N_SLICES),
    ]
    assert len({entry["patient"] for entry in entries}) == 2
    bodies = [answer.body, get(client, "study", study=ct[0]["id"]).body]
    bodies += [
        json.dumps(get(client, "slice", study=entry["id"], series=1, index=1).headers).encode()
        for entry in entries
    ]
    assert not [
        secret
        for secret in (*IDENTIFYING_SECRETS, "img src")
        for text in bodies
        if secret.encode() in text
    ]


def test_a_slice_is_rendered_in_the_requested_window(client: Client) -> None:
    [study] = [
        entry["id"] for entry in studies(client) if entry["rank"] == 2 and entry["modality"] == "CT"
    ]
    assert get(client, "study", study=study).json["series"][0]["images"] == N_SLICES
    middle = {}
    for window in ("file", "lung", "55,10", "0,4000"):
        response = get(client, "slice", study=study, series=1, index=4, window=window)
        middle[window] = PIL.Image.open(io.BytesIO(response.body)).convert("L").getpixel((32, 32))
        image_provenance = json.loads(response.headers["x-lingshu-image-provenance"])
        assert (
            image_provenance["index"],
            image_provenance["total"],
            image_provenance["spacing"],
        ) == (
            4,
            N_SLICES,
            [2.0, 1.0],
        )
    assert image_provenance["center"] == 0 and image_provenance["width"] == 4000
    assert (
        middle["lung"] > middle["file"]
        and 120 < middle["55,10"] < 160
        and 120 < middle["0,4000"] < 145
    )


@pytest.mark.parametrize(
    "invalid_params",
    [{"series": 2}, {"series": 0}, {"series": "-1"}, {"index": 99}, {"index": 0}, {"index": "٣"}, {"window": "nonsense"}, {"window": "1,0"},
     {"study": "../../etc"}, {"study": ""}, {"series": "9" * 30}],
)  # fmt: skip
def test_a_slice_that_does_not_exist_is_refused(
    client: Client, invalid_params: dict[str, object]
) -> None:
    params = {
        "study": studies(client)[0]["id"],
        "series": 1,
        "index": 1,
        "window": "file",
        **invalid_params,
    }
    response = get(client, "slice", **params)
    assert response.status == 400 and response.error["message"]


# --- drafts


def create_draft(
    client: Client, *images: dict[str, object], language: str = "en"
) -> dict[str, Any]:
    response = post(client, "drafts", images=list(images), language=language)
    assert response.status == 200, response.body
    return response.json


def study_image(client: Client) -> dict[str, object]:
    return {
        "study": next(entry["id"] for entry in studies(client) if entry["modality"] == "CT"),
        "index": 2,
        "window": "lung",
    }


def export_draft(
    client: Client, draft: dict[str, Any], file_format: str, *, patient: bool = False, **edits: str
) -> Answer:
    texts = {"findings": draft["findings"], "impression": draft["impression"], **edits}
    return post(
        client, "drafts/export", id=draft["id"], file_format=file_format, patient=patient, **texts
    )


def test_a_draft_has_the_provenance_of_its_images_and_identifies_nobody(client: Client) -> None:
    response = create_draft(client, study_image(client), study_image(client))
    assert (response["findings"], response["impression"]) == (
        "Both lungs are clear.",
        "No finding.",
    )
    assert response["status"] == "preliminary" and not response["verified"] and response["named"]
    assert [
        (entry["item"], entry["index"], entry["window"]) for entry in response["image_provenance"]
    ] == [
        (1, 2, "lung"),
        (2, 2, "lung"),
    ]
    assert not [secret for secret in IDENTIFYING_SECRETS if secret in json.dumps(response)]


def test_an_export_states_whether_a_person_changed_the_text(client: Client) -> None:
    draft = create_draft(client, study_image(client))
    exported_text = export_draft(client, draft, "md").body.decode()
    assert (
        "Draft written by a machine; preliminary, not verified by a person." in exported_text
        and "Edited" not in exported_text
    )
    edited = export_draft(client, draft, "md", impression="Pneumonia.").body.decode()
    assert (
        "Edited by a person; preliminary, not verified." in edited
        and "Pneumonia." in edited
        and "Research only" in edited
    )
    assert draft["model_digest"][:16] in edited


def test_fhir_names_the_patient_only_on_request_and_an_sr_always(client: Client) -> None:
    draft = create_draft(client, study_image(client))
    for patient in (False, True):
        fhir = export_draft(client, draft, "fhir", patient=patient, findings="Clear. Edited.")
        assert not validate_report(fhir.json) and fhir.json["status"] == "preliminary"
        assert (b"ZZMRN-4711" in fhir.body) == patient and b"Edited by a person" in fhir.body
    sr = export_draft(client, draft, "sr", findings="Clear. Edited.")
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


def test_a_draft_of_plain_images_has_no_sr(client: Client) -> None:
    import base64

    from lingshu.imaging.read import png_bytes
    from tests.support.tiny import make_image

    uri = "data:image/png;base64," + base64.b64encode(png_bytes(make_image(1))).decode()
    draft = create_draft(client, {"data": uri}, study_image(client), language="zh")
    assert not draft["named"] and draft["language"] == "zh"
    assert "names its patient" in export_draft(client, draft, "sr").error["message"]
    assert export_draft(client, draft, "md", findings="", impression="").status == 400
    assert "no longer stored" in export_draft(client, {**draft, "id": "x"}, "md").error["message"]
    assert post(client, "drafts", images=[], language="en").status == 400
    assert "neither" in post(client, "drafts", images=[{}]).error["message"]
    assert post(client, "drafts", images=[{"data": "file:///etc/passwd"}]).status == 400


# --- reports


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
    entries = {entry["run"]: entry for entry in get(client, "runs").json["runs"]}
    assert (
        EVIL_NAME in entries
        and entries["????"]["model"] == "?"
        and entries["????"]["tasks"][0]["value"] is None
    )
    assert entries["linked"]["model"] is None


# --- review

QUEUE_NAME = "captions/review"


def judge(client: Client, name: str, reviewer: str = "reader one", **verdict: str) -> Answer:
    return post(client, "review/verdicts", queue=QUEUE_NAME, reviewer=reviewer, id=name, **verdict)


def test_verdicts_are_written_as_curation_reads_them(client: Client, tmp_path: Path) -> None:
    [entries] = get(client, "review").json["queues"]
    assert (entries["queue"], entries["name"], entries["rows"]) == (QUEUE_NAME, "captions", 4)
    assert judge(client, "s0", verdict="accept").status == 200
    judge(client, "s0", verdict="edit", text=" Better. ")
    judge(client, "s1", verdict="reject", reason="wrong side or place")
    response = judge(client, "s2", verdict="prefer", side="a").json
    assert response["own_verdicts"]["s2"]["side"] == "a" and response["reviewers"] == {
        "reader one": 3
    }
    file = tmp_path / "review" / response["file"]
    assert file.parent.name == "captions.verdicts" and len(file.read_text().splitlines()) == 4
    entry, two, three = read_verdicts([file])
    assert (entry.id, entry.verdict, entry.text) == ("s0", "edit", "Better.") and (
        two.verdict,
        two.reason,
    ) == ("reject", "wrong side or place")
    texts = get(client, "review/queue", queue=QUEUE_NAME, reviewer="reader one").json["rows"][2][
        "texts"
    ]
    assert (three.prefer == "first") == texts[0].startswith("text 2")


def test_neither_side_reveals_which_text_came_first(client: Client) -> None:
    orders = set()
    for reviewer in map(str, range(12)):
        rows = get(client, "review/queue", queue=QUEUE_NAME, reviewer=reviewer).json["rows"]
        assert not {"first", "second", "source"} & rows[2].keys()
        again = get(client, "review/queue", queue=QUEUE_NAME, reviewer=reviewer).json["rows"]
        assert again == rows
        orders.add(rows[2]["texts"][0].startswith("text"))
    assert orders == {True, False}


def test_undo_removes_the_reviewers_own_last_verdict(client: Client, tmp_path: Path) -> None:
    judge(client, "s0", verdict="accept")
    judge(client, "s0", verdict="reject", reason="no")
    judge(client, "s0", reviewer="读片者 乙", verdict="accept")
    body = {"queue": QUEUE_NAME, "reviewer": "reader one"}
    response = post(client, "review/undo", **body).json
    assert response["undone"] == "s0" and response["own_verdicts"]["s0"]["verdict"] == "accept"
    assert post(client, "review/undo", **body).json["own_verdicts"] == {}
    assert "nothing to undo" in post(client, "review/undo", **body).error["message"]
    assert get(client, "review/queue", queue=QUEUE_NAME, reviewer="读片者 乙").json[
        "reviewers"
    ] == {"读片者 乙": 1}


def test_agreement_covers_what_two_reviewers_both_judged(client: Client) -> None:
    for name, verdict in (("s0", "accept"), ("s1", "accept")):
        judge(client, name, verdict=verdict)
        judge(client, name, reviewer="two", verdict=verdict)
    judge(client, "s1", reviewer="two", verdict="reject", reason="no")
    [pair] = get(client, "review/queue", queue=QUEUE_NAME, reviewer="two").json["agreement"]
    assert (pair["reviewers"], pair["n"], pair["observed_agreement"]) == (
        ["reader one", "two"],
        2,
        0.5,
    )


@pytest.mark.parametrize(
    ("name", "verdict", "message"),
    [
        ("s0", {"verdict": "edit", "text": "  "}, "needs its text"),
        ("s0", {"verdict": "reject"}, "needs its reason"),
        ("s0", {"verdict": "prefer", "side": "a"}, "between two texts"),
        ("s2", {"verdict": "accept"}, "two texts"),
        ("none", {"verdict": "accept"}, "no such sample"),
    ],
)
def test_an_incomplete_verdict_is_refused(
    client: Client, tmp_path: Path, name: str, verdict: dict[str, str], message: str
) -> None:
    assert message in judge(client, name, **verdict).error["message"]
    assert not (tmp_path / "review" / "captions.verdicts").exists()


def test_reviewers_and_images_stay_within_the_folder(client: Client, tmp_path: Path) -> None:
    for name in ("", " ", "a\nb\x07", "x" * 81):
        assert get(client, "review/queue", queue=QUEUE_NAME, reviewer=name).status == 400
    judge(client, "s0", reviewer="../../x", verdict="accept")
    assert next((tmp_path / "review" / "captions.verdicts").iterdir()).name.startswith("x-")
    assert (
        get(client, "review/image", queue=QUEUE_NAME, id="s1", image=0).headers["content-type"]
        == "image/png"
    )
    for invalid_params in (
        {"image": 1},
        {"id": "s9"},
        {"queue": ".."},
        {"queue": "/etc"},
        {"image": "-1"},
    ):
        assert (
            get(
                client,
                "review/image",
                **{"queue": QUEUE_NAME, "id": "s1", "image": 0, **invalid_params},
            ).status
            == 400
        )
    queue = tmp_path / "review" / QUEUE_NAME / "queue.jsonl"
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
    assert get(client, "review/image", queue=QUEUE_NAME, id="s", image=0).status == 400
    # One that cannot be read does not hide the others; who opens it is told why.
    queue.write_text("{")
    queue.parent.with_name("other").mkdir()
    queue.parent.with_name("other").joinpath("queue.jsonl").write_text("")
    assert [(entry["queue"], entry["rows"]) for entry in get(client, "review").json["queues"]] == [
        ("captions/other", 0),
        (QUEUE_NAME, 0),
    ]
    assert "line 1" in get(client, "review/queue", queue=QUEUE_NAME, reviewer="x").error["message"]
