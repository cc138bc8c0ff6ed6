"""Who may be sent where: the whole table, and that nothing is guessed from names."""

from __future__ import annotations

import pytest

from lingshu.core.errors import ReleaseError
from lingshu.core.nouns import Access, Meta, Sample
from lingshu.core.release import Release, check_release, is_local, refusal

AWAY = "https://api.example.invalid/v1"


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
        ("http://127.8.8.8/v1", True), ("http://0.0.0.0/v1", False), ("http://192.168.0.2/v1", False), (AWAY, False),
        ("http://localhost.example.invalid/v1", False), ("http://localhost@example.invalid/v1", False), ("http://2130706433/v1", False),
        ("", False),
    ],
)  # fmt: skip
def test_only_loopback_is_this_machine(endpoint: str | None, local: bool) -> None:
    assert is_local(endpoint) is local


@pytest.mark.parametrize(
    ("asked", "release", "allowed"),
    [
        (sample("open"), Release(), True),
        (sample("private"), Release(), False),
        (sample("private", deidentified=False), Release(), False),
        (sample("private", deidentified=True), Release(), True),
        (sample("private"), Release(private=True), True),
        (sample("form"), Release(private=True), False),
        (sample("form", agreement="x"), Release(agreements=frozenset({"y"})), False),
        (sample("form", agreement="x"), Release(agreements=frozenset({"x"})), True),
        (sample("credentialed", deidentified=True), Release(private=True), False),
        (
            sample("credentialed", agreement="x", deidentified=True),
            Release(agreements=frozenset({"x"})),
            True,
        ),
    ],
)
def test_what_may_leave(asked: Sample, release: Release, allowed: bool) -> None:
    assert (refusal(asked, AWAY, release) is None) is allowed
    assert refusal(asked, None, release) is None


def test_a_sample_is_private_unless_it_says_otherwise() -> None:
    assert refusal(Sample("s", ()), AWAY, Release()) is not None


def test_the_refusal_names_sample_endpoint_and_remedy() -> None:
    with pytest.raises(
        ReleaseError, match=r"'s1' may not go to https://api\.example\.invalid/v1: .*--allow-remote"
    ):
        check_release([sample("open"), sample("private")], AWAY, Release())
    with pytest.raises(ReleaseError, match="--agreement physionet"):
        check_release([sample("credentialed", agreement="physionet")], AWAY, Release())
