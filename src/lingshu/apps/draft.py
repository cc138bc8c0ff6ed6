"""`lingshu draft`: a model's draft of a radiology report, as Markdown, FHIR and DICOM SR;
preliminary and unverified in each.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lingshu.apps._answering import NOTICE, concerns, question_sample, stream
from lingshu.apps._drafting import DRAFT, FILES, FORMATS, PROMPTS, Format, draft_of, export
from lingshu.apps._looking import SLICES, Looked, View, look
from lingshu.apps._pacs import pulled, server_for
from lingshu.apps.models import live_for
from lingshu.core.errors import InputError, nearest
from lingshu.core.files import atomic_folder, sha256_bytes, write_json, write_manifest
from lingshu.core.nouns import Sampling
from lingshu.core.options import EngineOptions
from lingshu.core.release import Release
from lingshu.core.runcard import RunCard, write_run_card
from lingshu.imaging.dicomweb import store as store_files
from lingshu.imaging.draft import Draft, Language, draft_to_json, markdown
from lingshu.imaging.reference import study_reference
from lingshu.imaging.windows import OWN


def draft(
    model: str,
    *files: Path,
    out: Path,
    format_: Annotated[tuple[str, ...], Parameter(name="--format")] = ("md", "fhir"),
    patient: bool = False,
    language: Language = "en",
    prompt: str | None = None,
    window: tuple[str, ...] = (OWN,),
    slices: int = SLICES,
    series: tuple[int, ...] = (),
    dicomweb: str | None = None,
    study: str | None = None,
    auth: Path | None = None,
    store: bool = False,
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
    if store and dicomweb is None:
        raise InputError("--store puts the SR on the server of --dicomweb URL; name it.")
    asked = [form.strip() for given in format_ for form in given.split(",")]
    if unknown := next((form for form in asked if form not in FORMATS), None):
        raise InputError(f"--format knows no {unknown!r}; {nearest(unknown, FORMATS)}")
    forms: list[Format] = [form for form in FORMATS if form in asked or (store and form == "sr")]
    named = patient or "sr" in forms
    view, sampling = (
        View(window, slices, series or None),
        Sampling(max_tokens, temperature, seed=seed),
    )
    options = EngineOptions(batch_size=1, threads=threads, release=Release(private=allow_remote))
    with pulled(dicomweb, study, auth) as pulled_files:
        # Before a model is loaded: bad files, and a study that no report could refer to, are told
        # at once.
        looked = look([*files, *pulled_files], view)
        if not looked.images:
            raise InputError(
                "there is nothing to report on; name files, or --dicomweb URL --study UID."
            )
        reference = study_reference(looked.files) if named else None
    made = _drafted(model, options, looked, prompt or PROMPTS[language], sampling, language)
    exported: dict[Format, bytes] = {
        form: export(made, form, reference if form == "sr" or patient else None) for form in forms
    }
    config = {
        "model": made.model,
        "language": language,
        "formats": forms,
        "prompt": prompt,
        "window": list(window),
        "slices": slices,
    }
    config |= {
        "series": list(series),
        "patient": patient,
        "max_tokens": max_tokens,
        "temperature": temperature,
    }
    with atomic_folder(out) as folder:
        write_json(folder / DRAFT, draft_to_json(made))
        for form, data in exported.items():
            (folder / FILES[form]).write_bytes(data)
        # The words of the command are left out of the card: paths and UIDs of a study name
        # patients.
        hashes = {
            "model": made.digest,
            **{FILES[form]: sha256_bytes(data) for form, data in exported.items()},
        }
        card = RunCard(
            "draft",
            config,
            seed,
            counts={"images": len(looked.images)},
            hashes=hashes,
            command=("lingshu", "draft"),
        )
        write_run_card(folder, card)
        write_manifest(folder)
    print(markdown(made), end="")
    print(
        f"written: {', '.join(str(out / FILES[form]) for form in forms)}. {NOTICE}", file=sys.stderr
    )
    if store and dicomweb:
        store_files(server_for(dicomweb, auth), [exported["sr"]])
        print("stored: the SR, preliminary and unverified, is on the server.", file=sys.stderr)
    return 0


def _drafted(
    model: str,
    options: EngineOptions,
    looked: Looked,
    prompt: str,
    sampling: Sampling,
    language: Language,
) -> Draft:
    asking = question_sample(prompt, looked)
    with contextlib.closing(live_for(model, options)) as live:
        for line in concerns(asking, live.endpoint):
            print(f"lingshu: warning: {line}", file=sys.stderr)
        return draft_of(stream(live, asking, looked, sampling, said=lambda _: None), language)
