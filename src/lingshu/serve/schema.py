"""Requests and responses: OpenAI's chat completions where a local model can answer them; any other
field is refused by name.

Fields without effect here are accepted at their neutral value, because clients send them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

# A chat template is rendered for each reply of a dialogue: the cost is turns times parts.
MAX_MESSAGES = 256
MAX_PARTS = 256
MAX_TOTAL_PARTS = 2048
MAX_CHARACTERS = 1_000_000
MAX_STOP_TEXTS = 4
MAX_URL_CHARS = 2048
CLIENT_CLOSED_REQUEST = 499  # the status that servers log for a client that disconnected
ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class HTTPError(Exception):
    """An error response: HTTP status, message, the field at fault, a code, seconds to wait."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after = retry_after

    @classmethod
    def invalid(cls, message: str, code: str, param: str | None = None) -> HTTPError:
        """A request with an invalid field."""
        return cls(400, message, param=param, code=code)

    @classmethod
    def foreign_origin(cls) -> HTTPError:
        return cls(403, "requests of other web pages are refused.", code="origin")

    @classmethod
    def server_failed(cls) -> HTTPError:
        return cls(500, "the server failed; what happened is in its log.")

    @property
    def body(self) -> dict[str, Any]:
        """The error in OpenAI's form."""
        kind = ERROR_TYPES.get(self.status) or (
            "server_error" if self.status >= 500 else "invalid_request_error"
        )
        fields = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": fields}


def require_json(content_type: str | None) -> None:
    """
    Raises:
        HTTPError: 415; a form or plain text, which other web pages can send, is not read.
    """
    if (content_type or "").partition(";")[0].strip().lower() != "application/json":
        raise HTTPError(
            415, "send JSON, with the header Content-Type: application/json.", code="content_type"
        )


def _float_to_int(value: object) -> object:
    # To JSON, 1.0 is an integer.
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _strict_bool(value: object) -> object:
    # To Python, 0 is False.
    if value is not None and not isinstance(value, bool):
        raise ValueError("true or false is expected")
    return value


# The bound comes before the validator, or the schema would not know it.
TokenCount = Annotated[int, Field(ge=1), BeforeValidator(_float_to_int)]
ExactlyOne = Annotated[int, Field(ge=1, le=1), BeforeValidator(_float_to_int)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1), BeforeValidator(_float_to_int)]
OnlyFalse = Annotated[Literal[False], BeforeValidator(_strict_bool)]


class _RequestModel(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, title=None)


class TextPart(_RequestModel):
    """Text."""

    type: Literal["text"]
    text: str


class ImageUrl(_RequestModel):
    """A data URI; a file:// address or path if the server has a --root; a web address if it has
    --allow-urls.
    """

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(_RequestModel):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageUrl


TextParts = Annotated[list[TextPart], Field(min_length=1, max_length=MAX_PARTS)]
ContentParts = Annotated[
    list[Annotated[TextPart | ImagePart, Field(discriminator="type")]],
    Field(min_length=1, max_length=MAX_PARTS),
]


class SystemMessage(_RequestModel):
    """Instructions for the model."""

    role: Literal["system", "developer"]
    content: str | TextParts
    name: str | None = None


class UserMessage(_RequestModel):
    """A question, which may contain images."""

    role: Literal["user"]
    content: str | ContentParts
    name: str | None = None


class AssistantMessage(_RequestModel):
    """An earlier reply, which may contain the null fields of a response."""

    role: Literal["assistant"]
    content: str | TextParts
    name: str | None = None
    refusal: None = None
    audio: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    function_call: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class StreamOptions(_RequestModel):
    """`include_usage` requests one more event with the token counts."""

    include_usage: bool | None = None
    include_obfuscation: OnlyFalse | None = None


class TextFormat(_RequestModel):
    """The only format of replies."""

    type: Literal["text"]


class ChatRequest(_RequestModel):
    """A chat completion."""

    model: str = Field(description="The name under which this server offers its model.")
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: TokenCount | None = Field(default=None, description="The longest reply, in tokens.")
    max_completion_tokens: TokenCount | None = Field(
        default=None, description="The same under its newer name; takes precedence."
    )
    temperature: float | None = Field(
        default=None, ge=0, le=2, description="0, the default, is greedy."
    )
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: Seed | None = Field(default=None, description="Seed of sampling; random by default.")
    stop: (
        Annotated[str, Field(max_length=256)]
        | Annotated[list[Annotated[str, Field(max_length=256)]], Field(max_length=MAX_STOP_TEXTS)]
        | None
    ) = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: ExactlyOne | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    response_format: TextFormat | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logprobs: OnlyFalse | None = None
    top_logprobs: None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    store: OnlyFalse | None = None
    service_tier: Literal["auto", "default"] | None = None


# The remedy for values that only other servers support.
REMEDIES: Mapping[str, str] = {
    "n": "each request gets one reply: send it again with another seed.",
    "logprobs": "log-probabilities are not available: leave the field out.",
    "top_logprobs": "log-probabilities are not available: leave the field out.",
    "logit_bias": "biasing tokens is not supported: leave the field out.",
    "tools": "this model calls no tools: leave the field out.",
    "response_format": (
        "replies are plain text: leave the field out, and describe the format in the prompt."
    ),
    "frequency_penalty": "only 0 is accepted: leave the field out.",
    "presence_penalty": "only 0 is accepted: leave the field out.",
    "store": "nothing is stored: leave the field out.",
}


def read_request(data: bytes, *, model: str, max_tokens: int) -> ChatRequest:
    """A request from its body.

    Raises:
        HTTPError: not JSON, an unknown field or an invalid value, another model, or too many
            tokens. The message never repeats what was sent.
    """
    try:
        request = ChatRequest.model_validate_json(data)
    except ValidationError as error:
        raise _validation_http_error(error) from None
    except RecursionError:
        raise HTTPError.invalid("the body is nested too deeply.", "invalid_json") from None
    if request.model != model:
        message = f"this server offers only the model {model!r}."
        raise HTTPError(404, message, param="model", code="model_not_found")
    for name in ("max_tokens", "max_completion_tokens"):
        value = getattr(request, name)
        if value is not None and value > max_tokens:
            message = f"{name} is above {max_tokens}, the longest reply of this server."
            raise HTTPError.invalid(message, "max_tokens", name)
    return request


def _validation_http_error(error: ValidationError) -> HTTPError:
    detail = error.errors(include_input=False, include_url=False)[0]
    if detail["type"] == "json_invalid":
        message = "the body is not JSON; send one object with model and messages."
        return HTTPError.invalid(message, "invalid_json")
    # Without the names of union branches, which mean nothing to a client.
    path = [
        str(part)
        for part in detail["loc"]
        if isinstance(part, int) or part in _FIELD_NAMES or len(detail["loc"]) == 1
    ]
    param = ".".join(path)[:200] or None
    if detail["type"] == "extra_forbidden":
        # The client chose the name: only what can be part of one is repeated.
        name = re.sub(r"\W", "", str(detail["loc"][-1]))[:40]
        message = f"unrecognized request argument: {name}; leave it out."
        return HTTPError.invalid(message, "unknown_parameter", name or None)
    field_name = str(detail["loc"][0]) if detail["loc"] else ""
    reason = REMEDIES.get(field_name) or f"{detail['msg'][0].lower()}{detail['msg'][1:]}"
    if detail["type"] == "union_tag_invalid":
        # Its own message repeats the value.
        context = detail.get("ctx", {})
        reason = f"{context.get('discriminator')} is none of {context.get('expected_tags')}"
    return HTTPError.invalid(f"{param or 'the body'}: {reason}"[:400], "invalid_value", param)


_FIELD_NAMES = frozenset(ChatRequest.model_fields) | frozenset(
    ("role", "content", "type", "text", "image_url", "url", "detail", "include_usage")
)


# --- responses


class ErrorDetail(BaseModel):
    """What is wrong and how to fix it."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """An error."""

    error: ErrorDetail


class AnswerProvenance(BaseModel):
    """The weights that answered, the notice, and notes on how the model was opened and on images
    that were scaled down.
    """

    model: str
    digest: str
    notice: str
    notes: list[str]


class ReplyMessage(BaseModel):
    """The model's reply."""

    role: Literal["assistant"]
    content: str
    refusal: None


class Choice(BaseModel):
    """`finish_reason` is length for a reply that was truncated at max_tokens."""

    index: Literal[0]
    message: ReplyMessage
    logprobs: None
    finish_reason: Literal["stop", "length"]


class TokenUsage(BaseModel):
    """Token counts; those of the prompt include images."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    """A chat completion."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: TokenUsage
    lingshu: AnswerProvenance


class ModelInfo(AnswerProvenance):
    """`streams` says whether streamed replies arrive in pieces; `max_tokens` limits a reply."""

    streams: bool
    max_tokens: int


class ModelEntry(BaseModel):
    """The model of this server."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    lingshu: ModelInfo


class ModelList(BaseModel):
    """The models of this server."""

    object: Literal["list"]
    data: list[ModelEntry]


class Health(BaseModel):
    """Counts of requests being answered and of those in the queue."""

    status: Literal["ok"]
    running: int
    waiting: int


def format_sse(value: Mapping[str, object]) -> bytes:
    """One server-sent event."""
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return b"data: " + data.encode("utf-8", "replace") + b"\n\n"


def request_schema(*, model: str, max_tokens: int, allow_addresses: bool) -> dict[str, Any]:
    """The JSON schema of a request, with the server's model name, token limit and image sources."""
    schema = ChatRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    schema["properties"]["model"] |= {"const": model}
    for name in ("max_tokens", "max_completion_tokens"):
        for branch in schema["properties"][name]["anyOf"]:
            if branch.get("type") == "integer":
                branch["maximum"] = max_tokens
    if not allow_addresses:
        schema["$defs"]["ImageUrl"]["properties"]["url"] |= {"format": "image-data-uri"}
    return schema
