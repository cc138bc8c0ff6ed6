"""Encoders with an image tower and a text tower (CLIP, SigLIP and their medical variants), for
comparing images with text.

Checkpoint folders in the layout of transformers, such as MedSigLIP; weights as safetensors, no
custom code. Sources: CLIP (arXiv 2103.00020), SigLIP (arXiv 2303.15343).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lingshu.core.errors import ArtifactError, library_errors
from lingshu.models.load import no_progress_bars
from lingshu.weights.checkpoint_files import COPY_AGAIN, check_no_adapter, read_config

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class DualEncoder:
    """An encoder of unit vectors; `logit_scale` multiplies their products before a softmax."""

    def __init__(self, model: Any, image_processor: Any, tokenizer: Any) -> None:
        self._model, self._image_processor, self._tokenizer = model, image_processor, tokenizer
        self.logit_scale = float(model.logit_scale.detach().exp())

    def encode_image(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """The vector (D,) of height x width x 3 RGB values."""
        import PIL.Image

        inputs = self._image_processor(images=PIL.Image.fromarray(pixels), return_tensors="pt")
        return self._embed(self._model.get_image_features, pixel_values=inputs["pixel_values"])[0]

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """The vectors (texts x D) of some texts."""
        max_length = int(self._model.config.text_config.max_position_embeddings)
        # SigLIP was trained on texts of one length, and reads the last position.
        inputs = self._tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=max_length,
            return_tensors="pt",
        )
        used = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
        return self._embed(self._model.get_text_features, **used)

    def _embed(self, encode: Any, **inputs: Any) -> NDArray[np.float64]:
        import torch

        with torch.inference_mode():
            features = encode(**inputs).pooler_output.double()
            return torch.nn.functional.normalize(features, dim=-1).numpy()


def open_dual_encoder(folder: Path) -> DualEncoder:
    """Open the encoder in a folder, on one thread of the CPU: steps already run in parallel.

    Raises:
        ArtifactError: no such folder, another kind of model, pickled or missing weights, or custom
            code.
    """
    import torch
    import transformers

    if not (folder / "config.json").is_file():
        raise ArtifactError(
            f"{folder} holds no config.json; give the folder of an encoder such as CLIP or SigLIP."
        )
    read_config(folder)
    check_no_adapter(folder)
    torch.set_num_threads(1)
    with no_progress_bars(), library_errors(f"{folder} cannot be opened as an encoder", COPY_AGAIN):
        loaded = transformers.AutoModel.from_pretrained(
            folder,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=False,
        )
        model, loading_info = cast("tuple[Any, dict[str, Any]]", loaded)
        image_processor = transformers.AutoImageProcessor.from_pretrained(
            folder, backend="pil", local_files_only=True, trust_remote_code=False
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    if missing := sorted(loading_info["missing_keys"]):
        # transformers would fill them with random numbers.
        raise ArtifactError(
            f"{folder} lacks {len(missing)} tensors of its model ({', '.join(missing[:3])}, ...);"
            " copy the folder again."
        )
    needed = ("get_image_features", "get_text_features", "logit_scale")
    if not all(hasattr(model, name) for name in needed):
        raise ArtifactError(
            f"{folder} is a {type(model).__name__}, not an encoder of images and text; give a CLIP"
            " or SigLIP."
        )
    return DualEncoder(model.eval(), image_processor, tokenizer)
