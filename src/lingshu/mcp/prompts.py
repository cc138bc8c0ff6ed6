"""The prompts that `lingshu mcp` offers to clients, in English and Chinese, and completion of their
arguments and of resources' names.

Annotations are read by the SDK while a prompt is made, so they are no strings here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import Field

from lingshu.core import registry
from lingshu.core.errors import LingshuError
from lingshu.mcp.images import MediaResolver
from lingshu.mcp.results import Language
from lingshu.mcp.runs import EvaluationRuns
from lingshu.mcp.texts import choice_label, render_prompt
from lingshu.mcp.tools import MAX_TEXT_CHARS

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

Region = Literal["chest", "abdomen", "pelvis", "head", "neck", "spine", "limbs"]
PromptText = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
MAX_COMPLETIONS = 100


def add_prompts(server: "MCPServer", media: MediaResolver, runs: EvaluationRuns) -> None:
    @server.prompt(title="Chest X-ray report")
    def cxr_report(indication: PromptText = "", language: Language = "en") -> str:
        """Draft the report of a chest X-ray, in a fixed order of looking."""
        return render_prompt("cxr_report", language, {"indication": indication})

    @server.prompt(title="CT report")
    def ct_report(
        region: Region = "chest", indication: PromptText = "", language: Language = "en"
    ) -> str:
        """Draft the report of a CT, organ by organ, with the windows it needs."""
        return render_prompt(
            "ct_report",
            language,
            {"region": choice_label("region", region, language), "indication": indication},
        )

    @server.prompt(title="Question about an image")
    def vqa(question: PromptText, language: Language = "en") -> str:
        """Answer a question about a medical image with the reasons before the answer."""
        return render_prompt("vqa", language, {"question": question})

    @server.prompt(title="Check a report")
    def critique(report: PromptText, language: Language = "en") -> str:
        """Check a report against its image, statement by statement."""
        return render_prompt("critique", language, {"report": report})

    add_completion(server, media, runs)


def add_completion(server: "MCPServer", media: MediaResolver, runs: EvaluationRuns) -> None:
    from anyio import to_thread
    from mcp_types import Completion, ResourceTemplateReference

    arguments: Mapping[str, Sequence[str]] = {
        "language": get_args(Language),
        "region": get_args(Region),
    }
    resources: Mapping[str, Callable[[], Sequence[str]]] = {
        "lingshu://benchmark/{name}": lambda: registry.names("tasks"),
        "lingshu://study/{study}": lambda: list(media.build_index().studies),
        "lingshu://run/{run}": runs.names,
    }

    @server.completion()
    async def complete(ref: Any, argument: Any, context: Any) -> Completion:
        del context
        if isinstance(ref, ResourceTemplateReference):
            candidates = await to_thread.run_sync(_names_or_empty, resources.get(ref.uri, tuple))
        else:
            candidates = arguments.get(argument.name, ())
        matches = [name for name in candidates if name.startswith(argument.value)]
        return Completion(
            values=matches[:MAX_COMPLETIONS],
            total=len(matches),
            has_more=len(matches) > MAX_COMPLETIONS,
        )


def _names_or_empty(names: Callable[[], Sequence[str]]) -> Sequence[str]:
    try:
        return names()
    except LingshuError:
        return ()
