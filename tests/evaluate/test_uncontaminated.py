"""The score on clean items: which items a file of overlaps removes, and what is said of those it
does not know.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lingshu.core.errors import InputError
from lingshu.core.files import sha256_file
from lingshu.evaluate.report.build import as_markdown, assemble
from lingshu.evaluate.store import ScoredRun, ScoredTask
from lingshu.evaluate.summary import summarize
from lingshu.evaluate.uncontaminated import (
    compare_uncontaminated,
    contrast,
    parse_kinds,
    read_overlaps,
    task_names,
)
from lingshu.search.overlap import CONTAMINATION_KINDS


def rows(*values: float | None, group: bool = False) -> list[dict]:
    return [
        {
            "id": f"q{i}",
            "value": value,
            "status": "error" if value is None else "ok",
            "group": i // 2 if group else None,
        }
        for i, value in enumerate(values)
    ]


def run(**tasks: list[dict]) -> ScoredRun:
    return ScoredRun(
        "run",
        "m",
        tuple(
            ScoredTask(name, {"title": name.upper()}, {"strict": result})
            for name, result in tasks.items()
        ),
    )


def write(folder: Path, *result: tuple[str, str, str | None], card: dict | None = None) -> Path:
    path = folder / "overlaps.jsonl"
    lines = [
        {"train_id": "n", "test_id": item, "kind": kind, "evidence": "", "train": "t", "test": test}
        for item, kind, test in result
    ]
    path.write_text(
        "".join(
            json.dumps({k: v for k, v in line.items() if v is not None}) + "\n" for line in lines
        )
    )
    if card is not None:
        (folder / "overlaps.jsonl.run.json").write_text(json.dumps({"config": card}))
    return path


def test_items_with_an_overlap_are_removed_and_boilerplate_is_not_one(tmp_path):
    result = [
        ("q0", "exact_text", "slake"),
        ("q0", "study", "slake"),
        ("q1", "image_near", "slake"),
        ("q2", "boilerplate", "slake"),
    ]
    output = compare_uncontaminated(
        run(slake=rows(1, 1, 0, 1, 0, None)), read_overlaps(write(tmp_path, *result))
    )
    (task,) = output.tasks
    assert (task.full.n, task.full.accuracy.value) == (5, 0.6)
    assert (task.clean.n, task.clean.accuracy.value, task.clean.errors) == (3, 1 / 3, 1)
    assert (task.contaminated.n, task.contaminated.accuracy.value) == (2, 1.0)
    assert task.difference.value == pytest.approx(2 / 3)
    assert [(kind_count.kind, kind_count.n_items, kind_count.is_excluded) for kind_count in task.kinds] == [
        ("exact_text", 1, True), ("image_near", 1, True), ("study", 1, True), ("boilerplate", 1, False),
    ]  # fmt: skip
    assert output.kinds == CONTAMINATION_KINDS and "boilerplate" not in CONTAMINATION_KINDS


def test_kinds_can_be_named(tmp_path):
    result = [
        ("q0", "exact_text", "slake"),
        ("q1", "image_near", "slake"),
        ("q2", "boilerplate", "slake"),
    ]
    overlaps = read_overlaps(write(tmp_path, *result))
    (task,) = compare_uncontaminated(
        run(slake=rows(1, 1, 0)), overlaps, parse_kinds("boilerplate, exact_text")
    ).tasks
    assert (task.clean.n, task.contaminated.n) == (1, 2)
    with pytest.raises(InputError, match="did you mean 'exact_text'"):
        parse_kinds("exact")
    with pytest.raises(InputError, match="names nothing"):
        parse_kinds(" , ")


@pytest.mark.parametrize(
    "test",
    [
        "slake",
        "benchmarks/slake",
        "slake.jsonl",
        "data/slake.jsonl",
        "mine/slake.py",
        "slake/rows.jsonl",
    ],
)
def test_a_test_set_is_a_task_by_its_name_or_the_last_part_of_its_path(test):
    assert "slake" in task_names(test)


def test_names_with_a_common_prefix_are_different():
    assert "slake" not in task_names("slake_en") | task_names("slake/test.jsonl") | task_names(
        "rows.jsonl"
    ) | task_names("slake.zh")


def test_one_file_may_cover_several_tests_and_the_others_are_reported(tmp_path):
    path = write(
        tmp_path,
        ("q0", "study", "a"),
        ("q1", "study", "x/b.jsonl"),
        ("q9", "study", "b"),
        ("q0", "study", "elsewhere.jsonl"),
    )
    output = compare_uncontaminated(
        run(a=rows(1, 0), b=rows(1, 0), c=rows(1, 0)), read_overlaps(path)
    )
    assert [(task.name, task.clean.n, task.n_not_in_run) for task in output.tasks] == [
        ("a", 1, 0),
        ("b", 1, 1),
    ]
    assert (output.excluded, output.unknown_test_sets) == (("C",), ("elsewhere.jsonl",))


def test_a_test_without_overlaps_is_clean_where_the_run_card_states_that_it_was_compared(tmp_path):
    path = write(tmp_path, card={"against": ["a"], "train": ["corpus.jsonl"]})
    output = compare_uncontaminated(run(a=rows(1, 0), b=rows(1, 0)), read_overlaps(path))
    assert [(task.name, task.clean.n) for task in output.tasks] == [("a", 2)]
    assert (output.training_sets, output.excluded) == (("corpus.jsonl",), ("B",))


def test_rows_without_a_test_belong_to_every_task(tmp_path):
    output = compare_uncontaminated(
        run(a=rows(1, 0), b=rows(1, 0)), read_overlaps(write(tmp_path, ("q0", "study", None)))
    )
    assert [task.clean.n for task in output.tasks] == [1, 1]


def test_overlaps_of_other_tests_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="covers vqa_rad, and run has slake"):
        compare_uncontaminated(
            run(slake=rows(1)), read_overlaps(write(tmp_path, ("q0", "study", "vqa_rad")))
        )
    with pytest.raises(InputError, match="no test set at all"):
        compare_uncontaminated(run(slake=rows(1)), read_overlaps(write(tmp_path)))


def test_an_invalid_file_of_overlaps_is_refused_with_its_line(tmp_path):
    with pytest.raises(InputError, match="lingshu overlap"):
        read_overlaps(tmp_path / "nothing.jsonl")
    path = write(tmp_path, ("q0", "study", "a"), ("q1", "same", "a"))
    with pytest.raises(InputError, match="line 2: not a row of overlaps"):
        read_overlaps(path)


def test_the_interval_of_the_contrast_is_newcombes():
    """The example of Newcombe's paper: 56 of 70 against 48 of 80 gives 0.0524 to 0.3339."""
    result = contrast(summarize(rows(*[1] * 56, *[0] * 14)), summarize(rows(*[1] * 48, *[0] * 32)))
    assert [round(end, 4) for end in result[:3] if end is not None] == [0.2, 0.0524, 0.3339]
    assert contrast(summarize([]), summarize(rows(1, 0))) == (None, None, None, 2)


def test_shared_groups_widen_the_intervals(tmp_path):
    result = [(f"q{i}", "study", "a") for i in range(20)]
    values = [1, 1, 0, 0] * 10
    alone, grouped = (
        compare_uncontaminated(
            run(a=rows(*values, group=group)), read_overlaps(write(tmp_path, *result))
        ).tasks[0]
        for group in (False, True)
    )
    assert grouped.full.method == "effective wilson"
    assert grouped.difference.low < alone.difference.low  # type: ignore[operator]


def test_what_could_not_be_compared_is_reported(tmp_path):
    path = write(tmp_path, ("q0", "study", "a"))
    card = {
        "config": {"against": ["a"], "train": ["t"]},
        "notes": {"failed": {"unreadable images": 3, "test bad_row": 1}, "pairs_not_compared": 7},
    }
    (tmp_path / "overlaps.jsonl.run.json").write_text(json.dumps(card))
    output = compare_uncontaminated(run(a=rows(1, 0)), read_overlaps(path))
    assert output.not_compared == {
        "unreadable images": 3,
        "test bad_row": 1,
        "pairs of look-alikes": 7,
    }
    report = replace(assemble("m", []), clean=output)
    lines = [line for line in as_markdown(report).splitlines() if line.startswith("- ")]
    assert lines == [
        "- Not compared, and so counted as clean: unreadable images 3, test bad_row 1, pairs of"
        " look-alikes 7. Fix those rows and images, and compare again."
    ]


def test_a_run_card_of_other_rows_is_refused(tmp_path):
    # `lingshu overlap` that was killed between its rows and its card: the card is that of an
    # earlier comparison.
    path = write(tmp_path, ("q0", "exact_text", "slake"), card={"against": ["slake"]})
    card = tmp_path / "overlaps.jsonl.run.json"
    card.write_text(
        json.dumps(
            {
                "config": {"against": ["slake", "medqa"]},
                "hashes": {"overlaps.jsonl": sha256_file(path)},
            }
        )
    )
    assert read_overlaps(path).test_sets == ("slake", "medqa")
    write(tmp_path, ("q1", "exact_text", "slake"))
    with pytest.raises(InputError, match="was not written for the rows"):
        read_overlaps(path)
