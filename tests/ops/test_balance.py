"""Balance, mix and RL pool: quotas by hand, and what stays depends neither on order nor on shards."""

from __future__ import annotations

from collections import Counter

import pytest

from lingshu.core.errors import ConfigError, UnknownNameError
from lingshu.core.quotas import allocate_quotas
from lingshu.core.types import Sample
from lingshu.ops import balance, choice_to_open, mix, rl_pool
from tests.support.step_runners import qa_sample, run_decide, run_map_step, run_table_step


def samples_of(modality: str | None, n_samples: int, start: int = 0) -> list[Sample]:
    return [
        qa_sample(f"{modality}-{i}", "What is it?", "x", modality=modality, source=f"s-{modality}")
        for i in range(start, start + n_samples)
    ]


def test_fill_keeps_small_groups_together_and_shares_the_rest() -> None:
    assert allocate_quotas({"a": 2, "b": 10, "c": 10}, 12) == {"a": 2, "b": 5, "c": 5}
    assert allocate_quotas({"a": 2, "b": 3}, 100) == {"a": 2, "b": 3}
    assert sum(allocate_quotas({"a": 9, "b": 9, "c": 9}, 10).values()) == 10


@pytest.mark.parametrize(
    ("limits", "kept"),
    [
        ({"cap": 3}, {"CT": 3, "MRI": 2, None: 1}),
        ({"ratio": 1.0}, {"CT": 2, "MRI": 2, None: 1}),
        ({"total": 6}, {"CT": 3, "MRI": 2, None: 1}),
        ({"cap": 4, "total": 4}, {"CT": 2, "MRI": 1, None: 1}),
    ],
)
def test_each_limit_cuts_the_large_groups(limits: dict, kept: dict) -> None:
    result = run_table_step(
        balance.step(**limits), [*samples_of("CT", 8), *samples_of("MRI", 2), *samples_of(None, 1)]
    )
    assert Counter(sample.meta.modality for sample in result.kept) == kept
    assert {drop.reason for drop in result.drops} == {"over_quota"}


def test_groups_may_be_combinations_and_formats() -> None:
    samples = [
        qa_sample("a", "q", "yes", modality="CT"),
        qa_sample("b", "q", "no", modality="CT"),
        qa_sample("c", "q", "lung", modality="CT"),
    ]
    assert len(run_table_step(balance.step(by=["modality", "format"], cap=1), samples).kept) == 2


def test_what_is_kept_depends_only_on_ids_and_seed() -> None:
    samples = samples_of("CT", 40)
    selected_ids = set(run_table_step(balance.step(cap=10), samples).ids)
    assert set(run_table_step(balance.step(cap=10), samples[::-1]).ids) == selected_ids
    assert set(run_table_step(balance.step(cap=10, seed=1), samples).ids) != selected_ids


def test_mix_by_counts_and_by_fractions() -> None:
    samples = [*samples_of("CT", 10), *samples_of("MRI", 4), *samples_of("US", 3)]
    by_count = run_table_step(mix.step(by="modality", counts={"CT": 5, "MRI": 9}), samples)
    assert Counter(s.meta.modality for s in by_count.kept) == {"CT": 5, "MRI": 4}
    assert Counter(d.reason for d in by_count.drops) == {"over_quota": 5, "not_in_mix": 3}
    by_share = run_table_step(
        mix.step(by="modality", shares={"CT": 0.5, "MRI": 0.5}, other_groups="keep"), samples
    )
    assert Counter(s.meta.modality for s in by_share.kept) == {"CT": 4, "MRI": 4, "US": 3}
    assert run_decide(mix.step(by="modality", counts={"MRI": 9}), samples).stats["kept of MRI"] == 4


def test_the_papers_third_stage_at_a_small_scale() -> None:
    sources = {"slake": 5, "rocov2": 9, "openhermes": 3, "allava": 3, "icliniq": 2, "pmc_oa": 2}
    samples = [
        qa_sample(f"{name}-{i}", "q", "a", source=name)
        for name, n in sources.items()
        for i in range(n)
    ]
    step = mix.step(composition="lingshu_stage_3", scale=2e-6)
    kept = Counter(
        s.meta.source
        for s in run_table_step(step, samples, sources=[str(s.meta.source) for s in samples]).kept
    )
    # 5.4, 4.0, 2.0, 2.4 and 0.35 rounded; PMC-OA is stage 1
    assert kept == {"slake": 5, "rocov2": 4, "openhermes": 2, "allava": 2}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: balance.step(),
        lambda: balance.step(by=[], cap=1),
        lambda: balance.step(ratio=0.5),
        lambda: mix.step(),
        lambda: mix.step(counts={"a": 1}, shares={"a": 1.0}),
        lambda: mix.step(counts={"a": 1}, scale=0),
        lambda: mix.step(shares={"a": 0.0}),
        lambda: rl_pool.step(max_yes_no_fraction=1.0),
        lambda: rl_pool.step(pass_rate_above=0.9, pass_rate_below=0.1),
        lambda: choice_to_open.step(fraction=2),
    ],
)
def test_parameters_out_of_range_are_refused(wrong) -> None:
    with pytest.raises(ConfigError):
        wrong()


def test_an_unknown_composition_gets_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="lingshu_stage_3"):
        mix.step(composition="lingshu_stage3")


# --- the RL pool
# ---------------------------------------------------------------------------------------------------

CHOICES = ("lung", "heart", "liver", "kidney")


def choice_item(
    name: str, question: str, gold: str, choices: tuple[str, ...] = CHOICES, **metadata: object
) -> Sample:
    choice_list = "\n".join(
        [
            question,
            *(f"{letter}. {choice}" for letter, choice in zip("ABCD", choices, strict=False)),
        ]
    )
    return qa_sample(
        name,
        choice_list if choices else question,
        gold=(gold,),
        choices=choices,
        **metadata,  # pyright: ignore[reportArgumentType]
    )


def test_word_answers_lose_their_choices() -> None:
    (changed,) = run_map_step(
        choice_to_open.step(), [choice_item("a", "Which organ is shown?", "C")]
    ).kept
    assert (changed.question, changed.gold, changed.choices, changed.meta.kind) == (
        "Which organ is shown?",
        ("liver",),
        (),
        "open",
    )


@pytest.mark.parametrize(
    "kept",
    [
        choice_item("of", "Which of the following is shown?", "A"),
        choice_item("except", "All are seen EXCEPT", "A"),
        choice_item("zh", "下列哪项正确？", "A"),
        choice_item(
            "above", "Which organ is shown?", "D", ("lung", "heart", "liver", "all of the above")
        ),
        choice_item(
            "long",
            "What is seen?",
            "A",
            ("a large lesion of the right upper lobe", "none", "x", "y"),
        ),
        choice_item("number", "How many?", "A", ("3", "4", "5", "6")),
        choice_item("none", "What is it?", "", ()),
    ],
)
def test_items_that_need_their_choices_keep_them(kept: Sample) -> None:
    assert run_map_step(choice_to_open.step(), [kept]).kept == [kept]


def test_the_pool_has_equal_choice_and_open_and_few_yes_no() -> None:
    pool = [
        choice_item(f"c{i}", "Which organ is shown?", "A", modality="CT" if i % 2 else "MRI")
        for i in range(60)
    ]
    pool += [choice_item(f"o{i}", "Name the organ.", "lung", (), modality="CT") for i in range(40)]
    pool += [choice_item(f"y{i}", "Is it?", "yes", (), kind="yes_no") for i in range(50)]
    pool += [qa_sample("long", "Describe.", gold=("word " * 30,)), qa_sample("none", "What?")]
    result = run_table_step(rl_pool.step(), pool)
    counts = Counter(sample.id[0] for sample in result.kept)
    assert counts == {"c": 40, "o": 40, "y": 4}  # 4 of 84 are the most that stay within 5 %
    assert Counter(s.meta.modality for s in result.kept if s.id[0] == "c") == {"CT": 20, "MRI": 20}
    assert result.reasons["long"] == result.reasons["none"] == "not_verifiable"
    assert set(run_table_step(rl_pool.step(), pool[::-1]).ids) == set(result.ids)


def test_the_pass_rate_removes_questions_that_teach_nothing() -> None:
    pass_rates = {"never": "0.0", "often": "0.75", "always": "1", "unknown": None}
    pool = [
        choice_item(
            name, "Name the organ.", "lung", (), **({} if rate is None else {"pass_rate": rate})
        )
        for name, rate in pass_rates.items()
    ]
    result = run_table_step(rl_pool.step(), pool)
    assert result.ids == ["often", "unknown"] and result.reasons == {
        "never": "pass_rate",
        "always": "pass_rate",
    }
    assert (
        run_table_step(rl_pool.step(require_pass_rate=True), pool).reasons["unknown"]
        == "no_pass_rate"
    )
