"""`lingshu doctor`: what is installed, what the machine has, what is broken, and one line on how to
mend it.
"""

from __future__ import annotations

import json as jsonlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Literal

from lingshu import __version__

CheckState = Literal["ok", "note", "broken"]
STATE_LABELS: Mapping[CheckState, str] = {"ok": "ok", "note": "note", "broken": "BROKEN"}
LOW_DISK_GB = 5.0
# Brings torchvision and a transformers older than this package needs.
ISOLATED_EXTRAS = {"vllm"}
# torch is asked in a process of its own: what this process imports stays small, and a crash at
# import is an answer too.
TORCH_PROBE = """
import json, torch
gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "threads": torch.get_num_threads(),
                  "gpus": [{"name": g.name, "gib": round(g.total_memory / 2**30, 1)} for g in gpus]}))
"""


@dataclass(frozen=True)
class CheckResult:
    """One thing that was looked at; `remedy` is one line, empty where there is nothing to do."""

    area: str
    name: str
    value: str
    state: CheckState = "ok"
    remedy: str = ""


@dataclass(frozen=True)
class KnownIssue:
    """A known trap of the libraries below, whether or not it can be seen on this machine."""

    description: str
    remedy: str


KNOWN_ISSUES = (
    KnownIssue(
        "Resuming Qwen2.5-VL or InternVL with transformers' Trainer (5.23) keeps fresh weights,"
        " silently.",
        "Resume with `lingshu train --resume`.",
    ),
    KnownIssue(
        "torchvision beside a CPU-only torch stops transformers from importing.",
        "pip uninstall torchvision; lingshu never needs it.",
    ),
    KnownIssue(
        "Without torchvision the stock processors of both families cannot be built.",
        "Load checkpoints with lingshu, whose processor needs none.",
    ),
    KnownIssue(
        "An unbounded `pip install torch` picks the newest CUDA build, gigabytes large.",
        "pip install 'lingshu[torch]' keeps torch below 2.14.",
    ),
    KnownIssue(
        "uv does not read pip's configuration and plans CUDA packages.",
        "Use pip where a CPU wheel is configured, or uv with --torch-backend cpu.",
    ),
    KnownIssue(
        "Two torch threads are several times slower than one for tiny models on a busy machine.",
        "Leave the quickstart's thread setting at one.",
    ),
    KnownIssue(
        "vLLM brings torchvision and transformers below 5.20.",
        "Give vLLM its own environment or server, then use http://host/v1#name as MODEL.",
    ),
    KnownIssue(
        "vLLM does not read a processor_config.json alone.",
        "Export with lingshu, which writes preprocessor_config.json beside it.",
    ),
    KnownIssue(
        "A sampled image token breaks the next step of training.",
        "Generate with lingshu's engine, which never samples image or video tokens.",
    ),
    KnownIssue(
        "Runs with a time budget cannot be repeated.",
        "Budget by steps or epochs, as every recipe here does.",
    ),
)


def doctor(*, json: bool = False) -> int:
    """Check Python, packages, torch, GPUs and disk, and list the known traps; 1 when something is
    broken.

    Args:
        json: print a JSON object instead of a table.
    """
    checks = run_checks()
    usable = all(check.state != "broken" for check in checks)
    if json:
        print(
            jsonlib.dumps(
                {
                    "usable": usable,
                    "checks": [asdict(f) for f in checks],
                    "known_issues": [asdict(t) for t in KNOWN_ISSUES],
                },
                indent=2,
            )
        )
    else:
        _print_report(checks, usable=usable)
    return 0 if usable else 1


def run_checks() -> list[CheckResult]:
    """Everything that is looked at, in the order it is shown."""
    torch = _run_python(TORCH_PROBE) if util.find_spec("torch") else None
    return [*_python(), *_packages(), *_torch(torch), *_torchvision(), *_machine(), *_disks()]


def _print_report(checks: list[CheckResult], *, usable: bool) -> None:
    width = max(len(check.name) for check in checks)
    area = ""
    for check in checks:
        if check.area != area:
            area = check.area
            print(f"\n{area}")
        print(f"  {STATE_LABELS[check.state]:<6}  {check.name:<{width}}  {check.value}")
        if check.remedy:
            print(f"  {'':<6}  {'':<{width}}  -> {check.remedy}")
    print("\nknown traps")
    for issue in KNOWN_ISSUES:
        print(f"  {issue.description}\n    -> {issue.remedy}")
    broken = sum(check.state == "broken" for check in checks)
    print("\nusable" if usable else f"\nnot usable: {broken} broken, see the remedies above")


def _run_python(code: str) -> dict | str:
    """The JSON that `code` prints in a fresh interpreter, or the last line of how it failed."""
    try:
        process = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
        )
    except subprocess.TimeoutExpired:
        return "did not answer within 120 s"
    if process.returncode:
        return (process.stderr.strip().splitlines() or [f"ended with {process.returncode}"])[-1]
    return jsonlib.loads(process.stdout.strip().splitlines()[-1])


def _python() -> list[CheckResult]:
    version = platform.python_version()
    is_supported = sys.version_info >= (3, 11)
    # The interpreter's own place would name a person's folders in a report that is meant to be
    # pasted.
    python_check = CheckResult(
        "python",
        "python",
        version,
        "ok" if is_supported else "broken",
        "" if is_supported else "lingshu needs Python 3.11 or newer.",
    )
    return [python_check, CheckResult("python", "lingshu", __version__)]


def _packages() -> list[CheckResult]:
    """The core's requirements one by one, and a line for each extra; read from what the installed
    package declares.
    """
    groups: dict[str | None, list[tuple[str, str]]] = {None: []}
    for line in metadata.requires("lingshu") or ():
        requirement, _, marker = line.partition(";")
        match = re.match(r"\s*([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*(.*)", requirement)
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", marker)
        if match is not None and match[1] != "lingshu" and not (extra and extra[1] == "all"):
            groups.setdefault(extra[1] if extra else None, []).append((match[1], match[2].strip()))
    core = [_required(name, bounds) for name, bounds in groups.pop(None)]
    return [
        *core,
        *(
            _extra(str(extra), requirements)
            for extra, requirements in sorted(groups.items(), key=str)
        ),
    ]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _required(name: str, bounds: str) -> CheckResult:
    version = _version(name)
    if version is not None and satisfies(version, bounds):
        return CheckResult("core", name, version)
    return CheckResult(
        "core",
        name,
        f"{version or 'not installed'}, needs {bounds}",
        "broken",
        "pip install --upgrade lingshu",
    )


def _extra(extra: str, requirements: Sequence[tuple[str, str]]) -> CheckResult:
    versions = {name: _version(name) for name, _ in requirements}
    installed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    missing = ", ".join(name for name, version in versions.items() if not version)
    incompatible = [
        f"{name} {versions[name]} is not {bounds}"
        for name, bounds in requirements
        if not satisfies(versions[name] or "", bounds or "") and versions[name]
    ]
    install = f"pip install 'lingshu[{extra}]'" + (
        " in an environment of its own" if extra in ISOLATED_EXTRAS else ""
    )
    if incompatible:
        return CheckResult("extras", extra, "; ".join(incompatible), "broken", install)
    if missing:
        return CheckResult(
            "extras",
            extra,
            f"{installed}; without {missing}" if installed else f"not installed ({missing})",
            "note",
            install,
        )
    return CheckResult("extras", extra, installed)


def satisfies(version: str, bounds: str) -> bool:
    """Whether a version lies in bounds such as `>=5.16,<6`; build tags like +cpu do not count."""
    compare: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
        ">=": lambda a, b: a >= b,
        "<": lambda a, b: a < b,
        "<=": lambda a, b: a <= b,
        ">": lambda a, b: a > b,
        "==": lambda a, b: a == b,
        "!=": lambda a, b: a != b,
    }
    return all(
        compare[operator](_parse_version(version), _parse_version(bound))
        for operator, bound in re.findall(r"(>=|<=|==|!=|<|>)\s*([0-9][^,\s]*)", bounds)
    )


def _parse_version(version: str) -> tuple[int, ...]:
    release = re.match(r"[0-9]+(\.[0-9]+)*", version)
    parts = [int(part) for part in release[0].split(".")] if release else []
    return tuple([*parts, 0, 0, 0, 0][:4])


def _torch(answer: dict | str | None) -> list[CheckResult]:
    if answer is None:
        return [
            CheckResult(
                "torch",
                "torch",
                "not installed",
                "note",
                "training and local models need it: pip install 'lingshu[torch]'",
            )
        ]
    if isinstance(answer, str):
        return [
            CheckResult(
                "torch",
                "torch",
                f"cannot be imported: {answer}",
                "broken",
                "pip install --force-reinstall 'torch>=2.9,<2.14'",
            )
        ]
    build = f"{answer['version']}, " + (f"CUDA {answer['cuda']}" if answer["cuda"] else "CPU build")
    checks = [CheckResult("torch", "build", build)]
    checks += [
        CheckResult("torch", f"GPU {i}", f"{gpu['name']}, {gpu['gib']} GiB")
        for i, gpu in enumerate(answer["gpus"])
    ]
    if not answer["gpus"]:
        gpu_note = "; the CUDA build finds no GPU" if answer["cuda"] else ""
        checks.append(
            CheckResult(
                "torch",
                "GPU",
                f"none{gpu_note}",
                "note",
                "the quickstart and small recipes run on the CPU; 7B models need GPUs.",
            )
        )
    checks.append(CheckResult("torch", "threads", str(answer["threads"])))
    return checks


def _torchvision() -> list[CheckResult]:
    if util.find_spec("torchvision") is None:
        return [CheckResult("torch", "torchvision", "not installed, and not needed")]
    answer = _run_python(
        "import torchvision, json; print(json.dumps({'version': torchvision.__version__}))"
    )
    if isinstance(answer, str):
        value = f"cannot be imported, and takes transformers down with it: {answer}"
        return [
            CheckResult(
                "torch",
                "torchvision",
                value,
                "broken",
                "pip uninstall torchvision; lingshu never needs it.",
            )
        ]
    return [CheckResult("torch", "torchvision", f"{answer['version']}, not needed")]


def _machine() -> list[CheckResult]:
    # Cores that this process may use, which in a container are fewer than the machine has.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        CheckResult("machine", "system", f"{platform.system()} {platform.machine()}"),
        CheckResult("machine", "CPU cores", str(cores)),
    ]


def _disks() -> list[CheckResult]:
    checks = [_disk("free here", Path.cwd())]
    if util.find_spec("huggingface_hub"):
        answer = _run_python(
            "from huggingface_hub import constants; import json; print(json.dumps({'cache':"
            " constants.HF_HUB_CACHE}))"
        )
        if isinstance(answer, dict):
            checks.append(_disk("free in hub cache", Path(answer["cache"])))
    return checks


def _disk(name: str, folder: Path) -> CheckResult:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    remedy = (
        ""
        if free_gb >= LOW_DISK_GB
        else "free some space: a 7B checkpoint takes 17 GB, the quickstart well under 1 GB."
    )
    return CheckResult(
        "disk", name, f"{free_gb:.1f} GB", "ok" if free_gb >= LOW_DISK_GB else "note", remedy
    )
