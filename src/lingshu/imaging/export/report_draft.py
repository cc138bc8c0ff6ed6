"""A report drafted by a model, with everything that must accompany it, as plain JSON and Markdown.

A draft is not a report: every form says that a machine wrote it and that it is not verified.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

from lingshu.core.errors import InputError
from lingshu.core.files import read_json
from lingshu.imaging.provenance import ImageProvenance, format_provenance, provenance_to_json

ReportLanguage = Literal["en", "zh"]
# Characters that XML, FHIR and DICOM do not allow in text.
_CONTROL_CHARS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@cache
def report_labels(language: ReportLanguage) -> Mapping[str, str]:
    """Headings and notices of a draft in its language."""
    return read_json(Path(__file__).with_name("labels.json"))[language]


@dataclass(frozen=True)
class ReportDraft:
    """Findings and impression, the model that wrote them, and what it saw.

    `created` has a time zone; `edited` says that a person changed the text.

    Raises:
        InputError: both sections are empty, there is no notice, or `created` has no time zone.
    """

    findings: str
    impression: str
    language: ReportLanguage
    model: str
    digest: str
    notice: str
    created: datetime
    image_provenance: tuple[ImageProvenance, ...] = ()
    notes: tuple[str, ...] = ()
    edited: bool = False

    def __post_init__(self) -> None:
        for name in ("findings", "impression", "model", "notice"):
            text = _CONTROL_CHARS.sub("", getattr(self, name).replace("\r\n", "\n")).strip()
            object.__setattr__(self, name, text)
        if not self.notice:
            problem = "a draft needs the notice that it is not for clinical use"
            raise InputError(f"{problem}; give its text.")
        if not self.findings and not self.impression:
            remedy = "ask the model again, or write one of them"
            raise InputError(f"the draft has neither findings nor an impression; {remedy}.")
        if self.created.tzinfo is None:
            raise InputError("the time of a draft needs its time zone; use datetime.now(UTC).")

    @property
    def sections(self) -> dict[str, str]:
        """The sections that are not empty, by their headings in the draft's language."""
        labels = report_labels(self.language)
        texts = {labels["findings"]: self.findings, labels["impression"]: self.impression}
        return {heading: text for heading, text in texts.items() if text}

    @property
    def provenance(self) -> list[str]:
        """The lines below the text of every form: not verified, notice, model, what it saw."""
        labels = report_labels(self.language)
        images = format_provenance(self.image_provenance)
        return [
            labels["edited" if self.edited else "unverified"],
            self.notice,
            f"{labels['model']}: {self.model} (sha256 {self.digest[:16]})",
            *(f"{labels['saw']}: {line}" for line in images),
            *self.notes,
        ]


def draft_to_json(draft: ReportDraft) -> dict[str, Any]:
    return {
        "findings": draft.findings,
        "impression": draft.impression,
        "language": draft.language,
        "status": "preliminary",
        "verified": False,
        "edited": draft.edited,
        "model": draft.model,
        "model_digest": draft.digest,
        "created": draft.created.isoformat(timespec="seconds"),
        "image_provenance": [provenance_to_json(image) for image in draft.image_provenance],
        "notes": list(draft.notes),
        "notice": draft.notice,
    }


def draft_to_markdown(draft: ReportDraft) -> str:
    """A draft as Markdown; the model's text cannot become a link, an image or a heading in it."""
    unverified, notice, *origin = map(_escape_markdown, draft.provenance)
    blocks = [f"# {report_labels(draft.language)['title']}", f"**{unverified}** {notice}"]
    for heading, text in draft.sections.items():
        blocks += [f"## {heading}", _escape_markdown(text)]
    return "\n\n".join([*blocks, "---", "\n".join(f"- {line}" for line in origin)]) + "\n"


def _escape_markdown(text: str) -> str:
    escaped = re.sub(r"([\\`*_\[\]<>#|!~])", r"\\\1", text)
    # A line of only these makes a heading of the line above (CommonMark, setext headings).
    escaped = re.sub(r"^([ \t]*)(-+|=+)(?=[ \t]*$)", r"\1\\\2", escaped, flags=re.MULTILINE)
    return escaped.replace("\n", "  \n")
