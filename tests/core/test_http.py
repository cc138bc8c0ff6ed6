"""The parts of the HTTP client that no server shows: how long it waits, and what it never repeats."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from lingshu.core.errors import InputError
from lingshu.core.wire import Endpoint, _repeats, _retry_after


@pytest.mark.parametrize(
    ("value", "seconds"), [(None, None), ("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("nan", None), ("inf", None), ("soon", None)]
)
def test_the_wait_that_a_server_asks_for(value: str | None, seconds: float | None) -> None:
    assert _retry_after(value) == seconds


def test_a_server_may_name_a_date() -> None:
    now = datetime.now(UTC)
    assert 50 < (_retry_after(format_datetime(now + timedelta(seconds=60), usegmt=True)) or 0) <= 60
    assert _retry_after(format_datetime(now - timedelta(days=1), usegmt=True)) == 0.0


def test_an_explanation_that_repeats_the_question_is_noticed() -> None:
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "The patient Jane Canary, born 1950, coughs."}]}]}
    assert _repeats("cannot parse 'patient Jane Canary, born'", body)
    assert not _repeats("maximum context length is 4096 tokens", body)
    assert not _repeats("?", {"messages": [{"role": "user", "content": "?"}]})


def test_an_endpoint_hides_its_key() -> None:
    assert "canary" not in repr(Endpoint("http://127.0.0.1/v1", "canary"))
    for key in ("", "two words", "line\nbreak", "schlüssel"):
        with pytest.raises(InputError, match="copy it again"):
            Endpoint("http://127.0.0.1/v1", key)
