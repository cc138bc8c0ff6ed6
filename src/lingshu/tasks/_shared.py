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

from lingshu.core.errors import ArtefactError, BadImage, InputError
from lingshu.core.files import MANIFEST, check_manifest, sha256_file
from lingshu.core.nouns import Access, Drop, Image, Metric, Sample, Scorer, Task
from lingshu.core.rows import LETTERS, BadRow, read_choices, sample_from_row, with_choices
from lingshu.core.runcard import RUN_CARD
from lingshu.imaging.read import ShardReader, image_bytes
from lingshu.scoring import auto, yes_no
from lingshu.sources import hub, jsonl
from lingshu.sources.hub import Repo
from lingshu.tasks import _prompts

Row = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class About:
    """What holds for every sample of a benchmark."""

    name: str
    source: str
    licence: str
    language: str | None = "en"
    access: Access = "open"
    agreement: str | None = None
    deidentified: bool | None = True


Reader = Callable[[About, Repo, hub.Place], Iterable[Sample | Drop]]


def benchmark(
    name: str,
    *,
    title: str,
    repo: Repo,
    licence: str,
    twin: Callable[[int], Sequence[Sample]],
    row: Row | None = None,
    reader: Reader | None = None,
    score: Scorer = auto.score,
    language: str | None = "en",
    access: Access = "open",
    agreement: str | None = None,
    n: int | None = None,
    variants: tuple[tuple[int, str], ...] = (),
    unverified: tuple[str, ...] = (),
    by: tuple[str, ...] = (),
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
    about = About(
        name=name,
        source=repo.address,
        licence=licence,
        language=language,
        access=access,
        agreement=agreement,
    )
    from_publisher = reader or partial(read, row=row or dict)
    return Task(
        name=name,
        title=title,
        source=repo.address,
        licence=licence,
        samples=partial(_samples, about, repo, from_publisher),
        score=score,
        twin=twin,
        access=access,
        revision=repo.revision,
        n=n,
        by=by,
        max_tokens=max_tokens,
        prompt=_prompts.prompt,
        agreement=agreement,
        published=published,
        unverified=unverified,
        variants=variants,
        original=partial(_from_folder, about, repo, from_publisher),
        resolve=partial(_resolve, name, repo),
        metrics=metrics,
    )


def _samples(
    about: About, repo: Repo, reader: Reader, data: Path | None
) -> Iterable[Sample | Drop]:
    if data is None:
        return reader(about, repo, hub.download(repo))
    folder = data / about.name
    _check_built(folder)
    if (folder / jsonl.ROWS).is_file():
        return (
            item if isinstance(item, Drop) else completed(about, item)
            for item in jsonl.read(folder)
        )
    if folder.is_dir():
        return _from_folder(_of_ones_own(about), repo, reader, folder)
    raise InputError(
        f"{data} has no folder {about.name}; make it with `lingshu build {about.name} SOURCE --out"
        f" {data}` from {repo.address}."
    )


def _check_built(folder: Path) -> None:
    """Refuse a folder of `lingshu build` whose files are not those that it wrote; other folders
    pass.

    Raises:
        ArtefactError: a file is missing or changed, or its manifest leaves out the rows.
    """
    ours = (folder / jsonl.ROWS).is_file() or (folder / RUN_CARD).is_file()
    # Publishers have files called manifest.json too: without rows or a run card beside it, it is
    # one of theirs.
    listed = check_manifest(folder) if ours else None
    if listed is not None and jsonl.ROWS not in listed:
        raise ArtefactError(
            f"{folder / MANIFEST} does not list {jsonl.ROWS}; build the folder anew."
        )


def _of_ones_own(about: About) -> About:
    """What holds for files in a user's folder: nobody verified that they are the published ones, so
    they may be private.
    """
    return replace(
        about, access="private" if about.access == "open" else about.access, deidentified=None
    )


def _from_folder(about: About, repo: Repo, reader: Reader, folder: Path) -> Iterable[Sample | Drop]:
    place = hub.local(repo, folder)
    if place is None:
        raise InputError(
            f"{folder} holds none of {', '.join(repo.files)}; unpack archives, or get the files"
            f" from {repo.address}."
        )
    return reader(about, repo, place)


def _resolve(name: str, repo: Repo, data: Path | None) -> str | None:
    """The commit of the hub, or the digest of the local rows; None for publisher's files in a
    folder.
    """
    if data is None:
        return hub.revision(repo)
    rows = data / name / jsonl.ROWS
    return f"sha256:{sha256_file(rows)}" if rows.is_file() else None


def read(about: About, repo: Repo, place: hub.Place, *, row: Row) -> Iterator[Sample | Drop]:
    """The samples of a repository's rows, in order; each row that gives none is a Drop with its
    reason.
    """
    seen: set[str] = set()
    with ShardReader() as shards:
        for number, raw in enumerate(hub.rows(repo, place)):
            values = {**raw.values, "_file": raw.file, "_number": raw.number}
            yield once(seen, made(about, row, values, number, raw.images, place, shards))


def beside(about: About, repo: Repo, place: hub.Place, name: str) -> Path:
    """The file that is needed beside the rows.

    Raises:
        InputError: it is not there.
    """
    found = place.files((name, f"**/{name}"))
    if not found:
        raise InputError(f"{about.name} needs {name} beside its rows; get it from {repo.address}.")
    return found[0][1]


def once(seen: set[str], item: Sample | Drop) -> Sample | Drop:
    """The item, or a Drop where an earlier sample has its id."""
    if isinstance(item, Sample):
        if item.id in seen:
            return Drop(item.id, "duplicate_id", "an earlier row has this id.")
        seen.add(item.id)
    return item


def made(
    about: About,
    row: Row,
    raw: Mapping[str, Any],
    number: int,
    images: Sequence[Image],
    place: hub.Place | None = None,
    shards: ShardReader | None = None,
) -> Sample | Drop:
    """The sample of one published row; `place` finds the images that it names."""
    try:
        values = dict(row(raw))
        name = str(values.get("id") or f"{about.name}-{number}")
        _check_filled(values)
        for file in values.pop("images", ()):
            found = place.image(str(file)) if place and file is not None else None
            if found is None:
                return Drop(name, "missing_image", f"there is no image {file!r}.")
            images = [*images, found]
        if values.pop("same_image", False) and images:
            values["group"] = (
                "image-" + hashlib.sha256(image_bytes(images[0], shards=shards)).hexdigest()[:16]
            )
        return sample(about, {**values, "id": name}, number + 1, images)
    except BadRow as bad:
        return Drop(f"{about.name}-{number}", bad.reason, bad.detail)
    except BadImage as bad:
        return Drop(f"{about.name}-{number}", "bad_image", str(bad))
    except KeyError as error:
        if number:
            return Drop(f"{about.name}-{number}", "missing_key", f"there is no {error}.")
        # A first row without it means that no row has it.
        raise InputError(
            f"{about.name}: {raw.get('_file')} has no column {error}; the files changed, or they"
            f" are not those of {about.source}."
        ) from error
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        return Drop(
            f"{about.name}-{number}",
            "bad_row",
            f"a value is not of the published form ({type(error).__name__}).",
        )


def _check_filled(values: Mapping[str, Any]) -> None:
    """Refuse a row whose question or answer is null: neither may be asked as the word None.

    Raises:
        BadRow: no_question or empty_answer.
    """
    if "question" in values and (values["question"] is None or not str(values["question"]).strip()):
        raise BadRow("no_question", "the row has no question.")
    if "gold" in values and (values["gold"] in (None, [], ()) or not str(values["gold"]).strip()):
        raise BadRow("empty_answer", "the row has no answer.")


def sample(
    about: About, values: Mapping[str, Any], number: int, images: Sequence[Image]
) -> Sample | Drop:
    """The sample of a question row, with all that the benchmark says of itself."""
    values = dict(values)
    if values.pop("several", False):
        choices = read_choices(values.pop("choices"))
        letters = "".join(sorted(set(str(values["gold"]).strip().upper())))
        if not letters or not set(letters) <= set(LETTERS[: len(choices)]):
            raise BadRow(
                "answer_not_in_choices",
                f"the answer {values['gold']!r} names no letters of {len(choices)} options.",
            )
        values |= {
            "question": with_choices(values["question"], choices),
            "kind": "closed",
            "several": "yes",
        }
        values["gold"] = list(dict.fromkeys((letters, ", ".join(letters))))
    if values.get("context"):
        values["question"] = f"Context: {values['context']}\n\n{values['question']}"
    found = sample_from_row(
        {"access": about.access, "deidentified": about.deidentified, **values}, number, images
    )
    return completed(about, found) if isinstance(found, Sample) else found


def completed(about: About, item: Sample) -> Sample:
    """A sample with the benchmark's facts where its row is silent.

    What stands under an agreement stays under it, whatever a row says; elsewhere the row's own
    access class holds.
    """
    meta, gated = item.meta, about.access != "open"
    facts = replace(
        meta,
        source=meta.source or about.source,
        licence=meta.licence or about.licence,
        access=about.access if gated else meta.access,
        agreement=about.agreement if gated else meta.agreement,
        language=meta.language or about.language,
        kind=meta.kind or kind_of(item.gold, item.choices),
    )
    return replace(item, meta=facts)


def kind_of(gold: Sequence[str] | None, choices: Sequence[str]) -> str:
    """The kind of a question that does not state its own: by its options, else by a gold of yes or
    no.
    """
    if choices:
        return "choice"
    return "yes_no" if gold and all(yes_no.as_verdict(answer) for answer in gold) else "open"


def letter_of(text: object, choices: Sequence[object]) -> str:
    """The letter of the option that is exactly this text, the first of equal ones; the text itself
    where none is.

    For benchmarks that give the answer as the text of an option: "B" may be the text of option C.

    Raises:
        BadRow: there is no text.
    """
    if text is None or not str(text).strip():
        raise BadRow("empty_answer", "the row has no answer.")
    told, known = str(text).strip(), [str(choice).strip() for choice in choices]
    return LETTERS[known.index(told)] if told in known[: len(LETTERS)] else told


def letter(position: object, count: int) -> str:
    """The letter of an option given by its position, from 0.

    Raises:
        BadRow: no such option, as where a benchmark hides its labels behind -1.
    """
    if (
        isinstance(position, bool)
        or not str(position).lstrip("-").isdigit()
        or not 0 <= int(str(position)) < count
    ):
        raise BadRow(
            "hidden_label",
            f"{position!r} is no option of {count}; this split keeps its answers back.",
        )
    return LETTERS[int(str(position))]
