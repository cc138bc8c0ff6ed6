"""`lingshu doctor`: what is installed, what the machine has, what is broken, and how to fix it."""

from __future__ import annotations

import json as jsonlib
import operator
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata, resources, util
from pathlib import Path
from typing import Literal

from lingshu import __version__

CheckState = Literal["ok", "note", "broken"]
LOW_DISK_GB = 5.0
ISOLATED_EXTRAS = {"vllm"}  # brings torchvision and a transformers older than lingshu needs
# Extras and torch are probed in a separate process: imports there cannot crash this one.
TORCH_PROBE = """
import json, torch
available = torch.cuda.is_available()
gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count() if available else 0)]
gpus = [{"name": gpu.name, "gib": round(gpu.total_memory / 2**30, 1)} for gpu in gpus]
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda, "threads": torch.get_num_threads(), "gpus": gpus}))
"""
_OPERATORS = {
    ">=": operator.ge, "<": operator.lt, "<=": operator.le, ">": operator.gt, "==": operator.eq,
    "!=": operator.ne,
}  # fmt: skip


@dataclass(frozen=True)
class CheckResult:
    """The result of one check; `remedy` is one line, empty if there is nothing to do."""

    area: str
    name: str
    value: str
    state: CheckState = "ok"
    remedy: str = ""


def doctor(*, json: bool = False) -> int:
    """Check Python, packages, torch, GPUs and disk, and list known issues; 1 if something is broken.

    Args:
        json: Print a JSON object instead of a table.
    """
    checks = [*_packages(), *_torch(), *_torchvision(), *_machine()]
    n_broken = sum(check.state == "broken" for check in checks)
    issues = known_issues()
    if json:
        report = {"usable": not n_broken, "checks": [*map(asdict, checks)], "known_issues": issues}
        print(jsonlib.dumps(report, indent=2))
        return int(n_broken > 0)
    width = max(len(check.name) for check in checks)
    area = ""
    for check in checks:
        if check.area != area:
            area = check.area
            print(f"\n{area}")
        state = "BROKEN" if check.state == "broken" else check.state
        print(f"  {state:<6}  {check.name:<{width}}  {check.value}")
        if check.remedy:
            print(f"  {'':<6}  {'':<{width}}  -> {check.remedy}")
    print("\nknown issues")
    for issue in issues:
        print(f"  {issue['description']}\n    -> {issue['remedy']}")
    print(f"\nnot usable: {n_broken} broken, see the remedies above" if n_broken else "\nusable")
    return int(n_broken > 0)


def known_issues() -> list[dict[str, str]]:
    """Known issues of the libraries below, with their remedies, whether or not they occur here."""
    return jsonlib.loads(resources.files("lingshu.cli").joinpath("known_issues.json").read_bytes())


def _run_python(code: str) -> dict | str:
    """The JSON that `code` prints in a fresh interpreter, or the last line of its error."""
    command = [sys.executable, "-c", code]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        return "did not answer within 120 s"
    if process.returncode:
        return (process.stderr.strip().splitlines() or [f"ended with {process.returncode}"])[-1]
    return jsonlib.loads(process.stdout.strip().splitlines()[-1])


def _packages() -> Iterator[CheckResult]:
    """Python, each core requirement, and one line per extra, as the installed package declares them."""
    # Without the interpreter's path, which may name a user.
    yield CheckResult("python", "python", platform.python_version())
    yield CheckResult("python", "lingshu", __version__)
    groups: dict[str, dict[str, str]] = {"": {}}
    for line in metadata.requires("lingshu") or ():
        requirement, _, marker = line.partition(";")
        match = re.match(r"\s*([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*(.*)", requirement)
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", marker)
        name = extra[1] if extra else ""
        if match is not None and match[1] != "lingshu" and name != "all":
            groups.setdefault(name, {})[match[1]] = match[2].strip()
    for name, bounds in groups.pop("").items():
        version = _version(name)
        if version is not None and satisfies(version, bounds):
            yield CheckResult("core", name, version)
        else:
            value = f"{version or 'not installed'}, needs {bounds}"
            yield CheckResult("core", name, value, "broken", "pip install --upgrade lingshu")
    for extra_name, requirements in sorted(groups.items()):
        yield _extra(extra_name, requirements)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _extra(extra: str, requirements: dict[str, str]) -> CheckResult:
    versions = {name: _version(name) for name in requirements}
    installed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    missing = ", ".join(name for name, version in versions.items() if not version)
    incompatible = [
        f"{name} {version} is not {requirements[name]}"
        for name, version in versions.items()
        if version and not satisfies(version, requirements[name])
    ]
    install = f"pip install 'lingshu[{extra}]'"
    if extra in ISOLATED_EXTRAS:
        install += " in a separate environment"
    if incompatible:
        return CheckResult("extras", extra, "; ".join(incompatible), "broken", install)
    if missing:
        value = f"{installed}; without {missing}" if installed else f"not installed ({missing})"
        return CheckResult("extras", extra, value, "note", install)
    return CheckResult("extras", extra, installed)


def satisfies(version: str, bounds: str) -> bool:
    """Whether a version is within bounds such as `>=5.16,<6`; build tags like +cpu do not count."""
    return all(
        _OPERATORS[comparison](_parse_version(version), _parse_version(bound))
        for comparison, bound in re.findall(r"(>=|<=|==|!=|<|>)\s*([0-9][^,\s]*)", bounds)
    )


def _parse_version(version: str) -> tuple[int, ...]:
    release = re.match(r"[0-9]+(\.[0-9]+)*", version)
    parts = [int(part) for part in release[0].split(".")] if release else []
    return tuple([*parts, 0, 0, 0, 0][:4])


def _torch() -> Iterator[CheckResult]:
    if not util.find_spec("torch"):
        remedy = "training and local models need it: pip install 'lingshu[torch]'"
        yield CheckResult("torch", "torch", "not installed", "note", remedy)
        return
    probe = _run_python(TORCH_PROBE)
    if isinstance(probe, str):
        remedy = "pip install --force-reinstall 'torch>=2.9,<2.14'"
        yield CheckResult("torch", "torch", f"cannot be imported: {probe}", "broken", remedy)
        return
    build = f"CUDA {probe['cuda']}" if probe["cuda"] else "CPU build"
    yield CheckResult("torch", "build", f"{probe['version']}, {build}")
    for index, gpu in enumerate(probe["gpus"]):
        yield CheckResult("torch", f"GPU {index}", f"{gpu['name']}, {gpu['gib']} GiB")
    if not probe["gpus"]:
        value = "none; the CUDA build finds no GPU" if probe["cuda"] else "none"
        remedy = "the quickstart and small recipes run on the CPU; 7B models need GPUs."
        yield CheckResult("torch", "GPU", value, "note", remedy)
    yield CheckResult("torch", "threads", str(probe["threads"]))


def _torchvision() -> Iterator[CheckResult]:
    if util.find_spec("torchvision") is None:
        yield CheckResult("torch", "torchvision", "not installed, and not needed")
        return
    probe = _run_python(
        "import json, torchvision; print(json.dumps({'version': torchvision.__version__}))"
    )
    if isinstance(probe, str):
        value = f"cannot be imported, and breaks transformers: {probe}"
        remedy = "pip uninstall torchvision; lingshu never needs it."
        yield CheckResult("torch", "torchvision", value, "broken", remedy)
    else:
        yield CheckResult("torch", "torchvision", f"{probe['version']}, not needed")


def _machine() -> Iterator[CheckResult]:
    yield CheckResult("machine", "system", f"{platform.system()} {platform.machine()}")
    # Cores that this process may use, which in a container are fewer than the machine has.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield CheckResult("machine", "CPU cores", str(cores))
    yield _disk("free here", Path.cwd())
    if util.find_spec("huggingface_hub"):
        probe = _run_python(
            "import json; from huggingface_hub import constants;"
            " print(json.dumps({'cache': constants.HF_HUB_CACHE}))"
        )
        if isinstance(probe, dict):
            yield _disk("free in hub cache", Path(probe["cache"]))


def _disk(name: str, folder: Path) -> CheckResult:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free_gb = shutil.disk_usage(existing).free / 1e9
    if free_gb >= LOW_DISK_GB:
        return CheckResult("disk", name, f"{free_gb:.1f} GB")
    remedy = "free some space: a 7B checkpoint takes 17 GB, the quickstart well under 1 GB."
    return CheckResult("disk", name, f"{free_gb:.1f} GB", "note", remedy)
