"""The page in a real browser: every view is used, its screenshots are stored (shots/ in the test's
folder), and markup in data stays text.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("pydicom", reason="pydicom is not installed")

from lingshu.core.types import AsyncEngine
from lingshu.imaging.read import png_bytes
from tests.support.chromium import CHROMIUM, Tab, chromium, with_page
from tests.support.dicom_files import SECRETS
from tests.support.serving import serving
from tests.support.tiny import make_image
from tests.support.ui_data import EVIL, EVIL_NAME, N_SLICES, fixed_reply_engine, web_ui

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")]

KEY = "a-key-of-sixteen-characters"
# The bare number of the MRN may occur in a hash by chance.
IDENTIFYING_SECRETS = tuple(secret for secret in SECRETS if secret != "4711")
REPLY = f"Findings: Clear {EVIL}. Impression: No finding {EVIL}."
# Files that the page offers for download, kept for the test.
KEEP_SAVED = """window.saved = []; const create = URL.createObjectURL.bind(URL);
  URL.createObjectURL = (blob) => { if (blob.type !== 'image/png') window.saved.push(blob); return create(blob); };"""
# The mean gray level of the image in the nth viewport.
GRAY_LEVEL = """(async () => { const image = document.querySelectorAll('.screen img')[%d]; await image.decode();
  const canvas = document.createElement('canvas'); canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
  const context = canvas.getContext('2d'); context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data; let sum = 0;
  for (let index = 0; index < pixels.length; index += 4) sum += pixels[index]; return 4 * sum / pixels.length; })()"""


def viewport_state(index: int, *parts: str) -> str:
    expression = f"document.querySelectorAll('.screen')[{index}].dataset.shown ?? ''"
    return " && ".join(f"({expression}).includes({json.dumps(part)})" for part in parts)


def click_button(view: str, text: str) -> str:
    return f"document.querySelector('#view-{view} [data-text={text}]').click()"


def open_page(
    root: Path,
    visit: Callable[[Tab], Awaitable[None]],
    *,
    keys: tuple[str, ...] = (),
    engine: AsyncEngine | None = None,
) -> Tab:
    """The tab after a visit; it sent requests to no other server."""
    with (
        serving(engine or fixed_reply_engine(REPLY), ui=web_ui(root), keys=keys) as client,
        chromium(root / "profile") as address,
    ):
        origin = f"http://127.0.0.1:{client.port}/"
        tab = asyncio.run(with_page(address, origin, visit))
    outside = [
        entry for entry in tab.requests if not entry.startswith((origin, f"blob:{origin}", "data:"))
    ]
    assert not outside
    return tab


async def wait_until_ready(tab: Tab) -> None:
    await tab.wait_until(
        "document.querySelector('#view-chat') && !document.querySelector('#view-chat').hidden"
    )


async def save_screenshots(tab: Tab, root: Path, name: str) -> None:
    """A view in light, in dark and on a phone, where nothing may overflow the width."""
    folder = root / "shots"
    folder.mkdir(exist_ok=True)
    await tab.screenshot(folder / f"{name}.png")
    await tab.screenshot(folder / f"{name}-dark.png", dark=True)
    await tab.screenshot(folder / f"{name}-phone.png", width=390, height=844)
    assert await tab.run("document.documentElement.scrollWidth <= innerWidth"), name
    await tab.screenshot(folder / f"{name}.png")


async def submit_verdict(tab: Tab, text: str, count: str) -> None:
    """Type the text of a verdict, send it, and wait until it counts."""
    await tab.call("Input.insertText", text=text)
    await tab.run("document.querySelector('.verdict-form').requestSubmit()")
    await tab.wait_until(f"document.querySelector('.count').textContent === '{count}'")


async def assert_nothing_ran(tab: Tab) -> None:
    assert await tab.run("document.title") in {
        f"{name} · lingshu" for name in ("Chat", "Studies", "Draft", "Evaluations", "Review")
    }
    assert await tab.run("document.querySelectorAll('main script, main img[src=x]').length") == 0


def test_a_chat_with_two_images_streams_and_shows_markup_as_text(tmp_path: Path) -> None:
    async def visit(tab: Tab) -> None:
        await wait_until_ready(tab)
        files = [
            [EVIL_NAME + ".png", base64.b64encode(png_bytes(make_image(n))).decode()]
            for n in (0, 1)
        ]
        await tab.run(
            f"""(() => {{ const files = new DataTransfer(); for (const [name, data] of {json.dumps(files)})
            files.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], name, {{ type: 'image/png' }}));
            const input = document.querySelector('#view-chat input[type=file]'); input.files = files.files;
            input.dispatchEvent(new Event('change')); document.querySelector('#view-chat textarea').focus(); }})()"""
        )
        await tab.wait_until("document.querySelectorAll('#view-chat .tray li').length === 2")
        for turn, text in enumerate((f"Two? {EVIL}", "And now?"), 1):
            await tab.call("Input.insertText", text=text)
            await tab.call(
                "Input.dispatchKeyEvent",
                type="keyDown",
                key="Enter",
                windowsVirtualKeyCode=13,
                text="\r",
            )
            await tab.wait_until(
                f"document.querySelectorAll('article.model[data-done]').length === {turn}"
            )
        assert (
            await tab.run("document.querySelector('article.model .verbatim').textContent") == REPLY
        )
        assert EVIL in await tab.run("document.querySelector('article.user .verbatim').textContent")
        assert EVIL_NAME in await tab.run("document.querySelector('article.user').textContent")
        footer = await tab.run("document.querySelector('article.model footer').textContent")
        assert (
            "What the model saw (2)" in footer and "Research only; not for clinical use." in footer
        )
        line = await tab.run("document.querySelector('#provenance').textContent")
        assert re.search(r"echo.* [0-9a-f]{12}.*Research only; not for clinical use\.", line)
        await assert_nothing_ran(tab)
        await save_screenshots(tab, tmp_path, "chat")
        await tab.run(
            "(() => { const s = document.querySelector('#tools select'); s.value = 'zh';"
            " s.dispatchEvent(new Event('change')); })()"
        )
        assert "不得用于临床" in await tab.run("document.querySelector('#provenance').textContent")
        assert await tab.run("document.documentElement.lang") == "zh"

    assert open_page(tmp_path, visit).console_errors == []


def test_a_stopped_reply_frees_its_slot(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    from lingshu.engines.hf import ContinuousBatchingEngine
    from lingshu.models.load import LoadedModel
    from tests.support.tiny import tiny

    async def visit(tab: Tab) -> None:
        await wait_until_ready(tab)
        await tab.run(
            """(() => { const [maxTokens, temperature] = document.querySelectorAll('#view-chat input[type=number]'); maxTokens.value = 900; temperature.value = 2;
            document.querySelector('#view-chat textarea').value = 'Go on.';
            document.querySelector('#view-chat form').requestSubmit(); })()"""
        )
        await tab.wait_until(
            "document.querySelector('article.model .verbatim').textContent.length > 20"
        )
        await tab.run(click_button("chat", "stop"))
        await tab.wait_until("document.querySelector('article.model[data-done]')")
        assert "Stopped." in await tab.run("document.querySelector('article.model').textContent")
        await tab.run(
            "window.running = async () => (await (await fetch('/health')).json()).running"
        )
        await tab.run(
            "(async () => { const end = Date.now() + 5000; while (await running() && Date.now() <"
            " end); })()"
        )
        assert await tab.run("running()") == 0

    model = ContinuousBatchingEngine(
        LoadedModel(*tiny("qwen2_5_vl"), "tiny", "0123456789abcdef"), batch_size=2
    )
    try:
        assert open_page(tmp_path, visit, engine=model).console_errors == []
    finally:
        model.close()


def test_slices_scroll_and_windows_change_pixels(tmp_path: Path) -> None:
    async def visit(tab: Tab) -> None:
        await wait_until_ready(tab)
        await tab.run("document.querySelector('#tab-viewer').click()")
        await tab.wait_until(viewport_state(1, "index=3", "window=file"))
        viewer_text = await tab.run("document.querySelector('#view-viewer').textContent")
        assert not [
            secret for secret in (*IDENTIFYING_SECRETS, EVIL_NAME, "<b>") if secret in viewer_text
        ]
        await tab.run("document.querySelectorAll('.screen')[1].focus()")
        before = await tab.run(GRAY_LEVEL % 1)
        await tab.press("1")
        await tab.wait_until(viewport_state(1, "window=lung"))
        lung = await tab.run(GRAY_LEVEL % 1)
        assert lung > before + 20
        await tab.press("End")
        await tab.wait_until(viewport_state(1, f"index={N_SLICES}", "lung"))
        await tab.press("Home", "ArrowDown")
        await tab.wait_until(viewport_state(1, "index=2"))
        box = await tab.run(
            "(() => { const b = document.querySelectorAll('.screen')[1].getBoundingClientRect();"
            " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        mouse = {"button": "left", "buttons": 1, "clickCount": 1}
        await tab.call("Input.dispatchMouseEvent", type="mousePressed", x=box[0], y=box[1], **mouse)
        await tab.call(
            "Input.dispatchMouseEvent", type="mouseMoved", x=box[0] - 60, y=box[1] - 90, **mouse
        )
        await tab.call(
            "Input.dispatchMouseEvent", type="mouseReleased", x=box[0] - 60, y=box[1] - 90, **mouse
        )
        await tab.wait_until(viewport_state(1, "%2C"))  # a window in numbers
        assert abs(await tab.run(GRAY_LEVEL % 1) - lung) > 5
        await tab.call(
            "Input.dispatchMouseEvent", type="mouseWheel", x=box[0], y=box[1], deltaX=0, deltaY=80
        )
        await tab.wait_until(viewport_state(1, "index=4"))
        await tab.run("document.querySelector('#view-viewer input[type=checkbox]').click()")
        await tab.wait_until(viewport_state(0, "index=3"))
        studies = await tab.run(
            "[...document.querySelectorAll('.pane')].map((pane) =>"
            " pane.querySelector('select').selectedOptions[0].text)"
        )
        assert "study 1 of 2" in studies[0] and "study 2 of 2" in studies[1]
        await tab.run("document.querySelectorAll('.screen')[1].focus()")
        await tab.press("ArrowUp")
        await tab.wait_until(viewport_state(1, "index=3") + " && " + viewport_state(0, "index=2"))
        # As the body is: pixels of this study are twice as high as wide.
        ratio = (
            "(() => { const b = document.querySelectorAll('.screen"
            " img')[1].getBoundingClientRect(); return b.width / b.height; })()"
        )
        assert abs(await tab.run(ratio) - 0.5) < 0.02
        await assert_nothing_ran(tab)
        await save_screenshots(tab, tmp_path, "studies")

    assert open_page(tmp_path, visit).console_errors == []


def test_only_an_earlier_study_of_the_same_patient_is_chosen_as_prior(tmp_path: Path) -> None:
    """The radiograph's patient has one study; the other patient's first study has only a later one."""
    pick = """(() => { const select = document.querySelectorAll('.pane')[1].querySelector('select');
      select.value = [...select.options].find((one) => one.text.includes('%s')).value; select.dispatchEvent(new Event('change')); })()"""

    async def visit(tab: Tab) -> None:
        await wait_until_ready(tab)
        await tab.run("document.querySelector('#tab-viewer').click()")
        await tab.wait_until(viewport_state(1, "index=3"))
        for text, query in (("CR", "index=1"), ("study 1 of 2", "index=3")):
            await tab.run(pick % text)
            await tab.wait_until(viewport_state(1, query))
            await tab.run("document.querySelector('#view-viewer input[type=checkbox]').click()")
            assert (
                await tab.run(
                    "document.querySelectorAll('.pane')[0].querySelector('select').selectedOptions[0].text"
                )
                == "–"
            )
            await tab.run("document.querySelector('#view-viewer input[type=checkbox]').click()")
        # Another one can be chosen explicitly.
        await tab.run("document.querySelector('#view-viewer input[type=checkbox]').click()")
        await tab.run((pick % "CR").replace("[1]", "[0]"))
        await tab.wait_until(viewport_state(0, "index=1"))
        # It changes with the current one.
        await tab.run(pick % "study 2 of 2")
        await tab.wait_until(viewport_state(0, "index=3"))
        await tab.run(pick % "CR")
        await tab.wait_until(viewport_state(1, "index=1"))
        assert await tab.run("document.querySelectorAll('.screen')[0].dataset.shown") is None
        assert (
            await tab.run(
                "document.querySelectorAll('.pane')[0].querySelector('select').selectedOptions[0].text"
            )
            == "–"
        )

    assert open_page(tmp_path, visit).console_errors == []


def test_a_draft_is_edited_by_a_person_and_exported(tmp_path: Path) -> None:
    async def visit(tab: Tab) -> None:
        await wait_until_ready(tab)
        await tab.run(KEEP_SAVED)
        await tab.run("document.querySelector('#tab-viewer').click()")
        await tab.wait_until(viewport_state(1, "index=3"))
        await tab.run(
            "document.querySelectorAll('.pane')[1].querySelector('[data-text=add_to_draft]').click()"
        )
        await tab.wait_until("document.querySelectorAll('#view-draft .tray li').length === 1")
        await tab.run(click_button("draft", "make_draft"))
        await tab.wait_until("!document.querySelector('#view-draft .report').hidden")
        assert await tab.run("document.querySelector('#impression').value") == f"No finding {EVIL}."
        assert "written by a machine" in await tab.run(
            "document.querySelector('#draft-status').textContent"
        )
        await tab.run("document.querySelector('#impression').select()")
        await tab.call("Input.insertText", text="A nodule of 9 mm.")
        assert "Edited by a person" in await tab.run(
            "document.querySelector('#draft-status').textContent"
        )
        for count, form in enumerate(("md", "fhir", "sr"), 1):
            await tab.run(f"document.querySelector('#export-{form}').click()")
            await tab.wait_until(f"window.saved.length === {count}")
        markdown, fhir, sr = [await tab.run(f"window.saved[{n}].text()") for n in range(3)]
        assert (
            "A nodule of 9 mm." in markdown
            and "Edited by a person; preliminary" in markdown
            and "<img" not in markdown.replace("\\<img", "")
        )
        assert (
            json.loads(fhir)["status"] == "preliminary"
            and json.loads(fhir)["conclusion"] == "A nodule of 9 mm."
        )
        assert sr[128:132] == "DICM" and "Edited by a person" in sr
        await assert_nothing_ran(tab)
        await save_screenshots(tab, tmp_path, "draft")

    assert open_page(tmp_path, visit).console_errors == []


def test_a_report_opens_in_a_frame_and_samples_are_judged_by_keyboard(tmp_path: Path) -> None:
    async def visit(tab: Tab) -> None:
        await wait_until_ready(tab)
        await tab.run("document.querySelector('#tab-runs').click()")
        await tab.wait_until("document.querySelector('.runs li')")
        assert EVIL_NAME in await tab.run("document.querySelector('.runs').textContent")
        await tab.run("document.querySelector('.runs button').click()")
        await tab.wait_until("document.querySelector('iframe')")
        # an origin of its own
        assert await tab.run("document.querySelector('iframe').contentDocument") is None
        await save_screenshots(tab, tmp_path, "evaluations")
        await tab.run("document.querySelector('#tab-review').click()")
        await tab.wait_until("document.querySelector('#view-review option')")
        await tab.run("document.querySelector('#reviewer').focus()")
        await tab.call("Input.insertText", text="reader <b>1</b>")
        await tab.call(
            "Input.dispatchKeyEvent",
            type="keyDown",
            key="Enter",
            windowsVirtualKeyCode=13,
            text="\r",
        )
        await tab.wait_until("document.querySelector('.sample-review .images img')")
        assert EVIL in await tab.run("document.querySelector('.texts').textContent")
        await save_screenshots(tab, tmp_path, "review")
        await tab.press("a")
        await tab.wait_until("document.querySelector('.count').textContent === '1 of 4 judged'")
        await tab.press("r")
        await tab.wait_until("document.activeElement.id === 'verdict-text'")
        await submit_verdict(tab, "not so", "2 of 4 judged")
        await tab.press("1")
        await tab.wait_until("document.querySelector('.count').textContent === '3 of 4 judged'")
        await tab.press("u")
        await tab.wait_until("document.querySelector('.count').textContent === '2 of 4 judged'")
        await tab.press("e")
        await tab.wait_until("document.activeElement.id === 'verdict-text'")
        await tab.run("document.querySelector('#verdict-text').select()")
        await submit_verdict(tab, "as it should be", "3 of 4 judged")
        await assert_nothing_ran(tab)

    assert open_page(tmp_path, visit).console_errors == []
    [file] = (tmp_path / "review" / "captions.verdicts").iterdir()
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(entry["id"], entry["verdict"]) for entry in rows] == [
        ("s0", "accept"),
        ("s1", "reject"),
        ("s2", "edit"),
    ]
    assert rows[1]["reason"] == "not so" and {entry["reviewer"] for entry in rows} == {
        "reader <b>1</b>"
    }


def test_the_key_is_requested_once_and_stored_nowhere(tmp_path: Path) -> None:
    async def visit(tab: Tab) -> None:
        for index, key in enumerate(("a-wrong-key-entirely", KEY)):
            await tab.wait_until(
                f"document.querySelector('dialog[open] input') && {index} ==="
                " +!document.querySelector('dialog .error').hidden"
            )
            await tab.call("Input.insertText", text=key)
            await tab.run("document.querySelector('dialog form').requestSubmit()")
            await tab.wait_until("!document.querySelector('dialog .error[hidden]')")
        await wait_until_ready(tab)
        await tab.run("document.querySelector('#tab-viewer').click()")
        await tab.wait_until(viewport_state(1, "index=3"))
        assert await tab.run("document.querySelector('dialog') === null")
        storage = await tab.run(
            "document.cookie + JSON.stringify([localStorage, sessionStorage]) + location.href +"
            " document.body.innerHTML"
        )
        assert KEY not in storage

    tab = open_page(tmp_path, visit, keys=(KEY,))
    assert all("401" in entry for entry in tab.console_errors)
