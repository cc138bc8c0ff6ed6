"""The evaluations below a folder: their scores, and each report with its own security policy.

A report is a page with a script. It is shown in a frame without an origin and cannot send requests
to any server.
"""

from __future__ import annotations

import math
import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Request, Response
from pydantic import Field

from lingshu.core.artifacts import REPORT_HTML, REPORT_JSON
from lingshu.core.errors import ArtifactError, InputError
from lingshu.core.files import read_json
from lingshu.core.safe_folder import SafeFolder
from lingshu.serve.schema import HTTPError
from lingshu.ui.http import RequestModel, WorkerPool, add_route, parse_body

REPORT_URL = "/page/report/"
MAX_LISTED = 500
MAX_DEPTH = 5  # levels of subfolders
MAX_TICKETS = 256
TICKET_TTL_S = 3600
# A report contains its samples and thumbnails: tens of megabytes for a full benchmark.
MAX_REPORT_BYTES = 256 << 20
# The report's own policy names its one script by its hash; this one forbids everything else.
REPORT_SECURITY_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src"
    " 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)


class RunRequest(RequestModel):
    """A run whose report is to be opened."""

    run: Annotated[str, Field(max_length=1000)]


class RunReports:
    """The runs, and the tickets that open their reports."""

    def __init__(self, root: SafeFolder | None) -> None:
        self._root = root
        self._tickets: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def add_routes(self, app: FastAPI, workers: WorkerPool) -> None:
        async def list_runs(request: Request) -> object:
            return await workers.run(request, self.list_runs)

        async def ticket(request: Request) -> object:
            body = await parse_body(request, RunRequest)
            return {"url": await workers.run(request, lambda: self.ticket(body.run))}

        async def report(request: Request) -> Response:
            path = f"{self._run_for_ticket(request.path_params['ticket'])}/{REPORT_HTML}"
            data = await workers.run(
                request, lambda: self._folder().read(path, max_bytes=MAX_REPORT_BYTES)
            )
            # Only the page may frame it.
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
            InputError: the server has no folder of runs.
        """
        root = self._folder().folder
        folders = sorted(find_folders(root, REPORT_HTML))
        folders.sort(key=lambda path: (path / REPORT_HTML).stat().st_mtime, reverse=True)
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
            message = "this address has expired; open the report from the list again."
            raise HTTPError(404, message, code="ticket")
        return run

    def _folder(self) -> SafeFolder:
        if self._root is None:
            raise InputError("this server shows no runs; start it with --runs FOLDER.")
        return self._root


def _run_info(root: Path, folder: Path) -> dict[str, Any]:
    try:
        report = {} if (folder / REPORT_JSON).is_symlink() else read_json(folder / REPORT_JSON)
    except ArtifactError:
        report = {}  # a report of another kind, such as the quickstart's, can be opened too
    tasks = report["tasks"] if isinstance(report.get("tasks"), list) else []
    return {
        "run": str(folder.relative_to(root)),
        "model": _text_or_none(report.get("model")),
        "warning": _text_or_none(report.get("warning")),
        "tasks": [_task_info(task) for task in tasks if isinstance(task, dict)],
    }


def _task_info(task: dict[str, Any]) -> dict[str, Any]:
    summary = task.get("summary")
    accuracy = summary.get("accuracy") if isinstance(summary, dict) else None
    info: dict[str, Any] = {"name": _text_or_none(task.get("name"))}
    for key in ("value", "low", "high", "n"):
        value = accuracy.get(key) if isinstance(accuracy, dict) else None
        is_finite = isinstance(value, int | float) and math.isfinite(value)
        info[key] = value if is_finite else None
    return info


def _text_or_none(value: object) -> str | None:
    return value[:300] if isinstance(value, str) else None


def find_folders(root: Path, file: str) -> Iterator[Path]:
    """`root` and the folders below it that contain `file`, without links and hidden folders."""
    for parent, subfolders, files in os.walk(root):
        folder = Path(parent)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        if len(folder.relative_to(root).parts) >= MAX_DEPTH:
            subfolders.clear()
        if file in files and not (folder / file).is_symlink():
            yield folder
