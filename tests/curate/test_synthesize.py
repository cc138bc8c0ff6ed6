"""Synthesis from a dataset to a dataset with a scripted teacher: whole, resumable, released, and
reviewed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from lingshu.core.artifacts import DatasetCard, open_dataset, read_dataset, write_dataset
from lingshu.core.config import from_plain, read_plain
from lingshu.core.errors import ConfigError, EngineError, InputError
from lingshu.core.files import read_jsonl
from lingshu.core.messages import user_turn
from lingshu.core.run_card import RunCard
from lingshu.core.types import Engine, Message, Reply, Sample, Sampling
from lingshu.curate.config import CurateConfig, Source, StepConfig, SynthesisConfig
from lingshu.curate.run import curate
from lingshu.curate.synthesize import (
    SynthesisOptions,
    SynthesisResult,
    open_client,
    resolve_synthesis,
    synthesize,
)
from lingshu.engines.scripted import DEFAULT_RULES, ScriptedEngine, engine_from_rules
from lingshu.imaging.read import image_bytes, open_image
from lingshu.sources import phantom

FAULTS = {"malformed": 0.05, "refused": 0.03, "seed": 0}
STEPS = (
    StepConfig("captions", "long_caption", {"min_words": 15}, ("captions",)),
    StepConfig("instruct", "vqa_self_instruct", {}, ("captions",)),
    StepConfig("reason", "chain_of_thought", {}, ("questions",)),
    StepConfig("exam", "ocr_exam", {}, ("exam",)),
    StepConfig("rewrite", "rewrite_dialogue", {}, ("talk",)),
)
CONFIG = SynthesisConfig("synthetic", STEPS, review_rows=4, chunk_rows=50)


def rows() -> Iterator[Sample]:
    """Phantoms with captions and with questions, exam questions of which every other one has the
    answer A, and doctors' replies.
    """
    for sample in phantom.training_samples(0, 24, "captions"):
        yield replace(sample, meta=replace(sample.meta, source="captions"))
    for sample in phantom.question_samples(0, "train", 4, side=32):
        yield replace(sample, meta=replace(sample.meta, source="questions"))
    plain = next(iter(phantom.training_samples(0, 1, "captions"))).meta
    for number in range(10):
        gold = ("A", "B")[number % 2]
        text = f"Which number is larger?\nA. {number + (gold == 'A')}\nB. {number + (gold == 'B')}"
        meta = replace(plain, source="exam", modality=None)
        choices = (str(number + (gold == "A")), str(number + (gold == "B")))
        yield Sample(
            f"exam{number}", (user_turn(text, 0),), gold=(gold,), choices=choices, meta=meta
        )
        messages = (
            user_turn(f"My knee {number} hurts.", 0),
            Message("assistant", ("Rest it, says Dr. Miller.",)),
        )
        yield Sample(f"talk{number}", messages, meta=replace(plain, source="talk", modality=None))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthesis") / "in"
    write_dataset(
        folder, "in", ((s, [image_bytes(i) for i in s.images]) for s in rows()), RunCard("test", {})
    )
    return folder


def teacher(**faults: float) -> ScriptedEngine:
    return engine_from_rules([*read_jsonl(DEFAULT_RULES), faults])


def run(
    dataset: Path,
    folder: Path,
    *,
    config: SynthesisConfig = CONFIG,
    engine: Engine | None = None,
    verdicts: Sequence[Path] = (),
) -> SynthesisResult:
    with open_client(config, engine or teacher(**FAULTS), folder / "calls") as client:
        options = SynthesisOptions(verdicts=tuple(verdicts))
        return synthesize(config, dataset, folder / "out", client, options)


def by_step(card: DatasetCard) -> dict[str, dict]:
    return {row["name"]: dict(row) for row in card.steps or ()}


def test_the_full_run_offline_with_planted_faults(dataset: Path, tmp_path: Path) -> None:
    result = run(dataset, tmp_path)
    card, steps = open_dataset(tmp_path / "out"), by_step(result.card)
    assert card.rows == result.card.rows and result.n_not_requested == 0
    for row in steps.values():
        assert row["in"] + row["added"] == row["out"] + sum(row["drops"].values()), row
    assert (
        steps["captions"]["in"] == 24 and steps["exam"]["in"] == 10 and steps["rewrite"]["in"] == 10
    )
    assert steps["exam"]["drops"]["wrong_answer"] == 5, "the teacher always says A"
    assert result.usage["retries"] > 0
    samples = list(read_dataset(tmp_path / "out"))
    assert len(samples) == card.rows and len({sample.id for sample in samples}) == card.rows
    kinds = {sample.meta.extra["synthetic"] for sample in samples}
    assert kinds == {
        "long_caption",
        "vqa_self_instruct",
        "chain_of_thought",
        "ocr_exam",
        "rewrite_dialogue",
    }
    for sample in samples:
        assert (
            sample.answered
            and sample.meta.extra["teacher"] == "scripted"
            and sample.meta.extra["prompts"]
        )
        assert sample.meta.license == "Apache-2.0" and "alternative" not in sample.meta.extra
        assert [open_image(image).size for image in sample.images] or sample.meta.source == "talk"
    drops = list(read_jsonl(tmp_path / "out" / "drops.jsonl"))
    assert len(drops) == sum(card.drops.values()) and all(
        drop["reason"] and drop["raw"] for drop in drops
    )
    queue = list(read_jsonl(tmp_path / "out" / "review" / "queue.jsonl"))
    assert len(queue) == 4 * len(kinds) and all(
        (tmp_path / "out" / "review" / name).is_file() for row in queue for name in row["images"]
    )
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "| captions | long_caption | 24 |" in readme and "lingshu synthesize" in readme
    assert from_plain(
        SynthesisConfig, read_plain(tmp_path / "out" / "config.yaml")
    ) == resolve_synthesis(CONFIG)


def test_a_second_run_makes_no_call_and_writes_the_same(dataset: Path, tmp_path: Path) -> None:
    first, second = run(dataset, tmp_path), run(dataset, tmp_path)
    assert second.usage["calls"] == 0 and second.usage["cached"] > 0
    assert second.card.version == first.card.version and second.card.drops == first.card.drops


@dataclass(frozen=True)
class Fading:
    """A teacher whose server goes away after some replies."""

    inner: ScriptedEngine
    replies: int
    model: str = "scripted"
    endpoint: str | None = None

    @property
    def digest(self) -> str:
        return self.inner.digest

    def generate(
        self,
        samples: Sequence[Sample],
        sampling: Sampling,
        *,
        skip: Container[tuple[str, int]] = (),
    ) -> Iterator[list[Reply]]:
        left = self.replies
        for replies in self.inner.generate(samples, sampling, skip=skip):
            yield replies
            left -= len(replies)
            if left <= 0:
                raise EngineError("the server went away")


def test_a_run_resumes_after_its_teacher_went_away(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError):
        run(dataset, tmp_path, engine=Fading(teacher(**FAULTS), 20))
    assert not (tmp_path / "out").exists(), "an unfinished dataset has no name"
    result = run(dataset, tmp_path)
    uninterrupted = run(dataset, tmp_path / "whole")
    assert result.card.version == uninterrupted.card.version
    assert result.usage["calls"] < uninterrupted.usage["calls"]


def test_a_spent_budget_stops_the_calls_and_not_the_run(dataset: Path, tmp_path: Path) -> None:
    result = run(dataset, tmp_path, config=replace(CONFIG, token_budget=12_000, image_tokens=100))
    assert result.usage["tokens"] <= 12_000
    assert 0 < result.card.drops["budget"] == result.n_not_requested and result.card.rows > 0


@dataclass(frozen=True)
class Remote(ScriptedEngine):
    """The scripted teacher as if it had an address elsewhere; it must never see a credentialed row."""

    def generate(
        self,
        samples: Sequence[Sample],
        sampling: Sampling,
        *,
        skip: Container[tuple[str, int]] = (),
    ) -> Iterator[list[Reply]]:
        assert all(sample.meta.access == "open" for sample in samples)
        return super().generate(samples, sampling, skip=skip)


def test_credentialed_rows_go_to_no_remote_teacher(tmp_path: Path) -> None:
    own = [
        replace(s, meta=replace(s.meta, source="captions"))
        for s in phantom.training_samples(0, 6, "captions")
    ]
    closed = [
        replace(s, meta=replace(s.meta, access="credentialed", agreement="x")) if n % 2 else s
        for n, s in enumerate(own)
    ]
    write_dataset(
        tmp_path / "in",
        "in",
        ((s, [image_bytes(i) for i in s.images]) for s in closed),
        RunCard("test", {}),
    )
    inner = teacher()
    remote = Remote(inner.model, inner.digest, inner.rules, endpoint="https://teacher.example/v1")
    config = replace(CONFIG, steps=STEPS[:1])
    result = run(tmp_path / "in", tmp_path / "a", config=config, engine=remote)
    assert result.card.drops == {"data_policy": 3} and result.card.rows == 3
    local = run(tmp_path / "in", tmp_path / "b", config=config, engine=inner)
    assert local.card.drops == {} and local.card.rows == 6


def test_verdicts_drop_and_edit_and_are_in_the_card(dataset: Path, tmp_path: Path) -> None:
    before = run(dataset, tmp_path)
    queue = [
        row
        for row in read_jsonl(tmp_path / "out" / "review" / "queue.jsonl")
        if row["kind"] == "long_caption"
    ]
    path = tmp_path / "verdicts.jsonl"
    verdicts = [
        {"id": row["id"], "reviewer": reviewer, "verdict": "accept"}
        for row in queue[1:]
        for reviewer in ("r1", "r2")
    ]
    verdicts += [
        {
            "id": queue[0]["id"],
            "reviewer": "r1",
            "verdict": "reject",
            "reason": "an invented finding",
        }
    ]
    verdicts += [
        {"id": queue[1]["id"], "reviewer": "r1", "verdict": "edit", "text": "A corrected caption."}
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in verdicts))

    with pytest.raises(
        InputError, match=r"long_caption: reviewers rejected 1 of 4 samples \(25%\)"
    ):
        run(dataset, tmp_path, verdicts=[path])
    assert open_dataset(tmp_path / "out").version == before.card.version, "what was there stays"

    result = run(
        dataset, tmp_path, config=replace(CONFIG, limits={"long_caption": 0.5}), verdicts=[path]
    )
    assert result.usage["calls"] == 0
    assert result.card.rows == before.card.rows - 1 and result.card.drops["rejected_in_review"] == 1
    texts = {sample.id: sample.messages[-1].text for sample in read_dataset(tmp_path / "out")}
    assert queue[0]["id"] not in texts and texts[queue[1]["id"]] == "A corrected caption."
    stats = by_step(result.card)["captions"]["stats"]
    assert (
        stats["reviewed"] == 4
        and stats["rejected"].startswith("25.0%")
        and "AC1" in stats["agreement of r1 and r2"]
    )
    assert (
        json.loads((tmp_path / "out" / "run.json").read_text())["notes"]["review"][0]["kind"]
        == "long_caption"
    )


def test_questions_by_template_need_no_teacher(tmp_path: Path) -> None:
    steps = (
        StepConfig("labels", "label_space", {"facet": "modality"}),
        StepConfig("ask", "vqa_template", {"facet": "modality", "label_type": "modality"}),
    )
    source = Source(
        "phantom", "phantom", "phantom/0", {"purpose": "captions", "images": 24, "side": 32}
    )
    card = curate(CurateConfig("questions", (source,), steps, workers=0), tmp_path / "out").card
    samples = list(read_dataset(tmp_path / "out"))
    assert card.rows == len(samples) == 24
    assert all(
        len(s.choices) == 4 and s.gold and s.choices["ABCD".index(s.gold[0])] == s.meta.modality
        for s in samples
    )
    assert len({s.gold for s in samples}) == 4 and all(
        "labels" not in s.meta.extra for s in samples
    )


def test_verdicts_on_what_the_run_does_not_make_are_reported(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "v.jsonl").write_text('{"id": "other", "reviewer": "r1", "verdict": "accept"}\n')
    assert (
        run(
            dataset,
            tmp_path,
            config=replace(CONFIG, steps=STEPS[-1:]),
            verdicts=[tmp_path / "v.jsonl"],
        ).n_unmatched_verdicts
        == 1
    )


def test_a_limit_of_a_kind_that_no_step_makes_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="long_caption"):
        run(dataset, tmp_path, config=replace(CONFIG, limits={"long_captions": 0.5}))


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_dataset(dataset: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom tests.curate.test_synthesize import"
        " run\nrun(Path(sys.argv[1]), Path(sys.argv[2]))\n"
    )
    uninterrupted = run(dataset, tmp_path / "whole")
    for share in (0.1, 0.5, 0.9):
        folder = tmp_path / str(share)
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(dataset), str(folder)], cwd=Path(__file__).parents[2]
        )
        log, enough = folder / "calls" / "calls.jsonl", share * float(uninterrupted.usage["calls"])
        while process.poll() is None and not (
            log.is_file() and log.read_bytes().count(b"\n") >= enough
        ):
            continue
        process.kill()
        process.wait()
        assert not (folder / "out").exists() or share > 0.5
        result = run(dataset, folder)
        assert (
            result.card.version == uninterrupted.card.version
            and result.usage["calls"] < uninterrupted.usage["calls"]
        )


def test_a_table_step_is_refused_with_its_remedy(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lingshu curate"):
        run(dataset, tmp_path, config=replace(CONFIG, steps=(StepConfig("labels", "label_space"),)))


def test_a_source_that_the_dataset_lacks_is_refused(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="captions"):
        run(
            dataset,
            tmp_path,
            config=replace(CONFIG, steps=(replace(STEPS[0], sources=("caption",)),)),
        )


def test_a_dataset_is_not_replaced_by_what_is_synthesized_from_it(tmp_path: Path) -> None:
    plain = [sample for sample in rows() if not sample.images]
    write_dataset(tmp_path / "out", "in", ((s, []) for s in plain), RunCard("test", {}))
    with pytest.raises(InputError, match="which a finished run replaces"):
        run(tmp_path / "out", tmp_path)
    assert open_dataset(tmp_path / "out").rows == len(plain)
