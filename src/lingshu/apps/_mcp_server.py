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
from lingshu.apps._answering import NOTICE
from lingshu.apps._mcp_alias import add_aliases
from lingshu.apps._mcp_asking import add_asking
from lingshu.apps._mcp_images import Shown
from lingshu.apps._mcp_model import Served
from lingshu.apps._mcp_plain import add_plain
from lingshu.apps._mcp_prompting import add_prompts
from lingshu.apps._mcp_resources import add_resources
from lingshu.apps._mcp_runs import Runs, add_evaluate
from lingshu.core.errors import InputError, LingshuError, one_line
from lingshu.core.options import EngineOptions
from lingshu.core.rooted import Rooted

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer
    from pydantic import ValidationError

INSTRUCTIONS = f"""Reads medical images with a model on this server. {NOTICE}
Show an image as a data URI, as lingshu://study/ID from list_studies, or as a file below the server's folder.
Repeat the notice, the model and what it saw wherever you pass a result on."""


@dataclass
class Serving:
    """What a server works with: its model, the images it may read, its evaluations."""

    model: Served
    shown: Shown
    runs: Runs

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
    batch: int = 8
    api_key: str | None = field(default=None, repr=False)


def serving(config: McpConfig) -> Serving:
    """What a server works with; no model is opened.

    Raises:
        ConfigError: a folder that cannot be used.
    """
    options = EngineOptions(
        batch_size=config.batch,
        concurrency=config.batch,
        threads=config.threads,
        retries=2,
        api_key=config.api_key,
    )
    model = Served(config.model, options, allow_remote=config.allow_remote)
    shown = Shown(Rooted(config.root) if config.root else None)
    return Serving(model, shown, Runs(config.runs, model, data=config.data))


def build(using: Serving) -> MCPServer:
    """The server with all its tools, resources and prompts."""
    server = _server_class()(
        "lingshu",
        title="lingshu",
        version=__version__,
        instructions=INSTRUCTIONS,
        log_level="CRITICAL",
    )
    add_asking(server, using.model, using.shown)
    add_plain(server, using.model, using.shown)
    add_evaluate(server, using.runs, using.model)
    add_aliases(server, using.model, using.shown)
    add_resources(server, using.model, using.shown, using.runs)
    add_prompts(server, using.shown, using.runs)
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
            known = tools[name].input_schema.get("properties", {})
            if not arguments.keys() <= known.keys():
                raise ToolError(f"{name} takes no such argument; it takes: {', '.join(known)}.")
            try:
                return await super().call_tool(name, arguments, context)
            except UnexpectedToolError as error:
                raise ToolError(_told(_caused(error))) from None
            except ToolError as error:
                if isinstance(error.__cause__, ValidationError):
                    raise ToolError(_refused(error.__cause__)) from None
                raise

        async def read_resource(self, uri: Any, context: Any = None) -> Any:
            try:
                return await super().read_resource(uri, context)
            except UnexpectedResourceError as error:
                cause = _caused(error)
                raise (ResourceNotFoundError if isinstance(cause, InputError) else ResourceError)(
                    _told(cause)
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
                cause = _caused(error)
                told = (
                    _refused(cause)
                    if isinstance(cause, ValidationError)
                    else "an argument is missing or cannot be used."
                )
                raise MCPError(INVALID_PARAMS, told) from None

    return Server


def _caused(error: BaseException) -> BaseException:
    """The error of ours behind one of the SDK's, else the first of all."""
    while error.__cause__ is not None and not isinstance(error, LingshuError):
        error = error.__cause__
    return error


def _told(error: BaseException) -> str:
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


def _refused(error: ValidationError) -> str:
    """Which arguments cannot be used and what they may be; their values, and keys inside them, are
    left out.
    """
    faults: Sequence[Any] = error.errors(
        include_url=False, include_context=False, include_input=False
    )
    return (
        "; ".join(
            dict.fromkeys(
                f"{_place(fault['loc'])}: {fault['msg'].removeprefix('Value error, ')}"
                for fault in faults
            )
        )
        + "."
    )


def _place(loc: Sequence[int | str]) -> str:
    return (
        ".".join(
            str(part) for number, part in enumerate(loc) if number == 0 or isinstance(part, int)
        )
        or "arguments"
    )
