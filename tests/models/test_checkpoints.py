"""Export and loading: what others see in the folder, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lingshu.core.errors import ArtifactError
from lingshu.core.run_card import RunCard
from lingshu.core.types import Message
from lingshu.models.base import family_of
from lingshu.models.export import export
from lingshu.models.load import load
from tests.support.tiny import FAMILIES, make_image, tiny


@pytest.fixture(scope="module", params=FAMILIES)
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    model, processor = tiny(request.param, tiles=4 if request.param == "internvl" else 1)
    folder = tmp_path_factory.mktemp("exported") / "model"
    notes = {
        "name": "test model",
        "stages": [{"stage": "deep", "last loss": 0.5}],
        "data": [{"group": "captions", "licenses": "CC0"}],
    }
    export(model, processor, folder, RunCard("test", {}, seed=3, notes=notes))
    return request.param, folder


@pytest.fixture
def copy(exported: tuple[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported[1], tmp_path / "copy"))


def test_stock_transformers_loads_it_and_agrees_to_the_last_bit(
    exported: tuple[str, Path],
) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

    family, folder = exported
    model, processor = tiny(family, tiles=4 if family == "internvl" else 1)
    image = make_image(3, 120, 60)
    encoded = processor.encode(
        [Message("user", (0, "Is there a lesion?"))], processor.tiles([image])
    )
    batch = {k: v for k, v in processor.collate([encoded], pad="right").items() if k != "labels"}
    stock = AutoModelForImageTextToText.from_pretrained(folder)
    assert type(stock) is type(model)
    with torch.no_grad():
        assert torch.equal(stock(**batch).logits, model(**batch).logits)
    # Positions left to the stock model come out as ours.
    with torch.no_grad():
        assert torch.equal(
            stock(**{k: v for k, v in batch.items() if k != "position_ids"}).logits,
            model(**batch).logits,
        )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(encoded.ids) == processor.tokenizer.decode(encoded.ids)
    pixels = AutoImageProcessor.from_pretrained(folder)(images=[image], return_tensors="np")[
        "pixel_values"
    ]
    assert np.array_equal(np.asarray(pixels), batch["pixel_values"].numpy())


def test_the_folder_names_public_classes_and_carries_what_vllm_reads(
    exported: tuple[str, Path],
) -> None:
    import transformers

    name, folder = exported
    family = family_of(name)
    video_file = ("video_preprocessor_config.json",) if family.video_processor_type else ()
    assert hasattr(transformers, family.processor_class)
    for file in (
        "preprocessor_config.json",
        "processor_config.json",
        "tokenizer_config.json",
        *video_file,
    ):
        settings = json.loads((folder / file).read_text())
        assert settings["processor_class"] == family.processor_class, file
    assert {
        "generation_config.json",
        "chat_template.jinja",
        "model.safetensors",
        "manifest.json",
        "run.json",
    } <= {p.name for p in folder.iterdir()}
    assert "lingshu" not in (folder / "config.json").read_text()
    for file in video_file:
        found = json.loads((folder / file).read_text())["video_processor_type"]
        assert found == family.video_processor_type


def test_the_model_card_states_data_stages_and_the_disclaimer(
    exported: tuple[str, Path],
) -> None:
    card = (exported[1] / "README.md").read_text()
    for part in (
        "For research only. Not a medical device",
        "# test model",
        "| deep | 0.5 |",
        "| captions | CC0 |",
        "seed 3",
        "Not evaluated",
    ):
        assert part in card


def test_loading_gives_back_weights_and_pixel_budget(exported: tuple[str, Path]) -> None:
    family, folder = exported
    model, processor = tiny(family, tiles=4 if family == "internvl" else 1)
    loaded = load(str(folder))
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            model.state_dict().values(), loaded.model.state_dict().values(), strict=True
        )
    )
    assert loaded.processor.budget.max_tiles == processor.budget.max_tiles
    if family == "qwen2_5_vl":
        assert loaded.processor.budget == processor.budget


def test_a_truncated_checkpoint_is_named_with_its_sizes(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"model.safetensors has \d+ bytes.*truncated"):
        load(str(copy))
    (copy / "manifest.json").unlink()  # a folder that others made has none
    with pytest.raises(ArtifactError, match=r"model.safetensors.*truncated"):
        load(str(copy))


def test_a_changed_weight_is_noticed(copy: Path) -> None:
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    with pytest.raises(ArtifactError, match="does not match its sha256"):
        load(str(copy))


def test_pickled_weights_and_custom_code_are_refused(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match=r"pytorch_model.bin is pickled"):
        load(str(copy))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(
        json.dumps({**config, "auto_map": {"AutoModel": "evil.Model"}})
    )
    with pytest.raises(ArtifactError, match="auto_map"):
        load(str(copy))


def test_a_wrong_folder_or_family_is_one_clear_line(tmp_path: Path, copy: Path) -> None:
    with pytest.raises(ArtifactError, match=r"config.json is missing"):
        load(str(tmp_path))
    with pytest.raises(ArtifactError, match="is not a folder"):
        load(str(tmp_path / "nowhere"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "manifest.json").unlink()
    (copy / "config.json").write_text(json.dumps({**config, "model_type": "qwen3_vl_moe"}))
    with pytest.raises(
        ArtifactError, match=r"'qwen3_vl_moe' is not supported.*did you mean 'qwen3_vl'"
    ):
        load(str(copy))
