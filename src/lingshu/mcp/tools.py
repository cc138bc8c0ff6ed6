"""The tools that ask the model: analyze_image, draft_report, answer_question and compare_studies;
and who must agree first.

Annotations are read by the SDK while a tool is made, so they are no strings here.
"""

# Resolvers take images and windows by the names of a tool's arguments, which its body then does not
# read; defaults are copied. ruff: noqa: ARG001, B006

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field

from lingshu.core.errors import DataPolicyError
from lingshu.core.types import Sampling
from lingshu.imaging.export.report_draft import draft_to_markdown
from lingshu.imaging.windows import FILE_WINDOW
from lingshu.inference.answer import Answer
from lingshu.inference.draft_report import PROMPTS, build_draft
from lingshu.inference.inputs import DEFAULT_SLICES, MAX_IMAGES, ModelInput, ViewOptions
from lingshu.mcp.images import MAX_IMAGE_TEXT_CHARS, MAX_ITEMS, MediaResolver
from lingshu.mcp.model import ModelHandle, consent_declined_error
from lingshu.mcp.results import AnswerResult, DraftReport, Language, answer_provenance
from lingshu.mcp.texts import choice_label, render_prompt

if TYPE_CHECKING:
    from mcp.server.mcpserver import Context, MCPServer
    from mcp_types import ToolAnnotations

MAX_TEXT_CHARS = 20_000
WindowName = Literal["file", "lung", "soft", "bone", "brain", "liver", "abdomen", "mediastinum"]
AnalysisType = Literal["radiology", "pathology", "dermatology", "ophthalmology", "general"]
ImageText = Annotated[str, Field(min_length=1, max_length=MAX_IMAGE_TEXT_CHARS)]
_IMAGE_DESCRIPTION = (
    "a data URI or base64 of a picture, DICOM file or volume, lingshu://study/ID, or a file or"
    " folder below the server's root"
)
ImageArgument = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_IMAGE_TEXT_CHARS,
        description=f"An image: {_IMAGE_DESCRIPTION}.",
    ),
]
ImageList = Annotated[
    list[ImageText],
    Field(min_length=1, max_length=MAX_ITEMS, description=f"Each is {_IMAGE_DESCRIPTION}."),
]
OptionalImageList = Annotated[
    list[ImageText],
    Field(max_length=MAX_ITEMS, description=f"None or more. Each is {_IMAGE_DESCRIPTION}."),
]
WindowList = Annotated[
    list[WindowName],
    Field(min_length=1, max_length=4, description="Windows of CT, or the file's own."),
]
MaxSlices = Annotated[
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
FreeText = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
QuestionText = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS, pattern=r"\S")]
MaxTokens = Annotated[int, Field(ge=1, le=4096, description="The longest reply, in tokens.")]
Temperature = Annotated[
    float, Field(ge=0, le=2, description="0 gives the likeliest reply, the same each time.")
]
Resolver = Callable[..., Awaitable[Any]]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


class ConsentForm(BaseModel):
    """What a person is asked before anything leaves this machine."""

    send: bool = Field(description="Send them?")


def read_only_annotations() -> "ToolAnnotations":
    """The annotations of a tool that changes nothing."""
    from mcp_types import ToolAnnotations

    return ToolAnnotations(
        read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
    )


async def request_consent(
    ctx: "Context", model: ModelHandle, model_input: ModelInput, content: str
) -> Any:
    """The question whether `what` may go to the model's address, or consent where nobody need be
    asked.

    Raises:
        ReleaseError: the client cannot ask its user.
    """
    from mcp.server.mcpserver.resolve import Elicit

    if model.allow_remote or (endpoint := await model.remote_endpoint()) is None:
        return ConsentForm(send=True)
    elicitation = ctx.client_capabilities.elicitation if ctx.client_capabilities else None
    if elicitation is None or (elicitation.form is None and elicitation.url is not None):
        raise DataPolicyError(
            "the model is on another machine, and this client cannot ask you whether to send it"
            " anything; start the server with --allow-remote if it may, or use a client that can"
            " ask."
        )
    images = (
        f"{len(model_input.images)} image{'s' if len(model_input.images) != 1 else ''} and "
        if model_input.images
        else ""
    )
    warning = "".join(f" Take care: {line}" for line in await model.egress_warnings(model_input))
    return Elicit(
        f"{images}{content} would leave this machine and go to {endpoint}.{warning} Send?",
        ConsentForm,
    )


def is_permitted(outcome: Any) -> bool:
    """True where a person, or the server's operator, agreed.

    Raises:
        ReleaseError: they did not.
    """
    data = getattr(outcome, "data", None)
    if not isinstance(data, ConsentForm) or not data.send:
        raise consent_declined_error()
    return True


async def with_warnings(model: ModelHandle, model_input: ModelInput, answer: Answer) -> list[str]:
    """What a reader should know besides: notes of looking, and of images that were sent to another
    machine.
    """
    return [*answer.notes, *await model.egress_warnings(model_input)]


def progress_callback(ctx: "Context") -> Any:
    async def on_progress(done: float, total: float) -> None:
        await ctx.report_progress(done, total, "writing")

    return on_progress


def add_model_tools(server: "MCPServer", model: ModelHandle, media: MediaResolver) -> None:
    from mcp.server.mcpserver import Context
    from mcp.server.mcpserver.resolve import Resolve

    async def load_images(
        images: ImageList, windows: WindowList, max_slices: MaxSlices, series: SeriesNumbers
    ) -> ModelInput:
        view_options = ViewOptions(
            window=tuple(windows), max_slices=max_slices, series=tuple(series)
        )
        return await model.run_in_thread(lambda: media.load_inputs(images, view_options))

    async def resolve_consent(
        ctx: Context, model_input: Annotated[ModelInput, Resolve(load_images)]
    ) -> Any:
        return await request_consent(ctx, model, model_input, "the question")

    _add_question_tools(server, model, load_images, resolve_consent)
    _add_draft_tool(server, model, load_images, resolve_consent)
    _add_compare_tool(server, model, media)


def _add_question_tools(
    server: "MCPServer", model: ModelHandle, load_images: Resolver, consent_resolver: Resolver
) -> None:
    from mcp.server.mcpserver import Context
    from mcp.server.mcpserver.resolve import ElicitationResult, Resolve

    async def ask_model(
        ctx: Context, question: str, model_input: ModelInput, consent: Any, sampling: Sampling
    ) -> AnswerResult:
        answer = await model.ask(
            question,
            model_input,
            sampling,
            has_consent=is_permitted(consent),
            on_progress=progress_callback(ctx),
        )
        return AnswerResult(
            **{
                **answer_provenance(answer, question),
                "notes": await with_warnings(model, model_input, answer),
            },
            answer=answer.text,
        )

    @server.tool(
        title="Analyze an image", annotations=read_only_annotations(), structured_output=True
    )
    async def analyze_image(
        ctx: Context,
        images: ImageList,  # noqa: ARG001
        model_input: Annotated[ModelInput, Resolve(load_images)],
        consent: Annotated[ElicitationResult[ConsentForm], Resolve(consent_resolver)],
        analysis_type: AnalysisType = "radiology",
        context: FreeText = "",
        language: Language = "en",
        windows: WindowList = [FILE_WINDOW],  # noqa: ARG001, B006
        max_slices: MaxSlices = DEFAULT_SLICES,  # noqa: ARG001
        series: SeriesNumbers = [],  # noqa: ARG001, B006
        max_tokens: MaxTokens = 1024,
    ) -> AnswerResult:
        """Describe medical images: quality, anatomy, findings, what they may mean, what to do next.

        Research only.
        """
        question = render_prompt(
            "analyze",
            language,
            {"kind": choice_label("analysis_type", analysis_type, language), "context": context},
        )
        return await ask_model(ctx, question, model_input, consent, Sampling(max_tokens))

    @server.tool(
        title="Answer a question", annotations=read_only_annotations(), structured_output=True
    )
    async def answer_question(
        ctx: Context,
        question: QuestionText,
        model_input: Annotated[ModelInput, Resolve(load_images)],
        consent: Annotated[ElicitationResult[ConsentForm], Resolve(consent_resolver)],
        images: OptionalImageList = [],  # noqa: ARG001, B006
        windows: WindowList = [FILE_WINDOW],  # noqa: ARG001, B006
        max_slices: MaxSlices = DEFAULT_SLICES,  # noqa: ARG001
        series: SeriesNumbers = [],  # noqa: ARG001, B006
        max_tokens: MaxTokens = 512,
        temperature: Temperature = 0.0,
        seed: Seed = 0,
    ) -> AnswerResult:
        """Ask the model a question about any number of images, or about none. Research only."""
        return await ask_model(
            ctx, question, model_input, consent, Sampling(max_tokens, temperature, seed=seed)
        )


def _add_draft_tool(
    server: "MCPServer", model: ModelHandle, load_images: Resolver, consent_resolver: Resolver
) -> None:
    from mcp.server.mcpserver import Context
    from mcp.server.mcpserver.resolve import ElicitationResult, Resolve

    @server.tool(
        title="Draft a report", annotations=read_only_annotations(), structured_output=True
    )
    async def draft_report(
        ctx: Context,
        images: ImageList,  # noqa: ARG001
        model_input: Annotated[ModelInput, Resolve(load_images)],
        consent: Annotated[ElicitationResult[ConsentForm], Resolve(consent_resolver)],
        indication: FreeText = "",
        language: Language = "en",
        windows: WindowList = [FILE_WINDOW],  # noqa: ARG001, B006
        max_slices: MaxSlices = DEFAULT_SLICES,  # noqa: ARG001
        series: SeriesNumbers = [],  # noqa: ARG001, B006
        max_tokens: MaxTokens = 1024,
    ) -> DraftReport:
        """Draft the report of a study: findings and impression, preliminary and unverified.

        Research only.
        """
        label = {"en": "Indication: ", "zh": "检查目的："}[language]
        question = PROMPTS[language] + (
            f"\n{label}{indication.strip()}" if indication.strip() else ""
        )
        answer = await model.ask(
            question,
            model_input,
            Sampling(max_tokens),
            has_consent=is_permitted(consent),
            on_progress=progress_callback(ctx),
        )
        draft = build_draft(answer, language)
        fields = {
            **answer_provenance(answer, question),
            "notes": [
                *draft.notes,
                *(await with_warnings(model, model_input, answer))[len(answer.notes) :],
            ],
        }
        return DraftReport(
            **fields,
            findings=draft.findings,
            impression=draft.impression,
            language=language,
            markdown=draft_to_markdown(draft),
        )


def _add_compare_tool(server: "MCPServer", model: ModelHandle, media: MediaResolver) -> None:
    from mcp.server.mcpserver import Context
    from mcp.server.mcpserver.resolve import ElicitationResult, Resolve

    async def load_both(
        prior: ImageList, current: ImageList, windows: WindowList, max_slices: MaxSlices
    ) -> tuple[ModelInput, ModelInput]:
        view_options = ViewOptions(window=tuple(windows), max_slices=max_slices)
        prior_input = await model.run_in_thread(
            lambda: media.load_inputs(prior, view_options, label="prior image")
        )
        return prior_input, await model.run_in_thread(
            lambda: media.load_inputs(current, view_options, label="current image")
        )

    async def resolve_consent(
        ctx: Context, inputs: Annotated[tuple[ModelInput, ModelInput], Resolve(load_both)]
    ) -> Any:
        return await request_consent(
            ctx,
            model,
            await model.run_in_thread(lambda: media.merge_inputs(inputs)),
            "the question",
        )

    @server.tool(
        title="Compare two studies", annotations=read_only_annotations(), structured_output=True
    )
    async def compare_studies(
        ctx: Context,
        prior: ImageList,  # noqa: ARG001
        current: ImageList,  # noqa: ARG001
        inputs: Annotated[tuple[ModelInput, ModelInput], Resolve(load_both)],
        consent: Annotated[ElicitationResult[ConsentForm], Resolve(resolve_consent)],
        question: FreeText = "",
        language: Language = "en",
        windows: WindowList = [FILE_WINDOW],  # noqa: ARG001, B006
        max_slices: MaxSlices = 4,  # noqa: ARG001
        max_tokens: MaxTokens = 1024,
    ) -> AnswerResult:
        """Say what changed from a prior examination to the current one.

        In `seen`, item 1 is the prior one. Research only.
        """
        model_input = await model.run_in_thread(lambda: media.merge_inputs(inputs))
        n_images = [len(entry.images) for entry in inputs]
        prior_text, current_text = (
            f"{n} image{'s' if n != 1 else ''}" if language == "en" else f"{n}幅图像"
            for n in n_images
        )
        default_question = {"en": "Compare them.", "zh": "请进行比较。"}[language]
        prompt_text = render_prompt(
            "compare",
            language,
            {
                "prior": prior_text,
                "current": current_text,
                "question": question.strip() or default_question,
            },
        )
        answer = await model.ask(
            prompt_text,
            model_input,
            Sampling(max_tokens),
            has_consent=is_permitted(consent),
            on_progress=progress_callback(ctx),
        )
        return AnswerResult(
            **{
                **answer_provenance(answer, prompt_text),
                "notes": await with_warnings(model, model_input, answer),
            },
            answer=answer.text,
        )
