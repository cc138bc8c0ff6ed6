"""Review: which samples are shown, what verdicts do to them, and the numbers in the
card.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lingshu.core.errors import InputError
from lingshu.core.messages import user_turn
from lingshu.core.types import Drop, Message, Meta, Sample
from lingshu.curate.review import (
    ReviewQueue,
    Verdict,
    apply_verdicts,
    check_limits,
    group_by_sample,
    queue_row,
    read_verdicts,
    review_stats,
    reviewer_agreement,
    summarize_reviews,
)


def build_sample(
    name: str = "a",
    answer: str = "Old text.",
    *,
    kind: str = "long_caption",
    second: str | None = None,
    **fields: object,
) -> Sample:
    extra = {"synthetic": kind, **({"alternative": second} if second else {})}
    return Sample(
        name,
        (user_turn("Describe.", 0), Message("assistant", (answer,))),
        meta=Meta(extra=extra),
        **fields,  # type: ignore[arg-type]
    )


def write_verdicts(folder: Path, *rows: dict[str, str]) -> Path:
    path = folder / "verdicts.jsonl"
    path.write_text(
        "".join(json.dumps({"id": "a", "reviewer": "r1", **row}) + "\n" for row in rows),
        encoding="utf-8",
    )
    return path


def test_the_queue_depends_on_the_seed_and_not_on_the_order() -> None:
    samples = [
        build_sample(f"s{number}", kind=kind)
        for kind in ("x", "y")
        for number in range(500 if kind == "x" else 3)
    ]
    queues = []
    for seed, order in ((0, samples), (0, samples[::-1]), (1, samples)):
        queue = ReviewQueue(n_per_kind=5, seed=seed)
        for sample in order:
            queue.add(sample)
        queues.append([(sample.id, sample.meta.extra["synthetic"]) for sample in queue.selected()])
    assert queues[0] == queues[1] != queues[2]
    assert [kind for _, kind in queues[0]] == ["x"] * 5 + ["y"] * 3


def test_a_row_of_the_queue_shows_both_texts() -> None:
    row = queue_row(build_sample(second="Another."), ["images/0.png"])
    assert (row["first"], row["second"], row["question"], row["images"]) == (
        "Old text.",
        "Another.",
        "Describe.",
        ["images/0.png"],
    )


def test_one_rejection_drops_a_sample_even_if_others_accepted_it() -> None:
    found = apply_verdicts(
        build_sample(),
        [
            Verdict("a", "r1", "accept"),
            Verdict("a", "r2", "reject", reason="wrong side"),
            Verdict("a", "r3", "accept"),
        ],
    )
    assert found == Drop("a", "rejected_in_review", "wrong side")


def test_an_edit_replaces_the_text_and_the_gold_equal_to_it() -> None:
    found = apply_verdicts(
        build_sample(gold=("Old text.",)),
        [Verdict("a", "r1", "edit", text="First."), Verdict("a", "r2", "edit", text="Last.")],
    )
    assert (
        isinstance(found, Sample)
        and found.messages[-1].text == "Last."
        and found.gold == ("Last.",)
    )


def test_an_edited_choice_is_another_letter() -> None:
    sample = build_sample(answer="A", gold=("A",), choices=("x", "y"))
    found = apply_verdicts(sample, [Verdict("a", "r1", "edit", text="B")])
    assert isinstance(found, Sample) and found.gold == ("B",) and found.messages[-1].text == "B"
    with pytest.raises(InputError, match="letters"):
        apply_verdicts(sample, [Verdict("a", "r1", "edit", text="C")])


def test_a_preference_selects_the_other_text() -> None:
    sample = build_sample(second="Other text.")
    found = apply_verdicts(sample, [Verdict("a", "r1", "prefer", prefer="second")])
    assert isinstance(found, Sample) and found.messages[-1].text == "Other text."
    assert apply_verdicts(sample, [Verdict("a", "r1", "prefer", prefer="first")]) is sample
    with pytest.raises(InputError, match="second text"):
        apply_verdicts(build_sample(), [Verdict("a", "r1", "prefer", prefer="second")])


def test_the_last_line_of_a_reviewer_counts(tmp_path: Path) -> None:
    path = write_verdicts(
        tmp_path,
        {"verdict": "accept"},
        {"verdict": "accept", "reviewer": "r2"},
        {"verdict": "reject", "reason": "blurred"},
    )
    assert group_by_sample(read_verdicts([path])) == {
        "a": [Verdict("a", "r2", "accept"), Verdict("a", "r1", "reject", reason="blurred")]
    }


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"verdict": "fine"}, "one of accept"),
        ({"verdict": "accept", "reviewer": " "}, "reviewer"),
        ({"verdict": "edit"}, "needs 'text'"),
        ({"verdict": "reject"}, "needs 'reason'"),
        ({"verdict": "prefer", "prefer": "third"}, "first or second"),
        ({"verdict": "accept", "note": "x"}, "unknown key 'note'"),
    ],
)
def test_an_invalid_verdict_is_named_by_its_line(
    tmp_path: Path, row: dict[str, str], message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        read_verdicts([write_verdicts(tmp_path, {"verdict": "accept"}, row)])
    assert "line 2" in str(error.value)


def test_agreement_of_two_reviewers() -> None:
    # 40 accepted and 40 rejected by both, 10 each way apart: po .8, chance .5; AC1's chance is (.25
    # + .25 + 0) / 2.
    pairs = (
        [("accept", "accept")] * 40
        + [("reject", "reject")] * 40
        + [("accept", "reject")] * 10
        + [("reject", "accept")] * 10
    )
    found = reviewer_agreement(("r1", "r2"), pairs)
    assert found.n == 100 and found.observed_agreement == pytest.approx(0.8)
    assert found.kappa == pytest.approx(0.6) and found.ac1 == pytest.approx((0.8 - 0.25) / 0.75)


def test_rare_faults_do_not_make_agreement_vanish_in_ac1() -> None:
    pairs = [("accept", "accept")] * 118 + [("accept", "reject")] * 5 + [("reject", "accept")] * 2
    found = reviewer_agreement(("r1", "r2"), pairs)
    assert found.kappa is not None and found.kappa < 0 < 0.9 < found.ac1
    assert reviewer_agreement(("r1", "r2"), [("accept", "accept")] * 3).kappa is None


def test_quality_counts_samples_and_not_verdicts() -> None:
    both = [Verdict("a", "r1", "accept"), Verdict("a", "r2", "reject", reason="wrong side")]
    found = summarize_reviews(
        "long_caption",
        [both, [Verdict("b", "r1", "edit", text="x")], [Verdict("c", "r1", "accept")]],
    )
    assert found.reviewed == 3 and found.verdicts == {"accept": 2, "edit": 1, "reject": 1}
    assert found.rejected.value == pytest.approx(
        1 / 3
    ) and found.edited_or_rejected.value == pytest.approx(2 / 3)
    assert found.reasons == {"wrong side": 1} and [pair.reviewers for pair in found.agreement] == [
        ("r1", "r2")
    ]
    assert review_stats(found)["rejected"] == "33.3% (95% interval 6.1% to 79.2%)"


def test_a_kind_with_too_many_rejections_stops() -> None:
    rejected = [[Verdict(str(n), "r1", "reject", reason="invented finding")] for n in range(2)]
    accepted = [[Verdict(str(n), "r1", "accept")] for n in range(2, 10)]
    found = [summarize_reviews("ocr_exam", [*rejected, *accepted])]
    check_limits(found, limit=0.2)
    check_limits(found, limit=0.0, limits={"ocr_exam": 0.5})
    with pytest.raises(
        InputError,
        match=(
            r"ocr_exam: reviewers rejected 2 of 10 samples \(20%\).*limit of 10%.*invented finding"
        ),
    ):
        check_limits(found, limit=0.1)
