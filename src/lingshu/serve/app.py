"""The routes of the server: chat completions, models, health, metrics, and their OpenAPI schema."""

from __future__ import annotations

import time
from collections.abc import Container, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import Gauge, generate_latest
from starlette.exceptions import HTTPException

from lingshu import __version__
from lingshu.core.types import AsyncEngine, engine_notes
from lingshu.inference.answer import NOTICE
from lingshu.serve import schema
from lingshu.serve.chat import ChatEndpoint, RequestLimiter
from lingshu.serve.http import create_uvicorn_server
from lingshu.serve.media import ImageSources
from lingshu.serve.schema import HTTPError
from lingshu.serve.security import Limits, SecurityMiddleware

# Two at a time: an image of fifty megapixels takes half a gigabyte while it is decoded.
MEDIA_THREADS = 2
_COMMON_ERRORS = {
    401: "No valid key.",
    403: "A request of another web page.",
    421: "Not a name of this server.",
    500: "The model or the server failed.",
}
_CHAT_ERRORS = {
    400: "The request cannot be used; the message says why.",
    404: "The server offers another model.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    429: "Too many requests are open; try again after the seconds in Retry-After.",
    503: "The server is shutting down.",
}


class WebPage(Container[str], Protocol):
    """Further routes of a server (lingshu/ui); it contains the paths that need no key."""

    def add_routes(self, app: FastAPI, chat: ChatEndpoint) -> None: ...


@dataclass(frozen=True)
class ServeConfig:
    """A model and how it is served: at most `slots` open requests; without `keys` none is needed."""

    engine: AsyncEngine
    name: str
    slots: int = 80
    max_tokens: int = 1024
    keys: tuple[str, ...] = ()
    loopback: bool = True
    sources: ImageSources = field(default_factory=ImageSources)
    limits: Limits = field(default_factory=Limits)
    ui: WebPage | None = None


def create_server(config: ServeConfig) -> uvicorn.Server:
    """The HTTP server, not started: `run(sockets=[...])` serves until `should_exit` is set."""
    return create_uvicorn_server(
        create_app(config), config.limits, lifespan="off", shutdown_timeout_s=5
    )


def create_app(config: ServeConfig) -> SecurityMiddleware:
    """The server as an ASGI application, its security included."""
    limiter = RequestLimiter(config.slots)
    app = FastAPI(
        title="lingshu serve",
        version=__version__,
        description=NOTICE,
        docs_url=None,
        redoc_url=None,
        responses=_responses(_COMMON_ERRORS),
    )
    middleware = SecurityMiddleware(
        app,
        keys=config.keys,
        loopback=config.loopback,
        limits=config.limits,
        extra_public_paths=config.ui or (),
    )
    workers = ThreadPoolExecutor(MEDIA_THREADS, "lingshu-media")
    chat = ChatEndpoint(
        config.engine, config.name, config.max_tokens, config.sources, limiter, workers
    )
    _add_error_handlers(app)
    _add_routes(app, config, limiter, middleware)
    streamed = {"content": {"text/event-stream": {}}, "description": "A reply, as JSON or events."}
    app.add_api_route(
        "/v1/chat/completions",
        chat.completion,
        methods=["POST"],
        response_model=schema.Completion,
        responses=_responses(_CHAT_ERRORS) | {200: streamed},
        summary="Ask the model about images.",
        operation_id="chat_completions",
    )
    if config.ui is not None:
        config.ui.add_routes(app, chat)
    app.openapi = lambda: _openapi_schema(app, config)
    return middleware


def _add_routes(
    app: FastAPI, config: ServeConfig, limiter: RequestLimiter, middleware: SecurityMiddleware
) -> None:
    started_at = int(time.time())
    engine, registry = config.engine, limiter.metrics.registry
    for name, description, value in (
        ("lingshu_running", "Requests that are being answered.", lambda: engine.running),
        ("lingshu_waiting", "Requests in the queue.", lambda: engine.waiting),
        ("lingshu_body_bytes", "Bytes of request bodies held.", lambda: middleware.held_bytes),
    ):
        Gauge(name, description, registry=registry).set_function(value)

    @app.get("/v1/models", response_model=schema.ModelList, summary="The models of this server.")
    async def models() -> dict[str, Any]:
        info = {
            "model": engine.model,
            "digest": engine.digest,
            "notice": NOTICE,
            "notes": list(engine_notes(engine)),
            "streams": engine.streams,
            "max_tokens": config.max_tokens,
        }
        entry = {"id": config.name, "object": "model", "created": started_at}
        return {"object": "list", "data": [{**entry, "owned_by": "lingshu", "lingshu": info}]}

    @app.get("/health", response_model=schema.Health, summary="Whether the server responds.")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "running": engine.running, "waiting": engine.waiting}

    @app.get("/metrics", response_class=PlainTextResponse, summary="Metrics in Prometheus format.")
    async def metrics() -> PlainTextResponse:
        text = generate_latest(registry)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def _responses(errors: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": schema.ErrorBody, "description": description}
        for status, description in errors.items()
    }


def _add_error_handlers(app: FastAPI) -> None:
    """Every error in OpenAI's form."""

    def error_response(error: HTTPError, headers: Mapping[str, str] | None = None) -> Response:
        retry = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
        return JSONResponse(error.body, error.status, headers=dict(headers or {}) | retry)

    async def handle_http_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPError)
        return error_response(error)

    async def handle_http_exception(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        messages = {
            404: "there is no such address; see /openapi.json.",
            405: "this address does not support the method.",
        }
        message = messages.get(error.status_code, "the request cannot be used.")
        return error_response(HTTPError(error.status_code, message), error.headers)

    async def handle_bug(_request: Request, _error: Exception) -> Response:
        return error_response(HTTPError.server_failed())  # security.py logs it

    app.add_exception_handler(HTTPError, handle_http_error)
    app.add_exception_handler(HTTPException, handle_http_exception)
    app.add_exception_handler(Exception, handle_bug)


def _openapi_schema(app: FastAPI, config: ServeConfig) -> dict[str, Any]:
    """The OpenAPI schema with the limits and the model name of this server."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = FastAPI.openapi(app)
    request = schema.request_schema(
        model=config.name,
        max_tokens=config.max_tokens,
        allow_addresses=bool(config.sources.root or config.sources.fetch_policy),
    )
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas |= request.pop("$defs") | {"ChatRequest": request}
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/ChatRequest"}}}
    chat = document["paths"]["/v1/chat/completions"]["post"]
    chat["requestBody"] = {"required": True, "content": content}
    retry_after = {"Retry-After": {"required": True, "schema": {"type": "integer"}}}
    chat["responses"]["429"]["headers"] = retry_after
    if config.keys:
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
        document["paths"]["/health"]["get"]["security"] = []
    app.openapi_schema = document
    return document
