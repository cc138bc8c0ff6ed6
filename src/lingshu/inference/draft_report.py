"""A draft of a radiology report from a model's reply: its sections, and the files it is exported to."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

from lingshu.core.errors import EngineError, InputError
from lingshu.core.prompts import REPORT
from lingshu.core.report_sections import split_sections
from lingshu.imaging.dicom.references import StudyReference
from lingshu.imaging.export.fhir import draft_to_fhir
from lingshu.imaging.export.report_draft import ReportDraft, ReportLanguage, draft_to_markdown
from lingshu.imaging.export.sr import draft_to_sr
from lingshu.inference.answer import Answer

Format = Literal["md", "fhir", "sr"]
FORMATS: tuple[Format, ...] = ("md", "fhir", "sr")
FILE_NAMES: Mapping[Format, str] = {
    "md": "report.md",
    "fhir": "report.fhir.json",
    "sr": "report.dcm",
}
DRAFT_JSON = "draft.json"
PROMPTS: Mapping[ReportLanguage, str] = {
    # The prompt that models of this family were trained with.
    "en": REPORT,
    "zh": (
        "请根据给出的图像撰写影像报告，包括影像所见和诊断意见。请按以下格式回答：影像所见：{}"
        " 诊断意见：{}。"
    ),
}
_CHINESE_HEADINGS = {
    "FINDINGS": "影像学所见|影像学表现|影像所见|影像表现|检查所见|超声所见|所见",
    "IMPRESSION": "影像学诊断|影像诊断|诊断意见|诊断印象|检查结论|诊断结论|印象|结论|诊断",
}
# Words that only mark a section, or an empty one.
_SECTION_WORDS = {
    *("findings", "finding", "and", "impression", "impressions", "conclusion", "conclusions"),
    *("none", "nan", "null"),
}
# To its end, or to that of a truncated reply.
_REASONING = re.compile(r"\A.*</think>|\A\s*<think>.*", re.DOTALL)
_HEADING = re.compile(r"^[ \t]*#{1,6}[ \t]*([^\n:：]{2,40}?)[ \t]*[:：]?[ \t]*$", re.MULTILINE)


def parse_report(text: str) -> tuple[str, str]:
    """Findings and impression of a model's reply; a reply without headings is all findings.

    Headings are in English or Chinese, of Markdown or plain; reasoning is left out.
    """
    normalized = _normalize_headings(text)
    findings, impression = split_sections(normalized)
    return (findings, impression) if findings or impression else (normalized.strip(), "")


def count_omitted_words(text: str, report: tuple[str, str]) -> int:
    """The number of words of a reply before the first heading or under other headings."""
    words, report_words = (
        Counter(re.findall(r"\w+", part.lower()))
        for part in (_normalize_headings(text), " ".join(report))
    )
    omitted = (words - report_words).items()
    return sum(count for word, count in omitted if word not in _SECTION_WORDS)


def _normalize_headings(text: str) -> str:
    """A reply without reasoning, with headings for `split_sections`."""
    normalized = _HEADING.sub(r"\1:", _REASONING.sub("", text)).replace("**", "").replace("__", "")
    # The prompt has the format "Findings: {}", and some models fill the braces.
    normalized, n_braces = re.subn(r"([:：])[ \t]*\{", r"\1 ", normalized)
    if n_braces:
        normalized = re.sub(r"\}([.。])", r"\1}", normalized).replace("}", "\n")
    for heading, names in _CHINESE_HEADINGS.items():
        # At the start of a line or after a full stop, and before a colon: the words are common in
        # sentences.
        normalized = re.sub(
            rf"(?:^|(?<=[\n。；;}}])|(?<=。 ))[ \t]*[{{【]?(?:{names})[】]?[ \t]*[:：]",
            f"\n{heading}:",
            normalized,
        )
    return normalized


def build_draft(answer: Answer, language: ReportLanguage) -> ReportDraft:
    """An answer to one of `PROMPTS` as a draft.

    Raises:
        EngineError: the reply is empty, or the model abstained.
    """
    if answer.abstained:
        raise EngineError(answer.text)
    findings, impression = parse_report(answer.text)
    if not findings and not impression:
        raise EngineError(
            f"{answer.model} wrote no report: its reply is empty, or was truncated in its reasoning."
        )
    notes = []
    if answer.finish == "length":
        notes.append("the model's reply was truncated: the draft may be incomplete.")
    if n_omitted := count_omitted_words(answer.text, (findings, impression)):
        notes.append(
            "words of the model's reply that are left out, under other headings or before the"
            f" first: {n_omitted}."
        )
    return ReportDraft(
        findings,
        impression,
        language,
        answer.model,
        answer.digest,
        answer.notice,
        datetime.now(UTC),
        answer.image_provenance,
        (*answer.notes, *notes),
    )


def export_draft(
    draft: ReportDraft, file_format: Format, reference: StudyReference | None
) -> bytes:
    """A draft as a file. `reference` names the patient and the study; only an SR needs it.

    Raises:
        InputError: an SR without a reference.
    """
    if file_format == "md":
        return draft_to_markdown(draft).encode()
    if file_format == "fhir":
        text = json.dumps(draft_to_fhir(draft, reference), indent=2, ensure_ascii=False)
        return f"{text}\n".encode()
    if reference is None:
        raise InputError("an SR names its patient and its study; give the DICOM files of a study.")
    return draft_to_sr(draft, reference)
