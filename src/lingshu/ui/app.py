"""The web page of `lingshu serve`: its files, its addresses, and its content security policy.

/                     the page: plain HTML, scripts and a style, nothing from anywhere else
/page/*.js, *.css     its files; like the page itself they need no key, because they hold no data
/page/api/...         studies, drafts, runs and reviews; with the same security and key as /v1
/page/report/TICKET   one report of a run, without a key, for an hour: a browser sends none when it opens a page
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response

from lingshu.core.safe_folder import SafeFolder
from lingshu.imaging.windows import CT_WINDOWS
from lingshu.inference.answer import NOTICE
from lingshu.inference.draft_report import FORMATS
from lingshu.serve.chat import ChatEndpoint
from lingshu.ui.drafts import DraftStore
from lingshu.ui.http import WorkerPool, add_route
from lingshu.ui.review import ReviewStore
from lingshu.ui.runs import REPORT_URL, RunReports
from lingshu.ui.studies import StudyCatalog

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
    """The folders of studies, runs and review queues; None: that view is empty."""

    root: SafeFolder | None = None
    runs: SafeFolder | None = None
    review: SafeFolder | None = None


class WebUI:
    """The page, with the drafts it made and the tickets it gave."""

    def __init__(self, folders: UiFolders) -> None:
        self.folders, self.runs = folders, RunReports(folders.runs)
        self._files = {
            f"/page/{file.name}": file
            for file in sorted(STATIC_FOLDER.iterdir())
            if file.suffix in _MEDIA_TYPES
        }
        self._files["/"] = self._files.pop("/page/index.html")

    def __contains__(self, path: object) -> bool:
        """True for a path that needs no key."""
        return path in self._files or (isinstance(path, str) and path.startswith(REPORT_URL))

    def add_routes(self, app: FastAPI, chat: ChatEndpoint) -> None:
        """Add the page's addresses to an application."""
        workers, studies = WorkerPool(), StudyCatalog(self.folders.root)
        for path, file in self._files.items():
            add_route(app, path, partial(_static_file, file))
        add_route(app, "/page/api/about", partial(self._about, chat))
        studies.add_routes(app, workers)
        DraftStore(chat, studies, workers).add_routes(app)
        self.runs.add_routes(app, workers)
        ReviewStore(self.folders.review).add_routes(app, workers)

    async def _about(self, chat: ChatEndpoint, _: Request) -> dict[str, Any]:
        folders = self.folders
        return {
            "name": chat.name,
            "model": chat.engine.model,
            "digest": chat.engine.digest,
            "notice": NOTICE,
            "streams": chat.engine.streams,
            "max_tokens": chat.max_tokens,
            "views": {
                "studies": folders.root is not None,
                "runs": folders.runs is not None,
                "review": folders.review is not None,
            },
            "windows": {name: [window.center, window.width] for name, window in CT_WINDOWS.items()},
            "formats": FORMATS,
        }


async def _static_file(file: Path, _: Request) -> Response:
    return Response(
        file.read_bytes(),
        media_type=_MEDIA_TYPES[file.suffix],
        headers={"Content-Security-Policy": CONTENT_SECURITY_POLICY},
    )
