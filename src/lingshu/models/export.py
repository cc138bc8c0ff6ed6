"""Write a checkpoint in the hub layout of its family, so that stock transformers and vLLM load it
as they load the original.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lingshu.core.files import atomic_folder, read_json, write_json, write_manifest
from lingshu.core.run_card import RunCard, write_run_card
from lingshu.models.card import model_card
from lingshu.models.load import no_progress_bars
from lingshu.models.processor import Processor


def export(model: Any, processor: Processor, folder: Path, card: RunCard) -> None:
    """Write model, tokenizer, image processor, generation settings, model card, run card and
    manifest, whole or not at all.

    Raises:
        StorageError: the disk refused the write; an older folder of that name is left as it was.
    """
    family = processor.family
    with atomic_folder(folder) as temporary, no_progress_bars():
        model.save_pretrained(temporary)
        processor.tokenizer.save_pretrained(temporary)
        processor.image_processor.save_pretrained(temporary)
        _write_processor_files(processor, temporary)
        tokenizer = temporary / "tokenizer_config.json"
        write_json(tokenizer, {**read_json(tokenizer), "processor_class": family.processor_class})
        (temporary / "README.md").write_text(model_card(family, card), encoding="utf-8")
        write_run_card(temporary, card)
        write_manifest(temporary)


def _write_processor_files(processor: Processor, folder: Path) -> None:
    """Both forms of the processor settings: the hub's older one (which vLLM reads) and that of
    transformers 5.
    """
    family = processor.family
    image_config = read_json(folder / "preprocessor_config.json")
    image_config = {
        **image_config,
        "image_processor_type": family.image_processor_type,
        "processor_class": family.processor_class,
    }
    write_json(folder / "preprocessor_config.json", image_config)
    video_config = {**image_config, "video_processor_type": family.video_processor_type}
    del video_config["image_processor_type"]
    write_json(folder / "video_preprocessor_config.json", video_config)
    write_json(
        folder / "processor_config.json",
        {
            "processor_class": family.processor_class,
            **family.processor_settings(processor.image_processor),
        },
    )
