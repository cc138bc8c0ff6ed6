"""Prompts and resources that `lingshu mcp` offers to clients, and completion of their arguments.

The SDK reads annotations at registration, so they are not strings here.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from anyio import to_thread
from mcp.server.mcpserver import MCPServer
from mcp_types import Completion, ResourceTemplateReference
from pydantic import Field

from lingshu.core import registry
from lingshu.core.errors import InputError, LingshuError, suggest_name
from lingshu.inference.answer import NOTICE
from lingshu.inference.study_index import STUDY_URI_PREFIX
from lingshu.mcp.model import NO_MODEL_MESSAGE, ModelHandle
from lingshu.mcp.results import Language
from lingshu.mcp.runs import NO_SUCH_RUN
from lingshu.mcp.services import McpServices
from lingshu.mcp.texts import MAX_TEXT_CHARS, choice_label, render_prompt
from lingshu.mcp.tools import build_study_list, describe_study

MAX_CARD_CHARS = 200_000
MAX_COMPLETIONS = 100
Region = Literal["chest", "abdomen", "pelvis", "head", "neck", "spine", "limbs"]
PromptText = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]


def cxr_report(indication: PromptText = "", language: Language = "en") -> str:
    """Draft the report of a chest X-ray in a fixed reading order."""
    return render_prompt("cxr_report", language, indication=indication)


def ct_report(
    region: Region = "chest", indication: PromptText = "", language: Language = "en"
) -> str:
    """Draft the report of a CT, organ by organ, with the windows it needs."""
    label = choice_label("region", region, language)
    return render_prompt("ct_report", language, region=label, indication=indication)


def vqa(question: PromptText, language: Language = "en") -> str:
    """Answer a question about a medical image with the reasons before the answer."""
    return render_prompt("vqa", language, question=question)


def critique(report: PromptText, language: Language = "en") -> str:
    """Check a report against its image, statement by statement."""
    return render_prompt("critique", language, report=report)


PROMPTS = {
    "Chest X-ray report": cxr_report,
    "CT report": ct_report,
    "Question about an image": vqa,
    "Check a report": critique,
}


# --- resources


def add_resources(server: MCPServer, services: McpServices) -> None:
    """Benchmarks, the model's card, studies below the allowed folder, and evaluations."""
    json_type = "application/json"
    media, runs = services.media, services.runs

    @server.resource("lingshu://benchmarks", title="Benchmarks", mime_type=json_type)
    def benchmarks() -> str:
        """The benchmarks that evaluate knows, each with its first line."""
        return _to_json(
            {name: registry.describe("tasks", name) for name in registry.names("tasks")}
        )

    @server.resource("lingshu://benchmark/{name}", title="A benchmark", mime_type=json_type)
    def benchmark(name: str) -> str:
        """Source, license, size and facets of one benchmark."""
        return _to_json(benchmark_info(name))

    @server.resource("lingshu://model", title="Model card", mime_type="text/markdown")
    def model_card() -> str:
        """The server's model: its name, its hash once it is loaded, and its card."""
        return render_model_card(services.model)

    @server.resource("lingshu://studies", title="Studies", mime_type=json_type)
    def study_list() -> str:
        """The studies below the server's folder, without names, dates or paths."""
        return build_study_list(media).model_dump_json(indent=2)

    @server.resource("lingshu://study/{study}", title="A study", mime_type=json_type)
    def study_info(study: str) -> str:
        """Metadata of one study, series by series, that identifies nobody."""
        return describe_study(media.load_study(STUDY_URI_PREFIX + study)).model_dump_json(indent=2)

    @server.resource("lingshu://runs", title="Evaluations", mime_type=json_type)
    def run_list() -> str:
        """The evaluations in the server's folder of runs."""
        return _to_json({"runs": runs.names(), "notice": NOTICE})

    @server.resource("lingshu://run/{run}", title="An evaluation", mime_type=json_type)
    def run_result(run: str) -> str:
        """The scores and the report of one evaluation."""
        if run not in runs.names():
            raise InputError(NO_SUCH_RUN)
        return runs.result(run).model_dump_json(indent=2)


def benchmark_info(name: str) -> dict[str, object]:
    """The provenance and size of a task.

    Raises:
        InputError: there is no such task.
    """
    names = registry.names("tasks")
    if name not in names:
        raise InputError(f"there is no such benchmark; {suggest_name(name, names)}")
    task: Any = registry.get_attribute("tasks", name, "TASK")
    keys = ("name", "title", "facets", "max_tokens")
    provenance_keys = ("source", "license", "access", "agreement", "expected_n")
    return {key: getattr(task, key) for key in keys} | {
        key: getattr(task.provenance, key) for key in provenance_keys
    }


def render_model_card(model: ModelHandle) -> str:
    """A model's card in Markdown, below the name and hash that this server knows."""
    if model.name is None:
        return f"# No model\n\n{NO_MODEL_MESSAGE}\n"
    engine = model.engine
    name, digest = (
        (engine.model, engine.digest) if engine else (model.name, "known once the model is loaded")
    )
    text = "The model has no card."
    readme = Path(model.name) / "README.md"
    if readme.is_file():
        text = readme.read_text(encoding="utf-8", errors="replace")[:MAX_CARD_CHARS]
    return f"Model: {name}\n\nHash: {digest}\n\n**{NOTICE}**\n\n{text}\n"


def _to_json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


# --- completion


def add_completion(server: MCPServer, services: McpServices) -> None:
    """Completes the arguments of prompts and the names in addresses of resources."""
    arguments: Mapping[str, Sequence[str]] = {
        "language": get_args(Language),
        "region": get_args(Region),
    }
    resources: Mapping[str, Callable[[], Sequence[str]]] = {
        "lingshu://benchmark/{name}": lambda: registry.names("tasks"),
        "lingshu://study/{study}": lambda: list(services.media.build_index().studies),
        "lingshu://run/{run}": services.runs.names,
    }

    @server.completion()
    async def complete(ref: Any, argument: Any, context: Any) -> Completion:
        del context
        candidates = arguments.get(argument.name, ())
        if isinstance(ref, ResourceTemplateReference):
            try:
                candidates = await to_thread.run_sync(resources.get(ref.uri, tuple))
            except LingshuError:
                candidates = ()
        matches = [name for name in candidates if name.startswith(argument.value)]
        return Completion(
            values=matches[:MAX_COMPLETIONS],
            total=len(matches),
            has_more=len(matches) > MAX_COMPLETIONS,
        )
