"""Results of the MCP tools: typed, each with the model, its hash, the prompt's hash and the notice."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, model_serializer

from lingshu.core.files import sha256_bytes
from lingshu.imaging.provenance import ImageProvenance
from lingshu.inference.answer import NOTICE, Answer, answer_to_json

Language = Literal["en", "zh"]


class ToolResult(BaseModel):
    """Where a result comes from, and what must be shown with it.

    Unknown values are omitted from the JSON; the provenance follows the fields of the tool.
    """

    model: str | None = Field(default=None, description="The model that answered.")
    model_digest: str | None = Field(
        default=None, description="Hash of its weights, or of its address and name."
    )
    prompt_sha256: str | None = Field(default=None, description="SHA-256 of the model's prompt.")
    notice: str = NOTICE
    image_provenance: list[ImageProvenance] = Field(
        default=[], description="What the model saw of each image; nothing that names a person."
    )
    notes: list[str] = Field(default=[], description="What else a reader should know.")
    finish: str | None = Field(
        default=None, description='"length" for a reply that was truncated at max_tokens.'
    )
    confidence: float | None = Field(
        default=None, description="The model's, from 0 to 1; known where it may abstain."
    )
    abstained: str | None = Field(
        default=None, description="That the model gave no answer, and why; `answer` says the same."
    )
    prompt_tokens: int | None = None
    reply_tokens: int | None = None

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = _without_none(handler(self))
        own = [name for name in fields if name not in ToolResult.model_fields]
        return {name: fields[name] for name in [*own, *fields]}


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(entry) for key, entry in value.items() if entry is not None}
    return [_without_none(entry) for entry in value] if isinstance(value, list | tuple) else value


class AnswerResult(ToolResult):
    """A model's answer."""

    answer: str


class DraftResult(ToolResult):
    """A model's draft of a report; preliminary and not verified."""

    findings: str
    impression: str
    language: Language
    status: Literal["preliminary"] = "preliminary"
    verified: Literal[False] = False
    markdown: str


class PublishedResult(ToolResult):
    """The keys that all tools of the published server return."""

    status: Literal["success"] = "success"
    language: Language
    timestamp: str = Field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


class AnalysisResult(PublishedResult):
    """Result of `analyze_medical_image`."""

    analysis_type: str
    report: str


class ReportResult(PublishedResult):
    """Result of `generate_medical_report`."""

    report_type: str
    template: str
    report: str
    findings_count: int


class MedicalQAResult(PublishedResult):
    """Result of `medical_qa`."""

    question: str
    specialty: str
    answer: str


class SeriesMetadata(BaseModel):
    """What may be disclosed of a series, by an allow-list: numbers, and terms of closed lists."""

    number: int
    images: int
    modality: str | None = None
    body_part: str | None = None
    view: str | None = None
    laterality: str | None = None
    is_localizer: bool
    rows: int | None = None
    columns: int | None = None
    bits: int | None = None
    photometric: str | None = None
    sop_class: str | None = None
    transfer_syntax: str | None = None
    spacing: list[float] | None = None
    thickness: float | None = None
    burned_in_risk: Literal["stated", "likely", "low"] = Field(
        description="The risk that text in the pixels names a patient."
    )


class DicomDescription(ToolResult):
    """Metadata of a DICOM file or study that identifies nobody."""

    files: int
    patients: int = Field(description="How many patients the files state.")
    studies: int
    series: list[SeriesMetadata]
    left_out: dict[str, int] = Field(description="Files that are not DICOM images, by reason.")


class StudySummary(BaseModel):
    """A study below the allowed folder, without a name, a date or a path."""

    uri: str = Field(description="Give it as an image to the other tools.")
    modalities: list[str]
    body_parts: list[str]
    series: int
    files: int


class StudyList(ToolResult):
    """The studies below the allowed folder."""

    studies: list[StudySummary]
    n_other_files: int = Field(description="Files that are not DICOM images.")
    is_complete: bool = Field(description="False if there are more files than are read.")


class ReportMetric(BaseModel):
    """One metric of a report against its reference; the note says why a value is missing."""

    name: str
    value: float | None = None
    note: str | None = None


class ReportAgreement(ToolResult):
    """How a report agrees with a reference; computed without a model."""

    metrics: list[ReportMetric]


class TaskScore(BaseModel):
    """The score of one task with its 95% interval."""

    task: str
    metric: str
    n: int
    value: float | None = None
    low: float | None = None
    high: float | None = None


class EvaluationStatus(ToolResult):
    """The progress of an evaluation, and its scores once it is done."""

    run: str = Field(description="Its name; needed to request its status and its result.")
    state: Literal["running", "done", "failed", "cancelled"]
    n_questions: int | None = Field(default=None, description="Known once the task is loaded.")
    n_answered: int | None = None
    error: str | None = None
    scores: list[TaskScore] = []
    report: str | None = Field(default=None, description="The report in Markdown.")


def answer_provenance(answer: Answer, prompt: str) -> dict[str, Any]:
    """The fields of `ToolResult` for an answer to `prompt`."""
    fields = answer_to_json(answer)
    del fields["answer"]
    return {**fields, "prompt_sha256": sha256_bytes(prompt.encode("utf-8", "replace"))}
