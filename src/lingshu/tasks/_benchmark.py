"""What published benchmarks share: where their rows are, and how a row becomes a sample.

A benchmark's file states its facts and defines one pure function, `convert_row(raw)`, from the
publisher's columns to a question row with the keys of core/rows.py. A question row may also have
    images        names of image files, where the images are not in the row's own shard
    context       a text to show above the question
    multi_choice  True where all right options are asked for; gold then has their letters ("ABD")
    same_image    True where the image itself is the group
A row that cannot be used raises RowError with a reason, which is counted; a row whose values have
another form is counted as bad_row.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from lingshu.core import prompts
from lingshu.core.errors import ArtifactError, ImageError, InputError
from lingshu.core.files import MANIFEST, check_manifest, sha256_file
from lingshu.core.rows import LETTERS, RowError, read_choices, sample_from_row, with_choices
from lingshu.core.run_card import RUN_CARD
from lingshu.core.types import Access, Drop, Provenance, Sample, Scorer, Task
from lingshu.imaging.read import ShardReader, image_bytes
from lingshu.scoring import auto, yes_no
from lingshu.sources import hub, jsonl
from lingshu.sources.hub import DownloadedRepo, HubRepo, RawRow

Row = Mapping[str, Any]
RowConverter = Callable[[Row], Row]


@dataclass(frozen=True)
class BenchmarkSource:
    """A benchmark as its publisher released it: its files, and what holds for every sample."""

    name: str
    repo: HubRepo
    provenance: Provenance
    language: str | None = "en"
    deidentified: bool | None = True
    files: DownloadedRepo = field(default_factory=lambda: DownloadedRepo(()))

    def rows(self) -> Iterator[RawRow]:
        return hub.rows(self.repo, self.files)

    def auxiliary_file(self, name: str) -> Path:
        """A file that is needed next to the rows.

        Raises:
            InputError: it is missing.
        """
        matches = self.files.files((name, f"**/{name}"))
        if not matches:
            raise InputError(
                f"{self.name} needs {name} next to its rows; get it from {self.repo.address}."
            )
        return matches[0][1]


Reader = Callable[[BenchmarkSource], Iterable[Sample | Drop]]


def benchmark(
    name: str,
    *,
    title: str,
    repo: HubRepo,
    license: str,
    convert_row: RowConverter = dict,
    reader: Reader | None = None,
    score: Scorer = auto.score,
    language: str | None = "en",
    access: Access = "open",
    agreement: str | None = None,
    expected_n: int | None = None,
    known_counts: tuple[tuple[int, str], ...] = (),
    unverified: tuple[str, ...] = (),
    **task_fields: Any,
) -> Task:
    """A task that reads DIR/<name>/rows.jsonl, its publisher's files in DIR/<name>, or else the hub.

    The publisher's files in a folder count as private; with `lingshu build` the user confirms that
    they are the published ones. `convert_row` converts one published row; a benchmark with answers
    or images in further files has a `reader` of them all. `task_fields` are fields of Task such as
    `synthetic`, `facets` and `published`.
    """
    provenance = Provenance(
        repo.address, license, access, agreement, repo.revision, expected_n, known_counts, unverified
    )  # fmt: skip
    source = BenchmarkSource(name, repo, provenance, language)
    read = reader or partial(read_samples, convert_row=convert_row)
    return Task(
        name,
        title,
        provenance,
        samples=partial(_samples, source, read),
        score=score,
        prompt=prompts.build_prompt,
        read_original=partial(_read_folder, source, read),
        resolve_revision=partial(_resolve_revision, source),
        **task_fields,
    )


def _samples(source: BenchmarkSource, read: Reader, data: Path | None) -> Iterable[Sample | Drop]:
    if data is None:
        return read(replace(source, files=hub.download(source.repo)))
    folder = data / source.name
    _check_built_folder(folder)
    if (folder / jsonl.ROWS_FILE).is_file():
        items = jsonl.read(folder)
        return (x if isinstance(x, Drop) else with_defaults(source, x) for x in items)
    if folder.is_dir():
        # Nobody verified that these files are the published ones, so they may be private.
        access = source.provenance.access
        provenance = replace(source.provenance, access="private" if access == "open" else access)
        local_source = replace(source, provenance=provenance, deidentified=None)
        return _read_folder(local_source, read, folder)
    raise InputError(
        f"{data} has no folder {source.name}; make it with `lingshu build {source.name} SOURCE"
        f" --out {data}` from {source.repo.address}."
    )


def _check_built_folder(folder: Path) -> None:
    """Refuse a folder of `lingshu build` whose files were changed; other folders pass.

    Raises:
        ArtifactError: a file is missing or changed, or the manifest does not list the rows.
    """
    is_built = (folder / jsonl.ROWS_FILE).is_file() or (folder / RUN_CARD).is_file()
    # Publishers have files called manifest.json too: without rows or a run card it is theirs.
    manifest = check_manifest(folder) if is_built else None
    if manifest is not None and jsonl.ROWS_FILE not in manifest:
        raise ArtifactError(
            f"{folder / MANIFEST} does not list {jsonl.ROWS_FILE}; build the folder again."
        )


def _read_folder(source: BenchmarkSource, read: Reader, folder: Path) -> Iterable[Sample | Drop]:
    files = hub.find_local(source.repo, folder)
    if files is None:
        raise InputError(
            f"{folder} holds none of {', '.join(source.repo.files)}; unpack archives, or get the"
            f" files from {source.repo.address}."
        )
    return read(replace(source, files=files))


def _resolve_revision(source: BenchmarkSource, data: Path | None) -> str | None:
    """The commit of the hub, or the digest of the local rows; None for a publisher's files."""
    if data is None:
        return hub.revision(source.repo)
    rows = data / source.name / jsonl.ROWS_FILE
    return f"sha256:{sha256_file(rows)}" if rows.is_file() else None


def read_samples(
    source: BenchmarkSource, convert_row: RowConverter, rows: Iterable[RawRow | Drop] | None = None
) -> Iterator[Sample | Drop]:
    """The samples of a source's rows, in order; each unusable row is a Drop with its reason."""
    seen_ids: set[str] = set()
    with ShardReader() as shards:
        build = partial(build_sample, source, convert_row, shards=shards)
        for index, raw in enumerate(source.rows() if rows is None else rows):
            item = raw if isinstance(raw, Drop) else build(raw, index)
            if isinstance(item, Sample) and item.id in seen_ids:
                item = Drop(item.id, "duplicate_id", "an earlier row has this id.")
            elif isinstance(item, Sample):
                seen_ids.add(item.id)
            yield item


def build_sample(
    source: BenchmarkSource,
    convert_row: RowConverter,
    raw: RawRow,
    index: int,
    shards: ShardReader | None = None,
) -> Sample | Drop:
    """The sample of one published row, with the images that it names.

    Raises:
        InputError: the first row lacks a column, so that no row can have it.
    """
    fallback_id = f"{source.name}-{index}"
    try:
        values = dict(convert_row({**raw.values, "_file": raw.file}))
        values["id"] = str(values.get("id") or fallback_id)
        _check_non_empty(values)
        images = list(raw.images)
        for name in values.pop("images", ()):
            image = None if name is None else source.files.image(str(name))
            if image is None:
                return Drop(values["id"], "missing_image", f"the image {name!r} is missing.")
            images.append(image)
        if values.pop("same_image", False) and images:
            digest = hashlib.sha256(image_bytes(images[0], shards=shards)).hexdigest()
            values["group"] = f"image-{digest[:16]}"
        defaults = {"access": source.provenance.access, "deidentified": source.deidentified}
        item = sample_from_row({**defaults, **_with_prompt(values)}, index + 1, images)
        return with_defaults(source, item) if isinstance(item, Sample) else item
    except RowError as error:
        return error.to_drop(fallback_id)
    except ImageError as error:
        return Drop(fallback_id, "bad_image", str(error))
    except KeyError as error:
        if index:
            return Drop(fallback_id, "missing_key", f"the row has no {error}.")
        raise InputError(
            f"{source.name}: {raw.file} has no column {error}; the files changed, or they are not"
            f" those of {source.repo.address}."
        ) from error
    except (InputError, AttributeError, IndexError, TypeError, ValueError) as error:
        detail = f"a value is not of the published form ({type(error).__name__})."
        return Drop(fallback_id, "bad_row", detail)


def _check_non_empty(values: Row) -> None:
    """Refuse a row whose question or answer is null: the model must not see the word None."""
    if "question" in values and (values["question"] is None or not str(values["question"]).strip()):
        raise RowError("no_question: the row has no question.")
    if "gold" in values and (values["gold"] in (None, [], ()) or not str(values["gold"]).strip()):
        raise RowError("empty_answer: the row has no answer.")


def _with_prompt(values: dict[str, Any]) -> dict[str, Any]:
    """A question row with its context, and with its options where all right ones are asked for."""
    if values.pop("multi_choice", False):
        choices = read_choices(values.pop("choices"))
        letters = "".join(sorted(set(str(values["gold"]).strip().upper())))
        if not letters or not set(letters) <= set(LETTERS[: len(choices)]):
            raise RowError(
                f"answer_not_in_choices: the answer {values['gold']!r} names no letters of"
                f" {len(choices)} options."
            )
        values |= {
            "question": with_choices(values["question"], choices),
            "kind": "closed",
            "multi_choice": "yes",
            "gold": list(dict.fromkeys((letters, ", ".join(letters)))),
        }
    if values.get("context"):
        values["question"] = f"Context: {values['context']}\n\n{values['question']}"
    return values


def with_defaults(source: BenchmarkSource, sample: Sample) -> Sample:
    """A sample with the benchmark's facts where its row has none.

    Data under an agreement stays under it, whatever a row says; elsewhere the row's own access
    class holds.
    """
    meta, provenance = sample.meta, source.provenance
    is_gated = provenance.access != "open"
    completed_meta = replace(
        meta,
        source=meta.source or provenance.source,
        license=meta.license or provenance.license,
        access=provenance.access if is_gated else meta.access,
        agreement=provenance.agreement if is_gated else meta.agreement,
        language=meta.language or source.language,
        kind=meta.kind or infer_kind(sample.gold, sample.choices),
    )
    return replace(sample, meta=completed_meta)


def infer_kind(gold: Sequence[str] | None, choices: Sequence[str]) -> str:
    """The kind of a question that does not state it: by its options, else by a gold of yes or no."""
    if choices:
        return "choice"
    return "yes_no" if gold and all(yes_no.as_polarity(answer) for answer in gold) else "open"


def convert_exam_row(raw: Row) -> Row:
    """Exam questions as usual: question, options (or opa ... ope), answer_idx or answer."""
    options = raw.get("options") or {name: raw.get(f"op{name.lower()}") for name in "ABCDE"}
    gold = raw.get("answer_idx") or raw.get("answer")
    if not gold:
        raise RowError("hidden_label: the row has no answer.")
    return {
        "question": raw["question"],
        "choices": non_empty_options(options),
        "gold": gold,
        "id": raw.get("id"),
    }


def pick(raw: Row, optional: Sequence[str] = (), **columns: str) -> dict[str, Any]:
    """Keys of a question row: key=column, which must be present; `optional` keys may be missing."""
    return {key: raw[column] for key, column in columns.items()} | {
        name: raw.get(name) for name in optional
    }


def non_empty_options(options: Mapping[str, Any]) -> Mapping[str, str]:
    """The options that have a text: a table has a key for every letter that any row has."""
    return {
        name: str(text)
        for name, text in options.items()
        if text is not None and str(text).strip() not in ("", "nan")
    }


def letter_for_text(text: object, choices: Sequence[object]) -> str:
    """The letter of the first option that is exactly this text; the text itself where none is.

    For benchmarks that give the answer as the text of an option: "B" may be the text of option C.

    Raises:
        RowError: the text is empty.
    """
    if text is None or not str(text).strip():
        raise RowError("empty_answer: the row has no answer.")
    answer, options = str(text).strip(), [str(choice).strip() for choice in choices]
    return LETTERS[options.index(answer)] if answer in options[: len(LETTERS)] else answer


def letter_at(index: object, n_options: int) -> str:
    """The letter of an option given by its position, from 0.

    Raises:
        RowError: no such option, as where a benchmark hides its labels behind -1.
    """
    digits = str(index)
    if isinstance(index, bool) or not digits.isdigit() or int(digits) >= n_options:
        raise RowError(
            f"hidden_label: {index!r} is not one of {n_options} options; this split hides its"
            " answers."
        )
    return LETTERS[int(digits)]
