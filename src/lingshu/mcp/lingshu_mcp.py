"""The tools of the published Lingshu MCP server under their own names and arguments.

analyze_medical_image, generate_medical_report and medical_qa, drop-in for its clients: the same
arguments and defaults, the same keys in a result, ours beside them. Other than there, choices are
closed, files are read below the allowed folder alone, failures are errors, and what names a patient
in `patient_info` is not passed on. (github.com/alibaba-damo-academy/Lingshu_MCP, commit d427f1b.)
"""

# Resolvers take images and windows by the names of a tool's arguments, which its body then does not
# read. ruff: noqa: ARG001

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from lingshu.core.types import Sampling
from lingshu.inference.inputs import ModelInput, ViewOptions
from lingshu.mcp.images import MediaResolver
from lingshu.mcp.model import ModelHandle
from lingshu.mcp.results import (
    AnalysisResult,
    Language,
    MedicalQAResult,
    ReportResult,
    answer_provenance,
    utc_timestamp,
)
from lingshu.mcp.texts import choice_label, render_prompt
from lingshu.mcp.tools import (
    AnalysisType,
    ConsentForm,
    FreeText,
    ImageArgument,
    QuestionText,
    is_permitted,
    progress_callback,
    read_only_annotations,
    request_consent,
    with_warnings,
)

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

ReportType = Literal["diagnostic", "screening", "follow_up", "consultation"]
Template = Literal["standard", "detailed", "brief"]
Specialty = Literal[
    "general", "radiology", "pathology", "surgery", "internal_medicine", "cardiology", "neurology", "oncology",
    "pediatrics", "dermatology", "ophthalmology", "gynecology", "orthopedics", "psychiatry", "emergency", "pharmacology",
]  # fmt: skip
Findings = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=4000)]], Field(min_length=1, max_length=100)
]
InfoValue = str | int | float | bool | None
PatientInfo = Annotated[
    dict[Annotated[str, Field(max_length=100)], InfoValue | list[InfoValue]] | None,
    Field(
        max_length=50,
        description=(
            "Only age, sex and clinical facts are used; names, ids, addresses and dates are left"
            " out."
        ),
    ),
]
# What a report may need; everything else in a dictionary about a patient may name one.
CLINICAL_FIELDS = (
    "age", "sex", "gender", "history", "clinical_history", "medical_history", "indication", "symptoms", "chief_complaint",
    "complaint", "medications", "allergies", "comorbidities", "diagnosis", "smoking", "pregnancy", "height", "weight",
    "年龄", "性别", "病史", "既往史", "现病史", "主诉", "症状", "用药", "过敏史",
)  # fmt: skip
# The length of replies and the temperature of the published server.
REPORT_SAMPLING, LONG_REPORT_SAMPLING = Sampling(2048, 0.1), Sampling(3072, 0.1)
QA_SAMPLING = Sampling(2048, 0.2)


def add_lingshu_mcp_tools(server: "MCPServer", model: ModelHandle, media: MediaResolver) -> None:
    from mcp.server.mcpserver import Context

    async def request_text_consent(ctx: Context) -> Any:
        return await request_consent(ctx, model, ModelInput(), "what you wrote")

    _add_analysis_tool(server, model, media)
    _add_report_tool(server, model, request_text_consent)
    _add_qa_tool(server, model, request_text_consent)


def _add_analysis_tool(server: "MCPServer", model: ModelHandle, media: MediaResolver) -> None:
    from mcp.server.mcpserver import Context
    from mcp.server.mcpserver.resolve import ElicitationResult, Resolve

    async def load_image(image_path: ImageArgument) -> ModelInput:
        return await model.run_in_thread(lambda: media.load_inputs([image_path], ViewOptions()))

    async def request_image_consent(
        ctx: Context, model_input: Annotated[ModelInput, Resolve(load_image)]
    ) -> Any:
        return await request_consent(ctx, model, model_input, "what you wrote")

    @server.tool(
        title="Analyze a medical image", annotations=read_only_annotations(), structured_output=True
    )
    async def analyze_medical_image(
        ctx: Context,
        image_path: ImageArgument,  # noqa: ARG001
        model_input: Annotated[ModelInput, Resolve(load_image)],
        consent: Annotated[ElicitationResult[ConsentForm], Resolve(request_image_consent)],
        analysis_type: AnalysisType = "radiology",
        patient_context: FreeText = "",
        language: Language = "zh",
    ) -> AnalysisResult:
        """Analyze a medical image.

        As in the published server; analyze_image takes several images and windows.
        """
        values = {
            "kind": choice_label("analysis_type", analysis_type, language),
            "context": patient_context,
        }
        prompt_text = render_prompt("analyze", language, values)
        answer = await model.ask(
            prompt_text,
            model_input,
            REPORT_SAMPLING,
            has_consent=is_permitted(consent),
            on_progress=progress_callback(ctx),
        )
        fields: dict[str, Any] = {
            **answer_provenance(answer, prompt_text),
            "notes": await with_warnings(model, model_input, answer),
        }
        return AnalysisResult(
            **fields,
            analysis_type=analysis_type,
            language=language,
            report=answer.text,
            timestamp=utc_timestamp(),
        )


def _add_report_tool(server: "MCPServer", model: ModelHandle, consent_resolver: Any) -> None:
    from mcp.server.mcpserver import Context
    from mcp.server.mcpserver.resolve import ElicitationResult, Resolve

    @server.tool(
        title="Write a report from findings",
        annotations=read_only_annotations(),
        structured_output=True,
    )
    async def generate_medical_report(
        ctx: Context,
        findings: Findings,
        consent: Annotated[ElicitationResult[ConsentForm], Resolve(consent_resolver)],
        report_type: ReportType = "diagnostic",
        patient_info: PatientInfo = None,
        language: Language = "zh",
        template: Template = "standard",
    ) -> ReportResult:
        """Write a report from findings in words.

        As in the published server; draft_report reads the images themselves.
        """
        patient_text, notes = clinical_text(patient_info or {})
        values = {
            "report_type": choice_label("report_type", report_type, language),
            "template": choice_label("template", template, language),
            "findings": "\n".join(f"- {finding.strip()}" for finding in findings),
            "patient": patient_text,
        }
        prompt_text = render_prompt("findings", language, values)
        answer = await model.ask(
            prompt_text,
            ModelInput(),
            LONG_REPORT_SAMPLING,
            has_consent=is_permitted(consent),
            on_progress=progress_callback(ctx),
        )
        fields: dict[str, Any] = {
            **answer_provenance(answer, prompt_text),
            "notes": notes,
            "findings_count": len(findings),
        }
        return ReportResult(
            **fields,
            report_type=report_type,
            template=template,
            language=language,
            report=answer.text,
            timestamp=utc_timestamp(),
        )


def _add_qa_tool(server: "MCPServer", model: ModelHandle, consent_resolver: Any) -> None:
    from mcp.server.mcpserver import Context
    from mcp.server.mcpserver.resolve import ElicitationResult, Resolve

    @server.tool(
        title="Answer a medical question",
        annotations=read_only_annotations(),
        structured_output=True,
    )
    async def medical_qa(
        ctx: Context,
        question: QuestionText,
        consent: Annotated[ElicitationResult[ConsentForm], Resolve(consent_resolver)],
        context: FreeText = "",
        specialty: Specialty = "general",
        language: Language = "zh",
    ) -> MedicalQAResult:
        """Answer a medical question without images.

        As in the published server; answer_question takes images.
        """
        prompt_text = render_prompt(
            "qa",
            language,
            {
                "specialty": choice_label("specialty", specialty, language),
                "question": question,
                "context": context,
            },
        )
        answer = await model.ask(
            prompt_text,
            ModelInput(),
            QA_SAMPLING,
            has_consent=is_permitted(consent),
            on_progress=progress_callback(ctx),
        )
        fields: dict[str, Any] = {**answer_provenance(answer, prompt_text), "question": question}
        return MedicalQAResult(
            **fields,
            specialty=specialty,
            language=language,
            answer=answer.text,
            timestamp=utc_timestamp(),
        )


def clinical_text(info: dict[str, Any]) -> tuple[str, list[str]]:
    """The clinical facts in a dictionary about a patient, one a line, and a note that counts what
    was left out.
    """
    included = {
        name: value
        for name, value in info.items()
        if name.strip().lower().replace(" ", "_") in CLINICAL_FIELDS and value not in (None, "", [])
    }
    lines = [
        f"{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in included.items()
    ]
    n_omitted = len(info) - len(included)
    notes = (
        [
            f"{n_omitted} of {len(info)} entries of patient_info are no clinical facts that this server"
            " knows, and were left out."
        ]
        if n_omitted
        else []
    )
    return "\n".join(lines), notes
