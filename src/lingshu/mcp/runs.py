"""Evaluations that clients of `lingshu mcp` start: `lingshu eval` in a subprocess, one at a time."""

from __future__ import annotations

import contextlib
import re
import secrets
import subprocess
import sys
import threading
from pathlib import Path

from lingshu.core.artifacts import REPORT_JSON, REPORT_MD
from lingshu.core.errors import ArtifactError, ConfigError, EngineError, InputError
from lingshu.core.files import read_json, sha256_file
from lingshu.core.run_card import read_run_card
from lingshu.evaluate.generate import REQUESTS, count_pending
from lingshu.mcp.legacy_env import child_environment
from lingshu.mcp.model import NO_MODEL_MESSAGE, ModelHandle
from lingshu.mcp.results import EvaluationStatus, TaskScore

RUN_NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
MAX_REPORT_CHARS = 200_000
STOP_TIMEOUT_S = 5.0
NO_SUCH_RUN = "there is no such evaluation; the resource lingshu://runs lists them."


class EvaluationRuns:
    """A folder of evaluations, and the processes of those that this server started."""

    def __init__(self, folder: Path | None, model: ModelHandle, *, data: Path | None) -> None:
        if folder is not None and folder.exists() and not folder.is_dir():
            raise ConfigError(f"--runs {folder} is not a folder; give the folder for evaluations.")
        self.folder, self.model, self.data = folder, model, data
        self._lock = threading.Lock()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._cancelled_names: set[str] = set()

    def names(self) -> list[str]:
        """The evaluations in the folder that have a report, the latest last."""
        if self.folder is None or not self.folder.is_dir():
            return []
        reports = [
            path / REPORT_JSON
            for path in self.folder.iterdir()
            if re.match(RUN_NAME_PATTERN, path.name) and (path / REPORT_JSON).is_file()
        ]
        reports.sort(key=lambda report: (report.stat().st_mtime, report.parent.name))
        return [report.parent.name for report in reports]

    def start(self, task: str, *, limit: int | None, synthetic: bool) -> EvaluationStatus:
        """Start an evaluation.

        Raises:
            InputError: the server has no model or no folder for evaluations.
            EngineError: another one is running.
        """
        folder = self._folder()
        if self.model.name is None:
            raise InputError(NO_MODEL_MESSAGE)
        with self._lock:
            for other, process in self._processes.items():
                if process.poll() is None:
                    message = f"the evaluation {other} is running; wait for it, or cancel it."
                    raise EngineError(message)
            name = f"mcp-{task.replace('_', '-')}-{secrets.token_hex(4)}"
            folder.mkdir(parents=True, exist_ok=True)
            options = self.model.options
            flags = {
                "out": folder / name,
                "batch-size": options.batch_size,
                "concurrency": options.concurrency,
                "threads": options.threads,
                "limit": limit,
                "data": self.data,
            }
            command = [sys.executable, "-m", "lingshu", "eval", self.model.name, task]
            command += [f"--{flag}={value}" for flag, value in flags.items() if value is not None]
            command += ["--synthetic"] if synthetic else []
            with self._log(name).open("wb") as log:
                # Not on standard input and output: those carry the protocol.
                self._processes[name] = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=child_environment(options.api_key),
                )
        return EvaluationStatus(run=name, state="running", model=self.model.name)

    def status(self, name: str) -> EvaluationStatus:
        """The progress of an evaluation.

        Raises:
            InputError: there is none of that name.
        """
        folder = self._folder() / name
        process = self._processes.get(name)
        if process is None and name not in self.names():
            raise InputError(NO_SUCH_RUN)
        exit_code = 0 if process is None else process.poll()
        n_questions, n_answered = _count_progress(folder)
        status = EvaluationStatus(
            run=name, state="running", n_questions=n_questions, n_answered=n_answered
        )
        if exit_code is None:
            return status
        if name in self._cancelled_names:
            return status.model_copy(update={"state": "cancelled"})
        # Exit code 1 is a finished run with counted failures, which its report lists.
        if exit_code in (0, 1) and (folder / REPORT_JSON).is_file():
            notes = read_run_card(folder).get("notes", {})
            model = {"model": notes.get("model"), "model_digest": notes.get("digest")}
            return status.model_copy(update={"state": "done", **model})
        return status.model_copy(update={"state": "failed", "error": self._failure_reason(name)})

    def result(self, name: str) -> EvaluationStatus:
        """Scores and report of a finished evaluation; `prompt_sha256` hashes its list of requests.

        Raises:
            InputError: there is none of that name. EngineError: it is not done.
        """
        status = self.status(name)
        if status.state != "done":
            state = f"{status.state}: {status.error}" if status.error else status.state
            raise EngineError(f"the evaluation {name} is {state}; there is no result.")
        folder = self._folder() / name
        report = folder / REPORT_MD
        text = report.read_text(encoding="utf-8")[:MAX_REPORT_CHARS] if report.is_file() else None
        requests = sorted(folder.glob(f"*/{REQUESTS}"))
        digest = sha256_file(requests[0]) if len(requests) == 1 else None
        updates = {"scores": _scores(folder), "report": text, "prompt_sha256": digest}
        return status.model_copy(update=updates)

    def cancel(self, name: str) -> EvaluationStatus:
        """Stop an evaluation; what it has stored stays.

        Raises:
            InputError: this server started none of that name.
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
            raise InputError("this server stores no evaluations; start it with --runs FOLDER.")
        return self.folder

    def _log(self, name: str) -> Path:
        return self._folder() / f"{name}.log"

    def _failure_reason(self, name: str) -> str:
        lines = self._log(name).read_text(encoding="utf-8", errors="replace").splitlines()
        for line in reversed(lines):
            if line.startswith("lingshu: error: "):
                return line.removeprefix("lingshu: error: ")
        return f"it ended without a message; see {name}.log next to it."


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _count_progress(folder: Path) -> tuple[int | None, int | None]:
    n_requests = n_pending = 0
    files = sorted(folder.glob(f"*/{REQUESTS}"))
    for file in files:
        # The subprocess may be writing them: files may be missing or incomplete.
        with contextlib.suppress(OSError, ArtifactError, InputError, KeyError):
            with file.open("rb") as lines:
                n_requests += sum(1 for _ in lines)
            n_pending += count_pending(file.parent)
    return (n_requests, n_requests - n_pending) if files else (None, None)


def _scores(folder: Path) -> list[TaskScore]:
    scores = []
    for task in read_json(folder / REPORT_JSON)["tasks"]:
        summary = task["summary"]
        interval = {name: summary["accuracy"][name] for name in ("value", "low", "high")}
        names = {"task": task["name"], "metric": summary["metric"], "n": summary["n"]}
        scores.append(TaskScore(**names, **interval))
    return scores
