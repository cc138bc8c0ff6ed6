"""Report drafts of the page: generated, edited by a person, exported as Markdown, FHIR or SR.

The model's text is kept here, so that an export is marked as edited exactly if a person changed it.
"""

from __future__ import annotations

import contextlib
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from pydantic import Field

from lingshu.core.errors import InputError, LingshuError, one_line
from lingshu.core.types import Image, Reply, Sampling
from lingshu.imaging.dicom.references import StudyReference, read_study_reference
from lingshu.imaging.export.report_draft import ReportDraft, ReportLanguage, draft_to_json
from lingshu.inference.answer import build_answer, build_question_sample
from lingshu.inference.draft_report import FILE_NAMES, PROMPTS, Format, build_draft, export_draft
from lingshu.inference.inputs import MAX_IMAGES, ModelInput, load_inputs
from lingshu.inference.study_index import decode_data_uri
from lingshu.serve.chat import ChatEndpoint
from lingshu.serve.schema import HTTPError
from lingshu.ui.http import RequestModel, WorkerPool, add_route, parse_body
from lingshu.ui.studies import StudyCatalog

MAX_DRAFTS = 64
MAX_SECTION_CHARS = 100_000
MEDIA_TYPES = {
    "md": "text/markdown; charset=utf-8",
    "fhir": "application/fhir+json",
    "sr": "application/dicom",
}


class ViewerImage(RequestModel):
    """An image of a study as the viewer shows it, or a data URI."""

    study: Annotated[str, Field(max_length=64)] | None = None
    series: Annotated[int, Field(ge=1)] = 1
    index: Annotated[int, Field(ge=1)] = 1
    window: Annotated[str, Field(max_length=40)] = "file"
    data: str | None = None


class DraftRequest(RequestModel):
    """The images of a draft, and its language."""

    images: Annotated[list[ViewerImage], Field(min_length=1, max_length=MAX_IMAGES)]
    language: ReportLanguage = "en"


class ExportRequest(RequestModel):
    """A draft as a person left it, to be written as a file."""

    id: Annotated[str, Field(max_length=64)]
    findings: Annotated[str, Field(max_length=MAX_SECTION_CHARS)]
    impression: Annotated[str, Field(max_length=MAX_SECTION_CHARS)]
    file_format: Format
    patient: bool = False


@dataclass(frozen=True)
class StoredDraft:
    """What the model wrote, and the study that its files name, if they name one."""

    draft: ReportDraft
    reference: StudyReference | None


class DraftStore:
    """The last drafts, in memory only."""

    def __init__(self, chat: ChatEndpoint, studies: StudyCatalog, workers: WorkerPool) -> None:
        self._chat, self._studies, self._workers = chat, studies, workers
        self._drafts: OrderedDict[str, StoredDraft] = OrderedDict()

    def add_routes(self, app: FastAPI) -> None:
        add_route(app, "/page/api/drafts", self._create, "POST")
        add_route(app, "/page/api/drafts/export", self._export, "POST")

    async def _create(self, request: Request) -> dict[str, Any]:
        body = await parse_body(request, DraftRequest)
        model_input = await self._workers.run(request, lambda: self._load_inputs(body.images))
        reply = await self._generate(request, PROMPTS[body.language], model_input)
        stored = await self._workers.run(
            request, lambda: self._build_draft(reply, model_input, body.language)
        )
        draft_id = secrets.token_urlsafe(12)
        self._drafts[draft_id] = stored
        while len(self._drafts) > MAX_DRAFTS:
            self._drafts.popitem(last=False)
        return {
            **draft_to_json(stored.draft),
            "id": draft_id,
            "named": stored.reference is not None,
            "provenance": stored.draft.provenance,
            "reply": reply.text,
        }

    async def _generate(self, request: Request, prompt: str, model_input: ModelInput) -> Reply:
        """The model's reply; the request takes a slot like those of any client."""
        sample = build_question_sample(prompt, model_input)
        async with self._chat.limiter.slot(request.scope["state"]["body"]):
            try:
                return await self._chat.generate(sample, Sampling(self._chat.max_tokens))
            except LingshuError as error:
                status = 400 if isinstance(error, InputError) else 500
                raise HTTPError(status, one_line(error)[:300], code="no_draft") from None

    def _load_inputs(self, images: Sequence[ViewerImage]) -> ModelInput:
        inputs = []
        for item, image in enumerate(images, 1):
            if image.data is not None:
                inputs.append(load_inputs([decode_data_uri(image.data)]))
                continue
            if image.study is None:
                raise InputError(f"image {item} is neither of a study nor a data URI.")
            rendered = self._studies.render_slice(
                image.study, image.series, image.index, image.window, item=item
            )
            model_input = ModelInput(
                (Image(data=rendered.png),),
                (rendered.provenance,),
                burned_in_risk=rendered.file.metadata.burned_in_risk,
                dicom_files=(rendered.file.file.source,),
            )
            inputs.append(model_input)
        model_input = self._studies.media.merge_inputs(inputs)
        if len(model_input.images) > MAX_IMAGES:
            raise InputError(f"that makes more than {MAX_IMAGES} images; choose fewer.")
        return model_input

    def _build_draft(
        self, reply: Reply, model_input: ModelInput, language: ReportLanguage
    ) -> StoredDraft:
        answer = build_answer(self._chat.engine, reply, model_input)
        if isinstance(answer, LingshuError):
            raise answer
        reference = None
        # A report names a study only if every image belongs to it.
        if len(model_input.dicom_files) == len(model_input.images):
            with contextlib.suppress(LingshuError):
                reference = read_study_reference(model_input.dicom_files)
        return StoredDraft(build_draft(answer, language), reference)

    async def _export(self, request: Request) -> Response:
        body = await parse_body(request, ExportRequest)
        stored = self._drafts.get(body.id)
        if stored is None:
            message = "this draft is no longer stored; draft the report again."
            raise HTTPError.invalid(message, "no_draft")
        data = await self._workers.run(request, lambda: export_stored(stored, body))
        headers = {"Content-Disposition": f'attachment; filename="{FILE_NAMES[body.file_format]}"'}
        return Response(data, media_type=MEDIA_TYPES[body.file_format], headers=headers)


def export_stored(stored: StoredDraft, body: ExportRequest) -> bytes:
    """The draft as a file, marked as edited if a person changed its text.

    Raises:
        InputError: both sections are empty, or an SR of images that name no single study.
    """
    draft = stored.draft
    edited = replace(draft, findings=body.findings, impression=body.impression, edited=True)
    if (edited.findings, edited.impression) != (draft.findings, draft.impression):
        draft = edited
    if body.file_format == "sr" and stored.reference is None:
        raise InputError(
            "an SR names its patient and its study: draft from DICOM images of one study alone."
        )
    with_patient = body.patient or body.file_format == "sr"
    return export_draft(draft, body.file_format, stored.reference if with_patient else None)
