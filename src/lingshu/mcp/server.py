"""The MCP server of `lingshu mcp`; its errors say the remedy and repeat nothing that a client sent."""

from __future__ import annotations

import logging
import traceback
from typing import Any

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import (
    ResourceError,
    ResourceNotFoundError,
    ToolError,
    UnexpectedResourceError,
    UnexpectedToolError,
)
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, ToolAnnotations
from pydantic import ValidationError

from lingshu import __version__
from lingshu.core.errors import InputError, LingshuError, one_line
from lingshu.inference.answer import NOTICE
from lingshu.mcp import lingshu_mcp, prompts, tools
from lingshu.mcp.services import McpServices

logger = logging.getLogger(__name__)
INSTRUCTIONS = f"""Reads medical images with a model on this server. {NOTICE}
Show an image as a data URI, as lingshu://study/ID from list_studies, or as a file below the server's folder.
Repeat the notice, the model and what it saw wherever you pass a result on."""


def build_server(services: McpServices) -> MCPServer:
    """The server with all its tools, resources and prompts."""
    server = LingshuServer(services)
    for title, tool in (tools.TOOLS | lingshu_mcp.TOOLS).items():
        annotations = ToolAnnotations(
            read_only_hint=tool is not tools.evaluate,
            destructive_hint=False,
            idempotent_hint=tool is not tools.evaluate,
            open_world_hint=False,
        )
        server.add_tool(tool, title=title, annotations=annotations, structured_output=True)
    prompts.add_resources(server, services)
    for title, prompt in prompts.PROMPTS.items():
        server.prompt(title=title)(prompt)
    prompts.add_completion(server, services)
    return server


class LingshuServer(MCPServer):
    """The SDK's server with other error messages: the SDK's repeat arguments and log their values."""

    def __init__(self, services: McpServices) -> None:
        super().__init__(
            "lingshu",
            title="lingshu",
            version=__version__,
            instructions=INSTRUCTIONS,
            log_level="CRITICAL",
        )
        self.services = services

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
        schemas = {tool.name: tool.input_schema for tool in await self.list_tools()}
        if name not in schemas:
            raise ToolError(f"there is no such tool; available: {', '.join(schemas)}.")
        properties = schemas[name].get("properties", {})
        if not arguments.keys() <= properties.keys():
            raise ToolError(f"{name} takes no such argument; it takes: {', '.join(properties)}.")
        try:
            return await super().call_tool(name, arguments, context)
        except UnexpectedToolError as error:
            raise ToolError(_public_message(_root_cause(error))) from None
        except ToolError as error:
            if isinstance(error.__cause__, ValidationError):
                raise ToolError(_invalid_arguments_message(error.__cause__)) from None
            raise

    async def read_resource(self, uri: Any, context: Any = None) -> Any:
        try:
            return await super().read_resource(uri, context)
        except UnexpectedResourceError as error:
            cause = _root_cause(error)
            kind = ResourceNotFoundError if isinstance(cause, InputError) else ResourceError
            raise kind(_public_message(cause)) from None

    async def get_prompt(
        self, name: str, arguments: dict[str, Any] | None = None, context: Any = None
    ) -> Any:
        names = [prompt.name for prompt in await self.list_prompts()]
        if name not in names:
            message = f"there is no such prompt; available: {', '.join(names)}."
            raise MCPError(INVALID_PARAMS, message)
        try:
            return await super().get_prompt(name, arguments, context)
        except MCPError:
            raise
        except Exception as error:
            cause = _root_cause(error)
            message = "an argument is missing or cannot be used."
            if isinstance(cause, ValidationError):
                message = _invalid_arguments_message(cause)
            raise MCPError(INVALID_PARAMS, message) from None


def _root_cause(error: BaseException) -> BaseException:
    """Our error behind one of the SDK's, else the first cause."""
    while error.__cause__ is not None and not isinstance(error, LingshuError):
        error = error.__cause__
    return error


def _public_message(error: BaseException) -> str:
    """The message of an error that a user can fix; a bug is only logged, with its type and position."""
    if isinstance(error, LingshuError):
        return one_line(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    logger.error("bug: %s in %s, line %s", type(error).__name__, frame.name, frame.lineno)
    return "the server failed; what happened is in its log."


def _invalid_arguments_message(error: ValidationError) -> str:
    """Which arguments cannot be used and what they may be; no values, and no keys inside them."""
    messages = {}
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        path = [str(part) for part in detail["loc"][:1]]
        path += [str(part) for part in detail["loc"][1:] if isinstance(part, int)]
        text = detail["msg"].removeprefix("Value error, ")
        messages[f"{'.'.join(path) or 'arguments'}: {text}"] = None
    return "; ".join(messages) + "."
