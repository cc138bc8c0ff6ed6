"""Recorded cases of a public toolkit: `medevalkit` gives what was recorded, `strict` what a person
assigned.

tests/golden/parity holds them: inputs, `medevalkit_output`, `expected`, and why they differ.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from lingshu.cli.score import ScoreConfig
from lingshu.cli.score import score as score_file
from lingshu.core import prompts
from lingshu.core.errors import InputError
from lingshu.core.files import read_jsonl
from lingshu.core.report_sections import ReportSections, format_reference
from lingshu.core.types import Message, Meta, Reply, Sample
from lingshu.evaluate import judgments
from lingshu.evaluate.score import score_reply
from lingshu.scoring import auto, choice, closed, token_f1, yes_no
from lingshu.scoring.exact import extract_answers
from lingshu.scoring.metrics.rouge import sentence_set_rouge
from lingshu.scoring.protocols import medevalkit as published
from lingshu.scoring.protocols import table
from tests.support import published_toolkit as toolkit
from tests.support.published_rubric import parse_rubric_verdict

PARITY = Path(__file__).parent.parent / "golden" / "parity"

# Cases in which the protocol does not do what was recorded, and why not.
EXCEPTIONS = {
    "construct-001": (
        "loading: a gold text that two options share means the first; a protocol grades replies and"
        " changes no gold"
    ),
    "construct-003": "loading: the original cannot ask these questions at all; here they are asked",
    "construct-004": (
        "asking: the original asks for letters and shows none; here options have their letters in"
        " every protocol"
    ),
    "construct-007": "loading: a hidden label (-1) is an error here, in every protocol, and no D",
    "construct-012": "loading: all accepted golds are kept, not the first of them",
    "dispatch-000": (
        "an unknown name is an error that suggests the nearest, never None and a crash of the rest"
    ),
    "dispatch-002": (
        "an unknown name is an error that suggests the nearest, never None and a crash of the rest"
    ),
    "mmmu_construct_prompt-000": (
        "asking: options are listed as in all other choice questions, without the stray blank lines"
    ),
    "mmmu_evaluate-003": (
        "raises for a whole benchmark of no items; there is no item to carry a status, and the"
        " accuracy is None"
    ),
    "mmmu_evaluate-004": (
        "raises for a whole benchmark after all replies are in; here its items are scored"
    ),
    "mmmu_process_sample-000": "loading: all images of a question are shown, not the first alone",
    "prompts-017": "asking: choices given as one text are refused, not listed one character a line",
}

COMMAND_EXCEPTIONS = {
    "judge_multi_choice-143": (
        "reading a row makes the letter of a gold text; the original compares the text with 'b."
        " pleural effusion'"
    ),
}


def cases(group: str) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for line in (PARITY / f"{group}.jsonl").read_text(encoding="utf-8").splitlines()
    ]


GROUPS = sorted(path.stem for path in PARITY.glob("*.jsonl") if path.stem != "reference_metrics")


def sample(
    gold: str,
    choices: list[str] | None = None,
    *,
    kind: str | None = None,
    question: str = "?",
    language: str = "en",
) -> Sample:
    # Of two options with one text a gold text means the first.
    return Sample(
        "x",
        (Message("user", (question,)),),
        gold=(gold,),
        choices=tuple(choices or ()),
        meta=Meta(kind=kind, language=language),
    )


def build_question(inputs: dict[str, Any], kind: str, *, instruction: bool = True) -> str:
    """The words of a question under our prompts, which are the published ones."""
    question = sample(
        "A", kind=kind, question=inputs["question"], language=inputs.get("lang", "en")
    )
    style = "cot" if inputs.get("is_reasoning") else "direct"
    if kind != "choice":
        return prompts.build_prompt(question, style).question
    letters = {
        choice.parse_options(tuple(inputs["choices"]))[i].letter: text
        for i, text in enumerate(inputs["choices"])
    }
    layout = prompts._CHOICE_LAYOUT.get(inputs.get("lang", "en"))
    if layout is None:
        return prompts.build_prompt(question, style).question
    return layout.format(
        inputs["question"],
        "\n".join(letters.values()),
        prompts.instructions()["choice", inputs.get("lang", "en"), style],
    )


PROMPT_KINDS = {
    "multiple_choice": "choice",
    "judgement": "yes_no",
    "close_ended": "closed",
    "open_ended": "open",
}


def prompt_for(case: dict[str, Any]) -> object:
    if "report" in case["function"]:
        return prompts.REPORT
    kind = next(kind for name, kind in PROMPT_KINDS.items() if name in case["function"])
    return build_question(case["inputs"], kind)


def construct_prompt(case: dict[str, Any]) -> object:
    inputs = case["inputs"]
    if "PubMedQA" in case["function"]:
        data = inputs["data"]
        options = [f"{letter}.{text}" for letter, text in data["Options"].items()]
        return (
            "Context: "
            + "\n".join(data["Context"])
            + "\n"
            + build_question({"question": data["Question"], "choices": options}, "choice")
        )
    if "MedMCQA" in case["function"]:
        return "ABCD"[inputs["cop"]]
    return prompts.REPORT


def count_correct(case: dict[str, Any], protocol: str) -> dict[str, dict[str, Any]]:
    """The tables of cal_metrics, from verdicts on each item and the judge's replies that the case
    states.
    """
    judge_replies = {
        "open item 1 right": ["0", "1"],
        "(judge)": ["0", "1"],
        "items 1-3 right": ["0", "0", "0", "1"],
        "outage": [None] * 4,
    }
    judge = next(
        (list(replies) for phrase, replies in judge_replies.items() if phrase in case["function"]),
        None,
    )
    counts_twice = "SLAKE" in case["function"]
    rows = []
    for item in case["inputs"]:
        kind = "closed" if item["answer"].lower() in ("yes", "no") else "open"
        row: dict[str, Any] = {"kind": kind, "value": verdict(item, kind, protocol)}
        if judge is not None and (kind == "open" or counts_twice):
            judge_reply = judge.pop(0)
            row["judge"] = (
                toolkit.is_judged_correct(judge_reply) if judge_reply is not None else None
            )
        rows.append(row)
    quirk = "twice" if counts_twice else "lost" if "PATH" in case["function"] else "kept"
    aggregate = table.aggregate(protocol, rows, closed=quirk)
    if protocol == "strict" and aggregate.awaiting_judge:
        raise InputError(f"{aggregate.awaiting_judge} answers were not judged")
    return {
        name: accuracy._asdict()
        for name, accuracy in (
            ("total metrics", aggregate.all),
            ("open", aggregate.open),
            ("close", aggregate.closed),
        )
    }


def verdict(item: dict[str, Any], kind: str, protocol: str) -> float | None:
    gold, reply = item["answer"], item["response"]
    if protocol == "medevalkit":
        if reply is None:
            raise ValueError("the original stops at a reply of None")
        return table.protocol_scorer(auto.score, protocol)(sample(gold, kind=kind), reply).value
    if reply is None:
        return None
    # The function of that role matches exactly, articles included; the scorer `open` passes over
    # them.
    return (
        closed.score(sample(gold), reply).value
        if kind == "closed"
        else float(exact_match(reply, gold))
    )


def exact_match(reply: str, gold: str) -> bool:
    """Whether the answer in a reply has the gold's words in the gold's order; articles are words."""
    words = token_f1.tokenize(gold)
    return bool(words) and any(token_f1.tokenize(text) == words for text in extract_answers(reply))


def runner(case: dict[str, Any]) -> object:
    failed = Reply("x", None, error="the engine stopped")
    score = score_reply(table.protocol_scorer(auto.score, "medevalkit"), sample("yes"), failed)
    if score.status == "error":
        raise ValueError(score.note)
    return score


def run_grader(function, case):
    inputs = case["inputs"]
    return function(inputs["answer"], inputs["response"])


def healthbench(case: dict[str, Any]) -> object:
    inputs = case["inputs"]
    if "calculate_score" in case["function"]:
        return toolkit.rubric_score(inputs["points"], inputs["criteria_met"])
    if "clipped_stats" in case["function"]:
        return (
            len(inputs["values"])
            if inputs["stat"] == "n_samples"
            else toolkit.clipped_mean(inputs["values"])
        )
    if "parse_json" in case["function"]:
        return toolkit.parse_rubric_verdict(inputs["json_string"])
    return toolkit.clipped_mean(
        [sample["metrics"]["overall_score"] for sample in inputs["out_samples"]]
    )


def mmmu_evaluate(case: dict[str, Any]) -> object:
    # The parsed reply is a text, so its characters are compared one by one.
    verdicts = [
        toolkit.is_free_answer_correct(sample["answer"], sample["parsed_pred"])
        for sample in case["inputs"]["samples"]
    ]
    return {"acc": sum(verdicts) / len(verdicts), "right": sum(verdicts), "total": len(verdicts)}


GRADERS_BY_GROUP = {
    "bleu": lambda c: toolkit.bleu(
        toolkit.tokenize(c["inputs"]["pred"]),
        toolkit.tokenize(c["inputs"]["target"]),
        c["inputs"]["n"],
    ),
    "cal_metrics": lambda c: count_correct(c, "medevalkit"),
    "calculate_f1": lambda c: toolkit.set_f1(
        c["inputs"]["prediction"], c["inputs"]["ground_truth"]
    ),
    "construct": construct_prompt,
    "extract": lambda c: published.extract_tag(
        c["inputs"]["text"], c["inputs"]["type"], hard=c["inputs"]["hard"]
    ),
    "extract_boxed_content": lambda c: published.extract_boxed(c["inputs"]["text"]),
    "find_most_similar_index": lambda c: published.closest_index(
        c["inputs"]["str_list"], c["inputs"]["target_str"]
    ),
    "healthbench": healthbench,
    "judge_close_end_vqa": lambda c: run_grader(published.is_closed_correct, c),
    "judge_judgement": lambda c: run_grader(published.is_judgment_correct, c),
    "judge_multi_choice": lambda c: published.is_choice_correct(
        c["inputs"]["choices"], c["inputs"]["answer"], c["inputs"]["response"]
    ),
    "judge_open_end_vqa": lambda c: run_grader(toolkit.open_metrics, c),
    "mmmu_eval_mc": lambda c: c["inputs"]["gold_i"] == c["inputs"]["pred_i"],
    "mmmu_eval_open": lambda c: toolkit.is_free_answer_correct(
        c["inputs"]["gold_i"], c["inputs"]["pred_i"]
    ),
    "mmmu_evaluate": mmmu_evaluate,
    "mmmu_normalize_str": lambda c: toolkit.normalize_number_or_text(c["inputs"]["string"]),
    "mmmu_parse_multi_choice": lambda c: published.choose_by_letter(
        c["inputs"]["response"], c["inputs"]["all_choices"], c["inputs"]["index2ans"]
    ),
    "mmmu_parse_open": lambda c: toolkit.extract_numbers_and_text(c["inputs"]["response"]),
    "parse_response": lambda c: published.parse_answer(c["inputs"]["response"]),
    "prompts": prompt_for,
    "report_metrics": lambda c: toolkit.report_metrics(
        c["inputs"]["hypothesis"], c["inputs"]["reference"]
    ),
    "report_reference": lambda c: toolkit.report_reference(
        c["inputs"]["findings"], c["inputs"]["impression"]
    ),
    "report_tokens": lambda c: toolkit.tokenize_report(c["inputs"]["reports"][0]),
    "rouge": lambda c: sentence_set_rouge(c["inputs"]["pred"], c["inputs"]["target"]),
    "runner": runner,
    "tokenize": lambda c: toolkit.tokenize(c["inputs"]["text"]),
}


def is_close(found: object, expected: object) -> bool:
    """Equal, numbers to 1e-6, a tuple like a list."""
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(is_close(found[key], expected[key]) for key in expected)
        )
    if isinstance(expected, list):
        return (
            isinstance(found, list | tuple)
            and len(found) == len(expected)
            and all(map(is_close, found, expected))
        )
    if isinstance(expected, float) and isinstance(found, int | float):
        return (
            found == expected
            or math.isclose(found, expected, abs_tol=1e-6)
            or (math.isnan(found) and math.isnan(expected))
        )
    return found == expected


@pytest.mark.parametrize("group", GROUPS)
def test_medevalkit_reproduces_what_was_recorded(group: str) -> None:
    mismatches = []
    for case in cases(group):
        if case["id"] in EXCEPTIONS:
            continue
        try:
            found = GRADERS_BY_GROUP[group](case)
        except (InputError, ValueError, TypeError) as error:
            if "medevalkit_error" not in case:
                mismatches.append((case["id"], error, case["medevalkit_output"]))
            continue
        if "medevalkit_error" in case or not is_close(found, case["medevalkit_output"]):
            mismatches.append((case["id"], found, case["medevalkit_output"]))
    assert not mismatches


def test_every_exception_is_a_case_and_every_group_is_run() -> None:
    case_ids = {case["id"] for group in GROUPS for case in cases(group)}
    assert EXCEPTIONS.keys() <= case_ids
    assert len(case_ids) == 288
    missing_groups = {group for group in GROUPS if group not in GRADERS_BY_GROUP}
    assert all(case["id"] in EXCEPTIONS for group in missing_groups for case in cases(group))


@pytest.mark.parametrize("name", ["paper", "medevalkit"])
def test_a_published_scorer_never_raises_where_the_original_does(name: str) -> None:
    scorer = table.protocol_scorer(auto.score, name)
    for gold, choices, kind in (
        ("A", ["x", "y"], None),
        ("yes", None, None),
        ("left lung", None, "closed"),
        ("left lung", None, "open"),
    ):
        for reply in ("", "...", "answer is", "\\boxed{", "<answer></answer>"):
            assert scorer(sample(gold, choices, kind=kind), reply).status in ("ok", "error")
    assert score_reply(scorer, sample("yes"), Reply("x", None, error="no reply")).status == "error"


STRICT_GRADERS = (
    ("judge_multi_choice", choice),
    ("judge_judgement", yes_no),
    ("judge_close_end_vqa", closed),
)


@pytest.mark.parametrize(
    ("group", "scorer"), STRICT_GRADERS, ids=[group for group, _ in STRICT_GRADERS]
)
def test_strict_gives_the_assigned_verdict(group: str, scorer: Any) -> None:
    """The soft cases, policy rather than fact, included."""
    wrong = []
    for case in cases(group):
        inputs = case["inputs"]
        if inputs["response"] is None:
            continue  # a failed generation never reaches a scorer
        for grade in (scorer.score, auto.score):
            score = grade(sample(inputs["answer"], inputs.get("choices")), inputs["response"])
            if (score.value == 1.0) != case["expected"]:
                wrong.append((case["id"], score))
    assert not wrong


@pytest.mark.parametrize("group", [group for group, _ in STRICT_GRADERS])
@pytest.mark.parametrize("protocol", ["strict", "medevalkit"])
def test_the_command_gives_both_verdicts(
    group: str, protocol: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = [
        {
            "id": case["id"],
            "gold": case["inputs"]["answer"],
            "reply": case["inputs"]["response"],
            "kind": (
                "closed"
                if group == "judge_close_end_vqa"
                else "yes_no"
                if group == "judge_judgement"
                else "choice"
            ),
            **({"choices": case["inputs"]["choices"]} if "choices" in case["inputs"] else {}),
        }
        for case in cases(group)
    ]
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = ScoreConfig(scorer="auto", protocol=protocol, out=out)  # type: ignore[arg-type]
    # The one case without a reply has the status error, and the command says so with exit code 1.
    failed = any(row["reply"] is None for row in rows)
    assert score_file(file, config=config) == int(failed)
    summary = json.loads(capsys.readouterr().out)
    assert summary["protocol"] == protocol and bool(summary["known_issues"]) == (
        protocol == "medevalkit"
    )
    expected = {
        case["id"]: case["expected" if protocol == "strict" else "medevalkit_output"]
        for case in cases(group)
    }
    actual = {row["id"]: row["value"] == 1.0 for row in read_jsonl(out)}
    mismatches = {name for name, value in expected.items() if actual[name] != (value is True)}
    assert mismatches == (
        COMMAND_EXCEPTIONS.keys() & expected.keys() if protocol == "medevalkit" else set()
    )


def test_token_f1_gives_the_assigned_values() -> None:
    for case in cases("calculate_f1"):
        found = token_f1.token_overlap(case["inputs"]["prediction"], case["inputs"]["ground_truth"])
        assert is_close(found, case["expected"]), case["id"]


def test_exact_match_gives_the_assigned_values() -> None:
    for case in cases("judge_open_end_vqa"):
        assert (
            exact_match(case["inputs"]["response"], case["inputs"]["answer"])
            == case["expected"]["em"]
        ), case["id"]


def test_counts_are_the_assigned_ones() -> None:
    for case in cases("cal_metrics"):
        try:
            found: object = count_correct(case, "strict")
        except InputError:
            found = "ERROR"
        assert (
            found == "ERROR"
            if str(case["expected"]).startswith("ERROR")
            else is_close(found, case["expected"])
        ), case["id"]


def test_report_references_are_the_assigned_ones() -> None:
    for case in cases("report_reference"):
        assert format_reference(ReportSections(**case["inputs"])) == case["expected"]


def test_rubric_scores_are_the_assigned_ones() -> None:
    for case in cases("healthbench"):
        inputs = case["inputs"]
        if "calculate_score" in case["function"]:
            assert (
                judgments.rubric_score(inputs["points"], inputs["criteria_met"]) == case["expected"]
            )
        if "parse_json" in case["function"]:
            assert parse_rubric_verdict(inputs["json_string"]) == case["expected"].get(
                "criteria_met"
            )
        if "clipped_stats" in case["function"]:
            found = (
                len(inputs["values"])
                if inputs["stat"] == "n_samples"
                else judgments.clipped_mean(inputs["values"])
            )
            assert found == case["expected"]
        if "clipped_mean" in case["function"]:
            values = [
                (sample["metrics"] or {}).get("overall_score") for sample in inputs["out_samples"]
            ]
            assert judgments.clipped_mean(values) == case["expected"]["score"]


def test_the_reference_packages_agree() -> None:
    """Six report pairs with the values of `rouge` 1.0.1 and of nltk's unsmoothed sentence BLEU."""
    for case in cases("reference_metrics")[:6]:
        prediction, gold = case["hypothesis"], case["reference"]
        assert is_close(sentence_set_rouge(prediction, gold), case["rouge_pkg"])
        assert math.isclose(
            toolkit.bleu(prediction.split(), gold.split(), 4),
            case["nltk_sentence_bleu4_nosmooth"],
            abs_tol=1e-6,
        )


DATA = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.mark.skipif(
    not (DATA / "medevalkit_run_slake").is_dir(), reason="needs the replies in ../shared/data"
)
@pytest.mark.parametrize("name", ["medqa", "pubmedqa", "vqarad", "slake"])
def test_medevalkit_gives_the_verdicts_of_real_runs(name: str) -> None:
    """Every verdict and every measure that the toolkit itself wrote for 2,464 replies of a
    model.
    """
    rows, mismatches = list(read_jsonl(DATA / f"medevalkit_run_{name}" / "rows.jsonl")), []
    for row in rows:
        gold, reply, metrics = row["answer"], row["response"], row.get("metrics")
        if metrics and not is_close(toolkit.open_metrics(gold, reply), metrics):
            mismatches.append((row["id"], "measures"))
        if "choices" in row:
            is_correct = published.is_choice_correct(row["choices"], gold, reply)
        else:
            kind = "open" if metrics else "closed"
            is_correct = (
                table.protocol_scorer(auto.score, "medevalkit")(
                    sample(gold, kind=kind), reply
                ).value
                == 1.0
            )
        if is_correct != row["correct"]:
            mismatches.append((row["id"], is_correct))
    assert rows and not mismatches
