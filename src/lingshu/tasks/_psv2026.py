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
from lingshu.core.reply_text import CJK
from lingshu.core.rows import RowError
from lingshu.core.types import Criterion, Drop, Sample, Score, Task
from lingshu.scoring._reports import NEEDS_JUDGE
from lingshu.sources import hub
from lingshu.sources.hub import HubRepo
from lingshu.tasks import _benchmark, _synthetic
from lingshu.tasks._benchmark import SampleDefaults, benchmark

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
SOURCE_COLUMNS = ("source", "dataset", "data_source", "origin")
ID_COLUMNS = ("id", "sample_id", "item_id", "qid", "index")
FACETS = ("question_type", "modality", "main_topic", "source", "language")
# Kept as they are where a row has them: what the builder notes beside the published fields.
EXTRA_COLUMNS = (
    "question_type",
    "main_topic",
    "parent",
    "original_question",
    "original_answer",
    "teacher",
    "prompts",
)
REPO = HubRepo(
    "ASD9987/PSV2026",
    (
        "data/test-*.parquet",
        "**/*test*.parquet",
        "**/*test*.jsonl",
        "**/*test*.json",
        "data/part-*.parquet",
    ),
    archives=("**/*.zip",),
    single_table=True,
)
_CHINESE_CHARACTER = re.compile(f"[{CJK}]")


def convert_row(raw: Mapping[str, Any], *, embedded: bool = False) -> Mapping[str, Any]:
    """One row under any of the known names, or of a DATASET that `lingshu synthesise psv2026_test`
    wrote.

    `embedded` where the images lie in the row's own shard; a file name beside them is a note.
    """
    extra = _parse_json(raw.get("extra"))
    raw = {
        **(extra if isinstance(extra, Mapping) else {}),
        **{name: value for name, value in raw.items() if value is not None},
    }
    query, response = _dialogue(raw)
    rubric, source, group = (
        _field_value(raw, "rubric"),
        _first_value(raw, SOURCE_COLUMNS),
        raw.get("group"),
    )
    terms = _parse_json(raw.get("med_terms"))
    values = {
        "question": query,
        "gold": response,
        "id": _first_value(raw, ID_COLUMNS),
        "source": source,
        "license": raw.get("license"),
        "modality": raw.get("modality"),
        "language": raw.get("language")
        or ("zh" if _CHINESE_CHARACTER.search(str(query)) else "en"),
        "kind": "rubric",
        "rubric": json.dumps(_parse_rubric(rubric), ensure_ascii=False),
        "med_terms": None if terms is None else json.dumps(terms, ensure_ascii=False),
        "images": [] if embedded else _image_files(raw),
        **({"group": str(group)} if group else {"same_image": True}),
        **{name: raw.get(name) for name in EXTRA_COLUMNS},
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
    turns = _parse_json(raw.get("messages"))
    if not isinstance(turns, list) or not turns:
        return _field_value(raw, "query"), _field_value(raw, "response")
    text_by_role = {turn.get("role"): _text_content(turn.get("content")) for turn in turns}
    return text_by_role.get("user"), text_by_role.get("assistant")


def _text_content(content: object) -> str:
    if isinstance(content, str):
        return content.replace("<image>", "").strip()
    parts = content if isinstance(content, list) else []
    return "".join(part.get("text", "") for part in parts).strip()


def _image_files(raw: Mapping[str, Any]) -> list[str]:
    """The files that a row names; none where its images lie in the shard."""
    value = _first_value(raw, COLUMNS["image"])
    names = value if isinstance(value, list) else [value]
    return [name.removeprefix("./") for name in names if isinstance(name, str)]


def _parse_rubric(value: object) -> list[dict[str, Any]]:
    """The dimensions of a rubric; where no points are stated, or all are 0, each counts 1.

    Raises:
        BadRow: bad_rubric.
    """
    dimensions = _parse_json(value)
    if (
        not isinstance(dimensions, list)
        or not dimensions
        or not all(isinstance(dimension, Mapping) for dimension in dimensions)
    ):
        raise RowError("bad_rubric", "the rubric is no list of {dim, score, description}.")
    points = [dimension.get("score") or 0 for dimension in dimensions]
    if any(
        isinstance(point, bool) or not isinstance(point, int | float) or not 0 <= point < math.inf
        for point in points
    ):
        raise RowError("bad_rubric", f"the points are {points}; numbers of 0 or more are expected.")
    descriptions = [str(dimension.get("description") or "").strip() for dimension in dimensions]
    if not all(descriptions):
        raise RowError("bad_rubric", "a dimension has no description.")
    weights = points if any(points) else [1] * len(points)
    return [
        {"dim": str(dimension.get("dim") or ""), "score": p, "description": t}
        for dimension, p, t in zip(dimensions, weights, descriptions, strict=True)
    ]


def criteria(sample: Sample) -> Sequence[Criterion]:
    """The dimensions of an item's rubric, each either met or not, with its points.

    Raises:
        InputError: the sample has no rubric that can be read.
    """
    try:
        return [
            Criterion(dimension["description"], float(dimension["score"]), dimension["dim"] or None)
            for dimension in _parse_rubric(sample.meta.extra["rubric"])
        ]
    except (KeyError, RowError) as error:
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


def reader(
    defaults: SampleDefaults, repo: HubRepo, local_repo: hub.DownloadedRepo
) -> Iterator[Sample | Drop]:
    """The items of the files, once it is clear which columns hold what.

    Raises:
        InputError: a column is missing; names what was looked for, and what was found.
    """
    embedded = False
    for raw in islice(hub.rows(repo, local_repo), 1):
        embedded = bool(raw.images)
        check_columns(raw.values, images=embedded, file=raw.file)
    for item in _benchmark.read_samples(
        defaults, repo, local_repo, convert_row=partial(convert_row, embedded=embedded)
    ):
        lacks_image = isinstance(item, Sample) and not item.images
        yield (
            Drop(item.id, "no_image", "the row shows no image that can be read.")
            if lacks_image
            else item
        )


def check_columns(values: Mapping[str, Any], *, images: bool, file: str) -> None:
    """Refuse a file whose columns are not known under any name.

    Raises:
        InputError: names the file, what is missing, the names it may have, and the columns found.
    """
    dialogue = ("messages",) if isinstance(_parse_json(values.get("messages")), list) else ()
    extra = _parse_json(values.get("extra"))
    known = {*values, *(extra if isinstance(extra, Mapping) else ())}
    for field, names in COLUMNS.items():
        is_present = (
            images
            if field == "image" and images
            else bool(known & {*names, *(dialogue if field in ("query", "response") else ())})
        )
        if not is_present:
            columns = ", ".join(sorted(name for name in values if not name.startswith("_")))
            raise InputError(
                f"{file} has no column with the {field} (looked for {', '.join(names)}); its columns"
                f" are {columns}."
            )


def _field_value(raw: Mapping[str, Any], field: str) -> Any:
    return _first_value(raw, COLUMNS[field])


def _first_value(raw: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((raw[name] for name in names if raw.get(name) not in (None, "")), None)


def _parse_json(value: object) -> Any:
    """A value that may be written as JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return None


def make_task(name: str, *, title: str, license: str, expected_n: int | None) -> Task:
    """A task on items of this layout."""
    task = benchmark(
        name,
        title=title,
        repo=REPO,
        license=license,
        reader=reader,
        score=score,
        synthetic=synthetic,
        expected_n=expected_n,
        language=None,
        facets=FACETS,
        max_tokens=1024,
    )
    return replace(task, criteria=criteria)


# --- made up
# ----------------------------------------------------------------------------------------------------------

_RUBRIC = (
    ("factual correctness", 3, "Says whether there is a lesion, and is right."),
    ("localization and anatomy", 2, "Names the place of each lesion."),
    ("visual grounding", 2, "Speaks of what is drawn."),
    ("completeness", 1, "Leaves no lesion out."),
    ("soundness of reasoning", 1, "Concludes nothing that does not follow."),
)


def synthetic(seed: int) -> list[Sample]:
    """Two drawn images with two questions each and a rubric, and no reference answer."""
    rubric = json.dumps(
        [{"dim": dim, "score": points, "description": text} for dim, points, text in _RUBRIC]
    )
    samples = []
    for index, sample in enumerate(_synthetic.image_samples("open", "yes_no")(seed)):
        fields = {
            "question_type": ("Visual Perception", "Factual Verification")[index % 2],
            "main_topic": _synthetic.SYNTHETIC_SOURCE,
        }
        meta = replace(
            sample.meta,
            kind="rubric",
            extra={"rubric": rubric, "med_terms": '["lesion"]', **fields},
        )
        samples.append(replace(sample, gold=None, meta=meta))
    return samples
