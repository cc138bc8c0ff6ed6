"""Modality tags by an encoder of images and words: tiny CLIP and SigLIP folders, judged as their
own models judge.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from lingshu.core.errors import ArtifactError, ConfigError, InputError  # noqa: E402
from lingshu.core.files import write_json  # noqa: E402
from lingshu.core.types import Image, Message, Meta, Sample  # noqa: E402
from lingshu.imaging.read import encode_png  # noqa: E402
from lingshu.models.dual_encoder import open_dual_encoder  # noqa: E402
from lingshu.ops import tag_modality  # noqa: E402
from tests.support.step_runners import run_map_step  # noqa: E402

WORDS = {"CT": ["a ct scan"], "MRI": ["an mri scan"], "X-ray": ["a ray image"]}


def encoder(folder: Path, kind: str) -> Path:
    """A random model of a kind with its image processor and a tokenizer of a few words."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    torch.manual_seed(0)
    tower_config: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    vocabulary = ["<pad>", "<unk>", "<end>", "a", "an", "ct", "mri", "ray", "scan", "image"]
    text = tower_config | {
        "vocab_size": len(vocabulary),
        "max_position_embeddings": 8,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    vision = tower_config | {"image_size": 32, "patch_size": 16}
    if kind == "CLIP":
        config: Any = transformers.CLIPConfig(
            text_config=text, vision_config=vision, projection_dim=8
        )
        images: Any = transformers.CLIPImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        )
    else:
        config = transformers.SiglipConfig(text_config=text, vision_config=vision)
        images = transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    model = transformers.AutoModel.from_config(config)
    model.logit_scale.data.fill_(4.0)
    model.save_pretrained(folder)
    images.save_pretrained(folder)
    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <end>", special_tokens=[("<end>", 2)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<end>"
    ).save_pretrained(folder)
    return folder


def random_image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def sample(pixels: np.ndarray) -> Sample:
    return Sample("s", (Message("user", (0,)),), (Image(data=encode_png(pixels)),), meta=Meta())


@pytest.mark.parametrize("kind", ["CLIP", "SigLIP"])
def test_an_image_gets_the_modality_that_the_model_itself_prefers(
    tmp_path: Path, kind: str
) -> None:
    import PIL.Image
    import transformers

    folder = encoder(tmp_path, kind)
    step = tag_modality.step(encoder=str(folder), prompts=WORDS, min_probability=0.0)
    result = run_map_step(step, [sample(random_image(seed)) for seed in range(6)]).kept
    model: Any = transformers.AutoModel.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    images = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    text_inputs = tokenizer(
        [texts[0] for texts in WORDS.values()],
        padding="max_length",
        max_length=8,
        return_tensors="pt",
    )
    text_inputs.pop("token_type_ids", None)
    for seed, tagged in enumerate(result):
        image_inputs = images(images=PIL.Image.fromarray(random_image(seed)), return_tensors="pt")
        with torch.no_grad():
            probabilities = model(**text_inputs, **image_inputs).logits_per_image.softmax(dim=-1)[0]
        assert tagged.meta.modality == list(WORDS)[int(probabilities.argmax())]
        assert tagged.meta.extra["modality_by"] == f"zero-shot, {float(probabilities.max()):.2f}"
    assert (
        run_map_step(
            tag_modality.step(
                encoder=str(folder), prompts=WORDS, min_probability=1.0, on_uncertain="drop"
            ),
            [sample(random_image(0))],
        ).kept
        == []
    )
    # the words that it knows itself
    assert run_map_step(tag_modality.step(encoder=str(folder)), [sample(random_image(0))]).kept


def test_a_head_judges_the_vectors_of_an_encoder(tmp_path: Path) -> None:
    folder = encoder(tmp_path / "clip", "CLIP")
    vectors = [open_dual_encoder(folder).encode_image(random_image(seed)) for seed in (0, 1)]
    head = {
        "features": "given",
        "modalities": ["one", "other"],
        "mean": [0.0] * 8,
        "scale": [1.0] * 8,
        "bias": [0.0, 0.0],
    }
    head |= {
        "weights": np.stack(vectors, axis=1).tolist(),
        "projection": np.zeros((8, 1)).tolist(),
        "centers": [[0.0], [0.0]],
    }
    write_json(tmp_path / "head.json", {**head, "max_distance": 1.0, "min_probability": 0.5})
    step = tag_modality.step(encoder=str(folder), head=str(tmp_path / "head.json"))
    result = run_map_step(step, [sample(random_image(0)), sample(random_image(1))]).kept
    assert [first.meta.modality for first in result] == ["one", "other"]
    assert result[0].meta.extra["modality_by"].startswith("head on encoder, 0.5")
    write_json(
        tmp_path / "small.json",
        {**head, "mean": [0.0] * 3, "max_distance": 1.0, "min_probability": 0.5},
    )
    with pytest.raises(InputError, match="vectors of 3 numbers"):
        tag_modality.step(encoder=str(folder), head=str(tmp_path / "small.json")).open()


def test_an_invalid_encoder_is_refused(tmp_path: Path) -> None:
    for options, message in (
        ({"prompts": WORDS}, "name its folder"),
        ({"encoder": "x", "prompts": WORDS, "head": "h.json"}, "not both"),
        ({"encoder": "x", "prompts": {"CT": ["a ct"]}}, "at least two modalities"),
    ):
        with pytest.raises(ConfigError, match=message):
            tag_modality.step(**options)  # type: ignore[arg-type]
    step = tag_modality.step(encoder=str(tmp_path / "none"))
    with pytest.raises(ArtifactError, match="no config"):
        step.open()
    folder = encoder(tmp_path / "clip", "CLIP")
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ArtifactError, match="cannot be opened as an encoder"):
        tag_modality.step(encoder=str(folder)).open()
    (folder / "config.json").write_text('{"auto_map": {"AutoModel": "other.Model"}}')
    with pytest.raises(ArtifactError, match="asks to run code"):
        tag_modality.step(encoder=str(folder)).open()


def test_an_encoder_without_all_its_weights_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = encoder(tmp_path, "CLIP")
    tensors = load_file(folder / "model.safetensors")
    missing_key = next(name for name in tensors if name.startswith("vision_model"))
    save_file(
        {name: tensor for name, tensor in tensors.items() if name != missing_key},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(ArtifactError, match="lacks 1 tensors"):
        open_dual_encoder(folder)


def test_a_score_that_is_not_a_number_tags_nothing(tmp_path: Path) -> None:
    head = {
        "features": "given",
        "modalities": ["CT", "MRI"],
        "mean": [0.0],
        "scale": [1.0],
        "bias": [0.0, 0.0],
        "weights": [[1.0, 0.0]],
    }
    write_json(
        tmp_path / "head.json",
        {
            **head,
            "projection": [[0.0]],
            "centers": [[0.0]],
            "max_distance": 1.0,
            "min_probability": 0.5,
        },
    )
    step = tag_modality.tagging_step(lambda _: np.array([np.nan]), tmp_path / "head.json")
    (result,) = run_map_step(step, [sample(random_image(0))]).kept
    assert result.meta.modality is None and "modality_by" not in result.meta.extra
