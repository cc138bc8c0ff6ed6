"""The evaluations below a folder, for the page: their scores, and each report behind a policy of
its own.

A report is a page with a script. It is shown in a frame without an origin: it can ask this server,
or anybody, for nothing.
"""

from __future__ import annotations

import math
import secrets
import time
from collections import OrderedDict
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from pydantic import Field

from lingshu.apps._page_http import Json, Taken, Workers, add, folders_with, taken
from lingshu.apps._serve_wire import Refused
from lingshu.core.artefacts import REPORT_HTML, REPORT_JSON
from lingshu.core.errors import ArtefactError, InputError
from lingshu.core.files import read_json
from lingshu.core.rooted import Rooted

REPORT = "/page/report/"
LISTED = 500
TICKETS = 256
VALID_S = 3600
# Reports hold their samples and thumbnails: those of whole benchmarks have tens of megabytes.
MAX_REPORT = 256 << 20
# The report's own policy, inside it, names its one script by its hash; this one takes everything
# else away.
POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src"
    " 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)


class Wanted(Taken):
    """A run whose report is to be opened."""

    run: Annotated[str, Field(max_length=1000)]


class Runs:
    """Remembers the tickets that open reports."""

    def __init__(self, root: Rooted | None) -> None:
        self._root = root
        self._tickets: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def add(self, app: FastAPI, workers: Workers) -> None:
        async def listing(request: Request) -> Response:
            return Json(await workers.do(request, self.listed))

        async def ticket(request: Request) -> Response:
            wanted = await taken(request, Wanted)
            return Json({"url": await workers.do(request, lambda: self.ticket(wanted.run))})

        async def report(request: Request) -> Response:
            name = self._run_of(request.path_params["ticket"])
            data = await workers.do(
                request, lambda: self._folder().read(f"{name}/{REPORT_HTML}", limit=MAX_REPORT)
            )
            # It is framed by the page, and by nobody else.
            headers = {"Content-Security-Policy": POLICY, "X-Frame-Options": "SAMEORIGIN"}
            return Response(data, media_type="text/html; charset=utf-8", headers=headers)

        add(app, "/page/api/runs", listing)
        add(app, "/page/api/runs/open", ticket, "POST")
        add(app, REPORT + "{ticket}", report)

    def listed(self) -> dict[str, Any]:
        """The folders with a report, the latest first, with their accuracies.

        Raises:
            InputError: the server shows no runs.
        """
        root = self._folder().folder
        found = sorted(
            folders_with(root, REPORT_HTML),
            key=lambda path: (-(path / REPORT_HTML).stat().st_mtime, str(path)),
        )
        return {
            "runs": [_facts(root, path) for path in found[:LISTED]],
            "more": max(0, len(found) - LISTED),
        }

    def ticket(self, run: str) -> str:
        """An address that shows one report for an hour.

        Raises:
            InputError: there is none.
        """
        self._folder().path(f"{run}/{REPORT_HTML}")
        name = secrets.token_urlsafe(24)
        self._tickets[name] = run, time.monotonic() + VALID_S
        while len(self._tickets) > TICKETS:
            self._tickets.popitem(last=False)
        return REPORT + name

    def _run_of(self, ticket: str) -> str:
        run, until = self._tickets.get(ticket, ("", 0.0))
        if time.monotonic() > until:
            raise Refused(
                404, "this address has ended; open the report from the list again.", code="ticket"
            )
        return run

    def _folder(self) -> Rooted:
        if self._root is None:
            raise InputError("this server shows no runs; start it with --runs FOLDER.")
        return self._root


def _facts(root: Path, folder: Path) -> dict[str, Any]:
    name = str(folder.relative_to(root))
    try:
        found = {} if (folder / REPORT_JSON).is_symlink() else read_json(folder / REPORT_JSON)
    except ArtefactError:
        # A report of another kind, such as that of the quickstart: it is opened all the same.
        return {"run": name, "model": None, "warning": None, "tasks": []}
    tasks = found.get("tasks")
    told = [_task(one) for one in tasks if isinstance(one, dict)] if isinstance(tasks, list) else []
    return {
        "run": name,
        "model": _text(found.get("model")),
        "warning": _text(found.get("warning")),
        "tasks": told,
    }


def _task(found: dict[str, Any]) -> dict[str, Any]:
    summary = found.get("summary")
    accuracy = summary.get("accuracy") if isinstance(summary, dict) else None
    values = (
        {
            key: value
            for key, value in accuracy.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        if isinstance(accuracy, dict)
        else {}
    )
    return {
        "name": _text(found.get("name")),
        **{key: values.get(key) for key in ("value", "low", "high", "n")},
    }


def _text(value: object) -> str | None:
    return value[:300] if isinstance(value, str) else None
