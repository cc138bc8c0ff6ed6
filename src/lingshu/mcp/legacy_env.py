"""The environment variables of the published Lingshu MCP server, read once at start-up.

Clients of that server are configured this way; nothing else in lingshu but keys comes from the
environment. LINGSHU_SERVER_URL is the address of an OpenAI-compatible server, LINGSHU_MODEL the name
of the model there, LINGSHU_SERVER_API its key. (github.com/alibaba-damo-academy/Lingshu_MCP, commit
d427f1b.)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

URL_VARIABLE, MODEL_VARIABLE = "LINGSHU_SERVER_URL", "LINGSHU_MODEL"
KEY_VARIABLE = "LINGSHU_SERVER_API"
# The published server's defaults.
DEFAULT_URL, DEFAULT_MODEL = "http://localhost:8000/v1", "Lingshu-7B"


@dataclass(frozen=True)
class LegacyEnvironment:
    """A model by its address, its key, and the names of the variables that were set."""

    model: str
    api_key: str | None = field(repr=False)
    variables: tuple[str, ...]

    def __str__(self) -> str:
        url, _, name = self.model.partition("#")
        verb = "are" if len(self.variables) > 1 else "is"
        # Only the host: the address may contain a password.
        return (
            f"{' and '.join(self.variables)} of the environment {verb} used: the model is {name} at"
            f" {urlsplit(url).hostname}"
        )


def read_legacy_environment(environ: Mapping[str, str] | None = None) -> LegacyEnvironment | None:
    """The model that the variables name; None if neither an address nor a model is set."""
    environ = os.environ if environ is None else environ
    names = (URL_VARIABLE, MODEL_VARIABLE, KEY_VARIABLE)
    values = {name: value for name in names if (value := environ.get(name, "").strip())}
    if not values.keys() & {URL_VARIABLE, MODEL_VARIABLE}:
        return None
    url = values.get(URL_VARIABLE, DEFAULT_URL).rstrip("/")
    model = f"{url}#{values.get(MODEL_VARIABLE, DEFAULT_MODEL)}"
    return LegacyEnvironment(model, values.get(KEY_VARIABLE), tuple(values))


def child_environment(api_key: str | None) -> dict[str, str] | None:
    """The environment of a subprocess: None, which is this one's, unless there is a key to pass on."""
    return None if api_key is None else {**os.environ, "OPENAI_API_KEY": api_key}
