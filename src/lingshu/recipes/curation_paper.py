"""The Lingshu paper's curation as data (arXiv 2506.07044, sections 2.1 to 2.3): its corpora, its
filters, its mix of stage 3.

Every corpus is optional: give the folders of those you hold, `sources.pmc_oa.path=FOLDER`;
docs/corpora.md says how to come by each. Where the paper names no number the step's own default
stands, and its first lines say why. Expected: about 40 % of the rows go (6.27M in, 3.75M out in the
paper).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from lingshu.core.registry import get_attribute
from lingshu.curate.config import CurateConfig, ParamValue, Source, StepConfig
from lingshu.sources._corpus_cards import CorpusCard, corpora

# The benchmarks of the paper's tables that have a task here.
BENCHMARKS = [
    "vqa_rad", "slake", "path_vqa", "pmc_vqa", "omnimedvqa", "mmmu_med_val", "mmmu_med_test", "medxpertqa_mm", "medxpertqa_text",
    "medqa_usmle", "medmcqa", "pubmedqa", "mmlu_med", "medbullets_op4", "medbullets_op5", "supergpqa_med", "iu_xray", "mimic_cxr",
    "chexpert_plus",
]  # fmt: skip


def recipe() -> CurateConfig:
    """All corpora of the paper that a reader fits, cleaned as it says and cut to the mix of its
    stage 3.
    """
    cards = [card for card in corpora() if card.reader and card.mix]
    sources_by_step = {
        name: tuple(card.name for card in cards if name in card.clean) for name in _CLEANINGS
    }
    # Captions are compared across corpora; PubMedVision and LLaVA-Med instructions each within
    # themselves.
    remaining_sources = tuple(
        name for name in sources_by_step["image_dedup"] if name not in sources_by_step["across"]
    )
    hash_options: Mapping[str, ParamValue] = {"bits": 64, "radius": 0}
    steps = (
        StepConfig("image_filter", "image_size", {"min_side": 64}, sources_by_step["image_filter"]),
        StepConfig("modality", "tag_modality"),
        StepConfig("clean_replies", "clean_replies", {}, sources_by_step["clean_replies"]),
        StepConfig(
            "text_filter",
            "text_length",
            {"min_tokens": 10, "max_tokens": 1024},
            sources_by_step["text_filter"],
        ),
        StepConfig("image_dedup", "image_dedup", hash_options, sources_by_step["across"]),
        StepConfig(
            "image_dedup_inside",
            "image_dedup",
            {**hash_options, "across": "source", "unit": "image_text"},
            remaining_sources,
        ),
        StepConfig("caption_dedup", "caption_dedup", {}, sources_by_step["across"]),
        StepConfig("text_dedup", "text_dedup", {}, sources_by_step["text_dedup"]),
        StepConfig("decontaminate", "decontaminate", {"against": BENCHMARKS}),
        StepConfig("mix", "mix", {"composition": "lingshu_stage_3"}),
    )
    # A step that no corpus asks for would apply to all of them.
    active_steps = tuple(
        step for step in steps if step.sources or step.name in ("modality", "decontaminate", "mix")
    )
    return CurateConfig(
        name="paper", sources=tuple(map(_source, cards, range(len(cards)))), steps=active_steps
    )


_CLEANINGS = ("image_filter", "image_dedup", "across", "text_filter", "text_dedup", "clean_replies")


def _source(card: CorpusCard, rank: int) -> Source:
    reader = card.reader or "jsonl"
    parameters = inspect.signature(get_attribute("sources", reader, "read")).parameters  # type: ignore[arg-type]
    options: dict[str, ParamValue] = (
        {"columns": dict(card.columns)} if card.columns and "columns" in parameters else {}
    )
    return Source(
        card.name,
        reader,
        options=options,
        license=card.license,
        access=card.access,
        agreement=card.agreement,
        kind=card.kind,
        modality=card.modality,
        language=card.language,
        rank=rank,
        optional=True,
    )
