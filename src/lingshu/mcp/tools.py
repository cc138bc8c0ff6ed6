"""The MCP tools: questions to the model, studies of the allowed folder, metrics and evaluations.

The SDK reads annotations when a tool is registered, so they are not strings here. It fills an
argument annotated with `Resolve` by running the resolver, which takes the tool's arguments by name;
that is why tools have arguments that their bodies do not read.
"""

# ruff: noqa: ARG001, B006 (the SDK copies defaults)

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar, cast

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import Elicit, ElicitationResult, Resolve
from pydantic import AfterValidator, BaseModel, Field

from lingshu.core import registry
from lingshu.core.errors import DataPolicyError, InputError
from lingshu.core.types import Message, Meta, Sample, Sampling
from lingshu.imaging.dicom.metadata import highest_risk
from lingshu.imaging.dicom.study import DicomSeries, Study
from lingshu.imaging.export.report_draft import draft_to_markdown
from lingshu.imaging.read import MAX_BYTES
from lingshu.imaging.windows import FILE_WINDOW
from lingshu.inference.answer import Answer
from lingshu.inference.draft_report import PROMPTS, build_draft
from lingshu.inference.inputs import DEFAULT_SLICES, MAX_IMAGES, ModelInput, ViewOptions
from lingshu.inference.study_index import STUDY_URI_PREFIX, MediaResolver
from lingshu.mcp import results
from lingshu.mcp.results import Language, answer_provenance
from lingshu.mcp.runs import RUN_NAME_PATTERN
from lingshu.mcp.services import McpServices
from lingshu.mcp.texts import MAX_TEXT_CHARS, choice_label, render_prompt

T = TypeVar("T")
MAX_ITEMS = 16
MAX_STUDIES = 500  # listed with their metadata; the number of others is reported
MAX_IMAGE_TEXT_CHARS = MAX_BYTES * 4 // 3 + 256  # base64 with its header
_IMAGE_KINDS = (
    "a data URI or base64 of an image, DICOM file or volume, lingshu://study/ID, or a file or folder"
    " below the server's root"
)
WindowName = Literal["file", "lung", "soft", "bone", "brain", "liver", "abdomen", "mediastinum"]
AnalysisType = Literal["radiology", "pathology", "dermatology", "ophthalmology", "general"]
FreeText = Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
NonEmptyText = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS, pattern=r"\S")]
ImageText = Annotated[str, Field(min_length=1, max_length=MAX_IMAGE_TEXT_CHARS)]
ImageArgument = Annotated[ImageText, Field(description=f"An image: {_IMAGE_KINDS}.")]
ImageList = Annotated[
    list[ImageText],
    Field(min_length=1, max_length=MAX_ITEMS, description=f"Each is {_IMAGE_KINDS}."),
]
OptionalImageList = Annotated[
    list[ImageText],
    Field(max_length=MAX_ITEMS, description=f"None or more. Each is {_IMAGE_KINDS}."),
]
WindowList = Annotated[
    list[WindowName],
    Field(min_length=1, max_length=4, description="CT windows, or the file's own."),
]
MaxSlices = Annotated[
    int,
    Field(ge=1, le=MAX_IMAGES, description="Maximum evenly spaced slices per series or volume."),
]
SeriesNumbers = Annotated[
    list[Annotated[int, Field(ge=1, le=10_000)]],
    Field(max_length=16, description="Series of a study by number; by default the main ones."),
]
MaxTokens = Annotated[int, Field(ge=1, le=4096, description="The longest reply, in tokens.")]
Temperature = Annotated[float, Field(ge=0, le=2, description="0 is greedy and reproducible.")]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


def services_of(ctx: Context) -> McpServices:
    """The services of the server that handles a request."""
    return cast(Any, ctx.mcp_server).services


async def in_thread(ctx: Context, work: Callable[[McpServices], T]) -> T:
    """The result of blocking work on the services, done in a worker thread."""
    services = services_of(ctx)
    return await services.model.run_in_thread(lambda: work(services))


# --- images and consent


class ConsentForm(BaseModel):
    """What a person is asked before anything leaves this machine."""

    send: bool = Field(description="Send them?")


ConsentOutcome = ElicitationResult[ConsentForm]


async def request_consent(ctx: Context, model_input: ModelInput, content: str) -> Any:
    """Ask whether `content` and the images may go to a remote model; granted for a local one.

    Raises:
        DataPolicyError: the client cannot ask its user.
    """
    model = services_of(ctx).model
    if model.allow_remote or (endpoint := await model.remote_endpoint()) is None:
        return ConsentForm(send=True)
    elicitation = ctx.client_capabilities.elicitation if ctx.client_capabilities else None
    if elicitation is None or (elicitation.form is None and elicitation.url is not None):
        raise DataPolicyError(
            "the model is on another machine, and this client cannot ask you whether to send it"
            " anything; start the server with --allow-remote if it may, or use a client that can"
            " ask."
        )
    n_images = len(model_input.images)
    images = f"{n_images} image{'s' if n_images != 1 else ''} and " if n_images else ""
    warning = "".join(f" Take care: {line}" for line in await model.egress_warnings(model_input))
    return Elicit(
        f"{images}{content} would leave this machine and go to {endpoint}.{warning} Send?",
        ConsentForm,
    )


def check_consent(outcome: ConsentOutcome) -> None:
    """
    Raises:
        DataPolicyError: neither a person nor the server's operator agreed.
    """
    data = getattr(outcome, "data", None)
    if not isinstance(data, ConsentForm) or not data.send:
        raise DataPolicyError("nothing was sent: you did not agree that it leaves this machine.")


async def load_images(
    ctx: Context, items: Sequence[str], view_options: ViewOptions, label: str = "image"
) -> ModelInput:
    """The images that a client named, read in a worker thread."""
    return await in_thread(
        ctx, lambda services: services.media.load_inputs(items, view_options, label=label)
    )


async def visual_input(
    ctx: Context,
    images: ImageList,
    windows: WindowList,
    max_slices: MaxSlices,
    series: SeriesNumbers,
) -> ModelInput:
    options = ViewOptions(window=tuple(windows), max_slices=max_slices, series=tuple(series))
    return await load_images(ctx, images, options)


VisualInput = Annotated[ModelInput, Resolve(visual_input)]


async def visual_consent(ctx: Context, model_input: VisualInput) -> Any:
    return await request_consent(ctx, model_input, "the question")


VisualConsent = Annotated[ConsentOutcome, Resolve(visual_consent)]


# --- tools that ask the model


async def ask_model(
    ctx: Context,
    prompt: str,
    model_input: ModelInput,
    consent: ConsentOutcome,
    sampling: Sampling,
) -> tuple[Answer, dict[str, Any]]:
    """The model's answer with the fields of `ToolResult`, warnings about sent images included.

    Raises:
        DataPolicyError: nobody agreed to send it. EngineError: no answer came.
    """
    check_consent(consent)
    model = services_of(ctx).model

    async def report_progress(done: float, total: float) -> None:
        await ctx.report_progress(done, total, "writing")

    answer = await model.ask(
        prompt, model_input, sampling, has_consent=True, on_progress=report_progress
    )
    provenance = answer_provenance(answer, prompt)
    provenance["notes"] += await model.egress_warnings(model_input)
    return answer, provenance


async def analyze_image(
    ctx: Context,
    images: ImageList,
    model_input: VisualInput,
    consent: VisualConsent,
    analysis_type: AnalysisType = "radiology",
    context: FreeText = "",
    language: Language = "en",
    windows: WindowList = [FILE_WINDOW],
    max_slices: MaxSlices = DEFAULT_SLICES,
    series: SeriesNumbers = [],
    max_tokens: MaxTokens = 1024,
) -> results.AnswerResult:
    """Describe medical images: quality, anatomy, findings, interpretation, next steps.

    Research only.
    """
    kind = choice_label("analysis_type", analysis_type, language)
    prompt = render_prompt("analyze", language, kind=kind, context=context)
    answer, provenance = await ask_model(ctx, prompt, model_input, consent, Sampling(max_tokens))
    return results.AnswerResult(**provenance, answer=answer.text)


async def answer_question(
    ctx: Context,
    question: NonEmptyText,
    model_input: VisualInput,
    consent: VisualConsent,
    images: OptionalImageList = [],
    windows: WindowList = [FILE_WINDOW],
    max_slices: MaxSlices = DEFAULT_SLICES,
    series: SeriesNumbers = [],
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
) -> results.AnswerResult:
    """Ask the model a question about any number of images, or about none. Research only."""
    sampling = Sampling(max_tokens, temperature, seed=seed)
    answer, provenance = await ask_model(ctx, question, model_input, consent, sampling)
    return results.AnswerResult(**provenance, answer=answer.text)


async def draft_report(
    ctx: Context,
    images: ImageList,
    model_input: VisualInput,
    consent: VisualConsent,
    indication: FreeText = "",
    language: Language = "en",
    windows: WindowList = [FILE_WINDOW],
    max_slices: MaxSlices = DEFAULT_SLICES,
    series: SeriesNumbers = [],
    max_tokens: MaxTokens = 1024,
) -> results.DraftResult:
    """Draft the report of a study: findings and impression, preliminary and unverified.

    Research only.
    """
    prompt = PROMPTS[language]
    if indication.strip():
        label = {"en": "Indication: ", "zh": "检查目的："}[language]
        prompt += f"\n{label}{indication.strip()}"
    answer, provenance = await ask_model(ctx, prompt, model_input, consent, Sampling(max_tokens))
    draft = build_draft(answer, language)
    provenance["notes"] = [*draft.notes, *provenance["notes"][len(answer.notes) :]]
    return results.DraftResult(
        **provenance,
        findings=draft.findings,
        impression=draft.impression,
        language=language,
        markdown=draft_to_markdown(draft),
    )


async def both_inputs(
    ctx: Context,
    prior: ImageList,
    current: ImageList,
    windows: WindowList,
    max_slices: MaxSlices,
) -> tuple[ModelInput, ModelInput]:
    options = ViewOptions(window=tuple(windows), max_slices=max_slices)
    prior_input = await load_images(ctx, prior, options, "prior image")
    return prior_input, await load_images(ctx, current, options, "current image")


BothInputs = Annotated[tuple[ModelInput, ModelInput], Resolve(both_inputs)]


async def merge_both(ctx: Context, inputs: BothInputs) -> ModelInput:
    return await in_thread(ctx, lambda services: services.media.merge_inputs(inputs))


MergedInput = Annotated[ModelInput, Resolve(merge_both)]


async def comparison_consent(ctx: Context, model_input: MergedInput) -> Any:
    return await request_consent(ctx, model_input, "the question")


async def compare_studies(
    ctx: Context,
    prior: ImageList,
    current: ImageList,
    inputs: BothInputs,
    model_input: MergedInput,
    consent: Annotated[ConsentOutcome, Resolve(comparison_consent)],
    question: FreeText = "",
    language: Language = "en",
    windows: WindowList = [FILE_WINDOW],
    max_slices: MaxSlices = 4,
    max_tokens: MaxTokens = 1024,
) -> results.AnswerResult:
    """Say what changed from a prior examination to the current one.

    In `image_provenance`, item 1 is the prior one. Research only.
    """
    counts = [len(entry.images) for entry in inputs]
    if language == "en":
        labels = [f"{n} image{'s' if n != 1 else ''}" for n in counts]
    else:
        labels = [f"{n}幅图像" for n in counts]
    question = question.strip() or {"en": "Compare them.", "zh": "请进行比较。"}[language]
    prompt = render_prompt(
        "compare", language, prior=labels[0], current=labels[1], question=question
    )
    answer, provenance = await ask_model(ctx, prompt, model_input, consent, Sampling(max_tokens))
    return results.AnswerResult(**provenance, answer=answer.text)


# --- tools without a model


async def describe_dicom(ctx: Context, image: ImageArgument) -> results.DicomDescription:
    """Metadata of a DICOM file, folder or study: modality, body part, size, series.

    No names, ids, dates or free text.
    """
    return await in_thread(ctx, lambda services: describe_study(services.media.load_study(image)))


def describe_study(study: Study) -> results.DicomDescription:
    """A study's metadata, series by series."""
    return results.DicomDescription(
        files=sum(len(series.files) for series in study.series) + sum(study.left_out.values()),
        patients=len(study.patients),
        studies=len(study.studies),
        series=[_series_metadata(series) for series in study.series],
        left_out=dict(sorted(study.left_out.items())),
    )


def _series_metadata(series: DicomSeries) -> results.SeriesMetadata:
    metadata = series.files[0].metadata
    names = [name for name in results.SeriesMetadata.model_fields if hasattr(metadata, name)]
    risks = {file.metadata.burned_in_risk for file in series.files}
    fields = {name: getattr(metadata, name) for name in names} | {
        "number": series.number,
        "images": series.n_images,
        "is_localizer": series.is_localizer,
        "burned_in_risk": highest_risk(risks),
    }
    return results.SeriesMetadata(**fields)


async def list_studies(ctx: Context) -> results.StudyList:
    """The studies below the server's folder, each with an address that only this server knows; no
    names, dates or paths.
    """
    return await in_thread(ctx, lambda services: build_study_list(services.media))


def build_study_list(media: MediaResolver) -> results.StudyList:
    """The studies below the allowed folder, at most 500 of them.

    Raises:
        InputError: there is no such folder.
    """
    index = media.build_index()
    studies = []
    for study_id, files in list(index.studies.items())[:MAX_STUDIES]:
        series = media.read_series(files).series
        body_parts = {entry.files[0].metadata.body_part for entry in series}
        summary = results.StudySummary(
            uri=STUDY_URI_PREFIX + study_id,
            modalities=sorted({entry.modality for entry in series if entry.modality}),
            body_parts=sorted(part for part in body_parts if part),
            series=len(series),
            files=len(files),
        )
        studies.append(summary)
    n_omitted = len(index.studies) - len(studies)
    return results.StudyList(
        studies=studies,
        n_other_files=index.n_other_files,
        is_complete=index.is_complete and not n_omitted,
        notes=[f"{n_omitted} more studies are not listed."] if n_omitted else [],
    )


async def score_report(
    ctx: Context,
    report: NonEmptyText,
    reference: NonEmptyText,
    language: Language = "en",
    modality: Literal["x-ray", "other"] = "other",
) -> results.ReportAgreement:
    """Measure a report against a reference: BLEU, ROUGE, CIDEr, and findings in English reports of
    chest X-rays. No model is used.
    """
    from lingshu.scoring.report import compute_metrics

    # The question does not matter; the rules for findings are for chest X-rays only.
    meta = Meta(
        access="private", language=language, modality="X-ray" if modality == "x-ray" else "unknown"
    )
    sample = Sample("report", (Message("user", ("report",)),), gold=(reference,), meta=meta)
    metrics = await in_thread(ctx, lambda _: compute_metrics([sample], [report]))
    rows = [
        results.ReportMetric(name=metric.name, value=metric.value, note=metric.note)
        for metric in metrics
    ]
    return results.ReportAgreement(metrics=rows)


# --- evaluations

RunAction = Literal["start", "status", "result", "cancel"]


def _list_tasks(schema: dict[str, Any]) -> None:
    schema["enum"] = [*registry.names("tasks"), None]


def _check_task(name: str | None) -> str | None:
    if name is not None and name not in registry.names("tasks"):
        raise ValueError("there is no such benchmark; the resource lingshu://benchmarks lists them")
    return name


async def evaluation_consent(ctx: Context, action: RunAction) -> Any:
    if action != "start":
        return ConsentForm(send=True)
    return await request_consent(ctx, ModelInput(), "the questions of the benchmark")


async def evaluate(
    ctx: Context,
    action: RunAction,
    consent: Annotated[ConsentOutcome, Resolve(evaluation_consent)],
    task: Annotated[
        str | None,
        AfterValidator(_check_task),
        Field(json_schema_extra=_list_tasks, description="The benchmark, for start."),
    ] = None,
    run: Annotated[
        str | None,
        Field(pattern=RUN_NAME_PATTERN, description="The run, for status, result and cancel."),
    ] = None,
    limit: Annotated[
        int | None, Field(ge=1, le=1_000_000, description="Ask only the first questions.")
    ] = None,
    synthetic: Annotated[
        bool, Field(description="Ask a few synthetic questions of the same form; needs no data.")
    ] = False,
) -> results.EvaluationStatus:
    """Evaluate the server's model on a benchmark: start, request the status or the result, or
    cancel. One at a time.
    """
    if action == "start":
        if task is None:
            raise InputError("start needs a task; the resource lingshu://benchmarks lists them.")
        check_consent(consent)
        return await in_thread(
            ctx, lambda services: services.runs.start(task, limit=limit, synthetic=synthetic)
        )
    if run is None:
        raise InputError(f"{action} needs the name of a run.")
    runs = services_of(ctx).runs
    methods = {"status": runs.status, "result": runs.result, "cancel": runs.cancel}
    return await in_thread(ctx, lambda _: methods[action](run))


TOOLS = {
    "Analyze an image": analyze_image,
    "Answer a question": answer_question,
    "Draft a report": draft_report,
    "Compare two studies": compare_studies,
    "Describe DICOM": describe_dicom,
    "List studies": list_studies,
    "Score a report": score_report,
    "Evaluate the model": evaluate,
}
