"""Asking a model about images: one question, several, and what every answer carries."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from lingshu.cli.main import main
from lingshu.core.errors import EngineError
from lingshu.core.types import EngineOptions, Sampling
from lingshu.engines import echo
from lingshu.inference.answer import NOTICE, answer, build_question_sample, egress_warnings, stream
from lingshu.inference.engines import BlockingEngineAdapter
from lingshu.inference.inputs import load_inputs
from tests.support.tiny import make_image

Capture = pytest.CaptureFixture[str]


def test_an_answer_names_its_model_and_the_notice(
    checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    make_image(0).save(tmp_path / "image.png")
    assert (
        main(
            [
                "ask",
                str(checkpoint),
                "Is there a lesion?",
                str(tmp_path / "image.png"),
                "--max-tokens",
                "4",
            ]
        )
        == 0
    )
    captured = capsys.readouterr()
    assert captured.out.endswith("\n")
    assert "Research only; not for clinical use." in captured.err and "[checkpoint " in captured.err


def test_streamed_and_complete_answers_are_the_same(
    checkpoint: Path, tmp_path: Path, capsys: Capture
) -> None:
    for name in ("a.png", "b.jpg"):
        make_image(1).save(tmp_path / name)
    arguments = [
        "ask",
        str(checkpoint),
        "Which is larger?",
        str(tmp_path / "a.png"),
        str(tmp_path / "b.jpg"),
        "--max-tokens",
        "3",
    ]
    assert main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result.keys() == {
        "answer", "model", "model_digest", "finish", "prompt_tokens", "reply_tokens", "image_provenance", "notes", "notice"
    }  # fmt: skip
    assert (
        result["reply_tokens"] <= 3
        and [entry["item"] for entry in result["image_provenance"]] == [1, 2]
        and result["notice"] == NOTICE
    )
    assert main(arguments) == 0
    assert capsys.readouterr().out == result["answer"] + "\n"


def test_a_system_turn_and_a_dialogue_reach_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    engine = tmp_path / "mirror.py"
    engine.write_text(MIRROR)
    make_image(0).save(tmp_path / "image.png")
    monkeypatch.setattr(sys, "stdin", io.StringIO("second?\n\n third? \n"))
    assert (
        main(
            [
                "ask",
                str(engine),
                "first?",
                str(tmp_path / "image.png"),
                "--system",
                "Be brief.",
                "--chat",
            ]
        )
        == 0
    )
    assert capsys.readouterr().out.splitlines() == [
        "system:Be brief.|user:<0>first?",
        "system:Be brief.|user:<0>first?|assistant:3|user:second?",
        "system:Be brief.|user:<0>first?|assistant:3|user:second?|assistant:3|user:third?",
    ]


MIRROR = '''"""Says what it was asked, the turns of assistants by their number."""
from dataclasses import dataclass
from lingshu.core.types import Reply

def part(value):
    return value if isinstance(value, str) else f"<{value}>"

def turn(message):
    return "assistant:3" if message.role == "assistant" else message.role + ":" + "".join(map(part, message.parts))

@dataclass(frozen=True)
class Mirror:
    model: str = "mirror"
    digest: str = "0" * 64
    endpoint: str | None = None

    def generate(self, samples, sampling, *, skip=()):
        yield [Reply(sample.id, "|".join(map(turn, sample.messages)), finish="stop") for sample in samples]

def load(model, options):
    return Mirror()
'''


def questions(path: Path, *lines: object) -> str:
    path.write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n",
        encoding="utf-8",
    )
    return str(path)


def test_questions_of_a_file_are_answered_line_by_line_and_bad_rows_counted(
    tmp_path: Path, capsys: Capture
) -> None:
    for name in ("a.png", "b.png"):
        make_image(0).save(tmp_path / name)
    rows = [
        {"id": "one", "question": "Q?", "files": ["a.png", "b.png"]},
        {"question": "about the file of the command line"},
        {"question": " "},
        {"id": 4, "question": "Q?", "files": ["ZZ none.png"]},
        "{broken",
        {"question": "Q?", "file": "a.png"},
        '{"id": "\\ud800", "question": "Q?"}',
        *({"question": f"{n}?", "files": []} for n in range(9)),
    ]
    assert (
        main(
            [
                "ask",
                "echo:fine",
                "--questions",
                questions(tmp_path / "q.jsonl", *rows),
                str(tmp_path / "a.png"),
            ]
        )
        == 1
    )
    captured = capsys.readouterr()
    result = [json.loads(line) for line in captured.out.splitlines()]
    assert [entry["id"] for entry in result] == [
        "one",
        "2",
        "3",
        "4",
        "5",
        "6",
        "7",
        *(str(n) for n in range(8, 17)),
    ]
    assert [len(entry["image_provenance"]) for entry in result if "answer" in entry] == [
        2,
        1,
        *[0] * 9,
    ]
    assert [entry["error"] for entry in result if "error" in entry] == [
        "line 3: question is missing or empty.",
        "file 1 cannot be opened (No such file or directory); check the file.",
        "line 5 is not valid JSON; fix it.",
        "line 6: unknown key 'file'; use files, id, question, system.",
        "line 7 holds half of a surrogate pair; fix it.",
    ]
    assert (
        "11 of 16 questions were answered, 5 failed." in captured.err
        and "ZZ" not in captured.out + captured.err
    )


def test_plain_lines_are_questions_too(tmp_path: Path, capsys: Capture) -> None:
    assert (
        main(
            [
                "ask",
                "echo:yes",
                "--questions",
                questions(tmp_path / "q.txt", "First?", "", "还有吗？"),
            ]
        )
        == 0
    )
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == ["1", "3"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["  "], "the question is empty"),
        (["EMPTY"], "the question names a file or folder"),
        ([], "give one question after the model"),
        (["?", "--questions", "QUESTIONS", "--chat"], "give one question after the model"),
        (
            ["--questions", "none.jsonl"],
            "the file of questions cannot be read (No such file or directory)",
        ),
        (["--questions", "EMPTY"], "holds no question"),
        (["?", "--window", "lungs"], "no window is called 'lungs'; did you mean 'lung'?"),
        (["?", "--max-slices", "0"], "slices is 0"),
        (["?", "--max-tokens", "0"], "must be at least 1"),
    ],
)
def test_a_question_that_cannot_be_answered_is_one_line(
    tmp_path: Path, arguments: list[str], message: str, capsys: Capture
) -> None:
    (tmp_path / "empty").write_text("\n")
    paths = {"QUESTIONS": questions(tmp_path / "q", "?"), "EMPTY": str(tmp_path / "empty")}
    assert main(["ask", "echo:x", *(paths.get(word, word) for word in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_sampling_option_is_refused_before_the_model_is_opened(capsys: Capture) -> None:
    assert main(["ask", "no/such/model", "?", "--temperature", "-1"]) == 2
    assert "temperature -1.0 must be 0 or more" in capsys.readouterr().err


def test_private_images_stay_here_unless_allowed(tmp_path: Path, capsys: Capture) -> None:
    make_image(0).save(tmp_path / "image.png")
    assert main(["ask", "http://192.0.2.1/v1#model", "?", str(tmp_path / "image.png")]) == 2
    assert "pass --allow-remote" in capsys.readouterr().err


def test_text_in_the_pixels_is_reported_before_images_leave() -> None:
    import cv2

    page = np.zeros((256, 512, 3), np.uint8)
    cv2.putText(
        page, "NAME OF SOMEBODY", (30, 120), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (255, 255, 255), 2
    )
    model_input = load_inputs([cv2.imencode(".png", page)[1].tobytes()])
    sample = build_question_sample("?", model_input)
    [captured] = egress_warnings(sample, "http://192.0.2.1/v1")
    assert "may name a patient (lines of type were found" in captured
    assert egress_warnings(sample, None) == egress_warnings(sample, "http://127.0.0.1:1/v1") == []
    assert (
        egress_warnings(
            build_question_sample("?", load_inputs([cv2.imencode(".png", page * 0)[1].tobytes()])),
            "http://192.0.2.1/v1",
        )
        == []
    )


def test_terminal_control_characters_are_left_out(capsys: Capture) -> None:
    assert main(["ask", "echo:a\x1b[2Jb\tc\nd\x9b", "?"]) == 0
    assert capsys.readouterr().out == "a[2Jb\tc\nd\n"


def test_a_missing_answer_is_an_error_and_never_an_empty_text() -> None:
    engine = echo.load("echo", EngineOptions())
    sample = build_question_sample("?", load_inputs([]))
    with pytest.raises(EngineError, match="echo returns nothing"):
        answer(engine, sample, load_inputs([]), Sampling())
    adapter = BlockingEngineAdapter(engine)
    with pytest.raises(EngineError, match="echo returns nothing"):
        stream(adapter, sample, load_inputs([]), Sampling(), on_text=lambda _: None)
    adapter.close()
