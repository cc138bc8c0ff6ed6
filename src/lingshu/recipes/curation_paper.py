"""The Lingshu paper's curation (arXiv 2506.07044, sections 2.1 to 2.3): its corpora, its filters,
its mix of stage 3.

Every corpus is optional: give the folders of those you have, `sources.pmc_oa.path=FOLDER`;
docs/corpora.md describes how to obtain each. Where the paper names no number the step's own default
applies, and its docstring explains it. Expected: about 40% of the rows are dropped (6.27M in, 3.75M
out in the paper).
"""

import inspect
from collections.abc import Mapping

from lingshu.core.registry import get_attribute
from lingshu.curate.config import CurateConfig, ParamValue, Source, StepConfig
from lingshu.sources import corpora

# The benchmarks of the paper's tables that have a task here.
BENCHMARKS = [
    "vqa_rad", "slake", "path_vqa", "pmc_vqa", "omnimedvqa", "mmmu_med_val", "mmmu_med_test", "medxpertqa_mm", "medxpertqa_text",
    "medqa_usmle", "medmcqa", "pubmedqa", "mmlu_med", "medbullets_op4", "medbullets_op5", "supergpqa_med", "iu_xray", "mimic_cxr",
    "chexpert_plus",
]  # fmt: skip


def recipe() -> CurateConfig:
    """All corpora of the paper with a reader, cleaned as described and cut to the mix of stage 3."""
    cards = [card for card in corpora.cards() if card.reader and card.mix]

    def requesting(cleaning: str) -> tuple[str, ...]:
        return tuple(card.name for card in cards if cleaning in card.clean)

    # Captions are compared across corpora; PubMedVision and LLaVA-Med instructions each by itself.
    across = requesting("across")
    inside = tuple(name for name in requesting("image_dedup") if name not in across)
    exact: Mapping[str, ParamValue] = {"bits": 64, "radius": 0}
    exact_inside = {**exact, "across": "source", "unit": "image_text"}
    lengths = {"min_tokens": 10, "max_tokens": 1024}
    steps = (
        StepConfig("image_filter", "image_size", {"min_side": 64}, requesting("image_filter")),
        StepConfig("modality", "tag_modality"),
        StepConfig("clean_replies", "clean_replies", {}, requesting("clean_replies")),
        StepConfig("text_filter", "text_length", lengths, requesting("text_filter")),
        StepConfig("image_dedup", "image_dedup", exact, across),
        StepConfig("image_dedup_inside", "image_dedup", exact_inside, inside),
        StepConfig("caption_dedup", "caption_dedup", {}, across),
        StepConfig("text_dedup", "text_dedup", {}, requesting("text_dedup")),
        StepConfig("decontaminate", "decontaminate", {"against": BENCHMARKS}),
        StepConfig("mix", "mix", {"composition": "lingshu_stage_3"}),
    )
    # Without sources, a step that no corpus requests would apply to all of them.
    for_all = ("modality", "decontaminate", "mix")
    active_steps = tuple(step for step in steps if step.sources or step.name in for_all)
    sources = tuple(_source(card, rank) for rank, card in enumerate(cards))
    return CurateConfig(name="paper", sources=sources, steps=active_steps)


def _source(card: corpora.CorpusCard, rank: int) -> Source:
    reader = card.reader or "jsonl"
    parameters = inspect.signature(get_attribute("sources", reader, "read")).parameters  # type: ignore[arg-type]
    has_columns = card.columns and "columns" in parameters
    return Source(
        card.name, reader, options={"columns": dict(card.columns)} if has_columns else {},
        license=card.license, access=card.access, agreement=card.agreement, kind=card.kind,
        modality=card.modality, language=card.language, rank=rank, optional=True,
    )  # fmt: skip
