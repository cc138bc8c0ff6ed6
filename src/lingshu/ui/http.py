"""What every address of the web page has in common: who may ask, headers, checked bodies, and work
off the event loop.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, ValidationError

from lingshu.core.errors import LingshuError, one_line
from lingshu.serve.schema import HTTPError
from lingshu.serve.security import Body

ResultT = TypeVar("ResultT")
RequestT = TypeVar("RequestT", bound="RequestModel")
RouteHandler = Callable[[Request], Awaitable[Response]]
# Two at once: one slice of fifty megapixels takes half a gigabyte while it is decoded.
MAX_THREADS = 2
# A page asks for one slice of each of its two panes at a time: more than this is no page of ours.
MAX_WAITING = 32
CLIENT_CLOSED_REQUEST = 499
MAX_DEPTH = 5  # folders below the one that was named
SECURITY_HEADERS: Mapping[str, str] = {
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


class LenientJSONResponse(JSONResponse):
    """JSON of whatever lies on a disk: a folder's name or a text that is no Unicode must not cost
    the page its whole list.
    """

    def render(self, content: object) -> bytes:
        return json.dumps(
            content, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        ).encode("utf-8", "replace")


class RequestModel(BaseModel):
    """A body that the page sends: nothing but the fields it knows."""

    model_config = ConfigDict(extra="forbid", strict=True)


class WorkerPool:
    """Threads for reading and rendering; it counts who waits for them."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(MAX_THREADS, "lingshu-page")
        self._semaphore = asyncio.Semaphore(MAX_THREADS)
        self._n_waiting = 0

    async def run(self, request: Request, work: Callable[[], ResultT]) -> ResultT:
        """What `work` gives; a browser that went away while it waited gets nothing made.

        Raises:
            Refused: too much is waiting (429), the browser went away, or what `work` says is wrong
                (400).
        """
        if self._n_waiting >= MAX_WAITING:
            raise HTTPError(
                429,
                "the server draws as much as it can; try again.",
                code="overloaded",
                retry_after=1,
            )
        self._n_waiting += 1
        try:
            async with self._semaphore:
                if request.method == "GET" and await request.is_disconnected():
                    raise HTTPError(CLIENT_CLOSED_REQUEST, "the browser went away.")
                return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except LingshuError as error:
            raise HTTPError(400, one_line(error)[:400], code="invalid_request") from None
        finally:
            self._n_waiting -= 1


def add_route(app: FastAPI, path: str, handler: RouteHandler, method: str = "GET") -> None:
    """An address of the page's own: no part of the described interface, and closed to other web
    pages.
    """

    async def checked_handler(request: Request) -> Response:
        # A browser says where a request comes from; reading a slice as an image of another site is
        # none of its business.
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise HTTPError(403, "requests of other web pages are refused.", code="origin")
        response = await handler(request)
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    app.add_route(path, checked_handler, methods=[method], include_in_schema=False)


async def parse_body(request: Request, model: type[RequestT]) -> RequestT:
    """A request's body, checked.

    Raises:
        Refused: no JSON (415), too large (413), or not what was expected (400). The message repeats
            nothing of it.
    """
    if (
        request.headers.get("content-type", "").partition(";")[0].strip().lower()
        != "application/json"
    ):
        raise HTTPError(
            415, "send JSON, with the header Content-Type: application/json.", code="content_type"
        )
    body: Body = request.scope["state"]["body"]
    try:
        return model.model_validate_json(await body.read())
    except ValidationError as error:
        detail = error.errors(include_input=False, include_url=False, include_context=False)[0]
        location = ".".join(
            str(part)
            for part in detail["loc"]
            if isinstance(part, int) or part in model.model_fields
        )
        raise HTTPError(
            400,
            f"{location or 'the body'}: {detail['msg'][0].lower()}{detail['msg'][1:]}"[:300],
            code="invalid_value",
        ) from None
    except RecursionError:
        raise HTTPError(400, "the body is nested too deeply.", code="invalid_json") from None


def find_folders(root: Path, file: str) -> Iterator[Path]:
    """The folders below `root`, itself among them, that hold a file of this name; links and hidden
    folders are not followed.
    """
    for parent, subfolders, files in os.walk(root):
        folder = Path(parent)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        if len(folder.relative_to(root).parts) >= MAX_DEPTH:
            subfolders.clear()
        if file in files and not (folder / file).is_symlink():
            yield folder
