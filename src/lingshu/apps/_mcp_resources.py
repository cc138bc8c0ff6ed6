"""What clients of `lingshu mcp` may read: benchmarks, the model's card, studies below the allowed
folder, and evaluations.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from lingshu.apps._answering import NOTICE
from lingshu.apps._mcp_images import STUDY, Shown
from lingshu.apps._mcp_model import NO_MODEL, Served
from lingshu.apps._mcp_plain import described, studies
from lingshu.apps._mcp_runs import Runs
from lingshu.core import shelves
from lingshu.core.errors import InputError, nearest

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

MAX_CARD = 200_000


def add_resources(server: MCPServer, model: Served, shown: Shown, runs: Runs) -> None:
    as_json = "application/json"

    @server.resource("lingshu://benchmarks", title="Benchmarks", mime_type=as_json)
    def benchmarks() -> str:
        """The benchmarks that evaluate knows, each with its first line."""
        return _json({name: shelves.describe("tasks", name) for name in shelves.names("tasks")})

    @server.resource("lingshu://benchmark/{name}", title="A benchmark", mime_type=as_json)
    def benchmark(name: str) -> str:
        """Source, licence, size and groupings of one benchmark."""
        return _json(benchmark_facts(name))

    @server.resource("lingshu://model", title="Model card", mime_type="text/markdown")
    def model_card() -> str:
        """The model that this server asks: its name, its hash once it is loaded, and its card."""
        return card(model)

    @server.resource("lingshu://studies", title="Studies", mime_type=as_json)
    def study_list() -> str:
        """The studies below the server's folder, without names, dates or paths."""
        return studies(shown).model_dump_json(indent=2)

    @server.resource("lingshu://study/{study}", title="A study", mime_type=as_json)
    def study_facts(study: str) -> str:
        """The safe facts of one study, series by series."""
        return described(shown.study(STUDY + study)).model_dump_json(indent=2)

    @server.resource("lingshu://runs", title="Evaluations", mime_type=as_json)
    def run_list() -> str:
        """The evaluations in the server's folder of runs."""
        return _json({"runs": runs.names(), "notice": NOTICE})

    @server.resource("lingshu://run/{run}", title="An evaluation", mime_type=as_json)
    def run_result(run: str) -> str:
        """The scores and the report of one evaluation."""
        if run not in runs.names():
            raise InputError("there is no such evaluation; the resource lingshu://runs lists them.")
        return runs.result(run).model_dump_json(indent=2)


def benchmark_facts(name: str) -> dict[str, object]:
    """What a task says of itself.

    Raises:
        InputError: no task is called so.
    """
    names = shelves.names("tasks")
    if name not in names:
        raise InputError(f"there is no such benchmark; {nearest(name, names)}")
    task = shelves.part("tasks", name, "TASK")
    keys = ("name", "title", "source", "licence", "access", "agreement", "n", "by", "max_tokens")
    return {key: getattr(task, key, None) for key in keys}


def card(model: Served) -> str:
    """A model's card in Markdown, above it what this server knows of the model."""
    if model.name is None:
        return f"# No model\n\n{NO_MODEL}\n"
    live = model.opened
    told = (
        f"Model: {live.model}\n\nHash: {live.digest}"
        if live
        else f"Model: {model.name}\n\nHash: known once the model is loaded"
    )
    own = Path(model.name) / "README.md"
    text = (
        own.read_text(encoding="utf-8", errors="replace")[:MAX_CARD]
        if own.is_file()
        else "There is no card beside this model."
    )
    return f"{told}\n\n**{NOTICE}**\n\n{text}\n"


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
