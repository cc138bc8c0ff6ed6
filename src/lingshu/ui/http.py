"""What the addresses of the web page share: who may ask, headers, validated bodies, worker threads."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, ValidationError

from lingshu.core.errors import LingshuError, one_line
from lingshu.serve.schema import CLIENT_CLOSED_REQUEST, HTTPError, require_json
from lingshu.serve.security import Body

ResultT = TypeVar("ResultT")
RequestT = TypeVar("RequestT", bound="RequestModel")
RouteHandler = Callable[[Request], Awaitable[object]]
# Two at a time: a slice of fifty megapixels takes half a gigabyte while it is decoded.
MAX_THREADS = 2
# The page requests one slice of each of its two panes at a time: more is another client.
MAX_WAITING = 32
SECURITY_HEADERS: Mapping[str, str] = {
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}


class LenientJSONResponse(JSONResponse):
    """JSON with names and texts from the disk; what is not Unicode in them is replaced."""

    def render(self, content: object) -> bytes:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")


class RequestModel(BaseModel):
    """A body that the page sends; unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class WorkerPool:
    """Threads for reading and rendering, with a limit on the requests that wait for them."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(MAX_THREADS, "lingshu-page")
        self._semaphore = asyncio.Semaphore(MAX_THREADS)
        self._n_waiting = 0

    async def run(self, request: Request, work: Callable[[], ResultT]) -> ResultT:
        """The result of `work`, which is not started if the browser disconnected while it waited.

        Raises:
            HTTPError: too many wait (429), the browser disconnected (499), or an error of `work`
                (400).
        """
        if self._n_waiting >= MAX_WAITING:
            message = "the server renders as much as it can; try again."
            raise HTTPError(429, message, code="overloaded", retry_after=1)
        self._n_waiting += 1
        try:
            async with self._semaphore:
                if request.method == "GET" and await request.is_disconnected():
                    raise HTTPError(CLIENT_CLOSED_REQUEST, "the browser disconnected.")
                return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        except LingshuError as error:
            raise HTTPError.invalid(one_line(error)[:400], "invalid_request") from None
        finally:
            self._n_waiting -= 1


def add_route(app: FastAPI, path: str, handler: RouteHandler, method: str = "GET") -> None:
    """Add an address of the page, which is not part of the API schema and is closed to other pages.

    The handler gives a response, or an object for a JSON response.
    """

    async def checked_handler(request: Request) -> Response:
        # A browser says where a request comes from: other sites must not read a slice as an image.
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise HTTPError.foreign_origin()
        result = await handler(request)
        response = result if isinstance(result, Response) else LenientJSONResponse(result)
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    app.add_route(path, checked_handler, methods=[method], include_in_schema=False)


async def parse_body(request: Request, model: type[RequestT]) -> RequestT:
    """The validated body of a request.

    Raises:
        HTTPError: not JSON (415), too large (413), or invalid (400); no value is repeated.
    """
    require_json(request.headers.get("content-type"))
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
        message = f"{location or 'the body'}: {detail['msg'][0].lower()}{detail['msg'][1:]}"
        raise HTTPError.invalid(message[:300], "invalid_value") from None
    except RecursionError:
        raise HTTPError.invalid("the body is nested too deeply.", "invalid_json") from None
