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

from lingshu.core.artifacts import REPORT_HTML, REPORT_JSON
from lingshu.core.errors import ArtifactError, InputError
from lingshu.core.files import read_json
from lingshu.core.safe_folder import SafeFolder
from lingshu.serve.schema import HTTPError
from lingshu.ui.http import (
    LenientJSONResponse,
    RequestModel,
    WorkerPool,
    add_route,
    find_folders,
    parse_body,
)

REPORT_URL = "/page/report/"
MAX_LISTED = 500
MAX_TICKETS = 256
TICKET_TTL_S = 3600
# Reports hold their samples and thumbnails: those of whole benchmarks have tens of megabytes.
MAX_REPORT_BYTES = 256 << 20
# The report's own policy, inside it, names its one script by its hash; this one takes everything
# else away.
REPORT_SECURITY_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src"
    " 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)


class RunRequest(RequestModel):
    """A run whose report is to be opened."""

    run: Annotated[str, Field(max_length=1000)]


class RunReports:
    """Remembers the tickets that open reports."""

    def __init__(self, root: SafeFolder | None) -> None:
        self._root = root
        self._tickets: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def add_routes(self, app: FastAPI, workers: WorkerPool) -> None:
        async def list_runs(request: Request) -> Response:
            return LenientJSONResponse(await workers.run(request, self.list_runs))

        async def ticket(request: Request) -> Response:
            body = await parse_body(request, RunRequest)
            return LenientJSONResponse(
                {"url": await workers.run(request, lambda: self.ticket(body.run))}
            )

        async def report(request: Request) -> Response:
            name = self._run_for_ticket(request.path_params["ticket"])
            data = await workers.run(
                request,
                lambda: self._folder().read(f"{name}/{REPORT_HTML}", max_bytes=MAX_REPORT_BYTES),
            )
            # It is framed by the page, and by nobody else.
            headers = {
                "Content-Security-Policy": REPORT_SECURITY_POLICY,
                "X-Frame-Options": "SAMEORIGIN",
            }
            return Response(data, media_type="text/html; charset=utf-8", headers=headers)

        add_route(app, "/page/api/runs", list_runs)
        add_route(app, "/page/api/runs/open", ticket, "POST")
        add_route(app, REPORT_URL + "{ticket}", report)

    def list_runs(self) -> dict[str, Any]:
        """The folders with a report, the latest first, with their accuracies.

        Raises:
            InputError: the server shows no runs.
        """
        root = self._folder().folder
        folders = sorted(
            find_folders(root, REPORT_HTML),
            key=lambda path: (-(path / REPORT_HTML).stat().st_mtime, str(path)),
        )
        return {
            "runs": [_run_info(root, path) for path in folders[:MAX_LISTED]],
            "more": max(0, len(folders) - MAX_LISTED),
        }

    def ticket(self, run: str) -> str:
        """An address that shows one report for an hour.

        Raises:
            InputError: there is none.
        """
        self._folder().path(f"{run}/{REPORT_HTML}")
        name = secrets.token_urlsafe(24)
        self._tickets[name] = run, time.monotonic() + TICKET_TTL_S
        while len(self._tickets) > MAX_TICKETS:
            self._tickets.popitem(last=False)
        return REPORT_URL + name

    def _run_for_ticket(self, ticket: str) -> str:
        run, expires_at = self._tickets.get(ticket, ("", 0.0))
        if time.monotonic() > expires_at:
            raise HTTPError(
                404, "this address has ended; open the report from the list again.", code="ticket"
            )
        return run

    def _folder(self) -> SafeFolder:
        if self._root is None:
            raise InputError("this server shows no runs; start it with --runs FOLDER.")
        return self._root


def _run_info(root: Path, folder: Path) -> dict[str, Any]:
    name = str(folder.relative_to(root))
    try:
        report = {} if (folder / REPORT_JSON).is_symlink() else read_json(folder / REPORT_JSON)
    except ArtifactError:
        # A report of another kind, such as that of the quickstart: it is opened all the same.
        return {"run": name, "model": None, "warning": None, "tasks": []}
    tasks = report.get("tasks")
    task_entries = (
        [_task_summary(task) for task in tasks if isinstance(task, dict)]
        if isinstance(tasks, list)
        else []
    )
    return {
        "run": name,
        "model": _text_or_none(report.get("model")),
        "warning": _text_or_none(report.get("warning")),
        "tasks": task_entries,
    }


def _task_summary(task: dict[str, Any]) -> dict[str, Any]:
    summary = task.get("summary")
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
        "name": _text_or_none(task.get("name")),
        **{key: values.get(key) for key in ("value", "low", "high", "n")},
    }


def _text_or_none(value: object) -> str | None:
    return value[:300] if isinstance(value, str) else None
