"""Convert a checkpoint of another program to the plain layout of today's transformers.

No code of the checkpoint is run: its tensors are renamed, its settings read by the stock classes.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lingshu.core.errors import ArtifactError, ConfigError, LingshuError, describe_error
from lingshu.core.files import atomic_folder, read_json, write_json, write_manifest
from lingshu.core.run_card import RunCard, write_run_card
from lingshu.models.base import VisionLanguageFamily, family_of
from lingshu.models.export import save_processor
from lingshu.models.load import no_progress_bars
from lingshu.models.original_internvl import MODEL_TYPE as ORIGINAL_INTERNVL
from lingshu.models.original_internvl import read_original, rename_tensors
from lingshu.models.processor import Processor, load_processor
from lingshu.weights.checkpoint_files import open_checkpoint, read_config, without_code_keys
from lingshu.weights.convert import (
    PickleSource,
    SafetensorsSource,
    StoredTensor,
    TargetDtype,
    TensorPlan,
    TensorSource,
    WrittenTensors,
    check_pins,
    pickled_files,
    write_tensors,
)
from lingshu.weights.folder import open_model_folder
from lingshu.weights.output import DISCLAIMER, LICENSE_PREFIXES
from lingshu.weights.safetensors_io import BackgroundThreads
from lingshu.weights.stock_model import class_names, quiet_transformers

# Buffers that old versions stored with the weights and every version computes by itself.
_COMPUTED_BUFFER = re.compile(r"rotary_emb\.inv_freq$|\.position_ids$")
_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


@dataclass(frozen=True)
class Conversion:
    """What is converted, and how.

    `pins` are the sha256 of pickled files by name, which are read only with `allow_pickle`.
    """

    source: Path
    dtype: TargetDtype = "same"
    allow_pickle: bool = False
    pins: Mapping[str, str] = field(default_factory=dict)


class ConvertedModel(NamedTuple):
    """The layout that was read, counts of tensors and values, and what a reader should know."""

    layout: str
    counts: dict[str, int]
    notes: tuple[str, ...]


class CheckpointSettings(NamedTuple):
    """What a checkpoint is besides its tensors."""

    layout: str
    family: VisionLanguageFamily
    config: Any
    processor: Processor
    generation: dict[str, Any]
    notes: tuple[str, ...]
    states_head: bool  # the configuration says that the output head is stored


def convert(conversion: Conversion, out: Path) -> ConvertedModel:
    """Write the checkpoint of `conversion.source` to the folder `out` in the plain layout.

    The tensors have the names of the stock class, the settings its defaults filled in; values are
    those of the source, rounded where `dtype` is shorter. A tied output head is decided by the
    tensors.

    Raises:
        ArtifactError: a layout, setting or tensor that cannot be converted; the message says what
            to take instead.
        ConfigError: pickled weights that were not allowed and pinned, or `out` is the source.
        StorageError: the disk refused; nothing is left at `out`.
    """
    source = conversion.source
    with ExitStack() as stack:
        settings = read_settings(source)
        tensors = open_tensors(conversion, out, stack)
        plans, n_skipped = plan_tensors(source, settings, tensors)
        with atomic_folder(out) as temporary, no_progress_bars():
            written = write_tensors(plans, tensors, temporary, dtype=conversion.dtype)
            dtypes = {tensors.tensors[plan.source].dtype for plan in plans}
            _write_settings(conversion, settings, dtypes, temporary)
            card = _run_card(conversion, settings, written, n_skipped)
            (temporary / "README.md").write_text(
                _model_card(conversion, settings), encoding="utf-8"
            )
            write_run_card(temporary, card)
            write_manifest(temporary, written.files)
    return ConvertedModel(settings.layout, dict(card.counts), settings.notes)


def open_tensors(conversion: Conversion, out: Path, stack: ExitStack) -> TensorSource:
    """The weights of a folder: its safetensors or, where there are none, its pinned pickles; closed
    with `stack`.

    Raises:
        ArtifactError, ConfigError: as `convert`.
    """
    folder = conversion.source
    if folder.resolve().is_relative_to(out.resolve()):
        problem = f"{out} is or contains {folder}, which the result would replace"
        raise ConfigError(f"{problem}; choose another --out.")
    pickles = pickled_files(folder)
    if any(folder.glob("*.safetensors")) or not pickles:
        if conversion.pins:
            raise ConfigError(
                f"--sha256 pins pickles, and {folder} holds safetensors; leave it out."
            )
        threads = stack.enter_context(BackgroundThreads())
        model = open_model_folder(folder, "source")
        source: TensorSource = SafetensorsSource(model, threads)
    elif not conversion.allow_pickle:
        problem = f"{folder / pickles[0]} is pickled, and pickles can run code"
        remedy = "take safetensors, or give --allow-pickle and the --sha256 of each file"
        raise ConfigError(f"{problem}; {remedy}.")
    else:
        check_pins(folder, pickles, conversion.pins)
        source = PickleSource(folder, pickles, conversion.pins)
    stack.callback(source.close)
    return source


@contextmanager
def foreign_settings(path: Path) -> Iterator[None]:
    """Turn whatever settings of another program make a library raise into one line that names
    their file or folder.

    Raises:
        ArtifactError: in place of any other exception.
    """
    try:
        with quiet_transformers():
            yield
    except LingshuError:
        raise
    except Exception as error:
        problem = f"{path} cannot be read as a checkpoint's settings ({describe_error(error)})"
        raise ArtifactError(f"{problem}; download the folder again.") from error


def read_settings(folder: Path) -> CheckpointSettings:
    """Configuration and processor of a checkpoint of any layout that can be converted.

    Raises:
        ArtifactError: another layout, quantized weights, damaged or missing files.
    """
    file = folder / "config.json"
    config = read_json(file) if file.is_file() else read_config(folder)
    if config.get("quantization_config"):
        problem = f"{folder} is quantized"
        raise ArtifactError(f"{problem}; convert the 16-bit folder of the same model.")
    generation = _read_generation(folder)
    if config.get("model_type") == ORIGINAL_INTERNVL:
        family = family_of("internvl")
        with foreign_settings(file):
            original = read_original(folder, config, family)
        stated = config["llm_config"].get("tie_word_embeddings") is False
        return CheckpointSettings(
            "original InternVL",
            family,
            original.config,
            original.processor,
            {**generation, **original.generation},
            original.notes,
            stated,
        )
    # The checks of every other command, which refuse pickles: those are pinned when opened.
    has_safetensors = any(folder.glob("*.safetensors"))
    config = open_checkpoint(folder).config if has_safetensors else read_config(folder)
    family = family_of(str(config.get("model_type")))
    with foreign_settings(file):
        stock = family.stock_class.config_class.from_dict(dict(config))
    with foreign_settings(folder):
        processor = load_processor(folder, family, stock)
    layout, stated = family.model_type, stock.tie_word_embeddings is False
    notes = processor.notes
    return CheckpointSettings(layout, family, stock, processor, generation, notes, stated)


def _read_generation(folder: Path) -> dict[str, Any]:
    file = folder / "generation_config.json"
    stated = without_code_keys(read_json(file)) if file.is_file() else {}
    return {key: value for key, value in stated.items() if key != "transformers_version"}


def plan_tensors(
    folder: Path, settings: CheckpointSettings, source: TensorSource
) -> tuple[list[TensorPlan], int]:
    """The tensors of the stock class, each with what it is read from, and how many are left out.

    Ties the head in `settings.config` as the tensors decide: no head is a tied one, and a stored
    one is left out only if the configuration ties it and its values are the embedding's.

    Raises:
        ArtifactError: a tensor that is missing, unknown, or of another shape.
    """
    config, family = settings.config, settings.family
    _tie(config, tied=False)
    with foreign_settings(folder / "config.json"), torch.device("meta"):
        model = family.stock_class._from_config(config)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    tensors = {
        name: stored for name, stored in source.tensors.items() if not _COMPUTED_BUFFER.search(name)
    }
    n_skipped = len(source.tensors) - len(tensors)
    plans: list[TensorPlan] = []
    unknown: list[str] = []
    for plan in _rename(settings, model, tensors):
        if isinstance(plan, str):
            unknown.append(plan)
        elif plan.name not in expected:
            unknown.append(plan.source)
        else:
            plans.append(plan)
    plans = _decide_head(folder, settings, model, plans, source)
    _check_plans(folder, expected, plans, unknown, tied=config.tie_word_embeddings)
    return plans, n_skipped


def _rename(
    settings: CheckpointSettings, model: Any, tensors: Mapping[str, StoredTensor]
) -> Iterator[TensorPlan | str]:
    if settings.layout == "original InternVL":
        yield from rename_tensors(tensors, settings.config.text_config)
        return
    names = class_names(model, tensors)
    for name, stored in tensors.items():
        yield TensorPlan.full(names[name], name, stored)


def _tie(config: Any, *, tied: bool) -> None:
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = tied


def _decide_head(
    folder: Path,
    settings: CheckpointSettings,
    model: Any,
    plans: Sequence[TensorPlan],
    source: TensorSource,
) -> list[TensorPlan]:
    ties: Mapping[str, str] = type(model)._tied_weights_keys
    by_name = {plan.name: plan for plan in plans}
    stored = [head for head in ties if head in by_name]
    tied = not stored and not settings.states_head
    if not stored and settings.states_head:
        head = next(iter(ties))
        problem = f"{folder} lacks tensor {head!r}, and its configuration says that it is stored"
        raise ArtifactError(f"{problem}; download the folder again.")
    if stored and not settings.states_head:
        tied = all(
            embedding in by_name and _same_values(source, by_name[head], by_name[embedding])
            for head, embedding in ties.items()
        )
    _tie(settings.config, tied=tied)
    return [plan for plan in plans if not (tied and plan.name in ties)]


def _same_values(source: TensorSource, first: TensorPlan, second: TensorPlan) -> bool:
    left, right = (source.tensors[plan.source] for plan in (first, second))
    if left != right:
        return False
    for (start, count), other in zip(first.ranges, second.ranges, strict=True):
        blocks = source.blocks(first.source, start, count)
        others = source.blocks(second.source, *other)
        for (_, view), (_, other_view) in zip(blocks, others, strict=True):
            if view != other_view:
                return False
    return True


def _check_plans(
    folder: Path,
    expected: Mapping[str, tuple[int, ...]],
    plans: Sequence[TensorPlan],
    unknown: Sequence[str],
    *,
    tied: bool,
) -> None:
    names = [plan.name for plan in plans]
    heads = {"lm_head.weight"} if tied else set()
    problems = [f"has no place for {name!r}" for name in unknown]
    problems += [f"lacks {name!r}" for name in expected if name not in {*names, *heads}]
    problems += [f"holds {name!r} twice" for name in {n for n in names if names.count(n) > 1}]
    problems += [
        f"has {plan.source!r} as {list(plan.shape)} for {plan.name}, which is"
        f" {list(expected[plan.name])}"
        for plan in plans
        if plan.shape != expected[plan.name]
    ]
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise ArtifactError(
            f"{folder} {problems[0]}{more}; its tensors and its config.json are not those of one"
            " model, download the folder again."
        )


def _write_settings(
    conversion: Conversion, settings: CheckpointSettings, dtypes: set[str], folder: Path
) -> None:
    config, processor = settings.config, settings.processor
    stored = sorted({_DTYPES[dtype] for dtype in dtypes & _DTYPES.keys()})
    dtype = conversion.dtype if conversion.dtype != "same" else stored[0]
    config.architectures, config.dtype = [settings.family.model_class], dtype
    config.save_pretrained(folder)
    save_processor(processor, folder)
    if settings.generation:
        write_json(folder / "generation_config.json", settings.generation)
    for file in conversion.source.iterdir():
        if file.is_file() and file.stem.upper().startswith(LICENSE_PREFIXES):
            shutil.copyfile(file, folder / file.name)


def _run_card(
    conversion: Conversion, settings: CheckpointSettings, written: WrittenTensors, n_skipped: int
) -> RunCard:
    config = {
        "source": str(conversion.source),
        "layout": settings.layout,
        "dtype": conversion.dtype,
        "pickle": sorted(conversion.pins),
    }
    notes = {"notes": list(settings.notes)}
    hashes = {f"source/{name}": value for name, value in written.source_hashes.items()}
    counts = {**written.counts, "skipped_buffers": n_skipped}
    return RunCard("convert", config, None, counts, hashes, notes)


def _model_card(conversion: Conversion, settings: CheckpointSettings) -> str:
    name = conversion.source.resolve().name
    kept = "Values are those of the source."
    if conversion.dtype != "same":
        kept = f"Values are those of the source, stored as {conversion.dtype}."
    hashes = "The sha256 of every file that was read is in run.json."
    text = f"Converted by lingshu from {name} ({settings.layout}). {kept} {hashes}"
    return "\n\n".join([f"# {name}", DISCLAIMER, text]) + "\n"
