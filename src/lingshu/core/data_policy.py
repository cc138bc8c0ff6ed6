"""Whether a sample may leave this machine, checked before every engine, judge or teacher sends it.

Loopback addresses are this machine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from lingshu.core.errors import DataPolicyError
from lingshu.core.types import DataPolicy, Sample


def is_local(endpoint: str | None) -> bool:
    """True for an engine in this process or on a loopback address; names are never resolved."""
    if endpoint is None:
        return True
    host = urlsplit(endpoint).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refusal_reason(sample: Sample, endpoint: str | None, policy: DataPolicy) -> str | None:
    """Why `sample` may not be sent to `endpoint`; None if it may."""
    meta = sample.meta
    if is_local(endpoint) or meta.access == "open":
        return None
    if meta.access == "private":
        if meta.deidentified or policy.allow_private:
            return None
        return (
            "it is private and not marked as de-identified; pass --allow-remote if it may be sent"
        )
    if meta.agreement and meta.agreement in policy.agreements:
        return None
    return (
        f"its access class is {meta.access!r}; pass --agreement {meta.agreement or 'NAME'} if that"
        " agreement covers the endpoint"
    )


def check_data_policy(samples: Iterable[Sample], endpoint: str | None, policy: DataPolicy) -> None:
    """Refuse before the first request if any sample may not be sent.

    Raises:
        DataPolicyError: names the first such sample, the endpoint and the remedy.
    """
    if is_local(endpoint):
        return
    for sample in samples:
        reason = refusal_reason(sample, endpoint, policy)
        if reason:
            raise DataPolicyError(f"sample {sample.id!r} may not go to {endpoint}: {reason}.")
