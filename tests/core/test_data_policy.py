"""Who may be sent where: the whole table, and that nothing is guessed from names."""

from __future__ import annotations

import pytest

from lingshu.core.data_policy import check_data_policy, is_local, refusal_reason
from lingshu.core.errors import DataPolicyError
from lingshu.core.types import Access, DataPolicy, Meta, Sample

REMOTE = "https://api.example.invalid/v1"


def sample(
    access: Access, *, deidentified: bool | None = None, agreement: str | None = None
) -> Sample:
    return Sample(
        "s1", (), meta=Meta(access=access, deidentified=deidentified, agreement=agreement)
    )


@pytest.mark.parametrize(
    ("endpoint", "local"),
    [
        (None, True), ("http://localhost:8000/v1", True), ("http://127.0.0.1/v1", True), ("http://[::1]:80/v1", True),
        ("http://127.8.8.8/v1", True), ("http://0.0.0.0/v1", False), ("http://192.168.0.2/v1", False), (REMOTE, False),
        ("http://localhost.example.invalid/v1", False), ("http://localhost@example.invalid/v1", False), ("http://2130706433/v1", False),
        ("", False),
    ],
)  # fmt: skip
def test_only_loopback_is_this_machine(endpoint: str | None, local: bool) -> None:
    assert is_local(endpoint) is local


@pytest.mark.parametrize(
    ("candidate", "release", "allowed"),
    [
        (sample("open"), DataPolicy(), True),
        (sample("private"), DataPolicy(), False),
        (sample("private", deidentified=False), DataPolicy(), False),
        (sample("private", deidentified=True), DataPolicy(), True),
        (sample("private"), DataPolicy(allow_private=True), True),
        (sample("form"), DataPolicy(allow_private=True), False),
        (sample("form", agreement="x"), DataPolicy(agreements=frozenset({"y"})), False),
        (sample("form", agreement="x"), DataPolicy(agreements=frozenset({"x"})), True),
        (sample("credentialed", deidentified=True), DataPolicy(allow_private=True), False),
        (
            sample("credentialed", agreement="x", deidentified=True),
            DataPolicy(agreements=frozenset({"x"})),
            True,
        ),
    ],
)
def test_what_may_leave(candidate: Sample, release: DataPolicy, allowed: bool) -> None:
    assert (refusal_reason(candidate, REMOTE, release) is None) is allowed
    assert refusal_reason(candidate, None, release) is None


def test_a_sample_is_private_unless_it_is_marked_otherwise() -> None:
    assert refusal_reason(Sample("s", ()), REMOTE, DataPolicy()) is not None


def test_the_refusal_names_sample_endpoint_and_remedy() -> None:
    with pytest.raises(
        DataPolicyError,
        match=r"'s1' may not go to https://api\.example\.invalid/v1: .*--allow-remote",
    ):
        check_data_policy([sample("open"), sample("private")], REMOTE, DataPolicy())
    with pytest.raises(DataPolicyError, match="--agreement physionet"):
        check_data_policy([sample("credentialed", agreement="physionet")], REMOTE, DataPolicy())
