"""A Chromium of the system, driven over the DevTools protocol: pages are opened, keys pressed,
expressions run, pictures taken.
"""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
)


@contextmanager
def chromium(profile: Path) -> Iterator[str]:
    """The address of a browser's DevTools, for the length of a `with`."""
    command = [
        str(CHROMIUM),
        *QUIET,
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        "about:blank",
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr
        yield next(
            found[1]
            for line in process.stderr
            if (found := re.search(r"DevTools listening on ws://([^/]+)/", line))
        )
    finally:
        process.kill()
        process.wait()


class Tab:
    """A page in the browser: runs expressions in it, presses its keys, and remembers what it asked
    for and complained of.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._number = socket, 0
        self.requests: list[str] = []
        self.console_errors: list[str] = []

    async def call(self, method: str, **values: object) -> dict:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": values})
        while True:
            response = await self._socket.receive_json()
            if response.get("id") == self._number:
                return response["result"]
            if response["method"] == "Network.requestWillBeSent":
                self.requests.append(response["params"]["request"]["url"][:60])
            elif response["method"] in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.console_errors.append(str(response["params"]))

    async def run(self, expression: str):
        response = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in response, response
        return response["result"].get("value")

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self.call(
                "Input.dispatchKeyEvent",
                type="keyDown",
                key=key,
                **({"text": key} if len(key) == 1 else {}),
            )
            await self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    async def choose(self, label: str, option: str) -> None:
        found = (
            "[...document.querySelectorAll('label')].find((one) =>"
            f" one.textContent.startsWith('{label}')).querySelector('select')"
        )
        await self.run(
            f"(() => {{ const s = {found}; s.value = [...s.options].find((one) =>"
            f" one.text.startsWith('{option}')).value; s.dispatchEvent(new Event('change')); }})()"
        )

    async def wait_until(self, condition: str, *, within_s: float = 20.0) -> None:
        """Wait, inside the page, until an expression is true."""
        script = f"""new Promise((done, fail) => {{
            const end = performance.now() + {within_s * 1000};
            const vain = () => fail(new Error('waited in vain'));
            const look = () => ({condition}) ? done(true) : performance.now() > end ? vain() : setTimeout(look, 20);
            look(); }})"""
        assert await self.run(script), condition

    async def screenshot(
        self, file: Path, *, width: int = 1200, height: int = 850, dark: bool = False
    ) -> None:
        """A picture of what is seen in a window of this size."""
        await self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        await self.run(
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )
        own_seconds = await self.call("Page.captureScreenshot", format="png")
        file.write_bytes(base64.b64decode(own_seconds["data"]))

    async def open(self, url: str) -> None:
        for domain in ("Log", "Runtime", "Network", "Page"):
            await self.call(f"{domain}.enable")
        await self.call("Page.navigate", url=url)
        # Both wait inside the page, not here.
        await self.run(
            "new Promise((done) => document.readyState === 'complete' ? done() :"
            " addEventListener('load', done))"
        )
        await self.run(
            "Promise.all([...document.images].filter((image) => image.src).map((image) =>"
            " image.decode()))"
        )


async def with_page(address: str, url: str, callback: Callable[[Tab], Awaitable[None]]) -> Tab:
    """Open a page, let `visit` look around in it, and give its tab back."""
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{address}/json/list") as answer:
            target = next(
                one for one in await answer.json(content_type=None) if one["type"] == "page"
            )
        async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            tab = Tab(socket)
            await tab.open(url)
            await callback(tab)
            return tab
