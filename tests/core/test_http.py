"""The parts of the HTTP client that no server shows: how long it waits, and what it never repeats."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from lingshu.core.errors import InputError
from lingshu.core.llm_client import Endpoint, error_name, parse_retry_after


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("0.5", 0.5),
        ("-3", 0.0),
        ("nan", None),
        ("inf", None),
        ("soon", None),
    ],
)
def test_the_wait_that_a_server_asks_for(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value) == seconds


def test_a_server_may_name_a_date() -> None:
    now = datetime.now(UTC)
    assert (
        50
        < (parse_retry_after(format_datetime(now + timedelta(seconds=60), usegmt=True)) or 0)
        <= 60
    )
    assert parse_retry_after(format_datetime(now - timedelta(days=1), usegmt=True)) == 0.0


def test_of_an_error_only_its_name_is_kept() -> None:
    error_body = {"message": "cannot process name Jane Canary", "code": "context_length_exceeded"}
    assert error_name(json.dumps({"error": error_body}).encode()) == ": context_length_exceeded"
    for name in ("Jane Canary", 7, None, "x" * 50):
        assert (
            error_name(
                json.dumps({"error": {"message": "Anna", "code": name, "type": name}}).encode()
            )
            == ""
        )
    assert error_name(b"Jane") == ""


def test_an_endpoint_hides_its_key() -> None:
    assert "canary" not in repr(Endpoint("http://127.0.0.1/v1", "canary"))
    for key in ("", "two words", "line\nbreak", "schlüssel"):
        with pytest.raises(InputError, match="copy it again"):
            Endpoint("http://127.0.0.1/v1", key)
