"""What stock transformers makes of a model folder: its settings, and its tensors by name.

Published folders of one model differ in spelling: transformers 4.41 to 5 write other keys, leave
out or write out defaults, and name tensors in another way. The classes of transformers read all of
them, so two folders are compared by what their class has read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from lingshu.core.errors import library_errors
from lingshu.weights.checkpoint_files import without_code_keys

# Fields of a configuration that do not change what a model computes: how it was written, names,
# what only training uses (dropout, initialization), and what the files of the tokenizer and of the
# generation settings decide. `layer_types` says which layers have a window, tensors whether the
# head is tied.
INERT_FIELDS = frozenset(
    [
        *("architectures", "transformers_version", "dtype", "id2label", "label2id", "problem_type"),
        *("output_hidden_states", "return_dict", "use_cache", "chunk_size_feed_forward"),
        *("initializer_range", "attention_dropout", "hidden_dropout_prob", "projection_dropout"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings"),
        *("use_sliding_window", "max_window_layers"),
    ]
)
# Modules that hold the whole model or its language model.
OUTER_MODULES = frozenset(("base_model", "model", "language_model"))


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Without its warnings, which older spellings of a configuration cause."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def stock_config(config: Mapping[str, Any], where: object) -> Any:
    """The configuration object of transformers for a config.json; None for an unknown model type.

    Raises:
        ArtifactError: the class refuses the values; `where` names the folder.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        return None
    what = f"{where}: config.json is not one of a {model_type} model"
    with library_errors(what, "download the folder again"), quiet_transformers():
        return CONFIG_MAPPING[model_type].from_dict(without_code_keys(deepcopy(dict(config))))


def config_ties_head(config: Mapping[str, Any], where: object) -> bool:
    """Whether a config.json ties the output head to the embedding, defaults of the class included.

    Where the head is stored with other values, transformers does not tie it all the same.

    Raises:
        ArtifactError: as stock_config.
    """
    text_config = config.get("text_config")
    of_text = text_config.get("tie_word_embeddings") if isinstance(text_config, dict) else None
    if config.get("tie_word_embeddings") is False and not of_text:
        return False
    stock = stock_config(config, where)
    if stock is None:
        return bool(config.get("tie_word_embeddings", of_text))
    return bool(stock.tie_word_embeddings)


def model_settings(config: Mapping[str, Any], where: object) -> dict[str, Any]:
    """What a model computes with, by its config.json; that of an unknown model type as it is.

    Raises:
        ArtifactError: as stock_config.
    """
    stock = stock_config(config, where)
    if stock is not None:
        return _computed_settings(stock)
    unused = INERT_FIELDS | {"_name_or_path", "name_or_path", "torch_dtype"}
    return {
        key: value for key, value in without_code_keys(dict(config)).items() if key not in unused
    }


def _computed_settings(config: Any) -> dict[str, Any]:
    """The declared fields of a configuration object without inert ones."""
    settings: dict[str, Any] = {"model_type": config.model_type}
    for field in dataclasses.fields(config):
        if field.name not in INERT_FIELDS:
            value = getattr(config, field.name, None)
            is_part = hasattr(value, "model_type")
            settings[field.name] = _computed_settings(value) if is_part else _plain(value)
    rope_types = set(_rope_types(settings.get("rope_parameters")))
    if rope_types and rope_types <= {"default"}:
        settings.pop("max_position_embeddings", None)  # only scaled positions depend on it
    if "sliding_attention" not in (settings.get("layer_types") or ["sliding_attention"]):
        settings.pop("sliding_window", None)
    return settings


def _plain(value: Any) -> Any:
    """Lists for tuples, and rotary settings without the older name of their type."""
    if isinstance(value, dict):
        is_rope = "rope_type" in value
        return {
            key: _plain(item)
            for key, item in value.items()
            if not (is_rope and key == "type") and item is not None
        }
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _rope_types(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        if "rope_type" in value:
            yield value["rope_type"]
        for item in value.values():
            yield from _rope_types(item)


def meta_model(config: Any) -> Any:
    """The stock class of a configuration without values; None where transformers has none."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    for auto_class in (AutoModelForImageTextToText, AutoModelForCausalLM):
        if type(config) in auto_class._model_mapping:
            with torch.device("meta"), quiet_transformers():
                return auto_class.from_config(config, trust_remote_code=False)
    return None


def unwrapped(name: str) -> str:
    """The name of a tensor or module without its outer modules, which versions nest differently.

    `model.layers.0`, `language_model.model.layers.0` and `model.language_model.layers.0` are one.
    """
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in OUTER_MODULES:
        parts.pop(0)
    return ".".join(parts)


def class_names(model: Any, stored_names: Iterable[str]) -> dict[str, str]:
    """The name in the model class of each stored tensor, as from_pretrained finds it.

    `model` may be on the meta device. A name that the class does not know stays as it is.
    """
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key

    renamings = [
        step for step in get_model_conversion_mapping(model) if isinstance(step, WeightRenaming)
    ]
    known, names = model.state_dict(), {}
    for stored in stored_names:
        for steps in (renamings, []):
            name, _ = rename_source_key(stored, steps, [], model.base_model_prefix, known)
            if name in known:
                names[stored] = name
                break
        else:
            names[stored] = stored
    return names
