"""What clients of `lingshu mcp` may read: benchmarks, the model's card, studies below the allowed
folder, and evaluations.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from lingshu.core import registry
from lingshu.core.errors import InputError, suggest_name
from lingshu.inference.answer import NOTICE
from lingshu.mcp.data_tools import build_study_list, describe_study
from lingshu.mcp.images import STUDY_URI_PREFIX, MediaResolver
from lingshu.mcp.model import NO_MODEL_MESSAGE, ModelHandle
from lingshu.mcp.runs import EvaluationRuns

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

MAX_CARD_CHARS = 200_000


def add_resources(
    server: MCPServer, model: ModelHandle, media: MediaResolver, runs: EvaluationRuns
) -> None:
    json_type = "application/json"

    @server.resource("lingshu://benchmarks", title="Benchmarks", mime_type=json_type)
    def benchmarks() -> str:
        """The benchmarks that evaluate knows, each with its first line."""
        return _to_json(
            {name: registry.describe("tasks", name) for name in registry.names("tasks")}
        )

    @server.resource("lingshu://benchmark/{name}", title="A benchmark", mime_type=json_type)
    def benchmark(name: str) -> str:
        """Source, licence, size and groupings of one benchmark."""
        return _to_json(benchmark_info(name))

    @server.resource("lingshu://model", title="Model card", mime_type="text/markdown")
    def model_card() -> str:
        """The model that this server asks: its name, its hash once it is loaded, and its card."""
        return render_model_card(model)

    @server.resource("lingshu://studies", title="Studies", mime_type=json_type)
    def study_list() -> str:
        """The studies below the server's folder, without names, dates or paths."""
        return build_study_list(media).model_dump_json(indent=2)

    @server.resource("lingshu://study/{study}", title="A study", mime_type=json_type)
    def study_info(study: str) -> str:
        """The safe facts of one study, series by series."""
        return describe_study(media.load_study(STUDY_URI_PREFIX + study)).model_dump_json(indent=2)

    @server.resource("lingshu://runs", title="Evaluations", mime_type=json_type)
    def run_list() -> str:
        """The evaluations in the server's folder of runs."""
        return _to_json({"runs": runs.names(), "notice": NOTICE})

    @server.resource("lingshu://run/{run}", title="An evaluation", mime_type=json_type)
    def run_result(run: str) -> str:
        """The scores and the report of one evaluation."""
        if run not in runs.names():
            raise InputError("there is no such evaluation; the resource lingshu://runs lists them.")
        return runs.result(run).model_dump_json(indent=2)


def benchmark_info(name: str) -> dict[str, object]:
    """What a task says of itself.

    Raises:
        InputError: no task is called so.
    """
    names = registry.names("tasks")
    if name not in names:
        raise InputError(f"there is no such benchmark; {suggest_name(name, names)}")
    task = registry.get_attribute("tasks", name, "TASK")
    keys = ("name", "title", "facets", "max_tokens")
    provenance_keys = ("source", "license", "access", "agreement", "expected_n")
    return {key: getattr(task, key) for key in keys} | {
        key: getattr(task.provenance, key) for key in provenance_keys
    }


def render_model_card(model: ModelHandle) -> str:
    """A model's card in Markdown, above it what this server knows of the model."""
    if model.name is None:
        return f"# No model\n\n{NO_MODEL_MESSAGE}\n"
    engine = model.engine
    header = (
        f"Model: {engine.model}\n\nHash: {engine.digest}"
        if engine
        else f"Model: {model.name}\n\nHash: known once the model is loaded"
    )
    readme = Path(model.name) / "README.md"
    text = (
        readme.read_text(encoding="utf-8", errors="replace")[:MAX_CARD_CHARS]
        if readme.is_file()
        else "There is no card beside this model."
    )
    return f"{header}\n\n**{NOTICE}**\n\n{text}\n"


def _to_json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
