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
from lingshu.core.types import AsyncEngine
from lingshu.inference.answer import NOTICE
from lingshu.serve import schema as wire
from lingshu.serve.chat import ChatEndpoint, RequestLimiter
from lingshu.serve.media import ImageSources
from lingshu.serve.schema import HTTPError
from lingshu.serve.security import Limits, SecurityMiddleware
from lingshu.ui.app import WebUI

# Two at once: one image of fifty megapixels takes half a gigabyte while it is decoded.
MEDIA_THREADS = 2
_REQUEST_ERRORS = {
    400: "The request cannot be used; the message says why.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    429: "Too many questions are open; try again after the seconds that Retry-After tells.",
    503: "The server is closing.",
}
_COMMON_ERRORS = {
    401: "No valid key.",
    403: "Another web page asks.",
    421: "Not a name of this server.",
    500: "The model or the server failed.",
}


@dataclass(frozen=True)
class ServeConfig:
    """A model and how it is served.

    At most `seats` questions are open at once; `keys` empty: nobody is asked for one.
    """

    engine: AsyncEngine
    name: str
    slots: int = 80
    max_tokens: int = 1024
    keys: tuple[str, ...] = ()
    loopback: bool = True
    sources: ImageSources = field(default_factory=ImageSources)
    limits: Limits = field(default_factory=Limits)
    ui: WebUI | None = None


def create_app(config: ServeConfig) -> SecurityMiddleware:
    """The server as an ASGI application, door and all."""
    limiter = RequestLimiter(config.engine, config.slots)
    app = FastAPI(
        title="lingshu serve",
        version=__version__,
        description=NOTICE,
        docs_url=None,
        redoc_url=None,
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
    responses: dict[int | str, dict[str, Any]] = {
        200: {"content": {"text/event-stream": {}}, "description": "A reply, whole or as events."}
    }
    app.add_api_route(
        "/v1/chat/completions",
        chat.completion,
        methods=["POST"],
        response_model=wire.Completion,
        responses=_responses(
            {**_REQUEST_ERRORS, 404: "The server offers another model."}, responses
        ),
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
    engine = config.engine

    @app.get(
        "/v1/models",
        response_model=wire.ModelList,
        responses=_responses({}),
        summary="What this server offers.",
    )
    async def models() -> dict[str, Any]:
        info = {
            "model": engine.model,
            "digest": engine.digest,
            "notice": NOTICE,
            "streams": engine.streams,
            "max_tokens": config.max_tokens,
        }
        entry = {
            "id": config.name,
            "object": "model",
            "created": started_at,
            "owned_by": "lingshu",
            "lingshu": info,
        }
        return {"object": "list", "data": [entry]}

    @app.get(
        "/health",
        response_model=wire.Health,
        responses=_responses({}),
        summary="Whether the server answers.",
    )
    async def health() -> dict[str, Any]:
        return {"status": "ok", "running": engine.running, "waiting": engine.waiting}

    @app.get(
        "/metrics",
        response_class=PlainTextResponse,
        responses=_responses({}),
        summary="Counts in Prometheus' form.",
    )
    async def metrics() -> PlainTextResponse:
        text = limiter.metrics.render(
            running=engine.running, waiting=engine.waiting, held_bytes=middleware.held_bytes
        )
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def _responses(
    errors: Mapping[int, str], extra: Mapping[int | str, dict[str, Any]] | None = None
) -> dict[int | str, dict[str, Any]]:
    descriptions = {**errors, **_COMMON_ERRORS}
    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": wire.ErrorBody, "description": description}
        for status, description in descriptions.items()
    }
    responses.update(extra or {})
    return responses


def _add_error_handlers(app: FastAPI) -> None:
    """Every error in OpenAI's form."""

    def error_response(error: HTTPError, headers: Mapping[str, str] | None = None) -> Response:
        extra_headers = (
            {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
        )
        return JSONResponse(error.body, error.status, headers=dict(headers or {}) | extra_headers)

    async def handle_http_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPError)
        return error_response(error)

    async def handle_http_exception(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        messages = {
            404: "there is no such address; see /openapi.json.",
            405: "the method is not one of this address.",
        }
        return error_response(
            HTTPError(
                error.status_code, messages.get(error.status_code, "the request cannot be used.")
            ),
            error.headers,
        )

    async def handle_bug(_: Request, error: Exception) -> Response:  # noqa: ARG001 - the door tells the log
        return error_response(HTTPError(500, "the server failed; what happened is in its log."))

    app.add_exception_handler(HTTPError, handle_http_error)
    app.add_exception_handler(HTTPException, handle_http_exception)
    app.add_exception_handler(Exception, handle_bug)


def _openapi_schema(app: FastAPI, config: ServeConfig) -> dict[str, Any]:
    """OpenAPI's description, with the limits and the name of this very server."""
    if app.openapi_schema is None:
        schema = FastAPI.openapi(app)
        addresses = config.sources.root is not None or config.sources.fetch_policy is not None
        request = wire.request_schema(
            model=config.name, max_tokens=config.max_tokens, allow_addresses=addresses
        )
        schemas = schema.setdefault("components", {}).setdefault("schemas", {})
        schemas |= request.pop("$defs") | {"ChatRequest": request}
        body = {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/ChatRequest"}}
            },
        }
        schema["paths"]["/v1/chat/completions"]["post"]["requestBody"] = body
        for path in schema["paths"].values():
            for operation in path.values():
                for status, response in operation["responses"].items():
                    if status == "429":
                        response["headers"] = {
                            "Retry-After": {"required": True, "schema": {"type": "integer"}}
                        }
        if config.keys:
            schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            schema["security"] = [{"key": []}]
            schema["paths"]["/health"]["get"]["security"] = []
        app.openapi_schema = schema
    return app.openapi_schema
