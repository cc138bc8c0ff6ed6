"""Options to open an engine with; each engine uses those that concern it."""

from __future__ import annotations

from dataclasses import dataclass, field

from lingshu.core.data_policy import DataPolicy
from lingshu.core.errors import ConfigError


@dataclass(frozen=True)
class EngineOptions:
    """How an engine runs; none of it may change a greedy reply.

    `batch_size` and `threads` (CPU threads; None keeps the library's default) are for engines in
    this process; `concurrency`, `timeout_s` (a request) and `retries` (after the first attempt) for
    those with an address.
    """

    batch_size: int = 16
    threads: int | None = None
    device: str | None = None
    concurrency: int = 16
    timeout_s: float = 120.0
    retries: int = 5
    data_policy: DataPolicy = field(default_factory=DataPolicy)
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("batch_size", "concurrency"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads is {self.threads}; it must be at least 1.")
        if not self.timeout_s > 0 or self.retries < 0:
            raise ConfigError(
                f"timeout_s {self.timeout_s} must be above 0 and retries {self.retries} not"
                " negative."
            )
