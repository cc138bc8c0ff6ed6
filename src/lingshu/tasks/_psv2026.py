"""The layout of PSV2026: items with an expanded question, a reference answer and a rubric of binary
dimensions for a judge.

Licence: CC BY 4.0. Revision: resolved at download. Link:
https://huggingface.co/datasets/ASD9987/PSV2026 The names of the columns with image, query and
response are not public; COLUMNS lists what they may be called.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

from lingshu.core.errors import InputError
from lingshu.core.nouns import Criterion, Drop, Sample, Score, Task
from lingshu.core.rows import BadRow
from lingshu.scoring._reports import NEEDS_JUDGE
from lingshu.scoring._text import CJK
from lingshu.sources import hub
from lingshu.sources.hub import Repo
from lingshu.tasks import _shared, _twins
from lingshu.tasks._shared import About, benchmark

# What a row needs -> the columns it may stand in, the first that is there counts. `messages` holds
# query and response at once.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "query": ("query", "question", "expanded_query", "prompt", "instruction"),
    "response": ("response", "answer", "reference_answer", "reference", "output", "gold"),
    "image": (
        "image",
        "images",
        "image_path",
        "image_name",
        "img_name",
        "img",
        "image_file",
        "file_name",
    ),
    "rubric": ("rubric", "rubrics"),
}
SOURCE = ("source", "dataset", "data_source", "origin")
ID = ("id", "sample_id", "item_id", "qid", "index")
BY = ("question_type", "modality", "main_topic", "source", "language")
# Kept as they are where a row has them: what the builder notes beside the published fields.
NOTES = (
    "question_type",
    "main_topic",
    "parent",
    "original_question",
    "original_answer",
    "teacher",
    "prompts",
)
REPO = Repo(
    "ASD9987/PSV2026",
    (
        "data/test-*.parquet",
        "**/*test*.parquet",
        "**/*test*.jsonl",
        "**/*test*.json",
        "data/part-*.parquet",
    ),
    archives=("**/*.zip",),
    one=True,
)
_CHINESE = re.compile(f"[{CJK}]")


def row(raw: Mapping[str, Any], *, embedded: bool = False) -> Mapping[str, Any]:
    """One row under any of the known names, or of a DATASET that `lingshu synthesise psv2026_test`
    wrote.

    `embedded` where the images lie in the row's own shard; a file name beside them is a note.
    """
    inner = _json(raw.get("extra"))
    raw = {
        **(inner if isinstance(inner, Mapping) else {}),
        **{name: value for name, value in raw.items() if value is not None},
    }
    query, response = _dialogue(raw)
    rubric, source, group = _first(raw, "rubric"), _named(raw, SOURCE), raw.get("group")
    terms = _json(raw.get("med_terms"))
    values = {
        "question": query,
        "gold": response,
        "id": _named(raw, ID),
        "source": source,
        "licence": raw.get("licence"),
        "modality": raw.get("modality"),
        "language": raw.get("language") or ("zh" if _CHINESE.search(str(query)) else "en"),
        "kind": "rubric",
        "rubric": json.dumps(_points(rubric), ensure_ascii=False),
        "med_terms": None if terms is None else json.dumps(terms, ensure_ascii=False),
        "images": [] if embedded else _files(raw),
        **({"group": str(group)} if group else {"same_image": True}),
        **{name: raw.get(name) for name in NOTES},
    }
    # A row of one's own says itself who may see it; the published ones say nothing.
    values |= {
        name: raw[name]
        for name in ("access", "agreement", "deidentified")
        if raw.get(name) is not None
    }
    return {
        name: value
        for name, value in values.items()
        if value is not None or name in ("question", "gold")
    }


def _dialogue(raw: Mapping[str, Any]) -> tuple[object, object]:
    turns = _json(raw.get("messages"))
    if not isinstance(turns, list) or not turns:
        return _first(raw, "query"), _first(raw, "response")
    said = {turn.get("role"): _words(turn.get("content")) for turn in turns}
    return said.get("user"), said.get("assistant")


def _words(content: object) -> str:
    if isinstance(content, str):
        return content.replace("<image>", "").strip()
    parts = content if isinstance(content, list) else []
    return "".join(part.get("text", "") for part in parts).strip()


def _files(raw: Mapping[str, Any]) -> list[str]:
    """The files that a row names; none where its images lie in the shard."""
    value = _named(raw, COLUMNS["image"])
    found = value if isinstance(value, list) else [value]
    return [name.removeprefix("./") for name in found if isinstance(name, str)]


def _points(value: object) -> list[dict[str, Any]]:
    """The dimensions of a rubric; where no points are stated, or all are 0, each counts 1.

    Raises:
        BadRow: bad_rubric.
    """
    found = _json(value)
    if (
        not isinstance(found, list)
        or not found
        or not all(isinstance(one, Mapping) for one in found)
    ):
        raise BadRow("bad_rubric", "the rubric is no list of {dim, score, description}.")
    points = [one.get("score") or 0 for one in found]
    if any(
        isinstance(point, bool) or not isinstance(point, int | float) or not 0 <= point < math.inf
        for point in points
    ):
        raise BadRow("bad_rubric", f"the points are {points}; numbers of 0 or more are expected.")
    texts = [str(one.get("description") or "").strip() for one in found]
    if not all(texts):
        raise BadRow("bad_rubric", "a dimension has no description.")
    given = points if any(points) else [1] * len(points)
    return [
        {"dim": str(one.get("dim") or ""), "score": p, "description": t}
        for one, p, t in zip(found, given, texts, strict=True)
    ]


def criteria(sample: Sample) -> Sequence[Criterion]:
    """The dimensions of an item's rubric, each either met or not, with its points.

    Raises:
        InputError: the sample has no rubric that can be read.
    """
    try:
        return [
            Criterion(one["description"], float(one["score"]), one["dim"] or None)
            for one in _points(sample.meta.extra["rubric"])
        ]
    except (KeyError, BadRow) as error:
        raise InputError(
            f"sample {sample.id!r} has no rubric that can be read ({error}); build the data anew."
        ) from error


def score(sample: Sample, reply: str) -> Score:  # noqa: ARG001 - no reply can be scored without a judge
    """Refuses: a rubric needs a judge.

    Raises:
        InputError: always.
    """
    raise InputError(
        f"{NEEDS_JUDGE}: sample {sample.id!r} is scored by a rubric; its reply is kept and can be"
        " judged later."
    )


# --- what is where
# ----------------------------------------------------------------------------------------------------


def reader(about: About, repo: Repo, place: hub.Place) -> Iterator[Sample | Drop]:
    """The items of the files, once it is clear which columns hold what.

    Raises:
        InputError: a column is missing; names what was looked for, and what was found.
    """
    embedded = False
    for raw in islice(hub.rows(repo, place), 1):
        embedded = bool(raw.images)
        check_columns(raw.values, images=embedded, file=raw.file)
    for item in _shared.read(about, repo, place, row=partial(row, embedded=embedded)):
        bare = isinstance(item, Sample) and not item.images
        yield (
            Drop(item.id, "no_image", "the row shows no image that can be read.") if bare else item
        )


def check_columns(values: Mapping[str, Any], *, images: bool, file: str) -> None:
    """Refuse a file whose columns are not known under any name.

    Raises:
        InputError: names the file, what is missing, the names it may have, and the columns found.
    """
    dialogue = ("messages",) if isinstance(_json(values.get("messages")), list) else ()
    inner = _json(values.get("extra"))
    known = {*values, *(inner if isinstance(inner, Mapping) else ())}
    for what, names in COLUMNS.items():
        there = (
            images
            if what == "image" and images
            else bool(known & {*names, *(dialogue if what in ("query", "response") else ())})
        )
        if not there:
            found = ", ".join(sorted(name for name in values if not name.startswith("_")))
            raise InputError(
                f"{file} has no column with the {what} (looked for {', '.join(names)}); its columns"
                f" are {found}."
            )


def _first(raw: Mapping[str, Any], what: str) -> Any:
    return _named(raw, COLUMNS[what])


def _named(raw: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((raw[name] for name in names if raw.get(name) not in (None, "")), None)


def _json(value: object) -> Any:
    """A value that may be written as JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return None


def psv2026(name: str, *, title: str, licence: str, n: int | None) -> Task:
    """A task on items of this layout."""
    task = benchmark(
        name,
        title=title,
        repo=REPO,
        licence=licence,
        reader=reader,
        score=score,
        twin=twin,
        n=n,
        language=None,
        by=BY,
        max_tokens=1024,
    )
    return replace(task, criteria=criteria)


# --- made up
# ----------------------------------------------------------------------------------------------------------

_RUBRIC = (
    ("factual correctness", 3, "Says whether there is a lesion, and is right."),
    ("localisation and anatomy", 2, "Names the place of each lesion."),
    ("visual grounding", 2, "Speaks of what is drawn."),
    ("completeness", 1, "Leaves no lesion out."),
    ("soundness of reasoning", 1, "Concludes nothing that does not follow."),
)


def twin(seed: int) -> list[Sample]:
    """Two drawn images with two questions each and a rubric, and no reference answer."""
    rubric = json.dumps(
        [{"dim": dim, "score": points, "description": text} for dim, points, text in _RUBRIC]
    )
    found = []
    for number, drawn in enumerate(_twins.pictures("open", "yes_no")(seed)):
        facts = {
            "question_type": ("Visual Perception", "Factual Verification")[number % 2],
            "main_topic": _twins.TWIN,
        }
        meta = replace(
            drawn.meta, kind="rubric", extra={"rubric": rubric, "med_terms": '["lesion"]', **facts}
        )
        found.append(replace(drawn, gold=None, meta=meta))
    return found
