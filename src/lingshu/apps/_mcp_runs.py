"""Evaluations that clients of `lingshu mcp` start: `lingshu eval` in a process of its own, one at a
time, told of and stopped by name.

Annotations are read by the SDK while a tool is made, so they are no strings here.
"""

import contextlib
import re
import secrets
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from lingshu.apps._looking import Looked
from lingshu.apps._mcp_asking import Permit, asked_permit, permitted
from lingshu.apps._mcp_model import NO_MODEL, Served
from lingshu.apps._mcp_results import Evaluation, TaskScore
from lingshu.core import shelves
from lingshu.core.artefacts import REPORT_JSON, REPORT_MD
from lingshu.core.errors import ArtefactError, ConfigError, EngineError, InputError
from lingshu.core.files import read_json, sha256_file
from lingshu.core.runcard import read_run_card

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

State = Literal["running", "done", "failed", "cancelled"]
Action = Literal["start", "status", "result", "cancel"]
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
# Longer reports are read as files.
MAX_REPORT = 200_000
STOP_S = 5.0


class Runs:
    """A folder of evaluations, and the one that is being made.

    It remembers those that it started.
    """

    def __init__(self, folder: Path | None, model: Served, *, data: Path | None = None) -> None:
        if folder is not None and folder.exists() and not folder.is_dir():
            raise ConfigError(f"--runs {folder} is no folder; give the folder for evaluations.")
        self.folder, self.model, self.data = folder, model, data
        self._turn = threading.Lock()
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        self._cancelled: set[str] = set()

    def names(self) -> list[str]:
        """The evaluations in the folder that have a report, the latest last."""
        if self.folder is None or not self.folder.is_dir():
            return []
        found = [
            path
            for path in self.folder.iterdir()
            if re.match(NAME, path.name) and (path / REPORT_JSON).is_file()
        ]
        return [
            path.name
            for path in sorted(
                found, key=lambda path: ((path / REPORT_JSON).stat().st_mtime, path.name)
            )
        ]

    def start(self, task: str, *, limit: int | None, made_up: bool) -> Evaluation:
        """Begin an evaluation.

        Raises:
            InputError: the server has no model or no folder for evaluations. EngineError: another
                one runs.
        """
        from lingshu.apps.mcp_compat import child_environment

        folder = self._folder()
        if self.model.name is None:
            raise InputError(NO_MODEL)
        with self._turn:
            if running := next(
                (name for name, process in self._started.items() if process.poll() is None), None
            ):
                raise EngineError(
                    f"the evaluation {running} is running; wait for it, or cancel it."
                )
            name = f"mcp-{task.replace('_', '-')}-{secrets.token_hex(4)}"
            folder.mkdir(parents=True, exist_ok=True)
            command = [
                sys.executable,
                "-m",
                "lingshu",
                "eval",
                self.model.name,
                task,
                "--out",
                str(folder / name),
            ]
            options = self.model.options
            command += [
                "--batch-size",
                str(options.batch_size),
                "--concurrency",
                str(options.concurrency),
            ]
            command += ["--threads", str(options.threads)] if options.threads else []
            command += ["--limit", str(limit)] if limit else []
            command += ["--data", str(self.data)] if self.data else []
            command += ["--twin"] if made_up else []
            with self._log(name).open("wb") as log:
                # Without an input and with its output in a file: standard input and output are the
                # protocol's.
                self._started[name] = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=child_environment(options.api_key),
                )
        return Evaluation(run=name, state="running", model=self.model.name)

    def status(self, name: str) -> Evaluation:
        """How far an evaluation is.

        Raises:
            InputError: there is none of that name.
        """
        state = self._state(name)
        folder = self._folder() / name
        asked, answered = _progress(folder)
        error = self._why(name) if state == "failed" else None
        found = Evaluation(run=name, state=state, questions=asked, answered=answered, error=error)
        return _with_model(found, folder) if state == "done" else found

    def result(self, name: str) -> Evaluation:
        """The scores and the report of an evaluation that is done; its prompt hash is that of the
        list of all that was asked.

        Raises:
            InputError: there is none of that name. EngineError: it is not done.
        """
        found = self.status(name)
        if found.state != "done":
            why = f": {found.error}" if found.error else ""
            raise EngineError(f"the evaluation {name} is {found.state}{why}; there is no result.")
        folder = self._folder() / name
        report = (
            (folder / REPORT_MD).read_text(encoding="utf-8")[:MAX_REPORT]
            if (folder / REPORT_MD).is_file()
            else None
        )
        asked = sorted(folder.glob("*/asked.jsonl"))
        digest = sha256_file(asked[0]) if len(asked) == 1 else None
        return found.model_copy(
            update={"scores": _scores(folder), "report": report, "prompt_sha256": digest}
        )

    def cancel(self, name: str) -> Evaluation:
        """Stop an evaluation; what it has stored stays.

        Raises:
            InputError: there is none of that name that this server started.
        """
        with self._turn:
            process = self._started.get(name)
            if process is None:
                raise InputError("this server started no such evaluation.")
            if process.poll() is None:
                self._cancelled.add(name)
                _stop(process)
        return self.status(name)

    def close(self) -> None:
        with self._turn:
            for process in self._started.values():
                if process.poll() is None:
                    _stop(process)

    def _folder(self) -> Path:
        if self.folder is None:
            raise InputError("this server keeps no evaluations; start it with --runs FOLDER.")
        return self.folder

    def _log(self, name: str) -> Path:
        return self._folder() / f"{name}.log"

    def _state(self, name: str) -> State:
        process = self._started.get(name)
        if process is None:
            if name not in self.names():
                raise InputError(
                    "there is no such evaluation; the resource lingshu://runs lists them."
                )
            return "done"
        code = process.poll()
        if code is None:
            return "running"
        if name in self._cancelled:
            return "cancelled"
        # Code 1 is a finished run with counted failures: its report tells of them.
        return (
            "done"
            if code in (0, 1) and (self._folder() / name / REPORT_JSON).is_file()
            else "failed"
        )

    def _why(self, name: str) -> str:
        lines = self._log(name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        told = next((line for line in reversed(lines) if line.startswith("lingshu: error: ")), None)
        return (
            told.removeprefix("lingshu: error: ")
            if told
            else "it ended without saying why; its log lies beside it."
        )


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _progress(folder: Path) -> tuple[int | None, int | None]:
    from lingshu.evaluate.generate import ASKED, missing

    asked = left = 0
    files = sorted(folder.glob(f"*/{ASKED}"))
    for file in files:
        # While the child writes them, files may be there in part, or not yet.
        with contextlib.suppress(OSError, ArtefactError, InputError, KeyError):
            with file.open("rb") as lines:
                asked += sum(1 for _ in lines)
            left += missing(file.parent)
    return (asked, asked - left) if files else (None, None)


def _with_model(found: Evaluation, folder: Path) -> Evaluation:
    notes = read_run_card(folder).get("notes", {})
    return found.model_copy(
        update={"model": notes.get("model"), "model_digest": notes.get("digest")}
    )


def _scores(folder: Path) -> list[TaskScore]:
    def score(task: dict[str, Any]) -> TaskScore:
        summary, interval = task["summary"], task["summary"]["accuracy"]
        bounds = {name: interval[name] for name in ("value", "low", "high")}
        return TaskScore(task=task["name"], metric=summary["metric"], n=summary["n"], **bounds)

    return [score(task) for task in read_json(folder / REPORT_JSON)["tasks"]]


def add_evaluate(server: "MCPServer", runs: Runs, model: Served) -> None:
    from mcp.server.mcpserver import Context
    from mcp.server.mcpserver.resolve import ElicitationResult, Resolve
    from mcp_types import ToolAnnotations

    tasks = shelves.names("tasks")

    def known_task(name: str | None) -> str | None:
        if name is not None and name not in tasks:
            raise ValueError(
                "there is no such benchmark; the resource lingshu://benchmarks lists them"
            )
        return name

    async def permit_run(ctx: Context, action: Action) -> Any:
        return (
            await asked_permit(ctx, model, Looked(), "the questions of the benchmark")
            if action == "start"
            else Permit(send=True)
        )

    @server.tool(
        title="Evaluate the model",
        annotations=ToolAnnotations(
            read_only_hint=False,
            destructive_hint=False,
            idempotent_hint=False,
            open_world_hint=False,
        ),
        structured_output=True,
    )
    async def evaluate(
        action: Action,
        agreed: Annotated[ElicitationResult[Permit], Resolve(permit_run)],
        task: Annotated[
            str | None,
            AfterValidator(known_task),
            Field(
                json_schema_extra={"enum": [*tasks, None]}, description="The benchmark, for start."
            ),
        ] = None,
        run: Annotated[
            str | None, Field(pattern=NAME, description="The run, for status, result and cancel.")
        ] = None,
        limit: Annotated[
            int | None, Field(ge=1, le=1_000_000, description="Ask only so many questions.")
        ] = None,
        made_up: Annotated[
            bool, Field(description="Ask a few made-up questions of the same shape; needs no data.")
        ] = False,
    ) -> Evaluation:
        """Evaluate the server's model on a benchmark: start one, ask how far it is, read its
        result, or cancel it. One at a time.
        """
        if action == "start":
            if task is None:
                raise InputError(
                    "start needs a task; the resource lingshu://benchmarks lists them."
                )
            permitted(agreed)
            return await model.elsewhere(lambda: runs.start(task, limit=limit, made_up=made_up))
        if run is None:
            raise InputError(f"{action} needs the name of a run.")
        work = {"status": runs.status, "result": runs.result, "cancel": runs.cancel}[action]
        return await model.elsewhere(lambda: work(run))
