"""What the tools of `lingshu mcp` give back: typed, and each result with the model, its hash, the
prompt's hash and the notice.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, model_serializer

from lingshu.core.files import sha256_bytes
from lingshu.imaging.provenance import ImageProvenance, provenance_to_json
from lingshu.inference.answer import NOTICE, Answer

Language = Literal["en", "zh"]


class ResultModel(BaseModel):
    """What is not known is left out of what goes over the wire, and what a result says comes before
    where it is from.
    """

    @model_serializer(mode="wrap")
    def _serialize(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = handler(self)
        provenance_names = ToolResult.model_fields if isinstance(self, ToolResult) else {}
        order = [
            *(name for name in fields if name not in provenance_names),
            *(name for name in fields if name in provenance_names),
        ]
        return {name: fields[name] for name in order if fields[name] is not None}


class ImageProvenanceResult(ResultModel):
    """One image that the model saw: place, size, kind, slice and window; nothing that names a
    person.
    """

    item: int = Field(description="Place, from 1, of the image among those that were handed in.")
    kind: Literal["picture", "dicom", "volume"]
    rows: int
    columns: int
    modality: str | None = None
    body_part: str | None = None
    view: str | None = None
    laterality: str | None = None
    series: int | None = None
    series_number: int | None = None
    index: int = Field(default=1, description="Slice or frame, from 1.")
    total: int = Field(default=1, description="How many slices or frames there are.")
    window: str | None = None
    center: float | None = None
    width: float | None = None
    spacing: list[float] | None = Field(default=None, description="Row and column spacing in mm.")


class ToolResult(ResultModel):
    """Where a result comes from, and what must be shown with it.

    Fields about a model are left out where none was asked.
    """

    model: str | None = Field(default=None, description="The model that answered.")
    model_digest: str | None = Field(
        default=None, description="Hash of its weights, or of its address and name."
    )
    prompt_sha256: str | None = Field(
        default=None, description="SHA-256 of the words that were put to the model."
    )
    notice: str = NOTICE
    image_provenance: list[ImageProvenanceResult] = Field(
        default=[], description="What the model saw of each image."
    )
    notes: list[str] = Field(default=[], description="What a reader should know besides.")
    finish: str | None = Field(
        default=None, description='"length" for a reply that was cut at max_tokens.'
    )
    prompt_tokens: int | None = None
    reply_tokens: int | None = None


class AnswerResult(ToolResult):
    """A model's answer."""

    answer: str


class DraftReport(ToolResult):
    """A model's draft of a report; preliminary, and verified by nobody."""

    findings: str
    impression: str
    language: Language
    status: Literal["preliminary"] = "preliminary"
    verified: Literal[False] = False
    markdown: str


class AnalysisResult(ToolResult):
    """What `analyze_medical_image` gives."""

    status: Literal["success"] = "success"
    analysis_type: str
    language: Language
    report: str
    timestamp: str


class ReportResult(ToolResult):
    """What `generate_medical_report` gives."""

    status: Literal["success"] = "success"
    report_type: str
    template: str
    language: Language
    report: str
    findings_count: int
    timestamp: str


class MedicalQAResult(ToolResult):
    """What `medical_qa` gives."""

    status: Literal["success"] = "success"
    question: str
    specialty: str
    language: Language
    answer: str
    timestamp: str


class SeriesMetadata(ResultModel):
    """What may be known of a series, by an allow-list: numbers, and words of closed lists."""

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
    """The safe facts of a DICOM file or study."""

    files: int
    patients: int = Field(description="How many patients the files state.")
    studies: int
    series: list[SeriesMetadata]
    left_out: dict[str, int] = Field(description="Files that are no DICOM images, by reason.")


class StudySummary(ResultModel):
    """A study below the allowed folder, without a name, a date or a path."""

    uri: str = Field(description="Give it as an image to the other tools.")
    modalities: list[str]
    body_parts: list[str]
    series: int
    files: int


class StudyList(ToolResult):
    """The studies below the allowed folder."""

    studies: list[StudySummary]
    n_other_files: int = Field(description="Files that are no DICOM images.")
    is_complete: bool = Field(description="False where there are more files than are looked at.")


class ReportMetric(ResultModel):
    """One number of a report against its reference; left out where it cannot be said, and the note
    tells why.
    """

    name: str
    value: float | None = None
    note: str | None = None


class ReportAgreement(ToolResult):
    """How a report agrees with a reference; no model is asked."""

    metrics: list[ReportMetric]


class TaskScore(ResultModel):
    """The score of one task with its 95% interval."""

    task: str
    metric: str
    n: int
    value: float | None = None
    low: float | None = None
    high: float | None = None


class EvaluationStatus(ToolResult):
    """An evaluation that runs or ran: how far it is, and its scores once it is done."""

    run: str = Field(description="Its name; give it to ask for its status and its result.")
    state: Literal["running", "done", "failed", "cancelled"]
    n_questions: int | None = Field(
        default=None, description="How many there are, once the task is read."
    )
    n_answered: int | None = None
    error: str | None = None
    scores: list[TaskScore] = []
    report: str | None = Field(default=None, description="The report in Markdown.")


def to_provenance_results(
    image_provenance: Sequence[ImageProvenance],
) -> list[ImageProvenanceResult]:
    return [
        ImageProvenanceResult(**provenance_to_json(provenance)) for provenance in image_provenance
    ]


def answer_provenance(answer: Answer, prompt: str) -> dict[str, object]:
    """The fields of `Result` for an answer to `prompt`."""
    return {
        "model": answer.model,
        "model_digest": answer.digest,
        "prompt_sha256": sha256_bytes(prompt.encode("utf-8", "replace")),
        "notice": answer.notice,
        "image_provenance": to_provenance_results(answer.image_provenance),
        "notes": list(answer.notes),
        "finish": answer.finish,
        "prompt_tokens": answer.prompt_tokens,
        "reply_tokens": answer.reply_tokens,
    }


def utc_timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
