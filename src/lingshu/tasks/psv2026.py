"""PSV2026: items with an expanded question, a reference answer and a rubric of binary dimensions
for a judge.

License: CC BY 4.0; for your own set that of its rows. Revision: resolved at download. Link:
https://huggingface.co/datasets/ASD9987/PSV2026

Published accuracies are means over items, for each question type and for all; the mean over types
is reported next to them. The names of the columns with image, query and response are not public;
COLUMNS lists what they may be called.
"""

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
from lingshu.core.types import Criterion, Drop, Sample, Task
from lingshu.scoring import rubric
from lingshu.sources.hub import HubRepo
from lingshu.tasks import (
    SYNTHETIC_SOURCE,
    BenchmarkSource,
    Row,
    benchmark,
    image_samples,
    read_samples,
)

VARIANTS = {
    "psv2026": "PSV2026: 9,264 rewritten test questions of PathVQA, SLAKE and VQA-RAD, each with a"
    " rubric of binary dimensions for a judge.",
    "psv2026_own": "Your own test set in the layout of PSV2026, as `lingshu synthesize psv2026_test`"
    " writes it: rubrics for a judge.",
}
# What a row needs -> the columns that may hold it; the first that is present counts. `messages`
# holds query and response at once.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "query": ("query", "question", "expanded_query", "prompt", "instruction"),
    "response": ("response", "answer", "reference_answer", "reference", "output", "gold"),
    "image": ("image", "images", "image_path", "image_name", "img_name", "img", "image_file",
              "file_name"),
    "rubric": ("rubric", "rubrics"),
}  # fmt: skip
SOURCE_COLUMNS = ("source", "dataset", "data_source", "origin")
ID_COLUMNS = ("id", "sample_id", "item_id", "qid", "index")
FACETS = ("question_type", "modality", "main_topic", "source", "language")
# Kept unchanged where a row has them: what the builder notes next to the published fields.
META_COLUMNS = ("license", "modality", "access", "agreement", "deidentified")
EXTRA_COLUMNS = ("question_type", "main_topic", "parent", "original_question", "original_answer",
                 "teacher", "prompts")  # fmt: skip
TEST_FILES = ("data/test-*.parquet", "**/*test*.parquet", "**/*test*.jsonl", "**/*test*.json",
              "data/part-*.parquet")  # fmt: skip
_CHINESE_CHARACTER = re.compile(f"[{CJK}]")


def convert_row(raw: Row, *, embedded: bool = False) -> Row:
    """One row under any of the known names, or of a DATASET that `lingshu synthesize psv2026_test`
    wrote.

    With `embedded` the images are in the row's own shard; a file name next to them is a note.
    """
    extra = _parse_json(raw.get("extra"))
    raw = {
        **(extra if isinstance(extra, Mapping) else {}),
        **{name: value for name, value in raw.items() if value is not None},
    }
    query, response = _dialogue(raw)
    terms, group = _parse_json(raw.get("med_terms")), raw.get("group")
    language = "zh" if _CHINESE_CHARACTER.search(str(query)) else "en"
    dimensions = _parse_rubric(_first_value(raw, COLUMNS["rubric"]))
    values = {
        "id": _first_value(raw, ID_COLUMNS),
        "source": _first_value(raw, SOURCE_COLUMNS),
        "language": raw.get("language") or language,
        "kind": "rubric",
        "rubric": json.dumps(dimensions, ensure_ascii=False),
        "med_terms": None if terms is None else json.dumps(terms, ensure_ascii=False),
        "images": [] if embedded else _image_files(raw),
        **({"group": str(group)} if group else {"same_image": True}),
        # The access of your own rows is stated by them; the published rows state none.
        **{name: raw.get(name) for name in (*META_COLUMNS, *EXTRA_COLUMNS)},
    }
    return {
        "question": query,
        "gold": response,
        **{name: value for name, value in values.items() if value is not None},
    }


def _dialogue(raw: Row) -> tuple[object, object]:
    turns = _parse_json(raw.get("messages"))
    if not isinstance(turns, list) or not turns:
        return _first_value(raw, COLUMNS["query"]), _first_value(raw, COLUMNS["response"])
    text_by_role = {turn.get("role"): _text_content(turn.get("content")) for turn in turns}
    return text_by_role.get("user"), text_by_role.get("assistant")


def _text_content(content: object) -> str:
    if isinstance(content, str):
        return content.replace("<image>", "").strip()
    parts = content if isinstance(content, list) else []
    return "".join(part.get("text", "") for part in parts).strip()


def _image_files(raw: Row) -> list[str]:
    value = _first_value(raw, COLUMNS["image"])
    names = value if isinstance(value, list) else [value]
    return [name.removeprefix("./") for name in names if isinstance(name, str)]


def _parse_rubric(value: object) -> list[dict[str, Any]]:
    """The dimensions of a rubric; where no points are stated, or all are 0, each counts 1.

    Raises:
        RowError: bad_rubric.
    """
    rows = _parse_json(value)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, Mapping) for row in rows):
        raise RowError("bad_rubric: the rubric is not a list of {dim, score, description}.")
    points = [row.get("score") or 0 for row in rows]
    if not all(type(point) in (int, float) and 0 <= point < math.inf for point in points):
        raise RowError(f"bad_rubric: the points are {points}; numbers of 0 or more are expected.")
    descriptions = [str(row.get("description") or "").strip() for row in rows]
    if not all(descriptions):
        raise RowError("bad_rubric: a dimension has no description.")
    weights = points if any(points) else [1] * len(points)
    return [
        {"dim": str(row.get("dim") or ""), "score": weight, "description": text}
        for row, weight, text in zip(rows, weights, descriptions, strict=True)
    ]


def criteria(sample: Sample) -> Sequence[Criterion]:
    """The dimensions of an item's rubric, each either met or not, with its points.

    Raises:
        InputError: the sample has no rubric that can be read.
    """
    try:
        rows = _parse_rubric(sample.meta.extra["rubric"])
        return [Criterion(r["description"], float(r["score"]), r["dim"] or None) for r in rows]
    except (KeyError, RowError) as error:
        raise InputError(
            f"sample {sample.id!r} has no rubric that can be read ({error}); build the data again."
        ) from error


def reader(source: BenchmarkSource) -> Iterator[Sample | Drop]:
    """The items of the files, once it is clear which columns hold what.

    Raises:
        InputError: a column is missing; names the names it may have, and the columns found.
    """
    embedded = False
    for raw in islice(source.rows(), 1):
        embedded = bool(raw.images)
        _check_columns(raw.values, embedded=embedded, file=raw.file)
    for item in read_samples(source, partial(convert_row, embedded=embedded)):
        if isinstance(item, Sample) and not item.images:
            yield Drop(item.id, "no_image", "the row has no image that can be read.")
        else:
            yield item


def _check_columns(values: Mapping[str, Any], *, embedded: bool, file: str) -> None:
    dialogue = {"messages"} if isinstance(_parse_json(values.get("messages")), list) else set()
    extra = _parse_json(values.get("extra"))
    found = {*values, *(extra if isinstance(extra, Mapping) else ())}
    for field, names in COLUMNS.items():
        accepted = {*names, *(dialogue if field in ("query", "response") else ())}
        if not (field == "image" and embedded) and not found & accepted:
            columns = ", ".join(sorted(name for name in values if not name.startswith("_")))
            raise InputError(
                f"{file} has no column with the {field} (looked for {', '.join(names)}); its columns"
                f" are {columns}."
            )


def _first_value(raw: Row, names: Sequence[str]) -> Any:
    return next((raw[name] for name in names if raw.get(name) not in (None, "")), None)


def _parse_json(value: object) -> Any:
    """A value that may be written as JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return None


_SYNTHETIC_RUBRIC = (
    ("factual correctness", 3, "Says whether there is a lesion, and is right."),
    ("localization and anatomy", 2, "Names the location of each lesion."),
    ("visual grounding", 2, "Refers to what the image shows."),
    ("completeness", 1, "Omits no lesion."),
    ("soundness of reasoning", 1, "Draws no conclusion that does not follow."),
)


def synthetic(seed: int) -> list[Sample]:
    """Two rendered images with two questions each and a rubric, and no reference answer."""
    dimensions = [
        {"dim": dim, "score": points, "description": text}
        for dim, points, text in _SYNTHETIC_RUBRIC
    ]
    samples = []
    for index, sample in enumerate(image_samples("open", "yes_no")(seed)):
        extra = {
            "rubric": json.dumps(dimensions),
            "med_terms": '["lesion"]',
            "question_type": ("Visual Perception", "Factual Verification")[index % 2],
            "main_topic": SYNTHETIC_SOURCE,
        }
        meta = replace(sample.meta, kind="rubric", extra=extra)
        samples.append(replace(sample, gold=None, meta=meta))
    return samples


_REPO = HubRepo("ASD9987/PSV2026", TEST_FILES, archives=("**/*.zip",), single_table=True)


def _variant(name: str, title: str, license: str, expected_n: int | None = None) -> Task:
    return benchmark(
        name, title=title, repo=_REPO, license=license, reader=reader, score=rubric.score,
        synthetic=synthetic, expected_n=expected_n, language=None, facets=FACETS, max_tokens=1024,
        criteria=criteria,
    )  # fmt: skip


TASKS = {
    "psv2026": _variant("psv2026", "PSV2026", "CC-BY-4.0", 9264),
    "psv2026_own": _variant("psv2026_own", "Your own set in the layout of PSV2026", "that of the rows"),
}  # fmt: skip
