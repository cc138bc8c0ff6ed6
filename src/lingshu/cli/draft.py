"""`lingshu draft`: a model's unverified draft of a report as Markdown, FHIR and DICOM SR."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path

from lingshu.cli.options import (
    AbstainOptions,
    Flat,
    ModelOptions,
    SamplingOptions,
    locks_output,
    print_warnings,
)
from lingshu.core.errors import InputError, suggest_name
from lingshu.core.files import atomic_folder, sha256_bytes, write_json, write_manifest
from lingshu.core.run_card import RunCard, write_run_card
from lingshu.imaging.dicom.references import read_study_reference
from lingshu.imaging.dicomweb import store_report_files
from lingshu.imaging.export.report_draft import (
    ReportDraft,
    ReportLanguage,
    draft_to_json,
    draft_to_markdown,
)
from lingshu.inference import draft_report
from lingshu.inference.answer import NOTICE, build_question_sample, egress_warnings, stream
from lingshu.inference.engines import open_async_engine
from lingshu.inference.inputs import ViewOptions, load_inputs
from lingshu.inference.pacs import PacsOptions, dicomweb_server, pull_study


@dataclass(frozen=True, kw_only=True)
class DraftConfig:
    format: tuple[str, ...] = ("md", "fhir")
    "md, fhir, sr (which names its patient), or several of them, comma-separated."
    patient: bool = False
    "Name the patient and the study in the FHIR report, by their identifiers."
    language: ReportLanguage = "en"
    "Language of the report."
    prompt: str | None = None
    "What to ask the model, in place of the default prompt."
    store_in_pacs: bool = False
    "Store the SR on the --dicomweb server, in the study."

    @property
    def formats(self) -> list[draft_report.Format]:
        """The requested formats, and SR where it is stored.

        Raises:
            InputError: a format that does not exist.
        """
        requested = {name.strip() for names in self.format for name in names.split(",")}
        for unknown in sorted(requested.difference(draft_report.FORMATS)):
            raise InputError(
                f"--format has no {unknown!r}; {suggest_name(unknown, draft_report.FORMATS)}"
            )
        if self.store_in_pacs:
            requested.add("sr")
        return [name for name in draft_report.FORMATS if name in requested]


@dataclass(frozen=True, kw_only=True)
class DraftSampling(SamplingOptions):
    max_tokens: int = 1024


@locks_output
def draft(
    model: str,
    *files: Path,
    out: Path,
    config: Flat[DraftConfig] = DraftConfig(),
    view: Flat[ViewOptions] = ViewOptions(),
    pacs: Flat[PacsOptions] = PacsOptions(),
    sampling: Flat[DraftSampling] = DraftSampling(),
    abstain: Flat[AbstainOptions] = AbstainOptions(),
    model_options: Flat[ModelOptions] = ModelOptions(),
) -> int:
    """Draft the radiology report of a study: images, DICOM files or folders, NIfTI volumes.

    Args:
        model: Checkpoint folder, hub id, or http(s)://host/v1#name.
        files: Images, DICOM files or folders, volumes of one study.
        out: Folder for the draft.
    """
    if config.store_in_pacs and pacs.dicomweb is None:
        raise InputError("--store-in-pacs stores the SR on the server of --dicomweb URL; name it.")
    formats = config.formats
    prompt = config.prompt or draft_report.PROMPTS[config.language]
    threshold = abstain.read()
    options = model_options.engine_options(batch_size=1, top_log_probs=abstain.top_log_probs)
    with pull_study(pacs) as pulled_files:
        # Before a model is loaded, so that a bad file, or a study that a report cannot refer to, is
        # reported at once.
        model_input = load_inputs([*files, *pulled_files], view)
        if not model_input.images:
            raise InputError("there is no image; name files, or --dicomweb URL --study UID.")
        needs_reference = config.patient or "sr" in formats
        reference = read_study_reference(model_input.dicom_files) if needs_reference else None
    sample = build_question_sample(prompt, model_input)
    with contextlib.closing(open_async_engine(model, options)) as engine:
        print_warnings(egress_warnings(sample, engine.endpoint))
        answer = stream(
            engine,
            sample,
            model_input,
            sampling.sampling(),
            on_text=lambda _: None,
            threshold=threshold,
        )
    report = draft_report.build_draft(answer, config.language)
    exports = {
        draft_report.FILE_NAMES[name]: draft_report.export_draft(
            report, name, reference if name == "sr" or config.patient else None
        )
        for name in formats
    }
    card = _run_card(report, exports, config, view, sampling, n_images=len(model_input.images))
    with atomic_folder(out) as folder:
        write_json(folder / draft_report.DRAFT_JSON, draft_to_json(report))
        for name, data in exports.items():
            (folder / name).write_bytes(data)
        write_run_card(folder, card)
        write_manifest(folder)
    print(draft_to_markdown(report), end="")
    print(f"written: {', '.join(str(out / name) for name in exports)}. {NOTICE}", file=sys.stderr)
    if config.store_in_pacs:
        store_report_files(dicomweb_server(pacs), [exports[draft_report.FILE_NAMES["sr"]]])
        print("stored: the SR, preliminary and unverified, is on the server.", file=sys.stderr)
    return 0


def _run_card(
    report: ReportDraft,
    exports: dict[str, bytes],
    config: DraftConfig,
    view: ViewOptions,
    sampling: SamplingOptions,
    *,
    n_images: int,
) -> RunCard:
    settings = {
        "model": report.model,
        "language": config.language,
        "formats": config.formats,
        "prompt": config.prompt,
        "patient": config.patient,
        "window": list(view.window),
        "max_slices": view.max_slices,
        "series": list(view.series),
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
    }
    hashes = {"model": report.digest}
    hashes |= {name: sha256_bytes(data) for name, data in exports.items()}
    # Without the arguments of the command: paths and UIDs of a study name patients.
    counts, command = {"images": n_images}, ("lingshu", "draft")
    return RunCard("draft", settings, sampling.seed, counts, hashes, command=command)
