"""The prompts that `lingshu mcp` offers to clients, in English and Chinese, and completion of their
arguments and of resources' names.

Annotations are read by the SDK while a prompt is made, so they are no strings here.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import Field

from lingshu.apps._mcp_asking import MAX_WORDS
from lingshu.apps._mcp_images import Shown
from lingshu.apps._mcp_results import Language
from lingshu.apps._mcp_runs import Runs
from lingshu.apps._mcp_words import prompt, word
from lingshu.core import shelves
from lingshu.core.errors import LingshuError

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

Region = Literal["chest", "abdomen", "pelvis", "head", "neck", "spine", "limbs"]
Text = Annotated[str, Field(max_length=MAX_WORDS)]
MAX_COMPLETIONS = 100


def add_prompts(server: "MCPServer", shown: Shown, runs: Runs) -> None:
    @server.prompt(title="Chest X-ray report")
    def cxr_report(indication: Text = "", language: Language = "en") -> str:
        """Draft the report of a chest X-ray, in a fixed order of looking."""
        return prompt("cxr_report", language, {"indication": indication})

    @server.prompt(title="CT report")
    def ct_report(
        region: Region = "chest", indication: Text = "", language: Language = "en"
    ) -> str:
        """Draft the report of a CT, organ by organ, with the windows it needs."""
        return prompt(
            "ct_report",
            language,
            {"region": word("region", region, language), "indication": indication},
        )

    @server.prompt(title="Question about an image")
    def vqa(question: Text, language: Language = "en") -> str:
        """Answer a question about a medical image with the reasons before the answer."""
        return prompt("vqa", language, {"question": question})

    @server.prompt(title="Check a report")
    def critique(report: Text, language: Language = "en") -> str:
        """Check a report against its image, statement by statement."""
        return prompt("critique", language, {"report": report})

    add_completion(server, shown, runs)


def add_completion(server: "MCPServer", shown: Shown, runs: Runs) -> None:
    from anyio import to_thread
    from mcp_types import Completion, ResourceTemplateReference

    arguments: Mapping[str, Sequence[str]] = {
        "language": get_args(Language),
        "region": get_args(Region),
    }
    resources: Mapping[str, Callable[[], Sequence[str]]] = {
        "lingshu://benchmark/{name}": lambda: shelves.names("tasks"),
        "lingshu://study/{study}": lambda: list(shown.index().studies),
        "lingshu://run/{run}": runs.names,
    }

    @server.completion()
    async def complete(ref: Any, argument: Any, context: Any) -> Completion:
        del context
        if isinstance(ref, ResourceTemplateReference):
            known = await to_thread.run_sync(_or_none, resources.get(ref.uri, tuple))
        else:
            known = arguments.get(argument.name, ())
        fitting = [name for name in known if name.startswith(argument.value)]
        return Completion(
            values=fitting[:MAX_COMPLETIONS],
            total=len(fitting),
            has_more=len(fitting) > MAX_COMPLETIONS,
        )


def _or_none(names: Callable[[], Sequence[str]]) -> Sequence[str]:
    try:
        return names()
    except LingshuError:
        return ()
