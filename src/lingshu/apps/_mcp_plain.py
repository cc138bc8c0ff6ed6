"""The tools that ask no model: describe_dicom, list_studies and score_report.

Annotations are read by the SDK while a tool is made, so they are no strings here.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from lingshu.apps._mcp_asking import MAX_WORDS, OneImage, reading
from lingshu.apps._mcp_images import STUDY, Shown
from lingshu.apps._mcp_model import Served
from lingshu.apps._mcp_results import (
    Described,
    Language,
    ListedStudy,
    Measure,
    Scored,
    SeriesFacts,
    Studies,
)
from lingshu.core.nouns import Message, Meta, Sample
from lingshu.imaging.study import Named, Series, Study, read_study

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

Report = Annotated[str, Field(min_length=1, max_length=MAX_WORDS, pattern=r"\S")]
# Read in full by list_studies; of the rest their number is told.
MAX_STUDIES = 500


def add_plain(server: "MCPServer", model: Served, shown: Shown) -> None:
    @server.tool(title="Describe DICOM", annotations=reading(), structured_output=True)
    async def describe_dicom(image: OneImage) -> Described:
        """The safe facts of a DICOM file, folder or study: modality, body part, size, series.

        No names, ids, dates or free text.
        """
        return await model.elsewhere(lambda: described(shown.study(image)))

    @server.tool(title="List studies", annotations=reading(), structured_output=True)
    async def list_studies() -> Studies:
        """The studies below the server's folder, each by an address made for this server alone; no
        names, dates or paths.
        """
        return await model.elsewhere(lambda: studies(shown))

    @server.tool(title="Score a report", annotations=reading(), structured_output=True)
    async def score_report(
        report: Report,
        reference: Report,
        language: Language = "en",
        modality: Literal["x-ray", "other"] = "other",
    ) -> Scored:
        """Measure a report against a reference: BLEU, ROUGE, CIDEr, and findings in English reports
        of chest X-rays. No model is asked.
        """
        return await model.elsewhere(lambda: scored(report, reference, language, modality))


def described(study: Study) -> Described:
    """A study's facts, series by series."""
    files = sum(len(series.parts) for series in study.series) + sum(study.left_out.values())
    series = [_series(one) for one in study.series]
    return Described(
        files=files,
        patients=len(study.patients),
        studies=len(study.studies),
        series=series,
        left_out=dict(sorted(study.left_out.items())),
    )


def _series(series: Series) -> SeriesFacts:
    facts = series.parts[0].facts
    words = {
        name: getattr(facts, name)
        for name in (
            "modality",
            "body_part",
            "view",
            "laterality",
            "photometric",
            "sop_class",
            "transfer_syntax",
        )
    }
    numbers = {name: getattr(facts, name) for name in ("rows", "columns", "bits", "thickness")}
    risks = {part.facts.burned_in_risk for part in series.parts}
    return SeriesFacts(
        number=series.number,
        images=series.images,
        localizer=series.localizer,
        spacing=list(facts.spacing) if facts.spacing else None,
        burned_in_risk="stated" if "stated" in risks else "likely" if "likely" in risks else "low",
        **words,
        **numbers,
    )


def studies(shown: Shown) -> Studies:
    """The studies below the allowed folder, at most 500 of them.

    Raises:
        InputError: there is no such folder.
    """
    index = shown.index()
    listed: list[ListedStudy] = []
    for name, files in list(index.studies.items())[:MAX_STUDIES]:
        found = read_study(
            [Named(file, "a file of the study") for file in files], key=shown.key, strict=False
        )
        listed.append(
            ListedStudy(
                uri=STUDY + name,
                modalities=sorted({one.modality for one in found.series if one.modality}),
                body_parts=sorted(
                    {part for one in found.series if (part := one.parts[0].facts.body_part)}
                ),
                series=len(found.series),
                files=len(files),
            )
        )
    left = len(index.studies) - len(listed)
    notes = [f"{left} more studies are not listed."] if left else []
    return Studies(
        studies=listed,
        other_files=index.other_files,
        complete=index.complete and not left,
        notes=notes,
    )


def scored(report: str, reference: str, language: Language, modality: str) -> Scored:
    """What `lingshu score --scorer report` says of one report, without the metrics that need a
    model.
    """
    from lingshu.scoring.report import measure

    # The question's words are not looked at; the rules for findings are for chest X-rays alone.
    meta = Meta(
        access="private", language=language, modality="X-ray" if modality == "x-ray" else "unknown"
    )
    sample = Sample("report", (Message("user", ("report",)),), gold=(reference,), meta=meta)
    found = measure([sample], [report])
    return Scored(
        measures=[Measure(name=one.name, value=one.value, note=one.note) for one in found]
    )
