"""The residual-risk page: which texts it shows, what it marks, and who can read it."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from lingshu.core.types import Message, Sample
from lingshu.curate.config import CurateConfig, Source, StepConfig
from lingshu.curate.residual_risk import marked_text, select_texts
from lingshu.curate.run import CurateOptions, curate


def sample(id: str, text: str) -> Sample:
    return Sample(id, (Message("user", ("Report?",)), Message("assistant", (text,))))


def test_residual_risk_page_samples_texts() -> None:
    samples = [sample(str(i), "Lungs are clear.") for i in range(20)]
    samples[7] = sample("7", "Zzkor and Zzbel of Zzhaus.")
    chosen = select_texts(lambda: iter(samples), n=4, seed=1)
    assert len({one.id for one in chosen}) == 4 and "7" in [one.id for one in chosen]
    assert [o.id for o in select_texts(lambda: reversed(samples), n=4, seed=1)] == [
        o.id for o in chosen
    ]


def test_placeholders_and_open_words_are_marked() -> None:
    pieces = marked_text(sample("a", "Dr. [NAME] and Zzkor: file 83712, lungs clear."))
    assert [piece for piece in pieces if piece[0]] == [
        ("gone", "[NAME]"),
        ("open", "Zzkor"),
        ("open", "83712"),
    ]


def test_the_page_is_for_its_owner_and_verdicts_come_back(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    texts = ["Seen by Dr. Quell.", "Zzgrub reports cough.", "zzgrub came again."]
    lines = [{"id": str(i), "question": "Report?", "answer": t} for i, t in enumerate(texts)]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    verdicts = tmp_path / "verdicts.jsonl"
    verdicts.write_text('{"id": "2", "reviewer": "kl", "missed": ["zzgrub"], "wrong": []}\n')
    step = StepConfig("scrub", "scrub_identifiers", {"verdicts": str(verdicts)})
    source = Source("texts", "jsonl", str(rows), license="own", access="private")
    config = CurateConfig(name="local", sources=(source,), steps=(step,), workers=0)
    out = tmp_path / "out"
    result = curate(config, out, CurateOptions(residual_risk=3))
    page = (out / "residual_risk.html").read_text(encoding="utf-8")
    assert stat.S_IMODE((out / "residual_risk.html").stat().st_mode) == 0o600
    assert "an identifier was left in 1 (100.0%" in page and "zzgrub" not in page.lower()
    counts = result.card.distributions or {}
    assert counts["identifiers"] == {"name": 3}
    assert counts["identifiers by rule"]["verdict of a person"] == 1
