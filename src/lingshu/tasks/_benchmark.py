"""What published benchmarks have in common: where their rows lie, how a row becomes a sample, and
what is said of all of them.

A benchmark's file states its facts and gives one pure function, `row(raw) -> question row`, from
the columns of its publisher to the keys of core/rows.py. Besides those a question row may hold
    images     names of image files, where they do not lie in the row's own shard
    context    a text that stands above the question
    several    True where all right options are asked for; gold then names their letters, such as "ABD"
    same_image True where the image itself is the group
A row that cannot be used raises BadRow with a reason that is counted; one whose values have another
form is a bad_row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lingshu.core import prompts
from lingshu.core.errors import ArtifactError, ImageError, InputError
from lingshu.core.files import MANIFEST, check_manifest, sha256_file
from lingshu.core.rows import LETTERS, RowError, read_choices, sample_from_row, with_choices
from lingshu.core.run_card import RUN_CARD
from lingshu.core.types import Access, Drop, Image, Metric, Sample, Scorer, Task
from lingshu.imaging.read import ShardReader, image_bytes
from lingshu.scoring import auto, yes_no
from lingshu.sources import hub, jsonl
from lingshu.sources.hub import HubRepo

RowConverter = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class SampleDefaults:
    """What holds for every sample of a benchmark."""

    name: str
    source: str
    license: str
    language: str | None = "en"
    access: Access = "open"
    agreement: str | None = None
    deidentified: bool | None = True


Reader = Callable[[SampleDefaults, HubRepo, hub.DownloadedRepo], Iterable[Sample | Drop]]


def benchmark(
    name: str,
    *,
    title: str,
    repo: HubRepo,
    license: str,
    synthetic: Callable[[int], Sequence[Sample]],
    convert_row: RowConverter | None = None,
    reader: Reader | None = None,
    score: Scorer = auto.score,
    language: str | None = "en",
    access: Access = "open",
    agreement: str | None = None,
    expected_n: int | None = None,
    variants: tuple[tuple[int, str], ...] = (),
    unverified_fields: tuple[str, ...] = (),
    facets: tuple[str, ...] = (),
    max_tokens: int = 256,
    published: tuple[str, str] | None = None,
    metrics: tuple[Metric, ...] = (),
) -> Task:
    """A task that reads DIR/<name>/rows.jsonl, its publisher's files in DIR/<name>, or else the
    hub.

    The publisher's files in a folder count as private; `lingshu build` is the user's word that they
    are the published ones. `row` reads one published row; a benchmark whose answers or images stand
    in further files gives a `reader` of them all.
    """
    defaults = SampleDefaults(
        name=name,
        source=repo.address,
        license=license,
        language=language,
        access=access,
        agreement=agreement,
    )
    read_published = reader or partial(read_samples, convert_row=convert_row or dict)
    return Task(
        name=name,
        title=title,
        source=repo.address,
        license=license,
        samples=partial(_samples, defaults, repo, read_published),
        score=score,
        synthetic=synthetic,
        access=access,
        revision=repo.revision,
        expected_n=expected_n,
        facets=facets,
        max_tokens=max_tokens,
        prompt=prompts.build_prompt,
        agreement=agreement,
        published=published,
        unverified_fields=unverified_fields,
        variants=variants,
        read_original=partial(_read_folder, defaults, repo, read_published),
        resolve_revision=partial(_resolve, name, repo),
        metrics=metrics,
    )


def _samples(
    defaults: SampleDefaults, repo: HubRepo, reader: Reader, data: Path | None
) -> Iterable[Sample | Drop]:
    if data is None:
        return reader(defaults, repo, hub.download(repo))
    folder = data / defaults.name
    _check_built_folder(folder)
    if (folder / jsonl.ROWS_FILE).is_file():
        return (
            item if isinstance(item, Drop) else with_defaults(defaults, item)
            for item in jsonl.read(folder)
        )
    if folder.is_dir():
        return _read_folder(_custom_defaults(defaults), repo, reader, folder)
    raise InputError(
        f"{data} has no folder {defaults.name}; make it with `lingshu build {defaults.name} SOURCE --out"
        f" {data}` from {repo.address}."
    )


def _check_built_folder(folder: Path) -> None:
    """Refuse a folder of `lingshu build` whose files are not those that it wrote; other folders
    pass.

    Raises:
        ArtefactError: a file is missing or changed, or its manifest leaves out the rows.
    """
    is_built = (folder / jsonl.ROWS_FILE).is_file() or (folder / RUN_CARD).is_file()
    # Publishers have files called manifest.json too: without rows or a run card beside it, it is
    # one of theirs.
    manifest = check_manifest(folder) if is_built else None
    if manifest is not None and jsonl.ROWS_FILE not in manifest:
        raise ArtifactError(
            f"{folder / MANIFEST} does not list {jsonl.ROWS_FILE}; build the folder anew."
        )


def _custom_defaults(defaults: SampleDefaults) -> SampleDefaults:
    """What holds for files in a user's folder: nobody verified that they are the published ones, so
    they may be private.
    """
    return replace(
        defaults,
        access="private" if defaults.access == "open" else defaults.access,
        deidentified=None,
    )


def _read_folder(
    defaults: SampleDefaults, repo: HubRepo, reader: Reader, folder: Path
) -> Iterable[Sample | Drop]:
    local_repo = hub.find_local(repo, folder)
    if local_repo is None:
        raise InputError(
            f"{folder} holds none of {', '.join(repo.files)}; unpack archives, or get the files"
            f" from {repo.address}."
        )
    return reader(defaults, repo, local_repo)


def _resolve(name: str, repo: HubRepo, data: Path | None) -> str | None:
    """The commit of the hub, or the digest of the local rows; None for publisher's files in a
    folder.
    """
    if data is None:
        return hub.revision(repo)
    rows = data / name / jsonl.ROWS_FILE
    return f"sha256:{sha256_file(rows)}" if rows.is_file() else None


def read_samples(
    defaults: SampleDefaults,
    repo: HubRepo,
    local_repo: hub.DownloadedRepo,
    *,
    convert_row: RowConverter,
) -> Iterator[Sample | Drop]:
    """The samples of a repository's rows, in order; each row that gives none is a Drop with its
    reason.
    """
    seen_ids: set[str] = set()
    with ShardReader() as shards:
        for index, raw in enumerate(hub.rows(repo, local_repo)):
            values = {**raw.values, "_file": raw.file, "_number": raw.row_index}
            yield unique(
                seen_ids,
                build_sample(defaults, convert_row, values, index, raw.images, local_repo, shards),
            )


def auxiliary_file(
    defaults: SampleDefaults, repo: HubRepo, local_repo: hub.DownloadedRepo, name: str
) -> Path:
    """The file that is needed beside the rows.

    Raises:
        InputError: it is not there.
    """
    matches = local_repo.files((name, f"**/{name}"))
    if not matches:
        raise InputError(
            f"{defaults.name} needs {name} beside its rows; get it from {repo.address}."
        )
    return matches[0][1]


def unique(seen_ids: set[str], item: Sample | Drop) -> Sample | Drop:
    """The item, or a Drop where an earlier sample has its id."""
    if isinstance(item, Sample):
        if item.id in seen_ids:
            return Drop(item.id, "duplicate_id", "an earlier row has this id.")
        seen_ids.add(item.id)
    return item


def build_sample(
    defaults: SampleDefaults,
    convert_row: RowConverter,
    raw: Mapping[str, Any],
    index: int,
    images: Sequence[Image],
    local_repo: hub.DownloadedRepo | None = None,
    shards: ShardReader | None = None,
) -> Sample | Drop:
    """The sample of one published row; `place` finds the images that it names."""
    try:
        values = dict(convert_row(raw))
        name = str(values.get("id") or f"{defaults.name}-{index}")
        _check_non_empty(values)
        for file in values.pop("images", ()):
            image = local_repo.image(str(file)) if local_repo and file is not None else None
            if image is None:
                return Drop(name, "missing_image", f"there is no image {file!r}.")
            images = [*images, image]
        if values.pop("same_image", False) and images:
            values["group"] = (
                "image-" + hashlib.sha256(image_bytes(images[0], shards=shards)).hexdigest()[:16]
            )
        return sample(defaults, {**values, "id": name}, index + 1, images)
    except RowError as bad:
        return Drop(f"{defaults.name}-{index}", bad.reason, bad.detail)
    except ImageError as bad:
        return Drop(f"{defaults.name}-{index}", "bad_image", str(bad))
    except KeyError as error:
        if index:
            return Drop(f"{defaults.name}-{index}", "missing_key", f"there is no {error}.")
        # A first row without it means that no row has it.
        raise InputError(
            f"{defaults.name}: {raw.get('_file')} has no column {error}; the files changed, or they"
            f" are not those of {defaults.source}."
        ) from error
    except (InputError, AttributeError, IndexError, TypeError, ValueError) as error:
        return Drop(
            f"{defaults.name}-{index}",
            "bad_row",
            f"a value is not of the published form ({type(error).__name__}).",
        )


def _check_non_empty(values: Mapping[str, Any]) -> None:
    """Refuse a row whose question or answer is null: neither may be asked as the word None.

    Raises:
        BadRow: no_question or empty_answer.
    """
    if "question" in values and (values["question"] is None or not str(values["question"]).strip()):
        raise RowError("no_question", "the row has no question.")
    if "gold" in values and (values["gold"] in (None, [], ()) or not str(values["gold"]).strip()):
        raise RowError("empty_answer", "the row has no answer.")


def sample(
    defaults: SampleDefaults, values: Mapping[str, Any], row_number: int, images: Sequence[Image]
) -> Sample | Drop:
    """The sample of a question row, with all that the benchmark says of itself."""
    values = dict(values)
    if values.pop("multi_choice", False):
        choices = read_choices(values.pop("choices"))
        letters = "".join(sorted(set(str(values["gold"]).strip().upper())))
        if not letters or not set(letters) <= set(LETTERS[: len(choices)]):
            raise RowError(
                "answer_not_in_choices",
                f"the answer {values['gold']!r} names no letters of {len(choices)} options.",
            )
        values |= {
            "question": with_choices(values["question"], choices),
            "kind": "closed",
            "multi_choice": "yes",
        }
        values["gold"] = list(dict.fromkeys((letters, ", ".join(letters))))
    if values.get("context"):
        values["question"] = f"Context: {values['context']}\n\n{values['question']}"
    result = sample_from_row(
        {"access": defaults.access, "deidentified": defaults.deidentified, **values},
        row_number,
        images,
    )
    return with_defaults(defaults, result) if isinstance(result, Sample) else result


def with_defaults(defaults: SampleDefaults, sample: Sample) -> Sample:
    """A sample with the benchmark's facts where its row is silent.

    What stands under an agreement stays under it, whatever a row says; elsewhere the row's own
    access class holds.
    """
    meta, is_gated = sample.meta, defaults.access != "open"
    completed_meta = replace(
        meta,
        source=meta.source or defaults.source,
        license=meta.license or defaults.license,
        access=defaults.access if is_gated else meta.access,
        agreement=defaults.agreement if is_gated else meta.agreement,
        language=meta.language or defaults.language,
        kind=meta.kind or infer_kind(sample.gold, sample.choices),
    )
    return replace(sample, meta=completed_meta)


def infer_kind(gold: Sequence[str] | None, choices: Sequence[str]) -> str:
    """The kind of a question that does not state its own: by its options, else by a gold of yes or
    no.
    """
    if choices:
        return "choice"
    return "yes_no" if gold and all(yes_no.as_polarity(answer) for answer in gold) else "open"


def letter_for_text(text: object, choices: Sequence[object]) -> str:
    """The letter of the option that is exactly this text, the first of equal ones; the text itself
    where none is.

    For benchmarks that give the answer as the text of an option: "B" may be the text of option C.

    Raises:
        BadRow: there is no text.
    """
    if text is None or not str(text).strip():
        raise RowError("empty_answer", "the row has no answer.")
    answer, options = str(text).strip(), [str(choice).strip() for choice in choices]
    return LETTERS[options.index(answer)] if answer in options[: len(LETTERS)] else answer


def letter_at(index: object, n_options: int) -> str:
    """The letter of an option given by its position, from 0.

    Raises:
        BadRow: no such option, as where a benchmark hides its labels behind -1.
    """
    if (
        isinstance(index, bool)
        or not str(index).lstrip("-").isdigit()
        or not 0 <= int(str(index)) < n_options
    ):
        raise RowError(
            "hidden_label",
            f"{index!r} is no option of {n_options}; this split keeps its answers back.",
        )
    return LETTERS[int(str(index))]
