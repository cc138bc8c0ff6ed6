"""`lingshu synthesize`: captions, questions, reasoning, dialogues by a teacher model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lingshu.cli.options import Flat
from lingshu.core.config import override, read_recipe
from lingshu.core.errors import ConfigError
from lingshu.curate.config import SynthesisConfig
from lingshu.curate.synthesize import SynthesisOptions


def synthesize(
    recipe: str,
    dataset: Path,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=False)],
    teacher: str,
    out: Path,
    options: Flat[SynthesisOptions] = SynthesisOptions(),
) -> int:
    """Make synthetic samples of a dataset with a teacher model, and queue some of them for review.

    Replies of the teacher are cached: run the same command again after an interruption, with a
    larger budget, or with reviewers' verdicts, and only missing replies are requested. The exit
    code is 1 if rows were not requested (the teacher failed on them, or the budget was spent), or
    if no row is left; 2 if reviewers rejected too much of a kind.

    Args:
        recipe: A recipe's name (`lingshu list recipes`), a .py file with a function `recipe`, or a
            .yaml or .json file.
        dataset: DATASET folder to start from, as `lingshu curate` writes it.
        overrides: Typed overrides such as steps.captions.params.min_words=40, token_budget=2000000.
        teacher: http(s)://host/v1#name, batch: before one, a checkpoint folder or hub id, scripted,
            or a .py file.
        out: Folder of the dataset of synthetic samples.
    """
    from lingshu.cli.curate import format_counts, print_card
    from lingshu.core.progress import progress_bar
    from lingshu.curate import synthesize as synthesis
    from lingshu.inference.engines import open_engine

    config = read_recipe(recipe, SynthesisConfig, what="a recipe of a synthesis")
    config = override(synthesis.resolve_synthesis(config), overrides)
    cache = options.cache_dir or out.with_name(f"{out.name}.calls")
    if cache.resolve().is_relative_to(out.resolve()):
        raise ConfigError(
            f"--cache-dir {cache} is inside --out {out}, which is replaced as a whole; choose"
            " another folder for the calls."
        )
    engine = open_engine(teacher, options.engine_options)
    with (
        progress_bar() as progress,
        synthesis.open_client(config, engine, cache, options.engine_options) as client,
    ):
        result = synthesis.synthesize(config, dataset, out, client, options, progress=progress)
    print_card(result.card)
    for summary in result.review:
        share = "none" if summary.rejected.value is None else f"{summary.rejected.value:.0%}"
        print(f"review of {summary.kind}: {summary.reviewed} samples, {share} rejected")
    if result.n_unmatched_verdicts:
        print(f"verdicts on {result.n_unmatched_verdicts} samples that this run does not make")
    print(f"calls: {format_counts(result.usage)}")
    print(f"to review: {out / 'review' / 'queue.jsonl'}\ndataset: {out}")
    if not result.card.rows:
        print("no row is left")
    return 1 if result.n_not_requested or not result.card.rows else 0
