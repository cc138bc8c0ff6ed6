"""The routes of the server: chat completions, models, health, metrics, and the description of all
that (OpenAPI).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from lingshu import __version__
from lingshu.apps import _serve_wire as wire
from lingshu.apps._answering import NOTICE
from lingshu.apps._page_app import Page
from lingshu.apps._serve_chat import Chat, Desk
from lingshu.apps._serve_guard import Guard, Limits
from lingshu.apps._serve_media import Sources
from lingshu.apps._serve_wire import Refused
from lingshu.core.nouns import Live

# Two at once: one image of fifty megapixels takes half a gigabyte while it is decoded.
MEDIA_THREADS = 2
_WRONG = {
    400: "The request cannot be used; the message says why.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    429: "Too many questions are open; try again after the seconds that Retry-After tells.",
    503: "The server is closing.",
}
_ANYWHERE = {
    401: "No valid key.",
    403: "Another web page asks.",
    421: "Not a name of this server.",
    500: "The model or the server failed.",
}


@dataclass(frozen=True)
class Serving:
    """A model and how it is served.

    At most `seats` questions are open at once; `keys` empty: nobody is asked for one.
    """

    live: Live
    name: str
    seats: int = 80
    max_tokens: int = 1024
    keys: tuple[str, ...] = ()
    loopback: bool = True
    sources: Sources = field(default_factory=Sources)
    limits: Limits = field(default_factory=Limits)
    page: Page | None = None


def application(serving: Serving) -> Guard:
    """The server as an ASGI application, door and all."""
    desk = Desk(serving.live, serving.seats)
    app = FastAPI(
        title="lingshu serve",
        version=__version__,
        description=NOTICE,
        docs_url=None,
        redoc_url=None,
    )
    guard = Guard(
        app,
        keys=serving.keys,
        loopback=serving.loopback,
        limits=serving.limits,
        open_too=serving.page or (),
    )
    workers = ThreadPoolExecutor(MEDIA_THREADS, "lingshu-media")
    chat = Chat(serving.live, serving.name, serving.max_tokens, serving.sources, desk, workers)
    _errors(app)
    _routes(app, serving, desk, guard)
    answers: dict[int | str, dict[str, Any]] = {
        200: {"content": {"text/event-stream": {}}, "description": "A reply, whole or as events."}
    }
    app.add_api_route(
        "/v1/chat/completions",
        chat.completion,
        methods=["POST"],
        response_model=wire.Completion,
        responses=_responses({**_WRONG, 404: "The server offers another model."}, answers),
        summary="Ask the model about images.",
        operation_id="chat_completions",
    )
    if serving.page is not None:
        serving.page.add(app, chat)
    app.openapi = lambda: _described(app, serving)
    return guard


def _routes(app: FastAPI, serving: Serving, desk: Desk, guard: Guard) -> None:
    began = int(time.time())
    live = serving.live

    @app.get(
        "/v1/models",
        response_model=wire.ModelList,
        responses=_responses({}),
        summary="What this server offers.",
    )
    async def models() -> dict[str, Any]:
        facts = {
            "model": live.model,
            "digest": live.digest,
            "notice": NOTICE,
            "streams": live.streams,
            "max_tokens": serving.max_tokens,
        }
        entry = {
            "id": serving.name,
            "object": "model",
            "created": began,
            "owned_by": "lingshu",
            "lingshu": facts,
        }
        return {"object": "list", "data": [entry]}

    @app.get(
        "/health",
        response_model=wire.Health,
        responses=_responses({}),
        summary="Whether the server answers.",
    )
    async def health() -> dict[str, Any]:
        return {"status": "ok", "running": live.running, "waiting": live.waiting}

    @app.get(
        "/metrics",
        response_class=PlainTextResponse,
        responses=_responses({}),
        summary="Counts in Prometheus' form.",
    )
    async def metrics() -> PlainTextResponse:
        text = desk.metrics.text(running=live.running, waiting=live.waiting, held=guard.held)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def _responses(
    wrong: Mapping[int, str], more: Mapping[int | str, dict[str, Any]] | None = None
) -> dict[int | str, dict[str, Any]]:
    told = {**wrong, **_ANYWHERE}
    answers: dict[int | str, dict[str, Any]] = {
        status: {"model": wire.ErrorBody, "description": says} for status, says in told.items()
    }
    answers.update(more or {})
    return answers


def _errors(app: FastAPI) -> None:
    """Every error in OpenAI's form."""

    def answer(refused: Refused, headers: Mapping[str, str] | None = None) -> Response:
        more = {"Retry-After": str(refused.retry_after)} if refused.retry_after is not None else {}
        return JSONResponse(refused.body, refused.status, headers=dict(headers or {}) | more)

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return answer(error)

    async def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        says = {
            404: "there is no such address; see /openapi.json.",
            405: "the method is not one of this address.",
        }
        return answer(
            Refused(error.status_code, says.get(error.status_code, "the request cannot be used.")),
            error.headers,
        )

    async def bug(_: Request, error: Exception) -> Response:  # noqa: ARG001 - the door tells the log
        return answer(Refused(500, "the server failed; what happened is in its log."))

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, bug)


def _described(app: FastAPI, serving: Serving) -> dict[str, Any]:
    """OpenAPI's description, with the limits and the name of this very server."""
    if app.openapi_schema is None:
        found = FastAPI.openapi(app)
        addresses = serving.sources.root is not None or serving.sources.web is not None
        request = wire.request_schema(
            model=serving.name, max_tokens=serving.max_tokens, addresses=addresses
        )
        schemas = found.setdefault("components", {}).setdefault("schemas", {})
        schemas |= request.pop("$defs") | {"ChatRequest": request}
        body = {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/ChatRequest"}}
            },
        }
        found["paths"]["/v1/chat/completions"]["post"]["requestBody"] = body
        for path in found["paths"].values():
            for operation in path.values():
                for status, answer in operation["responses"].items():
                    if status == "429":
                        answer["headers"] = {
                            "Retry-After": {"required": True, "schema": {"type": "integer"}}
                        }
        if serving.keys:
            found["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            found["security"] = [{"key": []}]
            found["paths"]["/health"]["get"]["security"] = []
        app.openapi_schema = found
    return app.openapi_schema
