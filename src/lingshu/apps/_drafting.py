"""A radiology report asked of a model and taken apart into findings and impression, and the files
it is written to.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

from lingshu.apps._answering import Answer
from lingshu.core.errors import EngineError, InputError
from lingshu.imaging.draft import Draft, Language, markdown
from lingshu.imaging.fhir import diagnostic_report
from lingshu.imaging.reference import StudyReference
from lingshu.imaging.sr import basic_text_sr
from lingshu.sources._sections import sections
from lingshu.tasks._prompts import REPORT

Format = Literal["md", "fhir", "sr"]
FORMATS: tuple[Format, ...] = ("md", "fhir", "sr")
FILES: Mapping[Format, str] = {"md": "report.md", "fhir": "report.fhir.json", "sr": "report.dcm"}
DRAFT = "draft.json"
PROMPTS: Mapping[Language, str] = {
    # The words that models of this kind were trained with.
    "en": REPORT,
    "zh": (
        "请根据给出的图像撰写影像报告，包括影像所见和诊断意见。请按以下格式回答：影像所见：{}"
        " 诊断意见：{}。"
    ),
}
_CHINESE = {
    "FINDINGS": "影像学所见|影像学表现|影像所见|影像表现|检查所见|超声所见|所见",
    "IMPRESSION": "影像学诊断|影像诊断|诊断意见|诊断印象|检查结论|诊断结论|印象|结论|诊断",
}
# Words that only mark a section, or that it is empty.
_MARKS = frozenset(
    (
        "findings",
        "finding",
        "and",
        "impression",
        "impressions",
        "conclusion",
        "conclusions",
        "none",
        "nan",
        "null",
    )
)
# To its end, also where that never came because the reply was cut.
_THOUGHT = re.compile(r"\A.*</think>|\A\s*<think>.*", re.DOTALL)
_HEADING = re.compile(r"^[ \t]*#{1,6}[ \t]*([^\n:：]{2,40}?)[ \t]*[:：]?[ \t]*$", re.MULTILINE)


def read_report(text: str) -> tuple[str, str]:
    """Findings and impression of a model's reply; a reply without headings is all findings.

    Headings in English or Chinese, of Markdown or plain; what a reasoning model thought aloud is
    left out.
    """
    plain = _plain(text)
    found = sections(plain)
    return (found.findings, found.impression) if any(found) else (plain.strip(), "")


def left_out(text: str, report: tuple[str, str]) -> int:
    """How many words of a reply stand in neither section: before the first heading, or under
    others.
    """
    words, kept = (
        Counter(re.findall(r"\w+", one.lower())) for one in (_plain(text), " ".join(report))
    )
    return sum(count for word, count in (words - kept).items() if word not in _MARKS)


def _plain(text: str) -> str:
    """A reply without what was thought aloud, its headings as `sections` knows them."""
    plain = _HEADING.sub(r"\1:", _THOUGHT.sub("", text)).replace("**", "").replace("__", "")
    # The format was shown to the model as "Findings: {}", and some fill the braces.
    plain, filled = re.subn(r"([:：])[ \t]*\{", r"\1 ", plain)
    if filled:
        plain = re.sub(r"\}([.。])", r"\1}", plain).replace("}", "\n")
    for heading, words in _CHINESE.items():
        # At the start of a line or after a full stop, and before a colon: the words are common
        # within sentences.
        plain = re.sub(
            rf"(?:^|(?<=[\n。；;}}])|(?<=。 ))[ \t]*[{{【]?(?:{words})[】]?[ \t]*[:：]",
            f"\n{heading}:",
            plain,
        )
    return plain


def draft_of(found: Answer, language: Language) -> Draft:
    """An answer to one of `PROMPTS` as a draft.

    Raises:
        EngineError: the model said nothing.
    """
    findings, impression = read_report(found.text)
    if not findings and not impression:
        raise EngineError(
            f"{found.model} wrote no report: its reply is empty, or was cut while it thought aloud."
        )
    notes = (
        ["the model's reply was cut: the draft may be incomplete."]
        if found.finish == "length"
        else []
    )
    if left := left_out(found.text, (findings, impression)):
        notes.append(
            "words of the model's reply that are left out, under other headings or before the"
            f" first: {left}."
        )
    return Draft(
        findings,
        impression,
        language,
        found.model,
        found.digest,
        found.notice,
        datetime.now(UTC),
        found.seen,
        (*found.notes, *notes),
    )


def export(draft: Draft, form: Format, reference: StudyReference | None) -> bytes:
    """A draft as a file. `reference` names the patient and the study: an SR needs it, a FHIR report
    may do without.

    Raises:
        InputError: an SR without a reference.
    """
    if form == "md":
        return markdown(draft).encode()
    if form == "fhir":
        return (
            json.dumps(diagnostic_report(draft, reference), indent=2, ensure_ascii=False) + "\n"
        ).encode()
    if reference is None:
        raise InputError("an SR names its patient and its study; give the DICOM files of a study.")
    return basic_text_sr(draft, reference)
