"""PSV2026 from short questions to a task: split, built with faults planted, built again for
nothing, judged by the gold.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import pytest

from lingshu.cli.build import build
from lingshu.core.artifacts import open_dataset, read_dataset
from lingshu.core.files import read_jsonl, write_jsonl
from lingshu.core.rows import row_from_sample
from lingshu.core.types import Reply, Sample, Sampling
from lingshu.curate.config import CurateConfig, SynthesisConfig
from lingshu.curate.run import curate
from lingshu.curate.synthesize import SynthesisResult, open_client
from lingshu.curate.synthesize import synthesize as run_synthesis
from lingshu.engines.scripted import DEFAULT_RULES, engine_from_rules
from lingshu.evaluate.generate import generate
from lingshu.evaluate.judge import judge
from lingshu.evaluate.judge import open_judge_client as open_judge
from lingshu.evaluate.score import score, scores_file
from lingshu.imaging.read import image_bytes
from lingshu.recipes import curation_psv2026, curation_psv2026_published, psv2026, psv2026_test
from lingshu.sources import phantom
from lingshu.tasks import psv2026 as psv2026_task
from tests.support.evaluation import RecordingEngine

QUESTION_TYPES = {
    "Visual Perception", "Factual Verification", "Comparative Analysis", "Mechanistic Reasoning", "Diagnostic Inference",
    "Clinical Management",
}  # fmt: skip

REAL = Path(__file__).parents[3] / "shared" / "data" / "vqa_rad"
FAULTS = {"malformed": 0.05, "refused": 0.02, "seed": 0}


def write_source(folder: Path) -> Path:
    """Sixteen questions about eight phantoms, answered by yes or no or by a side."""
    (folder / "images").mkdir(parents=True)
    rows = []
    for number, sample in enumerate(islice(phantom.training_samples(0, 8, "captions"), 8)):
        name = f"images/{number}.png"
        (folder / name).write_bytes(image_bytes(sample.images[0]))
        overrides = {"meta": replace(sample.meta, group=f"p{number}")}
        yes = replace(
            sample, id=f"{number}-a", messages=(), gold=(("yes", "no")[number % 2],), **overrides
        )
        side = replace(
            sample,
            id=f"{number}-b",
            messages=(),
            gold=(("left", "right")[number % 2],),
            **overrides,
        )
        for one, question in ((yes, "Is there a lesion?"), (side, "On which side is the lesion?")):
            rows.append({**row_from_sample(one, [name]), "question": question})
            rows[-1].pop("messages", None)
    write_jsonl(folder / "rows.jsonl", rows)
    return folder


def real(folder: Path) -> Path:
    """200 rows of VQA-RAD with their images."""
    if not REAL.is_dir():
        pytest.skip("the shared data are not here")
    rows = list(islice(read_jsonl(REAL / "rows.jsonl"), 200))
    for name in {str(row["image"]) for row in rows}:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REAL / name, folder / name)
    write_jsonl(folder / "rows.jsonl", rows)
    return folder


def side_of(folder: Path, keep: str) -> CurateConfig:
    config = curation_psv2026.recipe()
    steps = tuple(
        replace(s, params={**s.params, "keep": keep}) if s.name == "split" else s
        for s in config.steps
    )
    sources = tuple(
        replace(s, path=str(folder)) if s.name == "vqa_rad" else s for s in config.sources
    )
    return replace(config, sources=sources, steps=steps, workers=0)


def synthesize(config: SynthesisConfig, dataset: Path, out: Path) -> SynthesisResult:
    # One try: what is planted stays a reject.
    config = replace(config, max_attempts=1)
    teacher = engine_from_rules([*read_jsonl(DEFAULT_RULES), FAULTS])
    with open_client(config, teacher, out.with_name(f"{out.name}.calls")) as calls:
        return run_synthesis(config, dataset, out, calls)


@dataclass(frozen=True)
class GoldJudge:
    """Finds every criterion met by a reply that is the gold, and none by another."""

    golds: frozenset[str]
    model: str = "gold"
    digest: str = "1"
    endpoint: str | None = None

    def generate(
        self, samples: Sequence[Sample], sampling: Sampling, *, skip: object = ()
    ) -> Iterator[list[Reply]]:
        for one in samples:
            code = re.search(r"carry the code (\w+)", one.question)
            assert code
            reply = re.search(
                rf"<reply-{code[1]}>\n(.*?)\n</reply-{code[1]}>", one.question, re.DOTALL
            )
            verdict = "met" if reply and reply[1] in self.golds else "not met"
            yield [
                Reply(
                    one.id,
                    json.dumps({"case": code[1], "reason": "so", "verdict": verdict}),
                    0,
                    "stop",
                    5,
                    5,
                )
            ]


def check_accounting(done: SynthesisResult, out: Path, rows: int) -> None:
    """Every row of every step was kept or is among the drops with its reason."""
    samples, drops = list(read_dataset(out)), list(read_jsonl(out / "drops.jsonl"))
    for step in done.card.steps or ():
        kept = {
            sample.meta.extra["parent"]
            for sample in samples
            if sample.meta.extra["synthetic"] == step["op"]
        }
        dropped_ids = {str(drop["id"]) for drop in drops if drop["step"] == step["name"]}
        assert step["in"] == rows == len(kept) + len(dropped_ids) and not kept & dropped_ids
    assert all(drop["reason"] and (drop["raw"] or drop["reason"] == "no_error") for drop in drops)
    assert {"malformed", "refused"} <= {str(drop["reason"]) for drop in drops} or rows < 100


def run_pipeline(folder: Path, tmp_path: Path) -> None:
    sides: dict[str, set[str]] = {}
    rows: dict[str, int] = {}
    for keep in ("train", "validation"):
        rows[keep] = curate(side_of(folder, keep), tmp_path / keep).card.rows
        sides[keep] = {str(sample.meta.group) for sample in read_dataset(tmp_path / keep)}
    assert sides["train"] and sides["validation"] and not sides["train"] & sides["validation"]

    for keep, recipe in (("train", psv2026.recipe()), ("validation", psv2026_test.recipe())):
        out = tmp_path / f"{keep}_made"
        first = synthesize(recipe, tmp_path / keep, out)
        check_accounting(first, out, rows[keep])
        again = synthesize(recipe, tmp_path / keep, out)
        assert (
            again.usage["calls"] == 0
            and again.card.version == first.card.version
            and again.card.drops == first.card.drops
        )
        for sample in read_dataset(out):
            assert sample.meta.extra["question_type"] in QUESTION_TYPES
            answer = sample.messages[-1].text
            assert all(term in answer for term in json.loads(sample.meta.extra["med_terms"]))

    assert build("psv2026_own", tmp_path / "validation_made", out=tmp_path / "data") == 0
    samples = [
        sample
        for sample in psv2026_task.TASKS["psv2026_own"].samples(tmp_path / "data")
        if isinstance(sample, Sample)
    ]
    assert len(samples) == open_dataset(tmp_path / "validation_made").rows
    assert values(samples, tmp_path / "right", gold=True) == {1.0} and values(
        samples, tmp_path / "wrong", gold=False
    ) == {0.0}


def values(samples: list[Sample], folder: Path, *, gold: bool) -> set[float | None]:
    """The scores of replies that are the gold, or are not, by a judge that knows it."""
    task, path = psv2026_task.TASKS["psv2026_own"], folder / psv2026_task.TASKS["psv2026_own"].name
    generate(
        task,
        samples,
        RecordingEngine(None if gold else "Something else."),
        path,
        sampling=Sampling(),
        images=image_bytes,
    )
    assert score(task, samples, path).n_awaiting_judge == len(samples)
    with open_judge(
        GoldJudge(frozenset(gold for sample in samples for gold in sample.gold or ())), path
    ) as calls:
        judge(task, samples, path, calls, sampling=Sampling())
    rows = list(read_jsonl(scores_file(path, "judge")))
    assert len(rows) == len(samples)
    return {row["value"] for row in rows}


def test_synthetic_questions_become_a_task(tmp_path: Path) -> None:
    run_pipeline(write_source(tmp_path / "rows"), tmp_path)


@pytest.mark.not_fast
def test_two_hundred_rows_of_vqa_rad_become_a_task(tmp_path: Path) -> None:
    run_pipeline(real(tmp_path / "rows"), tmp_path)


def test_the_published_split_loses_the_images_of_its_test_side(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "rows")
    test = list(read_jsonl(folder / "rows.jsonl"))[:4]  # two of the eight images
    write_jsonl(folder / "test.jsonl", test)
    config = curation_psv2026_published.recipe()
    apart = replace(
        config.steps[-1],
        params={**config.steps[-1].params, "against": [str(folder / "test.jsonl")]},
    )
    sources = tuple(
        replace(s, path=str(folder)) if s.name == "vqa_rad" else s for s in config.sources
    )
    done = curate(
        replace(config, sources=sources, steps=(*config.steps[:-1], apart), workers=0),
        tmp_path / "out",
    )
    assert done.card.rows == 12 and sum(done.card.drops.values()) == 4
    assert not {row["group"] for row in test} & {
        sample.meta.group for sample in read_dataset(tmp_path / "out")
    }


def test_the_recipes_name_what_they_make() -> None:
    assert [step.op for step in psv2026.recipe().steps] == ["refine_qa", "critique"]
    assert [step.op for step in psv2026_test.recipe().steps] == ["write_rubric"]
    assert all(
        source.optional and source.path is None for source in curation_psv2026.recipe().sources
    )
