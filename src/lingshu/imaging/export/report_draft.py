"""A report as a model drafted it, with all that must go with it, and its forms as plain JSON and
Markdown.

A draft is never a report: every form says that a machine wrote it and nobody has verified it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from lingshu.core.errors import InputError
from lingshu.imaging.provenance import ImageProvenance, format_provenance, provenance_to_json

ReportLanguage = Literal["en", "zh"]
# What no text of XML, FHIR or DICOM may hold.
_CONTROL_CHARS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")

LABELS: Mapping[ReportLanguage, Mapping[str, str]] = {
    "en": {
        "title": "Draft report",
        "findings": "Findings",
        "impression": "Impression",
        "unverified": "Draft written by a machine; preliminary, not verified by a person.",
        "edited": "Edited by a person; preliminary, not verified.",
        "model": "Model",
        "saw": "The model saw",
        "none": "(none)",
    },
    "zh": {
        "title": "报告草稿",
        "findings": "影像所见",
        "impression": "诊断意见",
        "unverified": "本草稿由机器生成，为初步内容，未经人员核实。",
        "edited": "本草稿经人员修改，仍为初步内容，未经核实。",
        "model": "模型",
        "saw": "模型所见图像",
        "none": "（无）",
    },
}


@dataclass(frozen=True)
class ReportDraft:
    """Findings and impression, who wrote them, and what was seen. `created` has a time zone;
    `edited` says a person changed the text.

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
            object.__setattr__(
                self,
                name,
                _CONTROL_CHARS.sub("", getattr(self, name).replace("\r\n", "\n")).strip(),
            )
        if not self.notice:
            raise InputError(
                "a draft carries the notice that it is not for clinical use; give its words."
            )
        if not self.findings and not self.impression:
            raise InputError(
                "the draft has neither findings nor an impression; ask the model again, or write"
                " one of them."
            )
        if self.created.tzinfo is None:
            raise InputError("the time of a draft needs its time zone; use datetime.now(UTC).")

    @property
    def sections(self) -> dict[str, str]:
        """The sections that say something, under their headings in the draft's language."""
        labels = LABELS[self.language]
        return {
            labels[name]: text
            for name in ("findings", "impression")
            if (text := getattr(self, name))
        }

    @property
    def provenance(self) -> list[str]:
        """The lines that stand below the text wherever it goes: not verified, the notice, the
        model, what it saw.
        """
        labels = LABELS[self.language]
        model_line = f"{labels['model']}: {self.model} (sha256 {self.digest[:16]})"
        image_lines = [
            f"{labels['saw']}: {line}" for line in format_provenance(self.image_provenance)
        ]
        return [
            labels["edited" if self.edited else "unverified"],
            self.notice,
            model_line,
            *image_lines,
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
    """A draft as Markdown; what a model wrote cannot become a link, an image or a heading in it."""
    labels = LABELS[draft.language]
    lines = [
        f"# {labels['title']}",
        "",
        f"**{draft.provenance[0]}** {_escape_markdown(draft.notice)}",
        "",
    ]
    for heading, text in draft.sections.items():
        lines += [f"## {heading}", "", _escape_markdown(text), ""]
    lines += ["---", ""] + [f"- {_escape_markdown(line)}" for line in draft.provenance[2:]]
    return "\n".join(lines) + "\n"


def _escape_markdown(text: str) -> str:
    escaped = re.sub(r"([\\`*_\[\]<>#|!~])", r"\\\1", text)
    # A line of nothing but these makes a heading of what stands above it (CommonMark, setext
    # headings).
    escaped = re.sub(r"^([ \t]*)(-+|=+)(?=[ \t]*$)", r"\1\\\2", escaped, flags=re.MULTILINE)
    # Lists and numbers at the start of a line stay what they are in a report.
    return escaped.replace("\n", "  \n")
