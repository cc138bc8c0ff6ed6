"""`lingshu draft`: a model's draft of a radiology report, as Markdown, FHIR and DICOM SR;
preliminary and unverified in each.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lingshu.core.data_policy import DataPolicy
from lingshu.core.engine_options import EngineOptions
from lingshu.core.errors import InputError, suggest_name
from lingshu.core.files import atomic_folder, sha256_bytes, write_json, write_manifest
from lingshu.core.run_card import RunCard, write_run_card
from lingshu.core.types import Sampling
from lingshu.imaging.dicom.references import read_study_reference
from lingshu.imaging.dicomweb import store_report_files as store_files
from lingshu.imaging.export.report_draft import (
    ReportDraft,
    ReportLanguage,
    draft_to_json,
    draft_to_markdown,
)
from lingshu.imaging.windows import FILE_WINDOW
from lingshu.inference.answer import NOTICE, build_question_sample, egress_warnings, stream
from lingshu.inference.draft_report import (
    DRAFT_JSON,
    FILE_NAMES,
    FORMATS,
    PROMPTS,
    Format,
    build_draft,
    export_draft,
)
from lingshu.inference.engines import open_async_engine
from lingshu.inference.inputs import DEFAULT_SLICES, ModelInput, ViewOptions, load_inputs
from lingshu.inference.pacs import dicomweb_server, pull_study


def draft(
    model: str,
    *files: Path,
    out: Path,
    format_: Annotated[tuple[str, ...], Parameter(name="--format")] = ("md", "fhir"),
    patient: bool = False,
    language: ReportLanguage = "en",
    prompt: str | None = None,
    window: tuple[str, ...] = (FILE_WINDOW,),
    max_slices: int = DEFAULT_SLICES,
    series: tuple[int, ...] = (),
    dicomweb: str | None = None,
    study: str | None = None,
    auth: Path | None = None,
    store_in_pacs: bool = False,
    max_tokens: int = 1024,
    temperature: float = 0.0,
    seed: int = 0,
    threads: int | None = None,
    allow_remote: bool = False,
) -> int:
    """Draft the radiology report of a study: pictures, DICOM files or folders, NIfTI volumes.

    Parameters
    ----------
    model
        A checkpoint folder, a hub id, or http(s)://host/v1#name.
    files
        Pictures, DICOM files or folders, volumes of one study.
    out
        Folder for the draft.
    format_
        md, fhir, sr (which names its patient), or several of them with commas between.
    patient
        Name the patient and the study in the FHIR report, by their identifiers.
    language
        The language to draft in: en or zh.
    prompt
        What to ask the model in place of the usual words.
    window
        A window of CT (lung, soft, bone, brain, liver, abdomen, mediastinum), CENTER,WIDTH, or
        file. May be given several times.
    slices
        The most slices or frames of each series or volume, taken evenly.
    series
        The series of a folder to show, by number. May be given several times.
    dicomweb
        Address of a DICOMweb server to pull --study from.
    study
        The StudyInstanceUID to pull.
    auth
        A file with user:password or a bearer token for --dicomweb, in place of DICOMWEB_AUTH.
    store
        Store the SR on the --dicomweb server, beside the study.
    max_tokens
        The longest reply, in tokens.
    temperature
        0 gives the likeliest reply, the same each time.
    seed
        Decides the draw at a temperature above 0.
    threads
        CPU threads for a model in this process.
    allow_remote
        Let the images go to an endpoint on another machine.
    """
    if store_in_pacs and dicomweb is None:
        raise InputError("--store puts the SR on the server of --dicomweb URL; name it.")
    requested = [file_format.strip() for value in format_ for file_format in value.split(",")]
    if unknown := next(
        (file_format for file_format in requested if file_format not in FORMATS), None
    ):
        raise InputError(f"--format knows no {unknown!r}; {suggest_name(unknown, FORMATS)}")
    formats: list[Format] = [
        file_format
        for file_format in FORMATS
        if file_format in requested or (store_in_pacs and file_format == "sr")
    ]
    with_patient = patient or "sr" in formats
    view_options, sampling = (
        ViewOptions(window, max_slices, series or None),
        Sampling(max_tokens, temperature, seed=seed),
    )
    options = EngineOptions(
        batch_size=1, threads=threads, data_policy=DataPolicy(allow_private=allow_remote)
    )
    with pull_study(dicomweb, study, auth) as pulled_files:
        # Before a model is loaded: bad files, and a study that no report could refer to, are told
        # at once.
        model_input = load_inputs([*files, *pulled_files], view_options)
        if not model_input.images:
            raise InputError(
                "there is nothing to report on; name files, or --dicomweb URL --study UID."
            )
        reference = read_study_reference(model_input.dicom_files) if with_patient else None
    report_draft = _generate_draft(
        model, options, model_input, prompt or PROMPTS[language], sampling, language
    )
    exports: dict[Format, bytes] = {
        file_format: export_draft(
            report_draft, file_format, reference if file_format == "sr" or patient else None
        )
        for file_format in formats
    }
    config = {
        "model": report_draft.model,
        "language": language,
        "formats": formats,
        "prompt": prompt,
        "window": list(window),
        "max_slices": max_slices,
    }
    config |= {
        "series": list(series),
        "patient": patient,
        "max_tokens": max_tokens,
        "temperature": temperature,
    }
    with atomic_folder(out) as folder:
        write_json(folder / DRAFT_JSON, draft_to_json(report_draft))
        for file_format, data in exports.items():
            (folder / FILE_NAMES[file_format]).write_bytes(data)
        # The words of the command are left out of the card: paths and UIDs of a study name
        # patients.
        hashes = {
            "model": report_draft.digest,
            **{
                FILE_NAMES[file_format]: sha256_bytes(data) for file_format, data in exports.items()
            },
        }
        card = RunCard(
            "draft",
            config,
            seed,
            counts={"images": len(model_input.images)},
            hashes=hashes,
            command=("lingshu", "draft"),
        )
        write_run_card(folder, card)
        write_manifest(folder)
    print(draft_to_markdown(report_draft), end="")
    print(
        f"written: {', '.join(str(out / FILE_NAMES[file_format]) for file_format in formats)}. {NOTICE}",
        file=sys.stderr,
    )
    if store_in_pacs and dicomweb:
        store_files(dicomweb_server(dicomweb, auth), [exports["sr"]])
        print("stored: the SR, preliminary and unverified, is on the server.", file=sys.stderr)
    return 0


def _generate_draft(
    model: str,
    options: EngineOptions,
    model_input: ModelInput,
    prompt: str,
    sampling: Sampling,
    language: ReportLanguage,
) -> ReportDraft:
    sample = build_question_sample(prompt, model_input)
    with contextlib.closing(open_async_engine(model, options)) as engine:
        for line in egress_warnings(sample, engine.endpoint):
            print(f"lingshu: warning: {line}", file=sys.stderr)
        return build_draft(
            stream(engine, sample, model_input, sampling, on_text=lambda _: None), language
        )
