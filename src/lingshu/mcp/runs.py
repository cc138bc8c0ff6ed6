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

from lingshu.core import registry
from lingshu.core.artifacts import REPORT_JSON, REPORT_MD
from lingshu.core.errors import ArtifactError, ConfigError, EngineError, InputError
from lingshu.core.files import read_json, sha256_file
from lingshu.core.run_card import read_run_card
from lingshu.inference.inputs import ModelInput
from lingshu.mcp.model import NO_MODEL_MESSAGE, ModelHandle
from lingshu.mcp.results import EvaluationStatus, TaskScore
from lingshu.mcp.tools import ConsentForm, is_permitted, request_consent

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

RunState = Literal["running", "done", "failed", "cancelled"]
RunAction = Literal["start", "status", "result", "cancel"]
RUN_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
# Longer reports are read as files.
MAX_REPORT_CHARS = 200_000
STOP_TIMEOUT_S = 5.0


class EvaluationRuns:
    """A folder of evaluations, and the one that is being made.

    It remembers those that it started.
    """

    def __init__(
        self, folder: Path | None, model: ModelHandle, *, data: Path | None = None
    ) -> None:
        if folder is not None and folder.exists() and not folder.is_dir():
            raise ConfigError(f"--runs {folder} is no folder; give the folder for evaluations.")
        self.folder, self.model, self.data = folder, model, data
        self._lock = threading.Lock()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._cancelled_names: set[str] = set()

    def names(self) -> list[str]:
        """The evaluations in the folder that have a report, the latest last."""
        if self.folder is None or not self.folder.is_dir():
            return []
        run_folders = [
            path
            for path in self.folder.iterdir()
            if re.match(RUN_NAME_PATTERN, path.name) and (path / REPORT_JSON).is_file()
        ]
        return [
            path.name
            for path in sorted(
                run_folders, key=lambda path: ((path / REPORT_JSON).stat().st_mtime, path.name)
            )
        ]

    def start(self, task: str, *, limit: int | None, synthetic: bool) -> EvaluationStatus:
        """Begin an evaluation.

        Raises:
            InputError: the server has no model or no folder for evaluations. EngineError: another
                one runs.
        """
        from lingshu.mcp.legacy_env import child_environment

        folder = self._folder()
        if self.model.name is None:
            raise InputError(NO_MODEL_MESSAGE)
        with self._lock:
            if running_name := next(
                (name for name, process in self._processes.items() if process.poll() is None), None
            ):
                raise EngineError(
                    f"the evaluation {running_name} is running; wait for it, or cancel it."
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
            command += ["--synthetic"] if synthetic else []
            with self._log(name).open("wb") as log:
                # Without an input and with its output in a file: standard input and output are the
                # protocol's.
                self._processes[name] = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=child_environment(options.api_key),
                )
        return EvaluationStatus(run=name, state="running", model=self.model.name)

    def status(self, name: str) -> EvaluationStatus:
        """How far an evaluation is.

        Raises:
            InputError: there is none of that name.
        """
        state = self._state(name)
        folder = self._folder() / name
        n_questions, n_answered = _count_progress(folder)
        error = self._failure_reason(name) if state == "failed" else None
        evaluation = EvaluationStatus(
            run=name, state=state, n_questions=n_questions, n_answered=n_answered, error=error
        )
        return _with_model(evaluation, folder) if state == "done" else evaluation

    def result(self, name: str) -> EvaluationStatus:
        """The scores and the report of an evaluation that is done; its prompt hash is that of the
        list of all that was asked.

        Raises:
            InputError: there is none of that name. EngineError: it is not done.
        """
        evaluation = self.status(name)
        if evaluation.state != "done":
            reason = f": {evaluation.error}" if evaluation.error else ""
            raise EngineError(
                f"the evaluation {name} is {evaluation.state}{reason}; there is no result."
            )
        folder = self._folder() / name
        report = (
            (folder / REPORT_MD).read_text(encoding="utf-8")[:MAX_REPORT_CHARS]
            if (folder / REPORT_MD).is_file()
            else None
        )
        prompt_files = sorted(folder.glob("*/requests.jsonl"))
        digest = sha256_file(prompt_files[0]) if len(prompt_files) == 1 else None
        return evaluation.model_copy(
            update={"scores": _scores(folder), "report": report, "prompt_sha256": digest}
        )

    def cancel(self, name: str) -> EvaluationStatus:
        """Stop an evaluation; what it has stored stays.

        Raises:
            InputError: there is none of that name that this server started.
        """
        with self._lock:
            process = self._processes.get(name)
            if process is None:
                raise InputError("this server started no such evaluation.")
            if process.poll() is None:
                self._cancelled_names.add(name)
                _stop(process)
        return self.status(name)

    def close(self) -> None:
        with self._lock:
            for process in self._processes.values():
                if process.poll() is None:
                    _stop(process)

    def _folder(self) -> Path:
        if self.folder is None:
            raise InputError("this server keeps no evaluations; start it with --runs FOLDER.")
        return self.folder

    def _log(self, name: str) -> Path:
        return self._folder() / f"{name}.log"

    def _state(self, name: str) -> RunState:
        process = self._processes.get(name)
        if process is None:
            if name not in self.names():
                raise InputError(
                    "there is no such evaluation; the resource lingshu://runs lists them."
                )
            return "done"
        code = process.poll()
        if code is None:
            return "running"
        if name in self._cancelled_names:
            return "cancelled"
        # Code 1 is a finished run with counted failures: its report tells of them.
        return (
            "done"
            if code in (0, 1) and (self._folder() / name / REPORT_JSON).is_file()
            else "failed"
        )

    def _failure_reason(self, name: str) -> str:
        lines = self._log(name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        error_line = next(
            (line for line in reversed(lines) if line.startswith("lingshu: error: ")), None
        )
        return (
            error_line.removeprefix("lingshu: error: ")
            if error_line
            else "it ended without saying why; its log lies beside it."
        )


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _count_progress(folder: Path) -> tuple[int | None, int | None]:
    from lingshu.evaluate.generate import REQUESTS, count_pending

    n_prompts = n_pending = 0
    files = sorted(folder.glob(f"*/{REQUESTS}"))
    for file in files:
        # While the child writes them, files may be there in part, or not yet.
        with contextlib.suppress(OSError, ArtifactError, InputError, KeyError):
            with file.open("rb") as lines:
                n_prompts += sum(1 for _ in lines)
            n_pending += count_pending(file.parent)
    return (n_prompts, n_prompts - n_pending) if files else (None, None)


def _with_model(evaluation: EvaluationStatus, folder: Path) -> EvaluationStatus:
    notes = read_run_card(folder).get("notes", {})
    return evaluation.model_copy(
        update={"model": notes.get("model"), "model_digest": notes.get("digest")}
    )


def _scores(folder: Path) -> list[TaskScore]:
    def score(task: dict[str, Any]) -> TaskScore:
        summary, interval = task["summary"], task["summary"]["accuracy"]
        interval_fields = {name: interval[name] for name in ("value", "low", "high")}
        return TaskScore(
            task=task["name"], metric=summary["metric"], n=summary["n"], **interval_fields
        )

    return [score(task) for task in read_json(folder / REPORT_JSON)["tasks"]]


def add_evaluate_tool(server: "MCPServer", runs: EvaluationRuns, model: ModelHandle) -> None:
    from mcp.server.mcpserver import Context
    from mcp.server.mcpserver.resolve import ElicitationResult, Resolve
    from mcp_types import ToolAnnotations

    tasks = registry.names("tasks")

    def validate_task(name: str | None) -> str | None:
        if name is not None and name not in tasks:
            raise ValueError(
                "there is no such benchmark; the resource lingshu://benchmarks lists them"
            )
        return name

    async def resolve_consent(ctx: Context, action: RunAction) -> Any:
        return (
            await request_consent(ctx, model, ModelInput(), "the questions of the benchmark")
            if action == "start"
            else ConsentForm(send=True)
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
        action: RunAction,
        consent: Annotated[ElicitationResult[ConsentForm], Resolve(resolve_consent)],
        task: Annotated[
            str | None,
            AfterValidator(validate_task),
            Field(
                json_schema_extra={"enum": [*tasks, None]}, description="The benchmark, for start."
            ),
        ] = None,
        run: Annotated[
            str | None,
            Field(pattern=RUN_NAME_PATTERN, description="The run, for status, result and cancel."),
        ] = None,
        limit: Annotated[
            int | None, Field(ge=1, le=1_000_000, description="Ask only so many questions.")
        ] = None,
        synthetic: Annotated[
            bool, Field(description="Ask a few made-up questions of the same shape; needs no data.")
        ] = False,
    ) -> EvaluationStatus:
        """Evaluate the server's model on a benchmark: start one, ask how far it is, read its
        result, or cancel it. One at a time.
        """
        if action == "start":
            if task is None:
                raise InputError(
                    "start needs a task; the resource lingshu://benchmarks lists them."
                )
            is_permitted(consent)
            return await model.run_in_thread(
                lambda: runs.start(task, limit=limit, synthetic=synthetic)
            )
        if run is None:
            raise InputError(f"{action} needs the name of a run.")
        method = {"status": runs.status, "result": runs.result, "cancel": runs.cancel}[action]
        return await model.run_in_thread(lambda: method(run))
