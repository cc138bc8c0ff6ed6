"""The tools that ask the model: analyze_image, draft_report, answer_question and compare_studies;
and who must agree first.

Annotations are read by the SDK while a tool is made, so they are no strings here.
"""

# Resolvers take images and windows by the names of a tool's arguments, which its body then does not
# read; defaults are copied. ruff: noqa: ARG001, B006

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field

from lingshu.apps._answering import Answer
from lingshu.apps._drafting import PROMPTS, draft_of
from lingshu.apps._looking import MAX_IMAGES, SLICES, Looked, View
from lingshu.apps._mcp_images import MAX_ITEMS, MAX_TEXT, Shown
from lingshu.apps._mcp_model import Served, declined
from lingshu.apps._mcp_results import DraftReport, Language, Said, provenance
from lingshu.apps._mcp_words import prompt, word
from lingshu.core.errors import ReleaseError
from lingshu.core.nouns import Sampling
from lingshu.imaging.draft import markdown
from lingshu.imaging.windows import OWN

if TYPE_CHECKING:
    from mcp.server.mcpserver import Context, MCPServer
    from mcp_types import ToolAnnotations

MAX_WORDS = 20_000
WindowName = Literal["file", "lung", "soft", "bone", "brain", "liver", "abdomen", "mediastinum"]
Kind = Literal["radiology", "pathology", "dermatology", "ophthalmology", "general"]
ImageText = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
_IMAGE = (
    "a data URI or base64 of a picture, DICOM file or volume, lingshu://study/ID, or a file or"
    " folder below the server's root"
)
OneImage = Annotated[
    str, Field(min_length=1, max_length=MAX_TEXT, description=f"An image: {_IMAGE}.")
]
Images = Annotated[
    list[ImageText], Field(min_length=1, max_length=MAX_ITEMS, description=f"Each is {_IMAGE}.")
]
MaybeImages = Annotated[
    list[ImageText], Field(max_length=MAX_ITEMS, description=f"None or more. Each is {_IMAGE}.")
]
Windows = Annotated[
    list[WindowName],
    Field(min_length=1, max_length=4, description="Windows of CT, or the file's own."),
]
Slices = Annotated[
    int,
    Field(
        ge=1,
        le=MAX_IMAGES,
        description="The most slices or frames of each series or volume, taken evenly.",
    ),
]
SeriesNumbers = Annotated[
    list[Annotated[int, Field(ge=1, le=10_000)]],
    Field(max_length=16, description="Series of a study to show, by number; else the usual ones."),
]
Words = Annotated[str, Field(max_length=MAX_WORDS)]
Question = Annotated[str, Field(min_length=1, max_length=MAX_WORDS, pattern=r"\S")]
MaxTokens = Annotated[int, Field(ge=1, le=4096, description="The longest reply, in tokens.")]
Temperature = Annotated[
    float, Field(ge=0, le=2, description="0 gives the likeliest reply, the same each time.")
]
Resolver = Callable[..., Awaitable[Any]]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


class Permit(BaseModel):
    """What a person is asked before anything leaves this machine."""

    send: bool = Field(description="Send them?")


def reading() -> "ToolAnnotations":
    """The annotations of a tool that changes nothing."""
    from mcp_types import ToolAnnotations

    return ToolAnnotations(
        read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
    )


async def asked_permit(ctx: "Context", model: Served, looked: Looked, what: str) -> Any:
    """The question whether `what` may go to the model's address, or consent where nobody need be
    asked.

    Raises:
        ReleaseError: the client cannot ask its user.
    """
    from mcp.server.mcpserver.resolve import Elicit

    if model.allow_remote or (where := await model.address()) is None:
        return Permit(send=True)
    asks = ctx.client_capabilities.elicitation if ctx.client_capabilities else None
    if asks is None or (asks.form is None and asks.url is not None):
        raise ReleaseError(
            "the model is on another machine, and this client cannot ask you whether to send it"
            " anything; start the server with --allow-remote if it may, or use a client that can"
            " ask."
        )
    images = (
        f"{len(looked.images)} image{'s' if len(looked.images) != 1 else ''} and "
        if looked.images
        else ""
    )
    warning = "".join(f" Take care: {line}" for line in await model.concerns(looked))
    return Elicit(
        f"{images}{what} would leave this machine and go to {where}.{warning} Send?", Permit
    )


def permitted(outcome: Any) -> bool:
    """True where a person, or the server's operator, agreed.

    Raises:
        ReleaseError: they did not.
    """
    data = getattr(outcome, "data", None)
    if not isinstance(data, Permit) or not data.send:
        raise declined()
    return True


async def warned(model: Served, looked: Looked, found: Answer) -> list[str]:
    """What a reader should know besides: notes of looking, and of images that were sent to another
    machine.
    """
    return [*found.notes, *await model.concerns(looked)]


def progress(ctx: "Context") -> Any:
    async def told(done: float, total: float) -> None:
        await ctx.report_progress(done, total, "writing")

    return told


def add_asking(server: "MCPServer", model: Served, shown: Shown) -> None:
    from mcp.server.mcpserver import Context
    from mcp.server.mcpserver.resolve import Resolve

    async def look(
        images: Images, windows: Windows, slices: Slices, series: SeriesNumbers
    ) -> Looked:
        view = View(tuple(windows), slices, tuple(series) or None)
        return await model.elsewhere(lambda: shown.look(images, view))

    async def permit(ctx: Context, looked: Annotated[Looked, Resolve(look)]) -> Any:
        return await asked_permit(ctx, model, looked, "the question")

    _add_answers(server, model, look, permit)
    _add_draft(server, model, look, permit)
    _add_compare(server, model, shown)


def _add_answers(server: "MCPServer", model: Served, look: Resolver, permit: Resolver) -> None:
    from mcp.server.mcpserver import Context
    from mcp.server.mcpserver.resolve import ElicitationResult, Resolve

    async def said(
        ctx: Context, question: str, looked: Looked, agreed: Any, sampling: Sampling
    ) -> Said:
        found = await model.ask(
            question, looked, sampling, permitted=permitted(agreed), told=progress(ctx)
        )
        return Said(
            **{**provenance(found, question), "notes": await warned(model, looked, found)},
            answer=found.text,
        )

    @server.tool(title="Analyze an image", annotations=reading(), structured_output=True)
    async def analyze_image(
        ctx: Context,
        images: Images,  # noqa: ARG001
        looked: Annotated[Looked, Resolve(look)],
        agreed: Annotated[ElicitationResult[Permit], Resolve(permit)],
        analysis_type: Kind = "radiology",
        context: Words = "",
        language: Language = "en",
        windows: Windows = [OWN],  # noqa: ARG001, B006
        slices: Slices = SLICES,  # noqa: ARG001
        series: SeriesNumbers = [],  # noqa: ARG001, B006
        max_tokens: MaxTokens = 1024,
    ) -> Said:
        """Describe medical images: quality, anatomy, findings, what they may mean, what to do next.

        Research only.
        """
        question = prompt(
            "analyze",
            language,
            {"kind": word("analysis_type", analysis_type, language), "context": context},
        )
        return await said(ctx, question, looked, agreed, Sampling(max_tokens))

    @server.tool(title="Answer a question", annotations=reading(), structured_output=True)
    async def answer_question(
        ctx: Context,
        question: Question,
        looked: Annotated[Looked, Resolve(look)],
        agreed: Annotated[ElicitationResult[Permit], Resolve(permit)],
        images: MaybeImages = [],  # noqa: ARG001, B006
        windows: Windows = [OWN],  # noqa: ARG001, B006
        slices: Slices = SLICES,  # noqa: ARG001
        series: SeriesNumbers = [],  # noqa: ARG001, B006
        max_tokens: MaxTokens = 512,
        temperature: Temperature = 0.0,
        seed: Seed = 0,
    ) -> Said:
        """Ask the model a question about any number of images, or about none. Research only."""
        return await said(
            ctx, question, looked, agreed, Sampling(max_tokens, temperature, seed=seed)
        )


def _add_draft(server: "MCPServer", model: Served, look: Resolver, permit: Resolver) -> None:
    from mcp.server.mcpserver import Context
    from mcp.server.mcpserver.resolve import ElicitationResult, Resolve

    @server.tool(title="Draft a report", annotations=reading(), structured_output=True)
    async def draft_report(
        ctx: Context,
        images: Images,  # noqa: ARG001
        looked: Annotated[Looked, Resolve(look)],
        agreed: Annotated[ElicitationResult[Permit], Resolve(permit)],
        indication: Words = "",
        language: Language = "en",
        windows: Windows = [OWN],  # noqa: ARG001, B006
        slices: Slices = SLICES,  # noqa: ARG001
        series: SeriesNumbers = [],  # noqa: ARG001, B006
        max_tokens: MaxTokens = 1024,
    ) -> DraftReport:
        """Draft the report of a study: findings and impression, preliminary and unverified.

        Research only.
        """
        asked = {"en": "Indication: ", "zh": "检查目的："}[language]
        question = PROMPTS[language] + (
            f"\n{asked}{indication.strip()}" if indication.strip() else ""
        )
        found = await model.ask(
            question, looked, Sampling(max_tokens), permitted=permitted(agreed), told=progress(ctx)
        )
        made = draft_of(found, language)
        fields = {
            **provenance(found, question),
            "notes": [*made.notes, *(await warned(model, looked, found))[len(found.notes) :]],
        }
        return DraftReport(
            **fields,
            findings=made.findings,
            impression=made.impression,
            language=language,
            markdown=markdown(made),
        )


def _add_compare(server: "MCPServer", model: Served, shown: Shown) -> None:
    from mcp.server.mcpserver import Context
    from mcp.server.mcpserver.resolve import ElicitationResult, Resolve

    async def look_both(
        prior: Images, current: Images, windows: Windows, slices: Slices
    ) -> tuple[Looked, Looked]:
        view = View(tuple(windows), slices)
        before = await model.elsewhere(lambda: shown.look(prior, view, called="prior image"))
        return before, await model.elsewhere(
            lambda: shown.look(current, view, called="current image")
        )

    async def permit_both(
        ctx: Context, both: Annotated[tuple[Looked, Looked], Resolve(look_both)]
    ) -> Any:
        return await asked_permit(
            ctx, model, await model.elsewhere(lambda: shown.together(both)), "the question"
        )

    @server.tool(title="Compare two studies", annotations=reading(), structured_output=True)
    async def compare_studies(
        ctx: Context,
        prior: Images,  # noqa: ARG001
        current: Images,  # noqa: ARG001
        both: Annotated[tuple[Looked, Looked], Resolve(look_both)],
        agreed: Annotated[ElicitationResult[Permit], Resolve(permit_both)],
        question: Words = "",
        language: Language = "en",
        windows: Windows = [OWN],  # noqa: ARG001, B006
        slices: Slices = 4,  # noqa: ARG001
        max_tokens: MaxTokens = 1024,
    ) -> Said:
        """Say what changed from a prior examination to the current one.

        In `seen`, item 1 is the prior one. Research only.
        """
        looked = await model.elsewhere(lambda: shown.together(both))
        counts = [len(one.images) for one in both]
        before, after = (
            f"{n} image{'s' if n != 1 else ''}" if language == "en" else f"{n}幅图像"
            for n in counts
        )
        usual = {"en": "Compare them.", "zh": "请进行比较。"}[language]
        asked = prompt(
            "compare",
            language,
            {"prior": before, "current": after, "question": question.strip() or usual},
        )
        found = await model.ask(
            asked, looked, Sampling(max_tokens), permitted=permitted(agreed), told=progress(ctx)
        )
        return Said(
            **{**provenance(found, asked), "notes": await warned(model, looked, found)},
            answer=found.text,
        )
