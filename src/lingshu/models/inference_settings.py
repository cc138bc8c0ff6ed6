"""What a checkpoint answers with: its arithmetic and its image budget, from the options, the stored
weights and the context.

Both change replies, so the digest of a model that is not used as it is stored covers them.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lingshu.core.errors import ConfigError
from lingshu.core.files import digest
from lingshu.core.types import CheckpointOptions
from lingshu.models.load import LoadedModel, load, local_folder
from lingshu.models.model_spec import PixelBudget
from lingshu.models.processor import Processor
from lingshu.models.quantization import Quantization, require_bitsandbytes
from lingshu.weights.chat_template import read_named_template
from lingshu.weights.checkpoint_files import open_checkpoint

# A model of at most so many parameters computes in float32 on a CPU: 0.4 GB at most.
SMALL_PARAMETERS = 100_000_000
# The length of samples that the released models were trained with; their configurations allow more.
TRAINED_CONTEXT = 8192
# Tokens that images leave to the question, the dialogue and the reply, or half of a short context.
TEXT_TOKENS = 2048
_TORCH_DTYPES = {"F32": torch.float32, "F64": torch.float32, "BF16": torch.bfloat16}


class StoredWeights(NamedTuple):
    """The number type that most bytes of a checkpoint are stored in, by its safetensors name, and
    the number of parameters.
    """

    dtype: str
    n_parameters: int


class Arithmetic(NamedTuple):
    """The number type of a model in memory, and the bits of its language model where these are
    fewer; `note` says where the type is not the stored one.
    """

    dtype: torch.dtype
    note: str | None = None
    quantization: Quantization | None = None


@dataclass(frozen=True)
class ImageBudget:
    """The pixels or tiles that images may take; `note` says where less than the checkpoint allows."""

    budget: PixelBudget
    note: str | None = None


def open_model(name: str, options: CheckpointOptions, *, device: str) -> LoadedModel:
    """Load a checkpoint folder or hub id to answer from it.

    Raises:
        ArtifactError: it cannot be used as a model.
        MissingExtraError: 8 or 4 bits without their library.
        ConfigError: an option that this model does not have.
    """
    if options.dtype in ("int8", "int4"):
        require_bitsandbytes()  # before anything large is read
    folder, _ = local_folder(name, None, with_weights=True)
    stored = stored_weights(folder)
    arithmetic = choose_arithmetic(options, stored, device=device)
    template = None if options.chat_template is None else read_named_template(options.chat_template)
    loaded = load(
        name,
        device=device,
        dtype=arithmetic.dtype,
        quantization=arithmetic.quantization,
        template=template,
    )
    images = choose_image_budget(options, loaded.processor, loaded.model.config)
    return _with_settings(loaded, options, arithmetic, images, stored)


def _with_settings(
    loaded: LoadedModel,
    options: CheckpointOptions,
    arithmetic: Arithmetic,
    images: ImageBudget,
    stored: StoredWeights,
) -> LoadedModel:
    dtype = arithmetic.quantization or str(arithmetic.dtype).removeprefix("torch.")
    settings: dict[str, Any] = {
        "checkpoint": loaded.digest,
        "dtype": dtype,
        **asdict(images.budget),
        "chat_template": loaded.processor.template.source,
        "repetition_penalty": options.repetition_penalty,
    }
    changed = prompt_changes(options, loaded.processor)
    if arithmetic.quantization or _TORCH_DTYPES.get(stored.dtype) != arithmetic.dtype:
        changed["dtype"] = dtype
    processor = loaded.processor
    if images.budget != processor.budget:
        changed["images"] = asdict(images.budget)
        processor = processor.with_budget(images.budget)
    return replace(
        loaded,
        processor=processor,
        digest=digest([loaded.digest, changed]) if changed else loaded.digest,
        settings=settings,
        notes=(
            *loaded.notes,
            *loaded.processor.notes,
            *(note for note in (arithmetic.note, images.note) if note),
            *generation_notes(loaded.model.generation_config, options),
        ),
    )


def prompt_changes(options: CheckpointOptions, processor: Processor) -> dict[str, Any]:
    """What the options change of prompts and sampling, for the digest of a model."""
    changed: dict[str, Any] = {}
    if options.chat_template is not None:
        changed["chat_template"] = processor.template.text
    if options.repetition_penalty != 1:
        changed["repetition_penalty"] = options.repetition_penalty
    return changed


def generation_notes(generation_config: Any, options: CheckpointOptions) -> tuple[str, ...]:
    """What generation_config.json suggests and is not applied, though stock `generate` would even to
    greedy replies.
    """
    penalty = getattr(generation_config, "repetition_penalty", None)
    if penalty in (None, 1, options.repetition_penalty):
        return ()
    return (
        f"generation_config.json suggests repetition_penalty {penalty}, which is not applied;"
        f" --repetition-penalty {penalty} does.",
    )


def stored_weights(folder: Path) -> StoredWeights:
    """
    Raises:
        ArtifactError: it is not a model folder, or a file of its weights is damaged.
    """
    n_bytes, n_parameters = Counter[str](), 0
    for tensor in open_checkpoint(folder).tensors.values():
        n_bytes[tensor.dtype] += tensor.size
        n_parameters += math.prod(tensor.shape)
    [(dtype, _)] = n_bytes.most_common(1) or [("F32", 0)]
    return StoredWeights(dtype, n_parameters)


def choose_arithmetic(
    options: CheckpointOptions, stored: StoredWeights, *, device: str
) -> Arithmetic:
    """The number type of a model in memory."""
    if options.dtype == "int8" or options.dtype == "int4":
        return Arithmetic(torch.bfloat16, quantization=options.dtype)
    if options.dtype != "auto":
        return Arithmetic(getattr(torch, options.dtype))
    if stored.n_parameters <= SMALL_PARAMETERS and not device.startswith("cuda"):
        return Arithmetic(torch.float32)
    if stored.dtype in _TORCH_DTYPES:
        return Arithmetic(_TORCH_DTYPES[stored.dtype])
    note = f"the weights are stored as {stored.dtype} and computed with in bfloat16"
    return Arithmetic(torch.bfloat16, f"{note}; --dtype float32 rounds nothing.")


def choose_image_budget(
    options: CheckpointOptions, processor: Processor, config: Any
) -> ImageBudget:
    """The checkpoint's budget, bounded so that the images leave room for text in the context, or
    what the options say.

    The context is that of the training of the released models where the configuration allows more.

    Raises:
        ConfigError: an option of the other way in which models take images.
    """
    tower, stored = processor.family.tower(config), processor.budget
    context = min(int(config.get_text_config().max_position_embeddings), TRAINED_CONTEXT)
    image_tokens = context - min(TEXT_TOKENS, context // 2)
    if tower.tile_tokens is None:
        if options.max_tiles is not None:
            raise ConfigError("this model scales images and cuts none; give --max-pixels.")
        pixels_per_token = config.vision_config.patch_size**2 * tower.patches_per_token
        limit = image_tokens * pixels_per_token
        if options.max_pixels is not None:
            if options.max_pixels < pixels_per_token:
                raise ConfigError(
                    f"--max-pixels is {options.max_pixels}; a token of this model shows"
                    f" {pixels_per_token} pixels, so give at least that."
                )
            min_pixels = min(stored.min_pixels, options.max_pixels)
            return ImageBudget(
                replace(stored, min_pixels=min_pixels, max_pixels=options.max_pixels)
            )
        if stored.max_pixels <= limit:
            return ImageBudget(stored)
        min_pixels = min(stored.min_pixels, limit)
        return ImageBudget(
            replace(stored, min_pixels=min_pixels, max_pixels=limit),
            f"images may have {limit:,} pixels ({image_tokens:,} tokens), not the"
            f" {stored.max_pixels:,} of the checkpoint, so that they fit its context; --max-pixels"
            " changes that.",
        )
    if options.max_pixels is not None:
        raise ConfigError("this model cuts images into tiles of one size; give --max-tiles.")
    if options.max_tiles is not None:
        return ImageBudget(replace(stored, max_tiles=options.max_tiles))
    # The whole image is one more tile.
    limit = max(1, image_tokens // tower.tile_tokens - 1)
    if stored.max_tiles <= limit:
        return ImageBudget(stored)
    return ImageBudget(
        replace(stored, max_tiles=limit),
        f"images are cut into at most {limit} tiles, not the {stored.max_tiles} of the checkpoint,"
        " so that they fit its context; --max-tiles changes that.",
    )
