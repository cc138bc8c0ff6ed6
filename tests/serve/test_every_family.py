"""Every model family of the folder answers on the command line and over HTTP, in the same words."""

from __future__ import annotations

import base64
import contextlib
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed")
pytest.importorskip("torch", reason="torch is not installed")

from lingshu.cli.main import main
from lingshu.core.run_card import RunCard
from lingshu.engines.hf import ContinuousBatchingEngine
from lingshu.imaging.read import png_bytes
from lingshu.models.export import export
from lingshu.models.load import load
from tests.support.serving import serving
from tests.support.tiny import FAMILIES, make_image, tiny


@pytest.mark.parametrize("family", FAMILIES)
def test_a_question_is_answered_the_same_by_ask_and_by_the_server(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, image = tmp_path / "model", tmp_path / "image.png"
    export(*tiny(family), folder, RunCard("test", {}))
    image.write_bytes(png_bytes(make_image(0)))
    question = "Is there a lesion?"
    assert main(["ask", str(folder), question, str(image), "--max-tokens", "6"]) == 0
    printed = capsys.readouterr().out
    uri = f"data:image/png;base64,{base64.b64encode(image.read_bytes()).decode()}"
    content = [
        {"type": "image_url", "image_url": {"url": uri}},
        {"type": "text", "text": question},
    ]
    engine = ContinuousBatchingEngine(load(str(folder)), batch_size=2)
    with contextlib.closing(engine), serving(engine) as client:
        served = client.chat(content, max_tokens=6, temperature=0).json
    assert served["choices"][0]["message"]["content"].strip() == printed.strip()
    assert served["usage"]["completion_tokens"] >= 1
