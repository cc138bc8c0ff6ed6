"""PSV2026 as a task: the published layout under the names it may have, its rubric, and what is
refused.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lingshu.cli.build import build
from lingshu.cli.report import report as command
from lingshu.core.errors import InputError
from lingshu.core.files import dump_line
from lingshu.core.types import Criterion, Drop, Sample
from lingshu.tasks.psv2026 import TASKS, criteria
from tests.evaluate.test_report import make_run, rows
from tests.ops.test_synthesis import GRAY_IMAGE

assert GRAY_IMAGE.data
RUBRIC = [
    {"dim": "accuracy", "score": 2, "description": "Names the left lung."},
    {"dim": "anatomy", "score": 1, "description": "Names the lobe."},
]
PUBLISHED = {
    "med_terms": ["left lung"],
    "question_type": "Visual Perception",
    "main_topic": "thoracic radiology",
    "modality": "CT",
    "rubric": RUBRIC,
}
TEXT = {"query": "Where does the mass lie?", "response": "In the left lung."}


def write_parquet(folder: Path, rows: list[dict], *, image: str = "image") -> Path:
    """Rows as a file of the hub, the image in its own column."""
    (folder / "data").mkdir(parents=True)
    table = pa.Table.from_pylist(
        [{**row, image: {"bytes": GRAY_IMAGE.data, "path": None}} for row in rows]
    )
    pq.write_table(table, folder / "data" / "test-00000-of-00001.parquet")
    return folder


def write_jsonl(folder: Path, rows: list[dict]) -> Path:
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(GRAY_IMAGE.data or b"")
    (folder / "test.jsonl").write_text("".join(map(dump_line, rows)))
    return folder


def read_items(folder: Path) -> list[Sample | Drop]:
    assert TASKS["psv2026"].read_original
    return list(TASKS["psv2026"].read_original(folder))


def test_the_published_layout_is_read(tmp_path: Path) -> None:
    (sample,) = read_items(write_parquet(tmp_path, [{**PUBLISHED, **TEXT}]))
    assert isinstance(sample, Sample) and len(sample.images) == 1
    assert (sample.question, sample.gold) == (TEXT["query"], (TEXT["response"],))
    facets = {name: sample.meta.facet(name) for name in TASKS["psv2026"].facets}
    assert facets == {
        "question_type": "Visual Perception", "modality": "CT", "main_topic": "thoracic radiology",
        "source": TASKS["psv2026"].provenance.source, "language": "en",
    }  # fmt: skip
    assert (
        sample.meta.license == "CC-BY-4.0"
        and sample.meta.group
        and json.loads(sample.meta.extra["med_terms"]) == ["left lung"]
    )
    assert criteria(sample) == [
        Criterion("Names the left lung.", 2.0, "accuracy"),
        Criterion("Names the lobe.", 1.0, "anatomy"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        {"question": TEXT["query"], "answer": TEXT["response"], "image": "a.png"},
        {"prompt": TEXT["query"], "reference_answer": TEXT["response"], "image_path": "./a.png"},
        {
            "messages": [
                {"role": "user", "content": f"<image>{TEXT['query']}"},
                {"role": "assistant", "content": TEXT["response"]},
            ],
            "images": ["a.png"],
        },
    ],
)
def test_the_names_that_are_not_public_may_be_any_of_a_few(text: dict, tmp_path: Path) -> None:
    (sample,) = read_items(
        write_jsonl(tmp_path / "in", [{**PUBLISHED, **text, "dataset": "SLAKE"}])
    )
    assert isinstance(sample, Sample) and (sample.question, sample.gold) == (
        TEXT["query"],
        (TEXT["response"],),
    )
    assert sample.meta.source == "SLAKE" and len(sample.images) == 1


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (
            {"ask": "Where?", "response": "There.", "image": "a.png"},
            r"the query \(looked for query, question, .*; its columns are .*ask, image",
        ),
        (
            {"query": "Where?", "said": "There.", "image": "a.png"},
            r"the response \(looked for response, answer",
        ),
        ({**TEXT, "photo": "a.png"}, r"the image \(looked for image, images"),
        ({**TEXT, "image": "a.png", "rubric": None}, None),
    ],
)
def test_unknown_columns_are_named(row: dict, what: str | None, tmp_path: Path) -> None:
    folder = write_jsonl(tmp_path / "in", [{**PUBLISHED, **row}])
    if what is None:
        assert [drop.reason for drop in read_items(folder) if isinstance(drop, Drop)] == [
            "bad_rubric"
        ]
        return
    with pytest.raises(InputError, match=rf"test.jsonl has no column with {what}"):
        read_items(folder)


def make_rubric(*values: object) -> list[dict]:
    return [
        {"dim": str(index), "score": value, "description": f"Says {index}."}
        for index, value in enumerate(values)
    ]


def test_criteria_without_positive_points_count_one_each(tmp_path: Path) -> None:
    rows = [
        {**PUBLISHED, **TEXT, "rubric": json.dumps(make_rubric(*values)), "image": "a.png"}
        for values in ((0, 0), (None, None), (3, 1))
    ]
    samples = [
        sample
        for sample in read_items(write_jsonl(tmp_path / "in", rows))
        if isinstance(sample, Sample)
    ]
    assert [[criterion.points for criterion in criteria(sample)] for sample in samples] == [
        [1.0, 1.0],
        [1.0, 1.0],
        [3.0, 1.0],
    ]


def test_rows_that_cannot_be_judged_are_dropped_with_their_reason(tmp_path: Path) -> None:
    valid_row = {**PUBLISHED, **TEXT, "image": "a.png"}
    invalid_changes = [
        {"rubric": []},
        {"rubric": "none"},
        {"rubric": make_rubric(-1)},
        {"rubric": '[{"dim": "a", "score": 1e999, "description": "b"}]'},
        {"rubric": [{"dim": "a", "score": 1}]},
        {"query": " "},
        {"response": None},
        {"image": "b.png"},
    ]
    items = read_items(
        write_jsonl(
            tmp_path / "in", [valid_row, *({**valid_row, **change} for change in invalid_changes)]
        )
    )
    assert [item.reason for item in items if isinstance(item, Drop)] == [
        *["bad_rubric"] * 5,
        "no_question",
        "empty_answer",
        "missing_image",
    ]
    assert len(items) == 9


def test_a_row_in_chinese_is_in_chinese(tmp_path: Path) -> None:
    (sample,) = read_items(
        write_jsonl(
            tmp_path / "in",
            [{**PUBLISHED, "query": "肿块在哪里？", "response": "左肺。", "image": "a.png"}],
        )
    )
    assert isinstance(sample, Sample) and sample.meta.language == "zh"


def test_an_image_column_of_another_name_is_reported(tmp_path: Path) -> None:
    (drop,) = read_items(write_parquet(tmp_path, [{**PUBLISHED, **TEXT}], image="img"))
    assert isinstance(drop, Drop) and drop.reason == "no_image"


def test_a_reply_waits_for_a_judge(tmp_path: Path) -> None:
    for task in (TASKS["psv2026"], TASKS["psv2026_own"]):
        with pytest.raises(InputError, match="needs a judge"):
            task.score(task.synthetic(0)[0], "left lung")
        assert task.criteria and len(task.criteria(task.synthetic(0)[0])) == 5
    with pytest.raises(InputError, match="no rubric"):
        criteria(Sample("a", ()))


def test_another_number_of_items_is_reported_and_a_custom_set_has_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_jsonl(tmp_path / "in", [{**PUBLISHED, **TEXT, "image": "a.png"}])
    assert build("psv2026", folder, out=tmp_path / "out") == 1
    assert "psv2026 has 1 samples where its source states 9264" in capsys.readouterr().out
    assert build("psv2026_own", folder, out=tmp_path / "out") == 0
    (sample,) = TASKS["psv2026_own"].samples(tmp_path / "out")
    assert isinstance(sample, Sample) and len(criteria(sample)) == 2


def test_a_report_states_the_mean_over_items_and_over_types(tmp_path: Path) -> None:
    score_rows = [
        *rows(1, 4, question_type="Visual Perception"),
        *rows(1, 1, question_type="Diagnostic Inference"),
        *rows(1, 1),
    ]
    for index, row in enumerate(score_rows):
        row["id"] = str(index)
    command(make_run(tmp_path, {"psv2026/scores.jsonl": score_rows}, facets=["question_type"]))
    report_text = (tmp_path / "report.md").read_text()
    assert "Over items (micro) 50.0, mean of the 2 values (macro) 62.5." in report_text, (
        "rows without a type do not count as a type"
    )
