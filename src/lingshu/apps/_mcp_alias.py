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

from lingshu.apps._looking import Looked, View
from lingshu.apps._mcp_asking import (
    Kind,
    OneImage,
    Permit,
    Question,
    Words,
    asked_permit,
    permitted,
    progress,
    reading,
    warned,
)
from lingshu.apps._mcp_images import Shown
from lingshu.apps._mcp_model import Served
from lingshu.apps._mcp_results import Analysed, Answered, Language, Reported, now, provenance
from lingshu.apps._mcp_words import prompt, word
from lingshu.core.nouns import Sampling

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
Info = str | int | float | bool | None
PatientInfo = Annotated[
    dict[Annotated[str, Field(max_length=100)], Info | list[Info]] | None,
    Field(
        max_length=50,
        description=(
            "Only age, sex and clinical facts are used; names, ids, addresses and dates are left"
            " out."
        ),
    ),
]
# What a report may need; everything else in a dictionary about a patient may name one.
CLINICAL = (
    "age", "sex", "gender", "history", "clinical_history", "medical_history", "indication", "symptoms", "chief_complaint",
    "complaint", "medications", "allergies", "comorbidities", "diagnosis", "smoking", "pregnancy", "height", "weight",
    "年龄", "性别", "病史", "既往史", "现病史", "主诉", "症状", "用药", "过敏史",
)  # fmt: skip
# The length of replies and the temperature of the published server.
LONG, LONGER = Sampling(2048, 0.1), Sampling(3072, 0.1)
FREER = Sampling(2048, 0.2)


def add_aliases(server: "MCPServer", model: Served, shown: Shown) -> None:
    from mcp.server.mcpserver import Context

    async def permit_words(ctx: Context) -> Any:
        return await asked_permit(ctx, model, Looked(), "what you wrote")

    _add_analysis(server, model, shown)
    _add_report(server, model, permit_words)
    _add_qa(server, model, permit_words)


def _add_analysis(server: "MCPServer", model: Served, shown: Shown) -> None:
    from mcp.server.mcpserver import Context
    from mcp.server.mcpserver.resolve import ElicitationResult, Resolve

    async def look_path(image_path: OneImage) -> Looked:
        return await model.elsewhere(lambda: shown.look([image_path], View()))

    async def permit_path(ctx: Context, looked: Annotated[Looked, Resolve(look_path)]) -> Any:
        return await asked_permit(ctx, model, looked, "what you wrote")

    @server.tool(title="Analyze a medical image", annotations=reading(), structured_output=True)
    async def analyze_medical_image(
        ctx: Context,
        image_path: OneImage,  # noqa: ARG001
        looked: Annotated[Looked, Resolve(look_path)],
        agreed: Annotated[ElicitationResult[Permit], Resolve(permit_path)],
        analysis_type: Kind = "radiology",
        patient_context: Words = "",
        language: Language = "zh",
    ) -> Analysed:
        """Analyze a medical image.

        As in the published server; analyze_image takes several images and windows.
        """
        values = {
            "kind": word("analysis_type", analysis_type, language),
            "context": patient_context,
        }
        asked = prompt("analyze", language, values)
        found = await model.ask(
            asked, looked, LONG, permitted=permitted(agreed), told=progress(ctx)
        )
        fields: dict[str, Any] = {
            **provenance(found, asked),
            "notes": await warned(model, looked, found),
        }
        return Analysed(
            **fields,
            analysis_type=analysis_type,
            language=language,
            report=found.text,
            timestamp=now(),
        )


def _add_report(server: "MCPServer", model: Served, permit: Any) -> None:
    from mcp.server.mcpserver import Context
    from mcp.server.mcpserver.resolve import ElicitationResult, Resolve

    @server.tool(
        title="Write a report from findings", annotations=reading(), structured_output=True
    )
    async def generate_medical_report(
        ctx: Context,
        findings: Findings,
        agreed: Annotated[ElicitationResult[Permit], Resolve(permit)],
        report_type: ReportType = "diagnostic",
        patient_info: PatientInfo = None,
        language: Language = "zh",
        template: Template = "standard",
    ) -> Reported:
        """Write a report from findings in words.

        As in the published server; draft_report reads the images themselves.
        """
        about, notes = clinical(patient_info or {})
        values = {
            "report_type": word("report_type", report_type, language),
            "template": word("template", template, language),
            "findings": "\n".join(f"- {one.strip()}" for one in findings),
            "patient": about,
        }
        asked = prompt("findings", language, values)
        found = await model.ask(
            asked, Looked(), LONGER, permitted=permitted(agreed), told=progress(ctx)
        )
        fields: dict[str, Any] = {
            **provenance(found, asked),
            "notes": notes,
            "findings_count": len(findings),
        }
        return Reported(
            **fields,
            report_type=report_type,
            template=template,
            language=language,
            report=found.text,
            timestamp=now(),
        )


def _add_qa(server: "MCPServer", model: Served, permit: Any) -> None:
    from mcp.server.mcpserver import Context
    from mcp.server.mcpserver.resolve import ElicitationResult, Resolve

    @server.tool(title="Answer a medical question", annotations=reading(), structured_output=True)
    async def medical_qa(
        ctx: Context,
        question: Question,
        agreed: Annotated[ElicitationResult[Permit], Resolve(permit)],
        context: Words = "",
        specialty: Specialty = "general",
        language: Language = "zh",
    ) -> Answered:
        """Answer a medical question without images.

        As in the published server; answer_question takes images.
        """
        asked = prompt(
            "qa",
            language,
            {
                "specialty": word("specialty", specialty, language),
                "question": question,
                "context": context,
            },
        )
        found = await model.ask(
            asked, Looked(), FREER, permitted=permitted(agreed), told=progress(ctx)
        )
        fields: dict[str, Any] = {**provenance(found, asked), "question": question}
        return Answered(
            **fields, specialty=specialty, language=language, answer=found.text, timestamp=now()
        )


def clinical(info: dict[str, Any]) -> tuple[str, list[str]]:
    """The clinical facts in a dictionary about a patient, one a line, and a note that counts what
    was left out.
    """
    used = {
        name: value
        for name, value in info.items()
        if name.strip().lower().replace(" ", "_") in CLINICAL and value not in (None, "", [])
    }
    lines = [
        f"{name}: {', '.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in used.items()
    ]
    left = len(info) - len(used)
    notes = (
        [
            f"{left} of {len(info)} entries of patient_info are no clinical facts that this server"
            " knows, and were left out."
        ]
        if left
        else []
    )
    return "\n".join(lines), notes
