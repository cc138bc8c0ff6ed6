"""Take the pictures of README and docs from a finished quickstart: `make pictures`.

images/quickstart-report.png  the top of FOLDER/report.html
images/web-page.png           the chat of `lingshu serve` on the quickstart's model, with one answer

Needs a Chromium or Chrome, and the extras torch and serve. FOLDER is the first argument, by default
`quickstart`; tests.support must be importable, so PYTHONPATH is the root of the repository.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import sys
import tempfile
from pathlib import Path

from lingshu.core.types import EngineOptions
from lingshu.inference.engines import open_async_engine
from lingshu.ui.app import UiFolders, WebUI
from tests.support.chromium import CHROMIUM, Tab, chromium, with_page
from tests.support.serving import serving

DOCS = Path(__file__).resolve().parent
IMAGE, QUESTION = "x-ray.png", "Which modality is this?"


def take_report(address: str, quickstart: Path) -> None:
    async def visit(tab: Tab) -> None:
        await hide_scrollbars(tab)
        await tab.screenshot(DOCS / "images" / "quickstart-report.png", height=860)

    report = (quickstart / "report.html").resolve().as_uri()
    asyncio.run(with_page(address, report, visit))


def take_web_page(address: str, quickstart: Path) -> None:
    image = base64.b64encode((quickstart / "images" / IMAGE).read_bytes()).decode()

    async def visit(tab: Tab) -> None:
        await hide_scrollbars(tab)
        await tab.wait_until("document.querySelector('#view-chat:not([hidden]) textarea')")
        await tab.run(
            f"""(() => {{ const held = new DataTransfer();
            const bytes = Uint8Array.from(atob({json.dumps(image)}), (c) => c.charCodeAt(0));
            held.items.add(new File([bytes], {json.dumps(IMAGE)}, {{ type: 'image/png' }}));
            const input = document.querySelector('#view-chat input[type=file]');
            input.files = held.files; input.dispatchEvent(new Event('change'));
            document.querySelector('#view-chat textarea').focus(); }})()"""
        )
        await tab.wait_until("document.querySelector('#view-chat .tray li')")
        await tab.call("Input.insertText", text=QUESTION)
        await tab.call(
            "Input.dispatchKeyEvent",
            type="keyDown",
            key="Enter",
            windowsVirtualKeyCode=13,
            text="\r",
        )
        await tab.wait_until("document.querySelector('article.model[data-done]')", within_s=60.0)
        await tab.screenshot(DOCS / "images" / "web-page.png", height=760)

    checkpoint = quickstart / "train" / "checkpoint"
    engine = open_async_engine(str(checkpoint), EngineOptions())
    with serving(engine, ui=WebUI(UiFolders())) as client:
        asyncio.run(with_page(address, f"http://127.0.0.1:{client.port}/", visit))


async def hide_scrollbars(tab: Tab) -> None:
    await tab.call("Emulation.setScrollbarsHidden", hidden=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("quickstart"))
    quickstart = parser.parse_args().folder
    if CHROMIUM is None:
        print("no Chromium or Chrome in PATH: install one", file=sys.stderr)
        return 1
    if not (quickstart / "report.html").is_file():
        print(
            f"{quickstart}: not a finished quickstart: run make quickstart first", file=sys.stderr
        )
        return 1
    for take in (take_report, take_web_page):
        with tempfile.TemporaryDirectory() as profile, chromium(Path(profile)) as address:
            take(address, quickstart)
    return 0


if __name__ == "__main__":
    sys.exit(main())
