"""The web page of `lingshu serve`: its files, its addresses, and what its browser may do (a strict
content security policy).

/                     the page: plain HTML, scripts and a style, nothing from anywhere else
/page/*.js, *.css     its files; like the page itself they are served without a key, for they say nothing
/page/api/...         studies, drafts, runs and reviews; behind the same door and key as /v1
/page/report/TICKET   one report of a run, without a key, for an hour: a browser sends none when it opens a page
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response

from lingshu.apps._answering import NOTICE
from lingshu.apps._drafting import FORMATS
from lingshu.apps._page_draft import Drafts
from lingshu.apps._page_http import Json, Workers, add
from lingshu.apps._page_review import Reviews
from lingshu.apps._page_runs import REPORT, Runs
from lingshu.apps._page_studies import Studies
from lingshu.core.rooted import Rooted
from lingshu.imaging.windows import CT_WINDOWS

if TYPE_CHECKING:
    from lingshu.apps._serve_chat import Chat

FILES = Path(__file__).with_name("_page")
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:;"
    " connect-src 'self'; frame-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action"
    " 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


@dataclass(frozen=True)
class Folders:
    """What the page may show besides a chat: studies below `root`, runs and review queues; None:
    that view is empty.
    """

    root: Rooted | None = None
    runs: Rooted | None = None
    review: Rooted | None = None


class Page:
    """The page; it remembers the drafts it made and the tickets it gave."""

    def __init__(self, folders: Folders) -> None:
        self.folders, self.runs = folders, Runs(folders.runs)
        self._files = {
            f"/page/{file.name}": file for file in sorted(FILES.iterdir()) if file.suffix in _KINDS
        }
        self._files["/"] = self._files.pop("/page/index.html")

    def __contains__(self, path: object) -> bool:
        """True for an address that is answered without a key."""
        return path in self._files or (isinstance(path, str) and path.startswith(REPORT))

    def add(self, app: FastAPI, chat: Chat) -> None:
        """Put the page's addresses into an application."""
        workers, studies = Workers(), Studies(self.folders.root)
        for path, file in self._files.items():
            add(app, path, partial(_file, file))
        add(app, "/page/api/about", partial(self._about, chat))
        studies.add(app, workers)
        Drafts(chat, studies, workers).add(app)
        self.runs.add(app, workers)
        Reviews(self.folders.review).add(app, workers)

    async def _about(self, chat: Chat, _: Request) -> Response:
        live = chat.live
        facts = {
            "name": chat.name,
            "model": live.model,
            "digest": live.digest,
            "notice": NOTICE,
            "streams": live.streams,
        }
        views = {view: getattr(self.folders, folder) is not None for view, folder in _VIEWS.items()}
        windows = {name: [window.center, window.width] for name, window in CT_WINDOWS.items()}
        return Json(
            {
                **facts,
                "max_tokens": chat.max_tokens,
                "views": views,
                "windows": windows,
                "formats": FORMATS,
            }
        )


_VIEWS = {"studies": "root", "runs": "runs", "review": "review"}


async def _file(file: Path, _: Request) -> Response:
    return Response(
        file.read_bytes(),
        media_type=_KINDS[file.suffix],
        headers={"Content-Security-Policy": POLICY},
    )
