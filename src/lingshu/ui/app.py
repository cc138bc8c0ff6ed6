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

from lingshu.core.safe_folder import SafeFolder
from lingshu.imaging.windows import CT_WINDOWS
from lingshu.inference.answer import NOTICE
from lingshu.inference.draft_report import FORMATS
from lingshu.ui.drafts import DraftStore
from lingshu.ui.http import LenientJSONResponse, WorkerPool, add_route
from lingshu.ui.review import ReviewStore
from lingshu.ui.runs import REPORT_URL, RunReports
from lingshu.ui.studies import StudyCatalog

if TYPE_CHECKING:
    from lingshu.serve.chat import ChatEndpoint

STATIC_FOLDER = Path(__file__).with_name("static")
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
}
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:;"
    " connect-src 'self'; frame-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action"
    " 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


@dataclass(frozen=True)
class UiFolders:
    """What the page may show besides a chat: studies below `root`, runs and review queues; None:
    that view is empty.
    """

    root: SafeFolder | None = None
    runs: SafeFolder | None = None
    review: SafeFolder | None = None


class WebUI:
    """The page; it remembers the drafts it made and the tickets it gave."""

    def __init__(self, folders: UiFolders) -> None:
        self.folders, self.runs = folders, RunReports(folders.runs)
        self._files = {
            f"/page/{file.name}": file
            for file in sorted(STATIC_FOLDER.iterdir())
            if file.suffix in _MEDIA_TYPES
        }
        self._files["/"] = self._files.pop("/page/index.html")

    def __contains__(self, path: object) -> bool:
        """True for an address that is answered without a key."""
        return path in self._files or (isinstance(path, str) and path.startswith(REPORT_URL))

    def add_routes(self, app: FastAPI, chat: ChatEndpoint) -> None:
        """Put the page's addresses into an application."""
        workers, studies = WorkerPool(), StudyCatalog(self.folders.root)
        for path, file in self._files.items():
            add_route(app, path, partial(_static_file, file))
        add_route(app, "/page/api/about", partial(self._about, chat))
        studies.add_routes(app, workers)
        DraftStore(chat, studies, workers).add_routes(app)
        self.runs.add_routes(app, workers)
        ReviewStore(self.folders.review).add_routes(app, workers)

    async def _about(self, chat: ChatEndpoint, _: Request) -> Response:
        engine = chat.engine
        info = {
            "name": chat.name,
            "model": engine.model,
            "digest": engine.digest,
            "notice": NOTICE,
            "streams": engine.streams,
        }
        views = {
            view: getattr(self.folders, folder) is not None
            for view, folder in _VIEW_FOLDERS.items()
        }
        windows = {name: [window.center, window.width] for name, window in CT_WINDOWS.items()}
        return LenientJSONResponse(
            {
                **info,
                "max_tokens": chat.max_tokens,
                "views": views,
                "windows": windows,
                "formats": FORMATS,
            }
        )


_VIEW_FOLDERS = {"studies": "root", "runs": "runs", "review": "review"}


async def _static_file(file: Path, _: Request) -> Response:
    return Response(
        file.read_bytes(),
        media_type=_MEDIA_TYPES[file.suffix],
        headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY},
    )
