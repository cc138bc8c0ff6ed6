"""The samples on a report's page: all of them, as text, with their pictures, and usable in a real
browser.
"""

import asyncio
import base64
import hashlib
import io
import json
import re
from pathlib import Path

import PIL.Image
import pytest

from lingshu.cli.main import main
from lingshu.core.errors import ImageError
from lingshu.core.files import read_jsonl
from lingshu.core.types import (
    EngineOptions,
    Image,
    Message,
    Meta,
    Sample,
    Sampling,
)
from lingshu.engines import echo
from lingshu.evaluate.generate import generate
from lingshu.evaluate.report import build, render
from lingshu.evaluate.report.render import static
from lingshu.evaluate.report.sample_browser import Browser, outcome
from lingshu.evaluate.thumbnails import Thumbnails, thumbnail
from lingshu.imaging.read import image_bytes
from tests.support.chromium import CHROMIUM, Tab, chromium, with_page
from tests.support.evaluation import demo_task

EVIL = (
    "</script><script>document.title='gone'</script><img src=x"
    " onerror=\"document.title='gone'\"><!-- & \u2028 \ud800"
)


def row(name: str, value: float | None, **more: object) -> dict:
    status = more.pop("status", "ok")
    return {
        "id": name,
        "value": value,
        "status": status,
        "question": f"Question {name}?",
        "gold": ["yes"],
        "reply": "no",
        **more,
    }


def write_run(
    folder: Path, files: dict[str, list[dict]], *, by: tuple[str, ...] = ("kind",)
) -> Path:
    for name, rows in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    metadata = {"title": "Task <a>", "facets": list(by)}
    notes = {"model": "the model", "tasks": {name.split("/")[0]: metadata for name in files}}
    (folder / "run.json").write_text(json.dumps({"notes": notes}))
    return folder


def render_report(run: Path, **options: object) -> str:
    against = options.get("against")
    build.write(run, build.build(run, against=against), **options)  # type: ignore[arg-type]
    return (run / "report.html").read_text(encoding="utf-8")


def embedded_data(html: str) -> dict:
    [block] = re.findall(
        r'<script type="application/json" id="samples-data">(.*?)</script>', html, re.S
    )
    return json.loads(block)


def make_image(shade: int, *, size: tuple[int, int] = (300, 150), mode: str = "L") -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new(mode, size, shade if mode == "L" else (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def image_samples(*shades: int) -> list[Sample]:
    """Samples with one image each."""
    return [
        Sample(
            f"s{i}",
            (Message("user", ("Bright?",)),),
            (Image(data=make_image(shade)),),
            gold=("yes",),
            meta=Meta(access="open"),
        )
        for i, shade in enumerate(shades)
    ]


TASK = demo_task(image_samples(0))


def generate_replies(samples: list[Sample], folder: Path, *, thumbnails: bool = True) -> None:
    engine = echo.load("echo", EngineOptions())
    generate(
        TASK,
        samples,
        engine,
        folder,
        sampling=Sampling(),
        images=image_bytes,
        thumbnails=thumbnails,
    )


@pytest.mark.parametrize(
    ("found", "expected"),
    [(row("a", 1.0), "right"), (row("a", 1), "right"), (row("a", 0.4), "partly"), (row("a", 0.0), "wrong"), (row("a", -1.0), "wrong"),
     (row("a", None, status="refused"), "refused"), (row("a", None), "unscored"), (row("a", None, status="error"), "error"),
     (row("a", None, status="error", note="needs a judge"), "waiting")],
)  # fmt: skip
def test_an_outcome_is_one_word(found, expected):
    assert outcome(found) == expected


def test_every_sample_is_on_the_page_with_all_fields_of_its_row(tmp_path):
    rows = [
        row(
            "a",
            1.0,
            choices=["left", "right"],
            gold=["A"],
            prediction="A",
            note="letter",
            kind="side",
            group="p1",
            metrics={"bleu": 0.5},
        ),
        row("b", None, status="unparsed", truncated=True, reply=""),
    ]
    page_data = embedded_data(render_report(write_run(tmp_path, {"t/scores.jsonl": rows})))
    assert page_data["tasks"] == [
        {"name": "t", "title": "Task <a>", "protocol": "strict", "facets": ["kind"]}
    ]
    assert page_data["rows"] == [
        {"id": "a", "task": 0, "outcome": "right", "value": 1.0, "prediction": "A", "note": "letter", "reply": "no", "question": "Question a?",
         "choices": ["left", "right"], "gold": ["A"], "facets": {"kind": "side"}, "group": "p1", "metrics": {"bleu": 0.5}},
        {"id": "b", "task": 0, "outcome": "unparsed", "value": None, "reply": "", "question": "Question b?", "gold": ["yes"], "cut": True},
    ]  # fmt: skip
    assert page_data["left_out"] == {"samples": 0, "images": 0} and page_data["other"] is None


def test_markup_in_the_data_stays_text(tmp_path):
    rows = [
        row(
            EVIL,
            1.0,
            question=EVIL,
            reply=EVIL,
            note=EVIL,
            kind=EVIL,
            choices=[EVIL],
            gold=[EVIL],
            group=EVIL,
        )
    ]
    html = render_report(write_run(tmp_path, {"t/scores.jsonl": rows}))
    assert embedded_data(html)["rows"][0]["reply"] == EVIL
    assert "<img" not in html
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", html, re.S)
    assert [kind for kind, _ in scripts] == [' type="application/json" id="samples-data"', ""]
    source = base64.b64encode(hashlib.sha256(scripts[1][1].encode()).digest()).decode()
    assert f"script-src 'sha256-{source}'; base-uri 'none'" in html
    assert "unsafe-inline" not in html.split("script-src")[1].split('"')[0]


def test_the_script_builds_no_html_from_text():
    script = static("sample_browser.js")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(|fetch|XMLHttp|https?://|</script",
        script,
    )
    assert not re.search(r"url\(|@import|https?://", static("sample_browser.css"))
    assert script.count("\n") < 310


def test_every_class_of_the_page_has_a_style():
    templates = Path(render.__file__).parent.glob("templates/*.html.j2")
    html = "".join(path.read_text(encoding="utf-8") for path in templates)
    script, styles = static("sample_browser.js"), static("page.css") + static("sample_browser.css")
    [tags] = re.findall(r"const tags = \[(.*)\]", script)
    names = re.findall(r'class="([^"{}]+)"', html) + re.findall(r'class: "([^"]+)"', script)
    names += re.findall(r'\? "(\w+)" : null', tags)
    used = {name for attribute in names for name in attribute.split()}
    assert {"lead", "card", "gold", "prediction"} <= used
    assert not [name for name in used if not re.search(rf"\.{name}\b", styles)]


def test_a_page_without_samples_has_no_script(tmp_path):
    run = write_run(tmp_path, {"t/scores.jsonl": [row("a", 1.0)]})
    assert "<script" in render_report(run)
    page = render_report(run, samples=False)
    assert "<script" not in page and "script-src" not in page
    assert main(["report", str(run), "--no-samples"]) == 0
    assert "Question a" not in (run / "report.html").read_text()


def test_the_verdicts_of_a_judge_and_of_other_protocols_are_shown(tmp_path):
    parts = {"verdict": "incorrect", "reason": "It says no."}
    rubric = {
        "criteria": [
            {
                "name": "n",
                "points": 2,
                "criterion": "Says yes",
                "verdict": "met",
                "reason": "It does.",
            }
        ]
    }
    judged = [
        row("b", 0.0, protocol="judge", prediction="incorrect", judge=parts),
        row("a", 0.5, protocol="judge", judge=rubric),
    ]
    files = {"t/scores.jsonl": [row("a", 1.0), row("b", 1.0)], "t/scores.judge.jsonl": judged}
    first, second = embedded_data(render_report(write_run(tmp_path, files)))["rows"]
    assert first["also"]["judge"] == {
        "outcome": "partly",
        "value": 0.5,
        "criteria": [["met", "2", "Says yes", "It does."]],
    }
    assert second["also"]["judge"] == {
        "outcome": "wrong",
        "value": 0.0,
        "prediction": "incorrect",
        "reason": "It says no.",
    }


def test_another_run_is_shown_where_the_items_are_the_same(tmp_path):
    ours = write_run(
        tmp_path / "ours", {"t/scores.jsonl": [row("a", 1.0), row("b", 0.0), row("c", 0.0)]}
    )
    theirs = [row("b", 1.0, reply="yes"), row("c", 1.0, gold=["maybe"]), row("d", 1.0)]
    other = write_run(tmp_path / "theirs", {"t/scores.jsonl": theirs})
    page_data = embedded_data(render_report(ours, against=str(other)))
    assert page_data["other"] == {"run": "theirs", "model": "the model"}
    assert [row.get("other") for row in page_data["rows"]] == [
        None,
        {"outcome": "right", "value": 1.0, "reply": "yes"},
        None,
    ]
    assert embedded_data(render_report(ours))["other"] is None


def test_what_does_not_fit_is_left_out_and_counted(tmp_path):
    run = write_run(
        tmp_path, {"t/scores.jsonl": [row(str(i), 1.0, reply="x" * 9000) for i in range(4)]}
    )
    (run / "t/requests.jsonl").write_text(
        "".join(
            json.dumps({"id": str(i), "key": "k", "images": [f"d{i % 2}"]}) + "\n" for i in range(4)
        )
    )
    (run / "t/thumbnails.jsonl").write_text(
        "".join(json.dumps({"image": f"d{i}", "jpeg": "A" * 100}) + "\n" for i in range(2))
    )
    evaluation_report = build.build(run)
    with Browser(run, evaluation_report, max_samples=3, max_bytes=150) as browser:
        html = "".join(build.iterate_html(evaluation_report, browser))
    page_data = embedded_data(html)
    assert page_data["left_out"] == {"samples": 1, "images": 1}
    assert [row["images"] for row in page_data["rows"]] == [[0], [None], [0]]
    assert html.count(f'id="picture-0">{"A" * 100}</script>') == 1 and "picture-1" not in html
    reply = page_data["rows"][0]["reply"]
    assert "1,000 characters are not on this page" in reply and len(reply) < 8100


def test_equal_scores_give_equal_pages(tmp_path):
    rows = [row(str(i), float(i % 2), kind="ab"[i % 2]) for i in range(6)]
    pages = {
        render_report(write_run(tmp_path / name, {"t/scores.jsonl": rows}))
        for name in ("one", "two", "two")
    }
    assert len(pages) == 1


def test_a_facet_has_a_plot_where_there_is_something_to_compare(tmp_path):
    rows = [row(str(i), float(i % 2), one="a", two="ab"[i % 2], many=str(i)) for i in range(31)]
    html = render_report(write_run(tmp_path, {"t/scores.jsonl": rows}, by=("one", "two", "many")))
    assert re.findall(r"<h3>By (\w+)</h3>\s*<div class=\"(\w+)", html) == [
        ("one", "scroll"),
        ("two", "plot"),
        ("many", "scroll"),
    ]
    assert html.count("stroke-dasharray") == 1


# --- pictures
# ----------------------------------------------------------------------------------------------------


def test_a_thumbnail_is_small_and_gray_stays_gray():
    gray = PIL.Image.open(io.BytesIO(thumbnail(make_image(90, size=(1000, 400)))))
    assert (gray.format, gray.mode, gray.size) == ("JPEG", "L", (256, 102))
    assert (
        PIL.Image.open(io.BytesIO(thumbnail(make_image(90, size=(20, 30), mode="RGB")))).mode
        == "RGB"
    )
    assert PIL.Image.open(io.BytesIO(thumbnail(make_image(90, size=(20, 30))))).size == (20, 30)
    with pytest.raises(ImageError):
        thumbnail(b"no image")


def test_a_shared_image_is_stored_once_and_a_second_request_adds_nothing(tmp_path):
    generate_replies(image_samples(1, 2, 1), tmp_path)
    request_rows = list(read_jsonl(tmp_path / "requests.jsonl"))
    thumbnails = tmp_path / "thumbnails.jsonl"
    digests = [hashlib.sha256(make_image(shade)).hexdigest() for shade in (1, 2)]
    assert [row["images"] for row in request_rows] == [[digests[0]], [digests[1]], [digests[0]]]
    assert [row["image"] for row in read_jsonl(thumbnails)] == digests
    before = thumbnails.read_bytes()
    generate_replies(image_samples(1, 2, 1), tmp_path)
    assert thumbnails.read_bytes() == before
    thumbnails.write_bytes(before[:-20])  # killed in the middle of a write
    generate_replies(image_samples(1, 2, 3), tmp_path)
    assert [row["image"] for row in read_jsonl(thumbnails)] == [
        *digests,
        hashlib.sha256(make_image(3)).hexdigest(),
    ]
    generate_replies(image_samples(1, 2, 3), tmp_path, thumbnails=False)
    assert not thumbnails.exists()


def test_the_file_of_thumbnails_is_bounded(tmp_path):
    with Thumbnails(tmp_path, max_bytes=10) as thumbnails:
        for shade in (1, 2):
            thumbnails.add(str(shade), make_image(shade))
        thumbnails.add("3", b"no image")
    assert [row["image"] for row in read_jsonl(tmp_path / "thumbnails.jsonl")] == ["1"]


def test_eval_shows_images_unless_disabled(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.png").write_bytes(make_image(7))
    (data / "rows.jsonl").write_text(
        json.dumps({"id": "q", "question": "Bright?", "answer": "no", "image": "a.png"}) + "\n"
    )
    command = ["eval", "echo", "vqa", "--data", str(data), "--out", str(tmp_path / "run")]
    assert main(command) == 0
    html = (tmp_path / "run/report.html").read_text()
    assert embedded_data(html)["rows"][0]["images"] == [0] and html.count('id="picture-') == 1
    assert main([*command, "--no-thumbnails"]) == 0
    html = (tmp_path / "run/report.html").read_text()
    assert (
        embedded_data(html)["rows"][0]["images"] == [None]
        and embedded_data(html)["left_out"]["images"] == 1
    )


# --- a browser
# ---------------------------------------------------------------------------------------------------

STATE = """(() => { const text = (id) => document.getElementById(id).textContent;
  return { count: text('count'), detail: text('detail'), lines: document.querySelectorAll('.line').length, title: document.title,
    focus: document.activeElement.id, pictures: document.querySelectorAll('#detail img').length,
    loaded: [...document.querySelectorAll('#detail img')].every((image) => image.naturalWidth > 0) }; })()"""


def browsable(folder: Path) -> Path:
    """Two runs of 300 samples with a hostile one among them, a judge and pictures; the page
    compares them.
    """
    values = [(1.0, "ok"), (0.0, "ok"), (None, "unparsed")]
    rows = [
        row(
            f"s{i:03}",
            values[i % 3][0],
            status=values[i % 3][1],
            kind="ab"[i % 2],
            reply=f"reply {i}",
        )
        for i in range(300)
    ]
    rows[0] |= {"choices": ["C. difficile", "B. E. coli"]}
    rows[1] |= {"reply": EVIL, "question": EVIL, "kind": "a"}
    judged = [{**base_row, "protocol": "judge", "value": 1.0, "status": "ok"} for base_row in rows]
    theirs = [
        {**base_row, "value": 1.0, "status": "ok", "reply": f"theirs {i}"}
        for i, base_row in enumerate(rows)
    ]
    run = write_run(folder / "ours", {"t/scores.jsonl": rows, "t/scores.judge.jsonl": judged})
    other_row = write_run(folder / "theirs", {"t/scores.jsonl": theirs})
    with Thumbnails(run / "t") as thumbnail_store:
        thumbnail_store.add("one", make_image(80))
    (run / "t/requests.jsonl").write_text(
        "".join(
            json.dumps({"id": base_row["id"], "key": "k", "images": ["one"]}) + "\n"
            for base_row in rows
        )
    )
    render_report(run, against=str(other_row))
    return run / "report.html"


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")
def test_samples_are_filtered_searched_and_read_by_keyboard(tmp_path):
    async def visit(tab: Tab) -> None:
        seen = await tab.run(STATE)
        assert (
            seen["count"] == "300 of 300 samples"
            and "s000" in seen["detail"]
            and seen["lines"] < 60
        )
        assert seen["pictures"] == 1 and seen["loaded"]
        assert "A. C. difficile" in seen["detail"] and "B. B." not in seen["detail"]
        await tab.press("j")
        seen = await tab.run(STATE)
        assert "s001" in seen["detail"] or "</script>" in seen["detail"]
        assert EVIL[:60] in seen["detail"] and seen["title"] == "Evaluation of the model"
        assert "theirs 1" in seen["detail"] and "judge" in seen["detail"]
        await tab.press("k", "k", "j", "j")
        assert "s002" in (await tab.run(STATE))["detail"]
        await tab.press("/")
        assert (await tab.run(STATE))["focus"] == "search"
        await tab.press("2", "9", "9")
        seen = await tab.run(STATE)
        assert seen["count"] == "1 of 300 samples" and "reply 299" in seen["detail"]
        await tab.press("Escape")
        assert (await tab.run(STATE))["count"] == "300 of 300 samples"
        await tab.press("Escape", "End")
        seen = await tab.run(STATE)
        assert seen["focus"] == "list" and "s299" in seen["detail"]
        await tab.press("ArrowUp")
        assert "s298" in (await tab.run(STATE))["detail"]
        await tab.run("document.querySelector('[data-outcome=unparsed]').click()")
        assert (await tab.run(STATE))["count"] == "100 of 300 samples"
        await tab.choose("Kind", "b (")
        assert (await tab.run(STATE))["count"] == "50 of 300 samples"
        await tab.run("document.querySelector('[type=reset]').click()")
        assert (await tab.run(STATE))["count"] == "300 of 300 samples"
        for option, count in (
            ("they differ", 200),
            ("only this one right", 0),
            ("only the other right", 200),
        ):
            await tab.choose("Compare", option)
            assert (await tab.run(STATE))["count"] == f"{count} of 300 samples"
        for option, count in (
            ("judge and strict differ", 200),
            ("only judge right", 200),
            ("no verdict by judge", 0),
        ):
            await tab.choose("Compare", option)
            assert (await tab.run(STATE))["count"] == f"{count} of 300 samples"

    path = browsable(tmp_path)
    with chromium(tmp_path / "profile") as address:
        tab = asyncio.run(with_page(address, path.as_uri(), visit))
    assert tab.console_errors == []
    assert {request.split(":")[0] for request in tab.requests} <= {"file", "data"}
    assert len([request for request in tab.requests if request.startswith("file")]) == 1
