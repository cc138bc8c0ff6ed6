"""Interrupt a training run as a cluster does, and resume it: python 08_resume_a_run.py FOLDER OUT
[a.b=v ...]

FOLDER holds rows.jsonl (question, answer, image) and the images. The run receives SIGTERM in its
first steps, saves its state and exits with 75. The same command with --resume completes it, with
identical bits.
"""

import signal
import subprocess
import sys
import time
from pathlib import Path

STOPPED = 75


def main(folder: str, out: str, *overrides: str) -> int:
    command = [
        sys.executable,
        "-m",
        "lingshu",
        "train",
        "small_vqa",
        f"data.train={folder}",
        *overrides,
        "--out",
        out,
    ]
    run = subprocess.Popen(command)
    while run.poll() is None and not (Path(out) / "log.jsonl").exists():
        time.sleep(0.05)
    run.send_signal(signal.SIGTERM)
    code = run.wait()
    print(
        f"interrupted: exit code {code}, saved {[path.name for path in Path(out).glob('state/*')]}"
    )
    return (
        subprocess.run([*command, "--resume"], check=False).returncode if code == STOPPED else code
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
