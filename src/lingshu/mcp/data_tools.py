"""The tools that ask no model: describe_dicom, list_studies and score_report.

Annotations are read by the SDK while a tool is made, so they are no strings here.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from lingshu.core.types import Message, Meta, Sample
from lingshu.imaging.dicom.study import DicomSeries, NamedSource, Study, read_study
from lingshu.mcp.images import STUDY_URI_PREFIX, MediaResolver
from lingshu.mcp.model import ModelHandle
from lingshu.mcp.results import (
    DicomDescription,
    Language,
    ReportAgreement,
    ReportMetric,
    SeriesMetadata,
    StudyList,
    StudySummary,
)
from lingshu.mcp.tools import MAX_TEXT_CHARS, ImageArgument, read_only_annotations

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

ReportText = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_CHARS, pattern=r"\S")]
# Read in full by list_studies; of the rest their number is told.
MAX_STUDIES = 500


def add_local_tools(server: "MCPServer", model: ModelHandle, media: MediaResolver) -> None:
    @server.tool(
        title="Describe DICOM", annotations=read_only_annotations(), structured_output=True
    )
    async def describe_dicom(image: ImageArgument) -> DicomDescription:
        """The safe facts of a DICOM file, folder or study: modality, body part, size, series.

        No names, ids, dates or free text.
        """
        return await model.run_in_thread(lambda: describe_study(media.load_study(image)))

    @server.tool(title="List studies", annotations=read_only_annotations(), structured_output=True)
    async def list_studies() -> StudyList:
        """The studies below the server's folder, each by an address made for this server alone; no
        names, dates or paths.
        """
        return await model.run_in_thread(lambda: build_study_list(media))

    @server.tool(
        title="Score a report", annotations=read_only_annotations(), structured_output=True
    )
    async def score_report(
        report: ReportText,
        reference: ReportText,
        language: Language = "en",
        modality: Literal["x-ray", "other"] = "other",
    ) -> ReportAgreement:
        """Measure a report against a reference: BLEU, ROUGE, CIDEr, and findings in English reports
        of chest X-rays. No model is asked.
        """
        return await model.run_in_thread(
            lambda: compute_report_metrics(report, reference, language, modality)
        )


def describe_study(study: Study) -> DicomDescription:
    """A study's facts, series by series."""
    files = sum(len(series.files) for series in study.series) + sum(study.left_out.values())
    series = [_series_metadata(entry) for entry in study.series]
    return DicomDescription(
        files=files,
        patients=len(study.patients),
        studies=len(study.studies),
        series=series,
        left_out=dict(sorted(study.left_out.items())),
    )


def _series_metadata(series: DicomSeries) -> SeriesMetadata:
    metadata = series.files[0].metadata
    text_fields = {
        name: getattr(metadata, name)
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
    numeric_fields = {
        name: getattr(metadata, name) for name in ("rows", "columns", "bits", "thickness")
    }
    risks = {file.metadata.burned_in_risk for file in series.files}
    return SeriesMetadata(
        number=series.number,
        images=series.n_images,
        is_localizer=series.is_localizer,
        spacing=list(metadata.spacing) if metadata.spacing else None,
        burned_in_risk="stated" if "stated" in risks else "likely" if "likely" in risks else "low",
        **text_fields,
        **numeric_fields,
    )


def build_study_list(media: MediaResolver) -> StudyList:
    """The studies below the allowed folder, at most 500 of them.

    Raises:
        InputError: there is no such folder.
    """
    index = media.build_index()
    entries: list[StudySummary] = []
    for study_id, files in list(index.studies.items())[:MAX_STUDIES]:
        study = read_study(
            [NamedSource(file, "a file of the study") for file in files],
            key=media.key,
            strict=False,
        )
        entries.append(
            StudySummary(
                uri=STUDY_URI_PREFIX + study_id,
                modalities=sorted({series.modality for series in study.series if series.modality}),
                body_parts=sorted(
                    {
                        body_part
                        for series in study.series
                        if (body_part := series.files[0].metadata.body_part)
                    }
                ),
                series=len(study.series),
                files=len(files),
            )
        )
    n_omitted = len(index.studies) - len(entries)
    notes = [f"{n_omitted} more studies are not listed."] if n_omitted else []
    return StudyList(
        studies=entries,
        n_other_files=index.n_other_files,
        is_complete=index.is_complete and not n_omitted,
        notes=notes,
    )


def compute_report_metrics(
    report: str, reference: str, language: Language, modality: str
) -> ReportAgreement:
    """What `lingshu score --scorer report` says of one report, without the metrics that need a
    model.
    """
    from lingshu.scoring.report import compute_metrics

    # The question's words are not looked at; the rules for findings are for chest X-rays alone.
    meta = Meta(
        access="private", language=language, modality="X-ray" if modality == "x-ray" else "unknown"
    )
    sample = Sample("report", (Message("user", ("report",)),), gold=(reference,), meta=meta)
    metrics = compute_metrics([sample], [report])
    return ReportAgreement(
        metrics=[
            ReportMetric(name=metric.name, value=metric.value, note=metric.note)
            for metric in metrics
        ]
    )
