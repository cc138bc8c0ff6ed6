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

from lingshu.apps.score import score as score_file
from lingshu.core.errors import InputError
from lingshu.core.files import read_jsonl
from lingshu.core.nouns import Message, Meta, Reply, Sample
from lingshu.evaluate.score import score_reply
from lingshu.scoring import (
    _protocols,
    _reports,
    _rubric,
    auto,
    choice,
    closed,
    open,
    token_f1,
    yes_no,
)
from lingshu.scoring import _published as published
from lingshu.scoring import _published_reports as reports
from lingshu.tasks import _prompts

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


def asked(given: dict[str, Any], kind: str, *, instruction: bool = True) -> str:
    """The words of a question under our prompts, which are the published ones."""
    question = sample("A", kind=kind, question=given["question"], language=given.get("lang", "en"))
    style = "reasoned" if given.get("is_reasoning") else "direct"
    if kind != "choice":
        return _prompts.prompt(question, style).question
    letters = {
        choice.options(tuple(given["choices"]))[i].letter: text
        for i, text in enumerate(given["choices"])
    }
    layout = _prompts._CHOICE_LAYOUT.get(given.get("lang", "en"))
    if layout is None:
        return _prompts.prompt(question, style).question
    return layout.format(
        given["question"],
        "\n".join(letters.values()),
        _prompts.INSTRUCTIONS["choice", given.get("lang", "en"), style],
    )


PROMPT_KINDS = {
    "multiple_choice": "choice",
    "judgement": "yes_no",
    "close_ended": "closed",
    "open_ended": "open",
}


def prompt_of(case: dict[str, Any]) -> object:
    if "report" in case["function"]:
        return _prompts.REPORT
    kind = next(kind for name, kind in PROMPT_KINDS.items() if name in case["function"])
    return asked(case["inputs"], kind)


def construct(case: dict[str, Any]) -> object:
    given = case["inputs"]
    if "PubMedQA" in case["function"]:
        data = given["data"]
        shown = [f"{letter}.{text}" for letter, text in data["Options"].items()]
        return (
            "Context: "
            + "\n".join(data["Context"])
            + "\n"
            + asked({"question": data["Question"], "choices": shown}, "choice")
        )
    if "MedMCQA" in case["function"]:
        return "ABCD"[given["cop"]]
    return _prompts.REPORT


def counted(case: dict[str, Any], protocol: str) -> dict[str, dict[str, Any]]:
    """The tables of cal_metrics, from verdicts on each item and the judge's replies that the case
    states.
    """
    says = {
        "open item 1 right": ["0", "1"],
        "(judge)": ["0", "1"],
        "items 1-3 right": ["0", "0", "0", "1"],
        "outage": [None] * 4,
    }
    judge = next(
        (list(replies) for words, replies in says.items() if words in case["function"]), None
    )
    twice = "SLAKE" in case["function"]
    rows = []
    for item in case["inputs"]:
        kind = "closed" if item["answer"].lower() in ("yes", "no") else "open"
        row: dict[str, Any] = {"kind": kind, "value": verdict(item, kind, protocol)}
        if judge is not None and (kind == "open" or twice):
            told = judge.pop(0)
            row["judge"] = published.judge_says_right(told) if told is not None else None
        rows.append(row)
    quirk = "twice" if twice else "lost" if "PATH" in case["function"] else "kept"
    found = _protocols.aggregate(protocol, rows, judged=judge is not None, closed=quirk)
    if protocol == "strict" and found.unjudged:
        raise InputError(f"{found.unjudged} answers were not judged")
    return {
        name: part._asdict()
        for name, part in (
            ("total metrics", found.all),
            ("open", found.open),
            ("close", found.closed),
        )
    }


def verdict(item: dict[str, Any], kind: str, protocol: str) -> float | None:
    gold, reply = item["answer"], item["response"]
    if protocol == "medevalkit":
        if reply is None:
            raise ValueError("the original stops at a reply of None")
        return _protocols.scorer(auto.score, protocol)(sample(gold, kind=kind), reply).value
    if reply is None:
        return None
    # The function of that role matches exactly, articles included; the scorer `open` passes over
    # them.
    return (
        closed.score(sample(gold), reply).value
        if kind == "closed"
        else float(open.exact_match(reply, gold))
    )


def runner(case: dict[str, Any]) -> object:
    failed = Reply("x", None, error="the engine stopped")
    found = score_reply(_protocols.scorer(auto.score, "medevalkit"), sample("yes"), failed)
    if found.status == "error":
        raise ValueError(found.note)
    return found


def graded(function, case):
    given = case["inputs"]
    return function(given["answer"], given["response"])


def healthbench(case: dict[str, Any]) -> object:
    given = case["inputs"]
    if "calculate_score" in case["function"]:
        return reports.rubric_score(given["points"], given["criteria_met"])
    if "clipped_stats" in case["function"]:
        return (
            len(given["values"])
            if given["stat"] == "n_samples"
            else reports.clipped_mean(given["values"])
        )
    if "parse_json" in case["function"]:
        return reports.rubric_verdict(given["json_string"])
    return reports.clipped_mean([one["metrics"]["overall_score"] for one in given["out_samples"]])


def mmmu_evaluate(case: dict[str, Any]) -> object:
    # The parsed reply is a text, so its characters are compared one by one.
    rights = [
        published.free_answer_is_right(one["answer"], one["parsed_pred"])
        for one in case["inputs"]["samples"]
    ]
    return {"acc": sum(rights) / len(rights), "right": sum(rights), "total": len(rights)}


RELEASED = {
    "bleu": lambda c: reports.bleu(
        reports.tokens(c["inputs"]["pred"]), reports.tokens(c["inputs"]["target"]), c["inputs"]["n"]
    ),
    "cal_metrics": lambda c: counted(c, "medevalkit"),
    "calculate_f1": lambda c: reports.set_f1(
        c["inputs"]["prediction"], c["inputs"]["ground_truth"]
    ),
    "construct": construct,
    "extract": lambda c: published.tag_content(
        c["inputs"]["text"], c["inputs"]["type"], hard=c["inputs"]["hard"]
    ),
    "extract_boxed_content": lambda c: published.boxed(c["inputs"]["text"]),
    "find_most_similar_index": lambda c: published.most_similar(
        c["inputs"]["str_list"], c["inputs"]["target_str"]
    ),
    "healthbench": healthbench,
    "judge_close_end_vqa": lambda c: graded(published.closed_is_right, c),
    "judge_judgement": lambda c: graded(published.judgement_is_right, c),
    "judge_multi_choice": lambda c: published.choice_is_right(
        c["inputs"]["choices"], c["inputs"]["answer"], c["inputs"]["response"]
    ),
    "judge_open_end_vqa": lambda c: graded(published.open_measures, c),
    "mmmu_eval_mc": lambda c: c["inputs"]["gold_i"] == c["inputs"]["pred_i"],
    "mmmu_eval_open": lambda c: published.free_answer_is_right(
        c["inputs"]["gold_i"], c["inputs"]["pred_i"]
    ),
    "mmmu_evaluate": mmmu_evaluate,
    "mmmu_normalize_str": lambda c: published.number_or_text(c["inputs"]["string"]),
    "mmmu_parse_multi_choice": lambda c: published.lettered_choice(
        c["inputs"]["response"], c["inputs"]["all_choices"], c["inputs"]["index2ans"]
    ),
    "mmmu_parse_open": lambda c: published.number_or_text_of(c["inputs"]["response"]),
    "parse_response": lambda c: published.parsed(c["inputs"]["response"]),
    "prompts": prompt_of,
    "report_metrics": lambda c: reports.report_measures(
        c["inputs"]["hypothesis"], c["inputs"]["reference"]
    ),
    "report_reference": lambda c: reports.report_reference(
        c["inputs"]["findings"], c["inputs"]["impression"]
    ),
    "report_tokens": lambda c: reports.report_tokens(c["inputs"]["reports"][0]),
    "rouge": lambda c: reports.rouge(c["inputs"]["pred"], c["inputs"]["target"]),
    "runner": runner,
    "tokenize": lambda c: reports.tokens(c["inputs"]["text"]),
}


def same(found: object, wanted: object) -> bool:
    """Equal, numbers to 1e-6, a tuple like a list."""
    if isinstance(wanted, dict):
        return (
            isinstance(found, dict)
            and found.keys() == wanted.keys()
            and all(same(found[key], wanted[key]) for key in wanted)
        )
    if isinstance(wanted, list):
        return (
            isinstance(found, list | tuple)
            and len(found) == len(wanted)
            and all(map(same, found, wanted))
        )
    if isinstance(wanted, float) and isinstance(found, int | float):
        return (
            found == wanted
            or math.isclose(found, wanted, abs_tol=1e-6)
            or (math.isnan(found) and math.isnan(wanted))
        )
    return found == wanted


@pytest.mark.parametrize("group", GROUPS)
def test_medevalkit_reproduces_what_was_recorded(group: str) -> None:
    unlike = []
    for case in cases(group):
        if case["id"] in EXCEPTIONS:
            continue
        try:
            found = RELEASED[group](case)
        except (ValueError, TypeError) as error:
            if "medevalkit_error" not in case:
                unlike.append((case["id"], error, case["medevalkit_output"]))
            continue
        if "medevalkit_error" in case or not same(found, case["medevalkit_output"]):
            unlike.append((case["id"], found, case["medevalkit_output"]))
    assert not unlike


def test_every_exception_is_a_case_and_every_group_is_run() -> None:
    known = {case["id"] for group in GROUPS for case in cases(group)}
    assert EXCEPTIONS.keys() <= known
    assert len(known) == 288
    left_out = {group for group in GROUPS if group not in RELEASED}
    assert all(case["id"] in EXCEPTIONS for group in left_out for case in cases(group))


@pytest.mark.parametrize("name", ["paper", "medevalkit"])
def test_a_published_scorer_never_raises_where_the_original_does(name: str) -> None:
    scorer = _protocols.scorer(auto.score, name)
    for gold, choices, kind in (
        ("A", ["x", "y"], None),
        ("yes", None, None),
        ("left lung", None, "closed"),
        ("left lung", None, "open"),
    ):
        for reply in ("", "...", "answer is", "\\boxed{", "<answer></answer>"):
            assert scorer(sample(gold, choices, kind=kind), reply).status in ("ok", "error")
    assert score_reply(scorer, sample("yes"), Reply("x", None, error="no reply")).status == "error"


GRADERS = (
    ("judge_multi_choice", choice),
    ("judge_judgement", yes_no),
    ("judge_close_end_vqa", closed),
)


@pytest.mark.parametrize(("group", "scorer"), GRADERS, ids=[group for group, _ in GRADERS])
def test_strict_gives_the_assigned_verdict(group: str, scorer: Any) -> None:
    """The soft cases, policy rather than fact, included."""
    wrong = []
    for case in cases(group):
        given = case["inputs"]
        if given["response"] is None:
            continue  # a failed generation never reaches a scorer
        for grade in (scorer.score, auto.score):
            found = grade(sample(given["answer"], given.get("choices")), given["response"])
            if (found.value == 1.0) != case["expected"]:
                wrong.append((case["id"], found))
    assert not wrong


@pytest.mark.parametrize("group", [group for group, _ in GRADERS])
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
    # The one case without a reply has the status error, and the command says so with exit code 1.
    failed = any(row["reply"] is None for row in rows)
    assert score_file(file, scorer="auto", protocol=protocol, out=out) == int(failed)  # type: ignore[arg-type]
    told = json.loads(capsys.readouterr().out)
    assert told["protocol"] == protocol and bool(told["quirks"]) == (protocol == "medevalkit")
    wanted = {
        case["id"]: case["expected" if protocol == "strict" else "medevalkit_output"]
        for case in cases(group)
    }
    got = {row["id"]: row["value"] == 1.0 for row in read_jsonl(out)}
    unlike = {name for name, value in wanted.items() if got[name] != (value is True)}
    assert unlike == (
        COMMAND_EXCEPTIONS.keys() & wanted.keys() if protocol == "medevalkit" else set()
    )


def test_token_f1_gives_the_assigned_values() -> None:
    for case in cases("calculate_f1"):
        found = token_f1.overlap(case["inputs"]["prediction"], case["inputs"]["ground_truth"])
        assert same(found, case["expected"]), case["id"]


def test_exact_match_gives_the_assigned_values() -> None:
    for case in cases("judge_open_end_vqa"):
        assert (
            open.measures(case["inputs"]["response"], case["inputs"]["answer"]).exact_match
            == case["expected"]["em"]
        ), case["id"]


def test_counts_are_the_assigned_ones() -> None:
    for case in cases("cal_metrics"):
        try:
            found: object = counted(case, "strict")
        except InputError:
            found = "ERROR"
        assert (
            found == "ERROR"
            if str(case["expected"]).startswith("ERROR")
            else same(found, case["expected"])
        ), case["id"]


def test_report_references_are_the_assigned_ones() -> None:
    for case in cases("report_reference"):
        assert _reports.reference(**case["inputs"]) == case["expected"]


def test_rubric_scores_are_the_assigned_ones() -> None:
    for case in cases("healthbench"):
        given = case["inputs"]
        if "calculate_score" in case["function"]:
            assert _rubric.rubric_score(given["points"], given["criteria_met"]) == case["expected"]
        if "parse_json" in case["function"]:
            assert _rubric.rubric_verdict(given["json_string"]) == case["expected"].get(
                "criteria_met"
            )
        if "clipped_stats" in case["function"]:
            found = (
                len(given["values"])
                if given["stat"] == "n_samples"
                else _rubric.clipped_mean(given["values"])
            )
            assert found == case["expected"]
        if "clipped_mean" in case["function"]:
            values = [(one["metrics"] or {}).get("overall_score") for one in given["out_samples"]]
            assert _rubric.clipped_mean(values) == case["expected"]["score"]


def test_the_reference_packages_agree() -> None:
    """Six report pairs with the values of `rouge` 1.0.1 and of nltk's unsmoothed sentence BLEU."""
    for case in cases("reference_metrics")[:6]:
        said, gold = case["hypothesis"], case["reference"]
        assert same(reports.rouge(said, gold), case["rouge_pkg"])
        assert math.isclose(
            reports.bleu(said.split(), gold.split(), 4),
            case["nltk_sentence_bleu4_nosmooth"],
            abs_tol=1e-6,
        )


DATA = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.mark.skipif(
    not (DATA / "medevalkit_run_slake").is_dir(), reason="needs the replies in ../shared/data"
)
@pytest.mark.parametrize("name", ["medqa", "pubmedqa", "vqarad", "slake"])
def test_medevalkit_gives_the_verdicts_of_real_runs(name: str) -> None:
    """Every verdict and every measure that the toolkit itself wrote beside 2,464 replies of a
    model.
    """
    rows, unlike = list(read_jsonl(DATA / f"medevalkit_run_{name}" / "rows.jsonl")), []
    for row in rows:
        gold, reply, wrote = row["answer"], row["response"], row.get("metrics")
        if wrote and not same(published.open_measures(gold, reply), wrote):
            unlike.append((row["id"], "measures"))
        if "choices" in row:
            right = published.choice_is_right(row["choices"], gold, reply)
        else:
            kind = "open" if wrote else "closed"
            right = (
                _protocols.scorer(auto.score, "medevalkit")(sample(gold, kind=kind), reply).value
                == 1.0
            )
        if right != row["correct"]:
            unlike.append((row["id"], right))
    assert rows and not unlike
