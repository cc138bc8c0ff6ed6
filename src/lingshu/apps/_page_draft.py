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

from lingshu.apps._answering import answer_of, question_sample
from lingshu.apps._drafting import FILES, PROMPTS, Format, draft_of, export
from lingshu.apps._looking import MAX_IMAGES, Looked, look
from lingshu.apps._page_http import Json, Taken, Workers, add, taken
from lingshu.apps._page_studies import Studies
from lingshu.apps._serve_chat import Chat, Talk
from lingshu.apps._serve_media import decoded
from lingshu.apps._serve_post import Box, Post
from lingshu.apps._serve_wire import ChatRequest, Refused, UserMessage
from lingshu.core.errors import InputError, LingshuError, one_line
from lingshu.core.nouns import Image, Reply, Sampling
from lingshu.imaging.draft import Draft, Language, draft_to_json
from lingshu.imaging.reference import StudyReference, study_reference

KEPT = 64
MAX_TEXT = 100_000
MEDIA = {
    "md": "text/markdown; charset=utf-8",
    "fhir": "application/fhir+json",
    "sr": "application/dicom",
}


class Shown(Taken):
    """An image of a study as the viewer shows it, or a data URI."""

    study: Annotated[str, Field(max_length=64)] | None = None
    series: Annotated[int, Field(ge=1)] = 1
    place: Annotated[int, Field(ge=1)] = 1
    window: Annotated[str, Field(max_length=40)] = "file"
    data: str | None = None


class Asking(Taken):
    """A draft to be made."""

    images: Annotated[list[Shown], Field(min_length=1, max_length=MAX_IMAGES)]
    language: Language = "en"


class Exporting(Taken):
    """A draft, as a person left it, to be written in a form."""

    id: Annotated[str, Field(max_length=64)]
    findings: Annotated[str, Field(max_length=MAX_TEXT)]
    impression: Annotated[str, Field(max_length=MAX_TEXT)]
    form: Literal["md", "fhir", "sr"]
    patient: bool = False


@dataclass(frozen=True)
class Kept:
    """What the model wrote, and the study it is of, where its files name one."""

    draft: Draft
    reference: StudyReference | None


class Drafts:
    """Remembers the last drafts, never on the disk."""

    def __init__(self, chat: Chat, studies: Studies, workers: Workers) -> None:
        self._chat, self._studies, self._workers = chat, studies, workers
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._post: Post | None = None

    def add(self, app: FastAPI) -> None:
        add(app, "/page/api/drafts", self._make, "POST")
        add(app, "/page/api/drafts/export", self._export, "POST")

    async def _make(self, request: Request) -> Response:
        asked = await taken(request, Asking)
        looked = await self._workers.do(request, lambda: self._looked(asked.images))
        reply = await self._ask(request, PROMPTS[asked.language], looked)
        made = await self._workers.do(request, lambda: self._drafted(reply, looked, asked.language))
        name = secrets.token_urlsafe(12)
        self._kept[name] = made
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        facts = {
            "id": name,
            "named": made.reference is not None,
            "provenance": made.draft.provenance,
            "reply": reply.text,
        }
        return Json({**draft_to_json(made.draft), **facts})

    async def _ask(self, request: Request, prompt: str, looked: Looked) -> Reply:
        """The model's reply; the question takes a seat at the desk like those of any client.

        Raises:
            Refused: no seat is free (429), the browser went away, or the model cannot answer.
        """
        chat = self._chat
        asked = ChatRequest(model=chat.name, messages=[UserMessage(role="user", content=prompt)])
        talk = Talk(asked, chat.desk, request.scope["state"]["body"])
        talk.sit()
        try:
            self._post = self._post or Post(asyncio.get_running_loop())
            talk.box = Box(self._post, whole=True)
            sample, sampling = question_sample(prompt, looked), Sampling(max_tokens=chat.max_tokens)
            talk.handle = chat.live.submit(sample, sampling, talk.box.heard)
            end = (await talk.unless_gone(talk.hear()))[-1]
            if isinstance(end, LingshuError):
                raise end
            assert isinstance(end, Reply), "a box for a whole reply holds its end alone"
            talk.count(end)
            return end
        except LingshuError as error:
            talk.status = 400 if isinstance(error, InputError) else 500
            raise Refused(talk.status, one_line(error)[:300], code="no_draft") from None
        except Refused as refused:
            talk.status = refused.status
            raise
        finally:
            talk.rise()

    def _looked(self, images: Sequence[Shown]) -> Looked:
        found = []
        for item, one in enumerate(images, 1):
            if one.data is not None:
                found.append(look([decoded(one.data)]))
                continue
            if one.study is None:
                raise InputError(f"image {item} is neither of a study nor a data URI.")
            picture = self._studies.picture(one.study, one.series, one.place, one.window, item=item)
            risk = picture.part.facts.burned_in_risk
            found.append(
                Looked(
                    (Image(data=picture.png),),
                    (picture.seen,),
                    (),
                    risk,
                    (picture.part.file.source,),
                )
            )
        looked = self._studies.shown.together(found)
        if len(looked.images) > MAX_IMAGES:
            raise InputError(f"that makes more than {MAX_IMAGES} images; choose fewer.")
        return looked

    def _drafted(self, reply: Reply, looked: Looked, language: Language) -> Kept:
        found = answer_of(self._chat.live, reply, looked)
        if isinstance(found, LingshuError):
            raise found
        try:
            # With pictures among them no report could say which study it is of.
            reference = (
                study_reference(looked.files) if len(looked.files) == len(looked.images) else None
            )
        except LingshuError:
            reference = None
        return Kept(draft_of(found, language), reference)

    async def _export(self, request: Request) -> Response:
        asked = await taken(request, Exporting)
        kept = self._kept.get(asked.id)
        if kept is None:
            raise Refused(
                400, "this draft is no longer held; draft the report again.", code="no_draft"
            )
        data = await self._workers.do(request, lambda: exported(kept, asked))
        headers = {"Content-Disposition": f'attachment; filename="{FILES[asked.form]}"'}
        return Response(data, media_type=MEDIA[asked.form], headers=headers)


def exported(kept: Kept, asked: Exporting) -> bytes:
    """The draft as a file, marked as edited where a person changed its words.

    Raises:
        InputError: both sections are empty, or an SR of images that name no one study.
    """
    form: Format = asked.form
    edited = replace(kept.draft, findings=asked.findings, impression=asked.impression, edited=True)
    changed = (edited.findings, edited.impression) != (kept.draft.findings, kept.draft.impression)
    if form == "sr" and kept.reference is None:
        raise InputError(
            "an SR names its patient and its study: draft from DICOM images of one study alone."
        )
    named = asked.patient or form == "sr"
    return export(edited if changed else kept.draft, form, kept.reference if named else None)
