"""Report drafts of the page: asked of the model like any question, edited by a person, exported as
Markdown, FHIR or SR.

What the model wrote is kept here, so that an export itself tells whether a person changed it; the
browser is not asked.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from fastapi import FastAPI, Request, Response
from pydantic import Field

from lingshu.core.errors import InputError, LingshuError, one_line
from lingshu.core.types import Image, Reply, Sampling
from lingshu.imaging.dicom.references import StudyReference, read_study_reference
from lingshu.imaging.export.report_draft import ReportDraft, ReportLanguage, draft_to_json
from lingshu.inference.answer import build_answer, build_question_sample
from lingshu.inference.draft_report import FILE_NAMES, PROMPTS, Format, build_draft, export_draft
from lingshu.inference.inputs import MAX_IMAGES, ModelInput, load_inputs
from lingshu.serve.chat import ChatEndpoint, ChatSession
from lingshu.serve.events import EventDispatcher, EventQueue
from lingshu.serve.media import decode_data_uri
from lingshu.serve.schema import ChatRequest, HTTPError, UserMessage
from lingshu.ui.http import (
    LenientJSONResponse,
    RequestModel,
    WorkerPool,
    add_route,
    parse_body,
)
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
    """A draft to be made."""

    images: Annotated[list[ViewerImage], Field(min_length=1, max_length=MAX_IMAGES)]
    language: ReportLanguage = "en"


class ExportRequest(RequestModel):
    """A draft, as a person left it, to be written in a form."""

    id: Annotated[str, Field(max_length=64)]
    findings: Annotated[str, Field(max_length=MAX_SECTION_CHARS)]
    impression: Annotated[str, Field(max_length=MAX_SECTION_CHARS)]
    file_format: Literal["md", "fhir", "sr"]
    patient: bool = False


@dataclass(frozen=True)
class StoredDraft:
    """What the model wrote, and the study it is of, where its files name one."""

    draft: ReportDraft
    reference: StudyReference | None


class DraftStore:
    """Remembers the last drafts, never on the disk."""

    def __init__(self, chat: ChatEndpoint, studies: StudyCatalog, workers: WorkerPool) -> None:
        self._chat, self._studies, self._workers = chat, studies, workers
        self._drafts: OrderedDict[str, StoredDraft] = OrderedDict()
        self._dispatcher: EventDispatcher | None = None

    def add_routes(self, app: FastAPI) -> None:
        add_route(app, "/page/api/drafts", self._create, "POST")
        add_route(app, "/page/api/drafts/export", self._export, "POST")

    async def _create(self, request: Request) -> Response:
        body = await parse_body(request, DraftRequest)
        model_input = await self._workers.run(request, lambda: self._load_inputs(body.images))
        reply = await self._ask(request, PROMPTS[body.language], model_input)
        stored_draft = await self._workers.run(
            request, lambda: self._build_draft(reply, model_input, body.language)
        )
        draft_id = secrets.token_urlsafe(12)
        self._drafts[draft_id] = stored_draft
        while len(self._drafts) > MAX_DRAFTS:
            self._drafts.popitem(last=False)
        fields = {
            "id": draft_id,
            "named": stored_draft.reference is not None,
            "provenance": stored_draft.draft.provenance,
            "reply": reply.text,
        }
        return LenientJSONResponse({**draft_to_json(stored_draft.draft), **fields})

    async def _ask(self, request: Request, prompt: str, model_input: ModelInput) -> Reply:
        """The model's reply; the question takes a seat at the desk like those of any client.

        Raises:
            Refused: no seat is free (429), the browser went away, or the model cannot answer.
        """
        chat = self._chat
        chat_request = ChatRequest(
            model=chat.name, messages=[UserMessage(role="user", content=prompt)]
        )
        session = ChatSession(chat_request, chat.limiter, request.scope["state"]["body"])
        session.acquire()
        try:
            self._dispatcher = self._dispatcher or EventDispatcher(asyncio.get_running_loop())
            session.events = EventQueue(self._dispatcher, final_only=True)
            sample, sampling = (
                build_question_sample(prompt, model_input),
                Sampling(max_tokens=chat.max_tokens),
            )
            session.handle = chat.engine.submit(sample, sampling, session.events.on_event)
            last_event = (await session.until_disconnect(session.next_events()))[-1]
            if isinstance(last_event, LingshuError):
                raise last_event
            assert isinstance(last_event, Reply), "a box for a whole reply holds its end alone"
            session.record_usage(last_event)
            return last_event
        except LingshuError as error:
            session.status = 400 if isinstance(error, InputError) else 500
            raise HTTPError(session.status, one_line(error)[:300], code="no_draft") from None
        except HTTPError as http_error:
            session.status = http_error.status
            raise
        finally:
            session.release()

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
            risk = rendered.file.metadata.burned_in_risk
            inputs.append(
                ModelInput(
                    (Image(data=rendered.png),),
                    (rendered.provenance,),
                    (),
                    risk,
                    (rendered.file.file.source,),
                )
            )
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
        try:
            # With pictures among them no report could say which study it is of.
            reference = (
                read_study_reference(model_input.dicom_files)
                if len(model_input.dicom_files) == len(model_input.images)
                else None
            )
        except LingshuError:
            reference = None
        return StoredDraft(build_draft(answer, language), reference)

    async def _export(self, request: Request) -> Response:
        body = await parse_body(request, ExportRequest)
        stored = self._drafts.get(body.id)
        if stored is None:
            raise HTTPError(
                400, "this draft is no longer held; draft the report again.", code="no_draft"
            )
        data = await self._workers.run(request, lambda: export_stored(stored, body))
        headers = {"Content-Disposition": f'attachment; filename="{FILE_NAMES[body.file_format]}"'}
        return Response(data, media_type=MEDIA_TYPES[body.file_format], headers=headers)


def export_stored(stored: StoredDraft, body: ExportRequest) -> bytes:
    """The draft as a file, marked as edited where a person changed its words.

    Raises:
        InputError: both sections are empty, or an SR of images that name no one study.
    """
    file_format: Format = body.file_format
    edited_draft = replace(
        stored.draft, findings=body.findings, impression=body.impression, edited=True
    )
    is_changed = (edited_draft.findings, edited_draft.impression) != (
        stored.draft.findings,
        stored.draft.impression,
    )
    if file_format == "sr" and stored.reference is None:
        raise InputError(
            "an SR names its patient and its study: draft from DICOM images of one study alone."
        )
    with_patient = body.patient or file_format == "sr"
    return export_draft(
        edited_draft if is_changed else stored.draft,
        file_format,
        stored.reference if with_patient else None,
    )
