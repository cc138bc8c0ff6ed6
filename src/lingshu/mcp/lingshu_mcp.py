"""The tools of the published Lingshu MCP server under their own names and arguments.

analyze_medical_image, generate_medical_report and medical_qa, drop-in for its clients: the same
arguments and defaults, the same keys in a result next to ours. Unlike there, choices are closed,
files are read only below the allowed folder, failures are errors, and what names a patient in
`patient_info` is not passed on. (github.com/alibaba-damo-academy/Lingshu_MCP, commit d427f1b.)

As in tools.py, annotations are not strings, and resolvers take the tool's arguments by name.
"""

# ruff: noqa: ARG001

from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.resolve import Resolve
from pydantic import Field

from lingshu.core.types import Sampling
from lingshu.inference.inputs import ModelInput, ViewOptions
from lingshu.mcp.results import AnalysisResult, Language, MedicalQAResult, ReportResult
from lingshu.mcp.texts import choice_label, render_prompt
from lingshu.mcp.tools import (
    AnalysisType,
    ConsentOutcome,
    FreeText,
    ImageArgument,
    NonEmptyText,
    ask_model,
    load_images,
    request_consent,
)

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
            "Only age, sex and clinical facts are used; names, ids, addresses and dates are dropped."
        ),
    ),
]
# What a report may need; anything else in a dictionary about a patient may identify one.
CLINICAL_FIELDS = (
    "age", "sex", "gender", "history", "clinical_history", "medical_history", "indication", "symptoms", "chief_complaint",
    "complaint", "medications", "allergies", "comorbidities", "diagnosis", "smoking", "pregnancy", "height", "weight",
    "年龄", "性别", "病史", "既往史", "现病史", "主诉", "症状", "用药", "过敏史",
)  # fmt: skip
# Reply lengths and temperatures of the published server.
ANALYSIS_SAMPLING, REPORT_SAMPLING = Sampling(2048, 0.1), Sampling(3072, 0.1)
QA_SAMPLING = Sampling(2048, 0.2)


async def single_image(ctx: Context, image_path: ImageArgument) -> ModelInput:
    return await load_images(ctx, [image_path], ViewOptions())


SingleImage = Annotated[ModelInput, Resolve(single_image)]


async def image_consent(ctx: Context, model_input: SingleImage) -> Any:
    return await request_consent(ctx, model_input, "what you wrote")


async def text_consent(ctx: Context) -> Any:
    return await request_consent(ctx, ModelInput(), "what you wrote")


TextConsent = Annotated[ConsentOutcome, Resolve(text_consent)]


async def analyze_medical_image(
    ctx: Context,
    image_path: ImageArgument,
    model_input: SingleImage,
    consent: Annotated[ConsentOutcome, Resolve(image_consent)],
    analysis_type: AnalysisType = "radiology",
    patient_context: FreeText = "",
    language: Language = "zh",
) -> AnalysisResult:
    """Analyze a medical image.

    As in the published server; analyze_image takes several images and windows.
    """
    kind = choice_label("analysis_type", analysis_type, language)
    prompt = render_prompt("analyze", language, kind=kind, context=patient_context)
    answer, provenance = await ask_model(ctx, prompt, model_input, consent, ANALYSIS_SAMPLING)
    return AnalysisResult(
        **provenance, analysis_type=analysis_type, language=language, report=answer.text
    )


async def generate_medical_report(
    ctx: Context,
    findings: Findings,
    consent: TextConsent,
    report_type: ReportType = "diagnostic",
    patient_info: PatientInfo = None,
    language: Language = "zh",
    template: Template = "standard",
) -> ReportResult:
    """Write a report from findings in words.

    As in the published server; draft_report reads the images themselves.
    """
    patient, notes = clinical_text(patient_info or {})
    prompt = render_prompt(
        "findings",
        language,
        report_type=choice_label("report_type", report_type, language),
        template=choice_label("template", template, language),
        findings="\n".join(f"- {finding.strip()}" for finding in findings),
        patient=patient,
    )
    answer, provenance = await ask_model(ctx, prompt, ModelInput(), consent, REPORT_SAMPLING)
    return ReportResult(
        **{**provenance, "notes": notes},
        findings_count=len(findings),
        report_type=report_type,
        template=template,
        language=language,
        report=answer.text,
    )


async def medical_qa(
    ctx: Context,
    question: NonEmptyText,
    consent: TextConsent,
    context: FreeText = "",
    specialty: Specialty = "general",
    language: Language = "zh",
) -> MedicalQAResult:
    """Answer a medical question without images.

    As in the published server; answer_question takes images.
    """
    field = choice_label("specialty", specialty, language)
    prompt = render_prompt("qa", language, specialty=field, question=question, context=context)
    answer, provenance = await ask_model(ctx, prompt, ModelInput(), consent, QA_SAMPLING)
    return MedicalQAResult(
        **provenance,
        question=question,
        specialty=specialty,
        language=language,
        answer=answer.text,
    )


def clinical_text(info: dict[str, Any]) -> tuple[str, list[str]]:
    """The clinical facts about a patient, one per line, and a note that counts what was left out."""
    lines = []
    for name, value in info.items():
        if value in (None, "", []):
            continue
        if name.strip().lower().replace(" ", "_") in CLINICAL_FIELDS:
            text = ", ".join(map(str, value)) if isinstance(value, list) else value
            lines.append(f"{name}: {text}")
    n_omitted = len(info) - len(lines)
    if not n_omitted:
        return "\n".join(lines), []
    note = f"{n_omitted} of {len(info)} entries of patient_info are not known clinical facts"
    return "\n".join(lines), [f"{note}, and were left out."]


TOOLS = {
    "Analyze a medical image": analyze_medical_image,
    "Write a report from findings": generate_medical_report,
    "Answer a medical question": medical_qa,
}
