"""The options of `lingshu mcp`, and what its tools, resources and prompts share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lingshu.core.errors import ConfigError
from lingshu.core.safe_folder import SafeFolder
from lingshu.core.types import EngineOptions
from lingshu.evaluate.calibration import Threshold
from lingshu.inference.study_index import MediaResolver
from lingshu.mcp.model import ModelHandle
from lingshu.mcp.runs import EvaluationRuns


@dataclass(frozen=True, kw_only=True)
class McpConfig:
    """How clients reach the server, and what they can read and start."""

    http: str | None = None
    """HOST:PORT to listen on, instead of standard input and output. Beyond this machine only with
    --key-file; port 0 takes a free one."""
    root: Path | None = None
    """Folder below which clients may name files, and whose studies are listed. By default images
    come only inside the call."""
    key_file: Path | None = None
    """File of tokens, one per line, at least 16 characters each; every HTTP request then needs one."""
    allow_host: tuple[str, ...] = ()
    """Name that clients reach the server by, as in their Host header; needed for 0.0.0.0.
    Repeatable."""
    runs: Path | None = None
    "Folder for evaluations that clients start, and whose reports they may read."
    data: Path | None = None
    "Folder with offline data of benchmarks."
    max_body_mb: int = 32
    "Maximum size of an HTTP request, in MB; images in it are a third larger than their files."
    max_batch_size: int = 8
    "Replies generated at the same time."

    def __post_init__(self) -> None:
        for option in ("max_body_mb", "max_batch_size"):
            if (value := getattr(self, option)) < 1:
                flag = option.replace("_", "-")
                raise ConfigError(f"--{flag} is {value}; it must be at least 1.")
        if self.http is None and (self.key_file or self.allow_host):
            raise ConfigError(
                "--key-file and --allow-host are for --http HOST:PORT; leave them out, or give it."
            )


@dataclass
class McpServices:
    """The model, the images that clients may read, and the evaluations."""

    model: ModelHandle
    media: MediaResolver
    runs: EvaluationRuns

    def close(self) -> None:
        self.runs.close()
        self.model.close()


def open_services(
    model: str | None,
    config: McpConfig,
    options: EngineOptions,
    *,
    allow_remote: bool,
    threshold: Threshold | None = None,
) -> McpServices:
    """The services of a server; no model is loaded.

    Raises:
        ConfigError, InputError: a folder that cannot be used.
    """
    handle = ModelHandle(model, options, allow_remote=allow_remote, threshold=threshold)
    media = MediaResolver(SafeFolder(config.root) if config.root else None)
    return McpServices(handle, media, EvaluationRuns(config.runs, handle, data=config.data))
