"""What the server takes and gives: OpenAI's chat completions as far as a local model can answer
them, everything else refused by name.

Fields that would change nothing here are taken at the value that says so, because clients send
them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

# A template is rendered anew for each answer of a dialogue: its cost grows with turns times parts.
MAX_MESSAGES = 256
MAX_PARTS = 256
MAX_TOTAL_PARTS = 2048
MAX_CHARACTERS = 1_000_000
MAX_STOP_TEXTS = 4
MAX_URL_CHARS = 2048


class HTTPError(Exception):
    """A request that is answered with an error: HTTP status, OpenAI's type, the field, a code,
    seconds to wait.
    """

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
        self.status, self.message, self.param, self.code, self.retry_after = (
            status,
            message,
            param,
            code,
            retry_after,
        )

    @property
    def body(self) -> dict[str, Any]:
        kind = {
            401: "authentication_error",
            403: "permission_error",
            404: "not_found_error",
            429: "rate_limit_error",
        }.get(self.status)
        kind = kind or ("server_error" if self.status >= 500 else "invalid_request_error")
        return {
            "error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        }


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
    """Words."""

    type: Literal["text"]
    text: str


class ImageUrl(_RequestModel):
    """A data URI; or a file:// address or path where the server has a --root; or a web address
    where it has --allow-urls.
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
    """What the model is told of its part."""

    role: Literal["system", "developer"]
    content: str | TextParts
    name: str | None = None


class UserMessage(_RequestModel):
    """A question, images among its words."""

    role: Literal["user"]
    content: str | ContentParts
    name: str | None = None


class AssistantMessage(_RequestModel):
    """An earlier reply. The fields that are null in a reply may come back with it."""

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
    """`include_usage` asks for one more event with the token counts."""

    include_usage: bool | None = None
    include_obfuscation: OnlyFalse | None = None


class TextFormat(_RequestModel):
    """The only form that replies have."""

    type: Literal["text"]


class ChatRequest(_RequestModel):
    """A chat completion."""

    model: str = Field(description="The name under which this server offers its model.")
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: TokenCount | None = Field(default=None, description="The longest reply, in tokens.")
    max_completion_tokens: TokenCount | None = Field(
        default=None, description="The same under its other name; it goes first."
    )
    temperature: float | None = Field(
        default=None, ge=0, le=2, description="0, the default, gives the likeliest reply."
    )
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: Seed | None = Field(
        default=None, description="Decides the draw; without one it is drawn anew."
    )
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


# What to do where a field has a value that only other servers can honour.
REMEDIES: Mapping[str, str] = {
    "n": "one reply is given for a request: send it again with another seed.",
    "logprobs": "log-probabilities are not given: leave the field out.",
    "top_logprobs": "log-probabilities are not given: leave the field out.",
    "logit_bias": "tokens cannot be favoured: leave the field out.",
    "tools": "this model calls no tools: leave the field out.",
    "response_format": (
        "replies are plain text: leave the field out, and ask for the form in words."
    ),
    "frequency_penalty": "only 0 is taken: leave the field out.",
    "presence_penalty": "only 0 is taken: leave the field out.",
    "store": "nothing is stored: leave the field out.",
}


def read_request(data: bytes, *, model: str, max_tokens: int) -> ChatRequest:
    """A request from its body.

    Raises:
        Refused: no JSON, a field that is unknown or has no usable value, another model, or more
            tokens than are given. The message never repeats what was sent.
    """
    try:
        request = ChatRequest.model_validate_json(data)
    except ValidationError as error:
        raise _validation_http_error(error) from None
    except RecursionError:
        raise HTTPError(400, "the body is nested too deeply.", code="invalid_json") from None
    if request.model != model:
        raise HTTPError(
            404,
            f"this server offers the model {model!r} alone.",
            param="model",
            code="model_not_found",
        )
    for name in ("max_tokens", "max_completion_tokens"):
        value = getattr(request, name)
        if value is not None and value > max_tokens:
            raise HTTPError(
                400,
                f"{name} is above {max_tokens}, the longest reply of this server.",
                param=name,
                code="max_tokens",
            )
    return request


def _validation_http_error(error: ValidationError) -> HTTPError:
    detail = error.errors(include_input=False, include_url=False)[0]
    if detail["type"] == "json_invalid":
        return HTTPError(
            400,
            "the body is no JSON; send one object with model and messages.",
            code="invalid_json",
        )
    # The names of unions' branches are of no use to a client.
    path = [
        str(part)
        for part in detail["loc"]
        if isinstance(part, int) or part in _FIELD_NAMES or len(detail["loc"]) == 1
    ]
    param = ".".join(path)[:200] or None
    if detail["type"] == "extra_forbidden":
        # The name is the client's own; it is repeated only as far as it can be a name.
        name = "".join(char for char in str(detail["loc"][-1]) if char.isalnum() or char == "_")[
            :40
        ]
        return HTTPError(
            400,
            f"unrecognized request argument: {name}; leave it out.",
            param=name or None,
            code="unknown_parameter",
        )
    field_name = str(detail["loc"][0]) if detail["loc"] else ""
    reason = REMEDIES.get(field_name) or f"{detail['msg'][0].lower()}{detail['msg'][1:]}"
    if detail["type"] == "union_tag_invalid":
        # Its own message repeats the value.
        context = detail.get("ctx", {})
        reason = f"{context.get('discriminator')} is none of {context.get('expected_tags')}"
    return HTTPError(
        400, f"{param or 'the body'}: {reason}"[:400], param=param, code="invalid_value"
    )


_FIELD_NAMES = frozenset(
    {
        *ChatRequest.model_fields,
        "role",
        "content",
        "type",
        "text",
        "image_url",
        "url",
        "detail",
        "include_usage",
    }
)


# --- what the server gives
# -------------------------------------------------------------------------------------------


class ErrorDetail(BaseModel):
    """What is wrong and what to do."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """An error."""

    error: ErrorDetail


class AnswerProvenance(BaseModel):
    """Which weights answered, and what their answer is not."""

    model: str
    digest: str
    notice: str


class ReplyMessage(BaseModel):
    """The model's turn."""

    role: Literal["assistant"]
    content: str
    refusal: None


class Choice(BaseModel):
    """The reply; `finish_reason` is length where it was cut at max_tokens."""

    index: Literal[0]
    message: ReplyMessage
    logprobs: None
    finish_reason: Literal["stop", "length"]


class TokenUsage(BaseModel):
    """Tokens, images among those of the prompt."""

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
    """`streams` tells whether streamed replies come word by word; else they come in one piece.

    `max_tokens` bounds a reply.
    """

    streams: bool
    max_tokens: int


class ModelEntry(BaseModel):
    """A model that this server offers."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    lingshu: ModelInfo


class ModelList(BaseModel):
    """What this server offers."""

    object: Literal["list"]
    data: list[ModelEntry]


class Health(BaseModel):
    """`running` questions are being answered, `waiting` ones come after them."""

    status: Literal["ok"]
    running: int
    waiting: int


def format_sse(value: Mapping[str, object]) -> bytes:
    """One server-sent event."""
    return (
        b"data: "
        + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        + b"\n\n"
    )


def request_schema(*, model: str, max_tokens: int, allow_addresses: bool) -> dict[str, Any]:
    """The JSON schema of a request to one server: its model's name, its longest reply, and the
    images that it takes.
    """
    schema = ChatRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    schema["properties"]["model"] |= {"const": model}
    for name in ("max_tokens", "max_completion_tokens"):
        for branch in schema["properties"][name]["anyOf"]:
            if branch.get("type") == "integer":
                branch["maximum"] = max_tokens
    if not allow_addresses:
        schema["$defs"]["ImageUrl"]["properties"]["url"] |= {"format": "image-data-uri"}
    return schema


def definitions(models: Sequence[type[BaseModel]]) -> dict[str, Any]:
    """The JSON schemas of what the server gives, by name."""
    schemas: dict[str, Any] = {}
    for model in models:
        schema = model.model_json_schema(
            ref_template="#/components/schemas/{model}", mode="serialization"
        )
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
    return schemas
