"""The environment of the published Lingshu MCP server, read once at start and turned into typed
values.

The one place besides keys where the environment decides anything: clients of that server are set up
this way. LINGSHU_SERVER_URL is the address of an OpenAI-compatible server, LINGSHU_MODEL the name
of the model there, LINGSHU_SERVER_API its key. (github.com/alibaba-damo-academy/Lingshu_MCP, commit
d427f1b.)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

URL, MODEL, KEY = "LINGSHU_SERVER_URL", "LINGSHU_MODEL", "LINGSHU_SERVER_API"
# What that server takes where a variable is not set.
DEFAULT_URL, DEFAULT_MODEL = "http://localhost:8000/v1", "Lingshu-7B"


@dataclass(frozen=True)
class Compat:
    """A model by its address, its key, and the names of the variables that were set."""

    model: str
    api_key: str | None = field(repr=False)
    variables: tuple[str, ...]

    def __str__(self) -> str:
        # The host alone: somebody may have written a password into the address.
        url, _, name = self.model.partition("#")
        verb = "are" if len(self.variables) > 1 else "is"
        return (
            f"{' and '.join(self.variables)} of the environment {verb} used: the model is {name} at"
            f" {urlsplit(url).hostname}"
        )


def compat(environment: Mapping[str, str] | None = None) -> Compat | None:
    """The model that the variables name, None where neither an address nor a model is set."""
    given = os.environ if environment is None else environment
    found = {name: value for name in (URL, MODEL, KEY) if (value := given.get(name, "").strip())}
    if not found.keys() & {URL, MODEL}:
        return None
    model = f"{found.get(URL, DEFAULT_URL).rstrip('/')}#{found.get(MODEL, DEFAULT_MODEL)}"
    return Compat(model, found.get(KEY), tuple(found))


def child_environment(api_key: str | None) -> dict[str, str] | None:
    """The environment of an evaluation in a process of its own: None, this one's, where there is no
    key to hand on.
    """
    return None if api_key is None else {**os.environ, "OPENAI_API_KEY": api_key}
