"""One request to an OpenAI-compatible endpoint and what it says: bounded in time and size, and it
keeps its key to itself.

Outcomes are values; an endpoint's bad answer is never an exception.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from lingshu.core.errors import InputError

if TYPE_CHECKING:
    import aiohttp

Body = Mapping[str, Any]
# unreachable: no connection; denied: 401, 403; missing: 404; status: another refusal; broken: cut
# or no valid answer; skipped: never sent
FailureKind = Literal[
    "unreachable", "denied", "missing", "status", "timeout", "broken", "oversize", "skipped"
]

MAX_REPLY_BYTES = 8 << 20


ERROR_NAME = re.compile(r"[a-z][a-z0-9_]{2,40}", re.I)


@dataclass(frozen=True)
class Endpoint:
    """An address that ends before `/chat/completions`, and how hard it may be asked.

    `retries` come on top of the first try; the wait before them doubles from `backoff_s` with a
    seeded jitter, unless the endpoint says how long to wait.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)
    concurrency: int = 16
    timeout_s: float = 120.0
    retries: int = 5
    backoff_s: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        # Neither message repeats the value: it may be the secret itself.
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError("an endpoint is written http(s)://host[:port]/v1.")
        try:
            parts.port  # noqa: B018 - reading it checks it
        except ValueError as error:
            raise InputError(
                f"the port of {parts.hostname} is no number up to 65535; write"
                " http(s)://host[:port]/v1."
            ) from error
        if parts.username or parts.password or parts.query:
            raise InputError(
                f"the address of {parts.hostname} carries a password or a query; give keys in"
                " OPENAI_API_KEY instead."
            )
        if self.api_key is not None and not re.fullmatch(r"[!-~]+", self.api_key):
            raise InputError(
                "the API key is empty or holds characters that no key has; copy it again."
            )


@dataclass(frozen=True)
class ChatResponse:
    """What the endpoint said; `finish` is its finish reason ("stop", "length", ...), `token_ids`
    what it said as tokens, where it was asked for them and knows how to tell. `lost` counts earlier
    tries that it may have answered unheard.
    """

    text: str
    finish: str | None
    prompt_tokens: int | None
    reply_tokens: int | None
    token_ids: tuple[int, ...] | None = None
    failed_attempts: int = 0


@dataclass(frozen=True)
class Failure:
    """Why there is no answer after the last try; `message` is one line without secrets and without
    what was asked.

    `lost` counts the tries, the last one among them, that the endpoint may have answered unheard.
    """

    kind: FailureKind
    message: str
    status: int | None = None
    failed_attempts: int = 0


class OpenAIClient:
    """Single requests; it remembers whether the endpoint ever answered."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.url = f"{endpoint.url.rstrip('/')}/chat/completions"
        self.has_responded = False

    async def send(
        self, client: aiohttp.ClientSession, body: Body
    ) -> tuple[ChatResponse | Failure, float | None]:
        """One request: its outcome, and the seconds the endpoint asks to wait before another."""
        import aiohttp

        try:
            async with client.post(self.url, json=body, allow_redirects=False) as response:
                self.has_responded = True
                data = await _read_bounded(response)
                wait = _retry_after(response.headers.get("Retry-After"))
                return self._parse_response(response.status, data), wait
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return Failure("unreachable", f"no connection ({type(error).__name__})"), None
        except TimeoutError:
            return Failure("timeout", f"no answer within {self.endpoint.timeout_s:g} s"), None
        except (aiohttp.ClientError, OSError) as error:
            return Failure("broken", f"the connection broke ({type(error).__name__})"), None

    def _parse_response(self, status: int, data: bytes | None) -> ChatResponse | Failure:
        if data is None:
            return Failure(
                "oversize", f"the answer is longer than {MAX_REPLY_BYTES >> 20} MB", status
            )
        if status != 200:
            kind: FailureKind = (
                "denied" if status in (401, 403) else "missing" if status == 404 else "status"
            )
            # What a server says about a refused key may repeat parts of it.
            reason = "" if kind == "denied" else self._error_name(data)
            return Failure(kind, f"HTTP status {status}{reason}", status)
        answer = parse_chat_response(data)
        return answer or Failure(
            "broken", f"the answer is no chat completion{self._error_name(data)}", status
        )

    def _error_name(self, data: bytes) -> str:
        """The endpoint's own name for the error, where it gives one; its prose may repeat what it
        was sent, so none is kept.
        """
        try:
            value = json.loads(data)
            error = value.get("error", value) if isinstance(value, dict) else value
            names = [error.get(key) for key in ("code", "type")] if isinstance(error, dict) else []
        except (ValueError, RecursionError):
            return ""
        return next(
            (f": {name}" for name in names if isinstance(name, str) and ERROR_NAME.fullmatch(name)),
            "",
        )


async def _read_bounded(response: aiohttp.ClientResponse) -> bytes | None:
    """The body, or None when it is longer than allowed; no more than that is ever held."""
    # A stated length is the length of what arrives, unless it is compressed.
    if (
        response.content_length or MAX_REPLY_BYTES + 1
    ) <= MAX_REPLY_BYTES and "Content-Encoding" not in response.headers:
        return await response.read()
    data = bytearray()
    async for chunk in response.content.iter_chunked(65536):
        data += chunk
        if len(data) > MAX_REPLY_BYTES:
            return None
    return bytes(data)


def _retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header: a number or a date (RFC 9110, section 10.2.3)."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def parse_chat_response(data: bytes) -> ChatResponse | None:
    """A chat completion as it came; None for anything else."""
    try:
        value = json.loads(data)
        choice = value["choices"][0]
        content = choice["message"].get("content")
        if isinstance(content, list):
            content = "".join(part["text"] for part in content)
        # A server that reasons aloud, or refuses, may leave the content null: the reply is then
        # empty, or the refusal.
        text = content if content is not None else choice["message"].get("refusal") or ""
        usage = value.get("usage") or {}
        if not isinstance(text, str):
            return None
        text.encode()
        counts = (
            _parse_count(usage.get("prompt_tokens")),
            _parse_count(usage.get("completion_tokens")),
        )
        return ChatResponse(
            text,
            _short_string(choice.get("finish_reason")),
            *counts,
            _parse_token_ids(choice.get("token_ids")),
        )
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None


def _short_string(value: object) -> str | None:
    return value[:40] if isinstance(value, str) else None


def _parse_token_ids(value: object) -> tuple[int, ...] | None:
    return (
        tuple(value)
        if isinstance(value, list)
        and value
        and all(type(token_id) is int and token_id >= 0 for token_id in value)
        else None
    )


def _parse_count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
