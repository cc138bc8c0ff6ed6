"""Controls: what is asked, that nothing is asked twice, and that each number is the one its rows
imply.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lingshu.core.artifacts import read_scores
from lingshu.core.errors import EngineError, InputError
from lingshu.core.files import read_jsonl
from lingshu.core.messages import user_turn
from lingshu.core.prompts import build_prompt, instructions
from lingshu.core.rows import LETTERS, with_choices
from lingshu.core.types import Image, Meta, Sample, Sampling, Task
from lingshu.evaluate import controls, perturbations
from lingshu.evaluate.controls import (
    CONTROL_NAMES,
    STALE_REASON,
    ControlResult,
    compare,
    parse_controls,
    read_controls,
)
from lingshu.evaluate.data import LoadedTask
from lingshu.evaluate.generate import generate
from lingshu.evaluate.perturbations import N_PARAPHRASES, paraphrases
from lingshu.evaluate.score import score
from lingshu.imaging.cache import ImageCache
from lingshu.imaging.read import encode_png, image_bytes, open_image
from tests.support.evaluation import RecordingEngine, demo_task

SLAKE = Path(__file__).parents[3] / "shared" / "data" / "slake_huatuo_vision_outputs"
CHOICE = instructions()["choice", "en", "direct"]
COLORS = ("red", "green", "blue", "white")


def make_image(value: int, width: int = 9, height: int = 5) -> Image:
    return Image(data=encode_png(np.full((height, width), value, dtype=np.uint8)))


def item(number: int, *, choices: tuple[str, ...] = COLORS, gold: str | None = None) -> Sample:
    """A question about a picture as bright as its number; the right option goes round."""
    letter = gold or (LETTERS[number % len(choices)] if choices else "yes")
    meta = Meta(access="open", kind="choice" if choices else "yes_no", group=f"p{number // 2}")
    turn = user_turn(with_choices(f"Which color has item {number}?", choices), 1)
    return Sample(f"s{number}", (turn,), (make_image(100 + number),), (letter,), choices, meta)


ITEMS = [item(i) for i in range(6)] + [item(i, choices=()) for i in range(6, 8)]
TASK = demo_task(ITEMS, prompt=build_prompt)


def run(
    engine: RecordingEngine,
    folder: Path,
    names: Sequence[str] = CONTROL_NAMES,
    *,
    task: Task = TASK,
    items: Sequence[Sample] = ITEMS,
    n_shuffles: int = 2,
):
    """A run with its controls, as the command makes it; how many questions of the controls failed."""
    samples = [task.prompt(sample, "direct") if task.prompt else sample for sample in items]
    generate(task, samples, engine, folder, sampling=Sampling(), images=image_bytes)
    score(task, samples, folder)
    loaded = LoadedTask(task, samples, (), lambda: iter(items))
    with ImageCache() as images:
        prepared = controls.prepare(
            names, loaded, folder, header=images.header, n_shuffles=n_shuffles
        )
    controls.generate_all(prepared, task, engine, folder, sampling=Sampling(), images=image_bytes)
    return controls.score_all(prepared, task, samples, folder)


def control_result(folder: Path, name: str) -> ControlResult:
    return next(result for result in read_controls(folder) if result.name == name)


# --- questions
# -------------------------------------------------------------------------------------------------------


def test_a_blind_sample_has_black_images_of_the_same_size_and_the_same_question():
    sample = replace(item(0), images=(make_image(9, 7, 3), Image("nowhere.png")))
    with ImageCache() as images:
        with_black_images = perturbations.with_black_images(sample, images.header)
    assert isinstance(with_black_images, Sample)
    black = open_image(with_black_images.images[0])
    assert (black.size, black.getextrema()) == ((7, 3), ((0, 0), (0, 0), (0, 0)))
    assert with_black_images.images[1] == Image("nowhere.png")
    assert (with_black_images.messages, with_black_images.gold) == (sample.messages, sample.gold)


def test_orders_differ_from_each_other_and_from_the_given_one_and_stay_the_same():
    orders = perturbations.option_orders("s1", 4, 5, seed=0)
    assert len(set(orders)) == 5 and (0, 1, 2, 3) not in orders
    assert (
        orders
        == perturbations.option_orders("s1", 4, 5, seed=0)
        != perturbations.option_orders("s1", 4, 5, seed=1)
    )
    assert perturbations.option_orders("s1", 4, 1, seed=0) == [(1, 0, 2, 3)]
    assert [len(perturbations.option_orders("s1", n, 5, seed=0)) for n in (1, 2, 3)] == [0, 1, 5]


def test_a_shuffled_sample_reorders_the_options_in_the_format_of_its_task_and_its_gold_follows():
    shuffled = perturbations.shuffle_options(
        item(1), (3, 2, 1, 0), lambda sample: build_prompt(sample, "direct")
    )
    assert isinstance(shuffled, Sample)
    assert (shuffled.choices, shuffled.gold) == (("white", "blue", "green", "red"), ("C",))
    assert (
        shuffled.question
        == "\nQuestion: Which color has item 1?\nOptions: \nA. white\nB. blue\nC. green\nD. red\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert shuffled.messages[0].parts[0] == 0


@pytest.mark.parametrize(
    ("choices", "question", "reason"),
    [
        ((), "Which?", perturbations.NO_OPTIONS),
        (("red", "green", "Both A and B"), "Which?", perturbations.LINKED_OPTIONS),
        (("red", "green", "None of the above"), "Which?", perturbations.LINKED_OPTIONS),
        (("甲", "乙", "以上都不是"), "Which?", perturbations.LINKED_OPTIONS),
        (("red", "green"), "Which? (A) red (B) green", perturbations.OTHER_OPTION_FORMAT),
        (("red", "green"), "Which of the two colors?", perturbations.OTHER_OPTION_FORMAT),
    ],
)
def test_items_whose_options_cannot_be_reordered_explain_why(choices, question, reason):
    listed = (
        question if reason == perturbations.OTHER_OPTION_FORMAT else with_choices(question, choices)
    )
    sample = Sample("s", (user_turn(listed, 0),), (), ("A",), choices, Meta(kind="choice"))
    assert (
        perturbations.shuffle_options(sample, range(len(choices))[::-1], lambda moved: moved)
        == reason
    )


def test_a_custom_prompt_may_list_the_options_in_its_own_format():
    def ask(sample: Sample) -> Sample:
        listed = " ".join(
            f"({letter}) {text}" for letter, text in zip(LETTERS, sample.choices, strict=False)
        )
        return replace(sample, messages=(user_turn(f"Choose: {listed}", 0),))

    moved = perturbations.shuffle_options(item(0), (1, 0, 2, 3), ask)
    assert (
        isinstance(moved, Sample)
        and moved.question == "Choose: (A) green (B) red (C) blue (D) white"
    )


def test_text_that_only_looks_like_a_link_between_options_does_not_count():
    for choices in (
        ("vitamins A and D", "iron"),
        ("either a cyst or a cancer", "no"),
        ("6岁以上", "6岁以下"),
        ("hepatitis A", "hepatitis B"),
    ):
        sample = Sample(
            "s",
            (user_turn(with_choices("Which?", choices), 0),),
            (),
            ("A",),
            choices,
            Meta(kind="choice"),
        )
        assert isinstance(
            perturbations.shuffle_options(sample, (1, 0), lambda moved: moved), Sample
        ), choices


def test_every_instruction_has_paraphrases_that_keep_the_answer_format():
    by_instruction, bare_questions = paraphrases()
    for key, text in instructions().items():
        assert len({text, *by_instruction[text]}) == N_PARAPHRASES + 1, key
        assert all(
            ("\\boxed{}" in paraphrased) == (key[2] == "cot")
            for paraphrased in by_instruction[text]
        ), key
    assert {len(set(templates)) for templates in bare_questions.values()} == {N_PARAPHRASES}


def test_a_reworded_sample_changes_its_instruction_alone():
    prompted = build_prompt(item(0), "direct")
    for number in range(N_PARAPHRASES):
        paraphrased = perturbations.paraphrase(prompted, number, is_bare=False)
        assert isinstance(paraphrased, Sample)
        assert paraphrased.question == prompted.question.replace(
            CHOICE, paraphrases()[0][CHOICE][number]
        )
        assert paraphrased.messages[0].parts[0] == 0
    bare = perturbations.paraphrase(item(0), 0, is_bare=True)
    assert isinstance(bare, Sample) and bare.question == f"Question: {item(0).question}"
    assert perturbations.paraphrase(item(0), 0, is_bare=False) == perturbations.NO_PARAPHRASE
    assert (
        perturbations.paraphrase(replace(item(0), meta=Meta(language="fr")), 0, is_bare=True)
        == perturbations.NO_PARAPHRASE
    )


# --- a run with its controls
# -------------------------------------------------------------------------------------------


def test_a_model_that_uses_images_loses_accuracy_without_them(tmp_path):
    """It is right where it sees an image that is not black."""
    run(
        RecordingEngine(
            lambda sample: sample.gold[0] if np.asarray(open_image(sample.images[0])).any() else "E"  # type: ignore[index]
        ),
        tmp_path,
        ["blind"],
    )
    (line,) = control_result(tmp_path, "blind").comparisons
    assert (line.n, line.control_accuracy.value, line.run_accuracy, line.difference.value) == (
        8,
        0.0,
        1.0,
        1.0,
    )
    assert line.test is not None and line.test.p_value < 0.2


def test_a_model_that_always_answers_a_is_detected(tmp_path):
    run(RecordingEngine(lambda sample: "A"), tmp_path, ["shuffle", "constant"], n_shuffles=4)
    shuffle = control_result(tmp_path, "shuffle")
    (line,) = shuffle.comparisons
    rows = [
        row
        for number in range(1, 5)
        for row in read_scores(tmp_path / "controls" / "shuffle" / str(number) / "scores.jsonl")
    ]
    assert (line.n, len(rows)) == (6, 24)
    assert line.control_accuracy.value == pytest.approx(
        sum(row["gold"] == ["A"] for row in rows) / 24
    )
    assert (
        shuffle.consistency is not None
        and shuffle.consistency.n == 6
        and shuffle.consistency.value == 0.0
    )
    indices_by_group = {position.letter: position for position in shuffle.positions}
    assert (indices_by_group["A"].accuracy.value, indices_by_group["B"].accuracy.value) == (
        1.0,
        0.0,
    )
    assert (indices_by_group["A"].n_chosen, indices_by_group["B"].n_chosen) == (30, 0)
    assert sum(position.accuracy.n for position in shuffle.positions) == 30
    assert shuffle.excluded == {perturbations.NO_OPTIONS: 2}


def test_a_model_that_knows_its_option_keeps_it_in_every_order(tmp_path):
    run(RecordingEngine(), tmp_path, ["shuffle"])
    shuffle = control_result(tmp_path, "shuffle")
    assert shuffle.consistency is not None and shuffle.consistency.value == 1.0
    assert (
        shuffle.comparisons[0].control_accuracy.value == shuffle.comparisons[0].run_accuracy == 1.0
    )


def test_an_item_with_two_options_has_one_other_order(tmp_path):
    items = [item(0, choices=("red", "green")), item(1, choices=("red", "green", "blue"))]
    engine = RecordingEngine()
    run(engine, tmp_path, ["shuffle"], items=items, n_shuffles=9)
    assert len(engine.requested) == 2 + 1 + 5


def test_constants_are_graded_by_the_task_and_the_best_is_named(tmp_path):
    """Golds A B C D A B and yes yes: each of A and B is right twice in eight."""
    engine = RecordingEngine()
    run(engine, tmp_path, ["constant"])
    assert len(engine.requested) == 8  # the run's own questions
    constant = control_result(tmp_path, "constant")
    shares = {name: interval.value for name, interval in constant.constants}
    assert shares == {
        "A": 0.25, "B": 0.25, "C": 0.125, "D": 0.125, "yes": 0.25, "no": 0.0, "the most frequent gold of each kind": 0.5,
    }  # fmt: skip
    assert [line.name for line in constant.comparisons] == [
        "best constant: A",
        "the most frequent gold of each kind",
    ]
    assert [(line.run_accuracy, line.control_accuracy.value) for line in constant.comparisons] == [
        (1.0, 0.25),
        (1.0, 0.5),
    ]


def test_the_spread_over_paraphrases_is_that_of_their_accuracies(tmp_path):
    """Right in the task's own words, and in none of the others but the first."""
    known = (CHOICE, paraphrases()[0][CHOICE][0])
    run(
        RecordingEngine(lambda sample: sample.gold[0] if sample.question.endswith(known) else "-"),  # type: ignore[index]
        tmp_path,
        ["wording"],
        items=ITEMS[:6],
    )
    wording = control_result(tmp_path, "wording")
    assert [line.control_accuracy.value for line in wording.comparisons] == [1.0, 0.0, 0.0]
    assert wording.spread is not None
    assert wording.spread[:4] == (4, 6, 0.0, 1.0)
    assert wording.spread.std == pytest.approx(np.std([1, 1, 0, 0], ddof=1))


def test_a_control_that_fits_no_question_is_reported(tmp_path):
    items = [
        replace(item(i, choices=()), images=(), messages=(user_turn("Is it?", 0),))
        for i in range(3)
    ]
    run(RecordingEngine(), tmp_path, items=items)
    assert {result.name: result.reason for result in read_controls(tmp_path) if result.reason} == {
        "blind": "no image (3)",
        "shuffle": "no options (3)",
        "none_of_the_above": "no options (3)",
    }


def test_failures_count_as_in_the_run(tmp_path):
    """The engine fails on item 0 with a black image, and on item 1 always."""

    def answer(sample: Sample) -> str | None:
        black = not np.asarray(open_image(sample.images[0])).any()
        return (
            None
            if sample.id == "s1" or (sample.id == "s0" and black)
            else (sample.gold or ("",))[0]
        )

    assert run(RecordingEngine(answer), tmp_path, ["blind"]) == 2
    (line,) = control_result(tmp_path, "blind").comparisons
    assert (line.n, line.n_errors) == (6, 2)


def test_nothing_is_generated_twice_and_a_resumed_run_ends_in_the_same_bytes(tmp_path):
    unbroken = RecordingEngine()
    run(unbroken, tmp_path / "unbroken")
    n_requested = 0
    for stop in (3, 9, 14, 21):
        engine = RecordingEngine(stop_after=stop)
        with pytest.raises(EngineError):
            run(engine, tmp_path / "broken")
        n_requested += len(engine.requested)
    engine = RecordingEngine()
    run(engine, tmp_path / "broken")
    assert (
        n_requested + len(engine.requested)
        == len(unbroken.requested)
        == 8 * 2 + 6 * 3 + 8 * N_PARAPHRASES
    )
    again = RecordingEngine()
    run(again, tmp_path / "broken")
    assert not again.requested
    for path in sorted((tmp_path / "unbroken").rglob("*.json*")):
        assert (
            path.read_bytes()
            == (tmp_path / "broken" / path.relative_to(tmp_path / "unbroken")).read_bytes()
        ), path
    for path in (tmp_path / "broken").rglob("replies.jsonl"):
        keys = [row["key"] for row in read_jsonl(path)]
        assert len(keys) == len(set(keys))


def test_controls_of_another_decoding_are_not_shown_with_the_run(tmp_path):
    run(RecordingEngine(), tmp_path, ["blind"])
    samples = [build_prompt(sample, "direct") for sample in ITEMS]
    generate(
        TASK,
        samples,
        RecordingEngine(),
        tmp_path,
        sampling=Sampling(max_tokens=7),
        images=image_bytes,
    )
    score(TASK, samples, tmp_path)
    assert read_controls(tmp_path) == (ControlResult("blind", reason=STALE_REASON),)
    run(RecordingEngine(), tmp_path, ["constant"])
    assert [result.name for result in read_controls(tmp_path) if not result.reason] == [
        "blind",
        "constant",
    ]


def test_controls_with_other_right_answers_are_not_shown_with_the_run(tmp_path):
    run(RecordingEngine(), tmp_path)
    before = read_controls(tmp_path)
    samples = [build_prompt(sample, "direct") for sample in ITEMS]
    score(TASK, [replace(sample, gold=("B",)) for sample in samples], tmp_path)
    assert {result.reason for result in read_controls(tmp_path)} == {STALE_REASON}
    score(TASK, samples, tmp_path)
    assert read_controls(tmp_path) == before and STALE_REASON not in {
        result.reason for result in before
    }


def test_the_names_of_controls():
    assert parse_controls("wording, blind") == ("blind", "wording")
    with pytest.raises(InputError, match="did you mean 'shuffle'"):
        parse_controls("blind,shufle")
    with pytest.raises(InputError, match="names nothing"):
        parse_controls(" ,")


# --- stored rows alone
# -----------------------------------------------------------------------------------------------


@pytest.mark.skipif(not SLAKE.is_dir(), reason="the shared data are not here")
def test_the_blind_control_of_stored_replies_is_what_their_rows_imply():
    rows: dict[str, list[dict]] = {"original": [], "black": []}
    for row in read_jsonl(SLAKE / "rows.jsonl"):
        if row["condition"] in rows:
            comparison = {
                "id": row["question_id"],
                "value": float(row["is_correct"]),
                "status": "ok",
                "group": row["_group"],
            }
            rows[row["condition"]].append(comparison)
    expected = json.loads((SLAKE / "check_values.json").read_text())
    with_black_images = compare(rows["original"], rows["black"])
    assert with_black_images.n == expected["original"]["n"] == 592
    assert with_black_images.run_accuracy == expected["original"]["strict_right"] / 592
    assert with_black_images.control_accuracy.value == expected["black"]["strict_right"] / 592
    assert with_black_images.difference.value == pytest.approx((259 - 132) / 592)
    assert with_black_images.test is not None and with_black_images.test.p_value < 1e-9


def test_rows_that_failed_or_are_alone_form_no_pair():
    run_rows = [
        {"id": "a", "value": 1.0, "status": "ok"},
        {"id": "b", "value": None, "status": "error"},
        {"id": "c", "value": 0.0, "status": "ok"},
    ]
    control = [
        {"id": "c", "value": None, "status": "unparsed"},
        {"id": "b", "value": 1.0, "status": "ok"},
    ]
    line = compare(run_rows, control)
    assert (line.n, line.run_accuracy, line.control_accuracy.value, line.n_errors) == (
        1,
        0.0,
        0.0,
        0,
    )


# --- none of the above
# -------------------------------------------------------------------------------------------------------


def test_the_right_option_is_replaced_by_none_at_any_position():
    items = [replace(item(number % 8), id=f"s{number}") for number in range(200)]
    changed = [
        perturbations.without_right_option(sample, lambda sample: sample) for sample in items
    ]
    positions = []
    for before, after in zip(items, changed, strict=True):
        assert isinstance(after, Sample) and after.gold
        right = before.choices[LETTERS.index((before.gold or ("",))[0])]
        none = after.choices[LETTERS.index(after.gold[0])]
        assert none == "None of the other answers" and right not in after.choices
        assert [c for c in after.choices if c != none] == [c for c in before.choices if c != right]
        assert with_choices("", after.choices) in after.question and right not in after.question
        positions.append(after.gold[0])
    assert all(35 <= positions.count(letter) <= 65 for letter in "ABCD")


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (item(0, choices=()), perturbations.NO_OPTIONS),
        (item(0, choices=("A lung", "none of the above")), perturbations.LINKED_OPTIONS),
        (replace(item(0), gold=("A", "B")), perturbations.NOT_ONE_GOLD),
        (replace(item(0), gold=None), perturbations.NOT_ONE_GOLD),
    ],
)
def test_an_item_without_one_right_option_is_left_out(sample, expected):
    assert perturbations.without_right_option(sample, lambda sample: sample) == expected


def test_chinese_options_are_replaced_in_chinese():
    sample = item(0, choices=("肺炎", "积液"))
    changed = perturbations.without_right_option(sample, lambda sample: sample)
    assert isinstance(changed, Sample) and "其他选项都不对" in changed.choices


@pytest.mark.parametrize("letter", ["A", "D"])
def test_a_model_that_always_picks_a_letter_is_caught(tmp_path, letter):
    """Its golds are all that letter, so its run is perfect."""
    items = [item(number, gold=letter) for number in range(40)]
    run(RecordingEngine(lambda _: letter), tmp_path, ["none_of_the_above"], items=items)
    result = control_result(tmp_path, "none_of_the_above")
    (line,) = result.comparisons
    assert (line.run_accuracy, line.n, result.chance) == (1.0, 40, 0.25)
    assert line.control_accuracy.value is not None and line.control_accuracy.value < 0.4
    assert not result.is_above_chance


def test_a_model_that_knows_passes_and_one_that_never_chooses_none_does_not(tmp_path):
    items = [item(number) for number in range(40)]
    knows = RecordingEngine(lambda sample: (sample.gold or ("",))[0])
    run(knows, tmp_path / "knows", ["none_of_the_above"], items=items)
    assert control_result(tmp_path / "knows", "none_of_the_above").is_above_chance

    def never(sample: Sample) -> str:
        gold = LETTERS.index((sample.gold or ("A",))[0])
        is_none = sample.choices[gold].startswith("None")
        return LETTERS[(gold + 1) % 4] if is_none else LETTERS[gold]

    run(RecordingEngine(never), tmp_path / "never", ["none_of_the_above"], items=items)
    result = control_result(tmp_path / "never", "none_of_the_above")
    assert result.comparisons[0].control_accuracy.value == 0 and not result.is_above_chance
