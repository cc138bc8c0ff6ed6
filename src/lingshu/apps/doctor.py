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

State = Literal["ok", "note", "broken"]
MARK: Mapping[State, str] = {"ok": "ok", "note": "note", "broken": "BROKEN"}
LOW_DISK_GB = 5.0
# Brings torchvision and a transformers older than this package needs.
OWN_ENVIRONMENT = {"vllm"}
# torch is asked in a process of its own: what this process imports stays small, and a crash at
# import is an answer too.
TORCH_QUESTIONS = """
import json, torch
gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "threads": torch.get_num_threads(),
                  "gpus": [{"name": g.name, "gib": round(g.total_memory / 2**30, 1)} for g in gpus]}))
"""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `remedy` is one line, empty where there is nothing to do."""

    area: str
    name: str
    value: str
    state: State = "ok"
    remedy: str = ""


@dataclass(frozen=True)
class Trap:
    """A known trap of the libraries below, whether or not it can be seen on this machine."""

    what: str
    remedy: str


TRAPS = (
    Trap(
        "Resuming Qwen2.5-VL or InternVL with transformers' Trainer (5.23) keeps fresh weights,"
        " silently.",
        "Resume with `lingshu train --resume`.",
    ),
    Trap(
        "torchvision beside a CPU-only torch stops transformers from importing.",
        "pip uninstall torchvision; lingshu never needs it.",
    ),
    Trap(
        "Without torchvision the stock processors of both families cannot be built.",
        "Load checkpoints with lingshu, whose processor needs none.",
    ),
    Trap(
        "An unbounded `pip install torch` picks the newest CUDA build, gigabytes large.",
        "pip install 'lingshu[torch]' keeps torch below 2.14.",
    ),
    Trap(
        "uv does not read pip's configuration and plans CUDA packages.",
        "Use pip where a CPU wheel is configured, or uv with --torch-backend cpu.",
    ),
    Trap(
        "Two torch threads are several times slower than one for tiny models on a busy machine.",
        "Leave the quickstart's thread setting at one.",
    ),
    Trap(
        "vLLM brings torchvision and transformers below 5.20.",
        "Give vLLM its own environment or server, then use http://host/v1#name as MODEL.",
    ),
    Trap(
        "vLLM does not read a processor_config.json alone.",
        "Export with lingshu, which writes preprocessor_config.json beside it.",
    ),
    Trap(
        "A sampled image token breaks the next step of training.",
        "Generate with lingshu's engine, which never samples image or video tokens.",
    ),
    Trap(
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
    findings = examine()
    usable = all(finding.state != "broken" for finding in findings)
    if json:
        print(
            jsonlib.dumps(
                {
                    "usable": usable,
                    "findings": [asdict(f) for f in findings],
                    "traps": [asdict(t) for t in TRAPS],
                },
                indent=2,
            )
        )
    else:
        _show(findings, usable=usable)
    return 0 if usable else 1


def examine() -> list[Finding]:
    """Everything that is looked at, in the order it is shown."""
    torch = _ask(TORCH_QUESTIONS) if util.find_spec("torch") else None
    return [*_python(), *_packages(), *_torch(torch), *_torchvision(), *_machine(), *_disks()]


def _show(findings: list[Finding], *, usable: bool) -> None:
    wide = max(len(finding.name) for finding in findings)
    area = ""
    for finding in findings:
        if finding.area != area:
            area = finding.area
            print(f"\n{area}")
        print(f"  {MARK[finding.state]:<6}  {finding.name:<{wide}}  {finding.value}")
        if finding.remedy:
            print(f"  {'':<6}  {'':<{wide}}  -> {finding.remedy}")
    print("\nknown traps")
    for trap in TRAPS:
        print(f"  {trap.what}\n    -> {trap.remedy}")
    broken = sum(finding.state == "broken" for finding in findings)
    print("\nusable" if usable else f"\nnot usable: {broken} broken, see the remedies above")


def _ask(code: str) -> dict | str:
    """The JSON that `code` prints in a fresh interpreter, or the last line of how it failed."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
        )
    except subprocess.TimeoutExpired:
        return "did not answer within 120 s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
    return jsonlib.loads(done.stdout.strip().splitlines()[-1])


def _python() -> list[Finding]:
    version = platform.python_version()
    good = sys.version_info >= (3, 11)
    # The interpreter's own place would name a person's folders in a report that is meant to be
    # pasted.
    python = Finding(
        "python",
        "python",
        version,
        "ok" if good else "broken",
        "" if good else "lingshu needs Python 3.11 or newer.",
    )
    return [python, Finding("python", "lingshu", __version__)]


def _packages() -> list[Finding]:
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
        *(_extra(str(extra), wanted) for extra, wanted in sorted(groups.items(), key=str)),
    ]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _required(name: str, bounds: str) -> Finding:
    version = _version(name)
    if version is not None and within(version, bounds):
        return Finding("core", name, version)
    return Finding(
        "core",
        name,
        f"{version or 'not installed'}, needs {bounds}",
        "broken",
        "pip install --upgrade lingshu",
    )


def _extra(extra: str, wanted: Sequence[tuple[str, str]]) -> Finding:
    found = {name: _version(name) for name, _ in wanted}
    present = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    absent = ", ".join(name for name, version in found.items() if not version)
    outside = [
        f"{name} {found[name]} is not {bounds}"
        for name, bounds in wanted
        if not within(found[name] or "", bounds or "") and found[name]
    ]
    install = f"pip install 'lingshu[{extra}]'" + (
        " in an environment of its own" if extra in OWN_ENVIRONMENT else ""
    )
    if outside:
        return Finding("extras", extra, "; ".join(outside), "broken", install)
    if absent:
        return Finding(
            "extras",
            extra,
            f"{present}; without {absent}" if present else f"not installed ({absent})",
            "note",
            install,
        )
    return Finding("extras", extra, present)


def within(version: str, bounds: str) -> bool:
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
        compare[sign](_numbers(version), _numbers(bound))
        for sign, bound in re.findall(r"(>=|<=|==|!=|<|>)\s*([0-9][^,\s]*)", bounds)
    )


def _numbers(version: str) -> tuple[int, ...]:
    release = re.match(r"[0-9]+(\.[0-9]+)*", version)
    parts = [int(part) for part in release[0].split(".")] if release else []
    return tuple([*parts, 0, 0, 0, 0][:4])


def _torch(answer: dict | str | None) -> list[Finding]:
    if answer is None:
        return [
            Finding(
                "torch",
                "torch",
                "not installed",
                "note",
                "training and local models need it: pip install 'lingshu[torch]'",
            )
        ]
    if isinstance(answer, str):
        return [
            Finding(
                "torch",
                "torch",
                f"cannot be imported: {answer}",
                "broken",
                "pip install --force-reinstall 'torch>=2.9,<2.14'",
            )
        ]
    build = f"{answer['version']}, " + (f"CUDA {answer['cuda']}" if answer["cuda"] else "CPU build")
    findings = [Finding("torch", "build", build)]
    findings += [
        Finding("torch", f"GPU {i}", f"{gpu['name']}, {gpu['gib']} GiB")
        for i, gpu in enumerate(answer["gpus"])
    ]
    if not answer["gpus"]:
        unused = "; the CUDA build finds no GPU" if answer["cuda"] else ""
        findings.append(
            Finding(
                "torch",
                "GPU",
                f"none{unused}",
                "note",
                "the quickstart and small recipes run on the CPU; 7B models need GPUs.",
            )
        )
    findings.append(Finding("torch", "threads", str(answer["threads"])))
    return findings


def _torchvision() -> list[Finding]:
    if util.find_spec("torchvision") is None:
        return [Finding("torch", "torchvision", "not installed, and not needed")]
    answer = _ask(
        "import torchvision, json; print(json.dumps({'version': torchvision.__version__}))"
    )
    if isinstance(answer, str):
        value = f"cannot be imported, and takes transformers down with it: {answer}"
        return [
            Finding(
                "torch",
                "torchvision",
                value,
                "broken",
                "pip uninstall torchvision; lingshu never needs it.",
            )
        ]
    return [Finding("torch", "torchvision", f"{answer['version']}, not needed")]


def _machine() -> list[Finding]:
    # Cores that this process may use, which in a container are fewer than the machine has.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return [
        Finding("machine", "system", f"{platform.system()} {platform.machine()}"),
        Finding("machine", "CPU cores", str(cores)),
    ]


def _disks() -> list[Finding]:
    findings = [_disk("free here", Path.cwd())]
    if util.find_spec("huggingface_hub"):
        answer = _ask(
            "from huggingface_hub import constants; import json; print(json.dumps({'cache':"
            " constants.HF_HUB_CACHE}))"
        )
        if isinstance(answer, dict):
            findings.append(_disk("free in hub cache", Path(answer["cache"])))
    return findings


def _disk(name: str, folder: Path) -> Finding:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free / 1e9
    remedy = (
        ""
        if free >= LOW_DISK_GB
        else "free some space: a 7B checkpoint takes 17 GB, the quickstart well under 1 GB."
    )
    return Finding("disk", name, f"{free:.1f} GB", "ok" if free >= LOW_DISK_GB else "note", remedy)
