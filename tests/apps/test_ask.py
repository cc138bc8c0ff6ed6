"""Asking a model about images: one question, several, and what every answer carries."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from lingshu.apps._answering import NOTICE, answer, concerns, question_sample, stream
from lingshu.apps._looking import look
from lingshu.apps.cli import main
from lingshu.core.errors import EngineError
from lingshu.core.nouns import Sampling
from lingshu.core.options import EngineOptions
from lingshu.engines import echo
from lingshu.engines._whole import WholeReplies
from tests.tiny import picture

Out = pytest.CaptureFixture[str]


def test_an_answer_names_its_model_and_the_notice(
    checkpoint: Path, tmp_path: Path, capsys: Out
) -> None:
    picture(0).save(tmp_path / "image.png")
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
    told = capsys.readouterr()
    assert told.out.endswith("\n")
    assert "Research only; not for clinical use." in told.err and "[checkpoint " in told.err


def test_streamed_and_whole_answers_are_the_same(
    checkpoint: Path, tmp_path: Path, capsys: Out
) -> None:
    for name in ("a.png", "b.jpg"):
        picture(1).save(tmp_path / name)
    asked = [
        "ask",
        str(checkpoint),
        "Which is larger?",
        str(tmp_path / "a.png"),
        str(tmp_path / "b.jpg"),
        "--max-tokens",
        "3",
    ]
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {
        "answer", "model", "model_digest", "finish", "prompt_tokens", "reply_tokens", "seen", "notes", "notice"
    }  # fmt: skip
    assert (
        found["reply_tokens"] <= 3
        and [one["item"] for one in found["seen"]] == [1, 2]
        and found["notice"] == NOTICE
    )
    assert main(asked) == 0
    assert capsys.readouterr().out == found["answer"] + "\n"


def test_a_system_turn_and_a_dialogue_reach_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Out
) -> None:
    engine = tmp_path / "mirror.py"
    engine.write_text(MIRROR)
    picture(0).save(tmp_path / "image.png")
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
from lingshu.core.nouns import Reply

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
    tmp_path: Path, capsys: Out
) -> None:
    for name in ("a.png", "b.png"):
        picture(0).save(tmp_path / name)
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
    told = capsys.readouterr()
    found = [json.loads(line) for line in told.out.splitlines()]
    assert [one["id"] for one in found] == [
        "one",
        "2",
        "3",
        "4",
        "5",
        "6",
        "7",
        *(str(n) for n in range(8, 17)),
    ]
    assert [len(one["seen"]) for one in found if "answer" in one] == [2, 1, *[0] * 9]
    assert [one["error"] for one in found if "error" in one] == [
        "line 3: question is missing or empty.",
        "file 1 cannot be opened (No such file or directory); check the file.",
        "line 5 is no valid JSON; mend it.",
        "line 6: unknown key 'file'; use files, id, question, system.",
        "line 7 holds half a character (a lone surrogate); mend it.",
    ]
    assert (
        "11 of 16 questions were answered, 5 failed." in told.err
        and "ZZ" not in told.out + told.err
    )


def test_plain_lines_are_questions_too(tmp_path: Path, capsys: Out) -> None:
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
    ("words", "told"),
    [
        (["  "], "the question is empty"),
        (["EMPTY"], "the question is the name of a file or folder"),
        ([], "give one question after the model"),
        (["?", "--questions", "QUESTIONS", "--chat"], "give one question after the model"),
        (
            ["--questions", "none.jsonl"],
            "the file of questions cannot be read (No such file or directory)",
        ),
        (["--questions", "EMPTY"], "holds no question"),
        (["?", "--window", "lungs"], "no window is called 'lungs'; did you mean 'lung'?"),
        (["?", "--slices", "0"], "slices is 0"),
        (["?", "--max-tokens", "0"], "must be at least 1"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    tmp_path: Path, words: list[str], told: str, capsys: Out
) -> None:
    (tmp_path / "empty").write_text("\n")
    places = {"QUESTIONS": questions(tmp_path / "q", "?"), "EMPTY": str(tmp_path / "empty")}
    assert main(["ask", "echo:x", *(places.get(word, word) for word in words)]) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1


def test_private_images_stay_here_unless_allowed(tmp_path: Path, capsys: Out) -> None:
    picture(0).save(tmp_path / "image.png")
    assert main(["ask", "http://192.0.2.1/v1#model", "?", str(tmp_path / "image.png")]) == 2
    assert "pass --allow-remote" in capsys.readouterr().err


def test_text_in_the_pixels_is_told_before_images_leave() -> None:
    import cv2

    page = np.zeros((256, 512, 3), np.uint8)
    cv2.putText(
        page, "NAME OF SOMEBODY", (30, 120), cv2.FONT_HERSHEY_SIMPLEX, 1.0, (255, 255, 255), 2
    )
    looked = look([cv2.imencode(".png", page)[1].tobytes()])
    sample = question_sample("?", looked)
    [told] = concerns(sample, "http://192.0.2.1/v1")
    assert "may name a patient (lines of type were found" in told
    assert concerns(sample, None) == concerns(sample, "http://127.0.0.1:1/v1") == []
    assert (
        concerns(
            question_sample("?", look([cv2.imencode(".png", page * 0)[1].tobytes()])),
            "http://192.0.2.1/v1",
        )
        == []
    )


def test_what_a_terminal_would_obey_is_left_out(capsys: Out) -> None:
    assert main(["ask", "echo:a\x1b[2Jb\tc\nd\x9b", "?"]) == 0
    assert capsys.readouterr().out == "a[2Jb\tc\nd\n"


def test_no_answer_is_an_error_and_never_an_empty_text() -> None:
    engine = echo.load("echo", EngineOptions())
    sample = question_sample("?", look([]))
    with pytest.raises(EngineError, match="echo has nothing to say"):
        answer(engine, sample, look([]), Sampling())
    live = WholeReplies(engine)
    with pytest.raises(EngineError, match="echo has nothing to say"):
        stream(live, sample, look([]), Sampling(), said=lambda _: None)
    live.close()
