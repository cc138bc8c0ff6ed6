"""Asking a checkpoint about images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lingshu.apps.cli import main
from tests.tiny import picture


def test_an_answer_names_its_model_and_the_notice(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(0).save(tmp_path / "image.png")
    assert main(["ask", str(checkpoint), "Is there a lesion?", str(tmp_path / "image.png"), "--max-tokens", "4"]) == 0
    told = capsys.readouterr()
    assert told.out.endswith("\n")
    assert "Research only; not for clinical use." in told.err and "[checkpoint " in told.err


def test_json_is_one_object(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.png", "b.jpg"):
        picture(1).save(tmp_path / name)
    images = [str(tmp_path / "a.png"), str(tmp_path / "b.jpg")]
    assert main(["ask", str(checkpoint), "Which is larger?", *images, "--json", "--max-tokens", "3"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer.keys() == {"answer", "model", "model_digest", "finish", "reply_tokens", "notice"}
    assert answer["reply_tokens"] <= 3


def test_an_empty_question_is_refused(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", str(checkpoint), "  "]) == 2
    assert "the question is empty" in capsys.readouterr().err


def test_private_images_stay_here_unless_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(0).save(tmp_path / "image.png")
    assert main(["ask", "http://192.0.2.1/v1#model", "?", str(tmp_path / "image.png")]) == 2
    assert "pass --allow-remote" in capsys.readouterr().err
