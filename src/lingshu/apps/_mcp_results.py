"""What the tools of `lingshu mcp` give back: typed, and each result with the model, its hash, the
prompt's hash and the notice.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, model_serializer

from lingshu.apps._answering import NOTICE, Answer
from lingshu.core.files import sha256_bytes
from lingshu.imaging.seen import Seen, seen_to_json

Language = Literal["en", "zh"]


class Told(BaseModel):
    """What is not known is left out of what goes over the wire, and what a result says comes before
    where it is from.
    """

    @model_serializer(mode="wrap")
    def _told(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found = whole(self)
        from_where = Result.model_fields if isinstance(self, Result) else {}
        order = [
            *(name for name in found if name not in from_where),
            *(name for name in found if name in from_where),
        ]
        return {name: found[name] for name in order if found[name] is not None}


class SeenImage(Told):
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
    place: int = Field(default=1, description="Slice or frame, from 1.")
    of: int = Field(default=1, description="How many slices or frames there are.")
    window: str | None = None
    center: float | None = None
    width: float | None = None
    spacing: list[float] | None = Field(default=None, description="Row and column spacing in mm.")


class Result(Told):
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
    seen: list[SeenImage] = Field(default=[], description="What the model saw of each image.")
    notes: list[str] = Field(default=[], description="What a reader should know besides.")
    finish: str | None = Field(
        default=None, description='"length" for a reply that was cut at max_tokens.'
    )
    prompt_tokens: int | None = None
    reply_tokens: int | None = None


class Said(Result):
    """A model's answer."""

    answer: str


class DraftReport(Result):
    """A model's draft of a report; preliminary, and verified by nobody."""

    findings: str
    impression: str
    language: Language
    status: Literal["preliminary"] = "preliminary"
    verified: Literal[False] = False
    markdown: str


class Analysed(Result):
    """What `analyze_medical_image` gives."""

    status: Literal["success"] = "success"
    analysis_type: str
    language: Language
    report: str
    timestamp: str


class Reported(Result):
    """What `generate_medical_report` gives."""

    status: Literal["success"] = "success"
    report_type: str
    template: str
    language: Language
    report: str
    findings_count: int
    timestamp: str


class Answered(Result):
    """What `medical_qa` gives."""

    status: Literal["success"] = "success"
    question: str
    specialty: str
    language: Language
    answer: str
    timestamp: str


class SeriesFacts(Told):
    """What may be known of a series, by an allow-list: numbers, and words of closed lists."""

    number: int
    images: int
    modality: str | None = None
    body_part: str | None = None
    view: str | None = None
    laterality: str | None = None
    localizer: bool
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


class Described(Result):
    """The safe facts of a DICOM file or study."""

    files: int
    patients: int = Field(description="How many patients the files state.")
    studies: int
    series: list[SeriesFacts]
    left_out: dict[str, int] = Field(description="Files that are no DICOM images, by reason.")


class ListedStudy(Told):
    """A study below the allowed folder, without a name, a date or a path."""

    uri: str = Field(description="Give it as an image to the other tools.")
    modalities: list[str]
    body_parts: list[str]
    series: int
    files: int


class Studies(Result):
    """The studies below the allowed folder."""

    studies: list[ListedStudy]
    other_files: int = Field(description="Files that are no DICOM images.")
    complete: bool = Field(description="False where there are more files than are looked at.")


class Measure(Told):
    """One number of a report against its reference; left out where it cannot be said, and the note
    tells why.
    """

    name: str
    value: float | None = None
    note: str | None = None


class Scored(Result):
    """How a report agrees with a reference; no model is asked."""

    measures: list[Measure]


class TaskScore(Told):
    """The score of one task with its 95% interval."""

    task: str
    metric: str
    n: int
    value: float | None = None
    low: float | None = None
    high: float | None = None


class Evaluation(Result):
    """An evaluation that runs or ran: how far it is, and its scores once it is done."""

    run: str = Field(description="Its name; give it to ask for its status and its result.")
    state: Literal["running", "done", "failed", "cancelled"]
    questions: int | None = Field(
        default=None, description="How many there are, once the task is read."
    )
    answered: int | None = None
    error: str | None = None
    scores: list[TaskScore] = []
    report: str | None = Field(default=None, description="The report in Markdown.")


def seen_images(seen: Sequence[Seen]) -> list[SeenImage]:
    return [SeenImage(**seen_to_json(one)) for one in seen]


def provenance(found: Answer, prompt: str) -> dict[str, object]:
    """The fields of `Result` for an answer to `prompt`."""
    return {
        "model": found.model,
        "model_digest": found.digest,
        "prompt_sha256": sha256_bytes(prompt.encode("utf-8", "replace")),
        "notice": found.notice,
        "seen": seen_images(found.seen),
        "notes": list(found.notes),
        "finish": found.finish,
        "prompt_tokens": found.prompt_tokens,
        "reply_tokens": found.reply_tokens,
    }


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
