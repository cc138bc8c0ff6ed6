"""Logging: silent by default, plain lines or JSON on request."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from lingshu.cli import log
from lingshu.cli.main import main


@pytest.fixture(autouse=True)
def restore_logger() -> Iterator[None]:
    logger = logging.getLogger("lingshu")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


def test_a_library_that_is_not_configured_is_silent() -> None:
    code = "import lingshu, logging; logging.getLogger('lingshu.core').error('unseen')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


def test_a_level_shows_its_records_and_those_above() -> None:
    stream = io.StringIO()
    log.configure("warning", stream=stream)
    logger = logging.getLogger("lingshu.serve")
    logger.info("unseen")
    logger.warning("%d requests wait", 3)
    assert stream.getvalue().endswith("WARNING lingshu.serve: 3 requests wait\n")
    assert stream.getvalue().count("\n") == 1


def test_a_default_level_does_not_replace_a_chosen_one() -> None:
    logger = logging.getLogger("lingshu")
    logger.handlers[:] = [logging.NullHandler()]
    log.configure_default("warning")
    assert logger.level == logging.WARNING
    [handler] = logger.handlers
    assert isinstance(handler, logging.StreamHandler)
    log.configure("error")
    log.configure_default("warning")
    assert logger.level == logging.ERROR


def test_a_json_record_has_its_fields_and_its_exception() -> None:
    stream = io.StringIO()
    log.configure("info", as_json=True, stream=stream)
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        logging.getLogger("lingshu.serve").exception("failed", extra={"request": "r1"})
    record = json.loads(stream.getvalue())
    assert (record["level"], record["logger"], record["message"], record["request"]) == (
        "error",
        "lingshu.serve",
        "failed",
        "r1",
    )
    assert "ZeroDivisionError" in record["exception"]


@pytest.mark.parametrize(
    ("options", "level"),
    [
        (["-v"], logging.INFO),
        (["--verbose"], logging.INFO),
        (["--log-level", "debug"], logging.DEBUG),
        (["--log-json"], logging.INFO),
    ],
)
@pytest.mark.parametrize("before_verb", [True, False])
def test_every_verb_takes_the_options(
    options: list[str], level: int, before_verb: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    verb = ["list", "engines"]
    assert main([*options, *verb] if before_verb else [*verb, *options]) == 0
    assert logging.getLogger("lingshu").level == level
    assert "echo" in capsys.readouterr().out


def test_an_unknown_level_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--log-level", "loud"]) == 2
    assert '"loud"' in capsys.readouterr().err
