"""From a hospital's folder to a model evaluated on other patients: python 16_your_hospital.py MODEL
DICOM REPORTS QUESTIONS OUT

Overrides of the training, as a.b=v, may follow. MODEL is the model to start from, DICOM a folder,
REPORTS a table with the columns accession and report, QUESTIONS one with accession, question and
answer. docs/your-hospital.md does the same step by step, with synthetic patients.
"""

import secrets
import sys
from pathlib import Path

from lingshu.cli.main import main as lingshu
from lingshu.core.artifacts import read_dataset
from lingshu.imaging.dicom.file import open_dicom
from lingshu.imaging.files import iter_files

LORA = [
    "stages.instruct.lora={rank: 16, alpha: 32}",
    "stages.instruct.learning_rates={vision: 1e-3, projector: 1e-3, language: 2e-3}",
]


def curate(dicom: str, reports: str, questions: str, out: Path) -> None:
    """OUT/train and OUT/test: two runs that keep a side each, under one key, share no patient."""
    key = out / "ids.key"
    if not key.exists():
        out.mkdir(parents=True, exist_ok=True)
        key.write_bytes(secrets.token_bytes(32))
        key.chmod(0o600)
    tables = [
        f"sources.scans.options.reports={reports}",
        f"sources.scans.options.questions={questions}",
    ]
    majority_accuracy = [
        "curate",
        "curation_local",
        f"sources.scans.path={dicom}",
        *tables,
        "steps.split.params.validation=0.25",
        "--key",
        str(key),
    ]
    for side, name in (("train", "train"), ("validation", "test")):
        run_command(
            [
                *majority_accuracy,
                f"steps.split.params.keep={side}",
                "--workers",
                "0",
                "--out",
                str(out / name),
            ]
        )


def held_out(dicom: str, out: Path) -> list[Path]:
    """The files of the first study of the test side: whoever has the key can go back from a hash to
    a study.
    """
    key = (out / "ids.key").read_bytes()
    study_uid = next(iter(read_dataset(out / "test"))).meta.extra["study"]
    files = []
    for index, file in enumerate(iter_files(Path(dicom)), 1):
        with open_dicom(Path(dicom) / file, name=f"file {index}") as dicom_file:
            files += [Path(dicom) / file] if dicom_file.metadata(key).study == study_uid else []
    return files


def run_command(arguments: list[str]) -> None:
    """Run a command; wrong input, or a run that was stopped, ends the script."""
    code = lingshu(arguments)
    if code > 1:
        sys.exit(code)


def main(
    model: str, dicom: str, reports: str, questions: str, out_folder: str, *overrides: str
) -> None:
    out = Path(out_folder)
    curate(dicom, reports, questions, out)
    train, test, checkpoint = str(out / "train"), str(out / "test"), str(out / "model/checkpoint")
    run_command(
        [
            "train",
            "small_vqa",
            f"model={model}",
            f"data.train={train}",
            *LORA,
            *overrides,
            "--out",
            str(out / "model"),
        ]
    )
    eval_arguments = [
        "vqa",
        "--data",
        test,
        "--controls",
        "blind",
        "--max-tokens",
        "64",
        "--out",
        str(out / "eval"),
    ]
    run_command(["eval", checkpoint, *eval_arguments])
    run_command(
        ["overlap", train, "--against", "vqa", "--data", test, "--out", str(out / "overlaps.jsonl")]
    )
    run_command(["report", str(out / "eval"), "--exclude-overlaps", str(out / "overlaps.jsonl")])
    study = [str(file) for file in held_out(dicom, out)]
    run_command(
        [
            "draft",
            checkpoint,
            *study,
            "--max-tokens",
            "64",
            "--format",
            "md,fhir,sr",
            "--out",
            str(out / "draft"),
        ]
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
