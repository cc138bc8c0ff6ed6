"""The MCP server of `lingshu mcp`, put together; and what its clients hear of errors: what to do,
never what they had sent.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lingshu import __version__
from lingshu.core.engine_options import EngineOptions
from lingshu.core.errors import InputError, LingshuError, one_line
from lingshu.core.safe_folder import SafeFolder
from lingshu.inference.answer import NOTICE
from lingshu.mcp.data_tools import add_local_tools
from lingshu.mcp.images import MediaResolver
from lingshu.mcp.lingshu_mcp import add_lingshu_mcp_tools
from lingshu.mcp.model import ModelHandle
from lingshu.mcp.prompts import add_prompts
from lingshu.mcp.resources import add_resources
from lingshu.mcp.runs import EvaluationRuns, add_evaluate_tool
from lingshu.mcp.tools import add_model_tools

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer
    from pydantic import ValidationError

INSTRUCTIONS = f"""Reads medical images with a model on this server. {NOTICE}
Show an image as a data URI, as lingshu://study/ID from list_studies, or as a file below the server's folder.
Repeat the notice, the model and what it saw wherever you pass a result on."""


@dataclass
class McpServices:
    """What a server works with: its model, the images it may read, its evaluations."""

    model: ModelHandle
    media: MediaResolver
    runs: EvaluationRuns

    def close(self) -> None:
        self.runs.close()
        self.model.close()


@dataclass(frozen=True)
class McpConfig:
    """What a server was started with; the options of `mcp` say what each means."""

    model: str | None = None
    root: Path | None = None
    runs: Path | None = None
    data: Path | None = None
    allow_remote: bool = False
    threads: int | None = None
    max_batch_size: int = 8
    api_key: str | None = field(default=None, repr=False)


def open_services(config: McpConfig) -> McpServices:
    """What a server works with; no model is opened.

    Raises:
        ConfigError: a folder that cannot be used.
    """
    options = EngineOptions(
        batch_size=config.max_batch_size,
        concurrency=config.max_batch_size,
        threads=config.threads,
        retries=2,
        api_key=config.api_key,
    )
    model = ModelHandle(config.model, options, allow_remote=config.allow_remote)
    media = MediaResolver(SafeFolder(config.root) if config.root else None)
    return McpServices(model, media, EvaluationRuns(config.runs, model, data=config.data))


def build_server(services: McpServices) -> MCPServer:
    """The server with all its tools, resources and prompts."""
    server = _server_class()(
        "lingshu",
        title="lingshu",
        version=__version__,
        instructions=INSTRUCTIONS,
        log_level="CRITICAL",
    )
    add_model_tools(server, services.model, services.media)
    add_local_tools(server, services.model, services.media)
    add_evaluate_tool(server, services.runs, services.model)
    add_lingshu_mcp_tools(server, services.model, services.media)
    add_resources(server, services.model, services.media, services.runs)
    add_prompts(server, services.media, services.runs)
    return server


def _server_class() -> type[MCPServer]:
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import (
        ResourceError,
        ResourceNotFoundError,
        ToolError,
        UnexpectedResourceError,
        UnexpectedToolError,
    )
    from mcp.shared.exceptions import MCPError
    from mcp_types import INVALID_PARAMS
    from pydantic import ValidationError

    class Server(MCPServer):
        """The SDK's server.

        Its own messages would repeat arguments, and its log the values behind an error.
        """

        async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
            tools = {tool.name: tool for tool in await self.list_tools()}
            if name not in tools:
                raise ToolError(f"there is no such tool; there are: {', '.join(tools)}.")
            properties = tools[name].input_schema.get("properties", {})
            if not arguments.keys() <= properties.keys():
                raise ToolError(
                    f"{name} takes no such argument; it takes: {', '.join(properties)}."
                )
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
                raise (ResourceNotFoundError if isinstance(cause, InputError) else ResourceError)(
                    _public_message(cause)
                ) from None

        async def get_prompt(
            self, name: str, arguments: dict[str, Any] | None = None, context: Any = None
        ) -> Any:
            prompts = [prompt.name for prompt in await self.list_prompts()]
            if name not in prompts:
                raise MCPError(
                    INVALID_PARAMS, f"there is no such prompt; there are: {', '.join(prompts)}."
                )
            try:
                return await super().get_prompt(name, arguments, context)
            except MCPError:
                raise
            except Exception as error:
                cause = _root_cause(error)
                message = (
                    _invalid_arguments_message(cause)
                    if isinstance(cause, ValidationError)
                    else "an argument is missing or cannot be used."
                )
                raise MCPError(INVALID_PARAMS, message) from None

    return Server


def _root_cause(error: BaseException) -> BaseException:
    """The error of ours behind one of the SDK's, else the first of all."""
    while error.__cause__ is not None and not isinstance(error, LingshuError):
        error = error.__cause__
    return error


def _public_message(error: BaseException) -> str:
    """What a person can mend in its own words; of a bug, only that there was one.

    The log gets its kind and place, no values.
    """
    if isinstance(error, LingshuError):
        return one_line(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    print(
        f"lingshu mcp: bug: {type(error).__name__} in {frame.name}, line {frame.lineno}",
        file=sys.stderr,
    )
    return "the server failed; what happened is in its log."


def _invalid_arguments_message(error: ValidationError) -> str:
    """Which arguments cannot be used and what they may be; their values, and keys inside them, are
    left out.
    """
    details: Sequence[Any] = error.errors(
        include_url=False, include_context=False, include_input=False
    )
    return (
        "; ".join(
            dict.fromkeys(
                f"{_argument_path(detail['loc'])}: {detail['msg'].removeprefix('Value error, ')}"
                for detail in details
            )
        )
        + "."
    )


def _argument_path(loc: Sequence[int | str]) -> str:
    return (
        ".".join(str(part) for index, part in enumerate(loc) if index == 0 or isinstance(part, int))
        or "arguments"
    )
