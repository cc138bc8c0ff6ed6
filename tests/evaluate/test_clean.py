"""The score on clean items: which items a file of overlaps removes, and what is said of those it
does not know.
"""

import json
from pathlib import Path

import pytest

from lingshu.core.errors import InputError
from lingshu.core.files import sha256_file
from lingshu.evaluate._clean_sections import clean_section
from lingshu.evaluate._document import Points
from lingshu.evaluate.clean import (
    STRICTEST,
    contrast,
    kinds_of,
    names_of,
    on_clean_items,
    read_overlaps,
)
from lingshu.evaluate.scored import ScoredRun, ScoredTask
from lingshu.evaluate.summary import summarise


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
            ScoredTask(name, {"title": name.upper()}, {"strict": found})
            for name, found in tasks.items()
        ),
    )


def write(folder: Path, *found: tuple[str, str, str | None], card: dict | None = None) -> Path:
    path = folder / "overlaps.jsonl"
    lines = [
        {"train_id": "n", "test_id": item, "kind": kind, "evidence": "", "train": "t", "test": test}
        for item, kind, test in found
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
    found = [
        ("q0", "exact_text", "slake"),
        ("q0", "study", "slake"),
        ("q1", "image_near", "slake"),
        ("q2", "boilerplate", "slake"),
    ]
    told = on_clean_items(
        run(slake=rows(1, 1, 0, 1, 0, None)), read_overlaps(write(tmp_path, *found))
    )
    (one,) = told.tasks
    assert (one.full.n, one.full.accuracy.value) == (5, 0.6)
    assert (one.clean.n, one.clean.accuracy.value, one.clean.errors) == (3, 1 / 3, 1)
    assert (one.contaminated.n, one.contaminated.accuracy.value) == (2, 1.0)
    assert one.difference.value == pytest.approx(2 / 3)
    assert [(each.kind, each.items, each.removes) for each in one.kinds] == [
        ("exact_text", 1, True), ("image_near", 1, True), ("study", 1, True), ("boilerplate", 1, False),
    ]  # fmt: skip
    assert told.kinds == STRICTEST and "boilerplate" not in STRICTEST


def test_kinds_can_be_named(tmp_path):
    found = [
        ("q0", "exact_text", "slake"),
        ("q1", "image_near", "slake"),
        ("q2", "boilerplate", "slake"),
    ]
    overlaps = read_overlaps(write(tmp_path, *found))
    (one,) = on_clean_items(
        run(slake=rows(1, 1, 0)), overlaps, kinds_of("boilerplate, exact_text")
    ).tasks
    assert (one.clean.n, one.contaminated.n) == (1, 2)
    with pytest.raises(InputError, match="did you mean 'exact_text'"):
        kinds_of("exact")
    with pytest.raises(InputError, match="names nothing"):
        kinds_of(" , ")


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
    assert "slake" in names_of(test)


def test_names_that_only_begin_alike_are_others():
    assert "slake" not in names_of("slake_en") | names_of("slake/test.jsonl") | names_of(
        "rows.jsonl"
    ) | names_of("slake.zh")


def test_one_file_may_cover_several_tests_and_the_others_are_told(tmp_path):
    path = write(
        tmp_path,
        ("q0", "study", "a"),
        ("q1", "study", "x/b.jsonl"),
        ("q9", "study", "b"),
        ("q0", "study", "elsewhere.jsonl"),
    )
    told = on_clean_items(run(a=rows(1, 0), b=rows(1, 0), c=rows(1, 0)), read_overlaps(path))
    assert [(one.name, one.clean.n, one.elsewhere) for one in told.tasks] == [
        ("a", 1, 0),
        ("b", 1, 1),
    ]
    assert (told.left_out, told.unknown) == (("C",), ("elsewhere.jsonl",))


def test_a_test_without_overlaps_is_clean_where_the_run_card_says_that_it_was_compared(tmp_path):
    path = write(tmp_path, card={"against": ["a"], "train": ["corpus.jsonl"]})
    told = on_clean_items(run(a=rows(1, 0), b=rows(1, 0)), read_overlaps(path))
    assert [(one.name, one.clean.n) for one in told.tasks] == [("a", 2)]
    assert (told.trains, told.left_out) == (("corpus.jsonl",), ("B",))


def test_rows_without_a_test_belong_to_every_task(tmp_path):
    told = on_clean_items(
        run(a=rows(1, 0), b=rows(1, 0)), read_overlaps(write(tmp_path, ("q0", "study", None)))
    )
    assert [one.clean.n for one in told.tasks] == [1, 1]


def test_overlaps_of_other_tests_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="speaks of vqa_rad, and run has slake"):
        on_clean_items(
            run(slake=rows(1)), read_overlaps(write(tmp_path, ("q0", "study", "vqa_rad")))
        )
    with pytest.raises(InputError, match="no test set at all"):
        on_clean_items(run(slake=rows(1)), read_overlaps(write(tmp_path)))


def test_what_is_no_file_of_overlaps_is_refused_with_its_line(tmp_path):
    with pytest.raises(InputError, match="lingshu overlap"):
        read_overlaps(tmp_path / "nothing.jsonl")
    path = write(tmp_path, ("q0", "study", "a"), ("q1", "same", "a"))
    with pytest.raises(InputError, match="line 2: no row of overlaps"):
        read_overlaps(path)


def test_the_interval_of_the_contrast_is_newcombes():
    """The example of Newcombe's paper: 56 of 70 against 48 of 80 gives 0.0524 to 0.3339."""
    found = contrast(summarise(rows(*[1] * 56, *[0] * 14)), summarise(rows(*[1] * 48, *[0] * 32)))
    assert [round(end, 4) for end in found[:3] if end is not None] == [0.2, 0.0524, 0.3339]
    assert contrast(summarise([]), summarise(rows(1, 0))) == (None, None, None, 2)


def test_shared_groups_widen_the_intervals(tmp_path):
    found = [(f"q{i}", "study", "a") for i in range(20)]
    values = [1, 1, 0, 0] * 10
    alone, grouped = (
        on_clean_items(
            run(a=rows(*values, group=group)), read_overlaps(write(tmp_path, *found))
        ).tasks[0]
        for group in (False, True)
    )
    assert grouped.full.method == "clustered bootstrap"
    assert grouped.difference.low < alone.difference.low  # type: ignore[operator]


def test_what_could_not_be_compared_is_told(tmp_path):
    path = write(tmp_path, ("q0", "study", "a"))
    card = {
        "config": {"against": ["a"], "train": ["t"]},
        "notes": {"failed": {"unreadable images": 3, "test bad_row": 1}, "pairs_not_compared": 7},
    }
    (tmp_path / "overlaps.jsonl.run.json").write_text(json.dumps(card))
    told = on_clean_items(run(a=rows(1, 0)), read_overlaps(path))
    assert told.unread == {"unreadable images": 3, "test bad_row": 1, "pairs of look-alikes": 7}
    said = [
        line
        for part in clean_section(told).parts
        if isinstance(part, Points)
        for line in part.items
    ]
    assert said == [
        "Not compared, and so counted as clean: unreadable images 3, test bad_row 1, pairs of"
        " look-alikes 7. Mend those rows and images, and compare again."
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
    assert read_overlaps(path).tests == ("slake", "medqa")
    write(tmp_path, ("q1", "exact_text", "slake"))
    with pytest.raises(InputError, match="was not written for the rows"):
        read_overlaps(path)
